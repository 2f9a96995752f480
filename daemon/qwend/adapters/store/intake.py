"""Takes a job's output into the store: checked, hashed, linked to what is there already, synced, renamed.

A crash at any moment leaves the artifact there whole or not at all. Once everything is on the disk the
manifest is written into the job's own folder (`sealed.json`): from then on `finish` completes what was cut
off, so that hours of training are not lost to the last millisecond.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from qwend.adapters.store.catalogue import Catalogue, Manifest, encode, read
from qwend.adapters.store.disk import copy, remove, replace_by_link, sync, write_durably
from qwend.adapters.store.hashing import Changed, Found, Hasher, still_written
from qwend.adapters.store.layout import Layout, digest_of, escape, in_object
from qwend.errors import StepFailed
from qwend.model.artifact import Artifact, Facts, StoredFile

FILE_MODE = 0o444
FOLDER_MODE = 0o555

Twin = Callable[[StoredFile], str | None]
"""Where the store already holds a file of this digest, if it does."""


class Label(NamedTuple):
    """What is known of an output besides its content."""

    fingerprint: str
    type: str
    facts: Facts
    metrics: Mapping[str, float]
    provenance: Mapping[str, Any]
    created: float


class Output(NamedTuple):
    """What lies in an output folder: files (path, status) and folders, by paths relative to it."""

    files: dict[str, os.stat_result]
    folders: list[str]


def scan(root: str, owner: int) -> Output:
    """Looks at an output and brings it into order: links within it become files, everything is the user's.

    Raises StepFailed for an empty output, for what is neither file nor folder, for links that leave the output,
    lead nowhere or to a folder, and for files of another user where that cannot be mended.
    """
    files: dict[str, os.stat_result] = {}
    folders: list[str] = []
    real_root = os.path.realpath(root)

    def look(folder: str, prefix: str) -> None:
        _make_ours(folder, os.lstat(folder), owner, 0o700)
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
        for entry in listed:
            path, status = prefix + entry.name, entry.stat(follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                _make_file(entry.path, path, real_root)
                status = os.lstat(entry.path)
            if stat.S_ISDIR(status.st_mode):
                folders.append(path)
                look(entry.path, path + "/")
            elif stat.S_ISREG(status.st_mode):
                _make_ours(entry.path, status, owner, 0o400)
                files[path] = os.lstat(entry.path)
            else:
                raise StepFailed(
                    f"the output holds {escape(path)}, which is neither a file nor a folder",
                    code="bad-output",
                    hint="sockets, pipes and devices cannot be kept",
                )

    if os.path.isdir(root) and not os.path.islink(root):
        look(root, "")
    if not files:
        raise StepFailed("the step wrote nothing into its output folder", code="empty-output")
    return Output(files, folders)


def _make_file(path: str, name: str, root: str) -> None:
    """Puts the file that a link means in the link's place."""
    real = os.path.realpath(path)
    if not real.startswith(root + os.sep):
        raise StepFailed(
            f"the output holds the link {escape(name)}, which leads out of it ({escape(os.readlink(path))})",
            code="bad-output",
            hint="write the file itself: what a link leads to may change or vanish",
        )
    if not os.path.isfile(real):
        what = "to a folder" if os.path.isdir(real) else "nowhere"
        raise StepFailed(f"the output holds the link {escape(name)}, which leads {what}", code="bad-output")
    if not replace_by_link(real, path):
        os.unlink(path)
        copy(real, path)


def _make_ours(path: str, status: os.stat_result, owner: int, least: int) -> None:
    """The user's own, and open to the user; idempotent. Only root can take from another user."""
    if status.st_uid != owner:
        try:
            os.chown(path, owner, -1, follow_symlinks=False)
        except PermissionError:
            raise StepFailed(
                f"the output holds {escape(path)}, which belongs to uid {status.st_uid}",
                code="foreign-output",
                hint="the runtime should have given it back; remove it as root, or run rootless Docker",
            ) from None
    if status.st_mode & least != least:
        os.chmod(path, stat.S_IMODE(status.st_mode) | least)


