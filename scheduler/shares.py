"""Limits that hold over all workers of a store: pools of slots and tokens, shared by grants.

    Limits(shared=[
        Shared("bucket", slots=10, of=by_need("bucket")),      # calls at once, to each bucket
        Shared("tenant", rate=500, of=by_tenant),              # starts per second, of each tenant
    ])

A pool is a cell. A worker asks it for a batch of slots or tokens and then uses them without asking
again; so a task costs no commit of its own. What is granted never adds up to more than the limit:
that is the invariant of the two pure functions here, which run inside the cell's transactions.

A grant of slots is a lease, renewed while it is in use. No task starts on one that ends before the
task's longest attempt does, so when a dead worker's slots are granted anew its calls have ended. A
grant of tokens is good for one second.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import anyio

from stmflow.cell import CELL
from stmflow.clock import Clock
from stmflow.errors import Indeterminate, StmflowError
from stmflow.placement import needs_of, plain
from stmflow.schema import thaw
from stmflow.store import Kind
from stmflow.transaction import Tx
from stmflow.transactor import Transactor

MARGIN_MS: Final = 1_000
"""By so much clocks may differ, and a cancelled attempt may end late."""
LEASE_MIN_MS: Final = 5_000
TOKENS_MS: Final = 1_000
"""How long granted tokens are good for. So in any T seconds at most rate * (T + 2) tasks start."""
ASK_MS: Final = 100
"""Between two questions to one pool, at least."""
STARVED_MS: Final = 500
"""Between two questions to a pool that had nothing to give."""
IDLE_MS: Final = 1_000
"""Slots that nobody has missed for so long go back."""
_TOKEN: Final = 10**6

Of = Callable[[Kind, str], str | None]
"""(kind, as the outbox states it; tenant) → the pool that a task draws from; None: from none."""


def everybody(kind: Kind, tenant: str) -> str | None:
    """One pool for all."""
    return ""


def by_tenant(kind: Kind, tenant: str) -> str | None:
    """A pool for each tenant."""
    return tenant


def by_need(name: str) -> Of:
    """A pool for each text that placed tasks need a label to be; other tasks draw from none."""

    @lru_cache(maxsize=4_096)
    def stated(tag: str) -> str | None:
        need = needs_of(tag).get(name)
        return need if isinstance(need, str) else None

    def of(kind: Kind, tenant: str) -> str | None:
        return stated(kind[2])

    return of


@dataclass(frozen=True, slots=True)
class Shared:
    """A limit over all workers that state it. Where they state different ones, the least holds.

    Attributes:
        name: stable; part of the cells' keys.
        slots: tasks at once. rate: starts per second. One of the two.
        types: task tags that it is for; none: for all.
        of: which of its pools a task draws from.

    Raises:
        ValueError: both of slots and rate or neither, or a number that nothing could run under.
    """

    name: str
    slots: int | None = field(default=None, kw_only=True)
    rate: float | None = field(default=None, kw_only=True)
    types: Collection[str] = field(default=(), kw_only=True)
    of: Of = field(default=everybody, kw_only=True)

    def __post_init__(self) -> None:
        given = [number for number in (self.slots, self.rate) if number is not None]
        if len(given) != 1 or not 0 < given[0] < 2**31 or (self.slots or 1) != int(self.slots or 1):
            raise ValueError(f"shared {self.name:.80}: slots, or a rate; above 0")

    def pool(self, kind: Kind, tenant: str) -> str | None:
        """The pool that such a task draws from."""
        if self.types and plain(kind[2]) not in self.types:
            return None
        return self.of(kind, tenant)


# --- what a pool grants: pure ---------------------------------------------------------------------


def grant_slots(
    state: Mapping[str, Any], now: int, worker: str, *, limit: int, want: int, using: int,
    lease_ms: int,
) -> tuple[dict[str, Any], int]:  # fmt: skip
    """The pool afterwards, and how many slots the worker now holds, for `lease_ms` from `now`.

    It keeps what it is using, if its lease still holds, and else gets its fair share of what is
    free. What all hold never adds up to more than the limit, unless the limit was lowered: then
    nothing is taken away that is in use, and nothing granted before there is room.
    """
    live = {who: held for who, held in state.get("held", {}).items() if held["until"] > now}
    mine = live.pop(worker, {"slots": 0})["slots"]
    using = min(using, mine)
    limit = min([limit, *(other["limit"] for other in live.values())])
    wants = {who: max(other["want"], other["slots"]) for who, other in live.items()}
    free = limit - sum(other["slots"] for other in live.values())
    slots = max(using, min(want, fair(limit, wants | {worker: want}, worker), free), 0)
    if want or slots:
        asked = {"slots": slots, "want": want, "limit": limit, "until": now + lease_ms}
        live[worker] = asked
    return {"held": live}, slots


def grant_tokens(
    state: Mapping[str, Any], now: int, worker: str, *, rate: float, want: int
) -> tuple[dict[str, Any], int]:
    """The bucket afterwards, and how many tokens the worker got, to be used within `TOKENS_MS`.

    The bucket holds a second's worth, and at least one token. Whoever asks shares it fairly with
    those who asked within the last second.
    """
    asked = {who: one for who, one in state.get("asked", {}).items() if one["until"] > now}
    asked.pop(worker, None)
    rate = min([rate, *(one["rate"] / _TOKEN for one in asked.values())])
    brim = int(max(1.0, rate) * _TOKEN)
    tokens = brim
    if "at" in state:
        tokens = min(brim, state["tokens"] + int((now - state["at"]) * rate * (_TOKEN // 1_000)))
    wants = {who: one["want"] for who, one in asked.items()} | {worker: want}
    got = max(0, min(want, tokens // _TOKEN, max(1, fair(brim // _TOKEN, wants, worker))))
    asked[worker] = {"want": want, "rate": int(rate * _TOKEN), "until": now + TOKENS_MS}
    return {"at": now, "tokens": tokens - got * _TOKEN, "asked": asked}, got


def fair(limit: int, wants: Mapping[str, int], who: str) -> int:
    """One's max-min fair share: nobody gets more while somebody who wants it has less."""
    left = limit
    waiting = sorted(wants, key=lambda each: (wants[each], each))
    for n, each in enumerate(waiting):
        share = min(wants[each], left // (len(waiting) - n))
        if each == who:
            return share
        left -= share
    raise AssertionError(who)


# --- what one worker holds ------------------------------------------------------------------------


class Pool:
    """What this worker holds of one pool."""

    __slots__ = (
        "asked", "asking", "free_until", "held", "job", "lease_ms", "missed", "name", "shared",
        "starved", "until", "used",
    )  # fmt: skip

    def __init__(self, shared: Shared, name: str, attempt_ms: int) -> None:
        self.shared = shared
        self.name = name
        self.job = CELL.job("stmflow", "limit", shared.name, name)
        self.lease_ms = max(3 * attempt_ms + MARGIN_MS, LEASE_MIN_MS)
        self.free_until = attempt_ms + MARGIN_MS if shared.slots is not None else 0
        self.held = 0
        self.used = 0
        self.until = 0
        self.asked: int | None = None
        self.asking = False
        self.missed: int | None = None
        self.starved = False

    def room(self, now: int) -> int:
        """How many tasks may start now. None left: that is noted as missed."""
        usable = now + self.free_until <= self.until
        if self.asking:
            return 0  # what comes of it will wake us
        room = max(self.held - self.used * (self.shared.rate is None), 0) if usable else 0
        if not room:
            self.missed = now
        return room

    def take(self) -> None:
        """One starts: it uses a slot, or uses a token up."""
        if self.shared.rate is None:
            self.used += 1
        else:
            self.held -= 1

    def give(self, *, unused: bool) -> None:
        """One has ended, or has not begun: then its token was not used up."""
        if self.shared.rate is None:
            self.used -= 1
        elif unused and not self.asking:
            self.held += 1

    def ends(self, end: int) -> int:
        """When an attempt that should end then has to, so that it ends within the lease."""
        return end if self.shared.rate is not None else min(end, self.until - MARGIN_MS)

    def wants(self, now: int) -> bool:
        """Whether somebody would have started here not long ago."""
        return self.missed is not None and now - self.missed < IDLE_MS

    def next(self, now: int) -> int | None:
        """When the pool is to be asked; None: it need not be."""
        known = (self.asked, self.missed)  # at times that are to come, where the clock was set back
        self.asked, self.missed = (None if at is None else min(at, now) for at in known)
        since = -STARVED_MS if self.asked is None else self.asked
        if self.missed is not None and (self.asked is None or self.missed >= self.asked):
            return since + (STARVED_MS if self.starved else ASK_MS)
        if self.shared.rate is not None:
            return None
        if self.held > self.used and not self.wants(now):
            return since + IDLE_MS
        return since + self.lease_ms // 3 if self.held else None


class Shares:
    """The pools that this worker draws from.

    Args:
        limits: what is shared. attempt_ms: task tag → the longest attempt at such a task.
        slots: how many tasks this worker can run at once; no grant is larger.
    """

    def __init__(
        self, limits: Sequence[Shared], attempt_ms: Mapping[str, int], *, slots: int, clock: Clock
    ) -> None:
        self._limits = limits
        self._attempts = attempt_ms
        self._slots = slots
        self._clock = clock
        self._pools: dict[tuple[str, str], Pool] = {}
        self._missed = anyio.Event()
        self._left = False

    def room(self, kind: Kind, tenant: str, now: int) -> int:
        """How many such tasks may start now, as far as pools go."""
        rooms = [pool.room(now) for pool in self._of(kind, tenant)]
        if 0 in rooms:
            self._missed.set()
        return min(rooms, default=self._slots)

    def take(self, kind: Kind, tenant: str, now: int) -> tuple[Pool, ...] | None:
        """Start one: the pools that it draws from, to be given back to; None: there is no room."""
        if not self._limits:
            return ()
        if self.room(kind, tenant, now) < 1:
            return None
        pools = tuple(self._of(kind, tenant))
        for pool in pools:
            pool.take()
        return pools

    def _of(self, kind: Kind, tenant: str) -> Iterable[Pool]:
        for shared in self._limits:
            name = shared.pool(kind, tenant)
            if name is None:
                continue
            pool = self._pools.get((shared.name, name))
            if pool is None:
                tags = shared.types or self._attempts
                longest = max((self._attempts[tag] for tag in tags if tag in self._attempts),
                              default=0)  # fmt: skip
                pool = self._pools[(shared.name, name)] = Pool(shared, name, longest)
            yield pool

    # --- asking

    async def run(self, transactor: Transactor, worker: int, granted: Callable[[], None]) -> None:
        """Ask for what is missed, renew what is held and give back what is not; until cancelled."""
        while not self._left:
            self._missed = anyio.Event()
            now = self._clock.now()
            due = {pool: at for pool in self._pools.values() if (at := pool.next(now)) is not None}
            for pool in [pool for pool, at in due.items() if at <= now]:
                if await self._ask(transactor, str(worker), pool):
                    granted()
            self._forget()
            now = self._clock.now()
            waits = [at for pool in self._pools.values() if (at := pool.next(now)) is not None]
            nap_ms = max(min(waits, default=now + 60_000) - now, 1)
            with anyio.move_on_after(nap_ms / 1_000):
                await self._missed.wait()
                await self._clock.sleep_until(min([now + ASK_MS, *waits]))

    async def leave(self, transactor: Transactor, worker: int) -> None:
        """Give back what is held and not in use."""
        self._left = True
        for pool in self._pools.values():
            if pool.asked is not None and pool.shared.rate is None:
                pool.missed = None
                await self._ask(transactor, str(worker), pool)

    async def _ask(self, transactor: Transactor, worker: str, pool: Pool) -> bool:
        """One question to one pool; whether there is room now."""
        now = self._clock.now()
        want = self._slots if pool.wants(now) else pool.used
        using, shared = pool.used, pool.shared

        def body(tx: Tx) -> list[int]:
            cell = tx.read(pool.job)
            state = {} if cell is None else thaw(cell.value)
            if shared.slots is not None:
                after, held = grant_slots(
                    state, tx.at, worker,
                    limit=shared.slots, want=want, using=using, lease_ms=pool.lease_ms,
                )  # fmt: skip
            else:
                after, held = grant_tokens(state, tx.at, worker, rate=shared.rate or 0, want=want)
            tx.write(pool.job, after)
            return [held, tx.at]

        pool.asked, pool.asking = now, True  # meanwhile nothing starts: what is used is as stated
        try:
            held, at = await transactor.transact(body, reads=[pool.job])
        except Indeterminate:
            pool.held = min(pool.held, using)  # in either case we have so much
            return False
        except StmflowError:
            return False
        finally:
            pool.asking = False
        pool.held = held
        pool.until = at + (pool.lease_ms if shared.rate is None else TOKENS_MS)
        pool.starved = pool.wants(now) and not pool.room(now)
        return not pool.starved

    def _forget(self) -> None:
        """Pools that nothing is held of, and nobody misses."""
        now = self._clock.now()
        for place, pool in list(self._pools.items()):
            if not pool.used and pool.next(now) is None and not pool.wants(now):
                del self._pools[place]
