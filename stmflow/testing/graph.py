"""Whether one serial order, in real time, explains what transactions over several keys saw.

Every transaction is a node. One comes before another if

    ww  it wrote the version that the other replaced
    wr  it wrote a version that the other read
    rw  it read a version that the other replaced
    rt  it had ended before the other began

and where that goes in a circle there is no such order. The order of versions is given (each write
names what it replaced), not inferred, so the edges are exact. Classes are those of Adya, *Weak
Consistency* (1999), as Kingsbury and Alvaro name them in *Elle* (VLDB 2020):

    G0           a circle of ww alone: writes are interleaved
    G1c          of ww and wr: what a transaction saw depends on what it did
    G-single     with one rw: read skew, a stale read
    G2-item      with several rw: write skew
    …-realtime   the same, where real time is needed to close it
    G1a          an aborted or unknown write was read: a dirty read
    G1b          a version was read that its own writer replaced
    lost-update  two writes replaced one version
    dirty-update an aborted or unknown write was replaced
    duplicate    one version, or one delivery, was written by two transactions
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from stmflow.testing.cycles import Kinds, Step, knots, shortest

Key = Hashable
Version = Hashable
"""What tells one version of a key from all others. None: the key was not there."""

UNPLACED: Final = object()
"""What a write replaced of which nobody knows what it replaced."""

WW, WR, RW, RT = 1, 2, 4, 8
NAMES: Final = {WW: "ww", WR: "wr", RW: "rw", RT: "rt"}
CLASSES: Final = (("G0", WW, 0), ("G1c", WW | WR, 0), ("G-single", WW | WR, 1), ("G2-item", 7, 0))
"""Worst first: a class, the edges that may be taken, how many rw beside them."""


class Transaction(NamedTuple):
    """What one transaction did.

    Attributes:
        name: for people.
        reads: (key, version) seen. writes: (key, version, the version that it replaced).
        began, ended: places in the history between which it took effect; None: unknown, or never.
        delivery: what caused it: no two transactions come of one. failed: it did not happen.
    """

    name: str
    reads: Sequence[tuple[Key, Version]] = ()
    writes: Sequence[tuple[Key, Version, Version]] = ()
    began: int | None = None
    ended: int | None = None
    delivery: Hashable = None
    failed: bool = False


class Anomaly(NamedTuple):
    """What must not be: its class, the story, and the transactions in it, in order."""

    kind: str
    story: str
    transactions: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}: {self.story}"


def check_graph(transactions: Iterable[Transaction], *, whole: bool = True) -> list[Anomaly]:
    """What keeps these transactions from being strictly serializable; nothing, if nothing does.

    Of each knot of transactions that need each other first, one cycle is told: a shortest one of
    the worst class. Time is linear in reads, writes and edges, but for the telling.

    Args:
        transactions: in any order; where the order of commits is known it makes telling quicker.
        whole: a version that none of them wrote is an anomaly. False: it may come from elsewhere.
    """
    graph = _Graph(transactions)
    return [*graph.sights(whole), *graph.cycles()]


class _Graph:
    def __init__(self, transactions: Iterable[Transaction]) -> None:
        everything = list(transactions)
        self.nodes = [_sane(one) for one in everything if not one.failed]
        self.aborted = {
            (key, version): one
            for one in everything
            if one.failed
            for key, version, _ in one.writes
        }
        self.writer: dict[tuple[Key, Version], int] = {}
        self.replacing: dict[tuple[Key, Version], list[int]] = defaultdict(list)
        self.passing: set[tuple[Key, Version]] = set()
        self.twice: list[Anomaly] = []
        for number, node in enumerate(self.nodes):
            last: dict[Key, Version] = {}
            for key, version, replaced in node.writes:
                if self.writer.setdefault((key, version), number) != number:
                    self.twice.append(self._twice(key, version, number))
                if key in last:
                    self.passing.add((key, last[key]))
                last[key] = version
                if replaced is not UNPLACED:
                    self.replacing[(key, replaced)].append(number)

    def _twice(self, key: Key, version: Version, number: int) -> Anomaly:
        names = (self.nodes[self.writer[(key, version)]].name, self.nodes[number].name)
        text = f"{_shown(key, version)} was written by {names[0]} and by {names[1]}"
        return Anomaly("duplicate", text, names)

    # --- what one or two transactions show

    def sights(self, whole: bool) -> Iterator[Anomaly]:
        """The anomalies that are no cycles."""
        yield from self.twice
        for (key, version), numbers in self.replacing.items():
            names = tuple(self.nodes[number].name for number in dict.fromkeys(numbers))
            if len(names) > 1:
                text = f"{' and '.join(names)} both replaced {_shown(key, version)}"
                yield Anomaly("lost-update", text, names)
        caused: dict[Hashable, str] = {}
        for number, node in enumerate(self.nodes):
            if node.delivery is not None:
                other = caused.setdefault(node.delivery, node.name)
                if other != node.name:
                    text = f"delivery {node.delivery} was applied by {other} and by {node.name}"
                    yield Anomaly("duplicate", text, (other, node.name))
            for key, version in node.reads:
                if version is None:
                    continue
                writer = self.writer.get((key, version))
                if writer is None:
                    yield from self._unwritten("G1a", "saw", node, key, version, whole)
                elif writer != number and (key, version) in self.passing:
                    name = self.nodes[writer].name
                    text = f"{node.name} saw {_shown(key, version)}, which {name} itself replaced"
                    yield Anomaly("G1b", text, (name, node.name))
            for key, _, old in node.writes:
                if old is not None and old is not UNPLACED and (key, old) not in self.writer:
                    yield from self._unwritten("dirty-update", "replaced", node, key, old, whole)

    def _unwritten(
        self, kind: str, did: str, node: Transaction, key: Key, version: Version, whole: bool
    ) -> Iterator[Anomaly]:
        aborted = self.aborted.get((key, version))
        if aborted is not None:
            text = f"{node.name} {did} {_shown(key, version)}, which {aborted.name} never committed"
            yield Anomaly(kind, text, (aborted.name, node.name))
        elif whole:
            text = f"{node.name} {did} {_shown(key, version)}, which nobody wrote"
            yield Anomaly(kind, text, (node.name,))

    # --- what they show together

    def edges(self, number: int) -> Iterator[tuple[int, int, Kinds, Key, Version]]:
        """(from, to, kind, key, version): what this node's reads and writes say."""
        writer, node = self.writer, self.nodes[number]
        for key, version in node.reads:
            wrote = writer.get((key, version))
            if wrote is not None and wrote != number:
                yield wrote, number, WR, key, version
            for other in self.replacing.get((key, version), ()):
                if other != number:
                    yield number, other, RW, key, version
        for key, _, replaced in node.writes:
            wrote = writer.get((key, replaced))
            if wrote is not None and wrote != number:
                yield wrote, number, WW, key, replaced

    def cycles(self) -> Iterator[Anomaly]:
        """One anomaly for each knot."""
        after: list[list[int]] = [[] for _ in self.nodes]
        for number in range(len(self.nodes)):
            for source, target, *_ in self.edges(number):
                after[source].append(target)
        self._in_time(after)
        tied = knots(after)
        ranks = self._ranks() if tied else []
        for knot in tied:
            yield self._told(knot, after, ranks)

    def _in_time(self, after: list[list[int]]) -> None:
        """Real time, in as many edges as there are transactions: a row of moments behind the
        nodes. Who ends leads to the next moment, each moment to the one after it, and the latest
        to who begins."""
        begins = [(node.began, n) for n, node in enumerate(self.nodes) if node.began is not None]
        ends = [(node.ended, n) for n, node in enumerate(self.nodes) if node.ended is not None]
        begins.sort(reverse=True)
        moment: list[int] | None = None
        for place, number in sorted(ends):
            while begins and begins[-1][0] <= place:
                if moment is not None:
                    moment.append(begins[-1][1])
                begins.pop()
            if moment is None or moment:
                after.append([])
                if moment is not None:
                    moment.append(len(after) - 1)
                moment = after[-1]
            after[number].append(len(after) - 1)
        if moment is not None:
            moment += [number for _, number in begins]

    def _ranks(self) -> list[tuple[int, int]]:
        """An order of the nodes that keeps to real time, and to that of commits where it can: edges
        against it are few, and every cycle has one."""
        ranks, latest = [], 0
        for number, node in enumerate(self.nodes):
            if not node.writes and node.ended is not None:
                ranks.append((node.ended, number))
                continue
            latest = max(latest, node.began or 0)
            ranks.append((latest if node.ended is None else min(latest, node.ended), number))
        return ranks

    def _told(
        self, knot: list[int], after: list[list[int]], ranks: Sequence[tuple[int, int]]
    ) -> Anomaly:
        members = set(knot)
        count = len(self.nodes)
        within: dict[int, dict[int, Kinds]] = {number: {} for number in knot}
        for number in knot:
            if number >= count:
                within[number] = {other: RT for other in after[number] if other in members}
                continue
            for source, target, kind, *_ in self.edges(number):
                if source in members and target in members:
                    within[source][target] = within[source].get(target, 0) | kind
            for other in after[number]:
                if other >= count and other in members:
                    within[number][other] = RT
        closing = [
            (ranks[source][0] - ranks[target][0], source, target)
            for source, others in within.items()
            if source < count
            for target in others
            if target < count and ranks[source] > ranks[target]
        ]
        near = [(source, target) for _, source, target in sorted(closing)]
        for real in (0, RT):
            for name, taken, spare in CLASSES:
                cycle = shortest(within, near, _step(taken | real, spare), lambda n: n < count)
                if cycle is not None:
                    nodes = [number for number in cycle if number < count]
                    named = f"{name}-realtime" if real else name
                    return self._story(named, nodes, taken | (RW if spare else 0))
        raise AssertionError("a knot without a cycle")

    def _story(self, kind: str, cycle: list[int], taken: Kinds) -> Anomaly:
        names = tuple(self.nodes[number].name for number in cycle)
        lines = [f"no order of {len(cycle)} transactions explains what they saw"]
        for source, target in zip(cycle, [*cycle[1:], cycle[0]], strict=True):
            lines.append(f"  {self._reason(source, target, taken)}")
        return Anomaly(kind, "\n".join(lines), names)

    def _reason(self, source: int, target: int, taken: Kinds) -> str:
        """Why one comes before the other: its strongest reason among those that may be taken."""
        one, other = self.nodes[source], self.nodes[target]
        found: dict[Kinds, tuple[Key, Version]] = {}
        for number in (source, target):
            for begin, end, kind, key, version in self.edges(number):
                if (begin, end) == (source, target):
                    found.setdefault(kind, (key, version))
        kind = min((kind for kind in found if kind & taken), default=RT)
        if kind == RT:
            text = f"it had ended (at {one.ended}) before the other began (at {other.began})"
        else:
            what = _shown(*found[kind])
            text = {
                WW: f"it wrote {what}, which the other replaced",
                WR: f"it wrote {what}, which the other saw",
                RW: f"it saw {what}, which the other replaced",
            }[kind]
        return f"{one.name} --{NAMES[kind]}--> {other.name}: {text}"


def _sane(one: Transaction) -> Transaction:
    """An end before its own begin is not believed."""
    backward = one.began is not None and one.ended is not None and one.ended < one.began
    return one._replace(ended=None) if backward else one


def _step(taken: Kinds, spare: int) -> Step:
    """Which edges may be taken; the state counts the rw beside them."""

    def step(kinds: Kinds, state: int) -> int | None:
        if kinds & taken:
            return state
        return state + 1 if kinds & RW and state < spare else None

    return step


def _shown(key: Key, version: Version) -> str:
    if version is None:
        return f"{_short(key)} before its first version"
    return f"{_short(key)} at {_short(version)}"


def _short(name: Hashable) -> str:
    """A CID by its beginning, which is enough for `stmflow show`."""
    text = str(name)
    return text if len(text) < 32 else f"{text[:16]}…"
