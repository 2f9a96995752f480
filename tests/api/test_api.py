"""The API as a program meets it: on the real socket of a real daemon."""

from __future__ import annotations

import json
import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from qwend import __version__
from qwend.client import Client
from qwend.errors import OutOfResource, QwendError, UsageError

RECIPE = """
name: demo
models: {base: "smoke:qwen2?format=gguf"}
steps:
  chat: {uses: llama-cpp/serve, from: base, with: {context: 512}}
"""


def request(text: str = RECIPE, **more: Any) -> dict[str, Any]:
    return {"files": [{"path": "/nowhere/demo.yaml", "text": text}], "directory": "/nowhere", **more}


def raw(home: Path, data: bytes) -> tuple[int, bytes]:
    """Status and body of whatever the daemon answers to these bytes."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(str(home / "qwend.sock"))
        sock.sendall(data)
        answer = b""
        while chunk := sock.recv(65536):
            answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def test_the_daemon_says_who_it_is(client: Client) -> None:
    told = client.get("/v1/version")
    assert told["version"] == __version__
    assert told["api"] == 1
    os.kill(told["pid"], 0)


def test_the_socket_and_its_folder_belong_to_one_user(home: Path) -> None:
    assert stat.S_IMODE((home / "qwend.sock").stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE((home / "state.db").stat().st_mode) == 0o600


def test_every_route_stands_in_the_openapi_document(client: Client) -> None:
    document = client.get("/v1/openapi.json")
    assert document["openapi"].startswith("3.1")
    assert {"/v1/runs", "/v1/steps", "/v1/logs/{recipe}/{step}", "/v1/doctor"} <= document["paths"].keys()
    ids = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids))
    assert document["components"]["schemas"]["RecipeRequest"]["properties"]["files"]["type"] == "array"


def test_a_plan_touches_nothing(client: Client) -> None:
    *_, last = client.stream("POST", "/v1/plan", request())
    verbs = {action["step"]: action["verb"] for action in last["plan"]["actions"]}
    assert verbs["base"] == "run"
    assert verbs["chat"] == "start"
    (chat,) = [step for step in last["compiled"]["steps"] if step["name"] == "chat"]
    assert len(chat["fingerprint"]) == 64
    assert client.get("/v1/steps") == {"steps": []}
    assert client.get("/v1/recipes") == {"recipes": []}


def test_a_bad_recipe_is_told_with_every_place(client: Client) -> None:
    with pytest.raises(UsageError) as caught:
        list(client.stream("POST", "/v1/runs", request(RECIPE.replace("context", "contxt"))))
    (line,) = caught.value.lines()
    assert line.startswith("/nowhere/demo.yaml:5:")
    assert "did you mean context?" in line


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("/v1/nothing", "no-such-route"),
        ("/v1/steps/no/step", "no-such-step"),
        ("/v1/recipes/no/report", "no-such-recipe"),
        ("/v1/artifacts/abcdef", None),
        ("/v1/logs/no/step", "no-such-step"),
        ("/v2/version", "no-such-route"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(client: Client, target: str, code: str | None) -> None:
    with pytest.raises(QwendError) as caught:
        client.get(target)
    assert code is None or caught.value.code == code
    assert len(caught.value.lines()) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'{"files": 1, "directory": "/"}',
        b'{"unknown": 1}',
        b"\xff\xfe",
        b'{"files": [], "directory": "/"}',
    ],
)
def test_a_malformed_request_is_refused_politely(home: Path, body: bytes) -> None:
    head = (
        f"POST /v1/runs HTTP/1.1\r\nHost: qwend\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    status, answer = raw(home, head.encode() + body)
    assert status in {200, 400}
    assert b'"error"' in answer
    assert b"Traceback" not in answer


@pytest.mark.parametrize(
    ("target", "body", "field"),
    [
        ("/v1/images/prune", {"names": ["smoke"]}, "names"),
        ("/v1/images/prune", {"dryrun": True}, "dryrun"),
        ("/v1/images/verify", {"flavour": "cpu"}, "flavour"),
        ("/v1/images/build", {"names": ["smoke"], "dry_run": True}, "dry_run"),
        ("/v1/store/prune", {"dry-run": True}, "dry-run"),
        ("/v1/store/verify", {"name": "x"}, "name"),
        ("/v1/store/export", {"digest": "x", "out": "/x", "force": True}, "force"),
        ("/v1/plan", request(dry_run=True), "dry_run"),
        ("/v1/plan", {"files": [{"path": "-", "text": "", "mode": 1}], "directory": "/"}, "mode"),
        ("/v1/plan", request(host={"system": "linux", "machine": "x86_64", "cpus": 8, "gpu": []}), "gpu"),
        ("/v1/down", {"kill": True}, "kill"),
        ("/v1/recipes/demo/down", {"kill": True}, "kill"),
        ("/v1/steps/demo/chat/restart", {"force": True}, "force"),
        ("/v1/daemon/stop", {"service": True}, "service"),
        ("/v1/runs/none/release", {"killed": True}, "killed"),
        ("/v1/fit", {"reference": "smoke:qwen2", "contxt": 5}, "contxt"),
    ],
)
def test_a_field_that_would_be_ignored_is_refused_by_its_name(
    client: Client, target: str, body: dict[str, Any], field: str
) -> None:
    with pytest.raises(UsageError) as caught:
        list(client.stream("POST", target, body))
    assert caught.value.code == "bad-request"
    assert f"`{field}`" in caught.value.message


def test_a_query_parameter_that_would_be_ignored_is_refused_by_its_name(client: Client) -> None:
    with pytest.raises(UsageError, match="tial is no parameter of this route"):
        list(client.text("/v1/logs/demo/chat", tial=5))
    with pytest.raises(UsageError, match="follow is no parameter of this route"):
        client.get("/v1/steps", follow=True)


@pytest.mark.parametrize("header", ["Origin: http://evil.example", "Host: evil.example"])
def test_a_web_page_is_not_answered(home: Path, header: str) -> None:
    host = "" if header.startswith("Host") else "Host: qwend\r\n"
    head = f"GET /v1/version HTTP/1.1\r\n{host}{header}\r\nConnection: close\r\n\r\n"
    status, answer = raw(home, head.encode())
    assert status == 400
    assert json.loads(answer)["error"]["code"] == "foreign-origin"


def test_plugins_tell_their_engines_and_parameters(client: Client) -> None:
    plugins = client.get("/v1/plugins")["plugins"]
    engines = {engine["name"]: engine for plugin in plugins for engine in plugin["engines"]}
    assert {"llama-cpp/convert", "llama-cpp/quantize", "llama-cpp/serve", "hub/fetch"} <= engines.keys()
    assert "type" in engines["llama-cpp/quantize"]["params_schema"]["properties"]
    assert [plugin["problem"] for plugin in plugins if plugin["problem"]] == []


def test_the_schema_knows_every_engine(client: Client) -> None:
    assert "llama-cpp/quantize" in json.dumps(client.get("/v1/schema"))


def test_doctor_and_ports_describe_the_machine(client: Client) -> None:
    told = client.get("/v1/doctor")
    assert told["host"]["cpus"] >= 1
    assert [runtime["name"] for runtime in told["runtimes"]] == ["native", "docker"]
    low, high = client.get("/v1/ports")["range"]
    assert 1024 < low < high < 32768


def test_stopping_what_is_not_there_is_an_error_that_names_it(client: Client) -> None:
    with pytest.raises(UsageError, match="there is no recipe nothing"):
        list(client.stream("POST", "/v1/recipes/nothing/down"))
    assert list(client.stream("POST", "/v1/down"))[-1]["end"]["stopped"] == []


def test_another_machine_can_be_planned_for_and_not_run_on(client: Client) -> None:
    card = {"index": 0, "uuid": "GPU-1", "name": "Tesla V100", "memory": 16 << 30, "capability": [7, 0]}
    there = {"system": "linux", "machine": "x86_64", "cpus": 8, "gpus": [card], "driver": "470.82"}
    text = "name: far\nmodels: {base: smoke:qwen2}\nsteps:\n  chat: {uses: vllm/serve, from: base}\n"
    with pytest.raises(OutOfResource, match=r"needs driver \d+ or newer, and this is 470.82"):
        list(client.stream("POST", "/v1/plan", request(text, host=there)))
    here = client.get("/v1/doctor")["host"]
    *_, last = client.stream("POST", "/v1/plan", request(host=here))
    assert last["plan"]["recipe"] == "demo"
    with pytest.raises(UsageError, match="can only be planned"):
        list(client.stream("POST", "/v1/runs", request(host=there)))
