"""Rolling out a version of a workflow: replay check, canary, promotion, steps, revert."""

from __future__ import annotations

from examples.rollout.handlers import POLICIES, chooser, handlers, moving
from examples.rollout.model import Health, Promote, Revert, Rollout, Spec, Start, flaws
from examples.rollout.workflow import ROLLOUT

__all__ = [
    "POLICIES",
    "ROLLOUT",
    "Health",
    "Promote",
    "Revert",
    "Rollout",
    "Spec",
    "Start",
    "chooser",
    "flaws",
    "handlers",
    "moving",
]
