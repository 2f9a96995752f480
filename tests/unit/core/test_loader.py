from __future__ import annotations

import pytest
from tests.unit.core.loader_kit import ENGINES, GOOD, Quantize, complaints, read, steps

from qwend.core.loader import RecipeFile, load
from qwend.errors import UsageError


def test_a_good_recipe_becomes_models_with_defaults_filled_in() -> None:
    loaded = read(GOOD)
    assert loaded.recipe.steps["q4"].from_ == ("base",)
    assert loaded.recipe.models["base"].from_ == ("hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF/x.gguf",)
    assert loaded.params["q4"] == Quantize(type="Q4_K_M")
    assert loaded.params["chat"].model_dump() == {"context": 4096, "flash_attn": "auto", "adapters": ()}
    assert loaded.warnings == ()


def test_short_forms_mean_the_same_as_long_ones() -> None:
    short = read(GOOD).recipe
    long = read(
        GOOD.replace("from: base", "from: [base]").replace("base: hf:", "base:\n    from: hf:")
    ).recipe
    assert short == long
    restarts = [
        read(GOOD + f"    restart: {text}\n").recipe.steps["chat"].restart for text in ("no", "{policy: no}")
    ]
    assert restarts[0] == restarts[1]


def test_durations_and_sizes_are_read_in_words() -> None:
    chat = read(
        GOOD + "    stop_grace: 1m30s\n    memory: 8GiB\n    health: {deadline: 250ms}\n"
    ).recipe.steps["chat"]
    assert (chat.stop_grace, chat.memory) == (90.0, 8 * 1024**3)
    assert chat.health is not None
    assert chat.health.deadline == 0.25
    assert complaints(GOOD + "    stop_grace: soon\n    memory: much\n") == [
        'recipe.yaml:13:17: steps.chat.stop_grace: "soon" is no duration; write it as 30s, 5m or 1h30m '
        "(time between SIGTERM and SIGKILL)",
        'recipe.yaml:14:13: steps.chat.memory: "much" is no size; write it as 512M or 8GiB '
        "(host memory that it may take)",
    ]


def test_the_error_of_the_surface_reads_as_promised() -> None:
    assert complaints(GOOD.replace("Q4_K_M", "Q4_K_N")) == [
        'recipe.yaml:9:18: steps.q4.with.type: unknown quantisation "Q4_K_N"; did you mean Q4_K_M? '
        "(llama-cpp/quantize knows 9 types: qwend plugins ls llama-cpp/quantize)"
    ]


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    text = (
        GOOD.replace("version: 1", "version: 2")
        .replace("uses: llama-cpp/serve", "uses: llama-cpp/server")
        .replace("type: Q4_K_M", "typ: Q4_K_M, threads: 0")
    )
    assert complaints(text) == [
        "recipe.yaml:1:10: version: should be 1, not 2",
        "recipe.yaml:9:5: steps.q4.with.type: is required (the quantisation)",
        "recipe.yaml:9:12: steps.q4.with.typ: unknown key; did you mean type?",
        "recipe.yaml:9:34: steps.q4.with.threads: should be at least 1, not 0 (CPU threads)",
        'recipe.yaml:11:11: steps.chat.uses: unknown engine "llama-cpp/server"; did you mean llama-cpp/serve? '
        "(llama-cpp has llama-cpp/quantize, llama-cpp/serve)",
    ]


def test_a_union_complains_once_and_names_all_shapes() -> None:
    assert complaints(GOOD + "    with: {flash_attn: 3, context: '12'}\n    gpus: x\n") == [
        "recipe.yaml:13:24: steps.chat.with.flash_attn: should be true or false or auto, not 3 (flash attention)",
        'recipe.yaml:13:36: steps.chat.with.context: should be a whole number, not "12" (tokens of context)',
        'recipe.yaml:14:11: steps.chat.gpus: should be a whole number or a list, not "x" '
        "(how many cards, or a list of them (PCI index or UUID))",
    ]


