"""Receipts: what came of an invocation, signed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capabilities.principal import verifier
from capabilities.ucanto import receipt
from stmflow import codec
from stmflow.errors import (
    CapabilityError,
    CodecError,
    HashMismatch,
    InvalidDID,
    InvalidSignature,
    MalformedBlock,
)
from tests.capabilities.ucanto.tokens import ALICE, LINK, SERVICE, SPACE, WEB, ask

ASKED = ask(SPACE)
FORK, JOIN, PROOF = (ask(SPACE, nonce=str(number)).cid for number in range(3))
FULL = receipt.issue(
    SERVICE,
    ASKED.cid,
    {"ok": {"link": LINK, "allocated": 5}},
    fork=[FORK],
    join=JOIN,
    proofs=[PROOF],
    meta={"took": 3},
)


def test_a_receipt_decodes_to_what_was_said() -> None:
    again = receipt.decode(FULL.cid, FULL.data)
    assert again == FULL
    assert hash(again) == hash(FULL)
    assert again.ran == ASKED.cid
    assert again.issuer == SERVICE.did
    assert dict(again.out) == {"ok": {"link": LINK, "allocated": 5}}
    assert (again.fork, again.join, again.proofs) == ((FORK,), JOIN, (PROOF,))
    assert dict(again.meta) == {"took": 3}
    assert "ok of" in repr(again)
    assert again != FULL.cid


def test_a_receipt_verifies_with_the_key_that_signed_it() -> None:
    assert receipt.verify_signature(FULL, verifier(SERVICE.did))
    assert not receipt.verify_signature(FULL, verifier(ALICE.did))


def test_a_service_signs_as_its_did_web_with_the_key_behind_it() -> None:
    made = receipt.issue(WEB, ASKED.cid, {"error": {"name": "E", "message": "m"}})
    assert made.issuer == WEB.did
    assert receipt.verify_signature(made, SERVICE.verifier)
    assert (made.fork, made.join, made.proofs, dict(made.meta)) == ((), None, (), {})


def test_the_same_answer_gives_the_same_receipt() -> None:
    made = [receipt.issue(SERVICE, ASKED.cid, {"ok": {"n": 1}}) for _ in range(2)]
    assert made[0].data == made[1].data


def altered(**fields: Any) -> bytes:
    block = codec.decode(FULL.data)
    ocm = {name: value for name, value in {**block["ocm"], **fields}.items() if value is not ...}
    return codec.encode({**block, "ocm": ocm})


@pytest.mark.parametrize(
    "fields",
    [
        {"ran": FORK},
        {"out": {"ok": {}}},
        {"out": {"error": {"link": LINK, "allocated": 5}}},
        {"fx": {"fork": []}},
        {"meta": {}},
        {"prf": []},
        {"iss": ALICE.did.text},
        {"iss": ...},
    ],
)
def test_every_field_is_under_the_signature(fields: dict[str, Any]) -> None:
    changed = receipt.decode(None, altered(**fields))
    assert not receipt.verify_signature(changed, SERVICE.verifier)


def test_a_receipt_may_name_no_issuer() -> None:
    assert receipt.decode(None, altered(iss=...)).issuer is None


@pytest.mark.parametrize(
    "fields",
    [
        {"ran": ...},
        {"out": ...},
        {"fx": ...},
        {"prf": ...},
        {"meta": ...},
        {"extra": 1},
        {"ran": "text"},
        {"out": {}},
        {"out": {"ok": 1, "error": 1}},
        {"out": {"maybe": 1}},
        {"out": []},
        {"fx": []},
        {"fx": {}},
        {"fx": {"fork": [], "more": 1}},
        {"fx": {"fork": {}}},
        {"fx": {"fork": ["text"]}},
        {"fx": {"fork": [], "join": None}},
        {"prf": {}},
        {"meta": []},
    ],
)
def test_a_field_of_another_form_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(MalformedBlock):
        receipt.decode(None, altered(**fields))


@pytest.mark.parametrize("iss", [1, "did:key", b"\xed\x01", None])
def test_an_issuer_is_named_by_the_text_of_a_did(iss: object) -> None:
    with pytest.raises(InvalidDID):
        receipt.decode(None, altered(iss=iss))


def test_a_block_of_another_form_is_refused() -> None:
    others: list[Any] = [
        {},
        [],
        {"ocm": {}},
        {**codec.decode(FULL.data), "x": 1},
        codec.decode(ASKED.data),
    ]
    for value in others:
        with pytest.raises(MalformedBlock):
            receipt.decode(None, codec.encode(value))
    with pytest.raises(MalformedBlock):
        receipt.decode(None, codec.encode({"ocm": [], "sig": b""}))


def test_a_signature_with_bytes_behind_it_is_refused() -> None:
    block = codec.decode(FULL.data)
    with pytest.raises(InvalidSignature):
        receipt.decode(None, codec.encode({**block, "sig": block["sig"] + b"\0"}))


def test_a_receipt_comes_under_its_own_cid_alone() -> None:
    with pytest.raises(HashMismatch):
        receipt.decode(ASKED.cid, FULL.data)


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    with pytest.raises((CodecError, CapabilityError)):
        receipt.decode(None, data)


@given(st.integers(0, len(FULL.data) - 1), st.integers(1, 255))
def test_a_changed_byte_never_verifies(place: int, flip: int) -> None:
    data = bytearray(FULL.data)
    data[place] ^= flip
    try:
        made = receipt.decode(None, bytes(data))
    except (CodecError, CapabilityError):
        return
    assert not receipt.verify_signature(made, SERVICE.verifier)
