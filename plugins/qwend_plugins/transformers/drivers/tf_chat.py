"""Talk to a checkpoint at the terminal, with transformers. Runs inside the image; imports nothing of qwend.

    python tf_chat.py --model DIR --device cpu --system "Be brief."
    echo "Who are you?" | python tf_chat.py --model DIR --device cpu

Answers come word by word and every turn knows those before it. Ctrl-C stops an answer, Ctrl-D or /bye ends the chat.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # an isolated interpreter (-I) leaves the script's folder out
from answer_text import Piece, Splitter
from hf_generate import answer
from openai_requests import BadRequest, read_chat
from tf_load import DriverError, Loaded, add_model_options, check_template, load, run

HELP = """\
/system TEXT   what the system says from now on
/save FILE     write the conversation as JSON
/clear         begin anew
/bye           leave (so does Ctrl-D)
End a line with \\ to go on in the next. Ctrl-C stops an answer, not the chat."""


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Talk to a checkpoint at the terminal.")
    add_model_options(parser)
    add = parser.add_argument
    add("--system", help="what the system says")
    add("--prompt", help="ask this, print the answer, and leave")
    add("--sampling", type=json.loads, default={}, help="a JSON object in OpenAI's words")
    add("--chat-template-kwargs", type=json.loads, default={})
    return parser.parse_args(argv)


class Chat:
    """A conversation with a loaded model."""

    def __init__(self, loaded: Loaded, args: argparse.Namespace) -> None:
        self._loaded, self._args = loaded, args
        self.system: str | None = args.system
        self.messages: list[dict[str, Any]] = []

    def whole(self) -> list[dict[str, Any]]:
        first = [{"role": "system", "content": self.system}] if self.system else []
        return [*first, *self.messages]

    def ask(self, question: str) -> None:
        """Print the answer as it comes; keep both. An interrupt ends the answer."""
        asked = {"role": "user", "content": question}
        chat = read_chat(self._args.sampling | {"messages": [*self.whole(), asked]})
        text = self._loaded.tokenizer.apply_chat_template(
            chat.messages, add_generation_prompt=True, tokenize=False, **self._args.chat_template_kwargs
        )
        tokens = self._loaded.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(tokens) >= self._loaded.context:
            raise BadRequest(
                f"the conversation has {len(tokens)} tokens, the model's context {self._loaded.context}: /clear"
            )
        said: list[str] = []

        def show(piece: Piece) -> None:
            said.append(piece.text)
            print(harmless(piece.text), end="", flush=True)

        cancelled = threading.Event()
        splitter = Splitter(False, False)
        with suppress(KeyboardInterrupt):
            answer(self._loaded, tokens, chat.asked.sampling, show, splitter=splitter, cancelled=cancelled)
        print(flush=True)
        self.messages += [asked, {"role": "assistant", "content": "".join(said)}]

    def command(self, line: str) -> bool:
        """Obey a line that begins with a slash; True if it is to leave."""
        word, _, rest = line[1:].partition(" ")
        match word, rest.strip():
            case (("bye" | "exit" | "quit"), _):
                return True
            case "system", text:
                self.system = text or None
            case "clear", _:
                self.messages = []
            case "save", path if path:
                try:
                    with open(path, "x", encoding="utf-8") as file:
                        json.dump({"messages": self.whole()}, file, ensure_ascii=False, indent=1)
                except FileExistsError:
                    print(f"{path} is there already: take another name", file=sys.stderr)
                except OSError as error:
                    print(f"{path} cannot be written: {error.strerror}", file=sys.stderr)
            case _:
                print(HELP, file=sys.stderr)
        return False


def harmless(text: str) -> str:
    """Text without characters that would move a cursor or ring a bell."""
    return "".join(char if char.isprintable() or char in "\n\t" else f"\\x{ord(char):02x}" for char in text)


def talk(chat: Chat) -> None:
    """Read lines until the user leaves."""
    with suppress(ImportError):
        import readline  # noqa: F401
    print("/help shows commands", file=sys.stderr)
    while True:
        try:
            line = input("> ")
            while line.endswith("\\"):
                line = line[:-1] + "\n" + input("… ")
        except EOFError:
            return
        except KeyboardInterrupt:
            print("\n(Ctrl-D or /bye leaves)", file=sys.stderr)
            continue
        if line.startswith("/"):
            if chat.command(line):
                return
        elif line.strip():
            try:
                chat.ask(line)
            except BadRequest as error:
                print(error, file=sys.stderr)


def work(args: argparse.Namespace) -> None:
    loaded = load(args)
    check_template(loaded)
    chat = Chat(loaded, args)
    if args.prompt is None and sys.stdin.isatty():
        talk(chat)
        return
    question = args.prompt if args.prompt is not None else sys.stdin.read()
    if not question.strip():
        raise DriverError("there is no question", "pipe one in, or say it with prompt")
    try:
        chat.ask(question.strip("\n"))
    except BadRequest as error:
        raise DriverError(str(error)) from None


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    run("tf_chat", lambda: work(args))


if __name__ == "__main__":
    main()
