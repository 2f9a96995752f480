"""What a report is made of, from a recipe's compiled steps and the artifacts they made."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from tests.unit.core.compile_kit import CPU, compiled

from qwend.control.reporting import describe
from qwend.errors import UsageError
from qwend.model.artifact import Artifact, StoredFile

RECIPE = """\
name: many
models: {base: "shop:tiny/model/gguf"}
steps:
  quant: {uses: toy/quantize, from: base, matrix: {type: [Q8_0, Q4_K_M]}}
  table:
    uses: toy/compare
    from: [base, quant]
    expect: ["quant[Q8_0].mean_kld <= 0.1", "quant[Q4_K_M].mean_kld <= 0.1", "base.size > 1"]
"""


class House:
    """Just the parts of a reconciler that a report asks."""

    def __init__(self, artifacts: dict[str, Artifact], text: str = RECIPE) -> None:
        found = compiled(text)
        prints = {step.fingerprint: artifacts[step.name] for step in found.steps if step.name in artifacts}
        self._compiled = found
        self.world = SimpleNamespace(
            store=SimpleNamespace(find=_answering(prints.get)),
            machine=SimpleNamespace(observe=_answering(lambda: CPU)),
            clock=SimpleNamespace(wall=lambda: 5.0),
        )

    def compiled(self, recipe: str) -> Any:
        return self._compiled if recipe == self._compiled.recipe else None


def _answering(work: Any) -> Any:
    async def answer(*arguments: Any) -> Any:
        return work(*arguments)

    return answer


def artifact(place: Path, files: dict[str, Any], **more: Any) -> Artifact:
    place.mkdir()
    stored = []
    for name, content in files.items():
        (place / name).write_text(content if isinstance(content, str) else json.dumps(content))
        stored.append(StoredFile(name, 1, ""))
    return msgspec.structs.replace(
        Artifact("d" * 64, "f", "report", tuple(stored), 9, location=str(place)), **more
    )


async def told(artifacts: dict[str, Artifact]) -> dict[str, Any]:
    data = await describe(House(artifacts), "many", [])  # type: ignore[arg-type]
    msgspec.json.encode(data)
    return {step["name"]: step for step in data["steps"]}


async def test_gates_are_told_with_their_figures_where_the_step_was_made(tmp_path: Path) -> None:
    figures = {"quant[Q8_0].mean_kld": 0.01, "quant[Q4_K_M].mean_kld": 0.5}
    steps = await told({"table": artifact(tmp_path / "a", {}, metrics=figures)})
    assert [(gate["holds"], gate["figures"].split(": ")[1]) for gate in steps["table"]["gates"]] == [
        (True, "0.01 <= 0.1"),
        (False, "0.5 <= 0.1"),
        (False, "the step reported no base.size"),
    ]
    assert (await told({}))["table"]["gates"] == []


async def test_tables_and_curves_are_read_from_artifacts_and_what_is_broken_is_left_out(
    tmp_path: Path,
) -> None:
    history = [{"step": n, "loss": 1.0 / n, "epoch": 1} for n in range(1, 5001)] + ["x", {"loss": 1}]
    made = artifact(
        tmp_path / "a", {"report.json": {"models": []}, "trainer_state.json": {"log_history": history}}
    )
    step = (await told({"table": made}))["table"]
    assert step["table"] == {"models": []}
    assert list(step["curves"]) == ["loss"]
    assert len(step["curves"]["loss"]) <= 2001
    assert step["curves"]["loss"][-1] == [5000.0, 0.0002]
    broken = artifact(tmp_path / "b", {"report.json": "{", "trainer_state.json": "[]"})
    step = (await told({"table": broken}))["table"]
    assert "table" not in step
    assert step["curves"] == {}


async def test_a_step_tells_what_it_names_itself_and_where_it_came_from(tmp_path: Path) -> None:
    provenance = {"peak_memory": 7, "identity": "shop:tiny@1", "parameters": {"secret": "x"}}
    steps = await told({"base": artifact(tmp_path / "a", {}, provenance=provenance)})
    assert steps["table"]["inputs"] == ["base", "quant[Q8_0]", "quant[Q4_K_M]"]
    assert steps["base"]["artifact"]["provenance"] == {"peak_memory": 7, "identity": "shop:tiny@1"}
    assert steps["quant[Q8_0]"]["artifact"] is None


async def test_a_recipe_that_is_not_known_has_no_report() -> None:
    with pytest.raises(UsageError, match="there is no recipe nobody"):
        await describe(House({}), "nobody", [])  # type: ignore[arg-type]
