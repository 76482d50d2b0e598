"""The arguments of `/ucan/revoke`."""

from __future__ import annotations

from typing import Any

import pytest

from capabilities.ucan1 import fields, revocation
from capabilities.ucan1.revocation import Revocation
from stmflow.cid import CID
from stmflow.errors import InvalidClaim, LimitExceeded
from stmflow.limits import LIMITS

ONE, TWO = CID.of(b"one"), CID.of(b"two")


def test_a_revocation_names_a_token_and_perhaps_the_path_to_it() -> None:
    fields.check_command(revocation.COMMAND)
    assert revocation.parse({"revoke": ONE}) == Revocation(ONE)
    assert revocation.parse({"revoke": ONE, "path": [TWO, ONE]}) == Revocation(ONE, (TWO, ONE))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"revoke": str(ONE)},
        {"revoke": [ONE]},
        {"revoke": ONE, "path": ONE},
        {"revoke": ONE, "path": None},
        {"revoke": ONE, "path": [str(TWO)]},
    ],
)
def test_anything_else_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidClaim):
        revocation.parse(arguments)


def test_the_path_is_bounded() -> None:
    for count in (LIMITS.proof_chain - 1, LIMITS.proof_chain):
        assert len(revocation.parse({"revoke": ONE, "path": [TWO] * count}).path) == count
    with pytest.raises(LimitExceeded):
        revocation.parse({"revoke": ONE, "path": [TWO] * (LIMITS.proof_chain + 1)})
