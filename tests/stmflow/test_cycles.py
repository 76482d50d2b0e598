"""Knots and shortest cycles, against what is tried out in full."""

from __future__ import annotations

from itertools import permutations
from random import Random

from stmflow.testing.cycles import knots, shortest


def reach(after: list[list[int]]) -> list[set[int]]:
    """Node → all that can be reached from it, by trying."""
    found = [set(others) for others in after]
    for _ in after:
        for seen in found:
            seen |= {far for near in list(seen) for far in found[near]}
    return found


def drawn(random: Random) -> list[list[int]]:
    nodes = range(random.randint(1, 6))
    return [[other for other in nodes if random.random() < 0.25 and other != n] for n in nodes]


def test_knots_are_the_nodes_that_reach_each_other() -> None:
    random = Random(1)
    for _ in range(2_000):
        after = drawn(random)
        far = reach(after)
        expected = {
            frozenset(other for other in far[node] if node in far[other])
            for node in range(len(after))
            if node in far[node]
        }
        assert {frozenset(knot) for knot in knots(after)} == expected


def test_a_long_chain_needs_no_recursion() -> None:
    after = [[node + 1] for node in range(50_000)]
    assert knots([*after, []]) == []
    assert len(knots([*after, [0]])[0]) == 50_001


def test_the_shortest_cycle_is_the_shortest() -> None:
    random = Random(2)
    for _ in range(500):
        after = drawn(random)
        kinds = {node: dict.fromkeys(others, 1) for node, others in enumerate(after)}
        against = [(n, other) for n, others in enumerate(after) for other in others if other < n]
        cycle = shortest(kinds, against, lambda kind, state: state, lambda node: True)
        expected = min(
            (
                count
                for count in range(2, len(after) + 1)
                for path in permutations(range(len(after)), count)
                if all(path[at] in after[path[at - 1]] for at in range(count))
            ),
            default=None,
        )
        assert (None if cycle is None else len(cycle)) == expected
        if cycle is not None:
            assert all(cycle[at] in after[cycle[at - 1]] for at in range(len(cycle)))
