"""recipes/mlx-finetune.yaml end to end on MLX's CPU build for Linux: trained, killed, gone on with, merged, served."""

from __future__ import annotations

import json
import os
import platform
import signal
import struct
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import ROOT, Qwend

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.native,
    pytest.mark.engine("mlx", "llama_factory", images=["mlx", "smoke"]),
    pytest.mark.skipif(
        sys.platform == "linux" and platform.machine() != "x86_64", reason="MLX is locked for x86-64 on Linux"
    ),
]
RECIPE = str(ROOT / "recipes" / "mlx-finetune.yaml")
SHORT = {"iters": 6, "save_every": 2, "steps_per_report": 1, "max_seq_length": 64, "learning_rate": 0.001}
SETTINGS = [word for name, value in SHORT.items() for word in ("--set", f"steps.adapter.with.{name}={value}")]


def tensors(path: Path) -> dict[str, tuple[list[int], bytes]]:
    """Shape and bytes of each tensor of a safetensors file."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return {
        name: (one["shape"], data[8 + length + one["data_offsets"][0] : 8 + length + one["data_offsets"][1]])
        for name, one in header.items()
        if name != "__metadata__"
    }


def numbers(given: tuple[list[int], bytes]) -> list[float]:
    return list(struct.unpack(f"<{len(given[1]) // 4}f", given[1]))


def place(qwend: Qwend, step: str) -> Path:
    return Path(qwend.json("inspect", step)["artifact"]["location"])


def test_an_adapter_is_trained_through_a_kill_and_has_both_forms_and_is_merged_and_served(
    qwend: Qwend,
) -> None:
    first = qwend.start("up", "--smoke", RECIPE, *SETTINGS)
    checkpoint = killed_behind_a_checkpoint(qwend)
    assert checkpoint.name.endswith("_adapters.safetensors")
    first.communicate(timeout=1800)

    qwend("up", "-d", "--smoke", RECIPE, *SETTINGS)
    folder = place(qwend, "adapter")
    steps = [json.loads(line)["step"] for line in (folder / "losses.jsonl").read_text().splitlines()]
    assert steps[-1] == 6
    assert "goes on behind step" in qwend("logs", "mlx_finetune/adapter")

    config = json.loads((folder / "adapter_config.json").read_bytes())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 8, 160)
    peft, own = tensors(folder / "adapter_model.safetensors"), tensors(folder / "adapters.safetensors")
    assert len(peft) == len(own) == 2 * 2 * 7  # A and B of seven matrices in two layers
    name = "model.layers.1.self_attn.q_proj"
    (rank, width), turned = peft[f"base_model.model.{name}.lora_A.weight"][0], own[f"{name}.lora_a"][0]
    assert (rank, [width, rank]) == (8, turned)
    learned = numbers(peft[f"base_model.model.{name}.lora_B.weight"])
    assert any(learned)  # B begins as zeros

    merged = place(qwend, "merged")
    before, after = tensors(place(qwend, "base") / "model.safetensors"), tensors(merged / "model.safetensors")
    changed = {name for name in before if before[name][1] != after[name][1]}
    assert {one.rpartition(".")[0] for one in changed} == {
        one.rpartition(".lora_a")[0] for one in own if "lora_a" in one
    }
    assert qwend.json("inspect", "merged")["artifact"]["type"] == "model/safetensors"

    answer = ask(qwend.row("chat")["url"])
    assert (answer["model"], answer["usage"]["completion_tokens"] > 0) == ("chat", True)


def killed_behind_a_checkpoint(qwend: Qwend) -> Path:
    """Waits for the trainer's first checkpoint, and kills it."""
    until = time.monotonic() + 1500
    while time.monotonic() < until:
        found = sorted(qwend.home.glob("store/work/*/**/from-*/*_adapters.safetensors"))
        row = next((one for one in qwend.json("ps") if one["step"] == "adapter" and one["pid"]), None)
        if found and row:
            os.kill(row["pid"], signal.SIGKILL)
            return found[0]
        assert row is None or row["state"] not in ("failed", "succeeded"), row
        time.sleep(0.2)
    raise AssertionError("there was no checkpoint")


def ask(url: str) -> dict[str, Any]:
    body = {"model": "chat", "messages": [{"role": "user", "content": "你是谁"}], "max_tokens": 3}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def test_rows_that_cannot_be_learned_fail_before_a_model_is_loaded(qwend: Qwend) -> None:
    (qwend.folder / "rows.jsonl").write_text('{"instruction": "Hi", "output": "Ho"}\n{"question": "Hi"}\n')
    recipe = qwend.folder / "rows.yaml"
    recipe.write_text(
        'name: rows\nmodels: {base: "smoke:qwen2"}\ndatasets: {mine: {from: "file:rows.jsonl", type: dataset/sft}}\n'
        "steps: {adapter: {uses: mlx/lora, from: base, with: {dataset: mine}}}\n"
    )
    ended = qwend.try_("up", "-d", str(recipe))
    assert ended.returncode == 1
    assert "rows.jsonl:2: row 2" in ended.stderr
    assert "Traceback" not in ended.stderr
    (qwend.folder / "rows.jsonl").write_text('{"instruction": "Hi", "output": "Ho"}\n')
    few = qwend.try_("up", "-d", str(recipe))
    assert few.returncode == 1
    assert "1 rows (dataset) do not fill a batch of 4" in few.stderr
