"""Rules 1 and 2 against a real S3 server: from end to end, and killed in the middle."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from examples.store_add.model import Receiving, State
from examples.store_add.seaweed import Endpoint
from examples.store_add.service import Service, service, upload_target
from scheduler.handlers.s3 import Bucket, Secret
from stmflow import CID
from tests.acceptance.fakes import Points, dying
from tests.project import ROOT
from tests.s3servers import SeaweedServer

SPACE = "did:key:zAlice"
DATA = b"from end to end " * 1_000


async def put(state: State, data: bytes) -> int:
    """Upload as any HTTP client would."""
    target = upload_target(state)
    assert target is not None
    async with httpx.AsyncClient() as client:
        answer = await client.put(target.url, content=data, headers=dict(target.headers))
    return answer.status_code


def stmflow(database: Path, *words: str) -> list[dict[str, Any]]:
    """What the command line says, line by line."""
    options = ["--json", "--database", str(database), "--app", "examples.store_add:app"]
    ended = subprocess.run(
        [sys.executable, "-m", "stmflow", *options, *words],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr + ended.stdout
    return [json.loads(line) for line in ended.stdout.splitlines()]


async def test_add_put_stored_and_the_history_by_cid(tmp_path: Path, endpoint: Endpoint) -> None:
    database = tmp_path / "jobs.db"
    async with service(database, endpoint) as storage:
        answer = await storage.add(SPACE, DATA)
        assert answer.committed
        assert answer.job is not None
        assert await put(await storage.settled(answer.job), DATA) == 200
        await storage.claim(SPACE, DATA)
        head = await storage.reached(answer.job, "stored")
        again = await storage.add(SPACE, DATA)
        assert (again.kind, again.state) == ("no change", head.state_cid)
        assert await storage.used(SPACE) == len(DATA)
        assert await storage.transactor.get(answer.job) == head
        assert await storage.store.tasks() == []

    entries = stmflow(database, "log", str(head.job))
    assert entries[0]["revision"] == plain(head.revision)
    assert entries[0]["state"] == plain(head.state_cid)
    assert [entry["seq"] for entry in entries] == list(range(head.seq, 0, -1))
    assert [entry["status"] for entry in reversed(entries)][:2] == ["probing", "receiving"]
    assert entries[0]["status"] == "stored"
    (shown,) = stmflow(database, "show", str(head.revision))
    assert [write["seq"] for write in shown["writes"]].count(head.seq)
    *reports, summary = stmflow(database, "verify", "--all")
    assert len(reports) == 3  # the upload, the quota, the blob
    assert (summary["jobs"], summary["ok"], summary["together"]) == (3, 3, "ok")


def plain(cid: CID) -> dict[str, str]:
    return {"/": str(cid)}


@pytest.mark.parametrize(("point", "n"), [("effect:after", 1), ("settle:after", 2)])
async def test_killed_in_front_of_a_real_bucket(
    tmp_path: Path, endpoint: Endpoint, seaweed: SeaweedServer, point: str, n: int
) -> None:
    command = [sys.executable, "-m", "tests.acceptance.test_service", str(tmp_path), point, str(n)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "S3_URL": endpoint.url,
        "S3_BUCKET": endpoint.bucket,
        "S3_ACCESS_KEY": endpoint.access_key,
        "S3_SECRET_KEY": endpoint.secret_key.reveal(),
    }
    ended = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    async with service(tmp_path / "jobs.db", endpoint) as storage:
        await upload_and_claim(storage)
        answer = await storage.add(SPACE, DATA)
        assert (answer.kind, answer.epoch) == ("no change", 1)
        assert await storage.used(SPACE) == len(DATA)
        assert await storage.store.tasks() == []
    stmflow(tmp_path / "jobs.db", "verify", "--all")
    listed = seaweed.s3.list_objects_v2(Bucket=endpoint.bucket)["Contents"]
    assert [one["Size"] for one in listed] == [len(DATA)]


async def upload_and_claim(storage: Service) -> None:
    """What a client does, and does again when it got no answer."""
    answer = await storage.add(SPACE, DATA, delivery="add")
    assert answer.job is not None
    state = await storage.settled(answer.job)
    if isinstance(state, Receiving):
        assert await put(state, DATA) in (200, 412)
        await storage.claim(SPACE, DATA)
    await storage.reached(answer.job, "stored")


async def play(folder: Path, points: Points) -> None:
    """The process that is killed: the service itself, over a store and handlers that die."""
    endpoint = Endpoint(
        os.environ["S3_URL"],
        os.environ["S3_ACCESS_KEY"],
        Secret(os.environ["S3_SECRET_KEY"]),
        os.environ["S3_BUCKET"],
    )
    handlers = Bucket.handlers

    def wrapped(self: Bucket) -> dict[type, Any]:
        return {task: points.around(handler) for task, handler in handlers(self).items()}

    Bucket.handlers = wrapped  # type: ignore[method-assign]
    # By its full name: the package has a function of this name as well.
    module: Any = importlib.import_module("examples.store_add.service")
    module.SQLiteStore = dying(points)
    async with service(folder / "jobs.db", endpoint) as storage:
        await upload_and_claim(storage)
        print(points.passed)


if __name__ == "__main__":  # FOLDER POINT N
    anyio.run(play, Path(sys.argv[1]), Points(sys.argv[2], int(sys.argv[3])))
