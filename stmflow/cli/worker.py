"""`worker`: perform the tasks of a database until told to leave; `workers`: who does."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from stmflow.cli.settings import OPTIONS, Option, Settings, command, named, run, seconds

if TYPE_CHECKING:
    from scheduler import App, Limits
    from scheduler.roster import WorkerInfo

_APP = Option(
    "--app",
    "app",
    "STMFLOW_APP",
    "MODULE:NAME",
    "What is performed: an object with `workflows` and `handlers`; see scheduler.App.",
)


def _pairs(
    number: Callable[[str], Any] | None,
) -> Callable[[click.Context, click.Parameter, Sequence[str]], dict[str, Any]]:
    """A callback that reads NAME=VALUE, each name once."""

    def read(ctx: click.Context, param: click.Parameter, given: Sequence[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for text in given:
            name, equals, value = text.partition("=")
            if not equals or not name or name in found:
                raise click.BadParameter(
                    f"{text!r:.80} is not NAME=VALUE, or its name stands twice"
                )
            try:
                found[name] = number(value) if number is not None else value
            except ValueError:
                raise click.BadParameter(f"{value!r:.80} is not a number") from None
        return found

    return read


def _rate(text: str) -> float:
    return float(text.removesuffix("/s"))


def _one_rate(ctx: click.Context, param: click.Parameter, given: str | None) -> float | None:
    try:
        return None if given is None else _rate(given)
    except ValueError:
        raise click.BadParameter(f"{given!r:.80} is not a number") from None


def _address(
    ctx: click.Context, param: click.Parameter, given: str | None
) -> tuple[str, int] | None:
    if given is None:
        return None
    host, colon, port = given.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65_535:
        raise click.BadParameter(f"{given!r:.80} is not HOST:PORT")
    return host.strip("[]") or "127.0.0.1", int(port)


@command(
    short_help="Perform the tasks of a database.",
    shared=[_APP if option.name == _APP.name else option for option in OPTIONS],
)
@click.option("--label", "labels", multiple=True, metavar="NAME=TEXT", callback=_pairs(None),
              help="What this worker is or has, for what tasks need. Repeatable.")  # fmt: skip
@click.option("--slots", type=click.IntRange(1), metavar="N", help="Tasks at once.")
@click.option("--slots-for", multiple=True, metavar="TYPE=N", callback=_pairs(int),
              help="Tasks of one type at once. Repeatable.")  # fmt: skip
@click.option("--slots-per-tenant", type=click.IntRange(1), metavar="N",
              help="Tasks of each tenant at once.")  # fmt: skip
@click.option("--rate", "rates", multiple=True, metavar="TYPE=N/s", callback=_pairs(_rate),
              help="Starts per second of one type. Repeatable.")  # fmt: skip
@click.option("--rate-per-tenant", metavar="N/s", callback=_one_rate,
              help="Starts per second of each tenant.")  # fmt: skip
@click.option("--weight", "weights", multiple=True, metavar="TYPE=N", callback=_pairs(float),
              help="The type's share where types compete for slots; else 1.")  # fmt: skip
@click.option("--health", metavar="HOST:PORT", callback=_address,
              help="Answer /live, /ready and /metrics there. Port 0: a free one.")  # fmt: skip
@click.option("--lease", type=float, default=30, show_default=True, metavar="SECONDS",
              callback=seconds,
              help="So long a worker that has gone silent keeps its tasks.")  # fmt: skip
@click.option("--grace", type=click.FloatRange(0), default=10, show_default=True,
              metavar="SECONDS", callback=seconds,
              help="So long running tasks may still finish.")  # fmt: skip
def worker(
    settings: Settings,
    labels: dict[str, str],
    health: tuple[str, int] | None,
    lease: float,
    grace: float,
    **limits: Any,
) -> None:
    """Perform the tasks of the database with the handlers of --app, until SIGTERM or SIGINT.

    Then it is not ready any more, takes no more tasks, lets running ones finish for --grace
    seconds and gives the others back. A second signal ends the wait. Any number of workers may run
    on one database; each claims what it can perform.
    """
    from scheduler import App
    from stmflow.errors import InvalidWorkflow

    if settings.app is None:
        raise click.UsageError("perform what? Give --app MODULE:NAME or set STMFLOW_APP")
    try:
        app = App.of(named(settings.app))
        run(lambda: _work(settings, app, _limits(app.limits, limits), labels, health, lease, grace))
    except InvalidWorkflow as error:
        raise click.UsageError(str(error)) from error


def _limits(base: Limits, given: dict[str, Any]) -> Limits:
    """The app's limits, with what the command line says in their place."""
    from dataclasses import replace

    by_type = {"slots_for": "per_type", "rates": "rates", "weights": "weights"}
    single = {
        "slots": "slots",
        "slots_per_tenant": "per_tenant",
        "rate_per_tenant": "rate_per_tenant",
    }
    changed: dict[str, Any] = {
        to: {**getattr(base, to), **given[name]} for name, to in by_type.items()
    }
    changed |= {to: given[name] for name, to in single.items() if given[name] is not None}
    try:
        return replace(base, **changed)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


