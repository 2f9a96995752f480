from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.unit.plugins.llama_cpp.kit import (
    HOST,
    QWEN_05B,
    QWEN_7B,
    command,
    errors,
    findings,
    launch,
    model,
    step,
    warnings,
)

from qwend.plugin import Facts, Given, HostProgram, ImageSpec, UpstreamImage
from qwend.plugin.testing import check_engine
from qwend_plugins.llama_cpp import qwend_engines
from qwend_plugins.llama_cpp.serve import Serve, context, needs_compiled

ENGINE = Serve()
DRIVER = Path(__file__).parents[4] / "plugins/qwend_plugins/llama_cpp/drivers/serve.py"
Q4 = msgspec.structs.replace(QWEN_7B, dtype="Q4_K_M", bytes=4_683_073_536, bits=4.91)

READY = "bin/python <serve.py>"
COMPILED = "bin/llama-server --offline --no-ui --cors-origins "
COMMON = (
    "--model <base>/*.gguf --host <address> --port <port> --alias {alias} --ctx-size {context} --parallel {parallel} "
    "--threads {threads} --n-gpu-layers 0 --{jinja} --no-slots --warmup"
)


def common(**said: Any) -> str:
    return COMMON.format(
        **({"alias": "step", "context": 8192, "parallel": 1, "threads": "<threads>", "jinja": "jinja"} | said)
    )


@pytest.mark.parametrize(
    ("with_", "words"),
    [
        ({}, f"{READY} {common()}"),
        (
            {"context": 4096, "parallel": 4, "threads": 2},
            f"{READY} {common(context=4096, parallel=4, threads=2)}",
        ),
        (
            {"flash_attn": "on", "cache_type_k": "q8_0", "cache_type_v": "q8_0", "metrics": True},
            f"{READY} {common()} --flash-attn on --cache-type-k q8_0 --cache-type-v q8_0 --metrics",
        ),
        (
            {"batch_size": 1024, "ubatch_size": 256, "threads_http": 3, "n_predict": 99},
            f"{READY} {common()} --batch-size 1024 --ubatch-size 256 --threads-http 3 --n-predict 99",
        ),
        (
            {"chat_template": "chatml", "jinja": False},
            f"{READY} {common(jinja='no-jinja')} --chat-template chatml",
        ),
        ({"served_model_name": ["qwen", "gpt"]}, f"{COMPILED} {common(alias='step,qwen,gpt')}"),
        ({"seed": 1}, f"{COMPILED} {common()} --seed 1"),
        ({"embeddings": True, "pooling": "last"}, f"{COMPILED} {common()} --embeddings --pooling last"),
        (
            {"context": 65536, "rope_scaling": "yarn", "rope_scale": 2.0, "yarn_orig_ctx": 32768},
            f"{COMPILED} {common(context=65536)} --rope-scaling yarn --rope-scale 2.0 --yarn-orig-ctx 32768",
        ),
        (
            {"reasoning_format": "deepseek", "reasoning_budget": 0},
            f"{COMPILED} {common()} --reasoning-format deepseek --reasoning-budget 0",
        ),
    ],
)
def test_parameters_become_the_servers_own_flags(with_: dict[str, Any], words: str) -> None:
    assert command(ENGINE, step(ENGINE, with_=with_)) == words


def test_adapters_a_draft_model_and_further_arguments_find_their_places() -> None:
    lora = step(ENGINE, with_={"lora": ["mine"]}, inputs={"lora": Given("mine", "adapter/gguf")})
    assert command(ENGINE, lora) == f"{READY} {common()} --lora <mine>/*.gguf"
    draft = step(
        ENGINE,
        with_={"draft": "small", "draft_max": 5},
        inputs={"draft": model("small", QWEN_05B)},
        extra_args=("--no-cont-batching",),
    )
    words = "--spec-draft-n-max 5 --spec-draft-model <small>/*.gguf --no-cont-batching"
    assert command(ENGINE, draft) == f"{COMPILED} {common()} {words}"


