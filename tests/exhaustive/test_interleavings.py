"""Two commits at once, in every order of their statements. Here the smallest cases and what is
planted; `make gate` runs them all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("asyncpg", reason="asyncpg is not installed: the extra `postgres`")

from stmflow.store import postgres_batch
from stmflow.store import sqlite as sqlite_module
from stmflow.store.postgres import PostgresStore
from stmflow.store.sqlite import SQLiteStore
from tests.campaign.part import Violation
from tests.exhaustive.cases import CASES, Case
from tests.exhaustive.interleavings import on_postgres, on_sqlite
from tests.exhaustive.schedule import Chooser, all_of, following
from tests.exhaustive.serial import serial_outcomes
from tests.pgservers import PostgresServer

EITHER_WAY = ("a wake-up against a cancel that fails",)
"""Here the second lane comes to nothing in any order, and is to leave no trace."""
SMALLEST = [case for case in CASES if case.smallest]
Plant = Callable[[pytest.MonkeyPatch], None]


def named(name: str) -> Case:
    (case,) = [case for case in CASES if case.name == name]
    return case


@pytest.mark.parametrize("case", SMALLEST, ids=lambda case: case.name)
def test_on_sqlite_every_order_is_as_good_as_one_after_the_other(case: Case) -> None:
    assert on_sqlite(case)["all orders"]


@pytest.mark.parametrize("case", SMALLEST, ids=lambda case: case.name)
async def test_on_postgres_every_order_is_as_good_as_one_after_the_other(
    case: Case, postgres: PostgresServer
) -> None:
    assert (await on_postgres(case, postgres, begins=False))["all orders"]


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name not in EITHER_WAY], ids=lambda case: case.name
)
def test_a_case_is_worth_trying(case: Case) -> None:
    """The order matters to what is told, or to what can be seen; else it would show nothing."""
    outcomes = list(serial_outcomes(case, "a run").values())
    assert any(outcome != outcomes[0] for outcome in outcomes)


def test_schedules_come_one_after_the_other_and_none_twice() -> None:
    """Two lanes of two steps each have six orders."""

    def run(schedule: Any) -> Any:
        chooser, left = Chooser(schedule), {0: 2, 1: 2}
        while any(left.values()):
            lane = chooser.choose({lane: "step" for lane, n in left.items() if n})
            left[lane] -= 1
        return chooser.trace

    orders = [tuple(choice.lane for choice in trace) for trace in all_of(run)]
    assert len(set(orders)) == len(orders) == 6
    assert following([]) is None


# --- bugs in the stores' own code ---------------------------------------------------------------


def reads_not_held(patch: pytest.MonkeyPatch) -> None:
    """PostgreSQL: what is read is looked at, not locked (no FOR SHARE)."""
    patch.setattr(postgres_batch, "READ", postgres_batch.LOOK)


def claims_not_locked(patch: pytest.MonkeyPatch) -> None:
    """PostgreSQL: two claims find the same row."""
    patch.setattr(
        postgres_batch,
        "CLAIM",
        postgres_batch.CLAIM.replace("FOR UPDATE SKIP LOCKED", ""),
    )


def absent_jobs_not_locked(patch: pytest.MonkeyPatch) -> None:
    """PostgreSQL: no advisory lock stands for a job that is not there."""
    patch.setattr(
        postgres_batch, "HOLD", postgres_batch.HOLD.replace("stmflow.hold(", "stmflow.loose(")
    )
    whole = PostgresStore._open

    async def opened(self: PostgresStore, *, create: bool) -> None:
        await whole(self, create=create)
        async with self._writer.use() as db:
            text = await db.fetchval(
                "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = 'hold'"
            )
            text = text.replace("stmflow.hold(", "stmflow.loose(")
            text = text.replace("PERFORM pg_advisory_xact_lock", "PERFORM abs")
            await db.execute(text.replace("abs_shared", "abs"))

    patch.setattr(PostgresStore, "_open", opened)


def watchers_not_waited_for(patch: pytest.MonkeyPatch) -> None:
    """PostgreSQL: a wake-up passes over a row that somebody holds."""
    patch.setattr(
        postgres_batch,
        "WAKE",
        postgres_batch.WAKE.replace("FOR UPDATE", "FOR UPDATE SKIP LOCKED"),
    )


POSTGRES: list[tuple[Plant, str]] = [
    (reads_not_held, "write skew"),
    (reads_not_held, "a watch against the commit that moves what it has read"),
    (claims_not_locked, "two claims of one task"),
    (absent_jobs_not_locked, "write skew on jobs that are not there"),
    (watchers_not_waited_for, "a wake-up against a cancel that fails"),
]


@pytest.mark.parametrize(("plant", "case"), POSTGRES, ids=lambda one: getattr(one, "__name__", one))
async def test_a_bug_planted_in_the_postgres_store_is_found(
    plant: Plant, case: str, monkeypatch: pytest.MonkeyPatch, postgres: PostgresServer
) -> None:
    plant(monkeypatch)
    with pytest.raises(Violation):
        await on_postgres(named(case), postgres, begins=False)


def batch_not_in_one_transaction(patch: pytest.MonkeyPatch) -> None:
    """SQLite: each statement is a transaction of its own."""
    patch.setattr(SQLiteStore, "_begin", lambda self: None)
    patch.setattr(SQLiteStore, "_finish", lambda self: None)


def lock_taken_late(patch: pytest.MonkeyPatch) -> None:
    """SQLite: the transaction begins as a reader's."""
    patch.setattr(SQLiteStore, "_begin", lambda self: self._writer.execute("BEGIN"))


def others_not_noticed(patch: pytest.MonkeyPatch) -> None:
    """SQLite: what is known of heads is kept, whoever has written."""
    whole = SQLiteStore._look

    def look(self: SQLiteStore) -> bool:
        return whole(self) if self._seen == -1 else False

    patch.setattr(SQLiteStore, "_look", look)


SQLITE: list[tuple[Plant, str]] = [
    (batch_not_in_one_transaction, "a read of two jobs while one after the other is written"),
    (lock_taken_late, "two writes of one head"),
    (others_not_noticed, "two writes of one head"),
]


@pytest.mark.parametrize(("plant", "case"), SQLITE, ids=lambda one: getattr(one, "__name__", one))
def test_a_bug_planted_in_the_sqlite_store_is_found(
    plant: Plant, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(Violation):
        on_sqlite(named(case))


def test_sqlite_lets_one_commit_in_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """From BEGIN IMMEDIATE to COMMIT no statement of another commit is over."""
    inside: list[str] = []
    begin, finish = SQLiteStore._begin, SQLiteStore._finish

    def begun(self: SQLiteStore) -> None:
        begin(self)
        assert not inside
        inside.append("one")

    def finished(self: SQLiteStore) -> None:
        inside.clear()
        finish(self)

    monkeypatch.setattr(sqlite_module.SQLiteStore, "_begin", begun)
    monkeypatch.setattr(sqlite_module.SQLiteStore, "_finish", finished)
    assert on_sqlite(named("two writes of one head"))["orders"] > 10
