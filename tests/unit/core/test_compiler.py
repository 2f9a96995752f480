from __future__ import annotations

from typing import ClassVar

import pytest
from tests.fakes import toys
from tests.unit.core.compile_kit import CHAIN, ENGINES, INFOS, compiled, complaints, host, prints, steps

from qwend.core.compiler import compile_recipe
from qwend.core.loader import RecipeFile, load
from qwend.core.selection import select
from qwend.core.sourcing import sought
from qwend.core.terms import Terms
from qwend.errors import QwendError
from qwend.model.artifact import Facts, Pin, PinnedFile
from qwend.model.launch import InputRef
from qwend.plugin.testing import check_engine

TRAINED = """\
name: trained
models: {base: "shop:tiny/model/safetensors"}
steps:
  adapter: {uses: toy/train, from: base}
  merged: {uses: toy/merge, from: adapter}
"""
MATRIX = """\
name: many
models: {base: "shop:tiny/model/gguf"}
steps:
  quant: {uses: toy/quantize, from: base, matrix: {type: [Q8_0, Q4_K_M]}}
  table: {uses: toy/compare, from: [base, quant]}
  chat: {uses: toy/serve, from: "quant[Q4_K_M]"}
"""


@pytest.mark.parametrize("engine", toys.ENGINES, ids=lambda engine: engine.name)
def test_the_toys_keep_the_contract_that_they_stand_for(engine: object) -> None:
    assert [f for f in check_engine(engine) if f.level == "error"] == []  # type: ignore[arg-type]


def test_steps_come_after_what_they_read_and_sources_first() -> None:
    reverse = CHAIN.replace("  f16:", "  zz:").replace("from: f16", "from: zz")
    lines = reverse.splitlines()
    shuffled = "\n".join([*lines[:4], lines[6], lines[5], lines[4]])
    assert [step.name for step in compiled(shuffled).steps] == ["base", "zz", "q4", "chat"]


def test_a_compiled_step_says_all_that_is_needed_to_run_it() -> None:
    q4 = steps(compiled(CHAIN))["q4"]
    assert (q4.kind, q4.engine, q4.produces, q4.runtime, q4.flavour) == (
        "job", "toy/quantize", "model/gguf", "native", "cpu",
    )  # fmt: skip
    assert [edge.step for edge in q4.inputs] == ["f16"]
    assert q4.command == ("bin/quantize", "<f16>/*.gguf", "<out>/model.gguf", "Q4_K_M", "<threads>")
    assert q4.options == {"type": "Q4_K_M", "imatrix": None, "threads": None}
    assert q4.where == "recipe.yaml:6:3"
    assert q4.chosen == "cpu: no accelerator found; native: no Docker engine answers"


def test_a_smoke_run_puts_nothing_where_a_real_result_may_lie() -> None:
    text = CHAIN.replace("uses: toy/quantize,", "uses: toy/quantize, out: ./q4,")
    assert steps(compiled(text))["q4"].policy.out == "/recipes/q4"
    tiny = Pin(ref="smoke:qwen2", identity="sha256:aa", type="model/safetensors", local="/models/tiny")
    assert steps(compiled(text, smoke=True, pins={"base": tiny}))["q4"].policy.out is None


def test_facts_follow_the_artifacts_down_the_chain() -> None:
    found = steps(compiled(CHAIN))
    assert found["base"].facts.bytes == 988_000_000
    assert found["q4"].facts.bytes == 247_000_000
    assert found["q4"].resources.disk == 247_000_000


def test_the_disk_that_a_model_takes_counts_its_vocabulary() -> None:
    tiny = Pin(
        ref="shop:tiny/model/safetensors",
        identity="sha256:aa",
        type="model/safetensors",
        facts=Facts(bytes=80_000_000, vocabulary=151_936),
        local="/models/tiny",
    )
    q4 = steps(compiled(CHAIN, pins={"base": tiny}))["q4"]
    assert q4.resources.disk == (q4.facts.bytes or 0) + 39 * 151_936


def test_a_source_is_fetched_unless_it_lies_on_this_machine() -> None:
    assert steps(compiled(CHAIN))["base"].launch is not None
    here = Pin(
        ref="shop:tiny/model/safetensors", identity="sha256:aa", type="model/safetensors", local="/models/x"
    )
    base = steps(compiled(CHAIN, pins={"base": here}))["base"]
    assert base.launch is None
    assert base.pin is not None
    assert base.pin.local == "/models/x"


