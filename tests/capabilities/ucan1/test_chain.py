"""Who may what: the checks of an invocation and its proofs, one attack each."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capabilities import ucan1
from capabilities.authorization import Link, explain
from capabilities.definition import Capability
from capabilities.did import DID
from capabilities.principal import Signer
from capabilities.ucan1 import (
    Delegation,
    Invocation,
    Verified,
    delegation,
    envelope,
    invocation,
)
from stmflow.cid import CID, RAW
from stmflow.errors import (
    CapabilityError,
    Expired,
    HashMismatch,
    InvalidAudience,
    InvalidClaim,
    InvalidSignature,
    InvalidSubject,
    LimitExceeded,
    MalformedBlock,
    MatchError,
    Revoked,
    StmflowError,
    TooEarly,
    UnavailableProof,
    UnknownCommand,
    UnknownKey,
)
from stmflow.limits import LIMITS
from tests.capabilities.ucan1.tokens import (
    ALICE,
    BOB,
    CAPABILITIES,
    CAROL,
    MALLORY,
    NONCE,
    NOW,
    SERVICE,
    SPACE,
    ask,
    authorize,
    forged,
    grant,
)

ROOT = grant(SPACE, ALICE)
SECOND = grant(ALICE, BOB)
THIRD = grant(BOB, CAROL)
CHAIN = [ROOT, SECOND, THIRD]


def refused(error: type[StmflowError], *args: Any, token: Any = ..., **options: Any) -> str:
    with pytest.raises(error) as caught:
        authorize(*args, **options)
    assert type(caught.value) is error
    if token is not ...:
        assert isinstance(caught.value, CapabilityError)
        assert caught.value.token == token.cid
    return str(caught.value)


# What is allowed


def test_the_subject_may_ask_for_itself() -> None:
    token = ask(SPACE)
    found = authorize(token)
    assert found.invocation == token.cid
    assert (found.issuer, found.audience, found.subject) == (SPACE.did, SERVICE.did, SPACE.did)
    assert found.command == "store/add"
    assert found.arguments.size == 100
    assert found.delivery == token.delivery_id
    assert found.expires == NOW + 61
    assert found.chain == (Link(token.cid, SPACE.did, SERVICE.did),)


def test_a_chain_is_told_from_the_invocation_to_the_root() -> None:
    token = ask(CAROL, CHAIN)
    found = authorize(token, CHAIN)
    assert found.issuer == CAROL.did
    assert found.chain == (
        Link(token.cid, CAROL.did, SERVICE.did),
        Link(THIRD.cid, BOB.did, CAROL.did),
        Link(SECOND.cid, ALICE.did, BOB.did),
        Link(ROOT.cid, SPACE.did, ALICE.did),
    )


def test_an_invocation_is_given_as_bytes_or_decoded_or_by_its_cid() -> None:
    token = ask(ALICE, [ROOT])
    blocks = {token.cid: token.data, ROOT.cid: ROOT.data}
    answers = [
        ucan1.authorize(
            form, blocks, service=SERVICE.did, capabilities=CAPABILITIES, now=NOW
        ).invocation
        for form in (token, token.data, token.cid)
    ]
    assert answers == [token.cid] * 3


def test_powerlines_stand_for_the_subject_behind_the_root() -> None:
    proofs = [ROOT, grant(ALICE, BOB, subject=None), grant(BOB, CAROL, subject=None)]
    assert authorize(ask(CAROL, proofs), proofs).subject == SPACE.did


def test_a_proof_that_the_issuer_grants_itself_does_no_harm() -> None:
    proofs = [grant(SPACE, SPACE), grant(SPACE, SPACE), ROOT]
    assert authorize(ask(ALICE, proofs), proofs)


def test_proofs_of_the_subject_itself_are_not_looked_at() -> None:
    token = ask(SPACE, [grant(MALLORY, BOB)] * 100)
    assert authorize(token).chain[1:] == ()


def test_unused_proofs_are_not_looked_at() -> None:
    others = [b"not a token %d" % number for number in range(1_000)]
    started = time.perf_counter()
    assert authorize(ask(ALICE, [ROOT]), [ROOT, *others])
    assert time.perf_counter() - started < 1


def test_a_grant_of_everything_covers_any_command() -> None:
    proofs = [grant(SPACE, ALICE, command="/"), grant(ALICE, BOB, command="/upload")]
    assert authorize(ask(BOB, proofs, command="/upload/add"), proofs)


def test_arguments_are_what_the_definition_reads() -> None:
    class Sized:
        def about(self, resource: str) -> DID:
            return DID.parse(resource)

        def read(self, arguments: Mapping[str, Any], *, text_links: bool) -> int:
            if type(arguments.get("size")) is not int:
                raise InvalidClaim("no size", causes=[InvalidClaim("none at all")])
            return int(arguments["size"])

    def run(token: Invocation) -> Any:
        sized = {"store/add": Sized()}
        return ucan1.authorize(token, {}, service=SERVICE.did, capabilities=sized, now=NOW)

    assert run(ask(SPACE)).arguments == 100
    bad = ask(SPACE, arguments={})
    with pytest.raises(InvalidClaim) as caught:
        run(bad)
    assert caught.value.token == bad.cid
    assert list(explain(caught.value)) == ["InvalidClaim: no size", "  InvalidClaim: none at all"]


def test_a_link_may_be_text_in_the_arguments() -> None:
    @dataclass(frozen=True)
    class Linked:
        link: CID

    for link in (ROOT.cid, str(ROOT.cid)):
        found = ucan1.authorize(
            ask(SPACE, arguments={"link": link}),
            {},
            service=SERVICE.did,
            capabilities={"store/add": Capability("store/add", Linked)},
            now=NOW,
        )
        assert found.arguments == Linked(ROOT.cid)


def test_a_subject_of_another_kind_than_the_definition_asks_for_is_refused() -> None:
    named = SPACE.named("did:web:example.com")
    token = ask(named, subject=named)

    def run(subject: Any) -> Any:
        return ucan1.authorize(
            token,
            {},
            service=SERVICE.did,
            capabilities={"store/add": Capability("store/add", subject=subject)},
            now=NOW,
            resolver=lambda did: [SPACE.key],
        )

    assert run("did").subject == named.did
    with pytest.raises(InvalidClaim):
        run("did:key")


# Time


@pytest.mark.parametrize("number", range(4))
def test_a_token_holds_up_to_the_second_of_its_expiry(number: int) -> None:
    tokens = [
        grant(issuer, audience, expires=NOW if index == number else None)
        for index, (issuer, audience) in enumerate([(SPACE, ALICE), (ALICE, BOB), (BOB, CAROL)])
    ]
    token = ask(CAROL, tokens, expires=NOW if number == 3 else None)
    for now in (NOW - 1, NOW):
        assert authorize(token, tokens, now=now).expires == NOW + 1
    refused(Expired, token, tokens, now=NOW + 1, token=[*tokens, token][number])


@pytest.mark.parametrize("first", range(3))
def test_what_is_authorized_ends_with_the_first_of_its_tokens(first: int) -> None:
    ends = [NOW + 10 if number == first else NOW + 20 + number for number in range(3)]
    proofs = [grant(SPACE, ALICE, expires=ends[0]), grant(ALICE, BOB, expires=ends[1])]
    assert authorize(ask(BOB, proofs, expires=ends[2]), proofs).expires == NOW + 11


@pytest.mark.parametrize("number", range(3))
def test_a_proof_holds_from_the_second_of_its_start(number: int) -> None:
    tokens = [
        grant(issuer, audience, not_before=NOW if index == number else None)
        for index, (issuer, audience) in enumerate([(SPACE, ALICE), (ALICE, BOB), (BOB, CAROL)])
    ]
    for now in (NOW, NOW + 1):
        assert authorize(ask(CAROL, tokens), tokens, now=now)
    refused(TooEarly, ask(CAROL, tokens), tokens, now=NOW - 1, token=tokens[number])


def test_a_token_without_expiry_never_expires() -> None:
    proofs = [grant(SPACE, ALICE, expires=None)]
    assert authorize(ask(ALICE, proofs, expires=None), proofs, now=2**53 - 1).expires is None


@pytest.mark.parametrize("expires", [0, -1, -(2**53) + 1])
def test_an_expiry_at_or_before_1970_has_passed(expires: int) -> None:
    refused(Expired, ask(SPACE, expires=expires))


def test_a_time_between_start_and_an_earlier_end_never_comes() -> None:
    proofs = [grant(SPACE, ALICE, expires=NOW, not_before=NOW + 10)]
    for now, error in ((NOW, TooEarly), (NOW + 5, Expired), (NOW + 10, Expired)):
        refused(error, ask(ALICE, proofs), proofs, now=now)


@pytest.mark.parametrize("expires", [..., 1.5, float(NOW + 60), True, "1", 2**53, 2**63 - 1])
def test_an_expiry_that_is_no_time_is_malformed(expires: Any) -> None:
    for token, proofs in ((ask(SPACE), []), (ROOT, [ROOT])):
        bad = forged(token, SPACE, exp=expires)
        error = LimitExceeded if type(expires) is int else MalformedBlock
        if proofs:
            asked = invocation.issue(
                ALICE,
                subject=SPACE.did,
                command="/store/add",
                arguments={},
                audience=SERVICE.did,
                proofs=[CID.of(bad)],
                nonce=NONCE,
                expires=None,
            )
            refused(error, asked, [bad])
        else:
            refused(error, bad)


# Audience and subject


def test_an_invocation_for_another_service_is_refused() -> None:
    token = ask(SPACE, audience=BOB)
    refused(InvalidAudience, token, token=token)
    assert authorize(token, service=BOB.did)


def test_an_audience_that_only_starts_like_ours_is_refused() -> None:
    service = DID.parse("did:web:example.com")
    token = ask(SPACE, audience=SERVICE.named("did:web:example.com.evil.test"))
    refused(InvalidAudience, token, service=service)
    refused(InvalidAudience, ask(SPACE, audience=SERVICE.named("did:web:example")), service=service)


def test_without_an_audience_the_subject_is_asked() -> None:
    token = ask(ALICE, [ROOT], audience=None)
    assert authorize(token, [ROOT], service=SPACE.did).audience == SPACE.did
    refused(InvalidAudience, token, [ROOT])


def test_the_name_of_another_audience_counts_though_the_subject_be_us() -> None:
    refused(InvalidAudience, ask(ALICE, [ROOT], audience=BOB), [ROOT], service=SPACE.did)


def test_a_proof_for_somebody_else_is_refused() -> None:
    refused(InvalidAudience, ask(MALLORY, [ROOT]), [ROOT], token=ROOT)


def test_a_gap_in_the_chain_is_refused() -> None:
    proofs = [ROOT, THIRD]
    refused(InvalidAudience, ask(CAROL, proofs), proofs, token=ROOT)


@pytest.mark.parametrize("order", [(2, 1, 0), (0, 2, 1), (1, 0, 2), (0, 0, 1, 2), (0, 1, 1, 2)])
def test_proofs_in_another_order_or_twice_are_refused(order: tuple[int, ...]) -> None:
    proofs = [CHAIN[index] for index in order]
    with pytest.raises((InvalidAudience, InvalidSubject)):
        authorize(ask(CAROL, proofs), proofs)


def test_an_unrelated_proof_in_the_list_is_refused() -> None:
    proofs = [ROOT, grant(MALLORY, MALLORY, subject=MALLORY)]
    refused(InvalidSubject, ask(ALICE, proofs), proofs)


def test_a_subject_that_changes_midway_is_refused() -> None:
    other = grant(ALICE, BOB, subject=ALICE)
    refused(InvalidSubject, ask(BOB, [ROOT, other]), [ROOT, other], token=other)
    refused(InvalidSubject, ask(BOB, [ROOT, SECOND], subject=ALICE), [ROOT, SECOND], token=ROOT)


def test_a_root_that_its_subject_did_not_issue_is_refused() -> None:
    root = grant(MALLORY, ALICE)
    refused(InvalidSubject, ask(ALICE, [root]), [root], token=root)


def test_a_powerline_is_no_root() -> None:
    for issuer in (SPACE, MALLORY):
        root = grant(issuer, ALICE, subject=None)
        refused(InvalidClaim, ask(ALICE, [root]), [root], token=root)


def test_without_a_proof_nobody_asks_for_another() -> None:
    token = ask(MALLORY)
    refused(InvalidClaim, token, token=token)


def test_a_missing_proof_is_named() -> None:
    refused(UnavailableProof, ask(BOB, [ROOT, SECOND]), [SECOND], token=ROOT)
    refused(UnavailableProof, ask(BOB, [ROOT, SECOND]), [ROOT], token=SECOND)


def test_an_invocation_that_is_not_among_the_blocks_is_unavailable() -> None:
    with pytest.raises(UnavailableProof):
        ucan1.authorize(ROOT.cid, {}, service=SERVICE.did, capabilities=CAPABILITIES, now=NOW)


# Escalation


@pytest.mark.parametrize(
    ("granted", "asked"),
    [
        ("/store/add", "/store/addition"),
        ("/store/add", "/store/list"),
        ("/store", "/upload/add"),
        ("/stor", "/store/add"),
        ("/store/add/now", "/store/add"),
        ("/upload", "/store/add"),
        ("/%73tore", "/store/add"),
        ("/ѕtore", "/store/add"),
        ("/store/..", "/store/add"),
    ],
)
def test_a_command_outside_the_granted_one_is_refused(granted: str, asked: str) -> None:
    root = grant(SPACE, ALICE, command=granted)
    token = ask(ALICE, [root], command=asked)
    refused(InvalidClaim, token, [root], token=token)
    proofs = [root, grant(ALICE, BOB, command=asked)]
    refused(InvalidClaim, ask(BOB, proofs, command=asked), proofs, token=proofs[1])


def test_a_wider_command_further_down_is_refused_even_if_not_asked_for() -> None:
    proofs = [grant(SPACE, ALICE, command="/store/add"), grant(ALICE, BOB, command="/store")]
    refused(InvalidClaim, ask(BOB, proofs), proofs, token=proofs[1])
    proofs[1] = grant(ALICE, BOB, command="/", subject=None)
    refused(InvalidClaim, ask(BOB, proofs), proofs, token=proofs[1])


@pytest.mark.parametrize(
    "command", ["/store/remove", "/store/add/twice", "/store/..", "/store", "/"]
)
def test_a_command_that_is_not_provided_is_refused(command: str) -> None:
    refused(UnknownCommand, ask(SPACE, command=command))


@pytest.mark.parametrize("command", ["/Store/Add", "/store/add/", "/store//add", "store/add"])
def test_a_command_that_is_none_is_malformed(command: str) -> None:
    refused(MalformedBlock, forged(ask(SPACE), SPACE, cmd=command))


@pytest.mark.parametrize("number", range(3))
def test_every_policy_on_the_way_counts(number: int) -> None:
    limit = [["<=", ".size", 99]]
    proofs = [
        grant(issuer, audience, statements=limit if index == number else [])
        for index, (issuer, audience) in enumerate([(SPACE, ALICE), (ALICE, BOB), (BOB, CAROL)])
    ]
    message = refused(MatchError, ask(CAROL, proofs), proofs, token=proofs[number])
    assert "['<=', '.size', 99]" in message
    assert authorize(ask(CAROL, proofs, arguments={"size": 99}), proofs)


def test_a_policy_cannot_be_widened_or_dropped_further_down() -> None:
    for statements in ([], [["<=", ".size", 10**6]], [["or", []]]):
        proofs = [
            grant(SPACE, ALICE, statements=[["<=", ".size", 99]]),
            grant(ALICE, BOB, statements=statements),
        ]
        refused(MatchError, ask(BOB, proofs), proofs, token=proofs[0])


def test_an_argument_that_a_policy_did_not_see_is_seen() -> None:
    root = grant(SPACE, ALICE, statements=[["==", ".", {"size": 100}]])
    assert authorize(ask(ALICE, [root]), [root])
    refused(MatchError, ask(ALICE, [root], arguments={"size": 100, "x": 1}), [root])


@pytest.mark.parametrize("form", [CID, str])
@pytest.mark.parametrize("asked", [CID, str])
def test_a_link_that_a_policy_forbids_is_not_asked_for_as_text(form: Any, asked: Any) -> None:
    """Nor the other way round: a command takes a link in either form."""
    link = CID.of(b"forbidden")
    written, sent = (each(link) if each is str else link for each in (form, asked))
    for statement in (["!=", ".link", written], ["not", ["any", ".several", ["==", ".", written]]]):
        root = grant(SPACE, ALICE, statements=[statement])
        arguments = {"link": sent, "several": [sent]}
        refused(MatchError, ask(ALICE, [root], arguments=arguments), [root])
    root = grant(SPACE, ALICE, statements=[["==", ".link", written]])
    assert authorize(ask(ALICE, [root], arguments={"link": sent}), [root])


def test_an_argument_that_a_policy_needs_may_not_be_missing() -> None:
    root = grant(SPACE, ALICE, statements=[["!=", ".size", 1]])
    refused(MatchError, ask(ALICE, [root], arguments={}), [root], token=root)


def test_a_malformed_policy_is_refused_wherever_it_stands() -> None:
    bad = forged(ROOT, SPACE, pol=[["or", [["and", []], ["~=", ".a", 1]]]])
    token = forged(ask(ALICE, [ROOT]), ALICE, prf=[CID.of(bad)])
    refused(MalformedBlock, token, [bad])


def test_all_policies_together_take_a_bounded_number_of_steps() -> None:
    slow = [["all", ".l", ["!=", ".", 1]]]
    signers = [SPACE, *(Signer.from_seed(bytes((100 + n,)) * 32) for n in range(16))]
    proofs = [grant(issuer, audience, statements=slow) for issuer, audience in pairwise(signers)]
    arguments = {"l": [0] * 1_100}
    token = ask(signers[16], proofs, arguments=arguments)
    refused(LimitExceeded, token, proofs)
    few = proofs[:3]
    assert authorize(ask(signers[3], few, arguments=arguments), few)


# Signatures


@pytest.mark.parametrize("number", range(3))
def test_a_proof_signed_by_another_is_refused(number: int) -> None:
    proofs: list[Delegation | bytes] = [*CHAIN]
    bad = forged(CHAIN[number], MALLORY)
    proofs[number] = bad
    links = [CID.of(each if isinstance(each, bytes) else each.data) for each in proofs]
    token = forged(ask(CAROL, CHAIN), CAROL, prf=links)
    refused(InvalidSignature, token, proofs, token=delegation.decode(bad))


def test_an_invocation_signed_by_another_is_refused_before_anything_else() -> None:
    data = forged(ask(SPACE, audience=BOB, expires=0), MALLORY)
    refused(InvalidSignature, data, token=invocation.decode(data))


def test_a_delegation_is_not_invoked_and_an_invocation_proves_nothing() -> None:
    refused(InvalidSignature, grant(SPACE, SERVICE).data)
    asked = ask(SPACE, audience=ALICE)
    token = forged(ask(ALICE, [ROOT]), ALICE, prf=[asked.cid])
    refused(InvalidSignature, token, [asked.data])


def test_a_delegation_that_is_cached_is_not_invoked_either() -> None:
    cache = Verified()
    assert authorize(ask(ALICE, [ROOT]), [ROOT], cache=cache)
    refused(InvalidSignature, ROOT.data, cache=cache)
    asked = ask(SPACE, audience=ALICE)
    cache.add(asked, SPACE.did)
    token = forged(ask(ALICE, [ROOT]), ALICE, prf=[asked.cid])
    refused(InvalidSignature, token, [asked.data], cache=cache)


def test_the_same_key_signs_nothing_here_by_signing_elsewhere() -> None:
    """What ucanto signs is text; a signature on that is none on the bytes of a token."""
    token = ask(SPACE)
    text = SPACE.sign(b"eyJhbGciOiJFZERTQSJ9.e30")
    refused(InvalidSignature, forged(token, SPACE, signature=text))


def test_a_key_that_is_only_resolved_is_asked_for() -> None:
    name = DID.parse("did:web:example.com")
    named = SPACE.named(name)
    token = ask(named, subject=named)
    refused(UnknownKey, token)
    refused(UnknownKey, token, resolver=lambda did: [])
    refused(InvalidSignature, token, resolver=lambda did: [MALLORY.key])
    for keys in ([SPACE.key], [MALLORY.key, SPACE.key]):
        assert authorize(token, resolver=lambda did, keys=keys: keys if did == name else [])


def test_a_key_that_is_no_longer_resolved_is_not_remembered() -> None:
    named = SPACE.named("did:web:example.com")
    token = ask(named, subject=named)
    cache = Verified()
    assert authorize(token, cache=cache, resolver=lambda did: [SPACE.key])
    refused(InvalidSignature, token, cache=cache, resolver=lambda did: [MALLORY.key])
    refused(UnknownKey, token, cache=cache)


# Revocation


def by(*names: Signer, of: Delegation | Invocation) -> Callable[[CID], Collection[DID]]:
    return lambda cid: {each.did for each in names} if cid == of.cid else ()


@pytest.mark.parametrize(
    ("revoked", "by_whom"),
    [
        (ROOT, [SPACE]),
        (SECOND, [ALICE]),
        (SECOND, [SPACE]),
        (THIRD, [BOB]),
        (THIRD, [ALICE]),
        (THIRD, [SPACE]),
        (THIRD, [MALLORY, ALICE]),
    ],
)
def test_an_issuer_revokes_what_rests_on_its_grant(
    revoked: Delegation, by_whom: list[Signer]
) -> None:
    token = ask(CAROL, CHAIN)
    refused(Revoked, token, CHAIN, revoked=by(*by_whom, of=revoked), token=revoked)


@pytest.mark.parametrize(
    ("revoked", "by_whom"),
    [(ROOT, ALICE), (ROOT, MALLORY), (SECOND, BOB), (SECOND, CAROL), (THIRD, CAROL), (ROOT, BOB)],
)
def test_nobody_else_revokes(revoked: Delegation, by_whom: Signer) -> None:
    assert authorize(ask(CAROL, CHAIN), CHAIN, revoked=by(by_whom, of=revoked))


def test_an_invocation_is_revoked_by_its_issuer_and_those_above() -> None:
    token = ask(BOB, CHAIN[:2])
    for signer in (BOB, ALICE, SPACE):
        refused(Revoked, token, CHAIN, revoked=by(signer, of=token), token=token)
    assert authorize(token, CHAIN, revoked=by(MALLORY, of=token))
    alone = ask(SPACE)
    refused(Revoked, alone, revoked=by(SPACE, of=alone), token=alone)


def test_the_revocation_of_another_token_is_ignored() -> None:
    other = grant(SPACE, ALICE, nonce=b"another")
    assert authorize(ask(ALICE, [ROOT]), [ROOT], revoked=by(SPACE, of=other))


def test_revocation_is_asked_for_though_all_is_cached() -> None:
    cache = Verified()
    token = ask(ALICE, [ROOT])
    assert authorize(token, [ROOT], cache=cache)
    refused(Revoked, token, [ROOT], cache=cache, revoked=by(SPACE, of=ROOT))


# Size, and blocks that are not what they are called


def long_chain(count: int) -> tuple[Invocation, list[Delegation]]:
    signers = [SPACE, *(Signer.from_seed(bytes((50 + n,)) * 32) for n in range(count))]
    proofs = [grant(one, two) for one, two in pairwise(signers)]
    return ask(signers[count], proofs), proofs


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_the_length_of_a_chain_is_bounded(more: int) -> None:
    token, proofs = long_chain(LIMITS.proof_chain + more)
    if more > 0:
        refused(LimitExceeded, token, proofs)
    else:
        assert len(authorize(token, proofs).chain) == len(proofs) + 1


def test_a_thousand_proofs_are_refused_before_any_is_looked_for() -> None:
    class Asked(dict[CID, bytes]):
        def get(self, *_: object) -> Any:
            raise AssertionError("a proof was looked for")

    token = forged(ask(ALICE), ALICE, prf=[ROOT.cid] * 1_000)
    with pytest.raises(LimitExceeded):
        ucan1.authorize(token, Asked(), service=SERVICE.did, capabilities=CAPABILITIES, now=NOW)


def test_a_block_under_another_cid_is_refused() -> None:
    wider = grant(SPACE, MALLORY, command="/")
    token = ask(ALICE, [ROOT])
    for cache in (None, Verified()):
        with pytest.raises(HashMismatch):
            ucan1.authorize(
                token,
                {ROOT.cid: wider.data},
                service=SERVICE.did,
                capabilities=CAPABILITIES,
                now=NOW,
                cache=cache,
            )
    with pytest.raises(HashMismatch):
        ucan1.authorize(
            token.cid,
            {token.cid: ask(SPACE).data},
            service=SERVICE.did,
            capabilities=CAPABILITIES,
            now=NOW,
        )


def test_the_same_bytes_under_another_codec_are_another_block() -> None:
    raw = CID.of(ROOT.data, RAW)
    token = forged(ask(ALICE), ALICE, prf=[raw])
    with pytest.raises(HashMismatch):
        ucan1.authorize(
            token,
            {raw: ROOT.data},
            service=SERVICE.did,
            capabilities=CAPABILITIES,
            now=NOW,
        )


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 100, b"\x82\x40\xa0"])
def test_a_proof_that_is_no_token_is_malformed(data: bytes) -> None:
    token = forged(ask(ALICE), ALICE, prf=[CID.of(data)])
    refused(MalformedBlock, token, [data])


# The cache


def test_what_is_cached_is_not_read_or_verified_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def verify(*_: object) -> None:
        raise AssertionError("a signature was verified, or a token decoded")

    cache = Verified()
    token = ask(CAROL, CHAIN)
    first = authorize(token, CHAIN, cache=cache)
    assert len(cache) == 4
    assert all(cache.key(each.cid) == each.issuer for each in CHAIN)
    assert cache.key(token.cid) == CAROL.did
    monkeypatch.setattr(envelope, "verify", verify)
    monkeypatch.setattr(delegation, "decode", verify)
    monkeypatch.setattr(invocation, "decode", verify)
    assert authorize(token, CHAIN, cache=cache) == first
    with pytest.raises(AssertionError):
        authorize(token, CHAIN)


def test_one_key_of_several_that_is_remembered_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    named = SPACE.named("did:web:example.com")
    token = ask(named, subject=named)
    cache = Verified()
    keys = [MALLORY.key, SPACE.key]
    assert authorize(token, cache=cache, resolver=lambda did: keys)
    monkeypatch.delattr(envelope, "verify")
    assert authorize(token, cache=cache, resolver=lambda did: keys)


def test_time_and_audience_are_judged_though_all_is_cached() -> None:
    cache = Verified()
    token = ask(CAROL, CHAIN)
    assert authorize(token, CHAIN, cache=cache)
    refused(Expired, token, CHAIN, cache=cache, now=NOW + 61)
    refused(InvalidAudience, token, CHAIN, cache=cache, service=BOB.did)


def test_a_proof_that_is_cached_still_has_to_be_sent() -> None:
    cache = Verified()
    token = ask(ALICE, [ROOT])
    assert authorize(token, [ROOT], cache=cache)
    refused(UnavailableProof, token, cache=cache)


def test_what_is_not_signed_is_not_cached() -> None:
    cache = Verified()
    refused(InvalidSignature, forged(ask(SPACE), MALLORY), cache=cache)
    assert len(cache) == 0


# Any chain, against a model of the rules

PEOPLE = [SPACE, ALICE, BOB]
people = st.sampled_from(PEOPLE)
commands = st.sampled_from(["/", "/store", "/store/add", "/store/addition"])
times = st.sampled_from([None, NOW - 1, NOW, NOW + 1])


@st.composite
def proofs_of(draw: st.DrawFn) -> list[dict[str, Any]]:
    """A good chain, of which up to three fields are then changed."""
    count = draw(st.integers(0, 3))
    passing = [SPACE, *draw(st.lists(people, min_size=count, max_size=count))]
    chain: list[dict[str, Any]] = [
        {
            "issuer": passing[index],
            "audience": passing[index + 1],
            "subject": SPACE if index == 0 else draw(st.sampled_from([SPACE, None])),
            "command": draw(st.sampled_from(["/", "/store"])) if index == 0 else "/store",
            "statements": draw(st.sampled_from([[], [["<=", ".size", 100]]])),
            "expires": draw(st.sampled_from([None, NOW])),
            "not_before": draw(st.sampled_from([None, NOW])),
            "signer": passing[index],
        }
        for index in range(count)
    ]
    chain.append({"issuer": passing[-1], "signer": passing[-1], "subject": SPACE})
    choices: dict[str, st.SearchStrategy[Any]] = {
        "issuer": people,
        "audience": people,
        "signer": people,
        "command": commands,
        "subject": st.sampled_from([*PEOPLE, None]),
        "expires": times,
        "not_before": times,
        "statements": st.sampled_from([[], [["<", ".size", 100]]]),
    }
    for _ in range(draw(st.integers(0, 3))):
        entry = draw(st.sampled_from(chain))
        key = draw(st.sampled_from(sorted(entry.keys() & choices.keys())))
        entry[key] = draw(choices[key])
    chain[-1]["subject"] = chain[-1]["subject"] or SPACE
    return chain


def model(chain: list[dict[str, Any]]) -> bool:
    """The rules again, written from the specification."""
    *proofs, asked = chain
    good = [each["issuer"] is each["signer"] for each in chain]
    if asked["issuer"] is asked["subject"]:
        return good[-1]
    if not proofs or proofs[0]["subject"] is None or proofs[0]["issuer"] is not asked["subject"]:
        return False
    path = ["store", "add"]
    for each, following in reversed(list(zip(proofs, chain[1:], strict=True))):
        outer = [part for part in each["command"].split("/") if part]
        good += [
            each["audience"] is following["issuer"],
            each["subject"] in (None, asked["subject"]),
            each["expires"] in (None, NOW, NOW + 1),
            each["not_before"] in (None, NOW, NOW - 1),
            path[: len(outer)] == outer,
            each["statements"] != [["<", ".size", 100]],
        ]
        path = outer
    return all(good)


@settings(max_examples=150)
@given(proofs_of())
def test_a_chain_is_accepted_exactly_when_the_model_accepts_it(chain: list[dict[str, Any]]) -> None:
    proofs = []
    for fields in chain[:-1]:
        kept = {key: value for key, value in fields.items() if key not in ("signer", "issuer")}
        good = grant(fields["issuer"], kept.pop("audience"), **kept)
        proofs.append(delegation.decode(forged(good, fields["signer"])))
    last = chain[-1]
    asked = forged(ask(last["issuer"], proofs, subject=last["subject"]), last["signer"])
    if model(chain):
        assert authorize(asked, proofs).subject == last["subject"].did
    else:
        with pytest.raises(CapabilityError) as caught:
            authorize(asked, proofs)
        assert caught.value.token is not None
