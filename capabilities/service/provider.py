"""What a host provides: a capability wired to an event of a workflow, or to a function that reads.

    provide(
        Capability("store/add", StoreAdd),
        STORE_ADD,
        event=lambda asked: Add(asked.subject.text, asked.arguments.link, asked.arguments.size),
        until=settled,                  # state -> whether there is something to answer
        result=added,                   # (asked, head) -> Ok(...) or Fault(...)
    )

A call becomes one transaction: it reads what has been revoked, applies the event under the
invocation's delivery id, and remembers an invocation that has changed something, so that its
receipt can be asked for. The answer is made from the job as it is when there is something to
answer: a repeat gets the present.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from capabilities.service.task import TASK, remember
from stmflow.cid import CID
from stmflow.errors import Busy, InvalidWorkflow, NotOutside
from stmflow.limits import LIMITS

if TYPE_CHECKING:
    from capabilities.authorization import Authorization
    from capabilities.definition import Capability
    from capabilities.did import DID
    from capabilities.principal import Signer
    from capabilities.service.authority import Standing
    from stmflow.job import Head
    from stmflow.transactor import Transactor
    from stmflow.workflow import Job, Workflow

TOLERANCE_MS: Final = 60_000
"""How long after an invocation has expired its answer is still kept."""


@dataclass(frozen=True, slots=True)
class Ok:
    """A good outcome: its value, the tasks that it leads to, and the blocks of both."""

    value: Mapping[str, Any]
    fork: tuple[CID, ...] = ()
    blocks: Mapping[CID, bytes] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Fault:
    """A bad outcome, as the client is told: a name to decide by, words to read, plain fields."""

    name: str
    message: str
    detail: Mapping[str, Any] = field(default_factory=dict)


Result: TypeAlias = Ok | Fault
Look: TypeAlias = "Callable[[Transactor, Head], Awaitable[Head]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """An invocation, as a result is made for it.

    `verdict` is what became of its event (committed, no change, ignored); a repeat has that of the
    first. None where there is no event, and when a receipt is asked for later.
    """

    invocation: CID
    issuer: DID
    subject: DID
    command: str
    arguments: Any
    signer: Signer
    verdict: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One authorized invocation on its way through a provider.

    `standing` is what its authority rests on, `block` its token, `blocks` everything that came
    along, each hashed. `now` is in milliseconds.
    """

    authorization: Authorization
    standing: Standing
    block: bytes
    blocks: Mapping[CID, bytes]
    signer: Signer
    transactor: Transactor
    now: int

    def asked(self, *, verdict: str | None = None) -> Asked:
        """The same, without what only this call has."""
        auth = self.authorization
        return Asked(
            invocation=auth.invocation,
            issuer=auth.issuer,
            subject=auth.subject,
            command=auth.command,
            arguments=auth.arguments,
            signer=self.signer,
            verdict=verdict,
        )

    def keep_until(self) -> int | None:
        """Until when a repeat must be recognised (milliseconds); None: the store's window.

        One that may hold longer than this invocation is recognised for the window at least.
        """
        auth = self.authorization
        if auth.expires is None:
            return None
        least = self.now + LIMITS.delivery_window_ms if auth.renewable else 0
        return max(auth.expires * 1_000 + TOLERANCE_MS, least)

    async def commit(
        self, at: Job, body: Callable[[Any], Any], *, reads: Sequence[Job] = ()
    ) -> Any:
        """Run `body(tx)` once for this delivery, if its authority still stands in the commit.

        Returns what it returned (plain data); a repeat gets the first value. Raises `Revoked`, and
        what `Transactor.transact` raises.
        """

        def guarded(tx: Any) -> Any:
            self.standing.check(tx.read)
            return body(tx)

        return await self.transactor.transact(
            guarded,
            at=at,
            delivery=self.authorization.delivery,
            keep_until=self.keep_until(),
            reads=(*self.standing.reads(), *reads),
        )


class Provider(Protocol):
    """One command that can be invoked."""

    @property
    def capability(self) -> Capability:
        """What it is called and takes."""
        ...

    async def perform(self, call: Call) -> Result:
        """Do it. What it raises is told to the client by its kind."""
        ...

    async def recall(self, asked: Asked, transactor: Transactor) -> Result | None:
        """The result as it would be told now, for a receipt asked for by name; None: not yet."""
        ...


