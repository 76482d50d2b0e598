"""The ASGI application: content types, sizes, turns, browsers, and what UCAN 1.0 is told."""

from __future__ import annotations

from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from capabilities import DID
from capabilities.service import Asked, Ok, Reads, Result, application
from capabilities.ucan1 import container, delegation, invocation
from capabilities.ucan1.delegation import Delegation
from capabilities.ucan1.invocation import Invocation
from capabilities.ucanto import message, receipt
from stmflow import CID, LIMITS, Transactor
from stmflow.errors import Busy, Unavailable
from stmflow.store.memory import MemoryStore
from tests.capabilities.service.world import (
    READ,
    World,
    error,
    ok,
    reading,
    receipts,
    sent,
    world,
    write,
)
from tests.capabilities.ucanto.tokens import ALICE, MALLORY, NOW, SERVICE, SPACE

CAR = "application/vnd.ipld.car"
HEADERS = {"content-type": CAR, "accept": CAR}


@asynccontextmanager
async def client(at: World, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application, without a network in between."""
    transport = httpx.ASGITransport(application(at.service, **options))
    async with httpx.AsyncClient(transport=transport, base_url="http://service.test") as one:
        yield one


@asynccontextmanager
async def served(*providers: Any, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with world(*providers, **options) as at, client(at) as one:
        yield one


def told(reply: httpx.Response) -> dict[CID, receipt.Receipt]:
    """The receipts in a reply."""
    assert (reply.status_code, reply.headers["content-type"]) == (200, CAR), reply.text
    return receipts(message.decode(reply.content), SERVICE)


# --- agent messages -------------------------------------------------------------------------------


async def test_an_agent_message_is_answered_by_one() -> None:
    async with served() as http:
        asked = write()
        reply = await http.post("/", content=sent(asked), headers=HEADERS)
        assert ok(told(reply)[asked.cid])["text"] == "hello"


async def test_whatever_parses_is_200_refusals_too() -> None:
    async with served() as http:
        asked = write(MALLORY)
        reply = await http.post("/", content=sent(asked), headers=HEADERS)
        assert error(told(reply)[asked.cid])["name"] == "Unauthorized"


@pytest.mark.parametrize(
    "kind",
    ["application/json", "application/car", f"{CAR}; charset=utf-8", CAR.upper(), "", "text/plain"],
)
async def test_another_content_type_is_415_and_told_which_is_taken(kind: str) -> None:
    async with served() as http:
        reply = await http.post("/", content=sent(write()), headers={"content-type": kind})
        assert (reply.status_code, reply.headers["accept"]) == (415, CAR)


async def test_without_a_content_type_an_agent_message_is_415() -> None:
    async with served() as http:
        assert (await http.post("/", content=sent(write()))).status_code == 415


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        (CAR, 200),
        ("*/*", 200),
        ("application/*", 200),
        (f"text/html, {CAR};q=0.8", 200),
        ("application/json", 406),
        ("text/html, text/*", 406),
        ("", 406),
    ],
)
async def test_who_does_not_take_a_car_gets_406(accept: str, status: int) -> None:
    async with served() as http:
        headers = {"content-type": CAR, "accept": accept}
        assert (await http.post("/", content=sent(write()), headers=headers)).status_code == status


@pytest.mark.parametrize("body", [b"", b"\x00", b"not a car", sent(write())[:-1]])
async def test_what_does_not_parse_is_400(body: bytes) -> None:
    async with served() as http:
        assert (await http.post("/", content=body, headers=HEADERS)).status_code == 400


async def test_a_block_that_is_not_what_its_name_says_is_400() -> None:
    body = bytearray(sent(write()))
    body[-1] ^= 1
    async with served() as http:
        reply = await http.post("/", content=bytes(body), headers=HEADERS)
        assert (reply.status_code, reply.headers["content-type"]) == (
            400,
            "text/plain; charset=utf-8",
        )


@pytest.mark.parametrize("streamed", [False, True], ids=["with its length", "streamed"])
@pytest.mark.parametrize("path", ["/", "/ucan"])
@pytest.mark.parametrize("more", [-1, 0, 1])
async def test_a_body_larger_than_the_bound_is_413(more: int, path: str, streamed: bool) -> None:
    size = LIMITS.request_bytes + more

    async def parts() -> AsyncIterator[bytes]:
        for start in range(0, size, 60_000):
            yield b"\0" * min(60_000, size - start)

    async with served() as http:
        body = parts() if streamed else b"\0" * size
        reply = await http.post(path, content=body, headers=HEADERS)
        assert ("content-length" in reply.request.headers) is not streamed
        assert reply.status_code == (413 if more > 0 else 400)


async def test_a_body_without_end_is_not_read_to_the_end() -> None:
    read = 0

    async def parts() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 65_536
            yield b"\0" * 65_536

    async with served() as http:
        with anyio.fail_after(5):
            reply = await http.post("/", content=parts(), headers=HEADERS)
        assert reply.status_code == 413
        assert read <= LIMITS.request_bytes + 2 * 65_536


@pytest.mark.parametrize("more", [-1, 0, 1])
async def test_a_message_of_more_invocations_than_the_bound_is_413(more: int) -> None:
    asked = [reading(nonce=str(n)) for n in range(LIMITS.request_invocations + more)]
    async with served() as http:
        reply = await http.post("/", content=sent(*asked), headers=HEADERS)
        assert reply.status_code == (413 if more > 0 else 200)


@pytest.mark.parametrize("more", [-1, 0, 1])
async def test_a_message_of_more_blocks_than_the_bound_is_413(more: int) -> None:
    asked = reading()
    padding = [b"%d" % number for number in range(LIMITS.request_blocks - 2 + more)]  # and a root
    blocks = {CID.of(each, 0x55): each for each in padding} | {asked.cid: asked.data}
    body = message.encode(message.Message((asked.cid,), blocks=blocks))
    async with served() as http:
        reply = await http.post("/", content=body, headers=HEADERS)
        assert reply.status_code == (413 if more > 0 else 200)


# --- turns ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [-1, 0, 1, 3])
async def test_who_is_over_the_number_waits_a_while_and_then_gets_503(more: int) -> None:
    most = 2
    at_once, refused = most + more, max(more, 0)
    ends = anyio.Event()

    async def wait(asked: Asked, transactor: Transactor) -> Result:
        await ends.wait()
        return Ok({})

    async with (
        world(Reads(READ, wait)) as at,
        client(at, concurrent_requests=most, turn_ms=80) as http,
    ):
        statuses: list[int] = []

        async def one(number: int) -> None:
            body = sent(reading(nonce=str(number)))
            reply = await http.post("/", content=body, headers=HEADERS)
            statuses.append(reply.status_code)
            if reply.status_code == 503:
                assert reply.headers["retry-after"]

        async with anyio.create_task_group() as group:
            for number in range(at_once):
                group.start_soon(one, number)
            await anyio.sleep(0.3)
            assert statuses == [503] * refused
            ends.set()
        assert sorted(statuses) == [200] * (at_once - refused) + [503] * refused
        reply = await http.post("/", content=sent(reading(nonce="after")), headers=HEADERS)
        assert reply.status_code == 200


async def test_a_turn_that_becomes_free_in_time_is_taken() -> None:
    async def wait(asked: Asked, transactor: Transactor) -> Result:
        await anyio.sleep(0.05)
        return Ok({})

    async with (
        world(Reads(READ, wait)) as at,
        client(at, concurrent_requests=1, turn_ms=5_000) as http,
    ):
        statuses: list[int] = []

        async def one(number: int) -> None:
            body = sent(reading(nonce=str(number)))
            statuses.append((await http.post("/", content=body, headers=HEADERS)).status_code)

        async with anyio.create_task_group() as group:
            for number in range(4):
                group.start_soon(one, number)
        assert statuses == [200] * 4


@pytest.mark.parametrize("more", [-1, 0, 1])
async def test_who_finds_the_waiting_room_full_gets_503_at_once(more: int) -> None:
    ends = anyio.Event()

    async def wait(asked: Asked, transactor: Transactor) -> Result:
        await ends.wait()
        return Ok({})

    at_once, room = 2, 3
    async with (
        world(Reads(READ, wait)) as at,
        client(at, concurrent_requests=at_once, waiting_requests=room, turn_ms=60_000) as http,
    ):
        replies: list[httpx.Response] = []

        async def one(number: int) -> None:
            body = sent(reading(nonce=str(number)))
            replies.append(await http.post("/", content=body, headers=HEADERS))

        async with anyio.create_task_group() as group:
            for number in range(at_once + room + more):
                group.start_soon(one, number)
            await anyio.sleep(0.2)
            assert [reply.status_code for reply in replies] == [503] * max(more, 0)
            assert [int(reply.headers["retry-after"]) for reply in replies] == [1] * max(more, 0)
            ends.set()
        taken = [reply for reply in replies if reply.status_code == 200]
        assert len(taken) == at_once + room + min(more, 0)


class Held(MemoryStore):
    """A store that commits when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.free = anyio.Event()
        self.free.set()
        self.entered = anyio.Event()

    async def commit(self, batch: Any) -> Any:
        self.entered.set()
        await self.free.wait()
        return await super().commit(batch)


@asynccontextmanager
async def full() -> AsyncIterator[tuple[World, httpx.AsyncClient, Held]]:
    """A service whose transactor takes nothing more: one batch is held, and others wait."""
    store = Held()

    async with world(store=store, queued_requests=8) as at, client(at) as http:

        async def wait() -> None:
            with suppress(Busy):
                await at.transactor.transact(lambda tx: 0)

        store.free, store.entered = anyio.Event(), anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await store.entered.wait()
            for _ in range(10):  # more than may wait
                group.start_soon(wait)
            await anyio.sleep(0.01)
            yield at, http, store
            store.free.set()


async def test_a_message_of_which_nothing_was_taken_is_503_and_may_be_sent_again() -> None:
    async with full() as (at, http, store):
        asked = write()
        for path, body, headers in (
            ("/", sent(asked), HEADERS),
            ("/", sent(asked, write(text="other")), HEADERS),
            ("/ucan", later().data, {}),
        ):
            reply = await http.post(path, content=body, headers=headers)
            assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
        store.free.set()
        with anyio.fail_after(5):
            while (reply := await http.post("/", content=sent(asked), headers=HEADERS)).is_error:
                await anyio.sleep(0.01)
        assert ok(told(reply)[asked.cid])["text"] == "hello"
        assert await at.notes() == 1


async def test_a_message_of_which_something_was_done_has_receipts_for_all_of_it() -> None:
    async with full() as (_, http, _store):
        asked, other = write(), reading()
        reply = await http.post("/", content=sent(asked, other), headers=HEADERS)
        refused = error(told(reply)[asked.cid])
        assert (refused["name"], refused["retryAfter"]) == ("Busy", 1_000)
        assert error(told(reply)[other.cid])["name"] != "Busy"


# --- receipts -------------------------------------------------------------------------------------


async def test_a_receipt_is_fetched_by_name() -> None:
    async with served() as http:
        asked = write()
        assert (await http.get(f"/receipt/{asked.cid}")).status_code == 404
        await http.post("/", content=sent(asked), headers=HEADERS)
        reply = await http.get(f"/receipt/{asked.cid}")
        assert ok(told(reply)[asked.cid])["text"] == "hello"


@pytest.mark.parametrize(
    ("name", "status"),
    [("x", 400), ("bafy", 400), ("bafyreih5izcee6", 400), ("%00", 400), ("a" * 5_000, 413)],
)
async def test_what_is_no_cid_has_no_receipt(name: str, status: int) -> None:
    async with served() as http:
        assert (await http.get(f"/receipt/{name}")).status_code == status


async def test_a_store_that_is_away_is_503_where_nothing_can_be_signed() -> None:
    class Away(MemoryStore):
        away = False

        async def heads(self, jobs: Any) -> Any:
            if self.away:
                raise Unavailable("not now")
            return await super().heads(jobs)

    store = Away()
    async with served(store=store) as http:
        store.away = True
        reply = await http.get(f"/receipt/{write().cid}")
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
        asked = write()
        reply = await http.post("/", content=sent(asked), headers=HEADERS)
        assert error(told(reply)[asked.cid])["name"] == "Unavailable"
        store.away = False


# --- browsers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "method"), [("/", "POST"), ("/ucan", "POST"), ("/receipt/x", "GET")]
)
async def test_a_browser_is_let_send_agent_messages_from_any_page(path: str, method: str) -> None:
    async with served() as http:
        reply = await http.options(
            path,
            headers={
                "origin": "https://app.example",
                "access-control-request-method": method,
                "access-control-request-headers": "content-type",
            },
        )
        assert reply.status_code == 200, reply.text
        assert reply.headers["access-control-allow-origin"] == "*"
        assert method in reply.headers["access-control-allow-methods"]
        assert "content-type" in reply.headers["access-control-allow-headers"].lower()


