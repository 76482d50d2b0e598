"""The push service: four machines, each a workflow of its own, and what joins them.

At once, in the commit that asks for it, and only downwards, so that nobody waits for himself:

    callback    → connection   the app's answer decides, and its commands follow: `decide`
    connection  → callback     a new one is begun: `begin`
    connection  → command      numbered, given its turn, dropped: `track`, `flush`, `drop`
    connection  → channel      its end takes it out of the index: `unindex`
    command     → connection   that it has ended, so that the next one goes: `report`

A little later, as tasks that are transactions: `edit` changes a connection and the index together,
`fan_out` makes a command for each member of a channel. The gateway's own answer, by contrast, is no
task: whoever holds its request waits for the connection's state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from examples.gateway import callback, channel, command, connection
from examples.gateway.model import PAGE, Call, Do
from stmflow import Err, Tx, Workflow

CONNECTION: Final = Workflow(
    "gateway/connection",
    state=(
        connection.Opening,
        connection.Accepted,
        connection.Open,
        connection.Closing,
        connection.Rejected,
        connection.Closed,
    ),
    events=(
        connection.Connect,
        connection.Accept,
        connection.Refuse,
        connection.CallbackTimeout,
        connection.Confirmed,
        connection.Frame,
        connection.GoneProbe,
        connection.GoneSend,
        connection.Grace,
        connection.Disconnect,
        connection.Control,
        connection.Close,
        connection.Done,
        connection.Subscribed,
        connection.Unsubscribed,
        connection.Described,
        connection.Deleted,
    ),
    outside=(
        connection.Connect,
        connection.Frame,
        connection.Disconnect,
        connection.Control,
        connection.Close,
    ),
    tasks=(
        connection.Probe,
        connection.Delete,
        connection.Begin,
        connection.Track,
        connection.Flush,
        connection.Drop,
        connection.Unindex,
    ),
    update=connection.update,
    key=("connection",),
)

CALLBACK: Final = Workflow(
    "gateway/callback",
    state=(
        callback.Running,
        callback.Waiting,
        callback.Answered,
        callback.Failed,
        callback.Void,
    ),
    events=(
        callback.Start,
        callback.Replied,
        callback.Unanswered,
        callback.Again,
        callback.ConnectionGone,
    ),
    tasks=(callback.Ask, callback.Decide, callback.Alive),
    update=callback.update,
)

COMMAND: Final = Workflow(
    "gateway/command",
    state=command.Command,
    events=(
        command.Issued,
        command.Turn,
        command.Posted,
        command.PostGone,
        command.PostFailed,
        command.Edited,
        command.Fanned,
        command.NotRun,
        command.ConnectionClosed,
    ),
    tasks=(command.Post, command.Edit, command.FanOut, command.Report),
    update=command.update,
    tag="label",
)

CHANNEL: Final = Workflow(
    "gateway/channel",
    state=channel.Channel,
    events=(channel.Join, channel.Leave),
    update=channel.update,
    key=("channel",),
)

WORKFLOWS: Final = (CONNECTION, CALLBACK, COMMAND, CHANNEL)

LATE: Final = 0
"""The number of the callback that tells the app of an end before its beginning: it has accepted
what had ended meanwhile."""

# --- at once ------------------------------------------------------------------------------------


def begin(tx: Tx, task: connection.Begin) -> None:
    tx.apply(CALLBACK.job(task.call.connection, task.call.n), callback.Start(task.call, task.terms))


def decide(tx: Tx, task: callback.Decide) -> dict[str, str | None]:
    """Accept or refuse; then the commands, in order; then the close."""
    name, reply = task.call.connection, task.reply
    job = CONNECTION.job(name)
    if task.call.kind == "open":
        answer = connection.Accept(reply.about) if reply.accept else connection.Refuse()
        verdict = tx.apply(job, answer)
        if verdict.rejected and reply.accept:  # the app believes in it, so it hears of its end
            end = callback.Start(Call(name, LATE, "close"), task.terms)
            tx.apply(CALLBACK.job(name, LATE), end)
        if verdict.rejected or not reply.accept:
            return {"refused": verdict.code}
    refused = None
    if reply.commands:
        refused = tx.apply(job, connection.Control(name, reply.commands)).code
    if reply.close:
        tx.apply(job, connection.Close(name))
    return {"refused": refused}


def alive(tx: Tx, task: callback.Alive) -> Err | None:
    ended = isinstance(tx.read(CONNECTION.job(task.connection)), connection.Closed)
    return Err("Gone") if ended else None


def track(tx: Tx, task: connection.Track) -> None:
    for at, do in enumerate(task.commands):
        n = task.first + at
        issued = command.Issued(task.connection, n, do, go=task.go and at == 0)
        tx.apply(COMMAND.job(task.connection, n), issued)


def flush(tx: Tx, task: connection.Flush) -> None:
    tx.apply(COMMAND.job(task.connection, task.n), command.Turn())


def drop(tx: Tx, task: connection.Drop) -> None:
    for n in range(task.first, task.last + 1):
        tx.apply(COMMAND.job(task.connection, n), command.ConnectionClosed(task.why))


def unindex(tx: Tx, task: connection.Unindex) -> None:
    for name in task.channels:
        tx.apply(CHANNEL.job(name), channel.Leave(name, task.connection))


def report(tx: Tx, task: command.Report) -> None:
    event = connection.GoneSend(task.n) if task.gone else connection.Done(task.n)
    tx.apply(CONNECTION.job(task.connection), event)


TRANSACTIONAL: Final[Mapping[type, Callable[[Tx, Any], Any]]] = {
    connection.Begin: begin,
    connection.Track: track,
    connection.Flush: flush,
    connection.Drop: drop,
    connection.Unindex: unindex,
    callback.Decide: decide,
    callback.Alive: alive,
    command.Report: report,
}

# --- a little later -----------------------------------------------------------------------------


def edit(tx: Tx, task: command.Edit) -> Err | None:
    """Both sides of a subscription in one commit: no channel has a ghost."""
    do, name = task.do, task.connection
    job = CONNECTION.job(name)
    match do.verb:
        case "subscribe":
            verdict = tx.apply(job, connection.Subscribed(do.channel))
            if not verdict.rejected:
                verdict = tx.apply(CHANNEL.job(do.channel), channel.Join(do.channel, name))
        case "unsubscribe":
            tx.apply(job, connection.Unsubscribed(do.channel))
            verdict = tx.apply(CHANNEL.job(do.channel), channel.Leave(do.channel, name))
        case _:
            verdict = tx.apply(job, connection.Described(do.text))
    return Err(verdict.code or "Refused") if verdict.rejected else None


def fan_out(tx: Tx, task: command.FanOut) -> dict[str, Any]:
    """The next page of members. Who is closing, or lets too much wait, gets nothing."""
    index = tx.read(CHANNEL.job(task.channel))
    members = [] if index is None else [one for one in index.members if one > task.after]
    page = members[:PAGE]
    say = (Do("send", text=task.text),)
    verdicts = [tx.apply(CONNECTION.job(one), connection.Control(one, say)) for one in page]
    reached = sum(not verdict.rejected for verdict in verdicts)
    return {"reached": reached, "after": page[-1] if len(members) > PAGE else None}


TASKS: Final[Mapping[type, Callable[[Tx, Any], Any]]] = {
    command.Edit: edit,
    command.FanOut: fan_out,
}
"""Performed by the scheduler as `Transaction`s of their own."""
