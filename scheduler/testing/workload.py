"""What runs in a world: your workflows and handlers, and what clients do with them.

class Parcels(Workload):
    app = App(workflows=[PARCEL], handlers={Ship: ship})

    async def act(self, client: Client) -> None:
        name = client.random.choice("abc")
        await client.send(PARCEL, Order(name))

campaign(Parcels, MemoryStore, seeds=range(1_000))
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

import anyio

from scheduler.worker import App
from stmflow.errors import StmflowError

if TYPE_CHECKING:
    from scheduler.testing.checks import Rest
    from scheduler.testing.client import Client


class Workload:
    """One is made for each world. Subclass it and say at least `app` and `act`.

    Attributes:
        app: what every process runs: the `App` that your workers are given. Its handlers must get
            time and chance from the world (`anyio.sleep`, `random` as given here), and their
            outside world must be in memory: then the seed determines all that happens.
        again: errors, beside those that every store may give, after which a client tries again.
    """

    app: App
    again: tuple[type[StmflowError], ...] = ()

    def __init__(self, random: Random) -> None:
        """Draw what shall differ from seed to seed; plain attributes are printed with the seed."""

    def __repr__(self) -> str:
        drawn = {name: value for name, value in vars(self).items() if _printed(value)}
        return f"{type(self).__name__}({drawn or ''})"

    def deployed(self, beside: Sequence[App]) -> App:
        """What a process runs that starts now, beside those that run these. Default: `app`."""
        return self.app

    async def prepare(self, client: Client) -> None:
        """What must be there before the first fault."""

    async def act(self, client: Client) -> None:
        """One thing that a client does. Draw from `client.random`; keep nothing from its answers
        that is not in the store too: processes crash, and answers get lost."""
        raise NotImplementedError(f"{type(self).__name__} does not say what a client does")

    async def live(self, client: Client) -> None:
        """The whole life of one client. Default: act, a drawn number of times."""
        for _ in range(client.operations):
            await anyio.sleep(client.random.random() * client.random.choice((0.0, 0.1, 2.0)))
            await self.act(client)

    def check(self, rest: Rest) -> Iterable[str]:
        """What is wrong with the world at rest, beside what is checked of every world."""
        return ()


def _printed(value: Any) -> bool:
    return isinstance(value, (int, str, bool))
