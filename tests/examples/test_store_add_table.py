"""Every cell of the table of store/add: asked of `update`, and played where a run leads there."""
# ruff: noqa: E501

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from examples.store_add.model import (
    Add,
    Allocated,
    BlobDeleting,
    Cancel,
    EffectFailed,
    Exceed,
    Expire,
    Extend,
    LookAgain,
    Looked,
    Lost,
    Mismatch,
    Put,
    Referred,
    Remove,
    Removed,
    Signed,
    Terms,
    Verified,
)
from examples.store_add.workflow import STORE_ADD, Alert, update
from scheduler.handlers.allocate import Allocate, Deallocate
from scheduler.handlers.gc import BLOB, Hold, Leave, Mark, Refer, Unlink
from scheduler.handlers.s3 import Presign, Stat, Verify, Watch
from stmflow import ANY, CID, Effect, Err
from stmflow.effect import Cancel as Withdraw
from stmflow.effect import Plan, Sleep
from stmflow.testing import Trace
from stmflow.workflow import Ignore, Impossible, Reject, Same

TABLE = """
| state | add | alloc'd | exceed | absent | found | put | verified | mismatch | expire | failed |
| idle | →allocating, epoch 1 [allocate] | ‼ | ‼ | ‼ | ‼ | R:NotFound (no record is made) | ‼ | ‼ | ‼ | ‼ |
| allocating | = (size differs: R:SizeConflict) | →probing [stat] | →exceeded | ‼ | ‼ | R:NotReceiving | ‼ | ‼ | ‼ | →failed [dealloc] |
| probing | = | ~ | ‼ | →receiving [presign+invoke agent, timer] | →stored | R:NotReceiving (probe or last look will see the bytes) | ‼ | ‼ | ‼ | →failed [dealloc] |
| receiving | = (receipt repeats the upload task) | ~ | ‼ | ~ | →stored [cancel timer] | →verifying, round+1 [verify] | →stored [cancel] | ~ | →verifying, final, round+1 [verify] | →failed [dealloc, cancel] |
| verifying | = | ~ | ‼ | ~ | →stored [cancel] | = (claim under check) | →stored [cancel] | old round ~ · not final →receiving · final →expired [dealloc, gc-mark] | not final: set final, round+1 [verify] · final ~ | →failed [dealloc, cancel] |
| stored | = (receipt: site) | ~ | ‼ | ~ | ~ | = | ~ | ~ | ~ | ~ |
| exceeded | →allocating, epoch+1 [allocate] | ‼ (compensate: dealloc) | ~ | ‼ | ‼ | R:NotReceiving | ‼ | ‼ | ‼ | ~ |
| expired | →allocating, epoch+1 [allocate] | ~ | ‼ | ~ | ~ [gc-mark] | R:Expired, "send store/add again: stat will find the bytes, no re-upload" | ~ [gc-mark] | ~ | ~ | ~ |
| failed | →allocating, epoch+1 [allocate] | = [dealloc] | ~ | ~ | ~ [gc-mark] | R:Failed | ~ [gc-mark] | ~ | ~ | ~ |

| state | store/cancel | store/extend | store/remove | store/lost (audit) |
| idle | R:NotFound | R:NotFound | R:NotFound | ‼ |
| allocating, probing | →failed(cancelled) [dealloc] | R:NotReceiving | as cancel | ‼ |
| receiving | →failed(cancelled) [dealloc, cancel timer, gc-mark] | = new deadline [presign again, replace timer and watch] (cap on total) | as cancel | ‼ |
| verifying | as receiving (a late `verified` is ~ and gc-marked) | not final: as receiving; final: R:TooLate | as cancel | ‼ |
| stored | R:Done | R:Done | →removing [at max(now, D + skew): dealloc, gc-mark, unlink] | →allocating, epoch+1 [alert, allocate, or keep reservation and probe] |
| exceeded, expired, failed | = | R:NotReceiving | →idle | ~ |
| removing | ~ | R:Busy | ~ | ~ |

| state | add | alloc'd | exceed | absent | found | put | verified | mismatch | expire | failed |
| removing | R:Busy | ~ | ~ | ~ | ~ | ~ | ~ | ~ | ~ | ~ |
| stored idle | →allocating, epoch+1 [allocate] | ~ [dealloc] | ~ | ~ | ~ [gc-mark] | R:NotFound | ~ [gc-mark] | ~ | ~ | ~ |

| state | store/cancel | store/extend | store/remove | store/lost |
| stored idle | R:NotFound | R:NotFound | R:NotFound | ~ |

| state | signed | referred | deleting | look | removed |
| idle | ‼ | ‼ | ‼ | ‼ | ‼ |
| allocating | ~ | ‼ | ‼ | ‼ | ‼ |
| probing | ~ | →stored | = not held [wait] | = held [stat] | ‼ |
| receiving | = target | →stored [cancel] | ‼ | ‼ | ‼ |
| verifying | = target | →stored [cancel] | ‼ | ‼ | ‼ |
| stored | ~ | ‼ | ‼ | ‼ | ‼ |
| exceeded | ~ | ‼ | ‼ | ‼ | ‼ |
| expired | ~ | ‼ | ‼ | ‼ | ‼ |
| failed | ~ | ‼ | ‼ | ‼ | ‼ |
| removing | ~ | ~ | ~ | ~ | →idle |
| stored idle | ~ | ~ | ~ | ~ | ~ |
"""
"""The specification's two tables as they stand, its sentences on *removing* and on a stored *idle*
as rows, and the columns of the upload's URL and of the blob."""

