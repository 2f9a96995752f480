"""Completion of names from a daemon that runs; where none runs nothing is offered, and none is started."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from qwend import paths
from qwend.client import Client
from qwend.errors import QwendError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

F = TypeVar("F", bound=Callable[..., Any])


def _rows() -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = Client(paths.socket(paths.home()), timeout_s=1.0).get("/v1/steps")[
            "steps"
        ]
    except (QwendError, KeyError):
        return []
    return rows


def _steps(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    wanted = ctx.params.get("name")
    rows = [row for row in _rows() if wanted in (None, row["recipe"])]
    names = (
        {row["step"] for row in rows}
        if "/" not in incomplete
        else {f"{row['recipe']}/{row['step']}" for row in rows}
    )
    return _items(names, incomplete)


def _recipes(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _items({row["recipe"] for row in _rows()}, incomplete)


def _items(names: set[str], incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]


step_argument: Callable[[F], F] = click.argument("step", metavar="STEP", shell_complete=_steps)
optional_step: Callable[[F], F] = click.argument(
    "words", metavar="[FILE] [STEP]", nargs=-1, shell_complete=_steps
)
name_option: Callable[[F], F] = click.option(
    "-p", "--name", metavar="NAME", shell_complete=_recipes, help="The recipe, if not the only one."
)
