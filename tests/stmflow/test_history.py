"""Histories: three levels of verifying, archives, several jobs, differences and reasons."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from stmflow import CID, Err, car, codec, history
from stmflow.errors import CodecError, Corrupt, HashMismatch, MalformedBlock, NotFound
from stmflow.history import MISMATCH, NOT_RERUN, OK, SKIPPED, Report, Revision
from stmflow.store import Packed, StoredHead, TaskRow
from stmflow.store.memory import MemoryStore
from stmflow.workflow import job
from tests.stmflow.cli import sample
from tests.stmflow.cli.sample import (
    HOUR_MS,
    ORDER,
    QUOTA,
    UPLOAD,
    UPLOAD2,
    Added,
    Added2,
    Claimed,
    World,
    world,
)

pytestmark = pytest.mark.anyio


class Told:
    """One job's chain as a store gives it, oldest first, and ways to tamper with it."""

    def __init__(self, job: CID, stored: StoredHead, packs: Sequence[Packed], rows: Any) -> None:
        self.job = job
        self.stored: StoredHead | None = stored
        self.rows: Sequence[TaskRow] | None = rows
        self.packs = list(packs)
        self.blocks = history.blocks_of(packs)
        self.chain = [codec.decode(packed.revision) for packed in reversed(packs)]
        self.head = packs[0].cid

    def line(self, at: int) -> Any:
        return next(line for line in self.chain[at]["writes"] if line["job"] == self.job)

    def add(self, value: Any) -> CID:
        cid, block = codec.block(value)
        self.blocks[cid] = block
        return cid

    def forge(self) -> Told:
        """Link the (changed) revisions anew, every hash right again."""
        prev: CID | None = None
        for at, plain in enumerate(self.chain):
            if at:
                self.line(at)["prev"] = prev
            prev = self.add(plain)
        assert prev is not None
        self.head = prev
        self.stored = self.rows = None
        return self

    def verify(self, workflows: Any = sample.workflows, **options: Any) -> Report:
        return history.verify(
            self.job,
            self.head,
            self.blocks.get,
            workflows=workflows,
            stored=self.stored,
            rows=self.rows,
            **options,
        )

    def levels(self, workflows: Any = sample.workflows) -> list[str]:
        report = self.verify(workflows)
        return [report.level(number) for number in (1, 2, 3)]


async def told(world: World, job: CID) -> Told:
    rows = await world.store.tasks(job=job)
    return Told(job, await world.head(job), await world.store.revisions(job), rows)


@asynccontextmanager
async def a_world(flows: Any = None) -> AsyncIterator[World]:
    async with world(MemoryStore(), flows) as found:
        yield found


async def an_upload() -> Told:
    async with a_world() as found:
        return await told(found, await sample.upload(found))


# --- what holds ---------------------------------------------------------------------------------


async def test_every_history_of_the_engine_holds_on_all_levels() -> None:
    async with a_world() as found:
        await sample.upload(found)
        await sample.stored(found)
        await sample.orders(found)
        await found.send(UPLOAD, Added("audited", "x", 1))
        for row in await found.store.jobs():
            chain = await told(found, row.job)
            report = chain.verify()
            assert report.findings == []
            assert report.status == OK
            assert (report.revisions, report.rerun) == (row.seq, row.seq)


async def test_without_the_workflow_the_reducer_is_not_run_again_and_that_is_no_mismatch() -> None:
    chain = await an_upload()
    report = chain.verify(workflows=[])
    assert [report.level(n) for n in (1, 2, 3)] == [OK, OK, NOT_RERUN]
    assert report.findings == []
    assert report.not_rerun == "upload version 1 is not registered (known: none)"
    assert chain.levels(sample.only_orders) == [OK, OK, NOT_RERUN]


async def test_a_level_that_is_not_asked_for_is_not_reached() -> None:
    chain = await an_upload()
    report = chain.verify(depth=2)
    assert [report.level(n) for n in (1, 2, 3)] == [OK, OK, SKIPPED]
    assert report.status == OK
    assert chain.verify(depth=1).status == OK


