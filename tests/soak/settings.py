"""What all processes of one soak share."""

from __future__ import annotations

import ctypes
import gc
import logging
import signal
import time
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from examples.store_add.seaweed import Endpoint
from scheduler.handlers.s3 import Secret
from stmflow import committer
from stmflow.store import Store

HOUR_MS = 3_600_000
LEASE_SECONDS = 5.0
HEADS = 256
"""How many heads a process keeps: so few that what is kept does not grow for most of the run."""
SEGMENT_BYTES = 512 * 1024
"""How large a segment of the archive becomes: less than what a minute leaves. Otherwise the memory
that it takes is that of the longest pause between two runs of retention."""
PAGES = 4
"""Pages and indexes of the archive that a client keeps."""
UNREACHABLE = 75
"""The exit code of a process that found no database when it started: EX_TEMPFAIL of sysexits."""


@dataclass(frozen=True, slots=True)
class S3:
    """Where S3 is; plain values, so that they travel to other processes."""

    url: str
    access_key: str
    secret_key: str
    name: str

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.url, self.access_key, Secret(self.secret_key), self.name)


@dataclass(frozen=True, slots=True)
class Settings:
    """One soak.

    Attributes:
        where: the database: a path, or `postgresql://…`. folder: of ledgers, logs and the archive.
        rate: operations a second, of all clients together. clients: how many these are.
        keep_ms: how old history gets before it leaves. answer_ms: how long a delivery is known.
        window_ms, skew_ms: the terms of uploads.
        traced: what the long-lived processes allocate is recorded (tracemalloc).
    """

    where: str
    folder: Path
    seed: int
    rate: float
    clients: int
    bucket: S3 | None = None
    keep_ms: int = 60_000
    answer_ms: int = 600_000
    window_ms: int = 15_000
    skew_ms: int = 10_000
    traced: bool = False

    @property
    def ahead_ms(self) -> int:
        """How far the clock of retention goes ahead, which keeps everything for an hour at least:
        so history leaves after `keep_ms` of the time that others have."""
        return HOUR_MS - self.keep_ms

    @property
    def archive(self) -> Path:
        return self.folder / "archive"

    @property
    def performed(self) -> Path:
        """A record for each task that was performed, by whichever worker."""
        return self.folder / "performed"

    def ledger(self, client: int) -> Path:
        """What a client has begun, and what it was answered."""
        return self.folder / f"client-{client}"


def opened(where: str) -> AbstractAsyncContextManager[Store]:
    """The store at a path, or at the address of a PostgreSQL database."""
    if where.startswith("postgresql:"):
        from stmflow.store.postgres import PostgresStore

        return PostgresStore.open(where)
    from stmflow.store.sqlite import SQLiteStore

    return SQLiteStore.open(where)


def begin(settings: Settings, name: str) -> None:
    """What every process does first: it ends with its parent, logs to a file, and is given a clock
    that is off by up to 1.5 s and jumps every ten seconds."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG, on Linux
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    logging.basicConfig(
        filename=settings.folder / f"{name}.log",
        level=logging.WARNING,
        format="%(asctime)s %(process)d %(name)s %(message)s",
        force=True,
    )
    true_ns, true_s = time.time_ns, time.monotonic
    base = Random(f"{settings.seed} {name}").uniform(-800, 800)
    last, off_ns = -1, 0

    def wrong_ns() -> int:
        nonlocal last, off_ns
        now = int(true_s() / 10)
        if now != last:
            jump = Random(f"{settings.seed} {name} {now}").uniform(-700, 700)
            last, off_ns = now, int((base + jump) * 1_000_000)
        return true_ns() + off_ns

    time.time_ns = wrong_ns
    committer.CACHED_HEADS = HEADS
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
