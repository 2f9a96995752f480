from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from tests.fakes import toys
from tests.unit.core.compile_kit import CHAIN, CPU, compiled, host, prints, steps

from qwend.core.fingerprint import differences
from qwend.core.planner import Snapshot, plan, realisation
from qwend.errors import UsageError
from qwend.model.artifact import Pin
from qwend.model.plan import Compiled, Plan
from qwend.model.service import Step


def row(compiled: Compiled, name: str, state: str, **changes: Any) -> Step:
    """The row of a step in a state."""
    step = steps(compiled)[name]
    fields: dict[str, Any] = {
        "key": f"{compiled.recipe}/{name}",
        "recipe": compiled.recipe,
        "step": name,
        "kind": "service" if step.kind == "service" else "job",
        "engine": step.engine,
        "fingerprint": step.fingerprint,
        "run": "r1",
        "state": state,
        "runtime": step.runtime,
    }
    return Step(**(fields | changes))


def done(compiled: Compiled, without: Iterable[str] = ()) -> Snapshot:
    """The world after an `up` of this recipe, without the artifacts or services of some steps."""
    gone = set(without)
    left = [step for step in compiled.steps if step.name not in gone]
    return Snapshot(
        host=CPU,
        artifacts=frozenset(step.fingerprint for step in left if step.kind in ("job", "source")),
        images=frozenset(realisation(s.runtime, s.image) for s in compiled.steps if s.image is not None),
        rows={
            step.name: row(compiled, step.name, "ready" if step.kind == "service" else "succeeded")
            for step in left
            if step.kind in ("job", "service")
        },
        previous=steps(compiled),
    )


def verbs(plan: Plan) -> dict[str, str]:
    return {action.step: action.verb for action in plan.actions}


def why(plan: Plan, step: str) -> str:
    return next(action.why for action in plan.actions if action.step == step)


def test_everything_is_to_do_where_nothing_is() -> None:
    made = plan(compiled(CHAIN), Snapshot(host=CPU))
    assert [(a.verb, a.step) for a in made.actions] == [
        ("build", f"hub-cpu-{b'hub-cpu'.hex()[:12]}"),
        ("run", "base"),
        ("build", f"toy-cpu-{b'toy-cpu'.hex()[:12]}"),
        ("run", "f16"),
        ("run", "q4"),
        ("start", "chat"),
    ]
    assert why(made, "base") == "not fetched yet"
    assert made.changes


def test_nothing_is_to_do_where_everything_is() -> None:
    chain = compiled(CHAIN)
    made = plan(chain, done(chain))
    assert set(verbs(made).values()) == {"keep"}
    assert not made.changes


def test_a_changed_parameter_is_the_reason_and_its_followers_name_their_input() -> None:
    before, after = compiled(CHAIN), compiled(CHAIN.replace("Q4_K_M", "Q5_K_M"))
    made = plan(after, done(before))
    assert verbs(made) == {"base": "keep", "f16": "keep", "q4": "run", "chat": "replace"}
    assert why(made, "q4") == "with.type Q4_K_M → Q5_K_M"
    assert why(made, "chat") == "input q4 changed"


def test_a_parameter_that_had_its_default_is_told_with_it() -> None:
    before = compiled(CHAIN)
    after = compiled(CHAIN.replace("uses: toy/convert,", "uses: toy/convert, with: {outtype: f32},"))
    assert why(plan(after, done(before)), "f16") == "with.outtype f16 → f32"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("uses: toy/convert,", "uses: toy/convert, env: {A: s3cret},"), "env.A added"),
        (("uses: toy/convert,", "uses: toy/convert, extra_args: [-v],"), 'extra_args none → ["-v"]'),
    ],
)
def test_what_else_changed_is_told_without_values_that_may_be_secret(
    change: tuple[str, str], reason: str
) -> None:
    made = plan(compiled(CHAIN.replace(*change)), done(compiled(CHAIN)))
    assert why(made, "f16") == reason


