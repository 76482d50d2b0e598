"""Delegations: issued and read back, and every field of its type or refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from capabilities.did import DID
from capabilities.ucan1 import delegation, envelope
from stmflow.cid import CID
from stmflow.errors import InvalidDID, LimitExceeded, MalformedBlock, WeakKey
from tests.capabilities.ucan1.tokens import ALICE, BOB, NONCE, NOW, SPACE, forged, grant

TOKEN = grant(SPACE, ALICE)
IDENTITY = DID.parse("did:web:example.com")


def test_what_is_issued_is_read_back() -> None:
    token = delegation.issue(
        ALICE,
        audience=BOB.did,
        subject=SPACE.did,
        command="/store/add",
        statements=[["<=", ".size", 1000]],
        nonce=NONCE,
        expires=NOW + 1,
        not_before=NOW - 1,
        meta={"note": "for Bob"},
    )
    again = delegation.decode(token.data)
    assert again == token
    assert hash(again) == hash(token)
    assert (token.issuer, token.audience, token.subject) == (ALICE.did, BOB.did, SPACE.did)
    assert (token.command, token.policy.plain) == ("/store/add", [["<=", ".size", 1000]])
    assert (token.nonce, token.expires, token.not_before) == (NONCE, NOW + 1, NOW - 1)
    assert token.meta == {"note": "for Bob"}
    assert token.cid == CID.of(token.data)
    assert envelope.verify(token.envelope, [ALICE.verifier]) is ALICE.verifier


def test_what_may_be_absent_is_none() -> None:
    token = grant(SPACE, ALICE, subject=None, expires=None)
    assert (token.subject, token.expires, token.not_before, token.meta) == (None,) * 4
    assert not {"nbf", "meta"} & token.envelope.payload.keys()


def test_a_signer_signs_under_its_name() -> None:
    token = grant(SPACE.named(IDENTITY), ALICE)
    assert token.issuer == IDENTITY
    assert envelope.verify(token.envelope, [SPACE.verifier])


def test_unknown_fields_are_signed_and_mean_nothing() -> None:
    token = delegation.decode(forged(TOKEN, SPACE, zzz=1, prf=[]))
    assert envelope.verify(token.envelope, [SPACE.verifier])
    assert token != TOKEN
    assert token.envelope.payload["zzz"] == 1


@pytest.mark.parametrize("key", ["iss", "aud", "sub", "cmd", "pol", "nonce", "exp"])
def test_a_required_field_is_required(key: str) -> None:
    with pytest.raises(MalformedBlock):
        delegation.decode(forged(TOKEN, SPACE, **{key: ...}))


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("iss", [None, 1, ALICE.did.raw, [ALICE.did.text]]),
        ("aud", [None, 1, ALICE.did.raw]),
        ("sub", [1, False, ALICE.did.raw, [None]]),
        ("cmd", [None, 1, b"/store", "store", "/store/", "//", "/Store", "", ["/store"]]),
        ("pol", [None, {}, "", [1], [["~=", ".a", 1]], ["==", ".a", 1]]),
        ("nonce", [None, "text", 0, []]),
        ("exp", [1.5, 1e9, True, "1", [], b""]),
        ("nbf", [None, 1.5, False, "1", []]),
        ("meta", [None, [], "", 1]),
    ],
)
def test_a_field_of_another_type_is_malformed(key: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(MalformedBlock):
            delegation.decode(forged(TOKEN, SPACE, **{key: value}))


@pytest.mark.parametrize("key", ["iss", "aud", "sub"])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "did:",
        "not a did",
        "did:key:zz",
        ALICE.did.text + "#key",
        ALICE.did.text + "?a=b",
        ALICE.did.text + "/a",
        ALICE.did.text.upper(),
        "DID:KEY:" + ALICE.did.text[8:],
        " " + ALICE.did.text,
        "did:web:EXAMPLE.com/a",
    ],
)
def test_a_name_that_is_no_did_is_refused(key: str, text: str) -> None:
    with pytest.raises(InvalidDID):
        delegation.decode(forged(TOKEN, SPACE, **{key: text}))


def test_a_key_under_which_anybody_signs_is_refused() -> None:
    identity = (
        "did:key:z6MkeTG3bFFSLYVU7VqhgZxqr6YzpaGrQtFMh1uvqGy1vDnP"  # all zero but the first bit
    )
    with pytest.raises(WeakKey):
        delegation.decode(forged(TOKEN, SPACE, iss=identity, sub=identity))


@pytest.mark.parametrize("key", ["exp", "nbf"])
def test_times_are_integers_within_what_javascript_has(key: str) -> None:
    for seconds in (-(2**53) + 1, -1, 0, 2**53 - 1):
        token = delegation.decode(forged(TOKEN, SPACE, **{key: seconds}))
        assert token.envelope.payload[key] == seconds
    for seconds in (2**53, -(2**53), 2**63 - 1):
        with pytest.raises(LimitExceeded):
            delegation.decode(forged(TOKEN, SPACE, **{key: seconds}))


def test_an_expiry_of_2_to_the_64_is_refused() -> None:
    assert TOKEN.expires is not None
    good = b"cexp\x1a" + TOKEN.expires.to_bytes(4, "big")
    assert good in TOKEN.data
    for bad in (b"cexp\x1b" + b"\xff" * 8, b"cexp\xc2\x49\x01" + bytes(8)):
        with pytest.raises((LimitExceeded, MalformedBlock)):
            delegation.decode(TOKEN.data.replace(good, bad))
