"""qwend stop"""

from __future__ import annotations

import click

from qwend.cli.acting import act, exit_with
from qwend.cli.completing import name_option, step_argument


@click.command("stop", epilog="Example: qwend stop huanhuan/chat")
@step_argument
@name_option
def command(step: str, name: str | None) -> None:
    """Stop STEP, a service, and leave the rest of its recipe as it is."""
    exit_with(act("stop", step, name))