@pytest.mark.parametrize(
    ("part", "change", "reason"),
    [
        ("policy", {"gpus": ("1",)}, "gpus changed"),
        ("policy", {"gpu_share": 0.5}, "gpu_share changed"),
        ("policy", {"memory": 1 << 30}, "memory changed"),
        ("resources", {"cpus": 1.5}, "cpus changed"),
    ],
)
def test_a_service_that_is_to_take_other_resources_starts_again(
    part: str, change: dict[str, Any], reason: str
) -> None:
    before = compiled(CHAIN)
    changed = {part: msgspec.structs.replace(getattr(steps(before)["chat"], part), **change)}
    chat = msgspec.structs.replace(steps(before)["chat"], **changed)
    after = msgspec.structs.replace(before, steps=(*before.steps[:-1], chat))
    assert before.steps[-1].name == "chat"
    made = plan(after, done(before))
    assert verbs(made) == {"base": "keep", "f16": "keep", "q4": "keep", "chat": "replace"}
    assert why(made, "chat") == reason


def test_a_rename_is_no_reason_to_make_anything_again() -> None:
    before = compiled(CHAIN)
    after = compiled(CHAIN.replace("f16", "half"))
    world = done(before)
    assert verbs(plan(after, world)) == {"base": "keep", "half": "keep", "q4": "keep", "chat": "keep"}


def test_an_intermediate_is_not_made_again_for_consumers_that_are_there() -> None:
    chain = compiled(CHAIN.replace("from: base}", "from: base, keep: false}"))
    world = done(chain, without=["f16", "base"])
    assert verbs(plan(chain, world)) == {"q4": "keep", "chat": "keep"}
    changed = compiled(CHAIN.replace("from: base}", "from: base, keep: false}").replace("Q4_K_M", "Q8_0"))
    assert verbs(plan(changed, world)) == {"base": "run", "f16": "run", "q4": "run", "chat": "replace"}


def test_an_artifact_that_was_to_be_kept_and_is_gone_is_made_again() -> None:
    chain = compiled(CHAIN)
    world = msgspec.structs.replace(done(chain), artifacts=done(chain, without=["f16"]).artifacts)
    made = plan(chain, world)
    assert verbs(made) == {"base": "keep", "f16": "run", "q4": "keep", "chat": "keep"}
    assert why(made, "f16") == "its artifact is no longer in the store"


def test_what_follows_a_forced_step_is_left_as_it_is() -> None:
    chain = compiled(CHAIN)
    assert verbs(plan(chain, done(chain), force=["f16"])) == {
        "base": "keep", "f16": "run", "q4": "keep", "chat": "keep"
    }  # fmt: skip


def test_a_forced_step_runs_although_it_is_there() -> None:
    chain = compiled(CHAIN)
    made = plan(chain, done(chain), force=["q4", "chat"])
    assert verbs(made) == {"base": "keep", "f16": "keep", "q4": "run", "chat": "replace"}
    assert why(made, "q4") == "forced"


def test_forcing_a_step_that_is_not_there_is_an_error_with_a_guess() -> None:
    with pytest.raises(UsageError, match='there is no step "chatt" to force; did you mean chat'):
        plan(compiled(CHAIN), Snapshot(host=CPU), force=["chatt"])


@pytest.mark.parametrize(
    ("state", "changes", "verb", "reason"),
    [
        ("ready", {}, "keep", "ready"),
        ("starting", {}, "keep", "starting"),
        ("stopped", {"want": "down"}, "start", "stopped"),
        ("failed", {"reason": "out of memory"}, "start", "failed before: out of memory"),
        ("ready", {"fingerprint": "other"}, "replace", "changed since it was started"),
        ("ready", {"runtime": "docker"}, "replace", "runtime docker → native"),
    ],
)
def test_a_service_is_kept_started_or_replaced_by_its_state(
    state: str, changes: dict[str, Any], verb: str, reason: str
) -> None:
    chain = compiled(CHAIN)
    world = done(chain)
    rows = {**world.rows, "chat": row(chain, "chat", state, **changes)}
    made = plan(chain, msgspec.structs.replace(world, rows=rows))
    assert (verbs(made)["chat"], why(made, "chat")) == (verb, reason)


def test_threads_rebuild_nothing_but_restart_the_service_that_was_told_so() -> None:
    before = compiled(CHAIN)
    text = CHAIN.replace("from: q4}", "from: q4, with: {threads: 4}}").replace(
        "Q4_K_M}", "Q4_K_M, threads: 4}"
    )
    made = plan(compiled(text), done(before))
    assert verbs(made) == {"base": "keep", "f16": "keep", "q4": "keep", "chat": "replace"}
    assert why(made, "chat") == "with.threads None → 4"


