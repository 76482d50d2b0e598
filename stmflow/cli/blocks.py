"""`show`, `diff` and `why`: any block, what differs between two, and where one comes from."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from stmflow.cli.settings import Settings, command, run

if TYPE_CHECKING:
    from stmflow.cid import CID
    from stmflow.cli.chains import Chain
    from stmflow.cli.output import Node, Screen, Span
    from stmflow.history import Change, Reason
    from stmflow.store import Store
    from stmflow.transaction import Answer


# --- show ---------------------------------------------------------------------------------------


@command(short_help="Show any block: state, event, effect, receipt or revision.")
@click.argument("cid")
@click.option("--tree", is_flag=True, help="As a tree, with the blocks that it links to.")
@click.option(
    "--depth",
    type=click.IntRange(1, 64),
    default=12,
    show_default=True,
    help="How deep values are shown.",
)
@click.option(
    "--links",
    type=click.IntRange(0, 8),
    default=1,
    show_default=True,
    help="With --tree: through how many links blocks are followed.",
)
@click.option(
    "--lines",
    type=click.IntRange(min=1),
    default=2_000,
    show_default=True,
    help="How many lines are shown.",
)
def show(settings: Settings, cid: str, tree: bool, depth: int, links: int, lines: int) -> None:
    """Show the block CID as DAG-JSON, or as a tree. Of a job, its head revision; of an open task,
    its outbox row's block. --json is never cut: a block is bounded by itself."""
    from stmflow import codec
    from stmflow.cli.names import find
    from stmflow.cli.output import Screen, emit

    async def ask() -> Any:
        async with settings.reading() as store:
            named = await find(store, cid)
            name, block = await _block(store, named.kind, named.cid)
            root = None
            if tree and not settings.json:
                root = await _grown(store, name, codec.decode(block), depth, links)
            return block, root

    block, root = run(ask)
    if settings.json:
        emit(codec.decode(block), sort=True)
        return
    screen = Screen()
    if root is not None:
        screen.tree(root, most=lines)
    else:
        _print_json(screen, codec.decode(block), depth, lines)


async def _block(store: Store, kind: str, cid: CID) -> tuple[CID, bytes]:
    from stmflow import codec
    from stmflow.cli.names import JOB, TASK
    from stmflow.errors import NotFound

    block: bytes | None
    if kind == JOB:
        stored = (await store.heads([cid]))[cid]
        if stored is not None:
            cid = stored.revision
    elif kind == TASK:
        row = await store.task(cid)
        if row is not None:
            timer = {"timer": row.id, "job": row.job, "due": row.due}
            return cid, row.block if row.block is not None else codec.encode(timer)
    block = await store.block(cid)
    if block is None:
        raise NotFound(f"no block {cid}")
    return cid, block


def _print_json(screen: Screen, value: Any, depth: int, lines: int) -> None:
    from stmflow.cli.output import json_text

    text = json_text(_pruned(value, depth), indent=2, sort=True).split("\n")
    shown = "\n".join(text[:lines])
    if screen.tty:
        from rich.highlighter import JSONHighlighter
        from rich.text import Text

        drawn = Text(shown)
        JSONHighlighter().highlight(drawn)
        screen.console.print(drawn)
    else:
        sys.stdout.write(shown + "\n")
    if len(text) > lines:
        screen.line((f"… cut after {lines} lines; --lines takes more", "yellow"))


