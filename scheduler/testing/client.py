"""A client of the simulated service: it sends, reads and waits, and writes down what it saw.

Its history has Jepsen's shape: an operation is invoked and then ok, failed (it did not happen) or
of unknown fate (info). A process does one thing at a time and ends with an unknown fate: the client
goes on as another one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio

from scheduler.testing.loop import Lost
from stmflow import CID, Answer, Transactor
from stmflow.errors import (
    ConflictsExhausted,
    Corrupt,
    DeadlineExceeded,
    Indeterminate,
    StmflowError,
    Stopped,
    StoreError,
    Unavailable,
    UnknownTask,
)
from stmflow.job import Head
from stmflow.schema import thaw
from stmflow.workflow import Job, Workflow

if TYPE_CHECKING:
    from scheduler.testing.world import World

PASSING = (Unavailable, ConflictsExhausted, DeadlineExceeded, Stopped, Corrupt)
"""It did not happen, and may be tried again. `Corrupt`: a flipped byte, which passes in a world."""

TRIES = 40
INSISTENT_TRIES = 10_000

Refusals = tuple[type[StmflowError], ...]
Call = Callable[[Any], Callable[[Transactor], Awaitable[Any]]]


class Client:
    """What a workload sends with. Whatever it asks, it asks a process that lives at that moment.

    Attributes:
        number: from 0 on. clients: how many there are at first.
        operations: how often the seed lets it act.
        random: where a workload draws from. seen: counts what a workload wants counted.
    """

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self.number = number
        self._process = number
        self.random = world.random
        self.clients = world.options.clients
        self.operations = world.options.operations
        self.seen = world.outcome.seen

    def unique(self) -> int:
        """A number that nobody else gets: what an event leaves in its job's state, to be found."""
        return self._world.unique()

    def beside(self) -> Client:
        """Another client, that goes on at the same time."""
        return Client(self._world, self._world.process())

    async def send(
        self,
        target: Workflow | Job,
        event: Any,
        *,
        delivery: str | None = "",
        value: int | None = None,
        insist: bool = False,
        refused: Refusals = (),
    ) -> Answer | None:
        """Deliver an event; the answer, or None where it failed, is unknown or was not waited for.

        Args:
            delivery: its id; None: a nonce of the engine's. Default: drawn, one or the other.
            value: a number that the event leaves in the job's state. Default: its field `op`.
            insist: ask until there is an answer, always under an id.
            refused: it must be refused with one of these, always.
        """
        job = target.job_of(event) if isinstance(target, Workflow) else target
        line: dict[str, Any] = {"f": "send", "event": type(event).__name__, "job": str(job.id)}
        line["value"] = getattr(event, "op", None) if value is None else value

        def call(delivery: Any) -> Callable[[Transactor], Awaitable[Answer]]:
            timeout = self._patience()
            return lambda transactor: transactor.send(
                job, event, delivery=delivery, timeout=timeout
            )

        name = f"{job.workflow}: {line['event']}"
        identity = self._delivery(insist=insist) if delivery == "" else delivery
        answer: Answer | None = await self._ask(line, call, identity, insist, refused, name)
        return answer

    async def transact(
        self,
        body: Callable[[Any], Any],
        at: Job,
        *,
        delivery: str | None = "",
        value: int | None = None,
        insist: bool = False,
        refused: Refusals = (),
    ) -> Any:
        """Run a transaction; its value, or None where it failed, is unknown or was not waited for.

        Args:
            at: the job that remembers its delivery. The others are as for `send`; without an id
                nothing remembers it.
        """
        line = {"f": "transact", "job": str(at.id), "value": value}

        def call(delivery: Any) -> Callable[[Transactor], Awaitable[Any]]:
            timeout = self._patience()
            if delivery is None:
                return lambda transactor: transactor.transact(body, timeout=timeout)
            return lambda transactor: transactor.transact(
                body, at=at, delivery=delivery, timeout=timeout
            )

        identity = self._delivery(insist=insist) if delivery == "" else delivery
        return await self._ask(line, call, identity, insist, refused, "transact")

    async def get(self, job: Job) -> Head | None:
        """The head of a job; None: there is none, or it could not be read."""
        return await self._read(job, lambda transactor: transactor.get(job))

    async def snapshot(self, jobs: Iterable[Job]) -> Mapping[Job, Any] | None:
        """The states of these jobs at one moment; None: they could not be read."""
        asked, world = list(jobs), self._world
        try:
            found: Mapping[Job, Any]
            found = await world.call(lambda transactor: transactor.snapshot(asked))
        except self._passing as error:
            self.seen[f"told {type(error).__name__}"] += 1
            return None
        return found

    async def wait(
        self, job: Job, until: Callable[[Any], bool], *, timeout: float = 5
    ) -> Head | None:
        """The first head that `until` accepts; None: not within these seconds, or not readable."""
        return await self._read(
            job, lambda transactor: transactor.wait(job, until, timeout=timeout)
        )

    async def operate(self, task: CID | None = None) -> None:
        """As a person does: look at what is parked, and try it again or dismiss it."""
        world = self._world
        if task is None:
            parked = await world.ground.store.tasks(parked=True)
            if not parked:
                return
            task = self.random.choice(sorted(parked, key=lambda row: row.id)).id
        act = self.random.choice(("redrive", "dismiss"))
        try:
            answer = await world.call(lambda transactor: getattr(transactor, act)(task))
        except UnknownTask:
            self.seen["told UnknownTask"] += 1
        except self._passing:
            pass
        else:
            self.seen[f"{act}: {answer.kind}"] += 1
            world.outcome.redriven.add(str(task))

    # --- what an operation is

    async def _ask(
        self,
        line: dict[str, Any],
        call: Call,
        delivery: Any,
        insist: bool,
        refused: Refusals,
        name: str,
    ) -> Any:
        """One operation; if the seed says so, its client does not wait for it and goes on."""
        world = self._world
        ask = _Asking(self, line, call, delivery, insist, refused, name)
        if not insist and world.faults.hit("reorder"):
            ask.line["process"] = world.process()
            world.stray(ask.run(self.random.random() * 2))
            return None
        answer = await ask.run()
        if ask.unknown:
            self._process = world.process()
        return answer

    async def _read(
        self, job: Job, function: Callable[[Transactor], Awaitable[Any]]
    ) -> Head | None:
        world = self._world
        line = {"f": "read", "job": str(job.id), "value": None, "process": self._process}
        line = world.begin(line)
        try:
            head: Head | None = await world.call(function)
        except self._passing as error:
            self.seen[f"told {type(error).__name__}"] += 1
            world.write(line, "fail")
            return None
        revision = None if head is None else str(head.revision)
        world.write(line, "ok", revision=revision, seq=0 if head is None else head.seq)
        return head

    @property
    def _passing(self) -> tuple[type[Exception], ...]:
        """What keeps a process from answering who only looks."""
        return (Lost, StoreError, DeadlineExceeded, Stopped, *self._world.workload.again)

    def _delivery(self, *, insist: bool = False) -> str | None:
        """An id; or, in three cases of ten, none."""
        number = self._world.unique()
        return f"delivery {number}" if insist or self.random.random() >= 0.3 else None

    def _patience(self) -> float | None:
        return self.random.random() * 0.05 if self._world.faults.hit("impatient") else None


