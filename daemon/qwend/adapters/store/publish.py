"""Makes an artifact appear at a path of the user's (`out:`), and takes artifacts out of the store (`export`).

Files are linked where that can be, else copied, into a folder beside the path that is then renamed: what is
there is whole at every moment. Only what qwend itself put at a path is ever replaced.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat

import msgspec

from qwend.adapters.store.catalogue import Manifest, encode
from qwend.adapters.store.disk import link_or_copy, remove, swap, sync, write_durably
from qwend.adapters.store.layout import Layout, escape, in_object, unescape
from qwend.adapters.volume import disk_full, is_full, require_space
from qwend.errors import UsageError
from qwend.model.artifact import Artifact

MANIFEST = "qwend-artifact.json"
"""What an export carries along."""


class Thing(msgspec.Struct, frozen=True):
    """What was put at a path: its inode, and size and time (ns) of its files by escaped path ("" is itself)."""

    digest: str
    device: int
    inode: int
    files: dict[str, tuple[int, int]]


class Record(msgspec.Struct, frozen=True):
    """What qwend put at a path. While something is being replaced both the old and the new are written down, and
    the name beside `out` under which the new one is made."""

    out: str
    things: tuple[Thing, ...] = ()
    staged: str = ""


def publish(layout: Layout, artifact: Artifact, out: str) -> None:
    """Puts the artifact at `out`, a folder; one file by itself where `out` has its suffix (`model.gguf`).

    Nothing happens where it is there already. Raises UsageError where something else is in the way,
    OutOfResource where a copy is needed and finds no room.
    """
    out = os.path.abspath(out)
    try:
        _publish(layout, artifact, out)
    except OSError as error:
        raise _failure(error, out, artifact) from None


def require_free(layout: Layout, out: str) -> None:
    """Raises UsageError where `publish` would refuse: something is at `out` that must not be replaced."""
    out = os.path.abspath(out)
    there = _look(out, "")
    if there is not None:
        _require_ours(out, there, _known(layout, out))


def _known(layout: Layout, out: str) -> tuple[Thing, ...]:
    record = _read_record(_record_path(layout, out))
    return record.things if record.out == escape(out) else ()


def _publish(layout: Layout, artifact: Artifact, out: str) -> None:
    path = _record_path(layout, out)
    known = _known(layout, out)
    there = _look(out, artifact.digest)
    if there is not None:
        _require_ours(out, there, known)
        if _is_whole(there, known, artifact):
            return
    single = _as_file(artifact, out)
    staged = _beside(out)
    _write_record(layout, path, out, known, staged)
    try:
        _build(artifact, staged, single, links=artifact.referenced)
        new = _look(staged, artifact.digest)
        assert new is not None, "what was just made is there"
        # Both are written down before the exchange: whichever a crash leaves at `out` is known as ours.
        _write_record(layout, path, out, (*known, new), staged)
        _put(staged, out)
    finally:
        with contextlib.suppress(OSError):
            remove(staged)
    _write_record(layout, path, out, (new,))


def clear_away(layout: Layout) -> None:
    """Removes what a crash left half-made beside paths of the user's."""
    for name in os.listdir(layout.published):
        path = os.path.join(layout.published, name)
        record = _read_record(path)
        if not record.staged:
            continue
        with contextlib.suppress(OSError):
            out = unescape(record.out)
            remove(os.path.join(os.path.dirname(out), unescape(record.staged)))
            _write_record(layout, path, out, record.things)


def export(artifact: Artifact, out: str) -> str:
    """A folder of the artifact's files and its manifest, to be taken elsewhere. Raises UsageError where `out`
    is there and is not an empty folder."""
    out = os.path.abspath(out)
    if os.path.lexists(out) and not _is_empty(out):
        raise UsageError(
            f"{escape(out)} is there already", code="out-exists", hint="name a folder that does not exist yet"
        )
    staged = _beside(out)
    try:
        _build(artifact, staged, None, links=False)
        write_durably(
            os.path.join(staged, MANIFEST), encode(Manifest(artifact)), staged=f"{staged}.json", mode=0o644
        )
        _put(staged, out)
    except OSError as error:
        if os.path.exists(os.path.join(out, MANIFEST)):  # there, and not surely on the disk
            with contextlib.suppress(OSError):
                remove(out)
        raise _failure(error, out, artifact) from None
    finally:
        with contextlib.suppress(OSError):
            remove(staged)
    return out


def _as_file(artifact: Artifact, out: str) -> str | None:
    if len(artifact.files) != 1 or os.path.isdir(out):
        return None
    (only,) = artifact.files
    suffix = os.path.splitext(unescape(only.path))[1]
    return only.path if suffix and os.path.splitext(out)[1] == suffix else None


