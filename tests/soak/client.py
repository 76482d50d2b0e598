"""A client of the soak: asks at a steady rate, and keeps a ledger of what it was answered.

A record of the ledger is `\\n…;`, so that one that a kill has torn is seen:

    +K      the client's first K operations have been begun, and perhaps asked for
    N A MS  operation N was answered A after so many milliseconds
    =N A MS the same for what came later and counts no more: how long an order took as a whole
    ~A K    what else there is to tell, and how often

Client c of n has the operations c, c + n, c + 2n, …
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from random import Random
from time import monotonic
from typing import Final, NoReturn

import anyio
import httpx

from stmflow import Transactor
from stmflow.errors import ConflictsExhausted, DeadlineExceeded, Indeterminate, Unavailable
from tests.soak.load import Asking
from tests.soak.service import WORKFLOWS, app
from tests.soak.settings import UNREACHABLE, Settings, begin, opened
from tests.soak.traced import traced

BLOCK: Final = 64
"""Operations that are begun with one record."""
AT_ONCE: Final = 32
"""So many wait for an answer at most: what takes longer than a delivery is known is not asked again
under the same id."""
TICK_SECONDS: Final = 0.02
LOST: Final = (Unavailable, Indeterminate, ConflictsExhausted, DeadlineExceeded)


def ask(
    settings: Settings, client: int, first: int, again: Sequence[int], life: int, last: bool
) -> NoReturn:
    """One life of a client, in a process of its own: first `again`, the operations whose answers
    its last life did not hear, then those from its `first` on, until SIGTERM. The `last` one begins
    nothing new."""
    begin(settings, f"client-{client}")
    sys.exit(anyio.run(_ask, settings, client, first, again, life, last))


async def _ask(
    settings: Settings, client: int, first: int, again: Sequence[int], life: int, last: bool
) -> int:
    async with AsyncExitStack() as stack:
        try:
            store = await stack.enter_async_context(opened(settings.where))
            ours = app(settings)
            transactor = await stack.enter_async_context(
                Transactor(
                    store,
                    WORKFLOWS,
                    transactional=ours.transactional,
                    tenant=ours.tenant,
                    clock=getattr(store, "clock", None),
                )
            )
        except (Unavailable, Indeterminate):
            return UNREACHABLE
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=20))
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            one = Client(settings, client, first, Asking(settings, transactor, http))
            async with anyio.create_task_group() as group:
                if settings.traced and life == 0:
                    group.start_soon(traced, settings.folder / f"client-{client}.trace")
                async with anyio.create_task_group() as asking:
                    for number in again:
                        asking.start_soon(one.until_answered, number)
                    if not last:
                        asking.start_soon(one.run, asking)
                        async for _ in signals:
                            one.stopping = True
                            break
                group.cancel_scope.cancel()
        one.end()
    return 0


class Client:
    """What one client has in hand."""

    def __init__(self, settings: Settings, client: int, first: int, asking: Asking) -> None:
        self.settings = settings
        self.asking = asking
        self.stopping = False
        self._client = client
        self._next = self._begun = first
        self._in_hand = 0
        self._ledger = os.open(
            settings.ledger(client), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
        )

    def note(self, record: str) -> None:
        """Into the ledger: it is there whatever becomes of this process."""
        os.write(self._ledger, f"\n{record};".encode())

    def end(self) -> None:
        """Everything that was begun is answered; the rest of the block was not begun."""
        self.note(f"+{self._next}")
        self.note(f"~revived {self.asking.revived}")

    async def run(self, group: anyio.abc.TaskGroup) -> None:
        """Begin operations at the rate; where too many are in hand, later."""
        each = self.settings.clients / self.settings.rate
        due = monotonic()
        while not self.stopping:
            now = monotonic()
            due = max(due, now - 1.0)  # what was missed for longer is not made up for
            while due <= now and self._in_hand < AT_ONCE:
                group.start_soon(self.until_answered, self._number())
                due += each
            await anyio.sleep(TICK_SECONDS)

    def _number(self) -> int:
        if self._next == self._begun:
            self._begun += BLOCK
            self.note(f"+{self._begun}")
        self._next += 1
        return self._client + self.settings.clients * (self._next - 1)

    async def until_answered(self, number: int) -> None:
        """Ask until there is an answer; the errors that say so may be asked again."""
        self._in_hand += 1
        began, random, answered = monotonic(), Random(number), False

        def done(answer: str) -> None:
            nonlocal answered
            mark = "=" if answered else ""
            self.note(f"{mark}{number} {answer} {(monotonic() - began) * 1_000:.1f}")
            answered = True

        try:
            while not answered:
                try:
                    await self.asking.perform(number, done)
                except* LOST as group:
                    name = type(_first(group)).__name__
                    self.note(f"~{name} 1")
                    await anyio.sleep(random.uniform(0.05, 0.5))
        finally:
            self._in_hand -= 1


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
