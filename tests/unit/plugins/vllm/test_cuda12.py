"""The cuda12 build is vLLM 0.10, for cards from the V100 on: what it does not know is an error of the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.e2e.drivers.test_vllm_arguments import ASKED
from tests.unit.plugins.vllm.test_serve import V100, errors, step, words

import qwend_images

FLAGS = set(Path(__file__).with_name("flags-0.10.1.1.txt").read_text().split())
"""The flags of `vllm serve` 0.10.1.1, read out of its source: its wheel runs on cards alone."""
NEWER = {"kv_offloading_size", "chat_template_kwargs", "nnodes"}
"""Parameters whose flags came later."""


def refused(asked: dict[str, Any]) -> set[str]:
    """The parameters that the plan says to be too new."""
    told = errors(step(with_=asked, flavour="cuda12"), V100)
    return {one.partition(":")[0].removeprefix("with.") for one in told if "too old" in one}


def test_the_flags_are_those_of_the_locked_version() -> None:
    lock = Path(qwend_images.__file__).with_name("vllm") / "cuda12.lock"
    assert "\nvllm==0.10.1.1 " in lock.read_text(), "another version: read its flags anew"
    assert {"--model", "--served-model-name", "--swap-space", "--hf-overrides"} <= FLAGS


@pytest.mark.parametrize(
    "asked", [*ASKED, {"swap_space": 4.0}], ids=lambda asked: ",".join(asked) or "nothing"
)
def test_every_flag_is_one_of_its_version_or_an_error_of_the_plan(asked: dict[str, Any]) -> None:
    given = words(step(with_=asked, flavour="cuda12")).split()
    unknown = {word for word in given if word.startswith("--") and word.replace("--no-", "--") not in FLAGS}
    assert bool(unknown) == bool(NEWER & set(asked)), unknown
    wanted = NEWER & set(asked) | ({"kv_cache_dtype"} if asked.get("kv_cache_dtype") == "bfloat16" else set())
    assert refused(asked) == wanted


def test_what_only_a_newer_version_takes_is_refused_with_what_does() -> None:
    assert refused({"max_lora_rank": 1}) == {"max_lora_rank"}
    over_ray = {"nnodes": 2, "master_addr": "10.0.0.1", "distributed_executor_backend": "ray"}
    assert refused(over_ray) == set()
