"""`python -m examples.bank`: random transfers on a store of your choice."""

from __future__ import annotations

import sys

import anyio
import click

from examples.bank import load as loads
from stmflow import StmflowError


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command("load")
@click.argument("store")
@click.option("--workers", default=8, show_default=True, type=click.IntRange(1))
@click.option("--transfers", default=10_000, show_default=True, help="Of each worker.")
@click.option("--accounts", default=100, show_default=True, type=click.IntRange(2, 10_000))
@click.option("--processes", default=1, show_default=True, type=click.IntRange(1))
def load_command(store: str, workers: int, transfers: int, accounts: int, processes: int) -> None:
    """Transfer at random in STORE: memory, a file, or postgresql://…"""
    if workers % processes or (store == "memory" and processes > 1):
        raise click.UsageError("every process has as many workers; a store in memory has one")
    load = loads.Load(workers, transfers, accounts, processes)

    async def run() -> loads.Found:
        async with loads.opened(store) as bank:
            return await loads.run(bank, store, load)

    try:
        found = anyio.run(run)
    except StmflowError as error:
        raise click.ClickException(str(error)) from error
    click.echo(found.text())
    sys.exit(1 if found.wrong else 0)


@main.command("work", hidden=True)
@click.argument("store")
@click.argument("first", type=int)
@click.argument("count", type=int)
@click.argument("load")
def work_command(store: str, first: int, count: int, load: str) -> None:
    """One process of several."""
    click.echo(anyio.run(loads.child, store, first, count, load))


if __name__ == "__main__":
    main()
