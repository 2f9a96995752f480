"""`image.toml`: what an author of an image writes, checked into frozen data.

The format is described in `images/README.md`; a test holds the two together.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Literal

import msgspec

from qwend.errors import UsageError

OptionValue = bool | int | str
Platform = Literal["linux-x86_64", "linux-aarch64", "macos-arm64"]

FILE_NAME = "image.toml"
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_RELATIVE = re.compile(r"(?!/)(?!.*(^|/)\.\.(/|$))[A-Za-z0-9._+/-]+")
_RANGE = re.compile(r">=3\.(?P<first>\d+),\s*<3\.(?P<end>\d+)|==3\.(?P<only>\d+)\.\*")
_OPTION = re.compile(r"[a-z][a-z0-9_]*")


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of image.toml: a key that the format does not know is an error."""


class Source(_Table, frozen=True, kw_only=True):
    """A source archive of the package index, by name, version and sha256; unpacked at `$SRC/<into>`."""

    package: str
    version: str
    sha256: str
    into: str
    members: list[str] = []
    """Only these files and folders of the archive (paths without its top folder); empty: all of it."""


class Option(_Table, frozen=True, kw_only=True):
    """A build option: its value reaches build.sh as `OPT_<NAME>` (a bool as ON or OFF)."""

    type: Literal["bool", "int", "string"]
    default: OptionValue
    help: str
    choices: list[OptionValue] = []


class Build(_Table, frozen=True, kw_only=True):
    """What is made from sources: build.sh runs with SRC, PREFIX, JOBS and the options as environment."""

    script: str = "build.sh"
    outputs: list[str] = []
    """Paths under the prefix that must exist afterwards."""
    network: bool = False
    """Whether the script itself needs the network (sources and locked packages are there before it)."""
    options: dict[str, Option] = {}


class System(_Table, frozen=True, kw_only=True):
    """Debian packages for the `oci` realisation, and the base image where the common one does not do."""

    base: str | None = None
    build: list[str] = []
    run: list[str] = []


class Flavour(_Table, frozen=True, kw_only=True):
    """One lock: what is installed for one kind of device."""

    platforms: list[Platform]
    lock: str
    build_lock: str | None = None
    """What build.sh needs, and the build dependencies of whatever `lock` has as a source archive."""
    compiler_lock: str | None = None
    """Added to the build environment where the host has no C++ compiler."""
    python: str | None = None
    """Narrows the image's Python range, where a wheel exists for some minors only."""
    requires: list[str]
    """What `lock` was resolved from; read by the re-resolver only."""
    build_requires: list[str] = []
    compiler_requires: list[str] = []
    overrides: list[str] = []
    """Requirements that replace what packages ask for, such as `transformers==4.51.3`."""
    excludes: list[str] = []
    """Packages that are left out although something asks for them."""
    torch_backend: str | None = None
    """Publisher's index of torch builds (uv's names: cpu, cu126) to try where the user's indexes lack one."""
    env: dict[str, str] = {}
    overlay: dict[str, str] = {}
    """As the image's, for files below `overlay-<flavour>/`."""
    options: dict[str, OptionValue] = {}
    """Defaults of build options that differ from the image's."""
    build: Build | None = None
    """In place of the image's [build], where this flavour is made otherwise."""
    base: str | None = None
    """Somebody else's container image that this flavour is made on, by digest: for its program. It has no other
    realisation then."""
    disk_mb: int = 0
    """About what the realised environment takes, for the preflight of a plan; 0 where unmeasured."""
    note: str = ""


class ImageFile(_Table, frozen=True, kw_only=True):
    """All of image.toml."""

    name: str
    summary: str
    licence: str
    python: str
    flavours: dict[str, Flavour]
    sources: list[Source] = []
    build: Build | None = None
    overlay: dict[str, str] = {}
    """Path below `overlay/` → why it is there. `site/…` goes to site-packages, the rest to the prefix."""
    system: System = System()
    entry: list[str] = []
    """What `docker run` of the image starts when told nothing; a Launch always says it."""

    def base_of(self, flavour: str) -> str | None:
        """The base image of a flavour, where the common one does not do: its own, else the image's."""
        return self.flavours[flavour].base or self.system.base

    def build_of(self, flavour: str) -> Build | None:
        """How a flavour is made from sources: its own [build], else the image's; None where nothing is."""
        return self.flavours[flavour].build or self.build


