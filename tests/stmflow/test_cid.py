"""CIDs: one value per name, one text per base, and nothing that is not a CIDv1."""

from __future__ import annotations

import copy
import subprocess
import sys
from contextlib import suppress
from hashlib import sha256

import multiformats
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from multiformats import multibase
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from stmflow.cid import CAR, CID, DAG_CBOR, RAW, SHA2_256, split, write_varint
from stmflow.errors import CodecError, HashMismatch, LimitExceeded, MalformedBlock
from stmflow.limits import LIMITS

HELLO = "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq"  # from ipfs, raw "hello"
DIGEST = sha256(b"hello").digest()
BASES = ("base32", "base58btc", "base36", "base16", "base64url")


def binary(codec: int, hash_code: int, digest: bytes) -> bytes:
    head = b"\x01" + write_varint(codec) + write_varint(hash_code)
    return head + write_varint(len(digest)) + digest


def other_hashes() -> st.SearchStrategy[bytes]:
    """Binary CIDs under any codec and any hash but sha2-256."""
    numbers = st.integers(0, 2**63 - 1) | st.integers(0, 300)
    return st.builds(
        binary, numbers, numbers.filter(lambda n: n != SHA2_256), st.binary(max_size=64)
    )


def sha2_256s() -> st.SearchStrategy[bytes]:
    codecs = st.sampled_from((RAW, DAG_CBOR, CAR, 0x70)) | st.integers(0, 2**63 - 1)
    return st.builds(binary, codecs, st.just(SHA2_256), st.binary(min_size=32, max_size=32))


def binaries() -> st.SearchStrategy[bytes]:
    return sha2_256s() | other_hashes()


# Making and verifying


def test_a_known_block_has_the_cid_that_others_give_it() -> None:
    assert str(CID.of(b"hello", RAW)) == HELLO
    assert CID.of(b"hello", RAW) == CID.parse(HELLO)


def test_a_cid_that_is_parsed_is_given_back() -> None:
    cid = CID.of(b"hello")
    assert CID.parse(cid) is cid


@pytest.mark.parametrize("codec", [RAW, DAG_CBOR, CAR, 0, 0x7F, 0x80, 2**63 - 1])
def test_the_cid_of_data_says_codec_hash_and_digest(codec: int) -> None:
    cid = CID.of(b"hello", codec)
    assert (cid.codec, cid.hash_code, cid.digest) == (codec, SHA2_256, DIGEST)
    assert cid.multihash == b"\x12\x20" + DIGEST
    assert cid.bytes == bytes(cid) == binary(codec, SHA2_256, DIGEST)
    assert CID(cid.bytes) == cid


def test_data_is_dag_cbor_unless_said_otherwise() -> None:
    assert CID.of(b"").codec == DAG_CBOR == 0x71


@pytest.mark.parametrize("codec", [-1, 2**63, 0.5, True])
def test_a_codec_is_an_unsigned_63_bit_number(codec: int) -> None:
    with pytest.raises(MalformedBlock):
        CID.of(b"", codec)


def test_a_cid_vouches_for_its_data_and_no_other() -> None:
    cid = CID.of(b"hello")
    cid.verify(b"hello")
    with pytest.raises(HashMismatch):
        cid.verify(b"hellp")


@pytest.mark.parametrize(
    ("code", "digest"),
    [(0x00, b"hello"), (0x13, bytes(64)), (0x1E, DIGEST), (0x00, b"\x12\x20" + DIGEST)],
)
def test_only_sha2_256_is_ever_verified(code: int, digest: bytes) -> None:
    with pytest.raises(HashMismatch, match="cannot be verified"):
        CID(binary(RAW, code, digest)).verify(b"hello")


# The value


