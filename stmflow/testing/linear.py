"""Checkers of what really happened: pure functions over a history and the chains at rest.

A history is what clients saw, in Jepsen's shape: one mapping a line, in real-time order, with
`type` (invoke, ok, fail: did not happen, info: unknown), `f` (send, transact, read), `process`,
`job`, `op` (one number for all lines of one operation), `delivery` (hexadecimal, or None) and,
when ok, `answer`, `revision`, `seq`, `repeated`. `value` is a number that the operation leaves in
its job's state. A revision names its parent, so the order of versions is given, not inferred, and
checking is one pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

Line = Mapping[str, Any]

MOVED = ("committed",)
"""Answers that say: a revision was written."""


class Link(NamedTuple):
    """One revision of one job's chain: its CID, parent, number and the delivery that caused it."""

    revision: str
    prev: str | None
    seq: int
    delivery: tuple[str, str] | None


def check_chain(job: str, chain: Sequence[Link], history: Iterable[Line]) -> list[str]:
    """Whether what clients saw of a job is its chain (oldest first), in real time.

    No two revisions share a parent; every acknowledged commit is in the chain, under its delivery;
    a failed or refused delivery is not, an unknown one once or never; what began after position p
    was seen stands behind p or shows p or later. So no read shows what nobody committed, or what
    began after it ended.
    """
    mine = [line for line in history if line["job"] == job]
    return [
        f"{job}: {problem}"
        for problem in (*_shape(chain), *_answers(job, chain, mine), *_time(job, chain, mine))
    ]


def _shape(chain: Sequence[Link]) -> Iterable[str]:
    prev = None
    for number, link in enumerate(chain, 1):
        if link.prev != prev or link.seq != number:
            found = f"{link.revision} is {link.seq} on {link.prev}"
            yield f"fork or gap: {found}, not {number} on {prev}"
        prev = link.revision
    causes = Counter(link.delivery for link in chain if link.delivery is not None)
    yield from (f"delivery {cause} was applied {n} times" for cause, n in causes.items() if n > 1)


def _answers(job: str, chain: Sequence[Link], history: Sequence[Line]) -> Iterable[str]:
    place = {link.revision: link for link in chain}
    caused = {link.delivery for link in chain}
    sent = {(job, line["delivery"]) for line in history if line.get("delivery")}
    first: dict[str, tuple[Any, ...]] = {}
    owner: dict[str, Any] = {}
    for line in history:
        delivery, answer = line.get("delivery"), line.get("answer")
        if line["type"] == "fail" and delivery and (job, delivery) in caused:
            yield f"failed delivery {delivery} was applied"
        if line["type"] != "ok" or isinstance(answer, Mapping):
            continue
        if line.get("revision") is None:  # where no job is, a refusal is not remembered
            if answer in MOVED or line.get("seq"):
                yield f"{line['f']} saw {line.get('seq')}, and no revision"
            continue
        if answer is not None and answer not in MOVED and (job, delivery) in caused:
            yield f"delivery {delivery} was applied, and answered {answer}"
        found = place.get(line["revision"])
        if found is None or found.seq != line["seq"]:
            yield f"lost or dirty: {line['f']} saw {line['revision']} at {line['seq']}"
        elif answer in MOVED:
            who = delivery or (line["process"], line.get("op"))
            if delivery and found.delivery != (job, delivery):
                yield f"delivery {delivery} was answered with the revision of {found.delivery}"
            elif owner.setdefault(line["revision"], who) != who:
                yield f"{line['revision']} is the answer to {owner[line['revision']]} and to {who}"
            elif not delivery and found.delivery in sent:
                yield f"{who} was answered with the revision of {found.delivery}"
        if line["f"] == "send" and delivery:
            told = (answer, line["revision"])
            if first.setdefault(delivery, told) != told:
                yield f"delivery {delivery} got two answers: {first[delivery]} and {told}"


