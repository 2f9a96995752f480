"""`NAME.lock` beside `NAME.yaml`: resolved revisions, so that the same recipe brings the same bytes, and the images
that its steps run in.

As in uv: `up` honours it and works offline from it, writes it where it is missing, and never changes a
pin by itself. It names no host. The digests of images are the installed qwend's: another one brings others, which `up`
writes down and `--locked` refuses. All flavours are recorded, so that a lock that a Mac wrote serves a machine with
cards as well.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from qwend import __version__
from qwend.api.control import RecipeRequest
from qwend.core.suggest import did_you_mean
from qwend.errors import OutOfResource, QwendError, UsageError
from qwend.model.artifact import Pin
from qwend.model.image import ImageSpec, UpstreamImage, published
from qwend.model.plan import Compiled

_VERSION = 1
_HEADER = b"# Resolved by qwend. Commit it; `qwend lock --upgrade NAME` changes it.\n"


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int = _VERSION
    qwend: str = ""
    """The version that wrote it."""
    images: dict[str, dict[str, str]] = {}
    """Name of an image → flavour (`oci` for somebody else's) → digest."""
    pins: dict[str, Pin] = {}


class LockFile:
    """The lock of one recipe; `changes` says what `write` would change."""

    def __init__(
        self, path: Path | None, pins: dict[str, Pin], images: Mapping[str, dict[str, str]] | None = None
    ) -> None:
        self.path = path
        self._pins = pins
        self._old = dict(pins)
        self._images = dict(images or {})
        self._old_images = dict(self._images)

    @property
    def name(self) -> str:
        return self.path.name if self.path else "the lock"

    @staticmethod
    def read(request: RecipeRequest, smoke: bool) -> LockFile:
        """The lock beside the first file. A smoke run and a recipe from standard input have none.

        Raises UsageError for a lock that is malformed or of a newer qwend.
        """
        first = request.files[0].path if request.files else "-"
        if smoke or not os.path.isabs(first):
            return LockFile(None, {})
        path = Path(first).with_suffix(".lock")
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return LockFile(path, {})
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}", code="bad-lock") from None
        body = b"\n".join(line for line in data.splitlines() if not line.startswith(b"#"))
        try:
            content = msgspec.json.decode(body, type=_Content)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UsageError(
                f"{path} is no lock: {error}", code="bad-lock", hint="remove it; qwend lock writes it anew"
            ) from None
        if content.version > _VERSION:
            raise UsageError(f"{path} was written by a newer qwend", code="bad-lock", hint="upgrade qwend")
        return LockFile(path, dict(content.pins), content.images)

    def pin(self, name: str, refs: Sequence[str]) -> Pin | None:
        """What is pinned for a source, as long as the recipe still names that reference."""
        pin = self._pins.get(name)
        return pin if pin is not None and pin.ref in refs else None

    @property
    def empty(self) -> bool:
        """Whether the recipe refers to nothing that has a revision."""
        return not self._pins

    def set(self, name: str, pin: Pin) -> None:
        self._pins[name] = pin

    def see(self, images: Mapping[str, dict[str, str]]) -> None:
        """The images of the recipe's steps as they are now, by name and flavour. A recipe that refers to nothing with
        a revision has no lock, and its images are recorded nowhere."""
        if self._pins:
            self._images.update(images)

    @property
    def image_changes(self) -> list[str]:
        """What of `changes` is about images."""
        found = []
        for name, digests in sorted(self._images.items()):
            old = self._old_images.get(name)
            if old is None:
                found.append(f"image {name}: recorded")
            elif moved := sorted(
                flavour for flavour in old.keys() | digests.keys() if old.get(flavour) != digests.get(flavour)
            ):
                was, now = (", ".join(f"{f} {_short(d.get(f))}" for f in moved) for d in (old, digests))
                found.append(f"image {name}: {was} → {now}")
        return found

    def require_images(self) -> None:
        """Raises UsageError where the lock does not record the images as they are."""
        if changed := self.image_changes:
            raise UsageError(
                f"{self.name} does not say the same of the images: {'; '.join(changed)}",
                code="lock-outdated",
                hint="they are the installed qwend's: run qwend lock, then commit the lock",
            )

    @property
    def changes(self) -> list[str]:
        found = self.image_changes
        for name, pin in sorted(self._pins.items()):
            old = self._old.get(name)
            if old is None:
                found.append(f"{name}: {pin.identity}")
            elif old.identity != pin.identity:
                found.append(f"{name}: {old.identity} → {pin.identity}")
        return found

    def write(self) -> bool:
        """Writes the lock if it changed, whole or not at all. A folder that cannot be written is no reason to
        fail a run: then nothing is written and False returned. Raises OutOfResource for a full disk."""
        if self.path is None or not self.changes:
            return False
        # What lies in a cache of this machine is no part of a lock that others use.
        pins = {
            name: msgspec.structs.replace(
                pin, local=None, files=tuple(msgspec.structs.replace(file, local=None) for file in pin.files)
            )
            for name, pin in sorted(self._pins.items())
        }
        content = _Content(qwend=__version__, images=self._images, pins=pins)
        body = msgspec.json.format(msgspec.json.encode(content, order="sorted"), indent=2)
        try:
            handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        except OSError as error:
            if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
                return False
            raise self._failure(error) from None
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_HEADER + body + b"\n")
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise self._failure(error) from None
        return True

    def _failure(self, error: OSError) -> QwendError:
        text = f"cannot write {self.path}: {error.strerror}"
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return OutOfResource(text, code="disk-full", hint="make room beside the recipe")
        return QwendError(text, code="lock-unwritable")


def images_of(compiled: Compiled) -> dict[str, dict[str, str]]:
    """What a lock records of the images that the steps run in. A program of the host has no digest."""
    found: dict[str, dict[str, str]] = {}
    for step in compiled.steps:
        match step.image:
            case ImageSpec(name=name, folder=folder) if name not in found:
                found[name] = published(folder)
            case UpstreamImage(name=name, manifest=manifest):
                found[name] = {"oci": manifest.removeprefix("sha256:")}
            case _:
                pass
    return found


def require_known(request: RecipeRequest, sources: Iterable[str]) -> None:
    """Raises UsageError for a name to upgrade that is none of the recipe's `sources`."""
    known = sorted(sources)
    for name in request.upgrade or ():
        if name not in known:
            raise UsageError(
                f'there is no model or dataset "{name}" to upgrade{did_you_mean(name, known)}',
                code="no-such-source",
                hint=f"the recipe has {', '.join(known)}" if known else "the recipe refers to none",
            )


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "(none)"
