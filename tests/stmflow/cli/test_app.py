"""What an app shares with every transactor of its service; and how what waits is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from click.testing import CliRunner, Result

from scheduler import App, Context, Transaction, working
from stmflow import Transactor, Workflow, perform
from stmflow.cid import CID, RAW
from stmflow.cli import cli
from stmflow.cli.output import Screen
from stmflow.cli.settings import Settings
from stmflow.observe import Metrics
from stmflow.observe.doctor import examine
from stmflow.registered import asked, registered, returning
from stmflow.store.memory import MemoryStore
from stmflow.store.sqlite import SQLiteStore
from stmflow.workflow import Registry

APP = f"{__name__}:app"


@dataclass(frozen=True)
class Fetch:
    name: str


@dataclass(frozen=True)
class Show:
    name: str


@dataclass(frozen=True)
class Put:
    space: str
    name: str


@dataclass(frozen=True)
class Fetched: ...


@dataclass(frozen=True)
class Shown: ...


@dataclass(frozen=True)
class Film:
    name: str
    status: str = "fetching"


@dataclass(frozen=True)
class Wait:
    name: str


@dataclass
class Fault:
    """At which event the reducer has it."""

    at: type | None = None


fault = Fault()


def update(event: Any, state: Film | None) -> Any:
    if isinstance(event, Put):
        return Film(event.name), [perform(Fetch(event.name)).then(Fetched)]
    if fault.at is type(event):
        raise KeyError("no such film")
    assert state is not None
    if isinstance(event, Shown):
        return Film(state.name, "seen"), []
    return Film(state.name, "shown"), [perform(Show(state.name)).then(Shown)]


def workflow(version: int = 1) -> Workflow:
    same = {n: (lambda tag, fields: (tag, fields),) * 2 for n in range(1, version)}
    return Workflow(
        "film",
        version=version,
        state=Film,
        events=(Put, Fetched, Shown),
        outside=(Put,),
        tasks=(Fetch, Show),
        update=update,
        key=("space", "name"),
        upcasts=same,  # type: ignore[arg-type]
    )


async def done(task: Any, context: Context) -> None: ...


def wait(tx: Any, task: Wait) -> None:
    if tx.read(FILM.job("s", task.name)) is None:
        tx.retry()


FILM = workflow()
CALLS = registered(Wait)
app = App(
    workflows=[FILM, CALLS],
    handlers={Fetch: done, Show: done, Wait: Transaction(returning(wait))},
    tenant=lambda job: str(job.key[0]),
    needs={Show: lambda task: {"room": "dark"}},
)


@pytest.fixture
def broken() -> Iterator[Callable[[type], None]]:
    def at(event: type) -> None:
        fault.at = event

    yield at
    fault.at = None


def call(path: Path, *args: str) -> Result:
    return CliRunner().invoke(cli, ["--database", str(path), "--app", APP, *args])


async def until(condition: Callable[[], Any]) -> None:
    with anyio.fail_after(10):
        while not await condition():
            await anyio.sleep(0.01)


async def put(transactor: Transactor) -> None:
    await transactor.send(FILM, Put("s", "a"))


def parked(rows: Any) -> bool:
    return any(row.parked for row in rows)


async def work(path: Path, *, send: Any, then: Callable[[Any], bool], **labels: str) -> None:
    """Perform what comes of it until the outbox is so."""
    async with SQLiteStore.open(path) as store, working(store, app, labels=labels) as here:
        await send(here.transactor)

        async def reached() -> bool:
            return then(await store.tasks())

        await until(reached)


@pytest.mark.parametrize("by", ["all", "one"])
def test_what_a_redrive_makes_has_the_needs_and_the_tenant_of_the_service(
    tmp_path: Path, by: str, broken: Callable[[type], None]
) -> None:
    path = tmp_path / "jobs.db"
    broken(Fetched)
    anyio.run(lambda: work(path, send=put, then=parked))
    fault.at = None
    task = json.loads(call(path, "outbox", "--faulted", "--json").stdout)["task"]["/"]
    result = call(path, "redrive", *(["--all"] if by == "all" else [task]))
    assert result.exit_code == 0, result.output

    row = json.loads(call(path, "outbox", "--json").stdout)
    assert (row["type"], row["needs"], row["tenant"]) == ("Show", '{"room":"dark"}', "s")


def test_a_type_is_named_without_what_its_tasks_need(
    tmp_path: Path, broken: Callable[[type], None]
) -> None:
    path = tmp_path / "jobs.db"
    broken(Shown)
    anyio.run(lambda: work(path, send=put, then=parked, room="dark"))
    for tag, count in (("Show", 1), ("Fetch", 0)):
        result = call(path, "redrive", "--all", "--type", tag, "--dry-run", "--json")
        assert len(result.stdout.splitlines()) == count


def test_a_task_that_waits_for_a_change_says_so(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"

    async def send(transactor: Transactor) -> None:
        await transactor.send(CALLS, asked("until it is there", Wait("a")))

    def waits(rows: Any) -> bool:
        return [(row.worker, row.due > 2**62) for row in rows] == [(None, True)]

    anyio.run(lambda: work(path, send=send, then=waits))
    row = json.loads(call(path, "outbox", "--json").stdout)
    assert row["due"] is None
    assert "\ton a change\t" in call(path, "outbox").stdout
    assert "waiting, due on a change" in call(path, "head", row["job"]["/"]).stdout
    assert call(path, "outbox", "--due").stdout.count("\n") == 1  # the heading


def test_doctor_says_that_no_worker_has_the_labels() -> None:
    async def main() -> None:
        store = MemoryStore()
        async with working(store, app) as here:
            answer = await here.transactor.send(FILM, Put("s", "a"))
            await here.transactor.wait(answer.job, lambda film: film.status == "shown", timeout=10)
            now = here.transactor.clock.now() + 1
            report = await examine(store, now, registry=Registry(app.workflows), late_ms=0)
        told = [one.what for one in report.findings if one.name == "unclaimed"]
        assert len(told) == 1
        assert 'Show {"room":"dark"}' in told[0]
        assert "no running worker has these labels" in told[0]

    anyio.run(main)


def test_the_example_gives_the_command_line_the_tenants_of_its_service() -> None:
    workflows, shared = Settings(app="examples.store_add:app").application()
    assert shared["tenant"](workflows[0].job("did:key:z1", CID.of(b"cat", RAW))) == "did:key:z1"
    assert "transactional" in shared


def test_a_worker_heeds_the_chooser_and_the_observers_of_its_app() -> None:
    async def main() -> None:
        metrics, store = Metrics(), MemoryStore()
        sticky = App(
            workflows=[FILM, workflow(2)],
            handlers={Fetch: done, Show: done},
            chooser=lambda tx, job: 1,
            observers=[metrics],
        )
        async with working(store, sticky) as here:
            answer = await here.transactor.send(FILM, Put("s", "a"))
            await here.transactor.wait(answer.job, lambda film: film.status == "shown", timeout=10)
            assert (await here.transactor.get(answer.job)).version == 1
        assert 'task="Fetch"' in metrics.text()

    anyio.run(main)


def test_a_narrow_terminal_cuts_no_column(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    screen = Screen()
    screen.tty = True
    screen._console = Console(width=80, markup=False, highlight=False, soft_wrap=True)
    job = CID.of(b"job")
    row = (
        (job, ""), (job, ""), ('film:Show {"room":"dark"}', ""), ("in 13 min", ""), ("2", ""),
        ("waiting", ""), ("NoFilm null", ""),
    )  # fmt: skip
    heads = ("task", "job", "type", "due", "attempt", "standing", "error")
    screen.table(heads, [row])
    shown = capsys.readouterr().out
    assert shown.count(job.short) == 2
    whole = [*heads, *[cell.short if isinstance(cell, CID) else cell for cell, _ in row]]
    assert sorted("".join(shown.split())) == sorted("".join("".join(whole).split()))


def test_doctor_and_workers_say_how_a_lease_stands(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    anyio.run(lambda: work(path, send=put, then=lambda rows: rows[0].tag.startswith("Show")))
    assert "worker    1 is gone, lease ends " in call(path, "doctor").stdout
    assert call(path, "workers").stdout.endswith("\tlease holds\n")
