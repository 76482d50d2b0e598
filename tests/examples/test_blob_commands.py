"""space/blob/* and upload/*: forks and their receipts, the client's word, and what is listed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from capabilities import DID, Signer
from capabilities.ucan1 import invocation
from capabilities.ucanto import message, receipt, token
from capabilities.ucanto.message import Message
from capabilities.ucanto.receipt import Receipt
from capabilities.ucanto.token import Claim, Token, issue
from examples.store_add import uploads
from examples.store_add.workflow import STORE_ADD
from stmflow import CID, codec
from stmflow.store.sqlite import SQLiteStore
from tests.capabilities.ucanto.tokens import ALICE, MALLORY, NOW, SERVICE, SPACE, WEB
from tests.examples.storage import Storage, Told, car, invoke, storage

DATA = b"hello"
LINK = CID.of(DATA, 0x55)
BLOB = {"digest": LINK.multihash, "size": len(DATA)}


@dataclass(frozen=True)
class Added:
    """The answer to a space/blob/add, taken apart as a client does."""

    ran: CID
    value: Mapping[str, Any]
    tasks: Mapping[str, Token]
    concluded: Mapping[CID, Receipt]

    def address(self) -> Mapping[str, Any]:
        told = self.concluded[self.tasks["blob/allocate"].cid].out["ok"]
        address: Mapping[str, Any] = told["address"]
        return address


def taken_apart(told: Told, ran: CID) -> Added:
    one = told.receipts[ran]
    assert "ok" in one.out, one.out
    forks = [token.decode(cid, told.blocks[cid]) for cid in one.fork]
    tasks = {fork.capabilities[0].can: fork for fork in forks}
    concluded = {}
    for fork in forks:
        claim = fork.capabilities[0]
        if claim.can == "ucan/conclude":
            link = claim.caveats["receipt"]
            made = receipt.decode(link, told.blocks[link])
            named = set(fork.facts[0].values())
            assert {made.cid, *made.fork} == named <= told.blocks.keys()
            concluded[made.ran] = made
    return Added(ran, one.out["ok"], tasks, concluded)


async def add(at: Storage, data: bytes = DATA, **options: Any) -> Added:
    blob = {"digest": CID.of(data).multihash, "size": len(data)}
    one = invoke("space/blob/add", {"blob": blob}, **options)
    return taken_apart(await at.ask_all(one), one.cid)


def putter(data: bytes = DATA) -> Signer:
    return Signer.from_seed(CID.of(data).multihash[-32:])


def conclusion(
    task: CID,
    *,
    signer: Signer | None = None,
    issuer: Signer = SPACE,
    out: Mapping[str, Any] | None = None,
    audience: DID | None = None,
) -> tuple[Token, Receipt]:
    """A ucan/conclude of the client's task, and the receipt that travels with it."""
    said = receipt.issue(signer or putter(), task, out or {"ok": {}})
    claim = Claim("ucan/conclude", issuer.did.text, {"receipt": said.cid})
    return issue(issuer, audience or SERVICE.did, [claim], expires=None), said


async def conclude(at: Storage, task: CID, **options: Any) -> Mapping[str, Any]:
    asked, said = conclusion(task, **options)
    blocks = {asked.cid: asked.data, said.cid: said.data}
    reply = message.decode(
        await at.service.respond(message.encode(Message((asked.cid,), blocks=blocks)))
    )
    cid = reply.receipts[asked.cid]
    return receipt.decode(cid, reply.blocks[cid]).out


# --- the answer to an add -------------------------------------------------------------------------


@pytest.mark.parametrize("signer", [SERVICE, WEB], ids=["did:key", "did:web"])
async def test_an_add_names_its_tasks_and_brings_them_all_along(
    tmp_path: Path, signer: Signer
) -> None:
    async with storage(tmp_path, signer=signer) as at:
        told = await add(at, audience=signer.did)
        assert told.tasks.keys() == {
            "blob/allocate",
            "web3.storage/blob/allocate",
            "http/put",
            "blob/accept",
            "web3.storage/blob/accept",
            "ucan/conclude",
        }
        accept = told.tasks["blob/accept"].cid
        assert told.value == {"site": {"ucan/await": [".out.ok.site", accept]}}
        for can, task in told.tasks.items():
            claim = task.capabilities[0]
            assert task.expires is None
            assert task.issuer == task.audience == DID.parse(claim.with_)
            assert task.issuer == (putter().did if can == "http/put" else signer.did)
            key = putter().verifier if can == "http/put" else signer.verifier
            assert token.verify_signature(task, key)
        claims = {can: task.capabilities[0] for can, task in told.tasks.items()}
        for can in ("blob/allocate", "blob/accept"):
            assert claims[can].caveats["space"] == SPACE.did.raw
            assert claims[f"web3.storage/{can}"].caveats["space"] == SPACE.did.text


