"""Create a model on an Ollama server, and answer for it on this step's port. Runs inside the image.

    python ollama_serve.py --model DIR --wanted wanted.json --name chat --real qwend/r-chat --port 8080

Exit codes: 1 no Ollama, or it refuses the model; 98 the port is taken.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).parent))  # an isolated interpreter (-I) leaves the script's folder out
from ollama_gateway import Gateway, listen
from ollama_server import Server, find, lend
from ollama_start import DriverError, report, run, say

ADDRESS_IN_USE = 98


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Create a model on an Ollama server and answer for it.")
    add = parser.add_argument
    add("--model", type=Path, required=True)
    add("--modelfile", action="store_true", help="the model is what its Modelfile says, or a name")
    add("--wanted", type=Path, required=True)
    add("--name", action="append", required=True, help="the model's name here; more are aliases")
    add("--real", required=True, help="its name on the server; without a tag it gets one of its content")
    add("--host", default="127.0.0.1")
    add("--port", type=int, required=True)
    add("--url", help="a running server")
    add("--models", type=Path, help="run a server of its own that keeps its models here")
    add("--managed", action=argparse.BooleanOptionalAction, default=None)
    add("--keep-alive", help="how long the model stays in memory; left out: as the server does")
    add("--quantize")
    add("--key-file", type=Path)
    return parser.parse_args(argv)


def bind(host: str, port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(128)  # bound alone it could be taken by whoever listens first
    except OSError as error:
        bound.close()
        code = ADDRESS_IN_USE if error.errno == errno.EADDRINUSE else 1
        raise DriverError(
            f"cannot listen on {host}:{port}: {error.strerror}", "choose another port", code
        ) from None
    return bound


def serve(args: argparse.Namespace) -> None:
    from ollama_create import ensure
    from ollama_wanted import want

    bound = bind(args.host, args.port)
    key = args.key_file.read_text(encoding="utf-8").strip() if args.key_file else None
    if key == "":
        raise DriverError("the file of the key is empty", "an empty key would open the server to everybody")
    wanted = want(args.model, json.loads(args.wanted.read_text(encoding="utf-8")), modelfile=args.modelfile)
    if args.models is not None:
        lend(args.models, {**wanted.files, **wanted.draft})
    server = find(args.url, args.managed, args.keep_alive, args.models)
    stop_with(server)
    say(f"Ollama {server.version} at {server.url}")
    real = args.real if ":" in args.real else f"{args.real}:{wanted.tag}"
    real = wanted.base or real if wanted.plain else real

    def create() -> None:
        ensure(server, wanted, real, args.quantize)

    create()
    report(fact={"listening": f"{args.host}:{args.port}", "server": server.url, "name": real})
    names = tuple(dict.fromkeys(args.name))
    listen(bound, Gateway(server, names, real, create, key, args.keep_alive))
    while server.child is None or server.child.poll() is None:
        time.sleep(0.5)
    raise DriverError(f"Ollama ended with {server.child.returncode}", "its own words stand above")


def stop_with(server: Server) -> None:
    """A signal ends this step and the server that it runs; one that ran before goes on."""

    def stop(*_: object) -> NoReturn:
        if server.child is not None and server.child.poll() is None:
            server.child.terminate()
            server.child.wait()
        os._exit(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    run("ollama_serve", lambda: serve(args))


if __name__ == "__main__":
    main()