async def test_a_browser_may_read_every_answer() -> None:
    origin = {"origin": "https://app.example"}
    async with served() as http:
        replies = [
            await http.post("/", content=sent(write()), headers={**HEADERS, **origin}),
            await http.post("/", content=b"", headers={**HEADERS, **origin}),
            await http.post("/", content=b"", headers=origin),
            await http.get(f"/receipt/{reading().cid}", headers=origin),
            await http.get("/", headers=origin),
        ]
        assert [one.status_code for one in replies] == [200, 400, 415, 404, 200]
        assert {one.headers["access-control-allow-origin"] for one in replies} == {"*"}
        assert not any("access-control-allow-credentials" in one.headers for one in replies)


# --- the rest -------------------------------------------------------------------------------------


async def test_the_service_says_who_it_is_and_what_it_does() -> None:
    async with served() as http:
        about = (await http.get("/")).json()
        assert about == {
            "did": SERVICE.did.text,
            "commands": ["note/read", "note/write", "ucan/revoke"],
        }


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("PUT", "/", 405), ("DELETE", "/", 405), ("POST", "/receipt/x", 405), ("GET", "/x", 404)],
)
async def test_there_is_nothing_else(method: str, path: str, status: int) -> None:
    async with served() as http:
        assert (await http.request(method, path)).status_code == status


