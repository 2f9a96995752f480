from __future__ import annotations

import re
from typing import Any, get_args

import msgspec
import pytest
from pydantic import ValidationError
from tests.unit.plugins.llama_cpp.kit import QWEN_05B, QWEN_7B, command, errors, launch, model, step, warnings

from qwend.plugin import Facts, Given
from qwend_plugins.llama_cpp.quantisations import (
    ALIASES,
    NEEDS_IMATRIX,
    SIZES,
    Type,
    bits_per_weight,
    canonical,
)
from qwend_plugins.llama_cpp.quantize import Quantize, QuantizeParams

ENGINE = Quantize()
DRIVEN = "bin/python <make_gguf.py> <out> -- bin/llama-quantize"

MEASURED = """\
Q1_0      1.25 1.51 1.67 2.55 3.16 6.35
Q2_0      2.41 2.72 2.69 3.38 3.97 6.40
Q4_0      4.55 4.65 4.71 5.04 5.60 6.48
Q4_1      5.04 5.11 5.16 5.41 5.97 6.50
MXFP4_MOE 8.50 8.50 8.50 8.50 8.50 8.50
Q5_0      5.53 5.58 5.61 5.78 6.33 6.52
Q5_1      6.01 6.04 6.06 6.15 6.69 6.54
IQ2_XXS   2.20 2.38 2.44 3.00 5.11 5.37
IQ2_XS    2.43 2.59 2.66 3.17 5.16 5.38
IQ2_S     2.53 2.72 2.74 3.33 5.18 5.38
IQ2_M     2.75 2.91 2.94 3.48 5.22 5.39
IQ1_S     1.77 1.99 2.03 2.71 5.02 5.35
IQ1_M     1.93 2.14 2.19 2.82 5.05 5.36
TQ1_0     1.87 2.24 2.18 2.96 5.01 6.37
TQ2_0     2.23 2.56 2.52 3.24 5.09 6.39
Q2_K      3.00 3.16 3.29 3.90 5.39 6.42
Q2_K_S    2.80 2.97 3.09 3.69 5.26 6.41
IQ3_XXS   3.27 3.39 3.44 3.76 5.41 5.41
IQ3_S     3.52 3.67 3.76 4.26 5.39 6.44
IQ3_M     3.61 3.75 3.84 4.43 5.45 6.45
IQ3_XS    3.34 3.51 3.59 4.12 5.39 6.44
Q3_K_S    3.51 3.66 3.75 4.26 5.38 6.44
Q3_K_M    3.89 3.99 4.11 4.58 5.66 6.46
Q3_K_L    4.21 4.29 4.41 4.87 5.88 6.47
IQ4_NL    4.59 4.68 4.74 5.06 5.64 6.48
IQ4_XS    4.36 4.46 4.53 4.88 5.59 6.47
Q4_K_S    4.58 4.68 4.74 5.06 6.14 6.49
Q4_K_M    4.85 4.91 4.99 5.24 6.34 6.50
Q5_K_S    5.53 5.58 5.61 5.78 6.59 6.52
Q5_K_M    5.68 5.71 5.75 5.88 6.70 6.53
Q6_K      6.56 6.56 6.56 6.56 8.09 6.56
Q8_0      8.50 8.50 8.50 8.50 8.50 8.50
"""
"""Bits per weight that `llama-quantize --dry-run` tells for headers of these shapes."""
SHAPES = [
    Facts(parameters=32_763_417_600, vocabulary=152_064, hidden=5120),
    Facts(parameters=7_615_487_488, vocabulary=152_064, hidden=3584),
    Facts(parameters=3_085_846_528, vocabulary=151_936, hidden=2048),
    Facts(parameters=596_042_752, vocabulary=151_936, hidden=1024),
    Facts(parameters=494_005_120, vocabulary=151_936, hidden=896),
    Facts(parameters=40_475_904, vocabulary=151_936, hidden=256),
]
READINGS = [
    (line.split()[0], shape, float(bits))
    for line in MEASURED.splitlines()
    for shape, bits in zip(SHAPES, line.split()[1:], strict=True)
]

LISTED = [
    "Q1_0", "Q2_0", "Q4_0", "Q4_1", "MXFP4_MOE", "Q5_0", "Q5_1", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M",
    "IQ1_S", "IQ1_M", "TQ1_0", "TQ2_0", "Q2_K", "Q2_K_S", "IQ3_XXS", "IQ3_S", "IQ3_M", "Q3_K", "IQ3_XS",
    "Q3_K_S", "Q3_K_M", "Q3_K_L", "IQ4_NL", "IQ4_XS", "Q4_K", "Q4_K_S", "Q4_K_M", "Q5_K", "Q5_K_S",
    "Q5_K_M", "Q6_K", "Q8_0", "F16", "BF16", "F32",
]  # fmt: skip
"""What `llama-quantize --help` lists, without COPY, which quantises nothing."""


