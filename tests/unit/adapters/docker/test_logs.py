"""The copy of a container's output."""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest

from qwend.adapters.docker import logs
from qwend.adapters.docker.connection import Connection
from qwend.adapters.docker.logs import LogCopy, LogFile

PATIENCE_S = 60.0


def entry(second: int, text: str) -> bytes:
    return f"2026-11-24T00:{second // 60:02}:{second % 60:02}.000000000Z {text}\n".encode()


def test_entries_are_appended_without_their_times(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "log")
    file.write([entry(1, "one"), entry(2, "two words")])
    file.close()
    assert (tmp_path / "log").read_text() == "one\ntwo words\n"


def test_a_copy_that_was_cut_off_goes_on_after_its_last_entry(tmp_path: Path) -> None:
    first = LogFile(tmp_path / "log")
    first.write([entry(1, "one"), entry(2, "two")])
    first.close()
    second = LogFile(tmp_path / "log")
    since = second.since()
    assert since is not None
    second.write([entry(1, "one"), entry(2, "two"), entry(3, "three")])
    second.close()
    assert (tmp_path / "log").read_text() == "one\ntwo\nthree\n"


def test_entries_of_one_time_are_neither_lost_nor_told_twice(tmp_path: Path) -> None:
    first = LogFile(tmp_path / "log")
    first.write([entry(1, "one"), entry(1, "two")])
    first.write([entry(1, "three")])
    first.close()
    second = LogFile(tmp_path / "log")
    second.write([entry(1, "one"), entry(1, "two"), entry(1, "three"), entry(1, "four"), entry(2, "five")])
    second.close()
    third = LogFile(tmp_path / "log")
    third.write([entry(2, "five"), entry(2, "six")])
    third.close()
    assert (tmp_path / "log").read_text().split() == ["one", "two", "three", "four", "five", "six"]


def test_a_log_stays_below_its_limit_and_keeps_the_newest_whole_lines(tmp_path: Path) -> None:
    file = LogFile(tmp_path / "log", limit=1000)
    for second in range(500):
        file.write([entry(second, f"line {second}")])
        assert (tmp_path / "log").stat().st_size <= 1000
    file.close()
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[-1] == "line 499"
    assert lines == [f"line {number}" for number in range(500 - len(lines), 500)]


def test_a_spoilt_mark_starts_the_copy_from_the_beginning(tmp_path: Path) -> None:
    (tmp_path / ".log.at").write_bytes(b"\xff\xfe rubbish")
    file = LogFile(tmp_path / "log")
    assert file.since() is None
    file.write([entry(1, "one")])
    file.close()
    assert (tmp_path / "log").read_text() == "one\n"


class Engine(BaseHTTPRequestHandler):
    """Speaks of one container's log as the engine does, over a real socket: a stand-in, since what is asked here is
    what an engine does once in a thousand times. Each follower is given the next of `streams`, and is left waiting
    after a stream that `stays`."""

    protocol_version = "HTTP/1.1"
    streams: ClassVar[list[list[bytes]]] = []
    stays: ClassVar[list[bool]] = []
    newest: ClassVar[bytes] = b""
    asked: ClassVar[list[dict[str, list[str]]]] = []
    over: ClassVar[threading.Event]

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        if url.path.endswith("/version"):
            self._tell({"Version": "20.10.24", "ApiVersion": "1.41"})
        elif url.path.endswith("/json"):
            self._tell({"State": {"Status": "running"}, "Config": {"Tty": False}})
        elif query.get("follow") == ["1"]:
            self._follow(query)
        else:
            assert query["tail"] == ["1"]
            self._begin([self.newest], 0)
            self.wfile.write(b"0\r\n\r\n")

    def _follow(self, query: dict[str, list[str]]) -> None:
        number = len(self.asked)
        self.asked.append(query)
        self._begin(self.streams[number], 8192 if self.stays[number] else 0)
        if self.stays[number]:
            self.over.wait(PATIENCE_S)
        self.wfile.write(b"0\r\n\r\n")

    def _begin(self, entries: list[bytes], boundary: int) -> None:
        """Answers with entries, in one piece; up to the end of the last chunk's data it is `boundary` bytes long: as
        much as a reader's buffer takes, so that what closes the chunk waits in the socket."""
        frames = [struct.pack(">BxxxL", 1, len(text)) + text for text in entries]
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(frame), frame) for frame in frames)
        head = "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\nTransfer-Encoding: chunked\r\n"
        if boundary and chunks:
            head += f"X-Fill: {'x' * (boundary - len(head) - len('X-Fill: ') - 4 - len(chunks) + 2)}\r\n"
        self.wfile.write(f"{head}\r\n".encode() + chunks)

    def _tell(self, body: dict[str, Any]) -> None:
        text = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *arguments: Any) -> None:
        """It has nothing to say."""


class Server(ThreadingUnixStreamServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who has gone is answered into nowhere."""


Follow = Callable[..., tuple[LogCopy, Path]]


@pytest.fixture
def follow(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Follow]:
    """A copy of the log of a container whose engine gives these streams, one after the other."""
    Engine.asked, Engine.over = [], threading.Event()
    path = tmp_path_factory.mktemp("e") / "s"
    server = Server(str(path), Engine)
    serving = threading.Thread(target=server.serve_forever, args=(0.01,))
    serving.start()
    connection = Connection({"DOCKER_HOST": f"unix://{path}"})
    copies: list[LogCopy] = []

    def begin(*streams: list[bytes], stays: list[bool], newest: bytes = b"") -> tuple[LogCopy, Path]:
        Engine.streams, Engine.stays, Engine.newest = list(streams), stays, newest
        copies.append(LogCopy(connection, "c" * 64, str(tmp_path / "log")))
        return copies[-1], tmp_path / "log"

    yield begin
    for one in copies:
        one.close()
        assert one.join(PATIENCE_S)
    connection.client().close()
    Engine.over.set()
    server.shutdown()
    server.server_close()
    serving.join()


def until(log: Path, text: str) -> None:
    """Waits until the log is this."""
    deadline = time.monotonic() + PATIENCE_S
    while (found := log.read_text() if log.exists() else "") != text:
        assert time.monotonic() < deadline, f"the log is {found!r}"
        time.sleep(0.01)


def test_a_stream_that_is_silent_though_the_engine_has_more_is_ended_for_another_to_ask(
    follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_SILENT_S", 0.0)
    both = [entry(1, "one"), entry(2, "two")]
    stuck, log = follow([entry(1, "one")], both, stays=[True, True], newest=both[1])
    until(log, "one\n")
    assert stuck.silent
    assert stuck.look()
    assert not stuck.running
    another, _ = follow([entry(1, "one")], both, stays=[True, True], newest=both[1])
    until(log, "one\ntwo\n")
    assert "since" not in Engine.asked[0]
    assert float(Engine.asked[1]["since"][0]) > 0, "only what is new"
    assert not another.look(), "there is no more to ask for"


def test_a_stream_that_is_silent_because_its_container_is_goes_on(
    follow: Follow, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, log = follow([entry(1, "one")], stays=[True], newest=entry(1, "one"))
    until(log, "one\n")
    assert not made.silent, "it has just said something"
    monkeypatch.setattr(logs, "_SILENT_S", 0.0)
    assert not made.look()
    assert made.running


def test_the_last_entry_is_written_though_the_end_of_its_chunk_still_waits_in_the_socket(
    follow: Follow,
) -> None:
    _, log = follow([entry(1, "one"), entry(2, "two")], stays=[True])
    until(log, "one\ntwo\n")
