"""The push service step by step: the tests that a user writes, and what is proved of it."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from examples.gateway import callback, channel, command, connection
from examples.gateway.callback import Replied
from examples.gateway.check import CHECKS
from examples.gateway.demo import SECRET, Lobby, signed
from examples.gateway.managed import Managed, Quirks
from examples.gateway.model import CHANNELS, MEMBERS, PAGE, QUEUE, Call, Do, Terms
from examples.gateway.service import service
from examples.gateway.web import for_app
from examples.gateway.workflow import (
    CALLBACK,
    CHANNEL,
    COMMAND,
    CONNECTION,
    TASKS,
    TRANSACTIONAL,
    WORKFLOWS,
)
from stmflow import Tx
from stmflow.check import Check, prove
from stmflow.store.memory import MemoryStore
from stmflow.store.sqlite import SQLiteStore
from stmflow.testing import Trace

HI = Do("send", text="hi")
SUBSCRIBE, PUBLISH = Do("subscribe", "foo"), Do("publish", "foo", "hi")


class Push:
    """One connection, played by hand."""

    def __init__(self, name: str = "c", terms: Terms | None = None) -> None:
        self.name = name
        others = [one for one in WORKFLOWS if one is not CONNECTION]
        self.line = Trace(CONNECTION, others=others, transactional=TRANSACTIONAL, tasks=TASKS)
        self.line.send(connection.Connect(name, terms or Terms()))

    def callback(self, n: int = 1) -> Trace:
        return self.line.job(CALLBACK.job(self.name, n))

    def command(self, n: int) -> Trace:
        return self.line.job(COMMAND.job(self.name, n))

    def ask(self, *commands: Do) -> Trace:
        return self.line.send(connection.Control(self.name, commands))

    def accept(self, *commands: Do, close: bool = False) -> Push:
        said = Replied(commands=commands, close=close)
        self.callback().succeed(callback.Ask, said.outcome())
        return self

    def open(self) -> Push:
        """The next probe finds it open."""
        self.line.succeed(connection.Probe)
        return self

    def members(self, name: str = "foo") -> tuple[str, ...]:
        state = self.line.job(CHANNEL.job(name)).state
        return () if state is None else state.members


def labels(push: Push, last: int) -> list[str | None]:
    return [push.command(n).tag for n in range(1, last + 1)]


# --- accept, subscribe, publish -------------------------------------------------------------------


def test_a_new_connection_gets_what_is_published_before_it_is_open() -> None:
    push = Push().accept(SUBSCRIBE, PUBLISH)
    push.line.fail(connection.Probe, "Gone")
    assert (push.line.tag, labels(push, 2)) == ("accepted", ["queued", "queued"])
    push.line.pass_time(seconds=1)
    push.open()
    assert (push.line.tag, labels(push, 2)) == ("open", ["sending", "queued"])
    push.command(1).run(command.Edit)
    assert push.members() == ("c",)
    push.command(2).run(command.FanOut)
    assert labels(push, 3) == ["delivered", "delivered", "sending"]
    assert push.command(3).ready == [command.Post("c", 3, "hi")]
    push.command(3).succeed(command.Post)
    assert (push.command(3).tag, push.line.state.line.done) == ("delivered", 3)


def test_a_message_of_the_client_proves_that_it_is_open() -> None:
    push = Push().accept(HI)
    push.line.send(connection.Frame("c", "hey"))
    assert (push.line.tag, push.command(1).tag) == ("open", "sending")
    assert push.callback(2).ready == [callback.Ask(Call("c", 2, "message", "hey"))]
    push.line.fail(connection.Probe, "Gone")  # it was asked before
    assert push.line.tag == "open"


def test_commands_wait_for_each_other() -> None:
    push = Push().accept(HI).open()
    push.ask(HI, HI)
    assert labels(push, 3) == ["sending", "queued", "queued"]
    push.command(1).succeed(command.Post)
    assert labels(push, 3) == ["delivered", "sending", "queued"]
    push.command(2).fail(command.Post, "Exhausted")
    assert labels(push, 3) == ["delivered", "dropped", "sending"]
    assert push.command(2).state.why == "Unknown"


def test_what_was_asked_for_before_a_close_is_done_first() -> None:
    push = Push().accept(HI, close=True).open()
    assert push.line.tag == "open"
    assert push.ask(HI).refused == "Closing"
    push.command(1).succeed(command.Post)
    assert (push.line.tag, push.line.ready) == ("closing", [connection.Delete("c")])
    push.line.succeed(connection.Delete)
    assert (push.line.tag, push.line.state.why) == ("closed", "Asked")


# --- what ends ------------------------------------------------------------------------------------


def test_an_end_drops_unindexes_and_is_told_in_one_commit() -> None:
    push = Push().accept(SUBSCRIBE, HI, HI).open()
    push.command(1).run(command.Edit)
    push.command(2).fail(command.Post, "Gone")
    assert (push.line.tag, push.line.state.why) == ("closed", "Gone")
    assert [push.command(n).state.why for n in (1, 2, 3)] == ["", "Gone", "Gone"]
    assert push.members() == ()
    assert push.callback(2).ready == [callback.Ask(Call("c", 2, "close"))]
    jobs = [push.line, push.command(2), push.command(3), push.line.job(CHANNEL.job("foo"))]
    assert len({job.history[-1].revision for job in jobs}) == 1


@pytest.mark.parametrize("late", [False, True])
def test_an_app_that_refuses_or_is_silent(late: bool) -> None:
    push = Push()
    push.ask(HI)
    if late:
        push.line.pass_time(seconds=10)
    else:
        push.callback().fail(callback.Ask, "TimedOut")
    why = "Timeout" if late else "Refused"
    assert (push.line.tag, push.line.state.why) == ("rejected", why)
    assert (push.command(1).tag, push.command(1).state.why) == ("dropped", why)
    assert push.ask(HI).refused == "Rejected"
    assert push.line.send(connection.Connect("c")).refused == "Reused"


def test_who_accepts_too_late_is_told_of_the_end() -> None:
    push = Push()
    push.line.send(connection.Disconnect("c"))
    push.accept(HI)
    assert push.callback(0).ready == [callback.Ask(Call("c", 0, "close"))]
    assert push.command(1).state is None


def test_a_gateway_that_takes_too_long() -> None:
    push = Push().accept(HI)
    push.line.fail(connection.Probe, "Gone").pass_time(seconds=15)
    assert (push.line.tag, push.line.state.why) == ("closed", "Timeout")
    assert push.command(1).state.why == "Timeout"
    push.line.send(connection.Frame("c", "hey"))  # it has opened it after all
    assert push.line.ready == [connection.Probe("c"), connection.Delete("c")]


def test_nothing_is_known_of_a_stranger() -> None:
    line = Trace(CONNECTION, others=WORKFLOWS[1:], transactional=TRANSACTIONAL)
    assert line.send(connection.Control("c", (HI,))).refused == "NotFound"
    assert line.send(connection.Frame("c", "hey")).refused == "Unknown"
    assert line.send(connection.Disconnect("c")).answer.kind == "ignored"
    assert line.state is None


# --- probes and callbacks -------------------------------------------------------------------------


def test_a_pause_is_as_long_as_was_waited_but_no_longer_than_an_interval() -> None:
    push = Push(terms=Terms(first_ms=10, probe_ms=100, grace_ms=500)).accept()
    began, at = push.line.now, []
    while push.line.ready:
        at.append(push.line.now - began)
        push.line.fail(connection.Probe, "Gone")
        due = min((one.due for one in push.line.timers if one.name == "probe"), default=None)
        if due is not None:
            push.line.pass_time(until=due)
    assert at == [0, 10, 20, 40, 80, 160, 260, 360, 460]
    assert [one.name for one in push.line.timers] == ["grace"]


def test_a_message_is_told_again_a_few_times_while_the_connection_lasts() -> None:
    push = Push(terms=Terms(tries=3, retry_ms=1_000)).accept().open()
    push.line.send(connection.Frame("c", "hey"))
    told = push.callback(2)
    for seconds in (1, 2):
        told.fail(callback.Ask, "TimedOut")
        assert (told.tag, told.timers[0].due - told.now) == ("waiting", seconds * 1_000)
        told.pass_time(seconds=seconds)
    assert told.fail(callback.Ask, "TimedOut").tag == "failed"
    push.line.send(connection.Frame("c", "ho"))
    told = push.callback(3).fail(callback.Ask, "TimedOut")
    push.line.send(connection.Disconnect("c"))
    assert told.pass_time(seconds=1).tag == "void"
    end = push.callback(4).fail(callback.Ask, "TimedOut").pass_time(seconds=1)
    assert end.tag == "running"


# --- bounds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("waiting", "refused"), [(QUEUE - 1, None), (QUEUE, "Full")])
def test_so_many_commands_may_wait(waiting: int, refused: str | None) -> None:
    push = Push()
    push.ask(*[HI] * waiting)
    assert push.ask(HI).refused == refused
    assert push.line.state.line.asked == QUEUE


@pytest.mark.parametrize(("had", "why"), [(CHANNELS - 1, ""), (CHANNELS, "Full")])
def test_a_connection_may_have_so_many_channels(had: int, why: str) -> None:
    push = Push().accept().open()
    for n in range(had):
        push.line.transact(subscribed(push, f"foo {n}"))
    push.ask(SUBSCRIBE)
    push.command(1).run(command.Edit)
    assert push.command(1).state.why == why
    assert push.members() == (() if why else ("c",))


def subscribed(push: Push, name: str) -> Any:
    def body(tx: Tx) -> None:
        tx.apply(CONNECTION.job(push.name), connection.Subscribed(name))
        tx.apply(CHANNEL.job(name), channel.Join(name, push.name))

    return body


@pytest.mark.parametrize(("had", "why"), [(MEMBERS - 1, ""), (MEMBERS, "Full")])
def test_a_channel_may_have_so_many_members(had: int, why: str) -> None:
    members = tuple(f"m{n:04}" for n in range(had))
    after = channel.update(channel.Join("foo", "z"), channel.Channel("foo", members))
    assert getattr(after, "code", "") == why


@pytest.mark.parametrize("members", [PAGE - 1, PAGE, PAGE + 1])
def test_a_publish_reaches_everybody_page_by_page(members: int) -> None:
    push = Push().accept().open()
    for n in range(members - 1):
        push.line.transact(joined(f"m{n:03}"))
    push.line.transact(subscribed(push, "foo"))
    push.ask(PUBLISH)
    pages = 0
    while push.command(1).tag == "sending":
        push.command(1).run(command.FanOut)
        pages += 1
    assert (pages, push.command(1).state.reached) == (1 + (members > PAGE), members)
    assert push.command(2).tag == "sending"


def joined(name: str) -> Any:
    """Another connection, open and in the channel."""

    def body(tx: Tx) -> None:
        job = CONNECTION.job(name)
        tx.apply(job, connection.Connect(name))
        tx.apply(job, connection.Accept())
        tx.apply(job, connection.Confirmed())
        tx.apply(job, connection.Subscribed("foo"))
        tx.apply(CHANNEL.job("foo"), channel.Join("foo", name))

    return body


# --- the service ----------------------------------------------------------------------------------


async def test_a_service_that_is_started_again_goes_on(tmp_path: Path) -> None:
    """The app has accepted, the gateway has not opened it yet, and nobody is there for a while."""
    gateway, heard = Managed(Quirks(), Random(1)), list[str]()

    async def hear(text: str) -> None:
        heard.append(text)

    async with SQLiteStore.open(tmp_path / "push.db") as store:
        async with service(store, gateway, Lobby()) as push:
            gateway.service = push
            assert await gateway.admit("c") == 200
        gateway.open("c", hear, lambda: None)
        async with service(store, gateway, Lobby()) as push:
            await push.ended("c", 3, timeout=60)
            assert await push.members("lobby") == ("c",)
    assert heard == ["c has joined"]


async def test_what_the_gateway_is_answered() -> None:
    class Choosy(Lobby):
        async def call(self, call: Call) -> Replied:
            return Replied(accept=call.connection == "c")

    gateway = Managed(Quirks(), Random(1))
    async with service(MemoryStore(), gateway, Choosy()) as push:
        assert [await push.connect(name) for name in ("c", "d")] == [200, 403]
        assert [await push.connect(name) for name in ("c", "d")] == [200, 403]
        await push.disconnect("c")
        assert await push.connect("c") == 403


# --- over HTTP ------------------------------------------------------------------------------------


async def test_what_the_app_is_answered() -> None:
    gateway = Managed(Quirks(), Random(1))
    async with service(MemoryStore(), gateway, Lobby()) as push:
        gateway.service = push
        api = httpx.ASGITransport(for_app(push, SECRET))
        async with httpx.AsyncClient(transport=api, base_url="http://push") as client:

            async def ask(path: str, body: Any, key: str = "") -> tuple[int, Any]:
                answer = await client.post(path, **signed("POST", path, body, key))
                return answer.status_code, json.loads(answer.content or b"null")

            commands, hi = "/connections/c/commands", [{"verb": "send", "text": "hi"}]
            assert await ask(commands, hi) == (404, {"refused": "NotFound"})
            assert await gateway.admit("c") == 200
            first = await ask(commands, hi, "k")
            assert first == (202, {"numbers": [3]})  # after those of the lobby
            assert await ask(commands, hi, "k") == first
            assert (await ask(commands, [{"verb": "shout"}]))[0] == 400
            assert (await ask(commands, hi * (QUEUE + 1)))[0] == 400
            assert (await ask(commands, hi * QUEUE))[0] == 429
            unsigned = await client.post(commands, json=hi)
            assert unsigned.status_code == 401
            await gateway.ended("c")
            assert await ask(commands, hi) == (410, {"refused": "Gone"})


# --- proved ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_it_is_proved(check: Check) -> None:
    report = prove(check)
    assert (report.wrong, report.unreached, report.vacuous) == ([], [], [])
    counted = f"| {len(report.graph.states):,} | {report.graph.steps:,} |"
    assert counted in Path(__file__).with_name("README.md").read_text()
