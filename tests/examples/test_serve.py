"""`serve` as people start it: one line of JSON, a bucket of its own, SIGTERM, and again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Timer
from typing import Any

import httpx
import pytest

from capabilities import DID, Signer, verifier
from capabilities.ucanto import message, receipt
from capabilities.ucanto.message import CONTENT_TYPE, Message
from capabilities.ucanto.token import Claim, issue
from examples.store_add.seaweed import SeaweedMissing, find_weed
from stmflow import CID
from tests.examples.storage import car
from tests.project import ROOT

DATA = b"some bytes of a CAR file"
LINK = car(DATA)
ADD = {"link": LINK, "size": len(DATA)}
READY_SECONDS, END_SECONDS = 90, 15


@pytest.fixture(scope="module", autouse=True)
def weed() -> None:
    """Skips where no S3 server is installed."""
    try:
        find_weed()
    except SeaweedMissing as missing:
        pytest.skip(str(missing))


@dataclass
class Served:
    """A service in a process of its own. `rest` is what it printed after its line."""

    endpoint: str
    did: str
    quota: int
    key: DID
    process: subprocess.Popen[str]
    rest: str = ""
    seconds: float = 0
    http: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=30))

    def ask(self, can: str, nb: Any, space: Signer, **options: Any) -> Any:
        """The outcome of an invocation, signed by the service's key."""
        expires = int(time.time()) + 30
        claim = Claim(can, space.did.text, nb)
        one = issue(space, DID.parse(self.did), [claim], expires=expires, **options)
        body = message.encode(Message((one.cid,), blocks={one.cid: one.data}))
        reply = self.http.post(self.endpoint, content=body, headers={"content-type": CONTENT_TYPE})
        assert reply.status_code == 200, reply.text
        told = message.decode(reply.content)
        said = receipt.decode(told.receipts[one.cid], told.blocks[told.receipts[one.cid]])
        assert str(said.issuer) == self.did
        if not self.did.startswith("did:key"):
            return said.out
        assert receipt.verify_signature(said, verifier(DID.parse(self.did)))
        return said.out


@contextmanager
def serving(data: Path, *options: str) -> Iterator[Served]:
    """Start it, and end it by SIGTERM; it has to end well, and soon."""
    command = [sys.executable, "-m", "examples.store_add", "serve", "--port", "0"]
    with started([*command, "--data", str(data), *options]) as process:
        assert process.stdout is not None
        line = json.loads(process.stdout.readline())
        assert line.keys() == {"endpoint", "did", "quota"}
        served = Served(**line, key=DID.parse(line["did"]), process=process)
        with served.http:
            yield served
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        served.rest, _ = process.communicate(timeout=END_SECONDS)
        served.seconds = time.monotonic() - began
        assert process.returncode == 0


@contextmanager
def started(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        patience = Timer(READY_SECONDS, process.kill)
        patience.start()
        try:
            yield process
        finally:
            patience.cancel()
            process.kill()


def put(answer: Any) -> None:
    reply = httpx.put(answer["url"], content=DATA, headers=dict(answer["headers"]))
    assert reply.status_code == 200, reply.text


@pytest.mark.slow
def test_it_serves_ends_on_sigterm_and_goes_on_where_it_was(tmp_path: Path) -> None:
    space, other = Signer.generate(), Signer.generate()
    with serving(tmp_path / "data", "--quota", "100") as first:
        assert (first.quota, first.did[:8]) == (100, "did:key:")
        answer = first.ask("store/add", ADD, space)["ok"]
        assert (answer["status"], answer["allocated"]) == ("upload", len(DATA))
        refused = first.ask("store/add", {"link": car(b"large"), "size": 101}, other)["error"]
        assert refused["name"] == "InsufficientStorage"
        assert first.ask("store/add", {"link": car(b"x"), "size": 100}, other)["ok"]
        assert httpx.get(f"{first.endpoint}/receipt/{LINK}").status_code == 404
        # Notices are hints, whatever is in them.
        for notice in (b"", b"x", b"[" * 60_000, b'{"Records": [{"s3": {}}]}', b"\xff"):
            reply = httpx.post(f"{first.endpoint}/s3-events", content=notice)
            assert reply.status_code == 204, notice[:20]
        large = httpx.post(f"{first.endpoint}/s3-events", content=b"x" * (64 * 1024 + 1))
        assert large.status_code == 413
    assert (first.rest, first.seconds < 5) == ("", True)
    key = tmp_path / "data/service.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert Signer.load(key).did.text == first.did

    with serving(tmp_path / "data", "--quota", "100") as second:
        assert second.did == first.did
        put(answer)  # the URL of before is still good: the job waited for its upload
        again = second.ask("store/add", ADD, space, nonce="again")["ok"]
        assert (again["status"], again["allocated"]) == ("done", 0)
        listed = second.ask("store/list", {}, space)["ok"]
        assert [(one["link"].digest, one["size"]) for one in listed["results"]] == [
            (LINK.digest, len(DATA))
        ]
    assert second.rest == ""


@pytest.mark.slow
def test_it_speaks_as_a_did_web_by_a_key_of_ones_own(tmp_path: Path) -> None:
    signer, space = Signer.generate(), Signer.generate()
    signer.save(tmp_path / "own.key")
    options = ("--key", str(tmp_path / "own.key"), "--did", "did:web:store.example")
    with serving(tmp_path / "data", *options) as served:
        assert served.did == "did:web:store.example"
        answer = served.ask("store/add", ADD, space)["ok"]
        put(answer)  # and nobody says so: a watch finds it
        for _ in range(100):
            shown = served.ask("store/show", {"link": LINK}, space)["ok"]
            if shown["status"] == "stored":
                break
            time.sleep(0.1)
        assert shown["status"] == "stored"
        assert not (tmp_path / "data/service.key").exists()
        blob = {"blob": {"digest": CID.of(b"b").multihash, "size": 1}}
        assert served.ask("space/blob/add", blob, space)["ok"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--quota", "-1"], "--quota"),
        (["--port", "x"], "--port"),
        (["--s3", "http://127.0.0.1:1"], "S3_ACCESS_KEY"),
        (["--did", "store.example"], "store.example"),
    ],
)
def test_what_cannot_be_served_is_one_line_on_stderr(
    tmp_path: Path, options: list[str], said: str
) -> None:
    command = [sys.executable, "-m", "examples.store_add", "serve", "--data", str(tmp_path / "d")]
    done = subprocess.run(
        [*command, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert done.returncode in (1, 2)
    assert done.stdout == ""
    assert said in done.stderr
    assert "Traceback" not in done.stderr
