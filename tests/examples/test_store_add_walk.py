"""Random walks over several store/add jobs that share quotas, blobs and one bucket.

The model knows nothing but a bucket and the URLs that were signed. Every rule is something that the
world may do; what must hold then is written down as invariants, numbered as in the specification.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from examples.store_add.model import Add, Cancel, Extend, Lost, Put, Remove, Terms
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
from scheduler.handlers.gc import BLOB, Leave, Live, Unlink
from scheduler.handlers.s3 import Delete, Presign, Stat, Verify, Watch
from stmflow import CID, Err
from stmflow.testing import Trace

TERMS = Terms(window_ms=10_000, skew_ms=2_000, longest_ms=25_000)
LIMIT = 9
SIZE = 5
ONE, TWO = CID.of(b"one"), CID.of(b"two")
ASKED = [("did:key:zAlice", ONE), ("did:key:zAlice", TWO), ("did:key:zBob", ONE)]
PAYING = {"probing", "receiving", "verifying", "stored"}
RESTING = {None, "idle", "stored", "exceeded", "expired", "failed"}

whose = st.integers(0, len(ASKED) - 1)
which = st.integers(0, 50)


class Walk(RuleBasedStateMachine):
    """One world: a few jobs, one bucket, whatever happens."""

    remote: bool

    @initialize()
    def begin(self) -> None:
        profile: Profile = (remote if self.remote else local)(limit=LIMIT)
        world = Trace(STORE_ADD, others=profile.workflows[1:], transactional=profile.transactional)
        self.jobs = [world.job(STORE_ADD.job(space, link.multihash)) for space, link in ASKED]
        self.blobs = {link: world.job(BLOB.job(link.multihash)) for link in (ONE, TWO)}
        self.bucket: dict[CID, int] = {}
        self.urls: list[tuple[CID, int]] = []
        self.flying: list[tuple[Trace, CID, Any]] = []
        self.decided: dict[CID, Any] = {}
        self.seen = [0] * len(self.jobs)
        self.add(0)

    @property
    def now(self) -> int:
        return self.jobs[0].now

    # --- what callers do

    @rule(n=whose)
    def add(self, n: int) -> None:
        self.jobs[n].send(Add(*ASKED[n], SIZE, terms=TERMS))

    @rule(n=whose, kind=st.sampled_from([Put, Put, Cancel, Extend, Remove]))
    def ask(self, n: int, kind: type) -> None:
        self.jobs[n].send(kind(*ASKED[n]))

    @precondition(lambda self: self.usable())
    @rule(n=which)
    def upload(self, n: int) -> None:
        """Use a URL, were it somebody else's; the server writes once and not after its end."""
        urls = self.usable()
        self.bucket[urls[n % len(urls)]] = self.now

    # --- what handlers do

    @precondition(lambda self: self.waiting())
    @rule(n=which)
    def work(self, n: int) -> None:
        """Run a handler; its outcome arrives at once."""
        self.start(n)
        if self.flying:
            self.arrive(*self.flying.pop())

    @precondition(lambda self: self.waiting())
    @rule(n=which)
    def start(self, n: int) -> None:
        """Run a handler; its outcome is under way. It may run again before that has arrived."""
        waiting = self.waiting()
        job, task_id, task = waiting[n % len(waiting)]
        outcome = self.outcome(task_id, task)
        if outcome is not ...:
            self.flying.append((job, task_id, outcome))

    @precondition(lambda self: self.flying)
    @rule(n=which, again=st.booleans())
    def deliver(self, n: int, again: bool) -> None:
        """An outcome arrives, in any order; perhaps not for the last time."""
        flight = self.flying[n % len(self.flying)]
        self.arrive(*flight)
        if not again:
            self.flying.remove(flight)

    @precondition(lambda self: self.mortal())
    @rule(n=which, done=st.booleans())
    def give_up(self, n: int, done: bool) -> None:
        """Retries are used up: what was asked for may have been done all the same."""
        mortal = self.mortal()
        job, task_id, task = mortal[n % len(mortal)]
        if done:
            self.outcome(task_id, task)
        job.fail(task_id, "Exhausted")

    # --- what time and chance do

    @rule(seconds=st.sampled_from([1, 1, 5, 9, 12]), late=st.booleans())
    def wait(self, seconds: int, late: bool) -> None:
        self.jobs[0].pass_time(seconds=seconds, late=late)

    @precondition(lambda self: self.due())
    @rule(n=which)
    def fire(self, n: int) -> None:
        due = self.due()
        job, name = due[n % len(due)]
        job.fire(name)

    @precondition(lambda self: self.bucket)
    @rule(n=which)
    def lose(self, n: int) -> None:
        """The bucket loses bytes, and an audit finds that out."""
        link = sorted(self.bucket)[n % len(self.bucket)]
        del self.bucket[link]
        self.flying = [flight for flight in self.flying if not claims(flight[2], link)]
        for job, (space, asked) in zip(self.jobs, ASKED, strict=True):
            if asked == link and job.tag == "stored":
                which_job = STORE_ADD.job(space, asked.multihash)
                job.transact(lambda tx, lost=which_job: tx.apply(lost, Lost()))  # type: ignore[misc]

    # --- the model of the outside

    def usable(self) -> list[CID]:
        alive = {link for link, until in self.urls if self.now < until}
        return sorted(alive - set(self.bucket))

    def mortal(self) -> list[tuple[Trace, CID, Any]]:
        """Tasks that may fail for good; the others are repeated until they are done."""
        never = (Deallocate, Delete, Alert)
        return [waiting for waiting in self.waiting() if not isinstance(waiting[2], never)]

    def due(self) -> list[tuple[Trace, str | None]]:
        timers = [(job, timer) for job in self.jobs for timer in job.timers]
        return [(job, timer.name) for job, timer in timers if timer.due <= self.now]

    def waiting(self) -> list[tuple[Trace, CID, Any]]:
        return [
            (job, task_id, task)
            for job in (*self.jobs, *self.blobs.values())
            for task_id, task in job.outbox.items()
        ]

    def outcome(self, task_id: CID, task: Any) -> Any:
        """What performing the task gives now; `...` while it would still wait."""
        match task:
            case Stat(link, size):
                return self.look(link, size)
            case Watch(link, size, until):
                return self.look(link, size) if link in self.bucket or self.now >= until else ...
            case Verify(link, size, round) if link in self.bucket:
                return {"verified": True, "size": size, "checksum": link.digest, "round": round}
            case Verify(link, size, round):
                return Err("Mismatch", {"round": round, **self.look(link, size)})
            case Presign(link, _, until):
                return self.sign(link, until)
            case Allocate():
                return self.decide(task_id, lambda tx: reserve(tx, task, limit=LIMIT))
            case Deallocate():
                self.jobs[0].transact(lambda tx: release(tx, task))
                return {"reservation": task.reservation, "size": task.charged}
            case Delete(link):
                self.bucket.pop(link, None)
                return {"deleted": True}
            case Alert():
                return None
        raise AssertionError(task)

    def look(self, link: CID, size: int) -> dict[str, Any]:
        if link in self.bucket:
            return {"found": True, "size": size, "checksum": link.digest, "mismatch": False}
        return {"found": False, "size": None, "checksum": None, "mismatch": False}

    def sign(self, link: CID, until: int) -> Any:
        if until - self.now < 1_000:
            return Err("TooLate", {"until": until})
        self.urls.append((link, until))
        return {"url": f"https://s3.test/{until}", "headers": {}, "until": until}

    def decide(self, task_id: CID, body: Any) -> Any:
        """An allocator's answer, which must be the same however often it is asked."""
        outcome = self.jobs[0].transact(body)
        first = self.decided.setdefault(task_id, outcome)
        released = isinstance(outcome, Err) and outcome.name == "Released"
        assert outcome == first or released
        return outcome

    def arrive(self, job: Trace, task_id: CID, outcome: Any) -> None:
        if isinstance(outcome, Err):
            job.fail(task_id, outcome.name, outcome.detail)
        else:
            job.succeed(task_id, outcome)

    # --- what must hold, always

    @invariant()
    def s1_no_space_is_oversold(self) -> None:
        for space in {space for space, _ in ASKED}:
            assert self.used(space) <= LIMIT

    @invariant()
    def the_ledger_is_balanced(self) -> None:
        for space in {space for space, _ in ASKED}:
            jobs = [job for job, (s, _) in zip(self.jobs, ASKED, strict=True) if s == space]
            if self.remote:
                booked = sum(g.size for job in jobs for _, g in self.granted(job))
            else:
                booked = sum(job.state.upload.charged for job in jobs if job.tag is not None)
                booked += sum(t.charged for job in jobs for t in unsettled(job, Deallocate))
            assert self.used(space) == booked

    @invariant()
    def s2_stored_bytes_are_there(self) -> None:
        for job, (_, link) in zip(self.jobs, ASKED, strict=True):
            assert job.tag != "stored" or link in self.bucket

    @invariant()
    def s3_s4_reservations_belong_to_a_try_or_are_on_their_way_back(self) -> None:
        for job in self.jobs:
            granted = dict(self.granted(job)) if self.remote else {}
            back = {task.reservation for task in unsettled(job, Deallocate)}
            mine = {job.state.upload.reservation} if job.tag in PAYING | {"allocating"} else set()
            assert set(granted) <= mine | back
            if self.remote and job.tag == "stored":
                assert mine <= set(granted)
            if job.tag in PAYING:
                assert job.state.upload.charged == SIZE

    @invariant()
    def blobs_count_right(self) -> None:
        for link, blob in self.blobs.items():
            jobs = [job for job, (_, asked) in zip(self.jobs, ASKED, strict=True) if asked == link]
            held = [job for job in jobs if job.tag in ("receiving", "verifying")]
            held += [job for job in jobs if job.tag == "probing" and job.state.held]
            leaving = [task for job in jobs for task in unsettled(job, Leave)]
            stored = [job for job in jobs if job.tag == "stored"]
            unlinking = [task for job in jobs for task in unsettled(job, Unlink)]
            live = isinstance(blob.state, Live)
            assert (blob.state.held if live else 0) == len(held) + len(leaving)
            assert (blob.state.references if live else 0) == len(stored) + len(unlinking)

    @invariant()
    def s5_s6_s10_history_is_lawful(self) -> None:
        for n, job in enumerate(self.jobs):
            history = job.history
            for at in range(self.seen[n], len(history)):
                before, past = history[at - 1] if at else None, history[at]
                if past.tag == "expired" and (before is None or before.tag != "expired"):
                    deadline = past.state.deadline
                    assert past.at >= deadline + TERMS.skew_ms
                    assert self.bucket.get(ASKED[n][1], past.at) > deadline
                if before is not None and before.tag == "stored" and past.tag != "stored":
                    fresh = past.epoch == before.epoch + 1
                    assert past.tag in ("removing", "idle") or fresh
            self.seen[n] = len(history)

    @invariant()
    def s8_the_deadline_is_armed_where_bytes_are_waited_for(self) -> None:
        for job in self.jobs:
            armed = [timer.due for timer in job.timers if timer.name == "deadline"]
            waits = job.tag == "receiving" or (job.tag == "verifying" and not job.state.final)
            assert armed == ([job.state.window.deadline + TERMS.skew_ms] if waits else [])
            watches = unsettled(job, Watch)
            assert len(watches) <= (job.tag in ("receiving", "verifying"))

    @invariant()
    def s11_nothing_impossible_happens(self) -> None:
        assert self.jobs[0].alarms == []
        for job in (*self.jobs, *self.blobs.values()):
            assert job.parked == []

    # --- what must hold in the end

    def teardown(self) -> None:
        if not hasattr(self, "jobs"):
            return
        self.heal()
        for job, (_, link) in zip(self.jobs, ASKED, strict=True):
            assert job.tag in RESTING
            assert job.ready == []
            assert job.tag != "stored" or link in self.bucket
        for space in {space for space, _ in ASKED}:
            jobs = [job for job, (s, _) in zip(self.jobs, ASKED, strict=True) if s == space]
            assert self.used(space) == SIZE * sum(job.tag == "stored" for job in jobs)
        for link, blob in self.blobs.items():
            owned = isinstance(blob.state, Live) and blob.state.references > 0
            assert (link in self.bucket) == owned

    def heal(self) -> None:
        """Every handler works and every timer fires, until nothing is left to do."""
        for _ in range(500):
            for flight in self.flying:
                self.arrive(*flight)
            self.flying = []
            for job, task_id, task in self.waiting():
                outcome = self.outcome(task_id, task)
                if outcome is not ...:
                    self.flying.append((job, task_id, outcome))
            if not self.flying:
                due = [timer.due for job in self.jobs for timer in job.timers]
                due += [w[2].until for w in self.waiting() if isinstance(w[2], Watch)]
                if not due:
                    return
                self.jobs[0].pass_time(until=max(min(due), self.now))
            self.s1_no_space_is_oversold()
            self.the_ledger_is_balanced()
            self.s5_s6_s10_history_is_lawful()
            self.s11_nothing_impossible_happens()
        raise AssertionError("it does not come to rest")

    # --- looking

    def used(self, space: str) -> int:
        quota = self.jobs[0].job(QUOTA.job(space)).state
        return 0 if quota is None else quota.used

    def granted(self, job: Trace) -> list[tuple[CID, Granted]]:
        """The live reservations of all tries of a job."""
        ids = {past.state.upload.reservation for past in job.history}
        states = [(each, job.job(RESERVATION.job(each)).state) for each in ids]
        return [(each, state) for each, state in states if isinstance(state, Granted)]


