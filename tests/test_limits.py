"""Every bound has tests at n-1, n and n+1: they are named here; those that had none stand below.

A new bound without such a test fails this file; so does a test that was renamed, does not speak of
its bound, or does not try both sides of it. A bound is a field of `stmflow.limits.Limits`, or
stands where it is used: a field of what a scheduler is given, or a constant that is named like one.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from functools import cache
from random import Random
from typing import Any

import anyio
import pytest

import scheduler
from scheduler import Policy, Scheduler
from scheduler.shares import Shared
from stmflow import LIMITS, Transactor, Workflow, committer
from stmflow.cell import CELL
from stmflow.errors import ConflictsExhausted, InvalidWorkflow
from stmflow.job import _Places
from stmflow.limits import Limits
from stmflow.retention import Retention
from stmflow.store import Batch, Commit, Conflicted, Result
from stmflow.store.memory import MemoryStore
from stmflow.transaction import Tx
from tests.project import ROOT

CAPABILITIES = "tests/capabilities/"
SERVICE = f"{CAPABILITIES}service/test_app.py::"
GATHERED = "test_so_many_blocks_are_indexed_as_soon_as_they_have_gathered"
TESTS: dict[str, str | tuple[str, str]] = {
    "block_bytes": "tests/stmflow/test_codec.py::test_the_bound_of_a_block",
    "state_bytes": "tests/stmflow/test_versions.py::test_the_state_that_a_move_makes_is_bounded",
    "depth": "tests/stmflow/test_codec.py::test_the_bound_of_depth",
    "items": "tests/stmflow/test_codec.py::test_the_bound_of_items_in_a_list",
    "text_bytes": "tests/stmflow/test_codec.py::test_the_bound_of_text_counts_bytes",
    "int_min": "tests/stmflow/test_codec.py::test_the_bounds_of_integers",
    "int_max": "tests/stmflow/test_codec.py::test_the_bounds_of_integers",
    "digest_bytes": (
        "tests/stmflow/test_cid.py::test_a_digest_up_to_the_limit_is_carried",
        "tests/stmflow/test_cid.py::test_a_digest_over_the_limit_is_refused",
    ),
    "cid_bytes": (
        "tests/stmflow/test_cid.py::test_a_digest_up_to_the_limit_is_carried",
        "tests/stmflow/test_cid.py::test_a_binary_cid_over_the_limit_is_refused_before_it_is_read",
    ),
    "car_header_bytes": "tests/stmflow/test_car.py::test_the_bound_of_the_header",
    "delivery_id_bytes": "tests/stmflow/test_transactor.py::test_delivery_ids_are_bounded",
    "effect_tasks": "tests/stmflow/test_effect.py::test_an_effect_has_at_most_so_many_tasks",
    "effect_depth": "tests/stmflow/test_effect.py::test_an_effect_is_at_most_so_deep",
    "open_tasks_per_job": "tests/stmflow/test_job.py::test_a_job_has_at_most_so_many_open_tasks",
    "task_places": "tests/test_limits.py::test_places_of_tasks_are_used_again",
    "events_per_receipt": (
        "tests/stmflow/test_job.py::test_one_receipt_fires_at_most_so_many_events"
    ),
    "transactional_steps": (
        "tests/stmflow/test_job.py::test_a_transaction_takes_at_most_so_many_steps"
    ),
    "chart_microsteps": "tests/statechart/test_step.py::test_micro_steps_are_bounded",
    "chart_content": "tests/statechart/test_scxml.py::test_what_a_block_executes_is_bounded",
    "jobs_per_transaction": (
        "tests/stmflow/test_transactor.py::test_a_transaction_is_over_at_most_so_many_jobs"
    ),
    "snapshot_jobs": (
        "tests/stmflow/test_transactor.py::test_a_snapshot_is_of_at_most_so_many_jobs"
    ),
    "batch_transactions": "tests/test_limits.py::test_a_batch_has_at_most_so_many_transactions",
    "batch_reducer_ms": "tests/test_limits.py::test_a_batch_is_planned_for_so_long_at_most",
    "conflict_retries": "tests/test_limits.py::test_a_transaction_is_tried_so_often_at_most",
    "body_reruns": "tests/test_limits.py::test_a_body_may_ask_for_so_many_jobs_one_by_one",
    "queued_requests": (
        "tests/stmflow/test_pressure.py::test_one_more_than_may_wait_is_refused_at_once",
        "tests/stmflow/test_pressure.py::test_by_default_the_bound_is_the_one_of_limits",
    ),
    "index_segment_blocks": (
        f"tests/stmflow/test_sqlite_trouble.py::{GATHERED}",
        f"tests/stmflow/test_postgres_trouble.py::{GATHERED}",
    ),
    "labels": "tests/stmflow/test_placement.py::test_labels_and_needs_are_bounded",
    "label_bytes": "tests/stmflow/test_placement.py::test_labels_and_needs_are_bounded",
    "need_texts": "tests/stmflow/test_placement.py::test_labels_and_needs_are_bounded",
    "placed_tag_bytes": "tests/stmflow/test_placement.py::test_labels_and_needs_are_bounded",
    "lease_min_ms": "tests/test_limits.py::test_a_lease_lasts_no_less_and_no_longer",
    "lease_max_ms": "tests/test_limits.py::test_a_lease_lasts_no_less_and_no_longer",
    "delivery_window_ms": (
        "tests/stmflow/test_transactor.py::test_a_delivery_is_remembered_for_a_day"
    ),
    "retention_min_ms": "tests/test_limits.py::test_history_stays_for_so_long_at_least",
    "timer_max_ms": "tests/stmflow/test_effect.py::test_a_sleep_is_bounded",
    "request_bytes": f"{SERVICE}test_a_body_larger_than_the_bound_is_413",
    "request_blocks": f"{SERVICE}test_a_message_of_more_blocks_than_the_bound_is_413",
    "request_token_bytes": (
        "tests/attack/test_cost.py::test_the_tokens_of_a_message_are_bounded_at_n"
    ),
    "request_token_lists": (
        "tests/attack/test_cost.py::test_the_lists_in_the_tokens_of_a_message_are_bounded_at_n"
    ),
    "request_invocations": f"{SERVICE}test_a_message_of_more_invocations_than_the_bound_is_413",
    "concurrent_requests": f"{SERVICE}test_who_is_over_the_number_waits_a_while_and_then_gets_503",
    "waiting_requests": f"{SERVICE}test_who_finds_the_waiting_room_full_gets_503_at_once",
    "request_ms": (f"{CAPABILITIES}service/test_service.py::test_a_request_takes_so_long_at_most"),
    "did_bytes": f"{CAPABILITIES}test_did.py::test_the_bound_on_a_did_is_exact",
    "ucan_int_max": (
        f"{CAPABILITIES}ucan1/test_envelope.py::test_integers_are_bounded_by_what_javascript_has"
    ),
    "arguments_bytes": f"{CAPABILITIES}ucan1/test_invocation.py::test_arguments_are_bounded",
    "task_block_bytes": f"{CAPABILITIES}service/test_receipt_by_name.py::"
    "test_a_token_larger_than_the_bound_is_not_remembered",
    "proof_chain": f"{CAPABILITIES}ucan1/test_chain.py::test_the_length_of_a_chain_is_bounded",
    "policy_statements": (
        f"{CAPABILITIES}ucan1/test_policy.py::test_the_statements_are_bounded_with_the_inner_ones"
    ),
    "policy_depth": f"{CAPABILITIES}ucan1/test_policy.py::test_the_depth_is_bounded",
    "selector_segments": f"{CAPABILITIES}ucan1/test_selector.py::test_the_segments_are_bounded",
    "policy_globs": f"{CAPABILITIES}ucan1/test_policy.py::test_the_stars_of_a_glob_are_bounded",
}


SLOTS = "tests/scheduler/test_slots.py::"
RETRY = "tests/scheduler/test_retry.py::"
SHARES = "tests/scheduler/test_shares.py::"
POLICY = f"{RETRY}test_a_policy_is_taken_from_its_bounds_on"
SHARED = f"{SHARES}test_a_shared_limit_lies_between_one_and_two_to_the_31"
BESIDE: dict[str, str | tuple[str, str]] = {
    "Limits.slots": (
        f"{SLOTS}test_no_more_run_at_once_than_a_limit_lets",
        f"{SLOTS}test_a_limit_lets_at_least_one_run",
    ),
    "Limits.per_type": (
        f"{SLOTS}test_no_more_run_at_once_than_a_limit_lets",
        f"{SLOTS}test_a_limit_lets_at_least_one_run",
    ),
    "Limits.per_tenant": (
        f"{SLOTS}test_no_more_run_at_once_than_a_limit_lets",
        f"{SLOTS}test_a_limit_lets_at_least_one_run",
    ),
    "Limits.rates": (
        f"{SLOTS}test_a_rate_lets_through_a_second_of_it_at_once_and_then_one_by_one",
        f"{SLOTS}test_a_speed_is_above_zero_and_has_an_end",
    ),
    "Limits.rate_per_tenant": (
        f"{SLOTS}test_a_tenant_has_a_rate_of_its_own",
        f"{SLOTS}test_a_speed_is_above_zero_and_has_an_end",
    ),
    "Limits.weights": f"{SLOTS}test_a_speed_is_above_zero_and_has_an_end",
    "Policy.attempts": (POLICY, f"{RETRY}test_the_last_attempt_is_the_last"),
    "Policy.deadline_ms": (
        POLICY,
        f"{RETRY}test_an_attempt_begins_before_the_deadline_or_not_at_all",
    ),
    "Policy.attempt_ms": POLICY,
    "Policy.base_ms": POLICY,
    "Policy.cap_ms": f"{RETRY}test_pauses_grow_up_to_a_cap_that_is_no_less_than_the_first",
    "Shared.slots": SHARED,
    "Shared.rate": SHARED,
    "scheduler/health.py CONNECTIONS": (
        "tests/scheduler/test_health.py::test_so_many_are_heard_at_once"
    ),
    "scheduler/health.py REQUEST_BYTES": (
        "tests/scheduler/test_health.py::test_the_head_of_a_request_has_at_most_so_many_bytes"
    ),
    "scheduler/handlers/s3/bucket.py MAX_URL_SECONDS": (
        "tests/scheduler/test_s3.py::test_a_url_lives_for_so_long_at_most"
    ),
    "scheduler/handlers/s3/client.py MAX_RETRY_AFTER_MS": (
        "tests/scheduler/test_s3_classify.py::test_a_server_may_impose_so_long_a_wait_at_most"
    ),
    "scheduler/handlers/s3/proof.py MAX_PUT_BYTES": (
        "tests/scheduler/test_s3.py::test_only_what_one_put_can_take_is_signed"
    ),
    "capabilities/did.py RSA_BITS_MAX": (
        f"{CAPABILITIES}test_did.py::test_the_bits_of_an_rsa_key_are_bounded"
    ),
    "capabilities/did.py RSA_BITS_MIN": (
        f"{CAPABILITIES}test_did.py::test_the_bits_of_an_rsa_key_are_bounded"
    ),
    "capabilities/principal.py _FILE_BYTES": (
        f"{CAPABILITIES}test_principal.py::test_a_key_file_has_at_most_so_many_bytes"
    ),
    "capabilities/service/service.py RECEIPT_BYTES": (
        f"{CAPABILITIES}service/test_receipt_by_name.py::test_receipts_are_kept_up_to_so_many_bytes"
    ),
    "capabilities/ucan1/verified.py TOKEN_BYTES": (
        f"{CAPABILITIES}ucan1/test_verified.py::test_tokens_are_remembered_up_to_so_many_bytes"
    ),
    "capabilities/ucanto/signature.py _NAME_BYTES": (
        f"{CAPABILITIES}ucanto/test_signature.py::test_the_name_of_an_algorithm_is_bounded"
    ),
    "capabilities/ucanto/token.py _CAN_BYTES": (
        f"{CAPABILITIES}ucanto/test_token.py::test_a_command_has_at_most_so_many_bytes"
    ),
    "capabilities/ucanto/token.py _URI_LETTERS": (
        f"{CAPABILITIES}ucanto/test_token.py::test_a_uri_has_at_most_so_many_letters"
    ),
    "stmflow/cli/ucan_read.py _FILE_BYTES": (
        "tests/stmflow/cli/test_ucan_show.py::test_a_file_has_at_most_so_many_bytes"
    ),
}
"""Bounds that stand where they are used."""

NO_BOUNDS = {
    "Limits.shared": "limits of their own: those of Shared",
    "Policy.idempotent": "yes or no",
    "Shared.name": "a name",
    "Shared.of": "a function",
    "Shared.types": "names",
    "capabilities/did.py _KEY_BYTES": "follows from RSA_BITS_MAX",
    "capabilities/ucanto/signature.py _VARINT_BYTES": "what a varint is",
    "scheduler/handlers/s3/bucket.py CHUNK_BYTES": "a piece of something longer",
    "scheduler/handlers/s3/bucket.py RANGE_BYTES": "a piece of something longer",
    "stmflow/archive.py PAGE_BYTES": "a piece of something longer",
    "stmflow/cid.py _VARINT_BYTES": "what a varint is",
    "stmflow/codec.py _CACHED_BYTES": "a cache: passing it is slower",
    "stmflow/codec.py _CACHED_KEY_BYTES": "a cache: passing it is slower",
    "stmflow/observe/doctor.py FREE_BYTES": "advice: nothing is refused",
    "stmflow/observe/doctor.py LEAST_FREE_BYTES": "advice: nothing is refused",
    "stmflow/observe/doctor.py WAL_BYTES": "advice: nothing is refused",
    "stmflow/store/postgres_news.py _CID_BYTES": "what a CID is",
}
"""What is found where bounds are looked for, and what it is instead."""

NAMED_LIKE_A_BOUND = re.compile(
    r"^(_?MAX_\w+|_?\w+_(?:BYTES|LETTERS|MIN|MAX)|CONNECTIONS)(?:: Final)? = (?!LIMITS)", re.M
)
BOTH_SIDES = re.compile(r"[\[(]-1, 0, 1|@AROUND|check_bound\(")
BELOW = re.compile(r"- 1\b|- tick|\(-1\b")
ABOVE = re.compile(r"\+ 1\b|\+ tick|\(1\b")


def test_every_bound_has_its_test() -> None:
    assert list(TESTS) == [field.name for field in fields(Limits)]


def test_every_bound_that_stands_where_it_is_used_has_its_test() -> None:
    given = {
        f"{kind.__name__}.{field.name}"
        for kind in (scheduler.Limits, Policy, Shared)
        for field in fields(kind)
    }
    found = {
        f"{path.relative_to(ROOT)} {name}"
        for room in ("stmflow", "scheduler", "capabilities")
        for path in (ROOT / room).rglob("*.py")
        for name in NAMED_LIKE_A_BOUND.findall(path.read_text())
    }
    assert sorted([*BESIDE, *NO_BOUNDS]) == sorted(given | found)


@pytest.mark.parametrize("limit", [*TESTS, *BESIDE])
def test_the_test_of_a_bound_speaks_of_it_and_tries_both_sides(limit: str) -> None:
    listed = (TESTS | BESIDE)[limit]
    sources = []
    for test in (listed,) if isinstance(listed, str) else listed:
        path, _, name = test.partition("::")
        assert name in functions_of(path), f"there is no {test}"
        sources.append(functions_of(path)[name])
    text = "\n".join(sources)
    assert re.split(r"[ .]", limit)[-1] in text, f"{listed} does not speak of {limit}"
    if not BOTH_SIDES.search(text):
        assert BELOW.search(text), f"{listed} does not try n - 1"
        assert ABOVE.search(text), f"{listed} does not try n + 1"


@cache
def functions_of(path: str) -> dict[str, str]:
    """The functions of a file, with what parametrizes them, by name."""
    return {
        node.name: ast.unparse(node)
        for node in ast.parse((ROOT / path).read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


# --- those that had none -------------------------------------------------------------------------

AROUND = pytest.mark.parametrize("off", [-1, 0, 1])


@AROUND
def test_places_of_tasks_are_used_again(off: int) -> None:
    """`task_places` numbers; after the last comes the first that is free."""
    places = _Places({}, LIMITS.task_places - 1 + min(off, 0))
    taken = [places.take() for _ in range(3)]
    assert max(taken) == LIMITS.task_places - 1
    assert taken == [(taken[0] + n) % LIMITS.task_places for n in range(3)]


@AROUND
async def test_a_batch_has_at_most_so_many_transactions(off: int) -> None:
    """Those that wait when the store is free go together, up to `batch_transactions`."""
    count = LIMITS.batch_transactions + off
    async with counting(Hand()) as (transactor, store, workflow):
        await queued(transactor, store, workflow, count)
    assert sum(store.sizes[1:]) == count
    assert max(store.sizes[1:]) == min(count, LIMITS.batch_transactions)


@AROUND
async def test_a_batch_is_planned_for_so_long_at_most(off: int) -> None:
    """After more than `batch_reducer_ms` a batch goes as it is."""
    clock, slept = Hand(), list[int]()

    def slow(event: Add, state: Total | None) -> Any:
        if event.name == "slow" and not slept:
            slept.append(clock.now())
            clock.time += LIMITS.batch_reducer_ms + off
        return Total(event.by), []

    async with counting(clock, slow) as (transactor, store, workflow):
        store.go.set()
        async with anyio.create_task_group() as group:
            for name in ("slow", "b", "c"):
                group.start_soon(transactor.send, workflow, Add(name))
    assert store.sizes == ([1, 2] if off > 0 else [3])


async def queued(transactor: Transactor, store: Counting, workflow: Workflow, count: int) -> None:
    """So many sends wait while a commit is under way; then it ends."""
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(transactor.send, workflow, Add("before"))
            await store.entered.wait()
            for number in range(count):
                group.start_soon(transactor.send, workflow, Add(str(number)))
            for _ in range(20):
                await anyio.sleep(0)
            store.go.set()


@AROUND
async def test_a_transaction_is_tried_so_often_at_most(off: int) -> None:
    """As often as `conflict_retries` may a race be lost, and it is committed all the same."""
    async with counting(Hand()) as (transactor, store, workflow):
        store.go.set()
        store.conflicts = LIMITS.conflict_retries + off
        if off > 0:
            with pytest.raises(ConflictsExhausted):
                await transactor.send(workflow, Add("a"))
        else:
            assert (await transactor.send(workflow, Add("a"))).committed


@AROUND
async def test_a_body_may_ask_for_so_many_jobs_one_by_one(
    off: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`body_reruns` beside `jobs_per_transaction`: each run that asks for one more job counts."""
    most = dataclasses.replace(LIMITS, body_reruns=3, jobs_per_transaction=2)
    monkeypatch.setattr(committer, "LIMITS", most)
    runs = most.body_reruns + most.jobs_per_transaction

    def body(tx: Tx) -> int:
        return len([tx.read(CELL.job(number)) for number in range(runs - 1 + off)])

    async with counting(Hand()) as (transactor, store, _):
        store.go.set()
        if off > 0:
            with pytest.raises(ConflictsExhausted):
                await transactor.transact(body)
        else:
            assert await transactor.transact(body) == runs - 1 + off


