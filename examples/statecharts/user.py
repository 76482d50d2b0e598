"""User: a hierarchy. Whoever is logged in has a desk, two forms, and one draft that is saved."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from stmflow import CID, Err
from stmflow.statechart import Act, Chart, Go, History, Invoke, Refuse, State, Stay


@dataclass(frozen=True, slots=True)
class Desk:
    """`draft`: what was last to be saved, and by which form."""

    user: str
    form: str = ""
    draft: CID | None = None


@dataclass(frozen=True, slots=True)
class LogIn:
    user: str


@dataclass(frozen=True, slots=True)
class LogOut:
    user: str


@dataclass(frozen=True, slots=True)
class EditProfile:
    user: str


@dataclass(frozen=True, slots=True)
class ChangePassword:
    user: str


@dataclass(frozen=True, slots=True)
class Save:
    user: str
    draft: CID


@dataclass(frozen=True, slots=True)
class Cancel:
    user: str


@dataclass(frozen=True, slots=True)
class Retry:
    user: str


@dataclass(frozen=True, slots=True)
class Dismiss:
    user: str


@dataclass(frozen=True, slots=True)
class Success:
    pass


@dataclass(frozen=True, slots=True)
class Failure:
    error: Err


@dataclass(frozen=True, slots=True)
class Store:
    """The task: keep a draft as the user's profile or password."""

    user: str
    form: str
    draft: CID


def keep(form: str) -> Act:
    return lambda event, desk: replace(desk, form=form, draft=event.draft)


def clean(event: object, desk: Desk) -> Desk:
    return Desk(desk.user)


REFUSED: Final = Refuse("NotNow")

USER: Final = Chart(
    "user",
    data=Desk,
    start=lambda event: Desk(event.user),
    events=(
        LogIn,
        LogOut,
        EditProfile,
        ChangePassword,
        Save,
        Cancel,
        Retry,
        Dismiss,
        Success,
        Failure,
    ),
    tasks=(Store,),
    key=("user",),
    on=dict.fromkeys((EditProfile, ChangePassword, Save, Cancel, Retry, Dismiss), REFUSED),
    states=(
        State("unauthenticated", on={LogIn: "authenticated", LogOut: Stay()}),
        State(
            "authenticated",
            on={LogIn: Stay(), LogOut: Go("unauthenticated", do=clean)},
            states=(
                State("idle", on={EditProfile: "editing", ChangePassword: "changing"}),
                State(
                    "form",
                    on={Cancel: "idle"},
                    states=(
                        State(
                            "editing",
                            on={EditProfile: Stay(), Save: Go("saving", do=keep("profile"))},
                        ),
                        State(
                            "changing",
                            on={ChangePassword: Stay(), Save: Go("saving", do=keep("password"))},
                        ),
                        History("last_form", default="editing"),
                    ),
                ),
                State(
                    "saving",
                    invoke=Invoke(
                        lambda event, desk: Store(desk.user, desk.form, desk.draft),
                        done=Success,
                        error=Failure,
                    ),
                    on={Save: Stay(), Success: Go("idle", do=clean), Failure: "error"},
                ),
                State("error", on={Retry: "saving", Dismiss: "last_form"}),
            ),
        ),
    ),
)
