"""`qwend fit` over the real API."""

from __future__ import annotations

import pytest

from qwend.client import Client
from qwend.errors import UsageError


def test_every_form_of_a_checkpoint_is_held_against_the_machine(client: Client) -> None:
    host = {"system": "linux", "machine": "x86_64", "cpus": 2, "memory": 8 << 30}
    told = client.post("/v1/fit", {"reference": "smoke:qwen2", "context": 1024, "host": host})
    rows = {row["format"]: row for row in told["fits"]}
    assert rows["Q4_K_M"]["verdict"] == "fits"
    assert "llama-cpp/serve" in rows["Q4_K_M"]["engines"]
    assert rows["Q4_K_M"]["weights"] < rows["bf16"]["weights"]
    assert rows["bf16"]["memory"] == sum(rows["bf16"][part] for part in ("weights", "cache", "headroom"))
    assert "FP8" not in rows  # no card
    assert told["taken"] == {"format": "Q8_0", "type": "model/gguf", "place": "memory"}
    assert "uses: llama-cpp/serve" in told["recipe"]
    list(
        client.stream(
            "POST", "/v1/plan", {"files": [{"path": "-", "text": told["recipe"]}], "directory": "/"}
        )
    )


def test_the_recipe_of_another_form_is_asked_for_by_its_name(client: Client) -> None:
    told = client.post("/v1/fit", {"reference": "smoke:qwen2", "format": "gptq 4 bit"})
    assert "gptq/quantize" in told["recipe"] and "bits: 4" in told["recipe"]
    with pytest.raises(UsageError, match="several forms") as several:
        client.post("/v1/fit", {"reference": "smoke:qwen2", "format": "4 bit"})
    assert "awq 4 bit" in (several.value.hint or "")
    with pytest.raises(UsageError, match="none of its forms"):
        client.post("/v1/fit", {"reference": "smoke:qwen2", "format": "Q5_KM"})


def test_what_is_no_reference_is_told(client: Client) -> None:
    with pytest.raises(UsageError):
        client.post("/v1/fit", {"reference": "nonsense"})
    with pytest.raises(UsageError, match="holds nothing"):
        client.post("/v1/fit", {"reference": "smoke:qwen2", "context": 0})
