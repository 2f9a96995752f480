from __future__ import annotations

import msgspec
import pytest
from tests.unit.plugins.llama_cpp.kit import QWEN_05B, QWEN_7B, command, errors, launch, model, step, warnings

from qwend.plugin import Facts, Given, ImageSpec, StepView
from qwend.plugin.samples import HOSTS
from qwend_plugins.llama_cpp.bench import Bench
from qwend_plugins.llama_cpp.chat import Chat
from qwend_plugins.llama_cpp.complete import Complete
from qwend_plugins.llama_cpp.convert_lora import ConvertLora
from qwend_plugins.llama_cpp.imatrix import Imatrix
from qwend_plugins.llama_cpp.perplexity import KlDivergence, Perplexity
from qwend_plugins.llama_cpp.quantize import Quantize
from qwend_plugins.llama_cpp.split import Merge, Split

TEXT = Given(name="wiki", type="dataset/text", facts=Facts(bytes=1 << 20))


def reading(
    engine: Imatrix | Perplexity | KlDivergence, *models: Given, text: Given = TEXT, **with_: object
) -> StepView:
    view = step(engine, inputs={"text": text}, with_={"text": text.name, **with_})
    return msgspec.structs.replace(view, inputs=models or view.inputs)


def test_an_importance_matrix_is_learnt_from_a_text() -> None:
    said = command(Imatrix(), reading(Imatrix(), model(facts=QWEN_05B), chunks=100, process_output=True))
    assert "bin/llama-imatrix --text <wiki>" in said
    assert "--model base=<base>/*.gguf --" in said
    assert "--ctx-size 512 --chunks 100" in said and "--process-output" in said


def test_a_matrix_from_few_windows_or_a_quantised_model_is_doubted() -> None:
    small = msgspec.structs.replace(QWEN_7B, bits=4.8)
    assert len(warnings(Imatrix(), reading(Imatrix(), model(facts=small), chunks=3))) == 2
    assert warnings(Imatrix(), reading(Imatrix(), chunks=100)) == []


def test_a_text_of_fewer_bytes_than_two_windows_have_tokens_is_refused_in_the_plan() -> None:
    short = Given(name="short", type="dataset/text", facts=Facts(bytes=1000))
    assert errors(Perplexity(), reading(Perplexity(), text=short))[0].startswith(
        "with.text: short has 1000 bytes"
    )
    assert errors(Perplexity(), reading(Perplexity(), text=short, context=256)) == []


def test_windows_beyond_the_trained_length_are_refused() -> None:
    assert errors(Perplexity(), reading(Perplexity(), context=65536))[0].startswith(
        "with.context: windows of 65536"
    )


def test_a_divergence_needs_two_models_of_one_vocabulary() -> None:
    engine = KlDivergence()
    assert errors(engine, reading(engine))[0].startswith("from: there is one model")
    pair = (model("f16", QWEN_05B), model("other", QWEN_7B))
    assert "cannot be compared" in errors(engine, reading(engine, *pair))[0]
    assert errors(engine, reading(engine, model("f16"), model("q4"))) == []


def test_the_logits_of_the_reference_are_counted_as_disk() -> None:
    engine = KlDivergence()
    view = reading(engine, model("f16"), model("q4"), chunks=10)
    assert launch(engine, view).resources.disk == 10 * 256 * 152_064 * 2


@pytest.mark.parametrize(
    ("with_", "error"),
    [
        ({"n_prompt": [0], "n_gen": [0]}, "with.n_prompt: there is nothing to measure"),
        ({"n_gen": [-1]}, "with.n_gen: a value is less than 0"),
        ({"threads": [0]}, "with.threads: a value is less than 1"),
    ],
)
def test_a_bench_of_nothing_is_refused(with_: dict[str, object], error: str) -> None:
    assert errors(Bench(), step(Bench(), with_=with_))[0].startswith(error)


def test_a_bench_names_lists_as_the_tool_wants_them() -> None:
    said = command(Bench(), step(Bench(), with_={"n_prompt": [1, 512], "cache_type_k": ["f16", "q8_0"]}))
    assert "--n-prompt 1,512 --n-gen 128 --n-depth 0 --cache-type-k f16,q8_0 --repetitions 5" in said
    assert said.endswith("--n-gpu-layers 0 --threads <threads>")


def test_a_split_has_one_limit() -> None:
    both = {"split_max_size": "4G", "split_max_tensors": 10}
    assert errors(Split(), step(Split(), with_=both))[0].startswith("with.split_max_tensors")
    said = command(Split(), step(Split(), with_={"split_max_size": "500M"}))
    assert said.endswith("bin/llama-gguf-split --split --split-max-size 500M <base>/*.gguf <out>/model")
    assert command(Merge(), step(Merge())).endswith("--merge <base>/*.gguf <out>/model.gguf")