@dataclass(frozen=True, slots=True)
class Reads:
    """A command that changes nothing: `function(asked, transactor)`."""

    capability: Capability
    function: Callable[[Asked, Transactor], Awaitable[Result]]

    async def perform(self, call: Call) -> Result:
        return await self.function(call.asked(), call.transactor)

    async def recall(self, asked: Asked, transactor: Transactor) -> Result | None:
        return await self.function(asked, transactor)


@dataclass(frozen=True, slots=True)
class Applies:
    """A command that brings an event to a job. Made by `provide`."""

    capability: Capability
    workflow: Workflow
    event: Callable[[Asked], Any]
    until: Callable[[Any], bool]
    result: Callable[[Asked, Head], Result]
    rejected: Callable[[Asked, str, Any], Result]
    tasks: Callable[[Asked, Any], Sequence[bytes]]
    look: Look | None
    reads: Callable[[Asked], Sequence[Job]]

    async def perform(self, call: Call) -> Result:
        asked = call.asked()
        event = self.event(asked)
        if type(event) not in self.workflow.outside:
            raise NotOutside(f"{type(event).__name__} is not taken from outside")
        job = self.workflow.job_of(event)

        def body(tx: Any) -> Any:
            verdict = tx.apply(job, event)
            if verdict.kind != "rejected":
                tasks = self.tasks(asked, tx.read(job))
                if verdict.kind == "committed" or tasks:
                    remember(tx, asked.invocation, call.block)
                for token in tasks:
                    remember(tx, CID.of(token), token, cause=asked.invocation)
            told = {"kind": verdict.kind, "code": verdict.code, "detail": verdict.detail}
            return {**told, "at": call.now}

        reads = (TASK.job(asked.invocation), *self.reads(asked))
        verdict = await call.commit(job, body, reads=reads)
        if verdict["kind"] == "rejected":
            return self.rejected(asked, verdict["code"], verdict["detail"])
        head = await call.transactor.wait(job, self.until)
        repeat = verdict["at"] != call.now  # the value is that of the first
        if self.look is not None and (repeat or verdict["kind"] != "committed"):
            with suppress(Busy):  # the invocation was taken: it is answered from the job as it is
                head = await self.look(call.transactor, head)
        return self.result(call.asked(verdict=verdict["kind"]), head)

    async def recall(self, asked: Asked, transactor: Transactor) -> Result | None:
        head = await transactor.get(self.workflow.job_of(self.event(asked)))
        if head is None or not self.until(head.state):
            return None
        return self.result(asked, head)


def provide(
    capability: Capability,
    workflow: Workflow,
    *,
    event: Callable[[Asked], Any],
    result: Callable[[Asked, Head], Result],
    until: Callable[[Any], bool] = lambda state: True,
    rejected: Callable[[Asked, str, Any], Result] | None = None,
    tasks: Callable[[Asked, Any], Sequence[bytes]] = lambda asked, state: (),
    look: Look | None = None,
    reads: Callable[[Asked], Sequence[Job]] = lambda asked: (),
) -> Applies:
    """Wire a command to an event of a workflow.

    Args:
        event: the event for what was asked: one of those that the workflow takes from outside.
        result: the answer, made of the job's head; pure.
        until: whether a state has something to answer. Until then the call waits.
        rejected: the answer where the reducer rejects; default: its code as the name.
        tasks: (asked, state) -> tokens of tasks that the answer names, if somebody will ask for
            their receipts; pure.
        look: brings a job up to date that this call did not change, before it is answered from.
        reads: other jobs that the transaction will read; a hint that spares it runs.

    Raises `InvalidWorkflow` for a workflow that takes nothing from outside.
    """
    if not workflow.outside:
        raise InvalidWorkflow(f"{workflow.name} takes no event from outside")
    return Applies(
        capability, workflow, event, until, result, rejected or _rejected, tasks, look, reads
    )


def _rejected(asked: Asked, code: str, detail: Any) -> Fault:
    fields = {} if detail is None else {"detail": detail}
    return Fault(code, f"{asked.command} was refused: {code}", fields)
