"""Every attack of the list is refused by its name, and nothing is written."""

from __future__ import annotations

from collections import Counter

import pytest

from stmflow.cid import CID
from tests.attack import bytes0, tokens0, tokens1
from tests.attack.attack import ATTACKS, Attack
from tests.attack.table import page
from tests.attack.world import Family, message_of, pack, post, world
from tests.capabilities.ucanto.tokens import LINK, SPACE, blocks_of
from tests.project import ROOT

assert bytes0.BODY  # each of these modules lists its attacks when it is imported

GOOD: dict[Family, bytes] = {
    "ucanto": post(tokens0.ASK, tokens0.ROOT),
    "ucan1": pack(tokens1.ASK, tokens1.ROOT),
}
STATUS = {"LimitExceeded": 413}


@pytest.mark.parametrize("family", ["ucanto", "ucan1"])
async def test_what_the_attacks_are_made_of_is_accepted(family: Family) -> None:
    async with world() as service:
        told = await service.post(family, GOOD[family])
        assert told.ok == {"size": 100, "times": 1}
        assert await service.jobs() == 1


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
async def test_an_attack_is_refused_by_its_name_and_nothing_is_written(attack: Attack) -> None:
    async with world() as service:
        assert (await service.post("ucanto", GOOD["ucanto"])).ok
        before, version = service.snapshot(), service.store.version()
        told = await service.post(attack.family, attack.build())
        assert told.ok is None
        assert attack.refused in told.names, told
        if told.status != 200:
            assert told.status == STATUS.get(attack.refused, 400)
        assert service.snapshot() == before
        assert service.store.version() == version, "a commit was tried"


def test_no_two_attacks_share_a_name() -> None:
    assert [name for name, count in Counter(map(str, ATTACKS)).items() if count > 1] == []


def test_the_page_of_attacks_is_up_to_date() -> None:
    assert (ROOT / "docs/attacks.md").read_text() == page()


async def test_an_attack_beside_a_good_invocation_does_it_no_harm() -> None:
    """Several invocations in one message are judged one by one."""
    bad = b"\xa1\x01\x01"
    async with world() as service:
        blocks = {CID.of(bad): bad, **blocks_of(tokens0.ROOT, tokens0.ASK)}
        told = await service.post("ucanto", message_of([CID.of(bad), tokens0.ASK.cid], blocks))
        assert told.status == 200
        assert await service.held(SPACE.did, LINK) is not None
