"""`qwend-image.json`: written last into an environment, it says that it is finished and what it holds.

`differences` compares an environment with its lock and with this record, so that a flipped byte, an added
package or a changed program is found.
"""

from __future__ import annotations

import csv
import hashlib
import os
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import msgspec

from qwend.adapters.locks import canonical, read_lock
from qwend.adapters.venv.pythons import site_packages
from qwend.adapters.venv.sources import digest_of
from qwend.model.image import ImageSpec, chosen_flavour
from qwend.model.image_file import read_image_file

FILE_NAME = "qwend-image.json"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What a finished environment is. Times in seconds, sizes in bytes."""

    name: str
    flavour: str
    digest: str
    python: str
    interpreter: str
    packages: dict[str, str]
    """Name → version of everything installed."""
    manifests: dict[str, str]
    """Name → sha256 of the RECORD with which the package came."""
    files: dict[str, str]
    """Path below the prefix → sha256, of what build.sh and the overlay brought."""
    options: dict[str, bool | int | str]
    size: int
    seconds: float
    created: float
    location: str = ""
    """Where it was built: its programs name this path, so a copy or a moved one is not the environment."""
    index: str | None = None
    """The index that was asked, if the user set one (without credentials)."""

    @property
    def key(self) -> str:
        """Name of the environment's folder, as `ImageSpec.key`."""
        return f"{self.name}-{self.flavour}-{self.digest[:12]}"


def write_record(prefix: Path, record: Record) -> None:
    """Durable and atomic: after this the environment is finished."""
    path = prefix / FILE_NAME
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(record), indent=1))
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def read_record(prefix: Path) -> Record | None:
    """The record of a finished environment; None where it is unfinished, moved, or without its interpreter."""
    try:
        record = msgspec.json.decode((prefix / FILE_NAME).read_bytes(), type=Record)
    except (OSError, msgspec.MsgspecError):
        return None
    if record.location and record.location != os.path.realpath(prefix):
        return None
    return record if (prefix / "bin" / "python").exists() else None


def installed(prefix: Path) -> dict[str, metadata.Distribution]:
    """Every package in an environment, by its canonical name."""
    found = metadata.distributions(path=[str(site_packages(prefix))])
    return {canonical(distribution.name): distribution for distribution in found}


def manifest_digest(distribution: metadata.Distribution) -> str:
    """sha256 of the list of files (RECORD) with which a package came."""
    return hashlib.sha256((distribution.read_text("RECORD") or "").encode()).hexdigest()


def differences(prefix: Path, spec: ImageSpec) -> list[str]:
    """How an environment differs from its lock and its record, one sentence each; empty: not at all.

    Reads every file of it (about 1 s for each GB).
    """
    record = read_record(prefix)
    if record is None:
        return [f"{prefix.name} is not a finished environment"]
    if record.digest != spec.digest:
        return [f"it was made from lock digest {record.digest}, the image now has {spec.digest}"]
    folder = Path(spec.folder)
    image = read_image_file(folder)
    flavour = chosen_flavour(image, spec.flavour)
    # A source that build.sh installs as a package is pinned in image.toml.
    locked: dict[str, set[str]] = {canonical(one.package): {one.version} for one in image.sources}
    for pin in read_lock(folder / flavour.lock):
        locked.setdefault(pin.name, set()).add(pin.version)
    overlaid = {str(prefix / relative) for relative in record.files}
    found = []
    there = installed(prefix)
    for name, distribution in sorted(there.items()):
        version = distribution.version
        if name not in locked:
            found.append(f"package {name} {version} is not in the lock")
        elif version not in locked[name]:
            found.append(f"package {name} is {version}, the lock says {' or '.join(sorted(locked[name]))}")
        elif manifest_digest(distribution) != record.manifests.get(name):
            found.append(f"package {name} came with another list of files")
        else:
            found += _changed_files(prefix, name, distribution, overlaid)
    found += [f"package {name} is missing" for name in sorted(record.packages.keys() - there.keys())]
    for relative, digest in sorted(record.files.items()):
        found += _changed(prefix / relative, relative, digest)
    return found


def _changed_files(
    prefix: Path, name: str, distribution: metadata.Distribution, overlaid: set[str]
) -> Iterator[str]:
    """Files of one package that are neither what its RECORD says nor the image's own."""
    site = site_packages(prefix)
    for row in csv.reader((distribution.read_text("RECORD") or "").splitlines()):
        relative, digest = row[0], row[1] if len(row) > 1 else ""
        if not digest.startswith("sha256=") or relative.endswith(".pyc"):
            continue
        text = digest.removeprefix("sha256=")
        wanted = urlsafe_b64decode(text + "=" * (-len(text) % 4)).hex()
        path = os.path.normpath(site / relative)
        if path not in overlaid:
            yield from _changed(Path(path), f"{name}: {relative}", wanted)


def _changed(path: Path, shown: str, wanted: str) -> list[str]:
    try:
        got = digest_of(path)
    except OSError as error:
        return [f"{shown} cannot be read: {error.strerror}"]
    return [] if got == wanted else [f"{shown} is sha256 {got}, recorded was {wanted}"]


def apparent_size(folder: Path) -> int:
    """Bytes of all files below a folder (files shared with a cache count in full)."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_size
            except FileNotFoundError:
                continue
    return total
