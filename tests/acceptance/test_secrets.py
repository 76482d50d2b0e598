"""The access key's secret and signed URLs: in the answer to who asked, and nowhere else."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from click.testing import CliRunner

from examples.store_add.model import Receiving
from examples.store_add.seaweed import Endpoint
from examples.store_add.service import Service, service, upload_target
from scheduler.handlers import Context, Failure
from scheduler.handlers.s3 import Bucket, Presign, Secret, Stat
from stmflow import Head, SystemClock
from stmflow.cli import cli
from tests.acceptance.story import link
from tests.acceptance.test_service import put

SPACE = "did:key:zAlice"
DATA = b"bytes that need a signed URL"


@pytest.mark.shows("url")  # to the uploader, whose own client says which URL it asks
async def test_neither_secret_nor_signature_leaves_the_service(
    tmp_path: Path, endpoint: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    database = tmp_path / "jobs.db"
    async with service(database, endpoint) as storage:
        answer = await storage.add(SPACE, DATA)
        assert answer.job is not None
        state = await storage.settled(answer.job)
        assert isinstance(state, Receiving)
        target = upload_target(state)
        assert target is not None
        hidden = [endpoint.secret_key.reveal(), target.url.split("X-Amz-Signature=")[1][:64]]
        shown = [repr(await storage.transactor.get(answer.job)), repr(answer), repr(storage)]
        shown += [repr(row) for row in await storage.store.tasks()]
        assert await put(state, DATA) == 200
        await storage.claim(SPACE, DATA)
        head = await storage.reached(answer.job, "stored")
        shown += [repr(head), *errors(endpoint)]
        shown += [line async for line in failures(endpoint)]
        assert await looked_for(storage, head)
    shown += await anyio.to_thread.run_sync(lambda: list(said(database, head)))
    shown += [
        f"{one.name}: {one.getMessage()} {one.__dict__}"
        for one in caplog.records
        if not one.name.startswith("http")  # the uploader's own client
    ]
    assert len([text for text in shown if "••••••" in text]) > 3
    for secret in hidden:
        assert [text for text in shown if secret in text] == []


async def looked_for(storage: Service, head: Head) -> bool:
    """The signature is in the database, or else it would be no wonder that nobody shows it."""
    packs = await storage.store.revisions(head.job)
    return any(b"X-Amz-Signature=" in block for pack in packs for block in pack.blocks)


def errors(endpoint: Endpoint) -> Iterator[str]:
    yield repr(endpoint)
    yield repr(Bucket("blobs", access_key="a", secret_key=endpoint.secret_key))
    try:
        Bucket("blobs", access_key=None, secret_key=endpoint.secret_key)
    except ValueError as error:
        yield "".join(traceback.format_exception(error))


async def failures(endpoint: Endpoint) -> Any:
    """What a handler says when its server refuses the key, is not there, or signs nothing."""
    clock = SystemClock()
    for url, key in ((endpoint.url, "nobody"), ("http://127.0.0.1:9", endpoint.access_key)):
        async with Bucket(
            "blobs", endpoint=url, access_key=key, secret_key=endpoint.secret_key
        ) as bucket:
            now = clock.now()
            told = Context(key=link(DATA), job=link(DATA), attempt=1, token=1,
                deadline=now + 5_000, clock=clock)  # fmt: skip
            for call in (
                bucket.stat(Stat(link(DATA), 1), told),
                bucket.presign(Presign(link(DATA), 1, now), told),
            ):
                with pytest.raises(Failure) as caught:
                    await call
                error = caught.value
                yield f"{error!r} {error.detail} {''.join(traceback.format_exception(error))}"


def said(database: Path, head: Head) -> Iterator[str]:
    """What the command line shows of the job, block by block, in both forms."""
    runner = CliRunner()
    for form in ([], ["--json"]):
        options = [*form, "--database", str(database), "--app", "examples.store_add:app"]
        names = [str(head.job), str(head.revision), str(head.state_cid)]
        log = runner.invoke(cli, ["--json", "--database", str(database), "log", names[0]])
        names += [word.split('"')[0] for word in log.output.split('{"/":"')[1:]]
        asked = [
            ["log", names[0]],
            ["head", names[0]],
            ["ls"],
            ["outbox"],
            ["doctor"],
            ["verify", "--all"],
        ]
        asked += [["show", name] for name in sorted({*names, *linked(runner, database, names)})]
        for words in asked:
            told = runner.invoke(cli, [*options, *words])
            assert told.exit_code in (0, 3), told.output  # 3: a link to bytes, not to a block
            yield told.output


def linked(runner: CliRunner, database: Path, names: list[str]) -> set[str]:
    """What those blocks link to: states, events, effects, receipts."""
    found = set()
    for name in names:
        told = runner.invoke(cli, ["--json", "--database", str(database), "show", name])
        found |= {word.split('"')[0] for word in told.output.split('{"/":"')[1:]}
    return found


def test_a_secret_is_shown_by_nothing_but_its_own_method() -> None:
    secret = Secret("text that nobody sees")
    for shown in (repr(secret), str(secret), f"{secret}", f"{secret!r}", f"{[secret]}"):
        assert "nobody" not in shown