class _Asking:
    """One operation, sent again under its id while its fate is unknown."""

    def __init__(
        self,
        client: Client,
        line: dict[str, Any],
        call: Call,
        delivery: Any,
        insist: bool,
        refused: Refusals,
        name: str,
    ) -> None:
        self.client = client
        self.world = client._world
        self.line = {**line, "process": client._process}
        self.line["delivery"] = None if delivery is None else delivery.encode().hex()
        self.call = call
        self.delivery = delivery
        self.insist = insist
        self.refused = refused
        self.name = name
        self.unknown = False

    async def run(self, delay: float = 0) -> Any:
        world, random, seen = self.world, self.client.random, self.client.seen
        await anyio.sleep(delay)
        line = self.line = world.begin(self.line)
        if self.delivery is not None and not self.refused:
            for fault, most in (("duplicate", 3), ("late", 20)):
                if world.faults.hit(fault):
                    world.stray(self._again(self.delivery, random.random() * most))
        for _ in range(INSISTENT_TRIES if self.insist else TRIES):
            if world.faults.hit("delay"):
                await anyio.sleep(random.random() * 5)
            try:
                answer = await world.call(self.call(self.delivery))
            except self.refused as error:
                seen[f"told {type(error).__name__}"] += 1
                break
            except Lost:
                self.unknown = True
            except StmflowError as error:
                seen[f"told {type(error).__name__}"] += 1
                if isinstance(error, Indeterminate):
                    self.unknown = True
                    self.delivery = error.delivery[1] if error.delivery is not None else None
                elif not isinstance(error, PASSING + world.workload.again) or (
                    isinstance(error, Corrupt) and "flip" not in world.options.rates
                ):
                    world.write(line, "fail", error=repr(error))
                    world.problem(f"a client got {error!r}")
                    return None
            else:
                return self._answered(answer)
            lost = self.delivery is None or world.faults.hit("abandon")
            if self.unknown and not self.insist and lost:
                break
            await anyio.sleep(random.random() * 2)
        world.write(line, "info" if self.unknown else "fail")
        return None

    def _answered(self, answer: Any) -> Any:
        self.world.write(self.line, "ok", **_told(answer))
        self.client.seen[f"{self.name}: {getattr(answer, 'kind', 'done')}"] += 1
        if self.refused:
            self.world.problem(f"{self.name} should have been refused, and got {answer}")
        return answer

    async def _again(self, delivery: Any, delay: float) -> None:
        """The same delivery, sent by somebody else, who knows nothing of the first."""
        await anyio.sleep(delay)
        with suppress(Lost, StmflowError):
            answer = await self.world.call(self.call(delivery))
            line = {**self.line, "process": self.world.process(), "repeat": True}
            self.world.write(line, "ok", **_told(answer))


def _told(answer: Any) -> Mapping[str, Any]:
    """An answer to an event; a transaction's is a mapping, by which the checkers know it."""
    if not isinstance(answer, Answer):
        return {"answer": thaw(answer if isinstance(answer, Mapping) else {"value": answer})}
    return {
        "answer": answer.kind,
        "code": answer.code,
        "revision": None if answer.revision is None else str(answer.revision),
        "seq": answer.seq,
        "repeated": answer.repeated,
    }