def test_a_key_reaches_the_server_as_a_file() -> None:
    view = step(ENGINE, secrets=("api_key",))
    assert launch(ENGINE, view).secrets == ("api_key",)
    assert command(ENGINE, view).endswith("--api-key-file <api_key>")
    assert "--api-key-file" not in command(ENGINE, step(ENGINE))


@pytest.mark.parametrize(
    ("view", "image"),
    [
        ({}, "llama-cpp-server"),
        ({"with_": {"context": 4096, "chat_template": "chatml", "metrics": True}}, "llama-cpp-server"),
        ({"with_": {"seed": 1}}, "llama-cpp"),
        ({"with_": {"reranking": True}}, "llama-cpp"),
        ({"extra_args": ("--mlock",)}, "llama-cpp"),
    ],
)
def test_the_ready_wheel_serves_unless_an_option_needs_the_compiled_server(
    view: dict[str, Any], image: str
) -> None:
    made = step(ENGINE, **view)
    spec = ENGINE.image(made, HOST)
    assert not isinstance(spec, HostProgram | UpstreamImage)
    assert (spec.name, spec.compiles) == (image, image == "llama-cpp")
    assert needs_compiled(made) == spec.compiles
    assert bool(launch(ENGINE, made).files) != spec.compiles


def test_on_a_mac_layers_go_to_metal_and_a_build_without_it_is_refused() -> None:
    words = command(ENGINE, step(ENGINE, flavour="apple"))
    assert "--n-gpu-layers" not in words
    assert words.endswith("--require-gpu")
    assert "--n-gpu-layers 7" in command(ENGINE, step(ENGINE, flavour="apple", with_={"n_gpu_layers": 7}))
    assert "--require-gpu" not in command(ENGINE, step(ENGINE, flavour="apple", with_={"n_gpu_layers": 0}))
    assert errors(ENGINE, step(ENGINE, with_={"n_gpu_layers": 7})) == [
        "with.n_gpu_layers: this step runs on the CPU, which has no layers to take"
    ]


def test_the_context_is_8192_tokens_or_what_the_model_was_trained_for() -> None:
    assert context(step(ENGINE)) == 8192
    assert context(step(ENGINE, model(facts=Facts(context=2048)))) == 2048
    assert context(step(ENGINE, model(facts=Facts()))) == 8192
    assert context(step(ENGINE, with_={"context": 100})) == 100


def test_a_context_beyond_the_trained_length_is_an_error_that_names_yarn() -> None:
    (finding,) = findings(ENGINE, step(ENGINE, with_={"context": 131_072}))
    assert (finding.key, finding.level) == ("with.context", "error")
    assert finding.message == "a context of 131072 is beyond what the model was trained for (32768)"
    assert finding.hint == "YaRN stretches it: rope_scaling: yarn, rope_scale: 4, yarn_orig_ctx: 32768"


def test_slots_share_the_context() -> None:
    assert errors(ENGINE, step(ENGINE, with_={"context": 131_072, "parallel": 4})) == []
    assert "for each of 2 slots" in errors(ENGINE, step(ENGINE, with_={"context": 131_072, "parallel": 2}))[0]
    assert (
        "128 tokens of context for each of 64 slots"
        in warnings(ENGINE, step(ENGINE, with_={"parallel": 64}))[0]
    )


def test_yarn_stretches_the_context_as_far_as_it_says() -> None:
    yarn = {"rope_scaling": "yarn", "rope_scale": 4.0}
    assert findings(ENGINE, step(ENGINE, with_={"context": 131_072, **yarn})) == []
    assert "scaled by 4" in errors(ENGINE, step(ENGINE, with_={"context": 262_144, **yarn}))[0]
    assert "needs no scaling" in warnings(ENGINE, step(ENGINE, with_={"context": 4096, **yarn}))[0]
    assert "by how much" in errors(ENGINE, step(ENGINE, with_={"rope_scaling": "yarn"}))[0]


