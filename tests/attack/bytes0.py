"""Attacks below the tokens: CAR files, DAG-CBOR, containers."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from capabilities.ucan1 import container
from capabilities.ucanto import Token
from capabilities.ucanto import token as tokens
from capabilities.ucanto.message import VARIANT
from capabilities.ucanto.token import Claim
from stmflow import codec
from stmflow.cid import CID, write_varint
from tests.attack.attack import several, ucan1, ucanto
from tests.attack.tokens0 import ASK, ROOT
from tests.attack.tokens1 import ASK as ASK1
from tests.attack.tokens1 import ROOT as ROOT1
from tests.attack.world import car, message_of, pack, post
from tests.capabilities.ucan1.tokens import forged as forged1
from tests.capabilities.ucanto.tokens import (
    ALICE,
    OTHER,
    SPACE,
    ask,
    blocks_of,
    claim,
    forged,
)

MESSAGE, DATA = codec.block({VARIANT: {"execute": [ASK.cid]}})
BLOCKS: list[tuple[CID | bytes, bytes]] = [
    (ROOT.cid, ROOT.data),
    (ASK.cid, ASK.data),
    (MESSAGE, DATA),
]
BODY = car([MESSAGE], BLOCKS)


# --- CAR ----------------------------------------------------------------------------------------


def _header(data: bytes) -> bytes:
    return write_varint(len(data)) + data + BODY[BODY.index(ROOT.cid.bytes) - 2 :]


def _entry(cid: CID | bytes, data: bytes) -> bytes:
    """The message with one more block."""
    return car([MESSAGE], [*BLOCKS, (cid, data)])


V0 = b"\x12\x20" + sha256(b"v0").digest()

several(
    "ucanto",
    "CAR",
    "MalformedBlock",
    nothing_at_all=lambda: b"",
    text=lambda: b"<html>not a CAR</html>",
    a_length_beyond_the_body=lambda: BODY + write_varint(100) + b"short",
    a_length_that_is_longer_than_it_has_to_be=lambda: BODY + b"\x81\x00" + b"a",
    a_length_of_2_to_the_63=lambda: BODY + b"\x80" * 9 + b"\x01",
    a_length_that_is_cut_short=lambda: BODY + b"\x80",
    an_empty_entry=lambda: BODY + b"\x00",
    bytes_behind_the_end=lambda: BODY + b"\x01a",
    no_root=lambda: car([], BLOCKS),
    two_roots=lambda: car([MESSAGE, ROOT.cid], BLOCKS),
    a_root_that_is_not_there=lambda: car([CID.of(b"gone")], BLOCKS),
    a_root_that_is_a_token=lambda: car([ASK.cid], BLOCKS),
    version_2=lambda: _header(codec.encode({"roots": [MESSAGE], "version": 2})),
    version_true=lambda: _header(codec.encode({"roots": [MESSAGE], "version": True})),
    an_extra_field_in_the_header=lambda: _header(
        codec.encode({"roots": [MESSAGE], "version": 1, "x": 1})
    ),
    a_cid_of_version_0=lambda: _entry(V0, b"v0"),
    a_cid_that_is_cut_short=lambda: BODY + write_varint(4) + ASK.cid.bytes[:4],
    an_empty_digest=lambda: _entry(b"\x01\x71\x12\x00", b"data"),
    a_cid_in_long_varints=lambda: _entry(b"\x01\xf1\x00" + ASK.cid.bytes[2:], ASK.data),
    an_unknown_version_of_the_message=lambda: _message({"ucanto/message@8.0.0": {"execute": []}}),
    two_versions_of_the_message=lambda: _message({VARIANT: {}, "ucanto/message@8.0.0": {}}),
    another_field_in_the_message=lambda: _message({VARIANT: {"execute": [], "x": 1}}),
    an_invocation_that_is_not_there=lambda: message_of([ASK.cid], {}),
    an_invocation_that_is_no_link=lambda: _message({VARIANT: {"execute": [str(ASK.cid)]}}),
    a_message_that_is_a_list=lambda: _message([VARIANT]),
)
several(
    "ucanto",
    "CAR",
    "HashMismatch",
    bytes_that_do_not_match_their_cid=lambda: car(
        [MESSAGE], [(ROOT.cid, forged(ROOT, ALICE, exp=None)), *BLOCKS[1:]]
    ),
    one_cid_with_two_blocks=lambda: _entry(ROOT.cid, ASK.data),
    an_identity_hash_that_carries_data=lambda: _entry(b"\x01\x71\x00\x04data", b"data"),
    an_unknown_hash=lambda: _entry(b"\x01\x71\x1e\x20" + bytes(32), b"data"),
)
several(
    "ucanto",
    "CAR",
    "LimitExceeded",
    a_body_of_more_than_a_mebibyte=lambda: BODY + bytes(1024 * 1024),
    an_entry_of_declared_2_to_the_62=lambda: BODY + b"\x80" * 8 + b"\x40" + b"a",
    a_block_of_more_than_256_kib=lambda: _entry(CID.of(bytes(2**18 + 1)), bytes(2**18 + 1)),
    a_header_of_more_than_64_kib=lambda: write_varint(2**17) + bytes(2**17),
    blocks_without_end=lambda: _empty_blocks(20_000),
    a_hundred_thousand_roots=lambda: _header(
        codec.encode({"roots": [], "version": 1})[:-1] * 40_000
    ),
)


def _empty_blocks(count: int) -> bytes:
    cid = CID.of(b"")
    return car([MESSAGE], BLOCKS) + (write_varint(len(cid.bytes)) + cid.bytes) * count


def _message(body: Any) -> bytes:
    root, data = codec.block(body)
    return car([root], [(root, data)])


# --- DAG-CBOR -----------------------------------------------------------------------------------


def _block(data: bytes) -> bytes:
    """A message whose root is that block."""
    return car([CID.of(data)], [(CID.of(data), data)])


def _invocation(data: bytes) -> bytes:
    """A message whose one invocation is that block."""
    return post(data)


def _both(name: str, refused: str, build: Callable[[], bytes]) -> None:
    """As the root of a message, as an invocation, and as a token of UCAN 1.0."""
    several("ucanto", "DAG-CBOR", refused, **{f"{name}_in_a_message": lambda: _block(build())})
    several("ucanto", "DAG-CBOR", refused, **{f"{name}_in_a_token": lambda: _invocation(build())})
    several("ucan1", "DAG-CBOR", refused, **{name: lambda: b"\x82" + build()})


def _key(name: bytes) -> bytes:
    return bytes((0x60 + len(name),)) + name


for _name, _refused, _data in (
    ("a_key_twice", "MalformedBlock", b"\xa2" + (_key(b"a") + b"\x01") * 2),
    ("keys_out_of_order", "MalformedBlock", b"\xa2" + _key(b"b") + b"\x01" + _key(b"a") + b"\x01"),
    ("longer_keys_first", "MalformedBlock", b"\xa2" + _key(b"aa") + b"\x01" + _key(b"b") + b"\x01"),
    ("a_key_that_is_a_number", "MalformedBlock", b"\xa1\x01\x01"),
    ("an_integer_in_two_bytes", "MalformedBlock", b"\x18\x01"),
    ("an_integer_in_nine_bytes", "MalformedBlock", b"\x1b" + bytes(7) + b"\x01"),
    ("a_float_of_16_bits", "MalformedBlock", b"\xf9\x3c\x00"),
    ("a_float_of_32_bits", "MalformedBlock", b"\xfa\x3f\x80\x00\x00"),
    ("not_a_number", "MalformedBlock", b"\xfb\x7f\xf8" + bytes(6)),
    ("infinity", "MalformedBlock", b"\xfb\x7f\xf0" + bytes(6)),
    ("minus_infinity", "MalformedBlock", b"\xfb\xff\xf0" + bytes(6)),
    ("a_list_of_indefinite_length", "MalformedBlock", b"\x9f\x01\xff"),
    ("a_text_of_indefinite_length", "MalformedBlock", b"\x7f\x61a\xff"),
    ("a_date", "MalformedBlock", b"\xc1\x01"),
    ("a_bignum", "MalformedBlock", b"\xc2\x41\x01"),
    ("a_link_without_its_zero", "MalformedBlock", b"\xd8\x2a\x41\x01"),
    ("undefined", "MalformedBlock", b"\xf7"),
    ("a_simple_value", "MalformedBlock", b"\xe0"),
    ("text_that_is_not_utf_8", "MalformedBlock", b"\x61\xff"),
    ("half_a_surrogate_pair", "MalformedBlock", b"\x63\xed\xa0\x80"),
    ("bytes_behind_the_value", "MalformedBlock", b"\x01\x01"),
    ("a_value_cut_short", "MalformedBlock", b"\x62a"),
    ("a_list_of_declared_2_to_the_60", "LimitExceeded", b"\x9b\x10" + bytes(7)),
    ("a_text_of_declared_2_to_the_60", "LimitExceeded", b"\x7b\x10" + bytes(7)),
    ("an_integer_of_2_to_the_63", "LimitExceeded", b"\x1b\x80" + bytes(7)),
    ("minus_2_to_the_64", "LimitExceeded", b"\x3b" + b"\xff" * 8),
    ("a_depth_of_33", "LimitExceeded", b"\x81" * 33 + b"\x01"),
    ("a_depth_of_1000", "LimitExceeded", b"\x81" * 1_000 + b"\x01"),
    ("a_depth_of_200000", "LimitExceeded", b"\x81" * 200_000 + b"\x01"),
    ("maps_nested_100_deep", "LimitExceeded", (b"\xa1" + _key(b"a")) * 100 + b"\x01"),
    ("a_list_of_4097", "LimitExceeded", b"\x99\x10\x01" + bytes(4_097)),
):
    _both(_name, _refused, lambda data=_data: data)  # type: ignore[misc]


@ucanto("DAG-CBOR", "MalformedBlock")
def minus_zero_in_the_arguments() -> bytes:
    # JavaScript writes it as 0: two blocks under one signature.
    return post(forged(ASK, fct=[{"a": -0.0}]), ROOT)


@ucanto("DAG-CBOR", "MalformedBlock")
def an_empty_invocation() -> bytes:
    return post(b"")


@ucan1("DAG-CBOR", "MalformedBlock")
def nothing_at_all() -> bytes:
    return b""


# --- containers ---------------------------------------------------------------------------------

START = b"@\xa1\x66ctn-v1"
TOKEN = b"\x59" + len(ASK1.data).to_bytes(2, "big") + ASK1.data

several(
    "ucan1",
    "container",
    "MalformedBlock",
    an_unknown_header=lambda: b"Z" + container.encode([ASK1.data])[1:],
    a_token_twice=lambda: START + b"\x82" + TOKEN * 2,
    a_length_in_more_bytes_than_it_needs=lambda: (
        START + b"\x81\x5a" + len(ASK1.data).to_bytes(4, "big") + ASK1.data
    ),
    a_list_of_indefinite_length=lambda: START + b"\x9f" + TOKEN + b"\xff",
    bytes_behind_the_end=lambda: START + b"\x81" + TOKEN + b"\0",
    cut_short=lambda: (START + b"\x81" + TOKEN)[:-1],
    base64_that_is_not_canonical=lambda: b"B" + b"oWZjdG4tdjGA"[:-1] + b"B",
    base64_with_spaces=lambda: container.encode([ASK1.data, ROOT1.data], form="base64") + b" ",
    something_else_than_gzip=lambda: b"M" + bytes(100),
    gzip_cut_short=lambda: container.encode([ASK1.data], gzip=True)[:-1],
    bytes_behind_the_gzip=lambda: container.encode([ASK1.data], gzip=True) + b"\0",
    a_list_of_declared_2_to_the_60=lambda: START + b"\x9b\x10" + bytes(7),
)
several(
    "ucan1",
    "container",
    "LimitExceeded",
    a_bomb_of_gzip=lambda: b"M" + gzip.compress(START[1:] + b"\x81" + bytes(64 * 1024 * 1024)),
    more_tokens_than_may_be=lambda: START + b"\x99\x01\x01" + TOKEN,
    a_token_of_more_than_256_kib=lambda: START + b"\x81\x5a\x00\x04\x00\x01" + bytes(2**18 + 1),
    more_than_a_mebibyte=lambda: START + bytes(1024 * 1024),
)


# --- tokens that are too much together ------------------------------------------------------------


def _large(count: int, size: int) -> list[Token]:
    """So many tokens for Alice of about that size."""
    facts = [{"a": bytes(size)}]
    grants = [Claim("store/*", SPACE.did.text)]
    return [
        tokens.issue(OTHER, ALICE.did, grants, expires=None, facts=facts, nonce=str(number))
        for number in range(count)
    ]


def _nested(count: int) -> Token:
    """A token with so many lists in lists."""
    value: Any = 1
    for _ in range(20):
        value = [value]
    facts = [{"a": [value] * (count // 40)}] * 2
    return tokens.issue(OTHER, ALICE.did, [claim()], expires=None, facts=facts)


@ucanto("size of proof", "LimitExceeded")
def proofs_of_more_than_128_kib() -> bytes:
    proofs = _large(5, 27_000)
    return post(ask(ALICE, *proofs), *proofs)


@ucanto("size of proof", "LimitExceeded")
def one_large_proof_under_32_invocations() -> bytes:
    proofs = _large(1, 130_000)
    asked = [ask(ALICE, *proofs, nonce=str(number)) for number in range(32)]
    return message_of([each.cid for each in asked], blocks_of(*proofs, *asked))


@ucanto("size of proof", "LimitExceeded")
def a_proof_of_40000_lists() -> bytes:
    proof = _nested(40_000)
    return post(ask(ALICE, proof), proof)


@ucan1("size of proof", "LimitExceeded")
def an_invocation_of_more_than_128_kib() -> bytes:
    return forged1(ASK1, ALICE, meta={"a": bytes(128 * 1024)})


@ucan1("size of proof", "LimitExceeded")
def a_container_of_40000_lists() -> bytes:
    deep = [[[[[1]]]]] * 4_000
    return pack(ASK1, forged1(ROOT1, SPACE, meta={"a": deep, "b": deep, "c": deep}))
