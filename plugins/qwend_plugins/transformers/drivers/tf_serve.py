"""Serve a checkpoint over OpenAI's API, with transformers. Runs inside the image; imports nothing of qwend.

    python tf_serve.py --model DIR --device cpu --host 127.0.0.1 --port 8080 --name chat

SIGTERM or SIGINT ends it with exit code 0, cutting open streams. It listens at once, and answers 503
until the model is loaded. Exit codes: 1 the model or an option is refused, 2 usage, 98 the port is taken (EADDRINUSE).
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # an isolated interpreter (-I) leaves the script's folder out
from hf_generate import Generating
from openai_http import Handler
from openai_requests import BadRequest, Chat
from openai_worker import Prompt, Server, Service
from tf_load import DriverError, Loaded, add_model_options, check_template, load, report, run

ADDRESS_IN_USE = 98


class Transformers(Generating):
    """An Engine (openai_worker) over a loaded checkpoint; `options` go to every call of its chat template."""

    most: int | None = None

    def __init__(self, loaded: Loaded, options: dict[str, Any]) -> None:
        self.model, self.tokenizer, self.context = loaded.model, loaded.tokenizer, loaded.context
        self.vocabulary = len(loaded.tokenizer)
        self._options = options

    def prompt(self, chat: Chat) -> Prompt:
        try:
            text = self.tokenizer.apply_chat_template(
                chat.messages,
                tools=chat.tools,
                add_generation_prompt=True,
                tokenize=False,
                **(self._options | chat.options),
            )
        except Exception as error:  # templates raise what they like, for roles in a wrong order above all
            raise BadRequest(
                f"the model's chat template refuses these messages: {error}", "messages"
            ) from None
        tokens = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return Prompt(tokens, text.rstrip().endswith("<think>"))


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Serve a checkpoint over OpenAI's API.")
    add_model_options(parser)
    add = parser.add_argument
    add("--host", default="127.0.0.1")
    add("--port", type=int, required=True)
    add("--name", action="append", required=True, help="the model's name; more are aliases")
    add("--api-key-file", type=Path)
    add("--max-waiting", type=int, default=256, help="requests that may wait for their turn")
    add("--reasoning", action="store_true", help="give what stands in <think> as reasoning_content")
    add(
        "--chat-template-kwargs",
        type=json.loads,
        default={},
        help="a JSON object for every chat template call",
    )
    return parser.parse_args(argv)


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        text = f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}"
        if error.errno == errno.EADDRINUSE:
            raise DriverError(text, "choose another port", ADDRESS_IN_USE) from None
        raise DriverError(
            text, "choose an address of this machine and a port that this user may take"
        ) from None
    return bound


def serve(args: argparse.Namespace) -> None:
    """Load, listen, and wait for a signal."""
    key = args.api_key_file.read_text(encoding="utf-8").strip() if args.api_key_file else None
    stop = threading.Event()

    def on_signal(number: int, frame: object) -> None:
        if stop.is_set() or not listening.is_set():
            os._exit(0 if not listening.is_set() else 1)  # loading holds nothing that wants tidying up
        stop.set()

    listening = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    bound = bind(args.host, args.port)
    server = Server(bound, Handler)
    threading.Thread(target=server.serve_forever, name="listen", daemon=True).start()
    loaded = load(args)
    check_template(loaded)
    engine = Transformers(loaded, args.chat_template_kwargs)
    server.begin(Service(engine, tuple(args.name), key, args.max_waiting, args.reasoning))
    listening.set()
    report(fact={"listening": "{}:{}".format(*bound.getsockname()[:2]), "devices": [loaded.device]})
    print(
        f"serving {args.name[0]} on {args.host}:{args.port}, {loaded.context} tokens of context", flush=True
    )
    stop.wait()
    server.server_close()
    os._exit(0)  # an answer that is being generated is cut; nothing is left to be written


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    run("tf_serve", lambda: serve(args))


if __name__ == "__main__":
    main()
