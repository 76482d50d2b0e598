"""How tasks are performed in a world: the workload's handlers, with the seed's faults on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio

from scheduler import Context, Failure, Handler, Performer, Policy, Retry, Transaction
from stmflow.cid import CID
from stmflow.schema import tag_of

if TYPE_CHECKING:
    from scheduler.testing.world import World

Given = Handler | Performer | Transaction


class Performing:
    """The handlers of all processes of a world, and the ledger of what they began."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._claims: set[tuple[CID, int]] = set()
        self._meaning: dict[CID, tuple[CID, str]] = {}

    def faulty(
        self, node: str, handlers: Mapping[type[Any], Given], policies: Mapping[type[Any], Policy]
    ) -> dict[type[Any], Given]:
        """The same handlers in that process; a task that is a transaction has none."""
        default = Policy()
        return {
            kind: self._of(node, kind, given, policies.get(kind, default))
            for kind, given in handlers.items()
        }

    def _of(self, node: str, kind: type[Any], given: Given, policy: Policy) -> Given:
        if isinstance(given, Performer):
            handler = self._of(node, kind, given.handler, given.policy or policy)
            assert not isinstance(handler, Performer)
            return replace(given, handler=handler)
        if isinstance(given, Transaction):
            return given
        self._world.outcome.handled.add(tag_of(kind))
        handler, most = given, policy.attempt_ms / 1_000

        async def perform(task: Any, context: Context) -> Any:
            return await self._perform(node, handler, task, context, most)

        return perform

    async def _perform(
        self, node: str, handler: Handler, task: Any, context: Context, most: float
    ) -> Any:
        self._enter(node, task, context)
        try:
            return await self._attempt(handler, task, context, most)
        except BaseException as error:
            if isinstance(error, Exception) or context.clock.now() >= context.deadline:
                self._world.outcome.failed[context.key] += 1
            raise

    async def _attempt(self, handler: Handler, task: Any, context: Context, most: float) -> Any:
        world, faults = self._world, self._world.faults
        longest = world.random.choice((0.1, 0.1, min(most, 2)))
        await anyio.sleep(world.random.random() * longest)
        if faults.hit("raise"):
            raise world.random.choice(
                (
                    RuntimeError("the seed says: raise"),
                    Failure("Busy", None, retry=Retry.THROTTLED, after_ms=500),
                    Failure("NotSent", None, retry=Retry.SAFE),
                )
            )
        if faults.hit("hang"):
            await anyio.sleep(most * 1.2)  # timers of this process may be a tenth fast
            paused = True  # if its process was, both ends came at one moment; and perhaps again
            while paused:
                began = world.loop.time()
                await anyio.sleep(1)
                paused = world.loop.time() - began > 2
            world.problem(f"{task} was not stopped at the end of its attempt")
        if faults.hit("fatal"):
            raise Failure("Refused", type(task).__name__)
        answer = await handler(task, context)
        if faults.hit("answer lost"):
            raise Failure("NoAnswer", None, retry=Retry.IDEMPOTENT)
        if faults.hit("wrong type"):
            return object()
        if faults.hit("wrong shape"):
            return {"no": "such field"}
        if faults.hit("cancelled"):
            raise anyio.get_cancelled_exc_class()
        return answer

    def _enter(self, node: str, task: Any, context: Context) -> None:
        """One key names one task, always; no two attempts bear one token."""
        world = self._world
        world.outcome.performed.setdefault(context.key, []).append((node, context.attempt))
        meaning = (context.job, repr(task))
        if self._meaning.setdefault(context.key, meaning) != meaning:
            world.problem(f"{context.key} is the key of two tasks, one of them {task}")
        claim = (context.key, context.token)
        if claim in self._claims:
            world.problem(f"{task}: two attempts under token {context.token}")
        self._claims.add(claim)
