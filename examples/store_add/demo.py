"""The demonstration: a real file, a real S3 server, a real SIGKILL. It ends with 0 only if all of
it happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NoReturn

import anyio
import httpx
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from examples.store_add.model import Receiving, State, Stored, Target, Terms
from examples.store_add.seaweed import Endpoint, running
from examples.store_add.service import RAW, Service, service, upload_target
from examples.store_add.workflow import STORE_ADD
from scheduler import Context
from scheduler.handlers.s3 import Stat
from stmflow import CID

SPACE = "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK"
KILLED = b"written by nobody yet: the process that asked for it was killed\n" * 16
SHORT = Terms(window_ms=2_000, skew_ms=1_000)

console = Console(highlight=False)


class Unexpected(Exception):
    """The demonstration did not go as it should."""


def expect(holds: bool, what: str) -> None:
    """Show what is so; stop where it is not."""
    if not holds:
        raise Unexpected(what)
    console.print(f"  [green]✓[/] {what}")


async def demo(folder: Path, file: Path) -> None:
    """Play all five acts in `folder`, storing `file`."""
    folder.mkdir(parents=True, exist_ok=True)
    database = folder / "jobs.db"
    for left in folder.glob("jobs.db*"):
        left.unlink()
    data = file.read_bytes() + os.urandom(16)  # new bytes on every run: the bucket is kept
    with console.status("starting an S3 server (SeaweedFS)…"):
        async with AsyncExitStack() as stack:
            endpoint = await stack.enter_async_context(running(folder / "s3"))
            console.print(f"S3 server at [cyan]{endpoint.url}[/], bucket {endpoint.bucket}")
            kept = stack.pop_all()
    async with kept:
        async with service(database, endpoint) as storage:
            job = await store_a_file(storage, file, data)
            await ask_again(storage, data)
            await let_it_expire(storage)
        kill_a_process(folder, endpoint)
        async with service(database, endpoint) as storage:
            await finish_what_it_left(storage)
    show(database, job)


async def store_a_file(storage: Service, file: Path, data: bytes) -> CID:
    """add → signed URL → PUT by an ordinary HTTP client → stored."""
    act(1, f"Store {file.name} ({len(data):,} bytes)")
    answer = await storage.add(SPACE, data)
    expect(answer.committed, "store/add was committed: the space is charged, a URL is on its way")
    job = one(answer.job)
    target = aim(await storage.settled(job))
    expect(await storage.used(SPACE) == len(data), f"the space is charged {len(data):,} bytes")
    console.print(f"  PUT [cyan]{target.url.partition('?')[0]}?…[/]")
    await put(target, data)
    await storage.claim(SPACE, data)
    head = await storage.reached(job, "stored")
    expect(isinstance(head.state, Stored), "stored: size and SHA-256 were proved, not believed")
    wrong = await put(target, data, expected=412)
    expect(wrong == 412, "the same URL cannot overwrite what it wrote (412)")
    return job


async def ask_again(storage: Service, data: bytes) -> None:
    """A second add answers at once with the same state."""
    act(2, "Ask for the same bytes again")
    head = await storage.transactor.get(STORE_ADD.job(SPACE, CID.of(data, RAW).multihash))
    answer = await storage.add(SPACE, data)
    expect(answer.kind == "no change", "nothing changes, nothing is charged twice")
    expect(head is not None and answer.state == head.state_cid, f"same state {answer.state}")


async def let_it_expire(storage: Service) -> None:
    """A job whose upload never comes expires and gives its space back."""
    act(3, "An upload that never comes")
    before = await storage.used(SPACE)
    answer = await storage.add(SPACE, os.urandom(5_000), terms=SHORT)
    job = one(answer.job)
    aim(await storage.settled(job))
    expect(await storage.used(SPACE) == before + 5_000, "5,000 bytes more are reserved")
    with console.status("waiting for the deadline (2 s) and its margin (1 s)…"):
        await storage.reached(job, "expired")
    expect(await storage.used(SPACE) == before, "expired after a last look; the space has it back")


def kill_a_process(folder: Path, endpoint: Endpoint) -> None:
    """Another process asks, commits, and is killed before its effect is performed."""
    act(4, "SIGKILL between commit and effect")
    command = [sys.executable, "-m", "examples.store_add", "killed", str(folder), endpoint.url]
    secret = endpoint.secret_key.reveal()
    environment = {**os.environ, "S3_ACCESS_KEY": endpoint.access_key, "S3_SECRET_KEY": secret}
    status = subprocess.run(command, env=environment, check=False).returncode
    expect(status == -signal.SIGKILL, "the process is gone; its job is committed, its stat is not")


async def killed(folder: Path, endpoint: Endpoint) -> NoReturn:
    """What that process does: its handler of s3/stat is the end of it."""

    async def die(task: Any, context: Context) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    async with service(folder / "jobs.db", endpoint, instead={Stat: die}) as storage:
        await storage.add(SPACE, KILLED)
        await anyio.sleep(30)
    raise SystemExit(1)


async def finish_what_it_left(storage: Service) -> None:
    """The next process finds the claim of a dead worker, and goes on."""
    job = STORE_ADD.job(SPACE, CID.of(KILLED, RAW).multihash)
    state = await storage.settled(job)
    if isinstance(state, Receiving):
        expect(True, "the next process performed it: the job has its URL")
        await put(aim(state), KILLED)
        await storage.claim(SPACE, KILLED)
    head = await storage.reached(job, "stored")
    expect(head.epoch == 1, "stored in its first try: nothing was lost, nothing charged twice")


def show(database: Path, job: CID) -> None:
    """The history by CID, by the command line."""
    act(5, "The history, by CID")
    command_line(database, "log", str(job))
    command_line(database, "verify", "--all")


def command_line(database: Path, *words: str) -> None:
    """Run `stmflow` as a person would."""
    options = ["--database", str(database), "--app", "examples.store_add:app"]
    console.print(f"[bold]$ stmflow {' '.join(words)}[/]")
    status = subprocess.run(
        [sys.executable, "-m", "stmflow", *options, *words], check=False
    ).returncode
    if status:
        raise Unexpected(f"stmflow {words[0]} ended with {status}")


async def put(target: Target, data: bytes, *, expected: int = 200) -> int:
    """Upload as any HTTP client would: the URL, and exactly the headers that came with it."""
    async with httpx.AsyncClient() as client:
        response = await client.put(target.url, content=data, headers=dict(target.headers))
    if response.status_code != expected:
        raise Unexpected(f"PUT answered {response.status_code}, not {expected}")
    return response.status_code


def act(number: int, title: str) -> None:
    console.print()
    console.print(Panel.fit(f"[bold]{number}. {title}[/]", border_style="blue"))


def one(job: CID | None) -> CID:
    if job is None:
        raise Unexpected("an answer without a job")
    return job


def aim(state: State) -> Target:
    target = upload_target(state)
    if target is None:
        raise Unexpected(f"no upload URL, but {state.tag}")
    return target


def farewell(folder: Path) -> None:
    """What to try next."""
    table = Table.grid(padding=(0, 2))
    table.add_row("every job", f"stmflow --database {folder}/jobs.db ls")
    table.add_row("what is still to be done", f"stmflow --database {folder}/jobs.db outbox")
    table.add_row("any block", f"stmflow --database {folder}/jobs.db show CID")
    console.print()
    console.print("[bold green]All of it happened.[/] The database stays; try")
    console.print(table)
