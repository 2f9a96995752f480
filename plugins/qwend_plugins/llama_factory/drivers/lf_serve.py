"""Serve a model or an adapter as LLaMA-Factory loads it, told where to listen and with which key.

    python lf_serve.py --arguments arguments.json --model DIR [--adapter DIR] [--host ADDRESS] --port N
        --name MODEL [--name ALIAS] [--context N] [--api-key-file FILE]

It listens at once, so that nobody can take the port, and answers 503 until the model is loaded. Exit codes: 0 ended,
1 it failed, 98 the port is taken.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # an isolated interpreter (-I) leaves the script's folder out
import lf_infer
from lf_engine import LlamaFactory
from lf_report import Refused, explain, fail, progress
from openai_http import Handler
from openai_worker import Server, Service

PORT_TAKEN = 98


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    lf_infer.options(parser)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", action="append", help="the model's name; more are aliases")
    parser.add_argument("--context", type=int, help="tokens of question and answer together")
    parser.add_argument("--api-key-file", type=Path)
    said = parser.parse_args(argv)
    try:
        serve(lf_infer.arguments(said), said)
    except Refused as error:
        fail(*explain(error))
    except Exception as error:
        traceback.print_exc()
        fail(*explain(error))


def serve(told: dict[str, Any], said: argparse.Namespace) -> None:
    """Listens, loads, answers until a signal; open streams are cut then."""
    stop, loaded = threading.Event(), threading.Event()

    def on_signal(number: int, frame: object) -> None:
        if stop.is_set() or not loaded.is_set():
            os._exit(0 if not loaded.is_set() else 1)  # loading holds nothing that wants tidying up
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    key = None
    if said.api_key_file:
        key = said.api_key_file.read_text(encoding="utf-8").strip()
        if not key:
            raise Refused("the secret api_key is empty")
    server = Server(bound(said.host, said.port), Handler)
    threading.Thread(target=server.serve_forever, name="listen", daemon=True).start()
    progress("load the model")
    names = tuple(said.name or ("model",))
    server.begin(Service(LlamaFactory(told, said.context), names, key))
    loaded.set()
    print(f"serving {names[0]} on {said.host}:{said.port}", flush=True)
    stop.wait()
    server.server_close()
    os._exit(0)  # an answer that is being generated is cut; nothing is left to be written


def bound(host: str, port: int) -> socket.socket:
    """A socket at the address that does not listen yet."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            fail(f"port {port} is taken", code=PORT_TAKEN)
        raise
    return listener


if __name__ == "__main__":
    main(sys.argv[1:])
