"""upload/add: which DAGs a space has, and the shards that hold them. One job per space and root."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

from stmflow import CID, At, Workflow, reject, same

MAX_SHARDS: Final = 1_000
"""Shards of one upload."""


@dataclass(frozen=True, slots=True)
class Add:
    """A DAG is complete; shards are added to those that are known."""

    tag: ClassVar[str] = "upload/add"

    space: str
    root: CID
    shards: tuple[CID, ...] = ()
    at: At = 0


@dataclass(frozen=True, slots=True)
class Remove:
    """Forget it; the shards stay stored."""

    tag: ClassVar[str] = "upload/remove"

    space: str
    root: CID
    at: At = 0


@dataclass(frozen=True, slots=True)
class Listed:
    """It is in the list."""

    tag: ClassVar[str] = "listed"

    root: CID
    shards: tuple[CID, ...]
    inserted: int
    updated: int


@dataclass(frozen=True, slots=True)
class Gone:
    """It was, and what it was."""

    tag: ClassVar[str] = "gone"

    root: CID
    shards: tuple[CID, ...]


def _update(event: Add | Remove, state: Listed | Gone | None) -> Any:
    match event, state:
        case Add(), Listed():
            shards = tuple(sorted({*state.shards, *event.shards}))
            if len(shards) > MAX_SHARDS:
                return reject("TooManyShards", {"max": MAX_SHARDS})
            if shards == state.shards:
                return same()
            return replace(state, shards=shards, updated=event.at), []
        case Add(), _:
            if len(event.shards) > MAX_SHARDS:
                return reject("TooManyShards", {"max": MAX_SHARDS})
            shards = tuple(sorted(set(event.shards)))
            return Listed(event.root, shards, event.at, event.at), []
        case Remove(), Listed():
            return Gone(state.root, state.shards), []
    return reject("UploadNotFound")


UPLOAD: Final = Workflow(
    "upload/add",
    state=(Listed, Gone),
    events=(Add, Remove),
    outside=(Add, Remove),
    update=_update,
    key=("space", "root"),
)
