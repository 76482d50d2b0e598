"""What two or three sessions may want of one or two jobs at the same time.

A case is told on any store: it prepares the jobs, then says what each lane commits. All that a case
makes is the same on each store but for the numbers of workers, so that outcomes can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from stmflow import codec
from stmflow.cid import CID
from stmflow.effect import Err
from stmflow.errors import Archived
from stmflow.store import (
    Batch,
    Beat,
    Claim,
    Claimed,
    Commit,
    Defer,
    Disown,
    Done,
    Drop,
    Finished,
    Member,
    Packed,
    Park,
    Reap,
    Redrive,
    Result,
    Revive,
    Store,
    StoredHead,
    Want,
    Watch,
)
from stmflow.testing import builders as make
from stmflow.testing.builders import KIND, STAT, WORKFLOW, head_of, job_id

FAR = 2**62
ARCHIVE = CID.of(b"an archive")
ERROR = codec.encode(Err("Bad").plain())


@dataclass(frozen=True)
class Look:
    """A lane that reads these jobs at once, instead of committing."""

    jobs: tuple[CID, ...]


Wish = Batch | Look


class Stage:
    """The jobs of one run on one store; names are the run's own."""

    def __init__(self, store: Store, run: str) -> None:
        self.store = store
        self.run = run
        self.names: list[str] = []
        self.workers: list[int] = []
        self.last: dict[str, StoredHead | None] = {}
        self.packed: dict[str, Packed] = {}
        self.held: Claimed | None = None
        self._values = 0

    def name(self, short: str) -> str:
        """The job's name in this run."""
        if short not in self.names:
            self.names.append(short)
        return f"{self.run} {short}"

    def job(self, short: str) -> CID:
        """The job of that name."""
        return job_id(self.name(short))

    def revision(self, short: str) -> CID | None:
        """Its head, as prepared."""
        head = self.last.get(short)
        return None if head is None else head.revision

    def worker(self) -> int:
        """A new worker, alive."""
        self.workers.append(self.store.enlist())
        return self.workers[-1]

    def commit(self, *writes: str, reads: Sequence[str] = (), **given: Any) -> Commit:
        """A commit that writes these jobs upon their heads as prepared, and reads those."""
        self._values += 1
        return make.commit(
            {self.name(short): self.last.get(short) for short in writes},
            value=self._values,
            reads=[(self.job(short), self.revision(short)) for short in reads],
            **given,
        )

    async def apply(self, *members: Member) -> list[Result]:
        """Prepare something."""
        return list(await self.store.commit(Batch(members)))

    async def create(self, *shorts: str, **given: Any) -> None:
        """Prepare these jobs, in one revision."""
        made = self.commit(*shorts, **given)
        assert await self.apply(made) == [Done()]
        assert made.revision is not None
        assert made.revision_cid is not None
        for short in shorts:
            self.last[short] = head_of(made, self.name(short))
            blocks = [write.head.state for write in made.writes]
            self.packed[short] = Packed(made.revision_cid, made.revision, [*blocks, *made.blocks])

    def task(self, short: str, n: int = 0, **given: Any) -> Any:
        """A row for the outbox."""
        return make.task(self.name(short), n, at=1, **given)

    async def hold(self, worker: int) -> Claimed:
        """Let that worker take the one task that waits."""
        (result,) = await self.apply(self.claims(worker))
        assert isinstance(result, Done)
        (self.held,) = result.value
        return self.held

    def claims(self, worker: int) -> Claim:
        """Take what is due, of this run."""
        return Claim(worker, [Want(WORKFLOW, 1, self.tag, 10)], 5)

    @property
    def tag(self) -> str:
        """The tag of this run's tasks: others' are not claimed."""
        return f"{STAT} {self.run}"


Prepare = Callable[[Stage], Any]
"""Prepares a stage and returns the wish of each lane."""


@dataclass(frozen=True)
class Case:
    """What is prepared and wished, and by how many lanes."""

    name: str
    lanes: int
    prepare: Prepare
    smallest: bool = field(default=False)
    """Whether it is tried in the plain tests too."""


CASES: list[Case] = []


def _case(name: str, lanes: int = 2, *, smallest: bool = False) -> Callable[[Prepare], Prepare]:
    def add(prepare: Prepare) -> Prepare:
        CASES.append(Case(name, lanes, prepare, smallest))
        return prepare

    return add


def _each(*members: Member) -> list[Batch]:
    return [Batch([member]) for member in members]


# --- heads --------------------------------------------------------------------------------------


