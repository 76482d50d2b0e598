"""One job in memory: its head, and the draft of its next write. Pure.

`Draft` is where an event becomes a state and effects, and an outcome becomes a receipt and events:
the shortest path of the engine, with no IO, no clock and no store. The transactor commits what
`finish` gives; `verify` runs the same code again and compares.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from stmflow import codec, wire
from stmflow.cid import CID
from stmflow.effect import (
    ANY,
    BAD_OUTCOME,
    And,
    Cancel,
    Catch,
    Effect,
    Entry,
    Err,
    Leaf,
    Outcome,
    Plan,
    Sleep,
    Then,
    Together,
    deeper,
    outcome_bytes,
    outcome_of,
)
from stmflow.errors import (
    CodecError,
    Corrupt,
    ImpureReducer,
    InvalidEvent,
    LimitExceeded,
    ReducerFailed,
    UnknownVersion,
)
from stmflow.limits import LIMITS
from stmflow.schema import freeze, thaw
from stmflow.workflow import Ignore, Impossible, Job, Read, Registry, Reject, Same, Workflow

_RECEIPT = wire.mapping(["task", "outcome"])
_REST = ["seq", "prev", "epoch", "extra", "state", "events", "effects", "receipts", "workflow"]
_WRITE = wire.mapping(["job", *_REST])
_FIRST_WRITE = wire.mapping(["job", "key", *_REST])


class Row(NamedTuple):
    """Where a task waits: `n` is its place among its job's rows, `due` is set for timers only."""

    n: int
    due: int | None


class Open:
    """An effect that still has something to do: its plan, its log and its armed leaves."""

    __slots__ = ("armed", "block", "cid", "epoch", "log", "plan", "seq", "withdrawn", "workflow")

    def __init__(
        self,
        seq: int,
        epoch: int,
        workflow: Workflow,
        plan: Plan,
        block: bytes,
        cid: CID,
        log: dict[int, Entry],
        withdrawn: frozenset[int],
        armed: dict[int, CID],
    ) -> None:
        self.seq = seq
        self.epoch = epoch
        self.workflow = workflow
        self.plan = plan
        self.block = block
        self.cid = cid
        self.log = log
        self.withdrawn = withdrawn
        self.armed = armed

    def copy(self) -> Open:
        """A copy that may be changed without touching this one."""
        return Open(
            self.seq,
            self.epoch,
            self.workflow,
            self.plan,
            self.block,
            self.cid,
            dict(self.log),
            self.withdrawn,
            dict(self.armed),
        )

    def encoded(self) -> bytes:
        """The form in which the store keeps it beside the head: a list, as DAG-CBOR."""
        integer = wire.integer
        log = [
            wire.array([integer(leaf), outcome_bytes(entry.outcome)])
            for leaf, entry in self.log.items()
        ]
        armed = [wire.array([integer(leaf), wire.link(task)]) for leaf, task in self.armed.items()]
        return wire.array(
            [
                integer(self.seq),
                integer(self.epoch),
                integer(self.workflow.version),
                wire.octets(self.block),
                wire.array(log),
                wire.array([integer(leaf) for leaf in sorted(self.withdrawn)]),
                wire.array(armed),
            ]
        )

    @staticmethod
    def of(plain: list[Any], name: str, registry: Registry) -> Open:
        """The inverse of `encoded`, from its decoded form. Raises UnknownVersion."""
        seq, epoch, version, block, log, withdrawn, armed = plain
        workflow = registry.version(name, version)
        return Open(
            seq,
            epoch,
            workflow,
            Plan(workflow.effect_of(codec.decode(block))),
            block,
            CID.of(block),
            {leaf: Entry(at, outcome_of(outcome)) for at, (leaf, outcome) in enumerate(log)},
            frozenset(withdrawn),
            dict(armed),
        )


class Head(NamedTuple):
    """A job as of one revision.

    Attributes:
        state: the typed state, raised to the version that runs the job: the newest registered, or
            with sticky versions the head's own.
        state_cid, state_block: as committed.
        open: effects with something left to do. rows: task id → where it waits.
        next_n: the next free place for a row. at: milliseconds; never falls along a chain.
    """

    job: CID
    name: str
    key: tuple[Any, ...]
    version: int
    revision: CID
    seq: int
    epoch: int
    at: int
    state: Any
    state_cid: CID
    state_block: bytes
    open: tuple[Open, ...]
    rows: dict[CID, Row]
    next_n: int

    def __repr__(self) -> str:
        """Without bytes: the state's own type says what of it is not shown."""
        names = f"{self.name!r}, key={self.key!r}, seq={self.seq}, epoch={self.epoch}"
        return f"Head({names}, revision={self.revision!r}, state={self.state!r})"

    def open_bytes(self) -> bytes:
        """What the store keeps beside the head: derived data that `verify` rebuilds.

        Raises:
            LimitExceeded: it could not be read again.
        """
        rows = [
            wire.array(
                [
                    wire.link(task),
                    wire.integer(row.n),
                    wire.NULL if row.due is None else wire.integer(row.due),
                ]
            )
            for task, row in self.rows.items()
        ]
        effects = [effect.encoded() for effect in self.open]
        kept = wire.array([wire.integer(self.next_n), wire.array(effects), wire.array(rows)])
        return wire.checked(kept)


