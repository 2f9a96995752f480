"""qwend ls"""

from __future__ import annotations

import click

from qwend.cli.output import json_option, print_json, print_table
from qwend.cli.session import open_daemon


@click.command(
    "ls",
    epilog="Example: qwend ls\n\nJSON: a list of objects with name, state, steps, directory, source, run.",
)
@json_option
def command(as_json: bool) -> None:
    """List recipes: those that run and those that ran."""
    recipes = open_daemon().get("/v1/recipes")["recipes"]
    if as_json:
        print_json(recipes)
        return
    rows = [
        (one["name"], one["state"], _count(one["steps"]), one["source"] or one["directory"])
        for one in recipes
    ]
    print_table(
        rows, ("NAME", "STATE", "STEPS", "FROM"), right=("STEPS",), empty="no recipe yet: qwend up FILE.yaml"
    )


def _count(steps: object) -> object:
    return len(steps) if isinstance(steps, list | dict) else steps
