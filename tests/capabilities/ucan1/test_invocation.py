"""Invocations: issued and read back, their task and their delivery id."""

from __future__ import annotations

from typing import Any

import pytest

from capabilities.ucan1 import invocation
from stmflow import codec
from stmflow.cid import CID
from stmflow.errors import LimitExceeded, MalformedBlock
from stmflow.limits import LIMITS
from tests.capabilities.ucan1.tokens import ALICE, BOB, NONCE, NOW, SERVICE, SPACE, ask, forged

TOKEN = ask(SPACE)
LINK = CID.of(b"a link")


def test_what_is_issued_is_read_back() -> None:
    token = invocation.issue(
        ALICE,
        subject=SPACE.did,
        command="/store/add",
        arguments={"link": LINK, "size": 1},
        audience=SERVICE.did,
        proofs=[LINK],
        nonce=NONCE,
        expires=NOW,
        issued_at=NOW - 1,
        meta={"a": 1},
        cause=LINK,
    )
    again = invocation.decode(token.data)
    assert again == token
    assert hash(again) == hash(token)
    assert (token.issuer, token.subject, token.audience) == (ALICE.did, SPACE.did, SERVICE.did)
    assert (token.command, token.arguments) == ("/store/add", {"link": LINK, "size": 1})
    assert (token.proofs, token.nonce, token.expires) == ((LINK,), NONCE, NOW)
    assert (token.issued_at, token.meta, token.cause) == (NOW - 1, {"a": 1}, LINK)
    assert token.cid == CID.of(token.data)


def test_the_audience_is_the_subject_where_none_is_named() -> None:
    token = ask(ALICE, audience=None)
    assert token.audience == SPACE.did
    assert "aud" not in token.envelope.payload
    assert (token.issued_at, token.meta, token.cause) == (None, None, None)


@pytest.mark.parametrize("key", ["iss", "sub", "cmd", "args", "prf", "nonce", "exp"])
def test_a_required_field_is_required(key: str) -> None:
    with pytest.raises(MalformedBlock):
        invocation.decode(forged(TOKEN, SPACE, **{key: ...}))


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("iss", [None, 1]),
        ("sub", [None, 1]),
        ("aud", [None, 1]),
        ("cmd", [None, "", "store/add", "/store/add/", "/Store/Add", "/store//add"]),
        ("args", [None, [], [1], "", 1]),
        ("prf", [None, {}, LINK, [str(LINK)], [LINK.bytes], [None], [[LINK]]]),
        ("nonce", [None, "", 1]),
        ("exp", [1.0, True, "1"]),
        ("iat", [None, 1.5, "1", True]),
        ("meta", [None, []]),
        ("cause", [None, str(LINK), {}]),
    ],
)
def test_a_field_of_another_type_is_malformed(key: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(MalformedBlock):
            invocation.decode(forged(TOKEN, SPACE, **{key: value}))


def test_arguments_are_bounded() -> None:
    room = LIMITS.arguments_bytes - len(codec.encode({"a": bytes(300)})) + 300
    for size in (room - 1, room):
        token = ask(SPACE, arguments={"a": bytes(size)})
        assert len(codec.encode(token.arguments)) <= LIMITS.arguments_bytes
    with pytest.raises(LimitExceeded):
        ask(SPACE, arguments={"a": bytes(room + 1)})


def test_other_fields_may_be_longer_than_arguments() -> None:
    data = forged(TOKEN, SPACE, meta={"a": bytes(2 * LIMITS.arguments_bytes)})
    assert invocation.decode(data).arguments == TOKEN.arguments


def test_the_task_is_subject_command_arguments_and_nonce() -> None:
    value = {
        "sub": SPACE.did.text,
        "cmd": "/store/add",
        "args": {"size": 100},
        "nonce": NONCE,
    }
    assert TOKEN.task == CID.of(codec.encode(value))
    assert ask(ALICE, expires=None, audience=None).task == TOKEN.task
    for other in (
        ask(SPACE, subject=ALICE),
        ask(SPACE, command="/store/list"),
        ask(SPACE, arguments={"size": 101}),
        ask(SPACE, nonce=b""),
    ):
        assert other.task != TOKEN.task


def test_with_a_nonce_a_repeat_has_the_same_delivery_id_however_it_is_signed() -> None:
    assert TOKEN.delivery_id == TOKEN.task.bytes
    for repeat in (ask(SPACE, expires=None), ask(ALICE), ask(SPACE, audience=None)):
        assert repeat != TOKEN
        assert repeat.delivery_id == TOKEN.delivery_id
    assert len(TOKEN.delivery_id) <= LIMITS.delivery_id_bytes


def test_without_a_nonce_issuer_and_expiry_tell_deliveries_apart() -> None:
    token = ask(SPACE, nonce=b"")
    value = [token.task, SPACE.did.text, token.expires]
    assert token.delivery_id == CID.of(codec.encode(value)).bytes
    assert ask(SPACE, nonce=b"", audience=None).delivery_id == token.delivery_id
    for other in (
        ask(SPACE, nonce=b"", expires=NOW + 61),
        ask(SPACE, nonce=b"", expires=None),
        ask(BOB, nonce=b""),
    ):
        assert other.task == token.task
        assert other.delivery_id != token.delivery_id
