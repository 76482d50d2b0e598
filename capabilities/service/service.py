"""Signed messages in, signed receipts out.

    service = Service(signer, transactor, [provide(...), ...])
    body = await service.respond(body)            # an agent message of ucanto
    told = await service.respond1(body)           # an invocation of UCAN 1.0

Whatever parses is answered: a refusal is a signed receipt too. Nothing is signed before what it
tells of is durable.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from capabilities import ucan1
from capabilities.definition import Capability
from capabilities.did import DID
from capabilities.principal import Signer
from capabilities.service.authority import REVOCATION, Standing, revocation, standing
from capabilities.service.body import invoked, is_envelope
from capabilities.service.provider import Asked, Call, Fault, Ok, Provider, Result
from capabilities.service.revoke import UcanRevoke
from capabilities.service.task import TASK, Task
from capabilities.ucan1 import invocation
from capabilities.ucanto import message, receipt, token, validator
from capabilities.ucanto.failure import failure
from capabilities.ucanto.message import Message
from capabilities.ucanto.receipt import Receipt
from capabilities.ucanto.token import Claim, Token
from capabilities.ucanto.verified import Reading, Verified, verify_all
from stmflow.cid import CID
from stmflow.errors import (
    Busy,
    CapabilityError,
    CodecError,
    DeadlineExceeded,
    InvalidWorkflow,
    LimitExceeded,
    StmflowError,
    StoreError,
)
from stmflow.limits import LIMITS

if TYPE_CHECKING:
    from capabilities.authorization import Authorization
    from capabilities.principal import Resolver
    from stmflow.transactor import Transactor
    from stmflow.workflow import Job

log = logging.getLogger("stmflow.capabilities")

WORKFLOWS: Final = (REVOCATION, TASK)
"""Workflows of the service itself: give them to the transactor beside your own."""

RECEIPTS: Final = 4_096
RECEIPT_BYTES: Final = 32 * 1024 * 1024
"""Receipts that are kept in memory, for who asks for one by name, and the size of their blocks."""

THREADED: Final = 4
"""From so many signatures in one message on they are checked on a thread: a hop costs two."""

Scopes = Callable[[CID], Collection[DID]]
"""token → in whose names it was revoked."""

Authorize = Callable[[Scopes], "Authorization"]

Recall = Callable[[Asked, "Transactor"], Awaitable[Result | None]]


@dataclass(frozen=True, slots=True)
class Answered:
    """A receipt, and the blocks that it brings along.

    `busy`: the invocation was not taken, as too much waits already.
    """

    receipt: Receipt
    blocks: Mapping[CID, bytes]
    busy: Busy | None = None

    @property
    def size(self) -> int:
        """Bytes of all its blocks."""
        return sum(map(len, self.blocks.values()))


class Service:
    """Answers invocations of both families with what its providers do.

    Args:
        signer: the service's name and key; a did:web is `Signer.named("did:web:...")`.
        transactor: runs the jobs; it knows `WORKFLOWS`.
        providers: one for each command. `ucan/revoke` is provided by the service itself.
        tasks: commands of tasks that an answer may name and nobody may invoke: how to tell their
            result when a receipt is asked for (None: not yet).
        resolver: finds the keys of principals that are not keys. aliases: other names of ours.
        request_ms: how long one invocation may take.
    """

    def __init__(
        self,
        signer: Signer,
        transactor: Transactor,
        providers: Iterable[Provider],
        *,
        tasks: Mapping[Capability, Recall] | None = None,
        resolver: Resolver | None = None,
        aliases: Collection[DID] = (),
        request_ms: int = LIMITS.request_ms,
    ) -> None:
        self.signer = signer
        self.transactor = transactor
        self.providers = {one.capability.command: one for one in (*providers, UcanRevoke())}
        self.capabilities = {name: one.capability for name, one in self.providers.items()}
        self._tasks = {one.command: (one, recall) for one, recall in (tasks or {}).items()}
        self._resolver = resolver
        self._aliases = aliases
        self._seconds = request_ms / 1_000
        self._verified = Verified()
        self._verified1 = ucan1.Verified()
        self._receipts: OrderedDict[CID, Answered] = OrderedDict()
        self._receipt_bytes = 0
        missing = [one.name for one in WORKFLOWS if one.name not in transactor.registry.current]
        if missing:
            raise InvalidWorkflow(f"the transactor does not know {', '.join(missing)}")
        if clash := self._tasks.keys() & self.providers.keys():
            raise InvalidWorkflow(f"both provided and a task: {', '.join(sorted(clash))}")

    # --- ucanto -----------------------------------------------------------------------------------

    async def respond(self, body: bytes) -> bytes:
        """The reply to an agent message: one receipt for each invocation in it, run side by side.

        Raises `MalformedBlock`, `LimitExceeded` or `HashMismatch` for what is no agent message;
        `Busy` where nothing that it asks for was begun.
        """
        asked = message.decode(body)
        if len(asked.invocations) > LIMITS.request_invocations:
            raise LimitExceeded(f"a message with {len(asked.invocations)} invocations")
        reading = Reading(self._verified)
        tokens = {cid: reading.load(cid, asked.blocks) for cid in asked.invocations}
        await self._verify(tokens.values(), reading)
        answers: dict[CID, Answered] = {}

        async def run(cid: CID) -> None:
            known = next((one for one in tokens[cid] if one.cid == cid), None)
            answers[cid] = await self._execute(cid, known, asked.blocks, reading)

        if len(asked.invocations) == 1:
            await run(asked.invocations[0])
        else:
            async with anyio.create_task_group() as group:
                for cid in asked.invocations:
                    group.start_soon(run, cid)
        _all_refused(answers.values())
        return _reply(asked, tokens, answers)

    async def _verify(self, loaded: Iterable[Sequence[Token]], reading: Reading) -> None:
        """Check the signatures of a message with many, off the loop."""
        tokens = {one.cid: one for each in loaded for one in each}
        if len(tokens) < THREADED:
            return
        checks = self._verified.unverified(
            tokens.values(), service=self.signer.verifier, name=self.signer.did
        )
        if len(checks) >= THREADED:
            reading.keep(checks, await anyio.to_thread.run_sync(verify_all, checks))

    async def _execute(
        self, cid: CID, known: Token | None, blocks: Mapping[CID, bytes], reading: Reading
    ) -> Answered:
        claim: Claim | None = None
        try:
            one = known or token.decode(cid, blocks[cid])  # raises what it is not
            claim = one.capabilities[0] if len(one.capabilities) == 1 else None
            result = await self._run(
                lambda scopes: self._authorize(one, blocks, scopes, reading), blocks
            )
            return self._keep(cid, result)
        except Exception as error:
            return self._refusal(cid, error, claim)

    def _authorize(
        self, one: Token, blocks: Mapping[CID, bytes], scopes: Scopes, reading: Reading
    ) -> Authorization:
        return validator.authorize(
            one,
            blocks,
            service=self.signer.did,
            capabilities=self.capabilities,
            now=self.transactor.clock.now() // 1_000,
            verifier=self.signer.verifier,
            resolver=self._resolver,
            revoked=scopes,
            cache=reading,
            aliases=self._aliases,
        )

    # --- UCAN 1.0 ---------------------------------------------------------------------------------

    async def respond1(self, body: bytes) -> tuple[CID, Answered]:
        """The invocation of UCAN 1.0 in a body, bare or in a container, and its receipt.

        Raises `MalformedBlock`, `LimitExceeded` or `HashMismatch` for what is neither; `Busy` where
        nothing was begun.
        """
        cid, blocks = invoked(body)
        try:
            result = await self._run(
                lambda scopes: ucan1.authorize(
                    cid,
                    blocks,
                    service=self.signer.did,
                    capabilities=self.capabilities,
                    now=self.transactor.clock.now() // 1_000,
                    resolver=self._resolver,
                    revoked=scopes,
                    cache=self._verified1,
                ),
                blocks,
            )
            return cid, self._keep(cid, result)
        except Exception as error:
            answered = self._refusal(cid, error, None)
            _all_refused([answered])
            return cid, answered

    # --- both -------------------------------------------------------------------------------------

    async def _run(self, authorize: Authorize, blocks: Mapping[CID, bytes]) -> Result:
        """Authorize on what is revoked by now, and perform."""
        with anyio.move_on_after(self._seconds):
            auth, standing = await self._authorized(authorize)
            call = Call(
                authorization=auth,
                standing=standing,
                block=blocks[auth.invocation],
                blocks=blocks,
                signer=self.signer,
                transactor=self.transactor,
                now=self.transactor.clock.now(),
            )
            return await self.providers[auth.command].perform(call)
        raise DeadlineExceeded(f"no answer within {self._seconds} s")

    async def _authorized(self, authorize: Authorize) -> tuple[Authorization, Standing]:
        """The authorization by tokens of which none is revoked.

        What it rests on is looked up; where something was revoked, the search begins again with
        that known, so that another path may be found.
        """
        revoked: dict[CID, set[DID]] = {}
        marked: dict[CID, bool] = {}
        while True:
            auth = authorize(lambda one: revoked.get(one, ()))
            chains = (auth.chain, *auth.beside)
            news = False
            for one, entitled in standing(chains):
                if one not in marked:
                    marked[one] = await self._stands(revocation(one))
                if not marked[one]:
                    continue
                known = revoked.setdefault(one, set())
                for name in {*entitled} - known:
                    if await self._stands(revocation(one, name)):
                        known.add(name)
                        news = True
            if not news:
                judged = frozenset((one, name) for one in revoked for name in revoked[one])
                return auth, Standing(chains, judged)

    async def _stands(self, job: Job) -> bool:
        return await self.transactor.get(job) is not None

    def _keep(self, ran: CID, result: Result) -> Answered:
        """Sign what a provider says, and remember it for a while.

        Refusals and time-outs are not kept: anybody can bring one about, and it would hide what is
        known under that name.
        """
        kept = self._receipts
        if (before := kept.pop(ran, None)) is not None:
            self._receipt_bytes -= before.size
        answered = kept[ran] = self._sign(ran, result)
        self._receipt_bytes += answered.size
        while len(kept) > RECEIPTS or self._receipt_bytes > RECEIPT_BYTES:
            self._receipt_bytes -= kept.popitem(last=False)[1].size
        return answered

    def _refusal(self, ran: CID, error: Exception, claim: Claim | None) -> Answered:
        """The receipt of an error; where the invocation was not taken at all, with the reason."""
        answered = self._sign(ran, _told(error, claim))
        return replace(answered, busy=error) if isinstance(error, Busy) else answered

    def _sign(self, ran: CID, result: Result) -> Answered:
        try:
            return self._signed(ran, result)
        except CodecError:  # larger than a block, or no plain data
            log.exception("no receipt can be made of what a provider says")
            return self._signed(ran, Fault("HandlerExecutionError", "its answer fits no receipt"))

    def _signed(self, ran: CID, result: Result) -> Answered:
        if isinstance(result, Ok):
            made = receipt.issue(self.signer, ran, {"ok": dict(result.value)}, fork=result.fork)
            return Answered(made, {**result.blocks, made.cid: made.data})
        error = {**result.detail, "name": result.name, "message": result.message}
        made = receipt.issue(self.signer, ran, {"error": error})
        return Answered(made, {made.cid: made.data})

    # --- receipts asked for by name ---------------------------------------------------------------

    async def receipt(self, task: CID) -> bytes | None:
        """An agent message with the receipt of an invocation or task; None: not known, or not yet.

        That of an invocation is the one that was given, while it is remembered; else, and for a
        task, it is made of the job as it is now.
        """
        answered = self._receipts.get(task) or await self._recall(task)
        if answered is None:
            return None
        return message.encode(
            Message(receipts={task: answered.receipt.cid}, blocks=answered.blocks)
        )

    async def _recall(self, cid: CID) -> Answered | None:
        head = await self.transactor.get(TASK.job(cid))
        if head is None:
            return None
        known: Task = head.state
        asked = self._asked(cid, known.block)
        recall = None if asked is None else self._recalls(asked.command)
        if asked is None or recall is None:
            return None
        with anyio.move_on_after(self._seconds):
            result = await recall(asked, self.transactor)
            return None if result is None else self._sign(cid, result)
        return None

    def _recalls(self, command: str) -> Recall | None:
        if command in self._tasks:
            return self._tasks[command][1]
        provider = self.providers.get(command)
        return None if provider is None else provider.recall

    def _asked(self, cid: CID, block: bytes) -> Asked | None:
        """What a remembered token asks for. It was authorized when it was remembered.

        None where that is no command of ours, or not any more: a task of the client's.
        """
        known = {**self.capabilities, **{name: one for name, (one, _) in self._tasks.items()}}
        if is_envelope(block):
            one = invocation.decode(block)
            if (capability := known.get(one.command[1:])) is None:
                return None
            subject, arguments = one.subject, capability.read(one.arguments, text_links=True)
            issuer = one.issuer
        else:
            old = token.decode(cid, block)
            (claim,) = old.capabilities
            if (capability := known.get(claim.can)) is None:
                return None
            subject, arguments = capability.about(claim.with_), capability.read(claim.caveats)
            issuer = old.issuer
        return Asked(
            invocation=cid,
            issuer=issuer,
            subject=subject,
            command=capability.command,
            arguments=arguments,
            signer=self.signer,
        )


def _reply(
    asked: Message, tokens: Mapping[CID, Sequence[Token]], answers: Mapping[CID, Answered]
) -> bytes:
    """The receipts, and the invocations that they answer with their proofs."""
    blocks: dict[CID, bytes] = {}
    for cid in asked.invocations:
        blocks[cid] = asked.blocks[cid]
        blocks |= {one.cid: one.data for one in tokens[cid]}
        blocks |= answers[cid].blocks
    receipts = {cid: answers[cid].receipt.cid for cid in asked.invocations}
    return message.encode(Message(receipts=receipts, blocks=blocks))


def _all_refused(answers: Collection[Answered]) -> None:
    """Raise `Busy` if not one of these was taken: then the whole request may be sent again."""
    busy = [answered.busy for answered in answers if answered.busy is not None]
    if busy and len(busy) == len(answers):
        raise max(busy, key=lambda one: one.retry_after)


def _told(error: Exception, claim: Claim | None) -> Fault:
    """An error as the client is told of it; what is nobody's fault is logged."""
    if isinstance(error, (CapabilityError, CodecError)):
        told = failure(error, claim)
    elif isinstance(error, DeadlineExceeded):
        told = {"name": "DeadlineExceeded", "message": "it goes on; ask again for its answer"}
    elif isinstance(error, Busy):
        told = {"name": "Busy", "message": str(error), "retryAfter": error.retry_after}
    elif isinstance(error, StoreError):
        told = {"name": type(error).__name__, "message": str(error)}
    else:
        if not isinstance(error, StmflowError):
            log.exception("a provider raised")
        told = failure(error, claim)
    detail = {name: value for name, value in told.items() if name not in ("name", "message")}
    return Fault(told["name"], told["message"], detail)
