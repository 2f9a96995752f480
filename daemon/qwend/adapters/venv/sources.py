"""Source archives: fetched by name through pip, checked by sha256, unpacked without surprises."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

from qwend.errors import StepFailed
from qwend.model.image_file import Source

_CHUNK = 1 << 20


def archive_folder(root: Path, source: Source) -> Path:
    """Where the archive of a source is kept, shared by all images: named by what it must hold."""
    return root / source.sha256


def find_archive(root: Path, source: Source) -> Path | None:
    """The checked archive if it is there; a file that does not match is removed, not trusted."""
    folder = archive_folder(root, source)
    if not folder.is_dir():
        return None
    for path in sorted(folder.iterdir()):
        if digest_of(path) == source.sha256:
            return path
        path.unlink()
    return None


def download_command(
    python: Path, pip_version: str, source: Source, requirements: Path, folder: Path
) -> list[str]:
    """The pip command that fetches a source into `folder`; writes `requirements`, which holds the hash.

    pip checks the hash before it opens the archive, then asks the archive's build backend for its name:
    without isolation, so that backend is the one of the image's build lock.
    """
    tells = tuple(int(part) for part in pip_version.split(".")[:2]) >= (24, 1)
    requirements.write_text(f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n")
    return [
        *(str(python), "-m", "pip", "download", "--no-deps", "--no-build-isolation", "--no-binary", ":all:"),
        *(
            "--require-hashes",
            "--progress-bar",
            "raw" if tells else "off",
            "--dest",
            str(folder),
            "-r",
            str(requirements),
        ),
    ]


def keep_archive(fetched: Path, root: Path, source: Source) -> Path:
    """Move the one file in `fetched` to its place; StepFailed with both digests if it is another."""
    files = [path for path in fetched.iterdir() if path.is_file()]
    if len(files) != 1:
        raise StepFailed(f"pip fetched {len(files)} files for {source.package}", code="install-failed")
    got = digest_of(files[0])
    if got != source.sha256:
        raise StepFailed(
            f"{source.package}=={source.version} is not what image.toml says: "
            f"expected sha256:{source.sha256}, got sha256:{got}",
            code="hash-mismatch",
        )
    folder = archive_folder(root, source)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / files[0].name
    os.replace(files[0], target)
    return target


def unpack(archive: Path, source: Source, target: Path) -> None:
    """Unpack `source.members` of `archive` into `target` without the archive's top folder.

    Absolute paths, `..`, links that lead outside and device files are refused. An interrupted unpacking is
    never seen: it happens beside the target, which is put in place at the end.
    """
    if target.is_dir():
        return
    beside = target.with_name(target.name + ".part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        if archive.name.endswith(".zip"):
            count = _unzip(archive, source.members, beside)
        else:
            count = _untar(archive, source.members, beside)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, ValueError) as error:
        raise StepFailed(f"{archive.name} cannot be unpacked: {error}", code="bad-archive") from None
    if not count:
        raise StepFailed(f"{archive.name} holds none of {', '.join(source.members)}", code="bad-archive")
    os.rename(beside, target)


def _untar(archive: Path, members: list[str], target: Path) -> int:
    count = 0
    with tarfile.open(archive) as tar:
        for member in tar:
            below = _below(member.name, members)
            if below is None:
                continue
            if member.islnk():
                member.linkname = str(PurePosixPath(*PurePosixPath(member.linkname).parts[1:]))
            member.name = below
            tar.extract(member, target, filter="data")
            count += 1
    return count


def _unzip(archive: Path, members: list[str], target: Path) -> int:
    count = 0
    with zipfile.ZipFile(archive) as bundle:
        for info in bundle.infolist():
            below = _below(info.filename, members)
            if below is None or info.is_dir():
                continue
            path = target / below
            path.parent.mkdir(parents=True, exist_ok=True)
            with bundle.open(info) as source, path.open("wb") as sink:
                shutil.copyfileobj(source, sink)
            count += 1
    return count


def _below(name: str, members: list[str]) -> str | None:
    """`name` without its top folder if it is wanted; ValueError for a name that leads outside."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"it holds the path {name!r}")
    below = PurePosixPath(*path.parts[1:])
    if below == PurePosixPath("."):
        return None
    if members and not any(below == PurePosixPath(m) or PurePosixPath(m) in below.parents for m in members):
        return None
    return str(below)


def digest_of(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
