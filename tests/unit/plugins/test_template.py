from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from qwend.core.loader import RecipeFile, load
from qwend.errors import UsageError
from qwend.plugin.template import write
from qwend.plugin.testing import check_plugin
from qwend.worker.catalog import Catalogue, load_plugins


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A new plugin, written and installed."""
    written = write("my-plugin", str(tmp_path))
    made = tmp_path / "qwend-my-plugin"
    assert sorted(written) == sorted(str(path) for path in made.rglob("*") if path.is_file())
    info = made / "src" / "qwend_my_plugin-0.1.0.dist-info"
    info.mkdir()
    project = tomllib.loads((made / "pyproject.toml").read_text())["project"]
    info.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0.1.0\n")
    points = project["entry-points"]["qwend.plugins.v1"]
    lines = [f"{name} = {module}" for name, module in points.items()]
    info.joinpath("entry_points.txt").write_text("[qwend.plugins.v1]\n" + "\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(made / "src"))
    yield made
    for name in [name for name in sys.modules if name.startswith("qwend_my_plugin")]:
        del sys.modules[name]


def installed(folder: Path) -> Catalogue:
    (distribution,) = metadata.distributions(path=[str(folder / "src")])
    return load_plugins(entry_points=distribution.entry_points)


def test_a_new_plugin_passes_the_check_as_it_is(folder: Path) -> None:
    catalogue = installed(folder)
    assert catalogue.problems == {}
    assert list(catalogue.engines) == ["my-plugin/words"]
    assert check_plugin(catalogue.engines.values(), ()) == []  # type: ignore[arg-type]


def test_its_recipe_loads(folder: Path) -> None:
    text = (folder / "recipe.yaml").read_text()
    loaded = load([RecipeFile("recipe.yaml", text)], engines=installed(folder).infos)
    assert loaded.warnings == ()


def test_its_driver_does_what_it_says(folder: Path) -> None:
    (folder / "text").mkdir()
    (folder / "text" / "a.txt").write_text("The cat and the dog")
    driver = folder / "src" / "qwend_my_plugin" / "drivers" / "count_words.py"
    report = folder / "report.jsonl"
    out = folder / "out" / "words.json"
    subprocess.run(
        [sys.executable, str(driver), "--text", str(folder / "text"), "--out", str(out), "--top", "1"],
        env={**os.environ, "QWEND_REPORT": str(report)},
        check=True,
    )
    assert json.loads(out.read_text()) == {"the": 2}
    rows = [json.loads(line) for line in report.read_text().splitlines()]
    assert rows[-1] == {"metric": {"name": "words", "value": 5}}


@pytest.mark.parametrize("name", ["My", "a_b", "-a", "a--b", "a/b", "../a", "x" * 41, ""])
def test_a_name_that_is_none_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no plugin name"):
        write(name, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    write("qwend-mine", str(tmp_path / "deeper"))
    with pytest.raises(UsageError, match="qwend-mine is there already"):
        write("mine", str(tmp_path / "deeper"))
    assert [path.name for path in (tmp_path / "deeper").iterdir()] == ["qwend-mine"]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        write("mine", str(tmp_path / "file"))
