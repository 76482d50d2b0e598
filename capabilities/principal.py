"""Keys at work: who verifies what a DID signed, and who signs.

Verifiers exist for Ed25519, P-256, P-384, P-521, secp256k1 and RSA keys; all but the first need
`cryptography` (extra `keys`), which is loaded with the first such key. Signers are Ed25519.

Sources: github.com/storacha/ucanto (signature codes, key archives), the UCAN 1.0 and varsig texts
(headers), RFC 8032 and FIPS 186-5 (signatures).
"""

from __future__ import annotations

import binascii
import os
import stat
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple, NoReturn, Protocol, TypeAlias

from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import BadSignatureError
from nacl.utils import random

from capabilities.did import DID, ED25519, P256, P384, P521, RSA, SECP256K1, rsa_numbers
from stmflow.cid import write_varint
from stmflow.errors import LimitExceeded, MalformedBlock, UnknownKey

_CACHED: Final = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class Verifier:
    """What verifies the signatures of one key.

    Attributes:
        did: the key, a `did:key`.
        algorithm: its JWT name: "EdDSA", "ES256", "ES384", "ES512", "ES256K" or "RS256".
        code: the multicodec with which ucanto's signatures start: 0xd0ed for "EdDSA".
        varsig: the header of a UCAN 1.0 signature, without the byte of the encoding behind it.
        signature_bytes: the length of a bare signature.
    """

    did: DID
    algorithm: str
    code: int
    varsig: bytes
    signature_bytes: int
    _check: _Check = field(repr=False, compare=False)

    def verify(self, payload: bytes, signature: bytes) -> bool:
        """Tell whether `signature`, the bare bytes (r || s for ECDSA), is this key's on `payload`.

        ECDSA is taken with either value of s, as WebCrypto makes both. So whoever has seen one such
        signature can make a second: nothing may be told apart by a signature, or by the CID of
        something that holds one.
        """
        return len(signature) == self.signature_bytes and self._check(payload, signature)


class Resolver(Protocol):
    """Finds the keys of a principal whose name is not its key: `did:web`. The host provides it."""

    def __call__(self, did: DID, /) -> Sequence[DID]:
        """Return the `did:key`s in use, several while keys change; none if there are none."""
        ...


def unresolved(did: DID, /) -> Sequence[DID]:
    """The resolver that knows nobody."""
    return ()


def verifier(did: DID) -> Verifier:
    """Return the verifier of a `did:key`.

    Raises `UnknownKey` for a DID that is not a key, for a key whose signatures cannot be verified
    here (BLS12-381), and where `cryptography` is needed and not installed.
    """
    return _verifier(did)


def verifiers(did: DID, resolve: Resolver = unresolved) -> tuple[Verifier, ...]:
    """Return the verifiers of whatever keys `did` has now: its own, or those that are resolved.

    Raises `UnknownKey` if there are none.
    """
    if did.method == "key":
        return (_verifier(did),)
    found = tuple(verifier(key) for key in resolve(did))
    if not found:
        raise UnknownKey(f"no key is known of {did}")
    return found


@lru_cache(_CACHED)
def _verifier(did: DID) -> Verifier:
    if did.method != "key":
        raise UnknownKey(f"{did} is not a key, and nothing here resolves it")
    make = _MAKERS.get(did.raw[:2])
    if make is None:
        raise UnknownKey(f"signatures of this kind of key cannot be verified: {did}")
    try:
        return make(did)
    except ImportError as error:
        raise UnknownKey(f"needs cryptography (pip install 'stmflow[keys]'): {did}") from error


_Check: TypeAlias = Callable[[bytes, bytes], bool]


def _eddsa(did: DID) -> Verifier:
    public = did.raw[2:]

    def check(payload: bytes, signature: bytes) -> bool:
        try:
            crypto_sign_open(signature + payload, public)
        except BadSignatureError:
            return False
        return True

    return Verifier(
        did=did,
        algorithm="EdDSA",
        code=0xD0ED,
        varsig=b"\x34\x01" + ED25519 + ED25519 + b"\x13",
        signature_bytes=64,
        _check=check,
    )


class _Ecdsa(NamedTuple):
    """How the keys of one curve sign; curve and hash as `cryptography` names them."""

    algorithm: str
    code: int
    curve: str
    digest: str
    hash_code: int
    size: int  # of r and of s


_ECDSA: Final = {
    P256: _Ecdsa("ES256", 0xD01200, "SECP256R1", "SHA256", 0x12, 32),
    P384: _Ecdsa("ES384", 0xD01201, "SECP384R1", "SHA384", 0x20, 48),
    P521: _Ecdsa("ES512", 0xD01202, "SECP521R1", "SHA512", 0x13, 66),
    SECP256K1: _Ecdsa("ES256K", 0xD0E7, "SECP256K1", "SHA256", 0x12, 32),
}


def _ecdsa(did: DID) -> Verifier:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    code, point = did.raw[:2], did.raw[2:]
    kind = _ECDSA[code]
    size = kind.size
    public = ec.EllipticCurvePublicKey.from_encoded_point(getattr(ec, kind.curve)(), point)
    scheme = ec.ECDSA(getattr(hashes, kind.digest)())

    def check(payload: bytes, signature: bytes) -> bool:
        r = int.from_bytes(signature[:size], "big")
        s = int.from_bytes(signature[size:], "big")
        try:
            public.verify(encode_dss_signature(r, s), payload, scheme)
        except InvalidSignature:
            return False
        return True

    return Verifier(
        did=did,
        algorithm=kind.algorithm,
        code=kind.code,
        varsig=b"\x34\x01\xec\x01" + code + write_varint(kind.hash_code),
        signature_bytes=2 * size,
        _check=check,
    )


