"""The root command: finds a command's file when it is called for, and turns every failure into one line."""

from __future__ import annotations

import os
import sys
from importlib import import_module

import click

from qwend.cli import failures

SECTIONS = {
    "Bring a recipe up": {
        "up": "Bring a recipe up: fetch, build, run, serve",
        "down": "Stop what a recipe runs",
        "run": "Run one engine without a recipe",
        "chat": "Talk to a service, or to a model without a recipe",
        "plan": "Show what `up` would do, and why",
        "fit": "Say which forms of a model fit this machine",
        "lock": "Pin what a recipe refers to",
    },
    "See what there is": {
        "ps": "List steps: what runs, what is done",
        "ls": "List recipes",
        "logs": "Show a step's log",
        "events": "Show what happened",
        "inspect": "Show a step or an artifact, with its provenance",
        "report": "Write a report: figures, plots, gates, lineage",
        "ports": "List leased ports",
        "doctor": "Say what this machine can do, and what is missing",
    },
    "Handle a step": {
        "start": "Start a service again",
        "stop": "Stop a service",
        "restart": "Restart a service",
    },
    "Handle what is kept": {
        "store": "Artifacts: list, verify, export, prune",
        "images": "Images: list, build, lock, verify, prune",
        "plugins": "Plugins: list, write, check",
    },
    "Write and set up": {
        "init": "Write a first recipe",
        "schema": "Print the JSON Schema of recipes, for editors",
        "daemon": "The daemon: start, stop, status, install",
        "completion": "Print the completion script of a shell",
    },
}
"""Every command with its sentence, so that `qwend --help` imports none of them (a test compares the two)."""

COMMANDS = {name: sentence for section in SECTIONS.values() for name, sentence in section.items()}
_WIDEST = 100


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


def run(arguments: list[str]) -> int:
    """Runs the command line and gives the exit code. Nothing but an exit code leaves it, in no case a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        if "_QWEND_COMPLETE" in os.environ:
            return _complete()
        code = root.main(arguments, prog_name="qwend", standalone_mode=False, terminal_width=_width())
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left: nobody to tell
        return 1
    except BaseException as error:
        return failures.report(error)


def _width() -> int:
    """Columns for a help page. click would find them with `shutil`, whose import costs 2 ms."""
    try:
        return min(os.get_terminal_size(sys.stdout.fileno()).columns, _WIDEST)
    except (OSError, ValueError):
        return _WIDEST


def _complete() -> int:
    from click.shell_completion import shell_complete

    return shell_complete(root, {}, "qwend", "_QWEND_COMPLETE", os.environ["_QWEND_COMPLETE"])