def load_open(
    data: bytes, name: str, registry: Registry
) -> tuple[int, tuple[Open, ...], dict[CID, Row]]:
    """`Head.open_bytes` read back: next_n, open effects, rows."""
    next_n, effects, rows = codec.decode(data)
    return (
        next_n,
        tuple(Open.of(effect, name, registry) for effect in effects),
        {task: Row(n, due) for task, n, due in rows},
    )


class Verdict(NamedTuple):
    """What `update` made of an event, in the words of answers."""

    kind: str
    code: str | None = None
    detail: Any = None

    @property
    def rejected(self) -> bool:
        """Whether it was refused; `code` says why."""
        return self.kind == "rejected"


COMMITTED = Verdict("committed")
NO_CHANGE = Verdict("no change")
IGNORED = Verdict("ignored")
STALE = Verdict("stale")
CLOSED = Verdict("closed")


class Parked(Exception):
    """An outcome that cannot be accepted: its task waits for a person (E11).

    `kept`: the outcome is kept, to be delivered again without performing the task again. A failure
    that nothing catches is not: the task is worth another try.
    """

    def __init__(self, error: Err, outcome: Outcome, *, kept: bool = True) -> None:
        super().__init__(error.name)
        self.error = error
        self.outcome = outcome
        self.kept = kept


Holders = list[tuple[int, int]]
"""(index among the open effects, leaf number)."""

Perform = Callable[["Draft", CID, Any], Outcome]
"""Runs a transactional task, by its id, inside the transaction that holds the draft."""


_ALONE = "a job adopts a version in a write of its own"
_DEEPER = b"\x81" * 4
"""Lists around a receipt: beside a head, an outcome lies so much deeper than in its receipt."""


def task_id(job: CID, seq: int, workflow: Workflow, leaf: Leaf) -> CID:
    """CID of [job, seq, task]: outbox key, fencing subject, dedupe id and idempotency key."""
    return identify(job, seq, workflow.task_bytes(leaf))


def identify(job: CID, seq: int, task: bytes) -> CID:
    """`task_id` of a task that is encoded already."""
    return CID.of(wire.array([wire.link(job), wire.integer(seq), task]))


