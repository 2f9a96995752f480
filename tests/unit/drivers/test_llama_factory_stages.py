"""Stages with a reward: which trainings go on, from what, and how ppo is let run beside the libraries of today.

Stand-ins for the libraries show only what is changed in them; that it works is shown end to end.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import lf_stages
import lf_train
import pytest
from lf_report import Refused
from tests.unit.drivers.test_llama_factory_training import checkpoint, tensors


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a step runs: `lf_train.plan` goes there."""
    monkeypatch.chdir(tmp_path)
    for name in ("out", "scratch", "model"):
        (tmp_path / name).mkdir()
    return tmp_path


def planned(place: Path, stage: str, kind: str = "lora", **row: Any) -> dict[str, Any]:
    """LLaMA-Factory's arguments for another attempt at a training."""
    rows = row or {"instruction": "a", "chosen": "b", "rejected": "c"}
    (place / "rows.jsonl").write_text(json.dumps(rows) + "\n")
    told = {"arguments": {"stage": stage, "finetuning_type": kind}}
    (place / "arguments.json").write_text(json.dumps(told))
    options = argparse.Namespace(
        arguments=place / "arguments.json", model=place / "model", out=place / "out", scratch=place / "scratch",
        adapter=None, reward=None, reference=None, config=None, data=[f"rows={place / 'rows.jsonl'}"], eval=[], set=[],
    )  # fmt: skip
    found: dict[str, Any] = json.loads(lf_train.plan(options).read_text())["arguments"]
    return found


def of_a_reward(place: Path, step: int) -> Path:
    folder = checkpoint(place / "out", step)
    tensors(folder / lf_stages.HEAD, weight=(4,))
    return folder


def test_a_reward_model_goes_on_from_the_adapter_and_the_head_of_its_checkpoint(place: Path) -> None:
    of_a_reward(place, 2)
    found = planned(place, "rm")
    assert found["resume_from_checkpoint"] == found["adapter_name_or_path"] == "out/checkpoint-2"


def test_a_checkpoint_of_a_reward_model_without_its_head_is_not_whole(place: Path) -> None:
    of_a_reward(place, 2)
    checkpoint(place / "out", 4)  # killed before the head was written
    assert planned(place, "rm")["resume_from_checkpoint"] == "out/checkpoint-2"
    assert not (place / "out" / "checkpoint-4").exists()


def test_other_stages_need_no_head_and_load_no_adapter(place: Path) -> None:
    checkpoint(place / "out", 2)
    found = planned(place, "dpo")
    assert found["resume_from_checkpoint"] == "out/checkpoint-2"
    assert "adapter_name_or_path" not in found


@pytest.mark.parametrize(("stage", "kind"), [("ppo", "lora"), ("rm", "full"), ("rm", "freeze")])
def test_a_stage_that_cannot_go_on_begins_anew(place: Path, stage: str, kind: str) -> None:
    of_a_reward(place, 2)
    (place / "out" / "trainer_log.jsonl").write_text('{"current_steps": 1, "loss": 2}\n')
    row = {"instruction": "a"} if stage == "ppo" else {}
    assert planned(place, stage, kind, **row)["resume_from_checkpoint"] is None
    assert not (place / "out" / "checkpoint-2").exists()
    assert (place / "out" / "trainer_log.jsonl").read_text() == ""


def module(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> Any:
    """A stand-in for an installed module."""
    made = ModuleType(name)
    vars(made).update(content)
    parts = name.split(".")
    for count in range(1, len(parts)):
        monkeypatch.setitem(sys.modules, ".".join(parts[:count]), ModuleType(".".join(parts[:count])))
    monkeypatch.setitem(sys.modules, name, made)
    return made


def libraries(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any, Any]:
    """trl's helpers, transformers' tokenizer, LLaMA-Factory's workflow of ppo."""

    def create_reward_model(model: Any, model_args: Any, finetuning_args: Any) -> None:
        model.pretrained_model.active = "reward"

    helpers = module(monkeypatch, "trl.models.utils")
    base = type("Base", (), {"extra_special_tokens_ids": [7]})
    module(monkeypatch, "transformers.tokenization_utils_base", PreTrainedTokenizerBase=base)
    module(monkeypatch, "llamafactory.train.rm.trainer", PairwiseTrainer=type("P", (), {}))
    module(monkeypatch, "llamafactory.train.ppo.trainer", CustomPPOTrainer=type("T", (), {"tokenizer": "it"}))
    flow = ModuleType("llamafactory.train.ppo.workflow")
    flow.create_reward_model = create_reward_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, flow.__name__, flow)
    return helpers, base, flow


def test_ppo_trains_its_own_adapter_and_not_the_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    helpers, base, flow = libraries(monkeypatch)
    lf_stages.prepare("ppo", False)
    adapters = SimpleNamespace(active="default")
    adapters.set_adapter = lambda name: setattr(adapters, "active", name)
    model = SimpleNamespace(pretrained_model=adapters)
    assert flow.create_reward_model(model, None, SimpleNamespace(reward_model_type="lora")) is None
    assert adapters.active == "default"
    assert base().additional_special_tokens_ids == [7]
    trainer = sys.modules["llamafactory.train.ppo.trainer"].CustomPPOTrainer
    assert trainer().processing_class == "it"
    with pytest.raises(Refused, match="newer trl"):
        helpers.prepare_fsdp()


def test_another_ppo_than_the_one_that_is_known_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, flow = libraries(monkeypatch)
    del flow.create_reward_model
    with pytest.raises(Refused, match="PPO is not the one"):
        lf_stages.prepare("ppo", False)


def test_only_a_reward_model_that_goes_on_is_not_loaded_as_a_whole_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    libraries(monkeypatch)
    lf_stages.prepare("rm", False)
    lf_stages.prepare("sft", True)
    trainer = module(
        monkeypatch,
        "llamafactory.train.rm.trainer",
        PairwiseTrainer=type("P", (), {"_load_from_checkpoint": lambda self, path: path}),
    ).PairwiseTrainer
    lf_stages.prepare("rm", True)
    assert trainer()._load_from_checkpoint("out/checkpoint-2") is None
    del trainer._load_from_checkpoint
    with pytest.raises(Refused, match="otherwise than this driver knows"):
        lf_stages.prepare("rm", True)
