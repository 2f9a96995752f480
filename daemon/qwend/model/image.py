"""What a step runs in: a locked image of ours, an upstream image by digest, or a program of the host.

An ImageSpec is small and serialisable; `folder` says where its files lie on this host and is not part of
its digest. The digest covers everything that decides what the image holds: lock, build lock, build.sh,
overlay, sources, flavour, Python range, environment and build options, and a flavour's own base. It leaves out what
only decides how it is had: the common base image, mirrors, certificates.
"""

from __future__ import annotations

import contextlib
import contextvars
import hashlib
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from qwend.errors import UsageError
from qwend.model.image_file import (
    FILE_NAME,
    Build,
    Flavour,
    ImageFile,
    OptionValue,
    Platform,
    option_problem,
    overlay_files,
    python_minors,
    read_image_file,
)

IMAGE_USER = 10001
"""Whom our container images name: the uid and the gid of their processes where the user is root."""
_FORMAT = 1
"""Raised when the meaning of an unchanged image folder changes: it is hashed into every digest."""


class ImageSpec(msgspec.Struct, frozen=True, kw_only=True, tag="lock", tag_field="kind"):
    """One flavour of an image folder with its build options settled."""

    name: str
    flavour: str
    digest: str
    """64 hexadecimal digits."""
    python: str
    """Range of Python minors, such as `>=3.11,<3.14`."""
    platforms: list[Platform]
    folder: str
    """Where image.toml lies on this host (absolute); not in the digest."""
    options: dict[str, OptionValue] = {}
    """Every build option with its value, defaults filled in."""
    env: dict[str, str] = {}
    """Environment that whatever runs in the image gets."""
    network_at_build: bool = False
    compiles: bool = False
    """Whether a build.sh runs, so that the first realisation takes minutes rather than seconds."""
    disk_mb: int = 0
    """About what the realised image takes; 0 where nobody measured it."""
    base: str | None = None
    """The container image, by digest, whose program is in it; None: it can be an environment on the host, too."""

    @property
    def version(self) -> str:
        """`<flavour>-<first 12 digits of the digest>`."""
        return f"{self.flavour}-{self.digest[:12]}"

    @property
    def key(self) -> str:
        """Name of the realisation: `<name>-<version>`."""
        return f"{self.name}-{self.version}"

    @property
    def container(self) -> str:
        """The name and tag that an engine knows the realisation by."""
        return f"qwend/{self.name}:{self.version}"


class UpstreamImage(msgspec.Struct, frozen=True, kw_only=True, tag="upstream", tag_field="kind"):
    """Somebody else's container image, pinned: `reference` names it, `manifest` (`sha256:…`) is the pin."""

    name: str
    reference: str
    manifest: str
    env: dict[str, str] = {}

    @property
    def digest(self) -> str:
        """The manifest's digest without its algorithm."""
        return self.manifest.removeprefix("sha256:")

    @property
    def pinned(self) -> str:
        """`reference@sha256:…`, as an engine pulls it."""
        return f"{self.reference}@{self.manifest}"


class HostProgram(msgspec.Struct, frozen=True, kw_only=True, tag="program", tag_field="kind"):
    """A program that the user installed (an `ollama` on PATH); its version is recorded, not fingerprinted."""

    name: str
    program: str
    install_hint: str
    env: dict[str, str] = {}

    @property
    def digest(self) -> str:
        """Over the program's name only: an upgrade of the host's program rebuilds nothing."""
        return hashlib.sha256(f"program\0{self.name}\0{self.program}".encode()).hexdigest()


Image = ImageSpec | UpstreamImage | HostProgram

_preferred: dict[str, OptionValue] = {}
_cache: dict[tuple[str, str, str, str], tuple[tuple[tuple[str, int, int], ...], ImageSpec]] = {}
_published: dict[str, tuple[tuple[tuple[str, int, int], ...], dict[str, str]]] = {}
_settled: contextvars.ContextVar[dict[tuple[str, str, str], ImageSpec] | None] = contextvars.ContextVar(
    "settled images", default=None
)


def prefer_options(options: Mapping[str, OptionValue]) -> None:
    """Build options that the user settled for every image that has them, in place of its defaults. Of this process:
    the daemon and its planner worker are both told."""
    _preferred.clear()
    _preferred.update(options)


def load_image(
    folder: str | Path, flavour: str, options: Mapping[str, OptionValue] | None = None
) -> ImageSpec:
    """The ImageSpec of `flavour` of the image in `folder`, with `options` over what the user prefers over its defaults.

    `folder` is a path, or `package:path/below/it` for a folder that an installed package carries (the
    package is located, never imported). Cached by the size and mtime of every file that counts.
    Raises UsageError for a folder, a flavour or an option that does not exist or does not fit.
    """
    settled = _settled.get()
    asked = (str(folder), flavour, repr(sorted((options or {}).items())))
    if settled is not None and asked in settled:
        return settled[asked]
    root = locate_folder(folder)
    cache_key = (str(root), *asked[1:], repr(sorted(_preferred.items())))
    stamp = _stamp(root)
    cached = _cache.get(cache_key)
    spec = (
        cached[1]
        if cached and cached[0] == stamp
        else _load(root, read_image_file(root), flavour, options or {}, _preferred)
    )
    _cache[cache_key] = (stamp, spec)
    if settled is not None:
        settled[asked] = spec
    return spec


