"""Random histories of one job: two checkers that know nothing of each other say the same of each.

The chain checker is told the parents and makes one pass; the search tries every order. Half of the
histories are damaged in one place. Damage may leave a history that is still right: then both must
pass it. An undamaged one must pass both, and the graph checker as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from stmflow.testing.linear import Link, check_chain
from stmflow.testing.observed import check_history
from stmflow.testing.search import Operation, job, linearizable
from tests.campaign.part import Part, Step, Violation

JOB = "job"
SLICE = 500
OPERATIONS = 50

History = list[dict[str, Any]]


# --- the true model -------------------------------------------------------------------------------


def drawn(random: Random) -> tuple[list[str], History]:
    """The deliveries of a chain, and what clients saw of it: at most 50 operations that overlap,
    each taking effect at one moment between its lines, or never if its fate is unknown."""
    chain: list[str] = []
    history: History = []
    waiting: list[dict[str, Any]] = []
    left, overlap = random.randint(1, OPERATIONS), random.choice((2, 4, 8))
    unsure = random.choice((0, 0, 1, 3))  # every one more makes the search many times longer
    op = 0
    while left or waiting:
        if left and len(waiting) < overlap and random.random() < 0.5:
            left, op = left - 1, op + 1
            one: dict[str, Any] = {"f": random.choice(("send", "read")), "process": op, "op": op}
            one |= {"job": JOB, "delivery": None, "seen": None}
            if one["f"] == "send" and random.random() < 0.8:
                one["delivery"] = f"d{op}"
            waiting.append(one)
            history.append(_line("invoke", one))
        elif waiting:
            one = random.choice(waiting)
            if one["seen"] is None:
                one["seen"] = _take(one, chain, random)
            else:
                waiting.remove(one)
                ended = _ended(one, chain, unsure > 0, random)
                unsure -= ended[0]["type"] == "info"
                history += ended
        if unsure and random.random() < 0.02:
            unsure -= 1
            chain.append(f"inside {op} {len(chain)}")
    return chain, history


def _take(one: dict[str, Any], chain: list[str], random: Random) -> int:
    """The operation takes effect: the number that it sees."""
    one["answer"] = "rejected" if random.random() < 0.1 else "committed"
    if one["f"] == "send" and one["answer"] == "committed":
        chain.append(one["delivery"] or f"nonce{one['op']}")
    return len(chain)


def _ended(one: dict[str, Any], chain: list[str], unsure: bool, random: Random) -> History:
    if one["f"] == "send" and unsure and random.random() < 0.2:
        return [_line("info", one)]
    seq = one["seen"]
    more = {"seq": seq, "revision": f"r-{chain[seq - 1]}" if seq else None}
    if one["f"] == "send":
        more |= {"answer": one["answer"], "repeated": False}
    ok = _line("ok", one, **more)
    return [ok, {**ok, "repeated": True}] if one["delivery"] and random.random() < 0.05 else [ok]


def _line(kind: str, one: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {k: one[k] for k in ("f", "process", "op", "job", "delivery")} | {"type": kind} | more


# --- damage ---------------------------------------------------------------------------------------

Damage = Callable[[list[str], History, Random], None]


def other_place(chain: list[str], history: History, random: Random) -> None:
    """An answer or a read tells of another revision."""
    done = [line for line in history if line["type"] == "ok"]
    if done:
        seq = random.randint(0, len(chain))
        revision = f"r-{chain[seq - 1]}" if seq else None
        random.choice(done).update(seq=seq, revision=revision)


def other_number(chain: list[str], history: History, random: Random) -> None:
    done = [line for line in history if line["type"] == "ok" and line["seq"]]
    if done:
        line = random.choice(done)
        line["seq"] += random.choice((-1, 1))


def lost(chain: list[str], history: History, random: Random) -> None:
    if chain:
        del chain[random.randrange(len(chain))]


def doubled(chain: list[str], history: History, random: Random) -> None:
    if chain:
        chain.insert(random.randint(0, len(chain)), random.choice(chain))


def reordered(chain: list[str], history: History, random: Random) -> None:
    if len(chain) > 1:
        at = random.randrange(len(chain) - 1)
        chain[at], chain[at + 1] = chain[at + 1], chain[at]


def later_begin(chain: list[str], history: History, random: Random) -> None:
    """An operation begins later than it did, but still before its end."""
    _move(history, "invoke", random)


def earlier_end(chain: list[str], history: History, random: Random) -> None:
    """An operation ends earlier than it did, but still after its begin."""
    _move(history, "ok", random)


def _move(history: History, kind: str, random: Random) -> None:
    places = [n for n, line in enumerate(history) if line["type"] == kind]
    if not places:
        return
    place = random.choice(places)
    op = history[place]["op"]
    same = [n for n, line in enumerate(history) if line["op"] == op and n != place]
    if kind == "invoke":
        bounds = (place, min(same, default=len(history)) - 1)
    else:
        bounds = (max((n for n in same if n < place), default=-1) + 1, place)
    history.insert(random.randint(*bounds), history.pop(place))


def told_failed(chain: list[str], history: History, random: Random) -> None:
    done = [line for line in history if line["type"] == "ok" and line["f"] == "send"]
    if done:
        line = random.choice(done)
        line["type"] = "fail"


def told_unknown(chain: list[str], history: History, random: Random) -> None:
    """No damage: less is known."""
    done = [line for line in history if line["type"] == "ok" and line["f"] == "send"]
    if done:
        line = random.choice(done)
        line["type"] = "info"


def told_otherwise(chain: list[str], history: History, random: Random) -> None:
    done = [line for line in history if line.get("answer")]
    if done:
        line = random.choice(done)
        line["answer"] = "committed" if line["answer"] == "rejected" else "rejected"


DAMAGES: tuple[Damage, ...] = (
    other_place,
    other_number,
    lost,
    doubled,
    reordered,
    later_begin,
    earlier_end,
    told_failed,
    told_unknown,
    told_otherwise,
)


# --- the two checkers -----------------------------------------------------------------------------


def by_chain(chain: list[str], history: History) -> list[str]:
    """What the chain checker says."""
    revisions = [f"r-{delivery}" for delivery in chain]
    before = [None, *revisions]
    links = [
        Link(revision, prev, seq, (JOB, delivery))
        for seq, (revision, prev, delivery) in enumerate(
            zip(revisions, before, chain, strict=False), 1
        )
    ]
    return check_chain(JOB, links, history)


def by_search(chain: list[str], history: History) -> bool:
    """Whether the search finds an order. What was applied is known as a set, and, as somebody sees
    who looks when all is over, as a list."""
    operations: list[Operation] = []
    known: set[str] = set()
    began: dict[Any, int] = {}
    told: dict[str, Any] = {}
    named = {line["delivery"] for line in history if line["delivery"]}
    failed = {line["delivery"] for line in history if line["type"] == "fail"} - {None}
    settled = {line["delivery"] for line in history if line["type"] in ("ok", "fail")}
    for place, line in enumerate(history):
        delivery = line["delivery"]
        who = delivery or line["op"]
        if line["type"] == "invoke":
            began.setdefault(who, place)
            known |= {delivery} if delivery else set()
            if delivery and delivery not in settled:
                operations.append(Operation(("send", (delivery, None)), place, None))
        if line["type"] != "ok":
            continue
        saw = None if line["revision"] is None else line["revision"].removeprefix("r-")
        answer = (line.get("answer"), line["revision"], line["seq"])
        if delivery and saw is None and answer[0] != "committed":
            operations.append(Operation(("read", (saw, line["seq"])), began[who], place))
            continue  # where no job is, a refusal is not remembered
        if delivery in told and told[delivery] != answer:
            return False
        if delivery in failed and answer[0] == "committed":
            return False
        if delivery in told:
            continue
        if delivery:
            told[delivery] = answer
        if line.get("answer") == "committed":
            if saw is None or saw != (delivery or saw) or (not delivery and saw in named):
                return False
            known.add(saw)
            what: Any = ("send", (saw, line["seq"]))
        else:
            what = ("read", (saw, line["seq"]))
        operations.append(Operation(what, began[who], place))
    inside = [delivery for delivery in dict.fromkeys(chain) if delivery not in known]
    operations += [Operation(("send", (delivery, None)), -1, None) for delivery in inside]
    end = len(history)
    operations.append(Operation(("rest", tuple(chain)), end, end + 1))
    return linearizable(operations, (), job)


def agree(number: int, counts: Counter[str]) -> None:
    """Draw the history of that number, damage every second one, and ask both."""
    random = Random(f"history {number}")
    chain, history = drawn(random)
    damage = random.choice(DAMAGES) if number % 2 else None
    if damage is not None:
        damage(chain, history, random)
    problems, found = by_chain(chain, history), by_search(chain, history)
    counts["histories"] += 1
    counts["operations"] += sum(line["type"] == "invoke" for line in history)
    if damage is not None:
        counts["damaged"] += 1
        counts[f"{damage.__name__}, {'flagged' if problems else 'still right'}"] += 1
    elif problems or not found or (anomalies := check_history(history)):
        raise Violation(f"history {number} is right: {problems}, search {found}, {anomalies}")
    if found == bool(problems):
        text = "\n".join(map(str, [*problems, chain, *history]))
        raise Violation(f"history {number}, {damage}: search says {found}, the chain\n{text}")


def _step(number: int) -> Mapping[str, int]:
    counts: Counter[str] = Counter()
    for one in range(number * SLICE, (number + 1) * SLICE):
        agree(one, counts)
    return counts


@contextmanager
def _open(folder: Path) -> Iterator[Step]:
    yield _step


PARTS = (Part("histories", "P3 P4 P5", "histories", 5_000, _open),)