async def _work(
    settings: Settings,
    app: App,
    limits: Limits,
    labels: dict[str, str],
    listen: tuple[str, int] | None,
    lease: float,
    grace: float,
) -> None:
    import anyio

    from scheduler.worker import Leaving, working

    where: list[str] = []
    signals = (signal.SIGTERM, signal.SIGINT)

    def listening(host: str, port: int) -> None:
        shown = f"[{host}]" if ":" in host else host
        where.append(f"http://{shown}:{port}")

    async def heed(received: Any) -> None:
        async for _ in received:
            running.leave()
            stop.set()

    stop = anyio.Event()
    async with Leaving() as stack:
        received = stack.enter_context(anyio.open_signal_receiver(*signals))
        store = await stack.enter_async_context(settings.writing())
        group = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(group.cancel_scope.cancel)
        try:
            running = await stack.enter_async_context(
                working(
                    store,
                    app,
                    labels=labels,
                    limits=limits,
                    lease_seconds=lease,
                    grace_seconds=grace,
                    listen=listen,
                    listening=listening,
                )
            )
        except OSError as error:
            if listen is None or where:
                raise
            told = error.strerror or str(error)
            raise click.UsageError(f"--health: nothing can listen there: {told}") from None
        group.start_soon(heed, received)  # on until all is drained: there may be a second one
        _announce(settings, running.scheduler.worker, where)
        await stop.wait()


def _announce(settings: Settings, number: int, where: Sequence[str]) -> None:
    from stmflow.cli.output import Screen, emit

    if settings.json:
        emit({"worker": number, "health": where[0] if where else None})
    else:
        told = [(f"worker {number} works", "bold")]
        Screen().line(*told, *((f", health at {each}", "") for each in where))
    sys.stdout.flush()


# --- who works ------------------------------------------------------------------------------------


@command(short_help="List the workers of a database.")
def workers(settings: Settings) -> None:
    """List the workers that live, or have not been missed yet: labels, versions, last beat."""
    from dataclasses import asdict

    from scheduler.roster import workers as ask
    from stmflow.cli.output import Screen, emit, now_ms

    async def look() -> list[WorkerInfo]:
        async with settings.reading() as store:
            return await ask(store)

    rows = run(look)
    if settings.json:
        for row in rows:
            emit(asdict(row))
        return
    now, screen = now_ms(), Screen()
    screen.table(
        ("worker", "host", "labels", "performs", "slots", "last beat", "standing"),
        (_cells(row, screen, now) for row in rows),
    )


def _cells(row: WorkerInfo, screen: Any, now: int) -> Iterator[Any]:
    yield str(row.worker), "bold"
    yield ("?" if row.host is None else f"{row.host}:{row.pid}"), ""
    yield " ".join(f"{name}={text}" for name, text in sorted(row.labels.items())), ""
    yield (
        " ".join(
            f"{workflow}@{version}" for workflow, each in row.versions.items() for version in each
        ),
        "",
    )
    yield ("?" if row.slots is None else str(row.slots)), ""
    yield ("?" if row.beat is None else screen.when(row.beat)), "dim"
    yield ("lease holds", "green") if row.until >= now else ("lease is over", "bold red")