def test_a_value_of_a_union_that_has_the_right_shape_is_judged_by_that_branch() -> None:
    assert complaints(GOOD + "    with: {flash_attn: aut}\n") == [
        'recipe.yaml:13:24: steps.chat.with.flash_attn: unknown flash_attn "aut"; '
        "did you mean auto? (it is one of auto)"
    ]
    assert complaints(GOOD + "    gpus: [1.5]\n") == [
        "recipe.yaml:13:12: steps.chat.gpus[0]: should be a whole number or text, not 1.5 "
        '(write it in quotes: "1.5")'
    ]


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ("prot: 80", "steps.chat.prot: unknown key; did you mean port?"),
        ("port: 70000", "steps.chat.port: should be at most 65535, not 70000"),
        ("env: {A: 1}", 'steps.chat.env.A: should be text, not 1 (write it in quotes: "1")'),
        (
            "env: {'1-': x}",
            'steps.chat.env.1-: "1-" is no name (letters, digits and _, not beginning with a digit)',
        ),
        ("trust_remote_code: yes", 'should be true or false, not "yes" (YAML 1.2 reads yes as a word)'),
        ("profiles: gpu", 'steps.chat.profiles: should be a list, not "gpu" (write it as [gpu])'),
        ("when: {device: gpu}", 'steps.chat.when.device: unknown device "gpu"; did you mean cuda?'),
        ("when: {system: windows}", "(it is one of linux, darwin)"),
        ("runtime: dcoker", "did you mean docker?"),
        ("idle: 15m", "steps.chat.idle: idle needs the gateway, which this version does not have"),
        ("timeout: 5m", "steps.chat.timeout: is for jobs; llama-cpp/serve is a service"),
        ("expect: [a < 1]", "steps.chat.expect: is for jobs; llama-cpp/serve is a service"),
        (
            "host: 0.0.0.0",
            "can be reached from other machines, and the service has no key (add secrets: [api_key]",
        ),
        ("host: '::'", "can be reached from other machines"),
        ("host: my.example", '"my.example" is no address'),
        ("restart: {policy: maybe}", 'steps.chat.restart.policy: unknown policy "maybe"'),
        (
            "restart: maybe",
            'steps.chat.restart: unknown restart "maybe" (it is one of no, on-failure, always)',
        ),
        ("gpus: [0, 0]", "steps.chat.gpus[1]: this card is in the list twice"),
        ("gpus: [-1]", "steps.chat.gpus[0]: cards count from 0"),
        ("gpu_share: 1.5", "steps.chat.gpu_share: should be at most 1.0, not 1.5"),
        ("with: [a]", "steps.chat.with: should be a mapping, not a list"),
        (
            "with: {extra: {}}",
            "steps.chat.with.extra: unknown key (known here: context, flash_attn, adapters)",
        ),
        ("retries: 1", "steps.chat.retries: is for jobs"),
    ],
)
def test_each_mistake_in_a_service_is_named(wrong: str, complaint: str) -> None:
    lines = complaints(GOOD + f"    {wrong}\n")
    assert len(lines) == 1, lines
    assert complaint in lines[0]
    assert lines[0].startswith("recipe.yaml:13:")


@pytest.mark.parametrize(
    "right", ["host: 127.0.0.2", "host: localhost", "host: '::1'", "host: 0.0.0.0\n    secrets: [api_key]"]
)
def test_loopback_needs_no_key_and_the_world_one(right: str) -> None:
    assert complaints(GOOD + f"    {right}\n") == []


@pytest.mark.parametrize(
    ("step", "complaint"),
    [
        (
            "q: {uses: llama-cpp/quantize, from: base, with: {type: F16}, port: 80}",
            "q.port: is for services;",
        ),
        (
            "q: {uses: llama-cpp/quantize, with: {type: F16}}",
            "q.from: is required: llama-cpp/quantize reads model/gguf",
        ),
        ("q: {uses: hub/fetch, from: base}", "q.from: hub/fetch takes no input"),
        ("q: {from: base}", "steps.q.uses: is required (the engine, as plugin/engine)"),
        ("q: {uses: quantize, from: base}", "did you mean llama-cpp/quantize?"),
        ("q: {uses: 5, from: base}", "steps.q.uses: should be text, not 5"),
        ("q: {uses: hub/fetch, device: cpu, gpus: 1}", "q.gpus: device is cpu, which has no cards"),
        ("q: {uses: hub/fetch, out: ../x}", 'steps.q.out: "../x" leaves the recipe\'s folder'),
        ("q: {uses: hub/fetch, out: a/../../x}", "leaves the recipe's folder"),
        ("q: {uses: hub/fetch, out: .}", "is a folder with other things in it"),
        ("Q: {uses: hub/fetch}", 'steps.Q: "Q" is no name (names have lower-case letters'),
        ("q: {uses: hub/fetch, network: all}", 'steps.q.network: unknown network "all"'),
    ],
)
def test_each_mistake_in_a_job_is_named(step: str, complaint: str) -> None:
    lines = complaints(steps(step))
    assert len(lines) == 1, lines
    assert complaint in lines[0]
    assert lines[0].startswith("recipe.yaml:3:")


