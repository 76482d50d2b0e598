"""`invoke` against the example's service over HTTP, and against services that do not behave."""

from __future__ import annotations

import socket
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import pytest

from capabilities import DID
from capabilities.ucanto import message, token
from stmflow import CID
from tests.interop.process import announced
from tests.stmflow.cli.conftest import link
from tests.stmflow.cli.ucan_calls import (
    MALLORY,
    SERVICE,
    Answer,
    answered,
    liar,
    make_key,
    run,
    run_json,
)

DATA = b"some bytes to be stored"
LINK = CID.of(DATA, 0x0202)
FAMILIES = ("ucanto", "1.0")


class People(NamedTuple):
    """A space, and an agent that was granted nothing yet."""

    space: Path
    space_did: str
    agent: Path
    agent_did: str
    folder: Path

    def grant(self, family: str, *commands: str, more: tuple[str, ...] = ()) -> Path:
        """A delegation of the space to the agent, in a file."""
        path = self.folder / f"{family}-{len(list(self.folder.iterdir()))}"
        can = [word for each in commands for word in ("--can", each)]
        given = ("--key", self.space, "--to", self.agent_did, "--family", family)
        run("delegate", *given, *can, *more, "-o", path)
        return path


@pytest.fixture
def people(tmp_path: Path) -> People:
    return People(*make_key(tmp_path, "space"), *make_key(tmp_path, "agent"), tmp_path)


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The example's service, with its own S3 server: what it announced."""
    data = tmp_path_factory.mktemp("served")
    command = (sys.executable, "-m", "examples.store_add", "serve", "--data", str(data))
    with announced(command) as ready:
        yield ready


def add(size: int = len(DATA), of: CID = LINK) -> str:
    return f'{{"link": {{"/": "{of}"}}, "size": {size}}}'


# --- a real service -----------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_an_agent_stores_bytes_by_a_delegation_and_looks_at_the_job(
    served: dict[str, Any], people: People, family: str
) -> None:
    proof = people.grant(family, "store/add", "store/show")
    using = ("--key", people.agent, "--proof", proof, "--with", people.space_did)
    answer = people.folder / "answer"
    url = served["endpoint"]
    data = f"stored by {family}".encode()
    of = CID.of(data, 0x0202)
    wants = ("--args", add(len(data), of))
    told = run_json("invoke", url, "store/add", *using, *wants, "--out", answer)
    assert told["service"] == served["did"]
    assert told["ok"]["status"] == "upload"
    assert told["ok"]["link"] == link(of)
    shown = run_json("ucan", "show", answer)
    (receipt,) = shown["receipts"]
    assert (receipt["cid"], receipt["ran"]) == (told["receipt"], told["invocation"])
    assert receipt["signature"]["good"] is True
    put = urllib.request.Request(told["ok"]["url"], data, told["ok"]["headers"], method="PUT")
    with urllib.request.urlopen(put) as stored:
        assert stored.status == 200
    text = run("invoke", url, "/store/add", *using, *wants, "--nonce", "again").stdout
    assert 'status: "done"' in text
    assert "signed   EdDSA  good" in text
    seen = run_json("invoke", url, "store/show", *using, "--args", f'{{"link": {{"/": "{of}"}}}}')
    assert (seen["ok"]["status"], seen["ok"]["size"]) == ("stored", len(data))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_delegation_for_something_else_is_refused_with_the_reason(
    served: dict[str, Any], people: People, family: str
) -> None:
    using = ("--key", people.agent, "--with", people.space_did, "--args", add())
    for proof in (people.grant(family, "upload/add"), people.grant(family, "store/list")):
        asked = ("invoke", served["endpoint"], "store/add", *using, "--proof", proof)
        told = run_json(*asked, code=8)
        assert told["error"]["name"] == "Unauthorized"
        assert "InvalidClaim" in run(*asked, code=8).stdout


@pytest.mark.parametrize(
    ("family", "limit"),
    [("ucanto", ("--caveat", '{"size": 5}')), ("1.0", ("--policy", '[["<=", ".size", 5]]'))],
)
def test_a_delegation_with_a_limit_is_refused_beyond_it(
    served: dict[str, Any], people: People, family: str, limit: tuple[str, str]
) -> None:
    proof = people.grant(family, "store/add", more=limit)
    using = ("--key", people.agent, "--with", people.space_did, "--proof", proof)
    asked = ("invoke", served["endpoint"], "store/add", *using)
    small = CID.of(b"small", 0x0202)
    assert run_json(*asked, "--args", add(5, small))["ok"]["status"] == "upload"
    assert "error" in run_json(*asked, "--args", add(6, CID.of(b"larger", 0x0202)), code=8)