def test_options_that_exclude_each_other_are_errors() -> None:
    assert errors(ENGINE, step(ENGINE, with_={"cache_type_v": "q8_0", "flash_attn": "off"})) == [
        "with.cache_type_v: a quantised cache of values needs flash attention"
    ]
    assert errors(ENGINE, step(ENGINE, with_={"embeddings": True, "reranking": True})) == [
        "with.reranking: a server embeds or ranks, not both"
    ]
    assert errors(ENGINE, step(ENGINE, with_={"ubatch_size": 4096})) == [
        "with.ubatch_size: is more than batch_size (2048)"
    ]


def test_a_draft_model_must_have_the_same_vocabulary() -> None:
    view = step(ENGINE, with_={"draft": "small"}, inputs={"draft": model("small", QWEN_05B)})
    assert errors(ENGINE, view) == [
        "with.draft: small has a vocabulary of 151936, the model one of 152064: it cannot guess for it"
    ]
    same = step(
        ENGINE, model(facts=QWEN_05B), with_={"draft": "small"}, inputs={"draft": model("small", QWEN_05B)}
    )
    assert errors(ENGINE, same) == []


def test_memory_is_weights_cache_and_headroom() -> None:
    resources = launch(ENGINE, step(ENGINE, model(facts=Q4), with_={"context": 32_768})).resources
    cache = 2 * 28 * 4 * 128 * 32_768 * 2
    headroom = 2**29 + int(4_683_073_536 * 0.05)
    assert resources.memory == 4_683_073_536 + cache + headroom
    assert "KV cache 1.8 GiB for a context of 32768" in resources.note


def test_a_quantised_cache_takes_what_its_blocks_take() -> None:
    def memory(**with_: Any) -> int:
        found = launch(
            ENGINE, step(ENGINE, model(facts=Q4), with_={"context": 32_768, **with_})
        ).resources.memory
        assert found is not None
        return found

    whole = 2 * 28 * 4 * 128 * 32_768 * 2
    assert memory() - memory(cache_type_k="q8_0", cache_type_v="q8_0") == whole - int(whole / 2 * 34 / 32)
    assert memory() - memory(cache_type_k="q4_0") == whole // 2 - int(whole / 4 * 18 / 32)


def test_adapters_and_a_draft_model_count_too() -> None:
    small = model("small", QWEN_05B)
    alone = launch(ENGINE, step(ENGINE, model(facts=Q4))).resources.memory
    both = launch(
        ENGINE, step(ENGINE, model(facts=Q4), with_={"draft": "small"}, inputs={"draft": small})
    ).resources.memory
    assert alone is not None
    assert both == alone + 988_097_824 + 2 * 24 * 2 * 64 * 8192 * 2


def test_the_unknown_is_not_guessed() -> None:
    resources = launch(ENGINE, step(ENGINE, model(facts=Facts(bytes=5)))).resources
    assert (resources.memory, resources.note) == (None, "")


@pytest.mark.parametrize(
    ("with_", "path", "field"),
    [
        ({}, "/v1/chat/completions", "usage.completion_tokens"),
        ({"embeddings": True}, "/v1/embeddings", "data.0.embedding.0"),
        ({"reranking": True}, "/v1/rerank", "results.0.relevance_score"),
    ],
)
def test_it_is_ready_when_it_did_one_piece_of_real_work(with_: dict[str, Any], path: str, field: str) -> None:
    probe = launch(ENGINE, step(ENGINE, with_=with_)).probe
    assert probe is not None
    assert probe.work is not None
    assert (probe.ready.path, probe.work.path, probe.work.field) == ("/health", path, field)
    assert probe.work.body is not None
    assert probe.work.body["model"] == "step"