def unsettled(job: Trace, kind: type) -> list[Any]:
    return [task for task in job.unsettled if type(task) is kind]


def claims(outcome: Any, link: CID) -> bool:
    """Whether an outcome under way tells of these bytes."""
    return isinstance(outcome, dict) and outcome.get("checksum") == link.digest


class LocalWalk(Walk):
    remote = False


class RemoteWalk(Walk):
    remote = True


FEW = settings(max_examples=40, stateful_step_count=40)
LocalWalk.TestCase.settings = FEW
RemoteWalk.TestCase.settings = FEW
TestWithALocalQuota = LocalWalk.TestCase
TestWithAnAllocator = RemoteWalk.TestCase


# --- longer walks, weighted so that they get somewhere ------------------------------------------

SEEDS = 30
STEPS = 60
KINDS = [Put, Put, Cancel, Extend, Remove]


def steps(walk: Walk, random: Random) -> list[tuple[float, Callable[[], None]]]:
    """What can be done now, each with its weight."""
    n, whom = random.randrange(51), random.randrange(len(ASKED))
    done, late, again = (random.random() < 0.5 for _ in range(3))
    return [
        (3, lambda: walk.add(whom)),
        (2, lambda: walk.ask(whom, random.choice(KINDS))),
        (3, lambda: walk.wait(random.choice([1, 1, 5, 9, 12]), late)),
        (3 * bool(walk.usable()), lambda: walk.upload(n)),
        (9 * bool(walk.waiting()), lambda: walk.work(n)),
        (3 * bool(walk.waiting()), lambda: walk.start(n)),
        (5 * bool(walk.flying), lambda: walk.deliver(n, again)),
        (0.7 * bool(walk.mortal()), lambda: walk.give_up(n, done)),
        (3 * bool(walk.due()), lambda: walk.fire(n)),
        (0.4 * bool(walk.bucket), lambda: walk.lose(n)),
    ]


