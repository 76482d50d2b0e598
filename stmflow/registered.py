"""Registered transactions: a name and arguments that can be stored, and so outlive their process.

    @dataclass(frozen=True)
    class Move:
        source: str
        target: str
        amount: int

    def move(tx: Tx, task: Move) -> int:
        ...                               # may tx.retry(): it waits as a row, not as a caller

    moves = registered(Move)
    handlers = {Move: Transaction(returning(move))}
    async with Transactor(store, [account, moves]) as db, Scheduler(db, handlers):
        answer = await db.send(moves, asked("order 7", Move("a", "b", 5)))
        head = await db.wait(answer.job, ended)

Each asking is a small job: `waiting` until its transaction commits, in whatever process, then
`done` with what the body returned, or `failed` with the error that it answered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from stmflow.effect import Err, perform
from stmflow.errors import CodecError
from stmflow.schema import Data, schema_of, tag_of, thaw
from stmflow.transaction import Tx
from stmflow.workflow import Workflow, reject, same

__all__ = ["Asked", "Call", "asked", "ended", "registered", "returning"]


@dataclass(frozen=True, slots=True)
class Asked:
    """The outside event: run the transaction with these arguments, once under this name."""

    name: str
    task: Data


@dataclass(frozen=True, slots=True)
class Returned:
    """It is committed."""

    value: Data


@dataclass(frozen=True, slots=True)
class Refused:
    """It answered an error, and wrote nothing."""

    error: Err


@dataclass(frozen=True, slots=True)
class Call:
    """The state of one asking. `status`: waiting, done or failed; `value`: what was returned."""

    name: str
    status: str
    value: Data = None
    error: Err | None = None


def ended(call: Call) -> bool:
    """Whether it is done or has failed."""
    return call.status != "waiting"


def asked(name: str, task: Any) -> Asked:
    """The event that runs the transaction `task` under this name."""
    return Asked(name, schema_of(type(task)).encode(task))


def returning(body: Callable[[Tx, Any], Any]) -> Callable[[Tx, Any], Any]:
    """The body of a registered transaction as the scheduler runs it: whatever it returns is the
    value of its `Call`, a mapping too."""

    def whole(tx: Tx, task: Any) -> Any:
        value = body(tx, task)
        return value if isinstance(value, Err) else {"value": value}

    return whole


def registered(task: type[Any], *, name: str | None = None, version: int = 1) -> Workflow:
    """The workflow of a registered transaction. What the transaction does is given to the scheduler
    of every process that may run it: `Scheduler(…, {task: Transaction(returning(body))})`.

    Args:
        task: a frozen type: the transaction's arguments.
        name: of the workflow, stable for ever. Default: the task's tag.
    """
    schema = schema_of(task)

    def update(event: Any, call: Call | None) -> Any:
        match event, call:
            case Asked(asking, arguments), None:
                try:
                    effect = perform(schema.decode(thaw(arguments)))
                except CodecError as error:
                    return reject("InvalidArguments", str(error))
                return Call(asking, "waiting"), [effect.then(Returned).catch(Refused)]
            case Returned(value), Call(status="waiting"):
                return replace(call, status="done", value=value), []
            case Refused(error), Call(status="waiting"):
                return replace(call, status="failed", error=error), []
        return same()

    return Workflow(
        name or tag_of(task),
        version=version,
        state=Call,
        events=(Asked, Returned, Refused),
        outside=(Asked,),
        tasks=(task,),
        update=update,
        key=("name",),
        tag="status",
    )