def test_policies_apply_to_what_runs() -> None:
    text = CHAIN.replace("from: q4}", "from: q4, restart: always, stop_grace: 1s}")
    assert not plan(compiled(text), done(compiled(CHAIN))).changes


def test_a_service_that_left_the_recipe_is_stopped_and_one_that_was_not_asked_for_is_not() -> None:
    before = compiled(CHAIN)
    after = compiled(CHAIN.replace("  chat: {uses: toy/serve, from: q4}\n", ""))
    made = plan(after, done(before))
    first = made.actions[0]
    assert (first.verb, first.step, first.why) == ("stop", "chat", "no longer in the recipe")
    assert "chat" not in verbs(plan(compiled(CHAIN, only=("q4",)), done(before)))


def test_a_job_that_failed_or_was_cut_off_says_so() -> None:
    chain = compiled(CHAIN)
    world = done(chain, without=["q4", "chat"])
    for state, reason in (
        ("failed", "failed before: exit code 1"), ("cancelled", "was cut off"), ("running", "already under way"),
    ):  # fmt: skip
        rows = {**world.rows, "q4": row(chain, "q4", state, reason="exit code 1")}
        assert why(plan(chain, msgspec.structs.replace(world, rows=rows)), "q4") == reason


def test_files_of_this_machine_are_referred_to_and_not_fetched() -> None:
    here = Pin(ref="shop:tiny/model/safetensors", identity="sha256:aa", type="model/safetensors", local="/m")
    made = plan(compiled(CHAIN, pins={"base": here}), Snapshot(host=CPU))
    assert verbs(made)["base"] == "reference"
    assert made.download == 0


def test_bytes_to_download_and_to_write_are_summed_up() -> None:
    made = plan(compiled(CHAIN), Snapshot(host=CPU))
    assert made.download == 988_000_000
    assert made.disk == 988_000_000 * 2 + 247_000_000 + 2 * 100 * 1024 * 1024


def test_an_interactive_step_runs_when_asked_for() -> None:
    text = CHAIN + "  talk: {uses: toy/chat, from: q4}\n"
    assert "talk" not in verbs(plan(compiled(text), Snapshot(host=CPU)))
    made = plan(compiled(text, only=("talk",)), Snapshot(host=CPU))
    assert verbs(made)["talk"] == "run"
    assert "chat" not in verbs(made)


def test_what_a_pin_has_to_say_is_a_warning() -> None:
    pin = msgspec.structs.replace(toys.pin("shop:tiny/model/safetensors"), notice="no hub reachable")
    made = plan(compiled(CHAIN, pins={"base": pin}), Snapshot(host=CPU))
    assert "base: no hub reachable" in made.warnings


def test_a_driver_that_changed_is_the_reason() -> None:
    before = steps(compiled(CHAIN))
    old = msgspec.structs.replace(
        before["f16"], ingredients={**before["f16"].ingredients, "file.convert.py": '"0"'}
    )
    assert differences(old, before["f16"]) == ["driver convert.py changed"]


def test_a_new_lock_and_a_new_revision_are_the_reason() -> None:
    new = steps(compiled(CHAIN))["f16"]
    old = msgspec.structs.replace(
        new,
        ingredients={**new.ingredients, "image": '["toy-cpu","0"]', "engine": '["toy/convert",0]'},
    )
    assert differences(old, new) == ["toy/convert revision 0 → 1", "image toy-cpu changed"]


def test_a_thousand_fingerprints_are_all_different() -> None:
    lines = [f"  s{n}: {{uses: toy/convert, from: base, env: {{N: '{n}'}}}}" for n in range(1000)]
    text = 'name: wide\nmodels: {base: "shop:tiny/model/safetensors"}\nsteps:\n' + "\n".join(lines)
    assert len(set(prints(compiled(text)).values())) == 1001


def test_the_plan_of_a_machine_with_more_memory_is_the_same() -> None:
    chain = compiled(CHAIN)
    world = msgspec.structs.replace(done(chain), host=host(memory=1 << 40))
    assert plan(chain, world).actions == plan(chain, done(chain)).actions
