"""`ucan show`: who grants whom what, until when, on which proofs, and whether it is signed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from stmflow.cli.settings import Settings, command, group

if TYPE_CHECKING:
    from stmflow.cli.output import Screen
    from stmflow.cli.ucan_read import Found


@group(short_help="Explain tokens, proofs and receipts.")
def ucan() -> None:
    """Explain tokens, proofs and receipts, of UCAN 0.9.1 (ucanto) and 1.0."""


@ucan.add_command
@command(short_help="Explain what a file holds.")
@click.argument("file")
@click.option(
    "--lines",
    type=click.IntRange(min=1),
    default=2_000,
    show_default=True,
    help="How many lines are shown.",
)
def show(settings: Settings, file: str, lines: int) -> int:
    """Explain what is in FILE (`-`: standard input): who grants whom what, until when, the proofs
    as a tree, whether each is signed by its issuer and in time by this machine's clock.

    Takes tokens, delegation archives, agent messages and receipts of ucanto, envelopes and
    containers of UCAN 1.0; as they are, in base64 or in hexadecimal. What is malformed is refused
    by name. The exit code is 1 if a signature is bad or a proof is no token: time is only told.
    """
    from stmflow.cli.exits import MISMATCH, OK
    from stmflow.cli.output import Screen, emit
    from stmflow.cli.ucan_read import read_file

    found = read_file(file)
    screen = Screen()
    story = story_of(found, screen.now // 1_000)
    if settings.json:
        emit(story)
    else:
        draw(screen, story, lines=lines)
    return OK if holds(story) else MISMATCH


def story_of(found: Found, now: int) -> dict[str, Any]:
    """All that a file says, as JSON: its roots, and each token and receipt once."""
    from stmflow.cli.ucan_options import UCAN1
    from stmflow.cli.ucan_sheet import load_token, receipt_sheet, token_sheet

    tokens: dict[Any, dict[str, Any]] = {}
    lacking: dict[Any, str] = {}
    known = {one.cid: one for one in found.tokens}
    receipts = [receipt_sheet(one) for one in found.receipts]
    forks = [cid for one in found.receipts for cid in (*one.fork, one.join) if cid is not None]
    waiting = [*known, *forks]
    while waiting:
        cid = waiting.pop(0)
        if cid in tokens or cid in lacking:
            continue
        token = known.get(cid) or load_token(cid, found.blocks, found.family)
        if isinstance(token, str):
            lacking[cid] = token
            continue
        tokens[cid] = token_sheet(token, now)
        waiting += tokens[cid]["proofs"]
    return {
        "kind": found.kind,
        "family": found.family,
        "now": now,
        "roots": _tops(found) if found.family == UCAN1 else list(known),
        "receipts": receipts,
        "tokens": list(tokens.values()),
        "lacking": [
            {"cid": cid, "came": cid in found.blocks, "why": why} for cid, why in lacking.items()
        ],
    }


def _tops(found: Found) -> list[Any]:
    """Of the tokens of UCAN 1.0 in a file those that no other rests on; all if there is none."""
    from capabilities.ucan1 import Delegation, Invocation
    from stmflow.cli.ucan_proofs import granting

    pool = [one for one in found.tokens if isinstance(one, Delegation)]
    below: set[Any] = set()
    for one in found.tokens:
        if isinstance(one, Invocation):
            below.update(one.proofs)
        elif isinstance(one, Delegation) and one.issuer != one.subject:
            below |= {each.cid for each in granting(pool, one.issuer, one.command)}
    return [one.cid for one in found.tokens if one.cid not in below] or [
        one.cid for one in found.tokens
    ]


def holds(story: dict[str, Any]) -> bool:
    """Whether no signature is bad and every proof that came along is a token."""
    signed = [*story["tokens"], *story["receipts"]]
    bad = any(one["signature"]["good"] is False for one in signed)
    return not bad and not any(one["came"] for one in story["lacking"])


def draw(screen: Screen, story: dict[str, Any], *, lines: int = 2_000) -> None:
    """The story as trees: receipts first, they answer what follows."""
    from stmflow.cli.ucan_tree import Trees

    trees = Trees(story, screen)
    nodes: Iterable[Any] = [*trees.receipts(), *trees.tokens()]
    for node in nodes:
        screen.tree(node, most=lines)
