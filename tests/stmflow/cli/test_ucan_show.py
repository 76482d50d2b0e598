"""`ucan show`: every kind and spelling, held against the vectors; what is malformed, by name."""

from __future__ import annotations

import json
import re
from base64 import b64encode, urlsafe_b64encode
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from capabilities import DID, Signer
from capabilities.ucan1 import container
from capabilities.ucanto import Claim, archive, message, receipt, token
from stmflow import CID, codec
from stmflow.cli import cli, ucan_read
from tests.capabilities import vectors
from tests.capabilities.ucan1.tokens import ALICE, BOB, CAROL, SPACE, ask, grant
from tests.stmflow.cli.conftest import HOSTILE, link
from tests.stmflow.cli.ucan_calls import run, run_json

STRICTER = {
    "delegation/empty-nonce",
    "message/cid-mismatch",
    "ucan1/dlg/no-pol",
    "ucan1/dlg/bad-pol",
}
"""What the reference takes, and we refuse."""


def cases(name: str) -> pytest.MarkDecorator:
    """Parametrize by the cases of one file that both read."""
    read = [case for case in vectors.cases(name) if case["id"] not in STRICTER]
    return pytest.mark.parametrize("case", read, ids=lambda case: case["id"])


def show(data: bytes, code: int = 0) -> Any:
    return run_json("ucan", "show", "-", input=data, code=code)


def chain(*signers: Signer, expires: int | None = None) -> tuple[token.Token, dict[CID, bytes]]:
    """Delegations of store/add on the first, each to the next."""
    blocks: dict[CID, bytes] = {}
    proofs: list[CID] = []
    made = None
    for issuer, audience in pairwise(signers):
        claim = Claim("store/add", signers[0].did.text)
        made = token.issue(issuer, audience.did, [claim], expires=expires, proofs=proofs)
        blocks[made.cid] = made.data
        proofs = [made.cid]
    assert made is not None
    return made, blocks


# --- the vectors --------------------------------------------------------------------------------


@cases("delegations.json")
def test_archives_of_the_reference_are_explained(case: dict[str, Any]) -> None:
    shown = show(bytes.fromhex(case["archive"]))
    assert shown["kind"] == "archive"
    assert shown["roots"] == [{"/": case["cid"]}]
    first = shown["tokens"][0]
    assert (first["issuer"], first["audience"]) == (case["decoded"]["iss"], case["decoded"]["aud"])
    keyed = first["issuer"].startswith("did:key:")
    assert first["signature"]["good"] is (case["signatureValid"] if keyed else None)
    bare = show(case["hex"].encode())
    assert bare["tokens"][0]["cid"] == {"/": case["cid"]}


@cases("messages.json")
def test_messages_of_the_reference_are_explained_or_refused_by_name(case: dict[str, Any]) -> None:
    if not case["decodes"]:
        result = run("ucan", "show", "-", input=bytes.fromhex(case["hex"]), code=6)
        assert re.search(r"-: (MalformedBlock|HashMismatch): ", result.stderr)
        return
    shown = show(bytes.fromhex(case["hex"]))
    assert shown["kind"] == "message"
    assert shown["roots"] == [{"/": one["cid"]} for one in case["invocations"]]


@cases("receipts.json")
def test_receipts_of_the_reference_are_explained(case: dict[str, Any]) -> None:
    result = CliRunner().invoke(cli, ["ucan", "show", "-", "--json"], input=case["hex"])
    (shown,) = json.loads(result.stdout)["receipts"]
    assert shown["cid"] == {"/": case["cid"]}
    assert shown["ran"] == {"/": case["ran"]}
    good = shown["signature"]["good"]
    if case["verifier"] == shown["issuer"]:
        assert good is case["signatureValid"]
    assert result.exit_code == (good is False)


@cases("ucan1-delegations.json")
def test_delegations_of_ucan_1_0_are_explained_or_refused_by_name(case: dict[str, Any]) -> None:
    result = CliRunner().invoke(cli, ["ucan", "show", "-", "--json"], input=case["hex"])
    if case["verdict"] == "accept":
        assert result.exit_code == 0
    if result.exit_code == 6:
        assert re.fullmatch(r"stmflow: -: [A-Z]\w+: .*\n", result.stderr)
    else:
        assert json.loads(result.stdout)["roots"] == [{"/": case["cid"]}]


# --- spellings ----------------------------------------------------------------------------------


