"""Environments of images for the drivers' tests: the locks, realised by uv as the venv builder does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.hub_server import HubServer

ROOT = Path(__file__).parents[3]
PLUGINS = ROOT / "plugins" / "qwend_plugins"


@pytest.fixture(scope="session")
def image_python(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The interpreter of an image's locked environment, made once in a session."""
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    made: dict[str, Path] = {}

    def realise(image: str) -> Path:
        if image not in made:
            folder = tmp_path_factory.mktemp(image) / "venv"
            lock = ROOT / "images" / "qwend_images" / image / "cpu.lock"
            subprocess.run([uv, "venv", "-q", "--python", sys.executable, folder], check=True)
            where = os.environ | {"VIRTUAL_ENV": str(folder)}
            subprocess.run([uv, "pip", "sync", "-q", "--require-hashes", lock], check=True, env=where)
            made[image] = folder / "bin" / "python"
        return made[image]

    return realise


@dataclass
class Outcome:
    """What a driver left behind."""

    code: int
    out: str
    err: str
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def error(self) -> dict[str, Any]:
        """The one error that was reported, whose message was the last line of the log, too; no traceback."""
        assert self.code != 0, self.out
        assert "Traceback" not in self.err, self.err
        errors = [row["error"] for row in self.rows if "error" in row]
        assert len(errors) == 1, self.rows
        assert errors[0]["message"] in self.err.splitlines()[-1]
        return dict(errors[0])

    def progress(self) -> list[dict[str, Any]]:
        return [row["progress"] for row in self.rows if "progress" in row]


class Driver:
    """Runs one driver in the environment of its image, with a home and a report of its own."""

    def __init__(self, python: Path, script: Path, folder: Path) -> None:
        self.argv = [str(python), "-I", str(script)]
        self.report = folder / "report.jsonl"
        home = folder / "home"
        home.mkdir(exist_ok=True)
        self.env = {"PATH": os.environ["PATH"], "HOME": str(home), "QWEND_REPORT": str(self.report)}

    def start(self, *args: object, **env: str) -> subprocess.Popen[str]:
        self.report.unlink(missing_ok=True)
        argv = [*self.argv, *map(str, args)]
        pipe = subprocess.PIPE
        return subprocess.Popen(argv, env=self.env | env, stdout=pipe, stderr=pipe, text=True)

    def finish(self, process: subprocess.Popen[str]) -> Outcome:
        out, err = process.communicate(timeout=120)
        lines = self.report.read_text().splitlines() if self.report.exists() else []
        return Outcome(process.returncode, out, err, [json.loads(line) for line in lines])

    def __call__(self, *args: object, **env: str) -> Outcome:
        return self.finish(self.start(*args, **env))


@pytest.fixture
def driver(image_python: Callable[[str], Path], tmp_path: Path) -> Callable[[str, str, str], Driver]:
    """`driver(image, plugin, file)`."""
    return lambda image, plugin, file: Driver(
        image_python(image), PLUGINS / plugin / "drivers" / file, tmp_path
    )


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as running:
        yield running


@pytest.fixture(scope="session")
def tiny(
    image_python: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """The folder of a smoke model, made once in a session: `tiny("qwen3", "--format", "gguf")`."""
    made: dict[tuple[str, ...], Path] = {}

    def make(architecture: str, *options: str) -> Path:
        key = (architecture, *options)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("tiny")
            script = PLUGINS / "smoke" / "drivers" / "make_model.py"
            argv = [str(image_python("smoke")), "-I", str(script), "--architecture", architecture, *options]
            subprocess.run([*argv, "--out", str(made[key])], check=True, capture_output=True)
        return made[key]

    return make
