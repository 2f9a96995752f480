"""Tells whether a running supervisord runs the code that is installed now."""

from __future__ import annotations

import hashlib
from pathlib import Path

_MODULES = (
    "child",
    "darwin",
    "identity",
    "journal",
    "logcut",
    "memory",
    "places",
    "processes",
    "revision",
    "rpcinterface",
)


def revision() -> str:
    """A digest over the modules that supervisord runs, as they are on disk."""
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for module in _MODULES:
        digest.update((here / f"{module}.py").read_bytes())
    return digest.hexdigest()[:16]


REVISION = revision()
"""The revision at the time of import."""