async def test_a_cell_runs_again_without_an_application() -> None:
    async with a_world() as found:
        cell = job("cell", "limits")
        await found.transactor.transact(lambda tx: tx.write(cell, {"bytes": 5}) and None)
        assert (await told(found, cell.id)).levels([]) == [OK, OK, OK]


async def test_what_a_hook_or_a_transaction_gave_is_taken_as_given() -> None:
    async with a_world() as found:
        made = await found.send(UPLOAD, Added("audited", "x", 1))
        await found.send(UPLOAD, Added("audited", "x", 2))  # same state: the hook alone commits

        def body(tx: Any) -> None:
            tx.effect(UPLOAD.job("audited", "x"), sample.perform(sample.Mark("by hand")))

        await found.transactor.transact(body)
        chain = await told(found, made)
        assert len(chain.chain) == 3
        assert chain.verify().given == 3
        assert chain.levels() == [OK, OK, OK]
        assert chain.levels(sample.changed) == [OK, OK, OK]  # that one has no such hook


async def test_transactional_tasks_answer_what_was_recorded() -> None:
    async with a_world() as found:
        first, _, last = await sample.orders(found)
        for one in (first, last):
            chain = await told(found, one.id)
            assert len(chain.line(0)["receipts"]) == 1
            report = chain.verify()
            assert report.status == OK
            assert report.unseen == {QUOTA.job("s").id, job("cell", "limits").id}
        refused = await told(found, last.id)
        outcome = codec.decode(refused.blocks[refused.line(0)["receipts"][0]])["outcome"]
        assert outcome == {"err": {"name": "NoSpace", "detail": None}}


async def test_the_same_history_goes_on_in_a_newer_version_and_upcasts_are_repeated() -> None:
    store = MemoryStore()
    clock = sample.Hands()
    async with world(store, clock=clock) as old:
        made = await old.send(UPLOAD, Added("s", "a", 5))
        await old.perform(Allocate=None)
        await old.perform(Stat=False)
        await old.transactor.send(made, Claimed())  # version 1 asks, version 2 gets the answer
    async with world(store, sample.newer, clock=clock) as new:
        await new.perform(Stat=True)
        chain = await told(new, made)
        versions = [chain.line(at)["workflow"][1] for at in range(len(chain.chain))]
        assert versions == [1, 1, 1, 1, 2]
        assert chain.levels(sample.newer) == [OK, OK, OK]
        assert chain.levels(sample.workflows) == [OK, OK, NOT_RERUN]
        assert chain.levels([]) == [OK, OK, NOT_RERUN]
        fresh = await new.transactor.send(UPLOAD2, Added2("s", "b", 1, "me"))
        assert fresh.job is not None
        assert (await told(new, fresh.job)).levels(sample.newer) == [OK, OK, OK]


async def test_a_dismissed_timer_and_a_late_one_hold() -> None:
    async with a_world() as found:
        made = await found.send(UPLOAD, Added("s", "a", 5))
        await found.perform(Allocate=None)
        await found.perform(Stat=False)
        await found.pass_time(7 * HOUR_MS)
        assert (await told(found, made)).levels() == [OK, OK, OK]


# --- what does not ------------------------------------------------------------------------------


async def test_a_changed_reducer_is_found_on_the_third_level_and_says_where() -> None:
    chain = await an_upload()
    report = chain.verify(sample.changed)
    assert [report.level(n) for n in (1, 2, 3)] == [OK, OK, MISMATCH]
    (finding,) = report.findings
    assert finding.seq == 3
    assert finding.text == 'state f.note: the history has null, run again it is "changed"'


async def test_a_forged_state_is_found_on_the_third_level() -> None:
    chain = await an_upload()
    state = codec.decode(chain.blocks[chain.line(8)["state"]])
    state["f"]["size"] = 7
    chain.line(8)["state"] = chain.add(state)
    assert chain.forge().levels() == [OK, OK, MISMATCH]
    assert chain.levels([]) == [OK, OK, NOT_RERUN]


