"""May it be run? The order of the checks, the chain, and one attack each."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capabilities.authorization import Authorization, Link, explain
from capabilities.did import DID
from capabilities.principal import Signer
from capabilities.ucanto import receipt, token, validator
from capabilities.ucanto.token import Claim, Token
from capabilities.ucanto.validator import NotOneCapability
from capabilities.ucanto.verified import Reading, Verified
from stmflow import codec
from stmflow.cid import CID, RAW
from stmflow.errors import (
    CapabilityError,
    CodecError,
    Expired,
    HashMismatch,
    InvalidAudience,
    InvalidClaim,
    InvalidSignature,
    LimitExceeded,
    MalformedBlock,
    Revoked,
    StmflowError,
    TooEarly,
    UnavailableProof,
    UnknownCommand,
    UnknownKey,
)
from stmflow.limits import LIMITS
from tests.capabilities.ucanto.tokens import (
    ACCOUNT,
    ALICE,
    BOB,
    CAPABILITIES,
    CAROL,
    LINK,
    MALLORY,
    NOW,
    OTHER,
    SERVICE,
    SPACE,
    WEB,
    StoreAdd,
    ask,
    authorize,
    blocks_of,
    chain,
    claim,
    forged,
    grant,
    refused,
)

ROOT = grant(SPACE, ALICE)
SECOND = grant(ALICE, BOB, proofs=[ROOT])
THIRD = grant(BOB, CAROL, proofs=[SECOND])
CHAIN = [ROOT, SECOND, THIRD]
NOBODY = DID.parse("did:web:nobody.example")
USER = ALICE.named("did:web:user.example")


def resolve(did: DID) -> list[DID]:
    return [ALICE.key] if did == USER.did else []


# What is allowed


def test_the_space_may_ask_for_itself() -> None:
    asked = ask(SPACE)
    found = authorize(asked)
    assert found.invocation == asked.cid
    assert (found.issuer, found.audience, found.subject) == (SPACE.did, SERVICE.did, SPACE.did)
    assert found.command == "store/add"
    assert found.arguments == StoreAdd(LINK, 100)
    assert found.delivery == token.delivery_id(asked)
    assert found.expires == NOW + 30
    assert found.chain == (Link(asked.cid, SPACE.did, SERVICE.did),)


def test_a_chain_is_told_from_the_invocation_to_the_root() -> None:
    asked = ask(CAROL, THIRD)
    found = authorize(asked, *CHAIN)
    assert found.subject == SPACE.did
    assert found.chain == (
        Link(asked.cid, CAROL.did, SERVICE.did),
        Link(THIRD.cid, BOB.did, CAROL.did),
        Link(SECOND.cid, ALICE.did, BOB.did),
        Link(ROOT.cid, SPACE.did, ALICE.did),
    )


def test_an_invocation_is_given_by_its_cid_or_decoded() -> None:
    asked = ask(ALICE, ROOT)
    found = validator.authorize(
        asked,
        blocks_of(ROOT),
        service=SERVICE.did,
        capabilities={"store/add": CAPABILITIES["store/add"]},
        now=NOW,
    )
    assert found == authorize(asked, ROOT)


def test_a_service_that_is_a_key_signs_with_that_key_and_no_other() -> None:
    root = grant(SPACE, BOB)
    asked = ask(BOB, root, audience=BOB)
    forgery = token.decode(None, forged(asked, MALLORY))

    def asks(made: Token) -> Authorization:
        capabilities = {"store/add": CAPABILITIES["store/add"]}
        return validator.authorize(
            made,
            blocks_of(root),
            service=BOB.did,
            verifier=MALLORY.verifier,
            capabilities=capabilities,
            now=NOW,
        )

    assert asks(asked).issuer == BOB.did
    with pytest.raises(InvalidSignature):
        asks(forgery)


@pytest.mark.parametrize("can", ["*", "store/*", "store/add"])
def test_a_pattern_covers_the_commands_below_it(can: str) -> None:
    root = grant(SPACE, ALICE, claim(can))
    assert authorize(ask(ALICE, root), root)


def test_a_pattern_covers_nested_commands() -> None:
    root = grant(SPACE, ALICE, claim("store/*"))
    assert authorize(ask(ALICE, root, claims=[claim("store/nested/list")]), root)


def test_everything_that_an_issuer_has_is_passed_on_along_a_chain() -> None:
    root = grant(SPACE, ALICE, Claim("*", "ucan:*"))
    second = grant(ALICE, BOB, Claim("*", "ucan:*"), proofs=[root])
    assert authorize(ask(BOB, second), root, second).subject == SPACE.did


def test_one_of_several_capabilities_is_enough() -> None:
    root = grant(SPACE, ALICE, claim("upload/add"), claim("store/add", OTHER), claim("store/add"))
    assert authorize(ask(ALICE, root), root)


def test_bad_proofs_beside_a_good_one_do_no_harm() -> None:
    bad = [
        grant(SPACE, ALICE, expires=NOW),
        grant(SPACE, ALICE, not_before=NOW),
        grant(SPACE, BOB),
        grant(MALLORY, ALICE),
        grant(SPACE, ALICE, claim("upload/*")),
        grant(SPACE, ALICE, claim("store/add", size="5")),
        grant(NOBODY, ALICE),
        token.decode(None, forged(ROOT, exp=None)),
    ]
    raw = b"\xff not a token"
    asked = token.issue(
        ALICE,
        SERVICE.did,
        [claim(link=LINK, size=1)],
        expires=NOW + 9,
        proofs=[
            *(each.cid for each in bad),
            CID.of(b"gone"),
            CID.of(raw),
            CID.of(raw, RAW),
            ROOT.cid,
        ],
    )
    found = authorize(asked, *bad, ROOT, blocks={CID.of(raw): raw, CID.of(raw, RAW): raw})
    assert found.chain[1].token == ROOT.cid


def test_an_alias_of_the_service_may_be_asked() -> None:
    asked = ask(SPACE, audience=WEB)
    refused(InvalidAudience, asked)
    assert authorize(asked, aliases=[WEB.did]).audience == WEB.did


def test_the_service_asks_itself_under_its_name() -> None:
    asked = ask(WEB, claims=[claim("fail/hard", WEB)], audience=WEB)
    assert authorize(asked, service=WEB).issuer == WEB.did


def test_an_issuer_whose_key_is_resolved_may_ask() -> None:
    root = grant(SPACE, USER)
    assert authorize(ask(USER, root), root, resolver=resolve).issuer == USER.did
    asked = ask(USER, root)
    (fault,) = refused(UnknownKey, asked, root)
    assert isinstance(fault, UnknownKey)
    assert fault.token == asked.cid


def test_one_of_the_keys_that_are_resolved_is_enough() -> None:
    root = grant(SPACE, USER)
    assert authorize(ask(USER, root), root, resolver=lambda did: [BOB.key, ALICE.key])
    refused(InvalidSignature, ask(USER, root), root, resolver=lambda did: [BOB.key])


# The order of the checks of an invocation


@pytest.mark.parametrize("claims", [[], [claim(link=LINK, size=1)] * 2])
def test_an_invocation_has_one_capability(claims: list[Claim]) -> None:
    asked = token.issue(MALLORY, BOB.did, claims, expires=0)
    (fault,) = refused(NotOneCapability, asked)
    assert isinstance(fault, CapabilityError)
    assert fault.token == asked.cid


@pytest.mark.parametrize("can", ["store/nope", "store/*", "*", "store/add/", "store/addition"])
def test_what_is_not_provided_is_told_before_the_audience(can: str) -> None:
    refused(UnknownCommand, ask(SPACE, claims=[claim(can)], audience=BOB, expires=0))


def test_a_definition_under_another_name_is_not_provided() -> None:
    with pytest.raises(UnknownCommand):
        validator.authorize(
            ask(SPACE, claims=[claim("store/*")]),
            {},
            service=SERVICE.did,
            capabilities={"store/*": CAPABILITIES["store/list"]},
            now=NOW,
        )


def test_the_audience_is_told_before_time_and_signature() -> None:
    asked = ask(MALLORY, audience=BOB, expires=0)
    assert len(refused(InvalidAudience, asked)) == 1


def test_time_is_told_before_the_signature() -> None:
    late = token.decode(None, forged(ask(SPACE), exp=NOW))
    assert len(refused(Expired, late)) == 1


def test_the_signature_is_told_before_the_arguments() -> None:
    att = [{"can": "store/add", "with": SPACE.did.text, "nb": {}}]
    asked = token.decode(None, forged(ask(SPACE), att=att))
    assert len(refused(InvalidSignature, asked)) == 1


def test_the_arguments_are_told_before_the_chain() -> None:
    (fault,) = refused(InvalidClaim, ask(MALLORY, claims=[claim(size=1)]))
    assert "store/add: link" in str(fault)


# Time


@pytest.mark.parametrize(
    ("expires", "error"), [(NOW + 1, None), (NOW, Expired), (NOW - 1, Expired), (-1, Expired)]
)
def test_a_token_is_expired_from_its_second_on(
    expires: int, error: type[StmflowError] | None
) -> None:
    root = grant(SPACE, ALICE, expires=expires)
    for asked, proofs in ((ask(SPACE, expires=expires), []), (ask(ALICE, root), [root])):
        if error is None:
            assert authorize(asked, *proofs)
        else:
            refused(error, asked, *proofs)


@pytest.mark.parametrize(
    ("not_before", "error"), [(NOW - 1, None), (NOW, TooEarly), (NOW + 1, TooEarly)]
)
def test_a_token_is_too_early_with_its_second(
    not_before: int, error: type[StmflowError] | None
) -> None:
    root = grant(SPACE, ALICE, not_before=not_before)
    asks = [(ask(SPACE, not_before=not_before), []), (ask(ALICE, root), [root])]
    for asked, proofs in asks:
        if error is None:
            assert authorize(asked, *proofs)
        else:
            refused(error, asked, *proofs)


def test_a_proof_that_expires_before_the_invocation_ends_it() -> None:
    root = grant(SPACE, ALICE, expires=NOW + 5)
    asked = ask(ALICE, root, expires=NOW + 30)
    assert authorize(asked, root, now=NOW + 4).expires == NOW + 30
    refused(Expired, asked, root, now=NOW + 5)


def test_a_token_that_starts_after_its_end_is_never_good() -> None:
    asked = ask(SPACE, not_before=NOW + 10, expires=NOW + 5)
    refused(TooEarly, asked, now=NOW)
    refused(Expired, asked, now=NOW + 5)
    refused(Expired, asked, now=NOW + 11)


def test_no_expiry_is_never_expired() -> None:
    assert authorize(ask(SPACE, expires=None), now=2**52).expires is None


def test_an_expired_root_ends_the_whole_chain() -> None:
    root = grant(SPACE, ALICE, expires=NOW)
    second = grant(ALICE, BOB, proofs=[root])
    refused(Expired, ask(BOB, second), root, second)


# Audience and chain


def test_a_proof_for_somebody_else_is_of_no_use() -> None:
    found = refused(InvalidAudience, ask(BOB, ROOT), ROOT)
    assert type(found[0]) is InvalidClaim
    assert str(found[0]).endswith("is somebody else")  # the cause says what is wrong with ROOT


def test_a_did_that_begins_like_the_service_is_another() -> None:
    longer = SERVICE.named("did:web:store.example.evil")
    refused(InvalidAudience, ask(SPACE, audience=longer), service=WEB)


def test_a_gap_in_the_chain_is_found() -> None:
    third = grant(BOB, CAROL, proofs=[ROOT])
    refused(InvalidAudience, ask(CAROL, third), ROOT, third)


def test_a_proof_is_followed_from_where_it_is_listed_and_nowhere_else() -> None:
    orphan = grant(ALICE, BOB)
    refused(InvalidAudience, ask(BOB, orphan, ROOT), ROOT, orphan)


def test_a_proof_that_is_listed_twice_does_no_harm() -> None:
    assert authorize(ask(ALICE, ROOT, ROOT), ROOT)


def test_without_proof_nobody_but_the_space_may_ask() -> None:
    (fault,) = refused(InvalidClaim, ask(MALLORY))
    assert str(fault).endswith("is somebody else, and no proof grants it")


def test_a_proof_that_did_not_come_along_is_named() -> None:
    found = refused(UnavailableProof, ask(ALICE, ROOT))
    missing = next(each for each in found if isinstance(each, UnavailableProof))
    assert missing.token == ROOT.cid


def test_a_chain_that_does_not_start_with_the_space_grants_nothing() -> None:
    root = grant(MALLORY, ALICE)
    refused(InvalidClaim, ask(ALICE, root), root)
    everything = grant(MALLORY, ALICE, Claim("*", "ucan:*"))
    refused(InvalidClaim, ask(ALICE, everything), everything)


def test_a_chain_about_another_space_grants_nothing() -> None:
    root = grant(OTHER, ALICE, claim("store/*", OTHER))
    refused(InvalidClaim, ask(ALICE, root), root)
    second = grant(ALICE, BOB, claim("store/*", SPACE), proofs=[root])
    refused(InvalidClaim, ask(BOB, second), root, second)


@pytest.mark.parametrize("claims", [1, 2])
def test_a_proof_about_other_things_is_named(claims: int) -> None:
    root = grant(SPACE, ALICE, *[claim("upload/add")] * claims)
    _, cause = refused(InvalidClaim, ask(ALICE, root), root)
    assert "is not about" in str(cause)
    assert isinstance(cause, CapabilityError)
    assert cause.token == root.cid


def test_being_the_audience_of_a_space_is_no_authority_over_it() -> None:
    root = grant(ALICE, SPACE, claim("store/*", ALICE))
    refused(InvalidClaim, ask(SPACE, root, claims=[claim(space=BOB, link=LINK, size=1)]), root)


# Escalation


@pytest.mark.parametrize(
    "can",
    [
        "store/list",
        "store/a*",
        "stor/*",
        "store/add/*",
        "store/adde",
        "store/ad",
        "upload/*",
        "store/",
        "s*/add",
        "store//*",
        "store/*/",
        "store/**",
    ],
)
def test_another_command_or_half_a_segment_covers_nothing(can: str) -> None:
    try:
        root = grant(SPACE, ALICE, claim(can))
    except MalformedBlock:
        return
    refused(InvalidClaim, ask(ALICE, root), root)


def test_a_proof_in_the_middle_cannot_widen_the_command() -> None:
    root = grant(SPACE, ALICE, claim("store/list"))
    second = grant(ALICE, BOB, claim("store/*"), proofs=[root])
    refused(InvalidClaim, ask(BOB, second), root, second)


@pytest.mark.parametrize(
    "with_", ["did:*", "did:key:*", "ucan:", "ucan:*/x", "ucan:**", "did:key:z*"]
)
def test_a_resource_pattern_covers_nothing(with_: str) -> None:
    root = grant(SPACE, ALICE, Claim("store/*", with_))
    refused(InvalidClaim, ask(ALICE, root), root)


@pytest.mark.parametrize("with_", ["ucan:*", "did:*", "did:web:user.example", "https://a.b"])
def test_what_is_asked_is_about_one_did_of_the_declared_kind(with_: str) -> None:
    refused(InvalidClaim, ask(SPACE, claims=[Claim("store/add", with_, {"link": LINK, "size": 1})]))


def limited(*limits: Mapping[str, Any]) -> list[Token]:
    """A chain whose proofs, root first, each fix these arguments."""
    people = [SPACE, ALICE, BOB, CAROL]
    made: list[Token] = []
    for number, fixed in enumerate(limits):
        one = claim("store/add", **fixed)
        made.append(grant(people[number], people[number + 1], one, proofs=made[-1:]))
    return made


@pytest.mark.parametrize(
    ("limits", "size", "allowed"),
    [
        ([{"size": 100}], 100, True),
        ([{"size": 100}], 101, False),
        ([{"size": 100}, {}], 100, True),
        ([{"size": 100}, {}], 101, False),
        ([{"size": 100}, {"size": 200}], 50, False),
        ([{"size": 100}, {"size": 50}], 50, True),
        ([{"size": 100}, {"size": 50}], 51, False),
        ([{"size": 100}, {}, {"size": 200}], 50, False),
        ([{}, {"size": 50}, {}], 51, False),
        ([{"link": LINK}], 1, True),
        ([{"link": CID.of(b"x")}], 1, False),
        ([{"link": LINK}, {"size": 1}], 1, True),
        ([{"link": CID.of(b"x")}, {"size": 1}], 1, False),
        ([{"link": CID.of(b"x")}, {"link": LINK}], 1, False),
        ([{"unknown": 1}], 1, True),
        ([{"size": "5"}], 1, False),
        ([{"size": -5}], 1, False),
        ([{"size": None}], 1, False),
    ],
)
def test_the_limits_of_every_proof_bind(
    limits: list[dict[str, Any]], size: int, allowed: bool
) -> None:
    proofs = limited(*limits)
    last = [SPACE, ALICE, BOB, CAROL][len(limits)]
    asked = ask(last, proofs[-1], claims=[claim(link=LINK, size=size)])
    if allowed:
        assert authorize(asked, *proofs).arguments.size == size
    else:
        refused(InvalidClaim, asked, *proofs)


def test_the_limit_that_is_passed_is_told() -> None:
    proofs = limited({"size": 100}, {})
    asked = ask(BOB, proofs[-1], claims=[claim(link=LINK, size=101)])
    last = refused(InvalidClaim, asked, *proofs)[-1]
    assert "size: 101 is more than 100" in str(last)
    assert isinstance(last, CapabilityError)
    assert last.token == proofs[0].cid


def test_what_was_found_of_one_size_is_not_said_of_another() -> None:
    """Both claims of the lower proof are held against the same upper one."""
    root = grant(SPACE, ALICE, claim("store/add", size=100))
    lower = [claim("store/add", size=size) for size in (200, 50)]
    second = grant(ALICE, BOB, *lower, proofs=[root])
    third = grant(BOB, CAROL, proofs=[second])
    asked = ask(CAROL, third, claims=[claim(link=LINK, size=10)])
    assert authorize(asked, root, second, third)


def test_a_limit_that_less_has_passed_still_binds_more() -> None:
    root = grant(SPACE, ALICE, claim("store/add", size=100))
    within, beyond = (
        grant(ALICE, BOB, claim("store/add", size=size), proofs=[root]) for size in (50, 200)
    )
    asked = ask(BOB, within, beyond, claims=[claim(link=LINK, size=10)])
    proofs = [root, within, beyond]
    assert authorize(asked, *proofs).chain[1].token == within.cid
    refused(Revoked, asked, *proofs, revoked=revoking((within, ALICE)))


def test_a_nested_argument_is_limited_as_a_whole() -> None:
    def added(size: int) -> Claim:
        return claim("space/blob/add", blob={"digest": b"d", "size": size})

    root = grant(SPACE, ALICE, added(5))
    assert authorize(ask(ALICE, root, claims=[added(5)]), root).arguments.blob.size == 5
    refused(InvalidClaim, ask(ALICE, root, claims=[added(6)]), root)
    half = grant(SPACE, ALICE, claim("space/blob/add", blob={"size": 5}))
    refused(InvalidClaim, ask(ALICE, half, claims=[added(5)]), half)


@pytest.mark.parametrize(
    "nb",
    [
        {},
        {"link": LINK},
        {"link": str(LINK), "size": 1},
        {"link": LINK, "size": "1"},
        {"link": LINK, "size": 1.5},
        {"link": LINK, "size": True},
        {"link": LINK, "size": -1},
        {"link": LINK, "size": 1, "origin": b""},
    ],
)
def test_arguments_that_the_command_does_not_take_are_refused(nb: dict[str, Any]) -> None:
    (fault,) = refused(InvalidClaim, ask(SPACE, claims=[claim(**nb)]))
    assert isinstance(fault, CapabilityError)
    assert fault.token is not None


def test_unknown_arguments_do_not_reach_the_provider() -> None:
    asked = ask(SPACE, claims=[claim(link=LINK, size=5, other=1)])
    assert authorize(asked).arguments == StoreAdd(LINK, 5)


def test_arguments_up_to_the_bound_are_taken_and_larger_ones_are_not() -> None:
    def asked(size: int) -> Token:
        text = "x" * size
        return ask(SPACE, claims=[claim("store/list", cursor=text)])

    small = len(codec.encode({"cursor": ""})) + 2  # a long text has two bytes more of length
    room = LIMITS.arguments_bytes - small
    for size in (room - 1, room):
        assert len(authorize(asked(size)).arguments.cursor) == size
    refused(LimitExceeded, asked(room + 1))


def test_what_else_makes_a_token_long_is_no_argument() -> None:
    facts = ({"a": bytes(LIMITS.arguments_bytes)},)
    long = token.issue(SPACE, SERVICE.did, [claim("store/list")], expires=None, facts=facts)
    assert authorize(long)


# Signatures


def test_a_signature_of_somebody_else_is_refused() -> None:
    refused(InvalidSignature, token.decode(None, forged(ask(SPACE), MALLORY)))
    root = token.decode(None, forged(ROOT, MALLORY))
    refused(InvalidSignature, ask(ALICE, root), root)


@pytest.mark.parametrize(
    "fields",
    [
        {"exp": NOW + 5_000},
        {"nnc": "other"},
        {"att": [{"can": "*", "with": SPACE.did.text}]},
        {"att": [{"can": "store/add", "with": SPACE.did.text, "nb": {}}]},
        {"s": b"\x80\xa0\x03\x00"},
        {"s": b"\xed\xa1\x03\x00"},
        {"s": b"\xe7\xa1\x03\x40" + ROOT.signature.raw},
        {"v": "0.10.0"},
    ],
)
def test_a_proof_that_was_changed_after_signing_grants_nothing(fields: dict[str, Any]) -> None:
    root = token.decode(None, forged(ROOT, **fields))
    refused(InvalidSignature, ask(ALICE, root), root)


def test_a_proof_in_another_form_grants_nothing_though_its_signature_holds() -> None:
    data = forged(ROOT, extra=1)
    cid = CID.of(data)
    asked = token.issue(
        ALICE, SERVICE.did, [claim(link=LINK, size=1)], expires=NOW + 9, proofs=[cid]
    )
    refused(InvalidSignature, asked, blocks={cid: data})


def test_an_invocation_in_another_form_is_refused() -> None:
    data = forged(ask(SPACE), extra=1)
    with pytest.raises(MalformedBlock):
        authorize(CID.of(data), blocks={CID.of(data): data})


def test_a_block_under_the_cid_of_another_is_refused() -> None:
    asked = ask(ALICE, ROOT)
    with pytest.raises(HashMismatch):
        authorize(asked.cid, blocks={asked.cid: ask(SPACE).data})
    other = grant(MALLORY, ALICE)
    refused(InvalidSignature, asked, blocks={ROOT.cid: other.data})


def test_an_invocation_that_did_not_come_along_is_refused() -> None:
    refused(UnavailableProof, CID.of(b"nowhere"))


def test_an_account_has_no_signature_to_ask_with() -> None:
    refused(UnknownKey, ask(ACCOUNT))
    refused(InvalidSignature, ask(ACCOUNT), resolver=lambda did: [ALICE.key])


# Confusion


def test_an_invocation_for_one_service_is_nothing_to_another() -> None:
    staging = Signer.from_seed(b"g" * 32)
    refused(InvalidAudience, ask(SPACE, audience=staging))
    root = grant(SPACE, staging)
    refused(InvalidAudience, ask(ALICE, root), root)


def test_a_receipt_is_no_invocation() -> None:
    made = receipt.issue(SPACE, ask(SPACE).cid, {"ok": {}})
    with pytest.raises(MalformedBlock):
        authorize(made.cid, blocks={made.cid: made.data})


def test_a_cid_is_no_subject() -> None:
    refused(InvalidClaim, ask(SPACE, claims=[claim(space=f"cid:{LINK}", link=LINK, size=1)]))


def test_an_invocation_is_no_delegation_to_others() -> None:
    asked = ask(SPACE)
    refused(InvalidAudience, ask(ALICE, asked), asked)


# Attestations


def attest(proof: Token, audience: Signer = ALICE, issuer: Signer = WEB, **options: Any) -> Token:
    return grant(
        issuer, audience, Claim("ucan/attest", WEB.did.text, {"proof": proof.cid}), **options
    )


SPACE_TO_ACCOUNT = token.issue(SPACE, ACCOUNT, [Claim("*", SPACE.did.text)], expires=None)
SESSION = token.issue(
    ACCOUNT, ALICE.did, [Claim("*", "ucan:*")], expires=None, proofs=[SPACE_TO_ACCOUNT.cid]
)


def login(*proofs: Token, extra: Collection[Token] = (), **options: Any) -> tuple[Any, ...]:
    asked = ask(ALICE, SESSION, *proofs, audience=WEB)
    return (asked, SESSION, SPACE_TO_ACCOUNT, *proofs, *extra)


def test_what_an_account_grants_is_good_if_the_service_attests_it() -> None:
    found = authorize(*login(attest(SESSION)), service=WEB)
    assert [link.issuer for link in found.chain] == [ALICE.did, ACCOUNT, SPACE.did]


def test_a_token_that_grants_nothing_stands_beside_an_attestation() -> None:
    nothing = token.issue(WEB, ALICE.did, [], expires=None)
    authorize(*login(nothing, attest(SESSION)), service=WEB)


def test_an_attestation_may_come_from_whom_the_service_lets_attest() -> None:
    right = grant(WEB, BOB, Claim("ucan/*", WEB.did.text))
    by_bob = attest(SESSION, issuer=BOB, proofs=[right])
    assert authorize(*login(by_bob, extra=[right]), service=WEB)
    refused(InvalidClaim, *login(attest(SESSION, issuer=BOB)), service=WEB)
    for wrong in (
        grant(WEB, BOB, Claim("ucan/attest", WEB.did.text, {"proof": ROOT.cid})),
        grant(WEB, BOB, Claim("ucan/revoke", WEB.did.text)),
        grant(MALLORY, BOB, Claim("ucan/*", WEB.did.text)),
    ):
        refused(
            UnknownKey,
            *login(attest(SESSION, issuer=BOB, proofs=[wrong]), extra=[wrong]),
            service=WEB,
        )


def test_an_attestation_may_itself_be_attested() -> None:
    office = DID.parse("did:mailto:example.com:office")
    right = token.issue(WEB, office, [Claim("ucan/attest", WEB.did.text)], expires=None)
    by_office = token.issue(
        office,
        ALICE.did,
        [Claim("ucan/attest", WEB.did.text, {"proof": SESSION.cid})],
        expires=None,
        proofs=[right.cid],
    )
    asked = login(by_office, attest(by_office), extra=[right])
    assert authorize(*asked, service=WEB)
    refused(UnknownKey, *login(by_office, extra=[right]), service=WEB)


@pytest.mark.parametrize(
    "attestation",
    [
        attest(ROOT),
        attest(SESSION, audience=BOB),
        attest(SESSION, issuer=MALLORY),
        attest(SESSION, issuer=MALLORY.named(WEB.did)),
        attest(SESSION, expires=NOW),
        attest(SESSION, not_before=NOW),
        grant(WEB, ALICE, Claim("ucan/attest", MALLORY.did.text, {"proof": SESSION.cid})),
        grant(WEB, ALICE, Claim("ucan/attest", "ucan:*", {"proof": SESSION.cid})),
        grant(WEB, ALICE, Claim("ucan/attest", WEB.did.text, {"proof": str(SESSION.cid)})),
        grant(WEB, ALICE, Claim("ucan/attest", WEB.did.text)),
        grant(WEB, ALICE, Claim("ucan/*", WEB.did.text, {"proof": SESSION.cid})),
        grant(
            WEB,
            ALICE,
            Claim("upload/list", WEB.did.text),
            Claim("ucan/attest", WEB.did.text, {"proof": SESSION.cid}),
        ),  # ucanto goes by the first claim
        grant(
            WEB,
            ALICE,
            Claim("ucan/attest", WEB.did.text, {"proof": ROOT.cid}),
            Claim("ucan/revoke", WEB.did.text, {"proof": SESSION.cid}),
        ),
        grant(MALLORY, ALICE, Claim("ucan/attest", MALLORY.did.text, {"proof": SESSION.cid})),
    ],
)
def test_an_attestation_that_does_not_hold_opens_nothing(attestation: Token) -> None:
    refused(UnknownKey, *login(attestation), service=WEB)


@pytest.mark.parametrize(
    "other",
    [
        Claim("upload/list", WEB.did.text),
        Claim("ucan/attest", WEB.did.text, {"proof": ROOT.cid}),
        Claim("ucan/attest", MALLORY.did.text, {"proof": SESSION.cid}),
    ],
)
def test_one_token_may_attest_several_things(other: Claim) -> None:
    first = Claim("ucan/attest", WEB.did.text, {"proof": SECOND.cid})
    right = Claim("ucan/attest", WEB.did.text, {"proof": SESSION.cid})
    assert authorize(*login(grant(WEB, ALICE, first, other, right)), service=WEB)


def test_without_an_attestation_an_account_grants_nothing() -> None:
    refused(UnknownKey, *login(), service=WEB)


def test_an_attestation_counts_only_beside_what_it_attests() -> None:
    attestation = attest(SESSION, audience=BOB)
    second = grant(ALICE, BOB, Claim("*", "ucan:*"), proofs=[SESSION])
    asked = ask(BOB, second, attestation, audience=WEB)
    proofs = [second, SESSION, SPACE_TO_ACCOUNT, attestation]
    refused(UnknownKey, asked, *proofs, service=WEB)
    beside = attest(SESSION)
    good = grant(ALICE, BOB, Claim("*", "ucan:*"), proofs=[SESSION, beside])
    assert authorize(
        ask(BOB, good, audience=WEB), good, SESSION, SPACE_TO_ACCOUNT, beside, service=WEB
    )


def test_one_place_without_an_attestation_does_no_harm_to_another() -> None:
    attestation = attest(SESSION)
    without = grant(ALICE, BOB, Claim("*", "ucan:*"), proofs=[SESSION])
    beside = grant(ALICE, BOB, Claim("*", "ucan:*"), proofs=[SESSION, attestation])
    proofs = [SESSION, SPACE_TO_ACCOUNT, attestation, without, beside]
    found = authorize(ask(BOB, without, beside, audience=WEB), *proofs, service=WEB)
    assert found.chain[1].token == beside.cid


@pytest.mark.parametrize("issuer", [SPACE, WEB])
def test_an_attestation_stands_for_no_signature_of_a_key_or_of_the_service(issuer: Signer) -> None:
    made = grant(issuer, ALICE, Claim("fail/hard", issuer.did.text))
    for root, good in ((made, True), (token.decode(None, forged(made, MALLORY)), False)):
        attestation = attest(root)
        asked = ask(ALICE, root, attestation, claims=root.capabilities, audience=WEB)
        if good:
            assert by_name(asked, root, attestation)
        else:
            with pytest.raises(InvalidClaim) as caught:
                by_name(asked, root, attestation)
            assert InvalidSignature in {type(each) for each in caught.value.causes}


def by_name(asked: Token, *proofs: Token) -> Authorization:
    """Asked of a service that knows its own key as others do."""
    return validator.authorize(
        asked,
        blocks_of(*proofs),
        service=WEB.did,
        capabilities=CAPABILITIES,
        now=NOW,
        resolver=lambda did: [WEB.key] if did == WEB.did else [],
    )


def test_an_attestation_does_not_extend_the_time_of_what_it_attests() -> None:
    short = token.issue(
        ACCOUNT, ALICE.did, [Claim("*", "ucan:*")], expires=NOW, proofs=[SPACE_TO_ACCOUNT.cid]
    )
    proofs = [short, attest(short), SPACE_TO_ACCOUNT]
    refused(Expired, ask(ALICE, *proofs[:2], audience=WEB), *proofs, service=WEB)


def test_attestations_of_attestations_are_bounded() -> None:
    """The session is attested by an office, which is attested by another; the last by us."""
    for count in (LIMITS.proof_chain - 2, LIMITS.proof_chain - 1, LIMITS.proof_chain, 40):
        made, rights = [SESSION], []
        for number in range(count):
            office = DID.parse(f"did:mailto:example.com:o{number}")
            right = token.issue(WEB, office, [Claim("ucan/attest", WEB.did.text)], expires=None)
            nb = {"proof": made[-1].cid}
            one = Claim("ucan/attest", WEB.did.text, nb)
            made.append(token.issue(office, ALICE.did, [one], expires=None, proofs=[right.cid]))
            rights.append(right)
        asked = login(*made[1:], attest(made[-1]), extra=rights)
        if count < LIMITS.proof_chain:
            assert authorize(*asked, service=WEB)
        else:
            refused(LimitExceeded, *asked, service=WEB)
            resolved: list[DID] = []
            asked = login(*made[1:], extra=rights)
            refused(LimitExceeded, *asked, service=WEB, resolver=resolved.append)
            assert resolved == []  # what is past the bound is not looked at


def test_to_look_for_attestations_takes_steps() -> None:
    """One for each proof, and for each that no key has signed another for each beside it."""
    fit = int(LIMITS.items**0.5) - 1
    assert fit + fit**2 <= LIMITS.items < fit + 1 + (fit + 1) ** 2
    for count, error in ((fit - 1, InvalidClaim), (fit, InvalidClaim), (fit + 1, LimitExceeded)):
        proofs = [grant(ACCOUNT, ALICE, nonce=str(number)) for number in range(count)]
        assert type(refused(error, ask(ALICE, *proofs), *proofs)[0]) is error


def test_each_claim_of_an_attestation_takes_a_step() -> None:
    def steps(others: int) -> int:
        reading = Reading(Verified())
        claims = [Claim("ucan/attest", WEB.did.text, {"proof": ROOT.cid})] * others
        right = Claim("ucan/attest", WEB.did.text, {"proof": SESSION.cid})
        authorize(*login(grant(WEB, ALICE, *claims, right)), service=WEB, cache=reading)
        return reading.steps

    assert steps(9) == steps(0) + 9


def test_the_proofs_of_an_attestation_are_bounded_as_others_are() -> None:
    for length in (LIMITS.proof_chain - 2, LIMITS.proof_chain - 1):
        right = chain(length, WEB, Claim("ucan/attest", WEB.did.text))
        by_alice = attest(SESSION, issuer=ALICE, proofs=right[-1:])
        assert authorize(*login(by_alice, extra=right), service=WEB)
    right = chain(LIMITS.proof_chain, WEB, Claim("ucan/attest", WEB.did.text))
    by_alice = attest(SESSION, issuer=ALICE, proofs=right[-1:])
    refused(LimitExceeded, *login(by_alice, extra=right), service=WEB)


# Revocation


def revoking(*pairs: tuple[Token, Signer | DID]) -> Callable[[CID], Collection[DID]]:
    scopes: dict[CID, set[DID]] = {}
    for one, who in pairs:
        scopes.setdefault(one.cid, set()).add(who if isinstance(who, DID) else who.did)
    return lambda cid: scopes.get(cid, ())


@pytest.mark.parametrize(
    ("revoked", "by", "counts"),
    [
        (ROOT, SPACE, True),
        (ROOT, ALICE, True),
        (ROOT, BOB, False),
        (ROOT, MALLORY, False),
        (SECOND, SPACE, True),
        (SECOND, ALICE, True),
        (SECOND, BOB, True),
        (SECOND, CAROL, False),
        (THIRD, SPACE, True),
        (THIRD, CAROL, True),
        (THIRD, MALLORY, False),
        (THIRD, SERVICE, False),
    ],
)
def test_a_revocation_counts_if_made_by_somebody_upstream(
    revoked: Token, by: Signer, counts: bool
) -> None:
    asked = ask(CAROL, THIRD)
    options: dict[str, Any] = {"revoked": revoking((revoked, by))}
    if counts:
        found = refused(Revoked, asked, *CHAIN, **options)
        assert any(isinstance(each, Revoked) and each.token == revoked.cid for each in found)
    else:
        assert authorize(asked, *CHAIN, **options)


def test_an_invocation_itself_may_be_revoked() -> None:
    asked, alone = ask(CAROL, THIRD), ask(SPACE)
    for by in (CAROL, SERVICE, SPACE):
        refused(Revoked, asked, *CHAIN, revoked=revoking((asked, by)))
    refused(Revoked, alone, revoked=revoking((alone, SPACE)))
    assert authorize(asked, *CHAIN, revoked=revoking((asked, MALLORY)))


def test_another_path_is_taken_where_one_was_revoked() -> None:
    other = grant(SPACE, ALICE, nonce="other")
    asked = ask(ALICE, ROOT, other)
    found = authorize(asked, ROOT, other, revoked=revoking((ROOT, SPACE)))
    assert found.chain[1].token == other.cid
    refused(Revoked, asked, ROOT, other, revoked=revoking((ROOT, SPACE), (other, SPACE)))


def test_what_was_proved_beside_a_revoked_proof_stays_proved() -> None:
    other = grant(BOB, CAROL, proofs=[SECOND], nonce="other")
    asked = ask(CAROL, THIRD, other)
    found = authorize(asked, *CHAIN, other, revoked=revoking((THIRD, BOB)))
    assert [link.token for link in found.chain[1:]] == [other.cid, SECOND.cid, ROOT.cid]


def test_a_revocation_of_what_is_not_used_changes_nothing() -> None:
    other = grant(SPACE, ALICE, nonce="other")
    assert authorize(ask(ALICE, ROOT), ROOT, other, revoked=revoking((other, SPACE)))


def test_a_revoked_attestation_attests_nothing() -> None:
    attestation = attest(SESSION)
    options: dict[str, Any] = {"service": WEB, "revoked": revoking((attestation, WEB))}
    refused(Revoked, *login(attestation), **options)
    options = {"service": WEB, "revoked": revoking((attestation, MALLORY))}
    assert authorize(*login(attestation), **options)


# Size of proof


@pytest.mark.parametrize("length", [LIMITS.proof_chain - 1, LIMITS.proof_chain])
def test_a_chain_up_to_the_bound_is_followed(length: int) -> None:
    proofs = chain(length)
    assert len(authorize(ask(ALICE, proofs[-1]), *proofs).chain) == length + 1


@pytest.mark.parametrize("length", [LIMITS.proof_chain + 1, 200])
def test_a_chain_past_the_bound_is_refused(length: int) -> None:
    proofs = chain(length)
    refused(LimitExceeded, ask(ALICE, proofs[-1]), *proofs)


def cpu(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def test_a_chain_of_a_thousand_costs_no_more_than_one_of_seventeen() -> None:
    proofs = chain(1_000)
    asked = ask(ALICE, proofs[-1])
    assert cpu(lambda: refused(LimitExceeded, asked, *proofs)) < 0.1


def test_a_diamond_of_shared_proofs_is_walked_once() -> None:
    """Layers of proofs, each listing all of the layer below: 10**14 paths, none to the space."""
    width, layers = 10, 14
    people = [Signer.from_seed(bytes((0, number)) + bytes(30)) for number in range(layers + 1)]
    made: list[list[Token]] = []
    for issuer, audience in pairwise(people):
        below = made[-1] if made else []
        layer = [
            grant(issuer, audience, proofs=below, nonce=str(number)) for number in range(width)
        ]
        made.append(layer)
    asked = ask(people[layers], *made[-1])
    everything = [one for layer in made for one in layer]
    found: list[StmflowError] = []
    assert cpu(lambda: found.extend(refused(InvalidClaim, asked, *everything))) < 1
    assert len(found) < 2_000
    error = found[0]
    assert isinstance(error, CapabilityError)
    assert len(list(explain(error))) == len(found)


def test_a_thousand_proofs_that_are_not_used_are_refused_at_once() -> None:
    many = [grant(SPACE, ALICE, nonce=str(number)) for number in range(LIMITS.request_blocks + 1)]
    asked = ask(ALICE, *many)
    assert cpu(lambda: refused(LimitExceeded, asked, *many)) < 0.1
    links = [CID.of(b"%d" % number) for number in range(1_000)]
    asked = token.issue(ALICE, SERVICE.did, [claim(link=LINK, size=1)], expires=None, proofs=links)
    refused(LimitExceeded, asked)


def test_as_many_proofs_as_a_request_carries_are_looked_at() -> None:
    many = [grant(MALLORY, ALICE, nonce=str(number)) for number in range(LIMITS.request_blocks - 1)]
    assert authorize(ask(ALICE, *many, ROOT), *many, ROOT)
    refused(InvalidClaim, ask(ALICE, *many), *many)


def test_a_proof_is_listed_no_more_often_than_a_request_has_blocks() -> None:
    for times in (LIMITS.request_blocks - 1, LIMITS.request_blocks):
        assert authorize(ask(ALICE, *[ROOT] * times), ROOT)
    refused(LimitExceeded, ask(ALICE, *[ROOT] * (LIMITS.request_blocks + 1)), ROOT)


def test_more_proofs_in_all_than_a_request_carries_are_refused() -> None:
    lower = [grant(MALLORY, BOB, nonce=str(number)) for number in range(LIMITS.request_blocks)]
    for more, error in ((-1, InvalidClaim), (0, InvalidClaim), (1, LimitExceeded)):
        below = lower[: LIMITS.request_blocks - 2 + more]
        upper = [grant(BOB, ALICE, proofs=below, nonce=nonce) for nonce in ("one", "two")]
        found = refused(error, ask(ALICE, *upper), *upper, *below)
        assert type(found[0]) is error


def test_capabilities_without_end_are_refused() -> None:
    """Each of many capabilities asks for something a little else of the proof above."""
    many = [claim("store/add", size=1_000 + number) for number in range(1_000)]
    root = grant(MALLORY, ALICE, *many)
    second = grant(ALICE, BOB, *many, proofs=[root])
    asked = ask(BOB, second)
    assert cpu(lambda: refused(LimitExceeded, asked, root, second)) < 0.5


@pytest.mark.parametrize(
    ("size_bytes", "counts"),
    [(100, 1), (1_023, 1), (1_024, 2), (2_047, 2), (2_048, 3), (LIMITS.arguments_bytes, 17)],
)
def test_claims_that_limit_count_by_their_bytes_up_to_a_bound(size_bytes: int, counts: int) -> None:
    """None of them grants what is asked; each has to be held against it."""
    large = limiting(size_bytes)
    many = min(120, LIMITS.request_blocks // counts)
    small = LIMITS.request_blocks - many * counts
    for more, error in ((-1, InvalidClaim), (0, InvalidClaim), (1, LimitExceeded)):
        root = grant(SPACE, ALICE, *[large] * many, *[limiting(50)] * (small + more))
        found = refused(error, ask(ALICE, root, claims=[claim("store/list")]), root)
        assert type(found[0]) is error


def limiting(size_bytes: int) -> Claim:
    """A claim whose caveats take so many bytes."""
    header = 10 if size_bytes < 256 else 11
    limits = {"cursor": "x" * (size_bytes - header)}
    assert len(codec.encode(limits)) == size_bytes
    return claim("store/list", **limits)


def test_claims_that_limit_nothing_are_not_counted() -> None:
    root = grant(MALLORY, ALICE, *[claim("store/*")] * (LIMITS.request_blocks + 1))
    assert type(refused(InvalidClaim, ask(ALICE, root), root)[0]) is InvalidClaim


def test_a_claim_that_limits_is_held_once_against_what_is_asked() -> None:
    """However often it is listed."""
    root = grant(SPACE, ALICE, *[claim("store/add", size=1)] * LIMITS.request_blocks)
    assert type(refused(InvalidClaim, ask(ALICE, root, root), root)[0]) is InvalidClaim


def test_the_caveats_of_a_proof_are_as_small_as_arguments() -> None:
    limit = LIMITS.arguments_bytes
    for size, large in ((limit - 1, False), (limit, False), (limit + 1, True)):
        root = grant(SPACE, ALICE, limiting(size))
        found = refused(InvalidClaim, ask(ALICE, root, claims=[claim("store/list")]), root)
        assert any("fixes caveats of" in str(each) for each in found) is large


def test_as_many_capabilities_as_the_bound_are_looked_at_and_one_more_is_not() -> None:
    others = [Claim("a/b", "ucan:*")] * LIMITS.items
    for count in (LIMITS.items - 3, LIMITS.items - 2):  # one step for the link, one for the last
        root = grant(SPACE, ALICE, *others[:count], claim("store/*"))
        assert authorize(ask(ALICE, root), root)
    root = grant(SPACE, ALICE, *others[: LIMITS.items - 1], claim("store/*"))
    refused(LimitExceeded, ask(ALICE, root), root)


def test_the_invocations_of_a_message_share_the_steps() -> None:
    reading = Reading(Verified())
    reading.steps = LIMITS.items - 5
    for left in (3, 1):  # one step for the link, one for its claim
        assert authorize(ask(ALICE, ROOT), ROOT, cache=reading)
        assert reading.steps == LIMITS.items - left
    refused(LimitExceeded, ask(ALICE, ROOT), ROOT, cache=reading)


# Any chain at all, against a validator that is obvious


@st.composite
def cases(draw: st.DrawFn) -> tuple[Token, list[Token], bool]:
    """A chain, perhaps spoiled at some hops, and whether it still grants what is asked."""
    people = [SPACE, ALICE, BOB, CAROL]
    length = draw(st.integers(1, 3))
    size = draw(st.integers(0, 3))
    spoil = st.sampled_from(["", "", "", "", "issuer", "audience", "time", "early", "can", "with"])
    made: list[Token] = []
    good, limit = True, 10
    for number in range(length):
        how = draw(spoil)
        fixed = draw(st.none() | st.integers(0, 4))
        good = good and not how and (fixed is None or fixed <= limit)
        limit = limit if fixed is None else fixed
        commands = ["store/list", "upload/*"] if how == "can" else ["*", "store/*", "store/add"]
        spaces: list[Signer | str] = [OTHER] if how == "with" else [SPACE, "ucan:*"]
        one = claim(
            draw(st.sampled_from(commands)),
            draw(st.sampled_from(spaces)),
            **({} if fixed is None else {"size": fixed}),
        )
        made.append(
            grant(
                OTHER if how == "issuer" else people[number],
                MALLORY if how == "audience" else people[number + 1],
                one,
                proofs=made[-1:],
                expires=NOW if how == "time" else None,
                not_before=NOW if how == "early" else None,
            )
        )
    asked = ask(people[length], made[-1], claims=[claim(link=LINK, size=size)])
    return asked, made, good and size <= limit


@given(cases())
def test_a_chain_grants_what_every_hop_of_it_grants(case: tuple[Token, list[Token], bool]) -> None:
    asked, proofs, good = case
    try:
        found = authorize(asked, *proofs)
    except (CapabilityError, CodecError):
        assert not good
    else:
        assert good
        assert len(found.chain) == len(proofs) + 1
