"""The engines of awq, gptq and llm-compressor: what they refuse, promise and run."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from pydantic import ValidationError
from tests.unit.plugins.llama_cpp.kit import QWEN_05B, QWEN_7B, command, errors, launch, model, step, warnings

from qwend.plugin import Engine, Facts, Gpu, StepView
from qwend.plugin.samples import HOSTS
from qwend_plugins.awq.quantize import Quantize as Awq
from qwend_plugins.awq.scale import Scale
from qwend_plugins.gptq.quantize import Quantize as Gptq
from qwend_plugins.llama_cpp.convert import Convert
from qwend_plugins.llama_cpp.quantize import Quantize as Gguf
from qwend_plugins.llama_cpp.serve import Serve
from qwend_plugins.llm_compressor.quantize import Quantize as Compressor

TEXTS = model("texts", Facts(rows=200), "dataset/text")
FIELDS = {"awq/quantize": "calib_data", "awq/scale": "calib_data", "gptq/quantize": "calibration"}


def made(engine: Engine, facts: Facts = QWEN_7B, texts: bool = True, **with_: Any) -> StepView:
    """A step on a checkpoint with calibration texts."""
    field = FIELDS.get(engine.name, "dataset")
    given = {field: TEXTS} if texts else {}
    said = {**({field: "texts"} if texts else {}), **with_}
    return step(engine, model(facts=facts, kind="model/safetensors"), inputs=given, with_=said)


def options(engine: Engine, view: StepView) -> dict[str, Any]:
    """The options that the driver gets."""
    files = {file.name: file.content for file in launch(engine, view).files}
    found: dict[str, Any] = json.loads(files["options.json"])
    return found


@pytest.mark.parametrize("engine", [Awq(), Scale(), Gptq(), Compressor()])
def test_a_usual_step_has_nothing_wrong_and_reads_its_texts(engine: Engine) -> None:
    view = made(engine)
    assert errors(engine, view) == []
    assert warnings(engine, view) == []
    assert "--texts" in command(engine, view)
    run = launch(engine, view)
    assert not run.network
    assert run.env["HF_HUB_OFFLINE"] == "1"
    assert {file.name for file in run.files} >= {"q_reload.py", "q_written.py", "options.json"}


@pytest.mark.parametrize("engine", [Awq(), Scale(), Gptq()])
def test_calibration_texts_are_required(engine: Engine) -> None:
    with pytest.raises(ValidationError, match=FIELDS[engine.name]):
        made(engine, texts=False)


@pytest.mark.parametrize(
    ("engine", "with_", "kind", "bits"),
    [
        (Awq(), {}, "model/awq", 4),
        (Awq(), {"backend": "llm-compressor"}, "model/compressed-tensors", 4),
        (Awq(), {"backend": "gptqmodel"}, "model/awq", 4),
        (Gptq(), {"bits": 8}, "model/gptq", 8),
        (Gptq(), {"backend": "llm-compressor"}, "model/compressed-tensors", 4),
        (Compressor(), {"scheme": "W8A8"}, "model/compressed-tensors", 8),
    ],
    ids=["awq", "awq-ct", "awq-gptqmodel", "gptq-8", "gptq-ct", "w8a8"],
)
def test_the_artifact_is_what_the_backend_writes(
    engine: Engine, with_: dict[str, Any], kind: str, bits: int
) -> None:
    view = made(engine, **with_)
    product = engine.product(view)
    assert product is not None
    assert product.type == kind
    claim = options(engine, view)["claim"]
    assert claim["bits"] == bits
    assert claim["method"] == kind.removeprefix("model/")
    assert product.facts.bytes is not None and product.facts.bytes < 10e9


def test_a_scaled_model_claims_nothing_and_stays_as_large() -> None:
    product = Scale().product(made(Scale()))
    assert product.type == "model/safetensors"
    assert product.facts.bytes == QWEN_7B.bytes
    assert options(Scale(), made(Scale()))["claim"] is None


@pytest.mark.parametrize("outtype", ["f16", "bf16", "auto"])
def test_of_a_scaled_model_only_the_quantised_gguf_is_served_without_a_warning(outtype: str) -> None:
    product = Scale().product(made(Scale()))
    given = model("scaled", product.facts, product.type)
    converted = Convert().product(step(Convert(), given, with_={"outtype": outtype}))
    assert converted is not None
    plain = model("plain", converted.facts, converted.type)
    assert warnings(Serve(), step(Serve(), plain)) == [
        "from: plain is scaled for quantising and not quantised: in 16 bits that gains nothing"
    ]
    quantised = Gguf().product(step(Gguf(), plain, with_={"type": "Q4_K_M"}))
    assert quantised is not None
    assert warnings(Serve(), step(Serve(), model("q4", quantised.facts, quantised.type))) == []


def test_promised_sizes_are_those_of_the_matrices() -> None:
    # Qwen2.5-7B: 28 layers of q, o (3584 x 3584), k, v (3584 x 512), three of 3584 x 18944; embedding and head apart
    weights = 28 * (2 * 3584**2 + 2 * 3584 * 512 + 3 * 3584 * 18944)
    rest = QWEN_7B.parameters - weights if QWEN_7B.parameters else 0
    for bits in (4, 8):
        promised = Gptq().product(made(Gptq(), bits=bits)).facts
        groups = weights / 128
        assert promised.bytes == pytest.approx(
            rest * 2 + weights * bits / 8 + groups * (2 + bits / 8), rel=0.001
        )
        assert promised.bits == pytest.approx(
            8 * (promised.bytes or 0) / (QWEN_7B.parameters or 1), abs=0.001
        )


@pytest.mark.parametrize(
    ("engine", "view", "said"),
    [
        (
            Awq(),
            made(Awq(), msgspec.structs.replace(QWEN_05B, hidden=900)),
            "with.q_group_size: group size 128 does not divide",
        ),
        (Gptq(), made(Gptq(), QWEN_05B, group_size=512), "with.group_size: group size 512 does not divide"),
        (Compressor(), made(Compressor(), QWEN_05B, group_size=256), "with.group_size: group size 256"),
        (Awq(), made(Awq(), w_bit=8), "with.w_bit: autoawq writes AWQ in 4 bits"),
        (Awq(), made(Awq(), q_group_size=0), "with.q_group_size: a group has at least one weight"),
        (Awq(), made(Awq(), version="GEMV"), "with.version: the result is loaded once"),
        (Awq(), made(Awq(), version="MARLIN"), "with.zero_point: the MARLIN layout has no zero points"),
        (
            Awq(),
            made(Awq(), backend="llm-compressor", apply_clip=False),
            "with.apply_clip: llm-compressor has no",
        ),
        (Awq(), made(Awq(), backend="gptqmodel", duo_scaling=False), "with.duo_scaling: gptqmodel has no"),
        (
            Awq(),
            made(Awq(), msgspec.structs.replace(QWEN_7B, architecture="qwen3_5")),
            "from: AutoAWQ does not know the architecture qwen3_5",
        ),
        (
            Gptq(),
            made(Gptq(), backend="llm-compressor", bits=3),
            "with.bits: llm-compressor packs 4 or 8 bits",
        ),
        (Gptq(), made(Gptq(), backend="llm-compressor", mse=2.4), "with.mse: llm-compressor has no mse"),
        (Gptq(), made(Gptq(), desc_act=True, act_group_aware=True), "with.act_group_aware: "),
        (Gptq(), made(Gptq(), max_seq_length=65536), "with.max_seq_length: max_seq_length is beyond"),
        (Compressor(), made(Compressor(), texts=False), "with.dataset: W4A16 by gptq learns from texts"),
        (Compressor(), made(Compressor(), texts=False, scheme="FP8"), "with.dataset: FP8 by rtn learns"),
        (
            Compressor(),
            made(Compressor(), scheme="FP8_DYNAMIC", algorithm="awq"),
            "with.algorithm: awq rounds",
        ),
        (
            Compressor(),
            made(Compressor(), scheme="W8A8", group_size=64),
            "with.group_size: W8A8 has no groups",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_work_is_refused_before_anything_is_loaded(
    engine: Engine, view: StepView, said: str
) -> None:
    assert any(line.startswith(said) for line in errors(engine, view)), errors(engine, view)


def test_a_backend_without_an_image_for_the_card_is_refused() -> None:
    view = msgspec.structs.replace(made(Gptq(), backend="llm-compressor"), flavour="cuda12", gpus=1)
    assert errors(Gptq(), view) == ["with.backend: llm-compressor has no image for cuda12"]
    assert errors(Gptq(), msgspec.structs.replace(made(Gptq()), flavour="cuda12", gpus=1)) == []


def test_schemes_that_round_to_the_nearest_need_no_texts() -> None:
    view = made(Compressor(), texts=False, scheme="FP8_DYNAMIC")
    assert errors(Compressor(), view) == []
    assert "--texts" not in command(Compressor(), view)
    assert warnings(Compressor(), made(Compressor(), scheme="FP8_BLOCK")) == [
        "with.dataset: FP8_BLOCK by rtn reads no texts"
    ]


def test_an_old_card_is_told_that_fp8_will_be_no_faster() -> None:
    card = Gpu(0, "GPU-1", "V100", 16 << 30, capability=(7, 0))
    host = msgspec.structs.replace(HOSTS["cpu"], gpus=(card,))
    found = list(Compressor().check(made(Compressor(), texts=False, scheme="FP8_DYNAMIC"), host))
    assert [finding.level for finding in found] == ["warning"]
    assert "8.9" in found[0].message


def test_w8a8_is_smoothed_unless_told_otherwise() -> None:
    assert options(Compressor(), made(Compressor(), scheme="W8A8"))["smoothing_strength"] == 0.8
    bare = made(Compressor(), scheme="W8A8", smoothing_strength=0.0)
    assert options(Compressor(), bare)["smoothing_strength"] == 0.0
    assert options(Compressor(), made(Compressor()))["smoothing_strength"] == 0.0


def test_matrices_that_stay_are_named_to_each_backend_in_its_own_way() -> None:
    kept: Any = {"modules_to_not_convert": ["down_proj"]}
    assert options(Awq(), made(Awq(), **kept))["modules_to_not_convert"] == ["down_proj"]
    gptq = options(Gptq(), made(Gptq(), **kept))
    assert gptq["quantize"]["dynamic"] == {"-:.*down_proj.*": {}}
    assert gptq["claim"]["ignore"] == ["down_proj"]
    other = options(Gptq(), made(Gptq(), backend="llm-compressor", **kept))
    assert other["ignore"] == other["claim"]["ignore"] == ["re:.*down_proj.*"]


def test_what_only_takes_memory_is_no_part_of_the_options() -> None:
    plain, sparing = made(Awq()), made(Awq(), n_parallel_calib_samples=4, max_chunk_memory=2**28)
    assert options(Awq(), plain) == options(Awq(), sparing)
    assert "--parallel 4" in command(Awq(), sparing)
    less, more = launch(Awq(), sparing).resources.memory, launch(Awq(), plain).resources.memory
    assert less is not None and more is not None and less < more


def test_on_a_card_the_weights_stay_in_the_machine_and_one_layer_lies_on_the_card() -> None:
    view = msgspec.structs.replace(made(Gptq()), flavour="cuda", gpus=1)
    found = launch(Gptq(), view).resources
    assert found.gpus == 1
    assert found.memory is not None and found.memory > 15e9
    assert found.gpu_memory is not None and found.gpu_memory < 15e9
    assert "--device cuda" in command(Gptq(), view)


def test_of_a_model_whose_size_is_unknown_nothing_is_guessed() -> None:
    view = made(Awq(), Facts(architecture="qwen2"))
    assert launch(Awq(), view).resources.memory is None
    assert Awq().product(view).facts.bytes is None
