"""The steps of an image's construction that are more than a line of shell. Runs inside the builder stage.

    assemble.py sources    fetch, check and unpack what /build/plan.json names
    assemble.py compile    run /build/build.sh on it
    assemble.py finish     lay the overlay, check the outputs, write what the image holds

Standard library only: nothing of qwend is in the image.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

PREFIX = Path("/opt/qwend")
TOOLS = Path("/build-env")
SOURCES = Path("/src")
PLAN = Path("/build/plan.json")
SCRIPT = Path("/build/build.sh")
OVERLAY = Path("/overlay")
RECORD = Path("/record")
NOWHERE = "http://127.0.0.1:9"
"""A proxy that never answers: a build that may not use the network fails at once if it tries."""


def main() -> None:
    plan = json.loads(PLAN.read_text("utf-8"))
    {"sources": fetch_sources, "compile": run_build, "finish": finish}[sys.argv[1]](plan)


def fail(message: str, status: int = 66) -> None:
    print(f"qwend: {message}", file=sys.stderr)
    raise SystemExit(status)


# --- sources ----------------------------------------------------------------------------------------------


def fetch_sources(plan: dict[str, Any]) -> None:
    for source in plan["sources"]:
        folder = Path("/archives") / source["sha256"]
        folder.mkdir(parents=True)
        requirement = f"{source['package']}=={source['version']} --hash=sha256:{source['sha256']}\n"
        Path("/archives/requirement").write_text(requirement)
        # pip checks the hash before it opens the archive, then asks the archive's build backend for its
        # name: without isolation, so that backend is the one of the build lock.
        command = f"""
            [ ! -e /run/secrets/settings ] || . /run/secrets/settings
            export PIP_CACHE_DIR=/var/cache/pip PATH={TOOLS}/bin:$PATH
            exec {TOOLS}/bin/python -m pip download -q --no-deps --no-build-isolation --no-binary :all: \
                --require-hashes --progress-bar off --dest {folder} -r /archives/requirement
        """
        if subprocess.run(["/bin/sh", "-euc", command]).returncode:
            raise SystemExit(65)
        [archive] = folder.iterdir()
        got = hashlib.sha256(archive.read_bytes()).hexdigest()
        if got != source["sha256"]:
            fail(
                f"{source['package']} is not what image.toml says: expected sha256:{source['sha256']}, got sha256:{got}"
            )
        unpack(archive, source["members"], SOURCES / source["into"])
        shutil.rmtree(folder)


def unpack(archive: Path, members: list[str], target: Path) -> None:
    """Unpacks without the archive's top folder; a path that leads outside is refused."""
    target.mkdir(parents=True)
    count = 0
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as bundle:
            for info in bundle.infolist():
                name = below(info.filename, members)
                if name is not None and not info.is_dir():
                    path = target / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(bundle.read(info))
                    count += 1
    else:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = below(member.name, members)
                if name is None:
                    continue
                if member.islnk():
                    member.linkname = str(PurePosixPath(*PurePosixPath(member.linkname).parts[1:]))
                member.name = name
                inside(member, target)
                tar.extract(member, target)
                count += 1
    if not count:
        fail(f"{archive.name} holds none of {', '.join(members)}")


def below(name: str, members: list[str]) -> str | None:
    """`name` without its top folder, if it is wanted."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        fail(f"the archive holds the path {name!r}")
    found = PurePosixPath(*path.parts[1:])
    wanted = not members or any(
        found == PurePosixPath(m) or PurePosixPath(m) in found.parents for m in members
    )
    return str(found) if found.parts and wanted else None


def inside(member: tarfile.TarInfo, target: Path) -> None:
    """What the `data` filter of newer Pythons refuses: devices, and links that lead outside."""
    if not (member.isfile() or member.isdir() or member.islnk() or member.issym()):
        fail(f"the archive holds the special file {member.name!r}")
    if member.islnk() or member.issym():
        start = target if member.islnk() else (target / member.name).parent
        if not os.path.normpath(start / member.linkname).startswith(str(target)):
            fail(f"the archive holds a link that leads outside: {member.name!r}")
    member.mode &= 0o755
    member.uid = member.gid = 0


# --- compile ----------------------------------------------------------------------------------------------


def run_build(plan: dict[str, Any]) -> None:
    if not SCRIPT.exists():
        return
    tree = Path("/build-tree")
    tree.mkdir()
    env = {
        "PATH": f"{TOOLS}/bin:/usr/local/bin:/usr/bin:/bin",
        "HOME": "/root",
        "LC_ALL": "C.UTF-8",
        "CCACHE_DIR": "/var/cache/ccache",
        "SRC": str(SOURCES),
        "PREFIX": str(PREFIX),
        "JOBS": str(len(os.sched_getaffinity(0))),
        "PYTHON": f"{TOOLS}/bin/python",
        "FLAVOUR": plan["flavour"],
        **plan["options"],
    }
    before = "exec /bin/sh -eu /build/build.sh"
    if plan["network"]:
        before = f"[ ! -e /run/secrets/settings ] || . /run/secrets/settings; {before}"
    else:
        env |= {"http_proxy": NOWHERE, "https_proxy": NOWHERE, "all_proxy": NOWHERE}
    status = subprocess.run(["/bin/sh", "-euc", before], cwd=tree, env=env).returncode
    if status:
        raise SystemExit(status if status > 0 else 128 - status)


# --- finish -----------------------------------------------------------------------------------------------


def finish(plan: dict[str, Any]) -> None:
    laid = [lay(path) for path in sorted(OVERLAY.rglob("*")) if path.is_file() and path.name != ".keep"]
    missing = [name for name in plan["outputs"] if not (PREFIX / name).is_file()]
    if missing:
        fail(f"the build left no {', '.join(missing)}")
    there = {canonical(found.metadata["Name"]): found for found in metadata.distributions(path=[str(site())])}
    record = {
        **json.loads((RECORD / "qwend-image.json").read_text("utf-8")),
        "python": ".".join(map(str, sys.version_info[:3])),
        "packages": {name: there[name].version for name in sorted(there)},
        "manifests": {
            name: digest((there[name].read_text("RECORD") or "").encode()) for name in sorted(there)
        },
        "files": {name: digest((PREFIX / name).read_bytes()) for name in sorted({*plan["outputs"], *laid})},
    }
    (PREFIX / "qwend-image.json").write_text(json.dumps(record, indent=1) + "\n")
    shutil.copyfile(RECORD / "sbom.cdx.json", PREFIX / "sbom.cdx.json")
    open_to_all(PREFIX)


def open_to_all(folder: Path) -> None:
    """Whoever runs the image, its own user or the caller: they may read and not write. A file that is right
    already is left alone: a change of mode would copy it into another layer."""
    for path in [folder, *folder.rglob("*")]:
        mode = path.lstat().st_mode
        wanted = (mode | (0o555 if path.is_dir() or mode & 0o100 else 0o444)) & ~0o022
        if wanted != mode and not path.is_symlink():
            path.chmod(wanted & 0o7777)


def lay(path: Path) -> str:
    """Copies one file of the overlay over the result; its path below the prefix."""
    relative = path.relative_to(OVERLAY)
    target = site() / Path(*relative.parts[1:]) if relative.parts[0] == "site" else PREFIX / relative
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    shutil.copyfile(path, target)
    target.chmod(0o755 if relative.parts[0] == "bin" else 0o644)
    return str(target.relative_to(PREFIX))


def site() -> Path:
    return PREFIX / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


def canonical(name: str) -> str:
    return "-".join(filter(None, name.lower().replace("_", "-").replace(".", "-").split("-")))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    main()
