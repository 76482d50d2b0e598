"""What the graph checker is given: transactions, read from a store at rest and from histories.

    anomalies = await check_store(store, history)     # every revision, and in which real time
    anomalies = check_history(history)                # what clients saw, and nothing else

A revision names what it read and what it replaced, so the chains alone hold all dependencies. The
history (`stmflow.testing.jepsen`) adds when each operation began and ended, and what reads and
refusals saw. Without a store the order of versions comes from the numbers in the answers, from the
reads of a transaction (what it saw of a key is what it replaced), or from the lists it saw.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stmflow import codec
from stmflow.cid import CID
from stmflow.store import Packed, Store
from stmflow.testing.graph import Anomaly, Transaction, check_graph
from stmflow.testing.jepsen import Line
from stmflow.testing.linear import Link, check_chain, moved
from stmflow.testing.microops import check_microops

PAGE = 256

Write = tuple[str, str, str | None]


async def check_store(
    store: Store, history: Iterable[Line] = (), *, whole: bool | None = None
) -> list[Anomaly]:
    """What is wrong with a store's chains and with what clients saw of them, job by job (`chain`)
    and over all jobs.

    Args:
        store: at rest.
        history: lines of `send`, `transact` and `read`; without them there is no real time, and a
            prefix that was cut off is no anomaly.
        whole: a revision that is named and not there is an anomaly. Default: unless the store has
            archives. Give False for a store that has discarded history.
    """
    whole = not await store.archives() if whole is None else whole
    lines, found, after = list(history), list[Anomaly](), None
    mine: dict[str | None, list[Line]] = {}
    for line in lines:
        mine.setdefault(line.get("job"), []).append(line)
    while rows := await store.jobs(after=after, limit=PAGE):
        for row in rows:
            packs = list(reversed(await store.revisions(row.job)))
            if whole or (packs and _seq(packs[0], row.job) == 1):
                name = str(row.job)
                problems = check_chain(name, links(row.job, packs), mine.get(name, ()))
                found += [Anomaly("chain", problem) for problem in problems]
        after = rows[-1].job
    return [*found, *await check_order(store, lines, whole=whole)]


async def check_order(
    store: Store, history: Iterable[Line] = (), *, whole: bool = True
) -> list[Anomaly]:
    """What keeps a store's revisions, and what clients saw of them, from being strictly
    serializable: the part of `check_store` that looks at all jobs together."""
    return check_revisions(await revisions(store), history, whole=whole)


async def revisions(store: Store) -> list[Packed]:
    """Every revision that the store holds, in the order of their commits."""
    logged = [one async for one in _log(store, archived=True)]
    logged += [one async for one in _log(store, archived=False)]
    return [packed for _, packed in sorted(logged, key=lambda one: one[0])]


def links(job: CID, chain: Iterable[Packed]) -> list[Link]:
    """A chain, oldest first, in the form that the chain checker reads."""
    found = []
    for packed in chain:
        revision = codec.decode(packed.revision)
        write = next(write for write in revision["writes"] if write["job"] == job)
        prev = None if write["prev"] is None else str(write["prev"])
        cause = revision["delivery"]
        delivery = None if cause is None else (str(cause[0]), cause[1].hex())
        found.append(Link(str(packed.cid), prev, write["seq"], delivery))
    return found


def _seq(packed: Packed, job: CID) -> int:
    return links(job, [packed])[0].seq


async def _log(store: Store, *, archived: bool) -> Any:
    after = 0
    while page := await store.log(after=after, limit=PAGE, archived=archived):
        for logged in page:
            yield logged
        after = page[-1].place


def check_revisions(
    packs: Iterable[Packed], history: Iterable[Line] = (), *, whole: bool = True
) -> list[Anomaly]:
    """`check_order` of revisions that are at hand, in the order of their commits if it is known."""
    committed = _committed(packs)
    lost, seen = _meet(committed, list(history))
    return [*(lost if whole else ()), *check_graph(_transactions(committed, seen), whole=whole)]


def transactions(packs: Iterable[Packed], history: Iterable[Line] = ()) -> list[Transaction]:
    """What the graph checker is given, for whoever wants to look at it or to hand it on
    (`stmflow.testing.elle`)."""
    committed = _committed(packs)
    _, seen = _meet(committed, list(history))
    return _transactions(committed, seen)


def check_history(history: Iterable[Line]) -> list[Anomaly]:
    """What keeps the answers that clients got from being strictly serializable.

    Two shapes of lines are read. `txn`: `value` lists what it did, as `["r", key, version]`,
    `["w", key, version]`, or `["append", key, element]` and reads of whole lists. `send`,
    `transact` and `read` of jobs: `job`, `revision` and `seq` of their answers.
    """
    lines = list(history)
    answered = _answered(lines)
    _, seen = _meet(answered, lines)
    found = check_graph(_transactions(answered, seen), whole=False) if answered or seen else []
    return [*check_microops([line for line in lines if line["f"] == "txn"]), *found]


@dataclass(slots=True)
class _Revision:
    """A revision as far as it matters here. `told`: the operation that was answered with it.
    `began`, `ended`: places in the history."""

    reads: Sequence[tuple[str, str | None]] = ()
    writes: list[Write] = field(default_factory=list)
    delivery: tuple[str, str] | None = None
    told: str = ""
    began: int | None = None
    ended: int | None = None


def _committed(packs: Iterable[Packed]) -> dict[str, _Revision]:
    """Revision → what its block says."""
    texts: dict[bytes, str] = {}

    def text(cid: CID) -> str:
        found = texts.get(cid.bytes)
        if found is None:
            found = texts[cid.bytes] = str(cid)
        return found

    committed = {}
    for packed in packs:
        plain, name, cause = codec.decode(packed.revision), text(packed.cid), None
        if plain["delivery"] is not None:
            cause = (text(plain["delivery"][0]), plain["delivery"][1].hex())
        reads = [(text(job), None if read is None else text(read)) for job, read in plain["reads"]]
        writes = [
            (text(write["job"]), name, None if write["prev"] is None else text(write["prev"]))
            for write in plain["writes"]
        ]
        committed[name] = _Revision(reads, writes, cause)
    return committed


def _answered(lines: Sequence[Line]) -> dict[str, _Revision]:
    """Revision → what can be told of it from numbers in answers: its place in each job's order."""
    places: dict[str, dict[int, dict[str, None]]] = {}
    for line in lines:
        if line["type"] == "ok" and line.get("revision") is not None:
            places.setdefault(line["job"], {}).setdefault(line["seq"], {})[line["revision"]] = None
    answered: dict[str, _Revision] = {}
    for job, chain in places.items():
        old: str | None = None
        for seq in sorted(chain):
            for name in chain[seq]:
                one = answered.setdefault(name, _Revision())
                one.writes.append((job, name, old))
            old = name
    return answered


