"""store/add: reserve space, look for the bytes, hand out an upload, wait, prove; finish or expire.

One job per space and multihash: another codec over the same bytes is the same job. One function
per state, one case per cell of the table:

    same()        accepted, nothing changes      ignore()      duplicate or late
    reject(code)  refused                        impossible()  no legal run leads here

What holds in between: only a proof of size and hash makes *stored*; capacity that was charged is
given back on every way out, but not before the last signed URL is dead; the bytes are held from
before the first look, and referred to from *stored* on; the timer `deadline` is armed in
*receiving*, and in *verifying* until it is `final`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import ClassVar, Final, TypeAlias, assert_never

from examples.store_add.model import (
    Add,
    Allocated,
    Allocating,
    BlobDeleting,
    Cancel,
    EffectFailed,
    Event,
    Exceed,
    Exceeded,
    Expire,
    Expired,
    Extend,
    Failed,
    Idle,
    LookAgain,
    Looked,
    Lost,
    Mismatch,
    Probing,
    Put,
    Receiving,
    Referred,
    Remove,
    Removed,
    Removing,
    Signed,
    State,
    Stored,
    Target,
    Upload,
    Verified,
    Verifying,
    Window,
)
from scheduler.handlers.allocate import Allocate, Deallocate
from scheduler.handlers.gc import Hold, Leave, Mark, Refer, Unlink
from scheduler.handlers.s3 import Presign, Stat, Verify, Watch
from stmflow import (
    ANY,
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

PAUSE: Final = timedelta(seconds=5)
"""Between two looks at bytes that are being deleted."""

CANCELLED: Final = Err("Cancelled")
EXPIRED_HINT: Final = "send store/add again: stat will find the bytes, no re-upload"

Next: TypeAlias = object
"""`(state, effects)`, or one of the four answers above."""


@dataclass(frozen=True, slots=True)
class Alert:
    """Tell the operators. Outcome: nothing."""

    tag: ClassVar[str] = "store/alert"

    what: str
    space: str
    link: CID


def update(event: Event, state: State | None) -> Next:
    match state:
        case None:
            return _unknown(event)
        case Idle():
            return _idle(event, state)
        case Allocating():
            return _allocating(event, state)
        case Probing():
            return _probing(event, state)
        case Receiving():
            return _receiving(event, state)
        case Verifying():
            return _verifying(event, state)
        case Stored():
            return _stored(event, state)
        case Exceeded():
            return _exceeded(event, state)
        case Expired():
            return _expired(event, state)
        case Failed():
            return _failed(event, state)
        case Removing():
            return _removing(event, state)
    assert_never(state)


# --- the table, row by row ----------------------------------------------------------------------


def _unknown(event: Event) -> Next:
    match event:
        case Add():
            return try_again(event, 0)
        case Put() | Cancel() | Extend() | Remove():
            return reject("NotFound")
        case Allocated() | Exceed() | Looked() | Signed() | Verified() | Mismatch() | Expire():
            return impossible()
        case EffectFailed() | Referred() | BlobDeleting() | LookAgain() | Removed() | Lost():
            return impossible()
    assert_never(event)


def _idle(event: Event, state: Idle) -> Next:
    match event:
        case Add():
            return try_again(event, state.epoch)
        case Put() | Cancel() | Extend() | Remove():
            return reject("NotFound")
        case Allocated():
            return ignore(dealloc(state.upload))
        case Looked(found=True) | Verified():
            return ignore(gc_mark(state.upload))
        case Exceed() | Looked() | Signed() | Mismatch() | Expire() | EffectFailed():
            return ignore()
        case Referred() | BlobDeleting() | LookAgain() | Removed() | Lost():
            return ignore()
    assert_never(event)


def _allocating(event: Event, state: Allocating) -> Next:
    match event:
        case Add():
            return repeated(event, state.upload)
        case Allocated():
            upload = replace(state.upload, charged=event.size)
            return Probing(upload, state.epoch), [look(upload)]
        case Exceed():
            return Exceeded(state.upload, state.epoch, event.error), []
        case EffectFailed():
            return failed(state, event.error, [dealloc(state.upload, event.at)])
        case Cancel() | Remove():
            return failed(state, CANCELLED, [dealloc(state.upload, event.at)])
        case Put() | Extend():
            return reject("NotReceiving")
        case Signed():
            return ignore()
        case Looked() | Verified() | Mismatch() | Expire():
            return impossible()
        case Referred() | BlobDeleting() | LookAgain() | Removed() | Lost():
            return impossible()
    assert_never(event)


def _probing(event: Event, state: Probing) -> Next:
    match event:
        case Add():
            return repeated(event, state.upload)
        case Looked(found=True):
            return proved(event, state.upload)
        case Looked():
            return receive(state, event.at)
        case Referred():
            return Stored(state.upload, state.epoch, event.checksum), []
        case BlobDeleting():
            return replace(state, held=False), [sleep(for_=PAUSE, name="look").then(LookAgain)]
        case LookAgain():
            return replace(state, held=True), [look(state.upload)]
        case EffectFailed():
            return failed(state, event.error, [give_back(state, event.at)])
        case Cancel() | Remove():
            return failed(state, CANCELLED, [give_back(state, event.at)])
        case Put() | Extend():
            return reject("NotReceiving")
        case Allocated() | Signed():
            return ignore()
        case Exceed() | Verified() | Mismatch() | Expire() | Removed() | Lost():
            return impossible()
    assert_never(event)


def _receiving(event: Event, state: Receiving) -> Next:
    match event:
        case Add():
            return repeated(event, state.upload)
        case Looked(found=True) | Verified():
            return proved(event, state.upload)
        case Referred():
            return Stored(state.upload, state.epoch, event.checksum), [cancel("watch")]
        case Put():
            return check(state, final=False)
        case Expire():
            return check(state, final=True)
        case Signed():
            return keep_target(state, event)
        case Extend():
            return extend(state, event.at)
        case EffectFailed():
            return failed(state, event.error, leave(state, event.at))
        case Cancel() | Remove():
            return failed(state, CANCELLED, leave(state, event.at))
        case Allocated() | Looked() | Mismatch():
            return ignore()
        case Exceed() | BlobDeleting() | LookAgain() | Removed() | Lost():
            return impossible()
    assert_never(event)


def _verifying(event: Event, state: Verifying) -> Next:
    match event:
        case Add():
            return repeated(event, state.upload)
        case Looked(found=True) | Verified():
            return proved(event, state.upload)
        case Referred():
            return Stored(state.upload, state.epoch, event.checksum), [cancel("watch")]
        case Put():
            return same()
        case Mismatch():
            return disproved(state, event)
        case Expire():
            return ignore() if state.final else check(state, final=True)
        case Signed():
            return keep_target(state, event)
        case Extend():
            return reject("TooLate") if state.final else extend(state, event.at)
        case EffectFailed():
            return failed(state, event.error, leave(state, event.at))
        case Cancel() | Remove():
            return failed(state, CANCELLED, leave(state, event.at))
        case Allocated() | Looked():
            return ignore()
        case Exceed() | BlobDeleting() | LookAgain() | Removed() | Lost():
            return impossible()
    assert_never(event)


def _stored(event: Event, state: Stored) -> Next:
    match event:
        case Add():
            return repeated(event, state.upload)
        case Put():
            return same()
        case Cancel() | Extend():
            return reject("Done")
        case Remove():
            return Removing(released(state.upload), state.epoch), [remove(state.upload, event.at)]
        case Lost():
            return Allocating(state.upload, state.epoch + 1), recover(state.upload, event.at)
        case Allocated() | Looked() | Signed() | Verified() | Mismatch():
            return ignore()
        case Expire() | EffectFailed():
            return ignore()
        case Exceed() | Referred() | BlobDeleting() | LookAgain() | Removed():
            return impossible()
    assert_never(event)


def _exceeded(event: Event, state: Exceeded) -> Next:
    match event:
        case Add():
            return try_again(event, state.epoch)
        case Put() | Extend():
            return reject("NotReceiving")
        case Cancel():
            return same()
        case Remove():
            return Idle(state.upload, state.epoch), []
        case Allocated():
            return impossible(dealloc(state.upload))
        case Exceed() | Signed() | EffectFailed() | Lost():
            return ignore()
        case Looked() | Verified() | Mismatch() | Expire():
            return impossible()
        case Referred() | BlobDeleting() | LookAgain() | Removed():
            return impossible()
    assert_never(event)


def _expired(event: Event, state: Expired) -> Next:
    match event:
        case Add():
            return try_again(event, state.epoch)
        case Put():
            return reject("Expired", EXPIRED_HINT)
        case Extend():
            return reject("NotReceiving")
        case Cancel():
            return same()
        case Remove():
            return Idle(state.upload, state.epoch), []
        case Looked(found=True) | Verified():
            return ignore(gc_mark(state.upload))
        case Allocated() | Looked() | Signed() | Mismatch() | Expire():
            return ignore()
        case EffectFailed() | Lost():
            return ignore()
        case Exceed() | Referred() | BlobDeleting() | LookAgain() | Removed():
            return impossible()
    assert_never(event)


def _failed(event: Event, state: Failed) -> Next:
    match event:
        case Add():
            return try_again(event, state.epoch)
        case Put():
            return reject("Failed", state.error.name)
        case Extend():
            return reject("NotReceiving")
        case Cancel():
            return same()
        case Remove():
            return Idle(state.upload, state.epoch), []
        case Allocated():
            return same(dealloc(state.upload))
        case Looked(found=True) | Verified():
            return ignore(gc_mark(state.upload))
        case Exceed() | Looked() | Signed() | Mismatch() | Expire():
            return ignore()
        case EffectFailed() | Lost():
            return ignore()
        case Referred() | BlobDeleting() | LookAgain() | Removed():
            return impossible()
    assert_never(event)


def _removing(event: Event, state: Removing) -> Next:
    match event:
        case Add() | Extend():
            return reject("Busy")
        case Removed():
            return Idle(state.upload, state.epoch), []
        case Put() | Cancel() | Remove() | Lost():
            return ignore()
        case Allocated() | Exceed() | Looked() | Signed() | Verified() | Mismatch() | Expire():
            return ignore()
        case EffectFailed() | Referred() | BlobDeleting() | LookAgain():
            return ignore()
    assert_never(event)


# --- what the cells do --------------------------------------------------------------------------


def try_again(event: Add, epoch: int) -> Next:
    """A first or fresh try, with a reservation of its own."""
    reservation = STORE_ADD.job(event.space, event.link.multihash, epoch + 1).id
    upload = Upload(
        event.space, event.link, event.size, event.agent, event.cause, event.terms, reservation
    )
    return Allocating(upload, epoch + 1), [allocate(upload)]


def repeated(event: Add, upload: Upload) -> Next:
    """The same wish once more."""
    return same() if event.size == upload.size else reject("SizeConflict", {"size": upload.size})


def receive(state: Probing, at: int) -> Next:
    """Open the window in which the agent may upload."""
    deadline = at + state.upload.terms.window_ms
    upload = closing(state.upload, deadline)
    return Receiving(upload, state.epoch, Window(at, deadline)), window(upload, deadline)


def extend(state: Receiving | Verifying, at: int) -> Next:
    """Sign again, wait longer; `longest_ms` caps it."""
    terms = state.upload.terms
    deadline = min(at + terms.window_ms, state.window.since + terms.longest_ms)
    if deadline <= state.window.deadline:
        return reject("Capped", {"deadline": state.window.deadline})
    upload = closing(state.upload, deadline)
    later = replace(state.window, deadline=deadline)
    return replace(state, upload=upload, window=later), window(upload, deadline)


def keep_target(state: Receiving | Verifying, event: Signed) -> Next:
    """Keep the URL, unless it was signed for another deadline."""
    if event.until != state.window.deadline:
        return ignore()
    target = Target(event.url, event.headers, event.until)
    return replace(state, window=replace(state.window, target=target)), []


def check(state: Receiving | Verifying, *, final: bool) -> Next:
    """Look for a proof; after the deadline for the last time."""
    later = replace(state.window, round=state.window.round + 1)
    look_now = perform(Verify(state.upload.link, state.upload.size, later.round))
    verify = look_now.then(Verified).catch(Mismatch, "Mismatch").catch(EffectFailed)
    return Verifying(state.upload, state.epoch, later, final), [verify]


def disproved(state: Verifying, event: Mismatch) -> Next:
    """The claim of this round was not true: wait on, or give up."""
    match event.error.detail:
        case {"round": state.window.round} if state.final:
            upload, deadline = released(state.upload), state.window.deadline
            return Expired(upload, state.epoch, deadline), leave(state, event.at)
        case {"round": state.window.round}:
            return Receiving(state.upload, state.epoch, state.window), []
        case {"round": int()}:
            return ignore()
    return impossible()


def proved(event: Looked | Verified, upload: Upload) -> Next:
    """Refer to the bytes; its answer, in the same commit, makes the job *stored*."""
    if event.size != upload.size or event.checksum != upload.link.digest:
        return impossible()
    refer = perform(Refer(upload.link, event.size, event.checksum))
    return same(refer.then(Referred).catch(EffectFailed))


def failed(
    state: Allocating | Probing | Receiving | Verifying, error: Err, effects: Sequence[Effect]
) -> Next:
    return Failed(released(state.upload), state.epoch, error), effects


def released(upload: Upload) -> Upload:
    """The same, and no longer charged."""
    return replace(upload, charged=0, closes=0)


def closing(upload: Upload, deadline: int) -> Upload:
    """The same, with a URL that lives until the deadline."""
    return replace(upload, closes=max(upload.closes, deadline + upload.terms.skew_ms))


# --- effects ------------------------------------------------------------------------------------


def allocate(upload: Upload) -> Effect:
    """Reserve; or, for a reservation that is charged already, see that it is."""
    task = Allocate(upload.space, upload.reservation, upload.size, upload.charged)
    return perform(task).then(Allocated).catch(Exceed, "NoSpace").catch(EffectFailed)


def look(upload: Upload) -> Effect:
    """Hold the bytes, then see whether they are there."""
    hold = perform(Hold(upload.link)).catch(BlobDeleting, "Deleting")
    return hold.and_(perform(Stat(upload.link, upload.size))).then(Looked).catch(EffectFailed)


def window(upload: Upload, deadline: int) -> list[Effect]:
    """One deadline: the URL dies at it, the watch ends at it, the timer fires a margin later."""
    sign = perform(Presign(upload.link, upload.size, deadline), name="presign")
    watch = perform(Watch(upload.link, upload.size, deadline), name="watch")
    late = deadline + upload.terms.skew_ms
    timer = sleep(until=late, name="deadline", during=("receiving", "verifying"))
    return [
        sign.then(Signed).catch(EffectFailed),
        watch.then(Looked).catch(EffectFailed),
        timer.then(Expire),
    ]


def leave(state: Receiving | Verifying, at: int) -> list[Effect]:
    """Leave the window with nothing stored; the timer `deadline` ends with the state."""
    back = give_back(state, at, perform(Mark(state.upload.link)))
    return [cancel("watch"), back]


def give_back(state: Probing | Receiving | Verifying, at: int, *more: Effect) -> Effect:
    """Capacity and hold."""
    held = not isinstance(state, Probing) or state.held
    hold = [perform(Leave(state.upload.link))] if held else []
    return dealloc(state.upload, at, *hold, *more)


def remove(upload: Upload, at: int) -> Effect:
    """Capacity and reference. Nothing catches a failure: it waits for a person."""
    unlink, mark = perform(Unlink(upload.link)), perform(Mark(upload.link))
    return dealloc(upload, at, unlink, mark).then(Removed)


def recover(upload: Upload, at: int) -> list[Effect]:
    """The bytes are not what they were: give up the reference, keep the reservation, try again.

    What an agent may still upload is nothing that was asked for: first his URL has to be dead.
    """
    unlink, mark = perform(Unlink(upload.link)), perform(Mark(upload.link))
    alert = perform(Alert(Lost.tag, upload.space, upload.link))
    return [alert, closed(upload, at, unlink.and_(mark).and_(allocate(upload)))]


def dealloc(upload: Upload, at: int = 0, *more: Effect) -> Effect:
    """Give back what was charged, and then more; not before the last signed URL is dead."""
    back = perform(Deallocate(upload.space, upload.reservation, upload.charged))
    for effect in more:
        back = back.and_(effect)
    return closed(upload, at, back)


def closed(upload: Upload, at: int, effect: Effect) -> Effect:
    """The effect, once no URL can be used any more, whatever has become of the job by then."""
    return sleep(until=upload.closes, during=ANY).and_(effect) if at < upload.closes else effect


def gc_mark(upload: Upload) -> Effect:
    return perform(Mark(upload.link))


STORE_ADD: Final = Workflow(
    "store/add",
    state=(
        Idle,
        Allocating,
        Probing,
        Receiving,
        Verifying,
        Stored,
        Exceeded,
        Expired,
        Failed,
        Removing,
    ),
    events=(
        Add,
        Put,
        Cancel,
        Extend,
        Remove,
        Allocated,
        Exceed,
        Looked,
        Signed,
        Verified,
        Mismatch,
        Expire,
        EffectFailed,
        Referred,
        BlobDeleting,
        LookAgain,
        Removed,
        Lost,
    ),
    outside=(Add, Put, Cancel, Extend, Remove),
    tasks=(
        Allocate,
        Deallocate,
        Hold,
        Refer,
        Leave,
        Unlink,
        Mark,
        Stat,
        Presign,
        Watch,
        Verify,
        Alert,
    ),
    update=update,
    key=lambda event: (event.space, event.link.multihash),
    epoch="epoch",
)