def published(folder: str | Path) -> dict[str, str]:
    """The digest of every flavour of the image in `folder`, with the options that it comes with: what a recipe's lock
    records, the same on every machine that has the same qwend. Cached as `load_image`."""
    root = locate_folder(folder)
    stamp = _stamp(root)
    cached = _published.get(str(root))
    if cached is None or cached[0] != stamp:
        image = read_image_file(root)
        digests = {flavour: _load(root, image, flavour, {}, {}).digest for flavour in image.flavours}
        cached = _published[str(root)] = (stamp, digests)
    return cached[1]


@contextlib.contextmanager
def settled_images() -> Iterator[None]:
    """Within this, a folder that was loaded once is not looked at again: a plan of a thousand steps asks a
    thousand times, and all of its steps are to see the same files."""
    token = _settled.set({})
    try:
        yield
    finally:
        _settled.reset(token)


def locate_folder(folder: str | Path) -> Path:
    """The absolute path of an image folder given as a path or as `package:path`."""
    text = str(folder)
    package, colon, below = text.partition(":")
    if not colon or not package.isidentifier():
        return Path(text).resolve()
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise UsageError(f"image {text}: no package {package} is installed")
    for location in found.submodule_search_locations:
        if (Path(location) / below / FILE_NAME).is_file():
            return (Path(location) / below).resolve()
    raise UsageError(f"image {text}: package {package} has no folder {below} with an {FILE_NAME}")


def chosen_flavour(image: ImageFile, flavour: str) -> Flavour:
    """The flavour of that name; UsageError lists those that exist."""
    try:
        return image.flavours[flavour]
    except KeyError:
        raise UsageError(
            f'image {image.name} has no flavour "{flavour}"',
            code="no-flavour",
            hint=f"it has {', '.join(sorted(image.flavours))}",
        ) from None


def input_files(folder: Path, image: ImageFile, flavour: str) -> dict[str, Path]:
    """Every file of the folder that decides what this flavour holds, by its role."""
    chosen = chosen_flavour(image, flavour)
    files = {"lock": folder / chosen.lock}
    if chosen.build_lock:
        files["build-lock"] = folder / chosen.build_lock
    if chosen.compiler_lock:
        files["compiler-lock"] = folder / chosen.compiler_lock
    if build := image.build_of(flavour):
        files["build-script"] = folder / build.script
    return files | {f"overlay/{name}": path for name, path in overlay_files(folder, flavour).items()}


def _load(
    root: Path,
    image: ImageFile,
    flavour: str,
    given: Mapping[str, OptionValue],
    preferred: Mapping[str, OptionValue],
) -> ImageSpec:
    chosen = chosen_flavour(image, flavour)
    build = image.build_of(flavour)
    options = _options(image.name, build, chosen, given, preferred)
    python = chosen.python or image.python
    identity = {
        "format": _FORMAT,
        "name": image.name,
        "flavour": flavour,
        "python": python_minors(python),
        "options": options,
        "env": chosen.env,
        "sources": [[s.package, s.version, s.sha256, s.into, s.members] for s in image.sources],
        "files": {
            role: hashlib.sha256(path.read_bytes()).hexdigest()
            for role, path in input_files(root, image, flavour).items()
        },
    }
    if chosen.base is not None:
        identity["base"] = chosen.base  # somebody else's program is part of what it holds; Debian is not
    return ImageSpec(
        name=image.name,
        flavour=flavour,
        digest=hashlib.sha256(msgspec.json.encode(identity, order="sorted")).hexdigest(),
        python=python,
        platforms=chosen.platforms,
        folder=str(root),
        options=options,
        env=chosen.env,
        network_at_build=bool(build and build.network),
        compiles=build is not None,
        disk_mb=chosen.disk_mb,
        base=chosen.base,
    )


def _options(
    image: str,
    build: Build | None,
    chosen: Flavour,
    given: Mapping[str, OptionValue],
    preferred: Mapping[str, OptionValue],
) -> dict[str, OptionValue]:
    known = build.options if build else {}
    for name, value in given.items():
        if name not in known:
            raise UsageError(
                f'image {image} has no build option "{name}"',
                hint=f"it has {', '.join(sorted(known))}" if known else "it has none",
            )
        problem = option_problem(name, known[name], value)
        if problem:
            raise UsageError(f"image {image}: {problem}", hint=known[name].help)
    defaults = {name: option.default for name, option in known.items()}
    settled = {name: value for name, value in preferred.items() if name in known}
    return {**defaults, **chosen.options, **settled, **given}


def _stamp(root: Path) -> tuple[tuple[str, int, int], ...]:
    """Size and mtime of every file of the folder: an image folder holds a dozen."""
    found = []
    for path in sorted(root.rglob("*")):
        if "__pycache__" not in path.parts:
            stat = path.stat()
            found.append((str(path), stat.st_size, stat.st_mtime_ns))
    return tuple(found)