def _meet(
    revisions: Mapping[str, _Revision], lines: Sequence[Line]
) -> tuple[list[Anomaly], list[Transaction]]:
    """Give the revisions their real time. What acknowledges others is lost; what only saw one is a
    transaction of its own."""
    began: dict[Any, int] = {}
    ended: dict[Any, int] = {}
    lost: list[Anomaly] = []
    seen: list[Transaction] = []
    for place, line in enumerate(lines):
        delivery = line.get("delivery")
        who = (line.get("job"), delivery) if delivery else (line["process"], line.get("op"))
        if line["type"] == "invoke":
            if not delivery or who not in began:  # a delivery may be sent again
                began[who] = place
        elif line["type"] == "ok":
            # Where no job is, a refusal is not remembered: the delivery may still be applied.
            nowhere = line.get("revision", "") is None
            first = nowhere or ended.setdefault(who, place) == place
            if "revision" not in line:
                continue
            name = f"{line['f']} {line.get('op', place)} of process {line['process']}"
            if not moved(line):
                if first or not delivery:
                    read = [(line["job"], line["revision"])]
                    seen.append(Transaction(name, read, (), began.get(who), place))
            elif (one := revisions.get(line["revision"])) is None:
                text = f"{name} was told of {line['revision']}, which is not there"
                lost.append(Anomaly("lost-write", text, (name,)))
            else:
                one.told = one.told or name
                one.began = _least(one.began, began.get(who))
                one.ended = _least(one.ended, place)
    for one in revisions.values():
        if one.delivery in began:
            one.began = _least(one.began, began[one.delivery])
            one.ended = _least(one.ended, ended.get(one.delivery))
    return lost, seen


def _least(one: int | None, other: int | None) -> int | None:
    return min((value for value in (one, other) if value is not None), default=None)


def _transactions(
    revisions: Mapping[str, _Revision], seen: Sequence[Transaction]
) -> list[Transaction]:
    made = []
    for cid, one in revisions.items():
        name = f"revision {cid[:16]}…" + (f" ({one.told})" if one.told else "")
        made.append(Transaction(name, one.reads, one.writes, one.began, one.ended, one.delivery))
    return [*made, *seen]