EFFECTS = {
    "allocate": {"allocate"},
    "stat": {"hold", "stat"},
    "dealloc": {"dealloc"},
    "dealloc, cancel": {"dealloc", "cancel watch", "gc-mark"},
    "dealloc, gc-mark": {"dealloc", "cancel watch", "gc-mark"},
    "dealloc, cancel timer, gc-mark": {"dealloc", "cancel watch", "gc-mark"},
    "compensate: dealloc": {"dealloc"},
    "gc-mark": {"gc-mark"},
    "verify": {"verify"},
    "cancel": {"cancel watch"},
    "cancel timer": {"cancel watch"},
    "presign+invoke agent, timer": {"presign", "watch", "timer"},
    "presign again, replace timer and watch": {"presign", "watch", "timer"},
    "at max(now, D + skew): dealloc, gc-mark, unlink": {"wait", "dealloc", "unlink", "gc-mark"},
    "alert, allocate, or keep reservation and probe": {"alert", "unlink", "gc-mark", "allocate"},
    "wait": {"look again"},
}
"""What each of the table's lists means here. A timer is cancelled by its `during`."""

SPACE = "did:key:zAlice"
LINK = CID.of(b"hello")
TERMS = Terms(window_ms=3_600_000, skew_ms=60_000)
ADD = Add(SPACE, LINK, 5, terms=TERMS)
D = TERMS.window_ms
LATE = D + TERMS.skew_ms

ABSENT: dict[str, Any] = {"found": False, "size": None, "checksum": None, "mismatch": False}
FOUND: dict[str, Any] = {"found": True, "size": 5, "checksum": LINK.digest, "mismatch": False}
SIGNED: dict[str, Any] = {
    "url": "https://s3.test/blob",
    "headers": {"content-length": "5"},
    "until": D,
}


def mismatch(round: int) -> dict[str, Any]:
    return {"round": round, **ABSENT}


def verified(round: int) -> dict[str, Any]:
    return {"verified": True, "size": 5, "checksum": LINK.digest, "round": round}


# --- the cells ----------------------------------------------------------------------------------


class Cell(NamedTuple):
    """One case of the table: in which state what comes, and what the table says."""

    state: str
    column: str
    says: str

    def __str__(self) -> str:
        return f"{self.state}-{self.column}"


def cells() -> list[Cell]:
    rows: dict[tuple[str, str], str] = {}
    columns: list[str] = []
    for line in TABLE.strip().splitlines():
        first, *rest = (part.strip() for part in line.strip("| ").split("|"))
        if first == "state":
            columns = [column.removesuffix(" (audit)") for column in rest]
        elif first:
            rows |= {
                (state, column): cell
                for state in first.split(", ")
                for column, cell in zip(columns, rest, strict=True)
            }
    found = []
    for (state, column), cell in rows.items():
        says = rows[(state, "store/cancel")] if cell == "as cancel" else cell
        if says.startswith("as receiving"):
            says = rows[("receiving", "store/cancel")]
        parts = re.split(r" · |; (?=final)", says)
        if len(parts) == 1:
            found.append(Cell(state, column, says))
        for part in parts if len(parts) > 1 else ():
            when, _, says = re.match(r"(old round|not final|final)(:?) ?(.*)", part).groups()  # type: ignore[union-attr]
            name = {"old round": "verifying, old round", "not final": "verifying"}.get(
                when, "verifying, final"
            )
            if says == "as receiving":
                says = rows[("receiving", column)]
            found.append(Cell(name, column, says.replace("set final", "→verifying, final")))
    return found