def spellings(data: bytes) -> dict[str, bytes]:
    base64 = b64encode(data)
    wrapped = b"\n".join(base64[at : at + 76] for at in range(0, len(base64), 76)) + b"\n"
    return {
        "as it is": data,
        "hexadecimal": data.hex().encode() + b"\n",
        "upper case": data.hex().upper().encode(),
        "base64": base64,
        "unpadded": base64.rstrip(b"="),
        "in lines": wrapped,
        "with a mark": b"\xef\xbb\xbf" + wrapped,
        "for URLs": urlsafe_b64encode(data),
        "multibase": b"m" + b64encode(b"\x01\x82\x04\x00" + _varint(len(data)) + data).rstrip(b"="),
    }


def _varint(number: int) -> bytes:
    found = bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*found, number))


@pytest.mark.parametrize("spelling", spellings(b""))
def test_every_spelling_says_the_same(spelling: str) -> None:
    made, blocks = chain(SPACE, ALICE)
    kinds = {
        "archive": archive.encode(made, blocks),
        "token": made.data,
        "receipt": receipt.issue(SPACE, made.cid, {"ok": {}}).data,
        "delegation": grant(SPACE, ALICE).data,
        "container": container.encode([grant(SPACE, ALICE).data]),
    }
    for kind, data in kinds.items():
        assert show(spellings(data)[spelling])["kind"] == kind


@pytest.mark.parametrize("form", ["raw", "base64", "base64url"])
@pytest.mark.parametrize("gzip", [False, True])
def test_every_form_of_a_container_is_read(form: Any, gzip: bool) -> None:
    data = container.encode([grant(SPACE, ALICE).data], form=form, gzip=gzip)
    assert show(data + (b"\n" if form != "raw" else b""))["kind"] == "container"


# --- what it tells ------------------------------------------------------------------------------


def test_the_proofs_are_a_tree_and_each_token_is_drawn_once(tmp_path: Path) -> None:
    made, blocks = chain(SPACE, ALICE, BOB)
    twice = token.issue(
        BOB, CAROL.did, [Claim("store/add", SPACE.did.text)], expires=None,
        proofs=[made.cid, made.cid, CID.of(b"gone")],
    )  # fmt: skip
    data = archive.encode(twice, {**blocks, twice.cid: twice.data})
    path = tmp_path / "d"
    path.write_bytes(data)
    text = run("ucan", "show", path).stdout
    assert text.count(f"proof  {made.cid}") == 2
    assert text.count("as above") == 1
    assert text.count("did not come along") == 1
    assert text.count("for ever  in time") == 3
    assert "│   └── proof  " in text or "    └── proof  " in text
    assert [one["came"] for one in show(data)["lacking"]] == [False]
    assert "cut after 3 lines" in run("ucan", "show", path, "--lines", 3).stdout


def test_a_bad_signature_is_told_with_a_code_of_its_own() -> None:
    made, _ = chain(SPACE, ALICE)
    fields = codec.decode(made.data)
    assert isinstance(fields, dict)
    forged = codec.encode({**fields, "exp": 5})
    assert show(forged, code=1)["tokens"][0]["signature"]["good"] is False
    assert "bad" in run("ucan", "show", "-", input=forged, code=1).stdout
    sealed = grant(SPACE, ALICE).data
    signature, content = codec.decode(sealed)
    assert (
        show(codec.encode([bytes(64), content]), code=1)["tokens"][0]["signature"]["good"] is False
    )
    assert isinstance(signature, bytes)


def test_a_proof_that_is_no_token_is_told_by_name() -> None:
    rubbish = codec.encode({"not": "a token"})
    made = token.issue(
        SPACE, ALICE.did, [Claim("store/add", "did:x:y")], expires=None, proofs=[CID.of(rubbish)]
    )
    data = archive.encode(made, {CID.of(rubbish): rubbish})
    (lacking,) = show(data, code=1)["lacking"]
    assert lacking["why"].startswith("MalformedBlock: ")


def test_time_is_told_by_the_clock_and_is_no_failure() -> None:
    early = token.issue(SPACE, ALICE.did, [Claim("a/b", "did:x:y")], expires=None, not_before=9**12)
    late, _ = chain(SPACE, ALICE, expires=5)
    assert show(early.data)["tokens"][0]["time"] == "too early"
    assert show(late.data)["tokens"][0]["time"] == "expired"
    assert show(grant(SPACE, ALICE, expires=5).data)["tokens"][0]["time"] == "expired"
    assert show(grant(SPACE, ALICE, not_before=9**12, expires=None).data)["tokens"][0]["time"] == (
        "too early"
    )
    assert (
        "1970-01-01T00:00:05.000+00:00  expired" in run("ucan", "show", "-", input=late.data).stdout
    )