async def test_the_clients_task_is_signed_by_a_key_made_of_the_digest(tmp_path: Path) -> None:
    async with storage(tmp_path) as at:
        told = await add(at)
        put, allocate = told.tasks["http/put"], told.tasks["blob/allocate"]
        assert put.capabilities[0].caveats == {
            "body": BLOB,
            "url": {"ucan/await": [".out.ok.address.url", allocate.cid]},
            "headers": {"ucan/await": [".out.ok.address.headers", allocate.cid]},
        }
        (fact,) = put.facts
        keys = fact["keys"]
        assert Signer.decode(keys["keys"][keys["id"]]).did == putter().did == put.issuer


async def test_the_receipts_of_allocate_come_under_both_names(tmp_path: Path) -> None:
    async with storage(tmp_path) as at:
        told = await add(at)
        assert told.concluded.keys() == {
            told.tasks["blob/allocate"].cid,
            told.tasks["web3.storage/blob/allocate"].cid,
        }
        (value, same) = [one.out["ok"] for one in told.concluded.values()]
        assert value == same
        assert value["size"] == 5
        assert value["address"]["headers"]["content-length"] == "5"
        assert value["address"]["expiresAt"] == NOW + 3_600
        assert {one.issuer for one in told.concluded.values()} == {SERVICE.did}


async def test_what_is_there_already_needs_no_address_and_is_accepted_at_once(
    tmp_path: Path,
) -> None:
    async with storage(tmp_path) as at:
        await at.stored(DATA)
        told = await add(at)
        allocated = told.concluded[told.tasks["blob/allocate"].cid].out["ok"]
        assert allocated == {"size": 0}
        put = told.concluded[told.tasks["http/put"].cid]
        assert (put.out, put.issuer) == ({"ok": {}}, putter().did)
        assert receipt.verify_signature(put, putter().verifier)
        for can in ("blob/accept", "web3.storage/blob/accept"):
            accepted = told.concluded[told.tasks[can].cid]
            assert accepted.fork == (accepted.out["ok"]["site"],)


async def test_an_add_asked_twice_names_the_same_tasks(tmp_path: Path) -> None:
    async with storage(tmp_path) as at:
        one, two = await add(at), await add(at)
        assert one == two
        other = await add(at, nonce="another")
        allocated = other.concluded[other.tasks["blob/allocate"].cid].out["ok"]
        assert allocated["size"] == 0
        assert other.address()["url"] == one.address()["url"]


async def test_ten_adds_at_once_allocate_once(tmp_path: Path) -> None:
    async with storage(tmp_path) as at:
        sizes: list[int] = []

        async def one(nonce: str) -> None:
            told = await add(at, nonce=nonce)
            sizes.append(told.concluded[told.tasks["blob/allocate"].cid].out["ok"]["size"])

        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(one, f"{number}")
        assert sorted(sizes) == [0] * 9 + [5]
        assert await at.used() == 5


async def test_store_add_and_blob_add_of_the_same_bytes_are_one_job(tmp_path: Path) -> None:
    async with storage(tmp_path) as at:
        told = await add(at)
        other = await at.ok("store/add", {"link": car(DATA), "size": 5})
        assert (other["url"], other["allocated"]) == (told.address()["url"], 0)
        assert await at.used() == 5
        assert len(await at.transactor.store.jobs(workflow="store/add")) == 1


async def test_without_room_an_add_is_refused_and_names_no_tasks(tmp_path: Path) -> None:
    async with storage(tmp_path, quota=4) as at:
        one = invoke("space/blob/add", {"blob": BLOB})
        told = (await at.ask_all(one)).receipts[one.cid]
        assert (told.out["error"]["name"], told.fork) == ("InsufficientStorage", ())
        assert await at.used() == 0


