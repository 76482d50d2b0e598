"""The push service with one thing broken: the checker finds each, by its shortest trace, and the
engine does the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from examples.gateway import callback, channel, command, connection, workflow
from examples.gateway import check as proofs
from examples.gateway.workflow import CHANNEL, COMMAND, CONNECTION
from stmflow import Err, Tx, Workflow, ignore
from stmflow.check import Check, Report, find, prove
from tests.examples import planted
from tests.project import ROOT

Update = Callable[[Any, Any], Any]
Bodies = Mapping[type, Callable[[Tx, Any], Any]]

PUBLISH = "gateway, subscribe and publish"
CALLED = "gateway, called while the app is asked"
LATE = "gateway, workers that come late"
SILENT = "gateway, the app is silent"


@dataclass(frozen=True)
class Mutation:
    """What is broken, the property that shows it, and the length of the shortest trace."""

    name: str
    breaks: str
    steps: int
    update: Mapping[Workflow, Callable[[Update], Update]] = field(default_factory=dict)
    patch: Mapping[str, Any] = field(default_factory=dict)
    bodies: Bodies = field(default_factory=dict)
    handlers: Mapping[type, Any] = field(default_factory=dict)
    check: str = PUBLISH

    def of(self, patch: pytest.MonkeyPatch) -> Check:
        for name, value in self.patch.items():
            patch.setattr(connection, name, value)
        check = find(proofs.CHECKS, self.check)
        return replace(
            check,
            workflows=[self.mutant(one) for one in check.workflows],
            transactional=check.transactional | over(check.transactional, self.bodies),
            tasks=check.tasks | over(check.tasks, self.bodies),
            handlers=check.handlers | self.handlers,
        )

    def mutant(self, one: Workflow) -> Workflow:
        if one not in self.update:
            return one
        twin = copy(one)
        twin.update = self.update[one](one.update)
        return twin


def over(bodies: Bodies, others: Bodies) -> Bodies:
    return {kind: body for kind, body in others.items() if kind in bodies}


# --- what is broken -----------------------------------------------------------------------------

Answer = Callable[[Any, Any], Any]


def given(event: type, state: type, answer: Answer) -> Callable[[Update], Update]:
    """One cell of the table, answered otherwise."""

    def mutate(update: Update) -> Update:
        def broken(one: Any, now: Any) -> Any:
            meant = isinstance(one, event) and isinstance(now, state)
            return answer(one, now) if meant else update(one, now)

        return broken

    return mutate


def gone(event: Any, state: Any) -> Any:
    return connection.closed(state.line, "Gone")


def at_once(event: connection.Control, state: Any) -> Any:
    """No queue: whatever the connection is, it is everybody's turn."""
    line = state.line
    tracks = [
        connection.perform(connection.Track(line.connection, line.asked + 1 + at, (do,), True))
        for at, do in enumerate(event.commands)
    ]
    return replace(state, line=replace(line, asked=line.asked + len(event.commands))), tracks


def all_at_once(line: Any) -> Any:
    """It is open: everything that waits goes."""
    numbers = range(line.done + 1, line.asked + 1)
    return [connection.perform(connection.Flush(line.connection, n)) for n in numbers]


def without(kind: type) -> Callable[[Update], Update]:
    """Asks for everything but this."""

    def leaf(effect: Any) -> Any:
        return leaf(effect.body) if hasattr(effect, "body") else effect

    def mutate(update: Update) -> Update:
        def broken(event: Any, state: Any) -> Any:
            answer = update(event, state)
            if type(answer) is not tuple:
                return answer
            left = [
                one for one in answer[1] if not isinstance(getattr(leaf(one), "task", None), kind)
            ]
            return answer[0], left

        return broken

    return mutate


