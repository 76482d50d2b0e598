"""Delegations: what is written holds, is what was asked for, and is read again."""

from __future__ import annotations

from base64 import b64decode
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from capabilities import DID, Signer
from capabilities.ucan1 import container, delegation
from capabilities.ucanto import archive
from stmflow.clock import SystemClock
from tests.stmflow.cli.ucan_calls import make_key, run, run_json


class People(NamedTuple):
    """Two keys with their DIDs, and a stranger."""

    space: Path
    space_did: str
    agent: Path
    agent_did: str
    other_did: str


@pytest.fixture
def people(tmp_path: Path) -> People:
    other = Signer.from_seed(b"o" * 32).did.text
    return People(*make_key(tmp_path, "space"), *make_key(tmp_path, "agent"), other)


def granted(people: People, *more: Any) -> tuple[Any, ...]:
    return ("delegate", "--key", people.space, "--to", people.agent_did, *more)


def test_an_archive_of_ucanto_grants_what_was_asked_for(people: People, tmp_path: Path) -> None:
    path = tmp_path / "d.car"
    now = SystemClock().now() // 1_000
    run(
        *granted(people, "--can", "store/add", "--can", "/upload/*", "--out", path),
        *("--caveat", '{"size": 5}', "--expires", "2h"),
    )
    token, _ = archive.decode(path.read_bytes())
    assert (token.issuer, token.audience) == (
        DID.parse(people.space_did),
        DID.parse(people.agent_did),
    )
    assert [(one.can, one.with_, dict(one.caveats)) for one in token.capabilities] == [
        ("store/add", people.space_did, {"size": 5}),
        ("upload/*", people.space_did, {"size": 5}),
    ]
    assert token.expires is not None
    assert 0 <= token.expires - now - 7_200 <= 5


def test_text_holds_the_same_archive_as_a_cid_that_clients_parse(people: People) -> None:
    text = run(*granted(people, "--can", "*", "--expires", "never")).stdout.strip()
    assert text[0] == "m"
    cid = b64decode(text[1:] + "=" * (-len(text[1:]) % 4))
    assert cid[:4] == b"\x01\x82\x04\x00"
    at = 4 + next(at for at, byte in enumerate(cid[4:], 1) if byte < 0x80)
    token, _ = archive.decode(cid[at:])
    assert token.expires is None
    assert token.capabilities[0].can == "*"


def test_a_container_of_ucan_1_0_grants_each_command_with_the_policy(
    people: People, tmp_path: Path
) -> None:
    path = tmp_path / "d.ucan"
    run(
        *granted(people, "--can", "store/add", "--can", "upload/*", "--can", "*", "-o", path),
        *("--family", "1.0", "--policy", '[["<=", ".size", 5]]', "--expires", "2100-01-01"),
    )
    made = [delegation.decode(data) for data in container.decode(path.read_bytes()).values()]
    assert {one.command for one in made} == {"/store/add", "/upload", "/"}
    assert {one.expires for one in made} == {4_102_444_800}
    assert all(one.policy.plain == [["<=", ".size", 5]] for one in made)
    assert all(one.subject == DID.parse(people.space_did) for one in made)


def test_a_delegation_carries_what_it_rests_on(people: People, tmp_path: Path) -> None:
    for family in ("ucanto", "1.0"):
        first, second = tmp_path / f"{family}.1", tmp_path / f"{family}.2"
        run(*granted(people, "--can", "store/add", "--family", family, "-o", first))
        told = run_json(
            *("delegate", "--key", people.agent, "--to", people.other_did, "--can", "store/add"),
            *("--with", people.space_did, "--proof", first, "-o", second),
        )
        assert (told["family"], told["with"]) == (family, people.space_did)
        shown = run_json("ucan", "show", second)
        assert len(shown["tokens"]) == 2
        assert shown["roots"] == told["delegations"]
        text = run("ucan", "show", second).stdout
        assert text.index(people.other_did) < text.index("proof  ") < text.rindex("(its own)")


def test_anything_the_key_may_do_is_written_as_each_family_has_it(
    people: People, tmp_path: Path
) -> None:
    run(*granted(people, "--can", "*", "--with", "ucan:*", "-o", tmp_path / "a"))
    assert archive.decode((tmp_path / "a").read_bytes())[0].capabilities[0].with_ == "ucan:*"
    run(*granted(people, "--can", "*", "--with", "ucan:*", "-o", tmp_path / "b"), "--family", "1.0")
    (data,) = container.decode((tmp_path / "b").read_bytes()).values()
    assert delegation.decode(data).subject is None
    assert "whomever the chain is about" in run("ucan", "show", tmp_path / "b").stdout


def test_json_tells_what_was_granted(people: People) -> None:
    told = run_json(*granted(people, "--can", "store/add", "--expires", "2100-01-01T00:00:01Z"))
    assert told["expires"] == 4_102_444_801
    assert (told["issuer"], told["can"]) == (people.space_did, ["store/add"])
    shown = run_json("ucan", "show", "-", input=told["text"])
    assert shown["tokens"][0]["cid"] == told["delegations"][0]


def test_a_file_is_not_replaced_unasked(people: People, tmp_path: Path) -> None:
    path = tmp_path / "d"
    path.write_text("precious")
    asked = granted(people, "--can", "store/add", "-o", path)
    assert "--force" in run(*asked, code=2).stderr
    assert path.read_text() == "precious"
    run(*asked, "--force")
    archive.decode(path.read_bytes())


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--can", "store"], "MalformedBlock"),
        (["--can", "store/add", "--with", "did:key:zz"], "InvalidDID"),
        (["--can", "store/add", "--with", "did:web:x.com"], "--proof"),
        (["--can", "store/add", "--expires", "2001-01-01"], "over already"),
        (["--can", "store/add", "--expires", "0s"], "over already"),
        (["--can", "store/add", "--expires", "soon\x1b"], "no duration"),
        (["--can", "store/add", "--expires", "99999999999w"], "too far away"),
        (["--can", "store/add", "--caveat", "[]"], "a map"),
        (["--can", "store/add", "--caveat", '{"a": 1, "a": 2}'], "twice"),
        (["--can", "store/add", "--caveat", '{"a": NaN}'], "no number"),
        (["--can", "store/add", "--caveat", '{"a": {"/": "x"}}'], "MalformedBlock"),
        (["--can", "store/add", "--caveat", "[" * 100_000], "not JSON"),
        (["--can", "store/add", "--policy", "[]"], "UCAN 1.0"),
        (["--can", "store/add", "--family", "1.0", "--caveat", "{}"], "ucanto"),
        (["--can", "store/add", "--family", "1.0", "--policy", '[["?"]]'], "MalformedBlock"),
        (["--can", "store/add", "--family", "0.8"], "0.8"),
        ([], "--can"),
    ],
)
def test_what_cannot_be_granted_is_told_before_anything_is_signed(
    people: People, more: list[str], why: str
) -> None:
    assert why in run(*granted(people, *more), code=2).stderr


def test_a_proof_for_somebody_else_or_of_the_other_family_is_refused(
    people: People, tmp_path: Path
) -> None:
    path = tmp_path / "d"
    run(*granted(people, "--can", "store/add", "-o", path))
    asked = ("--to", people.other_did, "--can", "store/add", "--proof", path)
    refused = run("delegate", "--key", people.space, *asked, code=2).stderr
    assert f"not for {people.space_did}" in refused
    other = run("delegate", "--key", people.agent, *asked, "--family", "1.0", code=2).stderr
    assert "of the family ucanto" in other
