"""Talk to a GGUF through llama.cpp's own server on a loopback port: what is measured is what will be served."""

from __future__ import annotations

import http.client
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ev_common import EvalError, Settings
from ev_llama import gguf_file, known
from ev_talk import clock, random_tokens

START_S = 600.0


class Server:
    """A running llama-server; a `Talker`."""

    def __init__(self, name: str, port: int, process: subprocess.Popen[bytes]) -> None:
        self.name, self.port, self.process = name, port, process

    def ask(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON answer to a POST. Raises EvalError for any other."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=3600)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise EvalError(f"{self.name}: llama-server went away: {error}", "its log says why") from None
        finally:
            connection.close()
        if response.status != 200:
            said = data.decode("utf-8", "replace")
            try:
                said = json.loads(said)["error"]["message"]
            except (ValueError, KeyError, TypeError):
                said = said[:200]
            raise EvalError(f"{self.name}: llama-server answers {response.status}: {said}")
        return json.loads(data)

    def tokens(self, text: str) -> list[int]:
        body = {"content": text, "add_special": True, "parse_special": False}
        return list(self.ask("/tokenize", body)["tokens"])

    def render(self, messages: list[dict[str, str]]) -> list[int]:
        prompt = self.ask("/apply-template", {"messages": messages})["prompt"]
        return list(self.ask("/tokenize", {"content": prompt, "parse_special": True})["tokens"])

    def greedy(self, tokens: Sequence[int], most: int) -> list[int]:
        body = {
            "prompt": list(tokens),
            "n_predict": most,
            "temperature": 0,
            "top_k": 1,
            "return_tokens": True,
        }
        answer = self.ask("/completion", {**body, "cache_prompt": False, "seed": 0})
        tokens = list(answer["tokens"])
        return tokens[:-1] if answer.get("stop_type") == "eos" else tokens  # the end is no part of the answer

    def words(self, tokens: Sequence[int]) -> str:
        return str(self.ask("/detokenize", {"tokens": list(tokens)})["content"]) if tokens else ""

    def timed(self, batch: int, length: int, generate: int) -> tuple[float, float]:
        begun = clock()
        marks: list[tuple[float, float]] = []
        failed: list[BaseException] = []

        def one(index: int) -> None:
            try:
                marks.append(self._streamed(random_tokens(length + index, 100_000)[:length], generate))
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=one, args=(index,), daemon=True) for index in range(batch)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]
        first, end = max(mark[0] for mark in marks), max(mark[1] for mark in marks)
        return first - begun, max(end - first, 1e-9)

    def _streamed(self, prompt: list[int], generate: int) -> tuple[float, float]:
        """When the first token came, and the last."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=3600)
        body = {"prompt": prompt, "n_predict": generate + 1, "stream": True, "cache_prompt": False}
        body |= {"ignore_eos": True, "temperature": 0, "top_k": 1, "return_tokens": True}
        first, came = None, 0
        try:
            connection.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                said = response.read(400).decode("utf-8", "replace")
                raise EvalError(f"{self.name}: llama-server answers {response.status}: {said}")
            while line := response.readline():
                if not line.startswith(b"data: "):
                    continue
                row = json.loads(line[6:])
                came += len(row.get("tokens", ()))
                first = clock() if first is None else first
                if row.get("stop"):
                    break
        except (OSError, http.client.HTTPException) as error:
            raise EvalError(f"{self.name}: llama-server went away: {error}", "its log says why") from None
        finally:
            connection.close()
        if first is None or came < generate:
            raise EvalError(
                f"{self.name}: {came} of {generate} tokens came", "a larger context may be needed"
            )
        return first, clock()

    def peak(self) -> int:
        """Of the server's process: VmHWM where there is /proc, else what its end will tell."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024


@contextmanager
def serving(
    tools: Path, name: str, place: Path, settings: Settings, context: int, slots: int = 1
) -> Iterator[Server]:
    """A server with `slots` places of `context` tokens each, until the block ends."""
    port = _free_port()
    argv = [
        str(tools / "llama-server"),
        "-m",
        str(gguf_file(place)),
        "-c",
        str(context * slots),
        "-np",
        str(slots),
    ]
    argv += ["--host", "127.0.0.1", "--port", str(port), "-fit", "off", "--no-ui", "--offline", "-cram", "0"]
    if settings.threads:
        argv += ["-t", str(settings.threads), "-tb", str(settings.threads)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([*argv, *settings.extra], stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait(process, port, name, log)
            yield Server(name, port, process)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            sys.stdout.write(_said(log)[-20_000:])
            sys.stdout.flush()


def _wait(process: subprocess.Popen[bytes], port: int, name: str, log: Any) -> None:
    """Until the server has loaded the model. Raises EvalError if it ends instead."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            said = _said(log)
            raise known(said, name) or EvalError(
                f"{name}: llama-server ended with {process.returncode}",
                (said.strip().splitlines() or [""])[-1][:200],
            )
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        time.sleep(0.05)
    raise EvalError(f"{name}: llama-server was not ready after {START_S:.0f} s")


def _said(log: Any) -> str:
    return os.pread(log.fileno(), 1 << 20, 0).decode("utf-8", "replace")


def _free_port() -> int:
    """A port that nobody listens on; the server's own bind decides."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
