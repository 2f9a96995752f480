"""`--smoke` proves a real run: what is wrong with the real sources is said although tiny ones stand in for them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.model.test_weights import write_gguf
from tests.unit.worker.test_recipes_plan import compiled, verbs

from qwend.errors import UsageError
from qwend.worker.verbs import Verbs

__all__ = ["verbs"]

CHAIN = """\
name: x
models: {{base: {source}}}
steps:
  f16: {{uses: llama-cpp/convert, from: base}}
  chat: {{uses: llama-cpp/serve, from: f16}}
"""


def written(folder: Path, source: str) -> Path:
    path = folder / "x.yaml"
    path.write_text(CHAIN.format(source=source))
    return path


@pytest.mark.parametrize(
    "source",
    [
        '"hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF/qwen2.5-0.5b-instruct-q4_k_m.gguf"',
        '{from: "hf:Qwen/Qwen2.5-0.5B-Instruct", type: model/gguf}',
        '"file:mine.gguf"',
    ],
)
def test_a_form_that_the_real_plan_refuses_is_refused_with_tiny_models_too(
    verbs: Verbs, tmp_path: Path, source: str
) -> None:
    write_gguf(tmp_path / "mine.gguf")
    path = written(tmp_path, source)
    with pytest.raises(UsageError, match=r"steps\.f16\.from.*model/gguf"):
        compiled(verbs, path, smoke=True)
    if "mine" in source:  # no hub is asked here, so that of the others nothing else is known
        with pytest.raises(UsageError, match=r"steps\.f16\.from.*model/gguf"):
            compiled(verbs, path, smoke=False)


def test_a_broken_file_is_told_and_an_absent_one_is_a_warning(verbs: Verbs, tmp_path: Path) -> None:
    path = written(tmp_path, '"file:model"')
    assert compiled(verbs, path, smoke=True).warnings == (
        f"models.base: there is no file {tmp_path}/model; without --smoke it is needed",
    )
    (tmp_path / "model").write_bytes(b"GGUF nonsense")
    with pytest.raises(UsageError) as caught:
        compiled(verbs, path, smoke=True)
    assert caught.value.where == "x.yaml:2:16"


def test_one_good_mirror_is_enough(verbs: Verbs, tmp_path: Path) -> None:
    path = written(tmp_path, '["file:nowhere", "hf:Qwen/Qwen2.5-0.5B-Instruct"]')
    assert compiled(verbs, path, smoke=True).warnings == ()
