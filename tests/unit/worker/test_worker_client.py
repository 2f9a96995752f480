"""The real worker process, with plugins that behave and plugins that do not."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.fakes import toys
from tests.unit.core.compile_kit import CHAIN, CPU, compiled
from tests.unit.worker.site_kit import HEAD, engines, install, search_path

from qwend.core.recipe_text import RecipeFile
from qwend.errors import QwendError, UsageError
from qwend.model.event import Event
from qwend.model.host import Host
from qwend.model.image import ImageSpec, load_image
from qwend.model.plan import Compiled
from qwend.worker.client import WorkerClient
from qwend.worker.wire import LoadRequest, RecipeRequest

IMAGES = Path(__file__).resolve().parents[3] / "images/qwend_images"
TOYS = "from tests.fakes.toys import *\n"
USES_BAD = 'name: r\nmodels: {base: "shop:tiny/model/safetensors"}\nsteps: {s: {uses: bad/one, from: base}}\n'
BAD = engines("bad/one")


def bad_launch(body: str) -> str:
    """A plugin whose engine does something in `launch`."""
    method = f"    def launch(self, step, host):\n        {body}\n"
    return BAD.replace("    name = 'bad/one'\n", f"    name = 'bad/one'\n{method}").replace(
        HEAD, f"{HEAD}import ctypes, os, signal, subprocess, sys, time\n"
    )


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site folder with the toys, which the workers of this test find."""
    install(tmp_path / "site", {"toys": TOYS})
    monkeypatch.setenv("PYTHONPATH", search_path(tmp_path / "site"))
    return tmp_path / "site"


@pytest.fixture
async def client(site: Path) -> AsyncIterator[WorkerClient]:
    worker = WorkerClient(patience_s=1.5)
    yield worker
    await worker.close()


def request(text: str = CHAIN, host: Host = CPU, **more: Any) -> LoadRequest:
    recipe = RecipeRequest((RecipeFile("recipe.yaml", text),), "/recipes", **more)
    return LoadRequest(recipe, host)


async def compile_(client: WorkerClient, text: str = CHAIN, have: Compiled | None = None) -> Compiled:
    """Loads, pins as the shop says, compiles."""
    asked = request(text)
    loaded = await client.load(asked)
    pins = {}
    for source in loaded.sources:
        resolution = source.candidates[0].resolution
        assert resolution is not None
        assert resolution.pin is not None
        pins[source.name] = resolution.pin
    return await client.compile(asked, pins, have)


async def test_the_users_build_options_reach_the_images_that_plugins_ask_for(site: Path) -> None:
    body = f"    def image(self, step, host):\n        return load_image({str(IMAGES / 'llama-cpp')!r}, 'cuda12')\n"
    named = "    name = 'own/convert'\n"
    install(site, {"own": engines("own/convert").replace(named, named + body)})
    client = WorkerClient(build_options={"architectures": "70-real"})
    try:
        made = await compile_(client, USES_BAD.replace("bad/one", "own/convert"))
    finally:
        await client.close()
    [image] = [step.image for step in made.steps if step.name == "s"]
    assert isinstance(image, ImageSpec)
    assert image.options["architectures"] == "70-real"
    assert image.digest == load_image(IMAGES / "llama-cpp", "cuda12", {"architectures": "70-real"}).digest


def pid(client: WorkerClient) -> int:
    process = client._process
    assert process is not None
    return process.pid


async def test_a_recipe_is_loaded_and_compiled_as_it_would_be_here(client: WorkerClient) -> None:
    loaded = await client.load(request())
    assert loaded.recipe == "chain"
    (source,) = loaded.sources
    assert (source.name, source.kind, source.candidates[0].ref) == (
        "base",
        "model",
        "shop:tiny/model/safetensors",
    )
    made, here = await compile_(client), compiled(CHAIN)
    assert [s.fingerprint for s in made.steps] == [s.fingerprint for s in here.steps]
    assert [s.launch for s in made.steps] == [s.launch for s in here.steps]
    assert made.steps[1].plugin == "dist-toys 1.0"


async def test_all_mistakes_cross_the_border_with_their_places(client: WorkerClient) -> None:
    with pytest.raises(UsageError) as caught:
        await client.load(request(CHAIN.replace("Q4_K_M", "Q4_K_N").replace("from: base", "from: bas")))
    assert [line.split(" ")[0] for line in caught.value.lines()] == ["recipe.yaml:5:34:", "recipe.yaml:6:52:"]