@pytest.mark.parametrize(("type_", "shape", "measured"), READINGS)
def test_the_size_of_a_result_is_estimated_close_above_what_the_tool_says(
    type_: str, shape: Facts, measured: float
) -> None:
    estimated = bits_per_weight(type_, shape)
    assert 0.98 * measured <= estimated <= 1.12 * measured


@pytest.mark.parametrize(
    ("type_", "shape", "measured"), [r for r in READINGS if r[0] in ("Q4_K_M", "Q5_K_M", "Q8_0")]
)
def test_the_usual_types_are_estimated_within_two_percent(type_: str, shape: Facts, measured: float) -> None:
    assert bits_per_weight(type_, shape) == pytest.approx(measured, rel=0.02)


def test_every_type_that_the_tool_lists_can_be_asked_for_and_has_a_size() -> None:
    assert sorted(get_args(Type)) == sorted(LISTED)
    assert {canonical(name) for name in LISTED} == set(SIZES)
    assert set(SIZES) >= NEEDS_IMATRIX
    assert set(ALIASES) < set(LISTED)


def test_a_mixture_of_experts_packs_its_experts_as_mxfp4() -> None:
    dense, mixture = QWEN_7B, msgspec.structs.replace(QWEN_7B, architecture="qwen3moe")
    assert bits_per_weight("MXFP4_MOE", mixture) < 5 < bits_per_weight("MXFP4_MOE", dense)
    assert warnings(ENGINE, step(ENGINE, with_={"type": "MXFP4_MOE"}))
    assert warnings(ENGINE, step(ENGINE, model(facts=mixture), with_={"type": "MXFP4_MOE"})) == []


@pytest.mark.parametrize(
    ("with_", "words"),
    [
        ({"type": "Q4_K_M"}, ""),
        (
            {"type": "Q8_0", "allow_requantize": True, "leave_output_tensor": True, "pure": True},
            "--allow-requantize --leave-output-tensor --pure ",
        ),
        (
            {"type": "Q4_K_M", "output_tensor_type": "q8_0", "token_embedding_type": "f16"},
            "--output-tensor-type q8_0 --token-embedding-type f16 ",
        ),
        (
            {"type": "Q4_K_M", "tensor_type": {"attn_v": "q8_0", "ffn_down": "q6_k"}},
            "--tensor-type attn_v=q8_0 --tensor-type ffn_down=q6_k ",
        ),
        (
            {
                "type": "Q4_K_M",
                "keep_split": True,
                "max_buffer_size": 512,
                "override_kv": ["a.b=int:1", "c=str:x y"],
            },
            "--keep-split --override-kv a.b=int:1 --override-kv c=str:x y --max-buffer-size 512 ",
        ),
    ],
)
def test_parameters_become_the_tools_own_flags(with_: dict[str, Any], words: str) -> None:
    said = command(ENGINE, step(ENGINE, with_=with_))
    type_ = with_["type"]
    assert said == f"{DRIVEN} {words}<base>/*.gguf <out>/model-{type_}.gguf {type_} <threads>"


def test_an_importance_matrix_further_arguments_and_threads_find_their_places() -> None:
    view = step(
        ENGINE,
        with_={"type": "IQ2_XS", "imatrix": "weights", "include_weights": ["attn_v"], "threads": 3},
        inputs={"imatrix": Given("weights", "imatrix/gguf")},
        extra_args=("--prune-layers", "1,2"),
    )
    assert command(ENGINE, view) == (
        f"{DRIVEN} --include-weights attn_v --imatrix <weights>/*.gguf --prune-layers 1,2 "
        "<base>/*.gguf <out>/model-IQ2_XS.gguf IQ2_XS 3"
    )
    assert errors(ENGINE, view) == []


def test_an_alias_is_written_under_the_name_of_what_it_stands_for() -> None:
    view = step(ENGINE, with_={"type": "Q4_K"})
    assert command(ENGINE, view).endswith("<out>/model-Q4_K_M.gguf Q4_K <threads>")
    assert ENGINE.product(view).facts.dtype == "Q4_K_M"


def test_what_is_quantised_already_is_not_quantised_again_unasked() -> None:
    had = model("q8", msgspec.structs.replace(QWEN_7B, dtype="Q8_0"))
    assert errors(ENGINE, step(ENGINE, had, with_={"type": "Q4_K_M"})) == [
        "from: q8 is quantised already (Q8_0); quantising it again would lose quality"
    ]
    assert errors(ENGINE, step(ENGINE, had, with_={"type": "Q4_K_M", "allow_requantize": True})) == []


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "f16", None])
def test_16_and_32_bits_may_be_quantised_and_the_unknown_is_left_to_the_tool(dtype: str | None) -> None:
    assert errors(ENGINE, step(ENGINE, model(facts=Facts(dtype=dtype)), with_={"type": "Q4_K_M"})) == []