INVARIANTS = (
    Walk.s1_no_space_is_oversold,
    Walk.the_ledger_is_balanced,
    Walk.s2_stored_bytes_are_there,
    Walk.s3_s4_reservations_belong_to_a_try_or_are_on_their_way_back,
    Walk.blobs_count_right,
    Walk.s5_s6_s10_history_is_lawful,
    Walk.s8_the_deadline_is_armed_where_bytes_are_waited_for,
    Walk.s11_nothing_impossible_happens,
)


def stroll(kind: type[Walk], seed: int) -> set[str]:
    """One walk to its end: the tags of all states and events on its way."""
    random, walk = Random(seed), kind()
    walk.begin()
    for _ in range(STEPS):
        weights, choices = zip(*steps(walk, random), strict=True)
        random.choices(choices, weights)[0]()
        for holds in INVARIANTS:
            holds(walk)
    Walk.teardown(walk)
    past = [past for job in walk.jobs for past in job.history]
    return {each.tag for each in past} | {event.tag for each in past for event in each.events}


@pytest.mark.parametrize("kind", [LocalWalk, RemoteWalk])
def test_walks_of_many_seeds_hold_and_miss_nothing(kind: type[Walk], seed: int | None) -> None:
    seen: set[str] = set()
    for each in range(SEEDS) if seed is None else [seed]:
        try:
            seen |= stroll(kind, each)
        except Exception as error:
            error.add_note(f"--seed {each}")
            raise
    everything = {*STORE_ADD._states, *STORE_ADD._events} - {"allocating"}
    assert seed is not None or everything <= seen