CELLS = cells()


# --- a run to each state ------------------------------------------------------------------------


def play() -> Trace:
    """A world in which the blob answers at once and everything else waits in the outbox."""
    at_once = {
        Hold: lambda tx, task: None,
        Refer: lambda tx, task: {"size": task.size, "checksum": task.checksum},
    }
    return Trace(STORE_ADD, transactional=at_once)


def allocating() -> Trace:
    return play().send(ADD)


def allocate(job: Trace) -> Trace:
    task = next(task for task in job.ready if type(task) is Allocate)
    return job.succeed(Allocate, {"reservation": task.reservation, "size": task.size})


def probing() -> Trace:
    return allocate(allocating())


def receiving() -> Trace:
    return probing().succeed(Stat, ABSENT)


def verifying() -> Trace:
    return receiving().send(Put(SPACE, LINK))


def final() -> Trace:
    return receiving().pass_time(until=LATE)


def expired() -> Trace:
    return final().fail(Verify, "Mismatch", mismatch(1))


STATES: dict[str, Callable[[], Trace]] = {
    "idle": play,
    "allocating": allocating,
    "probing": probing,
    "receiving": receiving,
    "verifying": verifying,
    "verifying, old round": lambda: verifying().pass_time(until=LATE),
    "verifying, final": final,
    "stored": lambda: receiving().succeed(Watch, FOUND),
    "exceeded": lambda: allocating().fail(Allocate, "NoSpace", {"limit": 1, "used": 0}),
    "expired": expired,
    "failed": lambda: probing().fail(Stat, "Denied"),
    "removing": lambda: receiving().succeed(Watch, FOUND).send(Remove(SPACE, LINK)),
    "stored idle": lambda: expired().send(Remove(SPACE, LINK)),
}

EVENTS: dict[str, Any] = {
    "add": replace(ADD, terms=Terms()),
    "alloc'd": Allocated(LINK, 5),
    "exceed": Exceed(Err("NoSpace", {"limit": 1, "used": 0})),
    "absent": Looked(**ABSENT),
    "found": Looked(**FOUND),
    "put": Put(SPACE, LINK),
    "verified": Verified(**verified(1)),
    "mismatch": Mismatch(Err("Mismatch", mismatch(1))),
    "expire": Expire(),
    "failed": EffectFailed(Err("Denied")),
    "signed": Signed(**SIGNED),
    "store/cancel": Cancel(SPACE, LINK),
    "store/extend": Extend(SPACE, LINK),
    "store/remove": Remove(SPACE, LINK),
    "store/lost": Lost(),
    "referred": Referred(5, LINK.digest),
    "deleting": BlobDeleting(Err("Deleting")),
    "look": LookAgain(),
    "removed": Removed(),
}


# --- what `update` says -------------------------------------------------------------------------


class Said(NamedTuple):
    """An answer of `update` in the words of the table."""

    sign: str
    state: Any
    effects: Counter[str]
    detail: Any = None


def ask(event: Any, state: Any) -> Said:
    """Fold the event; and the blob's answer, which comes in the same commit."""
    answer: Any = update(event, state)
    if isinstance(answer, Same) and names(answer.effects) == Counter(["refer"]):
        answer = update(EVENTS["referred"], state)
    match answer:
        case Reject(code, detail):
            return Said(f"R:{code}", state, Counter(), detail)
        case Same(effects):
            return Said("=", state, names(effects))
        case Ignore(effects):
            return Said("~", state, names(effects))
        case Impossible(effects):
            return Said("‼", state, names(effects))
    after, effects = answer
    same_tag = state is not None and after.tag == state.tag
    return Said("=" if same_tag else f"→{after.tag}", after, names(effects))


def names(effects: Any) -> Counter[str]:
    """The leaves of effects by the table's names; the end of a hold goes with the capacity."""
    found: Counter[str] = Counter()
    for effect in [effects] if isinstance(effects, Effect) else effects:
        leaves = [effect] if isinstance(effect, Withdraw) else Plan(effect).leaves
        found.update(name for leaf in leaves if (name := leaf_name(leaf)) != "leave")
    return found


