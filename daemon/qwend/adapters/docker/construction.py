"""What decides how a container image is made and is not in the lock: Dockerfile, Debian packages, base.

None of it is in the spec's digest, since it changes nothing of what a step computes with, and the other
realisation knows none of it. Yet an image that was made otherwise is made again, when it is next asked for: a new
base brings security updates, and a package that was missing is there. So its digest is a label of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from qwend.adapters.docker import context
from qwend.model.image import ImageSpec, chosen_flavour
from qwend.model.image_file import read_image_file

LABEL = context.LABEL + "construction"


class Base(msgspec.Struct, frozen=True):
    """`[images] base` of qwend.toml: a reference, and the id that a local one must have. `others` stand for the bases
    of images that have one of their own, by the image's name (`[images] bases`)."""

    reference: str | None = None
    id: str | None = None
    others: Mapping[str, Base] = {}


def base_of(spec: ImageSpec, base: Base) -> Base:
    """The base of an image: its own where the common one does not do (or what is configured for that), else the
    configured one."""
    own = read_image_file(Path(spec.folder)).base_of(spec.flavour)
    if own is not None:
        return base.others.get(spec.name) or Base(own)
    return Base(base.reference or context.BASE, base.id)


def construction_of(spec: ImageSpec, base: Base) -> str:
    """sha256 (hex) over the Dockerfile, its tools and arguments, the entry point and the base."""
    folder = Path(spec.folder)
    image = read_image_file(folder)
    chosen = base_of(spec, base)
    parts = {
        "dockerfile": context.dockerfile(spec, image),
        "tools": {name: hashlib.sha256(data).hexdigest() for name, data in context.tools().items()},
        "arguments": context.arguments(spec, image, chosen_flavour(image, spec.flavour)),
        "base": [chosen.reference, chosen.id],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def made_so(spec: ImageSpec, base: Base, labels: Mapping[str, Any]) -> bool:
    """Whether an image of these labels was made as it would be made now."""
    return labels.get(LABEL) == construction_of(spec, base)
