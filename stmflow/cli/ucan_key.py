"""`key`: files that hold the key of a principal."""

from __future__ import annotations

import click

from stmflow.cli.settings import Settings, command, group


@group(short_help="Make keys, and show whose they are.")
def key() -> None:
    """Make keys, and show whose they are. A key is a file that its owner alone may read."""


@key.add_command
@command(short_help="Make an Ed25519 key in a new file.")
@click.argument("file")
def new(settings: Settings, file: str) -> None:
    """Make an Ed25519 key in the new file FILE, of mode 0600, and print its DID.

    A file that is there is never replaced: with a key goes all that was granted to it.
    """
    from capabilities.principal import Signer
    from stmflow.cli.output import Screen, emit

    signer = Signer.generate()
    try:
        signer.save(file)
    except FileExistsError:
        raise click.UsageError(f"{file} exists, and a key is never replaced") from None
    except OSError as error:
        raise click.UsageError(f"{file} cannot be written: {error.strerror}") from None
    except ValueError:
        raise click.UsageError("a file's name holds no NUL") from None
    if settings.json:
        emit({"did": signer.did.text, "file": file})
    else:
        Screen().line((signer.did.text, "bold"))


@key.add_command
@command(short_help="Print the DID of a key.")
@click.argument("file")
@click.option("--secret", is_flag=True, help="Print the secret as well: whoever has it is you.")
def show(settings: Settings, file: str, secret: bool) -> None:
    """Print the DID of the key in FILE; the secret, as text for other programs, only if asked."""
    from stmflow.cli.output import Screen, emit
    from stmflow.cli.ucan_options import load_key

    signer = load_key(file)
    if settings.json:
        emit({"did": signer.did.text, **({"secret": signer.format()} if secret else {})})
        return
    screen = Screen()
    screen.line((signer.did.text, "bold"))
    if secret:
        screen.line((signer.format(), "red"))
