"""What survives a killed training: whole checkpoints, the log up to them; and when a training is stopped or is none."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lf_checkpoints
import lf_finish
import lf_report
import lf_tensors
import lf_train
import lf_watch
import pytest


def tensors(path: Path, **shapes: tuple[int, ...]) -> Path:
    """A safetensors file in F32 with every number 1, or 0 where the name ends in `zero`."""
    header: dict[str, Any] = {}
    data = b""
    for name, shape in shapes.items():
        count = 1
        for length in shape:
            count *= length
        start = len(data)
        data += struct.pack("<f", 0.0 if name.endswith("zero") else 1.0) * count
        plain = name.removesuffix("zero").replace("__", ".")
        header[plain] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, len(data)]}
    raw = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return path


def checkpoint(out: Path, step: int) -> Path:
    folder = out / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    tensors(folder / "adapter_model.safetensors", a=(4,))
    with zipfile.ZipFile(folder / "optimizer.pt", "w") as archive:
        archive.writestr("data.pkl", "x")
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return folder


@pytest.mark.parametrize(
    "harm", ["no state", "half a state", "short tensors", "short optimiser", "no tensors"]
)
def test_a_checkpoint_that_was_cut_off_is_removed_and_the_one_before_is_taken(
    tmp_path: Path, harm: str
) -> None:
    good, bad = checkpoint(tmp_path, 9), checkpoint(tmp_path, 10)
    match harm:
        case "no state":
            (bad / "trainer_state.json").unlink()
        case "half a state":
            (bad / "trainer_state.json").write_text('{"global_step": 1')
        case "short tensors":
            file = bad / "adapter_model.safetensors"
            file.write_bytes(file.read_bytes()[:-1])
        case "short optimiser":
            (bad / "optimizer.pt").write_bytes((bad / "optimizer.pt").read_bytes()[:30])
        case _:
            (bad / "adapter_model.safetensors").unlink()
    assert lf_checkpoints.latest(tmp_path) == good
    assert not bad.exists()


def test_the_newest_whole_checkpoint_is_by_number_and_not_by_name(tmp_path: Path) -> None:
    assert lf_checkpoints.latest(tmp_path) is None
    checkpoint(tmp_path, 9)
    assert lf_checkpoints.latest(tmp_path) == tmp_path / "checkpoint-9"
    newest = checkpoint(tmp_path, 10)
    assert lf_checkpoints.latest(tmp_path) == newest


def test_afterwards_a_checkpoint_keeps_its_weights_and_nothing_that_only_resuming_needs(
    tmp_path: Path,
) -> None:
    folder = checkpoint(tmp_path, 3)
    assert lf_checkpoints.settle(tmp_path, keep=True) == [3]
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_model.safetensors",
        "trainer_state.json",
    ]
    assert lf_checkpoints.settle(tmp_path, keep=False) == []
    assert not folder.exists()


def test_the_log_of_losses_is_cut_back_to_the_step_that_is_resumed_from(tmp_path: Path) -> None:
    log = tmp_path / "trainer_log.jsonl"
    log.write_text('{"current_steps": 5, "loss": 2}\n{"current_steps": 10, "loss": 1}\n{"current_st')
    lf_train.cut_log(log, 5)
    assert log.read_text() == '{"current_steps": 5, "loss": 2}\n'
    lf_train.cut_log(tmp_path / "missing.jsonl", 5)


def state(step: int, tokens: int = 0, zero: bool = True) -> Any:
    return SimpleNamespace(
        global_step=step, max_steps=20, num_input_tokens_seen=tokens, is_world_process_zero=zero
    )


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "report.jsonl"
    path.touch()
    monkeypatch.setenv("QWEND_REPORT", str(path))
    return path


def test_progress_says_step_loss_rate_and_tokens_per_second(tmp_path: Path, told: Path) -> None:
    times = iter((100.0, 102.0))
    watch = lf_watch.Watch(tmp_path, clock=lambda: next(times))
    watch.on_train_begin(None, state(0), None)
    watch.on_log(
        None, state(5, tokens=1000), None, logs={"loss": 2.5, "learning_rate": 1e-4, "grad_norm": 0.5}
    )
    found = rows(told)
    last = [row["progress"] for row in found if "progress" in row][-1]
    assert (last["phase"], last["done"], last["total"]) == ("train", 5, 20)
    assert last["message"] == "loss 2.5, lr 0.0001, 500 tokens/s"
    figures = {row["metric"]["name"]: row["metric"]["value"] for row in found if "metric" in row}
    assert figures == {"loss": 2.5, "learning_rate": 1e-4, "grad_norm": 0.5, "tokens_per_second": 500.0}


def test_the_other_processes_say_nothing_twice(tmp_path: Path, told: Path) -> None:
    watch = lf_watch.Watch(tmp_path)
    watch.on_train_begin(None, state(0, zero=False), None)
    watch.on_log(None, state(5, zero=False), None, logs={"loss": 1.0})
    assert rows(told) == []


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_with_the_step_and_takes_its_checkpoints_along(
    tmp_path: Path, told: Path, loss: float
) -> None:
    out = tmp_path / "out"
    good, bad = checkpoint(out, 5), checkpoint(out, 8)
    watch = lf_watch.Watch(out)
    watch.on_train_begin(None, state(0), None)
    watch.on_log(None, state(5), None, logs={"loss": 1.0})
    with pytest.raises(
        lf_report.Refused, match=r"the loss is not a number at step 10 \(it was one at step 5\)"
    ):
        watch.on_log(None, state(10), None, logs={"loss": loss})
    assert good.exists() and not bad.exists()


def test_asked_to_end_it_saves_at_the_next_step_and_not_before(tmp_path: Path) -> None:
    watch = lf_watch.Watch(tmp_path)
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    watch.on_step_end(None, state(1), control)
    assert not control.should_save and not watch.stopped
    watch.stop()
    watch.on_step_end(None, state(2), control)
    assert control.should_save and control.should_training_stop and watch.stopped


def test_any_other_event_of_the_trainer_is_taken(tmp_path: Path) -> None:
    watch = lf_watch.Watch(tmp_path)
    assert watch.on_epoch_begin(None, state(1), None, model=None) is None
    with pytest.raises(AttributeError):
        watch.elsewhere()


def adapter(folder: Path, **shapes: tuple[int, ...]) -> dict[str, lf_tensors.Tensor]:
    folder.mkdir(exist_ok=True)
    tensors(folder / "adapter_model.safetensors", **shapes)
    found: dict[str, lf_tensors.Tensor] = lf_tensors.folder(folder, "adapter_model*.safetensors")
    return found


A, B = "base_model__model__model__q_proj__lora_A__weight", "base_model__model__model__q_proj__lora_B__weight"


def test_an_adapter_of_another_base_is_told_by_its_shapes(tmp_path: Path) -> None:
    tensors(tmp_path / "model.safetensors", model__q_proj__weight=(6, 4))
    base = lf_tensors.folder(tmp_path)
    fits = adapter(tmp_path / "a", **{A: (2, 4), B: (6, 2)})
    assert lf_tensors.must_fit(fits, base, "it") == 1
    with pytest.raises(lf_report.Refused, match=r"is for a model\.q_proj of 8×4, the base's is 6×4"):
        lf_tensors.must_fit(adapter(tmp_path / "b", **{A: (2, 4), B: (8, 2)}), base, "it")
    other = {name.replace("q_proj", "z_proj"): shape for name, shape in {A: (2, 4), B: (6, 2)}.items()}
    with pytest.raises(lf_report.Refused, match=r"model\.z_proj, which the base does not have"):
        lf_tensors.must_fit(adapter(tmp_path / "c", **other), base, "it")
    with pytest.raises(lf_report.Refused, match="no LoRA weights"):
        lf_tensors.must_fit(base, base, "it")


def test_an_adapter_whose_b_is_zero_learned_nothing(tmp_path: Path) -> None:
    assert lf_tensors.learned(adapter(tmp_path / "a", **{A: (2, 4), B: (6, 2)}))
    assert not lf_tensors.learned(adapter(tmp_path / "b", **{A: (2, 4), f"{B}zero": (6, 2)}))


def test_tensors_that_are_cut_short_are_refused(tmp_path: Path) -> None:
    path = tensors(tmp_path / "model.safetensors", a=(4,))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(lf_report.Refused, match="cut short"):
        lf_tensors.folder(tmp_path)


def test_what_is_left_names_the_base_and_no_folder_of_the_machine(tmp_path: Path, told: Path) -> None:
    out = tmp_path / "out"
    checkpoint(out, 4)
    adapter(out, **{A: (2, 4), B: (6, 2)})
    for place in (out, out / "checkpoint-4"):
        (place / "adapter_config.json").write_text(
            json.dumps({"base_model_name_or_path": str(tmp_path), "r": 2})
        )
    (out / "README.md").write_text(str(tmp_path))
    (out / "training_args.bin").write_bytes(b"pickle")
    (out / "trainer_state.json").write_text(json.dumps({"global_step": 4}))
    (out / "train_results.json").write_text(json.dumps({"train_loss": 1.5}))
    plan = {"arguments": {"finetuning_type": "lora"}, "told": {"lora_rank": 2}, "base": "Qwen/Qwen2.5-0.5B-Instruct",
            "template": "qwen", "rows": {"mine": 3}, "keep_checkpoints": True, "extra": {"stage": "sft"}}  # fmt: skip
    lf_finish.finish(out, plan)
    for path in (path for path in out.rglob("*") if path.is_file()):
        assert str(tmp_path).encode() not in path.read_bytes(), path
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"].startswith(
        "Qwen/"
    )
    assert json.loads((out / "training.json").read_text())["arguments"] == {"lora_rank": 2}
    facts = [row["fact"] for row in rows(told) if "fact" in row][-1]
    assert (facts["parameters"], facts["dtype"], facts["template"]) == (20, "float32", "qwen")
    assert facts["extra"] == {"stage": "sft", "checkpoints": [4]}
    adapter(out, **{A: (2, 4), f"{B}zero": (6, 2)})
    with pytest.raises(lf_report.Refused, match="nothing was learned"):
        lf_finish.finish(out, plan)


@pytest.mark.parametrize(
    ("env", "count", "words"),
    [
        ({}, 1, None),
        ({"NPROC_PER_NODE": "4"}, 4, "--nnodes=1 --nproc-per-node=4 --standalone"),
        ({"FORCE_TORCHRUN": "1"}, 2, "--nnodes=1 --nproc-per-node=1 --standalone"),
        (
            {
                "NPROC_PER_NODE": "8",
                "NNODES": "2",
                "NODE_RANK": "1",
                "MASTER_ADDR": "10.0.0.1",
                "MASTER_PORT": "29501",
            },
            16,
            "--nnodes=2 --nproc-per-node=8 --node-rank=1 --master-addr=10.0.0.1 --master-port=29501",
        ),
    ],
)
def test_torchrun_starts_a_process_for_each_card(
    env: dict[str, str], count: int, words: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NPROC_PER_NODE", "NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "FORCE_TORCHRUN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert lf_train.processes() == count
    if words is not None:
        assert (
            " ".join(lf_train.torchrun(Path("/plan.json"))).partition("distributed.run ")[2].startswith(words)
        )


def test_a_configuration_of_deepspeed_that_is_no_json_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text('{\n "zero_optimization": {"stage": 2},\n}')
    with pytest.raises(lf_report.Refused, match=r"ds\.json:3:1"):
        lf_train.read_json(tmp_path)
    (tmp_path / "ds.json").write_text('{"zero_optimization": {"stage": 2}}')
    assert lf_train.read_json(tmp_path)["zero_optimization"] == {"stage": 2}


def test_a_full_disk_takes_the_cut_off_checkpoint_away_and_names_the_one_before(
    tmp_path: Path, told: Path
) -> None:
    out = tmp_path / "out"
    good, bad = checkpoint(out, 2), checkpoint(out, 4)
    (bad / "trainer_state.json").unlink()
    lf_train._keep_previous(ValueError("something else"), out)
    assert bad.exists()
    with pytest.raises(SystemExit) as ended:  # the tokenizers library raises a plain Exception
        lf_train._keep_previous(Exception("No space left on device (os error 28)"), out)
    assert ended.value.code == 1
    assert good.exists() and not bad.exists()
    assert rows(told)[-1]["error"]["message"].endswith("checkpoint-2 is whole and kept")
