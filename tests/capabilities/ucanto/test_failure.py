"""What a client is told."""

from __future__ import annotations

import pytest

from capabilities.ucanto import Claim, failure
from capabilities.ucanto.validator import NotOneCapability
from stmflow.errors import (
    Expired,
    InvalidAudience,
    InvalidClaim,
    LimitExceeded,
    MalformedBlock,
    StmflowError,
    TooEarly,
    UnavailableProof,
    UnknownCommand,
    UnknownKey,
    WeakKey,
)

CLAIM = Claim("store/add", "did:key:z6MkgkHLQJU3MrsLiRShGku493QqZV4te8f611nKF7vmeus8")
ABOUT = {"capability": {"can": CLAIM.can, "with": CLAIM.with_}}


def test_a_refusal_is_told_as_a_tree_of_reasons() -> None:
    late = UnknownKey("no attestation", causes=[TooEarly("not yet")])
    told = failure(InvalidClaim("no path", causes=[UnavailableProof("missing"), late]), CLAIM)
    assert told == {
        "name": "Unauthorized",
        "message": 'Claim {"can":"store/add"} is not authorized\n'
        "  - InvalidClaim: no path\n"
        "    - UnavailableProof: missing\n"
        "    - DIDKeyResolutionError: no attestation\n"
        "      - NotValidBefore: not yet",
        **ABOUT,
    }


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (Expired("e"), "Unauthorized"),
        (WeakKey("e"), "Unauthorized"),
        (MalformedBlock("e"), "Unauthorized"),
        (LimitExceeded("e"), "Unauthorized"),
        (InvalidAudience("e"), "InvalidAudience"),
        (UnknownCommand("e"), "HandlerNotFound"),
        (NotOneCapability("e"), "InvocationCapabilityError"),
        (StmflowError("e"), "HandlerExecutionError"),
        (RuntimeError("e"), "HandlerExecutionError"),
    ],
)
def test_an_error_has_its_name_on_the_wire(error: Exception, name: str) -> None:
    for claim in (CLAIM, None):
        told = failure(error, claim)
        assert told["name"] == name
        assert told["message"]
        assert told.get("capability", ABOUT["capability"]) == ABOUT["capability"]


def test_what_a_handler_raised_is_told_by_its_kind_alone() -> None:
    told = failure(KeyError("/etc/secret"), CLAIM)
    assert told["message"] == 'service handler {"can":"store/add"} error: KeyError'
    assert "secret" not in str(told)


def test_the_message_is_bounded_however_large_the_tree() -> None:
    error = InvalidClaim("x" * 10_000)
    for _ in range(40):
        error = InvalidClaim("y" * 10_000, causes=[error, error])
    told = failure(error, CLAIM)
    assert len(told["message"].splitlines()) == 65
    assert len(told["message"]) < 65 * 401
