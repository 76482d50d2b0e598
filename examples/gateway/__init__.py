"""A push service behind a managed websocket gateway: connections, callbacks, commands, channels."""

from examples.gateway.callback import Replied
from examples.gateway.model import Call, Do, Terms
from examples.gateway.workflow import (
    CALLBACK,
    CHANNEL,
    COMMAND,
    CONNECTION,
    TASKS,
    TRANSACTIONAL,
    WORKFLOWS,
)

__all__ = [
    "CALLBACK",
    "CHANNEL",
    "COMMAND",
    "CONNECTION",
    "TASKS",
    "TRANSACTIONAL",
    "WORKFLOWS",
    "Call",
    "Do",
    "Replied",
    "Terms",
]
