"""Fetch: one request at a time, that can be given up and tried again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from stmflow import Err
from stmflow.statechart import Chart, Go, Invoke, Refuse, State, Stay


@dataclass(frozen=True, slots=True)
class Page:
    url: str
    text: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Fetch:
    url: str


@dataclass(frozen=True, slots=True)
class Retry:
    url: str


@dataclass(frozen=True, slots=True)
class Reset:
    url: str


@dataclass(frozen=True, slots=True)
class Success:
    text: str


@dataclass(frozen=True, slots=True)
class Failure:
    error: Err


@dataclass(frozen=True, slots=True)
class Load:
    """The task: get what is at `url`."""

    url: str


def show(event: Success, page: Page) -> Page:
    return replace(page, text=event.text)


def blame(event: Failure, page: Page) -> Page:
    return replace(page, error=event.error.name)


def blank(event: Reset, page: Page) -> Page:
    return Page(page.url)


FETCH: Final = Chart(
    "fetch",
    data=Page,
    start=lambda event: Page(event.url),
    events=(Fetch, Retry, Reset, Success, Failure),
    tasks=(Load,),
    key=("url",),
    on={Retry: Refuse("NothingFailed"), Reset: Go("idle", do=blank)},
    states=(
        State("idle", on={Fetch: "loading", Reset: Stay()}),
        State(
            "loading",
            entry=lambda event, page: Page(page.url),
            invoke=Invoke(lambda event, page: Load(page.url), done=Success, error=Failure),
            on={
                Fetch: Stay(),
                Success: Go("success", do=show),
                Failure: Go("error", do=blame),
            },
        ),
        State("success", on={Fetch: "loading"}),
        State("error", on={Fetch: Refuse("Failed"), Retry: "loading"}),
    ),
)
