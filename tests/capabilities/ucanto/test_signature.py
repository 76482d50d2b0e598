"""Signatures: one binary form for each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capabilities.principal import verifier
from capabilities.ucanto import signature
from capabilities.ucanto.signature import ABSENT, NON_STANDARD, Signature
from stmflow.cid import write_varint
from stmflow.errors import InvalidSignature
from tests.capabilities.ucanto.tokens import ALICE, BOB

RAW = bytes(range(64))
GOOD = b"\xed\xa1\x03\x40" + RAW


@pytest.mark.parametrize(
    ("code", "name", "size"),
    [
        (0xD0ED, "EdDSA", 64),
        (0xD0E7, "ES256K", 64),
        (0xD01200, "ES256", 64),
        (0xD01201, "ES384", 96),
        (0xD01202, "ES512", 132),
        (0xD01205, "RS256", 256),
        (0xD0EA, "BLS12381G1", 48),
        (0xD0EB, "BLS12381G2", 96),
        (0xD191, "EIP191", 65),
    ],
)
def test_every_kind_has_its_code_and_name(code: int, name: str, size: int) -> None:
    made = Signature(code, name, bytes(size))
    assert made.encode() == write_varint(code) + write_varint(size) + bytes(size)
    assert signature.decode(made.encode()) == made


def test_an_absent_signature_is_four_bytes() -> None:
    assert ABSENT.encode().hex() == "80a00300"
    assert signature.decode(ABSENT.encode()) == ABSENT


def test_another_algorithm_is_told_by_its_name() -> None:
    made = Signature(NON_STANDARD, "Mine", b"abc")
    assert made.encode() == b"\x80\xa0\x03\x03abcMine"
    assert signature.decode(made.encode()) == made


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_the_name_of_an_algorithm_is_bounded(off: int) -> None:
    made = Signature(NON_STANDARD, "M" * (signature._NAME_BYTES + off), b"abc")
    if off > 0:
        with pytest.raises(InvalidSignature):
            signature.decode(made.encode())
    else:
        assert signature.decode(made.encode()) == made


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xed",
        GOOD[:4],
        GOOD[:-1],
        GOOD + b"\x00",
        b"\xed\xa1\x03\xc0\x00" + RAW,
        b"\xed\xa1\x83\x00\x40" + RAW,
        b"\xed\xa1\x03\x3f" + RAW,
        b"\xed\xa1\x03\x41" + RAW,
        b"\x01\x40" + RAW,
        b"\x80\xa0\x03\x40" + RAW + b"EdDSA",
        b"\x80\xa0\x03\x00\xff",
        b"\x80\xa0\x03\x00" + b"a" * 65,
        b"\xff" * 20,
        b"\xed\xa1\x03\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        "text",
        None,
        bytearray(GOOD),
    ],
)
def test_every_other_spelling_is_refused(data: object) -> None:
    with pytest.raises(InvalidSignature):
        signature.decode(data)


@given(st.binary(max_size=80) | st.binary(max_size=70).map(lambda tail: b"\xed\xa1\x03" + tail))
def test_what_is_taken_is_written_the_same(data: bytes) -> None:
    try:
        made = signature.decode(data)
    except InvalidSignature:
        return
    assert made.encode() == data


def test_a_signature_verifies_with_its_key_payload_and_kind_alone() -> None:
    made = signature.sign(b"payload", ALICE)
    assert made.verifies(b"payload", ALICE.verifier)
    assert not made.verifies(b"payloaD", ALICE.verifier)
    assert not made.verifies(b"payload", verifier(BOB.did))
    assert not Signature(0xD0E7, "ES256K", made.raw).verifies(b"payload", ALICE.verifier)
    assert not ABSENT.verifies(b"payload", ALICE.verifier)
