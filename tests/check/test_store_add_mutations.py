"""Bugs planted in store/add and in its world: each is found, and its shortest trace is what the
engine does too. Run with `-s` to read them: mutation, property, steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from examples.store_add import check as proofs
from examples.store_add import workflow as table
from examples.store_add.check import LINKS, SIZE, SPACE, TERMS, everything, longer, model, twice
from examples.store_add.model import (
    Add,
    Allocated,
    Allocating,
    Cancel,
    EffectFailed,
    Exceed,
    Expire,
    Expired,
    Failed,
    Looked,
    Mismatch,
    Put,
    Receiving,
    Referred,
    Stored,
    Verifying,
)
from examples.store_add.quota import local, remote
from examples.store_add.workflow import STORE_ADD
from scheduler.handlers import gc
from scheduler.handlers.allocate import (
    QUOTA,
    RESERVATION,
    Allocate,
    Deallocate,
    Give,
    Grant,
    Take,
)
from scheduler.handlers.s3 import Delete, Stat, Verify
from stmflow import ANY, CID, Err, cancel, ignore, perform, sleep
from stmflow.check import Check, Faults, Send, prove, replay, words

Update = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Mutation:
    """A bug: another answer of the table, a part of it replaced, or another world."""

    name: str
    caught: str
    answer: Callable[[Any, Any, Update], Any] | None = None
    patch: dict[str, Any] = field(default_factory=dict)
    world: dict[type, Any] = field(default_factory=dict)
    sends: Callable[[CID], list[Send]] = twice
    quota: Any = remote
    how: dict[str, Any] = field(default_factory=dict)
    epochs: bool = True

    def check(self, monkeypatch: pytest.MonkeyPatch) -> Check:
        for name, value in self.patch.items():
            monkeypatch.setattr(table, name, value)
        profile = self.quota(limit=SIZE)
        if self.answer is not None:
            profile = replace(profile, workflows=(self._mutant(), *profile.workflows[1:]))
        found = model(self.name, profile, LINKS[:1], self.sends, **self.how)
        return replace(found, handlers={**found.handlers, **self.world})

    def _mutant(self) -> Any:
        answer, update = self.answer, STORE_ADD.update
        assert answer is not None
        mutant = copy(STORE_ADD)
        mutant.update = lambda event, state: answer(event, state, update)
        if not self.epochs:
            mutant._epoch = None
        return mutant


def given(event: type | tuple[type, ...], state: Any, answer: Callable[[Any, Any], Any]) -> Any:
    """One cell of the table, or a few, answered otherwise."""

    def update(one: Any, now: Any, original: Update) -> Any:
        meant = isinstance(one, event) and (
            now is None if state is None else isinstance(now, state)
        )
        return answer(one, now) if meant else original(one, now)

    return update


def again(link: CID) -> list[Send]:
    """Two tries, without a claim."""
    return [Send(Add(SPACE, link, SIZE, terms=TERMS), 2)]


def given_up(link: CID) -> list[Send]:
    """Two tries, one of them given up."""
    return [*again(link), Send(Cancel(SPACE, link))]


def stored(event: Any, state: Any) -> Any:
    return Stored(state.upload, state.epoch, state.upload.link.digest), []


# --- the world ----------------------------------------------------------------------------------


def forgetful(task: Allocate, bucket: Any, now: int, tx: Any) -> Iterator[Any]:
    """An allocator that takes room each time it is asked."""
    if tx.apply(QUOTA.job(task.space), Take(task.size, 2 * SIZE)).kind == "rejected":
        yield Err("NoSpace"), bucket
        return
    if tx.read(RESERVATION.job(task.reservation)) is None:
        tx.apply(RESERVATION.job(task.reservation), Grant(task.space, task.size))
    yield {"reservation": task.reservation, "size": task.size}, bucket


def moody(task: Allocate, bucket: Any, now: int, tx: Any) -> Iterator[Any]:
    """An allocator that does not remember a refusal."""
    mine = RESERVATION.job(task.reservation)
    if tx.read(mine) is None:
        if tx.apply(QUOTA.job(task.space), Take(task.size, SIZE)).kind == "rejected":
            yield Err("NoSpace"), bucket
            return
        tx.apply(mine, Grant(task.space, task.size))
    yield {"reservation": task.reservation, "size": task.size}, bucket


def by_size(task: Deallocate, bucket: Any, now: int, tx: Any) -> Iterator[Any]:
    """Room is given back by its size, whoever held it."""
    tx.apply(QUOTA.job(task.space), Give(min(SIZE, tx.read(QUOTA.job(task.space)).used)))
    yield {"reservation": task.reservation, "size": SIZE}, bucket


def hasty(task: Delete, bucket: Any, now: int) -> Iterator[Any]:
    """Deletes without looking whether it still should."""
    yield {"deleted": True}, proofs.changed(task, bucket, there=False, landed=0)


def blind(task: Verify, bucket: Any) -> Iterator[Any]:
    """Believes what it is told."""
    proof = {"size": SIZE, "checksum": task.link.digest, "round": task.round}
    yield {"verified": True, **proof}, bucket


def hopeful(task: Stat, bucket: Any) -> Iterator[Any]:
    """Finds what is not there."""
    found = {"found": True, "size": SIZE, "checksum": task.link.digest, "mismatch": False}
    yield found, bucket


def long_lived(task: Any, bucket: Any) -> Iterator[Any]:
    """Signs URLs that outlive the margin."""
    until = task.until + 2 * TERMS.skew_ms
    yield {"url": "u", "headers": {}, "until": task.until}, proofs.changed(task, bucket, url=until)


# --- the table ----------------------------------------------------------------------------------


def no_epochs(event: Any, state: Any, update: Update) -> Any:
    return update(event, state)


def one_reservation(event: Add, epoch: int) -> Any:
    """Every try under the reservation of the first."""
    reservation = STORE_ADD.job(event.space, event.link.multihash, 1).id
    upload = table.Upload(
        event.space, event.link, event.size, event.agent, event.cause, event.terms, reservation
    )
    return Allocating(upload, epoch + 1), [table.allocate(upload)]


def no_hold(upload: Any) -> Any:
    return perform(Stat(upload.link, upload.size)).then(Looked).catch(EffectFailed)


WINDOW = table.window


def no_timer(upload: Any, deadline: int) -> Any:
    """A later deadline, and the timer of the first."""
    sign, watch, timer = WINDOW(upload, deadline)
    return [sign, watch, timer] if deadline < 100 + 15 else [sign, watch]


MUTATIONS = [
    Mutation(
        "the epoch of an outcome is not compared",
        "no impossible cell",
        answer=no_epochs,
        epochs=False,
        quota=local,
    ),
    Mutation("a claim is believed", "S2", answer=given(Put, Receiving, stored)),
    Mutation(
        "a claim is taken before there is room",
        "S2",
        answer=given(Put, Allocating, stored),
    ),
    Mutation(
        "nothing is given back on failure", "S4", patch={"leave": lambda s, at: [cancel("watch")]}
    ),
    Mutation(
        "nothing is given back when a try is given up early",
        "S4",
        answer=given(Cancel, Allocating, lambda e, s: (Failed(s.upload, s.epoch, Err("C")), [])),
        sends=everything,
    ),
    Mutation(
        "room is given back while a URL lives",
        "S4 no URL",
        patch={"closed": lambda u, at, e: e},
        sends=given_up,
    ),
    Mutation(
        "the last look is left out",
        "S6",
        answer=given(
            Expire,
            Receiving,
            lambda e, s: (
                Expired(table.released(s.upload), s.epoch, s.window.deadline),
                table.leave(s, e.at),
            ),
        ),
    ),
    Mutation(
        "a look before the deadline counts as the last",
        "S5",
        answer=given(
            Mismatch,
            Verifying,
            lambda e, s: (
                Expired(table.released(s.upload), s.epoch, s.window.deadline),
                table.leave(s, e.at),
            ),
        ),
    ),
    Mutation(
        "the deadline is forgotten while a claim is checked",
        "S8",
        answer=given(Expire, Verifying, lambda e, s: ignore()),
    ),
    Mutation(
        "the timer outlives the window",
        "S8",
        patch={"sleep": lambda **how: sleep(**{**how, "during": ANY})},
    ),
    Mutation(
        "the timer ends when a claim comes",
        "S8",
        patch={
            "sleep": lambda **how: sleep(
                **{**how, **({"during": ("receiving",)} if how.get("name") == "deadline" else {})}
            )
        },
    ),
    Mutation(
        "every try has the same reservation", "S4 no URL", patch={"try_again": one_reservation}
    ),
    Mutation("the bytes are not held", "no impossible cell", patch={"look": no_hold}),
    Mutation(
        "the reference is kept when the upload is removed",
        "L3 at rest the references",
        patch={
            "remove": lambda u, at: table.dealloc(u, at, perform(gc.Mark(u.link))).then(
                table.Removed
            )
        },
        sends=everything,
        quota=local,
    ),
    Mutation(
        "room is kept when the upload is removed",
        "S4",
        patch={
            "remove": lambda u, at: (
                perform(gc.Unlink(u.link)).and_(perform(gc.Mark(u.link))).then(table.Removed)
            )
        },
        sends=everything,
        quota=local,
    ),
    Mutation(
        "what is charged is not written down",
        "S4",
        answer=given(
            Allocated,
            Allocating,
            lambda e, s: (table.Probing(s.upload, s.epoch), [table.look(s.upload)]),
        ),
        quota=local,
    ),
    Mutation(
        "a wish that is repeated begins another try",
        "S4",
        answer=given(Add, Receiving, lambda e, s: table.try_again(e, s.epoch)),
    ),
    Mutation(
        "a wish for what is stored begins another try",
        "S4",
        answer=given(Add, Stored, lambda e, s: table.try_again(e, s.epoch)),
    ),
    Mutation(
        "a refusal is not heard",
        "L1",
        answer=given(Exceed, Allocating, lambda e, s: ignore()),
        quota=local,
        sends=given_up,
    ),
    Mutation(
        "found or not is all the same",
        "L3 at rest the references",
        answer=given((Looked,), Receiving, stored),
    ),
    Mutation(
        "more time moves the deadline and not the timer",
        "S8",
        patch={"window": no_timer},
        sends=longer,
    ),
    Mutation(
        "a failed task is ignored",
        "L3 at rest the references",
        answer=given(EffectFailed, (Allocating, table.Probing), lambda e, s: ignore()),
    ),
    Mutation(
        "a reference that is answered is not stored",
        "no impossible cell",
        answer=given(Referred, (table.Probing, Receiving, Verifying), lambda e, s: ignore()),
    ),
    Mutation("an allocator takes room twice", "S1", world={Allocate: forgetful}),
    Mutation(
        "a refusal is less sticky than a grant",
        "S4",
        world={Allocate: moody},
        sends=given_up,
        how={"faults": Faults(late=1)},
    ),
    Mutation("room is given back by its size", "S4", world={Deallocate: by_size}),
    Mutation(
        "a worker that comes late deletes",
        "S2",
        world={Delete: hasty},
        sends=again,
        how={"faults": Faults(late=1)},
    ),
    Mutation("a proof is not looked for", "S2", world={Verify: blind}),
    Mutation("a look finds what is not there", "S2", world={Stat: hopeful}),
    Mutation("a URL outlives its margin", "S4 no URL", world={proofs.Presign: long_lived}),
]


async def caught(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    check = mutation.check(monkeypatch)
    report = prove(check)
    assert report.wrong, f"{mutation.name}: not caught"
    wrong = report.wrong[0]
    lines = words(report.graph, wrong)
    print(f"\n{mutation.name}: {wrong.property}, {len(lines)} steps")
    assert wrong.property.startswith(mutation.caught)
    played = await replay(check, lines)
    assert played.breaks(wrong.property), played


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: m.name)
async def test_it_is_caught_and_its_trace_replays(
    mutation: Mutation, monkeypatch: pytest.MonkeyPatch
) -> None:
    await caught(mutation, monkeypatch)
