"""Talk to a model at the terminal with llama-cli, or ask it one question with llama-completion.

    python lc_chat.py --chat llama-cli --once llama-completion --model FILE [--prompt FILE] [--system FILE] -- ARGUMENTS

On a terminal, without a prompt, this process becomes llama-cli. Else one question is asked, the prompt's or the one
that is piped in; the answer, as it comes, is all of standard output. Exit codes: 0 done, 1 the tool fails, 2 usage.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from lc_common import KEPT, ToolError, told, why

END = b" [end of text]"
"""What llama-completion writes behind an answer that ended by itself, before some empty lines."""
HELD = len(END) + 16


def main(argv: list[str]) -> None:
    at = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(description="Talk to a model.")
    for name in ("--chat", "--once", "--model"):
        parser.add_argument(name, required=True)
    for name in ("--prompt", "--system"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args(argv[:at])
    own = [
        "-m",
        args.model,
        "--offline",
        *(["-sysf", str(args.system)] if args.system else []),
        *argv[at + 1 :],
    ]
    if args.prompt is None and sys.stdin.isatty():
        os.execv(args.chat, [args.chat, *own])
    question = args.prompt.read_text(encoding="utf-8") if args.prompt else sys.stdin.read()
    if not question.strip():
        raise ToolError("there is no question", "pipe one in, or say it with prompt")
    ask(args.once, own, question.strip("\n"))


def ask(tool: str, own: list[str], question: str) -> None:
    """Writes the answer to standard output. Raises ToolError where the tool fails."""
    with tempfile.TemporaryDirectory() as folder:
        asked, heard = Path(folder, "question.txt"), Path(folder, "said.txt")
        asked.write_text(question, encoding="utf-8")
        command = [
            tool,
            *own,
            "-cnv",
            "-st",
            "-f",
            str(asked),
            "--no-display-prompt",
            "--no-escape",
            "--jinja",
        ]
        with heard.open("wb") as log:
            process = subprocess.Popen(
                [*command, "--simple-io"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
            )
        assert process.stdout is not None
        try:
            copy(process.stdout.fileno())
        except (KeyboardInterrupt, BrokenPipeError):
            process.terminate()
            process.wait()
            os._exit(130)
        code = process.wait()
        if code:
            raise why(heard.read_bytes()[-KEPT:].decode("utf-8", "replace"), code)


def copy(pipe: int) -> None:
    """The answer as it comes, without the mark at its end: so much is held back as might be its beginning."""
    held, said = b"", False
    while piece := os.read(pipe, 65536):
        held += piece
        if not said:
            held = held.lstrip(b"\n")
        if len(held) > HELD:
            os.write(1, held[:-HELD])
            held, said = held[-HELD:], True
    os.write(1, held.rstrip(b"\n").removesuffix(END) + b"\n")


if __name__ == "__main__":
    told(main, sys.argv[1:], "chat")