def test_an_adapter_brings_its_base_along() -> None:
    merged = steps(compiled(TRAINED))["merged"]
    assert [edge.step for edge in merged.inputs] == ["adapter", "base"]
    assert merged.launch is not None
    assert InputRef("base") in merged.launch.argv


def test_a_matrix_is_one_step_per_value_and_its_bare_name_means_all() -> None:
    found = steps(compiled(MATRIX))
    assert [name for name in found if name.startswith("quant")] == ["quant[Q8_0]", "quant[Q4_K_M]"]
    assert [edge.step for edge in found["table"].inputs] == ["base", "quant[Q8_0]", "quant[Q4_K_M]"]
    assert [edge.step for edge in found["chat"].inputs] == ["quant[Q4_K_M]"]


def test_a_wrong_edge_names_the_step_to_insert() -> None:
    assert complaints(CHAIN.replace("from: f16, with", "from: base, with")) == [
        "recipe.yaml:6:34: steps.q4.from: base is model/safetensors, and toy/quantize reads model/gguf "
        "(insert toy/convert between base and q4)"
    ]


def test_a_wrong_edge_that_takes_two_steps_to_mend_names_both() -> None:
    text = TRAINED + "  chat: {uses: toy/serve, from: adapter}\n"
    assert complaints(text) == [
        "recipe.yaml:6:33: steps.chat.from: adapter is adapter/lora, and toy/serve reads model/gguf "
        "(insert toy/merge and then toy/convert between adapter and chat)"
    ]


def test_a_wrong_edge_of_a_parameter_stands_at_the_parameter() -> None:
    text = CHAIN.replace("with: {type: Q4_K_M}", "with: {type: Q4_K_M, imatrix: base}")
    assert complaints(text) == [
        "recipe.yaml:6:69: steps.q4.with.imatrix: base is model/safetensors, and toy/quantize reads "
        "imatrix/gguf (insert toy/convert and then toy/imatrix between base and q4)"
    ]


def test_a_service_makes_nothing_that_a_step_could_read() -> None:
    (line,) = complaints(CHAIN + "  again: {uses: toy/serve, from: chat}\n")
    assert line.startswith(
        "recipe.yaml:8:34: steps.again.from: chat is a service, which makes nothing to read"
    )


def test_an_item_of_a_list_is_wrong_at_its_own_place() -> None:
    (line,) = complaints(MATRIX.replace("from: [base, quant]", "from: [quant, chat]"))
    assert line.startswith("recipe.yaml:5:44: steps.table.from")


def test_what_an_engine_objects_to_stands_at_the_key_it_names() -> None:
    text = CHAIN + "  again: {uses: toy/quantize, from: q4, with: {type: Q4_K_M}}\n"
    assert complaints(text) == [
        "recipe.yaml:8:54: steps.again.with.type: it has this type already (leave the step out)"
    ]


def test_what_an_engine_only_doubts_is_a_notice() -> None:
    text = """\
name: doubts
models: {base: "shop:tiny/model/gguf"}
datasets: {words: "shop:words/dataset/text"}
steps:
  matrix: {uses: toy/imatrix, from: base, with: {text: words}}
  q8: {uses: toy/quantize, from: base, with: {type: Q8_0, imatrix: matrix}}
"""
    assert steps(compiled(text))["q8"].notices == ("an importance matrix does nothing for Q8_0",)


def test_all_that_is_wrong_is_told_at_once_and_followers_say_nothing() -> None:
    text = CHAIN.replace("from: f16, with", "from: base, with") + (
        "  again: {uses: toy/serve, from: base}\n  after: {uses: toy/compare, from: [q4, f16]}\n"
    )
    assert [line.split(":")[1] for line in complaints(text)] == ["6", "8"]


def test_environment_and_secrets_reach_the_launch() -> None:
    text = CHAIN.replace("from: q4}", "from: q4, env: {A: b}, secrets: [api_key], host: 0.0.0.0}")
    chat = steps(compiled(text))["chat"]
    assert chat.launch is not None
    assert chat.launch.env["A"] == "b"
    assert chat.secrets == ("api_key",)
    assert "--key" in chat.command


def test_environment_that_qwend_sets_itself_is_refused() -> None:
    (line,) = complaints(CHAIN.replace("from: q4}", "from: q4, env: {QWEND_REPORT: x}}"))
    assert "env.QWEND_REPORT: qwend sets this itself" in line


