"""The example's service with every command: a folder in place of S3, and a clock that stands."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capabilities import DID, Signer
from capabilities.service import WORKFLOWS
from capabilities.service import Service as Capabilities
from capabilities.ucanto import message
from capabilities.ucanto.message import Message
from capabilities.ucanto.receipt import Receipt
from capabilities.ucanto.token import Claim, Token, issue
from examples.store_add.answers import Answers
from examples.store_add.model import Target, Terms
from examples.store_add.quota import local
from examples.store_add.uploads import UPLOAD
from examples.store_add.workflow import STORE_ADD, Alert
from scheduler import Context, Scheduler
from scheduler.handlers.allocate import QUOTA
from scheduler.handlers.gc import sweeping
from scheduler.handlers.s3 import POLICIES, Delete
from stmflow import CID, Transactor
from stmflow.store import Store
from stmflow.store.memory import MemoryStore
from tests.acceptance.fakes import FolderBucket
from tests.capabilities.service.world import StandingClock, receipts
from tests.capabilities.ucanto.tokens import NOW, SERVICE, SPACE, blocks_of

CAR_CODEC = 0x0202


@dataclass
class Storage:
    """A running service, and what lies in its bucket."""

    service: Capabilities
    transactor: Transactor
    bucket: FolderBucket
    clock: StandingClock

    async def ask_all(self, *asked: Token, proofs: Iterable[Token] = ()) -> Told:
        """What the service says to these invocations, sent in one message."""
        body = message.encode(
            Message(tuple(one.cid for one in asked), blocks=blocks_of(*proofs, *asked))
        )
        return self._told(await self.service.respond(body))

    async def ask(
        self, can: str, nb: Mapping[str, Any] | None = None, **options: Any
    ) -> Mapping[str, Any]:
        """The outcome of one invocation: `{"ok": ...}` or `{"error": ...}`."""
        one = invoke(can, nb, **options)
        told = await self.ask_all(one)
        return told.receipts[one.cid].out

    async def ok(self, can: str, nb: Mapping[str, Any] | None = None, **options: Any) -> Any:
        out = await self.ask(can, nb, **options)
        assert "ok" in out, out
        return out["ok"]

    async def error(self, can: str, nb: Mapping[str, Any] | None = None, **options: Any) -> Any:
        out = await self.ask(can, nb, **options)
        assert "error" in out, out
        return out["error"]

    async def recall(self, cid: CID) -> Told | None:
        """The receipt that is asked for by name."""
        found = await self.service.receipt(cid)
        return None if found is None else self._told(found)

    def _told(self, reply: bytes) -> Told:
        told = message.decode(reply)
        return Told(receipts(told, self.service.signer), told.blocks)

    def put(self, answer: Mapping[str, Any], data: bytes) -> int:
        """Upload as an answer of the service says; the status of S3."""
        target = Target(answer["url"], answer["headers"], self.clock.now() + 1)
        return self.bucket.upload(target, data)

    async def stored(self, data: bytes, *, space: Signer = SPACE) -> CID:
        """Store these bytes by store/add, to the end."""
        link = car(data)
        answer = await self.ok("store/add", {"link": link, "size": len(data)}, space=space)
        if answer["status"] == "upload":
            assert self.put(answer, data) == 200
            await self.ok("store/get", {"link": link}, space=space)  # which looks
        return link

    async def used(self, space: Signer = SPACE) -> int:
        head = await self.transactor.get(QUOTA.job(str(space.did)))
        return 0 if head is None else int(head.state.used)

    async def tag(self, link: CID, space: Signer = SPACE) -> str | None:
        head = await self.transactor.get(STORE_ADD.job(str(space.did), link.multihash))
        return None if head is None else str(head.state.tag)


@dataclass(frozen=True)
class Told:
    """Receipts by what they answer, and all blocks that came along."""

    receipts: Mapping[CID, Receipt]
    blocks: Mapping[CID, bytes]


@asynccontextmanager
async def storage(
    folder: Path,
    *,
    quota: int = 1_000_000,
    store: Store | None = None,
    signer: Signer = SERVICE,
    clock: StandingClock | None = None,
    instead: Mapping[type, Any] | None = None,
    terms: Terms | None = None,
    **options: Any,
) -> AsyncIterator[Storage]:
    """The service while it runs."""

    async def alert(task: Alert, context: Context) -> None:
        raise AssertionError(task)

    clock = clock or StandingClock()
    bucket = FolderBucket(folder / "bucket", clock)
    kept = local(limit=quota)
    async with Transactor(
        store or MemoryStore(),
        (*kept.workflows, UPLOAD, *WORKFLOWS),
        transactional=kept.transactional,
        clock=clock,
    ) as transactor:
        handlers: dict[type, Any] = {
            **bucket.handlers(),
            Delete: sweeping(transactor, bucket.delete),
            Alert: alert,
            **(instead or {}),
        }
        answers = Answers(
            signer, transactor, terms or Terms(), lambda link: f"https://bucket.test/{link}"
        )
        async with Scheduler(transactor, handlers, policies=POLICIES):
            capabilities = Capabilities(
                signer, transactor, answers.providers(), tasks=answers.tasks(), **options
            )
            yield Storage(capabilities, transactor, bucket, clock)


def invoke(
    can: str,
    nb: Mapping[str, Any] | None = None,
    *,
    space: Signer = SPACE,
    issuer: Signer | None = None,
    about: DID | None = None,
    nonce: str | None = None,
    expires: int | None = NOW + 30,
    audience: DID | None = None,
    proofs: Iterable[Token] = (),
) -> Token:
    """An invocation on a space, by the space itself unless told otherwise."""
    claim = Claim(can, str(about or space.did), dict(nb) if nb else None)
    return issue(
        issuer or space,
        audience or SERVICE.did,
        [claim],
        expires=expires,
        nonce=nonce,
        proofs=[one.cid for one in proofs],
    )


def car(data: bytes) -> CID:
    """The link of bytes as `store/add` clients make it."""
    return CID.of(data, CAR_CODEC)
