"""What the peers need beside themselves: their environments, PostgreSQL, the Restate server."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.child import ROOT, SCRATCH, scratch

HERE = Path(__file__).parent
ENVIRONMENTS = ROOT / "build" / "peers"
POSTGRES = {"shared_buffers": "256MB", "max_wal_size": "1GB", "max_connections": "200"}
"""Beside these the server runs with its defaults: fsync, full_page_writes, synchronous_commit."""
READY_SECONDS = 60


class Missing(Exception):
    """Something is not here; the message says what, and how to get it."""


def python(name: str) -> str:
    """An interpreter with what `requirements/NAME.lock` pins; made once, then instant.

    Raises:
        Missing: it cannot be installed.
    """
    lock = HERE / "requirements" / f"{name}.lock"
    mark = hashlib.sha256(lock.read_bytes()).hexdigest()
    folder = ENVIRONMENTS / name
    stamp, found = folder / ".locked", folder / "bin" / "python"
    if stamp.exists() and stamp.read_text() == mark:
        return str(found)
    _run([sys.executable, "-m", "venv", "--clear", str(folder)], name)
    install = [str(found), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(lock)]
    _run([*install, "--disable-pip-version-check"], name)
    stamp.write_text(mark)
    return str(found)


def restate_server() -> Path:
    """The server's binary, from the npm packages that `restate-server/package-lock.json` pins.

    Raises:
        Missing: there is no npm, or no binary for this system.
    """
    lock = HERE / "restate-server" / "package-lock.json"
    mark = hashlib.sha256(lock.read_bytes()).hexdigest()
    folder = ENVIRONMENTS / "restate-server"
    stamp = folder / ".locked"
    if not stamp.exists() or stamp.read_text() != mark:
        npm = shutil.which("npm")
        if npm is None:
            raise Missing("restate needs Node.js and npm: https://nodejs.org, or apt install npm")
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(lock.with_name(name), folder)
        _run([npm, "ci", "--ignore-scripts", "--loglevel=error", "--prefix", str(folder)], "npm")
        stamp.write_text(mark)
    for found in folder.glob("node_modules/@restatedev/restate-server-*/bin/restate-server"):
        return found
    raise Missing("restate: @restatedev/restate-server has no binary for this system")


def version(python: str, distribution: str) -> str:
    """Of what is installed for that interpreter."""
    ask = "import sys, importlib.metadata as m; print(m.version(sys.argv[1]))"
    return subprocess.check_output([python, "-c", ask, distribution], text=True).strip()


def restate_version() -> str:
    """Of the server."""
    return subprocess.check_output([restate_server(), "--version"], text=True).split()[1]


def _run(command: list[str], name: str) -> None:
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if ended.returncode:
        raise Missing(f"{name} cannot be installed: {ended.stderr.strip()[-500:]}")


@contextmanager
def postgres() -> Iterator[tuple[object, int]]:
    """A PostgreSQL server of its own, as the tests start it: the server, and its process id.

    Raises:
        Missing: there is none here.
    """
    try:
        from tests.pgservers import NoServer, PostgresServer
    except ImportError as error:
        raise Missing(f"PostgreSQL peers need the development packages: {error}") from error
    before, tempfile.tempdir = tempfile.tempdir, _temporary()
    try:
        with PostgresServer(**POSTGRES) as server:
            tempfile.tempdir = before
            assert server._process is not None
            yield server, server._process.pid
    except NoServer as error:
        raise Missing(str(error)) from error
    finally:
        tempfile.tempdir = before


def _temporary() -> str | None:
    """A folder on the project's disk that the server's user can reach, or the usual one."""
    SCRATCH.mkdir(parents=True, exist_ok=True)
    reachable = all(part.stat().st_mode & 0o001 for part in (SCRATCH, *SCRATCH.parents))
    return str(SCRATCH) if reachable or os.geteuid() != 0 else None


class Restate:
    """A Restate server over a folder: its defaults, but for ports and the report of its usage."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.ingress, self.admin, self._node = _free_ports(3)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, again after `kill`; it takes requests on return."""
        environment = {
            **os.environ,
            "RESTATE_DISABLE_TELEMETRY": "true",
            "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{self.ingress}",
            "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{self.admin}",
            "RESTATE_BIND_ADDRESS": f"127.0.0.1:{self._node}",
            "RESTATE_ADVERTISED_ADDRESS": f"http://127.0.0.1:{self._node}",
            "RESTATE_NODE_NAME": "peer",
            "RESTATE_LOG_FILTER": "error",
        }
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [restate_server(), "--base-dir", str(self._folder / "data")],
                cwd=self._folder, env=environment, stdout=log, stderr=log,
            )  # fmt: skip
        for url in (f"http://127.0.0.1:{self.admin}/health", f"{self.url}/restate/health"):
            self._wait(url)

    def kill(self) -> None:
        """End it at once."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(30)

    @property
    def url(self) -> str:
        """Where jobs are sent."""
        return f"http://127.0.0.1:{self.ingress}"

    def _wait(self, url: str) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            assert self._process is not None
            if self._process.poll() is not None:
                break
            with suppress(OSError, urllib.error.URLError), urllib.request.urlopen(url, timeout=2):
                return
            time.sleep(0.05)
        raise RuntimeError(f"restate-server: {(self._folder / 'log').read_text()[-2_000:]}")


@contextmanager
def restate() -> Iterator[Restate]:
    """A new Restate server with an empty folder."""
    with scratch() as folder:
        server = Restate(folder)
        try:
            server.start()
            yield server
        finally:
            server.kill()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()
