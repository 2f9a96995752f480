"""Serve a checkpoint with vLLM's own server. Runs inside the image; imports nothing of qwend.

    python vllm_serve.py --host 127.0.0.1 --port 8080 [--key-file FILE] -- DIR --served-model-name chat …

What stands behind `--` goes to vLLM as it is; the key is checked by `vllm_guard`, and the rank of LoRA adapters is
read from them. With `--ray head` a Ray cluster is begun on this machine; with `--ray ADDRESS` this machine joins one
and answers nothing but /health. Exit code 98: the port is taken.
"""

from __future__ import annotations

import argparse
import errno
import os
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # an isolated interpreter (-I) leaves the script's folder out
import vllm_guard
from vllm_start import DriverError, parser_of, run, short_sockets, with_ranks

ADDRESS_IN_USE = 98


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The driver's options, and vLLM's words."""
    own, words = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    parser = argparse.ArgumentParser(description="Serve a checkpoint with vLLM's own server.")
    add = parser.add_argument
    add("--host", default="127.0.0.1")
    add("--port", type=int, required=True)
    add("--key-file", type=Path)
    add("--ray", help="head, or the address of the head")
    add("--ray-port", type=int, default=6379)
    args = parser.parse_args(own)
    if not words:
        parser.error("vLLM's own words stand behind --")
    return args, words


def hold_port(host: str, port: int) -> socket.socket:
    """Take the port at once: vLLM imports for half a minute before it binds, and listens only when the model is loaded.

    A bound socket alone keeps nobody away (with SO_REUSEADDR another may bind it too, and whoever listens first has
    it), so this one listens; who asks early waits for the answer.
    """
    held = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        held.bind((host, port))
        held.listen(128)
    except OSError as error:
        held.close()
        text = f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}"
        code = ADDRESS_IN_USE if error.errno == errno.EADDRINUSE else 1
        raise DriverError(text, "choose another port", code) from None
    return held


def hand_over(held: socket.socket) -> None:
    """Let vLLM serve on this socket: wherever one of its modules makes the server's own, it gets this one.

    Several API servers share a port by SO_REUSEPORT, which sets it on sockets of its own: this one makes way for them.
    """
    modules = [
        one
        for name, one in sys.modules.items()
        if name.startswith("vllm.entrypoints") and hasattr(one, "create_server_socket")
    ]
    makers = {one.create_server_socket for one in modules}
    if len(makers) != 1:  # another version, which binds by itself
        held.close()
        return
    (make,) = makers
    port = held.getsockname()[1]

    def give(addr: Any, **said: Any) -> Any:
        if addr[1] == port and not said.get("reuse_port"):
            return held
        if addr[1] == port:
            held.close()
        return make(addr, **said)

    for one in modules:
        vars(one)["create_server_socket"] = give


class _Health(BaseHTTPRequestHandler):
    """A machine that only lends its cards answers that it is there."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Every few seconds the same line would say nothing."""


def health(host: str, port: int) -> None:
    """Answer /health beside what this machine does."""
    server = ThreadingHTTPServer((host, port), _Health)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def ray(args: argparse.Namespace, held: socket.socket) -> None:
    """Begin a Ray cluster, or join one and stay until it ends. The process is replaced where this machine joins."""
    program = str(Path(sys.executable).with_name("ray"))
    if args.ray == "head":
        began = subprocess.run([program, "start", "--head", f"--port={args.ray_port}"], check=False)
        if began.returncode:
            raise DriverError("Ray could not be started", "its own words stand above")
        return
    held.close()
    health(args.host, args.port)
    ended = subprocess.run([program, "start", f"--address={args.ray}", "--block"], check=False)
    raise DriverError(
        f"this machine fell out of the Ray cluster at {args.ray} (exit code {ended.returncode})"
    )


def serve(args: argparse.Namespace, words: list[str]) -> None:
    held = hold_port(args.host, args.port)
    short_sockets()
    if args.key_file:
        os.environ[vllm_guard.KEY_FILE] = str(args.key_file)
        words = [*words, "--middleware", "vllm_guard.Guard"]
    if args.ray:
        ray(args, held)
    if "--headless" in words:
        held.close()
        health(args.host, args.port)
    else:
        words = [*words, "--host", args.host, "--port", str(args.port)]
    vllm(["serve", *with_ranks(words)], held)


def vllm(words: list[str], held: socket.socket) -> None:
    """What the program `vllm` does with these words. The program itself asks for the metadata of a package `vllm`,
    which the CPU build lacks under that name."""
    from vllm.entrypoints.cli import serve as command

    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")  # as the program does
    parser = parser_of("vllm")
    commands = parser.add_subparsers(dest="subparser")
    known = command.cmd_init()
    for one in known:
        one.subparser_init(commands).set_defaults(dispatch_function=one.cmd)
    args = parser.parse_args(words)
    for one in known:
        one.validate(args)
    hand_over(held)
    args.dispatch_function(args)


def main(argv: list[str] | None = None) -> None:
    args, words = parse(sys.argv[1:] if argv is None else argv)
    run("vllm_serve", lambda: serve(args, words))


if __name__ == "__main__":
    main()
