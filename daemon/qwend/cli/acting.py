"""What `start`, `stop` and `restart` share."""

from __future__ import annotations

import click

from qwend.cli import progress
from qwend.cli.session import find_step, open_daemon
from qwend.client import Json, quote
from qwend.errors import QwendError


def act(verb: str, step: str, name: str | None) -> int:
    """Does the verb to a step and shows it until it has settled; the exit code."""
    client = open_daemon()
    row = find_step(client, step, name)
    target = f"/v1/steps/{quote(row['recipe'])}/{quote(row['step'])}/{verb}"
    with progress.display() as shown:
        return settle(progress.follow(client.stream("POST", target), shown))


def settle(end: Json) -> int:
    """The exit code that an `end` tells; its error is raised."""
    if end.get("error"):
        raise QwendError.from_dict(end["error"])
    code = end.get("exit_code", 0)
    return code if isinstance(code, int) else 1


def exit_with(code: int) -> None:
    """Ends the command with this exit code."""
    if code:
        click.get_current_context().exit(code)
