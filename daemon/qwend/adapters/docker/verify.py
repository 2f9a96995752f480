"""Compares a built image with its lock, from inside: what is installed, and whether every file is as it came."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from qwend.adapters.docker.connection import Connection
from qwend.adapters.locks import canonical, read_lock
from qwend.errors import StepFailed
from qwend.model.image import IMAGE_USER, ImageSpec, chosen_flavour
from qwend.model.image_file import read_image_file

_TAKES_S = 600


async def differences(connection: Connection, image: str, spec: ImageSpec) -> list[str]:
    """How the image differs from its lock and from the record in it, one sentence each."""
    seen = await connection.call(lambda client: _look(client, image))
    folder = Path(spec.folder)
    image_file = read_image_file(folder)
    # A source that build.sh installs as a package is pinned in image.toml.
    locked: dict[str, set[str]] = {canonical(one.package): {one.version} for one in image_file.sources}
    for pin in read_lock(folder / chosen_flavour(image_file, spec.flavour).lock):
        locked.setdefault(pin.name, set()).add(pin.version)
    return compare(seen, locked, spec.digest)


def compare(seen: dict[str, Any], locked: dict[str, set[str]], digest: str) -> list[str]:
    """Pure: `seen` is what the inspection inside the image printed."""
    record = seen["record"]
    if record is None:
        return ["it holds no record of what it was made from"]
    if record["digest"] != digest:
        return [f"it was made from digest {record['digest']}, the image folder has {digest}"]
    found = []
    for name, there in sorted(seen["packages"].items()):
        if name not in locked:
            found.append(f"package {name} {there['version']} is not in the lock")
        elif there["version"] not in locked[name]:
            versions = " or ".join(sorted(locked[name]))
            found.append(f"package {name} is {there['version']}, the lock says {versions}")
        elif there["manifest"] != record["manifests"].get(name):
            found.append(f"package {name} came with another list of files")
    found += [
        f"package {name} is missing" for name in sorted(record["packages"].keys() - seen["packages"].keys())
    ]
    return [*found, *seen["changed"]]


def _look(client: Any, image: str) -> dict[str, Any]:
    """Runs the inspection in a container that can do nothing else. Blocking."""
    script = (resources.files("qwend.adapters.docker") / "oci" / "inspect.py").read_text("utf-8")
    made = client.create_container_from_config(
        {
            "Image": image,
            "Entrypoint": ["/opt/qwend/bin/python", "-I", "-S", "-c", script],
            "Cmd": [],
            "User": f"{IMAGE_USER}:{IMAGE_USER}",
            "NetworkDisabled": True,
            "HostConfig": {
                "NetworkMode": "none",
                "ReadonlyRootfs": True,
                "CapDrop": ["ALL"],
                "SecurityOpt": ["no-new-privileges"],
                "PidsLimit": 64,
            },
        }
    )
    try:
        client.start(made["Id"])
        status = client.wait(made["Id"], timeout=_TAKES_S)["StatusCode"]
        output = client.logs(made["Id"], stdout=True, stderr=False)
        if status:
            errors = client.logs(made["Id"], stdout=False, stderr=True).decode("utf-8", "replace")
            raise StepFailed(f"the image cannot be inspected: {errors.strip()[-300:]}", code="verify-failed")
    finally:
        client.remove_container(made["Id"], force=True, v=True)
    seen: dict[str, Any] = json.loads(output)
    return seen
