"""What the JavaScript implementations answered, answered the same here: all the test vectors."""

from __future__ import annotations

import json
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from capabilities import ucan1
from capabilities.authorization import Authorization
from capabilities.did import DID
from capabilities.principal import Signer, verifier, verifiers
from capabilities.service import Service
from capabilities.service.task import remember
from capabilities.ucan1 import (
    container,
    delegation,
    envelope,
    invocation,
    policy,
    varsig,
)
from capabilities.ucan1.delegation import Delegation
from capabilities.ucanto import archive, failure, message, receipt, validator
from capabilities.ucanto import blocks as car
from capabilities.ucanto import token as ucanto_token
from stmflow import codec
from stmflow.cid import CID
from stmflow.errors import (
    CapabilityError,
    CodecError,
    Expired,
    InvalidAudience,
    InvalidDID,
    InvalidSignature,
    MalformedBlock,
    Revoked,
    TooEarly,
    UnavailableProof,
    UnknownKey,
)
from tests.capabilities import vectors
from tests.capabilities.service.world import StandingClock
from tests.capabilities.ucanto.tokens import CAPABILITIES
from tests.examples.storage import storage

Case = dict[str, Any]


def test_every_file_has_as_many_cases_as_the_manifest_says() -> None:
    files = vectors.manifest()["files"]
    assert {name: len(vectors.cases(name)) for name in files} == files


# --- dids


@vectors.parametrize("dids.json")
def test_a_did_has_the_binary_form_of_the_vectors(case: Case) -> None:
    raw = bytes.fromhex(case["hex"])
    if not case["valid"]:
        with pytest.raises(InvalidDID):
            DID.decode(raw)
        return
    did = DID.parse(case["did"])
    assert did.raw == raw
    assert DID.decode(raw) == did
    assert str(DID.decode(raw)) == case["did"]
    assert did.method == case["did"].split(":")[1]


@pytest.mark.parametrize("name", vectors.manifest()["principals"])
def test_a_principal_of_the_vectors_has_its_did(name: str) -> None:
    entry = vectors.manifest()["principals"][name]
    assert DID.parse(entry["did"]).raw.hex() == entry["didBytes"]
    assert DID.decode(bytes.fromhex(entry["didBytes"])).text == entry["did"]


@pytest.mark.parametrize(
    "name",
    [n for n, entry in vectors.manifest()["principals"].items() if "ed25519Secret" in entry],
)
def test_a_key_archive_of_the_vectors_is_read_and_written(name: str) -> None:
    entry = vectors.manifest()["principals"][name]
    signer = vectors.signer(name)
    assert signer.did == DID.parse(entry["did"])
    assert signer.archive().hex() == entry["archive"]
    assert Signer.from_seed(bytes.fromhex(entry["ed25519Secret"])).did == signer.did
    assert Signer.parse(signer.format()).archive() == signer.archive()


@pytest.mark.parametrize("name", vectors.manifest()["principals1"])
def test_a_key_export_of_the_vectors_is_read(name: str) -> None:
    assert vectors.signer1(name).did.text == vectors.manifest()["principals1"][name]["did"]


# --- ucanto

# Where a careful reader refuses what JavaScript takes (UCAN.md: one signature, many CIDs).
UCANTO_STRICTER = {"invocation/extra-key", "invocation/nb-size-negative"}
UCANTO_OTHERWISE = {True: "refuse", False: "accept"}
UCANTO_REASONS: dict[str, type[CapabilityError]] = {
    "Expired": Expired,
    "NotValidBefore": TooEarly,
    "InvalidSignature": InvalidSignature,
    "InvalidAudience": InvalidAudience,
    "UnavailableProof": UnavailableProof,
    "DIDKeyResolutionError": UnknownKey,
    "Revoked": Revoked,
}


def ucanto_resolve(did: DID) -> list[DID]:
    key = vectors.manifest()["resolvableDIDs"].get(did.text)
    return [] if key is None else [DID.parse(key)]


