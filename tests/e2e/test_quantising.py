"""AWQ, GPTQ and llm-compressor on the smoke model, on a CPU: quantised, proved, served, measured, refused."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import ROOT, Qwend

from qwend.model.weights import look
from qwend_plugins.awq.common import ARCHITECTURES

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.native,
    pytest.mark.slow,
    pytest.mark.engine(
        "awq", "gptq", "llm_compressor", "quantising", "checkpoints", images=["awq", "gptq", "llm-compressor"]
    ),
]

LAYERS = 2 * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 768)
EMBEDDING = 151_936 * 256
"""Weights of the smoke model that are quantised, and that are not."""


def answer(qwend: Qwend, recipe: str) -> str:
    """What the served model of a recipe says."""
    (row,) = [row for row in qwend.json("ps") if row["recipe"] == recipe and row["kind"] == "service"]
    assert row["state"] == "ready"
    body = {"model": row["step"], "messages": [{"role": "user", "content": "你好"}], "max_tokens": 4}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{row['url']}/v1/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=300) as found:
        said: dict[str, Any] = json.load(found)
    assert said["usage"]["completion_tokens"] > 0
    return str(said["choices"][0]["message"]["content"])


def artifact(qwend: Qwend, step: str, recipe: str) -> dict[str, Any]:
    found: dict[str, Any] = qwend.json("inspect", "-p", recipe, step)["artifact"]
    return found


def bits_of_layers(found: dict[str, Any]) -> float:
    """Bits of a weight of the layers, from what lies in the store: the rest has 16."""
    kind, facts = look(Path(found["location"]))
    assert kind == found["type"]
    assert facts.bytes is not None
    return 8 * (facts.bytes - 2 * EMBEDDING) / LAYERS


def test_gptq_in_4_and_8_bits_is_proved_and_served(qwend: Qwend) -> None:
    recipe = str(ROOT / "recipes" / "gptq.yaml")
    qwend("up", "-d", "--smoke", recipe)
    answer(qwend, "gptq")
    four, eight = (artifact(qwend, f"quant[{bits}]", "gptq") for bits in (4, 8))
    assert four["type"] == eight["type"] == "model/gptq"
    assert 4 < bits_of_layers(four) < 5 < 8 < bits_of_layers(eight) < 9
    assert 0 < eight["metrics"]["quantization_loss"] < four["metrics"]["quantization_loss"]
    for one in (four, eight):
        assert one["metrics"]["bytes"] == pytest.approx(one["facts"]["bytes"])
    assert "loaded in" in qwend("logs", "-p", "gptq", "quant[4]")
    assert "nothing to do" in qwend("up", "-d", "--smoke", recipe)


def test_awq_is_proved_and_served(qwend: Qwend) -> None:
    qwend("up", "-d", "--smoke", str(ROOT / "recipes" / "awq.yaml"))
    answer(qwend, "awq")
    found = artifact(qwend, "quant", "awq")
    assert found["type"] == "model/awq"
    assert 4 < bits_of_layers(found) < 5
    log = qwend("logs", "-p", "awq", "quant")
    assert "14 matrices quantised, 0 kept" in log
    assert "it answers" in log
    (source,) = (qwend.home / "images").glob("awq-cpu-*/lib/python3*/site-packages/awq/models/auto.py")
    assert set(re.findall(r'^    "(\w+)": \w+AWQFor', source.read_text(), re.MULTILINE)) == ARCHITECTURES


def test_scaled_weights_become_a_gguf_that_is_measured(qwend: Qwend) -> None:
    qwend("up", "--smoke", str(ROOT / "recipes" / "awq-to-gguf.yaml"))
    scaled = artifact(qwend, "scaled", "awq_to_gguf")
    assert scaled["type"] == "model/safetensors"
    assert bits_of_layers(scaled) == pytest.approx(16, abs=0.1)
    config = json.loads((Path(scaled["location"]) / "config.json").read_text())
    assert "quantization_config" not in config
    assert scaled["metrics"]["scaling_kld"] < 5e-3
    figures = artifact(qwend, "quality", "awq_to_gguf")["metrics"]
    assert figures["q4.perplexity"] == pytest.approx(figures["f16.perplexity"], rel=0.1)
    assert 0 < figures["q4.mean_kld"] < figures["plain.mean_kld"]


def test_the_schemes_of_vllm_are_proved(qwend: Qwend) -> None:
    small = {"dataset": "texts", "num_calibration_samples": 16, "max_seq_length": 64}
    steps = {
        "w4": {"scheme": "W4A16", "group_size": 64, **small},
        "w8": {"scheme": "W8A8", **small},
        "fp8": {"scheme": "FP8_DYNAMIC", "ignore": ["re:.*down_proj$"]},
    }
    recipe = {
        "name": "schemes",
        "models": {"base": "smoke:qwen3"},
        "datasets": {"texts": "smoke:data"},
        "steps": {
            name: {"uses": "llm-compressor/quantize", "from": "base", "with": said}
            for name, said in steps.items()
        },
    }
    (qwend.folder / "schemes.yaml").write_text(json.dumps(recipe))
    qwend("up", "schemes.yaml")
    found = {name: artifact(qwend, name, "schemes") for name in steps}
    assert {one["type"] for one in found.values()} == {"model/compressed-tensors"}
    bits = {name: bits_of_layers(one) for name, one in found.items()}
    assert 4 < bits["w4"] < 5
    assert 8 < bits["w8"] < 8.5
    assert 10 < bits["fp8"] < 11  # a third of the weights stay in 16 bits


BACKENDS: dict[str, tuple[dict[str, Any], str, int]] = {
    "awq_gptqmodel": ({"uses": "awq/quantize", "backend": "gptqmodel"}, "model/awq", 4),
    "awq4": ({"uses": "awq/quantize", "backend": "llm-compressor"}, "model/compressed-tensors", 4),
    "awq8": (
        {"uses": "awq/quantize", "backend": "llm-compressor", "w_bit": 8},
        "model/compressed-tensors",
        8,
    ),
    "gptq4": ({"uses": "gptq/quantize", "backend": "llm-compressor"}, "model/compressed-tensors", 4),
    "gptq8": (
        {"uses": "gptq/quantize", "backend": "llm-compressor", "bits": 8},
        "model/compressed-tensors",
        8,
    ),
}


def test_every_other_backend_writes_what_it_says_and_answers(qwend: Qwend) -> None:
    small = {
        "awq/quantize": {"calib_data": "texts", "max_calib_samples": 4, "max_calib_seq_len": 64},
        "gptq/quantize": {"calibration": "texts", "num_calibration_samples": 4, "max_seq_length": 64},
    }
    steps = {}
    for name, (said, _, _) in BACKENDS.items():
        uses = said["uses"]
        with_ = {key: value for key, value in said.items() if key != "uses"}
        steps[name] = {"uses": uses, "from": "base", "with": small[uses] | with_}
    recipe = {
        "name": "other",
        "models": {"base": "smoke:qwen2"},
        "datasets": {"texts": "smoke:data"},
        "steps": steps,
    }
    (qwend.folder / "other.yaml").write_text(json.dumps(recipe))
    qwend("up", "other.yaml")
    for name, (_, kind, bits) in BACKENDS.items():
        found = artifact(qwend, name, "other")
        assert found["type"] == kind, name
        assert bits < bits_of_layers(found) < bits + 1, name
        assert "it answers" in qwend("logs", "-p", "other", name)


def refused(qwend: Qwend, rows: str, with_: dict[str, Any], engine: str = "awq/quantize") -> tuple[int, str]:
    """What a step says of these calibration texts."""
    (qwend.folder / "texts.jsonl").write_text(rows, encoding="utf-8")
    field = "calibration" if engine.startswith("gptq") else "calib_data"
    recipe = {
        "name": "bad",
        "models": {"base": "smoke:qwen2"},
        "datasets": {"texts": "file:texts.jsonl"},
        "steps": {"quant": {"uses": engine, "from": "base", "with": {field: "texts", **with_}}},
    }
    (qwend.folder / "bad.yaml").write_text(json.dumps(recipe))
    ended = qwend.try_("up", "bad.yaml")
    assert "Traceback" not in ended.stderr
    return ended.returncode, ended.stdout + ended.stderr


def test_calibration_texts_that_are_all_too_long_are_refused_with_the_length_that_would_do(
    qwend: Qwend,
) -> None:
    code, said = refused(
        qwend, json.dumps({"text": "one two three four " * 20}) + "\n", {"max_calib_seq_len": 32}
    )
    assert code == 1
    assert "all 1 calibration texts are longer than max_calib_seq_len (32 tokens)" in said
    assert "set max_calib_seq_len: 8" in said


def test_a_malformed_row_is_told_with_its_line(qwend: Qwend) -> None:
    code, said = refused(qwend, '{"text": "one"}\n{"text": "two"}\n{"text": \n', {}, "gptq/quantize")
    assert code == 1
    assert ":3" in said or "line 3" in said


def test_a_group_size_that_does_not_divide_is_an_error_of_the_plan(qwend: Qwend) -> None:
    code, said = refused(qwend, '{"text": "one"}\n', {"group_size": 512}, "gptq/quantize")
    assert code == 2
    assert "bad.yaml:" in said
    assert "group size 512 does not divide the model's hidden size of 256" in said


STEPS: dict[str, tuple[dict[str, Any], int, str]] = {
    "architecture": (
        {"uses": "awq/quantize", "from": "strange", "with": {"calib_data": "texts"}},
        2,
        "AutoAWQ does not know the architecture strange",
    ),
    "bits": (
        {"uses": "awq/quantize", "from": "base", "with": {"calib_data": "texts", "w_bit": 8}},
        2,
        "autoawq writes AWQ in 4 bits (backend: llm-compressor writes 8 too",
    ),
    "pairing": (
        {"uses": "llama-factory/export", "from": "train", "with": {"base": "other"}},
        2,
        "train was trained on base, not on other",
    ),
    "memory": (
        {"uses": "gptq/quantize", "from": "base", "with": {"calibration": "texts"}},
        5,
        "memory: needs about ",
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_what_cannot_work_is_told_by_the_plan(qwend: Qwend, name: str) -> None:
    step, code, said = STEPS[name]
    strange = qwend.folder / "strange"
    strange.mkdir()
    (strange / "config.json").write_text(json.dumps({"model_type": "strange", "hidden_size": 256}))
    header = json.dumps({"model.norm.weight": {"dtype": "BF16", "shape": [256], "data_offsets": [0, 512]}})
    (strange / "model.safetensors").write_bytes(
        len(header).to_bytes(8, "little") + header.encode() + bytes(512)
    )
    host = json.loads(qwend("doctor", "--json"))
    host["host"] |= {"memory": 1 << 30, "memory_available": 1 << 30}
    (qwend.folder / "small.json").write_text(json.dumps(host))
    train = {"uses": "llama-factory/train", "from": "base", "with": {"dataset": "rows"}}
    recipe = {
        "name": "bad",
        "models": {"base": "smoke:qwen2", "other": "smoke:qwen3", "strange": "file:strange"},
        "datasets": {"texts": "smoke:data", "rows": "smoke:data?kind=sft"},
        "steps": ({"train": train} if name == "pairing" else {}) | {name: step},
    }
    (qwend.folder / "bad.yaml").write_text(json.dumps(recipe))
    words = ("--host", "small.json") if name == "memory" else ()
    ended = qwend.try_("plan", *words, "bad.yaml")
    assert (ended.returncode, "Traceback" in ended.stderr) == (code, False), ended.stderr
    assert said in ended.stdout + ended.stderr
