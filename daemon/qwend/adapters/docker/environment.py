"""What a container finds in its environment: what a native process finds, in places of the container."""

from __future__ import annotations

from collections.abc import Mapping

from qwend.adapters.docker.mounts import AUTHORITIES, REPORT, SCRATCH
from qwend.effects import Order
from qwend.model.launch import OFFLINE

_WAYS = (
    *(
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "all_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "ALL_PROXY",
    ),
    *("HF_ENDPOINT", "MODELSCOPE_DOMAIN", "MODELSCOPE_ENDPOINT"),
)
"""What a step that may reach out needs to know of the way: no credentials, no paths of the host."""


def environment(
    order: Order, settings: Mapping[str, str], host: Mapping[str, str], ca: bool
) -> dict[str, str]:
    """The environment of a step before what its Launch sets. `settings` are those of qwend.toml, `host` the
    daemon's own environment; `ca` says that certificates are mounted."""
    scratch = SCRATCH if order.scratch is not None else "/tmp"
    env = {
        "HOME": scratch,
        "TMPDIR": scratch,
        "USER": "qwend",  # the id need not be in the image's passwd file: programs ask these first
        "LOGNAME": "qwend",
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        "OMP_NUM_THREADS": str(order.threads),
        "TOKENIZERS_PARALLELISM": "false",
        "QWEND_REPORT": REPORT,
    }
    if order.gpus:
        env["CUDA_DEVICE_ORDER"] = (
            "PCI_BUS_ID"  # the engine shows the leased cards only: none is hidden again
        )
    if order.launch.network:
        env |= {name: host[name] for name in _WAYS if name in host} | dict(settings)
        if ca:
            env |= dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"), AUTHORITIES)
    else:
        env |= OFFLINE
    return {**env, **order.env}
