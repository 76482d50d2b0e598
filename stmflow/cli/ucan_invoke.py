"""`invoke`: a signed invocation to a service, and its signed receipt."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from stmflow.cli.settings import Settings, command, seconds
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
    from collections.abc import Mapping, Sequence

    from capabilities.did import DID
    from capabilities.principal import Signer, Verifier
    from capabilities.ucanto.receipt import Receipt
    from stmflow.cid import CID
    from stmflow.cli.ucan_proofs import Proofs


@command(short_help="Ask a service to do something, by signed capability.")
@click.argument("url")
@click.argument("name", metavar="COMMAND")
@click.option("--key", "key", required=True, metavar="FILE", help=KEY_HELP)
@click.option("--with", "subject", type=DIDType(), help="On what. Default: the key's own.")
@click.option(
    "--args",
    "arguments",
    type=DagJSON(dict),
    default="{}",
    help='DAG-JSON: a link is {"/": "b..."}, bytes are {"/": {"bytes": "base64"}}.',
)
@click.option("--proof", "proofs", multiple=True, metavar="FILE", help=PROOF_HELP)
@click.option(
    "--family", type=click.Choice(FAMILIES), help="Default: that of the proofs, else ucanto."
)
@click.option("--service", type=DIDType(), help="Who is asked. Default: who it says to be.")
@click.option("--service-key", type=DIDType(), help="The did:key behind a service's did:web.")
@click.option("--expires", type=Expiry(), default="60s", show_default=True, help=WHEN_HELP)
@click.option("--nonce", metavar="TEXT", help="Tells two equal invocations apart.")
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 3_600),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    callback=seconds,
    help="How long to wait for the service.",
)
@click.option("-o", "--out", metavar="FILE", help="Keep the answer, for `ucan show`.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def invoke(
    settings: Settings,
    url: str,
    name: str,
    key: str,
    subject: DID | None,
    arguments: dict[str, Any],
    proofs: tuple[str, ...],
    family: str | None,
    service: DID | None,
    service_key: DID | None,
    expires: tuple[int | None],
    nonce: str | None,
    timeout: float,
    out: str | None,
    force: bool,
) -> int:
    """Ask the service at URL to do COMMAND (store/add), and print what its signed receipt says.

    The exit code is 0 if it was done, 8 if it was refused, 9 if the service cannot be reached, 7 if
    no answer came, 1 if the answer is not signed by the service.
    """
    from stmflow.cli.exits import OK, REFUSED
    from stmflow.cli.files import sink
    from stmflow.cli.output import Screen, emit
    from stmflow.cli.ucan_http import check_url
    from stmflow.cli.ucan_proofs import read_proofs
    from stmflow.cli.ucan_sheet import receipt_sheet
    from stmflow.cli.ucan_tree import Trees
    from stmflow.errors import CapabilityError, CodecError

    check_url(url)
    signer = load_key(key)
    given = read_proofs(proofs, family, signer.did)
    service = service or _ask_name(url, timeout)
    keys = _keys(service, service_key)
    wish = _Wish(signer, service, subject or signer.did, name, arguments, nonce, *expires, given)
    try:
        asked = _ucan1(url, wish) if given.family == UCAN1 else _ucanto(url, wish)
    except (CodecError, CapabilityError) as error:
        raise click.UsageError(f"{type(error).__name__}: {error}") from None
    with nullcontext() if out is None else sink(out, force=force) as file:  # before it is sent
        answer = _post(asked, timeout)
        receipt = _receipt(answer, asked.cid, service, keys, given.family)
        if file is not None:
            file.write(answer if given.family != UCAN1 else receipt.data)
    ok = "ok" in receipt.out
    if out == "-":
        pass
    elif settings.json:
        emit(
            {
                "invocation": asked.cid,
                "receipt": receipt.cid,
                "service": service.text,
                "signed": True,
                **receipt.out,
            },
            whole=True,  # it is the asker's own: where he is to upload, say
        )
    elif out != "-":
        screen = Screen()
        sheet = receipt_sheet(receipt)
        sheet["signature"] |= {
            "good": True,
            "why": "",
        }  # by a key that the issuer's name need not be
        story: dict[str, Any] = {"receipts": [sheet], "tokens": [], "lacking": []}
        sheet["fork"], sheet["join"] = [], None  # the answer holds them; this is of the outcome
        screen.tree(Trees(story, screen).receipt(sheet), most=2_000)
    return OK if ok else REFUSED


def _ask_name(url: str, timeout: float) -> DID:
    """Who the service at `url` says to be."""
    from capabilities.did import DID
    from stmflow.cli.exits import Untrusted
    from stmflow.cli.ucan_http import get
    from stmflow.errors import CapabilityError, CodecError

    try:
        return DID.parse(json.loads(get(url, timeout=timeout))["did"])
    except (ValueError, KeyError, TypeError, RecursionError, CapabilityError, CodecError):
        raise Untrusted(f"{url} does not say who it is: give --service DID") from None


def _keys(service: DID, behind: DID | None) -> Sequence[Verifier]:
    """The keys by which the receipt has to be signed, known before anything is sent."""
    from capabilities.principal import verifiers
    from stmflow.errors import CapabilityError

    try:
        return verifiers(service, lambda _: () if behind is None else (behind,))
    except CapabilityError as error:
        raise click.UsageError(f"{error}: give --service-key") from None


@dataclass(frozen=True, slots=True)
class _Wish:
    """What is wanted, of whom and on which proofs."""

    signer: Signer
    service: DID
    subject: DID
    name: str
    arguments: dict[str, Any]
    nonce: str | None
    expires: int | None
    given: Proofs


@dataclass(frozen=True, slots=True)
class _Asked:
    """An invocation, ready to be sent."""

    cid: CID
    url: str
    body: bytes
    headers: Mapping[str, str]


def _ucanto(url: str, wish: _Wish) -> _Asked:
    from capabilities.client import Grant, invoke
    from capabilities.ucanto.message import CONTENT_TYPE
    from stmflow.cli.ucan_proofs import command_of

    asked = invoke(
        command_of(wish.given.family, wish.name),
        issuer=wish.signer,
        audience=wish.service,
        subject=wish.subject,
        arguments=wish.arguments,
        expires=wish.expires,
        proofs=[Grant(top, {}) for top in wish.given.tops],
        attach=wish.given.blocks,
        nonce=wish.nonce or None,
    )
    headers = {"content-type": CONTENT_TYPE, "accept": CONTENT_TYPE}
    return _Asked(asked.token.cid, url, asked.body, headers)


def _ucan1(url: str, wish: _Wish) -> _Asked:
    from capabilities.ucan1 import container, invocation
    from stmflow.cli.ucan_proofs import chain, command_of

    path = command_of(wish.given.family, wish.name)
    own = wish.signer.did == wish.subject
    proofs = () if own else chain(wish.given.delegations, wish.subject, wish.signer.did, path)
    made = invocation.issue(
        wish.signer,
        audience=wish.service,
        subject=wish.subject,
        command=path,
        arguments=wish.arguments,
        nonce=(wish.nonce or "").encode(),
        expires=wish.expires,
        proofs=[one.cid for one in proofs],
    )
    body = container.encode([made.data, *(one.data for one in proofs)]) if proofs else made.data
    headers = {"content-type": "application/octet-stream", "accept": "application/json"}
    return _Asked(made.cid, url.rstrip("/") + "/ucan", body, headers)


def _post(asked: _Asked, timeout: float) -> bytes:
    from stmflow.cli.ucan_http import post

    return post(asked.url, asked.body, asked.headers, timeout=timeout)


def _receipt(
    answer: bytes, invocation: CID, service: DID, keys: Sequence[Verifier], family: str
) -> Receipt:
    """The receipt in an answer: of this invocation, by this service. Raises `Untrusted`."""
    from stmflow.cli.exits import Untrusted
    from stmflow.cli.ucan_sheet import is_signed
    from stmflow.errors import CapabilityError, CodecError

    read = _in_json if family == UCAN1 else _in_message
    try:
        receipt = read(answer, invocation)
    except (CodecError, CapabilityError) as error:
        raise Untrusted(f"the answer holds no receipt: {type(error).__name__}: {error}") from None
    if receipt.ran != invocation:
        raise Untrusted(f"the receipt is of {receipt.ran}, not of {invocation}")
    if receipt.issuer not in (None, service):
        raise Untrusted(f"the receipt is by {receipt.issuer}, not by {service}")
    if not is_signed(receipt, keys):
        raise Untrusted(f"the receipt is not signed by {service}: it says nothing")
    return receipt


def _in_message(answer: bytes, invocation: CID) -> Receipt:
    from capabilities.ucanto import message, receipt
    from stmflow.errors import MalformedBlock

    read = message.decode(answer)
    cid = read.receipts.get(invocation)
    if cid is None or cid not in read.blocks:
        raise MalformedBlock(f"a message without a receipt of {invocation}")
    return receipt.decode(cid, read.blocks[cid])


def _in_json(answer: bytes, invocation: CID) -> Receipt:
    from capabilities.ucanto import receipt
    from stmflow import codec
    from stmflow.errors import MalformedBlock

    try:
        form = json.loads(answer)
        held = codec.from_json(form["receipt"])
    except (ValueError, KeyError, TypeError, RecursionError):
        held = None
    if not isinstance(held, bytes):
        raise MalformedBlock("not JSON with a receipt")
    return receipt.decode(None, held)
