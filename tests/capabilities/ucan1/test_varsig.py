"""The header of a signature: known bytes both ways, and believed only of the key that has it."""

from __future__ import annotations

import pytest

from capabilities.did import DID, P256, P384, P521, SECP256K1
from capabilities.principal import verifier
from capabilities.ucan1 import varsig
from stmflow.errors import InvalidSignature
from tests.capabilities.ucan1.tokens import ALICE

HEADERS = {
    "EdDSA": "3401ed01ed011371",
    "RS256": "340185241280" + "0271",
    "ES256": "3401ec0180241271",
    "ES384": "3401ec0181242071",
    "ES512": "3401ec0182241371",
    "ES256K": "3401ec01e7011271",
    "EIP191": "3401ec01e7011b91c30371",
}

# The generators of the curves: points that everybody has.
POINTS = {
    "ES256": P256.hex() + "036b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296",
    "ES384": P384.hex()
    + "03aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a"
    + "385502f25dbf55296c3a545e3872760ab7",
    "ES512": P521.hex()
    + "0200c6858e06b70404e9cd9e3ecb662395b4429c648139053fb521f828af606b"
    + "4d3dbaa14b5e77efe75928fe1dc127a2ffa8de3348b3c1856a429bf97e7e31c2e5bd66",
    "ES256K": SECP256K1.hex()
    + "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798",
}


@pytest.mark.parametrize("algorithm", HEADERS)
def test_a_header_is_read_and_written(algorithm: str) -> None:
    data = bytes.fromhex(HEADERS[algorithm])
    assert varsig.encode(algorithm) == data
    assert varsig.decode(data) == varsig.Header(algorithm, 1)


def test_the_header_of_a_key_is_its_algorithms() -> None:
    assert varsig.header(ALICE.verifier).hex() == HEADERS["EdDSA"]
    assert varsig.fits(bytes.fromhex(HEADERS["EdDSA"]), ALICE.verifier)


@pytest.mark.parametrize("algorithm", POINTS)
def test_the_header_of_a_curves_key_is_its_algorithms(algorithm: str) -> None:
    pytest.importorskip("cryptography")
    key = verifier(DID.decode(bytes.fromhex(POINTS[algorithm])))
    assert key.algorithm == algorithm
    assert varsig.header(key).hex() == HEADERS[algorithm]
    assert not varsig.fits(bytes.fromhex(HEADERS["EdDSA"]), key)


@pytest.mark.parametrize(("size", "header"), [(256, "8002"), (384, "8003"), (1024, "8008")])
def test_an_rsa_header_tells_the_length_of_the_signature(size: int, header: str) -> None:
    data = bytes.fromhex(f"3401852412{header}71")
    assert varsig.encode("RS256", rsa_bytes=size) == data
    assert varsig.decode(data).algorithm == "RS256"


@pytest.mark.parametrize("size", [255, 1025])
def test_an_rsa_key_of_an_unheard_of_length_has_no_header(size: int) -> None:
    with pytest.raises(InvalidSignature):
        varsig.encode("RS256", rsa_bytes=size)


def test_the_old_header_is_read_and_fits_no_key() -> None:
    old = bytes.fromhex("34ed0171")
    assert varsig.decode(old) == varsig.Header("EdDSA", 0)
    assert not varsig.fits(old, ALICE.verifier)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "34",
        "3401",
        "3401ed01ed0113",  # no encoding
        "3401ed01ed01137100",
        "3401ed01ed01135f",  # another encoding: raw EIP-191
        "3401ed01ed011271",  # another hash
        "3402ed01ed011371",  # another version
        "3501ed01ed011371",
        "340171",
        "3401ec01ed011371",
        "34018524128001" + "71",
        "3401ed01ed0113713401ec0180241271",  # two
    ],
)
def test_an_unknown_header_is_refused(header: str) -> None:
    with pytest.raises(InvalidSignature):
        varsig.decode(bytes.fromhex(header))


def test_an_unknown_algorithm_has_no_header() -> None:
    with pytest.raises(InvalidSignature):
        varsig.encode("none")