def _time(job: str, chain: Sequence[Link], history: Sequence[Line]) -> Iterable[str]:
    """Real time: what had been seen before an operation began stands before what it did, and is
    part of what it sees. Of unknown ones the chain says where they stand."""
    floor = 0
    at_least: dict[Any, int] = {}
    place = {link.delivery: link.seq for link in chain if link.delivery is not None}
    for line in history:
        delivery = line.get("delivery")
        who = delivery or (line["process"], line.get("op"))
        if line["type"] == "invoke":
            if delivery and who in at_least:
                continue  # sent again
            at_least[who] = floor
            seq = place.get((job, delivery)) if delivery else None
            if seq is not None and seq <= floor:
                yield f"delivery {delivery} is at {seq}, though {floor} was seen before it was sent"
        elif line["type"] == "ok" and line.get("seq") is not None:
            seq, bound = line["seq"], at_least.get(who, 0)
            if line.get("answer") not in MOVED and seq < bound:
                yield f"stale: {line['f']} saw {seq}, though {bound} was seen before it began"
            elif line.get("answer") in MOVED and not delivery and seq <= bound:
                yield f"{line['f']} was put at {seq}, though {bound} was seen before it began"
            floor = max(floor, seq)


def check_values(job: str, applied: Sequence[int], history: Iterable[Line]) -> list[str]:
    """Whether each operation's value was applied as often as its sender was told, and in time.

    Args:
        applied: the values that the job's final state holds, in order.
    """
    problems = []
    times = Counter(applied)
    place = {value: number for number, value in enumerate(applied)}
    done: dict[int, bool] = {}
    last = -1
    before: dict[int, int] = {}
    known = set()
    for line in history:
        value = line.get("value")
        if line["job"] != job or value is None:
            continue
        known.add(value)
        if line["type"] == "invoke":
            before[value] = last
        elif line["type"] == "ok" and moved(line):
            done[value] = True
            if place.get(value, 1 << 60) <= before.get(value, -1):
                problems.append(f"{job}: {value} stands before what was acknowledged before it")
            last = max(last, place.get(value, -1))
        elif line["type"] != "info":
            done.setdefault(value, False)
    for value in sorted(known):
        count = times[value]
        if count > 1:
            problems.append(f"{job}: {value} was applied {count} times")
        elif done.get(value) is True and not count:
            problems.append(f"{job}: {value} was acknowledged and is lost")
        elif done.get(value) is False and count:
            problems.append(f"{job}: {value} was refused, and applied all the same")
    problems += [f"{job}: {value} was never sent" for value in times if value not in known]
    return problems


def moved(line: Line) -> bool:
    """Whether an ok line says that its value was applied."""
    answer = line.get("answer")
    return bool(answer.get("moved")) if isinstance(answer, Mapping) else answer in MOVED


def check_outbox(
    armed: Collection[str],
    receipts: Sequence[str],
    withdrawn: Collection[str],
    rows: Mapping[str, bool],
) -> list[str]:
    """Conservation at rest: each committed task is settled exactly once, and nothing is left over.

    Args:
        armed: the ids of all tasks that revisions put into the outbox.
        receipts: the task of each receipt in the chains.
        withdrawn: tasks that a later write cancelled or replaced.
        rows: what is in the outbox: id → whether it is parked.
    """
    problems = [f"outbox row of no revision: {task}" for task in sorted(set(rows) - set(armed))]
    counts = Counter(receipts)
    for task in sorted(armed):
        settled = counts[task] + (task in withdrawn) + (task in rows)
        if settled != 1:
            fate = f"{counts[task]} receipts, withdrawn {task in withdrawn}, row {task in rows}"
            problems.append(f"task {task} is settled {settled} times: {fate}")
    problems += [f"task {task} has {n} receipts" for task, n in sorted(counts.items()) if n > 1]
    problems += [f"row left over: {task}" for task, parked in sorted(rows.items()) if not parked]
    return problems


def check_runs(performed: Mapping[str, int], receipts: Collection[str], *, once: bool) -> list[str]:
    """Whether each settled task ran: at least once, or, in a world without faults, exactly once.

    Args:
        performed: task → how often its handler began.
        receipts: tasks with a receipt that only a handler can have caused.
    """
    problems = [
        f"{task} was settled and never ran" for task in sorted(set(receipts) - set(performed))
    ]
    if once:
        problems += [f"{task} ran {n} times" for task, n in sorted(performed.items()) if n > 1]
    return problems
