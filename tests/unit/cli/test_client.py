"""The client of the API: answers, streams, failures."""

from __future__ import annotations

import json
import os
import socket
import threading
from pathlib import Path

import pytest
from tests.fakes.api_server import FakeDaemon

from qwend import paths
from qwend.client import Client, quote
from qwend.connecting import connect
from qwend.errors import OutOfResource, QwendError, Unreachable, UsageError


@pytest.fixture
def client(daemon: FakeDaemon) -> Client:
    return Client(paths.socket(daemon.home))


def test_an_answer_is_decoded_and_a_query_leaves_out_what_is_none(daemon: FakeDaemon, client: Client) -> None:
    daemon.answers("GET", "/v1/steps", {"steps": [1]})
    assert client.get("/v1/steps", recipe=None, follow=True, name="a b&c") == {"steps": [1]}
    assert daemon.requests[-1].query == {"follow": "1", "name": "a b&c"}


def test_a_path_segment_survives_whatever_it_holds(daemon: FakeDaemon, client: Client) -> None:
    name = "quant[Q8_0] ü/?#%"
    daemon.answers("GET", f"/v1/steps/r/{name}", {"row": {}})
    assert client.get(f"/v1/steps/r/{quote(name)}") == {"row": {}}


@pytest.mark.parametrize(("kind", "type_"), [("OutOfResource", OutOfResource), ("UsageError", UsageError)])
def test_a_reported_error_is_raised_as_what_it_is(
    daemon: FakeDaemon, client: Client, kind: str, type_: type[QwendError]
) -> None:
    daemon.fails(
        "GET", "/v1/ports", 507, kind=kind, code="port-taken", message="port 1 is taken", hint="by x"
    )
    with pytest.raises(type_) as caught:
        client.get("/v1/ports")
    assert caught.value.code == "port-taken"
    assert caught.value.lines() == ["port 1 is taken (by x)"]


def test_a_daemon_from_before_an_update_is_named_as_the_cause(client: Client) -> None:
    with pytest.raises(QwendError, match="no route") as caught:
        client.get("/v1/of-tomorrow")
    assert "`qwend daemon stop`, and the next command starts it anew" in str(caught.value.hint)


def test_lines_of_a_stream_may_be_cut_anywhere(daemon: FakeDaemon, client: Client) -> None:
    daemon.streams("GET", "/v1/events", b'{"seq"', b': 1}\n{"seq": 2}', b'\n\n{"seq": 3}')
    assert [item["seq"] for item in client.stream("GET", "/v1/events")] == [1, 2, 3]


def test_what_has_come_of_a_stream_is_given_before_it_ends(daemon: FakeDaemon, client: Client) -> None:
    gate = threading.Event()
    daemon.streams("GET", "/v1/events", {"seq": 1}, gate, {"seq": 2})
    stream = client.stream("GET", "/v1/events")
    assert next(stream) == {"seq": 1}
    gate.set()
    assert list(stream) == [{"seq": 2}]


def test_an_error_line_ends_a_stream_as_that_error(daemon: FakeDaemon, client: Client) -> None:
    error = UsageError("no step x", code="no-such-step").to_dict()
    daemon.streams("POST", "/v1/plan", {"progress": {}}, {"error": error})
    stream = client.stream("POST", "/v1/plan", {})
    assert next(stream) == {"progress": {}}
    with pytest.raises(UsageError, match="no step x"):
        next(stream)


def test_a_daemon_that_goes_away_in_a_stream_is_told_with_what_lives_on(
    daemon: FakeDaemon, client: Client
) -> None:
    daemon.streams("GET", "/v1/events", {"seq": 1}, cut=True)
    stream = client.stream("GET", "/v1/events")
    next(stream)
    with pytest.raises(Unreachable, match="went away") as caught:
        next(stream)
    assert "services live on" in str(caught.value.hint)


def test_text_comes_in_the_blocks_in_which_it_was_sent(daemon: FakeDaemon, client: Client) -> None:
    daemon.streams("GET", "/v1/logs/r/s", b"one\n\xff", b"two")
    assert b"".join(client.text("/v1/logs/r/s", tail=5)) == b"one\n\xfftwo"
    assert daemon.requests[-1].query == {"tail": "5"}


def test_no_socket_means_that_no_daemon_runs(home: Path) -> None:
    with pytest.raises(Unreachable) as caught:
        connect(start=False)
    assert caught.value.code == "no-daemon"
    assert "qwend daemon start" in str(caught.value.hint)


def test_a_stale_socket_means_that_no_daemon_runs(home: Path) -> None:
    path = paths.socket(str(home))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
    try:
        with pytest.raises(Unreachable) as caught:
            connect(start=False)
        assert caught.value.code == "no-daemon"
    finally:
        os.unlink(path)


def test_a_daemon_that_says_nothing_is_not_waited_for_for_ever(daemon: FakeDaemon) -> None:
    gate = threading.Event()
    daemon.streams("GET", "/v1/doctor", gate)
    with pytest.raises(Unreachable, match="does not answer"):
        Client(paths.socket(daemon.home), timeout_s=0.05).get("/v1/doctor")
    gate.set()


def test_who_is_refused_in_the_middle_of_a_request_reads_why(home: Path) -> None:
    body = json.dumps({"error": UsageError("the request is too large", code="too-large").to_dict()}).encode()
    head = f"HTTP/1.1 400 Bad Request\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    path = paths.socket(str(home))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(1)

        def refuse() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(1024)
                peer.sendall(head + body)

        thread = threading.Thread(target=refuse)
        thread.start()
        with pytest.raises(UsageError) as caught:  # more than any socket's buffer takes
            Client(path).post("/v1/plan", {"text": "x" * (32 << 20)})
        thread.join()
    os.unlink(path)
    assert caught.value.code == "too-large"


def test_what_is_no_json_is_said_plainly(daemon: FakeDaemon, client: Client) -> None:
    daemon.streams("GET", "/v1/doctor", b"<html>")
    with pytest.raises(QwendError, match="not JSON"):
        client.get("/v1/doctor")


def test_an_older_daemon_that_speaks_the_same_api_is_used_when_nobody_wants_it_restarted(
    daemon: FakeDaemon,
) -> None:
    daemon.version = "0.0.1"
    daemon.answers("GET", "/v1/version", daemon.hello())
    asked: list[object] = []

    def leave_it(hello: dict[str, object]) -> bool:
        asked.append(hello["version"])
        return False

    connect(outdated=leave_it)
    assert asked == ["0.0.1"]


def test_a_daemon_of_another_api_is_refused_with_the_way_out(daemon: FakeDaemon) -> None:
    daemon.version, daemon.api = "9.0.0", 9
    daemon.answers("GET", "/v1/version", daemon.hello())
    with pytest.raises(Unreachable, match=r"9\.0\.0") as caught:
        connect(outdated=lambda _: False)
    assert caught.value.code == "version-mismatch"
    assert "services live on" in str(caught.value.hint)


def test_a_home_that_cannot_be_made_is_an_error_with_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QWEND_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(Unreachable) as caught:
        connect()
    assert "QWEND_HOME" in str(caught.value.hint)
