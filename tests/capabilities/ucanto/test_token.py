"""Tokens: what is signed, and one block for one signature."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capabilities.did import DID
from capabilities.ucanto import token
from capabilities.ucanto.token import Claim, Token
from stmflow import codec
from stmflow.cid import CID, RAW
from stmflow.errors import (
    CapabilityError,
    CodecError,
    HashMismatch,
    InvalidClaim,
    InvalidDID,
    InvalidSignature,
    LimitExceeded,
    MalformedBlock,
    WeakKey,
)
from stmflow.limits import LIMITS
from tests.capabilities.ucanto.tokens import (
    ACCOUNT,
    ALICE,
    BOB,
    LINK,
    MALLORY,
    NOW,
    SERVICE,
    SPACE,
    ask,
    claim,
    forged,
    grant,
)

ROOT = grant(SPACE, ALICE)
FULL = token.issue(
    ALICE,
    BOB.did,
    (claim(link=LINK, size=5, deep=[1, "two", {"three": b"3"}]), Claim("*", "ucan:*", {})),
    expires=None,
    not_before=NOW - 5,
    nonce="№ 1",
    facts=({"link": LINK, "half": 0.5}, {}),
    proofs=(ROOT.cid,),
)
SAFE = 2**53 - 1


def test_an_issued_token_decodes_to_what_was_asked_for() -> None:
    again = token.decode(FULL.cid, FULL.data)
    assert again == FULL
    assert hash(again) == hash(FULL)
    assert (again.issuer, again.audience) == (ALICE.did, BOB.did)
    assert [each.can for each in again.capabilities] == ["store/add", "*"]
    assert again.capabilities[0].caveats["deep"] == [1, "two", {"three": b"3"}]
    assert again.capabilities[1].nb == {}
    assert (again.expires, again.not_before, again.nonce) == (None, NOW - 5, "№ 1")
    assert [dict(fact) for fact in again.facts] == [{"link": LINK, "half": 0.5}, {}]
    assert again.proofs == (ROOT.cid,)
    assert again.version == "0.9.1"
    assert token.verify_signature(again, ALICE.verifier)
    assert not token.verify_signature(again, BOB.verifier)
    assert token.signing_payload(again) == again.payload
    assert "store/add" in repr(again)


def test_a_token_equals_no_other() -> None:
    assert ROOT != FULL
    assert ROOT.__eq__(ROOT.cid) is False


def test_a_claim_without_caveats_differs_from_one_with_none() -> None:
    bare = grant(SPACE, ALICE, Claim("store/*", SPACE.did.text))
    empty = grant(SPACE, ALICE, Claim("store/*", SPACE.did.text, {}))
    assert bare.cid != empty.cid
    assert bare.payload != empty.payload
    assert bare.capabilities[0].caveats == empty.capabilities[0].caveats == {}


def test_a_token_that_is_remembered_cannot_be_changed_from_outside() -> None:
    with pytest.raises(TypeError):
        FULL.capabilities[0].caveats["size"] = 6  # type: ignore[index]
    with pytest.raises(AttributeError):
        FULL.expires = 1  # type: ignore[misc]


def test_an_account_signs_nothing() -> None:
    made = grant(ACCOUNT, ALICE)
    assert made.issuer == ACCOUNT
    assert made.signature.encode().hex() == "80a00300"
    assert not token.verify_signature(made, ALICE.verifier)


def test_the_same_arguments_give_the_same_token() -> None:
    assert ask(SPACE).data == ask(SPACE).data
    assert ask(SPACE, nonce="1").cid != ask(SPACE, nonce="2").cid


# One form


def same_signature(data: bytes) -> None:
    """The attack is real: what JavaScript would have verified is what was signed."""
    assert codec.decode(data)["s"][:68] == ROOT.signature.encode()


@pytest.mark.parametrize(
    "fields",
    [
        {"extra": 1},
        {"prf": ...},
        {"fct": []},
        {"nbf": 0},
        {"nnc": ""},
        {"s": ROOT.signature.encode() + b"\x00"},
        {"att": [{"can": "STORE/*", "with": SPACE.did.text}]},
        {"att": [{"can": "store/*", "with": SPACE.did.text, "extra": 1}]},
    ],
)
def test_a_second_block_for_one_signature_is_refused(fields: dict[str, Any]) -> None:
    data = forged(ROOT, **fields)
    same_signature(data)
    with pytest.raises((MalformedBlock, InvalidSignature)):
        token.decode(None, data)


@pytest.mark.parametrize(
    ("signed", "other"),
    [
        ({"size": 5}, {"size": 5.0}),
        ({"size": 0}, {"size": -0.0}),
        ({"link": LINK}, {"link": {"/": str(LINK)}}),
        ({"raw": b"\x01"}, {"raw": {"/": {"bytes": "AQ"}}}),
    ],
)
def test_values_that_print_alike_are_not_taken_for_each_other(
    signed: dict[str, Any], other: dict[str, Any]
) -> None:
    good = grant(SPACE, ALICE, claim(**signed))
    att = [{"can": "store/add", "with": SPACE.did.text, "nb": other}]
    with pytest.raises(MalformedBlock):
        token.decode(None, forged(good, att=att))


def test_a_key_is_not_taken_under_the_form_of_other_methods() -> None:
    with pytest.raises(InvalidDID):
        token.decode(None, forged(ROOT, iss=b"\x9d\x1a" + SPACE.did.text[4:].encode()))


def test_a_weak_key_issues_nothing() -> None:
    with pytest.raises(WeakKey):
        token.decode(None, forged(ROOT, iss=b"\xed\x01" + b"\x01" + bytes(31)))


def test_keys_out_of_order_are_refused() -> None:
    data = ROOT.data
    assert data.count(b"\x61v\x650.9.1") == 1
    moved = data.replace(b"\x61v\x650.9.1", b"", 1) + b"\x61v\x650.9.1"
    with pytest.raises(MalformedBlock, match="out of order"):
        token.decode(None, moved)


@pytest.mark.parametrize(
    "fields",
    [
        {"s": ...},
        {"v": ...},
        {"att": ...},
        {"aud": ...},
        {"exp": ...},
        {"iss": ...},
        {"v": "0.9"},
        {"v": "a0.9.1"},
        {"v": "0.9.1\n"},
        {"v": "٠.٩.١"},
        {"v": 1},
        {"v": "0.9." + "1" * 10},
        {"att": {}},
        {"att": [1]},
        {"att": [{"can": "store/add"}]},
        {"att": [{"with": SPACE.did.text}]},
        {"att": [{"can": 1, "with": SPACE.did.text}]},
        {"att": [{"can": "store/add", "with": 1}]},
        {"att": [{"can": "store/add", "with": SPACE.did.text, "nb": []}]},
        {"att": [{"can": "store/add", "with": SPACE.did.text, "nb": None}]},
        {"exp": "1"},
        {"exp": 1.5},
        {"exp": True},
        {"nbf": None},
        {"nbf": "1"},
        {"nnc": 1},
        {"fct": {}},
        {"fct": [1]},
        {"fct": [[]]},
        {"prf": {}},
        {"prf": [str(ROOT.cid)]},
        {"prf": [ROOT.cid, b""]},
    ],
)
def test_a_field_of_another_form_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(MalformedBlock):
        token.decode(None, forged(ROOT, **fields))


@pytest.mark.parametrize("field", ["iss", "aud"])
@pytest.mark.parametrize(
    "value", ["text", b"", b"\x01", b"\x9d\x1a", None, b"\xed\x01" + bytes(31)]
)
def test_principals_are_in_their_binary_form(field: str, value: Any) -> None:
    fields: dict[str, Any] = {field: value}
    with pytest.raises(InvalidDID):
        token.decode(None, forged(ROOT, **fields))


@pytest.mark.parametrize(
    "can",
    [
        *("", "*/", "store", "/a", "a/", "store/", "/store", "Store/add", "store/Add", "**"),
        *(
            "store/ádd",
            "store/аdd",
            "ſtore/add",
            "store/add ",
            "store /add",
            "store/\x00",
            "store/\n",
        ),
    ],
)
def test_what_only_looks_like_a_command_is_refused(can: str) -> None:
    with pytest.raises(MalformedBlock):
        token.decode(None, forged(ROOT, att=[{"can": can, "with": SPACE.did.text}]))


@pytest.mark.parametrize("can", ["*", "a/b", "store/*", "a/b/c", "a//b", "/a/b"])
def test_commands_and_their_patterns_are_taken(can: str) -> None:
    made = token.decode(None, forged(ROOT, att=[{"can": can, "with": SPACE.did.text}]))
    assert made.capabilities[0].can == can


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_a_command_has_at_most_so_many_bytes(off: int) -> None:
    can = "a/".ljust(token._CAN_BYTES + off, "b")
    taken_or_refused(forged(ROOT, att=[{"can": can, "with": SPACE.did.text}]), off)


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_a_uri_has_at_most_so_many_letters(off: int) -> None:
    uri = "a:".ljust(token._URI_LETTERS + off, "b")
    taken_or_refused(forged(ROOT, att=[{"can": "store/add", "with": uri}]), off)


def taken_or_refused(data: bytes, off: int) -> None:
    if off > 0:
        with pytest.raises(MalformedBlock):
            token.decode(None, data)
    else:
        assert token.decode(None, data).capabilities


@pytest.mark.parametrize("with_", ["", "space", ":", "1a:b", "did:key: z", "a:\x00"])
def test_what_is_no_uri_is_refused(with_: str) -> None:
    with pytest.raises(MalformedBlock):
        token.decode(None, forged(ROOT, att=[{"can": "store/add", "with": with_}]))


@pytest.mark.parametrize("number", [SAFE - 1, SAFE, -SAFE])
@pytest.mark.parametrize("field", ["exp", "nbf"])
def test_a_time_within_the_bound_is_taken(field: str, number: int) -> None:
    fields: dict[str, Any] = {field: number}
    assert token.decode(None, forged(ROOT, **fields))


@pytest.mark.parametrize("number", [SAFE + 1, -SAFE - 1, 2**63 - 1])
@pytest.mark.parametrize("field", ["exp", "nbf"])
def test_a_time_past_the_bound_is_refused(field: str, number: int) -> None:
    fields: dict[str, Any] = {field: number}
    with pytest.raises(LimitExceeded):
        token.decode(None, forged(ROOT, **fields))


@pytest.mark.parametrize("number", [SAFE + 1, -SAFE - 1])
def test_an_integer_in_caveats_or_facts_past_the_bound_is_refused(number: int) -> None:
    att = [{"can": "store/add", "with": SPACE.did.text, "nb": {"size": number}}]
    for fields in ({"att": att}, {"fct": [{"n": number}]}):
        with pytest.raises(LimitExceeded):
            token.decode(None, forged(ROOT, **fields))


def test_a_token_comes_under_its_own_cid_alone() -> None:
    with pytest.raises(HashMismatch):
        token.decode(FULL.cid, ROOT.data)
    with pytest.raises(HashMismatch):
        token.decode(CID.of(ROOT.data, 0x0202), ROOT.data)


def test_the_text_of_a_jwt_is_refused() -> None:
    jwt = ROOT.payload + b".c2lnbmF0dXJl"
    with pytest.raises(MalformedBlock, match="JWT"):
        token.decode(CID.of(jwt, RAW), jwt)


def test_a_receipt_or_a_message_is_no_token() -> None:
    others: list[Any] = [{"ocm": {}, "sig": b""}, {"ucanto/message@7.0.0": {}}, [], None, 1]
    for value in others:
        with pytest.raises(MalformedBlock):
            token.decode(None, codec.encode(value))


@pytest.mark.parametrize("depth", [33, 1_000, 100_000])
def test_depth_is_checked_before_anything_recurses(depth: int) -> None:
    with pytest.raises(LimitExceeded):
        token.decode(None, b"\xa1\x63fct" + b"\x81" * depth + b"\x01")


def test_a_token_as_large_as_a_block_is_taken_and_one_larger_is_not() -> None:
    small = token.issue(SPACE, ALICE.did, (), expires=None, facts=({"a": b""},))
    room = LIMITS.block_bytes - len(small.data) - 4  # the length of the filler takes 5 bytes, not 1
    for size in (room - 1, room):
        made = token.issue(SPACE, ALICE.did, (), expires=None, facts=({"a": bytes(size)},))
        assert len(made.data) == LIMITS.block_bytes - room + size
    with pytest.raises(LimitExceeded):
        token.issue(SPACE, ALICE.did, (), expires=None, facts=({"a": bytes(room + 1)},))


@pytest.mark.parametrize(
    "options",
    [
        {"expires": 1.5},
        {"expires": True},
        {"expires": None, "not_before": 0},
        {"expires": None, "nonce": ""},
        {"expires": None, "facts": ({"a": 5.0},)},
        {"expires": None, "facts": ({"a": {"/": "b"}},)},
        {"expires": None, "facts": ({"\ud800": 1},)},
    ],
)
def test_nothing_is_issued_that_would_not_be_taken(options: dict[str, Any]) -> None:
    with pytest.raises(MalformedBlock):
        token.issue(SPACE, ALICE.did, (claim(),), **options)


@pytest.mark.parametrize("wrong", [claim("STORE/add"), claim("store"), claim(space="nowhere")])
def test_no_claim_is_issued_that_would_not_be_taken(wrong: Claim) -> None:
    with pytest.raises(MalformedBlock):
        token.issue(SPACE, ALICE.did, (wrong,), expires=None)


# What is signed


@pytest.mark.parametrize(
    "fields",
    [
        {"iss": BOB.did.raw},
        {"aud": BOB.did.raw},
        {"exp": NOW + 601},
        {"exp": None},
        {"nbf": 1},
        {"nnc": "n"},
        {"fct": [{}]},
        {"prf": [FULL.cid]},
        {"v": "0.9.2"},
        {"att": []},
        {"att": [{"can": "*", "with": SPACE.did.text}]},
        {"att": [{"can": "store/*", "with": ALICE.did.text}]},
        {"att": [{"can": "store/*", "with": SPACE.did.text, "nb": {}}]},
    ],
)
def test_every_field_is_under_the_signature(fields: dict[str, Any]) -> None:
    changed = token.decode(None, forged(ROOT, **fields))
    assert changed.payload != ROOT.payload
    assert not token.verify_signature(changed, SPACE.verifier)


def test_a_token_under_the_name_of_another_algorithm_does_not_verify() -> None:
    raw = ROOT.signature.raw
    for prefix in ("e7a103", "80a4c006"):  # ES256K, ES256
        data = forged(ROOT, s=bytes.fromhex(prefix) + b"\x40" + raw)
        assert not token.verify_signature(token.decode(None, data), SPACE.verifier)


def test_every_bit_of_a_signature_counts() -> None:
    for bit in range(0, 512, 7):
        raw = bytearray(ROOT.signature.raw)
        raw[bit // 8] ^= 1 << bit % 8
        data = forged(ROOT, s=b"\xed\xa1\x03\x40" + bytes(raw))
        assert not token.verify_signature(token.decode(None, data), SPACE.verifier)


def test_a_signature_with_the_order_of_the_group_added_does_not_verify() -> None:
    order = 2**252 + 27742317777372353535851937790883648493
    raw = ROOT.signature.raw
    s = int.from_bytes(raw[32:], "little") + order
    data = forged(ROOT, s=b"\xed\xa1\x03\x40" + raw[:32] + s.to_bytes(32, "little"))
    assert not token.verify_signature(token.decode(None, data), SPACE.verifier)


@pytest.mark.parametrize("size", [0, 63, 65])
def test_a_signature_of_another_length_does_not_verify(size: int) -> None:
    data = forged(ROOT, s=b"\xed\xa1\x03" + bytes((size,)) + (ROOT.signature.raw + b"\0")[:size])
    assert not token.verify_signature(token.decode(None, data), SPACE.verifier)


# The delivery id


def test_the_delivery_id_is_that_of_what_is_asked() -> None:
    one, two = ask(SPACE), ask(SPACE, ROOT)
    assert one.cid != two.cid
    assert token.delivery_id(one) == token.delivery_id(two)
    assert CID(token.delivery_id(one))


def test_the_delivery_id_does_not_know_facts_signature_or_form_of_empty_caveats() -> None:
    one = token.issue(SPACE, SERVICE.did, (claim("store/list"),), expires=NOW)
    facts = token.issue(SPACE, SERVICE.did, (claim("store/list"),), expires=NOW, facts=({"a": 1},))
    att = [{"can": "store/list", "with": SPACE.did.text, "nb": {}}]
    empty = token.decode(None, forged(one, SPACE, att=att))
    forgery = token.decode(None, forged(one, MALLORY))
    assert len({each.cid for each in (one, facts, empty, forgery)}) == 4
    assert len({token.delivery_id(each) for each in (one, facts, empty, forgery)}) == 1


@pytest.mark.parametrize(
    "other",
    [
        ask(ALICE),
        ask(SPACE, audience=BOB),
        ask(SPACE, claims=[claim("store/list")]),
        ask(SPACE, claims=[claim(space=BOB, link=LINK, size=100)]),
        ask(SPACE, claims=[claim(link=LINK, size=101)]),
        ask(SPACE, expires=NOW + 31),
        ask(SPACE, expires=None),
        ask(SPACE, not_before=1),
        ask(SPACE, nonce="1"),
    ],
)
def test_another_invocation_has_another_delivery_id(other: Token) -> None:
    assert token.delivery_id(other) != token.delivery_id(ask(SPACE))


@pytest.mark.parametrize("claims", [[], [claim("store/list"), claim("store/list")]])
def test_what_is_no_invocation_has_no_delivery_id(claims: list[Claim]) -> None:
    made = token.issue(SPACE, SERVICE.did, claims, expires=NOW)
    with pytest.raises(InvalidClaim):
        token.delivery_id(made)


# Whatever comes


texts = st.text(max_size=6)
scalars = st.none() | st.booleans() | st.integers(-SAFE, SAFE) | texts | st.binary(max_size=6)
plain = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=5)
maps = st.dictionaries(texts.filter(lambda key: key != "/"), plain, max_size=4)


@given(
    caveats=st.none() | maps,
    facts=st.lists(maps, max_size=2),
    expires=st.none() | st.integers(-SAFE, SAFE),
    not_before=st.none() | st.integers(1, SAFE),
    nonce=st.none() | st.text(min_size=1, max_size=8),
)
def test_what_is_issued_is_taken_verifies_and_has_one_encoding(
    caveats: dict[str, Any] | None,
    facts: list[dict[str, Any]],
    expires: int | None,
    not_before: int | None,
    nonce: str | None,
) -> None:
    made = token.issue(
        ALICE,
        SERVICE.did,
        (Claim("store/add", SPACE.did.text, caveats),),
        expires=expires,
        not_before=not_before,
        nonce=nonce,
        facts=facts,
    )
    again = token.decode(made.cid, made.data)
    assert again.capabilities[0].nb == caveats
    assert token.verify_signature(again, ALICE.verifier)
    assert written(again) == made.data


def written(made: Token) -> bytes:
    """The block of a token, made anew of its fields alone."""
    fields: dict[str, Any] = {
        "s": made.signature.encode(),
        "v": made.version,
        "att": [
            {"can": each.can, "with": each.with_}
            | ({} if each.nb is None else {"nb": dict(each.nb)})
            for each in made.capabilities
        ],
        "aud": made.audience.raw,
        "exp": made.expires,
        "iss": made.issuer.raw,
        "prf": list(made.proofs),
    }
    if made.facts:
        fields["fct"] = [dict(fact) for fact in made.facts]
    if made.nonce is not None:
        fields["nnc"] = made.nonce
    if made.not_before is not None:
        fields["nbf"] = made.not_before
    return codec.encode(fields)


@given(st.integers(0, len(FULL.data) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_makes_another_token(place: int, flip: int) -> None:
    data = bytearray(FULL.data)
    data[place] ^= flip
    try:
        made = token.decode(None, bytes(data))
    except (CodecError, CapabilityError):
        return
    assert made.cid != FULL.cid
    assert written(made) == bytes(data)
    assert made.issuer != ALICE.did or not token.verify_signature(made, ALICE.verifier)


@given(st.binary(max_size=100))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    with pytest.raises((CodecError, CapabilityError)):
        token.decode(None, data)


def test_a_did_of_another_method_issues_and_receives() -> None:
    web = DID.parse("did:web:store.example")
    made = token.issue(SPACE.named(web), web, (claim(),), expires=None)
    assert made.issuer == made.audience == web
    assert token.verify_signature(made, SPACE.verifier)
