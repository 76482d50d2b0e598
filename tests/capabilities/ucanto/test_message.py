"""Agent messages: one root with one key, every block hashed, nothing without bound."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capabilities.ucanto import archive, blocks, message, receipt
from capabilities.ucanto.message import VARIANT, Message
from stmflow import car, codec
from stmflow.cid import CID, DAG_CBOR, RAW, write_varint
from stmflow.errors import CodecError, HashMismatch, LimitExceeded, MalformedBlock
from stmflow.limits import LIMITS
from tests.capabilities.ucanto.tokens import ALICE, SERVICE, SPACE, ask, blocks_of, chain

CHAIN = chain(3)
ASKED = ask(ALICE, CHAIN[-1])
ALONE = ask(SPACE)
ANSWER = receipt.issue(SERVICE, ALONE.cid, {"ok": {}})


def body(root: Any, *rest: bytes, roots: int = 1) -> bytes:
    """A CAR of this root and of these blocks."""
    cid, data = codec.block(root)
    out = BytesIO()
    named = [*((CID.of(each), each) for each in rest), (cid, data)]
    car.write(out, [cid] * roots, named)
    return out.getvalue()


def order(data: bytes) -> list[CID]:
    return [cid for cid, _ in car.read(BytesIO(data))]


def test_a_message_is_decoded_as_it_was_encoded() -> None:
    sent = Message(
        (ASKED.cid, ALONE.cid),
        {ALONE.cid: ANSWER.cid},
        {**blocks_of(ASKED, ALONE, *CHAIN), ANSWER.cid: ANSWER.data},
    )
    got = message.decode(message.encode(sent))
    assert got.invocations == sent.invocations
    assert dict(got.receipts) == sent.receipts
    assert dict(got.blocks) == sent.blocks


def test_children_stand_before_their_parents_and_the_root_is_last() -> None:
    upside_down = blocks_of(ASKED, *reversed(CHAIN))
    data = message.encode(Message((ASKED.cid,), {}, upside_down))
    assert order(data)[:-1] == [*(each.cid for each in CHAIN), ASKED.cid]
    assert order(data)[-1] == car.read(BytesIO(data)).root


def test_a_reader_does_not_rely_on_the_order() -> None:
    cid, data = codec.block({VARIANT: {"execute": [ALONE.cid]}})
    out = BytesIO()
    car.write(out, [cid], [(cid, data), (ALONE.cid, ALONE.data)])
    assert message.decode(out.getvalue()).invocations == (ALONE.cid,)


def test_an_empty_message_says_neither_execute_nor_report() -> None:
    data = message.encode(Message())
    assert data == body({VARIANT: {}})
    assert message.decode(data) == message.decode(body({VARIANT: {"execute": [], "report": {}}}))


def test_an_invocation_named_twice_is_there_once() -> None:
    twice = {VARIANT: {"execute": [ALONE.cid, ALONE.cid]}}
    assert message.decode(body(twice, ALONE.data)).invocations == (ALONE.cid,)
    sent = Message((ALONE.cid, ALONE.cid), {}, blocks_of(ALONE))
    assert message.decode(message.encode(sent)).invocations == (ALONE.cid,)


def test_blocks_that_nobody_links_to_and_raw_ones_travel_along() -> None:
    raw, other = b"raw bytes", codec.encode({"attached": 1})
    extra = {CID.of(raw, RAW): raw, CID.of(other): other}
    sent = Message((ALONE.cid,), {}, {**blocks_of(ALONE), **extra})
    assert dict(message.decode(message.encode(sent)).blocks) == sent.blocks


@pytest.mark.parametrize(
    "root",
    [
        {},
        [],
        None,
        {"hello": 1},
        {"ucanto/message@6.0.0": {}},
        {VARIANT: {}, "x": 1},
        {VARIANT: []},
        {VARIANT: {"execute": [], "other": 1}},
        {VARIANT: {"execute": {}}},
        {VARIANT: {"execute": [str(ALONE.cid)]}},
        {VARIANT: {"execute": None}},
        {VARIANT: {"report": []}},
        {VARIANT: {"report": {str(ALONE.cid): "text"}}},
        {VARIANT: {"report": {"not a CID": ANSWER.cid}}},
        {"ucan@0.9.1": ALONE.cid},
    ],
)
def test_a_root_of_another_form_is_refused(root: Any) -> None:
    with pytest.raises(MalformedBlock):
        message.decode(body(root, ALONE.data))


def test_two_receipts_for_one_invocation_are_refused() -> None:
    cid = ALONE.cid
    names = [str(cid), "f" + cid.bytes.hex()]
    with pytest.raises(MalformedBlock, match="two receipts"):
        message.decode(body({VARIANT: {"report": dict.fromkeys(names, ANSWER.cid)}}))


def test_an_invocation_whose_block_is_missing_is_refused() -> None:
    with pytest.raises(MalformedBlock, match="without the block"):
        message.decode(body({VARIANT: {"execute": [ALONE.cid]}}))
    for sent in (Message((ALONE.cid,)), Message((), {ALONE.cid: ANSWER.cid})):
        with pytest.raises(MalformedBlock, match="without the block"):
            message.encode(sent)


def test_a_receipt_whose_block_is_missing_is_left_to_the_reader() -> None:
    got = message.decode(body({VARIANT: {"report": {str(ALONE.cid): ANSWER.cid}}}))
    assert dict(got.receipts) == {ALONE.cid: ANSWER.cid}


@pytest.mark.parametrize("roots", [0, 2])
def test_a_car_without_one_root_is_refused(roots: int) -> None:
    with pytest.raises(MalformedBlock, match="roots"):
        message.decode(body({VARIANT: {}}, roots=roots))


def test_a_root_that_is_not_there_or_not_dag_cbor_is_refused() -> None:
    data = codec.encode({VARIANT: {}})
    out = BytesIO()
    car.write(out, [CID.of(data)], [])
    with pytest.raises(MalformedBlock, match="without the block"):
        message.decode(out.getvalue())
    out = BytesIO()
    car.write(out, [CID.of(data, RAW)], [(CID.of(data, RAW), data)])
    with pytest.raises(MalformedBlock, match="not DAG-CBOR"):
        message.decode(out.getvalue())


def test_a_block_under_the_cid_of_another_is_refused() -> None:
    good = message.encode(Message((ALONE.cid,), {}, blocks_of(ALONE)))
    bad = good.replace(ALONE.signature.raw, bytes(64))
    with pytest.raises(HashMismatch):
        message.decode(bad)
    with pytest.raises(HashMismatch):
        message.encode(Message((ALONE.cid,), {}, {ALONE.cid: ASKED.data}))


@pytest.mark.parametrize("head", [b"\x01\x71\x00\x03", b"\x01\x71\x13\x03", b"\x01\x71\x1e\x03"])
def test_a_block_under_another_hash_is_refused(head: bytes) -> None:
    good = message.encode(Message())
    section = head + b"abc" + b"abc"
    with pytest.raises(HashMismatch):
        message.decode(good + write_varint(len(section)) + section)


def padded(size: int) -> bytes:
    """A message of exactly this many bytes."""
    data, filler = message.encode(Message()), b""
    blocks_needed = 5
    per = size // blocks_needed
    for number in range(blocks_needed):
        left = size - len(data)
        length = left if number == blocks_needed - 1 else per
        raw = bytes((number,)) * (length - 36 - len(write_varint(length)))
        raw += b"x" * (length - len(raw) - 36 - len(write_varint(len(raw) + 36)))
        filler = CID.of(raw, RAW).bytes + raw
        data += write_varint(len(filler)) + filler
    assert len(data) == size
    return data


def test_a_body_up_to_the_bound_is_taken_and_one_larger_is_not() -> None:
    for size in (LIMITS.request_bytes - 1, LIMITS.request_bytes):
        assert message.decode(padded(size))
    with pytest.raises(LimitExceeded):
        message.decode(padded(LIMITS.request_bytes + 1))
    assert message.decode(padded(LIMITS.request_bytes + 1), max_bytes=LIMITS.request_bytes + 1)


def test_as_many_blocks_as_the_bound_are_taken_and_one_more_is_not() -> None:
    many = [codec.encode(number) for number in range(LIMITS.request_blocks)]
    for count in (LIMITS.request_blocks - 2, LIMITS.request_blocks - 1):
        assert message.decode(body({VARIANT: {}}, *many[:count]))
    with pytest.raises(LimitExceeded):
        message.decode(body({VARIANT: {}}, *many))
    assert message.decode(body({VARIANT: {}}, *many), max_blocks=LIMITS.request_blocks + 1)


GOOD = message.encode(Message((ASKED.cid,), {}, blocks_of(ASKED, *CHAIN)))


@given(st.integers(0, len(GOOD) - 1))
def test_a_message_cut_short_is_refused(size: int) -> None:
    with pytest.raises(CodecError):
        message.decode(GOOD[:size])


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_a_message_with_a_changed_byte_is_refused_or_says_the_same(place: int, flip: int) -> None:
    data = bytearray(GOOD)
    data[place] ^= flip
    try:
        got = message.decode(bytes(data))
    except CodecError:
        return
    assert got.invocations == (ASKED.cid,)


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    with pytest.raises(CodecError):
        message.decode(data)


def test_a_chain_of_blocks_as_long_as_a_request_is_ordered_without_recursion() -> None:
    linked: dict[CID, bytes] = {}
    last: CID | None = None
    for number in range(3_000):
        last, data = codec.block([number, last])
        linked[last] = data
    assert last is not None
    upside_down = dict(reversed(linked.items()))
    assert blocks.children_first((last,), upside_down) == list(linked)


# Archives


def test_an_archive_is_decoded_as_it_was_encoded() -> None:
    tokens = blocks_of(*CHAIN)
    data = archive.encode(CHAIN[-1], tokens)
    assert archive.decode(data) == (CHAIN[-1], tokens)
    assert order(data)[:-1] == [each.cid for each in CHAIN]


def test_an_archive_holds_what_the_token_links_to_and_nothing_else() -> None:
    data = archive.encode(CHAIN[0], blocks_of(*CHAIN, ALONE))
    assert archive.decode(data) == (CHAIN[0], blocks_of(CHAIN[0]))


@pytest.mark.parametrize(
    "root", [{}, [], {"ucan@0.9.1": "text"}, {"ucan@0.9.1": ALONE.cid, "x": 1}]
)
def test_what_is_no_archive_is_refused(root: Any) -> None:
    with pytest.raises(MalformedBlock, match="not an archive"):
        archive.decode(body(root, ALONE.data))


def test_an_archive_without_its_token_or_of_something_else_is_refused() -> None:
    with pytest.raises(MalformedBlock, match="without the block"):
        archive.decode(body({"ucan@0.9.1": ALONE.cid}))
    with pytest.raises(MalformedBlock, match="not a token"):
        archive.decode(body({"ucan@0.9.1": ANSWER.cid}, ANSWER.data))
    assert ANSWER.cid.codec == DAG_CBOR
