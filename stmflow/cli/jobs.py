"""`ls`, `head` and `log`: which jobs there are, where one stands, how it came there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from stmflow.cli.settings import Settings, command, run

if TYPE_CHECKING:
    from stmflow.cli.chains import Chain, Statuses
    from stmflow.cli.output import Node, Screen, Span
    from stmflow.history import Leaf, Settled, Step
    from stmflow.store import JobRow


# --- ls -----------------------------------------------------------------------------------------


@command(short_help="List jobs.")
@click.option("--workflow", metavar="NAME", help="Only jobs of this workflow.")
@click.option("--status", metavar="TAG", help="Only jobs in this status.")
@click.option("--key", metavar="PREFIX", help="Only jobs whose key, as a path, begins so.")
@click.option("--faulted", is_flag=True, help="Only jobs with a parked task.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many.")
def ls(
    settings: Settings,
    workflow: str | None,
    status: str | None,
    key: str | None,
    faulted: bool,
    limit: int | None,
) -> None:
    """List jobs in order of creation: status, epoch, key, and how many tasks are parked."""
    from stmflow.cli.names import every_job
    from stmflow.cli.output import Screen, emit, hue, key_text

    async def rows() -> list[JobRow]:
        found: list[JobRow] = []
        async with settings.reading() as store:
            async for row in every_job(store, workflow=workflow, tag=status):
                if key is not None and not key_text(row.key).startswith(key):
                    continue
                if faulted and not row.faulted:
                    continue
                if settings.json:
                    emit(_job_json(row))
                found.append(row)
                if len(found) == limit:
                    break
        return found

    found = run(rows)
    if settings.json:
        return
    screen = Screen()
    screen.table(
        ("job", "workflow", "key", "status", "seq", "epoch", "updated", "faulted"),
        (
            (
                (row.job, ""),
                (f"{row.workflow}@{row.version}", ""),
                (key_text(row.key), ""),
                (row.tag, hue(row.tag)),
                (str(row.seq), ""),
                (str(row.epoch), ""),
                (screen.when(row.at), "dim"),
                (str(row.faulted or ""), "bold red"),
            )
            for row in found
        ),
    )


def _job_json(row: Any) -> dict[str, Any]:
    return {
        "job": row.job,
        "workflow": row.workflow,
        "version": row.version,
        "key": list(row.key),
        "status": row.tag,
        "seq": row.seq,
        "epoch": row.epoch,
        "at": row.at,
        "revision": row.revision,
        "faulted": row.faulted,
    }


# --- head ---------------------------------------------------------------------------------------


@command(short_help="Show a job's head: its state, and what is still to be done.")
@click.argument("job")
def head(settings: Settings, job: str) -> None:
    """Show the head of JOB: its state, and the tasks that are still to be done."""
    from stmflow import codec
    from stmflow.cli.names import find_job
    from stmflow.cli.outbox import task_json
    from stmflow.cli.output import Screen, emit, hue, key_text
    from stmflow.errors import NotFound

    async def ask() -> Any:
        async with settings.reading() as store:
            cid = await find_job(store, job)
            found = (await store.heads([cid]))[cid]
            if found is None:
                raise NotFound(f"no job {cid}")
            return found, await store.tasks(job=cid)

    stored, tasks = run(ask)
    state: Any = codec.decode(stored.state)
    faulted = sum(row.parked for row in tasks)
    if settings.json:
        row = {"faulted": faulted, **stored._asdict()}
        emit(
            {
                **_job_json(_Fields(row)),
                "state": stored.state_cid,
                "value": state,
                "tasks": [task_json(row) for row in tasks],
            }
        )
        return
    screen = Screen()
    screen.line(("job       ", "dim"), (stored.job, "bold blue"))
    screen.line(("workflow  ", "dim"), (f"{stored.workflow}@{stored.version}", ""))
    screen.line(("key       ", "dim"), (key_text(stored.key), "bold"))
    screen.line(("status    ", "dim"), (stored.tag, f"bold {hue(stored.tag)}"))
    screen.line(
        ("revision  ", "dim"),
        (stored.revision, ""),
        (f"  seq {stored.seq}  epoch {stored.epoch}  ", ""),
        (screen.when(stored.at), "dim"),
    )
    if faulted:
        screen.line(("faulted   ", "dim"), (f"{faulted} parked", "bold red"))
    screen.tree(_state_node(stored.state_cid, state), most=200)
    if tasks:
        _tasks_tree(screen, tasks)


class _Fields:
    def __init__(self, fields: dict[str, Any]) -> None:
        self.__dict__.update(fields)


def _state_node(cid: Any, state: Any) -> Node:
    from stmflow.cli.output import Node, value_text

    root = Node([("state     ", "dim"), (cid, ""), (f"  {state['t']}", "bold")])
    for name, value in state["f"].items():
        root.add((f"{name}: ", "dim"), (value_text(value), ""))
    return root


def _tasks_tree(screen: Screen, tasks: Any) -> None:
    from stmflow.cli.outbox import standing
    from stmflow.cli.output import Node

    root = Node([("tasks     ", "dim"), (f"{len(tasks)} open", "")])
    for row in tasks:
        root.add((row.tag, "bold"), ("  ", ""), *standing(row, screen), ("  ", ""), (row.id, ""))
    screen.tree(root, most=200)


# --- log ----------------------------------------------------------------------------------------


@command(short_help="Show a job's history, newest first.")
@click.argument("job")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many revisions.")
@click.option("--reverse", is_flag=True, help="Oldest first.")
def log(settings: Settings, job: str, limit: int | None, reverse: bool) -> None:
    """Show the history of JOB: every revision with its events, status and tasks."""
    from stmflow.cli import chains
    from stmflow.cli.names import find_job
    from stmflow.cli.output import Screen, emit
    from stmflow.history import Ledger

    async def ask() -> Chain:
        async with settings.reading() as store:
            return await chains.load(store, await find_job(store, job))

    chain = run(ask)
    statuses = chains.Statuses(chain.head, settings.workflows())
    ledger = Ledger(chain.job, chain.blocks.get, lambda line, state: statuses.of(state()))
    steps = [ledger.apply(revision) for revision in chain.revisions]
    entries = list(_entries(chain, steps, statuses))
    entries = entries if reverse else entries[::-1]
    entries = entries[:limit]
    if settings.json:
        for entry in entries:
            emit(_entry_json(entry))
        return
    screen = Screen()
    if screen.tty:
        _timeline(screen, chain, entries)
    else:
        screen.table(_COLUMNS, (_entry_row(screen, entry) for entry in entries))


def _entries(chain: Chain, steps: list[Step], statuses: Statuses) -> Iterator[dict[str, Any]]:
    before: str | None = None
    epoch, version = 0, None
    for step in steps:
        line = step.line
        status = statuses.of(chain.plain(line.state))
        yield {
            "step": step,
            "events": [(cid, chain.plain(cid)) for cid in line.events],
            "from": before,
            "status": status,
            "epoch_before": epoch,
            "version_before": version,
        }
        before, epoch, version = status, line.epoch, line.version


def _entry_json(entry: dict[str, Any]) -> dict[str, Any]:
    step: Step = entry["step"]
    line, revision = step.line, step.revision
    return {
        "seq": line.seq,
        "at": revision.at,
        "revision": revision.cid,
        "version": line.version,
        "epoch": line.epoch,
        "from": entry["from"],
        "status": entry["status"],
        "state": line.state,
        "events": [
            {"event": cid, "type": plain["t"], "fields": plain["f"]}
            for cid, plain in entry["events"]
        ],
        "settled": [settled_json(one) for one in step.settled],
        "armed": [leaf_json(one) for one in step.armed],
        "ended": [leaf_json(one) for one in step.ended],
        "given": [{"by": by, "effect": cid} for by, _, cid in line.given()],
        "delivery": delivery_json(revision.delivery),
        "reads": [[job, read] for job, read in revision.reads],
        "others": [other.job for other in revision.writes if other.job != line.job],
    }


def settled_json(one: Settled) -> dict[str, Any]:
    """A receipt as JSON."""
    from stmflow.effect import outcome_plain

    return {
        "task": one.task,
        "receipt": one.receipt,
        "type": None if one.leaf is None else one.leaf.tag,
        "fired": list(one.fired),
        **outcome_plain(one.outcome),
    }


def leaf_json(leaf: Leaf) -> dict[str, Any]:
    """A task that was armed or ended, as JSON."""
    return {
        "task": leaf.id,
        "type": leaf.tag,
        "fields": leaf.plain["f"],
        "effect": leaf.effect,
        "asked": leaf.seq,
        "due": leaf.due,
    }


def delivery_json(delivery: Any) -> Any:
    """What caused a revision, as JSON: the job addressed and the id, as text where it is text."""
    if delivery is None:
        return None
    return {"job": delivery[0], "id": delivery_name(delivery[1])}


def delivery_name(id: bytes) -> Any:
    """A delivery's id: a CID, text, or bytes."""
    from stmflow.cid import CID
    from stmflow.errors import CodecError

    try:
        return CID(id)
    except CodecError:
        pass
    try:
        text = id.decode()
    except UnicodeDecodeError:
        return id
    return text if text.isprintable() else id


