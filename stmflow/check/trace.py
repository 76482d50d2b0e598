"""A behaviour that shows what is wrong: step by step, as a table and as a sequence diagram."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

from stmflow.check.machine import Action, State, Told
from stmflow.check.search import Graph, Seen, Wrong
from stmflow.cid import CID
from stmflow.effect import Err, Sleep
from stmflow.schema import tag_of


class Step(NamedTuple):
    """One step of a trace: what happened, and where it led. `again`: part of a cycle that never
    ends."""

    told: Told
    before: State
    after: State
    again: bool = False


def steps(graph: Graph, wrong: Wrong) -> list[Step]:
    """The shortest way to what is wrong; for liveness, then the way round for ever after."""
    return [
        Step(graph.machine.told(action), before, after, again)
        for action, before, after, again in graph.way(wrong)
    ]


def table(graph: Graph, wrong: Wrong) -> list[tuple[str, str, str, str]]:
    """Rows of (number, what happens, what it comes to, what has changed)."""
    rows = []
    for number, step in enumerate(steps(graph, wrong), 1):
        label = f"{number}{' ∞' if step.again else ''}"
        rows.append((label, _what(step.told), _outcome(step.told), "; ".join(_moved(graph, step))))
    return rows


def line(told: Told) -> str:
    """A step in one line: what happens, and what it comes to."""
    outcome = _outcome(told)
    return f"{_what(told)}  {outcome}" if outcome else _what(told)


def mermaid(graph: Graph, wrong: Wrong) -> str:
    """The trace as a Mermaid sequence diagram: clients, jobs, workers and the world."""
    lines = ["sequenceDiagram"]
    for step in steps(graph, wrong):
        told = step.told
        job = "jobs" if told.job is None else _job(told.job)
        note = ", ".join(_moved(graph, step))
        match told.what:
            case "send" | "transact":
                lines.append(f"    client->>{job}: {_by(told.by)}")
            case "perform":
                lines.append(f"    {job}->>world: {_by(told.by)}")
            case "settle":
                lines.append(f"    world-->>{job}: {_outcome(told)}")
            case "answer lost":
                lines.append(f"    world--x{job}: answer of {_by(told.by)} lost")
            case "fire":
                lines.append(f"    {job}->>{job}: {_by(told.by)}")
            case "run":
                lines.append(f"    {job}->>{job}: {_by(told.by)}")
            case "lease lost":
                lines.append(f"    Note over {job},world: a worker with {_by(told.by)} is cut off")
            case "late":
                lines.append(f"    Note over world: {_by(told.by)} is done after all")
            case _:
                lines.append(f"    Note over world: {_by(told.by)}")
        if note and told.job is not None:
            lines.append(f"    Note over {job}: {note}")
    lines.append(f"    Note over world: {wrong.property} {wrong.text}".replace(";", ","))
    return "\n".join(_plain(line) for line in lines)


def _what(told: Told) -> str:
    job = "" if told.job is None else f" {_job(told.job)}"
    return f"{told.what}{job}: {_by(told.by)}"


def _outcome(told: Told) -> str:
    parts = [] if told.what in ("send", "transact", "fire", "run") else [short(told.outcome)]
    if told.what in ("world", "time", "late", "lease lost"):
        parts = []
    return " → ".join([*parts, *([told.answer] if told.answer else [])])


def _by(by: Any) -> str:
    if isinstance(by, str):
        return by
    if isinstance(by, Sleep):
        return f"timer {by.name}" if by.name else "timer"
    return f"{tag_of(type(by))}({short(by, top=True)})"


def _job(job: Any) -> str:
    return str(job.workflow)


def _key(job: Any) -> str:
    """Which of several jobs of one workflow."""
    return "/".join(part if isinstance(part, str) else short(part) for part in job.key)


def _moved(graph: Graph, step: Step) -> Iterator[str]:
    """What a step has changed: states by their tags and fields, the world, the time."""
    before, after = Seen(graph.machine, step.before), Seen(graph.machine, step.after)
    names = Counter(job.workflow for job in graph.machine.jobs)
    for job in graph.machine.jobs:
        one, other = before.state(job), after.state(job)
        if one != other:
            name = job.workflow if names[job.workflow] == 1 else f"{job.workflow} {_key(job)}"
            yield f"{name} {_change(one, other)}"
    if before.world != after.world:
        yield f"world {_change(before.world, after.world)}"
    if before.now != after.now:
        yield f"time {after.now}"


def _change(one: Any, other: Any) -> str:
    """From one value to another: fields that differ, where the type stays."""
    if type(one) is not type(other) or not is_dataclass(other):
        return f"→ {short(other)}"
    changed = [
        f"{each.name} {short(getattr(one, each.name))} → {short(getattr(other, each.name))}"
        for each in fields(other)
        if getattr(one, each.name) != getattr(other, each.name)
    ]
    return ", ".join(changed)


def short(value: Any, *, top: bool = False) -> str:
    """A value in few words: CIDs by their end, nested values by their type."""
    if isinstance(value, CID):
        return f"…{str(value)[-6:]}"
    if isinstance(value, Err):
        return f"Err({value.name})"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if is_dataclass(value) and not isinstance(value, type):
        shown = [
            f"{each.name}={short(getattr(value, each.name))}"
            for each in fields(value)
            if each.repr and not is_dataclass(getattr(value, each.name))
        ]
        inner = ", ".join(shown)
        return inner if top else f"{type(value).__name__}({inner})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {short(one)}" for key, one in value.items()) + "}"
    if isinstance(value, tuple):
        return "(" + ", ".join(short(one) for one in value) + ")"
    return repr(value)


def _plain(line: str) -> str:
    return line.replace("#", "").replace("‼", "impossible")


__all__ = ["Action", "Step", "line", "mermaid", "short", "steps", "table"]
