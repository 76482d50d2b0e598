"""DIDs: one text and one binary form per principal, and no key that proves nothing."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from multiformats import multibase
from nacl.bindings import crypto_core_ed25519_add, crypto_sign_seed_keypair

from capabilities import did as module
from capabilities.did import (
    BLS_G1,
    BLS_G2,
    DID,
    ED25519,
    P256,
    P384,
    P521,
    RSA,
    RSA_BITS_MAX,
    RSA_BITS_MIN,
    SECP256K1,
    base58,
    rsa_numbers,
    unbase58,
)
from stmflow.errors import InvalidDID, LimitExceeded, WeakKey
from stmflow.limits import LIMITS

ALICE = "did:key:z6MkgkHLQJU3MrsLiRShGku493QqZV4te8f611nKF7vmeus8"
ALICE_RAW = bytes.fromhex("ed012213b4bf5e4a390dca65c179e203413ad818208600c20c05b6425880016a03d3")
CURVES = {
    P256: ec.SECP256R1(),
    P384: ec.SECP384R1(),
    P521: ec.SECP521R1(),
    SECP256K1: ec.SECP256K1(),
}
SIZES = {P256: 32, P384: 48, P521: 66, SECP256K1: 32}


def key_text(raw: bytes) -> str:
    return "did:key:z" + base58(raw)


def ed25519(seed: bytes) -> bytes:
    return ED25519 + crypto_sign_seed_keypair(seed)[0]


def refused_both_ways(raw: bytes, error: type[Exception], reason: str | None = None) -> None:
    with pytest.raises(error, match=reason):
        DID.decode(raw)
    with pytest.raises(error, match=reason):
        DID.parse(key_text(raw))


# --- the value


def test_a_did_has_its_text_its_binary_form_and_its_method() -> None:
    did = DID.parse(ALICE)
    assert (did.text, did.raw, did.method, str(did)) == (ALICE, ALICE_RAW, "key", ALICE)
    assert repr(did) == f"DID({ALICE!r})"


def test_dids_are_equal_by_text_however_they_were_made() -> None:
    did = DID.parse(ALICE)
    module._parse.cache_clear()
    again = DID.decode(ALICE_RAW)
    assert again is not did
    assert again == did
    assert hash(again) == hash(did)
    assert did != DID.parse("did:web:store.example")
    assert did != ALICE
    assert DID.parse(did) is did
    assert DID(ALICE) == did


def test_a_did_cannot_be_changed() -> None:
    did = DID.parse(ALICE)
    with pytest.raises(AttributeError):
        did.text = "did:web:store.example"
    with pytest.raises(AttributeError):
        del did.raw
    assert not hasattr(did, "__dict__")


def test_a_copied_or_pickled_did_is_the_same() -> None:
    did = DID.parse(ALICE)
    assert copy.deepcopy(did) == did
    assert pickle.loads(pickle.dumps(did)) == did  # noqa: S301 -- our own bytes


@pytest.mark.parametrize("other", [None, 7, ALICE.encode(), [ALICE], type("Text", (str,), {})()])
def test_what_is_not_text_is_no_did(other: object) -> None:
    with pytest.raises(InvalidDID):
        DID.parse(other)  # type: ignore[arg-type]


@pytest.mark.parametrize("other", [None, 7, ALICE, bytearray(ALICE_RAW), [ALICE_RAW]])
def test_what_is_not_bytes_is_no_binary_did(other: object) -> None:
    with pytest.raises(InvalidDID):
        DID.decode(other)  # type: ignore[arg-type]


def test_the_caches_are_bounded() -> None:
    assert module._parse.cache_parameters()["maxsize"] == 4_096
    assert module._decode.cache_parameters()["maxsize"] == 4_096


# --- did:key


@given(st.binary(min_size=32, max_size=32))
def test_every_ed25519_key_goes_both_ways(seed: bytes) -> None:
    raw = ed25519(seed)
    did = DID.decode(raw)
    assert did.text == "did:key:" + multibase.encode(raw, "base58btc")
    assert DID.parse(did.text).raw == raw


@pytest.mark.parametrize(
    "text",
    [
        ALICE + "#z6MkgkHLQJU3MrsLiRShGku493QqZV4te8f611nKF7vmeus8",
        ALICE + "#",
        ALICE + "?versionId=1",
        ALICE + "/",
        ALICE + "/path",
        ALICE + ":",
        ALICE + ";service=files",
        ALICE + " ",
        ALICE + "\n",
        " " + ALICE,
        ALICE + "\0",
        ALICE[:-1],
        ALICE + "1",
        ALICE.replace("did:key:", "did:KEY:"),
        ALICE.replace("did:key:", "DID:key:"),
        ALICE.replace("did:key:z", "did:key:Z"),
        ALICE.replace("did:key:z", "did:key:z1"),
        ALICE.replace("did:key:z", "did:key:z111111"),
        ALICE.replace("did:key:z", "did:key:"),
        ALICE.replace("M", "0"),
        ALICE.replace("M", "O"),
        ALICE.replace("M", "I"),
        ALICE.replace("M", "l"),
        ALICE.replace("M", "\u041c"),
        ALICE.replace("M", "\ud800"),
        ALICE.replace("M", "%4D"),
        "did:key:f" + ALICE_RAW.hex(),
        "did:key:" + multibase.encode(ALICE_RAW, "base64url"),
        "did:key:" + ALICE_RAW.decode("latin-1"),
        "did:key:z",
        "did:key:",
        "did:key",
        "did:",
        "did",
        "",
        ALICE[8:],
    ],
)
def test_a_key_has_one_text(text: str) -> None:
    with pytest.raises(InvalidDID):
        DID.parse(text)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xed",
        b"\xed\x01",
        ALICE_RAW[:-1],
        ALICE_RAW + b"\0",
        b"\xed\x81\x00" + ALICE_RAW[2:],  # a varint longer than it has to be
        b"\x6d" + ALICE_RAW[2:],
        b"\0" + ALICE_RAW,
        b"\xec\x01" + ALICE_RAW[2:],  # X25519, which signs nothing
        b"\x80\x26" + ALICE_RAW[2:],  # a secret key
        b"\x83\x24" + ALICE_RAW[2:],  # Ed448
        b"\x01\x01\x02\x03",
        b"\x9d\x1a" + b"key:" + ALICE[8:].encode(),  # the other binary form
        b"\x9d\x1a",
        b"\x9d\x1aweb",
        b"\x9d\x1aweb:",
        b"\x9d\x1aweb:st\xc3\xb6re.example",
        b"\x9d\x1aweb:st\xffre.example",
    ],
)
def test_a_principal_has_one_binary_form(raw: bytes) -> None:
    with pytest.raises(InvalidDID):
        DID.decode(raw)


@pytest.mark.parametrize(("code", "size"), [(BLS_G1, 48), (BLS_G2, 96)])
def test_a_bls_key_is_carried_at_its_length_only(code: bytes, size: int) -> None:
    raw = code + bytes(range(size))
    assert DID.parse(DID.decode(raw).text).raw == raw
    refused_both_ways(raw[:-1], InvalidDID)
    refused_both_ways(raw + b"\0", InvalidDID)


# --- weak keys

PRIME = 2**255 - 19


def recover_x(y: int) -> int | None:
    """The even x of a point of edwards25519, by RFC 8032 section 5.1.3."""
    d = -121665 * pow(121666, -1, PRIME)
    square = (y * y - 1) * pow(d * y * y + 1, -1, PRIME) % PRIME
    x = pow(square, (PRIME + 3) // 8, PRIME)
    if x * x % PRIME != square:
        x = x * pow(2, (PRIME - 1) // 4, PRIME) % PRIME
    return min(x, PRIME - x) if x * x % PRIME == square else None


def order_eight() -> int:
    """y of a point of order 8: doubling gives y = 0, so d * y**4 + 2 * y**2 - 1 = 0."""
    d = -121665 * pow(121666, -1, PRIME) % PRIME
    for sign in (1, -1):
        root = (1 + d) % PRIME
        s = pow(root, (PRIME + 3) // 8, PRIME)
        if s * s % PRIME != root:
            s = s * pow(2, (PRIME - 1) // 4, PRIME) % PRIME
        square = (-1 + sign * s) * pow(d, -1, PRIME) % PRIME
        y = pow(square, (PRIME + 3) // 8, PRIME)
        if y * y % PRIME != square:
            y = y * pow(2, (PRIME - 1) // 4, PRIME) % PRIME
        if y * y % PRIME == square:
            return y
    raise AssertionError("edwards25519 has points of order 8")


def encodings(ys: Iterator[int] | list[int]) -> list[bytes]:
    return [(y | sign << 255).to_bytes(32, "little") for y in ys for sign in (0, 1)]


SMALL_ORDER = encodings(
    [0, 1, PRIME - 1, order_eight(), PRIME - order_eight(), PRIME, PRIME + 1]  # 0 and 1 again
)


def test_the_point_of_order_eight_is_one() -> None:
    point = order_eight().to_bytes(32, "little")
    two = crypto_core_ed25519_add(point, point)
    assert int.from_bytes(two, "little") % 2**255 == 0  # y = 0, which has order 4


@pytest.mark.parametrize("point", SMALL_ORDER, ids=bytes.hex)
def test_ed25519_points_of_small_order_are_weak(point: bytes) -> None:
    refused_both_ways(ED25519 + point, WeakKey, "Ed25519")


@pytest.mark.parametrize("point", encodings(list(range(PRIME, 2**255))), ids=bytes.hex)
def test_ed25519_points_that_are_not_canonical_are_weak(point: bytes) -> None:
    refused_both_ways(ED25519 + point, WeakKey)


def test_ed25519_points_off_the_curve_are_weak() -> None:
    off = [y for y in range(2, 40) if recover_x(y) is None]
    assert len(off) > 10
    for y in off:
        refused_both_ways(ED25519 + y.to_bytes(32, "little"), WeakKey)


def test_a_key_with_a_small_order_part_is_weak() -> None:
    mixed = crypto_core_ed25519_add(ALICE_RAW[2:], order_eight().to_bytes(32, "little"))
    refused_both_ways(ED25519 + mixed, WeakKey)


@pytest.mark.parametrize("code", CURVES, ids=bytes.hex)
def test_the_keys_of_a_curve_are_compressed_points(code: bytes) -> None:
    public = ec.generate_private_key(CURVES[code]).public_key()
    point = public.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    whole = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    did = DID.decode(code + point)
    assert DID.parse(did.text).raw == code + point
    refused_both_ways(code + whole, InvalidDID)
    refused_both_ways(code + point[:-1], InvalidDID)
    refused_both_ways(code + point + b"\0", InvalidDID)
    refused_both_ways(code + b"\0" * len(point), WeakKey)
    for head in (0, 1, 4, 5, 6, 7, 0x82):
        refused_both_ways(code + bytes((head,)) + point[1:], WeakKey, "compressed")


@pytest.mark.parametrize("code", CURVES, ids=bytes.hex)
@given(data=st.data())
def test_points_of_a_curve_are_those_that_cryptography_takes(
    code: bytes, data: st.DataObject
) -> None:
    size = SIZES[code]
    bits = 521 if code == P521 else 8 * size
    x = data.draw(st.integers(0, 50) | st.integers(2**bits - 50, 2**bits - 1) | bits_of(bits))
    point = b"\x02" + x.to_bytes(size, "big")
    try:
        ec.EllipticCurvePublicKey.from_encoded_point(CURVES[code], point)
    except ValueError:
        refused_both_ways(code + point, WeakKey)
    else:
        assert DID.decode(code + point).raw == code + point


def bits_of(bits: int) -> st.SearchStrategy[int]:
    return st.integers(0, 2**bits - 1)


@pytest.mark.parametrize("code", CURVES, ids=bytes.hex)
def test_a_coordinate_past_the_prime_is_weak(code: bytes) -> None:
    refused_both_ways(code + b"\x02" + b"\xff" * SIZES[code], WeakKey)


# --- RSA


def der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 128:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def integer(number: int) -> bytes:
    return der(2, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def rsa(modulus: int, exponent: int = 65_537) -> bytes:
    return RSA + der(0x30, integer(modulus) + integer(exponent))


def modulus_of(bits: int) -> int:
    return (1 << bits - 1) + (1 << 77) + 1


@pytest.mark.parametrize("bits", [2_049, 3_072, 8_191])
def test_an_rsa_key_has_2048_to_8192_bits(bits: int) -> None:
    raw = rsa(modulus_of(bits))
    assert rsa_numbers(raw[2:]) == (modulus_of(bits), 65_537)
    did = DID.decode(raw)
    assert DID.parse(did.text).raw == raw


@pytest.mark.parametrize("bits", [512, 1_024, 8_199])
def test_an_rsa_key_of_too_few_or_too_many_bits_is_weak(bits: int) -> None:
    refused_both_ways(rsa(modulus_of(bits)), WeakKey, f"{bits} bits")


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_the_bits_of_an_rsa_key_are_bounded(off: int) -> None:
    for bits, fits in ((RSA_BITS_MIN + off, off >= 0), (RSA_BITS_MAX + off, off <= 0)):
        raw = rsa(modulus_of(bits))
        if fits:
            assert DID.decode(raw).raw == raw
        else:
            refused_both_ways(raw, WeakKey, f"{bits} bits")


def test_an_rsa_key_that_nobody_reads_to_its_end_is_refused_by_its_length() -> None:
    refused_both_ways(rsa(modulus_of(16_384)), LimitExceeded)


def test_an_rsa_key_with_an_even_modulus_is_weak() -> None:
    refused_both_ways(rsa(modulus_of(2_048) - 1), WeakKey, "modulus")


@pytest.mark.parametrize("exponent", [0, 1, 2, 65_536, 2**64, 2**64 + 1])
def test_an_rsa_exponent_that_is_even_or_one_or_huge_is_weak(exponent: int) -> None:
    refused_both_ways(rsa(modulus_of(2_048), exponent), WeakKey, "exponent")


@pytest.mark.parametrize("exponent", [3, 17, 65_537, 2**64 - 1])
def test_the_longest_rsa_key_with_any_odd_exponent_is_taken(exponent: int) -> None:
    raw = rsa(modulus_of(8_192), exponent)
    assert DID.parse(DID.decode(raw).text).raw == raw


N = modulus_of(2_048)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x30",
        b"\x30\x80",
        b"\x30\xff",
        b"\x30\x00",
        b"\x30\x80" + integer(N) + integer(3) + b"\0\0",  # indefinite length
        b"\x30\x83\x00" + rsa(N)[4:],  # a length that could be shorter
        rsa(N)[2:] + b"\0",
        rsa(N)[2:-1],
        b"\x31" + rsa(N)[3:],
        der(0x30, integer(N)),
        der(0x30, integer(N) + integer(3) + integer(5)),
        der(0x30, integer(N) + der(3, b"\x03")),
        der(0x30, integer(N) + der(2, b"")),
        der(0x30, integer(N) + der(2, b"\0\x03")),
        der(0x30, der(2, b"\0\0" + N.to_bytes(256, "big")) + integer(3)),
        der(0x30, der(2, N.to_bytes(256, "big")) + integer(3)),  # a negative number
        der(0x30, b"\x02\xff" + N.to_bytes(256, "big") + integer(3)),
    ],
    ids=lambda body: body[:6].hex() + f"-{len(body)}",
)
def test_an_rsa_key_is_strict_der(body: bytes) -> None:
    refused_both_ways(RSA + body, InvalidDID)


@given(st.binary(max_size=300) | st.binary(max_size=30).map(lambda tail: rsa(N)[2:] + tail))
def test_no_bytes_in_the_place_of_an_rsa_key_break_the_reader(body: bytes) -> None:
    try:
        modulus, exponent = rsa_numbers(body)
    except InvalidDID:
        return
    assert rsa(modulus, exponent)[2:] == body


# --- other methods


@pytest.mark.parametrize(
    "text",
    [
        "did:web:store.example",
        "did:web:localhost",
        "did:web:localhost%3A8787",
        "did:web:store.example%3A1",
        "did:web:store.example%3A65535",
        "did:web:store.example:users:alice",
        "did:web:example.com:user%3A1",
        "did:web:example.com:Users:%C3%A9:a%7Eb",
        "did:web:xn--bcher-kva.example",
        "did:web:1-2.3com",
        "did:web:a." + "b" * 63 + ".example",
        "did:mailto:web.mail:alice",
        "did:mailto:example.com:ann%2Btag",
        "did:mailto:example.com:o'hara!~*(x)",
        "did:plc:ewvi7nxzyoun6zhxrhs64oiz",
        "did:pkh:eip155:1:0xab16a96D359eC26a11e2C2b3d8f8B8942d5Bfcdb",
        "did:example:a%2fb::c",
        "did:3:x",
    ],
)
def test_other_methods_go_both_ways(text: str) -> None:
    did = DID.parse(text)
    assert did.raw == b"\x9d\x1a" + text[4:].encode()
    assert DID.decode(did.raw) == did
    assert did.method == text.split(":")[1]


@pytest.mark.parametrize(
    "name",
    [
        "",
        ":",
        ":a",
        ".",
        ".example",
        "example.",
        "a..b",
        "-a.example",
        "a-.example",
        "Store.example",
        "store.example/",
        "store.example/path",
        "store.example?x",
        "store.example#key-1",
        "store.example:8080x#",
        "store.example%3a80",
        "store.example%3A",
        "store.example%3A0",
        "store.example%3A080",
        "store.example%3A65536",
        "store.example%3A80%3A80",
        "store.example%2E",
        "store.example%00",
        "user%40store.example",
        "user@store.example",
        "127.0.0.1",
        "127.1",
        "%5B%3A%3A1%5D",
        "[::1]",
        "a_b.example",
        "bücher.example",
        "store.example\n",
        "store.example:",
        "store.example:a:",
        "store.example::a",
        "store.example:.",
        "store.example:..",
        "store.example:..:x",
        "store.example:%2E%2E",
        "store.example:a%2Fb",
        "store.example:a%5Cb",
        "store.example:a%00",
        "store.example:a%0A",
        "store.example:a%7F",
        "store.example:a%20b",
        "store.example:%61",
        "store.example:%c3%a9",
        "store.example:a%",
        "store.example:a%4",
        "store.example:a%zz",
        "b" * 64 + ".example",
    ],
)
def test_a_web_name_that_is_not_a_plain_host_and_path_is_refused(name: str) -> None:
    with pytest.raises(InvalidDID):
        DID.parse(f"did:web:{name}")


@pytest.mark.parametrize(
    "text",
    [
        "did:mailto:",
        "did:mailto:example.com",
        "did:mailto:example.com:",
        "did:mailto::ann",
        "did:mailto:example.com:ann:x",
        "did:mailto:example.com:ann+tag",
        "did:mailto:example.com:ann%2btag",
        "did:mailto:example.com:ann@x",
        "did:mailto:example.com:änn",
        "did:mailto:example.com:ann\n",
        "did:plc:",
        "did:plc",
        "did:PLC:x",
        "did:p-l:x",
        "did::x",
        "did:plc:x:",
        "did:plc:x%",
        "did:plc:x%4",
        "did:plc:x#y",
        "did:plc:x?y",
        "did:plc:x/y",
        "did:plc:x y",
        "did:plc:x\n",
        "did:plc:é",
        "did:pl\u0441:x",
        "urn:did:plc:x",
        "mailto:ann@example.com",
        "https://store.example/",
    ],
)
def test_what_is_not_a_did_of_another_method_is_refused(text: str) -> None:
    with pytest.raises(InvalidDID):
        DID.parse(text)


# --- bounds


@pytest.mark.parametrize("method", ["plc", "mailto:example.com", "web:example.com"])
def test_the_bound_on_a_did_is_exact(method: str) -> None:
    start = f"did:{method}:"
    for size in (LIMITS.did_bytes - 1, LIMITS.did_bytes):
        text = start + "a" * (size - len(start))
        assert DID.decode(DID.parse(text).raw).text == text
    long = start + "a" * (LIMITS.did_bytes + 1 - len(start))
    with pytest.raises(LimitExceeded):
        DID.parse(long)
    with pytest.raises(LimitExceeded):
        DID.decode(b"\x9d\x1a" + long[4:].encode())


def test_a_key_text_or_key_longer_than_any_key_is_not_even_read() -> None:
    with pytest.raises(LimitExceeded):
        DID.parse("did:key:z" + "2" * 1_000_000)
    with pytest.raises(LimitExceeded):
        DID.decode(b"\xed\x01" * 1_000_000)
    with pytest.raises(LimitExceeded):
        DID.parse("did:web:" + "a." * 1_000_000)


def test_the_bound_on_a_key_is_that_of_the_longest_rsa_key() -> None:
    longest = rsa(modulus_of(8_192), 2**64 - 1)
    assert len(longest) == module._KEY_BYTES
    assert len(key_text(b"\xff" * len(longest))) <= module._KEY_TEXT
    with pytest.raises(InvalidDID, match="unknown kind"):
        DID.decode(b"\x01" * module._KEY_BYTES)
    with pytest.raises(LimitExceeded):
        DID.decode(b"\x01" * (module._KEY_BYTES + 1))
    with pytest.raises(InvalidDID):
        DID.parse("did:key:z".ljust(module._KEY_TEXT, "2"))
    with pytest.raises(LimitExceeded):
        DID.parse("did:key:z".ljust(module._KEY_TEXT + 1, "2"))


# --- whatever comes


@given(
    st.text()
    | st.text("did:key:z6Mw%3A./#?b", max_size=60).map(lambda rest: "did:" + rest)
    | st.from_regex(r"did:(web|mailto|plc|key):[ -~]{0,80}", fullmatch=True)
)
def test_any_text_is_a_did_or_refused_by_name(text: str) -> None:
    try:
        did = DID.parse(text)
    except (InvalidDID, LimitExceeded):
        return
    assert did.text == text
    assert DID.decode(did.raw) == did


KNOWN_CODES = st.sampled_from([ED25519, RSA, BLS_G1, *CURVES, b"\x9d\x1a"])


@given(st.binary() | st.builds(lambda code, rest: code + rest, KNOWN_CODES, st.binary()))
def test_any_bytes_are_a_did_or_refused_by_name(raw: bytes) -> None:
    try:
        did = DID.decode(raw)
    except (InvalidDID, LimitExceeded):
        return
    assert did.raw == raw
    assert DID.parse(did.text) == did


@given(st.binary(max_size=80))
def test_base58_is_that_of_multiformats(data: bytes) -> None:
    assert "z" + base58(data) == multibase.encode(data, "base58btc")
    assert unbase58(base58(data)) == data


@given(st.text("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", max_size=60))
def test_base58_has_one_text_for_some_bytes(text: str) -> None:
    assert base58(unbase58(text)) == text
