"""A home of its own for every test, a fake daemon on a real socket, and the command line in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.fakes.api_server import FakeDaemon

from qwend.cli.program import run


@dataclass(frozen=True)
class Ended:
    """What a command line came to."""

    code: int
    out: str
    err: str


Qwend = Callable[..., Ended]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """QWEND_HOME, and an empty current folder."""
    folder, work = tmp_path / "home", tmp_path / "work"
    folder.mkdir()
    work.mkdir()
    for name in ("NO_COLOR", "QWEND_DEBUG", "QWEND_CONFIG", "_QWEND_COMPLETE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("QWEND_HOME", str(folder))
    monkeypatch.chdir(work)
    return folder


@pytest.fixture
def daemon(home: Path) -> Iterator[FakeDaemon]:
    """A fake daemon that listens."""
    fake = FakeDaemon(str(home))
    fake.start()
    yield fake
    fake.stop()


@pytest.fixture
def qwend(home: Path, capfd: pytest.CaptureFixture[str]) -> Qwend:
    """Runs a command line."""

    def call(*arguments: str) -> Ended:
        capfd.readouterr()
        code = run(list(arguments))
        said = capfd.readouterr()
        return Ended(code, said.out, said.err)

    return call
