"""Signed store/add over HTTP: invocations a second and CPU for each; beside the JavaScript service.

Both services do the same for a store/add: check the signed chain, allocate, look whether the bytes
are there (in memory), sign an S3 URL, sign a receipt. Ours commits each of these steps to disk; the
other one keeps everything in memory. *done* asks again for what is stored; *new* asks for a link
that nobody has asked for. Every invocation rests on one delegation. Bodies are signed beforehand;
the clients run in a process of their own.

Shares are measured without HTTP and one by one: what decoding and encoding a message, its two
signatures and an empty HTTP exchange cost by themselves; the rest is the engine and the commit.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks import http
from benchmarks.child import ROOT, fast_loop, scratch
from capabilities import DID, Signer
from capabilities.service import WORKFLOWS, Service, application
from capabilities.ucanto import Claim, Token, Verified, message, receipt, token, verify_all
from examples.store_add.answers import Answers
from examples.store_add.model import Terms
from examples.store_add.quota import local
from examples.store_add.uploads import UPLOAD
from scheduler import Context, Failure, Limits, Retry, Scheduler
from scheduler.handlers.s3 import POLICIES, Bucket, Presign, Secret, Stat, Watch
from stmflow import CID, Transactor
from stmflow.store.sqlite import SQLiteStore

STORED = CID.of(b"stored already", 0x0202)
SIZE = 100
COUNTS = {1: 300, 16: 1_500}
JS = ROOT / "benchmarks/js"


# --- our service, its bucket in memory ------------------------------------------------------------


@asynccontextmanager
async def service(folder: Path, *, cache: bool = True) -> AsyncIterator[Service]:
    """The example's service over a real database; bytes are looked for in memory."""
    signer = Signer.generate()
    bucket = Bucket(
        "bench", endpoint="http://127.0.0.1:9", access_key="bench", secret_key=Secret("bench")
    )
    profile = local(limit=2**50)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(SQLiteStore.open(folder / "jobs.db"))
        await stack.enter_async_context(bucket)
        transactor = await stack.enter_async_context(
            Transactor(
                store,
                (*profile.workflows, UPLOAD, *WORKFLOWS),
                transactional=profile.transactional,
            )
        )
        handlers = {Stat: _stat, Watch: _watch, Presign: bucket.presign}
        await stack.enter_async_context(
            Scheduler(
                transactor,
                {**handlers, **profile.handlers(transactor)},
                policies=POLICIES,
                limits=Limits(slots=128),
            )
        )
        answers = Answers(signer, transactor, Terms(), str)
        made = Service(signer, transactor, answers.providers(), tasks=answers.tasks())
        if not cache:
            made._verified = Verified(max_tokens=0)
        yield made


async def _stat(task: Stat, context: Context) -> dict[str, Any]:
    found = task.link.multihash == STORED.multihash
    digest = task.link.digest if found else None
    return {
        "found": found,
        "size": task.size if found else None,
        "checksum": digest,
        "mismatch": False,
    }


async def _watch(task: Watch, context: Context) -> None:
    raise Failure("Watching", retry=Retry.SAFE, after_ms=3_600_000)


async def serve(folder: Path, *, cache: bool = True) -> None:
    """Run in a process of its own, until killed; says where it is on standard output."""
    listener = socket.create_server(("127.0.0.1", 0))
    async with service(folder, cache=cache) as made:
        app = application(made, routes=[Route("/empty", _empty, methods=["POST"])])
        server = _announced(app, {"did": str(made.signer.did)}, listener)
        await server.serve(sockets=[listener])


async def _empty(request: Request) -> Response:
    body = await request.body()
    return Response(body, headers={"content-type": http.TYPE})


def _announced(app: Starlette, about: dict[str, Any], listener: socket.socket) -> uvicorn.Server:
    ready = {"endpoint": f"http://127.0.0.1:{listener.getsockname()[1]}/", **about}

    class Announced(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            print(json.dumps(ready), flush=True)

    loop = "uvloop" if fast_loop() else "asyncio"
    return Announced(uvicorn.Config(app, log_level="warning", access_log=False, loop=loop))


@contextmanager
def ours(*, cache: bool = True) -> Iterator[tuple[str, str, int]]:
    """Our service, running: endpoint, DID, process id."""
    command = [sys.executable, "-m", "benchmarks.child", "signed:serve"]
    with scratch() as folder, _running([*command, str(folder), json.dumps({"cache": cache})]) as it:
        yield it


@contextmanager
def theirs() -> Iterator[tuple[str, str, int]]:
    """The JavaScript service, running."""
    if not (JS / "node_modules").exists():
        install = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(JS)]
        subprocess.run(install, check=True, capture_output=True)
    with _running(["node", str(JS / "server.mjs"), "--port", "0"]) as it:
        yield it


@contextmanager
def _running(command: list[str]) -> Iterator[tuple[str, str, int]]:
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            yield ready["endpoint"], ready["did"], process.pid
        finally:
            process.kill()


