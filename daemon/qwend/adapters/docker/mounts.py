"""What a container sees of the host: read-only inputs, output and scratch folders, drivers, secrets."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from qwend.adapters.docker.identity import short
from qwend.core.binding import Places
from qwend.effects import Order
from qwend.errors import StepFailed

INPUTS = "/in"
OUTPUT = "/out"
SCRATCH = "/scratch"
DRIVERS = "/opt/drivers"
SECRETS = "/run/secrets"
REPORT = "/run/qwend/report.jsonl"
AUTHORITIES = "/run/qwend/ca.pem"
PREFIX = "/opt/qwend"
"""Where the environment lies in our images."""

_ENGINE_SOCKETS = ("/run/docker.sock", "/run/podman/podman.sock")


class User(msgspec.Struct, frozen=True):
    """Who a container runs as; `outside` is its id on the host (a rootless engine maps 0 to the user)."""

    uid: int
    gid: int
    outside: int
    outside_group: int

    @property
    def spec(self) -> str:
        return f"{self.uid}:{self.gid}"


class Mount(msgspec.Struct, frozen=True):
    """One bind mount."""

    source: str
    target: str
    writable: bool = False

    def as_json(self) -> dict[str, object]:
        """As the Engine API wants it. Unlike in `Binds`, a missing source is an error, never a new folder."""
        return {
            "Type": "bind",
            "Source": self.source,
            "Target": self.target,
            "ReadOnly": not self.writable,
            "BindOptions": {"Propagation": "rprivate"},
        }


class Prepared(msgspec.Struct, frozen=True):
    """The host's side of an order. `owned` are the paths that are the container's user's while it runs."""

    mounts: tuple[Mount, ...]
    places: Places
    owned: tuple[str, ...]


def prepare(order: Order, user: User, secrets_root: Path, ca: str | None = None) -> Prepared:
    """Lays drivers and secrets out, hands the writable paths to `user`, and says what is mounted where.

    `ca` is a PEM file that a step with network is to trust. Blocking. Raises StepFailed for an input that is
    missing, unreadable for the container's user, or would put the engine's own socket into the container.
    """
    mounts: list[Mount] = []
    folders: dict[str, str] = {}
    contents: dict[str, tuple[str, ...]] = {}
    for name, files in _by_input(order.inputs).items():
        folders[name] = f"{INPUTS}/{name}"
        contents[name] = tuple(sorted(files.listing))
        mounts += files.mounts
    _require_readable(mounts, user)

    owned = [order.report]
    Path(order.report).parent.mkdir(parents=True, exist_ok=True)
    Path(order.report).touch(mode=0o600)
    Path(order.log).parent.mkdir(parents=True, exist_ok=True)
    Path(order.log).touch(mode=0o600)
    mounts.append(Mount(order.report, REPORT, writable=True))
    for folder, target in ((order.output, OUTPUT), (order.scratch, SCRATCH)):
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
            owned.append(folder)
            mounts.append(Mount(folder, target, writable=True))
    if order.launch.files:
        mounts.append(Mount(str(_write_drivers(order)), DRIVERS))
    if ca is not None and order.launch.network:
        mounts.append(Mount(os.path.realpath(ca), AUTHORITIES))
    if order.secrets:
        mounts.append(Mount(str(_write_secrets(order, user, secrets_root)), SECRETS))
    for path in owned:
        hand_over(path, user.outside, user.outside_group)
    places = Places(
        inputs=folders,
        contents=contents,
        output=OUTPUT,
        scratch=SCRATCH if order.scratch is not None else "/tmp",
        drivers=DRIVERS,
        secrets={name: f"{SECRETS}/{name}" for name in order.launch.secrets},
        image=PREFIX,
        bind="0.0.0.0",
        port=order.port,
        threads=order.threads,
    )
    return Prepared(tuple(mounts), places, tuple(owned))


def hand_over(path: str, uid: int, gid: int) -> None:
    """Gives a file or a whole tree to a user, links untouched; idempotent. Only root can and needs to."""
    if os.geteuid() != 0:
        return
    for entry in _tree(path):
        if os.lstat(entry).st_uid != uid:
            os.chown(entry, uid, gid, follow_symlinks=False)


def secrets_folder(secrets_root: Path, marker: str) -> Path:
    """Where the secrets of one start of a step lie."""
    return secrets_root / short(marker)


def drop_secrets(secrets_root: Path, marker: str) -> None:
    """Removes them; nothing to do where there were none."""
    drop_secrets_folder(secrets_folder(secrets_root, marker))


def drop_secrets_folder(folder: Path) -> None:
    """Removes one start's secrets."""
    shutil.rmtree(folder, ignore_errors=True)