@_case("two writes of one head", smallest=True)
async def _two_writes(stage: Stage) -> list[Batch]:
    await stage.create("a")
    return _each(stage.commit("a"), stage.commit("a"))


@_case("three writes of one head", 3)
async def _three_writes(stage: Stage) -> list[Batch]:
    await stage.create("a")
    return _each(stage.commit("a"), stage.commit("a"), stage.commit("a"))


@_case("two births of one job", smallest=True)
async def _two_births(stage: Stage) -> list[Batch]:
    return _each(stage.commit("a"), stage.commit("a"))


@_case("write skew", smallest=True)
async def _write_skew(stage: Stage) -> list[Batch]:
    await stage.create("a", "b")
    return _each(stage.commit("a", reads="b"), stage.commit("b", reads="a"))


@_case("write skew among three", 3)
async def _write_skew_of_three(stage: Stage) -> list[Batch]:
    await stage.create("a", "b", "c")
    return _each(*(stage.commit(w, reads=r) for w, r in ("ab", "bc", "ca")))


@_case("write skew on jobs that are not there", smallest=True)
async def _write_skew_on_absent(stage: Stage) -> list[Batch]:
    return _each(stage.commit("a", reads="b"), stage.commit("b", reads="a"))


@_case("two jobs, each written by both")
async def _both_by_both(stage: Stage) -> list[Batch]:
    await stage.create("a", "b")
    return _each(stage.commit("a", "b"), stage.commit("b", "a"))


@_case("two births in each of two commits")
async def _births_by_both(stage: Stage) -> list[Batch]:
    return _each(stage.commit("a", "b"), stage.commit("b", "a"))


@_case("a batch of two against one")
async def _batch(stage: Stage) -> list[Batch]:
    await stage.create("a", "b")
    return [Batch([stage.commit("a"), stage.commit("b", reads="a")]), *_each(stage.commit("b"))]


@_case("one delivery, sent by both", smallest=True)
async def _delivery_twice(stage: Stage) -> list[Batch]:
    await stage.create("a")
    row = make.delivery(stage.name("a"))
    return _each(stage.commit("a", delivery=row), stage.commit("a", delivery=row))


@_case("one delivery to a job that is not there")
async def _delivery_to_stranger(stage: Stage) -> list[Batch]:
    row = make.delivery(stage.name("a"))
    return _each(stage.commit("a", delivery=row), Commit(delivery=row))


@_case("a read of two jobs while both are written", smallest=True)
async def _look(stage: Stage) -> list[Wish]:
    await stage.create("a", "b")
    return [*_each(stage.commit("a", "b")), Look((stage.job("a"), stage.job("b")))]


@_case("a read of two jobs while one after the other is written")
async def _look_twice(stage: Stage) -> list[Wish]:
    await stage.create("a")
    await stage.create("b")
    return [Batch([stage.commit("a"), stage.commit("b")]), Look((stage.job("a"), stage.job("b")))]


def _again(stage: Stage, *writes: str) -> Batch:
    """A batch that is planned anew on what the store finds under its lock."""
    value = stage._values = stage._values + 10

    def plan(read: Callable[[CID], StoredHead | None]) -> list[Commit]:
        return [make.commit({stage.name(w): read(stage.job(w)) for w in writes}, value=value)]

    return Batch(plan(lambda job: next(h for h in stage.last.values() if h and h.job == job)), plan)


@_case("two increments, planned again where needed", smallest=True)
async def _increments(stage: Stage) -> list[Batch]:
    await stage.create("a")
    return [_again(stage, "a"), _again(stage, "a")]


@_case("increments of two jobs in both orders, planned again")
async def _crossed_increments(stage: Stage) -> list[Batch]:
    await stage.create("a", "b")
    return [_again(stage, "a", "b"), _again(stage, "b")]


# --- claims, reaps, settles -----------------------------------------------------------------------


async def _held(stage: Stage, *others: str, until: int = 9) -> Claimed:
    """A job `a` with a task that the first worker holds, and other jobs."""
    worker = stage.worker()
    await stage.apply(Beat(worker, until))
    await stage.create("a", *others, tasks=[stage.task("a", tag=stage.tag)])
    return await stage.hold(worker)


def _settle(stage: Stage, held: Claimed) -> Commit:
    return stage.commit("a", settles=held.ref)


@_case("two claims of one task", smallest=True)
async def _two_claims(stage: Stage) -> list[Batch]:
    await stage.create("a", tasks=[stage.task("a", tag=stage.tag)])
    return _each(stage.claims(stage.worker()), stage.claims(stage.worker()))


