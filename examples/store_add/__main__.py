"""`python -m examples.store_add demo`: see store/add work, on real input, in under a minute."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import anyio
import click

from examples.store_add.demo import Unexpected, console, demo, farewell, killed
from examples.store_add.seaweed import Endpoint, SeaweedError
from scheduler.handlers.s3 import Secret
from stmflow import StmflowError


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


@main.command("serve")
@click.option("--port", default=0, show_default=True, help="0: a free one.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option(
    "--data", default=".serve", type=click.Path(path_type=Path, file_okay=False), show_default=True
)
@click.option(
    "--quota",
    default=1024**3,
    show_default=True,
    type=click.IntRange(min=0),
    help="Bytes that a space not seen before may use.",
)
@click.option("--key", type=click.Path(path_type=Path, dir_okay=False), help="The service's key.")
@click.option("--did", help="A did:web to speak as; its key is the one in --key.")
@click.option("--s3", help="The URL of an S3 server. Default: one is started.")
@click.option("--bucket", default="stmflow", show_default=True)
def serve_command(
    port: int,
    host: str,
    data: Path,
    quota: int,
    key: Path | None,
    did: str | None,
    s3: str | None,
    bucket: str,
) -> None:
    """Serve storage clients over HTTP. Credentials for --s3: S3_ACCESS_KEY, S3_SECRET_KEY."""
    from examples.store_add.serve import Settings, serve

    endpoint = None
    if s3 is not None:
        try:
            access, secret = os.environ["S3_ACCESS_KEY"], Secret(os.environ["S3_SECRET_KEY"])
        except KeyError as missing:
            raise click.UsageError(f"--s3 needs {missing} in the environment") from None
        endpoint = Endpoint(s3, access, secret, bucket)
    settings = Settings(data, port, host, quota, key, did, endpoint)
    try:
        anyio.run(serve, settings, backend_options={"use_uvloop": _uvloop()})
    except (StmflowError, SeaweedError, OSError) as error:
        click.echo(f"✗ {error}", err=True)  # on stdout there is the one line or nothing
        sys.exit(1)


def _uvloop() -> bool:
    return importlib.util.find_spec("uvloop") is not None


if __name__ == "__main__":
    main()