def test_an_absolute_out_is_the_users_word_and_one_folder_serves_one_step() -> None:
    text = (
        "a: {uses: hub/fetch, out: /srv/a}, b: {uses: hub/fetch, out: x/../c}, c: {uses: hub/fetch, out: ./c}"
    )
    lines = complaints(steps(text))
    assert len(lines) == 1
    assert "steps.c.out: is the folder of b too" in lines[0]


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("Qwen/Qwen3-0.6B", "write hf:Qwen/Qwen3-0.6B or modelscope:Qwen/Qwen3-0.6B"),
        ("./x.gguf", "lacks its kind; write file:./x.gguf"),
        ("file:../x.gguf", "leaves the recipe's folder"),
        ("hf:Qwen", "should be hf:owner/repository"),
        ("hf:Qwen/x/../../y", "names a file outside its repository"),
        ("https://example.org/x.gguf", "#sha256= and 64 hexadecimal digits"),
        ("hg:Qwen/x", "no source is called hg"),
        ("smoek:qwen2", "did you mean smoke?"),
        ("5", "should be a reference, a list of mirrors, or a mapping with from:, not 5"),
        ("[]", "should have at least 1 item"),
        ("{smoke: qwen2}", "models.base.from: is required"),
        ("{from: hf:a/b, smoke: qwen9}", 'models.base.smoke: unknown stand-in "qwen9"; did you mean qwen2?'),
        ("{from: [hf:a/b, 3]}", "models.base.from[1]: should be text, not 3"),
        ('"hf:a/b\\u202e"', "holds characters that no file or repository has"),
    ],
)
def test_a_reference_is_checked_as_far_as_its_syntax_goes(source: str, complaint: str) -> None:
    lines = complaints(GOOD.replace("hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF/x.gguf", source))
    assert any(complaint in line for line in lines), lines
    assert len(lines) == 1, lines


def test_what_no_step_uses_is_a_warning_with_its_place() -> None:
    text = GOOD.replace("models:", "models:\n  spare: hf:a/b")
    assert read(text).warnings == ("recipe.yaml:4:3: models.spare is used by no step",)


def test_keys_that_begin_with_x_are_the_users_own() -> None:
    text = "x-common: &c {type: Q4_K_M}\n" + GOOD.replace("{type: Q4_K_M}", "*c")
    assert read(text).params["q4"].type == "Q4_K_M"  # type: ignore[attr-defined]


def test_hostile_names_are_shown_escaped_and_short() -> None:
    lines = complaints(GOOD + '    "\\e[2J\\n\\u202egpj": 1\n    ? ' + "k" * 900 + "\n    : 1\n")
    text = "\n".join(lines)
    assert "\\x1b[2J\\n\\u202egpj" in text
    assert "\x1b" not in text
    assert max(len(line) for line in lines) < 400


def test_hostile_file_names_are_shown_escaped() -> None:
    with pytest.raises(UsageError) as caught:
        load([RecipeFile("a\x1b[31m\n.yaml", "a: [")], engines=ENGINES)
    assert caught.value.lines()[0].startswith("a\\x1b[31m\\n.yaml:2:1:")


def test_too_many_errors_are_counted_not_listed() -> None:
    lines = complaints(GOOD + "".join(f"    key{index}: 1\n" for index in range(300)))
    assert len(lines) == 101
    assert lines[-1].endswith(": and 200 more errors")


def test_without_any_engine_the_plugins_are_to_blame() -> None:
    with pytest.raises(UsageError, match="2 errors") as caught:
        load([RecipeFile("r.yaml", GOOD)], engines={})
    assert "no plugin brings any" in caught.value.lines()[0]


def test_marks_find_a_key_below_a_variant_of_a_step() -> None:
    text = GOOD.replace("with: {type: Q4_K_M}", "matrix: {type: [Q8_0, Q4_K_M]}").replace(
        "from: q4", "from: q4[Q8_0]\n    with:\n      context: 512"
    )
    marks = read(text).marks
    assert marks.step("q4[Q8_0]", "with.type") == "recipe.yaml:9:14"
    assert marks.step("chat", "with.context") == "recipe.yaml:14:16"
    assert marks.step("chat", "with.flash_attn") == "recipe.yaml:13:5"
    assert marks.step("chat") == "recipe.yaml:10:3"


def test_a_validator_of_a_plugin_that_raises_is_an_error_of_the_recipe() -> None:
    from dataclasses import replace

    from pydantic import model_validator

    class Broken(Quantize):
        @model_validator(mode="after")
        def fail(self) -> Broken:
            raise RuntimeError("boom")

    engines = {**ENGINES, "llama-cpp/quantize": replace(ENGINES["llama-cpp/quantize"], params=Broken)}
    with pytest.raises(UsageError, match="fails to read its parameters"):
        load([RecipeFile("r.yaml", GOOD)], engines=engines)