def _pruned(value: Any, depth: int) -> Any:
    """What lies deeper is an ellipsis."""
    if isinstance(value, (dict, list)) and value and depth == 0:
        return "…"
    if isinstance(value, dict):
        return {key: _pruned(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_pruned(item, depth - 1) for item in value]
    return value


async def _grown(store: Store, cid: CID, value: Any, depth: int, links: int) -> Node:
    from stmflow.cli.output import Node

    root = Node([(cid, "bold blue"), (f"  {_kind(value)}", "bold")])
    await _grow(store, root, value, depth, links, {cid})
    return root


def _kind(value: Any) -> str:
    """What a block is, by its form."""
    from stmflow.history import is_revision

    if is_revision(value):
        return "revision"
    if isinstance(value, dict):
        if value.keys() == {"task", "outcome"}:
            return "receipt"
        if {"w", "v", "t", "f"} <= value.keys():
            return f"{value['t']} of {value['w']}@{value['v']}"
    return "block"


async def _grow(
    store: Store, node: Node, value: Any, depth: int, links: int, above: set[CID]
) -> None:
    """Hang what a value holds below a node. Links back (`prev`, `reads`) are not followed."""
    items: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = [(str(at), item) for at, item in enumerate(value)]
    if items and depth == 0:
        node.add(("…", "dim"))
        return
    for name, item in items:
        await _hang(store, node, name, item, depth, links, above)


async def _hang(
    store: Store, node: Node, name: str, item: Any, depth: int, links: int, above: set[CID]
) -> None:
    from stmflow import codec
    from stmflow.cid import CID
    from stmflow.cli.output import value_text

    label: Span = (f"{name}: ", "dim")
    if isinstance(item, CID):
        follow = links > 0 and item not in above and name not in ("prev", "job", "reads")
        block = await store.block(item) if follow else None
        if block is None:
            node.add(label, (item, ""))
            return
        inner = codec.decode(block)
        child = node.add(label, (item, ""), (f"  {_kind(inner)}", "bold"))
        await _grow(store, child, inner, depth - 1, links - 1, {*above, item})
    elif isinstance(item, (dict, list)) and item:
        child = node.add((f"{name}:", "dim"))
        below = 0 if name == "reads" else links
        await _grow(store, child, item, depth - 1, below, above)
    else:
        node.add(label, (value_text(item), ""))


# --- diff ---------------------------------------------------------------------------------------


@command(short_help="Show what differs between two jobs, revisions or blocks.")
@click.argument("a")
@click.argument("b")
def diff(settings: Settings, a: str, b: str) -> None:
    """Show what differs from A to B: jobs (their states), revisions, states or other blocks."""
    from stmflow import history
    from stmflow.cli.output import Screen, emit

    async def ask() -> list[history.Change]:
        async with settings.reading() as store:
            return await _changes(store, a, b)

    changes = run(ask)
    if settings.json:
        for one in changes:
            sides = {"before": one.before, "after": one.after}
            gone = {"added": "before", "removed": "after"}.get(one.kind)
            sides = {side: value for side, value in sides.items() if side != gone}
            emit({"path": list(one.path), "change": one.kind, **sides})
        return
    screen = Screen()
    for one in changes:
        screen.line(*_change(one))
    if not changes and screen.tty:
        screen.line(("no difference", "dim"))


def _change(one: Any) -> list[Span]:
    from stmflow.cli.output import value_text

    path = ".".join([str(part) for part in one.path]) or "."
    before, after = value_text(one.before), value_text(one.after)
    if one.kind == "added":
        return [("+ ", "green"), (f"{path}: ", "bold"), (after, "green")]
    if one.kind == "removed":
        return [("- ", "red"), (f"{path}: ", "bold"), (before, "red")]
    return [("~ ", "yellow"), (f"{path}: ", "bold"), (before, "red"), (" → ", ""), (after, "green")]


async def _changes(store: Store, a: str, b: str) -> list[Change]:
    from stmflow import codec, history
    from stmflow.cli.names import JOB, find

    sides = []
    blocks: dict[CID, bytes] = {}
    for text in (a, b):
        named = await find(store, text)
        cid, block = await _block(store, named.kind, named.cid)
        plain = codec.decode(block)
        revision = history.read_revision(cid, block) if history.is_revision(plain) else None
        for line in revision.writes if revision is not None else ():
            blocks[line.state] = (await _block(store, "block", line.state))[1]
        job = named.cid if named.kind == JOB else None
        sides.append((revision, job, plain))
    (old, old_job, _), (new, new_job, _) = sides
    if old is not None and new is not None:
        shared = {one.job for one in old.writes} & {one.job for one in new.writes}
        if shared and (old_job == new_job or old_job is None or new_job is None):
            return history.diff_revisions(old, new, blocks.get)
    values = [_state_of(*side, blocks) for side in sides]
    return history.diff(*values)


def _state_of(revision: Any, job: CID | None, plain: Any, blocks: dict[CID, bytes]) -> Any:
    """What to compare of one side: a job's state, a lone write's state, or the block itself."""
    from stmflow import codec

    if revision is None:
        return plain
    lines = revision.writes if job is None else [revision.line(job)]
    states = {str(line.job): codec.decode(blocks[line.state]) for line in lines}
    return next(iter(states.values())) if len(states) == 1 else states


# --- why ----------------------------------------------------------------------------------------


@command(short_help="Say what brought a block, task or revision about.")
@click.argument("cid")
@click.option("--job", metavar="JOB", help="Look in the history of this job only.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="At most so many places.",
)
def why(settings: Settings, cid: str, job: str | None, limit: int) -> None:
    """Say what brought CID about: a state, revision, event, effect, receipt, task or delivery.

    Names the revision that holds it, its event, its cause (a delivery, or a task and the effect
    that asked for it), what it read and what it committed. Without --job, every history that may
    hold it is searched, which takes its time in a large database. Of a delivery that was refused,
    or changed nothing, it says what it was answered, and by which rule.
    """
    from stmflow.cli.output import Screen, emit
    from stmflow.transaction import Answer

    async def ask() -> list[tuple[Chain, Reason | Answer]]:
        async with settings.reading() as store:
            return await _reasons(store, cid, job, limit)

    found = run(ask)
    screen = None if settings.json else Screen()
    for chain, reason in found:
        if isinstance(reason, Answer):
            _judged(screen, chain, reason)
        elif screen is None:
            emit(_reason_json(chain, reason))
        else:
            _explain(screen, settings, chain, reason)


async def _reasons(
    store: Store, text: str, job: str | None, limit: int
) -> list[tuple[Chain, Reason | Answer]]:
    from stmflow import history
    from stmflow.cid import CID
    from stmflow.cli import chains
    from stmflow.cli.names import JOB, every_job, find, find_job
    from stmflow.errors import CodecError, NotFound
    from stmflow.transaction import Answer

    try:
        target = CID.parse(text)
        kind = None
    except CodecError:
        kind, target = await find(store, text)
    jobs: list[CID] = []
    head = (await store.heads([target]))[target]
    if kind in (None, JOB) and head is not None:
        jobs, target = [target], head.revision
    elif job is not None:
        jobs = [await find_job(store, job)]
    else:
        jobs, workflow = await _where(store, target)
        if not jobs:
            jobs = [row.job async for row in every_job(store, workflow=workflow)]
    found: list[tuple[Chain, Reason | Answer]] = []
    for each in jobs:
        chain = await chains.load(store, each)
        reasons = history.why(target, chain.revisions, each, chain.blocks.get)
        found += [(chain, reason) for reason in reasons[: limit - len(found)]]
        if not reasons and (answer := await store.delivery(each, target.bytes)) is not None:
            found.append((chain, Answer.of(answer)))
        if len(found) >= limit:
            break
    if not found:
        raise NotFound(f"no history here holds {target}")
    return found


async def _where(store: Store, cid: CID) -> tuple[list[CID], str | None]:
    """The jobs that hold a CID, as far as it says so itself; else the workflow to look in."""
    from stmflow import codec, history

    row = await store.task(cid)
    if row is not None:
        return [row.job], None
    block = await store.block(cid)
    if block is None:
        return [], None
    plain = codec.decode(block)
    if history.is_revision(plain):
        return [line.job for line in history.read_revision(cid, block).writes], None
    name = plain.get("w") if isinstance(plain, dict) else None
    return [], name if isinstance(name, str) else None


def _judged(screen: Screen | None, chain: Chain, answer: Answer) -> None:
    """A delivery that has written nothing: its answer, and what it was judged against."""
    from stmflow.cli.output import emit, key_text, value_text
    from stmflow.schema import thaw

    detail = thaw(answer.detail)
    if screen is None:
        emit(
            {
                "role": "delivery",
                "job": chain.job,
                "workflow": chain.head.workflow,
                "key": list(chain.head.key),
                "answer": answer.kind,
                "code": answer.code,
                "detail": detail,
                "revision": answer.revision,
                "state": answer.state,
            }
        )
        return
    screen.line(("delivery  ", "dim"), ("to job ", ""), (chain.job, ""))
    name = f"{chain.head.workflow}@{chain.head.version}  "
    screen.line(("job       ", "dim"), (name, ""), (key_text(chain.head.key), "bold"))
    screen.line(("answer    ", "dim"), (answer.kind, "bold"), (f"  {answer.code or ''}", ""))
    if detail is not None:
        screen.line(("because   ", "dim"), (value_text(detail), ""))
    screen.line(("judged at ", "dim"), (answer.revision or "no revision", ""))
    screen.line()


def _reason_json(chain: Chain, reason: Reason) -> dict[str, Any]:
    from stmflow.cli.jobs import delivery_json, leaf_json, settled_json

    step = reason.step
    line, revision = step.line, step.revision
    return {
        "role": reason.role,
        "job": chain.job,
        "workflow": line.workflow,
        "version": line.version,
        "key": list(chain.head.key),
        "revision": revision.cid,
        "seq": line.seq,
        "at": revision.at,
        "epoch": line.epoch,
        "delivery": delivery_json(revision.delivery),
        "cause": None if reason.cause is None else {
            **settled_json(reason.cause),
            "asked": None if reason.cause.leaf is None else leaf_json(reason.cause.leaf),
        },
        "events": [{"event": cid, "type": p["t"], "fields": p["f"]} for cid, p in reason.events],
        "reads": [[job, read] for job, read in revision.reads],
        "before": reason.before,
        "state": line.state,
        "effects": [cid for _, cid in line.effects],
        "given": [{"by": by, "effect": cid} for by, _, cid in line.given()],
        "receipts": list(line.receipts),
        "settled": [settled_json(one) for one in step.settled],
        "armed": [leaf_json(one) for one in step.armed],
        "others": [other.job for other in revision.writes if other.job != line.job],
    }  # fmt: skip


def _explain(screen: Screen, settings: Settings, chain: Chain, reason: Reason) -> None:
    from stmflow.cli.chains import Statuses
    from stmflow.cli.jobs import settled_text
    from stmflow.cli.output import hue, key_text, value_text

    step = reason.step
    line, revision = step.line, step.revision
    statuses = Statuses(chain.head, settings.workflows())
    status = statuses.of(chain.plain(line.state))

    def say(label: str, *spans: Span) -> None:
        screen.line((f"{label:<10}", "dim"), *spans)

    say(reason.role, ("of revision ", ""), (revision.cid, "bold blue"))
    say("written", (f"{screen.when(revision.at)} as seq {line.seq}, epoch {line.epoch}", ""))
    say(
        "job",
        (chain.job, ""),
        (f"  {line.workflow}@{line.version}  ", ""),
        (key_text(chain.head.key), "bold"),
    )
    for cid, plain in reason.events:
        say("event", (plain["t"], "bold"), (f" {value_text(plain['f'])}  ", ""), (cid, ""))
    _cause(say, reason)
    if reason.before is not None:
        before = statuses.of(chain.plain(reason.before))
        say("from", (before, hue(before)), ("  ", ""), (reason.before, ""))
        old = chain.plain(reason.before)["v"]
        if old != line.version:
            say("version", (f"{old} → {line.version}", "magenta"))
    say("to", (status, f"bold {hue(status)}"), ("  ", ""), (line.state, ""))
    for job, read in revision.reads:
        say("read", (job, ""), ("  at ", "dim"), (read or "nothing", ""))
    for one in step.settled:
        say("receipt", (f"{settled_text(one)}  ", ""), (one.receipt, ""))
    for _, cid in line.effects:
        say("effect", (cid, ""))
    for by, _, cid in line.given():
        say("given", (f"by {by}  ", ""), (cid, ""))
    for leaf in step.armed:
        say("armed", (f"{leaf.tag} {value_text(leaf.plain['f'])}  ", ""), (leaf.id, ""))
    for other in revision.writes:
        if other.job != line.job:
            say("with", (other.job, ""), (f"  {other.workflow}@{other.version}", ""))
    screen.line()


def _cause(say: Any, reason: Reason) -> None:
    from stmflow.cli.jobs import delivery_name
    from stmflow.cli.output import value_text

    delivery, cause = reason.step.revision.delivery, reason.cause
    if cause is not None and cause.leaf is not None:
        leaf = cause.leaf
        say("cause", ("task ", ""), (cause.task, ""), (f"  {leaf.tag} ", "bold"),
            (value_text(leaf.plain["f"]), ""))  # fmt: skip
        say("", (f"asked for at seq {leaf.seq} by effect ", ""), (leaf.effect, ""))
    elif delivery is None:
        say("cause", ("a transaction of the service, without a delivery id", ""))
    else:
        name = delivery_name(delivery[1])
        told = name if isinstance(name, str) else value_text(name)
        say("cause", (f"delivery {told}", ""))
        if delivery[0] != reason.step.line.job:
            say("", ("to job ", ""), (delivery[0], ""))
