"""The API met with what its own OpenAPI document allows, and with what it does not: schemathesis makes the requests.

They go over the real socket of a real daemon. No answer may be a bug (500), none may break the shape that the document
promises, and the daemon must be the same one, with no more descriptors, afterwards. The number of requests is printed.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.core.result import Ok
from tests.faults.house import House, a_house, wait_for

pytestmark = pytest.mark.native
CASES = int(os.environ.get("QWEND_FUZZ_CASES", "25"))
"""For each operation and kind."""

LEFT_OUT = {
    "/v1/daemon/stop",  # it would
    "/v1/images/build",  # no names are all images: hours
}
STATUSES = {200, 400, 404, 409, 503, 507}
answers: Counter[int] = Counter()


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with a_house() as made:
        yield made
        counts = ", ".join(f"{status}: {count}" for status, count in sorted(answers.items()))
        print(f"\nfuzz: {answers.total()} requests to the API, by status {counts}")


def document(house: House) -> dict[str, Any]:
    found = house.client.get("/v1/openapi.json")
    found["paths"] = {path: item for path, item in found["paths"].items() if path not in LEFT_OUT}
    return found


def ask(house: House, method: str, target: str, body: bytes) -> tuple[int, str, bytes]:
    """Status, media type and the beginning of the body; a stream without end is read for a moment."""
    head = f"{method} {target} HTTP/1.1\r\nHost: qwend\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    answer = b""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(str(house.home / "qwend.sock"))
        sock.sendall(head.encode("latin-1") + body)
        if "follow" in target:
            sock.settimeout(0.1)
        try:
            while len(answer) < 1 << 20 and (chunk := sock.recv(65536)):
                answer += chunk
        except TimeoutError:
            assert "follow" in target, f"{method} {target} never ends"
    top, _, rest = answer.partition(b"\r\n\r\n")
    lines = top.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    chunked = headers.get("transfer-encoding") == "chunked"
    status = int(lines[0].split()[1])
    answers[status] += 1
    return status, headers.get("content-type", ""), _whole(rest) if chunked else rest


def _whole(data: bytes) -> bytes:
    """The chunks put together, as far as they came."""
    found = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size or b"0", 16)
        if length == 0:
            break
        found, data = found + data[:length], data[length + 2 :]
    return found


def judge(status: int, kind: str, body: bytes, where: str) -> None:
    assert status in STATUSES, f"{where}: {status} {body[:300]!r}"
    assert b"Traceback" not in body, where
    if kind.startswith("application/x-ndjson"):
        for line in filter(None, body.split(b"\n")[:-1]):
            item = json.loads(line)
            assert item.get("error", {}).get("code") != "bug", f"{where}: {line!r}"
    elif kind.startswith("application/json"):
        answer = json.loads(body)
        if status != 200:
            error = answer["error"]
            assert {"kind", "code", "message", "hint", "where", "details"} <= error.keys(), where
            assert error["code"] != "bug", f"{where}: {error}"
            assert error["message"], where
    else:
        assert kind.startswith("text/plain"), f"{where}: {kind}"


def bytes_of(body: Any) -> bytes:
    if body is None or type(body).__name__ == "NotSet":
        return b""
    return body if isinstance(body, bytes) else json.dumps(body).encode("utf-8", "surrogatepass")


def test_every_operation_keeps_its_promises_whatever_it_is_asked(house: House) -> None:
    pid = house.pid
    # What is opened once and kept: the planner worker's pipes, the reader of events.
    house.client.get("/v1/plugins")
    list(house.client.stream("GET", "/v1/events"))
    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    schema = schemathesis.openapi.from_dict(document(house))
    operations = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    assert len(operations) > 20
    for operation in operations:
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            strategy = operation.as_strategy(generation_mode=mode)

            @settings(
                max_examples=CASES,
                deadline=None,
                phases=[Phase.generate],
                database=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            )
            @given(case=strategy)
            def meet(case: Any) -> None:
                target = quote(case.formatted_path, safe="/%")
                query = dict(case.query or {})
                target += f"?{urlencode(query, doseq=True)}" if query else ""
                status, kind, body = ask(house, case.method.upper(), target, bytes_of(case.body))
                judge(status, kind, body, f"{case.method} {target}")

            # Any text will do for a path: nothing about an operation without a body or a number can be wrong.
            with contextlib.suppress(*([] if operation.body else [Unsatisfiable])):
                meet()
    assert house.client.get("/v1/version")["pid"] == pid
    wait_for(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= descriptors + 2, "all connections are closed")


@pytest.mark.parametrize(
    "data",
    [
        b"\x00" * 100,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\nHost: qwend\r\n\r\n",
        b"POST /v1/runs HTTP/1.1\r\nHost: qwend\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/runs HTTP/1.1\r\nHost: qwend\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /v1/version HTTP/1.1\r\nHost: qwend\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
    ],
    ids=range(6),
)
def test_what_is_no_http_is_refused_and_hurts_nobody(house: House, data: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(str(house.home / "qwend.sock"))
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass
        except OSError:
            pass
    assert house.client.get("/v1/version")["pid"] == house.pid
