"""`python -m tests.soak`: load under kills for a stated time, then everything must be exact.

    python -m tests.soak --store sqlite --minutes 60
    python -m tests.soak --store postgres --minutes 60 --json soak.json
    python -m tests.soak --store sqlite --minutes 5 --seed 17 --traced

Worker and client processes share one database; every few seconds one of them is killed, stopped
for longer than its lease, or drained; a PostgreSQL server crashes every few minutes. Exit code 0
only if nothing was lost, doubled or left over, and memory is flat.
"""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import anyio

from stmflow import Transactor
from tests.soak.gauges import table
from tests.soak.harness import Soak
from tests.soak.judge import Judge, expected
from tests.soak.load import opening
from tests.soak.places import File, Place, Server, server
from tests.soak.records import Spread, Tail
from tests.soak.service import WORKFLOWS, app
from tests.soak.settings import S3, Settings, opened

GROWTH_MIB = 10.0
"""What the memory of a process may grow by in an hour, once it is warm."""
GROWTH_FILES = 16
JUDGED_SECONDS = 2_400
"""Shorter runs are warm for too short a time: their growth is only told."""
WARM = 0.6
"""Warm is a process after this share of the run. Until then caches fill (heads, pages, archives,
news), and what a burst of load took is taken again by the next."""


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0: all holds."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--rate", type=float, help="operations a second")
    parser.add_argument("--workers", type=int, help="default: 3 for sqlite, 4 for postgres")
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--seed", type=int, help="default: drawn")
    parser.add_argument("--settle", type=float, default=180, help="seconds to come to rest")
    parser.add_argument("--verify", type=float, help="seconds for chains; default: a tenth")
    parser.add_argument("--no-s3", action="store_true", help="without uploads and their server")
    parser.add_argument("--traced", action="store_true", help="record what memory is for (slow)")
    parser.add_argument("--folder", type=Path, help="work there, and leave everything")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    options = parser.parse_args(arguments)
    if options.seed is None:
        options.seed = secrets.randbelow(2**30)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="stmflow-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "archive").exists():
        parser.error(f"another run was in {folder}")
    figures: dict[str, Any] = {}
    try:
        with _parts(options, folder) as (place, settings, objects):
            figures = anyio.run(_soak, options, place, settings, objects)
    finally:
        if options.folder is None and figures and not figures["violations"]:
            shutil.rmtree(folder, ignore_errors=True)
        elif options.folder is None:
            print(f"ledgers, logs and what else there is are in {folder}")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return int(bool(figures["violations"]))


@contextmanager
def _parts(
    options: argparse.Namespace, folder: Path
) -> Iterator[tuple[Place, Settings, Callable[[], set[str]]]]:
    """A database, a bucket, and how to look into that."""
    with ExitStack() as stack:
        place: Place
        if options.store == "sqlite":
            place = File(folder)
        else:
            running = stack.enter_context(server())
            place = Server(running, anyio.run(running.new_database))
        bucket: S3 | None = None
        objects: Callable[[], set[str]] = set
        if not options.no_s3:
            bucket, objects = stack.enter_context(_bucket(folder / "s3"))
        yield (
            place,
            Settings(
                place.where,
                folder,
                options.seed,
                options.rate or place.rate,
                options.clients,
                bucket,
                traced=options.traced,
            ),
            objects,
        )


@contextmanager
def _bucket(folder: Path) -> Iterator[tuple[S3, Callable[[], set[str]]]]:
    from tests.s3servers import SeaweedServer

    with SeaweedServer(folder) as seaweed:
        at = seaweed.new_bucket()

        def objects() -> set[str]:
            pages = seaweed.s3.get_paginator("list_objects_v2").paginate(Bucket=at.bucket)
            return {one["Key"] for page in pages for one in page.get("Contents", ())}

        yield S3(at.url, at.access_key, at.secret_key.reveal(), at.bucket), objects


