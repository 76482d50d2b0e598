"""Containers: all six forms both ways, any order, no token twice, no more than may be inflated."""

from __future__ import annotations

import gzip as gzip_module
import tracemalloc
import zlib
from base64 import b64decode, b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capabilities.ucan1 import container
from stmflow import codec
from stmflow.cid import CID
from stmflow.errors import CodecError, LimitExceeded, MalformedBlock
from stmflow.limits import LIMITS
from tests.capabilities.ucan1.tokens import ALICE, SPACE, ask, grant

TOKENS = sorted([ask(SPACE).data, grant(SPACE, ALICE).data, b"not even a token"])
PLAIN = codec.encode({"ctn-v1": TOKENS})
forms = st.sampled_from(["raw", "base64", "base64url"])


@pytest.mark.parametrize(
    ("form", "gzip", "header"),
    [
        ("raw", False, b"@"),
        ("base64", False, b"B"),
        ("base64url", False, b"C"),
        ("raw", True, b"M"),
        ("base64", True, b"O"),
        ("base64url", True, b"P"),
    ],
)
def test_a_container_has_six_forms(form: container.Form, gzip: bool, header: bytes) -> None:
    data = container.encode(reversed(TOKENS), form=form, gzip=gzip)
    assert data[:1] == header
    assert list(container.decode(data).items()) == [(CID.of(each), each) for each in TOKENS]
    assert container.encode(TOKENS * 2, form=form, gzip=gzip) == data
    assert not header.isalpha() or form == "raw" or data.isascii()


def test_the_content_is_one_map_of_a_sorted_list() -> None:
    assert container.encode(TOKENS) == b"@" + PLAIN


@given(st.sets(st.binary(max_size=300), max_size=30), forms, st.booleans())
def test_what_is_written_is_read(tokens: set[bytes], form: container.Form, gzip: bool) -> None:
    found = container.decode(container.encode(tokens, form=form, gzip=gzip))
    assert list(found.values()) == sorted(tokens)


def test_any_order_is_read_and_kept() -> None:
    backwards = codec.encode({"ctn-v1": TOKENS[::-1]})
    assert list(container.decode(b"@" + backwards).values()) == TOKENS[::-1]


def test_a_token_that_is_there_twice_is_refused() -> None:
    with pytest.raises(MalformedBlock, match="twice"):
        container.decode(b"@" + codec.encode({"ctn-v1": [*TOKENS, TOKENS[0]]}))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"@",
        b"A" + PLAIN,
        PLAIN,
        b"@" + PLAIN[:-1],
        b"@" + PLAIN + b"\0",
        b"@" + codec.encode({"ctn-v2": TOKENS}),
        b"@" + codec.encode({"ctn-v1": TOKENS, "x": 1}),
        b"@" + codec.encode({"ctn-v1": {}}),
        b"@" + codec.encode({"ctn-v1": ["text"]}),
        b"@" + codec.encode({"ctn-v1": [[b""]]}),
        b"@" + codec.encode(TOKENS),
        b"@\xa1\x66ctn-v1\x9f\x40\xff",  # indefinite length
        b"@\xa1\x66ctn-v1\x98\x01\x40",  # a longer head than it has to be
        b"@\xa1\x66ctn-v1\x81\x58\x01a",
        b"@\xa1\x66ctn-v1\x81\x59\x01",
        b"@\xa1\x66ctn-v1\x9b" + b"\xff" * 8,
        b"B" + b64encode(PLAIN).rstrip(b"=") + b"!",
        b"B" + b64encode(PLAIN) + b"\n",
        b"C" + b64encode(PLAIN + b"\0").replace(b"+", b"-").replace(b"/", b"_"),
        b"M" + PLAIN,
        b"M" + zlib.compress(PLAIN),
        b"M" + gzip_module.compress(PLAIN)[:-1],
        b"M" + gzip_module.compress(PLAIN) + b"\0",
        b"M" + gzip_module.compress(PLAIN) * 2,
        b"O" + gzip_module.compress(PLAIN),
        b"M" + gzip_module.compress(b"@" + PLAIN),
    ],
)
def test_anything_else_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedBlock):
        container.decode(data)


def test_base64_with_stray_bits_is_malformed() -> None:
    text = next(
        text
        for size in range(3)
        if (text := container.encode([bytes(size)], form="base64")).endswith(b"A==")
        or text.endswith(b"A=")
    )
    padding = text[len(text.rstrip(b"=")) :]
    stray = text.rstrip(b"=")[:-1] + b"B" + padding
    assert b64decode(stray[1:]) == b64decode(text[1:])
    with pytest.raises(MalformedBlock, match="canonical"):
        container.decode(stray)


def test_the_number_of_tokens_is_bounded() -> None:
    tokens = [number.to_bytes(2, "big") for number in range(LIMITS.request_blocks + 1)]
    for count in (LIMITS.request_blocks - 1, LIMITS.request_blocks):
        assert len(container.decode(container.encode(tokens[:count]))) == count
    with pytest.raises(LimitExceeded):
        container.encode(tokens)
    with pytest.raises(LimitExceeded):
        container.decode(b"@" + codec.encode({"ctn-v1": tokens}))


def test_the_length_of_a_token_is_bounded() -> None:
    for size in (LIMITS.block_bytes - 1, LIMITS.block_bytes):
        assert container.decode(container.encode([bytes(size)]))
    with pytest.raises(LimitExceeded):
        container.encode([bytes(LIMITS.block_bytes + 1)])
    declared = (LIMITS.block_bytes + 1).to_bytes(4, "big")
    with pytest.raises(LimitExceeded):
        container.decode(b"@\xa1\x66ctn-v1\x81\x5a" + declared)


def filled(size: int) -> bytes:
    """CBOR of a container of exactly `size` bytes, about 1 MiB."""
    heads = len(b"\xa1\x66ctn-v1") + 1 + 5 * 5
    lengths = [200_000] * 4 + [size - heads - 800_000]
    tokens = [bytes((number,)) * length for number, length in enumerate(lengths)]
    parts = [b"\x5a" + len(token).to_bytes(4, "big") + token for token in tokens]
    return b"\xa1\x66ctn-v1\x85" + b"".join(parts)


@pytest.mark.parametrize("header", [b"@", b"M"])
def test_the_length_is_bounded_before_and_after_decompression(header: bytes) -> None:
    def packed(size: int) -> bytes:
        content = filled(size)
        assert len(content) == size
        return header + (gzip_module.compress(content) if header == b"M" else content)

    most = LIMITS.request_bytes - (1 if header == b"@" else 0)  # the header byte counts
    for size in (most - 1, most):
        assert container.decode(packed(size))
    with pytest.raises(LimitExceeded):
        container.decode(packed(most + 1))


def test_a_bomb_is_not_inflated() -> None:
    bomb = b"M" + gzip_module.compress(bytes(64 * LIMITS.request_bytes))
    tracemalloc.start()
    with pytest.raises(LimitExceeded):
        container.decode(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * LIMITS.request_bytes


@given(st.sampled_from([b"@", b"B", b"C", b"M", b"O", b"P"]), st.binary(max_size=80))
def test_any_bytes_are_refused_by_name(header: bytes, data: bytes) -> None:
    try:
        found = container.decode(header + data)
    except CodecError:
        return
    assert all(CID.of(token) == cid for cid, token in found.items())
