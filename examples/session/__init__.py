"""A session that outlives its wires: numbered messages, acknowledged, sent again after a break."""

from examples.session.client import CLIENT
from examples.session.model import Close, Connect, Deliver, Post, Shaken, Terms
from examples.session.server import SERVER

__all__ = ["CLIENT", "SERVER", "Close", "Connect", "Deliver", "Post", "Shaken", "Terms"]