async def _soak(
    options: argparse.Namespace,
    place: Place,
    settings: Settings,
    objects: Callable[[], set[str]],
) -> dict[str, Any]:
    began = monotonic()
    async with opened(settings.where) as store, _transactor(settings, store) as transactor:
        await opening(transactor)
    seconds = options.minutes * 60
    soak = Soak(settings, place, workers=options.workers or place.workers, seconds=seconds)
    print(
        f"{options.store}, {options.minutes:g} minutes, {settings.rate:g} operations a second,"
        f" seed {settings.seed}",
        flush=True,
    )
    try:
        await soak.run()
        print("the load has ended; everything comes to rest", flush=True)
        async with opened(settings.where) as store, _transactor(settings, store) as transactor:
            judge = Judge(settings, store, transactor, objects)
            await judge.rest(options.settle)
            await soak.leave()
            found = expected(settings, Tail(settings.performed))
            await judge.judge(found)
            await judge.chains(options.verify or max(60, seconds / 10))
    finally:
        soak.end()
    violations = soak.violations + judge.wrong + _forgotten(soak) + _growing(soak)
    figures = {
        "store": options.store,
        "minutes": options.minutes,
        "rate": settings.rate,
        "seed": settings.seed,
        "took_minutes": round((monotonic() - began) / 60, 1),
        "answers": dict(found.answers),
        "tasks packed": found.packed,
        "tasks packed again": found.again,
        "facts": judge.facts,
        "faults": dict(sorted(soak.counts.items())),
        "torn records": found.torn,
        "clients": _remarks(soak),
        "longest open": round(max(book.longest for book in soak.books), 1),
        "answer_ms": _spread(soak.asked),
        "order_ms": _spread(soak.rested),
        "memory_mib": {name: one.figures() for name, one in soak.memory.items()},
        "warm_memory_mib": {
            name: one.after(_warm(soak)).figures() for name, one in soak.memory.items()
        },
        "open_files": {name: one.figures() for name, one in soak.files.items()},
        "database_mib": soak.size.figures(),
        "violations": violations,
    }
    print(_table(figures))
    return figures


def _transactor(settings: Settings, store: Any) -> Transactor:
    ours = app(settings)
    return Transactor(
        store,
        WORKFLOWS,
        transactional=ours.transactional,
        tenant=ours.tenant,
        clock=getattr(store, "clock", None),
    )


def _warm(soak: Soak) -> float:
    return WARM * soak.seconds


def _forgotten(soak: Soak) -> list[str]:
    """Where an operation was asked again after its deliveries had been forgotten, sums may be wrong
    by our own fault."""
    longest, known = max(book.longest for book in soak.books), soak.settings.answer_ms / 1_000
    if longest < known:
        return []
    return [f"an operation was open for {longest:.0f} s of {known:.0f}: give a lower --rate"]


def _growing(soak: Soak) -> list[str]:
    """Whose memory or open files grow."""
    if soak.seconds < JUDGED_SECONDS:
        return []
    hours = (soak.seconds - _warm(soak)) / 3_600
    found = []
    for name, one in soak.memory.items():
        if (growth := one.after(_warm(soak)).growth) > GROWTH_MIB * hours:
            found.append(f"the memory of {name} grew by {growth:.1f} MiB")
    for name, one in soak.files.items():
        if (growth := one.after(_warm(soak)).growth) > GROWTH_FILES:
            found.append(f"the open files of {name} grew by {growth:.0f}")
    return found


def _remarks(soak: Soak) -> dict[str, int]:
    names = {name for book in soak.books for name in book.remarks}
    return {name: sum(book.remarks[name] for book in soak.books) for name in sorted(names)}


def _spread(spread: Spread) -> dict[str, float]:
    shares = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    return {"count": len(spread)} | {name: round(spread.at(at), 1) for name, at in shares.items()}


def _table(figures: dict[str, Any]) -> str:
    counted = {
        **{f"answered {name}": count for name, count in figures["answers"].items()},
        **{name: figures[name] for name in ("tasks packed", "tasks packed again", "longest open")},
        **figures["facts"],
        **figures["faults"],
        **{f"clients: {name}": count for name, count in figures["clients"].items()},
    }
    lines = [table([(name, f"{count:,}") for name, count in counted.items()]), ""]
    spreads: list[tuple[str, ...]] = [("", "count", "p50", "p99", "p99.9", "max")]
    for name in ("answer_ms", "order_ms"):
        spreads.append((name, *(f"{value:,}" for value in figures[name].values())))
    grown: list[tuple[str, ...]] = [("", "start", "end", "max", "per hour", "growth")]
    for what in ("memory_mib", "warm_memory_mib", "open_files"):
        for name, one in figures[what].items():
            grown.append((f"{what} {name}", *(f"{value:,}" for value in one.values())))
    grown.append(("database_mib", *(f"{value:,}" for value in figures["database_mib"].values())))
    lines += [table(spreads), "", table(grown), ""]
    lines += [f"VIOLATION  {one}" for one in figures["violations"][:50]]
    lines.append(f"{len(figures['violations'])} violations; seed {figures['seed']}")
    return "\n".join(lines)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or its processes would outlive it
    sys.exit(main())
