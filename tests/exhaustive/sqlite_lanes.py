"""The commits of a case on one SQLite file, statement by statement, in the order of a schedule.

Each lane is an open store with connections of its own, on a thread of its own. The queue in which
processes stand for the file is taken away, so that SQLite itself has to order them: a connection
that finds the file locked comes back to the schedule instead of waiting for a while.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from scheduler.testing.faults import at_once
from stmflow.store import Batch, Reap
from stmflow.store.locks import Turn
from stmflow.store.sqlite import SQLiteStore
from tests.exhaustive.cases import Case, Look, Stage, Wish, observed, told
from tests.exhaustive.schedule import Chooser
from tests.exhaustive.serial import Outcome

LANES = 3
PATIENCE_S = 60.0


class Gate:
    """Where one lane stops. `state`: moving, waiting (for its turn), busy (the file is locked) or
    over."""

    def __init__(self, news: SimpleQueue[Gate]) -> None:
        self.state = "over"
        self.what = ""
        self._news = news
        self._turn = threading.Semaphore(0)

    def stop(self, sql: str) -> None:
        """Wait for this lane's turn."""
        if self.state != "over":
            self._wait("waiting", " ".join(sql.split()))

    def busy(self, _: int) -> bool:
        """The file is locked: come back when a lane has moved."""
        if self.state == "over":
            return False
        self._wait("busy", self.what)
        return True

    def _wait(self, state: str, what: str) -> None:
        self.state, self.what = state, what
        self._news.put(self)
        if not self._turn.acquire(timeout=PATIENCE_S):
            raise TimeoutError(what)

    def go(self) -> None:
        """It is this lane's turn, or worth another try."""
        self.state = "moving"
        self._turn.release()

    def run(self, work: Callable[[], Any], answers: dict[int, Any], lane: int) -> None:
        """Do the lane's work."""
        try:
            answers[lane] = work()
        except BaseException as error:
            answers[lane] = error
        self.state = "over"
        self._news.put(self)


class Gated:
    """A connection that stops before each of its statements."""

    def __init__(self, db: Any, gate: Gate) -> None:
        self._db = db
        self._gate = gate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    def execute(self, sql: str, *values: Any) -> Any:
        self._gate.stop(sql)
        return self._db.execute(sql, *values)

    def __enter__(self) -> Any:
        return self._db.__enter__()

    def __exit__(self, *raised: Any) -> Any:
        return self._db.__exit__(*raised)


class SQLiteLanes:
    """Three stores on one file."""

    def __init__(self, stores: Sequence[SQLiteStore]) -> None:
        self._stores = stores
        self._news: SimpleQueue[Gate] = SimpleQueue()
        self._gates = [Gate(self._news) for _ in stores]
        self._runs = count()
        for store, gate in zip(stores, self._gates, strict=True):
            store._turn = Turn(None)
            for connection in (store._writer, store._reader):
                connection.set_busy_handler(gate.busy)
            store._writer, store._reader = Gated(store._writer, gate), Gated(store._reader, gate)

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[SQLiteLanes]:
        """Lanes on a new file."""
        with ExitStack() as stack:
            stores = []
            for _ in range(LANES):
                opening = SQLiteStore.open(path)
                stores.append(at_once(opening.__aenter__()))
                stack.callback(lambda opening=opening: at_once(opening.__aexit__(None, None, None)))
            _commit(stores[0], Batch([Reap(0)]))  # it is always the last that has written
            yield cls(stores)

    def run_name(self) -> str:
        """A name that no run before had."""
        return f"run {next(self._runs)}"

    def tell(self, case: Case, run: str, chooser: Chooser) -> Outcome:
        """Run a case in the order that the chooser wants."""
        stage = Stage(_Inline(self._stores[0]), run)  # type: ignore[arg-type]
        wishes = at_once(case.prepare(stage))
        answers: dict[int, Any] = {}
        gates = self._gates[: case.lanes]
        threads = [
            threading.Thread(target=gate.run, args=(_work(store, wish), answers, lane))
            for lane, (store, gate, wish) in enumerate(
                zip(self._stores, gates, wishes, strict=False)
            )
        ]
        for gate, thread in zip(gates, threads, strict=True):
            gate.state = "moving"
            thread.start()
        self._conduct(gates, chooser)
        for thread in threads:
            thread.join()
        for answer in answers.values():
            if isinstance(answer, BaseException):
                raise answer
        outcome = (
            tuple(told(stage, answers[lane]) for lane in range(case.lanes)),
            at_once(observed(stage)),
        )
        for worker in stage.workers:
            stage.store.retire(worker)
        at_once(stage.store.commit(Batch([Reap(0)])))
        return outcome

    def _conduct(self, gates: Sequence[Gate], chooser: Chooser) -> None:
        """One lane moves at a time; when it has, those that found the file locked try again."""
        moving = len(gates)
        while True:
            for _ in range(moving):
                self._news.get(timeout=PATIENCE_S)
            able = {n: gate.what for n, gate in enumerate(gates) if gate.state == "waiting"}
            if not able:
                busy = [gate for gate in gates if gate.state == "busy"]
                if not busy:
                    return
                raise AssertionError(f"the file stays locked for {[gate.what for gate in busy]}")
            chosen = gates[chooser.choose(able)]
            busy = [gate for gate in gates if gate.state == "busy"]
            chosen.go()
            self._news.get(timeout=PATIENCE_S)
            for gate in busy:
                gate.go()
            moving = len(busy)


class _Inline:
    """A store whose writes happen here and now."""

    def __init__(self, store: SQLiteStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, batch: Batch) -> Any:
        return _commit(self._store, batch)


def _commit(store: SQLiteStore, batch: Batch) -> list[Any]:
    return list(store._guarded(lambda: store._commit(batch)))


def _work(store: SQLiteStore, wish: Wish) -> Callable[[], Any]:
    if isinstance(wish, Look):
        return lambda: at_once(store.heads(wish.jobs))
    return lambda: _commit(store, wish)
