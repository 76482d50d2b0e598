"""The states of one depth, prepared on several cores; what comes out is the same as of one.

For each depth that is worth it, processes are forked: they know all that is known so far, and share
its memory. They take turns with portions of the depth, and find the steps out of those states and
which of them lead to states that nobody has met. The process that forked them takes their
answers in the order of the states, so numbers, counts and traces are those of a single process.
What the engine has not been asked yet, it asks itself, in that order.
"""

from __future__ import annotations

import marshal
import multiprocessing
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from stmflow.check.machine import State
from stmflow.check.search import Prepared, Search

WORTH = 4_000
"""States of one depth from which on it is worth forking."""

PORTION = 256
"""States that are sent back at once."""


class Unasked(Exception):
    """The engine would have to be asked, which this process must not do."""


def usable() -> bool:
    """Whether processes can be forked here."""
    return sys.platform == "linux" and "fork" in multiprocessing.get_all_start_methods()


def spread(cores: int) -> Any:
    """Prepares depths on so many cores: a `Search.spread`, or None where that is not possible."""
    return partial(prepared, cores) if cores > 1 and usable() else None


def prepared(cores: int, search: Search, first: int, end: int) -> Iterator[Prepared | bool | None]:
    """Each state of the depth, in order; None where that is left to the caller."""
    if end - first < WORTH:
        for _ in range(first, end):
            yield None
        return
    context = multiprocessing.get_context("fork")
    workers: list[tuple[Any, Connection]] = []
    try:
        for which in range(cores):
            reader, writer = context.Pipe(duplex=False)
            portions = range(first + which * PORTION, end, cores * PORTION)
            worker = context.Process(target=_work, args=(search, portions, end, writer))
            with warnings.catch_warnings():  # of threads, which have no part in this
                warnings.simplefilter("ignore", DeprecationWarning)
                worker.start()
            writer.close()
            workers.append((worker, reader))
        met: list[dict[int, int]] = [{} for _ in workers]
        for number, start in enumerate(range(first, end, PORTION)):
            which = number % cores
            try:
                portion = marshal.loads(workers[which][1].recv_bytes())
            except (EOFError, OSError):  # killed, perhaps for want of memory
                portion = [None] * min(PORTION, end - start)
            for one in portion:
                yield (*one, met[which]) if one else one
    finally:
        for worker, reader in workers:
            worker.terminate()
            worker.join()
            reader.close()


def _work(search: Search, portions: range, end: int, writer: Connection) -> None:
    """What a forked process does."""
    worker = _Worker(search)
    for start in portions:
        states = range(start, min(start + PORTION, end))
        writer.send_bytes(marshal.dumps([worker.prepare(at) for at in states]))


class _Worker:
    """Finds steps without giving a number to anything: nobody else would know it."""

    def __init__(self, search: Search) -> None:
        self.search = search
        self.new: dict[State, int] = {}
        self.looked: set[Any] = set()
        for name in ("_missed", "moved"):
            setattr(search.machine, name, _unasked)

    def prepare(self, at: int) -> Any:
        """The steps out of a state, as `Prepared` has them: where nothing is new and nothing has to
        be looked at, only for liveness. None: it cannot tell."""
        search, some, count = self.search, list[Any](), 0
        new, looked = list[State](), list[Any]()
        try:
            if not search.follows(at):
                return False
            for action, after, wrong in search.machine.successors(search.graph.states[at]):
                count += 1
                code = search.numbers.get(after)
                ready, look = None, wrong is not None
                if code is not None:
                    look = look or not search.looked(at, action, code, after)
                else:
                    code = self.new.get(after)
                    if code is None:
                        code = self.new[after] = ~len(self.new)
                        new.append(after)
                        ready, look = search.ready(after), True
                    if search.stepwise:
                        sight = (search.graph.sights[at], action, after[:3])
                        if sight not in self.looked:
                            self.looked.add(sight)
                            looked.append(sight)
                            look = True
                if look:
                    some.append((code, action, after, wrong, ready))
                elif search.lively:
                    some.append((code, action, None, None, None))
        except Exception:  # whatever it is, the caller comes to it as well
            for state in new[::-1]:
                del self.new[state]
            self.looked.difference_update(looked)
            return None
        return count, some


def _unasked(*given: Any) -> Any:
    raise Unasked
