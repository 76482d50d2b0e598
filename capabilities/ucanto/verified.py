"""Tokens whose signature was found good, remembered by CID, and signatures checked in a batch.

A CID stands for the bytes of a token, and bytes signed once stay signed: so a service needs to
decode and verify a delegation only the first time that it is sent along. Whether it is in time,
addressed to the right one or revoked is judged anew each time, by the validator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, final

from capabilities.did import DID
from capabilities.principal import Verifier, verifier
from capabilities.ucanto.token import Token, decode, verify_signature
from stmflow import codec
from stmflow.cid import CID
from stmflow.errors import CapabilityError, CodecError, LimitExceeded, UnknownKey
from stmflow.limits import LIMITS

_OVERHEAD: Final = 2_048  # bytes that a decoded token takes beside its block, about


class Check(NamedTuple):
    """One signature to be checked."""

    token: Token
    verifier: Verifier


@final
class Verified:
    """Remembers tokens with a good signature, the least recently used forgotten first.

    One service owns one, and touches it from one thread. Only the checks go to another:

        checks = verified.unverified(verified.load(invocation, blocks))
        verified.keep(checks, await to_thread.run_sync(verify_all, checks))

    What had a bad signature is not kept, so nobody fills it with rubbish.
    """

    __slots__ = ("_entries", "_left", "max_bytes", "max_tokens")

    def __init__(self, *, max_tokens: int = 4_096, max_bytes: int = 32 * 1024 * 1024) -> None:
        self.max_tokens = max_tokens
        self.max_bytes = max_bytes
        self._left = max_bytes
        self._entries: dict[bytes, Check] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def token(self, cid: CID, data: bytes) -> Token:
        """Return the token of that name, decoded from `data` unless it is remembered.

        Raises what decoding raises.
        """
        entry = self._entries.get(cid.bytes)
        if entry is None:
            return decode(cid, data)
        self._entries[cid.bytes] = self._entries.pop(cid.bytes)
        return entry.token

    def check(self, token: Token, verifier: Verifier) -> bool:
        """Whether `verifier`'s key signed the token; remembered if so."""
        entry = self._entries.get(token.cid.bytes)
        if entry is not None and entry.verifier.did == verifier.did:
            return True
        good = verify_signature(token, verifier)
        if good:
            self._keep(Check(token, verifier))
        return good

    def load(self, invocation: CID, blocks: Mapping[CID, bytes]) -> list[Token]:
        """Return an invocation and the proofs on which it may rest, as far as they are there.

        At most `LIMITS.request_blocks` of them. What is not a token is left for the validator.
        """
        return _load(self.token, invocation, blocks)

    def unverified(
        self, tokens: Iterable[Token], *, service: Verifier | None = None, name: DID | None = None
    ) -> list[Check]:
        """Return the checks that these tokens still need, where the key is known beforehand.

        That is: issuers who are keys, and the service itself, whose DID is `name` and whose key is
        behind `service`.
        """
        checks = []
        for token in tokens:
            if token.cid.bytes in self._entries:
                continue
            if service is not None and token.issuer == name:
                checks.append(Check(token, service))
            elif token.issuer.method == "key":
                try:
                    checks.append(Check(token, verifier(token.issuer)))
                except UnknownKey:
                    continue
        return checks

    def keep(self, checks: Sequence[Check], verdicts: Sequence[bool]) -> None:
        """Remember those that `verify_all` found good."""
        for check, good in zip(checks, verdicts, strict=True):
            if good:
                self._keep(check)

    def _keep(self, check: Check) -> None:
        key = check.token.cid.bytes
        if (before := self._entries.pop(key, None)) is not None:
            self._left += _weight(before)
        self._entries[key] = check
        self._left -= _weight(check)
        while self._entries and (self._left < 0 or len(self._entries) > self.max_tokens):
            oldest = next(iter(self._entries))
            self._left += _weight(self._entries.pop(oldest))


@final
class Reading:
    """One message over the memory of a service: every token of it is decoded once and every
    signature checked once, also where they are bad and many invocations rest on them.

    `token` and `load` raise `TooMuch` past what all tokens of a message may be together. `steps` is
    how many the validator has taken for all invocations of the message.
    """

    __slots__ = ("_bad", "_found", "_left", "_lists", "_memory", "steps")

    def __init__(self, memory: Verified) -> None:
        self._memory = memory
        self.steps = 0
        self._left = LIMITS.request_token_bytes
        self._lists = LIMITS.request_token_lists
        self._found: dict[bytes, Token | CodecError | CapabilityError] = {}
        self._bad: set[tuple[bytes, DID]] = set()

    def token(self, cid: CID, data: bytes) -> Token:
        """Return the token of that name. Raises what decoding raises, each time the same."""
        found = self._found.get(cid.bytes)
        if found is None:
            self._spend(data)
            try:
                found = self._memory.token(cid, data)
            except (CodecError, CapabilityError) as error:
                found = error
            self._found[cid.bytes] = found
        if isinstance(found, Token):
            return found
        raise found.with_traceback(None)

    def check(self, token: Token, verifier: Verifier) -> bool:
        """Whether `verifier`'s key signed the token."""
        key = (token.cid.bytes, verifier.did)
        if key in self._bad:
            return False
        good = self._memory.check(token, verifier)
        if not good:
            self._bad.add(key)
        return good

    def load(self, invocation: CID, blocks: Mapping[CID, bytes]) -> list[Token]:
        """As `Verified.load`."""
        return _load(self.token, invocation, blocks)

    def keep(self, checks: Sequence[Check], verdicts: Sequence[bool]) -> None:
        """Take over what `verify_all` found."""
        self._memory.keep(checks, verdicts)
        self._bad.update(
            (check.token.cid.bytes, check.verifier.did)
            for check, good in zip(checks, verdicts, strict=True)
            if not good
        )

    def _spend(self, data: bytes) -> None:
        self._left -= len(data)
        self._lists -= codec.lists(data)
        if self._left < 0 or self._lists < 0:
            raise TooMuch(
                f"tokens of more than {LIMITS.request_token_bytes} bytes, or of more than"
                f" {LIMITS.request_token_lists} lists and maps, in one message"
            )


class TooMuch(LimitExceeded):
    """The tokens of a message are too much together, though none of them is by itself."""


def _load(
    decoded: Callable[[CID, bytes], Token], invocation: CID, blocks: Mapping[CID, bytes]
) -> list[Token]:
    found: dict[CID, Token] = {}
    waiting = [invocation]
    seen = {invocation}
    while waiting and len(found) < LIMITS.request_blocks:
        cid = waiting.pop()
        data = blocks.get(cid)
        if data is None:
            continue
        try:
            found[cid] = token = decoded(cid, data)
        except TooMuch:
            raise
        except (CodecError, CapabilityError):
            continue
        fresh = [proof for proof in token.proofs if proof not in seen]
        seen.update(fresh)
        waiting += fresh
    return list(found.values())


def verify_all(checks: Iterable[Check]) -> list[bool]:
    """Check signatures one by one: pure, for a thread (libsodium runs without the GIL)."""
    return [verify_signature(token, verifier) for token, verifier in checks]


def _weight(check: Check) -> int:
    token = check.token
    return _OVERHEAD + len(token.data) + len(token.payload)