def leaf_name(leaf: Any) -> str:
    match leaf:
        case Withdraw(name):
            return f"cancel {name}"
        case Sleep(name="deadline", during=("receiving", "verifying")):
            return "timer"
        case Sleep(name="look"):
            return "look again"
        case Sleep(name=None, during=during) if during is ANY:
            return "wait"
    return {
        Allocate: "allocate",
        Deallocate: "dealloc",
        Hold: "hold",
        Refer: "refer",
        Leave: "leave",
        Unlink: "unlink",
        Mark: "gc-mark",
        Stat: "stat",
        Presign: "presign",
        Watch: "watch",
        Verify: "verify",
        Alert: "alert",
    }[type(leaf.task)]


def expected_effects(cell: Cell, state: Any, at: int) -> Counter[str]:
    found = re.search(r"\[(.*?)\]", cell.says) or re.search(r"\((compensate.*?)\)", cell.says)
    wanted = Counter(EFFECTS[found[1]]) if found else Counter()
    waits = wanted["dealloc"] or wanted["unlink"]
    if waits and state.upload.closes > at:
        wanted["wait"] = 1  # behind a live URL
    return wanted


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_update_answers_each_cell(cell: Cell) -> None:
    job = STATES[cell.state]()
    state, event = job.state, EVENTS[cell.column]
    if hasattr(event, "at"):
        event = replace(event, at=job.now)
    if cell.column == "mismatch" and cell.state == "verifying, old round":
        assert state.window.round == 2
    if cell.column == "store/extend":
        event = replace(event, at=job.now + 1)
    said = ask(event, state)
    assert said.effects == expected_effects(cell, state, job.now)
    check_sign(cell, state, said)


def check_sign(cell: Cell, state: Any, said: Said) -> None:
    """The sign, and what the words behind it say."""
    sign = re.match(r"→\w+|R:\w+|=|~|‼", cell.says)[0]  # type: ignore[index]
    target = "=" if state is not None and sign == f"→{state.tag}" else sign
    assert said.sign == target
    after = said.state
    if sign.startswith("→"):
        tries = 1 if "epoch 1" in cell.says else state.epoch + ("epoch+1" in cell.says)
        assert after.epoch == tries
    if "round+1" in cell.says:
        assert after.window.round == state.window.round + 1
        assert after.final == ("final" in cell.says)
    if "(cancelled)" in cell.says:
        assert after.error == Err("Cancelled")
    if "new deadline" in cell.says:
        assert after.window.deadline == state.window.deadline + 1
    if "target" in cell.says:
        assert (after.window.target.url, after.window.target.until) == (SIGNED["url"], D)
    if "held" in cell.says:
        assert after.held == ("not held" not in cell.says)
    if '"' in cell.says:
        assert said.detail == cell.says.split('"')[1]
    if sign in ("~", "‼") or cell.says == "=":
        assert after is state


@pytest.mark.parametrize("tag", ["allocating", "probing", "receiving", "verifying", "stored"])
def test_another_size_is_a_conflict_while_there_is_a_reservation(tag: str) -> None:
    state = STATES[tag]().state
    assert ask(replace(ADD, size=6), state).sign == "R:SizeConflict"


@pytest.mark.parametrize("tag", ["receiving", "verifying"])
def test_a_url_for_another_deadline_is_not_kept(tag: str) -> None:
    assert ask(replace(EVENTS["signed"], until=D + 1), STATES[tag]().state).sign == "~"


