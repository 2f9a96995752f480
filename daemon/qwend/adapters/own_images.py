"""The images that come with qwend: folders of the package `qwend_images`, which is located and never imported."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path

from qwend.errors import UsageError
from qwend.model.image import ImageSpec, load_image
from qwend.model.image_file import FILE_NAME, OptionValue, read_image_file

PACKAGE = "qwend_images"


def folders() -> dict[str, Path]:
    """Every image folder, by the name of the image."""
    found = importlib.util.find_spec(PACKAGE)
    roots = (found.submodule_search_locations if found else None) or ()
    there = {path.parent.name: path.parent for root in roots for path in Path(root).glob(f"*/{FILE_NAME}")}
    return dict(sorted(there.items()))


def check(names: Iterable[str]) -> None:
    """UsageError for a name that no image has."""
    known = folders()
    for name in names:
        if name not in known:
            raise UsageError(
                f"there is no image {name}", code="no-such-image", hint=f"there are {', '.join(known)}"
            )


def flavours(name: str) -> tuple[str, ...]:
    """The flavours that an image has. Raises UsageError for a name that no image has."""
    check([name])
    return tuple(read_image_file(folders()[name]).flavours)


def load(name: str, flavour: str, options: Mapping[str, OptionValue] | None = None) -> ImageSpec:
    """An image as its folder is now. Raises UsageError where there is no such image, flavour or option."""
    check([name])
    return load_image(folders()[name], flavour, options)
