"""A worker: one process that performs the tasks of a store, beside any number of others.

    async with working(store, app, labels={"bucket": "photos"}) as worker:
        await stop.wait()
        worker.leave()

Workers join and leave at will; nobody is elected. Each claims what it can perform, under a lease.
`stmflow worker` is this, with signals and options.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, fields
from types import TracebackType
from typing import Any, TypeAlias

from scheduler.handlers import Handler, Performer, Probe
from scheduler.health import Health, serving
from scheduler.loop import Scheduler
from scheduler.retry import Policy
from scheduler.roster import enrol, strike
from scheduler.slots import Limits
from stmflow.clock import Clock, SystemClock
from stmflow.errors import InvalidWorkflow, StmflowError
from stmflow.observe import Observer
from stmflow.placement import Labels, Placement
from stmflow.schema import tag_of
from stmflow.store import Kind, Store
from stmflow.transactor import Transactor
from stmflow.workflow import Chooser, Job, Workflow

log = logging.getLogger("stmflow.worker")

Handlers: TypeAlias = Mapping[type[Any], Handler | Performer]
Making: TypeAlias = Callable[[Transactor], AbstractAsyncContextManager[Handlers]]


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """What a service consists of: what its transactors are given, and what its workers perform.

    Attributes:
        workflows: every version of every workflow, or a function that gives them.
        handlers: task type → handler or `Performer`; or a function `(transactor) -> async context
            manager` that gives that and puts away what the handlers hold.
        policies, limits: as for `Scheduler`.
        transactional, tenant, needs, chooser: as for `Transactor`. All processes of a service
            share them.
        observers: as for `Transactor`. metrics: gives the text that /metrics tells.
    """

    workflows: Iterable[Workflow] | Callable[[], Iterable[Workflow]]
    handlers: Handlers | Making = field(default_factory=dict)
    policies: Mapping[type[Any], Policy] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    transactional: Mapping[type[Any], Callable[..., Any]] = field(default_factory=dict)
    tenant: Callable[[Job], str] = lambda job: ""
    needs: Mapping[type[Any], Placement] = field(default_factory=dict)
    chooser: Chooser | None = None
    observers: Sequence[Observer] = ()
    metrics: Callable[[], str] | None = None

    @staticmethod
    def of(found: Any) -> App:
        """The app that an object is, or has the attributes of.

        Raises:
            InvalidWorkflow: it has no `workflows`, or no `handlers`.
        """
        if isinstance(found, App):
            return found
        for name in ("workflows", "handlers"):
            if not hasattr(found, name):
                raise InvalidWorkflow(
                    f"a worker's app has `{name}`; {type(found).__name__} has not"
                )
        names = [each.name for each in fields(App)]
        return App(**{name: getattr(found, name) for name in names if hasattr(found, name)})


@dataclass(slots=True)
class Worker:
    """A worker that runs."""

    transactor: Transactor
    scheduler: Scheduler
    health: Health

    def leave(self) -> None:
        """It is about to be left: not ready from this moment on. Said again: wait for nothing."""
        if self.health.standing == "draining":
            self.scheduler.hurry()
        self.health.standing = "draining"


@asynccontextmanager
async def working(
    store: Store,
    app: App,
    *,
    labels: Labels | None = None,
    limits: Limits | None = None,
    lease_seconds: float = 30,
    grace_seconds: float = 10,
    clock: Clock | None = None,
    listen: tuple[str, int] | None = None,
    listening: Callable[[str, int], None] = lambda host, port: None,
) -> AsyncIterator[Worker]:
    """A transactor and a scheduler on an open store, until left; leaving finishes or releases.

    Args:
        labels: what this worker is and has. limits: instead of the app's.
        lease_seconds, grace_seconds: as for `Scheduler`.
        clock: default: the store's own, where it has one (that of the server, for many hosts).
        listen: host and port of the health endpoint. listening: told where it is, once it is.

    Raises:
        InvalidWorkflow: labels, needs or limits that cannot be meant.
        StoreError: as the store. OSError: it cannot listen there.
    """
    ours = clock or getattr(store, "clock", None) or SystemClock()
    workflows = app.workflows() if callable(app.workflows) else app.workflows
    async with Leaving() as stack:
        health = Health(ours)
        if listen is not None:  # first in, last out: it says so while we start and while we drain
            address = await stack.enter_async_context(serving(health, *listen, metrics=app.metrics))
            listening(*address)
        transactor = await stack.enter_async_context(
            Transactor(
                store,
                workflows,
                transactional=app.transactional,
                clock=ours,
                alarm=log.error,
                tenant=app.tenant,
                needs=app.needs,
                chooser=app.chooser,
                observers=app.observers,
            )
        )
        handlers: Handlers
        if callable(app.handlers):
            handlers = await stack.enter_async_context(app.handlers(transactor))
        else:
            handlers = app.handlers
        scheduler = await stack.enter_async_context(
            Scheduler(
                transactor,
                handlers,
                policies=app.policies,
                limits=limits or app.limits,
                labels=labels,
                lease_seconds=lease_seconds,
                grace_seconds=grace_seconds,
            )
        )
        worker = Worker(transactor, scheduler, health)
        health.probes = _probes(worker, ours, handlers, int(lease_seconds * 1_000))
        said = {
            "labels": dict(scheduler.labels),
            "versions": _versions(scheduler.performs),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "slots": (limits or app.limits).slots,
            "started": ours.now(),
            "lease_ms": int(lease_seconds * 1_000),
        }
        try:
            await enrol(transactor, scheduler.worker, said)
        except StmflowError as error:  # it works all the same
            log.warning("worker %s is not in the roster: %r", scheduler.worker, error)
        stack.push_async_callback(_struck, transactor, scheduler.worker)
        health.standing = "working"
        yield worker
        health.standing = "draining"


class Leaving(AsyncExitStack):
    """A stack that holds task groups: what its body raises comes out as it is, in no group."""

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        if isinstance(error, Exception):
            return await super().__aexit__(None, None, None)
        return await super().__aexit__(kind, error, trace)


async def _struck(transactor: Transactor, worker: int) -> None:
    with suppress(StmflowError):  # whoever enrols next does it
        await strike(transactor, worker)


def _probes(worker: Worker, clock: Clock, handlers: Handlers, lease_ms: int) -> dict[str, Probe]:
    """What readiness is: the store answers, the lease holds, every handler could work."""
    store, scheduler = worker.transactor.store, worker.scheduler

    async def reachable() -> None:
        await store.next_timer()

    async def beat() -> dict[str, int]:
        age_ms = max(clock.now() - scheduler.beaten, 0)
        if age_ms > lease_ms:
            raise TimeoutError(f"the last beat was {age_ms} ms ago, the lease lasts {lease_ms} ms")
        return {"age_ms": age_ms}

    async def queue() -> dict[str, int]:
        since = await scheduler.oldest()
        return {"age_ms": 0 if since is None else max(clock.now() - since, 0)}

    mine = {tag for _, _, tag in scheduler.performs}
    probes: dict[str, Probe] = {"store": reachable, "beat": beat, "queue": queue}
    for kind, given in handlers.items():
        if isinstance(given, Performer) and given.probe is not None and tag_of(kind) in mine:
            probes[f"handler {tag_of(kind)}"] = given.probe
    return probes


def _versions(performs: Collection[Kind]) -> dict[str, dict[str, list[str]]]:
    """Workflow → version → the types that are performed here."""
    found: dict[str, dict[str, list[str]]] = {}
    for workflow, version, tag in sorted(performs):
        found.setdefault(workflow, {}).setdefault(str(version), []).append(tag)
    return found
