"""store/* as customers ask for it: what each command answers, and what it leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from capabilities.ucanto.token import Claim
from examples.store_add import answers
from examples.store_add.model import MAX_BYTES
from examples.store_add.uploads import UPLOAD
from examples.store_add.workflow import STORE_ADD
from stmflow import CID
from stmflow.errors import Unavailable
from stmflow.store.memory import MemoryStore
from tests.capabilities.service.world import StandingClock
from tests.capabilities.ucanto.tokens import ALICE, BOB, NOW, SERVICE, SPACE, grant
from tests.examples.storage import car, invoke, storage

DATA = b"hello"
LINK = car(DATA)
ADD = {"link": LINK, "size": len(DATA)}


async def test_an_add_tells_where_to_upload_and_then_that_it_is_done(tmp_path: Path) -> None:
    async with storage(tmp_path) as at:
        told = await at.ok("store/add", ADD)
        url, headers = told.pop("url"), told.pop("headers")
        assert told == {
            "status": "upload",
            "allocated": 5,
            "with": SPACE.did.text,
            "link": LINK,
        }
        assert headers["content-length"] == "5"
        assert at.put({"url": url, "headers": headers}, DATA) == 200
        again = await at.ok("store/add", ADD, nonce="again")
        assert again == {"status": "done", "allocated": 0, "with": SPACE.did.text, "link": LINK}
        assert (await at.tag(LINK), await at.used()) == ("stored", 5)


async def test_the_very_same_add_is_done_once_the_bytes_are_there(tmp_path: Path) -> None:
    """Clients whose two calls come within a second send one invocation twice."""
    async with storage(tmp_path) as at:
        assert at.put(await at.ok("store/add", ADD), DATA) == 200
        at.clock.set(at.clock.now() + 1)
        told = await at.ok("store/add", ADD)
        assert (told["status"], told["allocated"]) == ("done", 5)  # that invocation has charged it
        assert await at.used() == 5


async def test_an_add_asked_again_before_the_upload_gets_the_same_place(tmp_path: Path) -> None:
    async with storage(tmp_path) as at:
        first = await at.ok("store/add", ADD)
        again = await at.ok("store/add", ADD, nonce="again")
        assert (again["url"], again["allocated"]) == (first["url"], 0)
        assert await at.used() == 5


async def test_bytes_that_another_space_has_stored_need_no_upload(tmp_path: Path) -> None:
    async with storage(tmp_path) as at:
        await at.stored(DATA)
        told = await at.ok("store/add", ADD, space=ALICE)
        assert (told["status"], told["allocated"]) == ("done", 5)
        assert (await at.used(SPACE), await at.used(ALICE)) == (5, 5)


async def test_ten_adds_at_once_allocate_once(tmp_path: Path) -> None:
    async with storage(tmp_path) as at:
        told: list[Any] = []

        async def one(nonce: str) -> None:
            told.append(await at.ok("store/add", ADD, nonce=nonce))

        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(one, f"{number}")
        assert sorted(each["allocated"] for each in told) == [0] * 9 + [5]
        assert len({each["url"] for each in told}) == 1
        assert await at.used() == 5


async def test_ten_adds_in_one_message_allocate_once(tmp_path: Path) -> None:
    async with storage(tmp_path) as at:
        asked = [invoke("store/add", ADD, nonce=f"{number}") for number in range(10)]
        told = await at.ask_all(*asked)
        allocated = [one.out["ok"]["allocated"] for one in told.receipts.values()]
        assert sorted(allocated) == [0] * 9 + [5]
        assert await at.used() == 5


async def test_another_size_for_the_same_link_is_refused(tmp_path: Path) -> None:
    async with storage(tmp_path) as at:
        await at.ok("store/add", ADD)
        told = await at.error("store/add", {"link": LINK, "size": 6})
        assert (told["name"], told["detail"]) == ("SizeConflict", {"size": 5})


@pytest.mark.parametrize("size", [-1, 0, MAX_BYTES + 1, 2**53 - 1])
async def test_a_size_that_no_upload_can_have_is_refused_by_the_command(
    tmp_path: Path, size: int
) -> None:
    async with storage(tmp_path) as at:
        told = await at.error("store/add", {"link": LINK, "size": size})
        assert told["name"] != "HandlerExecutionError"
        assert "size" in told["message"], told
        assert await at.used() == 0


async def test_a_link_whose_hash_cannot_be_proved_is_refused_and_charges_nothing(
    tmp_path: Path,
) -> None:
    identity = CID.parse(b"\x01\x55\x00\x05hello")
    async with storage(tmp_path) as at:
        told = await at.ask("store/add", {"link": identity, "size": 5})
        assert "error" in told or told["ok"]["status"] == "upload"
        assert at.bucket.objects() == set()


# --- quota ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [-1, 0, 1])
async def test_a_space_has_room_up_to_its_quota(tmp_path: Path, more: int) -> None:
    async with storage(tmp_path, quota=len(DATA) - more) as at:
        if more <= 0:
            assert (await at.ok("store/add", ADD))["allocated"] == 5
            assert await at.used() == 5
            return
        told = await at.error("store/add", ADD)
        assert (told["name"], told["link"]) == ("InsufficientStorage", LINK)
        assert await at.used() == 0


async def test_no_room_stays_no_room_for_the_same_invocation(tmp_path: Path) -> None:
    async with storage(tmp_path, quota=10) as at:
        await at.stored(b"12345678", space=ALICE)
        other = await at.stored(b"12345678")  # no upload, so what it costs is given back at once
        assert (await at.error("store/add", ADD))["name"] == "InsufficientStorage"
        await at.ok("store/remove", {"link": other})
        assert await at.used() == 0
        assert (await at.error("store/add", ADD))["name"] == "InsufficientStorage"
        assert (await at.ok("store/add", ADD, nonce="again"))["status"] == "upload"


async def test_removing_makes_room_and_the_list_forgets_it(tmp_path: Path) -> None:
    async with storage(tmp_path, quota=10) as at:
        link = await at.stored(DATA)
        assert await at.ok("store/remove", {"link": link}) == {"size": 5}
        told = await at.error("store/remove", {"link": link}, nonce="again")
        assert told["name"] == "StoreItemNotFound"
        assert (await at.ok("store/list"))["results"] == []
        assert (await at.error("store/get", {"link": link}))["name"] == "StoreItemNotFound"


# --- what there is --------------------------------------------------------------------------------


async def test_a_stored_item_is_shown_by_get_and_list(tmp_path: Path) -> None:
    async with storage(tmp_path) as at:
        link = await at.stored(DATA)
        item = await at.ok("store/get", {"link": link}, nonce="n")
        # In whatever codec the bytes are read, they are the same item.
        assert (item["link"], item["size"]) == (LINK, 5)
        assert item["insertedAt"] == "2023-11-14T22:13:20.000+00:00"
        told = await at.ok("store/list")
        assert told["results"] == [item]
        assert told["size"] == 1
        assert "cursor" not in told


async def test_what_is_not_stored_is_neither_shown_nor_listed(tmp_path: Path) -> None:
    async with storage(tmp_path) as at:
        await at.ok("store/add", ADD)
        assert (await at.error("store/get", {"link": LINK}))["name"] == "StoreItemNotFound"
        assert await at.ok("store/list") == {"results": [], "size": 0}
        nowhere = await at.error("store/get", {"link": car(b"never")})
        assert nowhere["name"] == "StoreItemNotFound"


async def test_a_list_looks_for_what_has_been_uploaded_and_nobody_has_said_so(
    tmp_path: Path,
) -> None:
    async with storage(tmp_path) as at:
        at.put(await at.ok("store/add", ADD), DATA)
        assert [one["link"] for one in (await at.ok("store/list"))["results"]] == [LINK]


async def test_a_list_is_of_one_space(tmp_path: Path) -> None:
    async with storage(tmp_path) as at:
        await at.stored(DATA)
        await at.stored(b"other", space=BOB)
        assert [one["link"] for one in (await at.ok("store/list"))["results"]] == [LINK]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7])
async def test_pages_go_through_a_list_forwards_and_backwards(tmp_path: Path, size: int) -> None:
    async with storage(tmp_path) as at:
        for number in range(6):
            await at.stored(b"item %d" % number)
        everything = [one["link"] for one in (await at.ok("store/list"))["results"]]
        assert len(everything) == 6
        for pre in (False, True):
            seen: list[CID] = []
            page: dict[str, Any] = {"size": size} | ({"pre": True} if pre else {})
            for number in range(10):
                told = await at.ok("store/list", page, nonce=f"{pre}{number}")
                links = [one["link"] for one in told["results"]]
                assert len(links) == told["size"] <= size
                seen = [*links, *seen] if pre else [*seen, *links]
                if "cursor" not in told:
                    break
                page["cursor"] = told["cursor"]
            assert seen == everything


async def test_before_and_after_lead_back_and_on(tmp_path: Path) -> None:
    async with storage(tmp_path) as at:
        for number in range(5):
            await at.stored(b"item %d" % number)
        everything = [one["link"] for one in (await at.ok("store/list"))["results"]]
        first = await at.ok("store/list", {"size": 2})
        second = await at.ok("store/list", {"size": 2, "cursor": first["after"]})
        back = await at.ok("store/list", {"size": 2, "cursor": second["before"], "pre": True})
        assert [one["link"] for one in second["results"]] == everything[2:4]
        assert [one["link"] for one in back["results"]] == everything[:2]


@pytest.mark.parametrize("cursor", ["", "x", "bafyreih5izcee6w"])
async def test_a_cursor_that_is_none_is_an_error(tmp_path: Path, cursor: str) -> None:
    async with storage(tmp_path) as at:
        assert "name" in await at.error("store/list", {"cursor": cursor})


@pytest.mark.parametrize("command", ["store/list", "space/blob/list", "upload/list"])
async def test_a_cursor_tells_nothing_of_the_jobs_of_another_space(
    tmp_path: Path, command: str
) -> None:
    """The CID of a job can be made by whoever knows its space and its link."""
    async with storage(tmp_path) as at:
        link = await at.stored(DATA, space=BOB)
        await at.ok("upload/add", {"root": link}, space=BOB)
        workflow = UPLOAD if command == "upload/list" else STORE_ADD
        told = []
        for content in (link, car(b"nobody has it")):
            part = content if workflow is UPLOAD else content.multihash
            cursor = str(workflow.job(BOB.did.text, part).id)
            told.append(await at.error(command, {"cursor": cursor}))
        assert told[0] == told[1]
        assert told[0]["name"] == "CursorNotFound"


@pytest.mark.parametrize("more", [-1, 0, 1])
async def test_a_page_has_so_many_entries_at_most(
    tmp_path: Path, more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "PAGE", 3)
    async with storage(tmp_path) as at:
        for number in range(3 + more):
            await at.stored(b"item %d" % number)
        for asked in ({}, {"size": 2**53 - 1}, {"size": 0}):
            told = await at.ok("store/list", asked)
            assert told["size"] == min(3, 3 + more)


async def test_a_list_does_not_need_the_bucket_or_every_look(tmp_path: Path) -> None:
    """A look is a hint: where the store has no time for it, the list comes all the same."""

    class Busy(MemoryStore):
        busy = False

        async def commit(self, batch: Any) -> Any:
            if self.busy:
                raise Unavailable("not now")
            return await super().commit(batch)

    store = Busy()
    async with storage(tmp_path, store=store, request_ms=3_000) as at:
        await at.stored(b"there")
        await at.ok("store/add", ADD)
        store.busy = True
        told = await at.ask("store/list")
        store.busy = False
        assert [one["size"] for one in told["ok"]["results"]] == [5]


# --- one job --------------------------------------------------------------------------------------


async def test_a_cancel_gives_up_and_says_so(tmp_path: Path) -> None:
    async with storage(tmp_path) as at:
        await at.ok("store/add", ADD)
        told = await at.ok("store/cancel", {"link": LINK})
        assert (told["status"], told["size"]) == ("failed", 5)
        assert await at.used() == 5  # until the URL is dead
        told = await at.error("store/add", ADD)
        assert told["name"] == "Cancelled"
        assert (await at.ok("store/add", ADD, nonce="again"))["status"] == "upload"
        await at.stored(b"done")
        assert (await at.error("store/cancel", {"link": car(b"done")}))["name"] == "Done"


@pytest.mark.parametrize(
    "can", ["store/cancel", "store/extend", "store/remove", "store/show", "store/watch"]
)
async def test_of_what_is_not_known_there_is_nothing_to_do(tmp_path: Path, can: str) -> None:
    async with storage(tmp_path) as at:
        told = await at.error(can, {"link": LINK})
        assert told["name"] in ("StoreItemNotFound", "NotFound")
        assert len(await at.transactor.store.jobs()) == 0


async def test_an_extension_gives_a_later_deadline(tmp_path: Path) -> None:
    clock = StandingClock()
    async with storage(tmp_path, clock=clock) as at:
        await at.ok("store/add", ADD)
        before = await at.ok("store/show", {"link": LINK})
        assert before["deadline"] == clock.now() + 3_600_000
        clock.set(clock.now() + 10_000)
        after = await at.ok("store/extend", {"link": LINK})
        assert after["deadline"] == before["deadline"] + 10_000
        assert (after["status"], after["seq"] > before["seq"]) == ("receiving", True)


async def test_a_job_is_shown_as_it_is(tmp_path: Path) -> None:
    async with storage(tmp_path) as at:
        await at.stored(DATA)
        told = await at.ok("store/show", {"link": LINK})
        head = await at.transactor.get(told["job"])
        assert head is not None
        assert told == {
            "job": head.job,
            "revision": head.revision,
            "state": head.state_cid,
            "status": "stored",
            "epoch": 1,
            "seq": head.seq,
            "at": head.at,
            "size": 5,
        }


async def test_a_watch_ends_when_the_state_changes(tmp_path: Path) -> None:
    async with storage(tmp_path) as at:
        upload = await at.ok("store/add", ADD)
        seq = (await at.ok("store/show", {"link": LINK}))["seq"]
        told: list[Any] = []

        async def watch() -> None:
            told.append(await at.ok("store/watch", {"link": LINK, "after": seq}))

        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            await anyio.sleep(0.05)
            assert told == []
            at.put(upload, DATA)
            await at.ok("store/get", {"link": LINK})
        assert told[0]["status"] in ("verifying", "stored")
        assert told[0]["seq"] > seq
        at_once = await at.ok("store/watch", {"link": LINK, "after": 0})
        assert at_once["status"] == "stored"


async def test_a_watch_without_news_tells_how_it_is_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "WATCH_SECONDS", 0.05)
    async with storage(tmp_path) as at:
        await at.stored(DATA)
        seq = (await at.ok("store/show", {"link": LINK}))["seq"]
        told = await at.ok("store/watch", {"link": LINK, "after": seq})
        assert (told["status"], told["seq"]) == ("stored", seq)


# --- who may --------------------------------------------------------------------------------------


async def test_an_agent_may_what_it_was_granted_and_nothing_more(tmp_path: Path) -> None:
    right = grant(SPACE, ALICE, Claim("store/add", SPACE.did.text, {"size": 5}))
    async with storage(tmp_path) as at:

        async def by_alice(can: str, nb: Any) -> Any:
            one = invoke(can, nb, issuer=ALICE, proofs=[right])
            return (await at.ask_all(one, proofs=[right])).receipts[one.cid].out

        assert "ok" in await by_alice("store/add", ADD)
        for can, nb in (
            ("store/add", {"link": car(b"larger"), "size": 6}),
            ("store/list", {}),
            ("store/remove", {"link": LINK}),
            ("space/blob/add", {"blob": {"digest": LINK.multihash, "size": 5}}),
        ):
            assert (await by_alice(can, nb))["error"]["name"] == "Unauthorized"


@pytest.mark.parametrize(
    "can",
    ["store/expire", "store/exceed", "store/receive", "store/put", "store/verified", "store/lost"],
)
async def test_what_happens_inside_cannot_be_invoked(tmp_path: Path, can: str) -> None:
    async with storage(tmp_path) as at:
        assert (await at.error(can, ADD))["name"] == "HandlerNotFound"
        assert len(await at.transactor.store.jobs()) == 0


@pytest.mark.parametrize(
    "can", ["blob/allocate", "blob/accept", "http/put", "web3.storage/blob/accept"]
)
async def test_a_task_of_the_service_cannot_be_invoked(tmp_path: Path, can: str) -> None:
    async with storage(tmp_path) as at:
        nb = {"blob": {"digest": LINK.multihash, "size": 5}, "space": SPACE.did.raw}
        told = await at.error(can, nb, issuer=SERVICE, about=SERVICE.did)
        assert told["name"] == "HandlerNotFound"


@pytest.mark.parametrize(
    "nb",
    [
        {"link": LINK, "size": -1},
        {"link": LINK, "size": 5.5},
        {"link": LINK, "size": "5"},
        {"link": LINK, "size": True},
        {"link": str(LINK), "size": 5},
        {"link": LINK},
        {"size": 5},
        {},
    ],
)
async def test_arguments_that_are_none_are_refused_and_nothing_is_written(
    tmp_path: Path, nb: dict[str, Any]
) -> None:
    async with storage(tmp_path) as at:
        assert (await at.error("store/add", nb))["name"] == "Unauthorized"
        assert len(await at.transactor.store.jobs()) == 0


async def test_a_size_that_no_put_takes_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    async with storage(tmp_path, quota=2**50) as at:
        for size in (0, 5 * 1024**3 + 1):
            assert "name" in await at.error("store/add", {"link": LINK, "size": size})
        assert len(await at.transactor.store.jobs()) == 0
        told = await at.ok("store/add", {"link": LINK, "size": 5 * 1024**3})
        assert told["allocated"] == 5 * 1024**3


async def test_after_it_has_expired_an_invocation_does_nothing(tmp_path: Path) -> None:
    clock = StandingClock((NOW + 30) * 1_000)
    async with storage(tmp_path, clock=clock) as at:
        assert "Expired" in (await at.error("store/add", ADD))["message"]
        assert len(await at.transactor.store.jobs()) == 0
