"""Serve one model with mlx-lm's own server. Runs inside the image; imports nothing of qwend.

    python mlx_serve.py --name chat --host 127.0.0.1 --port 8080 [--key-file FILE] -- --model DIR [its words]

What stands behind `--` goes to mlx-lm as it is. How to sample where neither the words nor a request say it follows
from the model's generation_config.json. Exit codes: 1 the model cannot be loaded or the generator died, 98 the port
is taken.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import signal
import socket
import sys
import threading
import time
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # an isolated interpreter (-I) leaves the script's folder out
from mlx_start import (
    DriverError,
    generation_config,
    leave,
    model_context,
    read_template,
    refusal,
    report,
    run,
)

ADDRESS_IN_USE = 98
_LOOK_S = 0.5


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The driver's options, and mlx-lm's words."""
    own, words = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    parser = argparse.ArgumentParser(description="Serve one model with mlx-lm's own server.")
    add = parser.add_argument
    add("--name", action="append", required=True, help="the model's name; more are aliases")
    add("--host", default="127.0.0.1")
    add("--port", type=int, required=True)
    add("--key-file", type=Path)
    add("--template-file", type=Path)
    add("--context", type=int, help="tokens of prompt and answer together; default: the model's own")
    args = parser.parse_args(own)
    if "--model" not in words:
        parser.error("mlx-lm's own words stand behind --, --model among them")
    return args, words


def bind(host: str, port: int) -> socket.socket:
    """The port, taken before the model is loaded; who asks before it is waits for the answer."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(128)  # bound alone it could be taken by whoever listens first
    except OSError as error:
        text = f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}"
        code = ADDRESS_IN_USE if error.errno == errno.EADDRINUSE else 1
        raise DriverError(text, "choose another port", code) from None
    return bound


def read_key(path: Path) -> str:
    key = path.read_text(encoding="utf-8").strip()
    if not key:
        raise DriverError("the file of the key is empty", "an empty key would open the server to everybody")
    return key


def with_sampling(words: list[str], folder: Path) -> list[str]:
    """mlx-lm's words with the model's own way of sampling, where they say nothing of it."""
    own = generation_config(folder)
    flags = {"--temp": "temperature", "--top-p": "top_p", "--top-k": "top_k", "--min-p": "min_p"}
    more = [
        word
        for flag, name in flags.items()
        if flag not in words and name in own
        for word in (flag, str(own[name]))
    ]
    return [*words, *more]


def serve(args: argparse.Namespace, words: list[str]) -> None:
    bound = bind(args.host, args.port)
    key = read_key(args.key_file) if args.key_file else None
    if args.template_file:
        words = [*words, "--chat-template", read_template(args.template_file)]
    folder = Path(words[words.index("--model") + 1])
    from mlx_http import Generator, Handler, Served
    from mlx_lm import server as tool

    context = model_context(folder, args.context)
    repetition = generation_config(folder).get("repetition_penalty")
    served = Served(tuple(dict.fromkeys(args.name)), key, int(time.time()), context, repetition)
    handler = type("OneModel", (Handler,), {"served": served})

    def started(host: str, port: int, provider: Any, *_: Any) -> None:
        """In place of mlx-lm's `run`, once it has read its words: our socket, our handler, and an end if it dies."""
        for name in served.names:  # mlx-lm maps `default_model` so
            provider._model_map[name] = provider._model_map["default_model"]
            provider._adapter_map[name] = provider._adapter_map["default_model"]
        last = Last()
        logging.getLogger().addHandler(last)  # before the thread begins, which may end at once
        generator = Generator(provider, tool.LRUPromptCache(provider.cli_args.prompt_cache_size))
        listen(bound, handler, generator, last, tool.get_system_fingerprint())

    tool.run = started
    sys.argv = ["mlx_lm.server", *with_sampling(words, folder)]
    report(progress={"phase": "load", "done": 0, "total": 1})
    tool.main()


def listen(bound: socket.socket, handler: type, generator: Any, last: Last, fingerprint: str) -> None:
    """Answer once the model is loaded, until a signal, or until the thread that generates is dead."""
    began = time.monotonic()
    while generator.model_provider.model is None:
        if not generator.generation_available():
            raise refusal(last.said)
        time.sleep(0.05)
    report(progress={"phase": "load", "done": 1, "total": 1})
    report(metric={"name": "load_time", "value": round(time.monotonic() - began, 3), "unit": "s"})

    def make(*given: Any, **named: Any) -> Any:
        return handler(generator, *given, system_fingerprint=fingerprint, **named)

    server = ThreadingHTTPServer(bound.getsockname(), make, bind_and_activate=False)
    server.socket.close()
    server.socket = bound
    server.daemon_threads = True
    server.server_activate()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while generator.generation_available():
        time.sleep(_LOOK_S)
    leave("mlx_serve", DriverError(f"the generator died: {last.said}"))
    os._exit(1)


class Last(logging.Handler):
    """Keeps the last error that was logged: the generator's thread tells its end nowhere else."""

    said = "the log says why"

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR:
            self.said = record.getMessage().splitlines()[0].rpartition("thread died: ")[2][:400] or self.said


def main(argv: list[str] | None = None) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):  # streams are cut: mlx-lm's thread can wait for long
        signal.signal(number, lambda *_: os._exit(0))
    args, words = parse(sys.argv[1:] if argv is None else argv)
    run("mlx_serve", lambda: serve(args, words))
    os._exit(0)


if __name__ == "__main__":
    try:
        main()
    except SystemExit as error:  # the generator's thread is no daemon: a plain exit would wait for it
        sys.stderr.flush()
        os._exit(error.code if isinstance(error.code, int) else 1)
