"""What must be true when everybody has come to rest, and whether it is.

The ledgers say what was asked and answered; everything else about an operation is drawn anew from
its number. So the last states can be computed, and are compared with those in the store.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from time import monotonic
from typing import Any, Final

import anyio
import anyio.to_thread

from examples.store_add.workflow import STORE_ADD
from scheduler.handlers.allocate import QUOTA
from scheduler.handlers.archive import FolderShelf
from scheduler.handlers.s3 import object_key
from stmflow import CID, Job, Transactor, history
from stmflow.archive import Reader, whole
from stmflow.errors import Archived
from stmflow.history.segment import before
from stmflow.store import JobRow, Store
from tests.soak.load import ORDERS, SPACES, Call, Order, Transfer, Upload, account, operation
from tests.soak.records import Tail
from tests.soak.service import (
    ACCOUNTS,
    CALLS,
    OPENING,
    ORDER,
    RESTING,
    SHELVES,
    TRAYS,
    TREASURE,
    TREASURY,
    WORKFLOWS,
    Sum,
    shelf,
    tray,
)
from tests.soak.settings import Settings

ANSWERS: Final = ("placed", "Busy", "Done", "Insufficient", "called", "uploaded")
PACKED: Final = 128
VERIFIED: Final = 20_000
"""So many chains are verified at most."""
LONG: Final = 20_000
"""Chains of more revisions are left out: a hot account has hundreds of thousands."""
TOGETHER: Final = 64
"""Jobs whose states are read at once."""
AT_REST: Final = ("stored", "idle", "exceeded", "expired", "failed")


@dataclass(slots=True)
class Expected:
    """What the ledgers lead to."""

    answers: Counter[str] = field(default_factory=Counter)
    placed: dict[int, Sum] = field(default_factory=lambda: defaultdict(Sum))
    unpacked: dict[int, Sum] = field(default_factory=lambda: defaultdict(Sum))
    balances: dict[int, int] = field(default_factory=lambda: dict.fromkeys(range(ACCOUNTS), 0))
    packed: int = 0
    again: int = 0
    torn: int = 0
    wrong: list[str] = field(default_factory=list)


def expected(settings: Settings, performed: Tail) -> Expected:
    """Read all ledgers, and what the workers have noted, from the beginning."""
    found, marks = Expected(), bytearray()
    for client in range(settings.clients):
        ledger = Tail(settings.ledger(client))
        for record in ledger.fresh():
            if record[0] in "+~=":
                continue
            number, answer, _ = record.split()
            _answered(settings, found, marks, int(number), answer)
        found.torn += ledger.torn
    for record in performed.fresh():
        packed = int(record)
        _grow(marks, packed)
        found.packed += 1
        found.again += bool(marks[packed] & PACKED)
        marks[packed] |= PACKED
    found.torn += performed.torn
    placed = ANSWERS.index("placed") + 1
    for count, mark in enumerate(marks):
        if mark == placed:  # and not packed
            order = operation(settings, count)
            assert isinstance(order, Order)
            name = order.place.order
            found.unpacked[name] = found.unpacked[name].plus(count)
    return found


def _grow(marks: bytearray, number: int) -> None:
    if number >= len(marks):
        marks.extend(bytes(number + 65_536 - len(marks)))


def _answered(
    settings: Settings, found: Expected, marks: bytearray, number: int, answer: str
) -> None:
    _grow(marks, number)
    if answer not in ANSWERS:
        found.wrong.append(f"operation {number} was answered {answer}")
        return
    code = ANSWERS.index(answer) + 1
    if marks[number]:
        if marks[number] != code:
            first = ANSWERS[marks[number] - 1]
            found.wrong.append(f"operation {number} was answered {first}, later {answer}")
        return
    marks[number] = code
    found.answers[answer] += 1
    match operation(settings, number), answer:
        case Order(place), "placed":
            found.placed[place.order] = found.placed[place.order].plus(number)
        case Transfer(source, target, amount), "Done":
            found.balances[source] -= amount
            found.balances[target] += amount
        case (Order(), "Busy") | (Transfer(), "Insufficient"):
            pass
        case (Call(), "called") | (Upload(), "uploaded"):
            pass
        case asked, _:
            found.wrong.append(f"operation {number}, {asked}, was answered {answer}")


class Judge:
    """Looks into the store; what is wrong is in `wrong`, what was counted in `facts`."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        transactor: Transactor,
        objects: Callable[[], set[str]],
    ) -> None:
        self._settings = settings
        self._store = store
        self._transactor = transactor
        self._objects = objects
        self._archive = Reader(store, FolderShelf(settings.archive))
        self.wrong: list[str] = []
        self.facts: dict[str, float] = {}

    async def rest(self, seconds: float) -> None:
        """Wait until nothing is left to be done, but by a person."""
        began = monotonic()
        while rows := [row for row in await self._store.tasks() if not row.parked]:
            if monotonic() - began > seconds:
                some = [f"{row.workflow} {row.tag} due {row.due}" for row in rows[:5]]
                self.wrong.append(f"{len(rows)} tasks are left after {seconds:.0f} s: {some}")
                break
            await anyio.sleep(0.5)
        parked = await self._store.tasks(parked=True)
        self.wrong += [f"parked: {row.tag} {row.error!r}" for row in parked[:5]]
        self.facts["seconds to rest"] = round(monotonic() - began, 1)

    async def judge(self, expected: Expected) -> None:
        """Everything but the chains."""
        self.wrong += expected.wrong
        await self._orders(expected)
        await self._bank(expected)
        await self._calls()
        if self._settings.bucket is not None:
            await self._uploads()

    async def _states(self, jobs: Sequence[Job]) -> dict[Job, Any]:
        """The states of these jobs; those that have left are brought back."""
        found: dict[Job, Any] = {}
        for at in range(0, len(jobs), TOGETHER):
            some = jobs[at : at + TOGETHER]
            while not found.keys() >= set(some):
                try:
                    found |= await self._transactor.snapshot(some)
                except Archived as error:
                    await self._archive.revive(error.job)
        return found

    async def _orders(self, expected: Expected) -> None:
        kept: Counter[str] = Counter()
        ends: Counter[str] = Counter()
        states = await self._states([ORDER.job(name) for name in range(2 * ORDERS)])
        for name in range(2 * ORDERS):
            order = states[ORDER.job(name)]
            asked, unpacked = expected.placed.get(name, Sum()), expected.unpacked.get(name, Sum())
            if order is None:
                self._must(asked == Sum(), f"order {name} is not there; the ledgers say {asked}")
                continue
            self._must(order.status in RESTING, f"order {name} is {order.status}")
            self._must(order.asked == asked, f"order {name}: {order.asked}, not {asked}")
            self._must(order.full == unpacked, f"order {name} full: {order.full}, not {unpacked}")
            parts = [order.packed, order.full, order.broken]
            settled = Sum(sum(one.count for one in parts), sum(one.total for one in parts))
            self._must(settled == asked, f"order {name} settled {settled} of {asked}")
            kept[shelf(name)] += order.placed.size if order.status == "kept" else 0
            ends["packed"] += order.packed.count
            ends["full"] += order.full.count
            ends["broken"] += order.broken.count
        self.facts |= {f"orders {name}": count for name, count in ends.items()}
        for number in range(SHELVES):
            await self._quota(shelf(number), kept[shelf(number)])

    async def _quota(self, space: str, size: int) -> None:
        quota = await self._transactor.get(QUOTA.job(space))
        used = 0 if quota is None else quota.state.used
        self._must(used == size, f"{space} is charged {used}; its jobs hold {size}")

    async def _bank(self, expected: Expected) -> None:
        jobs = [*map(account, range(ACCOUNTS)), *map(tray, range(TRAYS)), TREASURY]
        states = await self._transactor.snapshot(jobs)
        total = sum(state.balance for state in states.values())
        brought = ACCOUNTS * OPENING + TREASURE
        self._must(total == brought, f"the balances add up to {total}, not {brought}")
        for number in range(ACCOUNTS):
            balance, right = states[account(number)].balance, OPENING + expected.balances[number]
            self._must(balance == right, f"account {number} holds {balance}, not {right}")
        for number in range(TRAYS):
            balance = states[tray(number)].balance
            self._must(balance == 0, f"tray {number} holds {balance}: a call fetched twice or not")

    async def _calls(self) -> None:
        for tag in ("waiting", "failed"):
            rows = await self._store.jobs(workflow=CALLS.name, tag=tag, limit=10)
            self._must(not rows, f"calls are {tag}: {[row.key for row in rows]}")

    async def _uploads(self) -> None:
        """Charged are the stored jobs, and there are the bytes of these, no more and no less."""
        charged: Counter[str] = Counter()
        links: set[str] = set()
        ends: Counter[str] = Counter()
        async for row in self._rows(STORE_ADD.name):
            ends[row.tag] += 1
            self._must(row.tag in AT_REST, f"store/add of {row.key} is {row.tag}")
            if row.tag == "stored":
                head = await self._transactor.get(row.job)
                assert head is not None
                upload = head.state.upload
                charged[upload.space] += upload.size
                links.add(object_key(upload.link))
        for number in range(SPACES):
            await self._quota(f"space {number}", charged[f"space {number}"])
        there = await anyio.to_thread.run_sync(self._objects)
        self._must(not links - there, f"objects are missing: {sorted(links - there)[:5]}")
        self._must(not there - links, f"nobody's objects: {sorted(there - links)[:5]}")
        self.facts |= {f"uploads {tag}": count for tag, count in ends.items()}
        self.facts["objects"] = len(there)

    async def _rows(self, workflow: str | None = None) -> AsyncIterator[JobRow]:
        after = None
        while rows := await self._store.jobs(workflow=workflow, after=after):
            for row in rows:
                yield row
            after = rows[-1].job

    async def chains(self, seconds: float) -> None:
        """Verify the jobs' chains, those in the archive too, in an order that is drawn, for so long
        at most."""
        began = monotonic()
        jobs = [row.job async for row in self._rows()]
        Random(self._settings.seed).shuffle(jobs)
        both = whole(self._store, FolderShelf(self._settings.archive))
        verified = revisions = long = 0
        for job in jobs[:VERIFIED]:
            if monotonic() - began > seconds:
                break
            found = await self._verify(both, job)
            long += found is None
            verified += found is not None
            revisions += found or 0
        self.facts |= {
            "jobs": len(jobs),
            "chains verified": verified,
            "revisions verified": revisions,
            "chains too long to verify": long,
        }

    async def _verify(self, both: Store, job: CID) -> int | None:
        """How many revisions it has; None: too many."""
        head = (await both.heads([job]))[job]
        assert head is not None
        if head.seq > LONG:
            return None
        packs = await both.revisions(job)
        if before(packs[-1], job) is not None:
            self.wrong.append(f"the chain of {job} does not go back to its beginning")
        report = history.verify(
            job,
            head.revision,
            history.blocks_of(packs).get,
            workflows=WORKFLOWS,
            stored=head if head.open else None,  # of an archived job they are not known
            rows=await both.tasks(job=job),
        )
        self.wrong += [f"{job}: {finding}" for finding in report.findings[:3]]
        return len(packs)

    def _must(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.wrong.append(otherwise)