@pytest.mark.parametrize(
    "key",
    ["network: egress, trust_remote_code: true", "network: egress, allow_pickle: true", "network: none"],
)
def test_code_that_came_with_a_model_runs_without_network(key: str) -> None:
    text = CHAIN.replace("uses: toy/convert,", f"uses: toy/convert, {key},")
    launch = steps(compiled(text))["f16"].launch
    assert launch is not None
    assert not launch.network
    declared = steps(compiled(CHAIN.replace("uses: toy/convert,", "uses: toy/convert, network: egress,")))
    assert declared["f16"].launch is not None
    assert declared["f16"].launch.network


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("network: none", "network: none"),
        ("trust_remote_code: true", "trust_remote_code"),
        ("trust_remote_code: true, allow_pickle: true", "trust_remote_code and allow_pickle"),
    ],
)
def test_a_native_step_that_counts_on_having_no_network_is_told_that_nothing_enforces_it(
    key: str, said: str
) -> None:
    text = CHAIN.replace("uses: toy/convert,", f"uses: toy/convert, {key},")
    assert steps(compiled(text))["f16"].notices == (
        f"{said}: a native process is only told to stay offline, nothing keeps it from the network "
        "(runtime: docker does)",
    )
    contained = compiled(text, runtime="docker", runtimes=("native", "docker"), host=host(docker="27.1"))
    assert steps(contained)["f16"].notices == ()
    assert steps(compiled(CHAIN))["f16"].notices == ()


def test_pickled_weights_are_refused_unless_the_source_allows_them() -> None:
    pin = Pin(
        ref="shop:tiny/model/safetensors", identity="shop:tiny@1", type="model/safetensors",
        files=(PinnedFile("pytorch_model.bin", 10),),
    )  # fmt: skip
    (line,) = complaints(CHAIN, pins={"base": pin})
    assert line.startswith("recipe.yaml:3:9: base: pytorch_model.bin may hold a pickle")
    allowed = CHAIN.replace(
        "base: shop:tiny/model/safetensors",
        'base: {from: "shop:tiny/model/safetensors", allow_pickle: true}',
    )
    assert steps(compiled(allowed, pins={"base": pin}))["base"].pin == pin


def test_the_start_deadline_grows_with_the_weights() -> None:
    small = steps(compiled(CHAIN))["chat"].policy.deadline_s
    large = steps(compiled(CHAIN.replace("from: q4}", "from: f16}").replace("  q4:", "  other:")))[
        "chat"
    ].policy.deadline_s
    assert small is not None
    assert large is not None
    assert 30 < small < large
    fixed = compiled(CHAIN.replace("from: q4}", "from: q4, health: {deadline: 5s, interval: 2s}}"))
    assert steps(fixed)["chat"].policy.deadline_s == 5
    assert steps(fixed)["chat"].policy.probe_interval_s == 2


def test_policies_come_from_the_recipe() -> None:
    text = CHAIN.replace(
        "from: base}", "from: base, keep: false, out: ./f16, timeout: 1h, retries: 2, memory: 2g}"
    )
    policy = steps(compiled(text))["f16"].policy
    assert (policy.keep, policy.out, policy.timeout_s, policy.retries, policy.memory) == (
        False, "/recipes/f16", 3600, 2, 2 << 30,
    )  # fmt: skip


def test_what_does_not_change_the_output_changes_no_fingerprint() -> None:
    before = prints(compiled(CHAIN))
    text = (
        CHAIN.replace("type: Q4_K_M}", "type: Q4_K_M, threads: 3}, keep: false, timeout: 1h, memory: 2g, cpus: 2")
        .replace("from: q4}", "from: q4, restart: always, stop_grace: 3s, health: {interval: 3s}}")
    )  # fmt: skip
    assert prints(compiled(text)) == before
    assert prints(compiled(CHAIN, host=host(cpus=64, memory=1 << 40))) == before
    docker = compiled(CHAIN, host=host(docker="27.0"), runtimes=("native", "docker"))
    assert prints(docker) == before
    assert steps(docker)["q4"].runtime == "docker"


def test_renaming_steps_rebuilds_nothing() -> None:
    before = prints(compiled(CHAIN))
    renamed = prints(compiled(CHAIN.replace("f16", "half").replace("q4", "small").replace("base", "source")))
    assert list(renamed.values()) == list(before.values())


def test_saying_a_default_aloud_rebuilds_nothing() -> None:
    said = CHAIN.replace("uses: toy/convert,", "uses: toy/convert, with: {outtype: f16},")
    assert prints(compiled(said)) == prints(compiled(CHAIN))


