"""The receipt of an invocation or task, asked for by its CID: what is remembered, and how long."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from capabilities import Capability
from capabilities.service import TASK, Asked, Ok, Reads, Result
from capabilities.service import service as service_module
from capabilities.service.task import remember
from capabilities.ucan1 import invocation
from capabilities.ucanto import message, receipt
from capabilities.ucanto.token import Claim, Token, issue
from stmflow import CID, LIMITS, Transactor
from stmflow.errors import InvalidWorkflow
from stmflow.store.sqlite import SQLiteStore
from tests.capabilities.service.world import (
    NOTE,
    READ,
    WRITE,
    Paper,
    StandingClock,
    error,
    grant,
    ok,
    read,
    reading,
    sent,
    world,
    write,
    writes,
)
from tests.capabilities.ucanto.tokens import ALICE, MALLORY, NOW, SERVICE, SPACE


@dataclass(frozen=True, slots=True)
class Copy:
    """The arguments of note/copy, a task that an answer names."""

    name: str


COPY = Capability("note/copy", Copy)


def copying(asked: Asked) -> Token:
    claim = Claim("note/copy", str(asked.subject), {"name": asked.arguments.name})
    return issue(asked.signer, asked.signer.did, [claim], expires=None)


async def copied(asked: Asked, transactor: Transactor) -> Result | None:
    head = await transactor.get(NOTE.job(str(asked.subject), asked.arguments.name))
    if head is None or not isinstance(head.state, Paper):
        return None
    return Ok({"copy": head.state.text})


async def test_the_receipt_of_an_invocation_is_the_one_that_was_given() -> None:
    async with world() as at:
        asked = write()
        given = await at.ask(asked)
        found = await at.recall(asked.cid)
        assert found is not None
        assert found.cid == given.cid


async def test_nobody_knows_a_receipt_of_what_was_never_asked() -> None:
    async with world() as at:
        assert await at.recall(write().cid) is None


@pytest.mark.parametrize("family", ["ucanto", "ucan 1.0"])
async def test_after_a_restart_the_receipt_is_made_of_the_job_as_it_is(
    tmp_path: Path, family: str
) -> None:
    asked = write()
    later = invocation.issue(
        SPACE,
        subject=SPACE.did,
        command="/note/write",
        arguments={"name": "b", "text": "hello"},
        audience=SERVICE.did,
        nonce=b"",
        expires=NOW + 60,
    )
    cid = asked.cid if family == "ucanto" else later.cid
    for start in range(3):
        async with SQLiteStore.open(tmp_path / "jobs.db") as store, world(store=store) as at:
            if not start:
                ok(await at.ask(asked))
                _, told = await at.service.respond1(later.data)
                ok(told.receipt)
            assert ok(await at.recall(cid))["text"] == "hello"


async def test_while_the_job_is_not_settled_there_is_no_receipt_to_find() -> None:
    async with world(paper=False, request_ms=50) as at:
        asked = write()
        assert error(await at.ask(asked))["name"] == "DeadlineExceeded"
        assert await at.recall(asked.cid) is None


def _on_paper(state: Any) -> bool:
    return isinstance(state, Paper)


async def test_an_answer_that_came_too_late_is_found_by_name_all_the_same() -> None:
    async with world(paper=False, request_ms=50) as at:
        asked = write()
        assert error(await at.ask(asked))["name"] == "DeadlineExceeded"
        at.printer.paper.set()
        await at.transactor.wait(NOTE.job(SPACE.did.text, "a"), _on_paper, timeout=5)
        assert ok(await at.recall(asked.cid))["text"] == "hello"


async def test_a_refusal_never_takes_the_place_of_a_receipt() -> None:
    clock = StandingClock()
    async with world(clock=clock) as at:
        asked = write()
        ok(await at.ask(asked))
        clock.set((NOW + 31) * 1_000)
        assert "Expired" in error(await at.ask(asked))["message"]
        assert ok(await at.recall(asked.cid))["text"] == "hello"


async def test_a_task_that_somebody_invokes_is_refused_and_its_receipt_still_comes() -> None:
    provided = writes(tasks=lambda asked, state: [copying(asked).data])
    async with world(provided, tasks={COPY: copied}) as at:
        asked = write()
        task = issue(
            SERVICE, SERVICE.did, [Claim("note/copy", SPACE.did.text, {"name": "a"})], expires=None
        )
        assert error(await at.ask(task))["name"] == "HandlerNotFound"
        assert await at.recall(task.cid) is None
        ok(await at.ask(asked))
        assert ok(await at.recall(task.cid)) == {"copy": "hello"}


async def test_a_remembered_task_for_which_nothing_is_known_any_more_is_not_found(
    tmp_path: Path,
) -> None:
    """Such as a task of the client's, or a command that was provided once."""
    asked = write()
    async with SQLiteStore.open(tmp_path / "jobs.db") as store:
        async with world(
            writes(tasks=lambda asked, state: [copying(asked).data]), store=store
        ) as at:
            ok(await at.ask(asked))
            (task,) = [
                CID.of(head.state.block)
                for row in await store.jobs(workflow=TASK.name)
                if (head := await at.transactor.get(row.job)) and head.state.cause is not None
            ]
            assert await at.recall(task) is None

        async with world(Reads(READ, read), store=store) as at:
            assert await at.recall(asked.cid) is None


