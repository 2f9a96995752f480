"""Serve or talk: LLaMA-Factory's own API server and chat, told where to listen and with which key.

    python lf_serve.py --arguments arguments.json --model DIR [--adapter DIR]
        [--host ADDRESS --port N --name MODEL [--api-key-file FILE]]     serve; without --port: chat here

Its server allows every web page to call it (CORS `*`); here that is taken back. Exit codes: 0 ended, 1 it failed,
98 the port is taken.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # an isolated interpreter (-I) leaves the script's folder out
import lf_infer
from lf_report import Refused, explain, fail, progress

PORT_TAKEN = 98


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    lf_infer.options(parser)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int)
    parser.add_argument("--name", default="model")
    parser.add_argument("--api-key-file", type=Path)
    said = parser.parse_args(argv)
    try:
        told = lf_infer.arguments(said)
        if said.port is None:
            chat(told)
        else:
            serve(told, said)
    except Refused as error:
        fail(*explain(error))
    except Exception as error:
        traceback.print_exc()
        fail(*explain(error))


def chat(told: dict[str, Any]) -> None:
    """LLaMA-Factory's chat on this terminal."""
    module: Any = importlib.import_module("llamafactory.chat.chat_model")
    # It takes its arguments from the command line only.
    sys.argv = ["llamafactory-cli", *(f"--{key}={value}" for key, value in told.items() if value is not None)]
    module.run_chat()


def serve(told: dict[str, Any], said: argparse.Namespace) -> None:
    """Binds first, so that a taken port is known before the model is loaded; answers once it is."""
    listener = bound(said.host, said.port)
    os.environ["API_MODEL_NAME"] = said.name
    if said.api_key_file:
        key = said.api_key_file.read_text(encoding="utf-8").strip()
        if not key:
            raise Refused("the secret api_key is empty")
        os.environ["API_KEY"] = key
    progress("load the model")
    model: Any = importlib.import_module("llamafactory.chat.chat_model").ChatModel(told)
    app: Any = importlib.import_module("llamafactory.api.app").create_app(model)
    app.user_middleware = [one for one in app.user_middleware if one.cls.__name__ != "CORSMiddleware"]
    uvicorn: Any = importlib.import_module("uvicorn")
    server = uvicorn.Server(uvicorn.Config(app, log_level="info"))
    listener.listen(128)
    server.run(sockets=[listener])


def bound(host: str, port: int) -> socket.socket:
    """A socket at the address that does not listen yet: until the model is loaded nobody is answered."""
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
