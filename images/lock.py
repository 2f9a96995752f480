#!/usr/bin/env python3
"""Re-resolve the locks of one image, or of all, and show what would change.

    python images/lock.py                                every image; what does not resolve is told, the rest goes on
    python images/lock.py llama-cpp cpu                  show the difference
    python images/lock.py llama-cpp cpu --write          keep it
    python images/lock.py hub --upgrade requests         every flavour; one package may move
    python images/lock.py smoke --upgrade-all --write    everything may move

Exit codes: 0 nothing changed or written, 1 a lock would change (without --write), 2 bad usage.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "daemon"))

from qwend.adapters.locks import ROLES, changes, parse_lock, resolve  # noqa: E402
from qwend.adapters.pip_settings import IndexSettings, merged_settings  # noqa: E402
from qwend.errors import QwendError, UsageError  # noqa: E402
from qwend.model.image import chosen_flavour  # noqa: E402
from qwend.model.image_file import read_image_file  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Entry point; the exit codes are above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "image", nargs="?", help="name of a folder in images/qwend_images, or a path (default: all)"
    )
    parser.add_argument("flavour", nargs="?", help="one flavour (default: all)")
    parser.add_argument("--write", action="store_true", help="write the new lock")
    parser.add_argument("--upgrade", action="append", default=[], metavar="PACKAGE")
    parser.add_argument("--upgrade-all", action="store_true")
    options = parser.parse_args(arguments)
    code = 0
    for folder in _folders(options.image):
        try:
            code = max(code, relock(folder, options))
        except QwendError as error:
            print("\n".join(error.lines()), file=sys.stderr)
            code = max(code, error.exit_code)
    return code


def _folders(image: str | None) -> list[Path]:
    """The folder that a name or a path means; without one, every folder here that holds an image."""
    if image is None:
        return sorted(path.parent for path in HERE.glob("qwend_images/*/image.toml"))
    known = HERE / "qwend_images" / image
    return [known if known.is_dir() else Path(image)]


def relock(folder: Path, options: argparse.Namespace) -> int:
    """Resolve each lock of an image that the options name, print the differences, write where asked."""
    import uv

    for missing in _touch_missing(folder):
        print(f"new: {missing}")
    image = read_image_file(folder)
    settings = merged_settings(IndexSettings())
    stale = False
    for flavour in [options.flavour] if options.flavour else list(image.flavours):
        chosen = chosen_flavour(image, flavour)
        for role in ROLES:
            if not (relative := getattr(chosen, role)):
                continue
            path = folder / relative
            old = path.read_text("utf-8")
            new = resolve(
                image,
                flavour,
                role,
                current=old,
                upgrade=None if options.upgrade_all else options.upgrade,
                uv=uv.find_uv_bin(),
                settings=settings,
            )
            stale |= _show(path, old, new, write=options.write)
    return 1 if stale and not options.write else 0


def _show(path: Path, old: str, new: str, *, write: bool) -> bool:
    """Print what changes in one lock; True where it does."""
    before, after = parse_lock(old, str(path)), parse_lock(new, f"new {path.name}")
    if write:
        path.write_text(new)
    differences = changes(before, after)
    differs = set(before) != set(after)
    kind = " but for hashes or markers" if differs and not differences else ""
    print(
        f"{path.parent.name}/{path.name}: {len(after)} packages, {len(differences) or 'no'} change(s){kind}"
    )
    for change in differences:
        print(f"  {change.name} {change.old or '(new)'} -> {change.new or '(gone)'}")
    return differs


def _touch_missing(folder: Path) -> list[Path]:
    """Make the empty locks that a new image.toml names, so that it reads."""
    import tomllib

    path = folder / "image.toml"
    if not path.is_file():
        raise UsageError(f"{folder} is not an image folder: it has no image.toml")
    made = []
    for flavour in tomllib.loads(path.read_text("utf-8")).get("flavours", {}).values():
        for role in ROLES:
            if (relative := flavour.get(role)) and not (lock := folder / relative).exists():
                lock.touch()
                made.append(lock)
    return made


if __name__ == "__main__":
    sys.exit(main())
