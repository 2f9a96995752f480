"""qwend restart"""

from __future__ import annotations

import click

from qwend.cli.acting import act, exit_with
from qwend.cli.completing import name_option, step_argument


@click.command("restart", epilog="Example: qwend restart chat")
@step_argument
@name_option
def command(step: str, name: str | None) -> None:
    """Restart STEP, a service, on the port that it holds."""
    exit_with(act("restart", step, name))
