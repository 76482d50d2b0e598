"""What `update` answers, in the words of a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from stmflow.effect import And, Cancel, Catch, Effect, Perform, Sleep, Then, Together
from stmflow.schema import tag_of
from stmflow.workflow import Ignore, Impossible, Reject, Same, Workflow


class Answer(NamedTuple):
    """What `update` has answered, in the words of a table.

    Attributes:
        said: `→` (a next state), `=` (no change), `~` (ignored), `R:CODE` or `‼` (impossible).
        to: the tag of the next state. again: it begins another epoch.
        effects: names of tasks, of timers and of what is cancelled.
    """

    said: str
    to: str | None = None
    again: bool = False
    effects: tuple[str, ...] = ()

    def __str__(self) -> str:
        told = f"{self.said}{self.to or ''}{', epoch+1' if self.again else ''}"
        return f"{told} [{', '.join(self.effects)}]" if self.effects else told


def answered(workflow: Workflow, state: Any, answer: Any) -> Answer:
    """An answer of `update` in that state, in the words of a table."""
    if isinstance(answer, Reject):
        return Answer(f"R:{answer.code}")
    if isinstance(answer, (Same, Ignore, Impossible)):
        said = {Same: "=", Ignore: "~", Impossible: "‼"}[type(answer)]
        return Answer(said, effects=_names_of(workflow, answer.effects))
    if not (isinstance(answer, tuple) and len(answer) == 2):
        return Answer("no answer")  # the engine says what is wrong with it
    after, effects = answer
    again = state is not None and workflow.epoch_of(after) != workflow.epoch_of(state)
    return Answer("→", workflow.tag_of(after), again, _names_of(workflow, effects))


def _names_of(workflow: Workflow, effects: Any) -> tuple[str, ...]:
    """What they ask for, by name; what can be looked at only once is left to the engine."""
    effects = (effects,) if isinstance(effects, Effect) else effects
    effects = effects if isinstance(effects, (list, tuple)) else ()
    return tuple(dict.fromkeys(name for each in effects for name in _leaf_names(workflow, each)))


def _leaf_names(workflow: Workflow, effect: Any) -> Iterator[str]:
    match effect:
        case Perform():
            yield tag_of(type(effect.task))
        case Sleep(name=name):
            yield f"timer {name}" if name else "timer"
        case Cancel(name):
            yield f"cancel {name}"
        case Then(body=body) | Catch(body=body):
            yield from _leaf_names(workflow, body)
        case And(first, second):
            yield from _leaf_names(workflow, first)
            yield from _leaf_names(workflow, second)
        case Together(parts):
            for part in parts:
                yield from _leaf_names(workflow, part)


__all__ = ["Answer", "answered"]
