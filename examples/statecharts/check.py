"""What is proved of the four charts, on the workflows that they compile to.

    stmflow check examples.statecharts

Of each: every legal configuration is reached and no other, what was invoked ends with its state,
and whatever waits for an outcome gets out of there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from examples.statecharts import auth, fetch, player, user
from examples.statecharts.auth import AUTH
from examples.statecharts.fetch import FETCH
from examples.statecharts.player import PLAYER
from examples.statecharts.user import USER
from stmflow import CID, Err, Job, Sleep
from stmflow.check import Check, Property, Send, View, always, leads_to
from stmflow.statechart import Chart
from stmflow.statechart.proof import reached

DRAFT: Final = CID.of(b"draft", 0x55)


def attempt(*values: Any) -> Any:
    """A handler that may answer any of these, or fail."""
    return lambda task, world: [*((value, world) for value in values), (Err("Broken"), world)]


def only_while(chart: Chart, job: Job, state: str) -> Property:
    """Tasks and timers are open exactly while the state that asked for them is active."""

    def fits(view: View) -> bool:
        return bool(view.open(job)) == chart.inside(view.state(job), state)

    return always(f"something is under way exactly in {state!r}", fits)


def ends(chart: Chart, job: Job, state: str) -> Property:
    """Whatever enters that state leaves it again."""

    def inside(view: View) -> bool:
        return chart.inside(view.state(job), state)

    return leads_to(f"{state!r} comes to an end", inside, lambda view: not inside(view))


def of(chart: Chart, job: Job, events: Iterable[Any], **how: Any) -> Check:
    """A check in which these events may come at any time, again and again."""
    properties = [*reached(chart, job), *how.pop("properties", ())]
    times = how.pop("times", None)
    return Check(
        [chart.workflow],
        name=chart.workflow.name,
        sends=[Send(event, times, job) for event in events],
        properties=properties,
        **how,
    )


PAGE: Final = FETCH.workflow.job("u")
DESK: Final = USER.workflow.job("u")
SCREEN: Final = PLAYER.workflow.job("s")
SESSION: Final = AUTH.workflow.job("u")


def in_bounds(view: View) -> bool:
    state = view.state(SESSION)
    return state is None or state.data.failed <= auth.ATTEMPTS


def timed(view: View) -> bool:
    """The time limit waits exactly while the provider is asked."""
    sleeping = any(isinstance(task, Sleep) for task in view.open(SESSION))
    return sleeping == AUTH.inside(view.state(SESSION), "authenticating")


CHECKS: Final = (
    of(
        FETCH,
        PAGE,
        [fetch.Fetch("u"), fetch.Retry("u"), fetch.Reset("u")],
        handlers={fetch.Load: attempt("text")},
        properties=[only_while(FETCH, PAGE, "loading"), ends(FETCH, PAGE, "loading")],
    ),
    of(
        USER,
        DESK,
        [
            user.LogIn("u"),
            user.LogOut("u"),
            user.EditProfile("u"),
            user.ChangePassword("u"),
            user.Save("u", DRAFT),
            user.Cancel("u"),
            user.Retry("u"),
            user.Dismiss("u"),
        ],
        handlers={user.Store: attempt(None)},
        properties=[only_while(USER, DESK, "saving"), ends(USER, DESK, "saving")],
    ),
    of(PLAYER, SCREEN, [button("s") for button in player.BUTTONS]),
    of(
        AUTH,
        SESSION,
        [auth.LogIn("u")],
        times=5,
        handlers={auth.Authenticate: attempt("did:key:z")},
        properties=[
            only_while(AUTH, SESSION, "authenticating"),
            ends(AUTH, SESSION, "authenticating"),
            always("no more failures than attempts", in_bounds),
            always("the time limit is armed while it may pass", timed),
        ],
    ),
)
