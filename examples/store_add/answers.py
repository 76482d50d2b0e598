"""What each command comes to: the job's state, in the words of the clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import anyio

from capabilities import DID, Capability, Signer, verifier
from capabilities.service import (
    TASK,
    Asked,
    Call,
    Fault,
    Ok,
    Provider,
    Reads,
    Result,
    Task,
    provide,
)
from capabilities.ucanto import receipt as receipts
from capabilities.ucanto import token as tokens
from examples.store_add import commands, uploads
from examples.store_add.blobs import BlobTasks, link_of
from examples.store_add.model import (
    Add,
    Cancel,
    Exceeded,
    Expired,
    Extend,
    Failed,
    Put,
    Receiving,
    Remove,
    State,
    Stored,
    Terms,
    Verifying,
)
from examples.store_add.workflow import STORE_ADD
from scheduler.handlers.allocate import QUOTA
from scheduler.handlers.gc import BLOB
from stmflow import CID, Head, Job, StmflowError, Transactor

PAGE = 100
"""Entries of a list in one answer, at most."""

PAGE_LINKS = 4_000
"""Shards of uploads in one answer, but for the first upload: a receipt is one block."""


def settled(state: State) -> bool:
    """Whether an agent has something to do, or to know."""
    if isinstance(state, (Receiving, Verifying)):
        return state.window.target is not None
    return isinstance(state, (Stored, Exceeded, Expired, Failed))


def refused(state: State) -> Fault | None:
    """Why nothing can be uploaded, where that is so."""
    match state:
        case Exceeded(upload=upload):
            why = f"{upload.space} has no room for {upload.size} bytes more"
            return Fault("InsufficientStorage", why, {"link": upload.link})
        case Failed(error=error):
            return Fault(error.name, "a task of this try failed; ask again for another one")
        case Expired():
            return Fault("Expired", "nothing came in time; ask again for another try")
    return None


@dataclass(frozen=True, slots=True)
class Answers:
    """The commands of the service.

    Args:
        signer: the service. terms: what is granted to one try.
        location: link → a URL under which its bytes can be read by who may.
    """

    signer: Signer
    transactor: Transactor
    terms: Terms
    location: Callable[[CID], str]

    def providers(self) -> Sequence[Provider]:
        """All of them."""
        add = provide(
            commands.STORE_ADD,
            STORE_ADD,
            event=self.add_event,
            until=settled,
            result=self.added,
            look=looked,
            reads=lambda asked: counted(asked.subject, asked.arguments.link),
        )
        blob = provide(
            commands.BLOB_ADD,
            STORE_ADD,
            event=self.blob_event,
            until=settled,
            result=self.blob_added,
            tasks=lambda asked, state: (
                () if isinstance(state, Stored) else self.blob_tasks(asked).later()
            ),
            look=looked,
            reads=lambda asked: counted(asked.subject, link_of(asked.arguments.blob.digest)),
        )
        return [
            add,
            blob,
            self._event(commands.STORE_CANCEL, Cancel, lambda asked, head: shown(head)),
            self._event(commands.STORE_EXTEND, Extend, lambda asked, head: shown(head), settled),
            Removes(
                self._event(commands.STORE_REMOVE, Remove, removed),
                lambda asked: _job(asked.subject, asked.arguments.link),
            ),
            Removes(
                provide(
                    commands.BLOB_REMOVE,
                    STORE_ADD,
                    event=lambda asked: Remove(str(asked.subject), link_of(asked.arguments.digest)),
                    result=lambda asked, head: Ok({"size": removed_bytes(asked, head)}),
                    rejected=lambda asked, code, detail: (
                        Ok({"size": 0}) if code == "NotFound" else Fault(code, "not removed")
                    ),
                ),
                lambda asked: _job(asked.subject, link_of(asked.arguments.digest)),
            ),
            provide(
                commands.UPLOAD_ADD,
                uploads.UPLOAD,
                event=lambda asked: uploads.Add(
                    str(asked.subject), asked.arguments.root, asked.arguments.shards
                ),
                result=lambda asked, head: Ok(_upload(head.state)),
            ),
            provide(
                commands.UPLOAD_REMOVE,
                uploads.UPLOAD,
                event=lambda asked: uploads.Remove(str(asked.subject), asked.arguments.root),
                result=lambda asked, head: Ok(_upload(head.state)),
            ),
            Reads(commands.STORE_GET, self.store_get),
            Reads(commands.STORE_LIST, self.store_list),
            Reads(commands.STORE_SHOW, self.store_show),
            Reads(commands.STORE_WATCH, self.store_watch),
            Reads(commands.BLOB_LIST, self.blob_list),
            Reads(commands.UPLOAD_GET, self.upload_get),
            Reads(commands.UPLOAD_LIST, self.upload_list),
            Reads(commands.INDEX_ADD, self.index_add),
            Reads(commands.FILECOIN_OFFER, offered),
            Concludes(),
        ]

    def tasks(self) -> Mapping[Any, Any]:
        """What is named in answers and not invoked: how its receipt is made."""
        return {commands.ACCEPT: self.accept, commands.ACCEPT_NAMED: self.accept}

    def _event(
        self,
        capability: Any,
        event: Any,
        result: Callable[[Asked, Head], Result],
        until: Callable[[State], bool] = lambda state: True,
    ) -> Provider:
        return provide(
            capability,
            STORE_ADD,
            event=lambda asked: event(str(asked.subject), asked.arguments.link),
            result=result,
            until=until,
            rejected=_rejected,
        )

    # --- store/* ----------------------------------------------------------------------------------

    def add_event(self, asked: Asked) -> Add:
        return Add(
            str(asked.subject),
            asked.arguments.link,
            asked.arguments.size,
            str(asked.issuer),
            asked.invocation,
            self.terms,
        )

    def added(self, asked: Asked, head: Head) -> Result:
        """`upload` and where to, or `done`; `allocated` is what this invocation has charged."""
        state: State = head.state
        if (fault := refused(state)) is not None:
            return fault
        newly = state.upload.cause == asked.invocation
        value: dict[str, Any] = {
            "status": "done",
            "allocated": state.upload.size if newly else 0,
            "with": str(asked.subject),
            "link": asked.arguments.link,
        }
        if isinstance(state, (Receiving, Verifying)) and state.window.target is not None:
            target = state.window.target
            value |= {"status": "upload", "url": target.url, "headers": dict(target.headers)}
        return Ok(value)

    async def store_get(self, asked: Asked, transactor: Transactor) -> Result:
        head = await up_to_date(transactor, _job(asked.subject, asked.arguments.link))
        if head is None or not isinstance(head.state, Stored):
            return Fault("StoreItemNotFound", f"{asked.arguments.link} is not stored here")
        return Ok(_item(head))

    async def store_list(self, asked: Asked, transactor: Transactor) -> Result:
        await arrived(transactor, asked.subject)
        return await self._list(asked, transactor, STORE_ADD.name, Stored.tag, _item)

    async def store_show(self, asked: Asked, transactor: Transactor) -> Result:
        """The job as it is now."""
        head = await transactor.get(_job(asked.subject, asked.arguments.link))
        return Fault("NotFound", "no such job") if head is None else shown(head)

    async def store_watch(self, asked: Asked, transactor: Transactor) -> Result:
        """The job once its state is newer than the revision that the asker has seen; as it is
        after a while."""
        job = _job(asked.subject, asked.arguments.link)
        head = await transactor.get(job)
        if head is None:
            return Fault("NotFound", "no such job")
        if head.seq <= asked.arguments.after:
            seen = head.state
            with anyio.move_on_after(WATCH_SECONDS):
                head = await transactor.wait(job, lambda state: state != seen)
        return shown(head)

    # --- space/blob/* -----------------------------------------------------------------------------

    def blob_event(self, asked: Asked) -> Add:
        blob = asked.arguments.blob
        return Add(
            str(asked.subject),
            link_of(blob.digest),
            blob.size,
            str(asked.issuer),
            asked.invocation,
            self.terms,
        )

    def blob_tasks(self, asked: Asked) -> BlobTasks:
        blob = asked.arguments.blob
        return BlobTasks(self.signer, asked.subject, blob.digest, blob.size, asked.invocation)

    def blob_added(self, asked: Asked, head: Head) -> Result:
        state: State = head.state
        if (fault := refused(state)) is not None:
            return fault
        tasks = self.blob_tasks(asked)
        newly = state.upload.cause == asked.invocation
        return tasks.answer(state, self.location(state.upload.link), newly=newly)

    async def accept(self, asked: Asked, transactor: Transactor) -> Result | None:
        """The receipt of `blob/accept`: once the bytes are there; None until then."""
        blob, space = asked.arguments.blob, asked.arguments.space
        did = DID.parse(space) if isinstance(space, str) else DID.decode(space)
        head = await transactor.get(_job(did, link_of(blob.digest)))
        if head is None:
            return None
        if isinstance(head.state, Stored):
            tasks = BlobTasks(self.signer, did, blob.digest, blob.size, asked.invocation)
            return tasks.accepted(self.location(head.state.upload.link))
        return refused(head.state)

    async def blob_list(self, asked: Asked, transactor: Transactor) -> Result:
        await arrived(transactor, asked.subject)
        return await self._list(asked, transactor, STORE_ADD.name, Stored.tag, _blob_item)

    async def index_add(self, asked: Asked, transactor: Transactor) -> Result:
        """An index is a blob like others: it has to be stored."""
        head = await up_to_date(transactor, _job(asked.subject, asked.arguments.index))
        if head is None or not isinstance(head.state, Stored):
            return Fault("IndexNotFound", f"{asked.arguments.index} is not stored here")
        return Ok({})

    # --- upload/* ---------------------------------------------------------------------------------

    async def upload_get(self, asked: Asked, transactor: Transactor) -> Result:
        head = await transactor.get(uploads.UPLOAD.job(str(asked.subject), asked.arguments.root))
        if head is None or not isinstance(head.state, uploads.Listed):
            return Fault("UploadNotFound", f"{asked.arguments.root} is not listed here")
        return Ok(_upload_item(head))

    async def upload_list(self, asked: Asked, transactor: Transactor) -> Result:
        tag = uploads.Listed.tag
        return await self._list(asked, transactor, uploads.UPLOAD.name, tag, _upload_item)

    async def _list(
        self,
        asked: Asked,
        transactor: Transactor,
        workflow: str,
        tag: str,
        item: Callable[[Head], dict[str, Any]],
    ) -> Result:
        page = asked.arguments
        size = min(page.size or PAGE, PAGE)
        after = None if page.cursor is None else CID.parse(page.cursor)
        if after is not None:
            place = (await transactor.store.heads([after]))[after]
            if place is None or place.workflow != workflow or place.key[0] != str(asked.subject):
                return Fault("CursorNotFound", "the cursor is no place in this list")
        rows = await transactor.store.under(
            workflow,
            str(asked.subject),
            tag=tag,
            after=after,
            reverse=page.pre,
            limit=size,
        )
        results: list[dict[str, Any]] = []
        seen, links = 0, 0
        for row in rows:
            head = await transactor.get(row.job)
            if head is not None and head.state.tag == tag:  # it may have changed since
                one = item(head)
                links += len(one.get("shards", ()))
                if results and links > PAGE_LINKS:
                    break
                results.append(one)
            seen += 1
        listed = [str(row.job) for row in rows[:seen]]
        if page.pre:
            results.reverse()
            listed.reverse()
        value: dict[str, Any] = {"results": results, "size": len(results)}
        if listed:
            value |= {"before": listed[0], "after": listed[-1]}
            if seen < len(rows) or seen == size:
                value["cursor"] = listed[0] if page.pre else listed[-1]
        return Ok(value)


# --- bytes that have come, and nobody has said so -------------------------------------------------

LOOKS = 16
"""Uploads of a space that are looked for before a list of it."""

LOOK_SECONDS = 5.0
"""How long a look may take: the answer does not depend on S3 being up."""


async def looked(transactor: Transactor, head: Head) -> Head:
    """A job that waits for bytes, once it has looked for them again."""
    if not isinstance(head.state, Receiving):
        return head
    upload = head.state.upload
    await transactor.send(STORE_ADD, Put(upload.space, upload.link))
    with anyio.move_on_after(LOOK_SECONDS):
        return await transactor.wait(head.job, lambda state: not isinstance(state, Verifying))
    return head


async def up_to_date(transactor: Transactor, job: Job) -> Head | None:
    """A job as it is, or as it is after a look if it waits for bytes."""
    head = await transactor.get(job)
    return None if head is None else await looked(transactor, head)


async def arrived(transactor: Transactor, space: DID) -> None:
    """Look for the uploads that a space waits for, as many as is reasonable.

    A look that fails is one that was not made: what is asked for is answered from the jobs.
    """
    rows = await transactor.store.under(STORE_ADD.name, str(space), tag=Receiving.tag, limit=LOOKS)

    async def look(job: Job) -> None:
        with suppress(StmflowError):
            await up_to_date(transactor, job)

    async with anyio.create_task_group() as group:
        for row in rows:
            group.start_soon(look, STORE_ADD.job(*row.key))


@dataclass(frozen=True, slots=True)
class Removes:
    """A removal, which looks first: what has just been uploaded is stored, not given up."""

    then: Provider
    job: Callable[[Asked], Job]

    @property
    def capability(self) -> Capability:
        return self.then.capability

    async def perform(self, call: Call) -> Result:
        await up_to_date(call.transactor, self.job(call.asked()))
        return await self.then.perform(call)

    async def recall(self, asked: Asked, transactor: Transactor) -> Result | None:
        return await self.then.recall(asked, transactor)


WATCH_SECONDS = 8.0
"""How long a watch waits for news, within the time that a request may take."""


async def offered(asked: Asked, transactor: Transactor) -> Result:
    """A Filecoin piece is noted, and nothing more: there are no deals here."""
    return Ok({"piece": asked.arguments.piece})


@dataclass(frozen=True, slots=True)
class Concludes:
    """`ucan/conclude`: the client says that it has put the bytes. The service looks for itself."""

    capability: Capability = commands.CONCLUDE

    async def perform(self, call: Call) -> Result:
        block = call.blocks.get(call.authorization.arguments.receipt)
        if block is None:
            return Fault("ReceiptNotFound", "the receipt did not travel with its conclusion")
        told = receipts.decode(call.authorization.arguments.receipt, block)
        head = await call.transactor.get(TASK.job(told.ran))
        if head is None or head.state.cause is None:
            return Fault("TaskNotFound", f"no task {told.ran} was named here")
        put = tokens.decode(told.ran, head.state.block)
        issuer = put.issuer if told.issuer is None else told.issuer
        if issuer != put.issuer or not receipts.verify_signature(told, verifier(issuer)):
            return Fault("InvalidSignature", "the receipt is not signed by who had the task")
        (claim,) = put.capabilities
        if claim.can != commands.PUT.command or "ok" not in told.out:
            return Ok({"time": call.now})
        space = await _space(call.transactor, head.state.cause)
        link = link_of(commands.PUT.read(claim.caveats).body.digest)
        event = Put(str(space), link, told.cid)

        def body(tx: Any) -> str:
            return str(tx.apply(STORE_ADD.job_of(event), event).kind)

        job = STORE_ADD.job_of(event)
        await call.commit(job, body)
        with anyio.move_on_after(LOOK_SECONDS):  # or else the client asks too early, and then waits
            await call.transactor.wait(job, lambda state: not isinstance(state, Verifying))
        return Ok({"time": call.now})

    async def recall(self, asked: Asked, transactor: Transactor) -> Result | None:
        return None


async def _space(transactor: Transactor, cause: CID) -> DID:
    """The space of the space/blob/add that has named a task."""
    head = await transactor.get(TASK.job(cause))
    if head is None:
        raise StmflowError(f"{cause} has been named and is not known")
    task: Task = head.state
    return task.subject()


# --- states as answers ----------------------------------------------------------------------------


def shown(head: Head) -> Result:
    """A job, for who may inspect it."""
    state: State = head.state
    value: dict[str, Any] = {
        "job": head.job,
        "revision": head.revision,
        "state": head.state_cid,
        "status": state.tag,
        "epoch": head.epoch,
        "seq": head.seq,
        "at": head.at,
        "size": state.upload.size,
    }
    if isinstance(state, (Receiving, Verifying)):
        value["deadline"] = state.window.deadline
    return Ok(value)


def removed(asked: Asked, head: Head) -> Result:
    """Its size; where it had been removed before, that it is not there."""
    if not removed_bytes(asked, head):
        return Fault("StoreItemNotFound", f"{asked.arguments.link} is not stored here")
    return Ok({"size": head.state.upload.size})


def removed_bytes(asked: Asked, head: Head) -> int:
    return 0 if asked.verdict == "ignored" else int(head.state.upload.size)


def _rejected(asked: Asked, code: str, detail: Any) -> Fault:
    name = "StoreItemNotFound" if code == "NotFound" else code
    return Fault(name, f"{asked.command} of {asked.arguments.link} was refused: {code}")


def counted(space: DID, link: CID) -> Sequence[Job]:
    """Where an add is counted: the account of the space, and the bytes."""
    return QUOTA.job(str(space)), BLOB.job(link.multihash)


def _job(space: DID, link: CID) -> Job:
    return STORE_ADD.job(str(space), link.multihash)


def _item(head: Head) -> dict[str, Any]:
    upload = head.state.upload
    return {"link": upload.link, "size": upload.size, "insertedAt": _time(head.at)}


def _blob_item(head: Head) -> dict[str, Any]:
    upload = head.state.upload
    blob = {"digest": upload.link.multihash, "size": upload.size}
    return {"blob": blob, "insertedAt": _time(head.at)}


def _upload(state: Any) -> dict[str, Any]:
    return {"root": state.root, "shards": list(state.shards)}


def _upload_item(head: Head) -> dict[str, Any]:
    state = head.state
    times = {"insertedAt": _time(state.inserted), "updatedAt": _time(state.updated)}
    return {**_upload(state), **times}


def _time(at: int) -> str:
    return datetime.fromtimestamp(at / 1_000, UTC).isoformat(timespec="milliseconds")


__all__ = ["Answers", "settled"]
