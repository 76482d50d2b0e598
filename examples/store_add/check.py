"""What is proved of store/add: S1 to S11 and L1 to L4, on the reducer that runs in production.

    stmflow check examples.store_add

The world is a bucket: which of the right bytes are there, since when, and when the last URL for
them dies. Whoever has a URL may upload until then. Attempts may fail, answers may be lost, workers
may go on after they lost their lease; the checker tries it all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from examples.store_add.model import (
    Add,
    Allocating,
    Cancel,
    Exceeded,
    Expired,
    Extend,
    Failed,
    Idle,
    Lost,
    Probing,
    Put,
    Receiving,
    Remove,
    Stored,
    Terms,
    Verifying,
)
from examples.store_add.quota import Profile, local, remote
from examples.store_add.workflow import STORE_ADD, Alert
from scheduler.handlers.allocate import (
    QUOTA,
    RESERVATION,
    Allocate,
    Deallocate,
    Granted,
    release,
    reserve,
)
from scheduler.handlers.gc import BLOB, Deleting, Live
from scheduler.handlers.s3 import Delete, Presign, Stat, Verify, Watch
from stmflow import CID, Err, Job, Sleep, Tx
from stmflow.check import (
    Alike,
    Check,
    Faults,
    Handler,
    Move,
    Property,
    Send,
    Told,
    Transact,
    View,
    always,
    at_rest,
    leads_to,
    sometimes,
    step,
)

SPACE: Final = "space"
SIZE: Final = 1
TERMS: Final = Terms(window_ms=10, skew_ms=5, longest_ms=20)
LINKS: Final = (CID.of(b"a", 0x55), CID.of(b"b", 0x55))
ACCOUNT: Final = QUOTA.job(SPACE)
JOBS: Final = tuple(STORE_ADD.job(SPACE, link.multihash) for link in LINKS)
BLOBS: Final = tuple(BLOB.job(link.multihash) for link in LINKS)

# --- the world ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Object:
    """`there`: the right bytes are in the bucket, since `landed`. `url`: when its last URL dies."""

    there: bool = False
    landed: int = 0
    url: int = 0


Bucket = tuple[Object, ...]
"""An object for each link."""

Results = Iterator[tuple[Any, Bucket]]

ABSENT: Final = {"found": False, "size": None, "checksum": None, "mismatch": False}


def object_of(task: Any, bucket: Bucket) -> Object:
    return bucket[LINKS.index(task.link)]


def changed(task: Any, bucket: Bucket, **how: Any) -> Bucket:
    at = LINKS.index(task.link)
    return (*bucket[:at], replace(bucket[at], **how), *bucket[at + 1 :])


def _found(link: CID) -> dict[str, Any]:
    return {"found": True, "size": SIZE, "checksum": link.digest, "mismatch": False}


def stat(task: Stat, bucket: Bucket) -> Results:
    yield (_found(task.link) if object_of(task, bucket).there else ABSENT), bucket
    yield Err("Exhausted"), bucket


def presign(task: Presign, bucket: Bucket) -> Results:
    url = max(object_of(task, bucket).url, task.until)
    yield {"url": "u", "headers": {}, "until": task.until}, changed(task, bucket, url=url)


def watch(task: Watch, bucket: Bucket, now: int) -> Results:
    if object_of(task, bucket).there:
        yield _found(task.link), bucket
    elif now >= task.until:
        yield ABSENT, bucket


def verify(task: Verify, bucket: Bucket) -> Results:
    if object_of(task, bucket).there:
        proof = {"size": SIZE, "checksum": task.link.digest, "round": task.round}
        yield {"verified": True, **proof}, bucket
    else:
        yield Err("Mismatch", {"round": task.round, **ABSENT}), bucket


def delete(task: Delete, bucket: Bucket, now: int, tx: Tx) -> Results:
    """As `sweeping` does it: only while the blob is *deleting*."""
    if isinstance(tx.read(BLOB.job(task.link.multihash)), Deleting):
        yield {"deleted": True}, changed(task, bucket, there=False, landed=0)
    else:
        yield Err("NotDeleting"), bucket


def alert(task: Alert, bucket: Bucket) -> Results:
    yield None, bucket


def upload(bucket: Bucket, now: int) -> Iterator[Bucket]:
    for at, each in enumerate(bucket):
        if not each.there and now < each.url:
            landed = replace(each, there=True, landed=now)
            yield (*bucket[:at], landed, *bucket[at + 1 :])


def allocate(task: Allocate, bucket: Bucket, now: int, tx: Tx) -> Results:
    """As the allocator does it, in a commit of its own."""
    yield reserve(tx, task, limit=SIZE), bucket


def deallocate(task: Deallocate, bucket: Bucket, now: int, tx: Tx) -> Results:
    yield release(tx, task), bucket


HANDLERS: Final[dict[type, Handler]] = {
    Stat: stat,
    Presign: presign,
    Watch: watch,
    Verify: verify,
    Delete: delete,
    Alert: alert,
    Allocate: allocate,
    Deallocate: deallocate,
}

# --- what must hold -----------------------------------------------------------------------------

PAYING: Final = (Probing, Receiving, Verifying, Stored)
ENDED: Final = (Idle, Stored, Exceeded, Expired, Failed)


def proofs(link: CID) -> list[Property]:
    """What must hold of the job of one link, in a space where it may be one of several."""
    at = LINKS.index(link)
    job, blob = JOBS[at], BLOBS[at]

    def state(view: View) -> Any:
        return view.state(job)

    def there(view: View) -> bool:
        return bool(view.world[at].there)

    def paid(view: View) -> bool:
        """While a URL lives, bytes may come, and the space has room for them."""
        return view.now >= view.world[at].url or used(view) >= SIZE

    def referred(view: View) -> bool:
        """At rest the bytes are held by nobody, and referred to by who stores them."""
        bytes_ = view.state(blob)
        counts = (bytes_.held, bytes_.references) if isinstance(bytes_, Live) else (0, 0)
        return counts == (0, int(isinstance(state(view), Stored)))

    def in_time(view: View) -> bool:
        """S6: bytes that are there and came before the deadline."""
        mine = view.world[at]
        return bool(mine.there and mine.landed < state(view).deadline)

    def armed(view: View) -> bool:
        """S8: the timer `deadline` waits exactly while it may pass."""
        now = state(view)
        wanted = isinstance(now, Receiving) or (isinstance(now, Verifying) and not now.final)
        timers = [task for task in view.open(job) if isinstance(task, Sleep)]
        return wanted == any(timer.name == "deadline" for timer in timers)

    def stale_is_void(before: View, action: Told, after: View) -> bool:
        return action.answer != "stale" or action.job != job or state(before) == state(after)

    def was_asked(before: View, action: Told, after: View) -> bool:
        asked = action.what not in ("perform", "fire") or action.job != job
        return asked or action.by in before.open(job)

    def final(before: View, action: Told, after: View) -> bool:
        left = isinstance(state(before), Stored) and not isinstance(state(after), Stored)
        return not left or isinstance(action.by, Remove) or action.by == AUDIT.label

    def tried_again(before: View, action: Told, after: View) -> bool:
        """L4: where there is room again, an add after a refusal is another try."""
        again = isinstance(state(before), Exceeded) and isinstance(action.by, Add)
        room = used(before) + SIZE <= SIZE
        return not (again and room and action.job == job) or not isinstance(state(after), Exceeded)

    return [
        always("S2 stored bytes are there", lambda v: not isinstance(state(v), Stored) or there(v)),
        always(
            "S3 what is stored is paid for",
            lambda v: not isinstance(state(v), Stored) or state(v).upload.charged == SIZE,
        ),
        always("S4 no URL lives that nobody pays for", paid),
        always(
            "S5 nothing expires before its deadline",
            lambda v: not isinstance(state(v), Expired) or v.now >= state(v).deadline,
        ),
        always(
            "S6 what came in time never expires",
            lambda v: not isinstance(state(v), Expired) or not in_time(v),
        ),
        always("S8 the deadline is armed while it may pass", armed),
        at_rest("L3 at rest the references are exact", referred),
        step("S7 a stale event changes nothing", stale_is_void),
        step("S9 what is performed was asked for", was_asked),
        step("S10 stored is final until it is removed or lost", final),
        step("L4 a refusal is no end where there is room", tried_again),
        leads_to(
            "L1 every try ends",
            lambda v: isinstance(state(v), (Allocating, Probing, Receiving, Verifying)),
            lambda v: isinstance(state(v), ENDED),
        ),
        leads_to(
            "L2 bytes that came in time are stored, or the try was given up",
            lambda v: (
                isinstance(state(v), (Receiving, Verifying))
                and there(v)
                and v.world[at].landed < state(v).window.deadline
            ),
            lambda v: isinstance(state(v), (Stored, Failed)),
        ),
        *(reached(job, kind) for kind in (Stored, Expired, Failed, Receiving, Verifying)),
    ]


def reached(job: Job, kind: type) -> Property:
    name = f"an upload is {kind.__name__.lower()}"
    return sometimes(name, lambda view: isinstance(view.state(job), kind))


def used(view: View) -> int:
    quota = view.state(ACCOUNT)
    return 0 if quota is None else quota.used


def own_quota() -> list[Property]:
    """Capacity that jobs themselves hold."""

    def accounted(view: View) -> bool:
        """What is used is charged to a job, or its return is asked for already."""
        charged: int = sum(state.upload.charged for state in states(view))
        return used(view) == charged + sum(task.charged for task in returns(view))

    return [always("S4 no capacity leaks", accounted)]


def reservations() -> list[Property]:
    """Capacity that an allocator keeps, by reservations."""

    def reserved(view: View) -> bool:
        stored = [state.upload for state in states(view) if isinstance(state, Stored)]
        sizes = granted(view)
        return all(sizes.get(upload.reservation) == upload.size for upload in stored)

    def owned(view: View) -> bool:
        """What is granted is what is used; it is somebody's, or its return is asked for already."""
        holders = (state for state in states(view) if isinstance(state, (Allocating, *PAYING)))
        owners = {state.upload.reservation for state in holders}
        asked = {task.reservation for task in returns(view)}
        sizes = granted(view)
        return used(view) == sum(sizes.values()) and sizes.keys() <= owners | asked

    return [
        always("S3 what is stored has its reservation", reserved),
        always("S4 no capacity leaks", owned),
    ]