async def test_mistakes_of_references_stand_where_they_are_written(client: WorkerClient) -> None:
    with pytest.raises(UsageError) as caught:
        await client.load(request(CHAIN.replace("shop:tiny/", "shop:ti-ny/")))
    assert caught.value.lines() == [
        "recipe.yaml:3:9: models.base: a shop sells things like shop:tiny/model/gguf"
    ]


async def test_a_mirror_that_cannot_be_used_is_told_beside_one_that_can(client: WorkerClient) -> None:
    text = CHAIN.replace("shop:tiny/model/safetensors", "[shop:ti-ny/x, shop:tiny/model/safetensors]")
    first, second = (await client.load(request(text))).sources[0].candidates
    assert first.error is not None
    assert first.error["message"] == "models.base: a shop sells things like shop:tiny/model/gguf"
    assert second.resolution is not None


async def test_what_a_plugin_prints_goes_to_the_log_and_breaks_nothing(
    site: Path, client: WorkerClient, caplog: pytest.LogCaptureFixture
) -> None:
    body = "print('noise ' * 50); os.write(1, b'raw'); assert sys.stdin.read() == ''; return super().launch(step, host)"
    install(site, {"bad": bad_launch(body)})
    with caplog.at_level("INFO", logger="qwend.worker"):
        assert (await compile_(client, USES_BAD)).recipe == "r"
        await client.close()
    assert "noise noise" in caplog.text


async def test_a_plugin_that_hangs_at_import_is_named_and_the_others_plan(
    site: Path, client: WorkerClient
) -> None:
    install(site, {"bad": "import time\nwhile True: time.sleep(60)\n"})
    assert (await compile_(client)).recipe == "chain"
    (problem,) = client.problems
    assert (problem.plugin, problem.reason) == ("bad", "no answer within 1.5 s in import")
    (warning,) = (await compile_(client)).warnings
    assert warning == "plugin bad is left out: no answer within 1.5 s in import"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("time.sleep(600)", "no answer within 1.5 s in bad/one.launch for step s"),
        ("\n        while True: pass", "no answer within 1.5 s in bad/one.launch for step s"),
        ("os._exit(0)", "ended the planner worker (exit code 0) in bad/one.launch for step s"),
        ("os.kill(os.getpid(), signal.SIGKILL)",
         "ended the planner worker (ended by signal 9) in bad/one.launch for step s"),
        ("ctypes.string_at(0)", "ended the planner worker (ended by signal 11) in bad/one.launch for step s"),
    ],
)  # fmt: skip
async def test_a_plugin_that_hangs_or_kills_the_worker_is_named_to_who_uses_it(
    site: Path, client: WorkerClient, body: str, reason: str
) -> None:
    install(site, {"bad": bad_launch(body)})
    with pytest.raises(UsageError) as caught:
        await compile_(client, USES_BAD)
    lines = caught.value.lines()
    assert 'unknown engine "bad/one"' in lines[0]
    assert lines[1] == f"plugin bad is left out: {reason}"
    assert (await compile_(client)).recipe == "chain"


async def test_a_plugin_that_exits_or_raises_in_a_step_fails_that_step_only(
    site: Path, client: WorkerClient
) -> None:
    install(site, {"bad": bad_launch("sys.exit(4)")})
    before = await compile_(client)
    worker = pid(client)
    with pytest.raises(QwendError) as caught:
        await compile_(client, USES_BAD)
    assert caught.value.code == "plugin-failed"
    assert caught.value.message.startswith("plugin bad failed in bad/one.launch for step s: SystemExit: 4")
    assert caught.value.where == "recipe.yaml:3:9"
    assert (await compile_(client)) == before
    assert pid(client) == worker


async def test_children_of_a_plugin_that_hangs_are_ended_too(
    site: Path, client: WorkerClient, tmp_path: Path
) -> None:
    note = tmp_path / "child"
    body = f"open({str(note)!r}, 'w').write(str(subprocess.Popen(['sleep', '600']).pid)); time.sleep(600)"
    install(site, {"bad": bad_launch(body)})
    with pytest.raises(UsageError):
        await compile_(client, USES_BAD)
    child = int(note.read_text())
    while _alive(child):  # it was sent SIGKILL: it ends, whoever adopts it
        os.sched_yield()


