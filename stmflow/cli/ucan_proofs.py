"""The delegations that a command is given as proofs, and how they go together."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from capabilities.ucan1 import fields
from capabilities.ucan1.delegation import Delegation
from capabilities.ucanto.token import Token
from stmflow.cid import CID
from stmflow.cli.ucan_options import UCAN1, UCANTO
from stmflow.cli.ucan_read import read_file

if TYPE_CHECKING:
    from capabilities.did import DID


@dataclass(frozen=True, slots=True)
class Proofs:
    """Proofs of one family: `tops` of ucanto, each with what it rests on in `blocks`; or a pool
    of `delegations` of UCAN 1.0."""

    family: str
    tops: tuple[Token, ...] = ()
    delegations: tuple[Delegation, ...] = ()
    blocks: Mapping[CID, bytes] = field(default_factory=dict, repr=False)


def read_proofs(paths: Iterable[str], asked: str | None, holder: DID) -> Proofs:
    """The proofs in these files, in the family that was asked for, or else that of the files.

    Raises `UsageError` where they are of two families, no delegations, or not for `holder`.
    """
    family, tops, pool = asked, list[Token](), dict[CID, Delegation]()
    blocks: dict[CID, bytes] = {}
    for path in paths:
        found = read_file(path)
        if found.family != (family := family or found.family):
            raise click.UsageError(f"{path} is of the family {found.family}, not {family}")
        tokens = [one for one in found.tokens if isinstance(one, (Token, Delegation))]
        if found.kind in ("message", "receipt") or len(tokens) != len(found.tokens):
            raise click.UsageError(f"{path} is no delegation but {found.kind}")
        if all(one.audience != holder for one in tokens):
            named = " and ".join(sorted({str(one.audience) for one in tokens})) or "nobody"
            raise click.UsageError(f"{path} is for {named}, not for {holder}")
        tops += [one for one in tokens if isinstance(one, Token)]
        pool |= {one.cid: one for one in tokens if isinstance(one, Delegation)}
        blocks |= found.blocks
    return Proofs(family or UCANTO, tuple(tops), tuple(pool.values()), blocks)


def command_of(family: str, text: str) -> str:
    """A command, or a pattern of commands, as the family writes it, from either way to write it."""
    bare = text.removeprefix("/")
    if family == UCAN1:
        return "/" + ("" if bare == "*" else bare.removesuffix("/*"))
    return bare or "*"


def chain(
    pool: Sequence[Delegation], subject: DID, invoker: DID, command: str
) -> tuple[Delegation, ...]:
    """The shortest chain from the subject, first, to the invoker, last.

    If there is none for the command, one for another: it is for the service to say what is wrong.
    None at all: the pool as it is.
    """
    about = [one for one in pool if one.subject in (None, subject)]
    return (
        _shortest(about, subject, invoker, command)
        or _shortest(about, subject, invoker, None)
        or tuple(pool)
    )


def _shortest(
    pool: Sequence[Delegation], subject: DID, invoker: DID, command: str | None
) -> tuple[Delegation, ...]:
    """Breadth first, from the invoker up; each delegation is looked at once."""
    waiting: deque[tuple[Delegation, ...]] = deque()
    waiting.extend((one,) for one in granting(pool, invoker, command))
    seen = {found[0].cid for found in waiting}
    while waiting:
        found = waiting.popleft()
        first = found[0]
        if first.issuer == subject == first.subject:
            return found
        upper = None if command is None else first.command
        for one in granting(pool, first.issuer, upper):
            if one.cid not in seen:
                seen.add(one.cid)
                waiting.append((one, *found))
    return ()


def granting(
    pool: Iterable[Delegation], audience: DID, command: str | None
) -> Iterator[Delegation]:
    """Those of a pool that grant somebody a command (None: anything)."""
    for one in pool:
        if one.audience == audience and (command is None or fields.covers(one.command, command)):
            yield one
