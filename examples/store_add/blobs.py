"""The answer to space/blob/add: tasks, promises of what they will give, receipts known so far.

    space/blob/add ──┬─ blob/allocate   ours: room, and where to put the bytes
                     ├─ http/put        the client's, signed by a key made of the digest
                     ├─ blob/accept     ours: the bytes are there (its receipt: GET, later)
                     └─ ucan/conclude   one for each receipt that comes along

Clients look for tasks under an older name too (web3.storage/blob/*): both are there. Every task is
made of what was asked alone, so it has one CID, under which its receipt can be asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from capabilities import DID, Signer
from capabilities.service import Ok
from capabilities.ucanto.receipt import Receipt
from capabilities.ucanto.receipt import issue as sign
from capabilities.ucanto.token import Claim, Token, issue
from examples.store_add.model import Receiving, State, Stored, Verifying
from stmflow import CID

BLOB_CODEC = 0x55


def link_of(digest: bytes) -> CID:
    """The link under which the bytes of a multihash are stored. Raises `MalformedBlock`."""
    return CID.parse(bytes((1, BLOB_CODEC)) + digest)


@dataclass(frozen=True)
class BlobTasks:
    """The tasks of one space/blob/add: `cause` is its invocation, `signer` the service."""

    signer: Signer
    space: DID
    digest: bytes
    size: int
    cause: CID

    @property
    def blob(self) -> dict[str, Any]:
        return {"digest": self.digest, "size": self.size}

    @cached_property
    def allocate(self) -> tuple[Token, Token]:
        """Under the newer name and the older one."""
        return (
            self._ours("blob/allocate", {"space": self.space.raw, "cause": self.cause}),
            self._ours(
                "web3.storage/blob/allocate", {"space": str(self.space), "cause": self.cause}
            ),
        )

    @cached_property
    def putter(self) -> Signer:
        """Who puts: a key that whoever knows the digest can make."""
        return Signer.from_seed(self.digest[-32:])

    @cached_property
    def put(self) -> Token:
        """The client's task; the key that signs for it goes along."""
        key, allocated = self.putter, self.allocate[0].cid
        return issue(
            key,
            key.did,
            [
                Claim(
                    "http/put",
                    str(key.did),
                    {
                        "body": self.blob,
                        "url": {"ucan/await": [".out.ok.address.url", allocated]},
                        "headers": {"ucan/await": [".out.ok.address.headers", allocated]},
                    },
                )
            ],
            expires=None,
            facts=[{"keys": {"id": str(key.did), "keys": {str(key.did): key.archive()}}}],
        )

    @cached_property
    def accept(self) -> tuple[Token, Token]:
        """Under the newer name and the older one."""
        done = {"ucan/await": [".out.ok", self.put.cid]}
        return (
            self._ours("blob/accept", {"space": self.space.raw, "_put": done}),
            self._ours("web3.storage/blob/accept", {"space": str(self.space), "_put": done}),
        )

    def _ours(self, command: str, fields: Mapping[str, Any]) -> Token:
        claim = Claim(command, str(self.signer.did), {"blob": self.blob, **fields})
        return issue(self.signer, self.signer.did, [claim], expires=None)

    def later(self) -> list[bytes]:
        """The tasks whose receipts somebody will ask for."""
        return [task.data for task in (self.put, *self.accept)]

    # --- what is known ----------------------------------------------------------------------------

    def allocated(self, state: State, *, newly: bool) -> dict[str, Any]:
        """The value of the receipt of `allocate`: where to put the bytes, unless they are there."""
        value: dict[str, Any] = {"size": self.size if newly else 0}
        if isinstance(state, (Receiving, Verifying)) and state.window.target is not None:
            target = state.window.target
            value["address"] = {
                "url": target.url,
                "headers": dict(target.headers),
                "expiresAt": target.until // 1_000,
            }
        return value

    def site(self, location: str) -> Token:
        """The claim that the bytes are at this URL."""
        claim = {"content": {"digest": self.digest}, "location": [location]}
        return issue(
            self.signer,
            self.space,
            [Claim("assert/location", str(self.signer.did), claim)],
            expires=None,
        )

    def accepted(self, location: str) -> Ok:
        """The result of `accept`."""
        site = self.site(location)
        return Ok({"site": site.cid}, (site.cid,), {site.cid: site.data})

    def answer(self, state: State, location: str, *, newly: bool) -> Ok:
        """The result of the add itself, with all that is known inline."""
        value = {"ok": self.allocated(state, newly=newly)}
        known = [sign(self.signer, task.cid, value) for task in self.allocate]
        blocks: dict[CID, bytes] = {}
        if isinstance(state, Stored):
            known.append(sign(self.putter, self.put.cid, {"ok": {}}))
            accepted = self.accepted(location)
            blocks |= accepted.blocks
            for task in self.accept:
                out = {"ok": dict(accepted.value)}
                known.append(sign(self.signer, task.cid, out, fork=accepted.fork))
        concluded = [self._conclude(receipt) for receipt in known]
        tokens = [*self.allocate, self.put, *self.accept, *concluded]
        blocks |= {one.cid: one.data for one in tokens}
        blocks |= {one.cid: one.data for one in known}
        promise = {"ucan/await": [".out.ok.site", self.accept[0].cid]}
        return Ok({"site": promise}, tuple(one.cid for one in tokens), blocks)

    def _conclude(self, receipt: Receipt) -> Token:
        ours = self.signer.did
        links = [receipt.cid, *receipt.fork]
        return issue(
            self.signer,
            ours,
            [Claim("ucan/conclude", str(ours), {"receipt": receipt.cid})],
            expires=None,
            facts=[{str(place): link for place, link in enumerate(links)}],
        )
