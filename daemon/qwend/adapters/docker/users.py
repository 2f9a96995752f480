"""Who the processes of a container are."""

from __future__ import annotations

import os

from qwend.adapters.docker.connection import Engine
from qwend.adapters.docker.containers import Containers
from qwend.adapters.docker.mounts import User
from qwend.model.image import IMAGE_USER


async def user_of(containers: Containers, image: str, engine: Engine) -> User:
    """The user's own id; the image's where the user is root; root of its own namespace in a rootless engine, which is
    the user outside."""
    uid, gid = os.getuid(), os.getgid()
    if engine.rootless:
        return User(uid=0, gid=0, outside=uid, outside_group=gid)
    if uid != 0:
        return User(uid=uid, gid=gid, outside=uid, outside_group=gid)
    inspected = await containers.image(image)
    first, _, second = str((inspected.get("Config") or {}).get("User") or "").partition(":")
    named = int(first) if first.isdigit() and int(first) != 0 else IMAGE_USER
    group = int(second) if second.isdigit() else named
    return User(uid=named, gid=group, outside=named, outside_group=group)