def states(view: View) -> list[Any]:
    """Of each upload that there is."""
    return [state for job in JOBS if (state := view.state(job)) is not None]


def granted(view: View) -> dict[CID, int]:
    """Reservation → bytes of each that is granted."""
    found = view.states(RESERVATION.name).items()
    return {key[0]: one.size for key, one in found if isinstance(one, Granted)}


def returns(view: View) -> list[Deallocate]:
    """What was asked to be given back, and may not be yet."""
    return [task for job in JOBS for task in view.asked(job) if isinstance(task, Deallocate)]


def balanced(view: View) -> bool:
    """L3: at rest, what is used is what the living pay for."""
    return used(view) == sum(
        state.upload.size for state in states(view) if isinstance(state, PAYING)
    )


def model(
    name: str,
    profile: Profile,
    links: Sequence[CID],
    events: Callable[[CID], list[Send]],
    **how: Any,
) -> Check:
    """A check of the jobs of these links, which share one space that has room for one of them."""
    return Check(
        profile.workflows,
        name=name,
        transactional=profile.transactional,
        world=(Object(),) * len(links),
        at=100,
        bound=lambda view: view.now < 5_300,  # one pause of `LookAgain`, and then some
        moves=[Move("upload", upload)],
        sends=[send for link in links for send in events(link)],
        properties=[
            always("S1 what is used is within the limit", lambda view: used(view) <= SIZE),
            at_rest("L3 at rest the account is exact", balanced),
            *proofs(links[0]),
            *(reservations() if RESERVATION in profile.workflows else own_quota()),
        ],
        **{"faults": Faults(late=0), "handlers": HANDLERS, **how},
    )