async def test_a_host_may_add_routes_of_its_own() -> None:
    async def hello(request: Request) -> Response:
        return PlainTextResponse("hello")

    async with world() as at, client(at, routes=[Route("/hello", hello)]) as http:
        assert (await http.get("/hello")).text == "hello"


# --- UCAN 1.0 -------------------------------------------------------------------------------------


def later(
    issuer: Any = SPACE, *proofs: Delegation, name: str = "a", command: str = "/note/write"
) -> Invocation:
    return invocation.issue(
        issuer,
        subject=SPACE.did,
        command=command,
        arguments={"name": name, "text": "hello"},
        audience=SERVICE.did,
        proofs=[one.cid for one in proofs],
        nonce=b"",
        expires=NOW + 60,
    )


ROOT = delegation.issue(
    SPACE,
    audience=ALICE.did,
    subject=SPACE.did,
    command="/note",
    nonce=b"n",
    expires=NOW + 600,
)


@pytest.mark.parametrize("path", ["/", "/ucan"])
async def test_a_bare_invocation_is_answered_in_json(path: str) -> None:
    async with served() as http:
        asked = later()
        reply = await http.post(path, content=asked.data)
        assert reply.status_code == 200
        body = reply.json()
        signed = _receipt(body.pop("receipt"))
        assert body == {
            "cid": str(asked.cid),
            "result": {"text": "hello", "first": True, "verdict": "committed"},
        }
        assert (signed.ran, ok(signed)) == (asked.cid, body["result"])


