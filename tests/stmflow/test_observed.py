"""What is read from a store at rest, beside what its clients saw: what is true passes, what was
planted is told in its class."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from scheduler.testing.faults import at_once
from scheduler.testing.orders import (
    COUNTER,
    ORDER,
    TRANSACTIONAL,
    WORKFLOWS,
    Abort,
    Add,
    Deposit,
    OpenAccount,
    Start,
    purse,
    transfer,
)
from stmflow import CELL, CID, Transactor, codec
from stmflow.cell import Set
from stmflow.errors import Indeterminate
from stmflow.store import Batch, Commit, Drop, Packed
from stmflow.store.memory import MemoryStore
from stmflow.store.sqlite import SQLiteStore
from stmflow.testing import Recorder, check_history, check_store
from stmflow.testing.__main__ import main
from stmflow.testing.jepsen import dumps, loads
from stmflow.testing.microops import check_microops
from stmflow.testing.observed import check_order, check_revisions, revisions
from stmflow.testing.replay import replay
from stmflow.workflow import Registry
from stmflow.workflow import job as job_of
from tests.campaign.graph import Run, check
from tests.stmflow.versions import ONE, Grow1, Open

History = list[dict[str, Any]]
A, B = CELL.job("a"), CELL.job("b")


@pytest.fixture
async def lived(tmp_path: Path) -> AsyncIterator[tuple[Any, History]]:
    """A store in which things have happened, and what its clients saw."""
    history: History = []
    async with SQLiteStore.open(str(tmp_path / "jobs.db")) as store:
        async with Transactor(store, WORKFLOWS) as transactor:
            client = Recorder(transactor, history)
            assert await client.get(purse("p")) is None
            await client.send(purse("p"), Deposit("p", 1, 50), delivery="fund p")
            await client.send(purse("q"), Deposit("q", 2, 50))
            async with anyio.create_task_group() as group:
                for op in range(10, 20):
                    group.start_soon(client.send, COUNTER, Add("c", op, 1))
                    group.start_soon(client.get, purse("pq"[op % 2]))
                    group.start_soon(_transfer, client, op)
            await client.send(purse("p"), Deposit("p", 1, 50), delivery="fund p")
            for job in (purse("p"), purse("q"), COUNTER.job("c")):
                await client.get(job)
        yield store, history


async def _transfer(client: Recorder, op: int) -> None:
    body = transfer("p", "q", op, 3)
    await client.transact(body, at=purse("p"), delivery=f"transfer {op}")


Lived = tuple[Any, History]


async def told(store: Any, history: History) -> list[str]:
    return [one.kind for one in await check_order(store, history)]


# --- what is true


async def test_what_happened_passes_whole_and_in_parts(lived: Lived) -> None:
    store, history = lived
    assert await check_store(store, history) == []
    assert await check_store(store) == []
    assert check_history(history) == []
    assert await check_store(store, loads(dumps(history))) == []
    assert len(await revisions(store)) == 22, "2 deposits, 10 additions, 10 transfers"


async def test_what_a_stranger_is_refused_is_not_remembered(lived: Lived) -> None:
    """Seed 33071889584: the same delivery is another one when the job is there."""
    store, history = lived
    async with Transactor(store, WORKFLOWS, transactional=TRANSACTIONAL) as transactor:
        client = Recorder(transactor, history)
        await client.send(job_of("account", "a"), OpenAccount("a", 40))
        assert (await client.send(ORDER, Abort("o"), delivery="abort")).code == "Unknown"
        await client.send(ORDER, Start("o", "a", 5), delivery="start")
        assert (await client.send(ORDER, Abort("o"), delivery="abort")).committed
    assert await check_store(store, history) == []


async def test_history_that_has_left_is_no_anomaly(lived: Lived) -> None:
    store, history = lived
    away = [(one.place, one.packed.cid) for one in (await store.log())[:9]]
    await store.commit(Batch([Drop(away, CID.of(b"archive"))]))
    assert len(await revisions(store)) < 22
    assert await check_store(store, history) == []


async def test_a_refusal_where_no_job_is_may_be_followed_by_a_commit_under_the_same_id() -> None:
    history: History = []
    store = MemoryStore()
    async with Transactor(store, [ONE]) as transactor:
        client = Recorder(transactor, history)
        answers = [
            await client.send(ONE, Grow1("f", 1), delivery="grow"),
            await client.send(ONE, Open("f"), delivery="open"),
            await client.send(ONE, Grow1("f", 1), delivery="grow"),
        ]
    assert [answer.kind for answer in answers] == ["ignored", "committed", "committed"]
    assert await check_store(store, history) == []


async def test_a_recorder_tells_failure_from_the_unknown() -> None:
    history: History = []

    class Broken:
        """Answers nothing but errors."""

        class clock:
            now = staticmethod(lambda: 0)

        async def send(self, *args: Any, **more: Any) -> None:
            raise Indeterminate("unknown")

        async def get(self, job: Any) -> None:
            raise ValueError

        async def transact(self, body: Any, **more: Any) -> None:
            await anyio.sleep_forever()

    client = Recorder(Broken(), history)  # type: ignore[arg-type]
    with pytest.raises(Indeterminate):
        await client.send(A, Set(1), delivery=b"\x01")
    with pytest.raises(ValueError):
        await client.get(A)
    with anyio.move_on_after(0.01):
        await client.transact(lambda tx: None)
    types = [line["type"] for line in history]
    assert types == ["invoke", "info", "invoke", "fail", "invoke", "info"]
    assert history[0]["delivery"] == "01"


# --- planted in what clients saw


def read_of(history: History, job: str, place: int) -> dict[str, Any]:
    """A read of that job that was answered, by its place among them."""
    return [
        line for line in history if (line["type"], line["f"], line["job"]) == ("ok", "read", job)
    ][place]


async def test_a_stale_read(lived: Lived) -> None:
    store, history = lived
    job = str(COUNTER.job("c").id)
    first = next(line for line in history if line["job"] == job and line.get("seq") == 1)
    read_of(history, job, -1).update(revision=first["revision"], seq=1)
    assert await told(store, history) == ["G-single-realtime"]
    assert [one.kind for one in check_history(history)] == ["G-single-realtime"]
    assert "chain" in [one.kind for one in await check_store(store, history)]


async def test_a_dirty_read(lived: Lived) -> None:
    store, history = lived
    nowhere = str(CID.of(b"never committed"))
    read_of(history, str(purse("p").id), -1).update(revision=nowhere)
    assert await told(store, history) == ["G1a"]


async def test_a_read_of_the_future(lived: Lived) -> None:
    store, history = lived
    last = read_of(history, str(purse("p").id), -1)
    first = read_of(history, str(purse("p").id), 0)
    first.update(revision=last["revision"], seq=last["seq"])
    assert "realtime" in (await told(store, history))[0]


async def test_a_lost_write(lived: Lived) -> None:
    store, history = lived
    one = next(line for line in history if line.get("answer") == "committed")
    one["revision"] = str(CID.of(b"lost"))
    assert "lost-write" in await told(store, history)


async def test_a_commit_before_what_was_acknowledged(lived: Lived) -> None:
    """The first deposit of q, told as if it had been sent when all was over."""
    store, history = lived
    mine = [n for n, line in enumerate(history) if line["op"] == history[4]["op"]]
    late = [history[n] for n in mine]
    rest = [line for n, line in enumerate(history) if n not in mine]
    assert "realtime" in (await told(store, rest + late))[0]


async def test_a_process_without_numbers_for_its_operations(lived: Lived) -> None:
    """Jepsen's own lines have none: a process does one thing at a time."""
    store, history = lived
    job = str(purse("q").id)
    seen = read_of(history, job, -1)
    plain = {"process": 7, "f": "read", "job": job}
    for seq, revision in ((seen["seq"], seen["revision"]), (0, None)):
        history += [
            {**plain, "type": "invoke"},
            {**plain, "type": "ok", "seq": seq, "revision": revision},
        ]
    assert await told(store, history[:-2]) == []
    assert await told(store, history) == ["G-single-realtime"]