def read_image_file(folder: Path) -> ImageFile:
    """Read and check `folder/image.toml`; UsageError names the file, the key and the remedy."""
    path = folder / FILE_NAME
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise UsageError(
            f"{folder} is not an image folder: it has no {FILE_NAME}",
            hint="images/README.md describes the format",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from None
    try:
        image = msgspec.convert(tomllib.loads(text), ImageFile)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise UsageError(str(error).replace("$.", ""), where=str(path)) from None
    problems = _problems(image, folder)
    if problems:
        raise UsageError(
            problems[0],
            where=str(path),
            details=tuple(UsageError(text, where=str(path)) for text in problems) if problems[1:] else (),
        )
    return image


def python_minors(given: str) -> list[str]:
    """The minors of a range: `>=3.11,<3.14` gives 3.11, 3.12, 3.13 and `==3.11.*` gives 3.11.

    ValueError for another form: a lock is resolved for a range with both ends.
    """
    match = _RANGE.fullmatch(given)
    if not match:
        raise ValueError(f'"{given}" is not of the form ">=3.11,<3.14" or "==3.11.*"')
    if match["only"]:
        return [f"3.{match['only']}"]
    return [f"3.{minor}" for minor in range(int(match["first"]), int(match["end"]))]


def option_problem(name: str, option: Option, value: object) -> str | None:
    """Why `value` is not one of this option, or None."""
    kinds: dict[str, type] = {"bool": bool, "int": int, "string": str}
    wanted = kinds[option.type]
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        return f"option {name} is a {option.type}, not {value!r}"
    if option.choices and value not in option.choices:
        return f"option {name} is one of {', '.join(map(str, option.choices))}, not {value!r}"
    if isinstance(value, str) and not value.isprintable():
        return f"option {name} holds control characters"
    return None


def _problems(image: ImageFile, folder: Path) -> list[str]:
    """What the types cannot say."""
    found = []
    if not _NAME.fullmatch(image.name):
        found.append(f'name: "{image.name}" is not lower case words joined by hyphens')
    if not image.flavours:
        found.append("flavours: there is none, so nothing could be installed")
    if image.build:
        found += _build_problems("build", image.build, folder)
    for name, flavour in image.flavours.items():
        found += _flavour_problems(f"flavours.{name}", flavour, image, folder)
    for source in image.sources:
        if not re.fullmatch(r"[0-9a-f]{64}", source.sha256):
            found.append(f"sources: sha256 of {source.package} is not 64 hexadecimal digits")
        if not _RELATIVE.fullmatch(source.into):
            found.append(f'sources: into "{source.into}" of {source.package} is not a relative path')
    if image.sources and not any(image.build_of(name) for name in image.flavours):
        found.append("sources: they are for a build, and there is no [build]")
    found += _overlay_problems(image, folder)
    return found


def _build_problems(where: str, build: Build, folder: Path) -> list[str]:
    found = []
    for name, option in build.options.items():
        if not _OPTION.fullmatch(name):
            found.append(f"{where}.options.{name}: not a lower case word")
        problem = option_problem(name, option, option.default)
        if problem:
            found.append(f"{where}.options.{name}.default: {problem}")
    return found + _missing(folder, f"{where}.script", build.script)


def _flavour_problems(where: str, flavour: Flavour, image: ImageFile, folder: Path) -> list[str]:
    found = []
    build = flavour.build or image.build
    options = build.options if build else {}
    if flavour.build:
        found += _build_problems(f"{where}.build", flavour.build, folder)
    if not _NAME.fullmatch(where.removeprefix("flavours.")):
        found.append(f"{where}: not a lower case word")
    try:
        if not python_minors(flavour.python or image.python):
            found.append(f"{where}: no Python is in the range")
    except ValueError as error:
        found.append(f"{where}: python {error}")
    if flavour.base is not None and not re.fullmatch(r"\S+@sha256:[0-9a-f]{64}", flavour.base):
        found.append(f'{where}.base: "{flavour.base}" names no digest (@sha256:…)')
    if not flavour.platforms:
        found.append(f"{where}.platforms: empty")
    found += _missing(folder, f"{where}.lock", flavour.lock)
    if flavour.build_lock:
        found += _missing(folder, f"{where}.build_lock", flavour.build_lock)
    if flavour.compiler_lock:
        found += _missing(folder, f"{where}.compiler_lock", flavour.compiler_lock)
    for name, value in flavour.options.items():
        if name not in options:
            found.append(f"{where}.options.{name}: [build.options] has no such option")
        elif problem := option_problem(name, options[name], value):
            found.append(f"{where}.options.{name}: {problem}")
    return found


def _missing(folder: Path, where: str, relative: str) -> list[str]:
    if not _RELATIVE.fullmatch(relative):
        return [f'{where}: "{relative}" is not a path inside the image\'s folder']
    return [] if (folder / relative).is_file() else [f"{where}: there is no file {relative}"]


def _overlay_problems(image: ImageFile, folder: Path) -> list[str]:
    found = []
    for flavour in (None, *image.flavours):
        listed = (image.flavours[flavour] if flavour else image).overlay.keys()
        root = overlay_root(folder, flavour)
        there = _files_below(root).keys()
        found += [f"overlay: {root.name}/{name} is listed and missing" for name in listed - there]
        found += [f"overlay: {root.name}/{name} has no reason in image.toml" for name in there - listed]
    return sorted(found)


def overlay_root(folder: Path, flavour: str | None = None) -> Path:
    """Where the overlay of all flavours lies, or that of one."""
    return folder / (f"overlay-{flavour}" if flavour else "overlay")


def overlay_files(folder: Path, flavour: str) -> dict[str, Path]:
    """What is laid over `flavour`: the path that it gets (posix, as in image.toml) → the file."""
    return {**_files_below(overlay_root(folder)), **_files_below(overlay_root(folder, flavour))}


def _files_below(root: Path) -> dict[str, Path]:
    return {
        path.relative_to(root).as_posix(): path
        for path in sorted(root.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
