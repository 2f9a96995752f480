"""What every reading command shares: `--json`, and the table beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click

from qwend.cli.terminal import table
from qwend.cli.verbs import spelled

F = TypeVar("F", bound=Callable[..., Any])

json_option: Callable[[F], F] = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON instead of a table."
)


def print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2))


def print_line(value: object) -> None:
    """One JSON object on one line, at once: a stream is read while it grows."""
    click.echo(json.dumps(value))


def print_table(
    rows: Iterable[Sequence[object]], headers: Sequence[str], *, right: Sequence[str] = (), empty: str
) -> None:
    """A table, or a sentence that says why there is none."""
    rows = list(rows)
    click.echo(table(rows, headers, right=right) if rows else spelled(empty))