# --- what is asked --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Customer:
    """A space, and an agent of its own that asks for it."""

    space: Signer
    agent: Signer
    proof: Token

    @classmethod
    def new(cls) -> Customer:
        space, agent = Signer.generate(), Signer.generate()
        claim = Claim("store/*", str(space.did))
        later = int(time.time()) + 86_400
        return cls(space, agent, token.issue(space, agent.did, [claim], expires=later))

    def add(self, service: DID, link: CID, nonce: str) -> bytes:
        """A message with one store/add, signed by the agent."""
        made = token.issue(
            self.agent,
            service,
            [Claim("store/add", str(self.space.did), {"link": link, "size": SIZE})],
            expires=int(time.time()) + 3_600,
            nonce=nonce,
            proofs=[self.proof.cid],
        )
        blocks = {self.proof.cid: self.proof.data, made.cid: made.data}
        return message.encode(message.Message(invocations=(made.cid,), blocks=blocks))


def outcome(answer: bytes) -> Any:
    """What the one receipt in a reply says."""
    told = message.decode(answer)
    (cid,) = told.receipts.values()
    out = receipt.decode(cid, told.blocks[cid]).out
    if "error" in out:
        raise RuntimeError(f"refused: {out['error']}")
    return out["ok"]


# --- measuring ------------------------------------------------------------------------------------


def report(*, rounds: int) -> dict[str, Any]:
    """Ours and theirs in turn; theirs only where Node.js is."""
    node = shutil.which("node") is not None
    mine, other = [], []
    for turn in range(rounds):
        with ours() as (url, did, pid):
            mine.append(_one_round(url, did, pid, STORED, f"o{turn}", 1))
        if node:
            with theirs() as (url, did, pid):
                mark = _stored_there(url, did)
                other.append(_one_round(url, did, pid, mark[0], f"t{turn}", 0.25, mark[1]))
    found: dict[str, Any] = {"ours": _middles(mine)}
    if node:
        found["theirs"] = _middles(other)
        found["ratio"] = {
            name: found["theirs"][name]["cpu_ms"] / found["ours"][name]["cpu_ms"]
            for name in found["theirs"]
        }
    with ours(cache=False) as (url, did, pid):
        bodies = _bodies(Customer.new(), did, STORED, "c", COUNTS[16])
        http.one(url, bodies[0])
        found["no_cache"] = http.measure(url, pid, bodies, clients=16)
        found["http_cpu_ms"] = http.measure(url + "empty", pid, bodies, clients=16)["cpu_ms"]
    found["shares_ms"] = _shares(found["ours"]["done at 16"]["cpu_ms"], found["http_cpu_ms"])
    return found


def _one_round(
    url: str,
    did: str,
    pid: int,
    stored: CID,
    mark: str,
    scale: float,
    customer: Customer | None = None,
) -> dict[str, dict[str, float]]:
    customer = customer or Customer.new()
    assert outcome(http.one(url, customer.add(DID.parse(did), stored, f"{mark}-0")))["status"] == (
        "done"
    )
    found = {}
    for clients, count in COUNTS.items():
        count = int(count * scale)
        done = _bodies(customer, did, stored, f"{mark}-{clients}", count)
        found[f"done at {clients}"] = http.measure(url, pid, done, clients=clients)
        new = [
            customer.add(DID.parse(did), CID.of(f"{mark} {clients} {n}".encode(), 0x0202), "new")
            for n in range(count)
        ]
        found[f"new at {clients}"] = http.measure(url, pid, new, clients=clients)
    return found


def _bodies(customer: Customer, did: str, link: CID, mark: str, count: int) -> list[bytes]:
    return [customer.add(DID.parse(did), link, f"{mark}-{n}") for n in range(count)]


def _stored_there(url: str, did: str) -> tuple[CID, Customer]:
    """Something that the other service has stored: put where it says."""
    customer = Customer.new()
    data = bytes(range(SIZE))
    link = CID.of(data, 0x0202)
    told = outcome(http.one(url, customer.add(DID.parse(did), link, "put")))
    request = urllib.request.Request(
        told["url"], data=data, headers=dict(told["headers"]), method="PUT"
    )
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200
    return link, customer


def _middles(rounds: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    return {
        name: {figure: median(one[name][figure] for one in rounds) for figure in rounds[0][name]}
        for name in rounds[0]
    }


def _shares(total: float, over_http: float) -> dict[str, float]:
    """Milliseconds of CPU of one *done* at 16, by part."""
    signer, customer = Signer.generate(), Customer.new()
    bodies = _bodies(customer, str(signer.did), STORED, "s", 300)
    value = {"ok": {"status": "done", "allocated": 0, "with": "x" * 56, "link": STORED}}
    asked = [message.decode(body) for body in bodies]
    tokens = [token.decode(one.invocations[0], one.blocks[one.invocations[0]]) for one in asked]
    made = [receipt.issue(signer, one.cid, value) for one in tokens]

    def codec(turn: int) -> None:
        told = message.decode(bodies[turn])
        cid = told.invocations[0]
        token.decode(cid, told.blocks[cid])
        answer = made[turn]
        message.encode(
            message.Message(
                receipts={cid: answer.cid}, blocks={**told.blocks, answer.cid: answer.data}
            )
        )

    verified = Verified()

    def signatures(turn: int) -> None:
        verify_all(verified.unverified([tokens[turn]]))
        signer.sign(made[turn].payload)

    parts = {"http": over_http, "car and codec": _cpu(codec), "signatures": _cpu(signatures)}
    return {**parts, "engine and commit": total - sum(parts.values())}


def _cpu(work: Callable[[int], None], count: int = 300) -> float:
    began = time.process_time()
    for turn in range(count):
        work(turn)
    return (time.process_time() - began) / count * 1_000


__all__ = ["report", "serve"]