# --- planted in the revisions


async def planted(
    lived: Lived, damage: Callable[[dict[str, Any], list[Packed]], None]
) -> list[str]:
    """The anomalies of the same revisions with one more, made from the last transfer."""
    store, history = lived
    packs = await revisions(store)
    last = next(p for p in reversed(packs) if len(codec.decode(p.revision)["writes"]) == 2)
    plain = codec.decode(last.revision)
    damage(plain, packs)
    block = codec.encode(plain)
    packs.append(Packed(CID.of(block), block, ()))
    return [one.kind for one in check_revisions(packs, history)]


async def test_a_fork(lived: Lived) -> None:
    def fork(plain: dict[str, Any], packs: list[Packed]) -> None:
        plain["at"] += 1
        plain["delivery"] = None

    assert "lost-update" in await planted(lived, fork)


async def test_a_doubled_delivery(lived: Lived) -> None:
    def again(plain: dict[str, Any], packs: list[Packed]) -> None:
        for write in plain["writes"]:
            chain = [
                (other["seq"], pack.cid)
                for pack in packs
                for other in codec.decode(pack.revision)["writes"]
                if other["job"] == write["job"]
            ]
            write["seq"], write["prev"] = max(chain)[0] + 1, max(chain)[1]

    assert "duplicate" in await planted(lived, again)