def twice(link: CID) -> list[Send]:
    """Two tries, two claims."""
    add = Add(SPACE, link, SIZE, terms=TERMS)
    return [Send(add, 2), Send(Put(SPACE, link), 2)]


def everything(link: CID) -> list[Send]:
    """Those, given up or removed besides."""
    return [*twice(link), Send(Cancel(SPACE, link)), Send(Remove(SPACE, link))]


def rivals(link: CID) -> list[Send]:
    """Two tries of one, one try of the other."""
    return [Send(Add(SPACE, link, SIZE, terms=TERMS), 2 if link == LINKS[0] else 1)]


def longer(link: CID) -> list[Send]:
    """A try that asks for more time, once more than it gets."""
    add = Add(SPACE, link, SIZE, terms=TERMS)
    return [Send(add, 2), Send(Put(SPACE, link)), Send(Extend(SPACE, link), 2)]


def asked_late(link: CID) -> list[Send]:
    """One try that asks for more time, perhaps when there is none left."""
    return [*single(link), Send(Extend(SPACE, link), 2)]


def tried(link: CID) -> list[Send]:
    """One try, and a claim."""
    return [*single(link), Send(Put(SPACE, link))]


def traded(bucket: Bucket, one: int, other: int) -> Bucket:
    """The bucket, once two links have traded places."""
    places = list(bucket)
    places[one], places[other] = bucket[other], bucket[one]
    return tuple(places)