async def test_a_removed_receipt_is_found_on_the_second_level_with_and_without_the_code() -> None:
    chain = await an_upload()
    assert chain.line(2)["receipts"] != []
    chain.line(2)["receipts"] = []
    chain.forge()
    assert chain.levels([]) == [OK, MISMATCH, NOT_RERUN]
    report = chain.verify()
    assert report.level(2) == MISMATCH
    assert any("has no receipt here" in one.text for one in report.findings)


def _receipt_for_another(chain: Told) -> None:
    receipt = codec.decode(chain.blocks[chain.line(1)["receipts"][0]])
    chain.line(1)["receipts"] = [chain.add({**receipt, "task": CID.of(b"nobody's")})]


def _receipt_twice(chain: Told) -> None:
    chain.line(1)["receipts"] *= 2


def _other_outcome(chain: Told) -> None:
    """The outcome of the probe was false and its event says so; now it failed instead."""
    receipt = codec.decode(chain.blocks[chain.line(2)["receipts"][0]])
    outcome = {"err": {"name": "Gone", "detail": None}}
    chain.line(2)["receipts"] = [chain.add({**receipt, "outcome": outcome})]


def _event_removed(chain: Told) -> None:
    chain.line(2)["events"] = []


def _event_of_another_type(chain: Told) -> None:
    event = codec.decode(chain.blocks[chain.line(2)["events"][0]])
    chain.line(2)["events"] = [chain.add({**event, "t": "Claimed", "f": {}})]


def _early_timer(chain: Told) -> None:
    for plain in chain.chain[3:]:
        plain["at"] = chain.chain[2]["at"] + 1


def _uncaught(chain: Told) -> None:
    """A failure that nobody catches is parked; it has no receipt."""
    receipt = codec.decode(chain.blocks[chain.line(5)["receipts"][0]])
    outcome = {"err": {"name": "Gone", "detail": None}}
    chain.line(5)["receipts"] = [chain.add({**receipt, "outcome": outcome})]


def _another_cause(chain: Told) -> None:
    chain.chain[2]["delivery"] = [chain.job, b"from outside"]


@pytest.mark.parametrize(
    "tamper",
    [
        _receipt_for_another,
        _receipt_twice,
        _other_outcome,
        _event_removed,
        _event_of_another_type,
        _early_timer,
        _uncaught,
        _another_cause,
    ],
)
async def test_progress_that_does_not_follow_is_found_on_the_second_level(
    tamper: Callable[[Told], None],
) -> None:
    chain = await an_upload()
    tamper(chain)
    chain.forge()
    assert chain.levels([])[:2] == [OK, MISMATCH]
    assert chain.levels()[:2] == [OK, MISMATCH]


async def test_an_effect_that_no_reducer_returned_is_found_on_the_third_level() -> None:
    chain = await an_upload()
    chain.line(8)["effects"] = chain.line(6)["effects"]
    assert chain.forge().levels() == [OK, OK, MISMATCH]


def _seq(chain: Told) -> None:
    chain.line(4)["seq"] = 9


def _time(chain: Told) -> None:
    chain.chain[4]["at"] = 1


def _epoch(chain: Told) -> None:
    chain.line(7)["epoch"] = 1


def _version(chain: Told) -> None:
    chain.line(4)["workflow"] = ["upload", 0]


def _workflow(chain: Told) -> None:
    chain.line(4)["workflow"] = ["order", 1]


def _key(chain: Told) -> None:
    chain.line(0)["key"] = ["s", "b"]


def _cut(chain: Told) -> None:
    """History begins later: the first revision is gone."""
    del chain.chain[0]
    del chain.line(0)["prev"]
    chain.line(0)["prev"] = None
    chain.line(0)["key"] = ["s", "a"]


def _missing_event(chain: Told) -> None:
    chain.line(0)["events"] = [CID.of(b"nowhere")]


def _effect_epoch(chain: Told) -> None:
    chain.line(2)["effects"][0][0] = 2


def _state_of_another_kind(chain: Told) -> None:
    chain.line(3)["state"] = chain.line(2)["receipts"][0]


def _not_a_receipt(chain: Told) -> None:
    chain.line(1)["receipts"] = [chain.add({"task": chain.job, "outcome": {"maybe": 1}})]


