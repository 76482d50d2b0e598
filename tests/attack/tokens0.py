"""Attacks with tokens of the ucanto family."""

from __future__ import annotations

from typing import Any

from capabilities.did import base58
from capabilities.principal import Signer
from capabilities.ucanto import receipt
from capabilities.ucanto import token as tokens
from capabilities.ucanto.token import Claim, Token
from stmflow import codec
from stmflow.cid import CID
from tests.attack.attack import several, ucanto
from tests.attack.world import car, message_of, post
from tests.capabilities.ucanto.tokens import (
    ACCOUNT,
    ALICE,
    BOB,
    CAROL,
    LINK,
    MALLORY,
    NOW,
    OTHER,
    SERVICE,
    SPACE,
    ask,
    chain,
    claim,
    forged,
    grant,
)

ROOT = grant(SPACE, ALICE)
SECOND = grant(ALICE, BOB, proofs=[ROOT])
ASK = ask(ALICE, ROOT)
L = 2**252 + 27742317777372353535851937790883648493


# --- time ---------------------------------------------------------------------------------------


@ucanto("time", "Expired")
def expired_in_this_very_second() -> bytes:
    return post(ask(ALICE, ROOT, expires=NOW), ROOT)


@ucanto("time", "Expired")
def expired_a_second_ago() -> bytes:
    return post(ask(ALICE, ROOT, expires=NOW - 1), ROOT)


@ucanto("time", "Expired")
def expires_before_1970() -> bytes:
    return post(ask(ALICE, ROOT, expires=-1), ROOT)


@ucanto("time", "NotValidBefore")
def not_valid_before_the_next_second() -> bytes:
    return post(ask(ALICE, ROOT, not_before=NOW), ROOT)


@ucanto("time", "NotValidBefore")
def begins_after_its_end() -> bytes:
    return post(ask(ALICE, ROOT, not_before=NOW + 20, expires=NOW + 10), ROOT)


@ucanto("time", "Expired")
def a_proof_that_expired_before_the_invocation() -> bytes:
    old = grant(SPACE, ALICE, expires=NOW)
    return post(ask(ALICE, old), old)


@ucanto("time", "Expired")
def the_root_of_a_chain_has_expired() -> bytes:
    old = grant(SPACE, ALICE, expires=NOW - 1)
    second = grant(ALICE, BOB, proofs=[old])
    return post(ask(BOB, second), old, second)


@ucanto("time", "NotValidBefore")
def a_proof_that_is_not_valid_yet() -> bytes:
    early = grant(SPACE, ALICE, not_before=NOW)
    return post(ask(ALICE, early), early)


def _expires(**fields: Any) -> bytes:
    return post(forged(ASK, **fields), ROOT)


def _number_in_place_of_expiry(encoded: bytes) -> bytes:
    data = forged(ASK, exp=0x0123456789ABCDEF)
    return post(data.replace(bytes.fromhex("1b0123456789abcdef"), encoded), ROOT)


several(
    "ucanto",
    "time",
    "MalformedBlock",
    expiry_left_out=lambda: _expires(exp=...),
    expiry_a_float=lambda: _expires(exp=NOW + 30.5),
    expiry_text=lambda: _expires(exp=str(NOW + 30)),
    expiry_true=lambda: _expires(exp=True),
    expiry_a_bignum=lambda: _number_in_place_of_expiry(b"\xc2\x49\x01" + bytes(8)),
    not_before_a_float=lambda: _expires(nbf=1.5),
)
several(
    "ucanto",
    "time",
    "LimitExceeded",
    expiry_of_2_to_the_53=lambda: _expires(exp=2**53),
    expiry_of_2_to_the_64=lambda: _number_in_place_of_expiry(b"\x1b" + b"\xff" * 8),
)


# --- audience and chain ---------------------------------------------------------------------------


@ucanto("audience and chain", "InvalidAudience")
def addressed_to_another_service() -> bytes:
    return post(ask(ALICE, ROOT, audience=OTHER), ROOT)