@_case("a claim of a task that is cancelled")
async def _claim_cancel(stage: Stage) -> list[Batch]:
    await stage.create("a", tasks=[stage.task("a", tag=stage.tag)])
    cancel = stage.commit("a", closed=[(stage.job("a"), 0, False)])
    return _each(stage.claims(stage.worker()), cancel)


@_case("a settle against a reap", smallest=True)
async def _settle_reap(stage: Stage) -> list[Batch]:
    held = await _held(stage)
    return _each(_settle(stage, held), Reap(100))


@_case("a settle, a reap and a claim", 3)
async def _settle_reap_claim(stage: Stage) -> list[Batch]:
    held = await _held(stage)
    return _each(_settle(stage, held), Reap(100), stage.claims(stage.worker()))


@_case("a settle against a cancel")
async def _settle_cancel(stage: Stage) -> list[Batch]:
    held = await _held(stage)
    cancel = stage.commit("a", closed=[(stage.job("a"), 0, False)])
    return _each(_settle(stage, held), cancel)


@_case("one task settled twice")
async def _settle_twice(stage: Stage) -> list[Batch]:
    held = await _held(stage)
    return _each(_settle(stage, held), _settle(stage, held))


@_case("a settle against a disowning")
async def _settle_disown(stage: Stage) -> list[Batch]:
    held = await _held(stage)
    return _each(_settle(stage, held), Disown(held.ref.worker or 0, []))


@_case("a task given back, reaped and claimed", 3)
async def _defer_reap_claim(stage: Stage) -> list[Batch]:
    held = await _held(stage)
    return _each(Defer(held.ref, 3), Reap(100), stage.claims(stage.worker()))


@_case("a task parked on a job that moves")
async def _park_commit(stage: Stage) -> list[Batch]:
    held = await _held(stage, "b")
    park = Park(held.ref, ERROR, reads=[(stage.job("b"), stage.revision("b"))])
    return _each(park, stage.commit("b"))


@_case("a redrive against a dismissal")
async def _redrive_dismiss(stage: Stage) -> list[Batch]:
    held = await _held(stage)
    await stage.apply(Park(held.ref, ERROR))
    parked = held.ref._replace(worker=None)
    redrive = Redrive(held.ref.job, held.ref.n, held.ref.id, 4)
    return _each(redrive, stage.commit("a", settles=parked))


# --- waiting for a change -------------------------------------------------------------------------


@_case("a watch against the commit that moves what it has read", smallest=True)
async def _watch_commit(stage: Stage) -> list[Batch]:
    held = await _held(stage, "b")
    watch = Watch(held.ref, [(stage.job("b"), stage.revision("b"))], FAR)
    return _each(watch, stage.commit("b"))


@_case("a watch against the birth of what it has missed")
async def _watch_birth(stage: Stage) -> list[Batch]:
    held = await _held(stage)
    return _each(Watch(held.ref, [(stage.job("b"), None)], FAR), stage.commit("b"))


@_case("a watch of two jobs that both move", 3)
async def _watch_two(stage: Stage) -> list[Batch]:
    held = await _held(stage, "b")
    await stage.create("c")
    reads = [(stage.job(short), stage.revision(short)) for short in "bc"]
    return _each(Watch(held.ref, reads, FAR), stage.commit("b"), stage.commit("c"))


@_case("two wake-ups of one task")
async def _wake_twice(stage: Stage) -> list[Batch]:
    held = await _held(stage, "b")
    await stage.create("c")
    reads = [(stage.job(short), stage.revision(short)) for short in "bc"]
    await stage.apply(Watch(held.ref, reads, FAR))
    return _each(stage.commit("b"), stage.commit("c"))


@_case("a wake-up against a cancel that fails")
async def _wake_cancel(stage: Stage) -> list[Batch]:
    """The cancel holds the row for a while, and leaves it as it is: what it has read has moved."""
    held = await _held(stage, "b")
    await stage.create("c")
    await stage.apply(Watch(held.ref, [(stage.job("b"), stage.revision("b"))], FAR))
    await stage.apply(stage.commit("c"))
    cancel = stage.commit("a", reads="c", closed=[(stage.job("a"), 0, False)])
    return _each(stage.commit("b"), cancel)


@_case("a wake-up against a claim at the deadline")
async def _wake_claim(stage: Stage) -> list[Batch]:
    held = await _held(stage, "b")
    await stage.apply(Watch(held.ref, [(stage.job("b"), stage.revision("b"))], 4))
    return _each(stage.commit("b"), stage.claims(stage.worker()))