@pytest.mark.parametrize(
    ("change", "rebuilt"),
    [
        (("type: Q4_K_M", "type: Q5_K_M"), {"q4", "chat"}),
        (("uses: toy/convert,", "uses: toy/convert, env: {A: b},"), {"f16", "q4", "chat"}),
        (("uses: toy/convert,", "uses: toy/convert, extra_args: [-v],"), {"f16", "q4", "chat"}),
        (("from: q4}", "from: q4, port: 8080}"), {"chat"}),
        (("from: q4}", "from: q4, secrets: [key]}"), {"chat"}),
        (("shop:tiny/", "shop:other/"), {"base", "f16", "q4", "chat"}),
    ],
    ids=lambda value: "",
)
def test_a_change_rebuilds_the_step_and_what_follows_it(change: tuple[str, str], rebuilt: set[str]) -> None:
    before, after = prints(compiled(CHAIN)), prints(compiled(CHAIN.replace(*change)))
    assert {name for name in before if before[name] != after[name]} == rebuilt


def test_a_new_revision_of_a_source_or_engine_or_lock_rebuilds(monkeypatch: pytest.MonkeyPatch) -> None:
    before = prints(compiled(CHAIN))
    pinned = prints(compiled(CHAIN, pins={"base": toys.pin("shop:tiny/model/safetensors", "2")}))
    assert all(before[name] != pinned[name] for name in before)
    monkeypatch.setattr(type(ENGINES["toy/quantize"]), "revision", 2)
    raised = prints(compiled(CHAIN))
    assert {name for name in before if before[name] != raised[name]} == {"q4", "chat"}
    monkeypatch.undo()
    monkeypatch.setattr(toys, "DRIVER", toys.LaunchFile("convert.py", "print('other')\n"))
    assert prints(compiled(CHAIN))["f16"] != before["f16"]


def test_the_digest_of_a_compilation_is_that_of_its_content() -> None:
    assert compiled(CHAIN).digest == compiled(CHAIN).digest
    assert compiled(CHAIN).digest != compiled(CHAIN.replace("Q4_K_M", "Q8_0")).digest


def test_a_launch_that_refers_to_nothing_is_the_fault_of_its_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        type(ENGINES["toy/convert"]), "launch", lambda *_: toys.Launch(argv=("x", InputRef("nobody")))
    )
    assert complaints(CHAIN) == [
        "recipe.yaml:5:3: toy/convert reads input nobody, which the step was not given"
    ]


def test_a_source_that_was_not_pinned_is_an_error_of_its_own() -> None:
    loaded = load([RecipeFile("recipe.yaml", CHAIN)], engines=INFOS, schemes=("shop",))
    selection = select(loaded, ENGINES, host())
    sources = sought(loaded, selection, INFOS, smoke=False)
    with pytest.raises(QwendError, match="base was not resolved"):
        compile_recipe(loaded, selection, sources, {}, ENGINES, {}, Terms(host()))


class Careful(toys.Convert):
    """An engine that wants adapters merged before it converts them."""

    first: ClassVar[dict[str, tuple[str, ...]]] = {"adapter/lora": ("toy/absent", "toy/merge")}


CAREFUL = """\
name: careful
models: {base: "shop:tiny/model/safetensors"}
steps:
  adapter: {uses: toy/train, from: base}
  f16: {uses: toy/convert, from: adapter}
  again: {uses: toy/convert, from: adapter}
"""


def test_what_an_engine_wants_put_through_another_first_gets_one_step_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(ENGINES, "toy/convert", Careful())
    made = compiled(CAREFUL)
    assert [step.name for step in made.steps] == ["base", "adapter", "adapter.merge", "f16", "again"]
    merge, f16 = steps(made)["adapter.merge"], steps(made)["f16"]
    assert (merge.engine, merge.produces) == ("toy/merge", "model/safetensors")
    assert [edge.step for edge in f16.inputs] == ["adapter.merge"]
    assert f16.notices == ("toy/convert takes no adapter/lora: toy/merge makes adapter.merge of it first",)
    # Its fingerprint is the one that the step would have if the recipe said it.
    said = CAREFUL.replace("  f16:", "  m: {uses: toy/merge, from: adapter}\n  f16:")
    spelled = prints(compiled(said.replace("from: adapter}\n  again", "from: m}\n  again")))
    assert (spelled["m"], spelled["f16"]) == (merge.fingerprint, f16.fingerprint)


def test_an_adapter_that_nobody_knows_the_base_of_is_not_put_through_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(ENGINES, "toy/convert", Careful())
    text = "name: r\nmodels: {a: 'shop:tiny/adapter/lora'}\nsteps:\n  f16: {uses: toy/convert, from: a}\n"
    assert any("a is adapter/lora, and toy/convert reads" in line for line in complaints(text))