@AROUND
@pytest.mark.parametrize("bound", ["lease_min_ms", "lease_max_ms"])
async def test_a_lease_lasts_no_less_and_no_longer(bound: str, off: int) -> None:
    milliseconds = getattr(LIMITS, bound) + off
    async with counting(Hand()) as (transactor, _, _):
        if LIMITS.lease_min_ms <= milliseconds <= LIMITS.lease_max_ms:
            Scheduler(transactor, {}, lease_seconds=milliseconds / 1_000)
        else:
            with pytest.raises(InvalidWorkflow):
                Scheduler(transactor, {}, lease_seconds=milliseconds / 1_000)


@AROUND
def test_history_stays_for_so_long_at_least(off: int) -> None:
    keep_ms = LIMITS.retention_min_ms + off
    if off < 0:
        with pytest.raises(InvalidWorkflow):
            Retention(MemoryStore(), None, keep_ms=keep_ms)
    else:
        Retention(MemoryStore(), None, keep_ms=keep_ms)


@dataclass(frozen=True)
class Add:
    name: str
    by: int = 1


@dataclass(frozen=True)
class Total:
    total: int = 0


class Hand:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.time = 1_000_000

    def now(self) -> int:
        return self.time

    async def sleep_until(self, at_ms: int) -> None:
        self.time = max(self.time, at_ms)
        await anyio.sleep(0.001)


class Counting(MemoryStore):
    """Keeps how many commits each batch has; holds them until it is let go; lets some lose."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []
        self.entered = anyio.Event()
        self.go = anyio.Event()
        self.conflicts = 0

    async def commit(self, batch: Batch) -> Sequence[Result]:
        count = sum(isinstance(member, Commit) for member in batch.members)
        if not count:
            return await super().commit(batch)
        self.sizes.append(count)
        self.entered.set()
        await self.go.wait()
        if self.conflicts:
            self.conflicts -= 1
            return [Conflicted() for _ in batch.members]
        return await super().commit(batch)


def plus(event: Add, state: Total | None) -> Any:
    return Total((state or Total()).total + event.by), []


@asynccontextmanager
async def counting(
    clock: Hand, update: Any = plus
) -> AsyncIterator[tuple[Transactor, Counting, Workflow]]:
    workflow = Workflow(
        "counter",
        state=Total,
        events=(Add,),
        outside=(Add,),
        tasks=(),
        key=("name",),
        update=update,
    )
    store = Counting()
    async with Transactor(store, [workflow], clock=clock, random=Random(1)) as transactor:
        yield transactor, store, workflow