@vectors.parametrize("delegations.json")
def test_a_delegation_of_ucanto_is_decoded_verified_and_made_again(case: Case) -> None:
    cid, data = CID.parse(case["cid"]), bytes.fromhex(case["hex"])
    expected = case["decoded"]
    if expected.get("nnc") == "":  # in the block, and not under the signature
        with pytest.raises(MalformedBlock):
            ucanto_token.decode(cid, data)
        return
    made = ucanto_token.decode(cid, data)
    claims = [{"can": each.can, "with": each.with_} for each in made.capabilities]
    for each, claim in zip(made.capabilities, claims, strict=True):
        if each.nb is not None:
            claim["nb"] = dict(each.nb)  # type: ignore[assignment]
    assert claims == as_javascript(vectors.value(expected["att"]))
    assert (made.issuer.text, made.audience.text) == (expected["iss"], expected["aud"])
    assert (made.expires, made.not_before) == (expected["exp"], expected.get("nbf"))
    assert (made.nonce, made.version) == (expected.get("nnc"), expected["v"])
    assert [dict(fact) for fact in made.facts] == vectors.value(expected["fct"])
    assert [str(proof) for proof in made.proofs] == expected["prf"]
    assert made.signature.encode().hex() == expected["s"]["hex"]
    assert made.signature.algorithm == expected["s"]["algorithm"]
    assert made.payload.decode() == case["signedPayload"]
    signed = base64url(made.signature.raw)
    assert f"{made.payload.decode()}.{signed}" == case["jwt"]
    if "signatureValid" in case:
        key = verifier(DID.parse(case["verifier"]))
        assert ucanto_token.verify_signature(made, key) == case["signatureValid"]


def as_javascript(value: Any) -> Any:
    """Where an integer is too large for its numbers, JavaScript had a float."""
    if isinstance(value, dict):
        return {key: as_javascript(each) for key, each in value.items()}
    if isinstance(value, list):
        return [as_javascript(each) for each in value]
    return float(value) if type(value) is int and abs(value) >= 2**53 else value


def base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


@vectors.parametrize("delegations.json")
def test_an_archive_of_ucanto_is_read_and_written_to_the_byte(case: Case) -> None:
    data = bytes.fromhex(case["archive"])
    if case["decoded"].get("nnc") == "":
        with pytest.raises(MalformedBlock):
            archive.decode(data)
        return
    made, blocks = archive.decode(data)
    assert str(made.cid) == case["cid"]
    assert archive.encode(made, blocks) == data


@pytest.mark.parametrize(
    "case",
    [
        each
        for each in vectors.cases("delegations.json")
        if each["decoded"].get("nnc") != "" and each["decoded"]["s"]["algorithm"] != "RS256"
    ],
    ids=lambda case: case["id"],
)
def test_a_delegation_of_ucanto_is_issued_to_the_byte(case: Case) -> None:
    made = ucanto_token.decode(None, bytes.fromhex(case["hex"]))
    issuer: Signer | DID = made.issuer
    if made.signature.algorithm:
        principals = vectors.manifest()["principals"].items()
        names = [name for name, entry in principals if entry["did"] == made.issuer.text]
        issuer = vectors.signer(names[0])
    again = ucanto_token.issue(
        issuer,
        made.audience,
        made.capabilities,
        expires=made.expires,
        not_before=made.not_before,
        nonce=made.nonce,
        facts=made.facts,
        proofs=made.proofs,
    )
    assert again.data.hex() == case["hex"]


@vectors.parametrize("delegation-mutants.json")
def test_no_mutant_of_a_token_is_taken_with_a_good_signature(case: Case) -> None:
    """Those that JavaScript verifies share a signature with their original under another CID."""
    assert case["cid"] != case.get("original")
    try:
        made = ucanto_token.decode(CID.parse(case["cid"]), bytes.fromhex(case["hex"]))
    except (CodecError, CapabilityError):
        return
    assert case["decodes"]
    assert case["canonical"]
    assert made.payload.decode() == case["signedPayload"]
    assert not ucanto_token.verify_signature(made, verifier(made.issuer))


