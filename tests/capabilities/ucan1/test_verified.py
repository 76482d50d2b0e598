"""The memory of verified tokens: bounded, the oldest forgotten first."""

from __future__ import annotations

from capabilities.ucan1 import Delegation, Invocation, Verified, invocation
from capabilities.ucan1.verified import TOKEN_BYTES
from tests.capabilities.ucan1.tokens import ALICE, SPACE, ask, forged, grant

ONE, TWO, THREE = (ask(SPACE, nonce=bytes((number,))) for number in range(3))


def test_a_token_is_known_by_its_cid_and_class() -> None:
    cache = Verified()
    assert cache.get(ONE.cid, Invocation) is None
    assert cache.key(ONE.cid) is None
    cache.add(ONE, SPACE.did)
    cache.add(grant(SPACE, ALICE), SPACE.did)
    assert cache.get(ONE.cid, Invocation) is ONE
    assert cache.get(ONE.cid, Delegation) is None
    assert cache.key(ONE.cid) == SPACE.did
    assert len(cache) == 2


def test_what_was_not_used_for_longest_is_forgotten() -> None:
    cache = Verified(2)
    cache.add(ONE, SPACE.did)
    cache.add(TWO, SPACE.did)
    assert cache.get(ONE.cid, Invocation)
    cache.add(THREE, SPACE.did)
    assert len(cache) == 2
    assert [cache.key(each.cid) for each in (ONE, TWO, THREE)] == [SPACE.did, None, SPACE.did]


def test_tokens_are_remembered_up_to_so_many_bytes() -> None:
    cache = Verified()
    spare = TOKEN_BYTES - len(forged(ONE, SPACE, meta={"a": bytes(256)})) + 256
    for size, count in ((spare + 1, 0), (spare, 1), (spare - 1, 2)):
        cache.add(invocation.decode(forged(ONE, SPACE, meta={"a": bytes(size)})), SPACE.did)
        assert len(cache) == count
