"""`qwend fit` against a daemon that answers."""

from __future__ import annotations

from typing import Any

from tests.fakes.api_server import FakeDaemon
from tests.unit.cli.conftest import Qwend

ROW: dict[str, Any] = {
    "format": "Q8_0", "type": "model/gguf", "place": "memory", "memory": 1 << 30, "capacity": 4 << 30,
    "verdict": "fits", "longest_context": 32768, "engines": ["llama-cpp/serve"],
}  # fmt: skip
TOLD: dict[str, Any] = {
    "reference": "hf:o/r", "type": "model/safetensors", "facts": {"parameters": 5 * 10**8}, "context": 8192,
    "trained_context": 32768, "fits": [ROW], "recipe": "version: 1\nname: fitted\n",
    "taken": {"format": "Q8_0", "type": "model/gguf", "place": "memory"},
}  # fmt: skip


def test_the_table_is_followed_by_the_recipe(qwend: Qwend, daemon: FakeDaemon) -> None:
    daemon.answers("POST", "/v1/fit", TOLD)
    ended = qwend("fit", "hf:o/r", "--format", "Q8_0")
    assert ended.code == 0
    table, _, recipe = ended.out.partition("\n\n")
    assert "Q8_0" in table and "llama-cpp/serve" in table
    assert recipe.startswith("# Q8_0 in memory") and "name: fitted" in recipe
    assert daemon.requests[-1].body["format"] == "Q8_0"


def test_where_nothing_fits_there_is_no_recipe(qwend: Qwend, daemon: FakeDaemon) -> None:
    daemon.answers("POST", "/v1/fit", {**TOLD, "recipe": None, "taken": None})
    assert "a smaller model needs less" in qwend("fit", "hf:o/r").out


def test_an_error_speaks_of_the_reference_and_not_of_a_line_that_nobody_wrote(
    qwend: Qwend, daemon: FakeDaemon
) -> None:
    daemon.fails("POST", "/v1/fit", 400, kind="UsageError", message="models.model: no such", where="-:1:37")
    ended = qwend("fit", "hf:nope")
    assert (ended.code, ended.err) == (2, "qwend: REF: no such\n")