def ucanto_invocations(verdict: str) -> pytest.MarkDecorator:
    """The cases that have to be allowed or refused here."""
    found = []
    for case in vectors.cases("invocations.json"):
        stricter = case["id"] in UCANTO_STRICTER
        thrown = case["id"] == "invocation/handler-throws"  # allowed; what runs it throws
        if (case["verdict"] if not stricter | thrown else UCANTO_OTHERWISE[stricter]) == verdict:
            found.append(case)
    return pytest.mark.parametrize("case", found, ids=lambda case: case["id"])


@ucanto_invocations("accept")
def test_an_invocation_of_ucanto_is_allowed(case: Case) -> None:
    found = ucanto_authorize(case)
    assert str(found.invocation) == case["cid"]
    if "seen" in case:
        seen = vectors.value(case["seen"])
        assert (found.command, found.subject.text) == (seen["can"], seen["with"])
        assert without_none(asdict(found.arguments)) == seen.get("nb", {})


@ucanto_invocations("refuse")
def test_an_invocation_of_ucanto_is_refused(case: Case) -> None:
    with pytest.raises((CodecError, CapabilityError)) as caught:
        ucanto_authorize(case)
    told = case.get("error", {"name": "Unauthorized", "causes": []})
    if told["name"] != "HandlerExecutionError":
        assert failure(caught.value)["name"] == told["name"]
    kinds = {type(each) for each in ucanto_reasons(caught.value)}
    assert {UCANTO_REASONS[name] for name in told["causes"] if name in UCANTO_REASONS} <= kinds


def ucanto_authorize(case: Case) -> Authorization:
    sent = message.decode(bytes.fromhex(case["request"]))
    assert [str(cid) for cid in sent.invocations] == [case["cid"]]
    service = DID.parse(case["service"])
    everybody = [DID.parse(each["did"]) for each in vectors.manifest()["principals"].values()]
    return validator.authorize(
        sent.invocations[0],
        sent.blocks,
        service=service,
        verifier=verifier(DID.parse(case.get("serviceKey") or case["service"])),
        capabilities=CAPABILITIES,
        now=case["now"],
        resolver=ucanto_resolve,
        revoked=lambda cid: everybody if str(cid) in case["revoked"] else (),
    )


def ucanto_reasons(error: BaseException) -> Iterator[BaseException]:
    yield error
    for cause in getattr(error, "causes", ()):
        yield from ucanto_reasons(cause)


