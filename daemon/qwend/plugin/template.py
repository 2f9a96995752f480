"""The files of a new plugin: a package that passes `qwend plugins check` as it is, and does something real.

Its engine counts the words of a text; its driver needs nothing but Python, so its lock is empty.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from string import Template

from qwend.errors import UsageError

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def write(name: str, folder: str) -> list[str]:
    """Makes the folder `qwend-<name>` below `folder`, whole or not at all; returns the paths of its files.

    `name` may begin with `qwend-`. Raises UsageError for a name that is none and for a folder that is there.
    """
    plugin = name.removeprefix("qwend-")
    files = plugin_files(plugin)
    target = Path(folder) / f"qwend-{plugin}"
    if target.exists():
        raise UsageError(
            f"{target} is there already", code="exists", hint="choose another name, or --in FOLDER"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            for path, text in files.items():
                (draft / path).parent.mkdir(parents=True, exist_ok=True)
                (draft / path).write_text(text, encoding="utf-8")
            draft.chmod(0o755)
            draft.rename(target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error.strerror}", code="unwritable") from None
    return [str(target / path) for path in files]


def plugin_files(name: str) -> dict[str, str]:
    """Text by relative path. `name` is lower-case words joined by hyphens; UsageError otherwise."""
    if not NAME.fullmatch(name) or len(name) > 40:
        hint = "lower-case words joined by hyphens, such as my-plugin"
        raise UsageError(f"{name!r:.60} is no plugin name", code="bad-name", hint=hint)
    module = f"qwend_{name.replace('-', '_')}"
    words = {"name": name, "module": module}
    package = f"src/{module}"
    texts = {
        "pyproject.toml": _PROJECT,
        "README.md": _README,
        f"{package}/__init__.py": _INIT,
        f"{package}/words.py": _ENGINE,
        f"{package}/drivers/count_words.py": _DRIVER,
        f"{package}/image/image.toml": _IMAGE,
        f"{package}/image/cpu.lock": _LOCK,
        "tests/test_contract.py": _TEST,
        "recipe.yaml": _RECIPE,
    }
    return {path: Template(text).substitute(words) for path, text in texts.items()}


_PROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "qwend-$name"
version = "0.1.0"
description = "Engines for qwend: $name"
requires-python = ">=3.11"
dependencies = ["qwend"]

# qwend finds plugins by this group; the name on the left is what `qwend plugins ls` shows.
[project.entry-points."qwend.plugins.v1"]
$name = "$module"

[tool.hatch.build.targets.wheel]
packages = ["src/$module"]
"""

_README = """\
# qwend-$name

Brings one engine, `$name/words`: it counts the words of a text.

    pip install -e .            # with the pip of qwend's environment; in a clone of qwend that is
                                # .venv/bin/uv pip install --python .venv/bin/python -e FOLDER
    qwend plugins check $name   # holds it against the contract of the plugin door
    qwend up -f recipe.yaml     # runs it

Where to go on: `words.py` describes what runs, `drivers/count_words.py` runs inside the image, `image/` says what
the image holds (an empty lock: nothing but Python). The hooks are described in qwend's own `plugins/README.md`.
"""

_INIT = '''\
"""The plugin $name: what qwend asks it for."""

from __future__ import annotations

from collections.abc import Iterable

from $module.words import Words
from qwend.plugin import Engine, hookimpl


@hookimpl
def qwend_engines() -> Iterable[Engine]:
    return [Words()]
'''

_ENGINE = '''\
"""`$name/words`: counts the words of a text. It describes; `drivers/count_words.py` does."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Literal

from qwend.plugin import (
    DriverRef,
    Finding,
    Host,
    Image,
    ImageRef,
    InputRef,
    Launch,
    OutputRef,
    Params,
    Product,
    StepView,
    driver,
    flag,
    load_image,
)

HERE = Path(__file__).parent


class WordsParams(Params):
    """Each field needs a description: it is what editors show."""

    top: int = flag("--top", 20, description="how many of the most frequent words to list", ge=1, le=10_000)
    case: Literal["keep", "fold"] = flag("--case", "fold", description="whether The and the are one word")


class Words:
    """Raise `revision` when the same parameters would give another output: then it is made again."""

    name: ClassVar[str] = "$name/words"
    kind: ClassVar[Literal["job", "service", "interactive"]] = "job"
    revision: ClassVar[int] = 1
    summary: ClassVar[str] = "Count the words of a text"
    params: ClassVar[type[Params]] = WordsParams
    accepts: ClassVar[tuple[str, ...]] = ("dataset/text",)
    many: ClassVar[bool] = False
    flavours: ClassVar[tuple[str, ...]] = ("cpu",)

    def check(self, step: StepView, host: Host) -> Iterable[Finding]:
        rows = step.inputs[0].facts.rows
        if rows == 0:
            yield Finding("the text has no rows", key="from")

    def product(self, step: StepView) -> Product | None:
        return Product("report")

    def image(self, step: StepView, host: Host) -> Image:
        return load_image(HERE / "image", step.flavour)

    def launch(self, step: StepView, host: Host) -> Launch:
        return Launch(
            argv=(
                *(ImageRef("bin/python"), DriverRef("count_words.py"), "--text", InputRef(step.inputs[0].name)),
                *("--out", OutputRef("words.json"), "--top", str(step.params.top), "--case", step.params.case),
            ),
            files=(driver(HERE / "drivers" / "count_words.py"),),
        )
'''

_DRIVER = '''\
"""Counts words. Runs inside the image and imports nothing of qwend.

Progress and metrics go as JSON lines to the file that QWEND_REPORT names.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from pathlib import Path


def report(**row: object) -> None:
    if path := os.environ.get("QWEND_REPORT"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--top", type=int, default=20)
    parser.add_argument("--case", choices=("keep", "fold"), default="fold")
    options = parser.parse_args()
    files = [options.text] if options.text.is_file() else sorted(options.text.rglob("*.txt"))
    counts: Counter[str] = Counter()
    for number, file in enumerate(files, 1):
        text = file.read_text(encoding="utf-8", errors="replace")
        counts.update((text.casefold() if options.case == "fold" else text).split())
        report(progress={"phase": "count", "done": number, "total": len(files), "unit": "file"})
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(dict(counts.most_common(options.top)), ensure_ascii=False, indent=1))
    report(metric={"name": "words", "value": counts.total()})


if __name__ == "__main__":
    main()
'''

_IMAGE = """\
name = "$name"
summary = "Python and nothing else"
licence = "Apache-2.0"
python = ">=3.11,<3.14"

[flavours.cpu]
platforms = ["linux-x86_64", "linux-aarch64", "macos-arm64"]
lock = "cpu.lock"
requires = []
"""

_LOCK = """\
# No packages. With some under `requires` in image.toml, `qwend images lock` writes their hashes here.
"""

_TEST = """\
import $module
import pytest

from qwend.plugin.testing import check_engine


@pytest.mark.parametrize("engine", $module.qwend_engines(), ids=lambda engine: engine.name)
def test_the_engine_keeps_the_contract(engine):
    assert check_engine(engine) == []
"""

_RECIPE = """\
version: 1
name: words
datasets:
  text: "smoke:data?kind=text"
steps:
  count: {uses: $name/words, from: text, with: {top: 5}, out: ./words}
"""
