"""Lock files: reading, checking and re-resolving them.

A lock is pip's requirements format with a hash for everything and no addresses: where packages come from is
the business of whoever installs (`pip_settings`).
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from qwend.adapters.package_environment import uv_environment, uv_options
from qwend.adapters.pip_settings import IndexSettings
from qwend.errors import QwendError, UsageError
from qwend.model.image_file import Flavour, ImageFile, python_minors

_PIN = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[^\s;]+)(?:\s*;\s*(?P<marker>[^\\]+?))?\s*\\?"
)
_HASH = re.compile(r"--hash=sha256:(?P<digest>[0-9a-f]{64})\s*\\?")

ROLES = ("lock", "build_lock", "compiler_lock")
_ENVIRONMENTS = {
    "linux-x86_64": "sys_platform == 'linux' and platform_machine == 'x86_64'",
    "linux-aarch64": "sys_platform == 'linux' and platform_machine == 'aarch64'",
    "macos-arm64": "sys_platform == 'darwin' and platform_machine == 'arm64'",
}


class Pin(msgspec.Struct, frozen=True):
    """One package of a lock. `marker` says where it applies ("" is everywhere)."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]


class Change(msgspec.Struct, frozen=True):
    """What a new lock does to a package: None on the left is an addition, on the right a removal."""

    name: str
    old: str | None
    new: str | None


def canonical(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(path: Path) -> list[Pin]:
    """The pins of a lock file; UsageError as `parse_lock`, and where the file cannot be read."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the lock: {error}", where=str(path)) from None
    return parse_lock(text, str(path))


def parse_lock(lock: str, path: str) -> list[Pin]:
    """The pins of a lock; UsageError with `path` and line for anything that a lock may not hold."""
    pins: list[Pin] = []
    for number, line in enumerate(lock.splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        where = f"{path}:{number}:1"
        if match := _PIN.fullmatch(text):
            pins.append(Pin(canonical(match["name"]), match["version"], (match["marker"] or "").strip(), ()))
        elif (found := _HASH.fullmatch(text)) and pins:
            last = pins[-1]
            pins[-1] = Pin(last.name, last.version, last.marker, (*last.hashes, found["digest"]))
        else:
            raise UsageError(
                f'a lock holds "name==version" and sha256 hashes only, not "{text[:80]}"',
                code="bad-lock",
                where=where,
                hint="re-resolve it with images/lock.py",
            )
    for pin in pins:
        if not pin.hashes:
            raise UsageError(f"{pin.name}=={pin.version} has no hash", code="bad-lock", where=path)
    return pins


def strict_text(lock: str) -> str:
    """A lock's text with `===` for `==`.

    `torch==2.13.0` also accepts `torch 2.13.0+cpu`, which a wheelhouse may hold beside it; its hash is
    another, and an installer that picks it first fails.
    """
    return re.sub(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==(?!=)", r"\1===", lock, flags=re.MULTILINE)


def changes(old: Sequence[Pin], new: Sequence[Pin]) -> list[Change]:
    """What differs, by name; several versions of one package (for several Pythons) are joined by " | "."""

    def versions(pins: Sequence[Pin]) -> dict[str, str]:
        found: dict[str, list[str]] = {}
        for pin in pins:
            found.setdefault(pin.name, []).append(pin.version)
        return {name: " | ".join(sorted(set(those))) for name, those in found.items()}

    before, after = versions(old), versions(new)
    return [
        Change(name, before.get(name), after.get(name))
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]


def resolve(
    image: ImageFile,
    flavour: str,
    role: str,
    *,
    current: str = "",
    upgrade: Sequence[str] | None = (),
    uv: str,
    settings: IndexSettings,
    environ: Mapping[str, str] | None = None,
) -> str:
    """The text of a new lock for `role` ("lock", "build_lock", "compiler_lock") of a flavour.

    `current` is the lock to stay close to, `upgrade` the packages that may move (None: all of them).
    Takes seconds to minutes and the network; QwendError carries the resolver's own explanation.
    """
    chosen = image.flavours[flavour]
    requires = {
        "lock": chosen.requires,
        "build_lock": chosen.build_requires,
        "compiler_lock": chosen.compiler_requires,
    }[role]
    with tempfile.TemporaryDirectory(prefix="qwend-lock-") as scratch:
        folder = Path(scratch)
        (folder / "requirements.in").write_text("\n".join(requires) + "\n")
        (folder / "out.lock").write_text(_without_hashes(current))
        command = [
            uv,
            "pip",
            "compile",
            "requirements.in",
            "-q",
            "-o",
            "out.lock",
            *_OUTPUT,
            *uv_options(settings),
        ]
        command += ["--python-version", python_minors(chosen.python or image.python)[0]]
        command += ["--custom-compile-command", f"python images/lock.py {image.name} {flavour} --write"]
        (folder / "pyproject.toml").write_text(f"[tool.uv]\nenvironments = {_environments(image, chosen)}\n")
        for name, values in (("overrides", chosen.overrides), ("excludes", chosen.excludes)):
            if values and role == "lock":
                (folder / f"{name}.txt").write_text("\n".join(values) + "\n")
                command += [f"--{name}", f"{name}.txt"]
        if upgrade is None:
            command.append("--upgrade")
        else:
            command += [part for name in upgrade for part in ("--upgrade-package", name)]
        env = uv_environment(_public(settings, requires), os.environ if environ is None else environ)
        env.pop("UV_NO_CONFIG", None)  # the platforms of the flavour are in a file
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise QwendError(
                f"{image.name} ({flavour}) does not resolve: {' '.join(done.stderr.split())}",
                code="no-resolution",
            )
        return (folder / "out.lock").read_text()


_OUTPUT = [
    *("--generate-hashes", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"),
    *("--universal", "--fork-strategy", "fewest"),
]


def _without_hashes(lock: str) -> str:
    """Versions as preferences only: hashes are collected anew, so that a lock gains later wheels."""
    pins = parse_lock(lock, "current lock")
    return "".join(f"{pin.name}=={pin.version}{f' ; {pin.marker}' if pin.marker else ''}\n" for pin in pins)


def _public(settings: IndexSettings, requires: Sequence[str]) -> IndexSettings:
    """`settings` without what is true of this machine only.

    An index on its disk holds the wheels of one platform. A wheelhouse (find-links) is left out too, unless
    something is asked for that no index may hold (a local version such as `torch==2.13.0+cpu`): it would
    pass for `torch==2.13.0` where another build is meant.
    """
    wanted = any("+" in requirement for requirement in requires)
    return msgspec.structs.replace(
        settings,
        extra_index=[url for url in settings.extra_index if not url.startswith(("file:", "/"))],
        find_links=settings.find_links if wanted or settings.no_index else [],
    )


def _environments(image: ImageFile, chosen: Flavour) -> list[str]:
    """The platforms and Pythons of a flavour as markers: one lock serves all of them and no other."""
    minors = python_minors(chosen.python or image.python)
    python = f"python_version >= '{minors[0]}' and python_version <= '{minors[-1]}'"
    return [
        f"{_ENVIRONMENTS[platform]} and platform_python_implementation == 'CPython' and {python}"
        for platform in chosen.platforms
    ]
