"""Attacks with tokens of UCAN 1.0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from capabilities.did import base58
from capabilities.ucan1 import Delegation, envelope, varsig
from capabilities.ucanto import receipt
from stmflow import codec
from stmflow.cid import CID
from tests.attack.attack import several, ucan1
from tests.attack.tokens0 import ANYBODYS, IDENTITY, ORDER_2, L
from tests.attack.world import pack
from tests.capabilities.ucan1.tokens import (
    ALICE,
    BOB,
    CAROL,
    MALLORY,
    NOW,
    SERVICE,
    SPACE,
    ask,
    forged,
    grant,
)
from tests.capabilities.ucanto.tokens import LINK, OTHER

ARGUMENTS = {"link": LINK, "size": 100}
ROOT = grant(SPACE, ALICE)
SECOND = grant(ALICE, BOB)
ASK = ask(ALICE, [ROOT], arguments=ARGUMENTS)


def asked(*proofs: Delegation, by: Any = ALICE, **options: Any) -> bytes:
    """The body that asks for store/add over these proofs."""
    options = {"arguments": ARGUMENTS, **options}
    return pack(ask(by, proofs, **options), *proofs)


# --- time ---------------------------------------------------------------------------------------


@ucan1("time", "Expired")
def expired_a_second_ago() -> bytes:
    return asked(ROOT, expires=NOW - 1)


@ucan1("time", "Expired")
def expires_before_1970() -> bytes:
    return asked(ROOT, expires=-1)


@ucan1("time", "Expired")
def a_proof_that_expired_before_the_invocation() -> bytes:
    return asked(grant(SPACE, ALICE, expires=NOW - 1))


@ucan1("time", "NotValidBefore")
def a_proof_that_is_not_valid_yet() -> bytes:
    return asked(grant(SPACE, ALICE, not_before=NOW + 1))


@ucan1("time", "NotValidBefore")
def a_proof_that_begins_after_its_end() -> bytes:
    return asked(grant(SPACE, ALICE, not_before=NOW + 20, expires=NOW + 10))


def _invocation(**fields: Any) -> bytes:
    return pack(forged(ASK, ALICE, **fields), ROOT)


several(
    "ucan1",
    "time",
    "MalformedBlock",
    expiry_left_out=lambda: _invocation(exp=...),
    expiry_a_float=lambda: _invocation(exp=NOW + 30.0),
    expiry_text=lambda: _invocation(exp="soon"),
    expiry_true=lambda: _invocation(exp=True),
    a_beginning_that_is_a_float=lambda: _with(forged(ROOT, SPACE, nbf=1.0)),
)
several(
    "ucan1",
    "time",
    "LimitExceeded",
    expiry_of_2_to_the_53=lambda: _invocation(exp=2**53),
)


def _with(*proofs: bytes, by: Any = ALICE, **options: Any) -> bytes:
    """The body that asks over these blocks."""
    made = ask(by, arguments={**ARGUMENTS, **options})
    return pack(forged(made, by, prf=[CID.of(each) for each in proofs]), *proofs)


# --- audience and chain ---------------------------------------------------------------------------


@ucan1("audience and chain", "InvalidAudience")
def addressed_to_another_service() -> bytes:
    return asked(ROOT, audience=OTHER)


@ucan1("audience and chain", "InvalidAudience")
def addressed_to_the_space_for_want_of_an_audience() -> bytes:
    return asked(ROOT, audience=None)


@ucan1("audience and chain", "InvalidAudience")
def a_proof_given_to_somebody_else() -> bytes:
    return asked(ROOT, by=MALLORY)


@ucan1("audience and chain", "InvalidAudience")
def a_gap_in_the_chain() -> bytes:
    return asked(ROOT, grant(BOB, CAROL), by=CAROL)


@ucan1("audience and chain", "InvalidSubject")
def a_chain_in_the_wrong_order() -> bytes:
    return asked(SECOND, ROOT, by=BOB)


@ucan1("audience and chain", "InvalidAudience")
def a_proof_listed_twice() -> bytes:
    made = ask(ALICE, [ROOT, ROOT], arguments=ARGUMENTS)
    return pack(made, ROOT)


@ucan1("audience and chain", "InvalidAudience")
def an_unrelated_proof_behind_the_chain() -> bytes:
    return asked(ROOT, grant(CAROL, MALLORY))


@ucan1("audience and chain", "InvalidClaim")
def no_proof() -> bytes:
    return asked()


@ucan1("audience and chain", "UnavailableProof")
def a_proof_that_did_not_come_along() -> bytes:
    return pack(ASK)


@ucan1("audience and chain", "UnavailableProof")
def a_root_that_did_not_come_along() -> bytes:
    return pack(ask(BOB, [ROOT, SECOND], arguments=ARGUMENTS), SECOND)


@ucan1("audience and chain", "InvalidSubject")
def the_subject_changes_midway() -> bytes:
    return asked(ROOT, grant(ALICE, BOB, subject=OTHER), by=BOB)


@ucan1("audience and chain", "InvalidSubject")
def a_chain_about_another_space() -> bytes:
    return asked(grant(OTHER, ALICE, subject=OTHER))


@ucan1("audience and chain", "InvalidSubject")
def the_root_is_not_issued_by_the_subject() -> bytes:
    return asked(grant(MALLORY, ALICE))


@ucan1("audience and chain", "InvalidClaim")
def a_powerline_for_a_root() -> bytes:
    return asked(grant(MALLORY, ALICE, subject=None))


@ucan1("audience and chain", "MalformedBlock")
def an_invocation_about_nobody() -> bytes:
    return _invocation(sub=None)


# --- escalation -----------------------------------------------------------------------------------

several(
    "ucan1",
    "escalation",
    "HandlerNotFound",
    a_longer_command=lambda: asked(ROOT, command="/store/addition"),
    the_command_above=lambda: asked(ROOT, command="/store"),
    all_commands=lambda: asked(grant(SPACE, ALICE, command="/"), command="/"),
    dots_in_the_command=lambda: asked(ROOT, command="/store/../store/add"),
    a_percent_sign_in_the_command=lambda: asked(ROOT, command="/store%2fadd"),
    a_command_with_a_look_alike=lambda: asked(ROOT, command="/store/аdd"),
    a_pattern_for_a_command=lambda: asked(ROOT, command="/store/*"),
    the_inside_event_expire=lambda: asked(ROOT, command="/store/expire"),
    the_inside_event_exceed=lambda: asked(ROOT, command="/store/exceed"),
    the_inside_event_receive=lambda: asked(ROOT, command="/store/receive"),
    the_inside_event_put=lambda: asked(ROOT, command="/store/put"),
)
several(
    "ucan1",
    "escalation",
    "MalformedBlock",
    a_command_in_upper_case=lambda: _invocation(cmd="/Store/Add"),
    a_slash_behind_the_command=lambda: _invocation(cmd="/store/add/"),
    two_slashes_in_the_command=lambda: _invocation(cmd="/store//add"),
    a_command_without_a_slash=lambda: _invocation(cmd="store/add"),
    a_policy_left_out=lambda: _with(forged(ROOT, SPACE, pol=...)),
    a_policy_that_is_a_map=lambda: _with(forged(ROOT, SPACE, pol={})),
    an_unknown_statement=lambda: _with(forged(ROOT, SPACE, pol=[["=~", ".size", 1]])),
    a_statement_of_true_for_a_number=lambda: _with(forged(ROOT, SPACE, pol=[["<", ".size", True]])),
)
several(
    "ucan1",
    "escalation",
    "InvalidClaim",
    a_command_that_the_proof_begins=lambda: asked(grant(SPACE, ALICE, command="/store/a")),
    a_command_beside_the_proof=lambda: asked(grant(SPACE, ALICE, command="/store/list")),
    a_command_above_the_proof=lambda: asked(grant(SPACE, ALICE, command="/store/add/small")),
    a_command_widened_on_the_way=lambda: asked(
        grant(SPACE, ALICE, command="/store/list"), grant(ALICE, BOB, command="/"), by=BOB
    ),
    a_proof_whose_star_is_no_pattern=lambda: asked(grant(SPACE, ALICE, command="/store/*")),
    a_size_below_nothing=lambda: asked(ROOT, arguments={**ARGUMENTS, "size": -1}),
    a_size_that_is_text=lambda: asked(ROOT, arguments={**ARGUMENTS, "size": "100"}),
    a_size_that_is_a_float=lambda: asked(ROOT, arguments={**ARGUMENTS, "size": 100.0}),
    no_size=lambda: asked(ROOT, arguments={"link": LINK}),
    no_arguments=lambda: asked(ROOT, arguments={}),
)


def _policy(*statements: Any, **arguments: Any) -> bytes:
    given = {**ARGUMENTS, **arguments}
    return asked(grant(SPACE, ALICE, statements=statements), arguments=given)


def _on_the_way(first: Sequence[Any], second: Sequence[Any]) -> bytes:
    return asked(
        grant(SPACE, ALICE, statements=first), grant(ALICE, BOB, statements=second), by=BOB
    )


several(
    "ucan1",
    "escalation",
    "MatchError",
    more_than_the_policy_allows=lambda: _policy(["<", ".size", 100]),
    a_policy_dropped_on_the_way=lambda: _on_the_way([["<", ".size", 100]], []),
    a_policy_widened_on_the_way=lambda: _on_the_way([["<", ".size", 100]], [["<", ".size", 1_000]]),
    an_argument_that_the_policy_did_not_see=lambda: _policy(["==", ".", ARGUMENTS], extra=1),
    the_text_1_for_the_number_1=lambda: _policy(["==", ".n", 1], n="1"),
    true_for_the_number_1=lambda: _policy(["==", ".n", 1], n=True),
    text_in_an_inequality=lambda: _policy(["<", ".n", 5], n="1"),
    a_missing_key=lambda: _policy(["==", ".missing", None]),
    a_missing_key_that_must_not_be_something=lambda: _policy(["!=", ".missing", 1]),
    an_escaped_star_against_other_text=lambda: _policy(["like", ".t", r"a\*"], t="abc"),
    a_star_that_does_not_reach=lambda: _policy(["like", ".t", "a*c"], t="abcd"),
    a_number_against_a_glob=lambda: _policy(["like", ".size", "*"]),
    a_byte_of_a_byte_string=lambda: _policy(["==", ".b[0]", 2], b=b"\x01\x02"),
    a_negative_index_before_the_start=lambda: _policy(["==", ".l[-3]", 1], l=[1, 2]),
    all_of_something_that_is_no_list=lambda: _policy(["all", ".size", ["==", ".", 1]]),
    any_of_a_list_without_it=lambda: _policy(["any", ".l", ["==", ".", 3]], l=[1, 2]),
    not_of_something_that_holds=lambda: _policy(["not", ["and", []]]),
    not_of_an_empty_or_which_holds=lambda: _policy(["not", ["or", []]]),
    not_of_any_over_nothing_which_holds=lambda: _policy(
        ["not", ["any", ".l", ["==", ".", 1]]], l=[]
    ),
)
several(
    "ucan1",
    "escalation",
    "LimitExceeded",
    a_policy_of_65_statements=lambda: _with(forged(ROOT, SPACE, pol=[["==", ".a", 1]] * 65)),
    a_policy_nine_deep=lambda: _with(forged(ROOT, SPACE, pol=[_nots(9)])),
    a_glob_of_nine_stars=lambda: _with(forged(ROOT, SPACE, pol=[["like", ".a", "*a" * 9]])),
    a_selector_of_17_segments=lambda: _with(forged(ROOT, SPACE, pol=[["==", ".a" * 17, 1]])),
    a_policy_of_too_many_steps=lambda: _steps(),
)


def _nots(depth: int) -> list[Any]:
    made: list[Any] = ["==", ".a", 1]
    for _ in range(depth - 1):
        made = ["not", made]
    return made


def _steps() -> bytes:
    inner: list[Any] = ["not", ["==", ".", 1]]
    return _policy(["all", ".l", ["all", ".", ["and", [inner] * 20]]], l=[[0] * 30] * 200)


# --- identity -------------------------------------------------------------------------------------


def _weak(point: bytes) -> str:
    return "did:key:z" + base58(b"\xed\x01" + point)


several(
    "ucan1",
    "identity",
    "WeakKey",
    the_identity_for_a_key=lambda: _invocation(iss=_weak(IDENTITY), signature=ANYBODYS),
    a_key_of_order_2=lambda: _invocation(iss=_weak(ORDER_2), signature=ANYBODYS),
    the_identity_for_a_space=lambda: _invocation(sub=_weak(IDENTITY)),
    the_identity_for_an_audience_of_a_proof=lambda: _with(forged(ROOT, SPACE, aud=_weak(IDENTITY))),
)
several(
    "ucan1",
    "identity",
    "DIDKeyResolutionError",
    a_method_in_upper_case=lambda: _invocation(iss=ALICE.did.text.replace("key", "KEY")),
    a_fragment_behind_the_name=lambda: _invocation(iss=f"{ALICE.did}#{ALICE.did.text[8:]}"),
    a_path_behind_the_name=lambda: _invocation(iss=f"{ALICE.did}/path"),
    base58_in_another_form=lambda: _invocation(iss=ALICE.did.text.replace(":z", ":z1")),
    another_base=lambda: _invocation(iss=f"did:key:f{ALICE.did.raw.hex()}"),
    a_web_name_that_nobody_resolves=lambda: asked(ROOT, by=ALICE.named("did:web:a.example")),
    an_unknown_kind_of_key=lambda: _invocation(
        iss="did:key:z" + base58(b"\xec\x01" + ALICE.did.raw[2:])
    ),
)


# --- signature ------------------------------------------------------------------------------------


def _kept(**fields: Any) -> bytes:
    """The invocation with other fields, under the old signature."""
    return _invocation(signature=ASK.envelope.signature, **fields)


def _sealed(signature: bytes) -> bytes:
    return _invocation(signature=signature)


def _raw() -> bytes:
    return ASK.envelope.signature


several(
    "ucan1",
    "signature",
    "InvalidSignature",
    another_issuer=lambda: _kept(iss=BOB.did.text),
    another_subject=lambda: _kept(sub=OTHER.did.text),
    another_command=lambda: _kept(cmd="/store/list"),
    other_arguments=lambda: _kept(args={**ARGUMENTS, "size": 1}),
    other_proofs=lambda: _kept(prf=[ROOT.cid, SECOND.cid]),
    another_nonce=lambda: _kept(nonce=b"another"),
    another_expiry=lambda: _kept(exp=NOW + 61),
    a_field_that_was_not_signed=lambda: _kept(meta={"a": 1}),
    one_bit_of_the_signature=lambda: _sealed(bytes((_raw()[0] ^ 1,)) + _raw()[1:]),
    no_signature_bytes=lambda: _sealed(b""),
    a_signature_of_63_bytes=lambda: _sealed(_raw()[:-1]),
    a_signature_of_65_bytes=lambda: _sealed(_raw() + b"\0"),
    s_plus_the_order=lambda: _sealed(
        _raw()[:32] + (int.from_bytes(_raw()[32:], "little") + L).to_bytes(32, "little")
    ),
    a_signature_by_another_key=lambda: pack(forged(ASK, MALLORY), ROOT),
    a_signature_of_the_other_family=lambda: _sealed(ALICE.sign(b"eyJ.eyJ")),
    the_header_of_another_algorithm=lambda: _invocation(header=varsig.encode("ES256")),
    the_old_header=lambda: _invocation(header=bytes.fromhex("34ed0171")),
    an_empty_header=lambda: _invocation(header=b""),
    two_headers_in_one=lambda: _invocation(header=varsig.header(ALICE.verifier) * 2),
    a_header_of_another_encoding=lambda: _invocation(header=ALICE.verifier.varsig + b"\x55"),
    a_proof_with_a_bad_signature=lambda: _with(forged(ROOT, MALLORY)),
    an_unknown_version=lambda: _invocation(tag="ucan/inv@2.0.0"),
    another_protocol=lambda: _invocation(tag="other/inv@1.0.0"),
)


# --- size of proof --------------------------------------------------------------------------------


@ucan1("size of proof", "LimitExceeded")
def a_chain_of_17_proofs() -> bytes:
    made = [ROOT, *(grant(ALICE, ALICE, nonce=bytes((number,))) for number in range(16))]
    return asked(*made)


@ucan1("size of proof", "LimitExceeded")
def a_chain_of_1000_proofs() -> bytes:
    blocks = [CID.of(number.to_bytes(2, "big")) for number in range(1_000)]
    return pack(forged(ASK, ALICE, prf=blocks))


@ucan1("size of proof", "LimitExceeded")
def arguments_of_more_than_16_kib() -> bytes:
    return _invocation(args={**ARGUMENTS, "extra": bytes(16 * 1024)})


@ucan1("size of proof", "UnavailableProof")
def a_token_that_proves_itself() -> bytes:
    return pack(forged(ASK, ALICE, prf=[CID.of(b"a name given beforehand")]))


# --- confusion ------------------------------------------------------------------------------------


@ucan1("confusion", "InvalidSignature")
def a_delegation_as_an_invocation() -> bytes:
    return pack(grant(SPACE, SERVICE, command="/store/add").data)


@ucan1("confusion", "InvalidSignature")
def an_invocation_tagged_as_a_delegation() -> bytes:
    proof = ask(SPACE, arguments=ARGUMENTS, audience=ALICE)
    return _with(_tagged(proof.envelope.payload | {"pol": []}, proof.envelope.signature))


def _tagged(payload: dict[str, Any], signature: bytes) -> bytes:
    content = {"h": varsig.header(SPACE.verifier), f"ucan/dlg@{envelope.VERSION}": payload}
    return codec.encode([signature, content])


@ucan1("confusion", "MalformedBlock")
def two_invocations_in_one_container() -> bytes:
    return pack(ASK, ask(SPACE, arguments=ARGUMENTS).data)


@ucan1("confusion", "MalformedBlock")
def a_container_without_an_invocation() -> bytes:
    return pack(ROOT.data, SECOND)


@ucan1("confusion", "MalformedBlock")
def a_receipt_as_an_invocation() -> bytes:
    return pack(receipt.issue(SERVICE, ASK.cid, {"ok": {}}).data, ROOT)


@ucan1("confusion", "DIDKeyResolutionError")
def a_space_that_is_no_key() -> bytes:
    web = SPACE.named("did:web:space.example")
    return asked(grant(web, ALICE, subject=web), subject=web)


@ucan1("confusion", "DIDKeyResolutionError")
def the_cid_of_a_job_for_a_space() -> bytes:
    return _invocation(sub=str(LINK))


@ucan1("confusion", "InvalidAudience")
def an_invocation_for_the_test_service() -> bytes:
    return asked(ROOT, audience=SERVICE.named("did:web:staging.example"))