@pytest.mark.parametrize(
    "digest", [b"", b"\x12\x20short", LINK.multihash + b"\0", b"\x00\x05hello", b"\x12"]
)
async def test_a_digest_that_is_none_is_refused_and_nothing_is_written(
    tmp_path: Path, digest: bytes
) -> None:
    async with storage(tmp_path) as at:
        told = await at.error("space/blob/add", {"blob": {"digest": digest, "size": 5}})
        assert told["name"]
        assert len(await at.transactor.store.jobs()) == 0


# --- the bytes come -------------------------------------------------------------------------------


@pytest.mark.parametrize("can", ["blob/accept", "web3.storage/blob/accept"])
async def test_accept_has_no_receipt_until_the_bytes_were_put_and_told(
    tmp_path: Path, can: str
) -> None:
    async with storage(tmp_path) as at:
        told = await add(at)
        accept = told.tasks[can].cid
        assert await at.recall(accept) is None
        assert at.put(told.address(), DATA) == 200
        assert await at.recall(accept) is None
        assert "ok" in await conclude(at, told.tasks["http/put"].cid)
        found = await at.recall(accept)  # at once: who asks in vain asks again after a second
        assert found is not None
        (site,) = found.receipts[accept].fork
        assert found.receipts[accept].out == {"ok": {"site": site}}
        claim = token.decode(site, found.blocks[site])
        assert (claim.issuer, claim.audience) == (SERVICE.did, SPACE.did)
        assert claim.capabilities[0] == Claim(
            "assert/location",
            SERVICE.did.text,
            {
                "content": {"digest": LINK.multihash},
                "location": [f"https://bucket.test/{LINK}"],
            },
        )


async def _stored(at: Storage, link: CID = LINK) -> None:
    job = STORE_ADD.job(SPACE.did.text, link.multihash)
    await at.transactor.wait(job, lambda state: state.tag == "stored", timeout=5)


async def test_a_conclusion_without_the_bytes_is_looked_into_and_not_believed(
    tmp_path: Path,
) -> None:
    async with storage(tmp_path) as at:
        told = await add(at)
        assert "ok" in await conclude(at, told.tasks["http/put"].cid)
        await anyio.sleep(0.05)
        assert await at.tag(LINK) == "receiving"
        assert await at.recall(told.tasks["blob/accept"].cid) is None


async def test_whoever_has_the_receipt_may_conclude(tmp_path: Path) -> None:
    async with storage(tmp_path) as at:
        told = await add(at)
        at.put(told.address(), DATA)
        assert "ok" in await conclude(at, told.tasks["http/put"].cid, issuer=MALLORY)
        await _stored(at)


@pytest.mark.parametrize("signer", [MALLORY, SPACE, SERVICE], ids=["stranger", "space", "service"])
async def test_a_forged_receipt_concludes_nothing(tmp_path: Path, signer: Signer) -> None:
    async with storage(tmp_path) as at:
        told = await add(at)
        at.put(told.address(), DATA)
        out = await conclude(at, told.tasks["http/put"].cid, signer=signer)
        assert out["error"]["name"] == "InvalidSignature"
        claims_to_be = signer.named("did:web:x.example") if signer is MALLORY else signer
        out = await conclude(at, told.tasks["http/put"].cid, signer=claims_to_be)
        assert out["error"]["name"] == "InvalidSignature"
        assert await at.tag(LINK) == "receiving"


async def test_a_task_that_was_not_named_here_is_not_concluded(tmp_path: Path) -> None:
    async with storage(tmp_path) as at:
        told = await add(at)
        for unknown in (CID.of(b"?", 0x71), told.ran, told.tasks["blob/allocate"].cid):
            out = await conclude(at, unknown)
            assert out["error"]["name"] == "TaskNotFound"


async def test_a_receipt_that_did_not_come_along_is_not_found(tmp_path: Path) -> None:
    async with storage(tmp_path) as at:
        told = await at.error("ucan/conclude", {"receipt": CID.of(b"?", 0x71)})
        assert told["name"] == "ReceiptNotFound"