_COLUMNS = (
    "seq",
    "at",
    "revision",
    "events",
    "from",
    "status",
    "epoch",
    "settled",
    "armed",
    "ended",
)


def _entry_row(screen: Screen, entry: dict[str, Any]) -> Iterator[Span]:
    step: Step = entry["step"]
    yield str(step.line.seq), ""
    yield screen.when(step.revision.at), ""
    yield step.revision.cid, ""
    yield ",".join(plain["t"] for _, plain in entry["events"]), ""
    yield entry["from"] or "", ""
    yield entry["status"], ""
    yield str(step.line.epoch), ""
    yield ",".join(f"{settled_text(one)}" for one in step.settled), ""
    yield ",".join(leaf.tag for leaf in step.armed), ""
    yield ",".join(leaf.tag for leaf in step.ended), ""


def settled_text(one: Settled) -> str:
    """A receipt in a word or two."""
    from stmflow.effect import Err

    tag = "?" if one.leaf is None else one.leaf.tag
    return f"{tag}: {one.outcome.name}" if isinstance(one.outcome, Err) else f"{tag} ok"


def _timeline(screen: Screen, chain: Chain, entries: list[dict[str, Any]]) -> None:
    from stmflow.cli.output import hue, key_text
    from stmflow.effect import Err

    head = chain.head
    screen.line(
        (chain.job, "bold blue"),
        (f"  {head.workflow}@{head.version}  ", ""),
        (key_text(head.key), "bold"),
    )
    wide = max((len(str(entry["step"].line.seq)) for entry in entries), default=1)
    for place, entry in enumerate(entries):
        step: Step = entry["step"]
        rail = " " if place == len(entries) - 1 else "│"
        status, before = entry["status"], entry["from"]
        dot = "●" if step.revision.cid == head.revision else "○"
        events = ", ".join(plain["t"] for _, plain in entry["events"]) or "no event"
        moved: list[Span] = [(status, f"bold {hue(status)}")]
        if before is not None and before != status:
            moved = [(before, hue(before)), (" → ", "dim"), *moved]
        if step.line.epoch != entry["epoch_before"]:
            moved.append((f"  epoch {step.line.epoch}", "magenta"))
        if entry["version_before"] not in (None, step.line.version):
            told = f"  version {entry['version_before']} → {step.line.version}"
            moved.append((told, "magenta"))
        screen.line(
            (f"{dot} ", hue(status)),
            (f"{step.line.seq:>{wide}}  ", "bold"),
            (f"{events}  ", ""),
            *moved,
        )
        lead: Span = (f"{rail} {'':>{wide}}  ", "dim")
        screen.line(lead, (step.revision.cid, ""), (f"  {screen.when(step.revision.at)}", "dim"))
        for one in step.settled:
            bad = isinstance(one.outcome, Err)
            screen.line(
                lead, ("✗ " if bad else "✓ ", "red" if bad else "green"), (settled_text(one), "")
            )
        for leaf in step.armed:
            due = "" if leaf.due is None else f", due {screen.when(leaf.due)}"
            screen.line(lead, ("+ ", "yellow"), (f"{leaf.tag}{due}", ""))
        for leaf in step.ended:
            screen.line(lead, ("- ", "dim"), (f"{leaf.tag} ended", "dim"))
        for by, _, _ in step.line.given():
            screen.line(lead, ("» ", "dim"), (f"given by {by}", "dim"))
        others = len(step.revision.writes) - 1
        if others:
            screen.line(lead, (f"and {others} other job{'s' if others > 1 else ''}", "dim"))
