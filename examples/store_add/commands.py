"""What customers may ask of this service: names, arguments, and how a delegation narrows them.

The names and arguments are those of the clients in use (`@web3-storage/upload-client`,
`@storacha/upload-client`); the last ones are our own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

from capabilities import Capability, Size, all_of, at_most, equal
from examples.store_add.model import Size as FileSize
from stmflow import CID


@final
@dataclass(frozen=True, slots=True)
class StoreAdd:
    """Store the bytes of `link`, so many."""

    link: CID
    size: FileSize
    origin: CID | None = None


@final
@dataclass(frozen=True, slots=True)
class Linked:
    """Something by its link."""

    link: CID


@final
@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list: what follows `cursor` (`pre`: what comes before it)."""

    cursor: str | None = None
    size: Size | None = None
    pre: bool = False


@final
@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes by their multihash."""

    digest: bytes
    size: FileSize


@final
@dataclass(frozen=True, slots=True)
class BlobAdd:
    """Store a blob."""

    blob: Blob


@final
@dataclass(frozen=True, slots=True)
class BlobRemove:
    """Forget a blob."""

    digest: bytes


@final
@dataclass(frozen=True, slots=True)
class Allocate:
    """A task: keep room for a blob in a space (its DID, as bytes)."""

    blob: Blob
    space: bytes
    cause: CID


@final
@dataclass(frozen=True, slots=True)
class AllocateNamed:
    """The same under its older name: the space's DID is text."""

    blob: Blob
    space: str
    cause: CID


@final
@dataclass(frozen=True, slots=True)
class Accept:
    """A task: take over a blob once it has been put (`_put` awaits that)."""

    blob: Blob
    space: bytes


@final
@dataclass(frozen=True, slots=True)
class AcceptNamed:
    """The same under its older name: the space's DID is text."""

    blob: Blob
    space: str


@final
@dataclass(frozen=True, slots=True)
class HttpPut:
    """A task of the client: put the bytes to the address that was allocated."""

    body: Blob


@final
@dataclass(frozen=True, slots=True)
class Conclude:
    """A receipt that somebody else has signed."""

    receipt: CID


@final
@dataclass(frozen=True, slots=True)
class UploadAdd:
    """A DAG is complete: its root, and the shards that hold it."""

    root: CID
    shards: tuple[CID, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Rooted:
    """An upload by its root."""

    root: CID


@final
@dataclass(frozen=True, slots=True)
class Offer:
    """A shard, and its piece in a Filecoin deal."""

    content: CID
    piece: CID


@final
@dataclass(frozen=True, slots=True)
class Index:
    """An index of the blocks in stored shards."""

    index: CID


@final
@dataclass(frozen=True, slots=True)
class Watched:
    """A job, and the revision that the asker has seen."""

    link: CID
    after: Size = 0


_BLOB: Final = all_of(equal("blob.digest"), at_most("blob.size"))

STORE_ADD: Final = Capability("store/add", StoreAdd, derives=all_of(equal("link"), at_most("size")))
STORE_GET: Final = Capability("store/get", Linked)
STORE_LIST: Final = Capability("store/list", Page, derives=all_of())
STORE_REMOVE: Final = Capability("store/remove", Linked)
STORE_CANCEL: Final = Capability("store/cancel", Linked)
STORE_EXTEND: Final = Capability("store/extend", Linked)
STORE_SHOW: Final = Capability("store/show", Linked)
STORE_WATCH: Final = Capability("store/watch", Watched, derives=equal("link"))

BLOB_ADD: Final = Capability("space/blob/add", BlobAdd, derives=_BLOB)
BLOB_LIST: Final = Capability("space/blob/list", Page, derives=all_of())
BLOB_REMOVE: Final = Capability("space/blob/remove", BlobRemove)
INDEX_ADD: Final = Capability("space/index/add", Index)
UPLOAD_ADD: Final = Capability(
    "upload/add", UploadAdd, derives=all_of(equal("root"), equal("shards"))
)
UPLOAD_GET: Final = Capability("upload/get", Rooted)
UPLOAD_LIST: Final = Capability("upload/list", Page, derives=all_of())
UPLOAD_REMOVE: Final = Capability("upload/remove", Rooted)
FILECOIN_OFFER: Final = Capability("filecoin/offer", Offer, subject="did")
CONCLUDE: Final = Capability("ucan/conclude", Conclude, subject="did")

ALLOCATE: Final = Capability("blob/allocate", Allocate, subject="did")
ALLOCATE_NAMED: Final = Capability("web3.storage/blob/allocate", AllocateNamed, subject="did")
ACCEPT: Final = Capability("blob/accept", Accept, subject="did")
ACCEPT_NAMED: Final = Capability("web3.storage/blob/accept", AcceptNamed, subject="did")
PUT: Final = Capability("http/put", HttpPut, subject="did")