@pytest.mark.parametrize(
    "tamper",
    [
        _seq,
        _time,
        _epoch,
        _version,
        _workflow,
        _key,
        _cut,
        _missing_event,
        _effect_epoch,
        _state_of_another_kind,
        _not_a_receipt,
    ],
)
async def test_a_broken_chain_is_found_on_the_first_level_and_nothing_else_is_judged(
    tamper: Callable[[Told], None],
) -> None:
    chain = await an_upload()
    tamper(chain)
    assert chain.forge().levels() == [MISMATCH, SKIPPED, SKIPPED]


async def test_every_block_that_is_taken_away_is_missed() -> None:
    chain = await an_upload()
    whole = dict(chain.blocks)
    for cid in whole:
        chain.blocks = {other: block for other, block in whole.items() if other != cid}
        assert chain.levels()[0] == MISMATCH, cid


async def test_what_the_store_derived_is_rebuilt_and_compared() -> None:
    async with a_world() as found:
        made = await found.send(UPLOAD, Added("s", "a", 5))
        await found.perform(Allocate=None)
        await found.perform(Stat=False)
        chain = await told(found, made)
        stored, rows = chain.stored, chain.rows
        assert stored is not None
        assert rows is not None
        assert len(rows) == 2
        assert chain.levels() == [OK, OK, OK]
        assert chain.levels([]) == [OK, OK, NOT_RERUN]
        for bad in (
            {"seq": 4},
            {"epoch": 2},
            {"at": 1},
            {"key": ["s", "b"]},
            {"version": 2},
            {"state": b"\xa0"},
            {"open": codec.encode([0, [], []])},
            {"open": b"\xff"},
        ):
            chain.stored = stored._replace(**bad)
            assert chain.levels()[1] == MISMATCH, bad
            assert chain.levels([])[1] == MISMATCH, bad
        chain.stored = stored._replace(tag="other")
        assert chain.levels()[1] == MISMATCH
        chain.stored = stored
        moved = [row._replace(due=row.due + 1) for row in rows]
        stranger = rows[0]._replace(id=CID.of(b"stranger"))
        table = [row._replace(timer=False) for row in rows]
        for wrong in (rows[:1], [*rows, stranger], moved, table):
            chain.rows = wrong
            assert chain.levels()[1] == MISMATCH


async def test_without_the_code_a_sleep_that_the_state_may_have_ended_is_no_mismatch() -> None:
    async with a_world() as found:
        made = await found.send(UPLOAD, Added("s", "a", 5))
        await found.perform(Allocate=None)
        await found.perform(Stat=False)
        await found.transactor.send(made, Claimed())
        await found.perform(Stat=True)  # stored: the sleep during `receiving` has ended
        chain = await told(found, made)
        assert chain.levels([]) == [OK, OK, NOT_RERUN]
        assert chain.levels() == [OK, OK, OK]


# --- archives -----------------------------------------------------------------------------------


def packed(chains: dict[CID, Sequence[Packed]]) -> bytes:
    out = io.BytesIO()
    car.write(out, *history.export(chains))
    return out.getvalue()


def archive(*files: bytes) -> history.Archive:
    found = history.Archive()
    for file in files:
        found.add(io.BytesIO(file))
    return found


async def test_an_exported_history_is_verified_without_the_store() -> None:
    chain = await an_upload()
    audit = history.verify_archive(
        archive(packed({chain.job: chain.packs})), workflows=sample.workflows
    )
    assert audit.between == []
    (report,) = audit.reports
    assert (report.job, report.head, report.status) == (chain.job, chain.head, OK)


async def test_a_job_is_exported_alone_and_of_others_only_links() -> None:
    async with a_world() as found:
        orders = await sample.orders(found)
        chains = {one.id: await found.store.revisions(one.id) for one in orders}
        quota = QUOTA.job("s").id
        alone = archive(packed({orders[0].id: chains[orders[0].id]}))
        audit = history.verify_archive(alone, workflows=sample.workflows)
        assert [(one.job, one.status) for one in audit.reports] == [(orders[0].id, OK)]
        chains[quota] = await found.store.revisions(quota)
        parts = [packed({one: chain}) for one, chain in chains.items()]
        for whole in (archive(packed(chains)), archive(*parts), archive(*parts[::-1], parts[0])):
            audit = history.verify_archive(whole, workflows=sample.workflows)
            assert {one.job for one in audit.reports} == chains.keys()
            assert {one.status for one in audit.reports} == {OK}
            assert audit.between == []


