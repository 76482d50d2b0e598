"""How to measure four with a jug of three and one of five: the question is put as its denial.

    stmflow check examples/jugs

The check does not hold, and is not meant to: its counter-example is the answer.
"""

from __future__ import annotations

from typing import Final

from examples.jugs.workflow import JUGS, TURNS, Bring
from stmflow.check import Check, Send, View, always

PAIR: Final = JUGS.job("the pair")


def never(amount: int, sizes: tuple[int, int] = (3, 5)) -> Check:
    """The claim that the big jug of two of these sizes never holds so much."""

    def other(view: View) -> bool:
        return bool(view.state(PAIR).big != amount)

    return Check(
        [JUGS],
        name=f"jugs of {sizes[0]} and {sizes[1]}",
        start=lambda tx: tx.apply(PAIR, Bring(sizes)),
        sends=[Send(turn(), times=None) for turn in TURNS],
        properties=[always(f"the big jug never holds {amount}", other)],
    )


CHECKS: Final = (never(4),)