@_case("a watch against a reap")
async def _watch_reap(stage: Stage) -> list[Batch]:
    held = await _held(stage, "b")
    watch = Watch(held.ref, [(stage.job("b"), stage.revision("b"))], FAR)
    return _each(watch, Reap(100))


# --- timers ---------------------------------------------------------------------------------------


async def _timed(stage: Stage) -> Any:
    timer = make.timer(stage.name("a"), 0, due=3)
    await stage.create("a", timers=[timer])
    return timer


@_case("a timer fires and is withdrawn", smallest=True)
async def _fire_withdraw(stage: Stage) -> list[Batch]:
    timer = await _timed(stage)
    return _each(
        stage.commit("a", fires=timer), stage.commit("a", closed=[(stage.job("a"), 0, True)])
    )


@_case("a timer fires twice")
async def _fire_twice(stage: Stage) -> list[Batch]:
    timer = await _timed(stage)
    return _each(stage.commit("a", fires=timer), stage.commit("a", fires=timer))


# --- history that leaves --------------------------------------------------------------------------


async def _drops(stage: Stage, short: str) -> Drop:
    places = {logged.packed.cid: logged.place for logged in await _whole_log(stage.store)}
    cid = stage.packed[short].cid
    return Drop([(places[cid], cid)], ARCHIVE, [Finished(WORKFLOW, ["Counted"], 100)])


async def _whole_log(store: Store) -> list[Any]:
    return [row for kept in (False, True) for row in await store.log(limit=10**6, archived=kept)]


async def _finished(stage: Stage) -> Drop:
    """A job that may leave, and one that comes after it in the log."""
    await stage.create("a")
    await stage.create("z")
    return await _drops(stage, "a")


@_case("a job leaves and is written")
async def _drop_commit(stage: Stage) -> list[Batch]:
    drop = await _finished(stage)
    return _each(drop, stage.commit("a"))


@_case("a job comes back and is written")
async def _revive_commit(stage: Stage) -> list[Batch]:
    await stage.apply(await _finished(stage))
    return _each(Revive(stage.job("a"), stage.packed["a"]), stage.commit("a"))


@_case("a job comes back twice")
async def _revive_twice(stage: Stage) -> list[Batch]:
    await stage.apply(await _finished(stage))
    revive = Revive(stage.job("a"), stage.packed["a"])
    return _each(revive, revive)


@_case("a job leaves, comes back and is written", 3)
async def _drop_revive_commit(stage: Stage) -> list[Batch]:
    drop = await _finished(stage)
    revive = Revive(stage.job("a"), stage.packed["a"])
    return _each(drop, revive, stage.commit("a"))


# --- what came of it ------------------------------------------------------------------------------


async def observed(stage: Stage) -> Any:
    """All that can be seen of the stage, in words that are the same on every store."""
    store = stage.store
    seen: dict[str, Any] = {}
    for short in sorted(stage.names):
        job = stage.job(short)
        try:
            head = (await store.heads([job]))[job]
            chain = [packed.cid for packed in await store.revisions(job)]
            seen[short] = head and (head.seq, head.revision, chain)
            assert head is None or len(chain) in (1, head.seq), f"the chain of {short} is cut"
        except Archived as error:
            seen[short] = ("archived", error.revision)
        rows = [
            (row.n, row.timer, row.due, row.attempt, row.token, _who(stage, row.worker), row.parked)
            for row in await store.tasks(job=job)
        ]
        seen[f"{short} rows"] = sorted(rows)
        seen[f"{short} delivery"] = await store.delivery(job, b"d")
    return seen


def _who(stage: Stage, worker: int | None) -> int | None:
    return None if worker is None else stage.workers.index(worker)


def told(stage: Stage, results: Any) -> Any:
    """What a lane was told, in the same words."""
    if not isinstance(results, list):
        return tuple((job and (job.seq, job.revision)) for job in results.values())
    return tuple(_told(stage, result) for result in results)


def _told(stage: Stage, result: Result) -> Any:
    if isinstance(result, Done) and isinstance(result.value, list):
        claims = [(c.ref.n, c.attempt, c.ref.token) for c in result.value]
        return ("claimed", tuple(claims))
    if isinstance(result, Done) and isinstance(result.value, tuple):
        return ("done", tuple(result.value))
    return repr(result)


EMPTY = {Claim: ("claimed", ()), Reap: repr(Done(0)), Disown: repr(Done(0))}
"""What these are told where others hold all that they look for: they skip it, and ask again."""

__all__ = ["CASES", "EMPTY", "KIND", "Case", "Look", "Stage", "Wish", "observed", "told"]
