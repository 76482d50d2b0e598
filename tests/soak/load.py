"""What the clients ask for: everything about an operation is drawn from the seed and its number.

So whoever knows the number and the answer knows what must have come of it, and a client that was
killed asks again in the very same words.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, Final, NamedTuple

import anyio
import httpx

from examples.bank.accounts import ACCOUNT, Open, transfer, waiting
from examples.store_add.model import Add, Cancel, Put, Receiving, Remove, Stored, Terms
from examples.store_add.workflow import STORE_ADD
from scheduler.handlers.archive import FolderShelf
from stmflow import CID, Answer, Transactor
from stmflow.archive import Reader
from stmflow.errors import Archived, DeadlineExceeded
from stmflow.registered import asked
from tests.soak.service import (
    ACCOUNTS,
    CALLS,
    OPENING,
    ORDER,
    RESTING,
    TRAYS,
    TREASURE,
    TREASURY,
    Fetch,
    Place,
    tray,
)
from tests.soak.settings import PAGES, Settings

ORDERS: Final = 1_000
"""Names of orders that are much asked for; as many again are seldom, and leave in between."""
SPACES: Final = 5
ITEMS: Final = 60
RAW: Final = 0x55


class Order(NamedTuple):
    place: Place
    watched: bool
    """Whether the client waits for the end, to tell how long it took."""


class Transfer(NamedTuple):
    source: int
    target: int
    amount: int


class Call(NamedTuple):
    """A transfer that waits for its money, and the money. `stored`: it waits as a row."""

    tray: int
    amount: int
    stored: bool


class Upload(NamedTuple):
    space: int
    item: int
    end: str
    """claimed, removed, cancelled, or left alone."""


Operation = Order | Transfer | Call | Upload


def operation(settings: Settings, number: int) -> Operation:
    """The operation of that number."""
    random = Random(f"{settings.seed}/{number}")
    kind = random.random()
    if settings.bucket is not None and kind < 0.02:
        ends = ("claimed", "claimed", "claimed", "removed", "removed", "cancelled", "left alone")
        return Upload(random.randrange(SPACES), random.randrange(ITEMS), random.choice(ends))
    if kind < 0.08:
        return Call(random.randrange(TRAYS), random.randint(1, 50), random.random() < 0.7)
    if kind < 0.30:
        source, target = random.sample(range(ACCOUNTS), 2)
        return Transfer(source, target, random.randint(1, 300))
    seldom = random.random() < 0.02
    place = Place(
        random.randrange(ORDERS) + ORDERS * seldom,
        number,
        random.randint(1, 16_000),
        random.randint(100, 3_000),
        random.random() < 0.5,
    )
    return Order(place, number % 16 == 0)


def item(settings: Settings, number: int) -> bytes:
    """The bytes of that item."""
    random = Random(f"{settings.seed}/item/{number}")
    return random.randbytes(random.randint(1, 20_000))


def account(number: int) -> Any:
    """An account among those between which transfers are made."""
    return ACCOUNT.job(f"account {number}")


async def opening(transactor: Transactor) -> None:
    """Open all accounts, before the first operation."""
    for number in range(ACCOUNTS):
        await transactor.send(ACCOUNT, Open(f"account {number}", OPENING), delivery="open")
    for number in range(TRAYS):
        await transactor.send(ACCOUNT, Open(f"tray {number}"), delivery="open")
    await transactor.send(ACCOUNT, Open("treasury", TREASURE), delivery="open")


class Asking:
    """How a client asks: whatever is asked twice is asked under the same delivery ids."""

    def __init__(self, settings: Settings, transactor: Transactor, http: httpx.AsyncClient) -> None:
        self._settings = settings
        self._transactor = transactor
        self._http = http
        shelf = FolderShelf(settings.archive)
        self._archive = Reader(transactor.store, shelf, pages=PAGES, indexes=PAGES)
        self.revived = 0

    async def perform(self, number: int, done: Callable[[str], None]) -> None:
        """Ask for the operation of that number; `done` is told the answer when it is durable.

        Raises:
            Unavailable, Indeterminate, Busy, ConflictsExhausted: ask again.
        """
        match operation(self._settings, number):
            case Order() as order:
                await self._order(order, number, done)
            case Transfer(source, target, amount):
                jobs = account(source), account(target)
                done(
                    await self._transactor.transact(
                        transfer(*jobs, amount),
                        at=jobs[0],
                        delivery=f"{number}",
                        keep_until=self._until(),
                        reads=jobs,
                    )
                )
            case Call() as call:
                await self._call(call, number)
                done("called")
            case Upload() as upload:
                with anyio.move_on_after(60):  # asked again later; here it is not waited for ever
                    await self._upload(upload, number)
                done("uploaded")

    def _until(self) -> int:
        """How long a delivery of now is known: retention forgets it by a clock that is ahead."""
        known_ms = self._settings.ahead_ms + self._settings.answer_ms
        return self._transactor.clock.now() + known_ms

    async def _send(self, workflow: Any, event: Any, delivery: str) -> Answer:
        """A job that has left is brought back, as a service does that lets them leave."""

        async def send() -> Answer:
            return await self._transactor.send(
                workflow, event, delivery=delivery, keep_until=self._until()
            )

        answer: Answer = await self._reviving(send)
        return answer

    async def _reviving(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        while True:
            try:
                return await ask()
            except Archived as error:
                await self._archive.revive(error.job)
                self.revived += 1

    async def _order(self, order: Order, number: int, done: Callable[[str], None]) -> None:
        answer = await self._send(ORDER, order.place, f"{number}")
        done("placed" if answer.committed else answer.code or answer.kind)
        if answer.committed and order.watched and not answer.repeated:
            job = ORDER.job(order.place.order)

            def past(state: Any) -> bool:
                return state.placed.number != number or state.status in RESTING

            await self._reviving(lambda: self._transactor.wait(job, past, timeout=60))
            done("rested")

    async def _call(self, call: Call, number: int) -> None:
        """Fetch and give at once: the fetching waits for the money, or finds it."""
        source = tray(call.tray)

        async def give() -> None:
            await self._transactor.transact(
                transfer(TREASURY, source, call.amount),
                at=source,
                delivery=f"give {number}",
                keep_until=self._until(),
            )

        async with anyio.create_task_group() as group:
            group.start_soon(give)
            if call.stored:
                wish = asked(f"{number}", Fetch(call.tray, call.amount))
                await self._send(CALLS, wish, f"{number}")
            else:
                await self._transactor.transact(
                    waiting(transfer(source, TREASURY, call.amount)),
                    at=source,
                    delivery=f"fetch {number}",
                    keep_until=self._until(),
                )

    async def _upload(self, upload: Upload, number: int) -> None:
        """Add, put, claim; or change one's mind. Nothing that S3 says is an error here."""
        data = item(self._settings, upload.item)
        link, space = CID.of(data, RAW), f"space {upload.space}"
        terms = Terms(self._settings.window_ms, self._settings.skew_ms)
        add = Add(space, link, len(data), terms=terms)
        answer = await self._send(STORE_ADD, add, f"add {number}")
        if answer.job is None or answer.rejected:
            return
        job = STORE_ADD.job(space, link.multihash)
        try:
            head = await self._transactor.wait(job, _ready, timeout=30)
            target = head.state.window.target if isinstance(head.state, Receiving) else None
            if target is not None and upload.end in ("claimed", "removed"):
                if not await self._put(target.url, dict(target.headers), data):
                    return
                await self._send(STORE_ADD, Put(space, link), f"put {number}")
                await self._transactor.wait(job, _ended, timeout=30)
        except (DeadlineExceeded, Archived):
            return
        if upload.end == "removed":
            await self._send(STORE_ADD, Remove(space, link), f"remove {number}")
        elif upload.end == "cancelled":
            await self._send(STORE_ADD, Cancel(space, link), f"cancel {number}")

    async def _put(self, url: str, headers: dict[str, str], data: bytes) -> bool:
        try:
            response = await self._http.put(url, content=data, headers=headers)
        except httpx.HTTPError:
            return False
        return response.is_success


def _ready(state: Any) -> bool:
    if isinstance(state, Receiving):
        return state.window.target is not None
    return _ended(state)


def _ended(state: Any) -> bool:
    return isinstance(state, Stored) or state.tag in ("idle", "exceeded", "expired", "failed")
