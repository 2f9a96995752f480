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


def test_what_is_no_reference_is_told(client: Client) -> None:
    with pytest.raises(UsageError):
        client.post("/v1/fit", {"reference": "nonsense"})
    with pytest.raises(UsageError, match="holds nothing"):
        client.post("/v1/fit", {"reference": "smoke:qwen2", "context": 0})
