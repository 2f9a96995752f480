"""qwend ps"""

from __future__ import annotations

import time

import click

from qwend.cli.completing import name_option
from qwend.cli.output import json_option, print_json, print_table
from qwend.cli.session import find_recipe, open_daemon
from qwend.cli.terminal import duration, size
from qwend.client import Json

HEADERS = ("RECIPE", "STEP", "STATE", "ENGINE", "TIME", "SIZE", "UP", "RESTARTS", "URL", "REASON")


@click.command(
    "ps",
    epilog="Example: qwend ps -p huanhuan\n\nJSON: a list of objects with recipe, step, kind, engine, state, reason, "
    "runtime, image, port, url, pid, started, health, restarts, fingerprint, generation, artifact, size, seconds, "
    "exit, log.",
)
@click.option("-f", "--file", "files", multiple=True, metavar="FILE", help="Only the recipe of this file.")
@name_option
@json_option
def command(files: tuple[str, ...], name: str | None, as_json: bool) -> None:
    """List steps: what runs, what is done.

    TIME is how long a job took or a service needed to be ready, UP how long a service has been there, RESTARTS how
    often it was started again after it failed, since it was last well for a while.
    """
    client = open_daemon()
    recipe = find_recipe(client, name, files) if name or files else None
    rows = client.get("/v1/steps", recipe=recipe)["steps"]
    if as_json:
        print_json(rows)
        return
    print_table(
        map(_row, rows),
        HEADERS,
        right=("TIME", "SIZE", "UP", "RESTARTS"),
        empty="nothing has run here yet: qwend up FILE.yaml",
    )


def _row(row: Json) -> tuple[object, ...]:
    up = time.time() - row["started"] if row.get("url") and row.get("started") is not None else None
    return (
        row["recipe"], row["step"], row["state"], row["engine"], duration(row.get("seconds")), size(row.get("size")),
        duration(up), row.get("restarts") or None, row.get("url"), row.get("reason"),
    )  # fmt: skip
