"""A launch bay: a door, its atmosphere, airlocks and a battle deck, composed into one ship."""

from examples.spaceship.airlock import AskInner, AskOuter
from examples.spaceship.bay import Leak
from examples.spaceship.deck import ActiveRequested, ReadyRequested, RelaxedRequested
from examples.spaceship.workflow import (
    AIRLOCK,
    BAY,
    DECK,
    DOOR,
    TASKS,
    TRANSACTIONAL,
    WORKFLOWS,
    build,
)

__all__ = [
    "AIRLOCK",
    "BAY",
    "DECK",
    "DOOR",
    "TASKS",
    "TRANSACTIONAL",
    "WORKFLOWS",
    "ActiveRequested",
    "AskInner",
    "AskOuter",
    "Leak",
    "ReadyRequested",
    "RelaxedRequested",
    "build",
]
