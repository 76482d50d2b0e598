"""The ship in motion: the tests that a user writes, and a story with the name of every step."""

from __future__ import annotations

import pytest

from examples.spaceship import (
    AIRLOCK,
    BAY,
    DECK,
    DOOR,
    TASKS,
    TRANSACTIONAL,
    WORKFLOWS,
    ActiveRequested,
    AskOuter,
    Leak,
    ReadyRequested,
    RelaxedRequested,
    airlock,
    bay,
    build,
    deck,
    door,
)
from examples.spaceship.check import CHECKS, ship
from stmflow.check import prove
from stmflow.testing import Trace

SHIP, AIRLOCKS = "Rocinante", ("A", "B", "C", "D")


class Ship:
    """A ship on a store of its own."""

    def __init__(self) -> None:
        self.deck = Trace(DECK, others=WORKFLOWS[:3], transactional=TRANSACTIONAL, tasks=TASKS)
        self.deck.transact(lambda tx: build(tx, SHIP, AIRLOCKS))
        self.deck = self.deck.job(DECK.job(SHIP))
        self.door = self.deck.job(DOOR.job(SHIP))
        self.bay = self.deck.job(BAY.job(SHIP))
        self.locks = {name: self.deck.job(AIRLOCK.job(SHIP, name)) for name in AIRLOCKS}

    def rest(self) -> None:
        """Everything that is under way comes to its end."""
        while any(
            self._work(job) for job in (self.deck, self.bay, self.door, *self.locks.values())
        ):
            pass

    def _work(self, job: Trace) -> bool:
        """Perform one task; whether there was one that did not wait."""
        for task in job.ready:
            if type(task) not in TASKS:
                job.succeed(task)
                return True
            if job.run(task).answer.kind != "waits":
                return True
        return False

    def tags(self) -> tuple[str | None, ...]:
        return self.deck.tag, self.bay.tag, self.door.tag


@pytest.fixture
def vessel() -> Ship:
    return Ship()


def outer(name: str) -> AskOuter:
    return AskOuter(SHIP, name)


# --- the deck -----------------------------------------------------------------------------------


def test_from_mode_to_mode(vessel: Ship) -> None:
    assert vessel.tags() == ("relaxed", "friendly", "closed")
    for event, tags in [
        (ActiveRequested(SHIP), ("active", "hostile", "open")),
        (ReadyRequested(SHIP), ("ready", "hostile", "closed")),
        (RelaxedRequested(SHIP), ("relaxed", "friendly", "closed")),
    ]:
        vessel.deck.send(event)
        vessel.rest()
        assert vessel.tags() == tags


def test_a_goal_that_is_replaced_takes_its_orders_with_it(vessel: Ship) -> None:
    vessel.deck.send(ActiveRequested(SHIP)).run(deck.Step)
    vessel.bay.run(bay.Interlock)
    assert vessel.tags() == ("activating", "depressurising", "closed")
    vessel.deck.send(RelaxedRequested(SHIP))
    assert vessel.deck.ready.count(deck.Step(SHIP, "relaxed")) == 1
    assert deck.Step(SHIP, "active") not in vessel.deck.ready
    vessel.rest()
    assert vessel.tags() == ("relaxed", "friendly", "closed")


def test_a_leak_is_everybodys_at_once(vessel: Ship) -> None:
    vessel.locks["A"].send(outer("A")).succeed(airlock.Swing).succeed(airlock.Swing)
    assert vessel.locks["A"].tag == "outer open friendly"
    vessel.bay.send(Leak(SHIP))
    assert (vessel.deck.tag, vessel.bay.tag) == ("relaxing", "hostile")
    assert (vessel.locks["A"].tag, vessel.locks["A"].state.chamber) == ("closing outer", "hostile")
    revisions = {job.history[-1].revision for job in (vessel.deck, vessel.bay, vessel.locks["A"])}
    assert len(revisions) == 1  # one commit
    assert deck.Repair(SHIP) in vessel.deck.ready
    vessel.rest()
    assert vessel.tags() == ("relaxed", "friendly", "closed")


# --- vetoes -------------------------------------------------------------------------------------


def test_a_vetoed_press_changes_nothing(vessel: Ship) -> None:
    lock = vessel.locks["A"]
    vessel.deck.send(ReadyRequested(SHIP))
    before = lock.head
    assert lock.send(outer("A")).refused == "DeckNotCalm"
    assert lock.answer.detail == {"guard": "calm"}
    assert lock.head == before