async def test_an_older_export_of_the_same_job_is_a_part_of_the_newer_one() -> None:
    chain = await an_upload()
    older = packed({chain.job: chain.packs[4:]})
    newer = packed({chain.job: chain.packs})
    for files in ((older, newer), (newer, older)):
        audit = history.verify_archive(archive(*files), workflows=sample.workflows)
        assert [one.head for one in audit.reports] == [chain.head]
        assert audit.between == []


async def test_two_heads_on_no_common_chain_are_a_fork() -> None:
    chain = await an_upload()
    first = packed({chain.job: chain.packs})
    chain.chain[8]["at"] += 1
    chain.forge()
    fork = Packed(chain.head, chain.blocks[chain.head], chain.packs[0].blocks)
    second = packed({chain.job: [fork, *chain.packs[1:]]})
    audit = history.verify_archive(archive(first, second), workflows=sample.workflows)
    assert any("two heads" in one.text for one in audit.between)


async def test_an_archive_whose_root_has_no_job_is_refused() -> None:
    chain = await an_upload()
    found = archive(packed({chain.job: chain.packs}))
    state = chain.line(8)["state"]
    del found.blocks[state]
    assert history.verify_archive(found).between != []
    del found.blocks[chain.head]
    assert history.verify_archive(found).between != []


async def test_an_export_of_what_is_missing_is_refused() -> None:
    chain = await an_upload()
    chain.packs[3] = chain.packs[3]._replace(blocks=())
    with pytest.raises(Corrupt):
        packed({chain.job: chain.packs})


async def test_every_flipped_bit_of_an_archive_is_refused_or_reported() -> None:
    async with a_world() as found:
        await sample.orders(found, count=1)
        order = ORDER.job("s", 0).id
        data = packed({order: (await found.store.revisions(order))[-1:]})
    assert history.verify_archive(archive(data), workflows=sample.workflows).reports[0].status == OK
    for at in range(len(data)):
        for bit in (0, 3, 7):
            bad = data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
            try:
                audit = history.verify_archive(archive(bad), workflows=sample.workflows)
            except CodecError:
                continue
            sound = [one.status for one in audit.reports] == [OK] and not audit.between
            assert not sound, (at, bit)


async def test_every_flipped_byte_of_every_block_is_reported_where_nobody_hashed_before() -> None:
    chain = await an_upload()
    whole = dict(chain.blocks)
    for cid, block in whole.items():
        for at in range(0, len(block), 7):
            chain.blocks = {**whole, cid: block[:at] + bytes([block[at] ^ 1]) + block[at + 1 :]}
            assert chain.verify(depth=1).status == MISMATCH


# --- several jobs -------------------------------------------------------------------------------


def revision(at: int, reads: Any, writes: Any, nonce: int = 0) -> Revision:
    """A made-up revision: reads {job: cid}, writes {job: (seq, prev)}."""
    lines = []
    for name, (seq, prev) in sorted(writes.items()):
        line = {
            "job": name,
            "workflow": ["w", 1],
            "seq": seq,
            "prev": prev,
            "epoch": 1,
            "receipts": [],
            "events": [],
            "state": CID.of(b"state"),
            "effects": [],
            "extra": [],
        }
        lines.append(line if prev is not None else line | {"key": [nonce]})
    cid, block = codec.block(
        {
            "v": 1,
            "delivery": None,
            "at": at,
            "reads": [[name, read] for name, read in sorted(reads.items())],
            "writes": lines,
        }
    )
    return history.read_revision(cid, block)


X, Y = sorted((CID.of(b"x"), CID.of(b"y")))


def test_a_serial_history_of_two_jobs_is_accepted() -> None:
    x1 = revision(1, {Y: None}, {X: (1, None)})
    y1 = revision(2, {X: x1.cid}, {Y: (1, None)})
    both = revision(3, {}, {X: (2, x1.cid), Y: (2, y1.cid)})
    assert history.between({X: [x1, both], Y: [y1, both]}) == []
    assert history.between({X: [x1, both]}) == []