@pytest.mark.parametrize("type_", sorted(NEEDS_IMATRIX))
def test_the_smallest_types_need_an_importance_matrix(type_: str) -> None:
    assert errors(ENGINE, step(ENGINE, with_={"type": type_})) == [
        f"with.type: {type_} needs an importance matrix"
    ]


def test_words_about_an_importance_matrix_need_one_and_agree() -> None:
    both = {"type": "Q4_K_M", "include_weights": ["a"], "exclude_weights": ["b"]}
    assert errors(ENGINE, step(ENGINE, with_=both)) == [
        "with.exclude_weights: include_weights and exclude_weights cannot be used together",
        "with.imatrix: says how to use an importance matrix, and there is none",
    ]


def test_rows_that_fill_no_blocks_are_told_with_what_comes_of_it() -> None:
    assert warnings(ENGINE, step(ENGINE, model(facts=QWEN_05B), with_={"type": "Q4_K_M"})) == [
        "with.type: rows of 896 weights do not fill the blocks of Q4_K_M: most tensors get a larger type, "
        "about 6.4 bits per weight in all"
    ]
    assert warnings(ENGINE, step(ENGINE, model(facts=QWEN_05B), with_={"type": "Q8_0"})) == []
    assert warnings(ENGINE, step(ENGINE, with_={"type": "Q4_K_M"})) == []


def test_a_result_keeps_what_is_known_of_the_model_but_its_size() -> None:
    facts = msgspec.structs.replace(QWEN_7B, extra={"tensor_types": {"F16": 1}, "mine": 1})
    made = ENGINE.product(step(ENGINE, model(facts=facts), with_={"type": "Q4_K_M"}))
    assert made.type == "model/gguf"
    assert (made.facts.dtype, made.facts.layers, made.facts.context) == ("Q4_K_M", 28, 32_768)
    assert made.facts.bytes == pytest.approx(7_615_616_512 * 4.91 / 8, rel=0.02)
    assert made.facts.extra == {"mine": 1}
    assert ENGINE.product(step(ENGINE, model(facts=Facts()), with_={"type": "Q4_K_M"})).facts.bytes is None


def test_it_says_what_it_takes() -> None:
    resources = launch(ENGINE, step(ENGINE, with_={"type": "Q4_K_M"})).resources
    assert resources.heavy
    assert resources.memory == 152_064 * 3584 * 10 + 2**28
    assert resources.disk == pytest.approx(4.7e9, rel=0.02)
    unknown = launch(ENGINE, step(ENGINE, model(facts=Facts()), with_={"type": "Q4_K_M"})).resources
    assert (unknown.memory, unknown.disk) == (None, None)


def test_progress_is_read_from_the_tools_own_lines() -> None:
    (pattern,) = launch(ENGINE, step(ENGINE, with_={"type": "Q4_K_M"})).progress
    line = (
        "[  22/  26] blk.1.attn_v.weight                  - [   256,    128,      1,      1], type =    f16, "
    )
    found = re.search(pattern.regex, line)
    assert found is not None
    assert found.groupdict() == {"done": "22", "total": "26"}
    assert re.search(pattern.regex, "llama_model_loader: - kv   0: [1/2]") is None


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (
            "[   4/  26] blk.0.attn_k.weight - [256, 128], type =   q4_K, llama_model_quantize: failed to quantize: "
            "requantizing from type q4_K is disabled\nllama_quantize: failed to quantize model from 'q4.gguf'",
            "the model is quantised already (q4_K)",
        ),
        (
            " ERROR: this quantization requires an importance matrix!\n        - offending tensor: blk.0.attn_k.weight",
            "this quantisation needs an importance matrix",
        ),
        (
            "gguf_init_from_reader: failed to read key-value pairs\nllama_model_quantize: failed to quantize: "
            "llama_model_loader: failed to load model from t.gguf",
            "the GGUF file is broken or cut short",
        ),
        (
            "llama_model_quantize: failed to quantize: basic_ios::clear: iostream error",
            "the result could not be written whole: the disk is full or failing",
        ),
        (
            "error loading model: unknown model architecture: 'qwen9'",
            "this build of llama.cpp does not know the architecture qwen9",
        ),
    ],
)
def test_the_tools_last_words_are_understood(log: str, message: str) -> None:
    for hint in launch(ENGINE, step(ENGINE, with_={"type": "Q4_K_M"})).hints:
        found = re.search(hint.regex, log, re.MULTILINE)
        if found:
            assert hint.message.format(**found.groupdict()) == message
            return
    pytest.fail("no hint matches")


def test_a_type_is_spelt_as_the_tool_spells_it() -> None:
    with pytest.raises(ValidationError):
        QuantizeParams.model_validate({"type": "q4_k_m"})