async def test_a_put_that_failed_concludes_nothing(tmp_path: Path) -> None:
    async with storage(tmp_path) as at:
        told = await add(at)
        out = await conclude(at, told.tasks["http/put"].cid, out={"error": {"name": "Oh"}})
        assert "ok" in out
        assert await at.tag(LINK) == "receiving"


async def test_a_blob_that_was_added_by_ucan_1_is_concluded_like_any_other(
    tmp_path: Path,
) -> None:
    asked = invocation.issue(
        SPACE,
        subject=SPACE.did,
        command="/space/blob/add",
        arguments={"blob": BLOB},
        audience=SERVICE.did,
        nonce=b"",
        expires=NOW + 60,
    )
    async with storage(tmp_path) as at:
        _, said = await at.service.respond1(asked.data)
        found = await at.recall(asked.cid)
        assert found is not None
        told = taken_apart(found, asked.cid)
        assert said.receipt.fork == found.receipts[asked.cid].fork
        at.put(told.address(), DATA)
        out = await conclude(at, told.tasks["http/put"].cid)
        assert "ok" in out, out
        await _stored(at)
        assert await at.recall(told.tasks["blob/accept"].cid) is not None


async def test_the_clients_own_task_has_no_receipt_here(tmp_path: Path) -> None:
    async with storage(tmp_path) as at:
        told = await add(at)
        assert await at.recall(told.tasks["http/put"].cid) is None
        assert await at.recall(told.tasks["blob/allocate"].cid) is None


async def test_accept_of_what_was_given_up_is_told_as_an_error(tmp_path: Path) -> None:
    async with storage(tmp_path) as at:
        told = await add(at)
        await at.ok("store/cancel", {"link": LINK})
        found = await at.recall(told.tasks["blob/accept"].cid)
        assert found is not None
        assert found.receipts[told.tasks["blob/accept"].cid].out["error"]["name"] == "Cancelled"


async def test_after_a_restart_tasks_are_still_known(tmp_path: Path) -> None:
    async with (
        SQLiteStore.open(tmp_path / "jobs.db") as store,
        storage(tmp_path, store=store) as at,
    ):
        told = await add(at)
    async with (
        SQLiteStore.open(tmp_path / "jobs.db") as store,
        storage(tmp_path, store=store) as at,
    ):
        assert at.put(told.address(), DATA) == 200
        assert await at.recall(told.tasks["blob/accept"].cid) is None
        assert "ok" in await conclude(at, told.tasks["http/put"].cid)
        await _stored(at)
        assert await at.recall(told.tasks["blob/accept"].cid) is not None
        assert await at.recall(told.ran) is not None


# --- lists ----------------------------------------------------------------------------------------


async def test_blobs_are_listed_by_digest_and_removed(tmp_path: Path) -> None:
    async with storage(tmp_path) as at:
        await at.stored(DATA)
        await at.stored(b"other")
        told = await at.ok("space/blob/list")
        assert {one["blob"]["digest"] for one in told["results"]} == {
            LINK.multihash,
            CID.of(b"other").multihash,
        }
        assert await at.ok("space/blob/remove", {"digest": LINK.multihash}) == {"size": 5}
        again = await at.ok("space/blob/remove", {"digest": LINK.multihash}, nonce="again")
        assert again == {"size": 0}
        never = await at.ok("space/blob/remove", {"digest": CID.of(b"never").multihash})
        assert never == {"size": 0}
        assert (await at.ok("space/blob/list", nonce="again"))["size"] == 1


async def test_an_index_has_to_be_stored(tmp_path: Path) -> None:
    async with storage(tmp_path) as at:
        told = await at.error("space/index/add", {"index": LINK})
        assert told["name"] == "IndexNotFound"
        at.put((await add(at)).address(), DATA)
        assert await at.ok("space/index/add", {"index": LINK}, nonce="now") == {}


async def test_a_filecoin_piece_is_noted(tmp_path: Path) -> None:
    async with storage(tmp_path) as at:
        nb = {"content": LINK, "piece": car(b"piece")}
        assert await at.ok("filecoin/offer", nb, issuer=ALICE, about=ALICE.did) == {
            "piece": car(b"piece")
        }


# --- uploads --------------------------------------------------------------------------------------

