"""The engines of evaluate as a plan sees them: what they refuse, what they promise, what counts."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from qwend.plugin import Finding, Given, Pin, StepView
from qwend.plugin.samples import HOSTS, given, view
from qwend_plugins.evaluate.compare import Compare
from qwend_plugins.evaluate.measures import Golden, KlDivergence, Perplexity, Speed
from qwend_plugins.evaluate.select import Select
from qwend_plugins.evaluate.tasks import Tasks

CPU = HOSTS["cpu"]
F16 = given("f16", "model/gguf")
Q8 = given("quant[Q8_0]", "model/gguf")
WIKI = given("wiki", "dataset/text")
WHERE = "mean_kld<=0.1 and same_top > .9"


def step(
    engine: Any, *models: Given, text: Given | None = WIKI, flavour: str = "cpu", **values: Any
) -> StepView:
    """A step of the engine over the models."""
    if text is not None and "text" in engine.params.model_fields:
        values.setdefault("text", text.name)
    made = view(engine, models[0].type, flavour=flavour, values=values)
    texts = {"text": (text,)} if text is not None and values.get("text") else {}
    return msgspec.structs.replace(made, inputs=models, given={**made.given, **texts})


def errors(engine: Any, made: StepView) -> list[Finding]:
    return [finding for finding in engine.check(made, CPU) if finding.level == "error"]


def words(engine: Any, made: StepView) -> list[str]:
    return [word for word in engine.launch(made, CPU).argv if isinstance(word, str)]


def compared(*models: Given, **values: Any) -> Given:
    """The report of a compare over models."""
    made = step(Compare(), *models, **values)
    params = made.params.model_dump(mode="json")
    return Given("quality", "report", engine="evaluate/compare", params=params, lineage=(*models, WIKI))


def test_formats_of_two_programs_are_measured_in_two_steps() -> None:
    (finding,) = errors(Compare(), step(Compare(), F16, given("merged", "model/safetensors")))
    assert "f16 (model/gguf) and merged (model/safetensors) are run by different programs" in finding.message
    assert finding.hint is not None
    assert "reads reports, too" in finding.hint


def test_reports_are_compared_whatever_their_models_are_and_never_mixed_with_models() -> None:
    one, two = given("ppl_hf", "report"), given("ppl_gguf", "report")
    assert errors(Compare(), step(Compare(), one, two, text=None)) == []
    assert words(Compare(), step(Compare(), one, two, text=None))[0] == "--report"
    assert [f.message for f in errors(Compare(), step(Compare(), one, F16))] == [
        "models and reports cannot be mixed"
    ]
    trained = Given("adapter", "report", engine="llama-factory/train")
    assert "which has no table" in errors(Compare(), step(Compare(), trained, text=None))[0].message


def test_a_card_is_not_given_to_a_program_that_has_no_build_for_it() -> None:
    (finding,) = errors(Perplexity(), step(Perplexity(), given("mlx", "model/mlx"), flavour="cuda"))
    assert finding.message == "model/mlx is measured on cpu or apple, and this step is for cuda"
    assert (finding.key, finding.hint) == ("device", "say device: cpu at the step")


def test_a_gguf_is_measured_on_the_card_of_the_step_or_not_at_all() -> None:
    made = step(Perplexity(), F16, flavour="cuda")
    assert errors(Perplexity(), made) == []
    assert Perplexity().launch(made, HOSTS["cuda"]).env["LLAMA_ARG_DEVICE"] == "CUDA0"
    assert "LLAMA_ARG_DEVICE" not in Perplexity().launch(step(Perplexity(), F16), CPU).env


def test_the_text_that_calibrated_a_model_does_not_measure_it_unless_the_recipe_says_so() -> None:
    source = Given("calib.source", "dataset/text", pin=Pin("hf:a/b", "hf:a/b@1?split=train", "dataset/text"))
    drawn = Given("calib", "dataset/text", engine="calibration/sample", lineage=(source,))
    matrix = Given("matrix", "imatrix/gguf", engine="llama-cpp/imatrix", lineage=(F16, drawn))
    small = Given("q2", "model/gguf", F16.facts, "llama-cpp/quantize", {}, (F16, matrix))
    same = Given("again", "dataset/text", engine="calibration/sample", lineage=(source,))
    other = Given("wiki", "dataset/text", pin=Pin("hf:a/b", "hf:a/b@1?split=test", "dataset/text"))
    (finding,) = errors(Compare(), step(Compare(), F16, small, text=same))
    assert finding.message == "again has calibrated q2: a figure on it says too much good"
    assert errors(Compare(), step(Compare(), F16, small, text=other)) == []
    assert errors(Compare(), step(Compare(), F16, small, text=same, same_text=True)) == []


def test_data_of_a_smoke_run_stands_for_different_texts() -> None:
    tiny = Given("calib", "dataset/text", pin=Pin("smoke:data", "smoke:data/text/400/0/1", "dataset/text"))
    matrix = Given("matrix", "imatrix/gguf", lineage=(F16, tiny))
    small = Given("q2", "model/gguf", F16.facts, "llama-cpp/quantize", {}, (F16, matrix))
    assert errors(Compare(), step(Compare(), F16, small, text=tiny)) == []


@pytest.mark.parametrize(
    ("engine", "models", "values", "message"),
    [
        (Compare(), (F16,), {"measure": ["kl_divergence"]}, "one model alone cannot be compared"),
        (Compare(), (F16, Q8), {"measure": ["perplexity"], "text": None}, "there is nothing to measure on"),
        (Compare(), (F16, Q8), {"context": 65536}, "beyond what f16 was trained for (32768)"),
        (Speed(), (F16,), {"input_lengths": [40000]}, "beyond what f16 was trained for (32768)"),
        (Tasks(), (given("m", "model/safetensors"),), {"tasks": ["local"]}, "required for the task local"),
        (Tasks(), (given("m", "model/awq"),), {"tasks": ["mmlu"]}, "model/awq is not loaded here"),
    ],
)
def test_what_cannot_be_measured_is_told_by_the_plan(
    engine: Any, models: tuple[Given, ...], values: dict[str, Any], message: str
) -> None:
    given = {"text": WIKI, **values}
    found = errors(engine, step(engine, *models, **given))
    assert any(message in finding.message for finding in found), found


def test_a_divergence_needs_a_reference_that_kept_its_logits_of_the_same_windows() -> None:
    def against(**params: Any) -> list[str]:
        report = Given("before", "report", engine="evaluate/perplexity", params=params, lineage=(F16, WIKI))
        made = step(KlDivergence(), Q8, text=None, reference="before")
        made = msgspec.structs.replace(made, given={"reference": (report,)})
        return [finding.message for finding in errors(KlDivergence(), made)]

    assert against(save_logits=True, context=512) == []
    assert against(save_logits=False, context=512) == ["before keeps no logits"]
    assert against(save_logits=True, context=128) == ["before was measured with a context of 128"]


def test_the_figures_of_gates_are_those_that_the_driver_reports() -> None:
    one = set(Perplexity().metrics(step(Perplexity(), F16)))
    assert {"perplexity", "f16.perplexity", "size", "f16.bits_per_weight"} <= one
    made = step(
        Compare(), F16, Q8, measure=["kl_divergence", "speed"], input_lengths=[1, 64], batch_sizes=[1, 4]
    )
    several = set(Compare().metrics(made) or ())
    assert {"f16.perplexity", "quant[Q8_0].mean_kld", "f16.generation_speed_at_64x4"} <= several
    assert "f16.mean_kld" not in several
    assert "perplexity" not in several
    assert set(Golden().metrics(step(Golden(), F16, Q8))) >= {"quant[Q8_0].golden_same"}
    assert Compare().metrics(step(Compare(), given("a", "report"), text=None)) is None


def test_a_renamed_model_is_measured_again_since_figures_go_by_names() -> None:
    before = Compare().launch(step(Compare(), F16, Q8), CPU).files
    after = Compare().launch(step(Compare(), F16, msgspec.structs.replace(Q8, name="small")), CPU).files
    assert [file.name for file, other in zip(before, after, strict=True) if file != other] == ["names.json"]


@pytest.mark.parametrize(
    ("values", "key", "message"),
    [
        ({}, "with", "needs smallest_where or fastest_where"),
        ({"smallest_where": "mean_kdl <= 1"}, "with.smallest_where", "the report has no mean_kdl"),
        ({"smallest_where": "mean_kld <= 0.1 and size"}, "with.smallest_where", "'size' is no comparison"),
        ({"fastest_where": "mean_kld <= 0.1"}, "with.fastest_where", "quality measures no speed"),
    ],
)
def test_a_choice_that_the_report_cannot_decide_is_told_by_the_plan(
    values: dict[str, Any], key: str, message: str
) -> None:
    report = compared(F16, Q8, measure=["kl_divergence"])
    found = errors(Select(), step(Select(), report, **values))
    assert [(finding.key, finding.message) for finding in found] == [(key, message)]


def test_a_choice_reads_the_models_below_the_report_and_promises_the_largest() -> None:
    small = msgspec.structs.replace(Q8, facts=msgspec.structs.replace(Q8.facts, bytes=5))
    made = step(
        Select(),
        compared(F16, small, measure=["kl_divergence"]),
        smallest_where="mean_kld<=0.1 and same_top > .9",
    )
    assert errors(Select(), made) == []
    assert Select().product(made).facts == F16.facts
    said = words(Select(), made)
    assert said[said.index("--where") + 1] == "mean_kld<=0.1"
    assert "same_top>.9" in said
    mixed = compared(F16, given("m", "model/safetensors"), measure=["speed"])
    assert (
        "what follows could not know"
        in errors(Select(), step(Select(), mixed, smallest_where="size > 1"))[0].message
    )


def test_the_chosen_one_has_the_figures_of_the_report() -> None:
    where: dict[str, Any] = {"smallest_where": "mean_kld <= 0.1"}
    told = Select().metrics(step(Select(), compared(F16, Q8, measure=["kl_divergence"]), **where))
    assert told is not None and {"mean_kld", "perplexity", "size"} <= set(told)
    above = msgspec.structs.replace(compared(F16, Q8), lineage=(compared(F16, Q8),))
    assert Select().metrics(step(Select(), above, text=None, **where)) is None, "nobody knows what those tell"


def test_tasks_reach_out_only_for_data_that_they_do_not_have() -> None:
    model = given("m", "model/safetensors")
    assert Tasks().launch(step(Tasks(), model, tasks=["mmlu"]), CPU).network
    local = step(Tasks(), model, tasks=["local"], data="data_input")
    launch = Tasks().launch(local, CPU)
    assert not launch.network
    assert launch.env["HF_DATASETS_OFFLINE"] == "1"
    assert not Tasks().launch(step(Tasks(), model, tasks=["gsm8k"], data="data_input"), CPU).network
    assert Tasks().launch(step(Tasks(), model, tasks=["gsm8k", "local"], data="data_input"), CPU).network


def test_the_plan_says_what_tasks_fetch_and_from_where() -> None:
    asked = step(Tasks(), given("m", "model/safetensors"), tasks=["mmlu", "gsm8k", "arc_easy"])
    (warning,) = Tasks().check(asked, CPU)
    assert (warning.level, warning.key) == ("warning", "with.tasks")
    assert warning.message == (
        "fetches questions while it runs: mmlu from cais/mmlu; gsm8k from openai/gsm8k; arc_easy from where its task "
        "file says"
    )
