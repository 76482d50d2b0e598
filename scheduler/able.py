"""What can be performed here: by handler, version, and what tasks need of a worker's labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scheduler.handlers import Handler, Performer, Transaction
from scheduler.retry import Policy
from stmflow.errors import InvalidWorkflow
from stmflow.placement import Labels, check_labels, check_needs, meets, needs_of, plain
from stmflow.schema import tag_of
from stmflow.store import Kind, Store
from stmflow.transactor import Transactor
from stmflow.workflow import Workflow

KNOWN = 4_096
"""Placed kinds of which it is remembered whether they fit."""


@dataclass(frozen=True, slots=True)
class Performs:
    """How one kind of task is performed here."""

    workflow: Workflow
    handler: Handler | Transaction
    policy: Policy


class Able:
    """The kinds of task that this worker can perform.

    Raises:
        InvalidWorkflow: labels or needs that cannot be meant.
    """

    def __init__(
        self,
        transactor: Transactor,
        handlers: Mapping[type[Any], Handler | Transaction | Performer],
        policies: Mapping[type[Any], Policy],
        labels: Labels,
    ) -> None:
        self._store: Store = transactor.store
        self.labels = check_labels(labels)
        self.kinds = _kinds(transactor, handlers, policies, self.labels)
        """Without regard to what single tasks need."""
        self._placed = {tag_of(kind) for kind in transactor.needs}
        self._met: dict[str, bool] = {}

    def how(self, kind: Kind) -> Performs:
        """How a task is performed that stands in the outbox under this kind."""
        workflow, version, stated = kind
        return self.kinds[(workflow, version, plain(stated))]

    def fits(self, kind: Kind) -> bool:
        """Whether a task that stands in the outbox under this kind can be performed here."""
        workflow, version, stated = kind
        tag = plain(stated)
        if (workflow, version, tag) not in self.kinds:
            return False
        return tag == stated or self._meets(stated)

    async def waiting(self) -> list[Kind]:
        """Every kind that can be performed here, as the outbox states it: of placed ones, those
        that wait."""
        kinds = list(self.kinds)
        placed = [kind for kind in kinds if kind[2] in self._placed]
        if placed:
            kinds += filter(self.fits, await self._store.placed(placed))
        return kinds

    async def look(self) -> None:
        """Look for tasks that were placed by who knew of needs that we are not told of."""
        strays = await self._store.placed(list(self.kinds))
        self._placed |= {plain(kind[2]) for kind in strays}

    def _meets(self, stated: str) -> bool:
        known = self._met.get(stated)
        if known is None:
            if len(self._met) >= KNOWN:
                self._met.clear()
            try:
                known = meets(self.labels, needs_of(stated))
            except InvalidWorkflow:  # in words of a newer stmflow
                known = False
            self._met[stated] = known
        return known


def _kinds(
    transactor: Transactor,
    handlers: Mapping[type[Any], Handler | Transaction | Performer],
    policies: Mapping[type[Any], Policy],
    labels: Labels,
) -> dict[Kind, Performs]:
    """Types that are handled and whose needs are met, in every version."""
    found: dict[Kind, Performs] = {}
    able = {kind: _performer(given) for kind, given in handlers.items()}
    by_tag = {tag_of(kind): kind for kind in able if meets(labels, check_needs(able[kind].needs))}
    for (name, version), workflow in transactor.registry.versions.items():
        for tag in workflow.task_tags:
            kind = by_tag.get(tag)
            if kind is not None:
                policy = able[kind].policy or policies.get(kind, Policy())
                found[(name, version, tag)] = Performs(workflow, able[kind].handler, policy)
    return found


def _performer(given: Handler | Transaction | Performer) -> Performer:
    return given if isinstance(given, Performer) else Performer(handler=given)
