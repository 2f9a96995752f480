"""Real wheels, source archives and image folders, small enough to be made in a test."""

from __future__ import annotations

import base64
import ensurepip
import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

BACKEND = """
def prepare_metadata_for_build_wheel(folder, config=None):
    import os
    os.makedirs(f"{folder}/NAME-1.0.dist-info")
    with open(f"{folder}/NAME-1.0.dist-info/METADATA", "w") as file:
        file.write("Metadata-Version: 2.1\\nName: NAME\\nVersion: 1.0\\n")
    return "NAME-1.0.dist-info"


def build_wheel(folder, config=None, metadata=None):
    raise RuntimeError("a source is unpacked, never built")
"""


def make_wheel(folder: Path, name: str, version: str, text: str = "VALUE = 1\n") -> str:
    """Write `NAME-VERSION-py3-none-any.whl` with one module into `folder`; its sha256."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": text,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for inner, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{inner},sha256={digest},{len(content)}")
    files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""])
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for inner, content in files.items():
            wheel.writestr(zipfile.ZipInfo(inner, (2020, 1, 1, 0, 0, 0)), content)
    return sha256(path)


def make_sdist(folder: Path, name: str, files: dict[str, str]) -> str:
    """Write `NAME-1.0.tar.gz` with its own build backend and `files` into `folder`; its sha256."""
    folder.mkdir(parents=True, exist_ok=True)
    project = (
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        f'[project]\nname = "{name}"\nversion = "1.0"\n'
    )
    members = {
        "pyproject.toml": project,
        "backend.py": BACKEND.replace("NAME", name),
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        **files,
    }
    path = folder / f"{name}-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for inner, content in members.items():
            data = content.encode()
            member = tarfile.TarInfo(f"{name}-1.0/{inner}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return sha256(path)


def pip_wheel(folder: Path) -> tuple[str, str]:
    """Copy the pip that comes with Python into `folder`; (version, sha256)."""
    version = ensurepip.version()
    name = f"pip-{version}-py3-none-any.whl"
    for place in (Path(ensurepip.__file__).parent / "_bundled", Path("/usr/share/python-wheels")):
        if (place / name).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((place / name).read_bytes())
            return version, sha256(folder / name)
    pytest.skip(f"this Python comes without {name}")


def make_image(
    folder: Path,
    pins: dict[str, tuple[str, str]],
    *,
    build: str | None = None,
    build_pins: dict[str, tuple[str, str]] | None = None,
    source: tuple[str, str] | None = None,
    overlay: dict[str, str] | None = None,
    more: str = "",
    in_flavour: str = "",
) -> Path:
    """An image folder `folder` with flavour `cpu`; pins are name → (version, sha256)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.lock").write_text(lock_text(pins))
    lines = [
        'name = "tiny"',
        'summary = "for a test"',
        'licence = "MIT"',
        'python = ">=3.11,<3.15"',
        "[flavours.cpu]",
        'platforms = ["linux-x86_64", "linux-aarch64", "macos-arm64"]',
        'lock = "cpu.lock"',
        f"requires = {[f'{name}=={version}' for name, (version, _) in pins.items()]}",
        in_flavour,
    ]
    if build_pins is not None:
        (folder / "cpu.build.lock").write_text(lock_text(build_pins))
        lines.append('build_lock = "cpu.build.lock"')
    if source:
        name, digest = source
        lines += [
            "[[sources]]",
            f'package = "{name}"',
            'version = "1.0"',
            f'sha256 = "{digest}"',
            f'into = "{name}"',
        ]
    if build is not None:
        (folder / "build.sh").write_text(build)
        lines.append("[build]")
    lines.append(more)
    if overlay:
        lines.append("[overlay]")
        for name, text in overlay.items():
            path = folder / "overlay" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            lines.append(f'"{name}" = "needed by the test"')
    (folder / "image.toml").write_text("\n".join(lines) + "\n")
    return folder


def lock_text(pins: dict[str, tuple[str, str]]) -> str:
    """A lock with one hash for each pin."""
    return "".join(
        f"{name}=={version} \\\n    --hash=sha256:{digest}\n" for name, (version, digest) in pins.items()
    )


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
