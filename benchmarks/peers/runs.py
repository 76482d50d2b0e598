"""Where each peer's measurements run: its interpreter, its servers, a folder and a database."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.child import ROOT, fast_loop, scratch
from benchmarks.peers import processes, remarks, servers
from benchmarks.peers.loads import JOBS, PATIENCE_SECONDS
from benchmarks.peers.peer import Place

KILL_AFTER_SECONDS = 0.12
"""After the first handler has begun: steps are running, no job has come to its end."""
LONGEST_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Kind:
    """One column of the table.

    Args:
        module: of this package; what the child runs.
        environment: whose interpreter; None: the project's own.
        server: "postgres", "restate" or "".
        beside: the stmflow that it is compared with: on the same database, or on SQLite.
        remarks: what has to be known about a workload's figures, in words.
    """

    module: str
    environment: str | None
    server: str
    beside: str
    remarks: dict[str, str] = field(default_factory=dict)


SQLITE, POSTGRES = "stmflow-sqlite", "stmflow-postgres"
PEERS = {
    SQLITE: Kind("ours", None, "", SQLITE),
    POSTGRES: Kind("ours", None, "postgres", POSTGRES),
    "outbox": Kind("outbox", None, "postgres", POSTGRES, remarks.OUTBOX),
    "dbos-sqlite": Kind("dbos", "dbos", "", SQLITE, remarks.DBOS_SQLITE),
    "dbos-postgres": Kind("dbos", "dbos", "postgres", POSTGRES, remarks.DBOS),
    "absurd": Kind("absurd", "absurd", "postgres", POSTGRES, remarks.ABSURD),
    "restate": Kind("restate", "restate", "restate", SQLITE, remarks.RESTATE),
}


VERSIONS = {"dbos": "dbos", "absurd": "absurd-sdk", "restate": "restate-sdk"}
"""Environment → the distribution whose version is told."""


class Failed(Exception):
    """A measurement came to no figures; says why."""


class Bench:
    """Everything that the chosen peers need, started once; as a context manager.

    Raises:
        servers.Missing: on entering; says all that is missing.
    """

    def __init__(self, names: list[str]) -> None:
        self._kinds = {name: PEERS[name] for name in names}
        self._pythons: dict[str | None, str] = {None: sys.executable}
        self._stack = ExitStack()
        self._postgres: Any = None
        self._postgres_pid = 0

    def __enter__(self) -> Bench:
        missing = []
        if not Path("/proc/self/stat").exists():
            missing.append("the CPU of all processes is read from /proc: this needs Linux")
        for environment in {kind.environment for kind in self._kinds.values()} - {None}:
            assert environment is not None
            try:
                self._pythons[environment] = servers.python(environment)
            except servers.Missing as error:
                missing.append(str(error))
        wanted = {kind.server for kind in self._kinds.values()}
        try:
            if "restate" in wanted:
                servers.restate_server()
        except servers.Missing as error:
            missing.append(str(error))
        try:
            if "postgres" in wanted and not missing:
                found = self._stack.enter_context(servers.postgres())
                self._postgres, self._postgres_pid = found
        except servers.Missing as error:
            missing.append(str(error))
        if missing:
            self._stack.close()
            raise servers.Missing("\n".join(missing))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def facts(self) -> dict[str, Any]:
        """Versions of what the chosen peers run on, and how PostgreSQL is set."""
        found = {
            name: servers.version(self._pythons[name], distribution)
            for name, distribution in VERSIONS.items()
            if name in self._pythons
        }
        if self._postgres is not None:
            found["postgres"] = asyncio.run(self._ask("SHOW server_version"))
            data = asyncio.run(self._ask("SHOW data_directory"))
            found["postgres_on_this_disk"] = os.stat(data).st_dev == os.stat(ROOT).st_dev
            for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                found[setting] = asyncio.run(self._ask(f"SHOW {setting}"))
        if "restate" in self._pythons:
            found["restate_server"] = servers.restate_version()
        return found

    async def _ask(self, sql: str) -> Any:
        from tests.pgservers import admin

        return await admin(self._postgres.url(), sql)

    def measure(self, name: str, workload: str, *, clients: int = 1, **options: Any) -> Any:
        """What a workload gives, in a fresh process, folder and database.

        Raises:
            Failed: its process failed or did not end in time.
        """
        with self._place(name, clients) as (place, pids):
            return self._child(name, workload, place, {**options, "servers": pids})

    def kill_and_recover(self, name: str) -> Any:
        """W4: SIGKILL to the process with the handlers and to those it started; then the next."""
        with self._place(name, JOBS) as (place, _):
            flood = replace(place, handlers="slow")
            with self._start(name, "flood", flood, {}) as child:
                assert child.stdout is not None
                try:
                    if child.stdout.readline() != "ready\n":
                        raise Failed(f"{name}: the jobs could not be begun")
                    _wait_for(place.folder / "performed.log")
                    time.sleep(KILL_AFTER_SECONDS)
                finally:
                    processes.kill(child.pid)
            noted = replace(place, handlers="noted")
            return self._child(name, "recover", noted, {})

    @contextmanager
    def _place(self, name: str, clients: int) -> Iterator[tuple[Place, list[int]]]:
        """A place for this peer, and the ids of the servers that work for it."""
        server = self._kinds[name].server
        with ExitStack() as stack:
            folder = stack.enter_context(scratch())
            place = Place(folder, clients=clients, fast_loop=fast_loop())
            if server == "postgres":
                url = asyncio.run(self._postgres.new_database())
                stack.callback(self._drop, url)
                yield replace(place, url=url), [self._postgres_pid]
            elif server == "restate":
                running = stack.enter_context(servers.restate())
                options = {"admin": f"http://127.0.0.1:{running.admin}"}
                yield replace(place, url=running.url, options=options), [running.pid]
            else:
                yield place, []

    def _drop(self, url: str) -> None:
        from tests.pgservers import admin

        name = url.rpartition("/")[2]
        asyncio.run(admin(self._postgres.url(), f"DROP DATABASE {name} WITH (FORCE)"))

    def _child(self, name: str, workload: str, place: Place, options: dict[str, Any]) -> Any:
        with self._start(name, workload, place, options) as child:
            try:
                text, _ = child.communicate(timeout=LONGEST_SECONDS)
            except BaseException as error:
                processes.kill(child.pid)
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                raise Failed(f"{name} {workload}: no end after {LONGEST_SECONDS} s") from None
        if child.returncode:
            raise Failed(f"{name} {workload}: its process ended with {child.returncode}")
        return json.loads(text.splitlines()[-1])

    def _start(
        self, name: str, workload: str, place: Place, options: dict[str, Any]
    ) -> subprocess.Popen[str]:
        kind = self._kinds[name]
        command = [self._pythons[kind.environment], "-m", "benchmarks.peers.child"]
        return subprocess.Popen(
            [*command, kind.module, workload, place.to_json(), json.dumps(options)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": ""},
            stdout=subprocess.PIPE,
            text=True,
        )


def _wait_for(log: Path) -> None:
    """Until the first handler has begun."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and not (log.exists() and log.stat().st_size):
        time.sleep(0.005)


__all__ = ["PEERS", "Bench", "Failed", "Kind"]