def _receipt(form: Any) -> receipt.Receipt:
    """The signed receipt beside the JSON."""
    text = form if isinstance(form, str) else form["/"]["bytes"]
    made = receipt.decode(None, urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    assert receipt.verify_signature(made, SERVICE.verifier)
    assert made.issuer == SERVICE.did
    return made


@pytest.mark.parametrize("path", ["/", "/ucan"])
@pytest.mark.parametrize("gzip", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("form", ["raw", "base64", "base64url"])
async def test_an_invocation_with_its_proofs_comes_in_any_container(
    form: container.Form, gzip: bool, path: str
) -> None:
    async with served() as http:
        asked = later(ALICE, ROOT)
        body = container.encode([asked.data, ROOT.data], form=form, gzip=gzip)
        reply = await http.post(path, content=body)
        assert reply.status_code == 200
        assert reply.json()["result"]["text"] == "hello"


async def test_a_refusal_is_told_in_json_and_signed() -> None:
    async with served() as http:
        reply = await http.post("/ucan", content=later(ALICE, ROOT).data)
        assert reply.status_code == 200
        body = reply.json()
        assert body["error"]["code"] == body["error"]["name"] == "Unauthorized"
        assert "UnavailableProof" in body["error"]["message"]
        assert error(_receipt(body["receipt"]))["name"] == "Unauthorized"
        reply = await http.post("/ucan", content=later(command="/note/burn").data)
        assert reply.json()["error"]["code"] == "HandlerNotFound"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00",
        b"@",
        b"B!!",
        b"\x82",
        container.encode([ROOT.data], form="raw"),
        container.encode([later().data, later(name="b").data], form="raw"),
        container.encode([later().data, b"\x80"], form="raw"),
    ],
    ids=["empty", "zero", "no container", "no base64", "no envelope", "none", "two", "rubbish"],
)
async def test_what_is_no_invocation_of_ucan_1_is_400(body: bytes) -> None:
    async with served() as http:
        reply = await http.post("/ucan", content=body)
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "SERVER_ERROR")


async def test_values_without_a_form_in_json_are_written_as_dag_json() -> None:
    link = write().cid

    async def plain(asked: Asked, transactor: Transactor) -> Result:
        return Ok({"link": link, "bytes": b"\x00\xff", "none": None, "list": [1, True]})

    asked = later(command="/note/read")
    async with served(Reads(READ, plain)) as http:
        result = (await http.post("/ucan", content=asked.data)).json()["result"]
        assert result == {
            "link": {"/": str(link)},
            "bytes": {"/": {"bytes": "AP8"}},
            "none": None,
            "list": [1, True],
        }


async def test_the_receipt_of_ucan_1_is_fetched_by_name_too() -> None:
    async with served() as http:
        asked = later()
        await http.post("/ucan", content=asked.data)
        reply = await http.get(f"/receipt/{asked.cid}")
        assert ok(told(reply)[asked.cid])["text"] == "hello"
        assert DID.parse(str(told(reply)[asked.cid].issuer)) == SERVICE.did