@pytest.mark.parametrize("family", FAMILIES)
def test_authority_passes_through_several_hands(
    served: dict[str, Any], people: People, family: str
) -> None:
    last, last_did = make_key(people.folder, "last")
    first, second = people.grant(family, "store/*"), people.folder / "second"
    run(
        *("delegate", "--key", people.agent, "--to", last_did, "--can", "store/add"),
        *("--with", people.space_did, "--proof", first, "-o", second),
    )
    asked = ("--key", last, "--with", people.space_did, "--proof", second, "--args", add(9))
    told = run_json("invoke", served["endpoint"], "store/add", *asked)
    assert told["ok"]["with"] == people.space_did
    assert told["ok"]["status"] == "upload"


def test_an_upload_is_watched_and_cancelled_from_afar(
    served: dict[str, Any], people: People
) -> None:
    url, using = served["endpoint"], ("--key", people.space)
    run("invoke", url, "store/add", *using, "--args", add())
    wants = f'{{"link": {{"/": "{LINK}"}}, "after": 0}}'
    seen = run_json("invoke", url, "store/watch", *using, "--args", wants)["ok"]
    assert seen["status"] == "receiving"
    run("invoke", url, "store/cancel", *using, "--args", wants)
    seen = run_json("invoke", url, "store/show", *using, "--args", wants)["ok"]
    assert seen["status"] == "failed"


def test_a_subject_needs_no_proof_and_nobody_else_gets_by_without(
    served: dict[str, Any], people: People
) -> None:
    for family in FAMILIES:
        listed = ("invoke", served["endpoint"], "store/list", "--family", family)
        assert run_json(*listed, "--key", people.space)["ok"]["results"] == []
        alone = ("--key", people.agent, "--with", people.space_did)
        assert "error" in run_json(*listed, *alone, code=8)


def test_a_command_that_is_not_there_is_refused(served: dict[str, Any], people: People) -> None:
    told = run_json("invoke", served["endpoint"], "store/expire", "--key", people.space, code=8)
    assert told["error"]["name"] == "HandlerNotFound"


def test_who_is_asked_is_the_one_that_was_named(served: dict[str, Any], people: People) -> None:
    asked = ("invoke", served["endpoint"], "store/list", "--key", people.space)
    assert run_json(*asked, "--service", served["did"])["service"] == served["did"]
    refused = run(*asked, "--service", SERVICE.did, code=1)
    assert f"not by {SERVICE.did}" in refused.stderr


# --- services that do not behave ----------------------------------------------------------------


def ask(url: str, people: People, *more: Any) -> tuple[Any, ...]:
    return ("invoke", url, "store/list", "--key", people.space, *more)


def test_a_service_that_cannot_be_reached_has_a_code_of_its_own(people: People) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    told = run(*ask(f"http://127.0.0.1:{port}", people), code=9)
    assert "cannot be reached" in told.stderr
    run(*ask(f"http://127.0.0.1:{port}", people, "--service", SERVICE.did), code=9)
    run(*ask("http://no-such-host.invalid/", people), code=9)


@pytest.mark.parametrize(
    ("answer", "code", "why"),
    [
        ((400, b"not\x1b[31m so", {}), 8, "400: not\\x1b[31m so"),
        ((413, b"", {}), 8, "413"),
        ((302, b"", {"location": "http://127.0.0.1:1/"}), 8, "302"),
        ((503, b"busy", {}), 9, "503: busy; nothing has happened\n"),
        ((503, b"", {"retry-after": "7"}), 9, "503; nothing has happened: ask again in 7 s"),
        ((503, b"", {"retry-after": "Mon, 1 Jan"}), 9, "503; nothing has happened\n"),
        ((500, b"oh", {}), 7, "500: oh"),
        (None, 7, "no answer"),
        ((200, b"short", {"content-length": "100"}), 7, "no answer"),
        ((200, b"rubbish", {}), 1, "MalformedBlock"),
        ((200, b"", {}), 1, "MalformedBlock"),
        ((200, bytes(1024 * 1024 + 1), {}), 1, "more than"),
    ],
)
def test_what_an_answer_means_is_told_by_the_code(
    people: People, answer: Answer | None, code: int, why: str
) -> None:
    with liar(answer=lambda body: answer) as service:
        assert why in run(*ask(service.url, people), code=code).stderr
        assert len(service.posted) == 1


def test_an_answer_that_does_not_come_in_time_leaves_it_open(people: People) -> None:
    given_up = Event()

    def slow(body: bytes) -> Answer:
        given_up.wait(30)
        return 200, b"", {}

    with liar(answer=slow) as service:
        known = ("--service", SERVICE.did, "--timeout", "0.5")
        late = run(*ask(service.url, people, *known), code=7)
        assert "no answer" in late.stderr
        given_up.set()


@pytest.mark.parametrize("family", FAMILIES)
def test_rubbish_is_never_taken_for_a_receipt(people: People, family: str) -> None:
    for body in (b"[" * 10_000, b'{"receipt": {"/": {"bytes": "AAAA"}}}', b"{}", b"[]", b"\xff"):
        with liar(answer=lambda _, body=body: (200, body, {})) as service:
            told = run(*ask(service.url, people, "--family", family), code=1)
            assert "holds no receipt" in told.stderr


