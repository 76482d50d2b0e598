"""Cycles in a directed graph: which nodes lie on one, and a shortest one among them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

Kinds = int
"""A bit for each reason why an edge is there."""
WORK = 2_000_000
"""So many steps are spent on finding a shortest cycle; then the best so far is taken."""


def knots(after: Sequence[Sequence[int]]) -> list[list[int]]:
    """The strongly connected parts of more than one node. Tarjan, *Depth-first search and linear
    graph algorithms*, SIAM J. Comput. 1972; without recursion, in time linear in the edges.

    Args:
        after: node → the nodes that its edges lead to. A node's edge to itself does not count.
    """
    found: list[list[int]] = []
    place = [0] * len(after)  # 0: not seen yet
    low = [0] * len(after)
    kept = bytearray(len(after))
    stack: list[int] = []
    count = 0
    for root in range(len(after)):
        if place[root]:
            continue
        path = [(root, iter(after[root]))]
        count += 1
        place[root] = low[root] = count
        stack.append(root)
        kept[root] = 1
        while path:
            node, rest = path[-1]
            for other in rest:
                if not place[other]:
                    count += 1
                    place[other] = low[other] = count
                    stack.append(other)
                    kept[other] = 1
                    path.append((other, iter(after[other])))
                    break
                if kept[other] and place[other] < low[node]:
                    low[node] = place[other]
            else:
                path.pop()
                if path and low[node] < low[path[-1][0]]:
                    low[path[-1][0]] = low[node]
                if low[node] == place[node]:
                    knot: list[int] = []
                    while not knot or knot[-1] != node:
                        knot.append(stack.pop())
                        kept[knot[-1]] = 0
                    if len(knot) > 1:
                        found.append(knot)
    return found


Step = Callable[[Kinds, int], int | None]
"""(kinds of an edge, state so far) → the state behind it, or None: not to be taken."""


def shortest(
    after: Mapping[int, Mapping[int, Kinds]],
    closing: Iterable[tuple[int, int]],
    step: Step,
    counts: Callable[[int], bool],
) -> list[int] | None:
    """A shortest cycle, as its nodes in order; None where there is none.

    Args:
        closing: edges of which every cycle has one.
        step: which edges may be taken, and what is to be remembered of them.
        counts: whether a node makes the cycle longer. One that does not is passed for nothing.
    """
    best: list[int] | None = None
    length, work = float("inf"), 0
    for last, first in closing:
        state = step(after[last][first], 0)
        if state is None:
            continue
        begin = (first, state)
        far = {begin: 1}
        back: dict[tuple[int, int], tuple[int, int]] = {}
        line = deque([begin])
        while line:
            here = line.popleft()
            work += 1
            if here[0] == last:
                best, length = _path(here, begin, back), far[here]
                break
            for other, kinds in after[here[0]].items():
                new = step(kinds, here[1])
                cost = far[here] + counts(other)
                if new is None or cost >= length or cost >= far.get((other, new), length):
                    continue
                far[(other, new)], back[(other, new)] = cost, here
                if counts(other):
                    line.append((other, new))
                else:
                    line.appendleft((other, new))
        if work > WORK:
            break
    return best


def _path(
    end: tuple[int, int], begin: tuple[int, int], back: Mapping[tuple[int, int], tuple[int, int]]
) -> list[int]:
    nodes = [end[0]]
    while end != begin:
        end = back[end]
        nodes.append(end[0])
    return nodes[::-1]