def test_an_invocation_of_ucan_1_0_stands_above_its_chain() -> None:
    first, second = grant(SPACE, ALICE), grant(ALICE, BOB)
    asked = ask(BOB, proofs=[first, second])
    text = run(
        "ucan", "show", "-", input=container.encode([asked.data, first.data, second.data])
    ).stdout
    places = [text.index(str(one.cid)) for one in (asked, second, first)]
    assert places == sorted(places)
    assert text.startswith("invocation  ")
    assert text.count("\ninvocation") + text.count("\ndelegation") == 0
    assert "asks     /store/add" in text


def test_a_name_without_a_key_is_said_to_be_unchecked() -> None:
    named = SPACE.named("did:web:example.com")
    made = token.issue(named, ALICE.did, [Claim("store/add", "did:web:example.com")], expires=None)
    assert show(made.data)["tokens"][0]["signature"]["good"] is None
    account = token.issue(
        DID.parse("did:mailto:example.com:alice"),
        ALICE.did,
        [Claim("store/add", "did:web:example.com")],
        expires=None,
    )
    assert "absent" in show(account.data)["tokens"][0]["signature"]["why"]


def test_a_reply_shows_receipts_with_what_they_lead_to() -> None:
    task = token.issue(SPACE, SPACE.did, [Claim("blob/allocate", SPACE.did.text)], expires=None)
    told = receipt.issue(
        SPACE, CID.of(b"x"), {"error": {"name": "Gone", "message": "one\n  two"}}, fork=[task.cid]
    )
    reply = message.Message(
        receipts={told.ran: told.cid}, blocks={told.cid: told.data, task.cid: task.data}
    )
    data = message.encode(reply)
    text = run("ucan", "show", "-", input=data).stdout
    assert "error Gone" in text
    assert "leads to  " + str(task.cid) in text
    assert "├──   two" in text or "└──   two" in text
    assert show(data)["receipts"][0]["fork"] == [link(task.cid)]


def test_chains_deeper_than_any_that_is_accepted_are_not_followed() -> None:
    signers = [Signer.from_seed(bytes((number,)) * 32) for number in range(1, 120)]
    made, blocks = chain(*signers)
    data = archive.encode(made, blocks)
    assert "too deep" in run("ucan", "show", "-", input=data).stdout
    assert len(show(data)["tokens"]) == 118


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"", "MalformedBlock"),
        (b"hello\x1b[31m", "MalformedBlock"),
        (b"00" * 50, "MalformedBlock"),
        (b"\x82\x40", "MalformedBlock"),
        (b"\xa7\x61s", "MalformedBlock"),
        (b"@\xa1\x66ctn-v1\x81\x41", "MalformedBlock"),
        (b"m" + b64encode(b"\x01\x82\x04\x00\x05abc"), "MalformedBlock"),
        (b"\x3a\xa2\x65roots\x81", "MalformedBlock"),
        (b"\xff" * 3_000_000, "LimitExceeded"),
        (codec.encode({"ocm": {}, "sig": b""}), "MalformedBlock"),
        (codec.encode([b"", {"h": b"", "ucan/x@1": {}}]), "InvalidSignature"),
    ],
)
def test_what_is_malformed_is_refused_by_name(data: bytes, name: str) -> None:
    assert f"-: {name}: " in run("ucan", "show", "-", input=data, code=6).stderr


def test_bytes_under_another_cid_are_refused_by_name() -> None:
    made, blocks = chain(SPACE, ALICE)
    data = archive.encode(made, blocks).replace(b"store/add", b"store/all")
    assert "HashMismatch" in run("ucan", "show", "-", input=data, code=6).stderr


def test_a_file_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    run("ucan", "show", tmp_path / "none", code=3)
    run("ucan", "show", tmp_path, code=6)
    run("ucan", "show", "a\0b", code=2)


def test_hostile_text_reaches_nobody_s_terminal() -> None:
    made = token.issue(
        SPACE,
        ALICE.did,
        [Claim("store/add", "did:x:\u202ey", {HOSTILE: HOSTILE})],
        expires=None,
        facts=[{"note": HOSTILE}],
    )
    text = run("ucan", "show", "-", input=made.data).stdout
    assert "\\x1b[31m[red]" in text
    told = receipt.issue(SPACE, made.cid, {"error": {"name": HOSTILE, "message": HOSTILE}})
    assert "error evil\\x1b" in run("ucan", "show", "-", input=told.data).stdout
    assert show(told.data)["receipts"][0]["out"]["error"]["name"] == HOSTILE


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_a_file_has_at_most_so_many_bytes(off: int) -> None:
    """What is read and no token is malformed; what is longer is not read."""
    given = b"\0" * (ucan_read._FILE_BYTES + off)
    told = run("ucan", "show", "-", input=given, code=6).stderr
    assert ("LimitExceeded" in told) is (off > 0)