def without_none(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


@vectors.parametrize("receipts.json")
def test_a_receipt_of_ucanto_is_decoded_verified_and_made_again(case: Case) -> None:
    made = receipt.decode(CID.parse(case["cid"]), bytes.fromhex(case["hex"]))
    assert made.payload.hex() == case["signedBytes"]
    assert (
        receipt.verify_signature(made, verifier(DID.parse(case["verifier"])))
        == (case["signatureValid"])
    )
    ocm = vectors.value(case["decoded"])
    assert (str(made.ran), str(made.issuer)) == (case["ran"], ocm["iss"])
    assert (made.out, made.meta) == (ocm["out"], ocm["meta"])
    assert (list(made.fork), made.join) == (ocm["fx"]["fork"], ocm["fx"].get("join"))
    assert list(made.proofs) == ocm["prf"]
    root, blocks = car.read(bytes.fromhex(case["car"]))
    assert root == made.cid
    assert car.write(root, blocks) == bytes.fromhex(case["car"])
    principals = vectors.manifest()["principals"].items()
    names = [name for name, entry in principals if entry["did"] == made.issuer.text]  # type: ignore[union-attr]
    if made.signature.algorithm == "EdDSA" and names and case["signatureValid"]:
        again = receipt.issue(
            vectors.signer(names[0]),
            made.ran,
            made.out,
            fork=made.fork,
            join=made.join,
            proofs=made.proofs,
            meta=made.meta,
        )
        assert again.data.hex() == case["hex"]


@vectors.parametrize("messages.json")
def test_an_agent_message_is_decoded_or_refused(case: Case) -> None:
    data = bytes.fromhex(case["hex"])
    if not case["decodes"] or case["id"] == "message/cid-mismatch":
        with pytest.raises(CodecError):
            message.decode(data)
        return
    got = message.decode(data)
    tokens = [ucanto_token.decode(cid, got.blocks[cid]) for cid in got.invocations]
    cans = [[each.can for each in one.capabilities] for one in tokens]
    assert [
        {"cid": str(one.cid), "can": can} for one, can in zip(tokens, cans, strict=True)
    ] == case["invocations"]
    receipts = [receipt.decode(cid, got.blocks[cid]) for cid in got.receipts.values()]
    assert [{"cid": str(one.cid), "ran": str(one.ran)} for one in receipts] == case["receipts"]
    again = message.decode(message.encode(got))
    assert (again.invocations, again.receipts, again.blocks) == (
        got.invocations,
        got.receipts,
        got.blocks,
    )


def exchanged() -> list[Any]:
    return [
        pytest.param(client, each, id=f"{name}-{number}")
        for name, client in vectors.load("exchanges.json")["clients"].items()
        for number, each in enumerate(client["exchanges"])
        if each["method"] == "POST" or each["path"].startswith("/receipt/")
    ]


@pytest.mark.parametrize(("client", "exchange"), exchanged())
def test_what_clients_and_servers_exchanged_is_understood(client: Case, exchange: Case) -> None:
    service, key = DID.parse(client["service"]), verifier(DID.parse(client["serviceKey"]))
    sides = ["request", "response"] if exchange["method"] == "POST" else ["response"]
    for side in sides:
        got = message.decode(bytes.fromhex(exchange[side]))
        assert got.invocations if side == "request" else got.receipts
        assert message.decode(message.encode(got)) == got
        for cid, data in got.blocks.items():
            value = codec.decode(data)
            if "att" in value:
                one = ucanto_token.decode(cid, data)
                signer = key if one.issuer == service else verifier(one.issuer)
                assert ucanto_token.verify_signature(one, signer)
            elif "ocm" in value:
                said = receipt.decode(cid, data)
                assert said.issuer is not None
                signer = key if said.issuer == service else verifier(said.issuer)
                assert receipt.verify_signature(said, signer)
        for ran, cid in got.receipts.items():
            answer = receipt.decode(cid, got.blocks[cid])
            assert answer.ran == ran
            assert answer.issuer == service
            assert all(fork in got.blocks for fork in answer.fork)


@pytest.mark.parametrize(("client", "exchange"), exchanged())
def test_what_clients_asked_of_the_store_is_allowed(client: Case, exchange: Case) -> None:
    if exchange["method"] != "POST":
        return
    service, key = DID.parse(client["service"]), verifier(DID.parse(client["serviceKey"]))
    sent = message.decode(bytes.fromhex(exchange["request"]))
    for cid in sent.invocations:
        asked = ucanto_token.decode(cid, sent.blocks[cid])
        if asked.capabilities[0].can not in CAPABILITIES:
            continue
        found = validator.authorize(
            cid,
            sent.blocks,
            service=service,
            verifier=key,
            capabilities=CAPABILITIES,
            now=exchange["now"],
        )
        assert found.arguments


# --- ucan 1.0


class Anything:
    """The definition of a command that takes any arguments, about anybody."""

    def about(self, resource: str) -> DID:
        return DID.parse(resource)

    def read(self, arguments: Mapping[str, Any], *, text_links: bool) -> Any:
        return arguments


def ucan1_verdict(case: Case) -> Any:
    """What the text says where the client departs from it; None where it says both."""
    verdict: Any = case.get("specVerdict", case["verdict"])
    if case["id"] in UCAN1_STRICTER:
        return "refuse"
    return None if verdict == "unclear" else verdict


# The name of another audience counts, though the subject be us (chain.py).
UCAN1_STRICTER = {"ucan1/inv/receiver-is-subject"}


@vectors.parametrize("ucan1-delegations.json")
def test_a_delegation_of_ucan_1_is_taken_or_refused(case: Case) -> None:
    data = bytes.fromhex(case["hex"])
    if ucan1_verdict(case) == "refuse":
        with pytest.raises((CapabilityError, CodecError)):
            ucan1_check(delegation.decode(data), case["now"])
        return
    token = delegation.decode(data)
    ucan1_check(token, case["now"])
    assert str(token.cid) == case["cid"]
    assert token.data == data
    payload = vectors.value(case["payload"])
    assert token.envelope.payload == payload
    assert f"ucan/dlg@{token.envelope.version}" == case["tag"]
    assert (token.issuer.text, token.audience.text) == (payload["iss"], payload["aud"])
    assert token.subject == (payload["sub"] and DID.parse(payload["sub"]))
    assert (token.command, token.expires) == (payload["cmd"], payload["exp"])
    assert token.not_before == payload.get("nbf")
    assert (token.nonce, token.policy.plain) == (payload["nonce"], payload["pol"])


def ucan1_check(token: Delegation, now: int) -> None:
    """A delegation by itself: as a proof of an invocation by its audience."""
    envelope.verify(token.envelope, verifiers(token.issuer))
    if token.expires is not None and token.expires < now:
        raise Expired("expired")
    if token.not_before is not None and token.not_before > now:
        raise TooEarly("too early")


@pytest.mark.parametrize(
    "name", ["basic", "full", "powerline", "no-expiry", "empty-nonce", "version-1.0.0"]
)
def test_a_delegation_of_ucan_1_is_issued_byte_for_byte(name: str) -> None:
    (case,) = [
        each
        for each in vectors.cases("ucan1-delegations.json")
        if each["id"] == f"ucan1/dlg/{name}"
    ]
    payload = vectors.value(case["payload"])
    keys = {entry["did"]: name for name, entry in vectors.manifest()["principals1"].items()}
    token = delegation.issue(
        vectors.signer1(keys[payload["iss"]]),
        audience=DID.parse(payload["aud"]),
        subject=payload["sub"] and DID.parse(payload["sub"]),
        command=payload["cmd"],
        statements=payload["pol"],
        nonce=payload["nonce"],
        expires=payload["exp"],
        not_before=payload.get("nbf"),
        meta=payload.get("meta"),
        version=case["tag"].partition("@")[2],
    )
    assert token.data.hex() == case["hex"]


@vectors.parametrize("ucan1-invocations.json")
def test_an_invocation_of_ucan_1_is_taken_or_refused(case: Case) -> None:
    data = bytes.fromhex(case["hex"])
    verdict = ucan1_verdict(case)
    try:
        found = ucan1_authorize(data, case["proofs"], case["receiver"], case["now"])
    except (CapabilityError, CodecError):
        assert verdict in ("refuse", None)
        return
    assert verdict in ("accept", None)
    payload = vectors.value(case["payload"])
    token = invocation.decode(data)
    assert str(found.invocation) == str(token.cid) == case["cid"]
    assert str(token.task) == case["task"]
    assert found.arguments == payload["args"]
    assert found.command == payload["cmd"][1:]
    assert (found.issuer.text, found.subject.text) == (payload["iss"], payload["sub"])
    assert len(found.chain) == 1 + len(payload["prf"])


def ucan1_authorize(
    data: bytes, proofs: list[str], receiver: str, now: int, **options: Any
) -> Authorization:
    blocks = [bytes.fromhex(each) for each in proofs]
    commands = ("store/add", "store", "storehouse", "upload/add", "msg/send")
    return ucan1.authorize(
        data,
        {CID.of(block): block for block in blocks},
        service=DID.parse(receiver),
        capabilities=dict.fromkeys(commands, Anything()),
        now=now,
        **options,
    )


@vectors.parametrize("ucan1-policies.json")
def test_a_policy_of_ucan_1_holds_or_not(case: Case) -> None:
    holds = case.get("specHolds", case["holds"])
    if holds == "unclear":  # where the text contradicts itself, as the client has it
        holds = case["holds"]
    arguments = vectors.value(case["args"])
    try:
        found = policy.parse(vectors.value(case["policy"])).holds(arguments)
    except MalformedBlock:
        assert case["id"] == "ucan1/policy/unknown-op"
        found = False
    assert found is holds


def test_the_published_policies_hold_or_not() -> None:
    cases = json.loads(vectors.third_party("iso-ucan-policy.json"))
    for kind, holds in (("valid", True), ("invalid", False)):
        assert cases[kind]
        for case in cases[kind]:
            for plain in case["policies"]:
                expected = holds and plain != UCAN1_MISREAD
                assert policy.parse(plain).holds(case["args"]) is expected, plain


# Published as holding for {"newsletters": {"recipients": [...]}}, whose one value is a list and has
# no recipients. The specification's fixture has a newsletter between (test_policy.py).
UCAN1_MISREAD = [
    ["all", ".newsletters", ["any", ".recipients", ["==", ".email", "bob@example.com"]]]
]


def base64_bytes(form: Any) -> bytes:
    text = form if isinstance(form, str) else form["/"]["bytes"]
    return b64decode(text + "=" * (-len(text) % 4))


def test_the_published_delegations_are_read_verified_and_issued() -> None:
    file = json.loads(vectors.third_party("spec-1.0.0-delegation.json"))
    keys = {Signer.parse(text).did: Signer.parse(text) for text in file["principals"].values()}
    assert file["valid"]
    for case in file["valid"]:
        token = delegation.decode(base64_bytes(case["token"]))
        said = case["envelope"]["payload"]
        ucan1_check(token, said["exp"])
        assert str(token.cid) == case["cid"]
        assert base64_bytes(said["nonce"]) == token.nonce
        assert base64_bytes(case["envelope"]["signature"]) == token.envelope.signature
        again = delegation.issue(
            keys[token.issuer],
            audience=token.audience,
            subject=token.subject,
            command=token.command,
            statements=token.policy.plain,
            nonce=token.nonce,
            expires=token.expires,
            version=file["version"],
        )
        assert again == token


def test_the_published_invocations_are_taken_or_refused_by_name() -> None:
    file = json.loads(vectors.third_party("spec-1.0.0-invocation.json"))
    answers: list[tuple[str, str | None]] = []
    for case in (*file["valid"], *file["invalid"]):
        data = base64_bytes(case["invocation"])
        receiver = invocation.decode(data).audience.text
        proofs = [base64_bytes(each).hex() for each in case["proofs"]]
        try:
            ucan1_authorize(data, proofs, receiver, case["time"])
            answers.append((case["name"], None))
        except CapabilityError as error:
            answers.append((case["name"], type(error).__name__))
    expected = [(case["name"], None) for case in file["valid"]]
    expected += [(case["name"], case["error"]["name"]) for case in file["invalid"]]
    assert answers == expected
    assert len(answers) == 20


@pytest.mark.parametrize(
    ("name", "form", "gzip"),
    [
        ("container-Bytes", "raw", False),
        ("container-BytesGzipped", "raw", True),
        ("container-Base64StdPadding", "base64", False),
        ("container-Base64StdPaddingGzipped", "base64", True),
        ("container-Base64URL", "base64url", False),
        ("container-Base64URLGzipped", "base64url", True),
    ],
)
def test_a_published_container_is_read_and_written(
    name: str, form: container.Form, gzip: bool
) -> None:
    data = vectors.third_party(name)
    tokens = container.decode(data)
    assert len(tokens) == 10
    for cid, token in tokens.items():
        read = envelope.decode(token)
        assert read.cid == cid
        assert varsig.decode(read.header) == varsig.Header("EdDSA", 0)
        with pytest.raises(InvalidSignature, match="old header"):
            envelope.verify(read, verifiers(DID.parse(read.payload["iss"])))
    again = container.encode(tokens.values(), form=form, gzip=gzip)
    assert container.decode(again) == tokens
    assert again[:1] == data[:1]
    if not gzip:
        assert len(again) == len(data)


# --- exchanges

# Where a replay cannot be what was recorded: what differs, and why.
REPLAYED_OTHERWISE = {
    "signature": "the vectors hold no recorded service's secret: ours has its name, another key",
    "tasks": "signed by that key, so of other CIDs here; the recorded ones are made known first",
    "url": "of another bucket",
    "headers": "those that our URL was signed with",
    "allocated": "of a repeat: what that invocation has charged, once; theirs says 0",
    "time": "of the conclusion, in milliseconds; the recorded clock went on during a request",
    "site": "a promise of a task, or a claim, that the service signs",
}


@pytest.mark.parametrize("client", vectors.load("exchanges.json")["clients"])
async def test_recorded_requests_are_answered_as_they_were(client: str, tmp_path: Path) -> None:
    recorded = vectors.load("exchanges.json")["clients"][client]
    signer = Signer.generate().named(recorded["service"])
    clock = StandingClock(recorded["exchanges"][0]["now"] * 1_000)
    seen: set[CID] = set()
    compared = 0
    async with storage(tmp_path, signer=signer, clock=clock) as at:
        for exchange in recorded["exchanges"]:
            clock.set(max(clock.now() + 1, exchange["now"] * 1_000))
            match exchange["method"]:
                case "PUT":
                    at.bucket.place(bytes.fromhex(exchange["request"]))
                    continue
                case "POST":
                    told = message.decode(
                        await at.service.respond(bytes.fromhex(exchange["request"]))
                    )
                case "GET":
                    cid = CID.parse(exchange["path"].removeprefix("/receipt/"))
                    told = message.decode(await polled(at.service, cid))
            was = message.decode(bytes.fromhex(exchange["response"]))
            assert told.receipts.keys() == was.receipts.keys()
            for ran in was.receipts:
                ours, theirs = answer_in(told, ran), answer_in(was, ran)
                assert receipt.verify_signature(ours, signer.verifier)
                assert receipt.verify_signature(theirs, verifier(DID.parse(recorded["serviceKey"])))
                repeat, seen = ran in seen, seen | {ran}
                assert comparable(ours.out, repeat) == comparable(theirs.out, repeat)
                assert tasks_in(told, ours) == tasks_in(was, theirs)
                await at.transactor.transact(partial(remember_tasks, was, ran, theirs))
                compared += 1
    assert compared == len([one for one in recorded["exchanges"] if one["method"] != "PUT"])


async def polled(service: Service, cid: CID) -> bytes:
    """The receipt, asked for until it is there, as the clients do."""
    with anyio.fail_after(5):
        while (found := await service.receipt(cid)) is None:
            await anyio.sleep(0.005)
    return found


def answer_in(told: message.Message, ran: CID) -> receipt.Receipt:
    return receipt.decode(told.receipts[ran], told.blocks[told.receipts[ran]])


def comparable(out: Mapping[str, Any], repeat: bool) -> Any:
    """An outcome without what cannot be the same (of those fields: that they are there)."""
    ((kind, value),) = out.items()
    if kind == "error":
        return kind, value["name"]
    differ = REPLAYED_OTHERWISE.keys() - (set() if repeat else {"allocated"})
    return kind, {name: ... if name in differ else each for name, each in value.items()}


def tasks_in(told: message.Message, one: receipt.Receipt) -> list[str]:
    """The commands of what a receipt forks, all of which came along."""
    tokens = [ucanto_token.decode(fork, told.blocks[fork]) for fork in one.fork]
    return sorted(token.capabilities[0].can for token in tokens)


def remember_tasks(was: message.Message, ran: CID, one: receipt.Receipt, tx: Any) -> None:
    """Make the recorded tasks known here, as if we had named them."""
    for fork in one.fork:
        if ucanto_token.decode(fork, was.blocks[fork]).capabilities[0].can in TASKS:
            remember(tx, fork, was.blocks[fork], cause=ran)


TASKS = {"http/put", "blob/accept", "web3.storage/blob/accept"}