def timer(name: str) -> Callable[[Update], Update]:
    """Arms no timer of that name."""

    def mutate(update: Update) -> Update:
        def broken(event: Any, state: Any) -> Any:
            answer = update(event, state)
            if type(answer) is not tuple:
                return answer
            named = [getattr(getattr(each, "body", None), "name", None) for each in answer[1]]
            left = [each for each, own in zip(answer[1], named, strict=True) if own != name]
            return answer[0], left

        return broken

    return mutate


def nothing(tx: Tx, task: Any) -> None:
    """Is done at once."""


def one_sided(tx: Tx, task: command.Edit) -> None:
    """Changes the index, and does not look at the connection."""
    name, to = task.connection, task.do.channel
    tx.apply(CHANNEL.job(to), channel.Join(to, name))


def misfit(tx: Tx, task: command.Edit) -> dict[str, str] | Err:
    """Answers what its event has no room for."""
    return workflow.edit(tx, task) or {"edited": "yes"}


def forgotten(tx: Tx, task: callback.Decide) -> dict[str, str | None]:
    """Who accepts too late is not told."""
    here = tx.read(CONNECTION.job(task.call.connection))
    if isinstance(here, (connection.Closed, connection.Rejected)):
        return {"refused": "Late"}
    return workflow.decide(tx, task)


def revived(event: connection.Accept, state: Any) -> Any:
    """A late yes counts."""
    return connection.Accepted(state.line, event.at), [connection.probe(state.line)]


def told_early(event: connection.Frame, state: Any) -> Any:
    """A message is the app's before the connection is known to be open."""
    line, told = connection.call(state.line, "message", event.text)
    return replace(state, line=line), [told]


def stays_open(event: connection.GoneSend, state: connection.Open) -> Any:
    line = replace(state.line, done=event.n)
    return connection.next_of(line, connection.flushed(line))


def told_again(event: connection.Disconnect, state: connection.Closed) -> Any:
    line, told = connection.call(state.line, "close")
    return replace(state, line=line), [told]


def silently(event: connection.GoneSend, state: connection.Open) -> Any:
    """As the published table has it: taken out of the index, and that is all."""
    line = connection.emptied(replace(state.line, done=event.n))
    waits = connection.dropped(replace(state.line, done=event.n), "Closed")
    name, channels = line.connection, state.line.channels
    index = [connection.perform(connection.Unindex(name, channels))] if channels else []
    return connection.Closed(line, "Gone"), [*waits, *index]


def again(event: proofs.Got, state: proofs.Socket) -> Any:
    """A gateway that does not know a repeat."""
    return replace(state, got=(*state.got, event.n)), []


C = " (c)"
W1 = "W1 nothing is posted before it is open" + C
W2_ORDER = "W2 texts come in the order of their commands, none twice" + C
W2 = "W2 one command at most is under way" + C
W3 = "W3 what counts as delivered has come" + C
REASONS = "W3 nothing is dropped but for one of these reasons" + C
W3_REST = "W3 at rest every command has ended" + C
W4 = "W4 what a probe has missed ends nothing" + C
W4_POST = "W4 what a post has missed has ended" + C
W5 = "W5 channels have whom the connection says, and nobody after its end" + C
W6 = "W6 nothing of the client comes to the app before it has accepted" + C
W7 = "W7 no command runs before it is accepted and open" + C
STAYS = "what has ended stays so" + C
CUT_OFF = "what has ended here ends there" + C
HEARS = "the app hears once of each end of what it has accepted" + C
OPENING = "opening ends" + C
ACCEPTED = "accepted ends" + C
CLOSING = "closing ends" + C
COMMANDS = "every command ends" + C
IMPOSSIBLE = "no impossible cell is reached"

Opening, Accepted, Open = connection.Opening, connection.Accepted, connection.Open
Closed, Rejected = connection.Closed, connection.Rejected

