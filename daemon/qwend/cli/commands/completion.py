"""qwend completion"""

from __future__ import annotations

import click


@click.command("completion", epilog='Example: eval "$(qwend completion bash)"')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of SHELL. Names of steps and recipes are completed from a running daemon.

    \b
    bash: eval "$(qwend completion bash)"   in ~/.bashrc
    zsh:  eval "$(qwend completion zsh)"    in ~/.zshrc, after compinit
    fish: qwend completion fish > ~/.config/fish/completions/qwend.fish
    """
    from click.shell_completion import get_completion_class

    from qwend.cli.program import root

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(root, {}, "qwend", "_QWEND_COMPLETE").source())