def _rs256(did: DID) -> Verifier:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
    from cryptography.hazmat.primitives.hashes import SHA256

    modulus, exponent = rsa_numbers(did.raw[2:])
    public = RSAPublicNumbers(exponent, modulus).public_key()
    size = (modulus.bit_length() + 7) // 8

    def check(payload: bytes, signature: bytes) -> bool:
        try:
            public.verify(signature, payload, PKCS1v15(), SHA256())
        except InvalidSignature:
            return False
        return True

    return Verifier(
        did=did,
        algorithm="RS256",
        code=0xD01205,
        varsig=b"\x34\x01" + RSA + b"\x12" + write_varint(size),
        signature_bytes=size,
        _check=check,
    )


_MAKERS: Final[dict[bytes, Callable[[DID], Verifier]]] = {
    ED25519: _eddsa,
    **dict.fromkeys(_ECDSA, _ecdsa),
    RSA: _rs256,
}


# Signers.

_SECRET: Final = b"\x80\x26"  # multicodec 0x1300: an Ed25519 secret of 32 bytes
_FILE_BYTES: Final = 1_024


@dataclass(frozen=True, slots=True, eq=False)
class Signer:
    """An Ed25519 key that signs, and the name it signs as.

    `did` is the name: the key itself, or what `named` said. `key` is always the `did:key`.
    Its text and `repr` hold no secret, and it is not pickled; `save` and `load` keep it in a file.
    """

    did: DID
    key: DID
    verifier: Verifier
    _secret: bytes = field(repr=False)  # seed and public key, as libsodium wants them

    @classmethod
    def generate(cls) -> Signer:
        """Return a new key, from the system's randomness: a key never comes from a seeded clock."""
        return cls.from_seed(random(32))

    @classmethod
    def from_seed(cls, seed: bytes) -> Signer:
        """Return the key whose secret is these 32 bytes. Raises `MalformedBlock`."""
        if type(seed) is not bytes or len(seed) != 32:
            raise MalformedBlock("an Ed25519 secret has 32 bytes")
        public, secret = crypto_sign_seed_keypair(seed)
        did = DID.decode(ED25519 + public)
        return cls(did, did, verifier(did), secret)

    @classmethod
    def decode(cls, archive: bytes) -> Signer:
        """Return the key in ucanto's archive (68 bytes), or in iso-ucan's without the public half.

        Raises `MalformedBlock`, also when the two halves do not belong together.
        """
        if type(archive) is not bytes or archive[:2] != _SECRET or len(archive) not in (34, 68):
            raise MalformedBlock("not the archive of an Ed25519 key")
        signer = cls.from_seed(archive[2:34])
        if len(archive) == 68 and signer.archive() != archive:
            raise MalformedBlock("an archive whose public key is not that of its secret")
        return signer

    @classmethod
    def parse(cls, text: str) -> Signer:
        """Return the key whose text is `text`: multibase base64pad (`M...`) of its archive.

        The bare base64 of iso-ucan's export is read as well. Raises `MalformedBlock`.
        """
        if type(text) is not str or len(text) > _FILE_BYTES:
            raise MalformedBlock("not the text of a key")
        base64 = text.removeprefix("M")
        try:
            archive = b64decode(base64, validate=True)
        except (ValueError, binascii.Error):
            raise MalformedBlock("not the text of a key: not base64") from None
        if b64encode(archive).decode() != base64:
            raise MalformedBlock("not the text of a key: not canonical base64")
        return cls.decode(archive)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Signer:
        """Return the key that `save` wrote.

        Raises `UnknownKey` for a file that group or others may read, `LimitExceeded` and
        `MalformedBlock` for one that holds something else, and what opening a file raises.
        """
        with open(path, "rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise UnknownKey(f"others may read {os.fspath(path)}: chmod 600 it, or change keys")
            data = file.read(_FILE_BYTES + 1)
        if len(data) > _FILE_BYTES:
            raise LimitExceeded(f"a key file of more than {_FILE_BYTES} bytes")
        return cls.parse(data.decode("latin-1").strip())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the key to a new file that only its owner may read; its name is not written.

        Raises `FileExistsError` rather than replace a file. It is on disk when this returns.
        """
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(file, "w") as stream:
                stream.write(self.format() + "\n")
                stream.flush()
                os.fsync(file)
        except BaseException:
            with suppress(OSError):
                os.unlink(path)
            raise
        folder = os.open(Path(path).parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def sign(self, payload: bytes) -> bytes:
        """Return the bare signature, 64 bytes; the same for the same payload."""
        return crypto_sign(payload, self._secret)[:64]

    def archive(self) -> bytes:
        """Return ucanto's archive of the key: the secret. Keep it as one."""
        return _SECRET + self._secret[:32] + self.key.raw

    def format(self) -> str:
        """Return the archive as text: the secret. Keep it as one."""
        return "M" + b64encode(self.archive()).decode()

    def named(self, did: DID | str) -> Signer:
        """Return a signer with the same key that signs as `did`, such as a service's `did:web`.

        Raises `UnknownKey` for another key's `did:key`, and `InvalidDID`.
        """
        name = DID.parse(did)
        if name.method == "key" and name != self.key:
            raise UnknownKey(f"{self.key} does not sign for {name}")
        return Signer(name, self.key, self.verifier, self._secret)

    def __repr__(self) -> str:
        return f"Signer({self.did})" if self.did == self.key else f"Signer({self.did}, {self.key})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret key is not pickled or copied: save() it")
