"""`python -m examples.store_add demo`: see store/add work, on real input, in under a minute."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anyio
import click

from examples.store_add.demo import Unexpected, console, demo, farewell, killed
from examples.store_add.seaweed import Endpoint, SeaweedError
from scheduler.handlers.s3 import Secret


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command("demo")
@click.option("--folder", default=".demo", type=click.Path(path_type=Path), show_default=True)
@click.option(
    "--file", default="README.md", type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
def demo_command(folder: Path, file: Path) -> None:
    """Store a file, ask again, let one expire, survive a SIGKILL, print the history."""
    try:
        anyio.run(demo, folder, file)
    except (Unexpected, SeaweedError) as error:
        console.print(f"[bold red]✗[/] {error}", markup=True)
        sys.exit(1)
    farewell(folder)


@main.command("killed", hidden=True)
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("url")
def killed_command(folder: Path, url: str) -> None:
    """The process that is killed."""
    secret = Secret(os.environ["S3_SECRET_KEY"])
    endpoint = Endpoint(url, os.environ["S3_ACCESS_KEY"], secret, "stmflow")
    anyio.run(killed, folder, endpoint)


if __name__ == "__main__":
    main()
