"""Hostile arguments for the command line: each option and argument of each command, as click has
them, so that a new command is attacked without being named here.

A call must end with a documented exit code, in one clear line, in bounded time; nothing that was
there is changed, and what is new is for its owner alone. (Beside a database that is read, SQLite
leaves an empty `-wal` and a `-shm`.)
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import sqlite3
import stat
import traceback
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import click
from click.testing import CliRunner, Result

from capabilities.principal import Signer
from stmflow import CID, car
from stmflow.cli import EPILOG, cli, exits

SECONDS = 10
"""How long one call may take. It takes milliseconds; machines have other things to do."""
WRITING = {"redrive", "dismiss", "archive", "gc", "revive"}
"""What may change a database, if it ends well. (`archive` goes on step by step: it forgets answers
before it finds that nothing can be archived.)"""
CODES = {int(code) for code in re.findall(r"(?:^|  )(\d+) +[a-z]", EPILOG, re.M)}
BESIDE = ("-wal", "-shm", "-turn", "-workers")
"""What SQLite and the store keep beside a database."""
OURS = {"jobs", "cut", "other", "new"}
ONE_LINE = {exits.USAGE, exits.NOT_FOUND, exits.AMBIGUOUS, exits.UNUSABLE, exits.UNKNOWN}

BARE = CID.of(b"nobody has this")
HOSTILE: tuple[str, ...] = (
    "",
    " ",
    "-",
    "--",
    "-x",
    "--help=1",
    "-rf /",
    "\0",
    "a\0b",
    "\n",
    "a\nstmflow: done\n",
    "\r\x1b[2K\x1b[31m\x07\x9b2J\u202e",
    "\ud800",
    "é" * 300,
    "x" * 1_000_000,
    "bafyrei" + "a" * 1_000_000,
    "b" * 59,
    f"{BARE}",
    f"{BARE}'; DROP TABLE job; --",
    f"{BARE}/../../..",
    "%",
    "bafyrei%%%%%%%",
    "bafyrei________",
    "../../../escaped",
    "../outside.txt",
    "/etc/passwd",
    "/etc/passwd/x",
    "/dev/null",
    "/dev/full",
    "/proc/self/mem",
    "folder",
    "folder/",
    "loop",
    "gone",
    "link",
    "closed/x",
    "cut.db",
    "other.db",
    "noise",
    "hostile.car",
    "jobs.db",
    "key",
    "9" * 5_000,
    "-1",
    "nan",
    "inf",
    "1e999",
    "{}",
    "[" * 100_000,
    '{"/":' * 5_000,
    "file:jobs.db?mode=rwc&vfs=x",
    "sqlite:////etc/passwd",
    "http://127.0.0.1:1/",
    "http://[::1",
    "s3://",
    "s3://a\0b/..",
    "did:key:z6Mk" + "z" * 300,
    "did:web:127.0.0.1%3A1",
    "os:environ",
    "a.b.c:d",
    "this:__dict__",
    "*=*",
    "=",
    "a=b=c",
    "a:b:c",
)


class Place(NamedTuple):
    """A parameter of a command: where something hostile is put."""

    command: tuple[str, ...]
    parameter: str

    def __str__(self) -> str:
        return f"{' '.join(self.command)} {self.parameter}"


@dataclass(frozen=True, slots=True)
class Told:
    """What came of a call: its exit code and what is wrong with it, each in a line."""

    arguments: tuple[str, ...]
    code: int
    wrong: tuple[str, ...]

    def __str__(self) -> str:
        shown = " ".join(f"{argument!r:.60}" for argument in self.arguments)
        return "\n".join([f"stmflow {shown}: exit code {self.code}", *self.wrong])


def places() -> list[Place]:
    """Every parameter that takes a value, of every command."""
    return [
        Place(path, parameter.name)
        for path, command in commands()
        for parameter in command.params
        if parameter.name is not None and _takes_text(parameter)
    ]


def commands() -> list[tuple[tuple[str, ...], click.Command]]:
    """Every command that does something, by its words."""
    return list(_below((), cli))


def _below(
    path: tuple[str, ...], command: click.Command
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if not isinstance(command, click.Group):
        yield path, command
        return
    for name in command.list_commands(click.Context(command)):
        found = command.get_command(click.Context(command), name)
        assert found is not None, name
        yield from _below((*path, name), found)


def _takes_text(parameter: click.Parameter) -> bool:
    return isinstance(parameter, click.Argument) or not getattr(parameter, "is_flag", False)


def arguments(place: Place, hostile: str, job: CID) -> list[str]:
    """The whole command line with one hostile value; what else is required is harmless."""
    command = dict(commands())[place.command]
    options, rest = [], []
    for parameter in command.params:
        chosen = parameter.name == place.parameter
        if isinstance(parameter, click.Argument):
            if chosen or parameter.required or parameter.name == "task":
                rest.append(hostile if chosen else _harmless(parameter, job))
        elif chosen:
            option = max(parameter.opts, key=len)
            options.append(f"{option}={hostile}" if option.startswith("--") else option + hostile)
        elif parameter.required:
            options += [max(parameter.opts, key=len), _harmless(parameter, job)]
    if rest and any(isinstance(p, click.Argument) and p.name == place.parameter
                    for p in command.params) and not hostile.startswith("--h"):  # fmt: skip
        rest.insert(0, "--")
    return [*place.command, *options, *rest]


def _harmless(parameter: click.Parameter, job: CID) -> str:
    match parameter.name:
        case "file" | "output" | "out":
            return "new"
        case "key":
            return "key"
        case "url":
            return "http://127.0.0.1:1/"
        case "audience" | "subject":
            return Signer.generate().did.text
        case "can" | "name" | "command":
            return "store/add"
        case "shell":
            return "bash"
        case _:
            return str(job)


class Target:
    """A folder with a database and much else, in which commands are called."""

    def __init__(self, folder: Path, database: Path, job: CID) -> None:
        self.top = folder
        self.database = database
        self.here = folder / "a" / "b" / "here"
        self.job = job
        self.here.mkdir(parents=True)
        shutil.copy2(database, self.here / "jobs.db")
        (self.here / "jobs.db").chmod(0o600)
        (self.top / "a" / "outside.txt").write_text("not theirs")
        (self.here.parent / "outside.txt").write_text("not theirs")
        (self.here / "folder").mkdir()
        (self.here / "closed").mkdir(mode=0o500)
        (self.here / "loop").symlink_to("loop")
        (self.here / "gone").symlink_to("nowhere")
        (self.here / "link").symlink_to("../outside.txt")
        for name in ("cut.db", "other.db"):
            (self.here / name).touch(mode=0o600)
        (self.here / "cut.db").write_bytes(database.read_bytes()[:5_000])
        (self.here / "other.db").write_bytes(b"SQLite format 3\0" + bytes(5_000))
        (self.here / "noise").write_bytes(bytes(range(256)) * 40)
        with (self.here / "hostile.car").open("wb") as file:
            car.Writer(file, [BARE, CID.of(b"")] * 50)
        Signer.generate().save(self.here / "key")
        self.content = _content(database)
        self.before = self._files()

    def call(self, *arguments: str) -> Told:
        """Call the command line there; what is new is looked at and removed."""
        found = called(self.here, *arguments)
        out = "" if "--output=-" in arguments else found.stdout  # a file, as it is asked for
        wrong = list(_judged(found.exit_code, out, found.stderr))
        if found.exception is not None and not isinstance(found.exception, SystemExit):
            wrong.append("".join(traceback.format_exception(found.exception)))
        writes = bool(WRITING & set(arguments))
        done = found.exit_code == 0 or (
            found.exit_code == exits.UNUSABLE and "archive" in arguments
        )
        if writes and not done and _content(self.here / "jobs.db") != self.content:
            wrong.append("the database holds something else")
        wrong += self._changes(failed=found.exit_code not in (0, 1), may_write=writes)
        return Told(arguments, found.exit_code, tuple(wrong))

    def _files(self) -> dict[Path, tuple[int, str]]:
        return {path: _looks(path) for path in sorted(self.top.rglob("*"))}

    def _changes(self, *, failed: bool, may_write: bool) -> Iterator[str]:
        after = self._files()
        for path, looks in self.before.items():
            if path not in after:
                yield f"{path} is gone"
            elif after[path] != looks and not (may_write and path.name == "jobs.db"):
                yield f"{path} has changed"
        fresh = [path for path in after if path not in self.before]
        for path in fresh:
            mode = path.lstat().st_mode
            if failed and not path.name.endswith(BESIDE):
                yield f"{path} was made, and it failed"
            if stat.S_ISREG(mode) and stat.S_IMODE(mode) & 0o077:
                yield f"{path} has mode {stat.S_IMODE(mode):o}"
            if path.suffix in (".part", ".new") or path.name.endswith("-journal"):
                yield f"{path} was left behind"
            if path.name.endswith(BESIDE) and path.name.partition(".db")[0] not in OURS:
                yield f"{path} was made beside what is no database"
            if path.name.endswith("-wal") and path.stat().st_size:
                yield f"{path} holds something"
        for path in sorted(fresh, reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        if after.get(self.here / "jobs.db") != self.before[self.here / "jobs.db"]:
            shutil.copy2(self.database, self.here / "jobs.db")
            (self.here / "jobs.db").chmod(0o600)


def called(here: Path, *arguments: str) -> Result:
    """Call the command line in a folder with a database `jobs.db`; raises `TooLong`."""
    with _within(here), _bounded():
        environment = {"STMFLOW_DATABASE": "jobs.db", "STMFLOW_APP": ""}
        return CliRunner().invoke(cli, arguments, input=b"", env=environment)


def _judged(code: int, out: str, err: str) -> Iterator[str]:
    if code not in CODES or code == exits.FAULT:
        yield f"exit code {code}: {err:.300}"
    lines = err.split("\n")
    if code in ONE_LINE and (len(lines) != 2 or lines[1]):
        yield f"{len(lines) - 1} lines on stderr: {err!r:.300}"
    if any(line and not line.startswith("stmflow: ") for line in lines):
        yield f"stderr: {err!r:.300}"
    if len(err) > 3_000:
        yield f"{len(err)} characters on stderr"
    if "Traceback" in err:
        yield "a traceback"
    for name, text in (("stdout", out), ("stderr", err)):
        if bad := {c for c in text if not c.isprintable() and c not in "\n\t"}:
            yield f"{name} has {bad!r:.80}"


def _looks(path: Path) -> tuple[int, str]:
    info = path.lstat()
    if stat.S_ISREG(info.st_mode):
        data = path.read_bytes()
        return info.st_mode, f"{info.st_mtime_ns} {hashlib.sha256(data).hexdigest()}"
    return info.st_mode, os.readlink(path) if stat.S_ISLNK(info.st_mode) else ""


def _content(path: Path) -> str:
    """All that a database holds. (To open it for writing may move pages.)"""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return hashlib.sha256("\n".join(connection.iterdump()).encode()).hexdigest()


@contextmanager
def _within(folder: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


class TooLong(BaseException):
    """A call took longer than it may."""


@contextmanager
def _bounded() -> Iterator[None]:
    def over(number: int, frame: FrameType | None) -> None:
        raise TooLong(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def failures(told: Sequence[Told]) -> str:
    """Those with which something is wrong, as one text."""
    return "\n\n".join(str(one) for one in told if one.wrong)
