"""Linearizability by search: is there an order of the operations, in real time, that a sequential
specification allows? It knows nothing of parents, and so it can judge the checker that does.

After Wing and Gong, *Testing and verifying concurrent objects* (1993), with Lowe's memo of what was
tried before (*Testing for linearizability*, 2017). The operations done are bits of one integer.
Exponential at worst: for histories of some dozens of operations.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, TypeVar

State = TypeVar("State", bound=Hashable)


class Operation(NamedTuple):
    """One operation: what it was, and the places in the history between which it took effect.

    `ended` None: its fate is unknown. It took effect at some time after `began`, or never.
    """

    what: Any
    began: int
    ended: int | None


def linearizable(
    operations: Sequence[Operation], start: State, apply: Callable[[State, Any], State | None]
) -> bool:
    """Whether some order of the operations explains them all.

    Args:
        start: the state before all of them.
        apply: (state, what) → the state behind it; None: that cannot have happened there.
    """
    line = sorted(operations, key=lambda one: one.began)
    must = sum(1 << n for n, one in enumerate(line) if one.ended is not None)
    tried = {(0, start)}
    open = [(0, start)]
    while open:
        done, state = open.pop()
        if done & must == must:
            return True
        first_end = min(
            one.ended for n, one in enumerate(line) if one.ended is not None and not done >> n & 1
        )
        for n, one in enumerate(line):
            if one.began > first_end:
                break  # whoever begins later cannot be next
            if done >> n & 1:
                continue
            after = apply(state, one.what)
            if after is not None and (reached := (done | 1 << n, after)) not in tried:
                tried.add(reached)
                open.append(reached)
    return False


Log = tuple[str, ...]
"""A job as its clients know it: the deliveries that were applied to it, in order."""


def job(state: Log, what: tuple[str, Any]) -> Log | None:
    """The sequential specification of one job.

    `what` is one of ("send", (delivery, the number it got or None)), ("read", (the last delivery or
    None, its number)) and ("rest", all deliveries): what is there when everything has ended.
    """
    kind, seen = what
    if kind == "send":
        delivery, seq = seen
        return (*state, delivery) if seq in (None, len(state) + 1) else None
    if kind == "read":
        return state if seen == (state[-1] if state else None, len(state)) else None
    return state if seen == state else None
