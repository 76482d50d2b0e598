"""Auth: guards, an invocation, a time limit. Three failures in a row, and somebody has to look."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final

from stmflow import Err
from stmflow.statechart import Chart, Go, Invoke, State, Stay

ATTEMPTS: Final = 3
LIMIT: Final = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Session:
    """`failed`: how often in a row. `who`: the DID that was proved."""

    user: str
    failed: int = 0
    who: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class LogIn:
    user: str


@dataclass(frozen=True, slots=True)
class Proved:
    did: str


@dataclass(frozen=True, slots=True)
class Refused:
    error: Err


@dataclass(frozen=True, slots=True)
class Authenticate:
    """The task: ask the provider who this is."""

    user: str


def fresh(event: LogIn, session: Session) -> Session:
    return replace(session, error="")


def anew(event: LogIn, session: Session) -> Session:
    return Session(session.user)


def known(event: Proved, session: Session) -> Session:
    return Session(session.user, who=event.did)


def last(event: Any, session: Session) -> bool:
    """Whether this failure is one too many: it counts itself."""
    return session.failed + 1 >= ATTEMPTS


def failed(event: Any, session: Session) -> Session:
    error = event.error.name if isinstance(event, Refused) else "Timeout"
    return replace(session, failed=session.failed + 1, error=error)


FAILURE: Final = (Go("error", when=last, do=failed), Go("idle", do=failed))

AUTH: Final = Chart(
    "auth",
    data=Session,
    start=lambda event: Session(event.user),
    events=(LogIn, Proved, Refused),
    tasks=(Authenticate,),
    key=("user",),
    states=(
        State("idle", on={LogIn: Go("authenticating", do=fresh)}),
        State(
            "authenticating",
            invoke=Invoke(
                lambda event, session: Authenticate(session.user), done=Proved, error=Refused
            ),
            after={LIMIT: FAILURE},
            on={LogIn: Stay(), Proved: Go("authenticated", do=known), Refused: FAILURE},
        ),
        State("authenticated"),
        State("error", on={LogIn: Go("authenticating", do=anew)}),
    ),
)
