"""The workflows that the benchmarks run: a short store/add, a counter, a sleeper."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from scheduler import Context, Handler
from stmflow import CID, Err, Workflow, ignore, perform, sleep


@dataclass(frozen=True, slots=True)
class Allocate:
    """Reserve space."""

    space: str
    size: int


@dataclass(frozen=True, slots=True)
class Stat:
    """Look for the bytes."""

    link: CID
    size: int


@dataclass(frozen=True, slots=True)
class Presign:
    """Sign an upload URL."""

    link: CID
    size: int


@dataclass(frozen=True, slots=True)
class Add:
    """The outside event."""

    space: str
    link: CID
    size: int


@dataclass(frozen=True, slots=True)
class Allocated:
    """Space is reserved."""


@dataclass(frozen=True, slots=True)
class Probed:
    """What the stat found."""

    found: bool


@dataclass(frozen=True, slots=True)
class Signed:
    """The URL."""

    url: str


@dataclass(frozen=True, slots=True)
class Failed:
    """Any failure."""

    error: Err


@dataclass(frozen=True, slots=True)
class Upload:
    """The state."""

    space: str
    link: CID
    size: int
    status: str
    url: str | None = None


def _update(event: Any, upload: Upload | None) -> Any:
    match event, upload:
        case Add(space, link, size), None:
            allocate = perform(Allocate(space, size)).then(Allocated).catch(Failed)
            return Upload(space, link, size, "allocating"), [allocate]
        case Allocated(), Upload(status="allocating"):
            stat = perform(Stat(upload.link, upload.size)).then(Probed).catch(Failed)
            return replace(upload, status="probing"), [stat]
        case Probed(found=False), Upload(status="probing"):
            presign = perform(Presign(upload.link, upload.size)).then(Signed).catch(Failed)
            return replace(upload, status="signing"), [presign]
        case Signed(url), Upload(status="signing"):
            return replace(upload, status="receiving", url=url), []
        case Failed(), Upload():
            return replace(upload, status="failed"), []
    return ignore()


short_add = Workflow(
    "bench/add",
    state=Upload,
    events=(Add, Allocated, Probed, Signed, Failed),
    outside=(Add,),
    tasks=(Allocate, Stat, Presign),
    update=_update,
    key=("space", "link"),
    tag="status",
)


async def allocate(task: Allocate, context: Context) -> None:
    """Returns at once."""


async def stat(task: Stat, context: Context) -> bool:
    """Returns at once: absent."""
    return False


async def presign(task: Presign, context: Context) -> str:
    """Returns at once."""
    return "https://bucket.example/" + context.key.digest.hex()


HANDLERS: dict[type[Any], Handler] = {Allocate: allocate, Stat: stat, Presign: presign}


@dataclass(frozen=True, slots=True)
class Increment:
    """Count one more."""

    name: str


@dataclass(frozen=True, slots=True)
class Count:
    """How many so far."""

    value: int


counter = Workflow(
    "bench/counter",
    state=Count,
    events=(Increment,),
    outside=(Increment,),
    update=lambda event, count: (Count(count.value + 1 if count else 1), ()),
    key=("name",),
)


@dataclass(frozen=True, slots=True)
class Rest:
    """Sleep for so long."""

    name: str
    for_ms: int


@dataclass(frozen=True, slots=True)
class Woke:
    """The sleep is over."""


@dataclass(frozen=True, slots=True)
class Sleeper:
    """Asleep or awake."""

    awake: bool


def _sleeper(event: Any, state: Sleeper | None) -> Any:
    match event:
        case Rest(_, for_ms):
            return Sleeper(False), [sleep(for_=timedelta(milliseconds=for_ms)).then(Woke)]
        case Woke():
            return Sleeper(True), []
    return ignore()


sleeper = Workflow(
    "bench/sleeper",
    state=Sleeper,
    events=(Rest, Woke),
    outside=(Rest,),
    update=_sleeper,
    key=("name",),
)
