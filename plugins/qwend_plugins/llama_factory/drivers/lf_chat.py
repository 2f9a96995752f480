"""Talk to a model, or an adapter on its base, as LLaMA-Factory loads it; or ask it what is piped in.

    python lf_chat.py --arguments arguments.json --model DIR [--adapter DIR]

On a terminal this is LLaMA-Factory's own chat. Else one question is asked, and the answer, as it comes, is all of
standard output. Exit codes: 0 done, 1 it failed, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).parent))  # an isolated interpreter (-I) leaves the script's folder out
import lf_infer
from lf_report import Refused, explain, fail

INTERRUPTED = 130


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    lf_infer.options(parser)
    said = parser.parse_args(argv)
    try:
        told = lf_infer.arguments(said)
        if sys.stdin.isatty():
            talk(told)
        else:
            ask(told, question())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Refused as error:
        fail(*explain(error))
    except Exception as error:
        traceback.print_exc()
        fail(*explain(error))


def talk(told: dict[str, Any]) -> None:
    """LLaMA-Factory's chat, until `exit` or Ctrl-D."""
    module: Any = importlib.import_module("llamafactory.chat.chat_model")
    kind = module.ChatModel
    module.ChatModel = lambda: kind(told)  # it would read them from the command line, as texts
    try:
        module.run_chat()
    except EOFError:  # it knows no Ctrl-D
        print()


def question() -> str:
    """What is piped in. Raises Refused where that is nothing."""
    found = sys.stdin.read().strip("\n")
    if not found.strip():
        raise Refused("there is no question", "pipe one in, or run it on a terminal")
    return found


def ask(told: dict[str, Any], text: str) -> None:
    """The answer alone on standard output; what LLaMA-Factory logs there goes to the other one."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as answer:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        model: Any = importlib.import_module("llamafactory.chat.chat_model").ChatModel(told)
        for piece in model.stream_chat([{"role": "user", "content": text}]):
            answer.write(piece)
            answer.flush()
        answer.write("\n")


def leave(code: int) -> NoReturn:
    """Ends without the interpreter's own farewell: a thread that generates may still be in native code, and one that
    is stopped there ends the process by SIGABRT."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except SystemExit as ended:
        leave(ended.code if isinstance(ended.code, int) else 1 if ended.code else 0)
    leave(0)
