"""What a pool of workers shall be, and how it is changed: `plan` shows, `apply` swaps.

    head = await transactor.get(POOL.job("main"))
    changes = plan(head.state, wanted)                 # a dry run: nothing is written
    await transactor.send(POOL, Apply("main", wanted, on=head.state_cid))

A pool is a job whose state is its spec, so the spec has a CID: `on` names the one that the plan was
made on, and a pool that has changed since refuses with `Moved` (Nomad's `-check-index`). It says
what shall be; whoever starts processes reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Final, NamedTuple

from stmflow import CID, Workflow, reject, same

WORKERS: Final = 1_000
KINDS: Final = 256


@dataclass(frozen=True, slots=True)
class Kind:
    """So many workers for one type of task of one version, with these labels.

    `needs`: what a worker must offer, as `name=value`.
    """

    workflow: str
    version: int
    task: str
    workers: int
    needs: tuple[str, ...] = ()

    @property
    def name(self) -> tuple[str, int, str]:
        """Which kind: a pool lists it once."""
        return self.workflow, self.version, self.task


@dataclass(frozen=True, slots=True)
class Pool:
    """The spec: every kind of task that is performed in this pool."""

    name: str
    kinds: tuple[Kind, ...] = ()


@dataclass(frozen=True, slots=True)
class Apply:
    """Let the pool be this. `on`: the CID of the spec that was planned on; None: there is none."""

    tag: ClassVar[str] = "pool/apply"

    name: str
    spec: Pool
    on: CID | None = None


class Change(NamedTuple):
    """One line of a plan: `add`, `remove` or `change`; None where there is none."""

    what: str
    before: Kind | None
    after: Kind | None


def plan(before: Pool | None, after: Pool) -> list[Change]:
    """What `apply` would change, kind by kind; nothing is written."""
    old = {} if before is None else {kind.name: kind for kind in before.kinds}
    new = {kind.name: kind for kind in after.kinds}
    return [
        Change(_what(old.get(name), new.get(name)), old.get(name), new.get(name))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _what(before: Kind | None, after: Kind | None) -> str:
    if before is None:
        return "add"
    return "remove" if after is None else "change"


def flaws(spec: Pool) -> Iterator[str]:
    """Why a spec is refused; nothing where it is sound."""
    if len(spec.kinds) > KINDS:
        yield f"a pool has at most {KINDS} kinds"
    if len({kind.name for kind in spec.kinds}) < len(spec.kinds):
        yield "a kind is listed twice"
    for kind in spec.kinds:
        if kind.version < 1 or not 0 <= kind.workers <= WORKERS:
            yield f"{kind.task}: a version from 1 up and 0 to {WORKERS} workers"
        if any("=" not in need.strip("=") for need in kind.needs):
            yield f"{kind.task}: a need is name=value"


def update(event: Apply, state: Pool | None) -> Any:
    now = None if state is None else CID.of(POOL.state_bytes(state))
    if event.spec == state:
        return same()
    if event.on != now:
        return reject("Moved", {"now": now})
    if event.spec.name != event.name:
        return reject("InvalidSpec", {"why": ["the spec names another pool"]})
    if why := list(flaws(event.spec)):
        return reject("InvalidSpec", {"why": why})
    return event.spec, ()


POOL = Workflow("pool", state=Pool, events=(Apply,), outside=(Apply,), update=update, key=("name",))
