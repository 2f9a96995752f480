"""The whole chain of the ready recipe on the smoke model: trained, merged, quantised three ways, compared, served."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import ROOT, Qwend

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.native,
    pytest.mark.slow,
    pytest.mark.engine(
        "llama_factory", "checkpoints", "awq", "gptq", "quantising", images=["llama-factory", "gptq"]
    ),
]

ROPE_BASE = 1_000_000
"""Of every Qwen2, the smoke model's too; what does not read it reckons with 10,000, and is another model."""


def artifact(qwend: Qwend, step: str) -> dict[str, Any]:
    found: dict[str, Any] = qwend.json("inspect", step)["artifact"]
    return found


def test_a_character_is_trained_merged_quantised_in_three_ways_compared_and_served(qwend: Qwend) -> None:
    qwend("up", "-d", "--smoke", str(ROOT / "recipes" / "huanhuan.yaml"))
    row = qwend.row("chat")
    assert row["state"] == "ready"
    body = {"model": "chat", "messages": [{"role": "user", "content": "你是谁？"}], "max_tokens": 4}
    request = urllib.request.Request(
        f"{row['url']}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        assert json.load(answer)["usage"]["completion_tokens"] > 0

    kinds = {
        "adapter": "adapter/lora",
        "merged": "model/safetensors",
        "awq": "model/awq",
        "gptq": "model/gptq",
    }
    made = {name: artifact(qwend, name) for name in kinds}
    assert {name: one["type"] for name, one in made.items()} == kinds
    # Whatever version of transformers wrote it, either reads the same positions.
    for name in ("merged", "awq", "gptq"):
        config = json.loads((Path(made[name]["location"]) / "config.json").read_text())
        assert config["rope_theta"] == ROPE_BASE, name

    measured = artifact(qwend, "exports")["metrics"]
    whole = measured["merged.perplexity"]
    for name in ("awq", "gptq"):
        assert measured[f"{name}.perplexity"] == pytest.approx(whole, rel=0.05)
    ladder = artifact(qwend, "quality")["metrics"]
    assert 0 < ladder["quant[Q8_0].mean_kld"] < ladder["quant[Q4_K_M].mean_kld"]

    page = qwend.folder / "report.html"
    qwend("report", "huanhuan", "-o", str(page))
    text = page.read_text()
    assert "awq_quality" in text and "quant[Q4_K_M]" in text and "Loss" in text