def test_an_adapter_brings_the_model_that_it_was_trained_on() -> None:
    base = model("qwen", QWEN_05B, "model/safetensors")
    trained = Given(name="adapter", type="adapter/lora", lineage=(base,))
    assert errors(ConvertLora(), step(ConvertLora(), trained)) == []
    assert "--base <qwen> --outfile <out>/adapter.gguf" in command(
        ConvertLora(), step(ConvertLora(), trained)
    )


def test_an_adapter_of_an_unknown_model_asks_for_it() -> None:
    alone = Given(name="adapter", type="adapter/lora", facts=Facts(base="Qwen/Qwen2.5-7B"))
    assert "it names Qwen/Qwen2.5-7B" in errors(ConvertLora(), step(ConvertLora(), alone))[0]


def test_layers_that_are_pruned_have_to_be_there() -> None:
    view = step(Quantize(), with_={"type": "Q8_0", "prune_layers": [3, 28]})
    assert errors(Quantize(), view) == ["with.prune_layers: there is no layer 28: the model has 0 to 27"]
    view = step(Quantize(), with_={"type": "Q8_0", "prune_layers": [3, 5]})
    assert "--prune-layers 3,5" in command(Quantize(), view)


def test_extra_words_go_to_the_tool_and_not_to_the_driver() -> None:
    view = msgspec.structs.replace(reading(Perplexity()), extra_args=("--ppl-output-type", "1"))
    own, _, rest = command(Perplexity(), view).partition(" -- ")
    assert "--ppl-output-type 1" in rest and "--ppl-output-type" not in own


def test_a_conversation_has_its_texts_in_files_and_its_sampling_as_the_user_says() -> None:
    view = step(
        Chat(), with_={"prompt": "-x", "system_prompt": "Be\nbrief.", "temp": 0.5, "reasoning": "off"}
    )
    said = command(Chat(), view)
    assert "--prompt <prompt.txt> --system <system.txt> -- --ctx-size 4096" in said
    assert "--temp 0.5" in said and "--reasoning off" in said and "--seed" not in said
    assert {file.name: file.content for file in launch(Chat(), view).files}["system.txt"] == "Be\nbrief."
    assert "--prompt" not in command(Chat(), step(Chat(), with_={}))


def test_a_conversation_beyond_the_trained_length_names_the_engine_that_stretches_it() -> None:
    view = msgspec.structs.replace(step(Chat(), with_={"context": 1 << 20}), inputs=(model(facts=QWEN_05B),))
    (finding,) = list(Chat().check(view, HOSTS["cpu"]))
    assert finding.key == "with.context" and "yarn" in (finding.hint or "")


def test_a_completion_is_the_same_each_time_unless_it_is_asked_otherwise() -> None:
    view = step(Complete(), with_={"prompt": "-x", "n_predict": 8})
    said = command(Complete(), view)
    assert "--prompt <prompt.txt> --out <out> -- --n-predict 8 --ctx-size 4096 --temp 0.0 --seed 42" in said
    assert [file.content for file in launch(Complete(), view).files if file.name == "prompt.txt"] == ["-x"]
    full = step(Complete(), with_={"prompt": "x", "n_predict": 64, "context": 64})
    assert errors(Complete(), full) == ["with.n_predict: leaves no room for the prompt in a context of 64"]


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        (Imatrix, "--device CUDA0,CUDA1"),
        (Perplexity, "--device CUDA0,CUDA1"),
        (KlDivergence, "--device CUDA0,CUDA1"),
        (Bench, "--device CUDA0/CUDA1"),
    ],
)
def test_cards_are_asked_for_by_name_so_that_a_missing_one_is_never_replaced_by_the_cpu(
    engine: type[Imatrix | Perplexity | KlDivergence | Bench], said: str
) -> None:
    reads = "text" in engine.params.model_fields
    made = step(engine(), inputs={"text": TEXT}, with_={"text": TEXT.name}) if reads else step(engine())
    cards = msgspec.structs.replace(made, flavour="cuda12", gpus=2)
    assert said in command(engine(), cards)
    assert "--device" not in command(engine(), made)
    assert isinstance(engine().image(cards, HOSTS["cuda12"]), ImageSpec)
    assert any(hint.regex.startswith("invalid device") for hint in launch(engine(), cards).hints)


def test_weights_on_cards_are_shared_out_and_what_a_part_of_them_takes_is_not_guessed() -> None:
    whole = step(Bench(), flavour="cuda", gpus=2)
    alone = launch(Bench(), step(Bench())).resources.memory or 0
    both = launch(Bench(), whole).resources
    assert (both.gpus, both.gpu_memory) == (2, alone // 2 + (1 << 29))
    assert (both.memory or 0) < alone
    part = launch(Bench(), step(Bench(), flavour="cuda", gpus=1, with_={"n_gpu_layers": 4})).resources
    assert (part.gpu_memory, part.memory) == (None, alone)
