"""What a native process finds in its environment: little, and nothing of the user's shell."""

from __future__ import annotations

import os
from collections.abc import Mapping

from qwend.effects import Order
from qwend.model.launch import OFFLINE

NETWORK = (
    "http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
    "HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "MODELSCOPE_CACHE", "MODELSCOPE_DOMAIN", "MODELSCOPE_ENDPOINT",
    "OLLAMA_MODELS",
)  # fmt: skip
"""What a step that may reach out needs to know of the way: no credentials."""


def environment(order: Order, settings: Mapping[str, str]) -> dict[str, str]:
    """The complete environment of a step, before what its Launch sets. `settings` are those of qwend.toml."""
    scratch = order.scratch or order.work
    path = (
        os.path.dirname(order.image.location)
        if order.image.kind == "program"
        else f"{order.image.location}/bin"
    )
    env = {
        "PATH": f"{path}:/usr/local/bin:/usr/bin:/bin",
        "HOME": scratch,
        "TMPDIR": scratch,
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        "OMP_NUM_THREADS": str(order.threads),
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(order.gpus),
        "QWEND_REPORT": order.report,
    }
    if order.launch.network:
        env |= {name: os.environ[name] for name in NETWORK if name in os.environ} | dict(settings)
        # Where programs of the user's own lie: an ollama, say.
        env["QWEND_PATH"] = os.environ.get("PATH", os.defpath)
    else:
        env |= OFFLINE  # advice, not a wall: a process of the user's can reach what the user can
    return {**env, **order.env}
