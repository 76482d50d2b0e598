"""`delegate`: a key grants somebody what it may do itself, or a part of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from stmflow.cli.settings import Settings, command
from stmflow.cli.ucan_options import (
    FAMILIES,
    KEY_HELP,
    PROOF_HELP,
    UCAN1,
    WHEN_HELP,
    DagJSON,
    DIDType,
    Expiry,
    load_key,
)

if TYPE_CHECKING:
    from capabilities.did import DID
    from capabilities.principal import Signer
    from stmflow.cid import CID
    from stmflow.cli.ucan_proofs import Proofs

ANYTHING: Final = "ucan:*"


@command(short_help="Grant somebody what a key may do.")
@click.option("--key", "key", required=True, metavar="FILE", help=KEY_HELP)
@click.option("--to", "audience", required=True, type=DIDType(), help="To whom.")
@click.option(
    "--can",
    "commands",
    required=True,
    multiple=True,
    metavar="COMMAND",
    help="What: store/add, store/*, *. Repeatable.",
)
@click.option(
    "--with",
    "subject",
    type=DIDType(ANYTHING),
    help=f"On what. Default: the key's own; {ANYTHING}: on all that the key may, now and later.",
)
@click.option("--caveat", type=DagJSON(dict), help="ucanto: arguments that are fixed, or capped.")
@click.option("--policy", type=DagJSON(list), help="1.0: what the arguments have to satisfy.")
@click.option("--expires", type=Expiry(), default="24h", show_default=True, help=WHEN_HELP)
@click.option("--proof", "proofs", multiple=True, metavar="FILE", help=PROOF_HELP)
@click.option(
    "--family", type=click.Choice(FAMILIES), help="Default: that of the proofs, else ucanto."
)
@click.option("-o", "--out", metavar="FILE", help="Write it there, in binary; `-`: to stdout.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def delegate(
    settings: Settings,
    key: str,
    audience: DID,
    commands: tuple[str, ...],
    subject: DID | str | None,
    caveat: dict[str, Any] | None,
    policy: list[Any] | None,
    expires: tuple[int | None],
    proofs: tuple[str, ...],
    family: str | None,
    out: str | None,
    force: bool,
) -> None:
    """Grant somebody what the key in --key may do: all of it, or less; never more.

    Prints the delegation as text in one line, which JavaScript clients parse as a proof; --out
    writes it to a file: a CAR (ucanto) or a container (1.0), with all that it rests on.
    """
    from stmflow.cli.files import sink
    from stmflow.cli.output import Screen, emit
    from stmflow.cli.ucan_proofs import read_proofs
    from stmflow.errors import CapabilityError, CodecError

    signer = load_key(key)
    given = read_proofs(proofs, family, signer.did)
    about = signer.did if subject is None else None if isinstance(subject, str) else subject
    if about not in (signer.did, None) and not proofs:
        raise click.UsageError(f"{about} is not the key's own: give the --proof that it rests on")
    try:
        if given.family == UCAN1:
            if caveat is not None:
                raise click.UsageError("--caveat is for ucanto; UCAN 1.0 has --policy")
            cids, data, text = _ucan1(
                signer, audience, about, commands, policy or (), *expires, given
            )
        else:
            if policy is not None:
                raise click.UsageError("--policy is for UCAN 1.0; ucanto has --caveat")
            name = ANYTHING if about is None else about.text
            cids, data, text = _ucanto(signer, audience, name, commands, caveat, *expires, given)
    except (CodecError, CapabilityError) as error:
        raise click.UsageError(f"{type(error).__name__}: {error}") from None
    if out is not None:
        with sink(out, force=force) as file:
            file.write(data)
        if out == "-":
            return
    if settings.json:
        emit(
            {
                "delegations": cids,
                "family": given.family,
                "issuer": signer.did.text,
                "audience": audience.text,
                "with": ANYTHING if about is None else about.text,
                "can": list(commands),
                "expires": expires[0],
                **({"text": text} if out is None else {"file": out}),
            }
        )
    elif out is None:
        click.echo(text)
    else:
        screen = Screen()
        for cid in cids:
            screen.line((out, "bold"), ("  ", ""), (cid, ""), (f"  for {audience}", ""))


_Made = tuple[list["CID"], bytes, str]


def _ucanto(
    signer: Signer,
    audience: DID,
    subject: str,
    commands: Sequence[str],
    caveat: Mapping[str, Any] | None,
    expires: int | None,
    given: Proofs,
) -> _Made:
    """One token with a capability for each command, in an archive; as text a CID that holds it."""
    from base64 import b64encode

    from capabilities.ucanto import archive, token
    from stmflow.cid import write_varint
    from stmflow.cli.ucan_proofs import command_of

    made = token.issue(
        signer,
        audience,
        [token.Claim(command_of(given.family, can), subject, caveat or None) for can in commands],
        expires=expires,
        proofs=[one.cid for one in given.tops],
    )
    data = archive.encode(made, given.blocks)
    cid = b"\x01\x82\x04\x00" + write_varint(len(data)) + data
    return [made.cid], data, "m" + b64encode(cid).decode().rstrip("=")


def _ucan1(
    signer: Signer,
    audience: DID,
    subject: DID | None,
    commands: Sequence[str],
    policy: Sequence[Any],
    expires: int | None,
    given: Proofs,
) -> _Made:
    """One delegation for each command, in a container; as text the container in base64url."""
    from nacl.utils import random

    from capabilities.ucan1 import container, delegation
    from stmflow.cli.ucan_proofs import command_of

    made = [
        delegation.issue(
            signer,
            audience=audience,
            subject=subject,
            command=command_of(given.family, can),
            statements=policy,
            nonce=random(12),
            expires=expires,
        )
        for can in commands
    ]
    blocks = [*given.blocks.values(), *(one.data for one in made)]
    text = container.encode(blocks, form="base64url").decode()
    return [one.cid for one in made], container.encode(blocks), text