def test_a_missing_bay_reads_as_unsafe() -> None:
    lost = Trace(DOOR, others=WORKFLOWS[1:], transactional=TRANSACTIONAL)
    lost.transact(lambda tx: tx.apply(DOOR.job(SHIP), door.Hung(SHIP)))
    verdict = lost.transact(lambda tx: tx.apply(DOOR.job(SHIP), door.OpenRequested(SHIP)))
    assert (verdict.kind, verdict.code) == ("rejected", "BayNotHostile")


def test_no_air_is_let_in_while_the_bay_door_is_open(vessel: Ship) -> None:
    vessel.deck.send(ActiveRequested(SHIP))
    vessel.rest()
    asked = bay.FriendlyRequested(SHIP)
    verdict = vessel.deck.transact(lambda tx: tx.apply(BAY.job(SHIP), asked))
    assert (verdict.kind, verdict.code) == ("rejected", "DoorNotClosed")


# --- a red alert --------------------------------------------------------------------------------


def test_red_alert(vessel: Ship) -> None:
    """She is in airlock B, without a space suit, and presses button 2."""
    lock = vessel.locks["B"]
    lock.send(outer("B"))
    lock.succeed(airlock.Swing)
    assert lock.tag == "opening outer"
    vessel.deck.send(ActiveRequested(SHIP)).run(deck.Evacuate)
    assert lock.tag == "closing outer"
    for _ in range(3):
        assert lock.send(outer("B")).refused == "DeckNotCalm"
    vessel.deck.run(deck.Step)
    assert lock.send(outer("B")).refused == "BayNotStable"
    assert vessel.bay.run(bay.Interlock).answer.kind == "waits"  # for her
    lock.succeed(airlock.Swing).succeed(airlock.Swing)
    assert (lock.tag, lock.state.chamber) == ("inner open", "friendly")
    vessel.rest()
    assert vessel.tags() == ("active", "hostile", "open")
    lock.send(outer("B"))  # in a suit, this time
    vessel.rest()
    assert (lock.tag, lock.state.chamber) == ("outer open hostile", "hostile")
    assert [(past.tag, str(past.revision)) for past in lock.history] == STORY


STORY = [
    ("inner open", "bafyreidrqme3zekwpsuplpcisht5npyugowmagunr3e2cjlawwjzkd6egm"),  # built
    (
        "closing inner",
        "bafyreiemvipiicqtl3gcdgwtdw4bsd7pzae6sgcdfk52jxkqqcdmnotwsy",
    ),  # she presses 2
    ("opening outer", "bafyreigg25jtfsevdjfhyi3nyonzcpkhaidlx6wgz7tiw64uya5yajq2ae"),  # it opens
    (
        "closing outer",
        "bafyreigebcqgmxjp2wryr5pbguvfk3yolg7gmvhjvmbbnpccu3c362n2im",
    ),  # red alert: the deck's post hook
    (
        "closing outer",
        "bafyreihcj6ilvoda5kce5xsnxtote57qrlwmnz7zhvvvlm5icj3ca65ejm",
    ),  # the bay is about to change
    (
        "opening inner",
        "bafyreifk4ldue5j53pc6sf25jwvyrod4ttklttzgjkmigbkf47vtmulht4",
    ),  # the outer door has closed
    ("inner open", "bafyreiek3klkfi2vbinzxj7wa2mu5qs7tqwe52hknabyuuo5z45ielhu6i"),  # she is back
    (
        "inner open",
        "bafyreielvrpnkrl3hks6atbxma2l6bh63kop53grpfojh73bmz7m3wjzsm",
    ),  # the bay is hostile
    (
        "closing inner",
        "bafyreiaylg4tzxe5pt53g46rxienptku4mjwfeb5xcvru7rln7mthppnfm",
    ),  # she presses 2 again
    (
        "depressurising",
        "bafyreihtic2alxcmat4sbiv4izqwpkzcccwiweg47px7uamzrinoiftfh4",
    ),  # the bay is empty, so she waits
    ("opening outer", "bafyreiftpmxj6xjytjkymfqpx4xelsdyv5omivpo2bfxxsfitqrs2tc2oi"),  # it opens
    (
        "outer open hostile",
        "bafyreibwopmub4cvlsvggx3qugtcgc4z4liqoo3ypxf3nrbncremwt5hvu",
    ),  # outside
]
"""Every revision of airlock B: its state, and the CID that commits to all that led there."""

# --- proved -------------------------------------------------------------------------------------


def test_the_rules_of_the_crew_hold() -> None:
    report = prove(CHECKS[0])
    assert (report.holds, report.vacuous) == (True, [])


def test_every_ask_ends() -> None:
    asked = {one.name for one in CHECKS[0].properties}
    short = ship("one order each", ["A"], orders=1, leaks=0, more=CHECKS[1].properties[-2:])
    assert len({one.name for one in short.properties} - asked) == 2
    assert prove(short).holds
