"""Files that stand beside the packages in a checkout, or in them in an installed wheel."""

from __future__ import annotations

import os

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def in_checkout(path: str) -> str | None:
    """The absolute path of a file of the checkout that this code runs from; None where it is installed."""
    root = os.path.dirname(os.path.dirname(_PACKAGE))
    found = os.path.join(root, path)
    return found if os.path.exists(found) and os.path.exists(os.path.join(root, "pyproject.toml")) else None


def recipes_folder() -> str:
    """Where the ready recipes are."""
    return in_checkout("recipes") or os.path.join(_PACKAGE, "recipes")