def single(link: CID) -> list[Send]:
    """One try."""
    return [Send(Add(SPACE, link, SIZE, terms=TERMS))]


def audit(tx: Tx) -> None:
    """An audit does not find what is stored."""
    if isinstance(tx.read(JOBS[0]), Stored):
        tx.apply(JOBS[0], Lost())


AUDIT: Final = Transact("audit", audit)


def failing(handler: Handler) -> Handler:
    """Any attempt may be the last that is made."""

    def fails(task: Any, bucket: Bucket, now: int) -> Results:
        takes = (task, bucket, now) if handler is watch else (task, bucket)
        yield from handler(*takes)
        yield Err("Exhausted"), bucket

    return fails


FAILING: Final = {each: failing(HANDLERS[each]) for each in (Presign, Watch, Verify)}

OVERDUE: Final = Faults(late=0, overdue=True)

CHECKS: Final = (
    model("store/add, its quota in the same store", local(limit=SIZE), LINKS[:1], everything),
    model(
        "store/add, an allocator of its own, and workers that come late",
        remote(limit=SIZE),
        LINKS[:1],
        twice,
        faults=Faults(late=1),
    ),
    model("store/add, with more time", remote(limit=SIZE), LINKS[:1], longer),
    model(
        "store/add, with more time, and timers that are overdue",
        local(limit=SIZE),
        LINKS[:1],
        asked_late,
        faults=OVERDUE,
    ),
    model(
        "store/add, whose tasks fail",
        remote(limit=SIZE),
        LINKS[:1],
        tried,
        handlers={**HANDLERS, **FAILING},
        faults=OVERDUE,
    ),
    model(
        "store/add, not found by an audit",
        local(limit=SIZE),
        LINKS[:1],
        single,
        transactions=[AUDIT],
        faults=OVERDUE,
    ),
    model("store/add, two that compete for room", remote(limit=SIZE), LINKS, rivals),
    model(
        "store/add, two that are alike, and claim",
        remote(limit=SIZE),
        LINKS,
        tried,
        symmetric=[Alike([tried(link) for link in LINKS], traded)],
    ),
)