def test_write_skew_is_found() -> None:
    """Each read the other's old state and wrote its own."""
    x1, y1 = revision(1, {}, {X: (1, None)}), revision(1, {}, {Y: (1, None)}, 1)
    x2 = revision(2, {Y: y1.cid}, {X: (2, x1.cid)})
    y2 = revision(2, {X: x1.cid}, {Y: (2, y1.cid)})
    findings = history.between({X: [x1, x2], Y: [y1, y2]})
    assert {one.revision for one in findings} == {x2.cid, y2.cid}


def test_write_skew_on_absent_jobs_is_found() -> None:
    x1, y1 = revision(1, {Y: None}, {X: (1, None)}), revision(1, {X: None}, {Y: (1, None)})
    assert len(history.between({X: [x1], Y: [y1]})) == 2


def test_a_stale_read_that_another_one_makes_visible_is_found() -> None:
    x1 = revision(1, {}, {X: (1, None)})
    x2 = revision(2, {}, {X: (2, x1.cid)})
    y1 = revision(3, {X: x2.cid}, {Y: (1, None)})
    y2 = revision(4, {X: x1.cid}, {Y: (2, y1.cid)})
    assert {one.revision for one in history.between({X: [x1, x2], Y: [y1, y2]})} == {
        x2.cid,
        y1.cid,
        y2.cid,
    }


def test_a_read_of_nothing_in_the_chain_is_found() -> None:
    x1 = revision(1, {}, {X: (1, None)})
    y1 = revision(2, {X: CID.of(b"elsewhere")}, {Y: (1, None)})
    (finding,) = history.between({X: [x1], Y: [y1]})
    assert "not in the chain" in finding.text


def test_a_revision_that_one_of_its_jobs_does_not_have_is_found() -> None:
    x1 = revision(1, {}, {X: (1, None)})
    both = revision(2, {}, {X: (2, x1.cid), Y: (1, None)})
    (finding,) = history.between({X: [x1], Y: [both]})
    assert "whose chain does not hold it" in finding.text


def test_a_read_of_something_younger_is_found() -> None:
    x1 = revision(5, {}, {X: (1, None)})
    y1 = revision(2, {X: x1.cid}, {Y: (1, None)})
    (finding,) = history.between({X: [x1], Y: [y1]})
    assert "younger" in finding.text


# --- reading revisions --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"v": True},
        {"at": "now"},
        {"at": None},
        {"delivery": [X]},
        {"delivery": [X, "text"]},
        {"reads": [[Y, None], [X, None]]},
        {"reads": [[X, None], [X, None]]},
        {"reads": [[X]]},
        {"reads": 5},
        {"writes": []},
        {"writes": [{}]},
        {"writes": None},
        {"more": 1},
    ],
)
def test_what_is_no_revision_is_refused(change: dict[str, Any]) -> None:
    good = revision(1, {Y: None}, {X: (1, None)})
    plain = {
        "v": 1,
        "delivery": None,
        "at": 1,
        "reads": [[Y, None]],
        "writes": [good.writes[0].plain],
    }
    assert history.read_revision(*codec.block(plain)) == good
    with pytest.raises(MalformedBlock):
        history.read_revision(*codec.block(plain | change))


def test_a_write_of_a_job_that_is_read_as_well_is_no_revision() -> None:
    with pytest.raises(MalformedBlock):
        revision(1, {X: None}, {X: (1, None)})


def test_a_block_under_another_cid_is_refused() -> None:
    _, block = codec.block({"v": 1})
    with pytest.raises(HashMismatch):
        history.read_revision(X, block)


async def test_a_walk_goes_from_the_head_to_the_first_and_misses_what_is_not_there() -> None:
    chain = await an_upload()
    seqs = [
        one.line(chain.job).seq for one in history.walk(chain.job, chain.head, chain.blocks.get)
    ]
    assert seqs == list(range(9, 0, -1))
    with pytest.raises(NotFound):
        list(history.walk(X, chain.head, chain.blocks.get))
    with pytest.raises(NotFound):
        list(history.walk(chain.job, X, chain.blocks.get))


