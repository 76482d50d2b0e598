"""The envelope: one canonical block, of a known kind, signed by the key of its issuer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capabilities.principal import verifiers
from capabilities.ucan1 import delegation, envelope, invocation
from stmflow import codec
from stmflow.cid import CID
from stmflow.errors import (
    CapabilityError,
    CodecError,
    InvalidSignature,
    LimitExceeded,
    MalformedBlock,
)
from stmflow.limits import LIMITS
from tests.capabilities.ucan1.tokens import ALICE, MALLORY, SPACE, ask, forged, grant

TOKEN = ask(SPACE)
ES256 = bytes.fromhex("3401ec0180241271")


def check(data: bytes) -> None:
    token = invocation.decode(data)
    envelope.verify(token.envelope, verifiers(token.issuer))


def test_the_signed_bytes_are_the_tail_of_the_block() -> None:
    read = envelope.decode(TOKEN.data)
    assert read.cid == CID.of(TOKEN.data)
    assert TOKEN.data == b"\x82\x58\x40" + read.signature + read.signed
    assert codec.decode(read.signed) == {"h": read.header, "ucan/inv@1.0.0-rc.1": read.payload}
    assert envelope.verify(read, [SPACE.verifier]) is SPACE.verifier


@pytest.mark.parametrize("size", [0, 23, 24, 255, 256, 65_535, 65_536])
def test_the_signed_bytes_are_found_behind_a_signature_of_any_length(size: int) -> None:
    read = envelope.decode(forged(TOKEN, SPACE, signature=bytes(size)))
    assert read.signed == TOKEN.envelope.signed
    with pytest.raises(InvalidSignature):
        envelope.verify(read, [SPACE.verifier])


def test_one_of_several_keys_is_enough() -> None:
    keys = [ALICE.verifier, SPACE.verifier]
    assert envelope.verify(TOKEN.envelope, keys) is SPACE.verifier
    with pytest.raises(InvalidSignature, match="does not verify"):
        envelope.verify(TOKEN.envelope, keys[:1])


@pytest.mark.parametrize("key", ["iss", "sub", "aud", "cmd", "args", "prf", "nonce", "exp"])
def test_a_changed_field_is_not_under_the_signature(key: str) -> None:
    other = {
        "iss": ALICE.did.text,
        "sub": ALICE.did.text,
        "aud": ALICE.did.text,
        "cmd": "/",
        "args": {"size": 101},
        "prf": [CID.of(b"")],
        "nonce": b"",
        "exp": None,
    }
    data = forged(TOKEN, SPACE, signature=TOKEN.envelope.signature, **{key: other[key]})
    assert data != TOKEN.data
    with pytest.raises(InvalidSignature):
        check(data)


def test_a_bit_flipped_anywhere_in_the_block_is_refused() -> None:
    for position in range(len(TOKEN.data)):
        data = bytearray(TOKEN.data)
        data[position] ^= 1 << position % 8
        with pytest.raises((CodecError, CapabilityError)):
            check(bytes(data))


def test_s_plus_the_order_of_the_group_is_no_second_signature() -> None:
    order = 2**252 + 27742317777372353535851937790883648493
    signature = TOKEN.envelope.signature
    s = int.from_bytes(signature[32:], "little") + order
    with pytest.raises(InvalidSignature):
        check(forged(TOKEN, SPACE, signature=signature[:32] + s.to_bytes(32, "little")))


@pytest.mark.parametrize("size", [0, 63, 65, 128])
def test_a_signature_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(InvalidSignature):
        check(forged(TOKEN, SPACE, signature=(TOKEN.envelope.signature * 2)[:size]))


def test_a_signature_by_somebody_else_is_refused() -> None:
    with pytest.raises(InvalidSignature):
        check(forged(TOKEN, MALLORY))


def test_a_signature_on_the_same_fields_of_another_tag_is_refused() -> None:
    other = envelope.decode(forged(TOKEN, SPACE, tag="ucan/inv@1.0.0"))
    with pytest.raises(InvalidSignature):
        check(forged(TOKEN, SPACE, signature=other.signature))


@pytest.mark.parametrize("header", [ES256, bytes.fromhex("34ed0171")])
def test_the_header_of_another_algorithm_or_age_is_refused(header: bytes) -> None:
    with pytest.raises(InvalidSignature):
        check(forged(TOKEN, SPACE, header=header))


@pytest.mark.parametrize("header", [b"", b"\x00", ES256 + ES256, b"none"])
def test_an_unknown_header_is_refused(header: bytes) -> None:
    with pytest.raises(InvalidSignature):
        envelope.decode(forged(TOKEN, SPACE, header=header))


def test_a_delegation_is_no_invocation_and_back() -> None:
    with pytest.raises(InvalidSignature, match="ucan/inv is asked for"):
        invocation.decode(grant(SPACE, ALICE).data)
    with pytest.raises(InvalidSignature, match="ucan/dlg is asked for"):
        delegation.decode(TOKEN.data)


@pytest.mark.parametrize(
    "tag", ["ucan/inv@1.0.1", "ucan/inv", "ucan/i/1.0.0-rc.1", "ucan/rcpt@1.0.0-rc.1", "", "x"]
)
def test_an_unknown_tag_is_refused(tag: str) -> None:
    with pytest.raises(InvalidSignature):
        envelope.decode(forged(TOKEN, SPACE, tag=tag or "-"))


@pytest.mark.parametrize("version", ["1.0.0", "1.0.0-rc.1"])
def test_both_versions_are_read(version: str) -> None:
    check(data := forged(TOKEN, SPACE, tag=f"ucan/inv@{version}"))
    assert envelope.decode(data).version == version


SIGNATURE, CONTENT = codec.decode(TOKEN.data)
TAG = "ucan/inv@1.0.0-rc.1"


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        [],
        [SIGNATURE],
        [SIGNATURE, CONTENT, CONTENT],
        [CONTENT, SIGNATURE],
        ["text", CONTENT],
        [SIGNATURE, [CONTENT]],
        [SIGNATURE, {}],
        [SIGNATURE, {"h": CONTENT["h"]}],
        [SIGNATURE, {TAG: CONTENT[TAG]}],
        [SIGNATURE, {**CONTENT, "h": "text"}],
        [SIGNATURE, {**CONTENT, "h": None}],
        [SIGNATURE, {**CONTENT, "x": 1}],
        [SIGNATURE, {**CONTENT, "ucan/dlg@1.0.0-rc.1": CONTENT[TAG]}],
        [SIGNATURE, {**CONTENT, TAG: [CONTENT[TAG]]}],
    ],
)
def test_another_shape_is_malformed(value: object) -> None:
    with pytest.raises(MalformedBlock):
        envelope.decode(codec.encode(value))


def test_bytes_after_the_end_and_other_encodings_are_malformed() -> None:
    long_head = TOKEN.data[:1] + b"\x59\x00\x40" + TOKEN.data[3:]
    for data in (TOKEN.data + b"\0", TOKEN.data[:-1], b"\x9f" + TOKEN.data[1:], b"", long_head):
        with pytest.raises(MalformedBlock):
            envelope.decode(data)


@pytest.mark.parametrize("sign", [1, -1])
def test_integers_are_bounded_by_what_javascript_has(sign: int) -> None:
    for number in (LIMITS.ucan_int_max - 1, LIMITS.ucan_int_max):
        envelope.decode(forged(TOKEN, SPACE, args={"deep": [{"n": sign * number}]}))
    beyond = {"deep": [{"n": sign * (LIMITS.ucan_int_max + 1)}]}
    for field in ("args", "meta"):
        with pytest.raises(LimitExceeded):
            envelope.decode(forged(TOKEN, SPACE, **{field: beyond}))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_by_name(data: bytes) -> None:
    with pytest.raises((CodecError, CapabilityError)):
        check(data)


@given(st.data())
def test_a_damaged_token_is_refused_by_name(data: st.DataObject) -> None:
    block = bytearray(TOKEN.data)
    start = data.draw(st.integers(0, len(block) - 1))
    length = data.draw(st.integers(0, 8))
    block[start : start + length] = data.draw(st.binary(max_size=8))
    if bytes(block) != TOKEN.data:
        with pytest.raises((CodecError, CapabilityError)):
            check(bytes(block))
