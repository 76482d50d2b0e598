"""Updates that commute, laid out so that they do not conflict.

Compare-and-swap makes two writers of one job conflict, whatever they write. Inside one process the
committer folds them into one batch; between processes one of them has to do it again. Updates whose
order does not matter need not meet at all: a `Counter` is a few cells of which each process adds to
its own, a `Group` is a cell for each member. Both are plain jobs: recorded, replayed and verified
like all others, and read within transactions. (Sharded counters, and sets as one row a member, are
the usual forms of this in storage that has only compare-and-swap.)

    uploads = Counter("uploads", space)
    await db.transact(lambda tx: uploads.add(tx, 1))
    total = await db.transact(uploads.value)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stmflow import codec
from stmflow.cell import CELL
from stmflow.errors import InvalidWorkflow
from stmflow.limits import LIMITS
from stmflow.store import Store, StoredHead
from stmflow.transaction import Tx
from stmflow.workflow import Job


@dataclass(frozen=True, slots=True, init=False)
class Counter:
    """A number that many processes add to without conflicts.

    Args:
        key: names it; parts of a job's key.
        shards: over how many cells it is spread, for ever. More than there are processes, so that
            few share one; `value` reads all of them.
    """

    key: tuple[Any, ...]
    shards: int

    def __init__(self, *key: Any, shards: int = 64) -> None:
        if not 1 <= shards <= LIMITS.jobs_per_transaction // 2:
            raise InvalidWorkflow(f"a counter has 1 to {LIMITS.jobs_per_transaction // 2} shards")
        object.__setattr__(self, "key", key)
        object.__setattr__(self, "shards", shards)

    def add(self, tx: Tx, amount: int) -> None:
        """Add to it. Two processes that do so conflict only where they share a shard."""
        cell = self.shard(tx.process % self.shards)
        tx.write(cell, _value(tx, cell, 0) + amount)

    def value(self, tx: Tx) -> int:
        """What has been added, as of this transaction, which then conflicts with every addition."""
        return sum(_value(tx, self.shard(n), 0) for n in range(self.shards))

    def shard(self, n: int) -> Job:
        """One of its cells."""
        return CELL.job("counter", self.shards, *self.key, n)


@dataclass(frozen=True, slots=True, init=False)
class Group:
    """A set that many processes change without conflicts, but of the same member.

    Args:
        key: names it; parts of a job's key.
    """

    key: tuple[Any, ...]

    def __init__(self, *key: Any) -> None:
        object.__setattr__(self, "key", key)

    def add(self, tx: Tx, member: Any) -> bool:
        """Put it in; whether it was not there. If it was, nothing is written."""
        return self._set(tx, member, there=True)

    def discard(self, tx: Tx, member: Any) -> bool:
        """Take it out; whether it was there."""
        return self._set(tx, member, there=False)

    def has(self, tx: Tx, member: Any) -> bool:
        """Whether it is in, as of this transaction."""
        return bool(_value(tx, self.cell(member), False))

    async def page(self, store: Store, *, after: Any = None, limit: int = 1_000) -> Sequence[Any]:
        """Members in the store now, in the order of their encoded keys, from the one after `after`.

        Not a part of any transaction: it says what is in, and holds nobody up.
        """
        start = None if after is None else self.cell(after).id
        found: list[Any] = []
        while len(found) < limit:
            rows = await store.under(CELL.name, *self._prefix, after=start, limit=limit)
            heads = await store.heads([row.job for row in rows])
            found += [row.key[-1] for row in rows if _holds(heads[row.job])]
            if len(rows) < limit:
                break
            start = rows[-1].job
        return found[:limit]

    def cell(self, member: Any) -> Job:
        """The cell of that member."""
        return CELL.job(*self._prefix, member)

    @property
    def _prefix(self) -> tuple[Any, ...]:
        return "group", len(self.key), *self.key

    def _set(self, tx: Tx, member: Any, *, there: bool) -> bool:
        if self.has(tx, member) is there:
            return False
        tx.write(self.cell(member), there)
        return True


def _holds(head: StoredHead | None) -> bool:
    return head is not None and bool(codec.decode(head.state)["f"]["value"])


def _value(tx: Tx, cell: Job, default: Any) -> Any:
    held = tx.read(cell)
    return default if held is None else held.value


__all__ = ["Counter", "Group"]
