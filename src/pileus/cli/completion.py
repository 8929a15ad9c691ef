"""The verb `completion`: a script for the shell, made by click's own machinery."""

from __future__ import annotations

import click

from pileus.cli import render
from pileus.cli.invocation import Invocation
from pileus.cli.parameters import verb


@verb("completion")
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion_command(invocation: Invocation, shell: str) -> None:
    r"""Print a script that lets the shell complete.

    \b
    bash: eval "$(pileus completion bash)"   in ~/.bashrc
    zsh:  eval "$(pileus completion zsh)"    in ~/.zshrc
    fish: pileus completion fish > ~/.config/fish/completions/pileus.fish
    """
    from click.shell_completion import get_completion_class

    from pileus.cli.app import app

    kind = get_completion_class(shell)
    assert kind is not None  # click brings all three
    render.show(kind(app, {}, "pileus", "_PILEUS_COMPLETE").source())