@ucanto("audience and chain", "InvalidAudience")
def addressed_to_a_name_that_begins_with_ours() -> bytes:
    # A did:key has no longer name that is one; the longer name is a did:web of a stranger.
    near = SERVICE.named(f"did:web:{SERVICE.did.text.rpartition(':')[2].lower()}.example")
    return post(ask(ALICE, ROOT, audience=near), ROOT)


@ucanto("audience and chain", "InvalidAudience")
def a_proof_given_to_somebody_else() -> bytes:
    return post(ask(MALLORY, ROOT), ROOT)


@ucanto("audience and chain", "InvalidAudience")
def a_gap_in_the_chain() -> bytes:
    third = grant(BOB, CAROL, proofs=[ROOT])
    return post(ask(CAROL, third), ROOT, third)


@ucanto("audience and chain", "InvalidAudience")
def a_chain_in_the_wrong_order() -> bytes:
    upside_down = grant(SPACE, ALICE, proofs=[SECOND])
    return post(ask(BOB, upside_down), ROOT, SECOND, upside_down)


@ucanto("audience and chain", "InvalidClaim")
def no_proof() -> bytes:
    return post(ask(ALICE))


@ucanto("audience and chain", "UnavailableProof")
def a_proof_that_did_not_come_along() -> bytes:
    return post(ask(ALICE, ROOT))


@ucanto("audience and chain", "UnavailableProof")
def a_root_that_did_not_come_along() -> bytes:
    return post(ask(BOB, SECOND), SECOND)


@ucanto("audience and chain", "InvalidClaim")
def only_an_unrelated_proof() -> bytes:
    other = grant(OTHER, ALICE, claim("store/*", OTHER))
    return post(ask(ALICE, other), other)


@ucanto("audience and chain", "InvalidClaim")
def the_root_is_not_issued_by_the_space() -> bytes:
    root = grant(MALLORY, ALICE)
    return post(ask(ALICE, root), root)


@ucanto("audience and chain", "InvalidClaim")
def the_subject_changes_midway() -> bytes:
    second = grant(ALICE, BOB, claim("store/*", OTHER), proofs=[ROOT])
    asked = ask(BOB, second, claims=[claim(space=OTHER, link=LINK, size=100)])
    return post(asked, ROOT, second)


@ucanto("audience and chain", "InvalidClaim")
def everything_of_everybody_from_a_stranger() -> bytes:
    root = grant(MALLORY, ALICE, claim("*", "ucan:*"))
    return post(ask(ALICE, root), root)


# --- escalation -----------------------------------------------------------------------------------


def _can(can: str) -> bytes:
    asked = codec.decode(ASK.data)
    asked["att"][0]["can"] = can
    return post(forged(ASK, ALICE, att=asked["att"]) if _plain(can) else codec.encode(asked), ROOT)


def _plain(can: str) -> bool:
    try:
        forged(ASK, ALICE, att=[{"can": can, "with": SPACE.did.text}])
    except ValueError:
        return False
    return True


several(
    "ucanto",
    "escalation",
    "HandlerNotFound",
    a_longer_command=lambda: _can("store/addition"),
    a_slash_behind_the_command=lambda: _can("store/add/"),
    two_slashes_in_the_command=lambda: _can("store//add"),
    dots_in_the_command=lambda: _can("store/../store/add"),
    a_percent_sign_in_the_command=lambda: _can("store%2f/add"),
    a_pattern_for_a_command=lambda: _can("store/*"),
    a_star_for_a_command=lambda: _can("*"),
    the_inside_event_expire=lambda: _can("store/expire"),
    the_inside_event_exceed=lambda: _can("store/exceed"),
    the_inside_event_receive=lambda: _can("store/receive"),
    the_inside_event_put=lambda: _can("store/put"),
    the_name_of_a_workflow=lambda: _can("shelf/expire"),
    a_task_of_the_service=lambda: _can("blob/accept"),
)
several(
    "ucanto",
    "escalation",
    "MalformedBlock",
    a_command_in_upper_case=lambda: _can("Store/Add"),
    a_command_with_a_look_alike=lambda: _can("store/аdd"),
    a_command_in_wide_letters=lambda: _can("store/ａdd"),
    a_command_without_a_slash=lambda: _can("store"),
    a_command_with_a_space=lambda: _can("store/add "),
    an_integral_float_for_a_size=lambda: _nb(link=LINK, size=100.0),
)