# --- comparing ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": True}, [(("a",), "changed", 1, True)]),
        ({"a": 1}, {"a": 1.0}, [(("a",), "changed", 1, 1.0)]),
        ({"a": 1}, {"b": 2}, [(("a",), "removed", 1, None), (("b",), "added", None, 2)]),
        ([1, 2, 3], [1, 3], [((1,), "removed", 2, None)]),
        ([1, 3], [1, 2, 3], [((1,), "added", None, 2)]),
        ([{"x": 1}, 2], [{"x": 3}, 2], [((0, "x"), "changed", 1, 3)]),
        ([1, 2, 3, 4], [1, 5, 4], [((1,), "changed", 2, 5), ((2,), "removed", 3, None)]),
        ([], [], []),
        (None, {}, [((), "changed", None, {})]),
        ({"a": X}, {"a": Y}, [(("a",), "changed", X, Y)]),
    ],
)
def test_differences_are_listed_by_path(before: Any, after: Any, changes: Any) -> None:
    assert [tuple(one) for one in history.diff(before, after)] == changes


async def test_revisions_differ_by_the_states_of_the_jobs_that_both_write() -> None:
    chain = await an_upload()
    one, two = [
        history.read_revision(packed.cid, packed.revision)
        for packed in (chain.packs[1], chain.packs[0])
    ]
    name = str(chain.job)
    assert [change[:2] for change in history.diff_revisions(one, two, chain.blocks.get)] == [
        ((name, "state", "f", "note"), "changed"),
        ((name, "state", "f", "status"), "changed"),
    ]


# --- reasons ------------------------------------------------------------------------------------


async def test_everything_in_a_history_has_its_reason() -> None:
    chain = await an_upload()
    walk = list(history.walk(chain.job, chain.head, chain.blocks.get))[::-1]

    def why(cid: CID) -> list[history.Reason]:
        return history.why(cid, walk, chain.job, chain.blocks.get)

    (last,) = why(chain.head)
    assert last.role == "revision"
    assert last.before == chain.line(7)["state"]
    assert last.cause is not None
    assert last.cause.leaf is not None
    assert (last.cause.leaf.tag, last.cause.leaf.seq) == ("Stat", 7)
    assert last.cause.leaf.effect == chain.line(6)["effects"][0][1]
    assert last.cause.fired == ("Failed",)
    assert last.cause.outcome == Err("Gone", last.cause.outcome.detail)
    assert [one.role for one in why(chain.line(8)["events"][0])] == ["event"]
    assert [one.role for one in why(chain.line(8)["receipts"][0])] == ["receipt"]
    assert [one.role for one in why(chain.line(6)["effects"][0][1])] == ["effect"]
    armed, settled = why(last.cause.task)
    assert (armed.step.line.seq, settled.step.line.seq) == (8, 9)
    assert [one.step.line.seq for one in why(chain.line(0)["state"])] == [1, 2]
    (first,) = why(walk[0].cid)
    assert first.cause is None
    assert first.before is None
    assert first.step.revision.delivery == (chain.job, b"first")
    assert why(X) == []


async def test_a_ledger_tells_what_each_write_armed_settled_and_ended() -> None:
    async with a_world() as found:
        chain = await told(found, await sample.stored(found))
    walk = list(history.walk(chain.job, chain.head, chain.blocks.get))[::-1]
    ledger = history.Ledger(chain.job, chain.blocks.get, lambda line, state: state()["f"]["status"])
    steps = [ledger.apply(one) for one in walk]
    assert [[leaf.tag for leaf in step.armed] for step in steps] == [
        ["Allocate"],
        ["Stat"],
        ["sleep", "sleep"],
        ["Stat"],
        ["Mark", "Mark"],
        [],
        [],
    ]
    assert [leaf.tag for leaf in steps[4].ended] == ["sleep", "sleep"]
    assert [one.leaf.tag for step in steps for one in step.settled if one.leaf is not None] == [
        "Allocate",
        "Stat",
        "Stat",
        "Mark",
        "Mark",
    ]
    assert ledger.rows == {}
