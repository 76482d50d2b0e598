"""Rule 10: without a capability, with a revoked one, with an event of the inside: three refusals,
each another one, and no state is written. Both families, on a database in a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attack import tokens0, tokens1
from tests.attack.test_revocation import revocation
from tests.attack.world import Family, pack, post, world
from tests.capabilities.ucan1.tokens import MALLORY
from tests.capabilities.ucan1.tokens import ask as ask1
from tests.capabilities.ucanto.tokens import ALICE, LINK, SPACE, ask, claim

WITHOUT: dict[Family, bytes] = {
    "ucanto": post(ask(MALLORY)),
    "ucan1": pack(ask1(MALLORY, arguments=tokens1.ARGUMENTS)),
}
REVOKED: dict[Family, bytes] = {
    "ucanto": post(tokens0.ASK, tokens0.ROOT),
    "ucan1": pack(tokens1.ASK, tokens1.ROOT),
}
INSIDE: dict[Family, bytes] = {
    "ucanto": post(
        ask(ALICE, tokens0.ROOT, claims=[claim("store/expire", link=LINK)]), tokens0.ROOT
    ),
    "ucan1": tokens1.asked(tokens1.ROOT, command="/store/expire", arguments={"link": LINK}),
}
PROOF: dict[Family, bytes] = {"ucanto": tokens0.ROOT.data, "ucan1": tokens1.ROOT.data}


@pytest.mark.parametrize("family", ["ucanto", "ucan1"])
async def test_three_refusals_and_no_state(tmp_path: Path, family: Family) -> None:
    async with world(file=tmp_path / "jobs.db") as service:
        assert (await service.post("ucanto", revocation(SPACE, PROOF[family]))).ok
        before = service.snapshot()
        refusals = {
            "InvalidClaim": await service.post(family, WITHOUT[family]),
            "Revoked": await service.post(family, REVOKED[family]),
            "HandlerNotFound": await service.post(family, INSIDE[family]),
        }
        for name, told in refusals.items():
            assert told.status == 200  # refusals are signed receipts
            assert told.names[-1] == name, told
        assert len({told.message for told in refusals.values()}) == 3
        assert service.snapshot() == before
        assert await service.jobs() == 0
