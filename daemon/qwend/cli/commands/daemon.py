"""qwend daemon"""

from __future__ import annotations

import time

import click

from qwend import __version__, paths
from qwend.cli.output import json_option, print_json
from qwend.cli.terminal import clean, count, duration
from qwend.client import Client
from qwend.connecting import connect, start_daemon, stop_daemon
from qwend.errors import Unreachable


@click.group("daemon", epilog="Example: qwend daemon status")
def command() -> None:
    """The daemon: start, stop, status, install.

    Commands start it by themselves; `install` lets the system start it at login.
    """


@command.command(epilog="Example: qwend daemon start")
def start() -> None:
    """Start the daemon, if none runs."""
    home = paths.home()
    try:
        hello = connect(start=False).get("/v1/version")
        click.echo(f"qwend {hello['version']} runs already, pid {hello['pid']}")
    except Unreachable as error:
        if error.code != "no-daemon":
            raise
        start_daemon(home)
        hello = Client(paths.socket(home)).get("/v1/version")
        click.echo(clean(f"qwend {hello['version']} runs, pid {hello['pid']}; home {home}", lines=False))


@command.command(epilog="Example: qwend daemon stop --services")
@click.option("--services", is_flag=True, help="Stop every service first.")
def stop(services: bool) -> None:
    """Stop the daemon. Services live on, and the next daemon adopts them."""
    home = paths.home()
    client = Client(paths.socket(home))
    try:
        rows = client.get("/v1/steps")["steps"]
        stop_daemon(client, home, services=services)
    except Unreachable as error:
        if error.code != "no-daemon":
            raise
        click.echo("no daemon runs")
        return
    alive = sum(bool(row.get("url")) for row in rows)
    lives = (
        f"; {count(alive, 'service')} live{'s' if alive == 1 else ''} on" if alive and not services else ""
    )
    click.echo(f"stopped{lives}")


@command.command(
    epilog="Example: qwend daemon status\n\nJSON: an object with running, home, socket, log and, if it runs, version, "
    "api, pid, instance, started. The exit code is 3 if none runs."
)
@json_option
def status(as_json: bool) -> None:
    """Say whether the daemon runs, and where its things are."""
    home = paths.home()
    where = {"home": home, "socket": paths.socket(home), "log": paths.daemon_log(home)}
    facts: dict[str, object] = {"running": False, **where}
    try:
        facts |= {"running": True, **Client(paths.socket(home)).get("/v1/version")}
    except Unreachable as error:
        if error.code != "no-daemon":
            raise
    if as_json:
        print_json(facts)
    else:
        if facts["running"]:
            since = facts.get("started")
            up = f", up {duration(time.time() - since)}" if isinstance(since, float) else ""
            other = "" if facts["version"] == __version__ else f" (this is {__version__})"
            click.echo(f"qwend {facts['version']}{other} runs, pid {facts['pid']}{up}")
        else:
            click.echo("no daemon runs")
        for name, path in where.items():
            click.echo(clean(f"  {name:<6}  {path}", lines=False))
    if not facts["running"]:
        click.get_current_context().exit(3)


@command.command(epilog="Example: qwend daemon install --print")
@click.option("--print", "only_print", is_flag=True, help="Print the file and change nothing.")
@click.option("--remove", is_flag=True, help="Undo it.")
def install(only_print: bool, remove: bool) -> None:
    """Let the system start the daemon at login: a systemd user unit, or a launchd agent on macOS."""
    from qwend.cli import installing

    unit = installing.unit()
    if only_print:
        click.echo(unit.text, nl=False)
        return
    for line in unit.remove() if remove else unit.install():
        click.echo(clean(line))
