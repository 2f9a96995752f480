"""A conversation at the terminal: reads lines, prints answers as they come, obeys commands that begin with a slash."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress

import click

from qwend.chat import Conversation
from qwend.cli.terminal import clean, paint
from qwend.cli.verbs import spelled
from qwend.errors import QwendError, UsageError

HELP = """\
/system TEXT   what the system says from now on; /system alone shows it, /system - takes it away
/save FILE     write the conversation: .json, .jsonl (a row to train on) or .md
/set KEY VALUE a setting of the API (temperature, max_tokens, top_p …); /set alone shows them
/clear         begin anew; the system's words stay
/retry         ask the last question again
/help          this
/bye           leave (so does Ctrl-D)
Several lines: begin with \"\"\" and end with it, or end a line with \\. Ctrl-C stops an answer, not the chat."""


class Talk:
    """One conversation as its user sees it. `read` gives a line for a prompt and raises EOFError at the end."""

    def __init__(
        self, conversation: Conversation, *, read: Callable[[str], str] = input, figures: bool = True
    ) -> None:
        self._talk = conversation
        self._read = read
        self._figures = figures

    def go(self) -> int:
        """Talks until the user leaves; the exit code."""
        with suppress(ImportError):
            import readline  # noqa: F401  (editing and a history of the lines)
        click.echo(
            paint(f"talking to {self._talk.endpoint.model}; /help shows commands", "dim", sys.stderr),
            err=True,
        )
        while True:
            try:
                line = self._question()
            except EOFError:
                click.echo(err=True)
                return 0
            except KeyboardInterrupt:
                click.echo("\n(Ctrl-D or /bye leaves)", err=True)
                continue
            if not line.strip():
                continue
            try:
                if line.startswith("/") and self._command(line):
                    return 0
                if not line.startswith("/"):
                    self.ask(line)
            except QwendError as error:
                click.echo(
                    paint(spelled(clean("; ".join(error.lines()), lines=False)), "red", sys.stderr), err=True
                )

    def ask(self, question: str) -> None:
        """Asks and prints the answer as it comes; an interrupt ends the answer and nothing else."""
        thinking = False
        answer = self._talk.ask(question)
        try:
            for piece in answer:
                if (piece.kind == "thought") != thinking:
                    thinking = not thinking
                    if not thinking:
                        click.echo("\n", err=True)
                if thinking:
                    click.echo(paint(clean(piece.text), "dim", sys.stderr), err=True, nl=False)
                else:
                    click.echo(clean(piece.text), nl=False)
        except KeyboardInterrupt:
            with suppress(KeyboardInterrupt):
                answer.throw(KeyboardInterrupt)
            click.echo(paint(" …", "yellow", sys.stderr), err=True, nl=False)
        click.echo()
        if self._figures:
            self._tell_figures()

    def _question(self) -> str:
        """One question: a line, or several."""
        line = self._read("> ")
        if line.startswith('"""'):
            lines = [line[3:]]
            while not lines[-1].endswith('"""') or (len(lines) == 1 and len(line) < 6):
                lines.append(self._read("… "))
            return "\n".join(lines).removesuffix('"""').strip("\n")
        lines = [line]
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            lines.append(self._read("… "))
        return "\n".join(lines)

    def _command(self, line: str) -> bool:
        """Obeys a command; True if it is to leave."""
        word, _, rest = line[1:].partition(" ")
        rest = rest.strip()
        match word:
            case "bye" | "exit" | "quit":
                return True
            case "help" | "?":
                click.echo(HELP, err=True)
            case "system":
                self._system(rest)
            case "save":
                self._save(rest)
            case "set":
                self._set(rest)
            case "clear":
                self._talk.clear()
                click.echo("forgotten", err=True)
            case "retry":
                if not self._talk.messages:
                    raise UsageError("nothing was asked yet", code="nothing-asked")
                question, _ = self._talk.messages[-2:]
                del self._talk.messages[-2:]
                self.ask(str(question["content"]))
            case _:
                raise UsageError(f"there is no command /{word}", code="no-command", hint="/help shows them")
        return False

    def _system(self, text: str) -> None:
        if text:
            self._talk.system = None if text == "-" else text
        said = self._talk.system
        click.echo(f"the system says: {clean(said)}" if said else "the system says nothing", err=True)

    def _set(self, text: str) -> None:
        name, _, value = text.partition(" ")
        if name and value.strip() in ("", "-"):
            self._talk.settings.pop(name, None)
        elif name:
            self._talk.settings[name] = checked(name, value.strip())
        said = ", ".join(f"{key} {value}" for key, value in sorted(self._talk.settings.items()))
        click.echo(clean(said) or "as the model's own settings say", err=True)

    def _save(self, path: str) -> None:
        if not path:
            raise UsageError("where to?", code="no-file", hint="/save talk.json")
        text = self._talk.text(path)
        try:
            with open(os.path.expanduser(path), "x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            raise UsageError(f"{path} is there already", code="exists", hint="take another name") from None
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}", code="unwritable") from None
        click.echo(f"saved {len(self._talk.messages)} messages in {path}", err=True)

    def _tell_figures(self) -> None:
        figures = self._talk.figures
        parts = [f"{figures.tokens} tokens"] if figures.tokens is not None else []
        parts += [f"{figures.rate:.3g} tokens/s"] if figures.rate else []
        parts += [f"first after {figures.first_s:.2g} s"] if figures.first_s is not None else []
        parts += ["cut off at max_tokens or the context"] if figures.finish == "length" else []
        if parts:
            click.echo(paint(", ".join(parts), "dim", sys.stderr), err=True)


_NUMBERS = {
    "temperature", "top_p", "top_k", "min_p", "typical_p", "max_tokens", "max_completion_tokens", "min_tokens", "seed",
    "presence_penalty", "frequency_penalty", "repetition_penalty", "repeat_penalty", "top_logprobs",
}  # fmt: skip
_OTHERS = {
    "stop", "logit_bias", "logprobs", "response_format", "chat_template_kwargs", "reasoning_effort", "ignore_eos",
    "tools", "tool_choice", "stream_options", "user", "grammar", "json_schema",
}  # fmt: skip
_OURS = {"model", "messages", "stream", "n"}


def checked(name: str, text: str) -> object:
    """The value of a setting of the API. Raises UsageError for one that a service would pass over in silence: a
    mistyped name, a word for a number, what a conversation settles itself. Names that nobody knows are an engine's own.
    """
    from qwend.cli.failures import nearest

    if name in _OURS:
        raise UsageError(f"{name} is settled by the conversation itself", code="bad-setting")
    value = setting(text)
    if name in _NUMBERS:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UsageError(f'{name} is a number, and "{text}" is none', code="bad-setting")
    elif name not in _OTHERS and (near := nearest(name, sorted(_NUMBERS | _OTHERS))):
        raise UsageError(f"there is no setting {name}; did you mean {near}?", code="bad-setting")
    return value


def setting(text: str) -> object:
    """A value of the API as people write it: a number, true or false, else a word."""
    import json

    try:
        return json.loads(text)
    except ValueError:
        return text