@given(sha2_256s(), sha2_256s())
def test_cids_are_equal_ordered_and_hashed_by_their_bytes(one: bytes, two: bytes) -> None:
    a, b = CID(one), CID(two)
    assert (a == b, a < b, a <= b, a > b, a >= b) == (
        one == two, one < two, one <= two, one > two, one >= two,
    )  # fmt: skip
    assert hash(a) == hash(CID(bytes(bytearray(one))))
    assert sorted([a, b]) == [CID(data) for data in sorted([one, two])]


def test_a_cid_never_equals_its_bytes_its_text_or_a_foreign_cid() -> None:
    cid = CID.of(b"hello")
    for other in (cid.bytes, str(cid), (cid.bytes,), cid.to_multiformats(), None):
        assert cid != other
        assert (cid == other) is False


def test_a_cid_is_not_ordered_among_bytes() -> None:
    cid = CID.of(b"")
    for compare in (cid.__lt__, cid.__le__, cid.__gt__, cid.__ge__):
        assert compare(cid.bytes) is NotImplemented  # type: ignore[arg-type]


def test_a_cid_cannot_be_changed() -> None:
    cid = CID.of(b"hello")
    with pytest.raises(AttributeError):
        cid.bytes = b""
    with pytest.raises(AttributeError):
        cid.other = 1  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        del cid.bytes
    assert cid == CID.of(b"hello")


def test_a_cid_survives_copies() -> None:
    cid = CID.of(b"hello")
    assert copy.copy(cid) == copy.deepcopy(cid) == cid


def test_a_cid_reads_well() -> None:
    assert repr(CID.parse(HELLO)) == f"CID('{HELLO}')"
    assert CID.parse(HELLO).short == "bafkreibm6jg3ux5"


# Text


@given(binaries())
def test_every_text_form_reads_back_and_is_what_multiformats_writes(data: bytes) -> None:
    cid = CID(data)
    assert str(cid) == multibase.encode(data, "base32")
    for base in BASES:
        assert CID.parse(multibase.encode(data, base)) == cid


@given(st.binary(min_size=36, max_size=36))
def test_the_fast_base32_writes_what_the_slow_one_writes(digest: bytes) -> None:
    data = CID.of(b"").bytes[:4] + digest[:32]
    assert str(CID(data)) == multibase.encode(data, "base32")


def test_base32_has_no_second_spelling() -> None:
    body = HELLO[1:]
    spellings = [HELLO.upper(), "b" + body.upper(), "B" + body.upper(), "b" + body[:-1] + "Q"]
    spellings += [f"{HELLO}======", f" {HELLO}", f"{HELLO}\n", f"b{body[:8]}_{body[8:]}"]
    spellings += [f"b+{body[1:]}", f"b-{body[1:]}", HELLO + "a", HELLO[:-1], "b", ""]
    for text in spellings:
        with pytest.raises(MalformedBlock):
            CID.parse(text)


def test_stray_bits_after_the_last_byte_are_refused() -> None:
    for last in "abcdefghijklmnopqrstuvwxyz234567":
        text = HELLO[:-1] + last
        if last in "aeimquy4":  # the two spare bits are zero
            assert str(CID.parse(text)) == text
        else:
            with pytest.raises(MalformedBlock):
                CID.parse(text)


@pytest.mark.parametrize("base", BASES)
def test_every_other_letter_in_a_text_is_refused_or_names_another_cid(base: str) -> None:
    cid = CID.parse(HELLO)
    text = multibase.encode(cid.bytes, base)
    for at in range(len(text)):
        for letter in "0OIl1a!A= é\N{FULLWIDTH DIGIT ONE}":
            changed = text[:at] + letter + text[at + 1 :]
            try:
                other = CID.parse(changed)
            except CodecError:
                continue
            assert (other == cid) == (changed == text)
            assert multibase.encode(other.bytes, base) == changed


@given(st.text(max_size=80) | st.from_regex(r"[bzkfumQ][0-9a-zA-Z_=-]{0,70}", fullmatch=True))
@example("f 01")
@example("u====")
@example("zé")
@example("k")
def test_what_is_no_cid_text_is_refused_by_name(text: str) -> None:
    try:
        cid = CID.parse(text)
    except CodecError:
        return
    assert CID.parse(str(cid)) == cid


