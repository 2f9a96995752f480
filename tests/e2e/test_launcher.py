"""./qwend in a fresh checkout: from other folders, through links, two at once, killed half-way."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.e2e.conftest import ROOT, cache_folder

from qwend import __version__

pytestmark = [pytest.mark.e2e, pytest.mark.native]
FILES = ["qwend", "pyproject.toml", "requirements.lock", "README.md", "LICENSE"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with a space in its path and no environment yet."""
    root = tmp_path / "my checkout"
    root.mkdir()
    for name in FILES:
        shutil.copy2(ROOT / name, root / name)
    for name in ("daemon", "plugins", "images", "recipes"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", ".*_cache"))
    return root


def _environ(tmp_path: Path) -> dict[str, str]:
    """An empty HOME; uv's cache is that of all end-to-end tests, for speed."""
    (tmp_path / "empty").mkdir(exist_ok=True)
    strange = {"PYTHONPATH", "VIRTUAL_ENV", "XDG_CACHE_HOME", "QWEND_CONFIG"}
    kept = {name: value for name, value in os.environ.items() if name not in strange}
    own = {"HOME": str(tmp_path / "empty"), "QWEND_HOME": str(tmp_path / "h")}
    return {"UV_CACHE_DIR": str(cache_folder() / "uv"), **kept, **own}


def _run(command: Sequence[str | Path], tmp_path: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, env=_environ(tmp_path), capture_output=True, text=True, timeout=600, check=False
    )


def _must(command: Sequence[str | Path], tmp_path: Path, cwd: Path | None = None) -> str:
    ended = _run(command, tmp_path, cwd or tmp_path)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_first_use_makes_the_environment_and_the_second_is_silent(checkout: Path, tmp_path: Path) -> None:
    first = _run([checkout / "qwend", "--version"], tmp_path, tmp_path)
    assert first.stdout == f"qwend {__version__}\n", first.stderr
    assert f"making {checkout}/.venv from requirements.lock, once" in first.stderr
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "hop").symlink_to(checkout / "qwend")
    (tmp_path / "bin" / "qw").symlink_to("hop")
    ways: list[tuple[list[str | Path], Path]] = [
        ([checkout / "qwend", "--version"], Path("/")),
        (["./qwend", "--version"], checkout),
        (["sh", "qwend", "--version"], checkout),
        ([tmp_path / "bin" / "qw", "--version"], tmp_path),
    ]
    for command, cwd in ways:
        again = _run(command, tmp_path, cwd)
        assert (again.stdout, again.stderr) == (f"qwend {__version__}\n", "")


def test_plugins_are_found_and_the_daemon_starts_from_there(checkout: Path, tmp_path: Path) -> None:
    try:
        assert "llama-cpp/quantize" in _must([checkout / "qwend", "plugins", "ls"], tmp_path)
    finally:
        _must([checkout / "qwend", "daemon", "stop"], tmp_path)


def test_two_first_uses_at_once_make_one_environment(checkout: Path, tmp_path: Path) -> None:
    environ, pipe = _environ(tmp_path), subprocess.PIPE
    both = [
        subprocess.Popen([checkout / "qwend", "--version"], env=environ, stdout=pipe, stderr=pipe, text=True)
        for _ in range(2)
    ]
    ended = [one.communicate(timeout=600) for one in both]
    assert [out for out, _ in ended] == [f"qwend {__version__}\n"] * 2, ended
    assert sum("made it in" in err for _, err in ended) == 1


def test_a_first_use_that_is_killed_half_way_is_begun_anew(checkout: Path, tmp_path: Path) -> None:
    environ = _environ(tmp_path)
    first = subprocess.Popen(
        [checkout / "qwend", "--version"], env=environ, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not (checkout / ".venv" / "first.lock").exists():
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert (checkout / ".venv" / ".qwend-stamp").read_text() == "building\n"
    again = _run([checkout / "qwend", "--version"], tmp_path, tmp_path)
    assert again.stdout == f"qwend {__version__}\n", again.stderr


def test_a_machine_without_a_python_is_told_what_it_needs(checkout: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "cksum", "uname", "readlink"):
        (tools / name).symlink_to(shutil.which(name) or "/bin/sh")
    ended = subprocess.run(
        [checkout / "qwend", "ps"], env={"PATH": str(tools)}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 3
    assert "needs Python 3.11 or newer" in ended.stderr


def test_the_wheel_works_away_from_the_checkout(checkout: Path, tmp_path: Path) -> None:
    _must([checkout / "qwend", "--version"], tmp_path)
    python, uv = (checkout / ".venv" / "bin" / name for name in ("python", "uv"))
    _must([python, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "dist"], tmp_path, checkout)
    wheel = next((tmp_path / "dist").glob("*.whl"))
    there = tmp_path / "installed"
    _must([python, "-m", "venv", "--without-pip", there], tmp_path)
    install: list[str | Path] = [uv, "pip", "install", "--python", there / "bin/python"]
    _must([*install, "--require-hashes", "-r", checkout / "requirements.lock"], tmp_path)
    _must([*install, "--no-deps", wheel], tmp_path)
    shutil.rmtree(checkout)
    qwend = there / "bin" / "qwend"
    try:
        assert "llama-cpp/quantize" in _must([qwend, "plugins", "ls"], tmp_path)
        assert "quickstart" in _must([qwend, "init", "--list"], tmp_path)
        _must([qwend, "init"], tmp_path)
        assert "llama-cpp/serve" in _must([qwend, "plan", "--smoke"], tmp_path)
    finally:
        _must([qwend, "daemon", "stop", "--services"], tmp_path)
