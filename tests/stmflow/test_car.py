"""CAR v1: every block hashed, every length checked before it is read, memory for one block."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import dag_cbor
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stmflow import car, codec
from stmflow.cid import CAR, CID, DAG_CBOR, RAW, write_varint
from stmflow.errors import CodecError, HashMismatch, LimitExceeded, MalformedBlock
from stmflow.limits import LIMITS

Block = tuple[CID, bytes]

ONE, TWO = codec.block({"a": 1}), codec.block([1, 2, 3])
THREE = (CID.of(b"raw", RAW), b"raw")
EMPTY = (CID.of(b"", RAW), b"")

# From the specification's fixtures, https://ipld.io/specs/transport/car/fixture/carv1-basic/
# its header, two roots: bafyreihyrpefhacm6kkp4ql6j6udakdit7g3dmkzfriqfykhjw6cad5lrm and
# bafyreidj5idub6mapiupjwjsyyxhyhedxycv4vihfsicm2vt46o7morwlm.
BASIC_HEADER = bytes.fromhex(
    "63a265726f6f747382d82a58250001711220f88bc853804cf294fe417e4fa83028689fcdb1b1592c5102e1474dbc2"
    "00fab8bd82a5825000171122069ea0740f9807a28f4d932c62e7c1c83be055e55072c90266ab3e79df63a365b6776"
    "657273696f6e01"
)
BASIC_ROOTS = (
    CID.parse("bafyreihyrpefhacm6kkp4ql6j6udakdit7g3dmkzfriqfykhjw6cad5lrm"),
    CID.parse("bafyreidj5idub6mapiupjwjsyyxhyhedxycv4vihfsicm2vt46o7morwlm"),
)


def written(roots: list[CID], blocks: list[Block], **options: int) -> bytes:
    out = io.BytesIO()
    car.write(out, roots, blocks, **options)
    return out.getvalue()


def read_all(data: bytes, **options: Any) -> tuple[tuple[CID, ...], list[Block]]:
    file = car.read(io.BytesIO(data), **options)
    return file.roots, list(file)


def section(data: bytes) -> bytes:
    return write_varint(len(data)) + data


def header(value: object) -> bytes:
    return section(dag_cbor.encode(value))  # type: ignore[arg-type]


HEADER = section(codec.encode({"roots": [ONE[0]], "version": 1}))

datas = st.binary(max_size=200)
blocks = st.lists(
    st.builds(
        lambda data, kind: (CID.of(data, kind), data),
        datas,
        st.sampled_from([RAW, DAG_CBOR, CAR, 0x70]),
    ),
    max_size=8,
)


# There and back


@given(st.lists(datas.map(CID.of), max_size=4), blocks)
def test_what_is_written_is_read(roots: list[CID], given_blocks: list[Block]) -> None:
    data = written(roots, given_blocks)
    assert read_all(data) == (tuple(roots), given_blocks)
    assert read_all(data, verify=False) == (tuple(roots), given_blocks)


def test_the_bytes_are_header_and_sections_each_after_its_length() -> None:
    data = written([ONE[0]], [ONE, THREE])
    assert data == HEADER + section(ONE[0].bytes + ONE[1]) + section(THREE[0].bytes + THREE[1])


def test_the_header_of_the_specification_s_example_is_read_and_written() -> None:
    assert read_all(BASIC_HEADER) == (BASIC_ROOTS, [])
    assert written(list(BASIC_ROOTS), []) == BASIC_HEADER


def test_a_car_may_have_any_number_of_roots_and_no_blocks() -> None:
    for roots in ([], [ONE[0]], [ONE[0]] * 2):
        assert read_all(written(roots, [])) == (tuple(roots), [])


def test_who_asks_for_the_root_is_given_the_only_one() -> None:
    assert car.read(io.BytesIO(written([ONE[0]], []))).root == ONE[0]
    for roots in ([], [ONE[0], TWO[0]]):
        file = car.read(io.BytesIO(written(roots, [])))
        with pytest.raises(MalformedBlock):
            file.root  # noqa: B018


def test_a_block_may_be_empty_and_may_come_twice() -> None:
    assert read_all(written([], [EMPTY, ONE, EMPTY, ONE]))[1] == [EMPTY, ONE, EMPTY, ONE]


def test_the_blocks_are_given_once() -> None:
    file = car.read(io.BytesIO(written([], [ONE, TWO])))
    assert list(file) == [ONE, TWO]
    assert list(file) == []


# Streaming


class Dribble:
    """A stream that gives a few bytes at a time and counts what is asked and given."""

    def __init__(self, data: bytes, step: int) -> None:
        self.rest, self.step, self.largest = io.BytesIO(data), step, 0

    def read(self, size: int, /) -> bytes:
        self.largest = max(self.largest, size)
        return self.rest.read(min(size, self.step))


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
def test_a_stream_may_give_fewer_bytes_than_asked_for(step: int) -> None:
    data = written([ONE[0]], [ONE, TWO, THREE, EMPTY])
    assert list(car.read(Dribble(data, step))) == [ONE, TWO, THREE, EMPTY]


def test_no_more_than_one_block_is_read_ahead() -> None:
    data = written([ONE[0]], [ONE, TWO])
    stream = io.BytesIO(data)
    file = car.read(stream)
    assert stream.tell() == len(HEADER)
    assert next(iter(file)) == ONE
    assert stream.tell() == len(HEADER) + 1 + 36 + len(ONE[1])


def test_an_endless_car_is_read_for_as_long_as_one_likes() -> None:
    class Endless:
        def __init__(self) -> None:
            self.rest = HEADER

        def read(self, size: int, /) -> bytes:
            while len(self.rest) < size:
                self.rest += section(ONE[0].bytes + ONE[1])
            given, self.rest = self.rest[:size], self.rest[size:]
            return given

    for count, block in enumerate(car.read(Endless())):
        assert block == ONE
        if count == 1_000:
            break


def test_a_length_is_refused_before_anything_of_it_is_read() -> None:
    for size in (2**20, 2**40, 2**63 - 1):
        stream = Dribble(HEADER + write_varint(size) + bytes(100), 10**9)
        with pytest.raises(LimitExceeded):
            list(car.read(stream))
        assert stream.largest <= len(HEADER)
        with pytest.raises(LimitExceeded):
            car.read(Dribble(write_varint(size) + bytes(100), 10**9))


# Bytes that are not what they claim


def test_a_block_under_another_s_cid_is_refused() -> None:
    data = HEADER + section(ONE[0].bytes + TWO[1])
    with pytest.raises(HashMismatch):
        read_all(data)
    assert read_all(data, verify=False)[1] == [(ONE[0], TWO[1])]


def test_the_writer_refuses_a_block_under_another_s_cid_and_writes_nothing_of_it() -> None:
    out = io.BytesIO()
    writer = car.Writer(out, [ONE[0]])
    with pytest.raises(HashMismatch):
        writer.write(ONE[0], TWO[1])
    assert out.getvalue() == HEADER
    writer.write(*ONE)
    assert read_all(out.getvalue())[1] == [ONE]


def test_the_writer_refuses_roots_that_are_no_cids() -> None:
    with pytest.raises(MalformedBlock):
        car.Writer(io.BytesIO(), [str(ONE[0])])  # type: ignore[list-item]


@pytest.mark.parametrize(
    "cid",
    [
        CID(b"\x01\x55\x00\x03raw"),  # identity: the data is in the CID
        CID(b"\x01\x55\x13\x40" + bytes(64)),
        CID(b"\x01\x55\xb2\x7f\x20" + bytes(32)),
    ],
)
def test_a_block_under_a_hash_that_we_cannot_compute_is_refused(cid: CID) -> None:
    with pytest.raises(HashMismatch):
        read_all(HEADER + section(cid.bytes + b"raw"))
    with pytest.raises(HashMismatch):
        written([], [(cid, b"raw")])
    assert read_all(HEADER + section(cid.bytes + b"raw"), verify=False)[1] == [(cid, b"raw")]


def test_a_block_under_a_cid_v0_is_refused() -> None:
    with pytest.raises(MalformedBlock, match="CIDv0"):
        read_all(HEADER + section(ONE[0].bytes[2:] + ONE[1]))


MALFORMED = {
    "nothing": b"",
    "an empty header": b"\x00",
    "a header that is cut short": HEADER[:-1],
    "a header without its bytes": HEADER[:1],
    "half a length": b"\x80",
    "an overlong length of the header": bytes([HEADER[0] | 0x80, 0]) + HEADER[1:],
    "a length of ten bytes": b"\xff" * 9 + b"\x01",
    "version 2": header({"roots": [], "version": 2}),
    "version 0": header({"roots": [], "version": 0}),
    "a version that is true": header({"roots": [], "version": True}),
    "a version that is 1.0": header({"roots": [], "version": 1.0}),
    "a version that is text": header({"roots": [], "version": "1"}),
    "a CAR v2": bytes.fromhex("0aa16776657273696f6e02") + bytes(40),
    "no version": header({"roots": []}),
    "no roots": header({"version": 1}),
    "a third key": header({"roots": [], "version": 1, "x": 1}),
    "roots that are no list": header({"roots": {}, "version": 1}),
    "roots that are null": header({"roots": None, "version": 1}),
    "a root that is bytes": header({"roots": [ONE[0].bytes], "version": 1}),
    "a root that is text": header({"roots": [str(ONE[0])], "version": 1}),
    "a header that is a list": header([1]),
    "a header that is a number": header(1),
    "a header that is no DAG-CBOR": section(b"\xff"),
    "a header with a byte too many": section(HEADER[1:] + b"\x00"),
    "an empty entry": HEADER + b"\x00",
    "an empty entry before a block": HEADER + b"\x00" + section(ONE[0].bytes + ONE[1]),
    "an entry that is cut short": HEADER + section(ONE[0].bytes + ONE[1])[:-1],
    "an entry without its bytes": HEADER + b"\x25",
    "an entry with half a length": HEADER + b"\xa5",
    "an entry with an overlong length": HEADER + b"\xa8\x00" + ONE[0].bytes + ONE[1],
    "an entry with a length of ten bytes": HEADER + b"\x80" * 9 + b"\x01",
    "an entry of 2**63 bytes": HEADER + b"\x80" * 9 + b"\x01",
    "an entry shorter than its CID": HEADER + section(ONE[0].bytes[:-1]),
    "an entry that is no CID": HEADER + section(bytes(40)),
    "an entry with an overlong varint": HEADER + section(b"\x01\xf1\x00" + ONE[0].bytes[2:]),
    "a byte after the end": HEADER + section(ONE[0].bytes + ONE[1]) + b"\x05",
}


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("name", MALFORMED)
def test_a_car_that_is_not_one_is_malformed(name: str, verify: bool) -> None:
    with pytest.raises(MalformedBlock):
        read_all(MALFORMED[name], verify=verify)


def test_a_car_that_is_cut_at_any_byte_is_refused_or_ends_with_a_whole_block() -> None:
    given_blocks = [ONE, TWO, THREE]
    whole = written([ONE[0]], given_blocks)
    ends = {len(written([ONE[0]], given_blocks[:count])): count for count in range(4)}
    for size in range(len(whole)):
        if size in ends:
            assert read_all(whole[:size])[1] == given_blocks[: ends[size]]
        else:
            with pytest.raises(MalformedBlock):
                read_all(whole[:size])


def flips(data: bytes) -> Iterator[tuple[int, bytes]]:
    for at in range(len(data)):
        for bit in range(8):
            changed = bytearray(data)
            changed[at] ^= 1 << bit
            yield at, bytes(changed)
        for byte in {0x00, 0xFF, 0x55, 0x71} - {data[at]}:
            yield at, data[:at] + bytes([byte]) + data[at + 1 :]


def test_no_changed_byte_goes_unseen() -> None:
    """Refused, but for what no hash covers: the roots, and the codec that a CID says."""
    given_blocks = [ONE, TWO, THREE]
    whole = written([ONE[0]], given_blocks)
    refused = 0
    for at, data in flips(whole):
        try:
            roots, found = read_all(data)
        except CodecError:
            refused += 1
            continue
        if at < len(HEADER):
            assert roots != (ONE[0],)
            assert found == given_blocks
            continue
        assert roots == (ONE[0],)
        assert [data for _, data in found] == [data for _, data in given_blocks]
        assert [cid.digest for cid, _ in found] == [cid.digest for cid, _ in given_blocks]
        assert [cid.codec for cid, _ in found] != [cid.codec for cid, _ in given_blocks]
    assert refused > 8 * (len(whole) - 36 - 3)  # all but a root's digest and codec, three codecs


@given(st.binary(max_size=200))
def test_any_bytes_after_a_header_are_read_or_refused_by_name(tail: bytes) -> None:
    for data in (tail, HEADER + tail, HEADER + section(tail)):
        try:
            read_all(data)
        except CodecError:
            continue


# The bounds, at n-1, n and n+1


def raw(size: int, kind: int = RAW) -> Block:
    data = bytes(size)
    return CID.of(data, kind), data


def check_bound(limit: int, make: Callable[[int], Block], **options: int) -> None:
    for size in (limit - 1, limit):
        assert read_all(written([], [make(size)], **options), **options)[1] == [make(size)]
    cid, data = make(limit + 1)
    with pytest.raises(LimitExceeded):
        written([], [(cid, data)], **options)
    for verify in (True, False):
        with pytest.raises(LimitExceeded):
            read_all(HEADER + section(cid.bytes + data), verify=verify, **options)


@pytest.mark.parametrize("kind", [RAW, DAG_CBOR, CAR])
def test_the_bound_of_a_block(kind: int) -> None:
    check_bound(LIMITS.block_bytes, lambda size: raw(size, kind))


@pytest.mark.parametrize("limit", [100, 2**20])
def test_the_bound_of_raw_blocks_can_be_chosen(limit: int) -> None:
    check_bound(limit, raw, block_bytes=limit)


@pytest.mark.parametrize("limit", [100, 2**20])
def test_the_bound_of_other_blocks_cannot(limit: int) -> None:
    check_bound(LIMITS.block_bytes, lambda size: raw(size, DAG_CBOR), block_bytes=limit)


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_the_bound_of_the_number_of_blocks(more: int) -> None:
    data = written([], [EMPTY] * (256 + more))
    if more > 0:
        with pytest.raises(LimitExceeded):
            read_all(data, max_blocks=256)
    else:
        assert len(read_all(data, max_blocks=256)[1]) == 256 + more


def test_a_million_empty_blocks_are_refused_at_the_first_too_many() -> None:
    data = HEADER + section(EMPTY[0].bytes) * 1_000_000
    stream = io.BytesIO(data)
    with pytest.raises(LimitExceeded):
        list(car.read(stream, max_blocks=256))
    assert stream.tell() < 257 * 40


def roots_of(size: int) -> list[CID]:
    """Roots whose header is `size` bytes long."""
    roots = [ONE[0]] * ((size - 110) // 41)
    short = {
        len(codec.encode(cid)): cid
        for cid in (CID(b"\x01\x55\x13" + bytes([n]) + bytes(n)) for n in range(65))
    }
    missing = size - len(codec.encode({"roots": roots, "version": 1}))
    one = next(length for length in short if missing - length in short)
    return [*roots, short[one], short[missing - one]]


def test_the_bound_of_the_header() -> None:
    for size in (LIMITS.car_header_bytes - 1, LIMITS.car_header_bytes):
        roots = roots_of(size)
        assert read_all(written(roots, []))[0] == tuple(roots)
    roots = roots_of(LIMITS.car_header_bytes + 1)
    with pytest.raises(LimitExceeded):
        written(roots, [])
    with pytest.raises(LimitExceeded):
        read_all(section(codec.encode({"roots": roots, "version": 1})))