async def test_a_commit_on_what_nobody_wrote(lived: Lived) -> None:
    def gap(plain: dict[str, Any], packs: list[Packed]) -> None:
        plain["delivery"] = None
        for write in plain["writes"]:
            write["prev"] = CID.of(b"nowhere")

    assert "dirty-update" in await planted(lived, gap)


async def test_a_state_that_was_changed_in_its_chain(lived: Lived) -> None:
    store, _ = lived
    job = purse("p").id
    chain = list(reversed(await store.revisions(job)))
    registry = Registry([*WORKFLOWS, CELL])
    assert replay(registry, job, chain).problems == []
    for number, pack in enumerate(chain):
        (state,) = [w["state"] for w in codec.decode(pack.revision)["writes"] if w["job"] == job]
        flipped = [b[:-1] + bytes([b[-1] ^ 1]) if CID.of(b) == state else b for b in pack.blocks]
        damaged = [*chain[:number], pack._replace(blocks=flipped), *chain[number + 1 :]]
        assert replay(registry, job, damaged).problems != []


# --- planted in the engine


def test_the_engine_passes() -> None:
    for number in range(3):
        run = Run(number, each=6)
        run.go()
        assert check(run) == []
        assert {line["type"] for line in run.history} >= {"invoke", "ok"}


def both_tell(kinds: tuple[str, ...]) -> bool:
    """Whether one of these classes is told of what clients saw, and one of the revisions."""
    seen, found = False, False
    for number in range(32):
        run = Run(number, each=6)
        run.go()
        seen |= any(one.kind.startswith(kinds) for one in check_microops(run.history))
        order = at_once(check_order(run.store, run.history))
        found |= any(one.kind.startswith(kinds) for one in order)
        if seen and found:
            break
    return seen and found


def test_an_engine_that_compares_no_reads_skews_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = MemoryStore._refuse

    def refuse(self: MemoryStore, commit: Commit) -> Any:
        kept, commit.reads = commit.reads, ()
        try:
            return whole(self, commit)
        finally:
            commit.reads = kept

    monkeypatch.setattr(MemoryStore, "_refuse", refuse)
    assert both_tell(("G-single", "G2-item"))


def test_an_engine_that_compares_nothing_loses_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = MemoryStore._refuse

    def refuse(self: MemoryStore, commit: Commit) -> Any:
        return whole(self, Commit(delivery=commit.delivery))

    monkeypatch.setattr(MemoryStore, "_refuse", refuse)
    assert both_tell(("lost-update",))


# --- the command, with a database


async def test_the_command_reads_the_database(
    lived: Lived, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, history = lived
    file, elle, database = tmp_path / "h.jsonl", tmp_path / "elle.json", str(tmp_path / "jobs.db")
    file.write_text(dumps(history))
    words = ["check", str(file), "--database", database, "--elle", str(elle)]
    assert await anyio.to_thread.run_sync(main, words) == 0
    assert capsys.readouterr().out.endswith("37 operations, no anomaly\n")
    assert check_microops(loads(elle.read_text())) == []
    read_of(history, str(purse("p").id), -1).update(revision=str(CID.of(b"never")))
    file.write_text(dumps(history))
    assert await anyio.to_thread.run_sync(main, words) == 1
    assert "G1a: read" in capsys.readouterr().out


def test_elle_is_written_of_a_database(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as left:
        main(["check", str(tmp_path / "h.jsonl"), "--elle", str(tmp_path / "elle.json")])
    assert left.value.code == 2
