"""The tests that a user would write of the four charts: every cell that matters, no database."""

from __future__ import annotations

import pytest

from examples.statecharts import auth, fetch, player, user
from examples.statecharts.auth import AUTH
from examples.statecharts.check import CHECKS, DRAFT
from examples.statecharts.fetch import FETCH
from examples.statecharts.player import PLAYER
from examples.statecharts.user import USER
from stmflow.check import Check, prove
from stmflow.testing import Trace

# --- proved -------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: str(check.name))
def test_every_configuration_is_reached_and_no_other(check: Check) -> None:
    report = prove(check)
    assert report.holds, (report.wrong, report.unreached)


def test_how_many_configurations_there_are() -> None:
    counts = {c.workflow.name: len(c.configurations()) for c in (PLAYER, USER, FETCH, AUTH)}
    assert counts == {"player": 12, "user": 6, "fetch": 4, "auth": 4}


# --- fetch --------------------------------------------------------------------------------------


def fetching() -> Trace:
    return Trace(FETCH.workflow).send(fetch.Fetch("u"))


def test_a_page_is_loaded() -> None:
    page = fetching()
    assert page.ready == [fetch.Load("u")]
    assert page.succeed(fetch.Load, "text").state.data == fetch.Page("u", text="text")
    assert page.tag == "success"


def test_an_answer_that_comes_after_a_reset_is_not_that_of_the_next_try() -> None:
    page = fetching()
    (old,) = page.outbox
    page.send(fetch.Reset("u")).send(fetch.Fetch("u"))
    assert page.succeed(old, "old").answer.kind == "closed"
    assert page.tag == "loading"
    assert page.succeed(fetch.Load, "new").state.data.text == "new"


def test_retry_is_for_failures_alone() -> None:
    page = fetching()
    assert page.send(fetch.Retry("u")).refused == "NothingFailed"
    page.fail(fetch.Load, "Broken")
    assert (page.tag, page.state.data.error) == ("error", "Broken")
    assert page.send(fetch.Fetch("u")).refused == "Failed"
    assert page.send(fetch.Retry("u")).tag == "loading"
    assert page.state.data.error == ""


# --- user ---------------------------------------------------------------------------------------


def desk(*events: object) -> Trace:
    trace = Trace(USER.workflow).send(user.LogIn("u"))
    for event in events:
        trace.send(event)
    return trace


def test_nobody_is_logged_in_at_first() -> None:
    trace = Trace(USER.workflow)
    assert trace.send(user.EditProfile("u")).refused == "NotNow"
    assert trace.head is None


@pytest.mark.parametrize(
    ("open_", "leaf", "form"),
    [
        (user.EditProfile("u"), "editing", "profile"),
        (user.ChangePassword("u"), "changing", "password"),
    ],
)
def test_a_draft_that_failed_is_saved_again_or_edited_on(
    open_: object, leaf: str, form: str
) -> None:
    trace = desk(open_, user.Save("u", DRAFT))
    assert trace.ready == [user.Store("u", form, DRAFT)]
    trace.fail(user.Store, "Broken").send(user.Retry("u"))
    assert trace.ready == [user.Store("u", form, DRAFT)]
    trace.fail(user.Store, "Broken").send(user.Dismiss("u"))
    assert (trace.tag, trace.state.data.draft) == (leaf, DRAFT)


def test_whoever_logs_out_saves_nothing() -> None:
    trace = desk(user.EditProfile("u"), user.Save("u", DRAFT), user.LogOut("u"))
    assert (trace.tag, trace.ready, trace.state.data.draft) == ("unauthenticated", [], None)


# --- player -------------------------------------------------------------------------------------


def test_a_button_moves_its_region_alone() -> None:
    trace = Trace(PLAYER.workflow).send(player.Play("s"))
    assert trace.send(player.Mute("s")).state.active == ("playing", "muted", "windowed")
    assert trace.send(player.Mute("s")).answer.kind == "no change"
    assert trace.send(player.Fullscreen("s")).tag == "playing+muted+fullscreen"


def test_one_configuration_is_one_block_whatever_led_there() -> None:
    one = Trace(PLAYER.workflow).send(player.Play("s")).send(player.Mute("s"))
    other = Trace(PLAYER.workflow).send(player.Mute("s")).send(player.Play("s"))
    assert one.head is not None
    assert other.head is not None
    assert one.head.state_cid == other.head.state_cid


# --- auth ---------------------------------------------------------------------------------------


def session() -> Trace:
    return Trace(AUTH.workflow).send(auth.LogIn("u"))


def test_as_many_attempts_as_there_are_and_then_an_error() -> None:
    trace = session()
    for left in range(auth.ATTEMPTS - 1, -1, -1):
        trace.fail(auth.Authenticate, "Refused")
        assert trace.tag == ("idle" if left else "error")
        trace.send(auth.LogIn("u"))
    assert (trace.tag, trace.state.data.failed) == ("authenticating", 0)


@pytest.mark.parametrize(("ms", "tag"), [(-1, "authenticating"), (0, "idle"), (1, "idle")])
def test_a_provider_that_says_nothing_has_failed(ms: int, tag: str) -> None:
    trace = session().pass_time(until=int(auth.LIMIT.total_seconds() * 1_000) + ms)
    assert trace.tag == tag
    assert trace.state.data.error == ("" if ms < 0 else "Timeout")


def test_whoever_is_proved_is_known() -> None:
    trace = session().succeed(auth.Authenticate, "did:key:z")
    assert trace.state.data == auth.Session("u", who="did:key:z")
    assert trace.timers == []
    assert trace.send(auth.LogIn("u")).answer.kind == "ignored"
