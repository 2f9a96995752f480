"""Names, edges, cycles, matrices."""

from __future__ import annotations

import pytest
from tests.unit.core.loader_kit import GOOD, complaints, read, steps

from qwend.core.edges import cycles
from qwend.core.references import SourceRef, StepName, label, leaves_folder, parse_name, parse_source

LADDER = """\
name: ladder
models: {base: "hf:a/b"}
datasets: {wiki: "file:wiki.txt", calib: "file:calib.txt"}
steps:
  quant:
    uses: llama-cpp/quantize
    from: base
    matrix: {type: [Q8_0, Q5_K_M, Q4_K_M]}
    with: {imatrix: calib}
  quality:
    uses: evaluate/compare
    from: [base, quant]
    with: {text: wiki}
    expect:
      - quant[Q8_0].perplexity <= 1.01 * base.perplexity
  chat:
    uses: llama-cpp/serve
    from: quant[Q4_K_M]
    needs: quality
"""


def test_a_matrix_becomes_steps_of_their_own() -> None:
    loaded = read(LADDER)
    assert [variant.name for variant in loaded.variants] == [
        "quant[Q8_0]", "quant[Q5_K_M]", "quant[Q4_K_M]", "quality", "chat",
    ]  # fmt: skip
    assert loaded.params["quant[Q5_K_M]"].model_dump()["type"] == "Q5_K_M"
    by_name = {variant.name: variant for variant in loaded.variants}
    assert by_name["quant[Q8_0]"].values == {"type": "Q8_0"}
    assert by_name["quant[Q8_0]"].given == {"imatrix": ("calib",)}
    assert by_name["quality"].inputs == ("base", "quant[Q8_0]", "quant[Q5_K_M]", "quant[Q4_K_M]")
    assert by_name["chat"].inputs == ("quant[Q4_K_M]",)
    assert by_name["chat"].needs == ("quality",)


def test_a_matrix_of_two_parameters_makes_every_combination() -> None:
    loaded = read(
        steps("q: {uses: llama-cpp/quantize, from: base, matrix: {type: [F16, Q8_0], pure: [true, false]}}")
    )
    assert list(loaded.params) == ["q[F16,true]", "q[F16,false]", "q[Q8_0,true]", "q[Q8_0,false]"]


def test_a_matrix_may_name_inputs() -> None:
    loaded = read(
        steps(
            "q: {uses: llama-cpp/quantize, from: base, with: {type: F16}, matrix: {imatrix: [calib, base]}},"
            "c: {uses: llama-cpp/serve, from: 'q[base]'}"
        )
    )
    assert [variant.given for variant in loaded.variants[:2]] == [
        {"imatrix": ("calib",)},
        {"imatrix": ("base",)},
    ]


def test_a_value_of_a_matrix_may_be_named_in_another_spelling() -> None:
    text = "q: {uses: llama-cpp/quantize, from: base, with: {type: F16}, matrix: {threads: [1, 0x10]}}, "
    loaded = read(
        steps(text + "c: {uses: llama-cpp/serve, from: 'q[16]'}, d: {uses: llama-cpp/serve, from: 'q[0x10]'}")
    )
    assert [variant.inputs for variant in loaded.variants[2:]] == [("q[16]",), ("q[16]",)]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("from: base", "from: bse"), 'steps.quant.from: there is no model, dataset or step "bse"; did you mean base?'),
        (("from: [base, quant]", "from: [base, qant]"), 'quality.from[1]: there is no model, dataset or step "qant"'),
        (("text: wiki", "text: wikki"), "steps.quality.with.text: there is no"),
        (("imatrix: calib", "imatrix: clib"), "did you mean calib?"),
        (("needs: quality", "needs: base"), "steps.chat.needs: base is a model; only steps can be named here"),
        (("needs: quality", "needs: chat"), "steps.chat.needs: chat refers to itself"),
        (("needs: quality", "needs: quallity"), 'steps.chat.needs: there is no step "quallity"; did you mean quality?'),
        (("quant[Q4_K_M]", "quant[Q4_K_S]"), 'steps.chat.from: quant has no value "Q4_K_S"; did you mean Q4_K_M?'),
        (("quant[Q4_K_M]", "quant"), "llama-cpp/serve takes one input; this is 3: quant[Q8_0], quant[Q5_K_M]"),
        (("quant[Q4_K_M]", "base[x]"), "base has no matrix; write base"),
        (("quant[Q4_K_M]", "hf:a/b"), '"hf:a/b" is a reference; give it a name under models: or datasets:'),
        (("quant[Q4_K_M]", "a b"), '"a b" is no name'),
        (("quant[Q4_K_M]", "[base, wiki]"), "llama-cpp/serve takes one input; this is 2: base, wiki"),
        (("from: [base, quant]", "from: [base, base]"), "steps.quality.from[1]: base is named twice"),
        (("from: [base, quant]", "from: {a: b}"), "should be a name or a list of names, not a mapping"),
        (("from: [base, quant]", "from: [base, 3]"), "steps.quality.from[1]: should be text, not 3"),
        (("imatrix: calib", "type: F16"), "steps.quant.matrix.type: type is given by with: too"),
        (("[Q8_0, Q5_K_M, Q4_K_M]", "[Q8_0, Q8_0, Q4_K_M]"), "matrix.type[1]: Q8_0 is in the list twice"),
        (("Q5_K_M,", "Q5_K_Z,"), 'steps.quant.matrix.type[1]: unknown quantisation "Q5_K_Z"; did you mean Q5_K_M?'),
        (("Q5_K_M,", "[x],"), "matrix.type[1]: should be text, a number, true or false"),
        (("Q5_K_M,", "a/b,"), 'matrix.type[1]: "a/b" cannot name a step'),
        (("{type: [Q8_0, Q5_K_M, Q4_K_M]}", "{typ: [Q8_0, Q5_K_M, Q4_K_M]}"), "steps.quant.matrix.typ: unknown key"),
        (("matrix: {type: [Q8_0, Q5_K_M, Q4_K_M]}", "matrix: {}"), "matrix: should have at least 1 item"),
        (("    expect:", "    x: 1\n    expect:"), "steps.quality.x: unknown key"),
        (("1.01 * base", "1.01 * bsae"), 'there is no model, dataset or step "bsae"; did you mean base?'),
        (("- quant[Q8_0].", "- quant."), "quality.expect[0]: quant is 3 steps (name one: quant[Q8_0]"),
        (("- quant[Q8_0].", "- quant[Q9].") , 'quant has no value "Q9"'),
        (("<= 1.01", "=< 1.01"), "steps.quality.expect[0]: "),
    ],
)  # fmt: skip
def test_an_edge_that_leads_nowhere_is_an_error_at_its_place(change: tuple[str, str], complaint: str) -> None:
    lines = complaints(LADDER.replace(*change))
    assert any(complaint in line for line in lines), lines


