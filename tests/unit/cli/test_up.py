"""`up`, `run`, `plan`, `down` and the handling of a step, against recorded streams."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from tests.fakes.api_server import FakeDaemon
from tests.unit.cli.conftest import Qwend
from tests.unit.cli.samples import CHAT, Q4, Json, end, event, plan, row, step
from tests.unit.cli.test_readers import PLUGIN

from qwend.cli.running import Foreground
from qwend.errors import GateRefused, StepFailed

RECIPE = "version: 1\nname: huanhuan\nsteps: {}\n"
CHANGES = plan(
    ("run", "q4", "with.type Q4_K_M → Q5_K_M"), ("replace", "chat", "from.q4 changed"), ("keep", "f16", "")
)
NOTHING = plan(("keep", "q4", ""), ("keep", "chat", ""))


@pytest.fixture
def recipe(home: Path) -> str:
    """`qwend.yaml` in the current folder."""
    Path("qwend.yaml").write_text(RECIPE)
    return str(Path("qwend.yaml").absolute())


def _progress(done: float, total: float | None, phase: str = "download") -> Json:
    return {
        "progress": {
            "subject": "huanhuan/base",
            "phase": phase,
            "done": done,
            "total": total,
            "unit": "B",
            "rate": 1 << 20,
        }
    }


def test_up_sends_the_text_and_only_what_the_text_mentions(
    qwend: Qwend, daemon: FakeDaemon, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TYPE", "Q8_0")
    monkeypatch.setenv("ESCAPED", "no")
    monkeypatch.setenv("OTHER", "secret")
    text = "name: x\n# ${TYPE:-Q4_K_M} $${ESCAPED} ${UNSET:-${TYPE}}\n"
    Path("sub").mkdir()
    Path("sub/a.yaml").write_text(text)
    Path("b.yml").write_text("x: 1\n")
    daemon.streams("POST", "/v1/runs", NOTHING, {"run": None, **end(CHAT)})
    assert qwend("up", "-f", "sub/a.yaml", "-f", "b.yml", "--set", "a.b=c", "--force", "q4", "chat").code == 0
    body = daemon.requests[-1].body
    here = os.getcwd()
    assert body["files"] == [
        {"path": f"{here}/sub/a.yaml", "text": text},
        {"path": f"{here}/b.yml", "text": "x: 1\n"},
    ]
    assert body["env"] == {"TYPE": "Q8_0"}
    assert body["directory"] == f"{here}/sub"
    assert (body["set"], body["force"], body["steps"], body["kept"]) == (["a.b=c"], ["q4"], ["chat"], False)


def test_every_key_of_the_request_is_one_that_the_daemon_knows(
    qwend: Qwend, daemon: FakeDaemon, recipe: str
) -> None:
    from qwend.api.control import ExportRequest, RecipeRequest

    daemon.streams("POST", "/v1/runs", NOTHING, {"run": None, **end(CHAT)})
    daemon.streams("POST", "/v1/plan", NOTHING)
    daemon.streams("POST", "/v1/lock", end())
    for command in (["up"], ["plan"], ["lock"]):
        qwend(*command)
        assert set(daemon.requests[-1].body) <= set(RecipeRequest.__struct_fields__)
    daemon.streams(
        "POST",
        "/v1/export",
        {"end": {"text": "", "document": {"name": "x"}, "files": {}, "missing": [], "exit_code": 0}},
    )
    for command in (["plan", "--shell"], ["export", "compose"]):
        qwend(*command)
        assert set(daemon.requests[-1].body) <= set(ExportRequest.__struct_fields__)


def test_a_first_positional_that_is_a_yaml_file_is_the_recipe(
    qwend: Qwend, daemon: FakeDaemon, recipe: str
) -> None:
    Path("other.yaml").write_text("name: other\n")
    daemon.streams("POST", "/v1/runs", NOTHING, {"run": None, **end(CHAT)})
    qwend("up", "other.yaml", "q4")
    body = daemon.requests[-1].body
    assert [file["text"] for file in body["files"]] == ["name: other\n"]
    assert body["steps"] == ["q4"]


def test_up_of_a_step_without_a_recipe_says_what_the_word_is_not(qwend: Qwend, daemon: FakeDaemon) -> None:
    assert 'there is no qwend.yaml here, and "chat" is no recipe file (' in qwend("up", "chat").err
    Path("two words").mkdir()
    assert "two words is a folder without a qwend.yaml" in qwend("up", "two words").err


def test_up_without_a_recipe_says_how_to_get_one(qwend: Qwend, daemon: FakeDaemon) -> None:
    ended = qwend("up")
    assert ended.code == 2
    assert (
        ended.err
        == "qwend: no recipe: there is no qwend.yaml here (name one: -f FILE.yaml, or write one: qwend init)\n"
    )


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "there is no such file"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00"), "the file is not UTF-8 text"),
        (lambda path: path.mkdir(), "cannot read it: Is a directory"),
    ],
)
def test_a_recipe_that_cannot_be_read_is_named(
    qwend: Qwend, daemon: FakeDaemon, make: Callable[[Path], object], says: str
) -> None:
    make(Path("r.yaml"))
    ended = qwend("up", "r.yaml")
    assert (ended.code, ended.err) == (2, f"r.yaml: {says}\n")


def test_an_up_that_changes_nothing_says_so_in_one_line(
    qwend: Qwend, daemon: FakeDaemon, recipe: str
) -> None:
    daemon.streams("POST", "/v1/runs", NOTHING, {"run": None, "attached": False, **end(Q4, CHAT)})
    ended = qwend("up")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == "huanhuan: nothing to do; chat at http://127.0.0.1:18100\n"


def test_up_tells_what_it_does_why_and_how_far_it_is(qwend: Qwend, daemon: FakeDaemon, recipe: str) -> None:
    news = [_progress(done, 100 << 20) for done in range(0, (100 << 20) + 1, 1 << 20)]
    done = end(row("f16", "cached"), Q4, CHAT)
    daemon.streams(
        "POST", "/v1/runs", CHANGES, {"run": "01J", "attached": False}, *news,
        {"event": event("job.succeeded", "q4")}, {"event": event("service.ready", "chat")}, done,
    )  # fmt: skip
    ended = qwend("up", "-d")
    assert ended.code == 0
    lines = ended.err.splitlines()
    assert lines[:3] == [
        "huanhuan: 2 to do, 1 stays as it is",
        "  run      q4 (llama-cpp/quantize): with.type Q4_K_M → Q5_K_M",
        "  replace  chat (llama-cpp/serve): from.q4 changed",
    ]
    download = [line for line in lines if line.startswith("base: download")]
    assert len(download) == 11
    assert download[5] == "base: download 50 %, 50 MiB of 100 MiB, 1 MiB/s, 50 s left"
    assert lines[-2:] == ["q4: succeeded", "chat: ready"]
    table = ended.out.splitlines()
    assert table[0].split() == ["STEP", "STATE", "TIME", "SIZE", "URL"]
    assert table[2].split() == ["q4", "succeeded", "3", "min", "20", "s", "469", "MiB"]


def test_the_curl_line_works_as_pasted(qwend: Qwend, daemon: FakeDaemon, recipe: str) -> None:
    daemon.streams("POST", "/v1/runs", CHANGES, {"run": "01J"}, end(Q4, CHAT))
    words = shlex.split(qwend("up", "-d").out.splitlines()[-1])
    assert words[0] == "curl"
    assert "http://127.0.0.1:18100/v1/chat/completions" in words
    assert json.loads(words[-1])["model"] == "chat"


@pytest.mark.parametrize(
    ("secret", "key"),
    [("api_key=@my key", "$(cat '{here}/my key')"), ("api_key", "$API_KEY"), (None, "$API_KEY")],
)
def test_the_curl_line_reads_the_key_from_where_it_was_read(
    qwend: Qwend,
    daemon: FakeDaemon,
    recipe: str,
    monkeypatch: pytest.MonkeyPatch,
    secret: str | None,
    key: str,
) -> None:
    Path("my key").write_text("sk-1\n")
    monkeypatch.setenv("API_KEY", "sk-1")
    steps = [step("chat", "llama-cpp/serve", "service", api="openai", secrets=["api_key"])]
    daemon.streams("POST", "/v1/runs", plan(("start", "chat", ""), steps=steps), {"run": "01J"}, end(CHAT))
    shown = qwend("up", "-d", *(["--secret", secret] if secret else [])).out.splitlines()[-1]
    assert f'-H "Authorization: Bearer {key.format(here=os.getcwd())}"' in shown
    assert daemon.requests[-1].body["secrets"] == ({"api_key": "sk-1"} if secret else {})


def test_a_service_that_speaks_no_openai_gets_no_curl_line(
    qwend: Qwend, daemon: FakeDaemon, recipe: str
) -> None:
    planned = plan(("start", "chat", ""), steps=[step("chat", "x/serve", "service", api=None)])
    daemon.streams("POST", "/v1/runs", planned, {"run": "01J"}, end(CHAT))
    assert "curl" not in qwend("up", "-d").out


def test_a_notice_of_a_stand_in_model_is_the_last_thing_before_the_curl_line(
    qwend: Qwend, daemon: FakeDaemon, recipe: str
) -> None:
    notice = "no hub reachable: serving a tiny untrained model, it talks nonsense"
    steps = [
        step("base", "smoke", "source", notices=[notice]),
        step("chat", "llama-cpp/serve", "service", api="openai"),
    ]
    daemon.streams("POST", "/v1/runs", plan(("start", "chat", ""), steps=steps), {"run": "01J"}, end(CHAT))
    assert qwend("up", "-d").out.splitlines()[-2] == notice


@pytest.mark.parametrize(
    ("error", "code"), [(StepFailed("q4: exit code 1"), 1), (GateRefused("q4: ppl > 8"), 4)]
)
def test_a_failed_run_shows_the_table_and_the_reason(
    qwend: Qwend, daemon: FakeDaemon, recipe: str, error: StepFailed | GateRefused, code: int
) -> None:
    bad = row("q4", "failed", reason="exit code 1")
    daemon.streams(
        "POST",
        "/v1/runs",
        CHANGES,
        {"run": "01J"},
        end(bad, code=code, error=error.to_dict(), state="failed"),
    )
    ended = qwend("up")
    assert ended.code == code
    assert ended.out.splitlines()[1].split() == ["q4", "failed"]
    assert ended.err.splitlines()[-1] == f"qwend: {error.message}"


def test_a_plan_that_cannot_start_here_starts_nothing(qwend: Qwend, daemon: FakeDaemon, recipe: str) -> None:
    blocked = plan(
        ("start", "chat", ""),
        blockers=["chat needs 40 GiB of memory, 8 GiB are free"],
        warnings=["slow disk"],
    )
    daemon.streams("POST", "/v1/plan", blocked)
    ended = qwend("up", "--dry-run")
    assert ended.code == 5
    assert "warning: slow disk" in ended.out and "40 GiB" not in ended.out
    assert ended.err == "qwend: huanhuan cannot start here: chat needs 40 GiB of memory, 8 GiB are free\n"


def test_no_wait_returns_once_the_run_is_accepted(qwend: Qwend, daemon: FakeDaemon, recipe: str) -> None:
    gate = threading.Event()
    daemon.streams("POST", "/v1/runs", CHANGES, {"run": "01J"}, gate, end(CHAT))
    assert qwend("up", "-d", "--no-wait").code == 0
    gate.set()
    assert qwend("up", "--no-wait").code == 2


def test_plan_shows_every_step_with_what_it_takes(qwend: Qwend, daemon: FakeDaemon, recipe: str) -> None:
    steps = [
        step(
            "q4",
            "llama-cpp/quantize",
            "job",
            resources={"memory": 2 << 30, "disk": 500 << 20, "gpu_memory": None},
        ),
        step("chat", "llama-cpp/serve", "service"),
    ]
    daemon.streams(
        "POST", "/v1/plan", plan(("run", "q4", "new"), ("start", "chat", ""), steps=steps, download=1 << 30)
    )
    shown = qwend("plan").out.splitlines()
    assert shown[0].split() == ["DO", "STEP", "ENGINE", "RUNTIME", "MEMORY", "DISK", "WHY"]
    assert shown[1].split() == [
        "run",
        "q4",
        "llama-cpp/quantize",
        "native",
        "cpu",
        "2",
        "GiB",
        "500",
        "MiB",
        "new",
    ]
    assert "no engine answers" in shown
    assert shown[-1] == "needs 1 GiB to download"


def test_plan_shell_prints_a_script_as_it_is(qwend: Qwend, daemon: FakeDaemon, recipe: str) -> None:
    daemon.streams("POST", "/v1/export", {"end": {"text": "#!/bin/sh\ntrue '\x1b'\n", "exit_code": 0}})
    assert qwend("plan", "--shell").out == "#!/bin/sh\ntrue '\x1b'\n"
    assert daemon.requests[-1].body["form"] == "shell"
    assert qwend("plan", "--shell", "--json").code == 2


def test_export_writes_a_folder_for_compose_and_overwrites_none(
    qwend: Qwend, daemon: FakeDaemon, recipe: str
) -> None:
    document = {"name": "x-exported", "services": {"chat": {"image": "a"}}}
    told = {
        "document": document,
        "files": {"drivers/chat/serve.py": "1\n"},
        "missing": ["toy"],
        "exit_code": 0,
    }
    daemon.streams("POST", "/v1/export", {"end": told})
    ended = qwend("export", "compose")
    assert (
        ended.out == "wrote x-compose/compose.yaml; docker compose -f x-compose/compose.yaml up -d --wait\n"
    )
    assert ended.err == "Build this image first: qwend images build toy --runtime docker\n"
    body = daemon.requests[-1].body
    assert (body["form"], body["runtime"]) == ("compose", "docker")
    assert yaml.safe_load(Path("x-compose/compose.yaml").read_text()) == document
    assert Path("x-compose/drivers/chat/serve.py").read_text() == "1\n"
    again = qwend("export", "compose")
    assert (again.code, again.err) == (
        2,
        "x-compose: it is there already (write it elsewhere with -o FOLDER)\n",
    )
    assert qwend("export", "compose", "--runtime", "native").code == 2


def test_plan_json_is_the_plan_and_the_compiled_steps(qwend: Qwend, daemon: FakeDaemon, recipe: str) -> None:
    daemon.streams("POST", "/v1/plan", {"progress": {"subject": "base", "phase": "resolve"}}, CHANGES)
    assert json.loads(qwend("plan", "--json").out) == CHANGES


def test_down_names_what_had_to_be_killed(qwend: Qwend, daemon: FakeDaemon, recipe: str) -> None:
    daemon.answers(
        "GET", "/v1/recipes", {"recipes": [{"name": "huanhuan", "source": recipe, "state": "ready"}]}
    )
    ending = {
        "end": {"stopped": ["huanhuan/chat", "huanhuan/x"], "killed": ["huanhuan/chat"], "exit_code": 0}
    }
    daemon.streams("POST", "/v1/recipes/huanhuan/down", {"event": event("service.stopped", "chat")}, ending)
    ended = qwend("down")
    assert (ended.code, ended.out) == (0, "stopped 2, killed 1 at the deadline: huanhuan/chat\n")
    assert ended.err == "chat: stopped\n"


def test_down_all_asks_for_all(qwend: Qwend, daemon: FakeDaemon) -> None:
    daemon.streams("POST", "/v1/down", {"end": {"stopped": [], "killed": [], "exit_code": 0}})
    assert qwend("down", "--all").out == "nothing was running\n"


def test_down_does_not_take_a_step_for_a_recipe(qwend: Qwend, daemon: FakeDaemon, recipe: str) -> None:
    ended = qwend("down", "chat")
    assert ended.code == 2
    assert "qwend stop STEP" in ended.err


@pytest.mark.parametrize("verb", ["start", "stop", "restart"])
def test_a_step_is_handled_and_its_failure_is_the_exit_code(
    qwend: Qwend, daemon: FakeDaemon, verb: str
) -> None:
    daemon.answers("GET", "/v1/steps", {"steps": [CHAT]})
    ending = {"end": {"state": "failed", "reason": "exit code 1", "exit_code": 1, "steps": [CHAT]}}
    daemon.streams(
        "POST",
        f"/v1/steps/huanhuan/chat/{verb}",
        {"event": event("service.failed", "chat", reason="exit code 1")},
        ending,
    )
    ended = qwend(verb, "chat")
    assert (ended.code, ended.err) == (1, "chat: failed: exit code 1\n")


def test_lock_tells_the_changes(qwend: Qwend, daemon: FakeDaemon, recipe: str) -> None:
    ending = {"end": {"changes": ["base: a → b"], "path": "/w/qwend.lock", "exit_code": 0}}
    daemon.streams("POST", "/v1/lock", ending)
    assert qwend("lock", "--upgrade", "base").out == "base: a → b\n"
    assert daemon.requests[-1].body["upgrade"] == ["base"]


@pytest.mark.parametrize(
    ("path", "said"), [("/w/qwend.lock", "/w/qwend.lock is up to date\n"), ("", "nothing to pin\n")]
)
def test_lock_names_only_a_file_that_there_is(
    qwend: Qwend, daemon: FakeDaemon, recipe: str, path: str, said: str
) -> None:
    daemon.streams("POST", "/v1/lock", {"end": {"changes": [], "path": path, "exit_code": 0}})
    assert qwend("lock").out == said


def test_run_composes_a_recipe_and_saves_it(qwend: Qwend, daemon: FakeDaemon) -> None:
    daemon.answers("GET", "/v1/plugins", {"plugins": [PLUGIN]})
    daemon.streams("POST", "/v1/runs", CHANGES, {"run": "01J"}, end(Q4))
    daemon.answers("GET", "/v1/steps/quantised/quantize", {"row": Q4, "artifact": {"location": "/store/3f"}})
    options = [
        "--name",
        "quantised",
        "--from",
        "file:a b.gguf",
        "--with",
        "type=Q4_K_M",
        "--out",
        "q4",
        "--save",
        "q.yaml",
    ]
    ended = qwend("run", "llama-cpp/quantize", *options)
    assert ended.code == 0
    assert ended.out.splitlines()[-1] == "/store/3f"
    text = Path("q.yaml").read_text()
    assert text in ended.err
    assert 'input: "file:a b.gguf"' in text and "type: Q4_K_M" in text and f'out: "{os.getcwd()}/q4"' in text
    (request,) = daemon.seen("POST", "/v1/runs")
    assert request.body["files"] == [{"path": f"{os.getcwd()}/q.yaml", "text": text}]
    assert (
        qwend("run", "llama-cpp/quantize", "--save", "q.yaml").err
        == "q.yaml: it is there already (give --save another name)\n"
    )


def test_run_of_an_unknown_engine_names_the_nearest(qwend: Qwend, daemon: FakeDaemon) -> None:
    daemon.answers("GET", "/v1/plugins", {"plugins": [PLUGIN]})
    assert "did you mean llama-cpp/quantize?" in qwend("run", "llama-cpp/quantise", "--from", "hf:a/b").err


# --- Ctrl-C: in a process of its own, since signals are the matter ------------------------------------------


Running = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def running(recipe: str) -> Iterator[Running]:
    """Starts the command line in a process of its own."""
    started = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "qwend", *arguments]
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def _line(process: subprocess.Popen[str], beginning: str) -> None:
    """Reads stderr until a line begins so."""
    assert process.stderr is not None
    assert any(line.startswith(beginning) for line in process.stderr)


def test_the_first_interrupt_lets_go_of_the_run_and_shows_its_end(
    daemon: FakeDaemon, running: Running
) -> None:
    gate = threading.Event()
    stopped = end(row("chat", "stopped"), code=130, state="cancelled")
    daemon.streams("POST", "/v1/runs", CHANGES, {"run": "01J"}, _progress(1, 2), gate, stopped)
    daemon.answers("POST", "/v1/runs/01J/release", {"stopped": True})
    process = running("up")
    _line(process, "base: download")
    process.send_signal(signal.SIGINT)
    assert daemon.wait_for("POST", "/v1/runs/01J/release")[0].body == {"kill": False}
    gate.set()
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out.splitlines()[1].split() == ["chat", "stopped"]
    assert "Traceback" not in err and "stopping; once more kills" in err


def test_the_second_interrupt_kills(daemon: FakeDaemon, running: Running) -> None:
    gate = threading.Event()
    daemon.streams(
        "POST", "/v1/runs", CHANGES, {"run": "01J"}, _progress(1, 2), gate, end(code=130, state="cancelled")
    )
    daemon.answers("POST", "/v1/runs/01J/release", {"stopped": True})
    process = running("up")
    _line(process, "base: download")
    for count in (1, 2):
        process.send_signal(signal.SIGINT)
        requests = daemon.wait_for("POST", "/v1/runs/01J/release", count)
    gate.set()
    process.communicate(timeout=30)
    assert [request.body["kill"] for request in requests] == [False, True]
    assert process.returncode == 130


def test_an_interrupt_leaves_a_run_that_others_hold(daemon: FakeDaemon, running: Running) -> None:
    gate = threading.Event()
    daemon.streams("POST", "/v1/runs", {"run": "01J", "attached": True}, _progress(1, 2), gate, end())
    daemon.answers("POST", "/v1/runs/01J/release", {"stopped": False})
    process = running("up")
    _line(process, "base: download")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    gate.set()
    assert process.returncode == 130
    assert "it goes on in the background" in err


def test_an_interrupt_before_there_is_a_run_just_ends(daemon: FakeDaemon, running: Running) -> None:
    gate = threading.Event()
    daemon.streams("POST", "/v1/runs", _progress(1, 2, "resolve"), gate, end())
    process = running("up")
    _line(process, "base: resolve")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    gate.set()
    assert (process.returncode, err.strip()) == (130, "qwend: interrupted")


def test_services_are_kept_company_until_somebody_stops_them(daemon: FakeDaemon, running: Running) -> None:
    gate = threading.Event()
    ready = {"event": event("service.ready", "chat", seq=41)}
    daemon.streams("POST", "/v1/runs", CHANGES, {"run": "01J"}, ready, end(Q4, CHAT))
    daemon.streams(
        "GET",
        "/v1/events",
        event("service.unhealthy", "chat", 42),
        gate,
        event("service.stopped", "chat", 43),
    )
    daemon.answers("GET", "/v1/steps", {"steps": [Q4, row("chat", "stopped")]})
    process = running("up")
    _line(process, "Ctrl-C stops it; `qwend up -d` leaves it running")
    _line(process, "chat: unhealthy")
    assert daemon.wait_for("GET", "/v1/events")[0].query == {
        "follow": "1",
        "after": "41",
        "recipe": "huanhuan",
    }
    gate.set()
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "chat: stopped\n")


def test_a_run_that_started_no_service_returns_though_one_is_up(
    qwend: Qwend, daemon: FakeDaemon, recipe: str
) -> None:
    ended = end(Q4, CHAT)
    ended["end"]["started"] = []
    daemon.streams("POST", "/v1/runs", plan(("run", "q4", "")), {"run": "01J"}, ended)
    done = qwend("up", "q4")
    assert done.code == 0 and "Ctrl-C" not in done.err
    assert daemon.seen("GET", "/v1/events") == []


def test_company_ends_with_the_services_of_the_run_though_another_is_up(
    qwend: Qwend, daemon: FakeDaemon, recipe: str
) -> None:
    other = row("other", "ready")
    ended = end(CHAT, other)
    ended["end"]["started"] = ["other"]
    daemon.streams("POST", "/v1/runs", plan(("start", "other", "")), {"run": "01J"}, ended)
    later = event("service.unhealthy", "chat", 3)
    daemon.streams("GET", "/v1/events", event("service.stopped", "other", 2), later)
    daemon.answers("GET", "/v1/steps", {"steps": [CHAT, row("other", "stopped")]})
    done = qwend("up", "other")
    assert (done.code, done.err.splitlines()[-1]) == (0, "other: stopped")


def test_an_interrupt_while_keeping_company_stops_the_services(daemon: FakeDaemon, running: Running) -> None:
    gate = threading.Event()
    daemon.streams("POST", "/v1/runs", CHANGES, {"run": "01J"}, end(CHAT))
    daemon.streams(
        "GET",
        "/v1/events",
        event("service.changed", "chat", 1, reason="a reason"),
        gate,
        event("service.stopped", "chat", 2),
    )
    daemon.answers("GET", "/v1/steps", {"steps": [row("chat", "stopped")]})
    daemon.answers("POST", "/v1/runs/01J/release", {"stopped": True})
    process = running("up")
    _line(process, "chat: a reason")
    process.send_signal(signal.SIGINT)
    daemon.wait_for("POST", "/v1/runs/01J/release")
    gate.set()
    process.communicate(timeout=30)
    assert process.returncode == 130


def test_an_interrupt_in_the_middle_of_a_line_is_said_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def reentrant(*_: object, **__: object) -> None:
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    watched = object.__new__(Foreground)
    watched._shown = SimpleNamespace(say=reentrant)
    watched._say("killing")
    assert capfd.readouterr().err == "\nkilling\n"