async def test_who_is_refused_leaves_nothing_to_find() -> None:
    async with world() as at:
        asked = write(MALLORY)
        assert error(await at.ask(asked))["name"] == "Unauthorized"
        assert await at.recall(asked.cid) is None
        assert await at.jobs() == 0


async def test_a_command_is_not_both_provided_and_a_task() -> None:
    with pytest.raises(InvalidWorkflow, match="note/write"):
        async with world(tasks={WRITE: copied}):
            pass


async def test_the_transactor_has_to_know_the_workflows_of_the_service() -> None:
    with pytest.raises(InvalidWorkflow, match="ucan/revocation, ucan/task"):
        async with world(workflows=(NOTE,)):
            pass


# --- bounds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [-1, 0, 1])
async def test_a_token_larger_than_the_bound_is_not_remembered(more: int) -> None:
    fact = 32 * 1024
    while (asked := _with_fact(fact)) and len(asked.data) != LIMITS.task_block_bytes + more:
        fact += LIMITS.task_block_bytes + more - len(asked.data)
    async with world() as at:
        ok(await at.ask(asked))
        head = await at.transactor.get(TASK.job(asked.cid))
        assert (head is not None) is (more <= 0)


def _with_fact(size: int) -> Token:
    claim = Claim("note/write", SPACE.did.text, {"name": "a", "text": "hello"})
    facts = [{"x": b"x" * size}]
    return issue(SPACE, SERVICE.did, [claim], expires=NOW + 30, facts=facts)


async def test_a_token_is_remembered_once_with_its_first_cause() -> None:
    async with world() as at:
        one, cause, other = write().cid, write(name="b").cid, write(name="c").cid
        for each in (cause, other):
            await at.transactor.transact(partial(_remembered, one, each))
        head = await at.transactor.get(TASK.job(one))
        assert head is not None
        assert (head.seq, head.state.cause) == (1, cause)


def _remembered(one: CID, cause: CID, tx: Any) -> None:
    remember(tx, one, b"b", cause=cause)


@pytest.mark.parametrize("more", [-1, 0, 1])
async def test_so_many_receipts_are_kept_and_the_oldest_goes_first(
    more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "RECEIPTS", 4)
    async with world() as at:
        ok(await at.ask(write()))
        asked = [reading(nonce=str(number)) for number in range(4 + more)]
        for one in asked:
            ok(await at.ask(one))
        ok(await at.ask(asked[-1]))  # moves up, takes no place of its own
        kept = [await at.recall(one.cid) is not None for one in asked]
        assert kept == [False] * max(0, more) + [True] * 4 if more >= 0 else [True] * 3


@pytest.mark.parametrize("less", [-1, 0, 1])
async def test_receipts_are_kept_up_to_so_many_bytes(
    less: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world() as at:
        ok(await at.ask(write()))
        asked = [reading(nonce=str(number)) for number in range(3)]
        sizes = []
        for one in asked:
            ok(await at.ask(one))
            sizes.append(at.service._receipts[one.cid].size)
        monkeypatch.setattr(service_module, "RECEIPT_BYTES", sum(sizes) - less)
        ok(await at.ask(asked[-1]))
        assert at.service._receipt_bytes == sum(one.size for one in at.service._receipts.values())
        kept = [await at.recall(one.cid) is not None for one in asked]
        assert kept == [less <= 0, True, True]


async def test_a_receipt_brings_the_blocks_of_its_tasks_along() -> None:
    made: list[Token] = []

    def result(asked: Asked, head: Any) -> Result:
        made.append(copying(asked))
        return Ok({"text": head.state.text}, (made[-1].cid,), {made[-1].cid: made[-1].data})

    async with world(writes(result=result)) as at:
        root = grant()
        asked = write(ALICE, root)

        told = message.decode(await at.service.respond(sent(asked, proofs=[root])))
        (one,) = at_receipts(told)
        assert one == (made[0].cid,)
        assert {asked.cid, root.cid, made[0].cid} <= told.blocks.keys()
        found = await at.service.receipt(asked.cid)
        assert found is not None
        assert made[0].cid in message.decode(found).blocks


def at_receipts(told: Any) -> list[tuple[CID, ...]]:

    return [receipt.decode(cid, told.blocks[cid]).fork for cid in told.receipts.values()]
