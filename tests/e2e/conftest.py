"""A home of its own for every test; what is dear to make is kept in one cache folder for all of them.

QWEND_CI_CACHE (default: `qwend-ci` in the user's cache folder) holds realised images, named by their digests,
and uv's cache: the second run of the tests compiles nothing and downloads nothing. Container images are the engine's
own; CI keeps them beside the others (`.ci/image-cache`).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.unchanged import Memory, Unchanged
from tests.fakes.ollama_server import State, start

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 1800.0


def cache_folder() -> Path:
    """Where images and packages are kept between runs."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "qwend-ci"
    return Path(os.environ.get("QWEND_CI_CACHE") or default)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="every engine, changed or not")


def pytest_configure(config: pytest.Config) -> None:
    memory = Memory(cache_folder() / "passed")
    until = os.environ.get("QWEND_CHECK_UNTIL")
    full = bool(config.getoption("--full", default=False))
    config.pluginmanager.register(Unchanged(memory, full, float(until) if until else None))


@dataclass
class Qwend:
    """The real command line, with the real daemon of one home."""

    home: Path
    folder: Path
    environ: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-P", "-m", "qwend", *arguments]

    def try_(
        self, *arguments: str, timeout: float = TIMEOUT_S, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """What came of a command line."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env={**self.environ, **environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def __call__(self, *arguments: str, timeout: float = TIMEOUT_S) -> str:
        """The output of a command line that must work."""
        ended = self.try_(*arguments, timeout=timeout)
        said = f"{ended.stdout}\n{ended.stderr}"
        assert ended.returncode == 0, f"qwend {' '.join(arguments)} ended with {ended.returncode}:\n{said}"
        return ended.stdout

    def json(self, *arguments: str) -> Any:
        """The decoded `--json` of a reader."""
        return json.loads(self(*arguments, "--json"))

    def row(self, step: str) -> dict[str, Any]:
        """The row of a step in `ps`."""
        return next(row for row in self.json("ps") if row["step"] == step)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """A command line that goes on while the test does."""
        pipe = subprocess.PIPE
        command = self.command(*arguments)
        started = subprocess.Popen(
            command, cwd=self.folder, env=self.environ, stdout=pipe, stderr=pipe, text=True
        )
        self.started.append(started)
        return started


@pytest.fixture
def qwend(tmp_path: Path) -> Iterator[Qwend]:
    """The command line with a home of its own, whose daemon and services are gone when the test is over."""
    cache = cache_folder()
    (cache / "images").mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="qwend-"))
    (home / "images").symlink_to(cache / "images")
    # For recipes that name none, whether or not an engine answers here; a test may say another.
    (home / "qwend.toml").write_text('runtime = "native"\n')
    work = tmp_path / "work"
    work.mkdir()
    environ = {
        **os.environ,
        "QWEND_HOME": str(home),
        "QWEND_CONFIG": str(home / "qwend.toml"),
        "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR") or str(cache / "uv"),
        "PYTHONPATH": os.pathsep.join(str(ROOT / room) for room in ("daemon", "plugins", "images")),
    }
    call = Qwend(home, work, environ)
    yield call
    for one in call.started:
        one.kill()
        one.communicate()
    stopped = call.try_("daemon", "stop", "--services", timeout=120)
    log = home / "logs" / "daemon.log"
    if log.exists():
        print(f"--- {log}\n{log.read_text(errors='replace')[-20000:]}")  # pytest shows it if the test failed
    (home / "images").unlink()
    shutil.rmtree(home, ignore_errors=True)
    assert stopped.returncode == 0, stopped.stderr


@dataclass
class Docker:
    """The engine that a home's containers are on, asked by its own command."""

    home: Path

    def __call__(self, *arguments: str) -> str:
        """The output of `docker ARGUMENTS`, which must work."""
        ended = subprocess.run(
            ["docker", *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        assert ended.returncode == 0, f"docker {' '.join(arguments)}: {ended.stderr}"
        return ended.stdout.strip()

    def containers(self, step: str = "") -> list[dict[str, Any]]:
        """Every container of this home (of one step), inspected."""
        labels = [f"org.qwend.instance={(self.home / 'instance').read_text().strip()}"]
        labels += [f"org.qwend.step={step}"] if step else []
        filters = [word for label in labels for word in ("--filter", f"label={label}")]
        ids = self("ps", "-aq", "--no-trunc", *filters).split()
        found: list[dict[str, Any]] = []
        for one in ids:  # each apart: one that is removed just now is simply gone
            told = subprocess.run(["docker", "inspect", one], capture_output=True, text=True, check=False)
            found += json.loads(told.stdout) if told.returncode == 0 else []
        return found

    def inside(self, container: str, script: str) -> str:
        """What a shell in a running container says."""
        return self("exec", container, "sh", "-c", script)


def local_base() -> tuple[str, str] | None:
    """Tag and id of the base image that images/make-base made here."""
    listed = subprocess.run(
        ["docker", "images", "--no-trunc", "--filter", "label=org.qwend.base.key",
         "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    for line in listed.stdout.splitlines():
        tag, _, digest = line.partition(" ")
        if tag.startswith("qwend-base:"):  # images that were built on it inherit its label
            return tag, digest
    return None


@pytest.fixture
def ollama() -> Iterator[tuple[str, State]]:
    """Address and memory of a stand-in for Ollama's server: no package index has the real one."""
    server, state = start()
    yield f"http://127.0.0.1:{server.server_address[1]}", state
    server.shutdown()
    server.server_close()


@pytest.fixture
def docker(qwend: Qwend) -> Iterator[Docker]:
    """The engine, and `qwend` set to build on the local base. Containers of the home are gone afterwards."""
    base = local_base()
    if base is None:
        pytest.skip("docker: the engine has no local base image (images/make-base makes it)")
    (qwend.home / "qwend.toml").write_text(f'[images]\nbase = "{base[0]}"\nbase_id = "{base[1]}"\n')
    engine = Docker(qwend.home)
    yield engine
    for container in engine.containers() if (qwend.home / "instance").exists() else []:
        engine("rm", "-f", container["Id"])
