"""A model that a machine has no memory for: every server's plan says so, before anything is downloaded."""

from __future__ import annotations

import json

import pytest
from tests.e2e.conftest import ROOT, Qwend

pytestmark = [pytest.mark.e2e, pytest.mark.native]


def test_a_model_too_large_for_the_machine_is_refused_by_the_plan_of_every_server(qwend: Qwend) -> None:
    machine = qwend.json("doctor")
    machine["host"]["memory"] = 256 << 20
    small = qwend.folder / "small.json"
    small.write_text(json.dumps(machine))
    for recipe in ("vllm-serve", "transformers-chat", "own-gguf"):
        file = str(ROOT / "recipes" / f"{recipe}.yaml")
        ended = qwend.try_("plan", "--smoke", "--host", str(small), file)
        said = ended.stdout + ended.stderr
        assert ended.returncode == 5, said
        assert "chat: needs about" in said and "weights 77.2 MiB" in said
        assert "this machine has 256.0 MiB" in said
    assert not list((qwend.home / "store" / "objects").glob("*")), "nothing was fetched"
