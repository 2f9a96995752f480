"""The recipes that ship, planned for machines with cards that this one does not have."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from tests.e2e.conftest import ROOT, Qwend

from qwend.model.host import Gpu, Host
from qwend.plugin.samples import HOSTS

pytestmark = [pytest.mark.e2e, pytest.mark.native]

COMPRESSED = """
name: w
models: {base: smoke:qwen2}
steps:
  w4: {uses: llm-compressor/quantize, from: base, with: {scheme: FP8_DYNAMIC}}
"""
RECIPES = ROOT / "recipes"
H100, V100 = HOSTS["cuda"], HOSTS["cuda12"]
TESLA = Gpu(0, "GPU-00000000-0000-0000-0000-000000000002", "Tesla P100", 16 << 30, None, (6, 0))


def planned(
    qwend: Qwend, recipe: str, host: Host, *more: str, text: str = ""
) -> tuple[int, str, dict[str, Any]]:
    """Exit code, what was said, and the steps of the plan by name."""
    described = qwend.folder / "host.json"
    described.write_bytes(msgspec.json.encode(host))
    path = RECIPES / recipe
    if text:
        path = qwend.folder / recipe
        path.write_text(text)
    ended = qwend.try_("plan", "--smoke", "--json", "--host", str(described), *more, str(path))
    steps = json.loads(ended.stdout)["compiled"]["steps"] if ended.stdout.startswith("{") else []
    return ended.returncode, ended.stderr, {step["name"]: step for step in steps}


def flavours(steps: dict[str, Any]) -> dict[str, str]:
    return {name: step["flavour"] for name, step in steps.items() if step["image"]}


def test_every_card_gets_the_build_that_serves_it(qwend: Qwend) -> None:
    old = msgspec.structs.replace(H100, driver="550.90")
    for host, expected in ((H100, "cuda"), (V100, "cuda12"), (old, "cuda12")):
        for recipe, step in (
            ("huanhuan.yaml", "adapter"),
            ("transformers-chat.yaml", "chat"),
            ("vllm-serve.yaml", "chat"),
        ):
            code, said, steps = planned(qwend, recipe, host)
            assert code == 0, said
            assert flavours(steps)[step] == expected, f"{recipe} on {host.gpus[0].name}"
            assert steps[step]["image"]["name"] in {"llama-factory", "transformers", "vllm"}
            assert f"{host.gpus[0].name}, driver {host.driver}" in steps[step]["chosen"]
        # What computes on the CPU anyway stays there.
        assert {flavour for _, flavour in flavours(steps).items()} <= {"cpu", expected}


def test_a_driver_that_is_too_old_for_every_build_names_what_it_is_and_what_is_needed(qwend: Qwend) -> None:
    ancient = msgspec.structs.replace(V100, driver="470.82")
    code, said, _ = planned(qwend, "transformers-chat.yaml", ancient)
    assert code == 5
    assert "its cuda12 build needs driver 525 or newer, and this is 470.82" in said
    assert "its cuda build needs driver 580 or newer, and this is 470.82" in said
    assert "device: cpu runs it on the CPU" in said


def test_a_card_that_no_lock_of_the_engine_serves_is_an_error_and_never_the_cpu(qwend: Qwend) -> None:
    older = msgspec.structs.replace(V100, gpus=(TESLA,))
    code, said, _ = planned(qwend, "transformers-chat.yaml", older)
    assert code == 5
    assert "needs compute capability 7.0, and gpu 0 (Tesla P100) has 6.0" in said

    code, said, _ = planned(qwend, "w.yaml", V100, text=COMPRESSED)
    assert code == 5, said
    assert "llm-compressor/quantize cannot use Tesla V100" in said
    assert "its cuda build needs" in said
    code, said, steps = planned(qwend, "w.yaml", V100, "--device", "cpu", text=COMPRESSED)
    assert (code, flavours(steps)["w4"]) == (0, "cpu"), said


def test_every_ready_recipe_plans_for_a_v100_or_says_which_step_does_not_run_there(qwend: Qwend) -> None:
    for path in sorted(RECIPES.glob("*.yaml")):
        code, said, steps = planned(qwend, path.name, V100)
        where = f"{path.name}: {code}: {said}"
        assert "Traceback" not in said, where
        assert (bool(steps) and code in {0, 5}) or (code in {2, 5} and "steps." in said), where
