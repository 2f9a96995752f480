"""Commands that only read: their tables for people, their JSON for scripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.api_server import FakeDaemon
from tests.unit.cli.conftest import Qwend
from tests.unit.cli.samples import CHAT, Q4, event, row, step

PS_FIELDS = [
    "recipe",
    "step",
    "kind",
    "engine",
    "state",
    "reason",
    "runtime",
    "image",
    "port",
    "url",
    "pid",
    "started",
    "health",
]


def test_ps_shows_states_times_sizes_and_urls(qwend: Qwend, daemon: FakeDaemon) -> None:
    daemon.answers("GET", "/v1/steps", {"steps": [Q4, CHAT]})
    header, q4, chat = qwend("ps").out.splitlines()
    assert header.split() == ["RECIPE", "STEP", "STATE", "ENGINE", "TIME", "SIZE", "UP", "URL"]
    assert q4.split() == [
        "huanhuan",
        "q4",
        "succeeded",
        "llama-cpp/quantize",
        "3",
        "min",
        "20",
        "s",
        "469",
        "MiB",
    ]
    assert "ready" in chat and "http://127.0.0.1:18100" in chat


def test_ps_json_is_a_list_of_objects_with_the_promised_fields(qwend: Qwend, daemon: FakeDaemon) -> None:
    daemon.answers("GET", "/v1/steps", {"steps": [Q4, CHAT]})
    rows = json.loads(qwend("ps", "--json").out)
    assert rows == [Q4, CHAT]
    assert all(name in rows[0] for name in PS_FIELDS)


def test_a_step_of_an_unknown_recipe_is_told_by_the_recipe(qwend: Qwend, daemon: FakeDaemon) -> None:
    daemon.answers("GET", "/v1/steps", {"steps": [Q4, CHAT]})
    daemon.answers("GET", "/v1/recipes", {"recipes": [{"name": "huanhuan"}]})
    ended = qwend("logs", "-p", "huanhan", "chat")
    assert ended.code == 2
    assert ended.err.startswith('qwend: no recipe "huanhan" (did you mean huanhuan?')


def test_ps_of_a_recipe_asks_only_for_it(qwend: Qwend, daemon: FakeDaemon) -> None:
    daemon.answers("GET", "/v1/recipes", {"recipes": [{"name": "a"}, {"name": "huanhuan"}]})
    daemon.answers("GET", "/v1/steps", {"steps": []})
    qwend("ps", "-p", "huanhuan")
    assert daemon.requests[-1].query == {"recipe": "huanhuan"}
    ended = qwend("ps", "-p", "huanhuen")
    assert ended.code == 2
    assert "did you mean huanhuan?" in ended.err


def test_an_empty_ps_says_what_to_do(qwend: Qwend, daemon: FakeDaemon) -> None:
    daemon.answers("GET", "/v1/steps", {"steps": []})
    assert qwend("ps").out == "nothing has run here yet: qwend up FILE.yaml\n"
    assert qwend("ps", "--json").out == "[]\n"


def test_ls_lists_recipes(qwend: Qwend, daemon: FakeDaemon) -> None:
    recipe = {
        "name": "huanhuan",
        "state": "ready",
        "steps": 4,
        "directory": "/d",
        "source": "/d/r.yaml",
        "run": "01J",
    }
    daemon.answers("GET", "/v1/recipes", {"recipes": [recipe]})
    assert qwend("ls").out.splitlines()[1].split() == ["huanhuan", "ready", "4", "/d/r.yaml"]
    assert json.loads(qwend("ls", "--json").out) == [recipe]


def test_ports_names_holders(qwend: Qwend, daemon: FakeDaemon) -> None:
    lease = {"port": 18100, "holder": "huanhuan/chat", "sticky": True, "listening": True}
    daemon.answers("GET", "/v1/ports", {"leases": [lease], "range": [18100, 18999]})
    assert qwend("ports").out.splitlines()[1].split() == ["18100", "huanhuan/chat", "yes", "kept"]
    daemon.answers("GET", "/v1/ports", {"leases": [], "range": [18100, 18999]})
    assert qwend("ports").out == "no port is leased; they come from 18100 to 18999\n"


def test_logs_pass_bytes_on_to_a_pipe_as_they_are(qwend: Qwend, daemon: FakeDaemon) -> None:
    daemon.answers("GET", "/v1/steps", {"steps": [CHAT]})
    daemon.streams("GET", "/v1/logs/huanhuan/chat", "caf\u00e9\n".encode(), b"two")
    assert qwend("logs", "chat", "--tail", "7").out == "café\ntwo"
    assert daemon.requests[-1].query == {"follow": "0", "tail": "7"}


def test_logs_as_json_are_one_object_a_line(qwend: Qwend, daemon: FakeDaemon) -> None:
    daemon.answers("GET", "/v1/steps", {"steps": [CHAT]})
    daemon.streams("GET", "/v1/logs/huanhuan/chat", b"o", b"ne\ncaf\xc3", b"\xa9 \x1b[2J\n\xff")
    lines = [json.loads(line) for line in qwend("logs", "chat", "--json").out.splitlines()]
    assert [line["line"] for line in lines] == ["one", "café \x1b[2J", "\ufffd"]
    assert {line["step"] for line in lines} == {"huanhuan/chat"}


def test_a_bad_time_span_is_bad_usage(qwend: Qwend, daemon: FakeDaemon) -> None:
    ended = qwend("logs", "chat", "--since", "yesterday")
    assert ended.code == 2
    assert ended.err == 'qwend: --since: "yesterday" is no time span (write it as 90s, 10m, 2h)\n'


def test_events_are_lines_for_people_and_for_scripts(qwend: Qwend, daemon: FakeDaemon) -> None:
    happened = event("service.failed", "chat", reason="exit code 1\nand more")
    daemon.streams("GET", "/v1/events", happened, happened)
    shown = qwend("events").out.splitlines()
    assert len(shown) == 2
    assert (
        "service.failed" in shown[0] and "huanhuan/chat" in shown[0] and "exit code 1\\nand more" in shown[0]
    )
    assert [json.loads(line) for line in qwend("events", "--json").out.splitlines()] == [happened, happened]


def test_inspect_shows_a_step_with_its_artifact(qwend: Qwend, daemon: FakeDaemon) -> None:
    artifact = {
        "digest": "3fa9c1d2" + "0" * 56, "fingerprint": "f" * 64, "type": "model/gguf",
        "files": [{"path": "model.gguf"}], "size": 491_400_064, "facts": {"architecture": "qwen2"},
        "metrics": {"perplexity": 7.5}, "created": 0.0,
        "provenance": {"inputs": {"f16": "abc"}, "plugin": "qwend 0.1.0"}, "location": "/store/3f",
    }  # fmt: skip
    compiled = step(
        "q4", "llama-cpp/quantize", "job", options={"type": "Q4_K_M"}, command=["llama-quantize", "in"]
    )
    found = {"row": Q4, "compiled": compiled, "artifact": artifact}
    daemon.answers("GET", "/v1/steps", {"steps": [Q4]})
    daemon.answers("GET", "/v1/steps/huanhuan/q4", found)
    shown = qwend("inspect", "q4").out
    for text in ("llama-quantize in", "Q4_K_M", "model/gguf", "469 MiB", "qwen2", "7.5", "qwend 0.1.0"):
        assert text in shown
    assert json.loads(qwend("inspect", "q4", "--json").out) == found


def test_inspect_takes_the_beginning_of_a_digest(qwend: Qwend, daemon: FakeDaemon) -> None:
    daemon.answers("GET", "/v1/steps", {"steps": [Q4]})
    daemon.answers(
        "GET", "/v1/artifacts/3fa9c1d2", {"digest": "3fa9c1d2", "type": "model/gguf", "size": 1, "files": []}
    )
    assert "artifact 3fa9c1d2  (model/gguf)" in qwend("inspect", "3fa9c1d2").out


def test_inspect_takes_as_few_digits_as_export_and_verify_do(qwend: Qwend, daemon: FakeDaemon) -> None:
    daemon.answers("GET", "/v1/steps", {"steps": [Q4]})
    found = {"digest": "3fa9c1d2", "type": "model/gguf", "size": 1, "files": []}
    for name in ("3fa9", "sha256:3fa9"):
        daemon.answers("GET", f"/v1/artifacts/{name}", found)
    assert "artifact 3fa9c1d2" in qwend("inspect", "3fa9").out
    assert "artifact 3fa9c1d2" in qwend("inspect", "sha256:3fa9").out
    assert 'no step "3fa"' in qwend("inspect", "3fa").err


@pytest.mark.parametrize("given", ["q5", "huanhuan/q5"])
def test_a_mistyped_step_is_answered_with_what_was_meant(
    qwend: Qwend, daemon: FakeDaemon, given: str
) -> None:
    daemon.answers("GET", "/v1/recipes", {"recipes": [{"name": "huanhuan"}]})
    daemon.answers("GET", "/v1/steps", {"steps": [Q4, CHAT]})
    ended = qwend("inspect", given)
    assert ended.code == 2
    assert 'no step "q5" (did you mean q4?' in ended.err


def test_a_step_of_two_recipes_is_asked_for_by_recipe(qwend: Qwend, daemon: FakeDaemon) -> None:
    other = row("chat", "ready", recipe="other")
    daemon.answers("GET", "/v1/steps", {"steps": [CHAT, other]})
    recipes = [{"name": "huanhuan", "state": "ready"}, {"name": "other", "state": "ready"}]
    daemon.answers("GET", "/v1/recipes", {"recipes": recipes})
    daemon.answers("GET", "/v1/steps/other/chat", {"row": other, "compiled": None, "artifact": None})
    ended = qwend("inspect", "chat")
    assert ended.code == 2
    assert ended.err == "qwend: which recipe? huanhuan, other are there (say it with -p NAME)\n"
    assert "other/chat" in qwend("inspect", "other/chat").out
    assert "other/chat" in qwend("inspect", "chat", "-p", "other").out


def test_doctor_says_what_is_missing_for_more(qwend: Qwend, daemon: FakeDaemon) -> None:
    gpu = {"index": 0, "uuid": "GPU-1", "name": "H100", "memory": 80 << 30, "memory_free": None}
    host = {
        "system": "linux", "machine": "x86_64", "cpus": 2, "memory": 24 << 30, "memory_available": None, "gpus": [gpu],
        "driver": "580.1", "cuda": None, "os_version": "12", "chip": None,
    }  # fmt: skip
    runtimes = [
        {"name": "native", "ready": True, "detail": "compiles with cc", "hint": ""},
        {"name": "docker", "ready": False, "detail": "no engine answers", "hint": "install Docker Engine"},
    ]
    answer = {
        "host": host,
        "runtimes": runtimes,
        "home": "/h",
        "disk": {"free": 1 << 40},
        "python": "3.11",
        "warnings": ["w"],
    }
    daemon.answers("GET", "/v1/doctor", answer)
    shown = qwend("doctor").out
    for text in (
        "24 GiB memory (unknown free)",
        "H100, 80 GiB (unknown free)",
        "CUDA unknown",
        "install Docker Engine",
        "1 TiB free",
    ):
        assert text in shown
    assert json.loads(qwend("doctor", "--json").out) == answer


@pytest.mark.parametrize("command", [["doctor"], ["doctor", "--rebuild"], ["ps"]])
def test_windows_is_told_of_wsl2_and_no_daemon_is_started(
    qwend: Qwend, home: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    ended = qwend(*command)
    assert (ended.code, ended.out) == (2, "")
    assert "WSL2" in ended.err and "wsl --install" in ended.err
    assert list(home.iterdir()) == []


def test_store_ls_and_prune_speak_of_bytes(qwend: Qwend, daemon: FakeDaemon) -> None:
    artifact = {
        "digest": "3fa9c1d2" + "0" * 56, "type": "model/gguf", "size": 491_400_064, "created": 1.0, "files": 1,
        "recipe": "huanhuan", "step": "q4", "referenced": True,
    }  # fmt: skip
    daemon.answers("GET", "/v1/artifacts", {"artifacts": [artifact]})
    shown = qwend("store", "ls").out.splitlines()[1]
    assert shown.startswith("3fa9c1d20000  model/gguf  469 MiB") and shown.endswith("huanhuan/q4  in place")
    daemon.answers("POST", "/v1/store/prune", {"removed": [artifact], "freed": 491_400_064})
    assert "469 MiB would be freed" in qwend("store", "prune", "--dry-run").out
    assert daemon.requests[-1].body == {"dry_run": True, "all": False}


def test_a_damaged_store_is_told_file_by_file(qwend: Qwend, daemon: FakeDaemon) -> None:
    mend = "3fa9c1d20000 is set aside; `qwend up` of huanhuan makes or fetches q4 again"
    bad = {"digest": "3fa9c1d20000", "path": "model.gguf", "problem": "sha256 differs", "mend": mend}
    other = {**bad, "path": "config.json", "problem": "is missing"}
    daemon.streams("POST", "/v1/store/verify", {"end": {"checked": 7, "bad": [bad, other], "exit_code": 1}})
    ended = qwend("store", "verify")
    assert ended.code == 1
    assert ended.out.splitlines() == [
        "3fa9c1d20000/model.gguf: sha256 differs", "3fa9c1d20000/config.json: is missing", mend, "7 checked, 2 damaged"
    ]  # fmt: skip


def test_images_ls_shows_what_is_realised(qwend: Qwend, daemon: FakeDaemon) -> None:
    image: dict[str, Any] = {
        "name": "llama-cpp", "flavour": "cpu", "digest": "a" * 64, "kind": "venv", "location": "/i", "state": "ready",
        "size": None,
    }  # fmt: skip
    daemon.answers("GET", "/v1/images", {"images": [image]})
    assert qwend("images", "ls").out.splitlines()[1].split() == [
        "llama-cpp",
        "cpu",
        "a" * 12,
        "venv",
        "ready",
        "/i",
    ]


def test_images_that_differ_from_their_locks_are_told(qwend: Qwend, daemon: FakeDaemon) -> None:
    differs = {"image": "smoke-cpu-0679e6932004", "difference": "numpy 2.1 instead of 2.2"}
    daemon.streams("POST", "/v1/images/verify", {"end": {"differences": [differs], "exit_code": 1}})
    ended = qwend("images", "verify", "smoke")
    assert ended.out == "smoke-cpu-0679e6932004: numpy 2.1 instead of 2.2\n1 difference\n"
    assert (ended.code, daemon.requests[-1].body) == (1, {"names": ["smoke"]})


def test_images_build_shows_what_was_made_and_what_was_not(qwend: Qwend, daemon: FakeDaemon) -> None:
    made = {
        "name": "smoke", "flavour": "cpu", "key": "smoke-cpu-0679e6932004", "kind": "oci", "seconds": 9.0,
        "location": "qwend/smoke:cpu-0679e6932004", "size": 3 << 20,
    }  # fmt: skip
    error = {"code": "package-missing", "message": "the package indexes have no torch", "hint": "name one"}
    end = {"built": [made], "failed": [{"name": "vllm", "key": "k", "error": error}], "exit_code": 1}
    daemon.streams("POST", "/v1/images/build", {"end": end})
    ended = qwend("images", "build", "--runtime", "docker")
    assert ended.out.splitlines()[1].split() == [
        "smoke",
        "cpu",
        "oci",
        "3",
        "MiB",
        "qwend/smoke:cpu-0679e6932004",
    ]
    assert ended.err == "vllm: the package indexes have no torch (name one)\n"
    assert (ended.code, daemon.requests[-1].body["runtime"]) == (1, "docker")


def test_images_prune_shows_what_goes_and_how_much_that_frees(qwend: Qwend, daemon: FakeDaemon) -> None:
    gone = {"key": "smoke-cpu-0679e6932004", "kind": "venv", "size": 3 << 20}
    daemon.answers("POST", "/v1/images/prune", {"removed": [gone], "freed": 3 << 20, "dry_run": True})
    shown = qwend("images", "prune", "--dry-run").out.splitlines()
    assert shown[1].split() == ["smoke-cpu-0679e6932004", "venv", "3", "MiB"]
    assert shown[2] == "3 MiB would be freed"


ENGINE = {
    "name": "llama-cpp/quantize", "kind": "job", "summary": "Quantise a GGUF", "accepts": ["model/gguf"],
    "params_schema": {
        "required": ["type"],
        "properties": {
            "type": {"enum": ["Q4_K_M", "Q8_0"], "description": "what to quantise to"},
            "threads": {"default": 1, "description": "threads"},
        },
    },
}  # fmt: skip
PLUGIN = {
    "name": "llama-cpp",
    "distribution": "qwend",
    "version": "0.1.0",
    "engines": [ENGINE],
    "sources": [],
    "problem": None,
}


def test_plugins_ls_lists_engines_and_names_what_is_left_out(qwend: Qwend, daemon: FakeDaemon) -> None:
    broken = {**PLUGIN, "name": "broken", "engines": [], "problem": "ImportError: no torch"}
    daemon.answers("GET", "/v1/plugins", {"plugins": [PLUGIN, broken]})
    shown = qwend("plugins", "ls").out
    assert "llama-cpp/quantize  job   llama-cpp  Quantise a GGUF" in shown
    assert "broken is left out: ImportError: no torch" in shown


def test_plugins_ls_of_an_engine_shows_its_parameters(qwend: Qwend, daemon: FakeDaemon) -> None:
    daemon.answers("GET", "/v1/plugins", {"plugins": [PLUGIN]})
    shown = qwend("plugins", "ls", "llama-cpp/quantize").out
    assert "type     what to quantise to (required; one of Q4_K_M, Q8_0)" in shown
    assert "threads  threads (default 1)" in shown
    assert (
        'no engine "llama-cpp/quantise" (did you mean llama-cpp/quantize?'
        in qwend("plugins", "ls", "llama-cpp/quantise").err
    )


def test_plugins_check_fails_on_errors_only(qwend: Qwend, daemon: FakeDaemon) -> None:
    finding = {"level": "warning", "engine": "llama-cpp/serve", "message": "no summary", "hint": "say one"}
    daemon.answers("GET", "/v1/plugins", {"findings": [finding]})
    ended = qwend("plugins", "check", "llama-cpp")
    assert (ended.code, ended.out.splitlines()[0]) == (0, "warning: llama-cpp/serve: no summary (say one)")
    daemon.answers("GET", "/v1/plugins", {"findings": [{**finding, "level": "error"}]})
    assert qwend("plugins", "check", "llama-cpp").code == 1
    assert daemon.requests[-1].query == {"check": "llama-cpp"}


def test_the_schema_is_printed_as_it_is(qwend: Qwend, daemon: FakeDaemon) -> None:
    daemon.answers("GET", "/v1/schema", {"$schema": "x", "properties": {}})
    assert json.loads(qwend("schema").out) == {"$schema": "x", "properties": {}}