def _nb(**nb: Any) -> bytes:
    att = [{"can": "store/add", "with": SPACE.did.text, "nb": nb}]
    try:
        return post(forged(ASK, ALICE, att=att), ROOT)
    except ValueError:
        return post(forged(ASK, att=att), ROOT)


several(
    "ucanto",
    "escalation",
    "InvalidClaim",
    a_size_below_nothing=lambda: _nb(link=LINK, size=-1),
    a_size_that_is_text=lambda: _nb(link=LINK, size="100"),
    a_size_that_is_true=lambda: _nb(link=LINK, size=True),
    a_size_with_a_fraction=lambda: _nb(link=LINK, size=99.5),
    no_size=lambda: _nb(link=LINK),
    a_link_that_is_text=lambda: _nb(link=str(LINK), size=100),
    no_arguments=lambda: _nb(),
)


def _proved(first: Claim, *second: Claim, **nb: Any) -> bytes:
    """Asked for over proofs with these claims."""
    root = grant(SPACE, ALICE, first)
    asked = claim(**{"link": LINK, "size": 100, **nb})
    if not second:
        return post(ask(ALICE, root, claims=[asked]), root)
    below = grant(ALICE, BOB, *second, proofs=[root])
    return post(ask(BOB, below, claims=[asked]), root, below)


several(
    "ucanto",
    "escalation",
    "InvalidClaim",
    another_command_than_the_proof=lambda: _proved(claim("store/list")),
    a_command_that_the_proof_begins=lambda: _proved(claim("store/a")),
    a_command_under_the_proof_by_letters=lambda: _proved(claim("store/a*")),
    a_command_above_the_proof=lambda: _proved(claim("store/add/small")),
    a_size_above_the_proof=lambda: _proved(claim("store/*", size=99)),
    another_link_than_the_proof=lambda: _proved(claim(link=CID.of(b"another"))),
    a_limit_dropped_on_the_way=lambda: _proved(claim("store/*", size=99), claim("store/*")),
    a_limit_widened_on_the_way=lambda: _proved(claim(size=99), claim(size=200)),
    a_limit_that_is_text=lambda: _proved(claim("store/*", size="1000")),
    a_limit_below_nothing=lambda: _proved(claim("store/*", size=-1)),
    a_proof_for_a_pattern_of_names=lambda: _proved(claim("store/*", "did:key:*")),
    a_proof_for_a_part_of_the_name=lambda: _proved(claim("store/*", SPACE.did.text[:-1] + "*")),
)


# --- identity -------------------------------------------------------------------------------------


def _issuer(raw: bytes, signature: bytes | None = None) -> bytes:
    fields: dict[str, Any] = {"iss": raw}
    if signature is not None:
        fields["s"] = b"\xed\xa1\x03\x40" + signature
    return post(forged(ASK, **fields), ROOT)


IDENTITY = bytes((1, *bytes(31)))
ORDER_2 = (2**255 - 20).to_bytes(32, "little")
ORDER_4 = bytes(32)
ORDER_8 = bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a")
NOT_REDUCED = (2**255 - 18).to_bytes(32, "little")  # the identity again, in another form
ANYBODYS = IDENTITY + bytes(32)  # R = identity, S = 0

