"""The two ways to keep the account of a space; the reducer and its table are the same for both.

Local: `quota(space)` lives in the same store, and changes in the very commit that changes the job;
the job's own state is the reservation. Allocator: each reservation is a job of its own, written
together with the quota, in this store or in another service's.

Bytes are counted by `blob(multihash)` either way: `shared`, so each space that stores the same
bytes is charged, and they are deleted when nobody refers to them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from examples.store_add.workflow import STORE_ADD
from scheduler.handlers import Handler
from scheduler.handlers.allocate import QUOTA, RESERVATION, allocator, local_quota
from scheduler.handlers.gc import BLOB, COUNTED
from stmflow import Job, Transactor, Workflow


def tenant(job: Job) -> str:
    """Limits per tenant are limits per space."""
    return str(job.key[0]) if job.workflow == STORE_ADD.name else ""


@dataclass(frozen=True, slots=True)
class Profile:
    """What a transactor and a scheduler are given, the command line's transactors too.

    `handlers` is called with the transactor whose store keeps the account.
    """

    workflows: tuple[Workflow, ...]
    transactional: Mapping[type, Callable[[Any, Any], Any]]
    handlers: Callable[[Transactor], Mapping[type, Handler]]
    tenant: Callable[[Job], str] = tenant


def local(*, limit: int, least: int = 1) -> Profile:
    """A quota in the same store.

    Args:
        limit: bytes that a space not seen before may use.
        least: bytes that an upload is charged at least: who asks for many small ones, and sends
            none, has no more than `limit // least` of them open.
    """
    return Profile(
        workflows=(STORE_ADD, BLOB, QUOTA),
        transactional={**COUNTED, **local_quota(limit=limit, least=least)},
        handlers=lambda transactor: {},
    )


def remote(*, limit: int, least: int = 1) -> Profile:
    """An allocator. `limit` and `least`: as above."""
    return Profile(
        workflows=(STORE_ADD, BLOB, QUOTA, RESERVATION),
        transactional=COUNTED,
        handlers=lambda transactor: allocator(transactor, limit=limit, least=least),
    )
