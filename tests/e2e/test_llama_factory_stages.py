"""Every stage but sft for real on the smoke model: texts, preferences, feedback, a reward, and learning by it."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import Qwend

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.native,
    pytest.mark.slow,
    pytest.mark.engine("llama_factory", "checkpoints", images=["llama-factory", "llama-factory-ppo"]),
]

ASKED = [
    ("你是谁？", "我是宫里的人。", "不知道。"),
    ("今日如何？", "天凉了，添件衣裳罢。", "还行。"),
    ("喝茶么？", "有劳了。", "不。"),
    ("可曾读书？", "略识几个字。", "没有。"),
]
SMALL = {
    "cutoff_len": 48, "max_steps": 2, "gradient_accumulation_steps": 1, "logging_steps": 1, "lora_rank": 4,
    "learning_rate": 1e-3, "plot_loss": False, "report_to": "none",
}  # fmt: skip


def rows(path: Path, made: list[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in made), encoding="utf-8")


def write(folder: Path) -> str:
    """A recipe with a step for each stage, and its data."""
    rows(folder / "pairs.jsonl", [{"instruction": a, "chosen": b, "rejected": c} for a, b, c in ASKED])
    marked = [(a, said, said == b) for a, b, c in ASKED for said in (b, c)]
    turns = [
        ([{"role": "user", "content": a}, {"role": "assistant", "content": said}], good)
        for a, said, good in marked
    ]
    rows(folder / "marks.jsonl", [{"messages": messages, "kto_tag": good} for messages, good in turns])
    rows(folder / "asks.jsonl", [{"instruction": a} for a, _, _ in ASKED])
    steps: dict[str, dict[str, Any]] = {
        "pt": {"stage": "pt", "dataset": "texts"},
        "dpo": {"stage": "dpo", "dataset": "pairs"},
        "kto": {"stage": "kto", "dataset": "marks"},
        "rm": {"stage": "rm", "dataset": "pairs", "max_steps": 16, "save_steps": 2},
        "ppo": {
            "stage": "ppo",
            "dataset": "asks",
            "reward_model": "rm",
            "save_steps": 1,
            "arguments": {"max_new_tokens": 8},
        },
    }
    recipe = {
        "name": "stages",
        "models": {"base": "smoke:qwen2"},
        "datasets": {
            "texts": "smoke:data?kind=text&rows=20&seed=1",
            **{name: f"file:{name}.jsonl" for name in ("pairs", "marks", "asks")},
        },
        "steps": {
            name: {"uses": "llama-factory/train", "from": "base", "with": {**SMALL, **said}}
            for name, said in steps.items()
        },
    }
    (folder / "stages.yaml").write_text(json.dumps(recipe))
    return "stages.yaml"


def test_every_stage_learns_and_a_killed_reward_model_goes_on(qwend: Qwend) -> None:
    recipe = write(qwend.folder)

    # The reward model is killed while it writes its second checkpoint or later, and goes on from one that is whole.
    client = qwend.start("up", "-d", recipe, "rm")
    while not list((qwend.home / "store").glob("**/out/checkpoint-4")):
        assert client.poll() is None, client.communicate()
        time.sleep(0.05)
    os.kill(qwend.row("rm")["pid"], signal.SIGKILL)
    out, err = client.communicate(timeout=300)
    assert client.returncode == 1, (out, err)

    qwend("up", recipe)
    assert "goes on from checkpoint-" in (qwend.home / "logs/stages/rm.log").read_text(errors="replace")
    made = {name: qwend.json("inspect", name)["artifact"] for name in ("pt", "dpo", "kto", "rm", "ppo")}
    for name, artifact in made.items():
        assert artifact["type"] == "adapter/lora"
        assert artifact["facts"]["extra"]["stage"] == name
        assert math.isfinite(artifact["metrics"]["loss"])
        assert artifact["metrics"]["steps"] == (16 if name == "rm" else 2)
    for name in ("rm", "ppo"):
        assert (Path(made[name]["location"]) / "value_head.safetensors").is_file()
    log = Path(made["rm"]["location"]) / "trainer_log.jsonl"
    steps = [json.loads(line)["current_steps"] for line in log.read_text().splitlines()]
    assert steps[:16] == list(range(1, 17))

    # The step itself proves that the adapter learned; here, that it is its own and not the reward's.
    assert "reward" in made["ppo"]["metrics"]
    assert not list(Path(made["ppo"]["location"]).rglob("reward"))
