from __future__ import annotations

import pytest
from tests.unit.core.compile_kit import host

from qwend.core.fit import FORMATS, Fit, Format, fits, longest
from qwend.model.artifact import Facts
from qwend.model.memory import GIB, cache_bytes, estimate, human, weight_bytes
from qwend.plugin.samples import FACTS


def test_the_cache_of_a_real_qwen_is_what_llama_cpp_allocates() -> None:
    # Qwen2.5-0.5B, context 4096, f16: llama.cpp prints "KV self size = 48.00 MiB"
    assert cache_bytes(FACTS, 4096) == 48 * 1024**2
    assert cache_bytes(FACTS, 4096, sequences=4) == 4 * 48 * 1024**2
    assert cache_bytes(FACTS, 4096, element=1) == 24 * 1024**2


def test_weights_are_the_size_on_disk_or_what_a_conversion_comes_to() -> None:
    assert weight_bytes(FACTS) == 988_097_824
    assert weight_bytes(FACTS, bits=4.9) == int(494_032_768 * 4.9 / 8)
    assert weight_bytes(Facts(parameters=1000, bits=4.0)) == 500


def test_the_trained_context_counts_where_none_is_given() -> None:
    found = estimate(FACTS)
    assert found is not None
    assert found.context == 32_768
    assert found.total == found.weights + found.cache + found.headroom
    assert found.describe() == (
        "weights 942.3 MiB, KV cache 384.0 MiB for a context of 32768, headroom 559.1 MiB"
    )


@pytest.mark.parametrize("unknown", ["bytes", "layers", "kv_heads", "head_dim"])
def test_an_unknown_fact_gives_an_unknown_answer(unknown: str) -> None:
    known = {"bytes": 1000, "layers": 2, "kv_heads": 2, "head_dim": 64}
    del known[unknown]
    assert estimate(Facts(**known), 100) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 * GIB, "5.0 GiB"), (3 << 40, "3.0 TiB")],
)
def test_bytes_are_told_in_words(count: int, text: str) -> None:
    assert human(count) == text


def verdicts(found: tuple[Fit, ...]) -> dict[tuple[str, str], str]:
    return {(fit.format.name, fit.place): fit.verdict for fit in found}


def big(parameters: int) -> Facts:
    return Facts(parameters=parameters, layers=28, kv_heads=4, head_dim=128, context=32_768)


def test_each_form_is_held_against_each_place() -> None:
    found = verdicts(fits(big(7_600_000_000), host("cuda12", memory=18 * GIB), 8192))
    assert found["bf16", "memory"] == "tight"
    assert found["Q4_K_M", "memory"] == "fits"
    assert found["bf16", "gpu 0"] == "fits"
    assert found["FP8", "gpu 0"] == "fits"
    assert ("FP8", "memory") not in found
    assert ("4 bit", "unified memory") not in found


def test_what_is_too_big_for_all_is_told() -> None:
    found = fits(big(235_000_000_000), host(memory=16 * GIB), 8192)
    assert {fit.verdict for fit in found} == {"too big"}


def test_a_mac_has_one_memory_for_all() -> None:
    found = fits(big(7_600_000_000), host("apple"), 8192)
    assert {fit.place for fit in found} == {"unified memory"}
    assert any(fit.format.type == "model/mlx" for fit in found)


def test_nothing_is_claimed_of_what_nobody_knows() -> None:
    assert {fit.verdict for fit in fits(Facts(), host(), 8192)} == {"unknown"}
    assert {fit.verdict for fit in fits(big(10), host(memory=None), 8192)} == {"unknown"}


def test_forms_stand_from_the_largest_to_the_smallest_within_a_type() -> None:
    for kind in {form.type for form in FORMATS}:
        bits = [form.bits for form in FORMATS if form.type == kind]
        assert bits == sorted(bits, reverse=True)


def test_the_longest_context_is_what_the_place_has_room_for_and_at_most_the_trained_one() -> None:
    facts = big(7_600_000_000)
    small = fits(facts, host(memory=7 * GIB), 1024, [Format("model/gguf", "Q4_K_M", 4.9, ("cpu",))])[0]
    reach = longest(small, facts)
    assert reach is not None and 0 < reach < 32_768
    at = fits(facts, host(memory=7 * GIB), reach, [small.format])[0]
    over = fits(facts, host(memory=7 * GIB), reach + 1, [small.format])[0]
    assert (at.verdict, over.verdict) == ("tight", "too big")
    large = fits(facts, host(memory=64 * GIB), 1024, [small.format])[0]
    assert longest(large, facts) == 32_768