several(
    "ucanto",
    "identity",
    "WeakKey",
    the_identity_for_a_key=lambda: _issuer(b"\xed\x01" + IDENTITY, ANYBODYS),
    a_key_of_order_2=lambda: _issuer(b"\xed\x01" + ORDER_2, ANYBODYS),
    a_key_of_order_4=lambda: _issuer(b"\xed\x01" + ORDER_4, ANYBODYS),
    a_key_of_order_8=lambda: _issuer(b"\xed\x01" + ORDER_8, ANYBODYS),
    the_identity_in_another_form=lambda: _issuer(b"\xed\x01" + NOT_REDUCED, ANYBODYS),
    a_point_off_the_curve=lambda: _issuer(b"\x80\x24\x02" + b"\xff" * 32),
    an_even_rsa_modulus=lambda: _issuer(b"\x85\x24" + _rsa(1 << 2047)),
    a_short_rsa_modulus=lambda: _issuer(b"\x85\x24" + _rsa((1 << 1023) + 1)),
)
several(
    "ucanto",
    "identity",
    "DIDKeyResolutionError",
    a_key_one_byte_short=lambda: _issuer(ALICE.did.raw[:-1]),
    a_key_one_byte_long=lambda: _issuer(ALICE.did.raw + b"\0"),
    an_unknown_kind_of_key=lambda: _issuer(b"\xec\x01" + ALICE.did.raw[2:]),
    a_kind_of_key_that_is_longer_than_it_has_to_be=lambda: _issuer(
        b"\xed\x81\x00" + ALICE.did.raw[2:]
    ),
    a_method_in_upper_case=lambda: _issuer(b"\x9d\x1aWEB:a.example"),
    a_fragment_behind_the_name=lambda: _issuer(b"\x9d\x1aweb:a.example#key"),
    a_key_named_as_text=lambda: _issuer(b"\x9d\x1akey:" + ALICE.did.text[8:].encode()),
    a_web_name_that_nobody_resolves=lambda: post(ask(ALICE.named("did:web:a.example"), ROOT), ROOT),
    an_account_without_an_attestation=lambda: _account(),
    a_key_of_a_curve_without_a_verifier=lambda: _issuer(b"\xea\x01" + bytes(48)),
)