class Draft:
    """The next write of one job, in the making.

    Args:
        registry: the workflows known here, and which version of them runs the job.
        job: which job. head: as read, or None. at: the time of the revision.
        version: run by this one, whatever the registry says; a head's state must be of it.
        transactional: task types that `perform` runs inside this very transaction.
        pure: run every `update` twice and compare (development mode).
        read: what guards are given to see other jobs by.
    """

    __slots__ = (
        "_found",
        "_owned",
        "_perform",
        "_pure",
        "_read",
        "_recalled",
        "_registry",
        "_settled",
        "_transactional",
        "alarms",
        "at",
        "blocks",
        "effects",
        "epoch",
        "events",
        "extra",
        "given",
        "head",
        "job",
        "moved",
        "open",
        "receipts",
        "seq",
        "state",
        "state_block",
        "state_cid",
        "workflow",
    )

    def __init__(
        self,
        registry: Registry,
        job: Job,
        head: Head | None,
        at: int,
        *,
        version: int | None = None,
        transactional: Container[type] = (),
        perform: Perform | None = None,
        pure: bool = False,
        read: Read = lambda job: None,
    ) -> None:
        if version is not None:
            self.workflow = registry.version(job.workflow, version)
        else:
            self.workflow = registry.home(job.workflow, None if head is None else head.version)
        self.moved = False
        self.job = job
        self.head = head
        self.at = at
        self.seq = 1 if head is None else head.seq + 1
        self.state = None if head is None else head.state
        self.state_cid = None if head is None else head.state_cid
        self.state_block = None if head is None else self._carried(head)
        self.epoch = 0 if head is None else head.epoch
        self.open: list[Open] = [] if head is None else list(head.open)
        self.events: list[CID] = []
        self.receipts: list[CID] = []
        self.effects: list[tuple[int, CID]] = []
        self.extra: list[dict[str, Any]] = []
        self.given: list[tuple[str, Effect]] = []
        self.blocks: list[bytes] = []
        self.alarms: list[str] = []
        self._registry = registry
        self._transactional = transactional
        self._perform = perform
        self._pure = pure
        self._read = read
        self._owned: set[int] = set()
        self._settled: dict[CID, Outcome] = {}
        self._recalled: list[tuple[int, Any]] = []

    def fork(self) -> Draft:
        """A copy to fall back on; neither sees what is later done to the other."""
        twin = object.__new__(Draft)
        for name in Draft.__slots__:
            if hasattr(self, name):
                value = getattr(self, name)
                setattr(twin, name, value.copy() if type(value) in (list, dict, set) else value)
        twin.open = [each.copy() if id(each) in self._owned else each for each in self.open]
        twin._owned = {id(each) for each in twin.open} - {id(each) for each in self.open}
        return twin

    def _carried(self, head: Head) -> bytes:
        """The head's state block, rewritten where the state was raised from an older version."""
        if head.version == self.workflow.version:
            return head.state_block
        block = self.workflow.state_bytes(head.state)
        self.state_cid = CID.of(block)
        return block

    @property
    def touched(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self.events or self.receipts or self.given or self.moved)

    # --- what can happen to a job ---------------------------------------------------------------

    def send(self, event: Any, *, checked: bool = False) -> Verdict:
        """Apply an outside event. What it starts transactionally is finished here too.

        Raises:
            InvalidEvent, ReducerFailed, ImpureReducer, LimitExceeded: nothing may be written.
        """
        if self.moved:
            raise ReducerFailed(_ALONE)
        check = self.workflow.dated if checked else self.workflow.check_event
        event = check(event if checked else self.spoken(event), self.at)
        for guard in self.workflow.pre:
            try:
                code = guard.judge(event, self.state, self._read)
            except Exception as error:
                raise ReducerFailed(f"guard {guard.name} raised {error!r}") from error
            if code is not None:
                return Verdict("rejected", code, {"guard": guard.name})
        verdict = self._step(event, inside=False)
        if verdict is COMMITTED:
            self._quiesce()
        return verdict

    def settle(self, task: CID, outcome: Outcome) -> Verdict:
        """Record the outcome of an open task and apply the events that it fires.

        Raises:
            Parked: no node catches the failure, or the workflow cannot take the outcome.
        """
        if not self._holders(task):
            return CLOSED
        try:
            verdict = self._accept(task, outcome)
            self._quiesce()
        except Parked:
            raise
        except Exception as error:  # of whatever type: a task that is not parked would be lost
            raise Parked(refusal(error), outcome) from error
        return verdict

    def holds(self, task: CID) -> bool:
        """Whether that task is open."""
        return bool(self._holders(task))

    def give(self, by: str, effect: Effect) -> None:
        """Add an effect that no reducer returned (a post hook's, or `tx.effect`)."""
        if self.moved:
            raise ReducerFailed(_ALONE)
        self.given += [(by, checked) for checked in _effects(effect)]

    def spoken(self, event: Any) -> Any:
        """The event as the job's version has it, where its type is another version's.

        Raises:
            InvalidEvent: no version declares it, or what its casts give is no event of this one.
            UnknownVersion: a cast is missing.
        """
        if self.workflow.declares(type(event)):
            return event
        workflow = self._registry.speaks(self.workflow.name, type(event))
        plain = codec.decode(workflow.event_bytes(workflow.check_event(event, self.at)))
        try:
            lifted = self._registry.lift(plain, event=True, to=self.workflow)[1]
            return self.workflow.event_of(lifted)
        except CodecError as error:
            raise InvalidEvent(str(error)) from None

    def adopt(self, version: int) -> bool:
        """Move the job to that version, in a write that does nothing else; whether it moved.

        State and epoch stay, seq rises; the state is raised or lowered by the registered casts.

        Raises:
            UnknownVersion: the version, the head's, or a cast between them is not registered.
            ReducerFailed: there is no such job, something else is written to it here, a cast
                raised or changed the epoch, or a sleep would end because its state has another tag.
        """
        head, name = self.head, self.job.workflow
        workflow = self._registry.version(name, version)
        if head is None:
            raise ReducerFailed(f"no job {self.job.id} that could adopt a version")
        if self.touched:
            raise ReducerFailed(_ALONE)
        if head.version == version:
            return False
        if self._registry.home(name, version) is not workflow:
            raise ReducerFailed(f"without a chooser every {name} is run by the newest version")
        old = self._registry.version(name, head.version)
        try:
            plain = codec.decode(head.state_block)
            state = workflow.state_of(self._registry.lift(plain, event=False, to=workflow)[1])
            block = workflow.state_bytes(state)
            tags = old.tag_of(old.state_of(plain)), workflow.tag_of(state)
            epoch = workflow.epoch_of(state)
        except UnknownVersion:
            raise
        except Exception as error:
            raise ReducerFailed(f"{workflow!r} cannot take the state: {error!r}") from error
        if len(block) > LIMITS.state_bytes:
            raise LimitExceeded(f"a state of {len(block)} bytes; at most {LIMITS.state_bytes}")
        if epoch != head.epoch:
            raise ReducerFailed(f"{workflow!r} would move epoch {head.epoch} to {epoch}")
        if any(_ends(opened, *tags) for opened in self.open):
            raise ReducerFailed(f"{workflow!r} calls {tags[0]} {tags[1]}: a sleep would end")
        self.workflow, self.state, self.moved = workflow, state, True
        self.state_block, self.state_cid = block, CID.of(block)
        return True

    # --- folding --------------------------------------------------------------------------------

    def _step(self, event: Any, *, inside: bool) -> Verdict:
        """One call of `update`, and what follows from its answer."""
        before, answer = self.state, self._update(event)
        if isinstance(answer, Reject):
            if not inside:
                return Verdict("rejected", answer.code, answer.detail)
            answer = Ignore()
        if isinstance(answer, Impossible):
            self._alarm(event, answer, inside=inside)
            if not inside:
                return Verdict("rejected", "Impossible", self.alarms[-1])
        state, effects = self._next(answer)
        changed = self._encode(state) if state is not before else None
        given = (
            [] if isinstance(answer, (Ignore, Impossible)) else self._hooks(event, before, state)
        )
        if given and state is None:
            raise ReducerFailed(f"hook {given[0][0]}: effects need a state to belong to")
        if changed or effects or given or inside:
            self._log(event)
        if changed:
            self._enter(state, *changed)
        if effects:
            self._ask(effects)
        self.given += given
        if changed or effects or given:
            return COMMITTED
        return IGNORED if isinstance(answer, Ignore) else NO_CHANGE

    def _next(self, answer: Any) -> tuple[Any, tuple[Effect, ...]]:
        if type(answer) is tuple and len(answer) == 2:
            state, effects = answer
        elif isinstance(answer, (Same, Ignore, Impossible)):
            state, effects = self.state, _effects(answer.effects)
        else:
            raise ReducerFailed(f"update of {self.workflow!r} returned {type(answer).__name__}")
        if state is None and effects:
            raise ReducerFailed(f"{self.workflow.name}: effects need a state to belong to")
        return state, effects

    def _update(self, event: Any) -> Any:
        try:
            answer = self.workflow.update(event, self.state)
            again = self.workflow.update(event, self.state) if self._pure else None
        except Exception as error:
            raise ReducerFailed(
                f"update of {self.workflow!r} raised {type(error).__name__}: {error}"
            ) from error
        answer = _listed(answer)
        if self._pure and self._digest(answer) != self._digest(_listed(again)):
            raise ImpureReducer(
                f"update of {self.workflow!r} gave two answers to {type(event).__name__}"
            )
        return answer

    def _digest(self, answer: Any) -> Any:
        """What two runs of `update` must agree on: CIDs, not Python equality."""
        if type(answer) is tuple and len(answer) == 2:
            state, effects = answer
            encoded = None if state is None else self._encode(state)
            return (encoded, [self.workflow.effect_bytes(effect) for effect in effects])
        if isinstance(answer, Reject):
            return (answer.code, repr(answer.detail))
        effects = _effects(getattr(answer, "effects", ()))
        return (type(answer), [self.workflow.effect_bytes(effect) for effect in effects])

    def _encode(self, state: Any) -> tuple[bytes, CID] | None:
        """The block of a state that `update` returned, or None where it is the same state."""
        try:
            block = self.workflow.state_bytes(state)
        except CodecError as error:
            raise ReducerFailed(f"update of {self.workflow!r}: {error}") from error
        if len(block) > LIMITS.state_bytes:
            raise LimitExceeded(f"a state of {len(block)} bytes; at most {LIMITS.state_bytes}")
        cid = CID.of(block)
        return None if cid == self.state_cid else (block, cid)

    def _enter(self, state: Any, block: bytes, cid: CID) -> None:
        epoch = self.workflow.epoch_of(state)
        if epoch < max(self.epoch, 1):
            raise ReducerFailed(f"{self.workflow.name}: epoch fell from {self.epoch} to {epoch}")
        state = self.workflow.as_read(state, block)
        self.state, self.state_block, self.state_cid, self.epoch = state, block, cid, epoch

    def _alarm(self, event: Any, answer: Impossible, *, inside: bool) -> None:
        what = f"{self.workflow.name}: {type(event).__name__} in {self._tag() or 'no state'}"
        self.alarms.append(what)
        if inside and not answer.effects:
            raise ReducerFailed(f"impossible: {what}")

    def _log(self, event: Any) -> None:
        block = self.workflow.event_bytes(event)
        self.blocks.append(block)
        self.events.append(CID.of(block))

    def _hooks(self, event: Any, before: Any, after: Any) -> list[tuple[str, Effect]]:
        given = []
        for hook in self.workflow.post:
            try:
                effects = _effects(hook.effects(event, before, after))
                given += [(hook.by, effect) for effect in effects]
            except Exception as error:
                raise ReducerFailed(f"hook {hook.by} raised {error!r}") from error
        return given

    def _tag(self) -> str | None:
        try:
            return None if self.state is None else self.workflow.tag_of(self.state)
        except Exception as error:
            raise ReducerFailed(f"the tag of {self.workflow!r} raised {error!r}") from error

    # --- effects --------------------------------------------------------------------------------

    def _ask(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            cid = self._add(effect)
            self.effects.append((self.epoch, cid))

    def _add(self, effect: Effect) -> CID:
        if _unresolved(effect):
            effect = _resolve(effect, self._tag() or "")
        block = self.workflow.effect_bytes(effect)
        cid = CID.of(block)
        self.blocks.append(block)
        if isinstance(effect, Cancel):
            self._withdraw_name(effect.name)
            return cid
        plan = Plan(effect)
        for name in plan.names:
            self._withdraw_name(name)
        opened = Open(self.seq, self.epoch, self.workflow, plan, block, cid, {}, frozenset(), {})
        self._owned.add(id(opened))
        self.open.append(opened)
        if self._settled and self._transactional:
            self._recall(opened)
        return cid

    def _recall(self, opened: Open) -> None:
        """A task asked for again in the write that settled it has its receipt at once."""
        for number, leaf in enumerate(opened.plan.leaves):
            known = task_id(self.job.id, self.seq, opened.workflow, leaf)
            if known in self._settled:
                opened.log[number] = Entry(len(opened.log), self._settled[known])
        seen = opened.plan.progress(opened.log, opened.withdrawn)
        if seen.uncaught:
            raise ReducerFailed(f"asked again for what had failed: {seen.uncaught[0].name}")
        for fired in seen.fired:
            self._recalled.append((opened.epoch, self._event(opened.workflow, fired)))

    def _mine(self, index: int) -> Open:
        """The open effect at that place, copied before the first change."""
        opened = self.open[index]
        if id(opened) not in self._owned:
            opened = self.open[index] = opened.copy()
            self._owned.add(id(opened))
        return opened

    def _withdraw_name(self, name: str) -> None:
        for index, opened in enumerate(self.open):
            number = opened.plan.names.get(name)
            if number is not None and number not in opened.log:
                self._withdraw(index, number)

    def _withdraw(self, index: int, number: int) -> None:
        opened = self._mine(index)
        opened.withdrawn |= {number}
        opened.armed.pop(number, None)

    # --- outcomes -------------------------------------------------------------------------------

    def _holders(self, task: CID) -> Holders:
        """Every (open effect, leaf) that waits for that task."""
        return [
            (index, number)
            for index, opened in enumerate(self.open)
            for number, armed in opened.armed.items()
            if armed == task
        ]

    def _twins(self, holders: Holders) -> Holders:
        """Leaves of effects of the same write that are this very task and not ready yet: when they
        are, its receipt counts for them too."""
        first, leaf = holders[0]
        held = self.open[first]
        block = held.workflow.task_bytes(held.plan.leaves[leaf])
        return [
            (index, number)
            for index, opened in enumerate(self.open)
            if index != first and opened.seq == held.seq and opened.workflow is held.workflow
            for number, other in enumerate(opened.plan.leaves)
            if number not in opened.log and number not in opened.armed
            if number not in opened.withdrawn and opened.workflow.task_bytes(other) == block
        ]

    def fits(self, task: CID, outcome: Outcome) -> bool:
        """Whether the events that this outcome of an open task fires can be made of it."""
        try:
            self._fires(self._awaiting(task), outcome)
        except InvalidEvent:
            return False
        except (Parked, LimitExceeded):
            pass  # so it is found when it is accepted
        return True

    def _awaiting(self, task: CID) -> Holders:
        """Every (open effect, leaf) that its receipt counts for."""
        holders = self._holders(task)
        return holders + self._twins(holders) if len(self.open) > 1 else holders

    def _accept(self, task: CID, outcome: Outcome) -> Verdict:
        holders = self._awaiting(task)
        outcome, fired = self._judge(holders, outcome)
        for index, number in holders:
            opened = self._mine(index)
            opened.log[number] = Entry(len(opened.log), outcome)
            opened.armed.pop(number, None)
        self._receipt(task, outcome)
        return self._deliver(fired)

    def _judge(self, holders: Holders, outcome: Outcome) -> tuple[Outcome, list[tuple[int, Any]]]:
        """The outcome as it can be recorded, and the events that it fires, each with its epoch."""
        try:
            return outcome, self._fires(holders, outcome)
        except InvalidEvent as error:
            bad = Err(BAD_OUTCOME, str(error))
        try:
            return bad, self._fires(holders, bad)
        except Parked as parked:
            raise Parked(parked.error, outcome) from None  # what was answered is kept

    def _fires(self, holders: Holders, outcome: Outcome) -> list[tuple[int, Any]]:
        events = []
        for index, number in holders:
            opened = self.open[index]
            at = len(opened.log)
            seen = opened.plan.progress(
                {**opened.log, number: Entry(at, outcome)}, opened.withdrawn
            )
            if seen.uncaught:
                raise Parked(seen.uncaught[-1], outcome, kept=False)
            for fired in seen.fired:
                if fired.at == at:
                    events.append((opened.epoch, self._event(opened.workflow, fired)))
        if len(events) > LIMITS.events_per_receipt:
            raise LimitExceeded(
                f"one receipt fires {len(events)} events; at most {LIMITS.events_per_receipt}"
            )
        return events

    def _event(self, workflow: Workflow, fired: Any) -> Any:
        event = workflow.fill(fired.event, fired.values, fired.error, self.at)
        if workflow is self.workflow:
            return event
        plain = codec.decode(workflow.event_bytes(event))
        return self.workflow.event_of(self._registry.lift(plain, event=True, to=self.workflow)[1])

    def _receipt(self, task: CID, outcome: Outcome) -> None:
        block = wire.checked(_RECEIPT([wire.link(task), outcome_bytes(outcome)]))
        if isinstance(outcome, (tuple, Mapping, Err)):
            codec.decode(_DEEPER + block)  # so that it can be read again beside the head too
        self.blocks.append(block)
        self.receipts.append(CID.of(block))
        self._settled[task] = outcome

    def _deliver(self, fired: list[tuple[int, Any]]) -> Verdict:
        verdict = COMMITTED
        for epoch, event in fired:
            verdict = STALE if epoch != self.epoch else self._step(event, inside=True)
        return verdict if fired else COMMITTED

    # --- transactional tasks --------------------------------------------------------------------

    def _quiesce(self) -> None:
        """Run transactional tasks, and fold what they fire, until none is ready."""
        if not self._transactional:
            return
        for step in range(LIMITS.transactional_steps + 1):
            found = self._transactional_ready()
            if found is None and not self._recalled:
                return
            if step == LIMITS.transactional_steps:
                raise ReducerFailed(f"more than {step} transactional steps in one transaction")
            if found is None:
                recalled, self._recalled = self._recalled, []
                self._deliver(recalled)
                continue
            index, number, task = found
            assert self._perform is not None
            opened = self._mine(index)
            identity = task_id(self.job.id, opened.seq, opened.workflow, opened.plan.leaves[number])
            self._arm_equal(identity)
            outcome = self._perform(self, identity, task)
            try:
                self._accept(identity, outcome)
            except Parked as parked:
                raise ReducerFailed(
                    f"transactional {type(task).__name__} failed uncaught: {parked.error.name}"
                ) from None

    def _transactional_ready(self) -> tuple[int, int, Any] | None:
        for index, opened in enumerate(self.open):
            for number in opened.plan.ready(opened.log, opened.withdrawn):
                task = getattr(opened.plan.leaves[number], "task", None)
                if number not in opened.armed and type(task) in self._transactional:
                    return index, number, task
        return None

    def _arm_equal(self, task: CID) -> None:
        """Let every ready leaf that is this very task wait for its one receipt."""
        for index, number, known in self._unarmed():
            if known == task:
                self._mine(index).armed[number] = task

    def _unarmed(self) -> Iterator[tuple[int, int, CID]]:
        for index, opened in enumerate(self.open):
            for number in opened.plan.ready(opened.log, opened.withdrawn):
                if number not in opened.armed:
                    leaf = opened.plan.leaves[number]
                    yield index, number, task_id(self.job.id, opened.seq, opened.workflow, leaf)

    # --- the end of a write ---------------------------------------------------------------------

    def finish(self) -> Finished:
        """Judge the sleeps, arm what is ready, and say what is to be written.

        Raises:
            ReducerFailed: a given effect holds a transactional task.
            LimitExceeded: too many open tasks.
        """
        self._give()
        self._judge_sleeps()
        rows, armed, timers, next_n = self._arm()
        self.open = [opened for opened in self.open if opened.armed]
        old = {} if self.head is None else self.head.rows
        return Finished(
            rows=rows,
            next_n=next_n,
            armed=armed,
            timers=timers,
            closed=[(task, row) for task, row in old.items() if task not in rows],
        )

    def _give(self) -> None:
        for by, effect in self.given:
            cid = self._add(effect)
            self.extra.append({"by": by, "effects": [[self.epoch, cid]]})
        if self.given and (self._recalled or self._transactional_ready() is not None):
            raise ReducerFailed("a given effect cannot hold a transactional task")

    def _judge_sleeps(self) -> None:
        tag = self._tag()
        for index, opened in enumerate(self.open):
            if not opened.plan.sleeps:
                continue
            due = {*opened.armed, *opened.plan.ready(opened.log, opened.withdrawn)}
            for number in sorted(due):
                leaf = opened.plan.leaves[number]
                if not isinstance(leaf, Sleep) or leaf.during is ANY:
                    continue
                if opened.epoch != self.epoch or tag not in leaf.during:
                    self._withdraw(index, number)

    def _arm(self) -> tuple[dict[CID, Row], list[Armed], list[tuple[CID, Row]], int]:
        """A row for every task that waits: kept, or new where a leaf has become ready."""
        head = self.head
        known = {} if head is None else head.rows
        places = _Places(known, 0 if head is None else head.next_n)
        rows: dict[CID, Row] = {}
        tasks: list[Armed] = []
        timers: list[tuple[CID, Row]] = []
        untouched = () if head is None else head.open
        for index, opened in enumerate(self.open):
            fresh = any(opened is one for one in untouched)
            for number in () if fresh else opened.plan.ready(opened.log, opened.withdrawn):
                if number in opened.armed:
                    continue
                leaf = opened.plan.leaves[number]
                block = opened.workflow.task_bytes(leaf)
                task = identify(self.job.id, opened.seq, block)
                opened = self._mine(index)
                opened.armed[number] = task
                if task in rows or task in known:
                    continue
                row = rows[task] = Row(places.take(), self._due(leaf))
                if row.due is None:
                    tasks.append(Armed(task, row.n, block, leaf, opened.workflow))
                else:
                    timers.append((task, row))
            for task in opened.armed.values():
                if task not in rows:
                    rows[task] = known[task]
        if len(rows) > LIMITS.open_tasks_per_job:
            raise LimitExceeded(f"{len(rows)} open tasks; at most {LIMITS.open_tasks_per_job}")
        return rows, tasks, timers, places.next

    def _due(self, leaf: Leaf) -> int | None:
        if not isinstance(leaf, Sleep):
            return None
        return leaf.until if leaf.until is not None else self.at + (leaf.for_ms or 0)

    def entry(self) -> bytes:
        """This job's line in the revision's `writes`, as DAG-CBOR."""
        assert self.state_cid is not None
        head, workflow = self.head, self.workflow
        before = [wire.link(self.job.id)]
        after = [
            wire.integer(self.seq),
            wire.NULL if head is None else wire.link(head.revision),
            wire.integer(self.epoch),
            codec.encode(self.extra) if self.extra else wire.EMPTY_LIST,
            wire.link(self.state_cid),
            wire.links(self.events),
            wire.array([wire.array([wire.integer(e), wire.link(c)]) for e, c in self.effects]),
            wire.links(self.receipts),
            wire.array([wire.text(workflow.name), wire.integer(workflow.version)]),
        ]
        if head is None:
            return _FIRST_WRITE([*before, codec.encode(thaw(self.job.key)), *after])
        return _WRITE([*before, *after])

    def next_head(self, revision: CID, finished: Finished) -> Head:
        """The head that this write makes."""
        assert self.state_cid is not None
        assert self.state_block is not None
        return Head(
            job=self.job.id,
            name=self.job.workflow,
            key=self.job.key,
            version=self.workflow.version,
            revision=revision,
            seq=self.seq,
            epoch=self.epoch,
            at=self.at,
            state=self.state,
            state_cid=self.state_cid,
            state_block=self.state_block,
            open=tuple(self.open),
            rows=finished.rows,
            next_n=finished.next_n,
        )


class _Places:
    """Free numbers for rows, used again when all have been used."""

    __slots__ = ("_taken", "next")

    def __init__(self, known: Mapping[CID, Row], start: int) -> None:
        self._taken = {row.n for row in known.values()} if known else ()
        self.next = start

    def take(self) -> int:
        while self.next in self._taken:
            self.next = (self.next + 1) % LIMITS.task_places
        n, self.next = self.next, (self.next + 1) % LIMITS.task_places
        return n


class Armed(NamedTuple):
    """A task that enters the outbox with this write."""

    id: CID
    n: int
    block: bytes
    leaf: Any
    workflow: Workflow

    @property
    def kind(self) -> tuple[str, int, str]:
        """(workflow, version, task tag)."""
        return self.workflow.name, self.workflow.version, self.workflow.task_tag(self.leaf)


class Finished(NamedTuple):
    """What a write changes beside state and log."""

    rows: dict[CID, Row]
    next_n: int
    armed: list[Armed]
    timers: list[tuple[CID, Row]]
    closed: list[tuple[CID, Row]]


def _effects(value: Any) -> tuple[Effect, ...]:
    if isinstance(value, Effect):
        return (value,)
    try:
        effects = tuple(value)
    except TypeError:
        raise ReducerFailed(f"update returned {type(value).__name__} for effects") from None
    for effect in effects:
        if not isinstance(effect, Effect):
            raise ReducerFailed(f"update returned {type(effect).__name__} among its effects")
        if deeper(effect, LIMITS.effect_depth):
            raise LimitExceeded(f"an effect deeper than {LIMITS.effect_depth}")
    return effects


def _listed(answer: Any) -> Any:
    """An answer whose effects can be looked at twice, even where they come one by one."""
    if type(answer) is tuple and len(answer) == 2:
        return (answer[0], _effects(answer[1]))
    return answer


def refusal(error: Exception) -> Err:
    """The error of a parked row: one that can be stored, whatever was raised."""
    return Err(type(error).__name__, str(error).encode(errors="replace").decode()[:1_000])


def _unresolved(effect: Effect) -> bool:
    """Whether some sleep in it has no `during` yet."""
    kind = type(effect)
    if kind is Then or kind is Catch:
        return _unresolved(effect.body)  # type: ignore[attr-defined]
    if kind is And:
        return _unresolved(effect.first) or _unresolved(effect.second)  # type: ignore[attr-defined]
    if kind is Together:
        return any(map(_unresolved, effect.parts))  # type: ignore[attr-defined]
    return kind is Sleep and effect.during is None  # type: ignore[attr-defined]


def _resolve(effect: Effect, tag: str) -> Effect:
    """The effect with every default `during` replaced by the tag of the state it came with."""
    match effect:
        case Sleep(during=None):
            return replace(effect, during=(tag,))
        case And(first, second):
            return And(_resolve(first, tag), _resolve(second, tag))
        case Together(parts):
            return Together(tuple(_resolve(part, tag) for part in parts))
        case Then(body, event):
            return Then(_resolve(body, tag), event)
        case Catch(body, event, names):
            return Catch(_resolve(body, tag), event, names)
    return effect


def _ends(opened: Open, before: str, after: str) -> bool:
    """Whether a sleep of this effect goes on in one of two tags and not in the other."""
    return before != after and any(
        before in leaf.during and after not in leaf.during
        for number, leaf in enumerate(opened.plan.leaves)
        if isinstance(leaf, Sleep) and leaf.during is not ANY
        if number not in opened.log and number not in opened.withdrawn
    )


def restore(stored: Any, registry: Registry) -> Head:
    """The typed head of what a store gave back.

    Raises:
        UnknownVersion: nothing registered here can read it.
        Corrupt: its blocks do not hash to what the head names.
    """
    state_cid = CID.of(stored.state)
    if state_cid != stored.state_cid:
        raise Corrupt(f"the state of job {stored.job} does not hash to {stored.state_cid}")
    plain = codec.decode(stored.state)
    home = registry.home(stored.workflow, stored.version)
    workflow, lifted = registry.lift(plain, event=False, to=home)
    next_n, effects, rows = load_open(stored.open, stored.workflow, registry)
    return Head(
        job=stored.job,
        name=stored.workflow,
        key=freeze(stored.key),
        version=stored.version,
        revision=stored.revision,
        seq=stored.seq,
        epoch=stored.epoch,
        at=stored.at,
        state=workflow.state_of(lifted),
        state_cid=state_cid,
        state_block=stored.state,
        open=effects,
        rows=rows,
        next_n=next_n,
    )