def _alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_a_plugin_that_was_left_out_comes_back_when_it_changes(
    site: Path, client: WorkerClient
) -> None:
    install(site, {"bad": bad_launch("os._exit(1)")})
    with pytest.raises(UsageError):
        await compile_(client, USES_BAD)
    (site / "plug_bad.py").write_text(BAD)
    assert (await compile_(client, USES_BAD)).recipe == "r"
    assert client.problems == ()


async def test_an_upgrade_takes_effect_at_the_next_plan(site: Path, client: WorkerClient) -> None:
    install(site, {"bad": BAD})
    before = await compile_(client, USES_BAD)
    (site / "plug_bad.py").write_text(BAD.replace("name = 'bad/one'", "name = 'bad/one'\n    revision = 2"))
    after = await compile_(client, USES_BAD)
    assert after.steps[1].fingerprint != before.steps[1].fingerprint


async def test_a_plugin_that_is_installed_later_is_found(site: Path, client: WorkerClient) -> None:
    await compile_(client)
    install(site, {"bad": BAD})
    assert (await compile_(client, USES_BAD)).recipe == "r"


async def test_what_did_not_change_is_not_asked_again(client: WorkerClient) -> None:
    made = await compile_(client)
    await client._stop()
    assert await compile_(client) is made
    assert client._process is None


async def test_free_memory_is_no_reason_to_compile_again(client: WorkerClient) -> None:
    made = await compile_(client)
    busy = request(host=msgspec.structs.replace(CPU, memory_available=1, disk_free=2))
    loaded = await client.load(busy)
    pins = {source.name: toys.pin(source.candidates[0].ref) for source in loaded.sources}
    assert await client.compile(busy, pins) is made


async def test_what_the_daemon_has_is_not_sent_again(client: WorkerClient) -> None:
    made = await compile_(client)
    client._compiles.clear()
    same = msgspec.structs.replace(made)
    assert await compile_(client, have=same) is same
    assert (await compile_(client, CHAIN.replace("Q4_K_M", "Q8_0"), have=same)) != same


async def test_a_worker_that_went_idle_is_started_again(site: Path) -> None:
    client = WorkerClient(idle_s=0.05)
    try:
        await client.plugins()
        assert client._process is not None
        assert await client._process._process.wait() == 0
        assert [row["name"] for row in await client.plugins() if row["name"] == "toys"] == ["toys"]
    finally:
        await client.close()


async def test_the_worker_goes_when_the_daemon_does(client: WorkerClient) -> None:
    await client.plugins()
    assert client._process is not None
    process = client._process._process
    assert process.stdin is not None
    process.stdin.close()
    assert await process.wait() == 0


async def test_observers_are_told_of_events_and_cannot_fail_anything(
    site: Path, client: WorkerClient, tmp_path: Path
) -> None:
    note = tmp_path / "seen"
    body = f"    with open({str(note)!r}, 'a') as file:\n        file.write(event.kind + '\\n')\n"
    install(site, {"seen": f"{HEAD}@hookimpl\ndef qwend_event(event):\n{body}"})
    install(site, {"bad": f"{HEAD}@hookimpl\ndef qwend_event(event):\n    raise ValueError(event)\n"})
    await client.notify([Event("service.ready", "r/s"), Event("service.failed", "r/s")])
    assert note.read_text() == "service.ready\nservice.failed\n"


async def test_without_observers_nobody_is_woken(client: WorkerClient) -> None:
    await client.plugins()
    await client._stop()
    await client.notify([Event("service.ready", "r/s")])
    assert client._process is None


async def test_the_kit_checks_an_installed_plugin(site: Path, client: WorkerClient) -> None:
    assert [row for row in await client.check("toys") if row["level"] == "error"] == []
    install(site, {"bad": bad_launch("open('/etc/hostname').read(); return super().launch(step, host)")})
    (row,) = [row for row in await client.check("bad") if row["level"] == "error"]
    assert (row["engine"], row["message"].partition(": ")[2]) == (
        "bad/one", "launch reads /etc/hostname: an engine describes and does nothing",
    )  # fmt: skip
    with pytest.raises(UsageError, match="no plugin is called 'nobody'"):
        await client.check("nobody")


async def test_the_schema_knows_the_engines_that_are_installed(client: WorkerClient) -> None:
    schema = await client.schema()
    assert "toy.quantize" in schema["$defs"]


async def test_a_verb_that_does_not_exist_is_an_error_and_no_end(client: WorkerClient) -> None:
    with pytest.raises(QwendError, match="does not know 'dance'"):
        await client.call("dance")
    assert (await compile_(client)).recipe == "chain"