def test_a_cid_v0_is_refused_in_every_form() -> None:
    old = multiformats.CID("base58btc", 0, "dag-pb", ("sha2-256", DIGEST))
    for form in (str(old), bytes(old), old):
        with pytest.raises(MalformedBlock):
            CID.parse(form)
    with pytest.raises(MalformedBlock, match="CIDv0"):
        CID(b"\x12\x20" + DIGEST)


@pytest.mark.parametrize("base", BASES)
def test_a_text_of_any_length_is_answered_at_once(base: str) -> None:
    first = {"base32": "b", "base58btc": "z", "base36": "k", "base16": "f", "base64url": "u"}[base]
    for length in (192, 193, 194, 10_000_000):
        with pytest.raises(LimitExceeded if length > 193 else CodecError):
            CID.parse(first + "1" * (length - 1))


# Binary


@given(binaries())
def test_any_cid_v1_is_carried_unchanged(data: bytes) -> None:
    cid = CID.parse(data)
    assert binary(cid.codec, cid.hash_code, cid.digest) == data == cid.bytes
    assert cid.bytes.endswith(cid.multihash)
    assert split(data + b"tail") == (cid, len(data))


@given(binaries(), st.integers(1, 80))
def test_a_cid_that_is_cut_short_is_refused(data: bytes, cut: int) -> None:
    with pytest.raises(MalformedBlock):
        CID(data[:-cut])
    with pytest.raises(MalformedBlock):
        split(data[:-cut])


@given(binaries(), st.binary(min_size=1, max_size=9))
def test_bytes_after_a_cid_are_refused(data: bytes, tail: bytes) -> None:
    with pytest.raises(CodecError):
        CID(data + tail)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"\x01",
        b"\x01\x71",
        b"\x01\x71\x12",
        b"\x01\x71\x12\x20",
        b"\x00\x01\x71\x12\x20" + DIGEST,
        b"\x02\x71\x12\x20" + DIGEST,
        b"\x81\x00\x71\x12\x20" + DIGEST,
        b"\x01\xf1\x00\x12\x20" + DIGEST,
        b"\x01\x71\x92\x00\x20" + DIGEST,
        b"\x01\x71\x12\xa0\x00" + DIGEST,
        b"\x01\x71\x12\x1f" + DIGEST[1:],
        b"\x01\x71\x12\x00",
        b"\x01" + b"\x80" * 9 + b"\x01\x12\x20" + DIGEST,
        b"\x01" + b"\xff" * 80,
    ],
)
def test_what_is_no_cid_v1_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedBlock):
        CID(data)
    with pytest.raises(MalformedBlock):
        CID.parse(data)


@pytest.mark.parametrize("size", [LIMITS.digest_bytes - 1, LIMITS.digest_bytes])
def test_a_digest_up_to_the_limit_is_carried(size: int) -> None:
    assert CID(binary(RAW, 0x13, bytes(size))).digest == bytes(size)


def test_a_digest_over_the_limit_is_refused() -> None:
    with pytest.raises(LimitExceeded):
        CID(binary(RAW, 0x13, bytes(LIMITS.digest_bytes + 1)))


def test_a_binary_cid_over_the_limit_is_refused_before_it_is_read() -> None:
    for size in (LIMITS.cid_bytes - 1, LIMITS.cid_bytes):  # read, and not a CID
        with pytest.raises(MalformedBlock):
            CID(bytes(size))
    with pytest.raises(LimitExceeded):
        CID(bytes(LIMITS.cid_bytes + 1))


@pytest.mark.parametrize("value", [None, 1, bytearray(36), memoryview(b""), [], object()])
def test_only_text_bytes_and_cids_are_parsed(value: object) -> None:
    with pytest.raises(MalformedBlock):
        CID.parse(value)  # type: ignore[arg-type]
    with pytest.raises(MalformedBlock):
        CID(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [0, 0x7F, 0x80, 2**14 - 1, 2**14, 2**63 - 1])
