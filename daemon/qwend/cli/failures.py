"""Failures as a user meets them: one line that says what, where and how to mend it, on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import suppress

import click

from qwend.cli.terminal import clean
from qwend.cli.verbs import program, spelled
from qwend.errors import QwendError, UsageError

_LOG_LIMIT = 1 << 20


def report(error: BaseException) -> int:
    """Prints what went wrong and gives the exit code for it."""
    if isinstance(error, QwendError):
        here = _here()
        for line in error.lines():
            _say(line.removeprefix(here) if error.where or error.details else f"qwend: {line}")
        return error.exit_code
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.message, err=True)
        return 2
    if isinstance(error, click.UsageError):
        _say(_usage(error))
        return 2
    if isinstance(error, click.ClickException):
        _say(f"qwend: {error.format_message()}")
        return 2
    if isinstance(error, KeyboardInterrupt | click.Abort):
        _say("qwend: interrupted")
        return 130
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    _unexpected(error)
    return 1


def _here() -> str:
    """The current folder as paths in it begin: what lies here is named without it."""
    try:
        here = os.path.join(os.getcwd(), "")
        return here if here != os.sep else ""
    except OSError:
        return ""


def unknown(kind: str, given: str, known: Iterable[str], *, see: str) -> UsageError:
    """There is no such thing; did you mean …?"""
    names = list(dict.fromkeys(known))
    near = nearest(given, names)
    hint = f"did you mean {near}?" if near else (f"known: {', '.join(names[:8])}" if names else "")
    more = f"see `{see}`"
    return UsageError(
        f'no {kind} "{given}"',
        code=f"no-such-{kind}",
        hint=f"{hint} {more}" if near else f"{hint}; {more}".lstrip("; "),
    )


def nearest(given: str, known: Iterable[str]) -> str | None:
    """The known name that was most likely meant."""
    from difflib import get_close_matches

    found = get_close_matches(
        given.lower(), {name.lower(): name for name in known}, 1, 0.5 if len(given) < 4 else 0.6
    )
    return next((name for name in known if name.lower() == found[0]), None) if found else None


def _usage(error: click.UsageError) -> str:
    """click's message in the form of the house."""
    command = error.ctx.command_path if error.ctx else program()
    message = error.format_message().rstrip(".")
    message = message[:1].lower() + message[1:]
    return f"{command}: {message} (see `{command} --help`)"


def _unexpected(error: BaseException) -> None:
    import traceback

    if os.environ.get("QWEND_DEBUG"):
        traceback.print_exception(error)
        return
    log = _write("".join(traceback.format_exception(error)))
    where = f"its traceback is in {log}" if log else "QWEND_DEBUG=1 shows its traceback"
    _say(f"qwend: this is a bug: {type(error).__name__}: {error} ({where})")


def _write(text: str) -> str | None:
    """Appends to the client's log, which is begun anew when it gets long; its path, or None."""
    from qwend import __version__, paths

    try:
        log = paths.client_log(paths.home())
        os.makedirs(os.path.dirname(log), mode=0o700, exist_ok=True)
        mode = "a" if os.path.exists(log) and os.path.getsize(log) < _LOG_LIMIT else "w"
        with open(log, mode, encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"qwend {__version__}: {' '.join(sys.argv[1:3])}\n{text}\n")
    except (OSError, QwendError):
        return None
    return log


def unwritable(error: OSError) -> int:
    """Tells that stdout takes no more, as other programs do; the exit code."""
    _say(f"qwend: cannot write to standard output: {error.strerror}")
    return 1


def _say(line: str) -> None:
    with suppress(OSError):  # a full or closed stderr: the exit code is left to tell it
        click.echo(spelled(clean(line, lines=False)), err=True)
