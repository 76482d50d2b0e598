"""What every command is told: which database, whose workflows, and whether to print JSON."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

if TYPE_CHECKING:
    from stmflow.archive import Shelf
    from stmflow.store import Store
    from stmflow.workflow import Workflow

T = TypeVar("T")
Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class Option(NamedTuple):
    """An option that the group and each command take."""

    name: str
    field: str
    environment: str | None
    metavar: str | None
    help: str


OPTIONS = (
    Option(
        "--database",
        "database",
        "STMFLOW_DATABASE",
        "PATH|DSN",
        "The database to look into: a file, or postgresql://HOST/NAME.",
    ),
    Option(
        "--app",
        "app",
        "STMFLOW_APP",
        "MODULE:NAME",
        "The service's workflows: an iterable of them, a callable that gives them, or an object"
        " that has `workflows` and what its transactors share: `transactional`, `tenant`, `needs`,"
        " `chooser`.",
    ),
    Option(
        "--archive",
        "archive",
        "STMFLOW_ARCHIVE",
        "PLACE",
        "Where history has gone: a folder, or s3://BUCKET/PREFIX?endpoint=URL&region=NAME.",
    ),
    Option("--json", "json", None, None, "Print JSON: one document, or one on each line."),
)


@dataclass(slots=True)
class Settings:
    """The shared options of one call."""

    database: str | None = field(default=None, repr=False)  # it may hold a password
    app: str | None = None
    archive: str | None = None
    json: bool = False

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Store]:
        """The store, opened for reading alone; with an archive, both as one. Raises UsageError."""
        async with self._read_only() as store:
            if self.archive is None:
                yield store
                return
            from stmflow.archive import whole

            async with self.shelf() as shelf:
                yield whole(store, shelf)

    def _read_only(self) -> AbstractAsyncContextManager[Store]:
        given = self._given()
        if given.startswith(POSTGRES):
            return _postgres(given, read_only=True)
        from stmflow.store.sqlite import SQLiteStore

        return SQLiteStore.open(_a_file(database_path(given)), read_only=True)

    def writing(self) -> AbstractAsyncContextManager[Store]:
        """The store, opened for commits. It must exist: it is not made here. Raises UsageError."""
        given = self._given()
        if given.startswith(POSTGRES):
            return _postgres(given, read_only=False)
        return _file(given)

    def path(self) -> str:
        """The file of an SQLite database. Raises UsageError."""
        given = self._given()
        if given.startswith(POSTGRES):
            raise click.UsageError("that is for SQLite; PostgreSQL has pg_basebackup and pg_dump")
        return database_path(given)

    def _given(self) -> str:
        if not self.database:
            raise click.UsageError("which database? Give --database PATH or set STMFLOW_DATABASE")
        return self.database

    @asynccontextmanager
    async def shelf(self) -> AsyncIterator[Shelf]:
        """The archive's place. Raises UsageError without --archive."""
        from stmflow.cli.places import shelf_at

        if not self.archive:
            raise click.UsageError("which archive? Give --archive PLACE or set STMFLOW_ARCHIVE")
        async with shelf_at(self.archive) as shelf:
            yield shelf

    def workflows(self) -> list[Workflow]:
        """The workflows of --app; none without it. Raises UsageError."""
        return [] if self.app is None else load(self.app)

    def application(self) -> tuple[list[Workflow], dict[str, Any]]:
        """The workflows, and with what else the service's transactors are made. Raises UsageError
        without --app."""
        if self.app is None:
            raise click.UsageError("this runs reducers: give --app MODULE:NAME or set STMFLOW_APP")
        found = named(self.app)
        shared = {name: getattr(found, name) for name in SHARED if hasattr(found, name)}
        return load(self.app), shared


SHARED = ("transactional", "tenant", "needs", "chooser")
"""What an app has for every transactor of the service: whoever commits without it writes rows that
others would have written otherwise."""
POSTGRES = ("postgresql://", "postgres://")


def _postgres(dsn: str, *, read_only: bool) -> AbstractAsyncContextManager[Store]:
    """A database on a server. Raises Unavailable where the driver is missing."""
    from stmflow.errors import Unavailable

    try:
        from stmflow.store.postgres import PostgresStore
    except ModuleNotFoundError as error:
        if error.name != "asyncpg":
            raise
        raise Unavailable("PostgreSQL needs the extra: pip install 'stmflow[postgres]'") from None
    return PostgresStore.open(dsn, read_only=read_only, create=False)


def _a_file(path: str) -> str:
    """The path, unless something else than a file is there: whoever reads a FIFO waits."""
    import os

    from stmflow.errors import UnknownSchema

    if os.path.isdir(path):
        raise UnknownSchema(f"{path} is a folder, not a database")
    if os.path.exists(path) and not os.path.isfile(path):
        raise UnknownSchema(f"{path} is no file, and so no database")
    return path


@asynccontextmanager
async def _file(given: str) -> AsyncIterator[Store]:
    """A database in a file, to be written."""
    import os

    from stmflow.errors import NotFound, ReadOnly, UnknownSchema
    from stmflow.store.sqlite import SQLiteStore

    path = _a_file(database_path(given))
    if not os.path.exists(path):
        raise NotFound(f"no database at {path}")
    if "?mode=ro" in given and given != path:
        raise ReadOnly(f"{path} was asked for with mode=ro")
    if not _begins_as_one(path):  # before any file is made beside it
        raise UnknownSchema(f"{path} is not an stmflow database")
    async with AsyncExitStack() as stack:
        try:
            store = await stack.enter_async_context(SQLiteStore.open(path))
        except OSError as error:
            raise ReadOnly(f"{path} may not be written: {error.strerror}") from None
        yield store


