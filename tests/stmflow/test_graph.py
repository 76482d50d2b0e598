"""Each class of anomaly is told from the others; what is no anomaly passes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stmflow.testing.graph import UNPLACED, Anomaly, check_graph
from stmflow.testing.graph import Transaction as T

BIRTH = T("birth", (), [("x", 0, None), ("y", 0, None)])
"""Two keys, at their first version."""


def kinds(*transactions: T, whole: bool = True) -> list[str]:
    return [one.kind for one in check_graph(transactions, whole=whole)]


# --- what must pass


def test_nothing_is_right() -> None:
    assert kinds() == []


def test_a_serial_history_passes() -> None:
    assert kinds(BIRTH, T("a", [("x", 0)], [("y", 1, 0)], 0, 1), T("b", [("y", 1)], (), 2, 3)) == []


def test_what_overlaps_may_have_happened_in_either_order() -> None:
    write = T("write", (), [("x", 1, 0)], 0, 5)
    for version in (0, 1):
        assert kinds(BIRTH, write, T("read", [("x", version)], (), 4, 6)) == []


def test_a_cut_read_of_a_prefix_needs_real_time_to_be_wrong() -> None:
    """Of three versions only the first is seen, long after all were written: a serial order puts
    the read before the second. Only a clock says that it was not there."""
    chain = [T("1", (), [("x", 1, 0)], 0, 1), T("2", (), [("x", 2, 1)], 2, 3)]
    read = T("read", [("x", 0)], (), 4, 5)
    assert kinds(BIRTH, *chain, read) == ["G-single-realtime"]
    timeless = [one._replace(began=None, ended=None) for one in (*chain, read)]
    assert kinds(BIRTH, *timeless) == []


def test_a_read_of_two_keys_at_one_moment_passes_and_across_two_does_not() -> None:
    both = T("both", (), [("x", 1, 0), ("y", 1, 0)])
    assert kinds(BIRTH, both, T("read", [("x", 1), ("y", 1)])) == []
    assert kinds(BIRTH, both, T("read", [("x", 0), ("y", 0)])) == []
    assert kinds(BIRTH, both, T("read", [("x", 0), ("y", 1)])) == ["G-single"]


def test_what_has_no_end_may_happen_at_any_time() -> None:
    unknown = T("unknown", (), [("x", 1, 0)], 0, None)
    late = T("late", [("x", 1)], (), 9, 10)
    assert kinds(BIRTH, unknown, T("early", [("x", 0)], (), 3, 4), late) == []


def test_an_end_before_its_begin_is_not_believed() -> None:
    odd = T("odd", [("x", 0)], [("y", 1, 0)], 9, 3)
    assert kinds(BIRTH, odd, T("read", [("y", 0)], (), 10, 11)) == []
    assert kinds(BIRTH, odd, T("skew", [("y", 0)], [("x", 1, 0)], 4, 5)) == ["G2-item"]


def test_a_transaction_may_see_what_it_wrote_itself() -> None:
    assert kinds(BIRTH, T("a", [("x", 0), ("x", 1)], [("x", 1, 0)])) == []


def test_versions_from_elsewhere_pass_where_the_history_is_not_whole() -> None:
    some = [T("read", [("x", 7)]), T("write", (), [("y", 2, 1)])]
    assert kinds(*some, whole=False) == []
    assert kinds(*some) == ["G1a", "dirty-update"]


# --- planted


def g0() -> list[T]:
    return [T("a", (), [("x", 1, 0), ("y", 2, 1)]), T("b", (), [("x", 2, 1), ("y", 1, 0)])]


def g1a_of_an_aborted_write() -> list[T]:
    return [T("a", (), [("x", 1, 0)], failed=True), T("b", [("x", 1)])]


def g1a_of_a_write_of_nobody() -> list[T]:
    return [T("b", [("x", 1)])]


def g1b() -> list[T]:
    return [T("a", (), [("x", 1, 0), ("x", 2, 1)]), T("b", [("x", 1)])]


def g1c() -> list[T]:
    return [T("a", [("y", 1)], [("x", 1, 0)]), T("b", [("x", 1)], [("y", 1, 0)])]


def g1c_by_replacing() -> list[T]:
    return [T("a", [("y", 1)], [("x", 1, 0)]), T("b", (), [("x", 2, 1), ("y", 1, 0)])]


def g_single_read_skew() -> list[T]:
    return [T("a", (), [("x", 1, 0), ("y", 1, 0)]), T("b", [("x", 0), ("y", 1)])]


def g2_item_write_skew() -> list[T]:
    seen = [("x", 0), ("y", 0)]
    return [T("a", seen, [("x", 1, 0)]), T("b", seen, [("y", 1, 0)])]


def g2_item_write_skew_on_absence() -> list[T]:
    seen = [("v", None), ("w", None)]
    return [T("a", seen, [("v", 1, None)]), T("b", seen, [("w", 1, None)])]


def g2_item_of_three() -> list[T]:
    return [
        T("a", [("x", 0)], [("y", 1, 0)]),
        T("b", [("y", 0)], [("z", 1, None)]),
        T("c", [("z", None)], [("x", 1, 0)]),
    ]


def g2_item_long_fork() -> list[T]:
    """Two readers disagree on which of two writes came first."""
    return [
        T("a", (), [("x", 1, 0)]),
        T("b", (), [("y", 1, 0)]),
        T("c", [("x", 1), ("y", 0)]),
        T("d", [("x", 0), ("y", 1)]),
    ]


def g0_realtime_write_before_what_was_acknowledged() -> list[T]:
    return [T("a", (), [("x", 2, 1)], 0, 1), T("b", (), [("x", 1, 0)], 2, 3)]


def g1c_realtime_read_of_the_future() -> list[T]:
    return [T("a", [("x", 1)], (), 0, 1), T("b", (), [("x", 1, 0)], 2, 3)]


def g_single_realtime_stale_read() -> list[T]:
    return [T("a", (), [("x", 1, 0)], 0, 1), T("b", [("x", 0)], (), 2, 3)]


def g2_item_realtime() -> list[T]:
    return [
        T("a", [("x", 0)], [("y", 1, 0)], 0, 9),
        T("b", [("y", 0)], (), 4, 5),
        T("c", [("v", None)], [("x", 1, 0)], 0, 3),
    ]


def lost_update() -> list[T]:
    return [T("a", (), [("x", 1, 0)]), T("b", (), [("x", 2, 0)])]


def dirty_update() -> list[T]:
    return [T("a", (), [("x", 1, 0)], failed=True), T("b", (), [("x", 2, 1)])]


def duplicate_delivery() -> list[T]:
    return [T("a", (), [("x", 1, 0)], delivery="d"), T("b", (), [("x", 2, 1)], delivery="d")]


def duplicate_version() -> list[T]:
    return [T("a", (), [("x", 1, UNPLACED)]), T("b", (), [("x", 1, UNPLACED)])]


PLANTED: list[tuple[str, Callable[[], list[T]]]] = [
    ("G0", g0),
    ("G1a", g1a_of_an_aborted_write),
    ("G1a", g1a_of_a_write_of_nobody),
    ("G1b", g1b),
    ("G1c", g1c),
    ("G1c", g1c_by_replacing),
    ("G-single", g_single_read_skew),
    ("G2-item", g2_item_write_skew),
    ("G2-item", g2_item_write_skew_on_absence),
    ("G2-item", g2_item_of_three),
    ("G2-item", g2_item_long_fork),
    ("G0-realtime", g0_realtime_write_before_what_was_acknowledged),
    ("G1c-realtime", g1c_realtime_read_of_the_future),
    ("G-single-realtime", g_single_realtime_stale_read),
    ("G2-item-realtime", g2_item_realtime),
    ("lost-update", lost_update),
    ("dirty-update", dirty_update),
    ("duplicate", duplicate_delivery),
    ("duplicate", duplicate_version),
]


@pytest.mark.parametrize(("kind", "plant"), PLANTED, ids=lambda p: getattr(p, "__name__", p))
def test_a_planted_anomaly_is_flagged_in_its_class(kind: str, plant: Callable[[], list[T]]) -> None:
    planted = plant()
    assert kinds(BIRTH, *planted)[0] == kind
    assert kinds(*reversed(planted), BIRTH)[0] == kind, "whatever the order they come in"


# --- the story


def story() -> Anomaly:
    (found,) = check_graph([BIRTH, *g2_item_write_skew()])
    return found


def test_the_story_says_who_saw_what() -> None:
    assert str(story()).splitlines() == [
        "G2-item: no order of 2 transactions explains what they saw",
        "  a --rw--> b: it saw y at 0, which the other replaced",
        "  b --rw--> a: it saw x at 0, which the other replaced",
    ]
    assert story().transactions == ("a", "b")


def test_a_shortest_cycle_is_told_among_many() -> None:
    line = [T(f"{n}", [("k", n - 1)], [("k", n, n - 1 or None)], 2 * n, 2 * n + 1) for n in (1, 2)]
    line += [T(f"{n}", (), [("k", n, n - 1)], 2 * n, 2 * n + 1) for n in range(3, 3_000)]
    stale = T("stale", [("k", 1)], (), 9_000, 9_001)
    (found,) = check_graph([T("0", (), [("k", 0, UNPLACED)]), *line, stale])
    assert found.kind == "G-single-realtime"
    assert len(found.transactions) == 2
