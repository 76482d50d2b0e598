"""A job's chain as the commands use it: read from the store, with the status of each state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from stmflow import codec, history
from stmflow.cid import CID
from stmflow.errors import NotFound, Unavailable, UnknownVersion
from stmflow.history.segment import before

if TYPE_CHECKING:
    from stmflow.store import Packed, Store, StoredHead
    from stmflow.workflow import Workflow

_TRIES = 5
GONE = "history has gone to an archive, or for good: give --archive"


class Chain(NamedTuple):
    """One job's history, oldest first, and its head as the store has it."""

    job: CID
    head: StoredHead
    packs: Sequence[Packed]
    revisions: list[history.Revision]
    blocks: dict[CID, bytes]

    def plain(self, cid: CID) -> Any:
        """A block of it, decoded."""
        return codec.decode(self.blocks[cid])


async def consistent(store: Store, job: CID) -> tuple[StoredHead, Sequence[Packed]]:
    """A job's head and its revisions, of one moment.

    Raises:
        NotFound: there is no such job.
    """
    for _ in range(_TRIES):
        head = (await store.heads([job]))[job]
        if head is None:
            raise NotFound(f"no job {job}")
        if packs := await since(store, job, head.revision):
            return head, packs
    raise Unavailable(f"job {job} moves too fast to be read")


async def since(store: Store, job: CID, revision: CID) -> Sequence[Packed]:
    """A job's revisions from this one back, whatever has come after it; none where it has left."""
    packs = await store.revisions(job)
    at = next((at for at, one in enumerate(packs) if one.cid == revision), len(packs))
    return packs[at:]


async def load(store: Store, job: CID) -> Chain:
    """A job's chain. Raises NotFound, also where a part of it has left; Corrupt or CodecError."""
    head, packs = await consistent(store, job)
    if before(packs[-1], job) is not None:
        raise NotFound(GONE)
    blocks = history.blocks_of(packs)
    revisions = list(history.walk(job, head.revision, blocks.get))[::-1]
    return Chain(job, head, packs, revisions, blocks)


class Statuses:
    """The status of any state of a job.

    By its workflow where that is known. Else by what the store noted for the head: the one text
    field of the state that holds it, or the state's type.
    """

    def __init__(self, head: StoredHead, workflows: Sequence[Workflow]) -> None:
        self._known = {(one.name, one.version): one for one in workflows}
        self._field = _field(codec.decode(head.state), head.tag)

    def of(self, plain: Any) -> str:
        """The status of a decoded state."""
        workflow = self._known.get((plain["w"], plain["v"]))
        if workflow is not None:
            try:
                return workflow.tag_of(workflow.state_of(plain))
            except (UnknownVersion, ValueError):
                pass
        found = plain["f"].get(self._field) if self._field is not None else None
        return found if isinstance(found, str) else str(plain["t"])


def _field(plain: Any, tag: str) -> str | None:
    if plain["t"] == tag:
        return None
    fields = [name for name, value in plain["f"].items() if value == tag]
    return next((name for name in ("status", *fields) if name in fields), None)
