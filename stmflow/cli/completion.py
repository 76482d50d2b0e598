"""`completion`: what makes a shell complete stmflow's commands."""

from __future__ import annotations

import click

from stmflow.cli.settings import Settings, command


@command(short_help="Print what makes a shell complete stmflow's commands.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(settings: Settings, shell: str) -> None:
    """Print what makes SHELL complete stmflow's commands and options.

    For bash: eval "$(stmflow completion bash)"
    """
    from click.shell_completion import get_completion_class

    from stmflow.cli import cli
    from stmflow.cli.output import emit

    found = get_completion_class(shell)
    assert found is not None
    source = found(cli, {}, "stmflow", "_STMFLOW_COMPLETE").source()
    if settings.json:
        emit({"shell": shell, "source": source})
    else:
        click.echo(source)
