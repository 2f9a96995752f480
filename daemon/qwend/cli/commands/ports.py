"""qwend ports"""

from __future__ import annotations

import click

from qwend.cli.output import json_option, print_json, print_table
from qwend.cli.session import open_daemon


@click.command(
    "ports",
    epilog="Example: qwend ports\n\nJSON: an object with range ([first, last]) and leases, a list of objects with "
    "port, holder, sticky, listening.",
)
@json_option
def command(as_json: bool) -> None:
    """List leased ports. A service keeps its port over restarts; `port:` in the recipe fixes one."""
    answer = open_daemon().get("/v1/ports")
    if as_json:
        print_json(answer)
        return
    low, high = answer["range"]
    rows = [
        (one["port"], one["holder"], _yes(one["listening"]), "kept" if one["sticky"] else "")
        for one in answer["leases"]
    ]
    print_table(
        rows,
        ("PORT", "HOLDER", "LISTENING", "KEPT"),
        empty=f"no port is leased; they come from {low} to {high}",
    )


def _yes(value: object) -> str:
    return "?" if value is None else "yes" if value else "no"