MUTATIONS = [
    Mutation(
        "what a probe and what a post has missed is one",
        W4,
        8,
        update={CONNECTION: given(connection.GoneProbe, Open, gone)},
    ),
    Mutation(
        "the first 410 is fatal",
        W4,
        5,
        update={CONNECTION: given(connection.GoneProbe, Accepted, gone)},
    ),
    Mutation(
        "no queue: commands go at once",
        W7,
        2,
        update={CONNECTION: given(connection.Control, Opening, at_once)},
        check=CALLED,
    ),
    Mutation(
        "no queue: a text is posted before it is open",
        W1,
        4,
        update={CONNECTION: given(connection.Control, Accepted, at_once)},
        check=CALLED,
    ),
    Mutation(
        "no queue: the order flips",
        W2_ORDER,
        9,
        patch={"flushed": all_at_once},
        update={proofs.SOCKET: given(proofs.Got, proofs.Socket, again)},
        check=LATE,
    ),
    Mutation("what has waited goes all at once", W2, 6, patch={"flushed": all_at_once}),
    Mutation(
        "a gateway that does not know a repeat",
        W2_ORDER,
        11,
        update={proofs.SOCKET: given(proofs.Got, proofs.Socket, again)},
    ),
    Mutation(
        "a command that has ended is not reported", COMMANDS, 8, bodies={command.Report: nothing}
    ),
    Mutation("an end drops nothing", W3_REST, 8, bodies={connection.Drop: nothing}),
    Mutation(
        "a text that was dropped counts as delivered",
        W3,
        11,
        update={
            COMMAND: given(
                command.PostGone,
                command.Command,
                lambda e, s: command.ended(s, "delivered", gone=True),
            )
        },
    ),
    Mutation(
        "what a post has missed stays open",
        W4_POST,
        11,
        update={CONNECTION: given(connection.GoneSend, Open, stays_open)},
    ),
    Mutation("a subscription of one side", W5, 7, bodies={command.Edit: one_sided}),
    Mutation("an outcome that does not fit its event", REASONS, 7, bodies={command.Edit: misfit}),
    Mutation("an end stays in the index", W5, 9, bodies={connection.Unindex: nothing}),
    Mutation(
        "a message comes to the app too early",
        W6,
        6,
        update={CONNECTION: given(connection.Frame, Accepted, told_early)},
    ),
    Mutation(
        "a late yes counts",
        STAYS,
        5,
        update={CONNECTION: given(connection.Accept, Closed, revived)},
    ),
    Mutation(
        "a client that was cut off may go on",
        CUT_OFF,
        11,
        update={CONNECTION: given(connection.Frame, Closed, lambda e, s: ignore())},
    ),
    Mutation("who accepts too late is not told", HEARS, 4, bodies={callback.Decide: forgotten}),
    Mutation(
        "the app is told of an end twice",
        HEARS,
        6,
        update={CONNECTION: given(connection.Disconnect, Closed, told_again)},
    ),
    Mutation(
        "the app is not told of an end that a post has found",
        HEARS,
        11,
        update={CONNECTION: given(connection.GoneSend, Open, silently)},
    ),
    Mutation(
        "the app is waited for without end",
        OPENING,
        1,
        update={CONNECTION: timer("callback")},
        check=SILENT,
    ),
    Mutation("grace has no end", ACCEPTED, 12, update={CONNECTION: timer("grace")}, check=CALLED),
    Mutation(
        "what closes is not deleted",
        CLOSING,
        8,
        update={CONNECTION: without(connection.Delete)},
        check=CALLED,
    ),
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
async def test_what_is_broken_is_found(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    await planted.first(found(mutation, monkeypatch), mutation)


def found(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> Report:
    """What the checker finds against that one property; others may be broken sooner."""
    check = mutation.of(monkeypatch)
    asked = [one for one in check.properties if one.name == mutation.breaks]
    assert asked or mutation.breaks == IMPOSSIBLE
    return prove(replace(check, properties=asked))


def test_the_readme_has_every_mutation() -> None:
    assert planted.listed(ROOT / "examples/gateway/README.md", MUTATIONS, without=C)
