"""A small service for the tests of `capabilities.service`: notes, which a task prints.

`note/write` brings an event to a job and waits until the note is printed; `note/read` only looks.
The store, the transactor and the scheduler are real; the clock stands until it is set.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import anyio

from capabilities import DID, Capability, Signer, equal
from capabilities.service import (
    WORKFLOWS,
    Asked,
    Fault,
    Ok,
    Provider,
    Reads,
    Result,
    Service,
    provide,
)
from capabilities.ucanto import message, receipt
from capabilities.ucanto.message import Message
from capabilities.ucanto.receipt import Receipt
from capabilities.ucanto.token import Claim, Token
from scheduler import Context, Scheduler
from stmflow import CID, LIMITS, Clock, Head, Transactor, Workflow, ignore, perform, reject, same
from stmflow.store import Store
from stmflow.store.memory import MemoryStore
from tests.capabilities.ucanto import tokens
from tests.capabilities.ucanto.tokens import ALICE, NOW, SERVICE, SPACE

# --- time -----------------------------------------------------------------------------------------


class StandingClock:
    """A clock that shows what it was set to, in milliseconds."""

    def __init__(self, at: int = NOW * 1_000) -> None:
        self._at = at
        self._moved = anyio.Event()

    def now(self) -> int:
        return self._at

    def set(self, at: int) -> None:
        self._at = at
        self._moved.set()
        self._moved = anyio.Event()

    async def sleep_until(self, at_ms: int) -> None:
        await anyio.sleep(0)
        while self._at < at_ms:
            await self._moved.wait()


# --- notes ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Write:
    """Somebody writes a note."""

    tag: ClassVar[str] = "note/write"

    space: str
    name: str
    text: str
    by: CID


@dataclass(frozen=True, slots=True)
class Printed:
    """It is on paper. Only the task says so."""

    tag: ClassVar[str] = "note/printed"


@dataclass(frozen=True, slots=True)
class Draft:
    """Written, and not on paper yet."""

    tag: ClassVar[str] = "draft"

    text: str
    by: CID


@dataclass(frozen=True, slots=True)
class Paper:
    """On paper."""

    tag: ClassVar[str] = "paper"

    text: str
    by: CID


@dataclass(frozen=True, slots=True)
class Print:
    """The task."""

    tag: ClassVar[str] = "note/print"

    text: str


def _update(event: Write | Printed, state: Draft | Paper | None) -> Any:
    match event, state:
        case Write(), None:
            return Draft(event.text, event.by), [perform(Print(event.text)).then(Printed)]
        case Write(), Draft() | Paper():
            return same() if event.text == state.text else reject("Taken", {"text": state.text})
        case Printed(), Draft():
            return Paper(state.text, state.by), []
    return ignore()


NOTE = Workflow(
    "note",
    state=(Draft, Paper),
    events=(Write, Printed),
    outside=(Write,),
    tasks=(Print,),
    update=_update,
    key=("space", "name"),
)


@dataclass(frozen=True, slots=True)
class Text:
    """The arguments of note/write."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Name:
    """The arguments of note/read."""

    name: str


WRITE = Capability("note/write", Text, derives=equal("name"))
READ = Capability("note/read", Name)


def writes(**options: Any) -> Provider:
    """The provider of note/write, other than usual where options say so."""
    usual: dict[str, Any] = {
        "event": lambda asked: Write(
            str(asked.subject), asked.arguments.name, asked.arguments.text, asked.invocation
        ),
        "until": lambda state: isinstance(state, Paper),
        "result": wrote,
    }
    return provide(WRITE, NOTE, **{**usual, **options})


def wrote(asked: Asked, head: Head) -> Result:
    first = head.state.by == asked.invocation
    return Ok({"text": head.state.text, "first": first, "verdict": asked.verdict})


async def read(asked: Asked, transactor: Transactor) -> Result:
    head = await transactor.get(NOTE.job(str(asked.subject), asked.arguments.name))
    return Fault("NoteNotFound", "no such note") if head is None else Ok({"text": head.state.text})


@dataclass
class Printer:
    """The handler of `Print`: it waits while `paper` is out. `printed` counts."""

    paper: anyio.Event = field(default_factory=anyio.Event)
    printed: list[str] = field(default_factory=list)

    async def __call__(self, task: Print, context: Context) -> None:
        await self.paper.wait()
        self.printed.append(task.text)


# --- the service ----------------------------------------------------------------------------------


