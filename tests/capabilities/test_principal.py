"""Keys: only its holder can sign for a key, and a secret stays where it belongs."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from capabilities import principal as module
from capabilities.did import BLS_G1, BLS_G2, DID, P256, P384, P521, RSA, SECP256K1
from capabilities.principal import Signer, unresolved, verifier, verifiers
from stmflow.errors import CapabilityError, InvalidDID, LimitExceeded, MalformedBlock, UnknownKey
from tests.capabilities import vectors
from tests.project import ROOT

SEED = bytes(range(32))
ALICE = Signer.from_seed(SEED)
BOB = Signer.from_seed(SEED[::-1])
RSA_DID = vectors.manifest()["principals"]["rsa"]["did"]
P256_DID = "did:key:zDnaerx9CtbPJ1q36T5Ln5wYt3MQYeGRG5ehnPAmxcf5mDZpv"  # of did-method-key
SERVICE = DID.parse("did:web:store.example")
PAYLOAD = b"what is signed"
ORDER = 2**252 + 27742317777372353535851937790883648493  # of the base point of edwards25519

CURVES = {
    "ES256": (P256, ec.SECP256R1(), hashes.SHA256(), 32, 0xD01200, "3401ec01802412"),
    "ES384": (P384, ec.SECP384R1(), hashes.SHA384(), 48, 0xD01201, "3401ec01812420"),
    "ES512": (P521, ec.SECP521R1(), hashes.SHA512(), 66, 0xD01202, "3401ec01822413"),
    "ES256K": (SECP256K1, ec.SECP256K1(), hashes.SHA256(), 32, 0xD0E7, "3401ec01e70112"),
}
ORDERS = {
    "ES256": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    "ES256K": 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141,
}


def flipped(data: bytes, bit: int) -> bytes:
    number = int.from_bytes(data, "big") ^ 1 << bit
    return number.to_bytes(len(data), "big")


# --- Ed25519


def test_a_signature_is_that_of_rfc_8032() -> None:
    # RFC 8032, section 7.1, test 3
    seed = bytes.fromhex("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7")
    signer = Signer.from_seed(seed)
    assert signer.key.raw.hex() == (
        "ed01fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025"
    )
    assert signer.sign(b"\xaf\x82").hex() == (
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
    )


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=500))
def test_signatures_agree_with_another_library(seed: bytes, payload: bytes) -> None:
    other = Ed25519PrivateKey.from_private_bytes(seed)
    signer = Signer.from_seed(seed)
    assert signer.key.raw[2:] == other.public_key().public_bytes_raw()
    assert signer.sign(payload) == other.sign(payload)
    assert signer.verifier.verify(payload, other.sign(payload))


def test_an_ed25519_verifier_tells_how_its_signatures_are_written() -> None:
    it = verifier(ALICE.key)
    assert (it.did, it.algorithm, it.code, it.signature_bytes) == (ALICE.key, "EdDSA", 0xD0ED, 64)
    assert it.varsig.hex() == "3401ed01ed0113"
    assert it is ALICE.verifier


@pytest.mark.parametrize("bit", range(0, 512, 7))
def test_no_bit_of_a_signature_may_change(bit: int) -> None:
    assert not ALICE.verifier.verify(PAYLOAD, flipped(ALICE.sign(PAYLOAD), bit))


@pytest.mark.parametrize("bit", range(8 * len(PAYLOAD)))
def test_no_bit_of_what_is_signed_may_change(bit: int) -> None:
    assert not ALICE.verifier.verify(flipped(PAYLOAD, bit), ALICE.sign(PAYLOAD))


def test_a_signature_holds_for_its_key_and_payload_only() -> None:
    signature = ALICE.sign(PAYLOAD)
    assert ALICE.verifier.verify(PAYLOAD, signature)
    assert not BOB.verifier.verify(PAYLOAD, signature)
    assert not ALICE.verifier.verify(PAYLOAD + b"\0", signature)
    assert not ALICE.verifier.verify(b"", signature)
    assert ALICE.verifier.verify(b"", ALICE.sign(b""))


@pytest.mark.parametrize("size", [0, 1, 32, 63, 65, 68, 128])
def test_a_signature_of_another_length_is_none(size: int) -> None:
    signature = ALICE.sign(PAYLOAD)
    assert not ALICE.verifier.verify(PAYLOAD, (signature * 2)[:size])
    assert not ALICE.verifier.verify(PAYLOAD, bytes(size))


def test_bytes_cannot_move_between_signature_and_payload() -> None:
    signature = ALICE.sign(PAYLOAD)
    assert not ALICE.verifier.verify(PAYLOAD[1:], signature + PAYLOAD[:1])
    assert not ALICE.verifier.verify(signature[63:] + PAYLOAD, signature[:63])


@pytest.mark.parametrize("times", range(1, 9))
def test_the_order_added_to_s_makes_no_second_signature(times: int) -> None:
    signature = ALICE.sign(PAYLOAD)
    s = int.from_bytes(signature[32:], "little") + times * ORDER
    assert not ALICE.verifier.verify(PAYLOAD, signature[:32] + s.to_bytes(32, "little"))


def test_the_signature_that_fits_a_key_of_small_order_fits_no_other() -> None:
    forged = b"\x01" + bytes(63)  # R the identity, S zero
    assert not any(ALICE.verifier.verify(bytes((n,)), forged) for n in range(64))


# --- keys that need `cryptography`


@pytest.mark.parametrize("algorithm", CURVES)
def test_an_ecdsa_verifier_takes_r_and_s_of_its_curve(algorithm: str) -> None:
    code, curve, digest, size, signature_code, varsig = CURVES[algorithm]
    private = ec.generate_private_key(curve)
    point = private.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    it = verifier(DID.decode(code + point))
    r, s = decode_dss_signature(der := private.sign(PAYLOAD, ec.ECDSA(digest)))
    signature = r.to_bytes(size, "big") + s.to_bytes(size, "big")
    assert (it.algorithm, it.code, it.varsig.hex()) == (algorithm, signature_code, varsig)
    assert it.signature_bytes == 2 * size
    assert it.verify(PAYLOAD, signature)
    assert not it.verify(PAYLOAD + b"!", signature)
    assert not it.verify(PAYLOAD, der)
    assert not it.verify(PAYLOAD, signature[:-1])
    assert not it.verify(PAYLOAD, signature + b"\0")
    assert not it.verify(PAYLOAD, flipped(signature, 3))
    assert not it.verify(PAYLOAD, bytes(2 * size))
    assert not it.verify(PAYLOAD, b"\xff" * (2 * size))
    assert not it.verify(PAYLOAD, signature[:size] + bytes(size))
    assert not it.verify(PAYLOAD, signature[size:] + signature[:size])


@pytest.mark.parametrize("algorithm", ORDERS)
def test_both_values_of_s_are_taken_as_clients_make_both(algorithm: str) -> None:
    code, curve, digest, size, *_ = CURVES[algorithm]
    private = ec.generate_private_key(curve)
    point = private.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    r, s = decode_dss_signature(private.sign(PAYLOAD, ec.ECDSA(digest)))
    for each in (s, ORDERS[algorithm] - s):
        signature = r.to_bytes(size, "big") + each.to_bytes(size, "big")
        assert verifier(DID.decode(code + point)).verify(PAYLOAD, signature)


@pytest.mark.parametrize(
    ("bits", "exponent", "varsig"), [(2_048, 65_537, "8002"), (2_056, 3, "8102")]
)
def test_an_rsa_verifier_takes_pkcs1_over_sha256(bits: int, exponent: int, varsig: str) -> None:
    private = rsa.generate_private_key(exponent, bits)
    public = private.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
    it = verifier(DID.decode(RSA + public))
    signature = private.sign(PAYLOAD, PKCS1v15(), hashes.SHA256())
    assert (it.algorithm, it.code, it.signature_bytes) == ("RS256", 0xD01205, bits // 8)
    assert it.varsig.hex() == "3401852412" + varsig
    assert it.verify(PAYLOAD, signature)
    assert not it.verify(PAYLOAD + b"!", signature)
    assert not it.verify(PAYLOAD, flipped(signature, 5))
    assert not it.verify(PAYLOAD, signature[1:])
    assert not it.verify(PAYLOAD, b"\0" + signature)
    assert not it.verify(PAYLOAD, bytes(bits // 8))
    assert not it.verify(PAYLOAD, b"\xff" * (bits // 8))
    assert not it.verify(PAYLOAD, private.sign(PAYLOAD, PKCS1v15(), hashes.SHA512()))


@pytest.mark.parametrize("text", [RSA_DID, P256_DID])
def test_without_cryptography_the_refusal_names_the_extra(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    did = DID.parse(text)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "cryptography.exceptions", None)  # as if not installed
        module._verifier.cache_clear()
        with pytest.raises(UnknownKey, match=r"stmflow\[keys\]"):
            verifier(did)
    assert verifier(did).did == did  # the refusal was not remembered


def test_ed25519_needs_no_cryptography() -> None:
    program = (
        "import sys; from capabilities.principal import Signer; s = Signer.generate();"
        "assert s.verifier.verify(b'', s.sign(b'')); print('cryptography' in sys.modules)"
    )
    command = [sys.executable, "-c", program]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert run.stdout == "False\n"


@pytest.mark.parametrize(
    "did",
    [
        DID.decode(BLS_G1 + bytes(48)),
        DID.decode(BLS_G2 + bytes(96)),
        SERVICE,
        DID.parse("did:mailto:example.com:ann"),
        DID.parse("did:plc:ewvi7nxzyoun6zhxrhs64oiz"),
    ],
    ids=lambda did: did.text[:20],
)
def test_what_has_no_key_that_verifies_is_refused(did: DID) -> None:
    for attempt in (verifier, verifiers):
        with pytest.raises(UnknownKey):
            attempt(did)
    assert issubclass(UnknownKey, CapabilityError)


def test_the_cache_of_verifiers_is_bounded() -> None:
    assert module._verifier.cache_parameters()["maxsize"] == 4_096


# --- names that are not keys


def test_a_key_verifies_for_itself_whatever_the_resolver_says() -> None:
    assert verifiers(ALICE.key, lambda did: [BOB.key]) == (ALICE.verifier,)


def test_a_name_has_the_keys_that_are_resolved() -> None:
    keys = {SERVICE: [ALICE.key, BOB.key]}
    found = verifiers(SERVICE, lambda did: keys.get(did, []))
    assert found == (ALICE.verifier, BOB.verifier)


def test_a_name_that_nobody_resolves_has_no_key() -> None:
    assert unresolved(SERVICE) == ()
    with pytest.raises(UnknownKey, match=r"store\.example"):
        verifiers(SERVICE)
    with pytest.raises(UnknownKey):
        verifiers(SERVICE, lambda did: [])


def test_a_name_does_not_resolve_to_another_name() -> None:
    with pytest.raises(UnknownKey):
        verifiers(SERVICE, lambda did: [DID.parse("did:web:other.example")])


def test_a_signer_signs_under_another_name_with_the_same_key() -> None:
    named = ALICE.named(SERVICE)
    assert (named.did, named.key, named.verifier) == (SERVICE, ALICE.key, ALICE.verifier)
    assert named.sign(PAYLOAD) == ALICE.sign(PAYLOAD)
    assert named.archive() == ALICE.archive()
    assert ALICE.named("did:web:store.example").did == SERVICE
    assert named.named(ALICE.key).did == ALICE.did
    assert ALICE.did == ALICE.key


def test_a_signer_takes_no_other_keys_name() -> None:
    with pytest.raises(UnknownKey):
        ALICE.named(BOB.did)
    with pytest.raises(InvalidDID):
        ALICE.named("store.example")


# --- keys as bytes and text


def test_generated_keys_differ() -> None:
    assert Signer.generate().did != Signer.generate().did


@given(st.binary(min_size=32, max_size=32))
def test_a_key_is_read_as_it_was_written(seed: bytes) -> None:
    signer = Signer.from_seed(seed)
    archive = signer.archive()
    assert archive[:34] == b"\x80\x26" + seed
    assert archive[34:] == signer.key.raw
    assert signer.format() == "M" + b64encode(archive).decode()
    for again in (
        Signer.decode(archive),
        Signer.decode(archive[:34]),
        Signer.parse(signer.format()),
        Signer.parse(b64encode(archive[:34]).decode()),
    ):
        assert again.archive() == archive
        assert again.did == signer.did


@pytest.mark.parametrize("size", [0, 1, 31, 33, 64])
def test_a_seed_has_32_bytes(size: int) -> None:
    with pytest.raises(MalformedBlock):
        Signer.from_seed(bytes(size))


ARCHIVE = ALICE.archive()


@pytest.mark.parametrize(
    "archive",
    [
        b"",
        ARCHIVE[:-1],
        ARCHIVE + b"\0",
        ARCHIVE[:33],
        ARCHIVE[:35],
        ARCHIVE[34:],
        b"\x81\x26" + ARCHIVE[2:],
        ARCHIVE[:34] + b"\xec\x01" + ARCHIVE[36:],
        ARCHIVE[:34] + BOB.key.raw,  # would give the secret away with the first signature
        flipped(ARCHIVE, 0),
        flipped(ARCHIVE, 8 * 40),
        bytes.fromhex(vectors.manifest()["principals"]["rsa"]["archive"]),
        bytearray(ARCHIVE),
        None,
    ],
)
def test_an_archive_is_one_secret_and_its_own_public_key(archive: bytes) -> None:
    with pytest.raises(MalformedBlock):
        Signer.decode(archive)


TEXT = ALICE.format()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "M",
        "m" + TEXT[1:],
        "MM" + TEXT[1:],
        TEXT[:-1],
        TEXT + "=",
        TEXT + "\n",
        " " + TEXT,
        TEXT[:40] + "\n" + TEXT[40:],
        TEXT[:40] + "-" + TEXT[41:],
        TEXT[:40] + "é" + TEXT[41:],
        TEXT + TEXT,
        "M" + "A" * 100_000,
        None,
        TEXT.encode(),
    ],
)
def test_a_key_has_one_text(text: str) -> None:
    with pytest.raises(MalformedBlock) as caught:
        Signer.parse(text)
    assert "base64" in str(caught.value) or "key" in str(caught.value)


def test_stray_bits_behind_the_text_of_a_key_are_refused() -> None:
    text = b64encode(ARCHIVE[:34]).decode()
    last = text.rstrip("=")[-1]
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    stray = text.rstrip("=")[:-1] + letters[letters.index(last) + 1]
    with pytest.raises(MalformedBlock, match="canonical"):
        Signer.parse(stray + "=" * (len(text) - len(stray)))


@given(st.binary(max_size=80) | st.binary(max_size=66).map(lambda rest: b"\x80\x26" + rest))
def test_any_bytes_are_a_key_or_refused_by_name(data: bytes) -> None:
    try:
        signer = Signer.decode(data)
    except MalformedBlock:
        return
    assert signer.archive().startswith(data[:34])


# --- secrets


def test_a_secret_is_not_shown() -> None:
    for signer in (ALICE, ALICE.named(SERVICE)):
        shown = f"{signer} {signer!r} {signer.verifier!r}"
        assert ALICE.key.text in shown
        assert SEED.hex() not in shown
        assert repr(SEED)[2:-1] not in shown
        assert TEXT[5:40] not in shown
    assert repr(ALICE.named(SERVICE)) == f"Signer(did:web:store.example, {ALICE.key})"


@pytest.mark.parametrize("archive", [flipped(ARCHIVE, 0), ARCHIVE[:-1], ARCHIVE[:34] + BOB.key.raw])
def test_a_refused_key_is_not_shown_in_the_refusal(archive: bytes) -> None:
    with pytest.raises(MalformedBlock) as binary:
        Signer.decode(archive)
    with pytest.raises(MalformedBlock) as textual:
        Signer.parse("M" + b64encode(archive).decode())
    for caught in (binary, textual):
        assert SEED.hex()[:16] not in str(caught.value)
        assert TEXT[5:20] not in str(caught.value)


def test_a_secret_is_neither_pickled_nor_copied() -> None:
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="save"):
            attempt(ALICE)


def test_a_signer_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        ALICE.did = SERVICE  # type: ignore[misc]
    assert not hasattr(ALICE, "__dict__")


# --- key files


def test_a_key_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "service.key"
    old = os.umask(0)
    try:
        ALICE.save(path)
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text() == TEXT + "\n"
    assert Signer.load(path).did == ALICE.did
    assert Signer.load(str(path)).archive() == ARCHIVE


def test_a_key_file_does_not_hold_the_name(tmp_path: Path) -> None:
    ALICE.named(SERVICE).save(tmp_path / "service.key")
    assert Signer.load(tmp_path / "service.key").did == ALICE.key


def test_a_key_file_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "service.key"
    ALICE.save(path)
    with pytest.raises(FileExistsError):
        BOB.save(path)
    (tmp_path / "link.key").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError):
        BOB.save(tmp_path / "link.key")
    assert Signer.load(path).did == ALICE.did


def test_a_key_file_that_could_not_be_written_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="space"):
        ALICE.save(tmp_path / "service.key")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.shows("key")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o606, 0o610, 0o601, 0o644, 0o666])
def test_a_key_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "service.key"
    ALICE.save(path)
    path.chmod(mode)
    with pytest.raises(UnknownKey, match="chmod 600"):
        Signer.load(path)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_key_file_that_only_its_owner_may_use_is_read(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "service.key"
    ALICE.save(path)
    path.chmod(mode)
    assert Signer.load(path).did == ALICE.did


@pytest.mark.parametrize("data", [b"", b"\n", b"\xff\xfe", b"hello", b"A" * 1_024])
def test_a_file_that_holds_no_key_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(MalformedBlock):
        Signer.load(path)


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_a_key_file_has_at_most_so_many_bytes(tmp_path: Path, off: int) -> None:
    """What is read and no key is malformed; what is longer is not read whole."""
    path = tmp_path / "other"
    path.write_bytes(b"A" * (module._FILE_BYTES + off))
    path.chmod(0o600)
    with pytest.raises(LimitExceeded if off > 0 else MalformedBlock):
        Signer.load(path)


def test_a_missing_key_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Signer.load(tmp_path / "service.key")
