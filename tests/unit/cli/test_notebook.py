"""qwend from Python: typed, quiet, and with the daemon's own errors."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.api_server import FakeDaemon
from tests.unit.cli.samples import CHAT, Q4, end, event, plan

from qwend import connect
from qwend.errors import OutOfResource, StepFailed, Unreachable, UsageError
from qwend.notebook import Qwend
from qwend.steps import Step

PAGE = Path(__file__).parents[3] / "daemon" / "qwend" / "CLIENT.md"
RECIPE = "version: 1\nname: huanhuan\nsteps: {a: ${MODEL}}\n"


@pytest.fixture
def qw(daemon: FakeDaemon) -> Qwend:
    daemon.answers("GET", "/v1/steps", {"steps": [Q4, CHAT]})
    return connect(verbose=False)


def test_up_sends_the_text_and_only_the_variables_that_it_names(
    daemon: FakeDaemon,
    qw: Qwend,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MODEL", "x")
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE)
    daemon.streams("POST", "/v1/runs", plan(), {"run": "01J"}, end(Q4, CHAT))
    run = qw.up(path, set={"steps.q4.with.type": "Q5_K_M", "steps.q4.gpus": 2}, smoke=True)
    (request,) = daemon.seen("POST", "/v1/runs")
    assert request.body["files"] == [{"path": str(path), "text": RECIPE}]
    assert (request.body["env"], request.body["directory"]) == ({"MODEL": "x"}, str(tmp_path))
    assert request.body["set"] == ["steps.q4.with.type=Q5_K_M", "steps.q4.gpus=2"]
    assert (request.body["smoke"], request.body["kept"]) == (True, True)
    assert (run.recipe, run["chat"].url, run["q4"].ready) == ("huanhuan", "http://127.0.0.1:18100", True)
    with pytest.raises(KeyError, match="huanhuan has no step 'x'; it has q4, chat"):
        run["x"]


def test_a_failed_run_raises_the_steps_own_reason(daemon: FakeDaemon, qw: Qwend) -> None:
    broken = CHAT | {"state": "failed", "reason": "the memory of the card does not suffice"}
    daemon.streams("POST", "/v1/runs", plan(), {"run": "01J"}, end(broken, code=1))
    with pytest.raises(StepFailed, match="chat: failed: the memory of the card does not suffice"):
        qw.up(text=RECIPE)


def test_a_mistake_in_a_recipe_and_a_blocker_are_raised_as_what_they_are(
    daemon: FakeDaemon,
    qw: Qwend,
) -> None:
    daemon.fails("POST", "/v1/runs", 400, kind="UsageError", message="unknown engine", where="r.yaml:1:2")
    with pytest.raises(UsageError, match="unknown engine"):
        qw.up(text=RECIPE)
    daemon.streams("POST", "/v1/runs", plan(blockers=["chat: needs 99 GiB"]))
    with pytest.raises(OutOfResource, match="chat: needs 99 GiB"):
        qw.up(text=RECIPE)
    with pytest.raises(UsageError, match="name recipe files, or give text="):
        qw.up()
    with pytest.raises(UsageError, match="there is no such file"):
        qw.up("nowhere.yaml")


def test_steps_are_typed_and_shown_as_a_table(qw: Qwend) -> None:
    rows = qw.ps()
    assert [row.step for row in rows] == ["q4", "chat"]
    assert isinstance(rows[0], Step) and rows[0].size == 491_400_064
    lines = str(rows).splitlines()
    assert lines[0].split() == ["RECIPE", "STEP", "STATE", "ENGINE", "URL", "REASON"]
    assert lines[2].split() == ["huanhuan", "chat", "ready", "llama-cpp/serve", "http://127.0.0.1:18100"]


def test_a_step_is_found_by_its_name_with_or_without_the_recipes(daemon: FakeDaemon, qw: Qwend) -> None:
    assert qw.step("huanhuan/chat") == qw.step("chat")
    assert qw.url("chat") == "http://127.0.0.1:18100/v1"
    with pytest.raises(UsageError, match='no step "x"'):
        qw.step("x")
    daemon.answers("GET", "/v1/steps", {"steps": [CHAT, CHAT | {"recipe": "other"}]})
    with pytest.raises(
        UsageError, match="which step? huanhuan/chat, other/chat are there".replace("?", r"\?")
    ):
        qw.step("chat")
    daemon.answers("GET", "/v1/steps", {"steps": [CHAT | {"state": "stopped", "url": None}]})
    with pytest.raises(UsageError, match="chat is stopped and has no address"):
        qw.url("chat")


def test_waiting_ends_when_a_step_is_ready_and_raises_when_it_failed(
    daemon: FakeDaemon,
    qw: Qwend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    states = iter(["starting", "starting", "ready"])
    monkeypatch.setattr("qwend.notebook._POLL_S", 0)
    daemon.calls("GET", "/v1/steps", lambda _: {"steps": [CHAT | {"state": next(states)}]})
    assert qw.wait("chat").state == "ready"
    daemon.answers("GET", "/v1/steps", {"steps": [CHAT | {"state": "failed", "reason": "no memory"}]})
    with pytest.raises(StepFailed, match="chat: failed: no memory"):
        qw.wait("chat")
    daemon.answers("GET", "/v1/steps", {"steps": [CHAT | {"state": "starting"}]})
    with pytest.raises(TimeoutError, match="chat is starting after 0 s"):
        qw.wait("chat", timeout=0)


def test_logs_come_as_lines(daemon: FakeDaemon, qw: Qwend) -> None:
    daemon.streams("GET", "/v1/logs/huanhuan/chat", b"one\ntw", b"o\nthree")
    assert list(qw.logs("chat", tail=3)) == ["one", "two", "three"]
    assert daemon.seen("GET", "/v1/logs/huanhuan/chat")[0].query == {"tail": "3", "follow": "0"}


def test_progress_is_plain_lines_and_can_be_silent(daemon: FakeDaemon, qw: Qwend) -> None:
    news = {"progress": {"subject": "huanhuan/base", "phase": "download", "done": 0, "total": 9}}
    more = {"progress": {"subject": "huanhuan/base", "phase": "download", "done": 5, "total": 9}}
    ready = {"event": event("service.ready", "chat", row={"state": "ready"})}
    daemon.streams("POST", "/v1/runs", plan(), {"run": "01J"}, news, more, ready, end(CHAT))
    told = io.StringIO()
    connect(verbose=told).up(text=RECIPE)
    assert told.getvalue() == "huanhuan/base: download\nhuanhuan/chat: ready\n"


def test_down_tells_what_was_stopped(daemon: FakeDaemon, qw: Qwend) -> None:
    daemon.streams("POST", "/v1/recipes/huanhuan/down", {"end": {"stopped": ["huanhuan/chat"]}})
    assert qw.down("huanhuan") == ["huanhuan/chat"]


def test_without_a_daemon_there_is_one_clear_error(home: Path) -> None:
    with pytest.raises(Unreachable, match="no daemon runs"):
        connect(start=False)


def test_the_package_loads_no_client_until_it_is_asked_for() -> None:
    code = (
        "import sys, qwend; print('qwend.notebook' in sys.modules, 'socket' in sys.modules); qwend.connect; "
    )
    code += "print('qwend.notebook' in sys.modules)"
    path = [str(Path(__file__).parents[3] / "daemon")]
    ended = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": path[0]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.split() == ["False", "False", "True"]


def test_the_page_names_every_call_with_its_parameters() -> None:
    import inspect

    told = dict(re.findall(r"^\| `(\w+)\(([^)]*)\)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    calls: dict[str, Any] = {name: call for name, call in vars(Qwend).items() if not name.startswith("_")}
    expected = {}
    for name, call in (calls | {"connect": connect}).items():
        parameters = [one for one in inspect.signature(call).parameters.values() if one.name != "self"]
        expected[name] = ", ".join(
            ("*" if one.kind is one.VAR_POSITIONAL else "") + one.name for one in parameters
        )
    assert told == expected
    fields = set(Step.__dataclass_fields__) - {"raw"}
    words = set(re.findall(r"`(\w+)`", PAGE.read_text(encoding="utf-8")))
    assert fields <= words