def _build(artifact: Artifact, staged: str, single: str | None, *, links: bool) -> None:
    """Lays the artifact out at `staged`. The user's own files are linked by name (`links`), never by inode:
    whoever edits the one must not edit the other unawares."""
    os.makedirs(os.path.dirname(staged), exist_ok=True)
    source = artifact.location
    if os.stat(os.path.dirname(staged)).st_dev != os.stat(source).st_dev and not links:
        require_space(
            os.path.dirname(staged), f"a copy of {artifact.type} {artifact.digest[:12]}", artifact.size
        )
    if single is not None:
        _lay(in_object(source, single), staged, links)
        return
    os.mkdir(staged, 0o755)
    for file in artifact.files:
        target = in_object(staged, file.path)
        os.makedirs(os.path.dirname(target), mode=0o755, exist_ok=True)
        _lay(in_object(source, file.path), target, links)
    sync(staged)


def _lay(source: str, target: str, links: bool) -> None:
    if links:
        os.symlink(os.path.realpath(source), target)
    elif os.path.islink(source):
        link_or_copy(os.path.realpath(source), target)
    else:
        link_or_copy(source, target)


def _put(staged: str, out: str) -> None:
    """Renames; what was there is taken away in the same step where the system can do that."""
    if not os.path.lexists(out):
        os.rename(staged, out)
    elif not swap(staged, out):
        old = _beside(out)
        os.rename(out, old)
        os.rename(staged, out)
        remove(old)
    sync(os.path.dirname(out))


def _beside(out: str) -> str:
    folder, name = os.path.split(out)
    return os.path.join(folder, f".{name[:60]}.qwend-{os.urandom(4).hex()}")


def _look(out: str, digest: str) -> Thing | None:
    """What is at a path now; None if nothing is."""
    try:
        status = os.lstat(out)
    except FileNotFoundError:
        return None
    files: dict[str, tuple[int, int]] = {}
    if stat.S_ISDIR(status.st_mode):
        for folder, _, names in os.walk(out):
            for name in names:
                path = os.path.join(folder, name)
                found = os.lstat(path)
                files[escape(os.path.relpath(path, out))] = (found.st_size, found.st_mtime_ns)
    else:
        files[""] = (status.st_size, status.st_mtime_ns)
    return Thing(digest, status.st_dev, status.st_ino, files)


def _require_ours(out: str, there: Thing, known: tuple[Thing, ...]) -> None:
    """Only what we put there may go, and only if the user has added and changed nothing since."""
    if os.path.isdir(out) and not os.path.islink(out) and not there.files:
        return
    ours = [thing for thing in known if (thing.device, thing.inode) == (there.device, there.inode)]
    if not ours:
        raise _in_the_way(out, "was not put there by qwend")
    if any(thing.files == there.files for thing in ours):
        return
    put = ours[-1].files
    odd = next((path for path, found in there.files.items() if put.get(path) != found), None)
    if odd is None:
        return
    what = "was changed" if odd in put else "was added"
    raise _in_the_way(
        out, f"holds {odd}, which {what} since qwend put it there" if odd else f"{what} since then"
    )


def _in_the_way(out: str, why: str) -> UsageError:
    return UsageError(
        f"{escape(out)} is there already and {why}",
        code="out-exists",
        hint="move it away, or choose another `out:`",
    )


def _is_whole(there: Thing, known: tuple[Thing, ...], artifact: Artifact) -> bool:
    return any(
        thing.digest == artifact.digest and thing.files == there.files for thing in known if thing.files
    )


def _is_empty(folder: str) -> bool:
    return os.path.isdir(folder) and not os.path.islink(folder) and not os.listdir(folder)


def _failure(error: OSError, out: str, artifact: Artifact) -> Exception:
    if is_full(error):
        return disk_full(os.path.dirname(out), f"{escape(out)}", artifact.size)
    return UsageError(f"cannot write {escape(out)}: {error.strerror or error}", code="out-unwritable")


def _record_path(layout: Layout, out: str) -> str:
    return os.path.join(layout.published, hashlib.sha256(os.fsencode(out)).hexdigest()[:32] + ".json")


def _read_record(path: str) -> Record:
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(), type=Record)
    except (OSError, msgspec.MsgspecError):
        return Record("")


def _write_record(layout: Layout, path: str, out: str, things: tuple[Thing, ...], staged: str = "") -> None:
    record = Record(escape(out), things, escape(os.path.basename(staged)))
    write_durably(path, msgspec.json.encode(record), staged=layout.stage())