def _rsa(modulus: int) -> bytes:
    """The DER of a PKCS#1 key with that modulus and the exponent 65537."""
    number = modulus.to_bytes(modulus.bit_length() // 8 + 1, "big")
    return _der(0x30, _der(0x02, number) + b"\x02\x03\x01\x00\x01")


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = bytes((0x81, size)) if size < 256 else b"\x82" + size.to_bytes(2, "big")
    return bytes((tag,)) + length + content


def _account() -> bytes:
    granted = grant(ACCOUNT, ALICE, claim("store/*", SPACE))
    return post(ask(ALICE, granted), granted)


def _resource(text: str) -> bytes:
    att = [{"can": "store/add", "with": text, "nb": {"link": LINK, "size": 100}}]
    return post(forged(ASK, ALICE, att=att), ROOT)


several(
    "ucanto",
    "identity",
    "InvalidClaim",
    a_fragment_behind_the_space=lambda: _resource(f"{SPACE.did}#key"),
    a_space_whose_method_is_in_upper_case=lambda: _resource(SPACE.did.text.replace("key", "KEY")),
    a_space_in_other_base58=lambda: _resource(
        SPACE.did.text.replace("did:key:z", "did:key:z1"),
    ),
    a_space_that_is_a_weak_key=lambda: _resource("did:key:z" + base58(b"\xed\x01" + IDENTITY)),
    a_space_that_is_no_key=lambda: _resource("did:web:space.example"),
    the_cid_of_a_job_for_a_space=lambda: _resource(f"ipfs://{LINK}"),
)


@ucanto("identity", "DIDKeyResolutionError")
def an_attestation_that_the_service_did_not_make() -> bytes:
    granted = grant(ACCOUNT, ALICE, claim("store/*", SPACE))
    attested = grant(MALLORY, ALICE, Claim("ucan/attest", SERVICE.did.text, {"proof": granted.cid}))
    return post(ask(ALICE, granted, attested), granted, attested)


@ucanto("identity", "DIDKeyResolutionError")
def an_attestation_of_another_token() -> bytes:
    granted = grant(ACCOUNT, ALICE, claim("store/*", SPACE))
    other = grant(ACCOUNT, ALICE, claim("upload/*", SPACE))
    attested = grant(SERVICE, ALICE, Claim("ucan/attest", SERVICE.did.text, {"proof": other.cid}))
    return post(ask(ALICE, granted, attested), granted, attested)


# --- signature ------------------------------------------------------------------------------------


def _flipped(field: str) -> bytes:
    """The invocation with another value in one field, under the old signature."""
    other = ask(BOB, SECOND, audience=SERVICE, expires=NOW + 31, not_before=1, nonce="n")
    fields = codec.decode(other.data)
    fields["att"] = [{"can": "store/add", "with": SPACE.did.text, "nb": {"link": LINK, "size": 1}}]
    fields["fct"] = [{"a": 1}]
    return post(forged(ASK, **{field: fields[field]}), ROOT, SECOND)


several(
    "ucanto",
    "signature",
    "InvalidSignature",
    another_issuer=lambda: _flipped("iss"),
    other_arguments=lambda: _flipped("att"),
    another_expiry=lambda: _flipped("exp"),
    another_beginning=lambda: _flipped("nbf"),
    another_nonce=lambda: _flipped("nnc"),
    other_facts=lambda: _flipped("fct"),
    other_proofs=lambda: _flipped("prf"),
    another_version=lambda: post(forged(ASK, v="0.9.2"), ROOT),
)


def _signed(signature: bytes, prefix: bytes | None = None) -> bytes:
    head = bytes.fromhex("eda103") + bytes((len(signature),)) if prefix is None else prefix
    return post(forged(ASK, s=head + signature), ROOT)


def _raw() -> bytes:
    return ASK.signature.raw


def _bit() -> bytes:
    raw = bytearray(_raw())
    raw[7] ^= 1
    return bytes(raw)


several(
    "ucanto",
    "signature",
    "InvalidSignature",
    one_bit_of_the_signature=lambda: _signed(_bit()),
    no_signature_bytes=lambda: _signed(b""),
    a_signature_of_63_bytes=lambda: _signed(_raw()[:-1]),
    a_signature_of_65_bytes=lambda: _signed(_raw() + b"\0"),
    bytes_behind_the_signature=lambda: _signed(_raw() + b"\0", b"\xed\xa1\x03\x40"),
    s_plus_the_order=lambda: _signed(
        _raw()[:32] + (int.from_bytes(_raw()[32:], "little") + L).to_bytes(32, "little")
    ),
    an_absent_signature=lambda: _signed(b"", b"\x80\xa0\x03\x00"),
    the_algorithm_none=lambda: _signed(b"none", b"\x80\xa0\x03\x00"),
    the_header_of_another_algorithm=lambda: _signed(_raw(), b"\x80\xa4\xc0\x06\x40"),
    the_algorithm_named_beside_its_code=lambda: _signed(_raw() + b"EdDSA", b"\x80\xa0\x03\x40"),
    an_unknown_algorithm=lambda: _signed(_raw(), b"\x81\xa0\x03\x40"),
    a_long_varint_in_the_signature=lambda: _signed(_raw(), b"\xed\xa1\x83\x00\x40"),
    a_signature_on_another_payload=lambda: _signed(ask(ALICE, nonce="x").signature.raw),
    a_signature_by_another_key=lambda: post(forged(ASK, MALLORY), ROOT),
    a_signature_on_the_block=lambda: _signed(ALICE.sign(forged(ASK, s=...))),
    a_signature_on_the_payload_of_ucan_1=lambda: _signed(ALICE.sign(codec.encode({"h": b""}))),
    a_proof_with_a_bad_signature=lambda: _bad_proof(),
)


def _bad_proof() -> bytes:
    bad = forged(ROOT, MALLORY)
    made = tokens.decode(None, bad)
    return post(ask(ALICE, made), bad)


several(
    "ucanto",
    "signature",
    "MalformedBlock",
    an_empty_nonce_which_is_not_signed=lambda: post(forged(ASK, nnc=""), ROOT),
    empty_facts_which_are_not_signed=lambda: post(forged(ASK, fct=[]), ROOT),
    a_beginning_of_0_which_is_not_signed=lambda: post(forged(ASK, nbf=0), ROOT),
    proofs_left_out=lambda: post(forged(ask(SPACE), prf=...)),
    an_unknown_field=lambda: post(forged(ASK, extra=1), ROOT),
)


# --- size of proof --------------------------------------------------------------------------------


@ucanto("size of proof", "LimitExceeded")
def a_chain_of_17_proofs() -> bytes:
    made = chain(17)
    return post(ask(ALICE, made[-1]), *made)


@ucanto("size of proof", "LimitExceeded")
def a_chain_of_1000_proofs() -> bytes:
    # Unsigned, for they are counted before anybody looks at them.
    blocks = [codec.encode(number) for number in range(1_000)]
    return post(ASK, *blocks)


@ucanto("size of proof", "LimitExceeded")
def a_thousand_proofs_that_are_listed_and_not_sent() -> bytes:
    listed = [CID.of(bytes(8) + number.to_bytes(8, "big")) for number in range(1_000)]
    return post(
        tokens.issue(ALICE, SERVICE.did, [claim(link=LINK, size=1)], expires=None, proofs=listed)
    )


@ucanto("size of proof", "HashMismatch")
def a_token_that_proves_itself() -> bytes:
    ring = tokens.issue(ALICE, SERVICE.did, [claim(link=LINK, size=1)], expires=None, proofs=[LINK])
    name = CID.of(b"a name given beforehand")
    again = forged(ring, ALICE, prf=[name])
    return message_of([name], {name: again})


def layers(count: int) -> tuple[Token, list[Token]]:
    """An invocation over 2**count paths, none of which reaches the space."""
    people = [Signer.from_seed(bytes((9, number)) + bytes(30)) for number in range(count + 1)]
    below: list[Token] = [
        grant(MALLORY, people[0], nonce=f"0{half}", expires=None) for half in (0, 1)
    ]
    made = [*below]
    for number in range(count):
        below = [
            grant(people[number], people[number + 1], proofs=below, nonce=str(half), expires=None)
            for half in (0, 1)
        ]
        made += below
    return ask(people[count], *below, expires=None), made


@ucanto("size of proof", "InvalidClaim")
def a_lattice_of_32768_paths() -> bytes:
    asked, made = layers(14)
    return post(asked, *made)


@ucanto("size of proof", "InvalidClaim")
def two_hundred_proofs_of_no_use() -> bytes:
    useless = [grant(OTHER, ALICE, claim(space=OTHER), nonce=str(n)) for n in range(200)]
    return post(ask(ALICE, *useless), *useless)


# --- confusion ------------------------------------------------------------------------------------


@ucanto("confusion", "InvocationCapabilityError")
def a_delegation_of_nothing_as_an_invocation() -> bytes:
    return post(tokens.issue(ALICE, SERVICE.did, [], expires=None))


@ucanto("confusion", "InvocationCapabilityError")
def two_commands_in_one_invocation() -> bytes:
    return post(ask(ALICE, ROOT, claims=[claim(link=LINK, size=1), claim("store/list")]), ROOT)


@ucanto("confusion", "InvalidAudience")
def a_delegation_between_others_as_an_invocation() -> bytes:
    return post(grant(SPACE, ALICE, claim(link=LINK, size=1)))


@ucanto("confusion", "MalformedBlock")
def a_receipt_as_an_invocation() -> bytes:
    return post(receipt.issue(SERVICE, ASK.cid, {"ok": {}}).data)


@ucanto("confusion", "MalformedBlock")
def a_token_of_ucan_1_as_an_invocation() -> bytes:
    from tests.capabilities.ucan1 import tokens as tokens1

    return post(tokens1.ask(SPACE).data)


@ucanto("confusion", "MalformedBlock")
def the_text_of_a_jwt_as_an_invocation() -> bytes:
    from stmflow.cid import RAW

    text = ASK.payload + b"." + b"A" * 86
    return message_of([CID.of(text, RAW)], {CID.of(text, RAW): text})


@ucanto("confusion", "InvalidAudience")
def an_invocation_for_the_test_service() -> bytes:
    staging = SERVICE.named("did:web:staging.example")
    return post(ask(ALICE, ROOT, audience=staging), ROOT)


@ucanto("confusion", "MalformedBlock")
def an_archive_as_a_message() -> bytes:
    from capabilities.ucanto import archive

    return archive.encode(ASK, {ROOT.cid: ROOT.data})


@ucanto("confusion", "MalformedBlock")
def a_car_of_nothing_but_the_token() -> bytes:
    return car([ASK.cid], [(ROOT.cid, ROOT.data), (ASK.cid, ASK.data)])
