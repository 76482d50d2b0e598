"""One request over wires that break: dial, send, wait; and be sure of what became of it.

One job per key. An attempt is an epoch, so what an old attempt brings late is *stale*. One function
per state, one case per cell of the table:

    same()        accepted, nothing changes      ignore()      duplicate or late
    reject(code)  refused                        impossible()  no legal run leads here

What holds in between: every state but the three ends has the timer `deadline`, and one that waits
for the network has the timer `timeout` besides; who leaves an attempt closes its wire; and from the
moment that a frame may be on its way, only an answer that the peer stands by leads to another
attempt, unless the request may be carried out twice.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, TypeAlias, assert_never

from examples.transport.model import (
    BODY_BYTES,
    Answered,
    Cancel,
    Close,
    Connected,
    Deadline,
    Declined,
    Dial,
    Dropped,
    Event,
    Read,
    Reconcile,
    Request,
    Resume,
    Sent,
    Settled,
    Start,
    Status,
    TimedOut,
    Unreachable,
    Unresolved,
    Unsettled,
    Write,
)
from stmflow import (
    CID,
    Effect,
    Err,
    Workflow,
    cancel,
    ignore,
    impossible,
    perform,
    reject,
    same,
    sleep,
)

Next: TypeAlias = object
"""`(state, effects)`, or one of the four answers above."""

CANCELLED: Final = Err("Cancelled")
EXHAUSTED: Final = Err("Exhausted")
OVERDUE: Final = Err("Deadline")


def update(event: Event, state: Request | None) -> Next:
    if state is None:
        return _idle(event)
    if isinstance(event, Start):
        return ignore()
    match state.status:
        case "connecting":
            return _connecting(event, state)
        case "sending":
            return _sending(event, state)
        case "waiting":
            return _waiting(event, state)
        case "unknown":
            return _unknown(event, state)
        case "backoff":
            return _backoff(event, state)
        case "done" | "failed" | "cancelled":
            return ignore()
    assert_never(state.status)


# --- the table, row by row ------------------------------------------------------------------------


def _idle(event: Event) -> Next:
    match event:
        case Start() if len(event.body) > BODY_BYTES:
            return reject("TooLarge", {"most": BODY_BYTES})
        case Start(key, peer, body, idempotent, terms):
            deadline = event.at + terms.deadline_ms
            request = Request(key, "connecting", deadline, peer, body, idempotent, terms)
            return dial(request, event.at)
        case Cancel(key):
            return Request(key, "cancelled", event.at, error=CANCELLED), []
        case _:
            return impossible()


def _connecting(event: Event, state: Request) -> Next:
    match event:
        case Connected():
            return send(state, event.wire)
        case TimedOut() | Dropped():
            return back_off(state, event.at)
        case Unresolved() | Unreachable():
            return not_found(state, event.at, event.error)
        case Cancel():
            return give_up(state, event.at)
        case Deadline():
            return end(state, "failed", OVERDUE)
        case _:
            return impossible()


def _sending(event: Event, state: Request) -> Next:
    match event:
        case Sent():
            return replace(state, status="waiting"), []
        case _:
            return _waiting(event, state)


def _waiting(event: Event, state: Request) -> Next:
    match event:
        case Answered():
            return end(state, "done", answer=event.body)
        case Declined():
            return declined(state, event)
        case TimedOut() | Dropped() | Unreachable():
            return doubt(state, event.at)
        case Cancel():
            return doubt(replace(state, unwanted=True), event.at)
        case Deadline():
            return end(replace(state, maybe=True), "failed", OVERDUE)
        case _:
            return impossible()


def _unknown(event: Event, state: Request) -> Next:
    match event:
        case Answered():
            return end(state, "done", answer=event.body)
        case Declined():
            return declined(state, event)
        case Resume() if state.idempotent and not state.unwanted and left(state, event.at):
            return again(replace(state, maybe=True), event.at)
        case Resume():
            return state, [ask(state)]
        case Settled(body) if body is not None:
            return end(state, "done", answer=body)
        case Settled():
            return refused(replace(state, maybe=False), event.at)
        case Unsettled():
            return doubt(replace(state, asks=state.asks + 1), event.at)
        case Cancel():
            return same() if state.unwanted else (replace(state, unwanted=True), [])
        case Deadline():
            return end(replace(state, maybe=True), "failed", OVERDUE)
        case Sent() | TimedOut() | Dropped() | Unreachable():
            return ignore()
        case _:
            return impossible()


def _backoff(event: Event, state: Request) -> Next:
    match event:
        case Resume():
            return again(state, event.at)
        case Cancel():
            return give_up(state, event.at)
        case Deadline():
            return end(state, "failed", OVERDUE)
        case _:
            return ignore()


# --- what cells do --------------------------------------------------------------------------------


def dial(state: Request, at: int, *before: Effect) -> Next:
    """The attempt begins."""
    until = min(at + state.terms.attempt_ms, state.deadline)
    wanted = Dial(state.key, state.attempt, state.peer, until, state.deadline)
    opened = perform(wanted, name="dial").then(Connected)
    busy = ("connecting", "sending", "waiting")
    live = (*busy, "unknown", "backoff")
    return replace(state, status="connecting"), [
        *before,
        lost(opened.catch(Unresolved, "Unresolved")),
        sleep(until=until, name="timeout", during=busy).then(TimedOut),
        sleep(until=state.deadline, name="deadline", during=live).then(Deadline),
    ]


def send(state: Request, wire: str) -> Next:
    """The answer may come before all is sent, so both are under way at once."""
    key, attempt = state.key, state.attempt
    frame = Write(key, attempt, wire, state.body, state.fresh, state.deadline)
    written = perform(frame, name="write").then(Sent)
    answer = perform(Read(key, attempt, wire, state.deadline), name="read").then(Answered)
    classes = ("Throttled", "Transient", "Auth", "Corrupt", "Conflict", "Fatal")
    return replace(state, status="sending"), [lost(written), lost(answer.catch(Declined, *classes))]


def lost(effect: Effect) -> Effect:
    """Whatever else became of it, there is no wire any more."""
    return effect.catch(Unreachable, "Unreachable").catch(Dropped)


def declined(state: Request, event: Declined) -> Next:
    """By class of error. Of *transient* and *corrupt* nobody knows what came before them."""
    match event.error.name:
        case "Throttled":
            after_ms = int(event.error.detail or 0)
            return refused(state, event.at, after_ms)
        case "Auth" if not state.fresh and left(state, event.at) and not state.unwanted:
            return again(state, event.at, fresh=True)
        case "Transient" | "Corrupt":
            return ignore() if state.status == "unknown" else doubt(state, event.at)
        case _:
            return end(state, "failed", event.error)


def refused(state: Request, at: int, after_ms: int = 0) -> Next:
    """This attempt was not carried out, and will not be."""
    return give_up(state, at) if state.unwanted else back_off(state, at, after_ms)


def back_off(state: Request, at: int, after_ms: int = 0) -> Next:
    """Another attempt after a pause, if that begins within the budget."""
    until = at + max(after_ms, jittered(state, state.attempt))
    if not left(state, until):
        return end(state, "failed", EXHAUSTED)
    return replace(state, status="backoff"), [*leave(state), resume(until)]


def not_found(state: Request, at: int, error: Err) -> Next:
    """The peer has no address, or no way leads to it: a few tries."""
    state = replace(state, lookups=state.lookups + 1)
    if state.lookups >= state.terms.lookups:
        return end(state, "failed", error)
    return back_off(state, at)


def again(state: Request, at: int, *, fresh: bool = False) -> Next:
    """The next attempt, if the budget has one."""
    if not left(state, at):
        return end(state, "failed", EXHAUSTED)
    return dial(replace(state, attempt=state.attempt + 1, asks=0, fresh=fresh), at, *leave(state))


def left(state: Request, at: int) -> bool:
    """Whether another attempt may begin at that time."""
    return state.attempt < state.terms.attempts and at < state.deadline


def give_up(state: Request, at: int) -> Next:
    """It is unwanted, and this attempt was not carried out; but one before it may have been."""
    if state.maybe:
        return doubt(replace(state, unwanted=True), at, *leave(state))
    return end(state, "cancelled", CANCELLED)


def doubt(state: Request, at: int, *before: Effect) -> Next:
    """The attempt may have been carried out. Its wire stays a while: the answer may come late."""
    until = at + jittered(state, state.attempt + state.asks)
    later = [resume(until)] if until < state.deadline else []
    return replace(state, status="unknown"), [*before, *later]


def resume(until: int) -> Effect:
    return sleep(until=until, name="resume").then(Resume)


def ask(state: Request) -> Effect:
    question = Reconcile(state.key, state.attempt, state.peer, state.deadline)
    return perform(question, name="ask").then(Settled).catch(Unsettled)


def end(
    state: Request, status: Status, error: Err | None = None, answer: bytes | None = None
) -> Next:
    return replace(state, status=status, error=error, answer=answer), leave(state)


def leave(state: Request) -> list[Effect]:
    """What this attempt still asks for is withdrawn, and its wire is closed."""
    asked = [cancel(name) for name in ("dial", "write", "read", "ask")]
    return [*asked, perform(Close(state.key, state.attempt, state.deadline))]


def jittered(state: Request, times: int) -> int:
    """How long to pause after so many failures, in milliseconds: at least one, drawn evenly from a
    span that doubles. A reducer cannot draw, so the draw is made from the request's name. After
    "Exponential Backoff And Jitter", AWS Architecture Blog, 2015."""
    widest = min(state.terms.cap_ms, state.terms.base_ms << min(times - 1, 40))
    drawn = CID.of(f"{state.key} {state.attempt} {times}".encode(), 0x55).digest
    return 1 + int.from_bytes(drawn[:8]) % max(widest, 1)


TRANSPORT: Final = Workflow(
    "transport",
    state=Request,
    events=(
        Start,
        Cancel,
        Connected,
        Sent,
        Answered,
        Declined,
        TimedOut,
        Dropped,
        Unresolved,
        Unreachable,
        Resume,
        Deadline,
        Settled,
        Unsettled,
    ),
    outside=(Start, Cancel),
    tasks=(Dial, Write, Read, Close, Reconcile),
    update=update,
    key=("key",),
    tag="status",
    epoch="attempt",
)
