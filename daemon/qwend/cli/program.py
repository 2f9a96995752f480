"""The root command: finds a command's file when it is called for, and turns every failure into one line."""

from __future__ import annotations

import errno
import os
import sys
from importlib import import_module

import click

from qwend.cli import failures
from qwend.cli.verbs import COMMANDS, SECTIONS, program, spelled

_WIDEST = 100
_UNWRITABLE = {errno.ENOSPC, errno.EBADF, errno.EIO, errno.EDQUOT, errno.EFBIG}


class Root(click.Group):
    """Commands that are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"qwend.cli.commands.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            raise failures.unknown("command", args[0], COMMANDS, see="qwend --help")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(list(commands.items()), col_max=12)


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        from qwend import __version__

        click.echo(f"qwend {__version__}")
        ctx.exit()


root = Root(
    "qwend",
    help="Turns a recipe into a running Qwen model: fetch, train, quantise, measure, serve.",
    epilog=(
        "Example: qwend up recipes/quickstart.yaml\n\n"
        "Exit codes: 0 done, 1 a step failed, 2 bad usage or recipe, 3 the daemon or a runtime is unreachable, "
        "4 a gate refused, 5 out of a resource (port, memory, disk, GPU), 130 interrupted.\n\n"
        "Environment: QWEND_HOME (the daemon's folder), QWEND_CONFIG (another qwend.toml), NO_COLOR, QWEND_DEBUG=1 "
        "(tracebacks)."
    ),
    context_settings={"help_option_names": ["-h", "--help"]},
    params=[
        click.Option(
            ["--version"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_version,
            help="Show the version and exit.",
        )
    ],
)


class _Page(click.HelpFormatter):
    """A help page whose examples are spelled as the program was called."""

    def getvalue(self) -> str:
        return spelled(super().getvalue())


click.Context.formatter_class = _Page


def run(arguments: list[str]) -> int:
    """Runs the command line and gives the exit code. Nothing but an exit code leaves it, in no case a traceback."""
    _open_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    return _flushed(_run(arguments))


def _run(arguments: list[str]) -> int:
    try:
        if "_QWEND_COMPLETE" in os.environ:
            return _complete()
        code = root.main(arguments, prog_name=program(), standalone_mode=False, terminal_width=_width())
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except BrokenPipeError:
        return 1  # the reader left: nobody to tell
    except OSError as error:
        if error.filename is not None or error.errno not in _UNWRITABLE:
            return failures.report(error)
        return failures.unwritable(error)
    except BaseException as error:
        return failures.report(error)


def _open_streams() -> None:
    """Opens the standard streams that the caller closed: else the next file or socket would take their numbers, and
    what is printed would go there. What is written to a closed stdout is missed as it is by other programs."""
    for number, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # takes the lowest number that is free
    sys.stdin = sys.stdin or os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8", closefd=False)


def _flushed(code: int) -> int:
    """The exit code, 1 if what was printed did not arrive: the interpreter would tell that in its own words."""
    try:
        sys.stdout.flush()
    except OSError as error:
        code = code or (1 if isinstance(error, BrokenPipeError) else failures.unwritable(error))
    except ValueError:
        return code  # closed by whoever called this function
    else:
        return code
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return code


def _width() -> int:
    """Columns for a help page. click would find them with `shutil`, whose import costs 2 ms."""
    try:
        return min(os.get_terminal_size(sys.stdout.fileno()).columns, _WIDEST)
    except (OSError, ValueError):
        return _WIDEST


def _complete() -> int:
    from click.shell_completion import shell_complete

    return shell_complete(root, {}, "qwend", "_QWEND_COMPLETE", os.environ["_QWEND_COMPLETE"])
