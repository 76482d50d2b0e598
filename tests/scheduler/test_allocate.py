"""The account of a space, kept in the same store or by an allocator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from scheduler import Failure
from scheduler.handlers import Context
from scheduler.handlers.allocate import (
    QUOTA,
    RESERVATION,
    Allocate,
    Deallocate,
    Granted,
    Quota,
    Refused,
    Released,
    SetLimit,
    Take,
    allocator,
    local_quota,
    release,
    reserve,
)
from stmflow import CID, Err, SystemClock, Transactor
from stmflow.errors import ReducerFailed
from stmflow.store.memory import MemoryStore
from stmflow.testing import Trace

SPACE = "did:key:zAlice"
ONE, TWO = CID.of(b"one"), CID.of(b"two")


@dataclass(frozen=True, slots=True)
class Account:
    """Reserve and release in one world, and look."""

    trace: Trace
    limit: int = 10

    def reserve(self, reservation: CID, size: int) -> Any:
        task = Allocate(SPACE, reservation, size)
        return self.trace.transact(lambda tx: reserve(tx, task, limit=self.limit))

    def release(self, reservation: CID) -> int:
        task = Deallocate(SPACE, reservation, 0)
        return int(self.trace.transact(lambda tx: release(tx, task))["size"])

    @property
    def used(self) -> int:
        quota = self.trace.job(QUOTA.job(SPACE)).state
        return 0 if quota is None else quota.used

    def state(self, reservation: CID) -> Any:
        return self.trace.job(RESERVATION.job(reservation)).state


def account() -> Account:
    return Account(Trace(QUOTA, others=[RESERVATION]))


def ok(reservation: CID, size: int) -> dict[str, Any]:
    return {"reservation": reservation, "size": size}


def test_a_reservation_is_granted_once() -> None:
    it = account()
    assert it.reserve(ONE, 6) == it.reserve(ONE, 6) == ok(ONE, 6)
    assert (it.used, it.state(ONE)) == (6, Granted(SPACE, 6))


def test_a_grant_is_for_its_size_only() -> None:
    it = account()
    it.reserve(ONE, 6)
    assert it.reserve(ONE, 5) == Err("SizeConflict", {"size": 6})


def test_a_refusal_is_as_sticky_as_a_grant() -> None:
    it = account()
    it.reserve(ONE, 6)
    full = Err("NoSpace", {"limit": 10, "used": 6})
    assert it.reserve(TWO, 5) == full
    it.release(ONE)
    assert it.reserve(TWO, 5) == full
    assert (it.used, it.state(TWO)) == (0, Refused(SPACE, 5, 10, 6))
    it.release(TWO)
    assert it.reserve(TWO, 5) == full


def test_what_is_released_twice_comes_back_once() -> None:
    it = account()
    it.reserve(ONE, 6)
    it.reserve(TWO, 4)
    assert [it.release(ONE), it.release(ONE), it.used] == [6, 0, 4]


def test_a_late_reserve_of_what_was_released_fails() -> None:
    it = account()
    assert it.release(ONE) == 0
    assert it.reserve(ONE, 6) == Err("Released", {"reservation": ONE})
    assert (it.used, it.state(ONE)) == (0, Released(SPACE))


def test_a_lower_limit_takes_nothing_away_and_a_higher_one_lets_new_ids_pass() -> None:
    it = account()
    it.reserve(ONE, 6)
    quota = it.trace.job(QUOTA.job(SPACE)).send(SetLimit(SPACE, 3))
    assert quota.state == Quota(3, 6)
    assert isinstance(it.reserve(TWO, 1), Err)
    quota.send(SetLimit(SPACE, 20))
    assert it.reserve(CID.of(b"three"), 14) == ok(CID.of(b"three"), 14)


def test_a_limit_can_be_set_before_the_space_is_used() -> None:
    it = account()
    it.trace.job(QUOTA.job(SPACE)).send(SetLimit(SPACE, 3))
    assert isinstance(it.reserve(ONE, 4), Err)


def test_a_local_quota_takes_only_what_was_not_charged() -> None:
    it = Trace(QUOTA)
    local = local_quota(limit=10)

    def run(task: Any) -> Any:
        return it.transact(lambda tx: local[type(task)](tx, task))

    assert run(Allocate(SPACE, ONE, 6)) == ok(ONE, 6)
    assert run(Allocate(SPACE, ONE, 6, charged=6)) == ok(ONE, 6)
    assert run(Allocate(SPACE, TWO, 5)) == Err("NoSpace", {"limit": 10, "used": 6})
    assert run(Deallocate(SPACE, ONE, 6)) == ok(ONE, 6)
    assert run(Deallocate(SPACE, ONE, 0)) == ok(ONE, 0)
    assert it.job(QUOTA.job(SPACE)).state == Quota(10, 0)
    with pytest.raises(ReducerFailed, match="Impossible"):
        run(Deallocate(SPACE, ONE, 1))


@pytest.mark.parametrize(("size", "cost"), [(0, 4), (1, 4), (3, 4), (4, 4), (5, 5)])
def test_a_reservation_costs_so_much_at_least(size: int, cost: int) -> None:
    """Who hoards has `limit // least` reservations at most, however small they are."""
    it = Trace(QUOTA, others=[RESERVATION])
    local = local_quota(limit=11, least=4)

    def charge(reservation: CID) -> Any:
        task = Allocate(SPACE, reservation, size)
        return it.transact(lambda tx: local[Allocate](tx, task))

    def grant(reservation: CID) -> Any:
        task = Allocate("did:key:zOther", reservation, size)
        return it.transact(lambda tx: reserve(tx, task, limit=11, least=4))

    for take in (charge, grant):
        assert [take(ONE), take(TWO)] == [ok(ONE, cost), ok(TWO, cost)]
        assert take(CID.of(b"three")) == Err("NoSpace", {"limit": 11, "used": 2 * cost})
    assert grant(ONE) == ok(ONE, cost)


def test_nothing_is_taken_by_a_take_of_nothing() -> None:
    it = Trace(QUOTA)
    assert it.transact(lambda tx: tx.apply(QUOTA.job(SPACE), Take(0, 5))).kind == "no change"
    assert it.job(QUOTA.job(SPACE)).state is None


@pytest.mark.anyio
async def test_the_allocators_handlers_answer_a_repeat_with_the_first_answer() -> None:
    clock = SystemClock()

    def context(key: CID) -> Context:
        end = clock.now() + 10_000
        return Context(key=key, job=ONE, attempt=1, token=1, deadline=end, clock=clock)

    async with Transactor(MemoryStore(), [QUOTA, RESERVATION], pure=True) as transactor:
        handlers = allocator(transactor, limit=10)
        allocate, deallocate = handlers[Allocate], handlers[Deallocate]
        for _ in range(2):
            assert await allocate(Allocate(SPACE, ONE, 6), context(ONE)) == ok(ONE, 6)
        refused = await allocate(Allocate(SPACE, TWO, 5), context(TWO))
        assert refused == Err("NoSpace", {"limit": 10, "used": 6})
        for _ in range(2):
            back = await deallocate(Deallocate(SPACE, ONE, 6), context(CID.of(b"back")))
            assert back == ok(ONE, 6)
        assert await allocate(Allocate(SPACE, TWO, 5), context(TWO)) == refused
        head = await transactor.get(QUOTA.job(SPACE))
        assert head is not None
        assert head.state == Quota(10, 0)


def test_a_handlers_err_is_an_outcome_and_no_retry() -> None:
    assert Failure("NoSpace").retry.value == "fatal"