def test_an_empty_column_of_a_matrix_would_leave_no_step() -> None:
    lines = complaints(
        LADDER.replace("[Q8_0, Q5_K_M, Q4_K_M]", "[]").replace("quant[Q8_0].", "").replace("[Q4_K_M]", "")
    )
    assert any("steps.quant.matrix.type: has no values" in line for line in lines)


def test_a_matrix_of_hostile_size_is_refused_at_once() -> None:
    column = ", ".join(str(n) for n in range(1, 200))
    matrix = f"{{threads: [{column}], pure: [{column}]}}"
    text = f"q: {{uses: llama-cpp/quantize, from: base, with: {{type: F16}}, matrix: {matrix}}}"
    assert any("makes 39601 steps; 256 are the most" in line for line in complaints(steps(text)))


def test_a_fixed_port_or_folder_cannot_be_shared_by_a_matrix() -> None:
    lines = complaints(
        steps("c: {uses: llama-cpp/serve, from: base, port: 80, matrix: {context: [8, 16]}},\n"
              "q: {uses: llama-cpp/quantize, from: base, out: x, matrix: {type: [F16, Q8_0]}}")
    )  # fmt: skip
    assert "cannot be held by every step of a matrix" in lines[0]
    assert "cannot hold the steps of a matrix" in lines[1]


def test_one_name_for_two_things_shows_both_places() -> None:
    text = GOOD.replace("steps:", "datasets:\n  q4: file:x.txt\nsteps:")
    assert complaints(text)[0] == (
        "recipe.yaml:8:3: steps.q4: the name q4 is taken by datasets (recipe.yaml:6:3) (names are shared)"
    )


def test_a_circle_is_shown_whole_at_the_reference_that_closes_it() -> None:
    text = steps(
        "a: {uses: llama-cpp/quantize, from: c, with: {type: F16}},\n"
        "b: {uses: llama-cpp/quantize, from: a, with: {type: F16}},\n"
        "c: {uses: llama-cpp/quantize, from: base, needs: b, with: {type: F16}}"
    )
    assert complaints(text) == [
        "recipe.yaml:3:37: steps.a.from: goes in a circle: a -> c -> b -> a (each step needs something earlier)"
    ]


def test_a_circle_through_a_parameter_and_through_a_matrix_is_found() -> None:
    text = steps(
        "q: {uses: llama-cpp/quantize, from: base, matrix: {type: [F16, Q8_0]}, with: {imatrix: i}},\n"
        "i: {uses: llama-cpp/quantize, from: 'q[F16]', with: {type: F16}}"
    )
    assert "goes in a circle: q -> i -> q" in complaints(text)[0]


def test_a_long_chain_needs_no_deep_recursion() -> None:
    graph = {f"s{n}": [f"s{n + 1}"] for n in range(5000)} | {"s5000": []}
    assert cycles(graph) == []
    assert cycles({**graph, "s5000": ["s4999"]}) == [("s4999", "s5000", "s4999")]


def test_names_and_references_are_taken_apart() -> None:
    assert parse_name("quant[Q8_0]") == StepName("quant", "Q8_0")
    assert parse_source("hf:Qwen/Qwen2.5-0.5B@main/a/b.gguf") == SourceRef(
        "hf", "Qwen/Qwen2.5-0.5B@main/a/b.gguf"
    )
    assert parse_source("smoke:qwen2?format=gguf") == SourceRef("smoke", "qwen2?format=gguf")
    assert parse_source("modelscope:modelscope/wikitext?subset=a-b&split=test").scheme == "modelscope"
    assert parse_source("ollama:qwen2.5:0.5b").body == "qwen2.5:0.5b"
    assert parse_source("https://example.org/a.gguf#sha256=" + "0" * 64).scheme == "https"
    assert parse_source("file:/srv/a b.gguf").body == "/srv/a b.gguf"
    assert parse_source("my:thing", ("my",)) == SourceRef("my", "thing")


def test_labels_are_written_as_one_writes_them() -> None:
    assert [label(value) for value in ("Q8_0", 1, 1e-5, 0.5, True)] == ["Q8_0", "1", "1e-5", "0.5", "true"]


def test_only_relative_paths_can_leave_their_folder() -> None:
    assert [leaves_folder(path) for path in ("a/../b", "../a", "a/../../b", "/a", "..a", "..")] == [
        False, True, True, False, False, True,
    ]  # fmt: skip