def default_secrets_root(instance: str) -> Path:
    """A folder in memory: the user's runtime folder or /dev/shm; the temporary folder where neither is."""
    name = f"qwend-{os.getuid()}-{instance[:16]}"
    for parent in (os.environ.get("XDG_RUNTIME_DIR"), "/dev/shm"):
        if parent and os.access(parent, os.W_OK):
            return Path(parent) / name
    import tempfile

    return Path(tempfile.gettempdir()) / name


class _Files(msgspec.Struct):
    mounts: list[Mount]
    listing: set[str]


def _by_input(inputs: Mapping[str, str]) -> dict[str, _Files]:
    """Mounts by input. A key is an input's name, or `name/relative/path` for one file of it."""
    found: dict[str, _Files] = {}
    for key, path in inputs.items():
        name, _, below = key.partition("/")
        files = found.setdefault(name, _Files([], set()))
        source = os.path.realpath(path)
        _require_safe(key, source)
        if os.path.isdir(source):
            _add_folder(files, source, "/".join(filter(None, (INPUTS, name, below))), below)
        else:
            relative = below or os.path.basename(path)
            files.mounts.append(Mount(source, f"{INPUTS}/{name}/{relative}"))
            files.listing.add(relative)
    return found


def _add_folder(files: _Files, source: str, target: str, below: str) -> None:
    """One mount, or one for each file where some are links that lead out of the folder (a hub's cache keeps
    its files as links to blobs beside it: inside the container they would dangle)."""
    entries = [entry for entry in _tree(source) if not stat.S_ISDIR(os.lstat(entry).st_mode)]
    real = {entry: os.path.realpath(entry) for entry in entries}
    leads_out = any(not path.startswith(source + os.sep) for path in real.values())
    for entry, path in real.items():
        relative = os.path.relpath(entry, source)
        files.listing.add(f"{below}/{relative}" if below else relative)
        if leads_out:
            _require_safe(entry, path)
            files.mounts.append(Mount(path, f"{target}/{relative}"))
    if not leads_out:
        files.mounts.append(Mount(source, target))


def _require_safe(key: str, source: str) -> None:
    try:
        mode = os.stat(source).st_mode
    except OSError as error:
        raise StepFailed(
            f"input {key} cannot be mounted: {source}: {error.strerror}", code="input-gone"
        ) from None
    sockets = [os.path.realpath(path) for path in _ENGINE_SOCKETS if os.path.exists(path)]
    holds_socket = any(path == source or path.startswith(source.rstrip("/") + "/") for path in sockets)
    if holds_socket or not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise StepFailed(
            f"input {key} cannot be mounted: {source} is or holds something that no step may have",
            code="unsafe-input",
            hint="an input is a regular file or a folder of them",
        )


def _require_readable(mounts: list[Mount], user: User) -> None:
    """Without capabilities the container's user meets the file modes as they are."""
    if os.geteuid() != 0:
        return  # the user's own id reads what the user reads
    for mount in mounts:
        for entry in _tree(mount.source):
            found = os.stat(entry) if os.path.exists(entry) else os.lstat(entry)
            wanted = 0o5 if stat.S_ISDIR(found.st_mode) else 0o4
            if found.st_uid != user.outside and not found.st_mode & wanted == wanted:
                raise StepFailed(
                    f"{entry} has mode {stat.S_IMODE(found.st_mode):04o}: the container's user "
                    f"({user.outside}) may not read it",
                    code="unreadable-input",
                    hint=f"chmod a+rX {entry}, or run qwend as an ordinary user (so will the container)",
                )


def _write_drivers(order: Order) -> Path:
    folder = Path(order.work) / "drivers"
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    for file in order.launch.files:
        path = folder / file.name
        if path.parent != folder:
            raise StepFailed(f"the driver {file.name} would lie outside its folder", code="unsafe-driver")
        path.unlink(missing_ok=True)
        path.write_text(file.content, encoding="utf-8")
        path.chmod(0o444)
    return folder


def _write_secrets(order: Order, user: User, secrets_root: Path) -> Path:
    secrets_root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.lstat(secrets_root).st_uid != os.getuid() or secrets_root.is_symlink():
        raise StepFailed(f"{secrets_root} belongs to somebody else", code="unsafe-secrets", hint="remove it")
    secrets_root.chmod(0o700)
    folder = secrets_folder(secrets_root, order.identity.marker)
    drop_secrets_folder(folder)
    folder.mkdir(mode=0o700)
    for name, value in order.secrets.items():
        path = folder / name
        if path.parent != folder:
            raise StepFailed(f"the secret {name} would lie outside its folder", code="unsafe-secrets")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "w", encoding="utf-8") as file:
            file.write(value)
    hand_over(str(folder), user.outside, user.outside_group)
    return folder


def _tree(path: str) -> Iterator[str]:
    """A file, or a folder with everything below it; links are told and not followed."""
    yield path
    if os.path.isdir(path) and not os.path.islink(path):
        with os.scandir(path) as entries:
            names = sorted(entry.path for entry in entries)
        for name in names:
            yield from _tree(name)