@dataclass
class World:
    """A running service and its parts."""

    service: Service
    transactor: Transactor
    clock: Clock
    printer: Printer

    async def ask(self, *asked: Token, proofs: Iterable[Token] = ()) -> Receipt:
        """The receipt of the first of these invocations, which are sent in one message."""
        return (await self.ask_all(*asked, proofs=proofs))[asked[0].cid]

    async def ask_all(self, *asked: Token, proofs: Iterable[Token] = ()) -> dict[CID, Receipt]:
        """All their receipts; every one is signed well."""
        told = message.decode(await self.service.respond(sent(*asked, proofs=proofs)))
        return receipts(told, self.service.signer)

    async def recall(self, cid: CID) -> Receipt | None:
        """The receipt that is asked for by name."""
        found = await self.service.receipt(cid)
        if found is None:
            return None
        return receipts(message.decode(found), self.service.signer)[cid]

    async def notes(self) -> int:
        """How many notes there are."""
        return len(await self.transactor.store.jobs(workflow=NOTE.name))

    async def jobs(self) -> int:
        """How many jobs there are, of whatever kind."""
        return len(await self.transactor.store.jobs())


@asynccontextmanager
async def world(
    *providers: Provider,
    store: Store | None = None,
    signer: Signer = SERVICE,
    clock: Clock | None = None,
    paper: bool = True,
    workflows: Collection[Workflow] = (NOTE, *WORKFLOWS),
    queued_requests: int = LIMITS.queued_requests,
    **options: Any,
) -> AsyncIterator[World]:
    """The service, while it runs. Without `paper` nothing is printed until `printer.paper` is."""
    clock = clock or StandingClock()
    printer = Printer()
    if paper:
        printer.paper.set()
    async with (
        Transactor(
            store or MemoryStore(), workflows, clock=clock, queued_requests=queued_requests
        ) as transactor,
        Scheduler(transactor, {Print: printer}),
    ):
        given = providers or (writes(), Reads(READ, read))
        yield World(Service(signer, transactor, given, **options), transactor, clock, printer)
        printer.paper.set()  # nobody waits for it any more


# --- messages -------------------------------------------------------------------------------------


def sent(*asked: Token, proofs: Iterable[Token] = ()) -> bytes:
    """The body of a request."""
    cids = tuple(dict.fromkeys(one.cid for one in asked))
    return message.encode(Message(cids, blocks=tokens.blocks_of(*proofs, *asked)))


def receipts(told: Message, signer: Signer) -> dict[CID, Receipt]:
    """The receipts of a message, by what they answer; signed by the service, each of them."""
    found = {}
    for ran, cid in told.receipts.items():
        one = receipt.decode(cid, told.blocks[cid])
        assert one.ran == ran
        assert one.issuer == signer.did
        assert receipt.verify_signature(one, signer.verifier)
        found[ran] = one
    return found


def write(
    issuer: Signer | DID = SPACE,
    *proofs: Token,
    name: str = "a",
    text: str = "hello",
    space: Signer = SPACE,
    **options: Any,
) -> Token:
    """An invocation of note/write, by the space itself unless told otherwise."""
    claim = Claim("note/write", space.did.text, {"name": name, "text": text})
    return tokens.ask(issuer, *proofs, claims=(claim,), **options)


def reading(issuer: Signer = SPACE, *proofs: Token, name: str = "a", **options: Any) -> Token:
    """An invocation of note/read."""
    return tokens.ask(
        issuer, *proofs, claims=(Claim("note/read", SPACE.did.text, {"name": name}),), **options
    )


def grant(issuer: Signer | DID = SPACE, audience: Signer = ALICE, **options: Any) -> Token:
    """A delegation of all that can be done with notes of the space."""
    proofs = options.pop("proofs", ())
    return tokens.grant(issuer, audience, Claim("note/*", SPACE.did.text), proofs=proofs, **options)


def revoking(
    issuer: Signer, revoked: Token, *, audience: Signer = SERVICE, **options: Any
) -> Token:
    """An invocation of ucan/revoke, in the issuer's own name."""
    claim = Claim("ucan/revoke", issuer.did.text, {"ucan": revoked.cid})
    return tokens.ask(issuer, claims=(claim,), audience=audience, **options)


def ok(one: Receipt | None) -> Mapping[str, Any]:
    assert one is not None
    assert "ok" in one.out, one.out
    value: Mapping[str, Any] = one.out["ok"]
    return value


def error(one: Receipt | None) -> Mapping[str, Any]:
    assert one is not None
    assert "error" in one.out, one.out
    value: Mapping[str, Any] = one.out["error"]
    return value
