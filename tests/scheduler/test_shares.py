"""Limits over all workers: never oversubscribed, fairly shared, and given back by the dead."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from random import Random
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler import Limits, Policy, Scheduler, Shared, by_need, by_tenant
from scheduler.shares import (
    ASK_MS,
    MARGIN_MS,
    TOKENS_MS,
    Pool,
    Shares,
    fair,
    grant_slots,
    grant_tokens,
)
from stmflow.cell import CELL
from stmflow.errors import Indeterminate, InvalidWorkflow, Unavailable
from stmflow.store.memory import MemoryStore
from stmflow.transactor import Transactor
from tests.scheduler.test_scheduler import KIND, WORK, Ask, Handler, Stat, until, working

LEASE = 1_000
workers = st.sampled_from("abcd")


class Clock:
    """Time as the test sets it; sleeping is real, so keep it short."""

    def __init__(self) -> None:
        self.at = 1_000_000

    def now(self) -> int:
        return self.at

    async def sleep_until(self, at_ms: int) -> None:
        await anyio.sleep(0.001)


# --- slots ----------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(workers, st.integers(0, 9), st.integers(0, 9), st.integers(0, 600)), max_size=40
    ),
    st.integers(1, 9),
)
def test_what_living_leases_hold_never_adds_up_to_more_than_the_limit(
    asks: list[tuple[str, int, int, int]], limit: int
) -> None:
    """N2. A worker uses what it likes of what it holds, dies at will, and asks late."""
    state: dict[str, Any] = {}
    now = 0
    held: dict[str, tuple[int, int]] = {}
    for worker, want, using, later in asks:
        now += later
        slots, end = held.get(worker, (0, 0))
        using = min(using, slots) if end > now else 0
        state, got = grant_slots(
            state, now, worker, limit=limit, want=want, using=using, lease_ms=LEASE
        )
        assert got >= using
        held[worker] = (got, now + LEASE)
        assert sum(slots for slots, end in held.values() if end > now) <= limit


def test_slots_are_shared_fairly_once_everybody_has_asked_twice() -> None:
    state: dict[str, Any] = {}
    held = {}
    for _ in range(2):
        for worker in ("a", "b", "c"):
            state, held[worker] = grant_slots(
                state, 0, worker, limit=10, want=20, using=0, lease_ms=LEASE
            )
    assert sorted(held.values()) == [3, 3, 4]
    state, _ = grant_slots(state, 0, "c", limit=10, want=1, using=0, lease_ms=LEASE)
    assert grant_slots(state, 0, "b", limit=10, want=20, using=0, lease_ms=LEASE)[1] == 5


def test_slots_of_the_dead_come_back_when_their_lease_ends() -> None:
    state, got = grant_slots({}, 0, "dead", limit=3, want=3, using=0, lease_ms=LEASE)
    assert got == 3
    ask = {"limit": 3, "want": 3, "using": 0, "lease_ms": LEASE}
    assert grant_slots(state, LEASE - 1, "b", **ask)[1] == 0
    assert grant_slots(state, LEASE, "b", **ask)[1] == 3
    after, _ = grant_slots(state, LEASE, "b", **ask)
    assert set(after["held"]) == {"b"}
    gone, _ = grant_slots(after, LEASE, "b", limit=3, want=0, using=0, lease_ms=LEASE)
    assert gone == {"held": {}}


def test_a_lowered_limit_takes_nothing_away_that_is_in_use_and_grants_nothing_before() -> None:
    state, _ = grant_slots({}, 0, "a", limit=6, want=6, using=0, lease_ms=LEASE)
    state, got = grant_slots(state, 0, "b", limit=2, want=5, using=0, lease_ms=LEASE)
    assert got == 0
    state, got = grant_slots(state, 0, "a", limit=6, want=6, using=4, lease_ms=LEASE)
    assert got == 4
    state, got = grant_slots(state, 0, "a", limit=6, want=6, using=1, lease_ms=LEASE)
    assert got == 1


@given(st.dictionaries(workers, st.integers(0, 20), min_size=1), st.integers(0, 30))
def test_a_fair_share_is_no_more_than_wanted_and_nobody_with_less_wants_more(
    wants: dict[str, int], limit: int
) -> None:
    shares = {who: fair(limit, wants, who) for who in wants}
    assert all(shares[who] <= wants[who] for who in wants)
    assert sum(shares.values()) == min(limit, sum(wants.values()))
    for low in wants:
        if shares[low] < wants[low]:
            assert all(shares[low] >= share - 1 for share in shares.values())


# --- tokens ---------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(workers, st.integers(0, 50), st.integers(0, 1_500)), max_size=40),
    st.sampled_from([0.5, 1, 7, 20]),
)
def test_no_more_tokens_are_granted_than_time_has_brought(
    asks: list[tuple[str, int, int]], rate: float
) -> None:
    state: dict[str, Any] = {}
    now = 0
    grants: list[tuple[int, int]] = []
    for worker, want, later in asks:
        now += later
        state, got = grant_tokens(state, now, worker, rate=rate, want=want)
        assert 0 <= got <= want
        grants.append((now, got))
        for start, _ in grants:
            within = sum(count for at, count in grants if at >= start)
            assert within <= max(1.0, rate) + rate * (now - start) / 1_000


def test_a_slow_rate_gathers_though_it_is_often_asked() -> None:
    state, got = grant_tokens({}, 0, "a", rate=0.5, want=1)
    assert got == 1
    found = 0
    for now in range(1, 4_001):
        state, got = grant_tokens(state, now, "a", rate=0.5, want=1)
        found += got
    assert found == 2


def test_those_who_ask_share_a_burst() -> None:
    state: dict[str, Any] = {}
    for worker in "ab":
        state, _ = grant_tokens(state, 0, worker, rate=100, want=0)
    state, first = grant_tokens(state, 0, "a", rate=100, want=100)
    state, second = grant_tokens(state, 0, "b", rate=100, want=100)
    assert (first, second) == (100, 0)  # b wanted none when a asked
    state, first = grant_tokens(state, 900, "a", rate=100, want=100)
    state, second = grant_tokens(state, 900, "b", rate=100, want=100)
    assert (first, second) == (50, 40)


# --- what one worker does with it -----------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [{}, {"slots": 1, "rate": 1.0}, {"slots": 0}, {"rate": 0}, {"rate": float("nan")},
     {"slots": -1}, {"rate": float("inf")}, {"slots": 1.5}],
)  # fmt: skip
def test_a_shared_limit_that_makes_no_sense_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="shared x"):
        Shared("x", **given)


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_a_shared_limit_lies_between_one_and_two_to_the_31(off: int) -> None:
    for stated, fits in (
        ({"slots": 1 + off}, off >= 0),
        ({"slots": 2**31 - 1 + off}, off <= 0),
        ({"rate": float(2**31 - 1 + off)}, off <= 0),
    ):
        if fits:
            Shared("x", **stated)  # type: ignore[arg-type]
        else:
            with pytest.raises(ValueError, match="shared x"):
                Shared("x", **stated)  # type: ignore[arg-type]


async def test_a_shared_limit_for_a_type_that_nobody_knows_is_refused() -> None:
    async with Transactor(MemoryStore(), [WORK]) as transactor:
        limits = Limits(shared=[Shared("x", slots=1, types=("Fetch",))])
        with pytest.raises(InvalidWorkflow, match="Fetch"):
            Scheduler(transactor, {Stat: Handler()}, limits=limits)


def test_pools_are_told_apart_by_type_tenant_and_need() -> None:
    placed = ("w", 1, 'Stat {"bucket":"b","disk":["x","y"]}')
    assert Shared("x", slots=1).pool(placed, "t") == ""
    assert Shared("x", slots=1, types=("Stat",)).pool(placed, "t") == ""
    assert Shared("x", slots=1, types=("Sign",)).pool(placed, "t") is None
    assert Shared("x", slots=1, of=by_tenant).pool(placed, "t") == "t"
    assert Shared("x", slots=1, of=by_need("bucket")).pool(placed, "t") == "b"
    assert Shared("x", slots=1, of=by_need("disk")).pool(placed, "t") is None
    assert Shared("x", slots=1, of=by_need("bucket")).pool(KIND, "t") is None


@pytest.mark.parametrize(("left", "room"), [(-1, 0), (0, 2), (1, 2)])
def test_nothing_starts_on_a_lease_that_ends_before_its_longest_attempt(
    left: int, room: int
) -> None:
    pool = Pool(Shared("x", slots=2), "", attempt_ms=500)
    pool.held, pool.until = 2, 10_000
    assert pool.room(10_000 - 500 - MARGIN_MS - left) == room


def test_tokens_are_good_for_as_long_as_they_are() -> None:
    pool = Pool(Shared("x", rate=2.0), "", attempt_ms=500)
    pool.held, pool.until = 2, 10_000
    assert (pool.room(10_000), pool.room(10_001)) == (2, 0)
    pool.take()
    assert pool.room(10_000) == 1
    pool.give(unused=False)
    assert pool.room(10_000) == 1
    pool.give(unused=True)
    assert pool.room(10_000) == 2


def test_a_pool_is_asked_again_soon_after_the_clock_was_set_back() -> None:
    pool = Pool(Shared("x", slots=2), "", attempt_ms=500)
    assert pool.room(3_600_000) == 0
    pool.asked = 3_600_000
    assert pool.next(0) == ASK_MS
    assert pool.next(ASK_MS) == ASK_MS
    pool.asked, pool.held = ASK_MS, 1
    assert pool.next(ASK_MS) > 10 * ASK_MS


class Asked:
    """Stands for a transactor that does not answer, or not at once."""

    def __init__(self, answer: Callable[[], Any]) -> None:
        self.answer = answer

    async def transact(self, body: Any, **how: Any) -> Any:
        return self.answer()


def shares(clock: Clock) -> tuple[Shares, Pool]:
    found = Shares([Shared("x", slots=4)], {"Stat": 0}, slots=4, clock=clock)
    assert found.room(KIND, "", clock.now()) == 0
    (pool,) = found._pools.values()
    pool.held, pool.until = 4, clock.now() + 10_000
    assert found.take(KIND, "", clock.now()) == (pool,)
    return found, pool


@pytest.mark.parametrize(("error", "held"), [(Indeterminate("?"), 1), (Unavailable("no"), 4)])
async def test_of_an_answer_that_was_lost_only_what_is_in_use_is_relied_upon(
    error: Exception, held: int
) -> None:
    clock = Clock()
    found, pool = shares(clock)

    def fail() -> Any:
        assert found.room(KIND, "", clock.now()) == 0  # nothing starts while it is asked
        raise error

    transactor: Any = Asked(fail)
    assert not await found._ask(transactor, "1", pool)
    assert (pool.held, pool.used, pool.asking) == (held, 1, False)


async def test_a_grant_is_good_from_the_time_of_its_commit() -> None:
    clock = Clock()
    found, pool = shares(clock)
    transactor: Any = Asked(lambda: [3, 5])
    pool.missed = clock.now()
    assert not await found._ask(transactor, "1", pool)
    assert (pool.held, pool.until) == (3, 5 + pool.lease_ms)
    assert pool.ends(10**9) == pool.until - MARGIN_MS
    pool.shared = Shared("x", rate=1.0)
    assert not await found._ask(transactor, "1", pool)
    assert (pool.until, pool.ends(10**9)) == (5 + TOKENS_MS, 10**9)


# --- schedulers -----------------------------------------------------------------------------------

QUICK = Policy(attempt_ms=1_000, base_ms=1, cap_ms=2)


async def test_workers_together_run_no_more_at_once_than_a_pool_has_and_all_is_performed() -> None:
    """The memory store, three schedulers, one pool of two."""
    store = MemoryStore()
    running = most = 0

    async def handler(task: Stat, context: Any) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await anyio.sleep(0.003)
        finally:
            running -= 1
        return task.n

    limits = Limits(slots=8, shared=[Shared("x", slots=2)])
    async with AsyncExitStack() as stack:
        for n in range(3):
            transactor = await stack.enter_async_context(
                Transactor(store, [WORK], random=Random(n))
            )
            await stack.enter_async_context(
                Scheduler(transactor, {Stat: handler}, policies={Stat: QUICK}, limits=limits)
            )
        for name in "abc":
            await transactor.send(WORK, Ask(name, 10))
        for name in "abc":
            await until(transactor, name, lambda state: len(state.got) == 10)
    assert most == 2
    (head,) = (await store.heads([CELL.job("stmflow", "limit", "x", "").id])).values()
    assert head is not None
    assert head.seq < 30  # of batches, not one for each task
    async with Transactor(store, [WORK]) as transactor:
        left = await transactor.get(CELL.job("stmflow", "limit", "x", ""))
        assert left is not None
        assert left.state.value["held"] == {}


async def test_a_shared_rate_is_kept_for_each_tenant() -> None:
    handler = Handler()
    limits = Limits(shared=[Shared("t", rate=4.0, of=by_tenant)])
    by_name = {"tenant": lambda job: str(job.key[0])}
    async with working(handler, limits=limits, **by_name) as (transactor, scheduler):
        await transactor.send(WORK, Ask("a", 40))
        await transactor.send(WORK, Ask("b", 3))
        await until(transactor, "b", lambda state: len(state.got) == 3)
        await until(transactor, "a", lambda state: len(state.got) >= 6)
        assert len(handler.calls) <= 3 + 4 * 6  # 4 at once, 4 in each second of the 5 allowed
        assert scheduler.counters["performed"] < 43