def _begins_as_one(path: str) -> bool:
    """Whether a file may be an SQLite database. Of what cannot be read, the store tells why."""
    try:
        with open(path, "rb") as file:
            return file.read(16) == b"SQLite format 3\0"
    except OSError:
        return True


def remember(command: Any, option: Option, *, from_environment: bool = False) -> None:
    """Give a command one of the shared options; what it says later wins."""

    def keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        settings = ctx.find_root().ensure_object(Settings)
        if value is not None and value is not False:
            setattr(settings, option.field, value)

    flag = option.metavar is None
    command.params.insert(
        0,
        click.Option(
            [option.name],
            is_flag=flag,
            default=False if flag else None,
            metavar=option.metavar,
            envvar=option.environment if from_environment else None,
            show_envvar=True,
            expose_value=False,
            callback=keep,
            help=option.help,
        ),
    )


def command(
    *, shared: Sequence[Option] = OPTIONS, **options: Any
) -> Callable[[Callable[..., Any]], click.Command]:
    """A command that takes the shared options and is handed `Settings` first."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        made: click.Command = click.command(**options)(click.pass_obj(function))
        return _sharing(made, shared)

    return decorate


def group(**options: Any) -> Callable[[Callable[..., Any]], click.Group]:
    """A group of commands that takes the shared options as well."""

    def decorate(function: Callable[..., Any]) -> click.Group:
        made: click.Group = click.group(**options)(function)
        return _sharing(made, OPTIONS)

    return decorate


C = TypeVar("C", bound=click.Command)


def _sharing(made: C, shared: Sequence[Option]) -> C:
    at = len(made.params)
    for option in shared:
        remember(made, option)
        made.params.insert(at, made.params.pop(0))
        at += 1
    return made


def run(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a command's coroutine."""
    import anyio

    return anyio.run(work)


def seconds(ctx: click.Context, param: click.Parameter, given: float) -> float:
    """A callback: a number of seconds that has an end."""
    if not isfinite(given):
        raise click.BadParameter(f"{given} is no number of seconds")
    return given


def database_path(text: str) -> str:
    """The path in what --database was given: a path, or a URI with nothing but `mode=ro`.

    Raises:
        UsageError: another scheme, a flag that is not known here, or no path at all.
    """
    from urllib.parse import parse_qsl, unquote, urlsplit

    if "\0" in text or text == ":memory:":
        raise click.UsageError(f"not a database on a disk: {text!r:.80}")
    scheme, colon, _ = text.partition(":")
    if not colon or not (scheme in ("file", "sqlite") or text.startswith(f"{scheme}://")):
        return text
    if scheme not in ("file", "sqlite"):
        raise click.UsageError(f"databases of scheme {scheme!r:.40} are not known here")
    try:
        uri = urlsplit(text)
        flags = parse_qsl(uri.query, keep_blank_values=True)
    except ValueError as error:
        raise click.UsageError(f"{error}: {text!r:.80}") from None
    if uri.netloc not in ("", "localhost") or uri.fragment:
        raise click.UsageError(f"{scheme}: takes a path on this machine, and nothing before it")
    for flag in flags:
        if flag != ("mode", "ro"):
            raise click.UsageError(f"unknown flag {'='.join(flag)!r:.80} in --database")
    path = unquote(uri.path)
    if not path or "\0" in path:
        raise click.UsageError(f"no path in {text!r:.80}")
    return path


def load(name: str) -> list[Workflow]:
    """The workflows that MODULE:NAME gives.

    Raises:
        UsageError: it cannot be imported, or gives something else.
    """
    from stmflow.workflow import Workflow

    try:
        found = named(name)
        found = getattr(found, "workflows", found)
        found = found() if callable(found) and not isinstance(found, Workflow) else found
        given = [found] if isinstance(found, Workflow) else list(found)
    except click.UsageError:
        raise
    except Exception as error:
        raise _unloadable(name, error) from error
    if not all(isinstance(one, Workflow) for one in given):
        raise click.UsageError(f"--app {name:.80} gives something else than workflows")
    return given


def named(name: str) -> Any:
    """What stands at MODULE:NAME; the current folder is on the path.

    Raises:
        UsageError: it cannot be imported.
    """
    import importlib
    import os
    import sys

    module, colon, attribute = name.partition(":")
    if not module or not colon or not attribute:
        raise click.UsageError(f"--app takes MODULE:NAME, not {name!r:.80}")
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    _ours()
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise _unloadable(name, error) from error
    return found


def _unloadable(name: str, error: Exception) -> click.UsageError:
    told = f"{type(error).__name__}: {error}"
    return click.UsageError(f"--app {name:.80} cannot be loaded: {told:.300}")


def _ours() -> None:
    """Two other distributions have packages of these names: make sure that ours are the ones."""
    import importlib.util
    from pathlib import Path

    import stmflow

    root = Path(stmflow.__file__).resolve().parent.parent
    for name in ("scheduler", "capabilities"):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            continue
        if Path(spec.origin).resolve().parent.parent != root:
            raise click.UsageError(f"another package named {name!r} hides stmflow's: {spec.origin}")
