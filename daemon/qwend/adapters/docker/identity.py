"""A step's identity as container labels, so that everything is found again after a crash of the daemon."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from qwend.model.service import Identity

PREFIX = "org.qwend."
INSTANCE = PREFIX + "instance"
MARKER = PREFIX + "marker"
LOG = PREFIX + "log"
"""Host path of the log: a daemon that adopts the container goes on writing there."""
OWNED = PREFIX + "owned"
"""Host paths, one a line, that belong to the container's user while it runs."""

TERMINAL = PREFIX + "terminal"
"""The instance that readied a container for a client's terminal. Of the labels above such a one has only `OWNED`."""
CLIENT = PREFIX + "client"
"""Process id of that client."""

_FIELDS = ("instance", "run", "recipe", "step", "fingerprint", "generation")


def labels(identity: Identity) -> dict[str, str]:
    """The labels that say who a container is."""
    found = {PREFIX + field: str(getattr(identity, field)) for field in _FIELDS}
    return {**found, MARKER: identity.marker}


def identity_of(given: Mapping[str, str]) -> Identity | None:
    """The identity that labels tell, None where one is missing or spoilt."""
    try:
        texts = {field: given[PREFIX + field] for field in _FIELDS}
        return Identity(
            instance=texts["instance"],
            run=texts["run"],
            recipe=texts["recipe"],
            step=texts["step"],
            fingerprint=texts["fingerprint"],
            generation=int(texts["generation"]),
        )
    except (KeyError, ValueError):
        return None


def short(marker: str) -> str:
    """16 hexadecimal digits that stand for a marker in names of files and containers."""
    return hashlib.sha256(marker.encode()).hexdigest()[:16]


def container_name(identity: Identity) -> str:
    """A name that people recognise and that no other start of any step has."""
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{identity.recipe}-{identity.step}").strip("-.")[:80]
    return f"qwend-{readable}-{identity.generation}-{short(identity.marker)}"