def seal(layout: Layout, hasher: Hasher, twin: Twin, out: str, label: Label, owner: int) -> Artifact:
    """Makes the output folder of `work/<fingerprint>/` complete, read-only and durable; `finish` comes next.

    Raises StepFailed, or OSError (no space: nothing of it is visible, and it can be tried again).
    """
    output = scan(out, owner)
    try:
        stored = hasher.files(Found(path, os.path.join(out, path)) for path in output.files)
    except Changed as error:
        raise still_written(error) from None
    _share(out, output, stored, twin)
    _close_off(out, output)
    files = tuple(sorted(stored, key=lambda file: file.path))
    artifact = Artifact(
        digest=digest_of(files),
        fingerprint=label.fingerprint,
        type=label.type,
        files=files,
        size=sum(file.size for file in files),
        facts=label.facts,
        metrics=dict(label.metrics),
        provenance=dict(label.provenance),
        created=label.created,
    )
    times = tuple(os.lstat(in_object(out, file.path)).st_mtime_ns for file in files)
    sealed = layout.sealed(label.fingerprint)
    write_durably(sealed, encode(Manifest(artifact, times)), staged=layout.stage(), mode=FILE_MODE)
    return artifact


def _share(out: str, output: Output, stored: list[StoredFile], twin: Twin) -> None:
    """One copy of what is the same: files that the store holds become links to them. A file that has names
    elsewhere (the user's own, hard-linked by an engine) becomes a copy: it must not change with them."""
    names = Counter((status.st_dev, status.st_ino) for status in output.files.values())
    for (path, status), file in zip(output.files.items(), stored, strict=True):
        mine = os.path.join(out, path)
        other = twin(file)
        if other is not None and os.path.lexists(other):
            there = os.lstat(other)
            if (there.st_dev, there.st_ino) == (status.st_dev, status.st_ino) or replace_by_link(other, mine):
                continue
        if status.st_nlink > names[status.st_dev, status.st_ino]:
            beside = f"{mine}.{os.urandom(4).hex()}"
            copy(mine, beside)
            os.rename(beside, mine)


def _close_off(out: str, output: Output) -> None:
    """Read-only and on the disk. The output's own folder stays writable: it has to be renamed yet."""
    for path in output.files:
        # By descriptor and without following: a step that left something running may swap files for links.
        fd = os.open(os.path.join(out, path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchmod(fd, FILE_MODE)
            os.fsync(fd)
        finally:
            os.close(fd)
    for path in sorted(output.folders, reverse=True):
        folder = os.path.join(out, path)
        os.chmod(folder, FOLDER_MODE)
        sync(folder)
    sync(out)


def finish(layout: Layout, catalogue: Catalogue, fingerprint: str) -> Artifact:
    """Brings a sealed output to its place, from wherever it was cut off. Call it with the store's lock."""
    sealed = layout.sealed(fingerprint)
    artifact = read(sealed).artifact
    out = os.path.join(layout.work_of(fingerprint), "out")
    place = layout.object(artifact.digest)
    if os.path.isdir(place) and not complete(place, artifact):
        remove(place)
    if not os.path.isdir(place):
        os.rename(out, place)
        sync(layout.objects)
    os.chmod(place, FOLDER_MODE)
    placed = catalogue.adopt(sealed, fingerprint)
    with contextlib.suppress(OSError):
        remove(layout.work_of(fingerprint))
    return placed


def complete(folder: str, artifact: Artifact) -> bool:
    """Whether all files of an artifact lie in a folder, with their sizes."""
    try:
        return all(os.lstat(in_object(folder, file.path)).st_size == file.size for file in artifact.files)
    except OSError:
        return False


def recover(layout: Layout, catalogue: Catalogue) -> list[str]:
    """Finishes every sealed output; what is not whole after all is left for the next attempt to overwrite.
    Returns the fingerprints that were finished."""
    finished = []
    for fingerprint in os.listdir(layout.work):
        folder = os.path.join(layout.work, fingerprint)
        sealed, out = os.path.join(folder, "sealed.json"), os.path.join(folder, "out")
        try:
            if os.path.exists(sealed):
                artifact = read(sealed).artifact
                if complete(layout.object(artifact.digest), artifact) or complete(out, artifact):
                    finish(layout, catalogue, fingerprint)
                    finished.append(fingerprint)
                else:
                    os.unlink(sealed)
            elif not os.path.isdir(out):
                remove(folder)  # finished, and cut off while it was cleared away
        except (OSError, msgspec.MsgspecError):
            with contextlib.suppress(OSError):
                os.unlink(sealed)
    return finished