def test_a_file_that_is_in_the_way_stops_it_before_anything_is_sent(people: People) -> None:
    path = people.folder / "answer"
    path.write_text("precious")
    with liar(answer=answered()) as service:
        assert "--force" in run(*ask(service.url, people, "-o", path), code=2).stderr
        assert service.posted == []
        run(*ask(service.url, people, "-o", path, "--force"))
        assert run_json("ucan", "show", path)["receipts"][0]["out"] == {"ok": {}}
        service.answer = lambda body: (500, b"", {})
        run(*ask(service.url, people, "-o", people.folder / "none"), code=7)
        assert not (people.folder / "none").exists()


def test_a_receipt_by_somebody_else_says_nothing(people: People) -> None:
    with liar(answer=answered(MALLORY)) as service:
        assert f"by {MALLORY.did}" in run(*ask(service.url, people), code=1).stderr
    forged = MALLORY.named("did:web:storage.example")
    with liar(about={"did": "did:web:storage.example"}, answer=answered(forged)) as service:
        asked = ask(service.url, people, "--service-key", SERVICE.did)
        assert "not signed by did:web:storage.example" in run(*asked, code=1).stderr
    with liar(answer=answered(other=True)) as service:
        assert "not of" in run(*ask(service.url, people), code=1).stderr


def test_a_service_without_a_key_in_its_name_needs_one(people: People) -> None:
    named = SERVICE.named("did:web:storage.example")
    with liar(about={"did": named.did.text}, answer=answered(named)) as service:
        assert "--service-key" in run(*ask(service.url, people), code=2).stderr
        assert service.posted == []
        told = run_json(*ask(service.url, people, "--service-key", SERVICE.did))
        assert (told["service"], told["signed"]) == (named.did.text, True)
        text = run(*ask(service.url, people, "--service-key", SERVICE.did)).stdout
        assert "signed   EdDSA  good" in text


@pytest.mark.parametrize("about", [b"<html>", [], {"did": 5}, {"did": "x\x1b"}, b"[" * 9_999])
def test_a_service_that_does_not_say_who_it_is_is_not_asked(people: People, about: Any) -> None:
    with liar(about=about) as service:
        assert "--service DID" in run(*ask(service.url, people), code=1).stderr
        assert service.posted == []


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x/",
        "file:///etc/passwd",
        "x",
        "http://",
        "http://a b/",
        "http://x:y/",
        "//x",
        "http://a:b@x/",
    ],
)
def test_what_is_no_url_of_a_service_is_wrong_usage(people: People, url: str) -> None:
    assert "not the URL" in run(*ask(url, people), code=2).stderr


def test_what_was_asked_is_what_is_sent(people: People) -> None:
    with liar(answer=answered(out={"error": {"name": "No\x1b[0m", "message": "1\n2"}})) as service:
        wants = '{"link": {"/": "' + str(LINK) + '"}, "raw": {"/": {"bytes": "AAE"}}, "n": [1.5]}'
        text = run(*ask(service.url, people, "--args", wants, "--expires", "never"), code=8).stdout
        assert "error No\\x1b[0m" in text
    (cid,) = message.decode(service.posted[0]).invocations
    sent = token.decode(cid, message.decode(service.posted[0]).blocks[cid])
    (claim,) = sent.capabilities
    assert claim.can == "store/list"
    assert dict(claim.caveats) == {"link": LINK, "raw": b"\x00\x01", "n": [1.5]}
    assert (sent.expires, sent.audience) == (None, SERVICE.did)
    assert sent.issuer == DID.parse(people.space_did)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--args", "[]"], "a map"),
        (["--args", '{"/": "x"}'], "MalformedBlock"),
        (["--args", '{"n": 5.0}'], "MalformedBlock"),
        (["--with", "x"], "InvalidDID"),
        (["--service-key", "did:web:x.com", "--service", "did:web:x.com"], "--service-key"),
        (["--timeout", "0"], "timeout"),
        (["--timeout", "nan"], "timeout"),  # click finds it between any two numbers
    ],
)
def test_what_cannot_be_asked_is_told_before_anything_is_sent(
    people: People, more: list[str], why: str
) -> None:
    with liar() as service:
        assert why in run(*ask(service.url, people, *more), code=2).stderr
        assert service.posted == []


def test_a_proof_that_is_no_delegation_is_told_before_anything_is_sent(people: People) -> None:
    path = people.folder / "rubbish"
    path.write_bytes(b"rubbish")
    with liar() as service:
        assert "MalformedBlock" in run(*ask(service.url, people, "--proof", path), code=6).stderr
        run(*ask(service.url, people, "--proof", people.folder / "none"), code=3)
        given = people.grant("ucanto", "store/add")
        told = run(*ask(service.url, people, "--proof", given), code=2).stderr
        assert f"not for {people.space_did}" in told
        assert service.posted == []
