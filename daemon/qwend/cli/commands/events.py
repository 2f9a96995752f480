"""qwend events"""

from __future__ import annotations

import time

import click

from qwend.cli.completing import name_option
from qwend.cli.output import print_line
from qwend.cli.session import find_recipe, open_daemon
from qwend.cli.terminal import clean
from qwend.client import Json


@click.command(
    "events",
    epilog="Example: qwend events -f\n\nJSON: one object a line, with seq, at, kind, subject and, where there is one, "
    "run, reason, data, table, row.",
)
@click.option("-f", "--follow", is_flag=True, help="Go on as things happen.")
@name_option
@click.option(
    "--after", type=click.IntRange(min=0), default=0, metavar="SEQ", help="Only what came after this event."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def command(follow: bool, name: str | None, after: int, as_json: bool) -> None:
    """Show what happened, oldest first: every change of every step, run, port and artifact."""
    client = open_daemon()
    recipe = find_recipe(client, name) if name else None
    for item in client.stream("GET", "/v1/events", follow=follow, after=after or None, recipe=recipe):
        event = item.get("event", item)
        if as_json:
            print_line(event)
        else:
            click.echo(_line(event))


def _line(event: Json) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.get("at", 0)))
    reason = f"  {event['reason']}" if event.get("reason") else ""
    return clean(f"{at}  {event['kind']:<18} {event['subject']}{reason}", lines=False)