ROOT = CID.of(b"root", 0x70)
SHARDS = [CID.of(b"%d" % number, 0x0202) for number in range(3)]


async def test_an_upload_is_added_and_grows_by_what_is_new(tmp_path: Path) -> None:
    async with storage(tmp_path) as at:
        told = await at.ok("upload/add", {"root": ROOT, "shards": SHARDS[:1]})
        assert told == {"root": ROOT, "shards": SHARDS[:1]}
        told = await at.ok("upload/add", {"root": ROOT, "shards": SHARDS[:2] * 2})
        assert sorted(told["shards"]) == sorted(SHARDS[:2])
        assert await at.ok("upload/add", {"root": ROOT}) == told
        item = await at.ok("upload/get", {"root": ROOT})
        assert item == {
            **told,
            "insertedAt": "2023-11-14T22:13:20.000+00:00",
            "updatedAt": "2023-11-14T22:13:20.000+00:00",
        }
        assert (await at.ok("upload/list"))["results"] == [item]


async def test_an_upload_is_removed_and_may_come_again(tmp_path: Path) -> None:
    async with storage(tmp_path) as at:
        await at.ok("upload/add", {"root": ROOT, "shards": SHARDS})
        told = await at.ok("upload/remove", {"root": ROOT})
        assert told == {"root": ROOT, "shards": sorted(SHARDS)}
        for can in ("upload/get", "upload/remove"):
            gone = await at.error(can, {"root": ROOT}, nonce="again")
            assert gone["name"] == "UploadNotFound"
        assert (await at.ok("upload/list"))["size"] == 0
        told = await at.ok("upload/add", {"root": ROOT, "shards": SHARDS[:1]}, nonce="again")
        assert told["shards"] == SHARDS[:1]


@pytest.mark.parametrize("more", [-1, 0, 1])
async def test_an_upload_has_so_many_shards_at_most(
    tmp_path: Path, more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "MAX_SHARDS", 2)
    async with storage(tmp_path) as at:
        out = await at.ask("upload/add", {"root": ROOT, "shards": SHARDS[: 2 + more]})
        assert ("ok" in out) is (more <= 0)
        if more > 0:
            assert (out["error"]["name"], out["error"]["detail"]) == ("TooManyShards", {"max": 2})
            assert len(await at.transactor.store.jobs()) == 0
        await at.ok("upload/add", {"root": ROOT, "shards": SHARDS[:1]}, nonce="one")
        out = await at.ask("upload/add", {"root": ROOT, "shards": SHARDS[1 : 2 + more]})
        assert ("ok" in out) is (more <= 0)


async def test_uploads_of_many_shards_are_listed_on_pages_that_fit_a_receipt(
    tmp_path: Path,
) -> None:
    async with storage(tmp_path) as at:
        roots = [CID.of(b"root %d" % number, 0x70) for number in range(8)]
        for root in roots:
            for start in range(0, uploads.MAX_SHARDS, 250):
                shards = [CID.of(b"%d" % (start + n), 0x0202) for n in range(250)]
                await at.ok("upload/add", {"root": root, "shards": shards}, nonce=f"{start}")
        assert len(codec.encode(shards)) * 4 * len(roots) > 256 * 1024
        seen: list[CID] = []
        page: dict[str, Any] = {}
        for number in range(len(roots) + 1):
            told = await at.ok("upload/list", page, nonce=f"{number}")
            seen += [one["root"] for one in told["results"]]
            if "cursor" not in told:
                break
            page = {"cursor": told["cursor"]}
        assert sorted(seen) == sorted(roots)
        backwards = await at.ok("upload/list", {"pre": True})
        assert [one["root"] for one in backwards["results"]] == seen[-backwards["size"] :]


async def test_an_upload_that_goes_while_it_is_listed_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with storage(tmp_path) as at:
        await at.ok("upload/add", {"root": ROOT, "shards": SHARDS})
        usual = at.transactor.store.under

        async def under(*args: Any, **options: Any) -> Any:
            rows = await usual(*args, **options)
            await at.ok("upload/remove", {"root": ROOT})
            return rows

        monkeypatch.setattr(at.transactor.store, "under", under)
        assert (await at.ok("upload/list"))["results"] == []
