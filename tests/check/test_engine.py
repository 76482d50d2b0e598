"""What the engine can do is explored as it does it: transactions over several jobs, tasks that are
transactions, guards, hooks, and failures of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from stmflow import Guard, Hook, Workflow, ignore, impossible, perform, reject
from stmflow.check import (
    Check,
    Send,
    Transact,
    View,
    always,
    leads_to,
    prove,
    replay,
    sometimes,
    words,
)
from stmflow.check.search import NO_FAILURE, NO_IMPOSSIBLE
from tests.check.parcel import NONE


@dataclass(frozen=True, slots=True)
class Open:
    name: str
    amount: int = 1


@dataclass(frozen=True, slots=True)
class Add:
    amount: int


@dataclass(frozen=True, slots=True)
class Account:
    name: str
    amount: int


def _account(event: Open | Add, state: Account | None) -> object:
    match event, state:
        case Open(name, amount), None:
            return Account(name, amount), []
        case Open(), _:
            return ignore()
        case Add(amount), Account(amount=held) if held + amount >= 0:
            return replace(state, amount=held + amount), []
        case Add(amount), Account() if amount < -1:
            return impossible()
    return reject("Insufficient")


ACCOUNT = Workflow(
    "account", state=Account, events=(Open, Add), outside=(Open,), update=_account, key=("name",)
)
A, B = ACCOUNT.job("a"), ACCOUNT.job("b")


def both(tx: Any) -> None:
    tx.apply(A, Open("a"))
    tx.apply(B, Open("b"))


def pay(tx: Any) -> None:
    """One commit: from a to b, if there is enough."""
    if tx.apply(A, Add(-1)).kind == "committed":
        tx.apply(B, Add(1))


def total(view: View) -> int:
    return sum(one.amount for one in view.states("account").values())


def test_a_transaction_over_two_jobs_is_one_step() -> None:
    check = Check(
        [ACCOUNT],
        start=both,
        transactions=[Transact("pay", pay, 3)],
        properties=[
            always("nothing is lost", lambda v: total(v) == 2),
            sometimes("b has all", lambda v: v.state(B).amount == 2),
        ],
    )
    report = prove(check)
    assert report.holds
    assert not report.vacuous
    assert len(report.graph.states) == 2  # the second payment is refused and changes nothing


async def test_half_a_transfer_is_found_and_replays() -> None:
    def take(tx: Any) -> None:
        tx.apply(A, Add(-1))

    check = Check(
        [ACCOUNT],
        start=both,
        transactions=[Transact("take", take), Transact("give", lambda tx: tx.apply(B, Add(1)))],
        properties=[always("nothing is lost", lambda v: total(v) == 2)],
    )
    report = prove(check)
    lines = words(report.graph, report.wrong[0])
    assert lines == ["transact: take  committed"]
    assert (await replay(check, lines)).breaks("nothing is lost")


async def test_a_transaction_that_retries_is_no_step_until_it_can_be_one() -> None:
    def wait(tx: Any) -> None:
        if tx.read(A) is None:
            tx.retry()
        tx.apply(B, Open("b"))

    check = Check(
        [ACCOUNT],
        sends=[Send(Open("a"))],
        transactions=[Transact("wait", wait)],
        properties=[
            always("first a, then b", lambda v: v.state(B) is None or v.state(A) is not None)
        ],
    )
    report = prove(check)
    assert report.holds
    assert len(report.graph.states) == 3


# --- tasks that are transactions ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Come:
    name: str


@dataclass(frozen=True, slots=True)
class Enter:
    gate: str


@dataclass(frozen=True, slots=True)
class In: ...


@dataclass(frozen=True, slots=True)
class Guest:
    name: str
    inside: bool = False


def _guest(event: Come | In, state: Guest | None) -> object:
    match event, state:
        case Come(name), None:
            return Guest(name), [perform(Enter("a")).then(In)]
        case In(), Guest():
            return replace(state, inside=True), []
    return ignore()


GUEST = Workflow(
    "guest",
    state=Guest,
    events=(Come, In),
    outside=(Come,),
    tasks=(Enter,),
    update=_guest,
    key=("name",),
)
G = GUEST.job("g")


def enter(tx: Any, task: Enter) -> None:
    """Waits for the account, and pays one."""
    gate = ACCOUNT.job(task.gate)
    if tx.read(gate) is None:
        tx.retry()
    tx.apply(gate, Add(-1))


def inside(view: View) -> bool:
    state = view.state(G)
    return state is not None and state.inside


def guests(*, fair: bool, **how: Any) -> Check:
    return Check(
        [GUEST, ACCOUNT],
        sends=[Send(Come("g")), Send(Open("a"), fair=fair)],
        properties=[
            leads_to("comes in", lambda v: v.state(G) is not None, inside),
            always("has paid", lambda v: not inside(v) or v.state(A).amount == 0),
        ],
        faults=NONE,
        **how,
    )


async def test_a_task_that_waits_for_another_job_runs_when_it_can() -> None:
    check = guests(fair=True, tasks={Enter: enter})
    report = prove(check)
    assert report.holds
    assert len(report.graph.states) == 5  # neither, either, both, in
    check = replace(check, properties=[always("never in", lambda v: not inside(v))])
    report = prove(check)
    lines = words(report.graph, report.wrong[0])
    assert lines[-1].startswith("run guest: Enter(gate='a')")
    assert (await replay(check, lines)).breaks("never in")


def test_a_task_that_waits_for_what_need_not_come_may_wait_for_ever() -> None:
    (wrong,) = prove(guests(fair=False, tasks={Enter: enter})).wrong
    assert wrong.text == "never comes: nothing is left to happen"


async def test_a_transactional_task_is_part_of_the_commit_that_asks_for_it() -> None:
    def pays(tx: Any, task: Enter) -> None:
        tx.apply(ACCOUNT.job(task.gate), Open(task.gate, 0))

    check = replace(guests(fair=False, transactional={Enter: pays}), sends=[Send(Come("g"))])
    report = prove(check)
    assert report.holds
    assert len(report.graph.states) == 2
    check = replace(check, properties=[always("never in", lambda v: not inside(v))])
    report = prove(check)
    assert (await replay(check, words(report.graph, report.wrong[0]))).breaks("never in")


async def test_what_fails_in_a_transaction_of_a_handler_is_found() -> None:
    def overdraws(task: Enter, world: Any, now: int, tx: Any) -> Iterator[tuple[Any, Any]]:
        tx.apply(A, Open("a"))
        tx.apply(A, Add(-2))
        yield None, world

    def breaks(task: Enter, world: Any, now: int, tx: Any) -> Iterator[tuple[Any, Any]]:
        tx.apply(A, Come("a"))  # no event of an account
        yield None, world

    for model, name in ((overdraws, NO_IMPOSSIBLE), (breaks, NO_FAILURE)):
        check = Check(
            [GUEST, ACCOUNT], sends=[Send(Come("g"))], handlers={Enter: model}, faults=NONE
        )
        report = prove(check)
        assert [one.property for one in report.wrong] == [name]
        assert (await replay(check, words(report.graph, report.wrong[0]))).breaks(name)


# --- guards and hooks ---------------------------------------------------------------------------


def test_a_guard_vetoes_and_a_hook_adds() -> None:
    def closed(event: Any, state: Any) -> str | None:
        return "Closed" if event.name == "x" else None

    def greet(event: Any, before: Any, after: Any) -> list[Any]:
        return [perform(Enter("hook"))] if isinstance(event, In) else []

    workflow = Workflow(
        "guest",
        state=Guest,
        events=(Come, In),
        outside=(Come,),
        tasks=(Enter,),
        update=_guest,
        key=("name",),
        pre=(Guard("closed", closed),),
        post=(Hook("greet", 1, greet),),
    )

    def lets_in(task: Enter, world: Any) -> Iterator[tuple[Any, Any]]:
        yield None, world | {task.gate}

    check = Check(
        [workflow],
        sends=[Send(Come("g")), Send(Come("x"))],
        world=frozenset[str](),
        handlers={Enter: lets_in},
        properties=[
            always("x stays out", lambda v: v.state(workflow.job("x")) is None),
            leads_to("the hook is performed", inside, lambda v: "hook" in v.world),
        ],
        faults=NONE,
    )
    report = prove(check)
    assert report.wrong == []
    assert report.vacuous == ["Come is never accepted"]
