"""Leader election, after Raft, and what a service should take in its place: a lease."""

from __future__ import annotations

from examples.election.workflow import MESSAGES, NODE, Joined, Led, Node, Stand, VoteAsked, Voted

app = (NODE,)

__all__ = ["MESSAGES", "NODE", "Joined", "Led", "Node", "Stand", "VoteAsked", "Voted", "app"]
