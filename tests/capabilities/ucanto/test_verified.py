"""The memory of good signatures: it spares work and decides nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from capabilities.principal import Verifier
from capabilities.ucanto import token, verified
from capabilities.ucanto.token import Token
from capabilities.ucanto.verified import Check, Verified, verify_all
from stmflow.cid import CID
from stmflow.errors import Expired, HashMismatch, InvalidAudience, UnavailableProof, UnknownKey
from stmflow.limits import LIMITS
from tests.capabilities.ucanto.tokens import (
    ACCOUNT,
    ALICE,
    BOB,
    NOW,
    SERVICE,
    SPACE,
    WEB,
    ask,
    authorize,
    blocks_of,
    chain,
    forged,
    grant,
    refused,
)

ROOT = grant(SPACE, ALICE)
ASKED = ask(ALICE, ROOT)
BAD = token.decode(None, forged(ROOT, exp=None))


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[CID]:
    """The tokens whose signatures were really verified."""
    seen: list[CID] = []

    def spy(one: Token, key: Verifier) -> bool:
        seen.append(one.cid)
        return token.verify_signature(one, key)

    monkeypatch.setattr(verified, "verify_signature", spy)
    return seen


def test_a_good_signature_is_verified_once(checked: list[CID]) -> None:
    cache = Verified()
    for _ in range(3):
        assert authorize(ASKED, ROOT, cache=cache)
    assert checked == [ASKED.cid, ROOT.cid]
    assert len(cache) == 2


def test_a_bad_signature_is_not_kept(checked: list[CID]) -> None:
    cache = Verified()
    assert not cache.check(BAD, SPACE.verifier)
    assert not cache.check(BAD, SPACE.verifier)
    assert checked == [BAD.cid] * 2
    assert len(cache) == 0


def test_a_signature_is_good_for_its_key_alone() -> None:
    cache = Verified()
    assert cache.check(ROOT, SPACE.verifier)
    assert not cache.check(ROOT, ALICE.verifier)
    assert cache.check(ROOT, SPACE.verifier)


def test_time_and_audience_are_judged_anew() -> None:
    cache = Verified()
    assert authorize(ASKED, ROOT, cache=cache)
    refused(Expired, ASKED, ROOT, cache=cache, now=NOW + 30)
    refused(InvalidAudience, ASKED, ROOT, cache=cache, service=BOB)


def test_a_remembered_token_is_not_decoded_again_but_other_bytes_are_looked_at() -> None:
    cache = Verified()
    assert cache.check(ROOT, SPACE.verifier)
    assert cache.token(ROOT.cid, ROOT.data) is ROOT
    with pytest.raises(HashMismatch):
        cache.token(ASKED.cid, ROOT.data)


def test_a_remembered_proof_still_has_to_come_along() -> None:
    cache = Verified()
    assert authorize(ASKED, ROOT, cache=cache)
    refused(UnavailableProof, ASKED, cache=cache)


def test_the_oldest_is_forgotten_first() -> None:
    one, two, three = (grant(SPACE, ALICE, nonce=str(number)) for number in range(3))
    cache = Verified(max_tokens=2)
    for each in (one, two):
        assert cache.check(each, SPACE.verifier)
    assert cache.token(one.cid, one.data) is one
    assert cache.check(three, SPACE.verifier)
    assert len(cache) == 2
    assert cache.token(one.cid, one.data) is one
    assert cache.token(two.cid, two.data) is not two


def test_what_it_holds_is_bounded_in_bytes() -> None:
    cache = Verified(max_bytes=40_000)
    for number in range(100):
        big = token.issue(
            SPACE, ALICE.did, (), expires=None, facts=({"a": bytes(2_000), "n": number},)
        )
        assert cache.check(big, SPACE.verifier)
        assert cache.check(big, SPACE.verifier)
    assert 1 <= len(cache) <= 8
    huge = token.issue(SPACE, ALICE.did, (), expires=None, facts=({"a": bytes(100_000)},))
    assert cache.check(huge, SPACE.verifier)
    assert len(cache) == 0
    assert cache.check(ROOT, SPACE.verifier)
    assert len(cache) == 1


# In a batch


def test_signatures_verified_in_a_batch_are_not_verified_again(checked: list[CID]) -> None:
    tokens = chain(5)
    asked = ask(ALICE, tokens[-1])
    blocks = blocks_of(asked, *tokens)
    cache = Verified()
    loaded = cache.load(asked.cid, blocks)
    assert {each.cid for each in loaded} == blocks.keys()
    checks = cache.unverified(loaded)
    assert len(checks) == 6
    cache.keep(checks, verify_all(checks))
    del checked[:]
    assert authorize(asked, *tokens, cache=cache)
    assert checked == []
    assert cache.unverified(cache.load(asked.cid, blocks)) == []


def test_a_batch_keeps_the_good_ones() -> None:
    cache = Verified()
    checks = cache.unverified([ROOT, BAD])
    verdicts = verify_all(checks)
    assert verdicts == [True, False]
    for _ in range(2):
        cache.keep(checks, verdicts)
        assert len(cache) == 1


def test_the_service_itself_and_keys_are_known_beforehand_and_nobody_else() -> None:
    own, account = grant(WEB, ALICE), grant(ACCOUNT, ALICE)
    cache = Verified()
    assert cache.unverified([own, account, ROOT]) == [Check(ROOT, SPACE.verifier)]
    checks = cache.unverified([own, account, ROOT], service=SERVICE.verifier, name=WEB.did)
    assert checks == [Check(own, SERVICE.verifier), Check(ROOT, SPACE.verifier)]


def test_a_key_that_cannot_verify_is_left_for_the_validator(monkeypatch: Any) -> None:
    def unknown(did: object) -> Verifier:
        raise UnknownKey("no")

    monkeypatch.setattr(verified, "verifier", unknown)
    assert Verified().unverified([ROOT]) == []


def test_loading_passes_over_what_is_missing_or_no_token() -> None:
    other = ask(ALICE, ROOT, BAD)
    blocks = {other.cid: other.data, ROOT.cid: b"\xff"}
    assert [each.cid for each in Verified().load(other.cid, blocks)] == [other.cid]


def test_loading_is_bounded() -> None:
    many = [grant(SPACE, ALICE, nonce=str(number)) for number in range(LIMITS.request_blocks + 5)]
    asked = ask(ALICE, *many)
    assert len(Verified().load(asked.cid, blocks_of(asked, *many))) == LIMITS.request_blocks
