"""Short stories, each about one thing that a commit can do, and what must be true at the end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from scheduler.testing.orders import (
    ACCOUNT,
    COUNTER,
    DEBT,
    ORDER,
    PERFORMED,
    PURSE,
    Add,
    Deposit,
    OpenAccount,
    Poke,
    Repay,
    Start,
    purse,
    repay,
    transfer,
)
from stmflow import Tx, Workflow
from stmflow.archive import Reader
from stmflow.limits import LIMITS
from stmflow.registered import asked, returning
from stmflow.retention import Over, Retention
from stmflow.transactor import Transactor
from stmflow.workflow import Job
from stmflow.workflow import job as job_of
from tests.stmflow import versions
from tests.stmflow.versions import ONE, TWO, Grow1, Open, Stat

HOUR_MS = LIMITS.retention_min_ms


class Client(Protocol):
    """What a story may do: ask some living process, again and again until it is told."""

    shelf: Any

    async def send(self, job: Job, event: Any, id: str) -> None:
        """Send an event under this id until its answer is known."""

    async def transact(self, at: Job, body: Callable[[Tx], Any], id: str, value: int) -> None:
        """The same with a transaction; `value` is what it leaves in the job."""

    async def ask(self, function: Callable[[Transactor], Awaitable[Any]]) -> Any:
        """What some process answers in the end, however often it must be asked."""

    async def rest(self) -> None:
        """Return when nothing waits any more."""

    def leap(self, ms: int) -> None:
        """Time passes everywhere."""


States = Mapping[Job, Any]
"""Job → the state at the end, or None."""


@dataclass(frozen=True)
class Story:
    """One scenario.

    Attributes:
        begin: before any crash. play: what the client does. end: what is wrong with these states.
        ends: the jobs whose states `end` is given. nodes: how many processes there are.
    """

    name: str
    play: Callable[[Client], Awaitable[None]]
    ends: tuple[Job, ...]
    end: Callable[[States], Iterable[str]]
    begin: Callable[[Client], Awaitable[None]] | None = None
    workflows: tuple[Workflow, ...] = ()
    performed: tuple[type, ...] = ()
    transactions: Mapping[type, Callable[[Tx, Any], Any]] | None = None
    chooser: Callable[[Tx, Job], int] | None = None
    nodes: int = 1


def _off(found: Any, wanted: Any) -> list[str]:
    return [] if found == wanted else [f"it ends with {found}, not {wanted}"]


# --- one event ----------------------------------------------------------------------------------

_C = job_of("counter", "c")


async def _count(client: Client) -> None:
    for n in (1, 2):
        await client.send(_C, Add("c", n, n), f"add {n}")


COUNT = Story(
    "two events",
    _count,
    (_C,),
    lambda states: _off(states[_C].ops, (1, 2)),
    workflows=(COUNTER,),
)

# --- tasks, timers, a compensation, a transactional task ----------------------------------------

_A, _O = job_of("account", "a"), job_of("order", "o")


async def _open(client: Client) -> None:
    await client.send(_A, OpenAccount("a", 40), "open")


async def _order(client: Client) -> None:
    await client.send(_O, Start("o", "a", 5), "start")
    await client.send(_O, Poke("o"), "poke")


def _ordered(states: States) -> Iterable[str]:
    yield from _off((states[_O].status, states[_A].used), ("done", 5))


ONE_ORDER = Story(
    "an order",
    _order,
    (_A, _O),
    _ordered,
    begin=_open,
    workflows=(ORDER, ACCOUNT),
    performed=PERFORMED,
)

# --- two jobs in one transaction ----------------------------------------------------------------

_P, _Q = purse("p"), purse("q")


async def _fund(client: Client) -> None:
    await client.send(_P, Deposit("p", 1, 100), "fund")


async def _transfer(client: Client) -> None:
    await client.transact(_P, transfer("p", "q", 2, 30), "move", 2)
    await client.transact(_P, transfer("p", "q", 3, 90), "too much", 3)


TRANSFER = Story(
    "a transaction over two jobs",
    _transfer,
    (_P, _Q),
    lambda states: _off((states[_P].balance, states[_Q].balance), (70, 30)),
    begin=_fund,
    workflows=(PURSE,),
)

# --- a registered transaction that waits --------------------------------------------------------

_D = DEBT.job("d")


async def _owe(client: Client) -> None:
    await client.send(_D, asked("d", Repay("p", "q", 9, 50)), "ask")
    for n in (1, 2):
        await client.send(_P, Deposit("p", n, 30), f"earn {n}")


def _paid(states: States) -> Iterable[str]:
    yield from _off((states[_D].status, states[_D].value), ("done", 50))
    yield from _off((states[_P].balance, states[_Q].balance), (10, 50))


WAITS = Story(
    "a transaction that waits",
    _owe,
    (_P, _Q, _D),
    _paid,
    workflows=(PURSE, DEBT),
    transactions={Repay: returning(repay)},
)

# --- a timer, and a job that moves to another version and back ----------------------------------

_F = ONE.job("f")


async def _create(client: Client) -> None:
    await client.send(_F, Open("f"), "open")


async def _look(client: Client) -> None:
    await client.send(_F, versions.Look("f"), "look")


TIMER = Story(
    "a timer and a task",
    _look,
    (_F,),
    lambda states: _off(states[_F].status, "old"),
    begin=_create,
    workflows=(ONE, TWO),
    performed=(Stat,),
    chooser=versions.stay,
)


async def _adopt(client: Client) -> None:
    await client.send(_F, versions.Look("f"), "look")
    await client.transact(_F, lambda tx: tx.adopt(_F, 2), "adopt", 0)
    await client.send(_F, Grow1("f", 5), "grow")
    await client.transact(_F, lambda tx: tx.adopt(_F, 1), "revert", 0)


def _adopted(states: States) -> Iterable[str]:
    if states[_F].size not in (1, 6):  # the look counts again from one, before or after
        yield f"it ends with {states[_F]}"
    yield from _off((type(states[_F]).__name__, states[_F].status), ("File1", "old"))


ADOPTION = Story(
    "a version adopted and reverted",
    _adopt,
    (_F,),
    _adopted,
    begin=_create,
    workflows=(ONE, TWO),
    performed=(Stat,),
    chooser=versions.stay,
)

# --- history that leaves, and a job that comes back ---------------------------------------------


async def _leave(client: Client) -> None:
    for name in "ce":
        for n in (1, 2):
            await client.send(job_of("counter", name), Add(name, n, n), f"add {n}")


async def _retain(client: Client) -> None:
    client.leap(26 * HOUR_MS)
    over = Over(COUNTER.name, ("Counter",), HOUR_MS)

    async def run(transactor: Transactor) -> None:
        store, clock = transactor.store, transactor.clock
        old = Retention(store, client.shelf, keep_ms=HOUR_MS, finished=[over], clock=clock)
        await old.run()

    async def revive(transactor: Transactor) -> None:
        await Reader(transactor.store, client.shelf).revive(_C.id)

    await client.ask(run)
    await client.ask(revive)
    await client.send(_C, Add("c", 3, 3), "add 3")


RETENTION = Story(
    "history leaves, a job comes back",
    _retain,
    (_C,),
    lambda states: _off(states[_C].ops, (1, 2, 3)),
    begin=_leave,
    workflows=(COUNTER,),
)

# --- two processes, of which one takes over -----------------------------------------------------

TASK_TAKEN_OVER = replace(TIMER, name="a timer and a task, two processes", nodes=2)
WAIT_TAKEN_OVER = replace(WAITS, name="a transaction that waits, two processes", nodes=2)

STORIES = (
    COUNT,
    TRANSFER,
    WAITS,
    TIMER,
    ADOPTION,
    RETENTION,
    TASK_TAKEN_OVER,
    WAIT_TAKEN_OVER,
    ONE_ORDER,
)
"""From the shortest to the longest."""
