"""qwend start"""

from __future__ import annotations

import click

from qwend.cli.acting import act, exit_with
from qwend.cli.completing import name_option, step_argument


@click.command("start", epilog="Example: qwend start chat")
@step_argument
@name_option
def command(step: str, name: str | None) -> None:
    """Start STEP, a service that was stopped or has failed; what it needs must be there."""
    exit_with(act("start", step, name))