def test_the_driver_tells_a_taken_port_by_its_exit_code() -> None:
    assert launch(ENGINE, step(ENGINE)).port_taken_exit == 98
    assert launch(ENGINE, step(ENGINE, with_={"seed": 1})).port_taken_exit is None


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (
            "0.00.760.476 E llama_init_from_model: quantized V cache requires flash_attn to be enabled",
            "a quantised cache of values needs flash attention",
        ),
        ("error: the supplied chat template is not supported: bogus{{%", "the chat template cannot be used"),
        (
            "0.00.006.152 E common_chat_templates_init: failed to initialize chat template",
            "the chat template cannot be used",
        ),
        (
            "0.02.769.105 E llama_init_from_model: failed to allocate buffer for kv cache",
            "there was not enough memory for this context",
        ),
        ("error: invalid argument: --bogus", "llama-server does not know --bogus"),
        (
            "0.00.021.324 E gguf_init_from_reader: failed to read key-value pairs",
            "the GGUF file is broken or cut short",
        ),
        (
            "error loading model: unknown model architecture: 'qwen9'",
            "this build of llama.cpp does not know the architecture qwen9",
        ),
    ],
)
def test_the_servers_last_words_are_understood(log: str, message: str) -> None:
    for hint in launch(ENGINE, step(ENGINE)).hints:
        found = re.search(hint.regex, log, re.MULTILINE)
        if found:
            assert hint.message.format(**found.groupdict()) == message
            return
    pytest.fail("no hint matches")


@pytest.mark.parametrize("engine", qwend_engines(), ids=lambda engine: engine.name)
def test_every_engine_keeps_the_contract_of_the_door(engine: Any) -> None:
    assert check_engine(engine) == []


@pytest.mark.parametrize("engine", qwend_engines(), ids=lambda engine: engine.name)
def test_every_parameter_explains_itself(engine: Any) -> None:
    for name, field in engine.params.model_fields.items():
        assert field.description, f"{engine.name}: {name} has no description"


def test_the_drivers_own_parser_takes_every_word() -> None:
    """The words for the ready wheel are read by the driver's real argument parser."""
    # By its path: inside the image a driver is a program, not a module of this package.
    spec = importlib.util.spec_from_file_location("llama_cpp_serve", DRIVER)
    assert spec is not None
    assert spec.loader is not None
    driver = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(driver)
    with_ = {
        "context": 4096, "parallel": 2, "threads": 2, "threads_http": 2, "batch_size": 512, "ubatch_size": 128,
        "flash_attn": "on", "cache_type_k": "q8_0", "cache_type_v": "q4_1", "n_predict": 5, "chat_template": "chatml",
        "metrics": True, "slots": True, "warmup": False, "jinja": False,
    }  # fmt: skip
    words = command(ENGINE, step(ENGINE, with_=with_, secrets=("api_key",))).split()[2:]
    words = ["8080" if word == "<port>" else word for word in words]
    args = driver.parse(words)
    assert (args.ctx_size, args.parallel, args.threads, args.cache_type_v) == (4096, 2, 2, "q4_1")
    assert (args.jinja, args.slots, args.warmup, args.metrics) == (False, True, False, True)
    assert str(args.api_key_file) == "<api_key>"


def test_a_scaled_model_in_16_bits_is_warned_of_and_a_quantised_one_is_not() -> None:
    scaled = msgspec.structs.replace(QWEN_7B, dtype="F16", extra={"scaled": "awq"})
    assert warnings(ENGINE, step(ENGINE, model(facts=scaled))) == [
        "from: base is scaled for quantising and not quantised: in 16 bits that gains nothing"
    ]
    quantised = msgspec.structs.replace(Q4, extra={"scaled": "awq"})
    assert warnings(ENGINE, step(ENGINE, model(facts=quantised))) == []


def test_with_cards_the_compiled_server_serves_and_names_them() -> None:
    cards = step(Serve(), flavour="cuda", gpus=1)
    said = command(Serve(), cards)
    assert "bin/llama-server" in said
    assert "--device CUDA0" in said
    assert "--n-gpu-layers" not in said  # llama.cpp fits what the card holds
    image = Serve().image(cards, HOST)
    assert isinstance(image, ImageSpec)
    assert (image.name, image.flavour) == ("llama-cpp", "cuda")
