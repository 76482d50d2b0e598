"""A transactor that writes down what its callers were told, for the checkers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from stmflow.cid import CID
from stmflow.clock import Clock
from stmflow.errors import Indeterminate
from stmflow.job import Head
from stmflow.transaction import Answer
from stmflow.transactor import Transactor
from stmflow.workflow import Job, Workflow

T = TypeVar("T")
MILLISECOND = 1_000_000


class Recorder:
    """`send`, `get` and `transact` of a transactor, written down as lines of a history.

    Several may write into one list, in one process. Each operation is a Jepsen process of its own,
    so that tasks may share a recorder. One that is cancelled is of unknown fate.

    Args:
        history: where the lines go, in real time.
        first: the number of the first operation. Give each process of several its own range, and
            join what they wrote with `stmflow.testing.jepsen.joined`.
        clock: of the lines' times. Default: the transactor's. Processes need one that they share.
    """

    def __init__(
        self,
        transactor: Transactor,
        history: list[dict[str, Any]],
        *,
        first: int = 0,
        clock: Clock | None = None,
    ) -> None:
        self._transactor = transactor
        self._history = history
        self._first = first
        self._clock = transactor.clock if clock is None else clock

    async def send(self, target: Workflow | Job | CID, event: Any, **how: Any) -> Answer:
        """As `Transactor.send`."""
        job = target.job_of(event) if isinstance(target, Workflow) else target
        line = self._line("send", job, how.get("delivery"))
        answer = await self._call(line, lambda: self._transactor.send(target, event, **how))
        self._write(
            line,
            "ok",
            answer=answer.kind,
            code=answer.code,
            revision=None if answer.revision is None else str(answer.revision),
            seq=answer.seq,
            repeated=answer.repeated,
        )
        return answer

    async def get(self, job: Job | CID) -> Head | None:
        """As `Transactor.get`."""
        line = self._line("read", job, None)
        head = await self._call(line, lambda: self._transactor.get(job))
        if head is None:
            self._write(line, "ok", revision=None, seq=0)
        else:
            self._write(line, "ok", revision=str(head.revision), seq=head.seq)
        return head

    async def transact(self, body: Callable[[Any], T], *, at: Job | None = None, **how: Any) -> T:
        """As `Transactor.transact`. Only one with `at` and `delivery` is found among the revisions
        again, and so has its place in real time."""
        line = self._line("transact", at, how.get("delivery"))
        value = await self._call(line, lambda: self._transactor.transact(body, at=at, **how))
        self._write(line, "ok")
        return value

    async def _call(self, line: dict[str, Any], function: Callable[[], Awaitable[T]]) -> T:
        self._write(line, "invoke")
        try:
            return await function()
        except Exception as error:
            self._write(line, "info" if isinstance(error, Indeterminate) else "fail")
            raise
        except BaseException:
            self._write(line, "info")
            raise

    def _line(self, f: str, job: Job | CID | None, delivery: str | bytes | None) -> dict[str, Any]:
        number = self._first + len(self._history)
        name = job.id if isinstance(job, Job) else job
        key = delivery.encode() if isinstance(delivery, str) else delivery
        return {
            "process": number,
            "op": number,
            "f": f,
            "job": None if name is None else str(name),
            "delivery": None if key is None else key.hex(),
        }

    def _write(self, line: dict[str, Any], type: str, **more: Any) -> None:
        moment = self._clock.now() * MILLISECOND
        self._history.append({**line, "type": type, "time": moment, **more})
