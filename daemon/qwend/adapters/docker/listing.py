"""The engine's images that qwend built, told by their labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from qwend.adapters.docker.connection import Connection
from qwend.adapters.docker.context import LABEL


class OciImage(msgspec.Struct, frozen=True, kw_only=True):
    """One of our images in the engine. Bytes; `created` in seconds since 1970."""

    key: str
    id: str
    tag: str
    digest: str
    size: int
    created: float
    name: str
    flavour: str
    labels: dict[str, str]
    in_use: bool
    """Whether a container was made from it, running or ended."""

    @property
    def reference(self) -> str:
        """What the engine finds it by: its tag, or its id where another build took the tag."""
        return self.tag or self.id


async def listing(connection: Connection) -> list[OciImage]:
    """All of them, by key; one that another build took the tag from comes after that one."""
    wanted = {"label": LABEL + "digest"}
    images = await connection.call(lambda client: client.images(filters=wanted))
    containers = await connection.call(lambda client: client.containers(all=True))
    used = {container["ImageID"] for container in containers}
    found = [_listed(one, used) for one in images]
    return sorted(found, key=lambda image: (image.key, not image.tag))


def _listed(one: Mapping[str, Any], used: set[str]) -> OciImage:
    """An image of the engine's list; `used` are the ids of images that containers were made from."""
    labels = one["Labels"]
    name, flavour, digest = (labels.get(LABEL + what, "") for what in ("name", "flavour", "digest"))
    return OciImage(
        key=f"{name}-{flavour}-{digest[:12]}",
        id=one["Id"],
        tag=next((tag for tag in one.get("RepoTags") or () if tag != "<none>:<none>"), ""),
        digest=digest,
        size=one["Size"],
        created=float(one["Created"]),
        name=name,
        flavour=flavour,
        labels=labels,
        in_use=one["Id"] in used,
    )