def test_varints_are_those_of_multiformats(number: int) -> None:
    assert write_varint(number) == multiformats.varint.encode(number)


# multiformats


@given(sha2_256s())
def test_a_cid_goes_to_multiformats_and_back(data: bytes) -> None:
    cid = CID(data)
    try:
        foreign = cid.to_multiformats()
    except MalformedBlock:
        assert not multiformats.multicodec.exists(code=cid.codec)
        return
    assert str(foreign) == str(cid)
    assert CID.parse(foreign) == cid
    assert CID.parse(foreign.set(base="base58btc")) == cid


@given(binaries(), st.data())
def test_what_we_take_multiformats_takes_where_it_knows_the_codes(
    data: bytes, draw: st.DataObject
) -> None:
    mutant = bytearray(data)
    for _ in range(draw.draw(st.integers(0, 3))):
        at = draw.draw(st.integers(0, min(len(mutant) - 1, 6)))
        mutant[at] = draw.draw(st.integers(0, 255))
    changed = bytes(mutant)
    ours = theirs = None
    with suppress(CodecError):
        ours = CID(changed)
    with suppress(Exception):
        theirs = multiformats.CID.decode(changed)
    if ours and not theirs:
        known = multiformats.multicodec.exists
        assert not known(code=ours.codec) or not hash_is_known(ours)
    if theirs and not ours:
        truncated = theirs.hashfun.name == "sha2-256" and len(theirs.raw_digest) != 32
        assert theirs.version == 0 or truncated or len(theirs.raw_digest) > LIMITS.digest_bytes


def hash_is_known(cid: CID) -> bool:
    try:
        multiformats.multihash.validate(cid.multihash)
    except Exception:
        return False
    return True


def test_cids_in_daily_use_do_not_import_multiformats() -> None:
    code = (
        "import sys; from stmflow.cid import CID; c = CID.of(b''); CID.parse(str(c));"
        "assert not {'multiformats', 'dag_cbor'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# pydantic


class Upload(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
    link: CID


class LaxUpload(BaseModel):
    link: CID


def test_a_model_takes_a_cid_in_python_and_nothing_else() -> None:
    cid = CID.parse(HELLO)
    assert Upload(link=cid).link is cid
    for other in (HELLO, cid.bytes, {"/": HELLO}, cid.to_multiformats()):
        for model in (Upload, LaxUpload):
            with pytest.raises(ValidationError):
                model(link=other)  # type: ignore[arg-type]


def test_a_model_writes_and_reads_a_link_in_json() -> None:
    upload = Upload(link=CID.parse(HELLO))
    text = upload.model_dump_json()
    assert text == f'{{"link":{{"/":"{HELLO}"}}}}'
    assert Upload.model_validate_json(text) == upload
    assert upload.model_dump() == {"link": upload.link}


def test_bare_text_is_a_cid_in_json_only_where_the_model_is_lax() -> None:
    text = f'{{"link":"{HELLO}"}}'
    assert LaxUpload.model_validate_json(text).link == CID.parse(HELLO)
    with pytest.raises(ValidationError):
        Upload.model_validate_json(text)


@pytest.mark.parametrize(
    "link", ['{"/":"bafy"}', '{"/":1}', '{"/":"x","a":1}', "{}", "1", "null", '"Qm"', '{"a":"x"}']
)
@pytest.mark.parametrize("model", [Upload, LaxUpload])
def test_what_is_no_link_in_json_is_refused(model: type[BaseModel], link: str) -> None:
    with pytest.raises(ValidationError):
        model.model_validate_json(f'{{"link":{link}}}')


def test_the_json_schema_of_a_cid_is_that_of_a_link() -> None:
    schema = TypeAdapter(CID).json_schema()
    assert {"/"} == set(
        schema["anyOf"][0]["properties"] if "anyOf" in schema else schema["properties"]
    )
