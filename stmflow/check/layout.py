"""Layers for a small graph: where each node of a picture stands, and how each edge runs.

As Sugiyama, Tagawa and Toda (1981) and Gansner, Koutsofios, North and Vo (1993) do it: edges that
go back are turned round, nodes are put on ranks, long edges pass each rank at a place of their own,
each rank is ordered by what its nodes are tied to, then moved towards it. The text of an edge is a
node of its own, so that nothing is ever written over it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

Size = tuple[float, float]
Point = tuple[float, float]

SWEEPS = 24
ACROSS, DOWN = 22.0, 26.0
"""The least distance between neighbours on a rank, and between ranks."""


class Layout(NamedTuple):
    """Centres of nodes and of the texts of edges, the points of each edge, and the whole size."""

    nodes: list[Point]
    labels: list[Point]
    lines: list[list[Point]]
    size: Size


def layered(
    sizes: Sequence[Size], edges: Sequence[tuple[int, int]], texts: Sequence[Size]
) -> Layout:
    """A layout, top down from node 0.

    Args:
        sizes: of the nodes. edges: pairs of different nodes. texts: sizes of their texts.
    """
    return _Layers(list(sizes), list(edges), list(texts)).layout()


class _Layers:
    def __init__(self, sizes: list[Size], edges: list[tuple[int, int]], texts: list[Size]) -> None:
        self.count = len(sizes)
        self.sizes = sizes
        self.edges = edges
        self.texts = texts
        self.back = set(_backward(self.count, edges))
        forward = [pair[::-1] if pair in self.back else pair for pair in edges]
        depths = _depths(self.count, forward)
        self.rank = [2 * depth for depth in depths]
        self.above: list[list[int]] = [[] for _ in sizes]
        self.below: list[list[int]] = [[] for _ in sizes]
        self.ways = [
            self._way(number, source, target) for number, (source, target) in enumerate(forward)
        ]
        self.ranks: list[list[int]] = [[] for _ in range(max(self.rank) + 1)]
        for node in self._walk():
            self.ranks[self.rank[node]].append(node)

    def _way(self, number: int, source: int, target: int) -> list[int]:
        """An edge as nodes: one on every rank between, the middle one for its text."""
        top, bottom = self.rank[source], self.rank[target]
        middle = (top + bottom) // 2
        middle += 1 - middle % 2  # texts stand on odd ranks, nodes on even ones
        way = [source]
        for rank in range(top + 1, bottom):
            way.append(len(self.sizes))
            self.sizes.append(self.texts[number] if rank == middle else (6.0, 0.0))
            self.rank.append(rank)
            self.above.append([])
            self.below.append([])
        way.append(target)
        for one, other in pairwise(way):
            self.below[one].append(other)
            self.above[other].append(one)
        return way

    def _walk(self) -> Iterator[int]:
        """Every node, those that are tied together near each other."""
        seen: set[int] = set()
        for root in range(self.count):
            stack = [root]
            while stack:
                node = stack.pop()
                if node not in seen:
                    seen.add(node)
                    yield node
                    stack += reversed(self.below[node])

    def layout(self) -> Layout:
        self._order()
        across = self._across()
        heights = [max((self.sizes[node][1] for node in rank), default=0) for rank in self.ranks]
        down, tops = 0.0, []
        for height in heights:
            tops.append(down + height / 2)
            down += height + DOWN
        places = [(across[node], tops[self.rank[node]]) for node in range(len(self.sizes))]
        labels, lines = [], []
        for pair, way in zip(self.edges, self.ways, strict=True):
            texts = [node for node in way[1:-1] if self.sizes[node][1] > 0]
            labels.append(places[texts[0]])
            points = self._points(way, places)
            lines.append(points[::-1] if pair in self.back else points)
        width = max(x + self.sizes[node][0] / 2 for node, (x, _) in enumerate(places))
        return Layout(places[: self.count], labels, lines, (width, down - DOWN))

    def _points(self, way: list[int], places: list[Point]) -> list[Point]:
        (x, y), (u, v) = places[way[0]], places[way[-1]]
        y += self.sizes[way[0]][1] / 2
        v -= self.sizes[way[-1]][1] / 2
        inner: list[Point] = []
        for node in way[1:-1]:
            at, high = places[node], self.sizes[node][1] / 2
            inner += [(at[0], at[1] - high), (at[0], at[1] + high)] if high else [at]
        first = inner[0][0] if inner else u
        last = inner[-1][0] if inner else x
        return [
            (_beside(x, self.sizes[way[0]][0], first), y),
            *inner,
            (_beside(u, self.sizes[way[-1]][0], last), v),
        ]

    def _order(self) -> None:
        """Order each rank by the middle of what its nodes are tied to; keep the best order."""
        best, fewest = [list(rank) for rank in self.ranks], self._crossings()
        for sweep in range(SWEEPS):
            down = sweep % 2 == 0
            for rank in self.ranks if down else reversed(self.ranks):
                ties = self.above if down else self.below
                where = {node: at for each in self.ranks for at, node in enumerate(each)}
                own = {node: at for at, node in enumerate(rank)}
                rank.sort(key=lambda node: _mean([where[t] for t in ties[node]], own[node]))
            if (crossings := self._crossings()) < fewest:
                best, fewest = [list(rank) for rank in self.ranks], crossings
        self.ranks = best

    def _crossings(self) -> int:
        found = 0
        for rank, following in pairwise(self.ranks):
            where = {node: at for at, node in enumerate(following)}
            ends = [to for node in rank for to in sorted(where[one] for one in self.below[node])]
            found += sum(one > other for at, one in enumerate(ends) for other in ends[at + 1 :])
        return found

    def _across(self) -> list[float]:
        """Every node as near as may be to the mean of what it is tied to."""
        across = [0.0] * len(self.sizes)
        for rank in self.ranks:
            for node, offset in zip(rank, self._offsets(rank), strict=True):
                across[node] = offset
        for sweep in range(SWEEPS):
            for rank in self.ranks if sweep % 2 == 0 else reversed(self.ranks):
                offsets = self._offsets(rank)
                wanted = [
                    _mean([across[t] for t in (*self.above[n], *self.below[n])], across[n]) - offset
                    for n, offset in zip(rank, offsets, strict=True)
                ]
                for node, offset, place in zip(rank, offsets, _rising(wanted), strict=True):
                    across[node] = place + offset
        least = min(x - self.sizes[node][0] / 2 for node, x in enumerate(across))
        return [x - least for x in across]

    def _offsets(self, rank: Sequence[int]) -> list[float]:
        """How far right of the first each node of a rank stands at least."""
        offsets, at = [], 0.0
        for place, node in enumerate(rank):
            if place:
                at += (self.sizes[rank[place - 1]][0] + self.sizes[node][0]) / 2 + ACROSS
            offsets.append(at)
        return offsets


def _backward(count: int, edges: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Edges that lead back to a node from which one came, depth first."""
    follows: list[list[int]] = [[] for _ in range(count)]
    for source, target in edges:
        follows[source].append(target)
    done: set[int] = set()
    for root in range(count):
        way: dict[int, Iterator[int]] = {}
        if root not in done:
            way[root] = iter(follows[root])
        while way:
            node = next(reversed(way))
            for target in way[node]:
                if target in way:
                    yield node, target
                elif target not in done:
                    way[target] = iter(follows[target])
                    break
            else:
                del way[node]
                done.add(node)


def _depths(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """The longest way to each node, in a graph without cycles."""
    depths = [0] * count
    for _ in range(count):
        for source, target in edges:
            depths[target] = max(depths[target], depths[source] + 1)
    return depths


def _rising(wanted: Sequence[float]) -> list[float]:
    """The nearest values, by least squares, that never fall (pool adjacent violators)."""
    pools: list[tuple[float, int]] = []
    for value in wanted:
        pools.append((value, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (one, many), (other, more) = pools[-2:]
            pools[-2:] = [((one * many + other * more) / (many + more), many + more)]
    return [value for value, many in pools for _ in range(many)]


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _beside(centre: float, width: float, towards: float) -> float:
    """Where an edge meets a box: on the side to which it goes."""
    reach = max(width / 2 - 12, 0)
    return min(max(towards, centre - reach), centre + reach)
