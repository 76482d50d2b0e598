"""Ways to call the commands of capabilities, and a service that answers as it is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from click.testing import CliRunner, Result

from capabilities import Signer
from capabilities.ucanto import message, receipt
from stmflow import CID
from stmflow.cli import cli
from tests.stmflow.cli.conftest import assert_harmless

SILENT_CODES = (0, 1, 8)
SERVICE = Signer.from_seed(b"s" * 32)
MALLORY = Signer.from_seed(b"m" * 32)


def run(*args: Any, code: int = 0, **options: Any) -> Result:
    """Call the command line in this process; a failure is one line on standard error."""
    result = CliRunner().invoke(cli, [*map(str, args)], **options)
    assert result.exit_code == code, result.output + repr(result.exception)
    told = result.stderr.splitlines()
    assert len(told) <= 1 if code in SILENT_CODES else len(told) == 1
    assert all(line.startswith("stmflow: ") for line in told)
    assert_harmless(result.stdout)
    return result


def run_json(*args: Any, code: int = 0, **options: Any) -> Any:
    """The same with --json: its one document."""
    return json.loads(run(*args, "--json", code=code, **options).stdout)


def make_key(folder: Path, name: str) -> tuple[Path, str]:
    """A new key file, and its DID."""
    path = folder / f"{name}.key"
    return path, run("key", "new", path).stdout.strip()


Answer = tuple[int, bytes, dict[str, str]]


@dataclass(slots=True)
class Liar:
    """What a service says of itself, and how it answers; what it was sent."""

    about: Any = field(default_factory=lambda: {"did": SERVICE.did.text})
    answer: Callable[[bytes], Answer | None] = lambda body: (200, b"", {})
    posted: list[bytes] = field(default_factory=list)
    url: str = ""


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for them

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away early is meant; a trace would land in somebody's stderr."""


@contextmanager
def liar(**said: Any) -> Iterator[Liar]:
    """A real HTTP server that answers as `Liar` says; `answer` None: it hangs up."""
    told = Liar(**said)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = told.about if isinstance(told.about, bytes) else json.dumps(told.about).encode()
            self.reply((200, body, {}))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            told.posted.append(body)
            answer = told.answer(body)
            if answer is not None:
                self.reply(answer)

        def reply(self, answer: Answer) -> None:
            status, body, headers = answer
            self.send_response(status)
            for name, value in {"content-length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    server = _Server(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    told.url = f"http://127.0.0.1:{server.server_address[1]}/"
    try:
        yield told
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answered(
    by: Signer = SERVICE, out: Any = None, *, other: bool = False
) -> Callable[[bytes], Answer]:
    """An answer with a receipt by this key, or of another invocation than the one that came."""

    def answer(body: bytes) -> Answer:
        (ran,) = message.decode(body).invocations
        of = SERVICE_CID if other else ran
        made = receipt.issue(by, of, out or {"ok": {}})
        reply = message.Message(receipts={ran: made.cid}, blocks={made.cid: made.data})
        return 200, message.encode(reply), {}

    return answer


SERVICE_CID = receipt.issue(SERVICE, CID.of(b""), {"ok": {}}).cid