@pytest.mark.parametrize("tag", ["receiving", "verifying"])
def test_extensions_are_capped(tag: str) -> None:
    state = STATES[tag]().state
    assert ask(replace(EVENTS["store/extend"], at=D // 2), state).sign == "="
    last = state.window.since + TERMS.longest_ms
    late = ask(replace(EVENTS["store/extend"], at=last), state)
    assert late.state.window.deadline == last
    assert ask(replace(EVENTS["store/extend"], at=last), late.state).sign == "R:Capped"


def test_a_proof_of_other_bytes_is_no_proof() -> None:
    for wrong in (replace(EVENTS["found"], size=6), replace(EVENTS["found"], checksum=b"no")):
        assert ask(wrong, STATES["receiving"]().state).sign == "‼"
    unknown = Mismatch(Err("Mismatch", {"no": "round"}))
    assert ask(unknown, STATES["verifying"]().state).sign == "‼"


def test_the_table_has_every_state_and_every_event() -> None:
    asked = {(cell.state, cell.column) for cell in CELLS}
    states = {state for state, _ in asked}
    assert states == set(STATES)
    assert {column for _, column in asked} == set(EVENTS)
    assert {job().tag or "idle" for job in STATES.values()} == set(STORE_ADD._states)
    covered = {type(event).tag for event in EVENTS.values()}
    assert covered == set(STORE_ADD._events)
    plain = states - {"verifying, old round", "verifying, final"}
    assert len({(s.split(",")[0], c) for s, c in asked}) == len(plain) * len(EVENTS)


# --- what a run leads to ------------------------------------------------------------------------


def lost(job: Trace) -> Trace:
    job.transact(lambda tx: tx.apply(STORE_ADD.job_of(ADD), Lost()))
    return job


def cancelled(job: Trace) -> Trace:
    return job.send(Cancel(SPACE, LINK))


ROUTES: dict[tuple[str, str], Callable[[], Trace]] = {
    # legal runs that lead into a cell by an outcome or a timer
    ("allocating", "alloc'd"): probing,
    ("allocating", "exceed"): STATES["exceeded"],
    ("allocating", "failed"): lambda: allocating().fail(Allocate, "Exhausted"),
    ("probing", "absent"): receiving,
    ("probing", "found"): lambda: probing().succeed(Stat, FOUND),
    ("probing", "failed"): lambda: probing().fail(Stat, "Denied"),
    ("receiving", "absent"): lambda: receiving().succeed(Watch, ABSENT),
    ("receiving", "found"): lambda: receiving().succeed(Watch, FOUND),
    ("receiving", "signed"): lambda: receiving().succeed(Presign, SIGNED),
    ("receiving", "failed"): lambda: receiving().fail(Presign, "Denied"),
    ("receiving", "expire"): final,
    ("verifying", "absent"): lambda: verifying().succeed(Watch, ABSENT),
    ("verifying", "found"): lambda: verifying().succeed(Watch, FOUND),
    ("verifying", "verified"): lambda: verifying().succeed(Verify, verified(1)),
    ("verifying", "signed"): lambda: verifying().succeed(Presign, SIGNED),
    ("verifying", "mismatch"): lambda: verifying().fail(Verify, "Mismatch", mismatch(1)),
    ("verifying", "expire"): lambda: verifying().pass_time(until=LATE),
    ("verifying", "failed"): lambda: verifying().fail(Verify, "Exhausted"),
    ("verifying, final", "mismatch"): expired,
    ("verifying, old round", "mismatch"): lambda: (
        verifying().pass_time(until=LATE).fail(Verify, "Mismatch", mismatch(1))
    ),
    ("stored", "signed"): lambda: STATES["stored"]().succeed(Presign, SIGNED),
    ("stored", "failed"): lambda: STATES["stored"]().fail(Presign, "Denied"),
    ("stored", "verified"): lambda: verifying().succeed(Watch, FOUND).succeed(Verify, verified(1)),
    ("stored", "mismatch"): lambda: (
        verifying().succeed(Watch, FOUND).fail(Verify, "Mismatch", mismatch(1))
    ),
    ("stored", "store/lost"): lambda: lost(STATES["stored"]()),
    ("expired", "store/lost"): lambda: lost(expired()),
    ("failed", "alloc'd"): lambda: allocate(cancelled(allocating())),
    ("failed", "exceed"): lambda: cancelled(allocating()).fail(Allocate, "NoSpace", {}),
    ("failed", "absent"): lambda: cancelled(probing()).succeed(Stat, ABSENT),
    ("failed", "found"): lambda: cancelled(probing()).succeed(Stat, FOUND),
    ("failed", "verified"): lambda: cancelled(verifying()).succeed(Verify, verified(1)),
    ("failed", "mismatch"): lambda: cancelled(verifying()).fail(Verify, "Mismatch", mismatch(1)),
    ("failed", "signed"): lambda: cancelled(receiving()).succeed(Presign, SIGNED),
    ("failed", "failed"): lambda: cancelled(allocating()).fail(Allocate, "Released"),
    ("expired", "signed"): lambda: expired().succeed(Presign, SIGNED),
    ("expired", "failed"): lambda: expired().fail(Presign, "TooLate"),
    ("removing", "signed"): lambda: STATES["removing"]().succeed(Presign, SIGNED),
    ("removing", "failed"): lambda: STATES["removing"]().fail(Presign, "Denied"),
    ("removing", "removed"): lambda: (
        STATES["removing"]()
        .pass_time(until=LATE)
        .succeed(Deallocate, {"reservation": LINK, "size": 5})
        .succeed(Unlink)
        .succeed(Mark)
    ),
    ("stored idle", "alloc'd"): lambda: allocate(cancelled(allocating()).send(Remove(SPACE, LINK))),
    ("stored idle", "failed"): lambda: (
        cancelled(allocating()).send(Remove(SPACE, LINK)).fail(Allocate, "Released")
    ),
    ("stored idle", "found"): lambda: (
        cancelled(probing()).send(Remove(SPACE, LINK)).succeed(Stat, FOUND)
    ),
    ("stored idle", "signed"): lambda: (
        cancelled(receiving()).send(Remove(SPACE, LINK)).succeed(Presign, SIGNED)
    ),
}

OUTSIDE = [cell for cell in CELLS if type(EVENTS[cell.column]) in STORE_ADD.outside]
ROUTED = [cell for cell in CELLS if (cell.state, cell.column) in ROUTES]


@pytest.mark.parametrize("cell", OUTSIDE, ids=str)
def test_what_is_sent_gets_the_answer_of_its_cell(cell: Cell) -> None:
    job = STATES[cell.state]()
    if cell.column == "store/extend":
        job.pass_time(seconds=1)
    before = job.head
    job.send(EVENTS[cell.column])
    if cell.says.startswith("R:"):
        assert f"R:{job.refused}" == cell.says.split(",")[0].split()[0]
    elif cell.says == "~":
        assert job.answer.kind == "ignored"
    elif cell.says.startswith("= new"):
        assert job.answer.committed
    elif cell.says.startswith("="):
        assert job.answer.kind == "no change"
    else:
        assert job.answer.committed
    if not job.answer.committed:
        assert job.head == before
    check_run(cell, job)


@pytest.mark.parametrize("cell", ROUTED, ids=str)
def test_a_run_ends_where_its_cell_says(cell: Cell) -> None:
    check_run(cell, ROUTES[(cell.state, cell.column)]())


def check_run(cell: Cell, job: Trace) -> None:
    """The state after the run, and S8: the timer is armed where bytes are waited for."""
    arrow = re.match(r"→(\w+)", cell.says)
    stays = {"idle": None, "stored idle": "idle"}.get(cell.state, cell.state.split(",")[0])
    assert job.tag == (arrow[1] if arrow else stays)
    armed = [timer for timer in job.timers if timer.name == "deadline"]
    waits = job.tag == "receiving" or (job.tag == "verifying" and not job.state.final)
    assert len(armed) == waits
    watched = any(type(task) is Watch for task in job.ready)
    assert not watched or job.tag in ("receiving", "verifying")
    assert job.alarms == []
    assert job.parked == []


def test_every_arrow_that_effects_bring_is_played() -> None:
    inside = [cell for cell in CELLS if cell not in OUTSIDE and "→" in cell.says]
    blob = {"referred", "verified"}  # follow from found; see below
    missing = {
        str(cell)
        for cell in inside
        if (cell.state, cell.column) not in ROUTES and cell.column not in blob
    }
    assert missing == set()


def test_a_cell_that_cannot_be_reached_raises_the_alarm_and_compensates() -> None:
    job = STATES["exceeded"]()
    verdict = job.transact(lambda tx: tx.apply(STORE_ADD.job_of(ADD), EVENTS["alloc'd"]))
    assert (verdict.kind, verdict.code) == ("rejected", "Impossible")
    said = ask(EVENTS["alloc'd"], job.state)
    assert (said.sign, said.effects) == ("‼", Counter(["dealloc"]))


def test_nothing_but_the_five_events_can_be_sent() -> None:
    assert {kind.tag for kind in STORE_ADD.outside} == {  # type: ignore[attr-defined]
        "store/add",
        "store/put",
        "store/cancel",
        "store/extend",
        "store/remove",
    }


def test_the_blob_is_another_job_in_the_same_store() -> None:
    assert BLOB.job(LINK.multihash) != STORE_ADD.job_of(ADD)
