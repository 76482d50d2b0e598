"""Whose turn it is: nobody starves, no slot stays free in vain, types share by weight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from scheduler.turns import Turns
from stmflow.placement import plain
from stmflow.store import Kind, Queue, Want

NOW = 10


class Outbox:
    """What waits, as `Store.queues` and `Claim` show it: kind and tenant → how many tasks."""

    def __init__(self, waiting: Mapping[tuple[Kind, str], int]) -> None:
        self.waiting = dict(waiting)

    async def queues(self, after: Mapping[Kind, str | None], limit: int) -> list[Queue]:
        found: list[Queue] = []
        for kind, last in after.items():
            tenants = sorted(
                tenant
                for (other, tenant), count in self.waiting.items()
                if other == kind and count and (last is None or tenant > last)
            )
            found += [Queue(*kind, tenant, 0) for tenant in tenants[:limit]]
        return found

    def claim(self, wants: list[Want]) -> list[tuple[str, str]]:
        """(type, tenant) of each task that is taken."""
        taken: list[tuple[str, str]] = []
        for want in wants:
            assert want.tenant is not None
            place = (want[:3], want.tenant)
            count = min(want.limit, self.waiting[place])
            self.waiting[place] -= count
            taken += [(plain(want.tag), want.tenant)] * count
        return taken

    @property
    def empty(self) -> bool:
        return not any(self.waiting.values())


class Claimer:
    """A scheduler's rounds, without a scheduler."""

    def __init__(
        self, outbox: Outbox, weights: Mapping[str, float] | None = None, per_tenant: int = 99
    ) -> None:
        self.outbox = outbox
        self.turns = Turns(weights or {})
        self.per_tenant = per_tenant

    async def round(self, slots: int) -> list[tuple[str, str]]:
        kinds = list({kind: None for kind, _ in self.outbox.waiting})

        def room_of(kind: Kind, tenant: str) -> int:
            return self.per_tenant

        pages = await self.turns.look(
            kinds, self.outbox.queues, slots=slots, room_of=room_of, now=NOW
        )
        taken_by = Counter[str]()

        def take(kind: Kind, tenant: str) -> bool:
            taken_by[tenant] += 1
            return taken_by[tenant] <= self.per_tenant

        wants = self.turns.deal(pages, slots=slots, take=take)
        assert sum(want.limit for want in wants) <= slots
        taken = self.outbox.claim(wants)
        for tag, count in Counter(tag for tag, _ in taken).items():
            self.turns.served(tag, count)
        return taken


def kind(tag: str, version: int = 1) -> Kind:
    return ("w", version, tag)


outboxes = st.dictionaries(
    st.tuples(
        st.builds(kind, st.sampled_from(["A", "B", 'B {"x":"1"}']), st.integers(1, 2)),
        st.text("abc", max_size=2),
    ),
    st.integers(1, 40),
    max_size=9,
)


@given(outboxes, st.integers(1, 9))
async def test_as_long_as_something_waits_every_round_takes_something(
    waiting: dict[tuple[Kind, str], int], slots: int
) -> None:
    claimer = Claimer(Outbox(waiting))
    for _ in range(sum(waiting.values())):
        assert await claimer.round(slots) or claimer.outbox.empty
    assert claimer.outbox.empty


@given(st.sets(st.text("abc", max_size=2), min_size=1), st.integers(1, 9))
async def test_tenants_of_one_type_are_served_evenly(tenants: set[str], slots: int) -> None:
    claimer = Claimer(Outbox({(kind("A"), tenant): 1_000 for tenant in tenants}))
    served = Counter[str]()
    for _ in range(40):
        served += Counter(tenant for _, tenant in await claimer.round(slots))
        counts = [served[tenant] for tenant in tenants]
        assert max(counts) - min(counts) <= 1


@given(outboxes, st.integers(1, 3))
async def test_nobody_waits_for_more_than_a_turn_of_everybody_else(
    waiting: dict[tuple[Kind, str], int], slots: int
) -> None:
    waiting = dict.fromkeys(waiting, 1_000)
    claimer = Claimer(Outbox(waiting))
    since = dict.fromkeys({(plain(kind[2]), tenant) for kind, tenant in waiting}, 0)
    for n in range(60):
        for who in await claimer.round(slots):
            since[who] = n
        assert all(n - last <= 2 * len(waiting) + 2 for last in since.values())


async def test_a_tenant_with_a_hundred_thousand_does_not_hide_one_with_three() -> None:
    outbox = Outbox({(kind("A"), "big"): 100_000, (kind("A"), "small"): 3})
    taken = await Claimer(outbox).round(64)
    assert len(taken) == 35
    assert Counter(taken)[("A", "small")] == 3
    one_by_one = Claimer(Outbox({(kind("A"), "big"): 100_000, (kind("A"), "small"): 3}))
    rounds = [who for _ in range(8) for _, who in await one_by_one.round(1)]
    assert rounds.index("small") <= 1
    assert Counter(rounds)["small"] == 3


async def test_types_share_by_weight_and_a_light_one_is_not_starved() -> None:
    outbox = Outbox({(kind("Heavy"), "t"): 10_000, (kind("Light"), "t"): 10_000})
    claimer = Claimer(outbox, {"Heavy": 9.0})
    for slots, rounds in ((1, 200), (10, 20), (64, 5)):
        served = Counter([tag for _ in range(rounds) for tag, _ in await claimer.round(slots)])
        total = served["Heavy"] + served["Light"]
        assert abs(served["Light"] - total / 10) <= 2


async def test_a_type_that_was_idle_gets_its_share_and_no_more_for_the_time_it_was_away() -> None:
    outbox = Outbox({(kind("A"), "t"): 10_000, (kind("B"), "t"): 0})
    claimer = Claimer(outbox)
    for _ in range(500):
        await claimer.round(1)
    outbox.waiting[(kind("B"), "t")] = 10_000
    served = Counter([tag for _ in range(20) for tag, _ in await claimer.round(1)])
    assert abs(served["A"] - served["B"]) <= 1


async def test_a_tenant_that_has_all_it_may_is_passed_over() -> None:
    outbox = Outbox({(kind("A"), "big"): 100, (kind("A"), "small"): 5, (kind("B"), "big"): 9})
    taken = Counter(who for _, who in await Claimer(outbox, per_tenant=3).round(20))
    assert taken == {"big": 3, "small": 3}


async def test_tenants_beyond_the_first_page_are_found() -> None:
    outbox = Outbox({(kind("A"), f"t{n:03}"): 1 for n in range(50)})
    claimer = Claimer(outbox)
    order = [who for _ in range(50) for _, who in await claimer.round(1)]
    assert order == sorted(order)
    assert outbox.empty


async def test_behind_ten_thousand_who_are_not_due_one_who_is_gets_found() -> None:
    class Waiting(Outbox):
        async def queues(self, after: Mapping[Kind, str | None], limit: int) -> list[Queue]:
            found = await super().queues(after, limit)
            self.looks += 1
            return [q._replace(due=NOW + (q.tenant != "t0500")) for q in found]

        looks = 0

    outbox = Waiting({(kind("A"), f"t{n:04}"): 1 for n in range(10_000)})
    claimer = Claimer(outbox)
    assert await claimer.round(1) == [("A", "t0500")]
    assert outbox.looks <= 6
    assert await claimer.round(1) == []
    assert outbox.looks <= 20


async def test_nothing_waits_and_nobody_is_dealt_anything() -> None:
    assert await Claimer(Outbox({})).round(5) == []
    assert await Claimer(Outbox({(kind("A"), "t"): 0})).round(5) == []
