"""Every command: what it prints for people, for pipes and as JSON."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from stmflow import CELL, CID, Transactor, car, codec, history
from stmflow.cli import COMMANDS, cli
from stmflow.cli.audit import _catch_up, _one_moment, _whole
from stmflow.cli.chains import consistent, load
from stmflow.cli.names import LEAST
from stmflow.store import Batch, Drop
from stmflow.store.memory import MemoryStore
from tests.stmflow.cli.conftest import APP, HOSTILE, Call, Names, link

SAMPLE = "tests.stmflow.cli.sample"


# --- ls, head, log ------------------------------------------------------------------------------


def test_ls_lists_jobs_in_order_of_creation(call: Call, names: Names) -> None:
    rows = call.json("ls")
    assert [row["job"] for row in rows[:2]] == [link(names.upload), link(names.stored)]
    first = rows[0]
    assert (first["workflow"], first["version"], first["key"]) == ("upload", 1, ["s", "a"])
    assert (first["status"], first["seq"], first["epoch"]) == ("failed", 9, 2)
    lines = call("ls").stdout.splitlines()
    assert len(lines) == len(rows) + 1
    assert lines[0].split("\t") == [
        *("job", "workflow", "key", "status", "seq", "epoch", "updated", "faulted")
    ]
    assert {len(line.split("\t")) for line in lines} == {8}
    assert lines[1].startswith(f"{names.upload}\tupload@1\ts/a\tfailed\t9\t2\t2023-11-14T23:13:20")


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (["--workflow", "order"], 3),
        (["--workflow", "nothing"], 0),
        (["--status", "refused"], 1),
        (["--workflow", "upload", "--status", "stored"], 2),
        (["--key", "s/"], 6),
        (["--key", "evil"], 1),
        (["--faulted"], 2),
        (["--limit", "2"], 2),
    ],
)
def test_ls_filters(call: Call, options: list[str], count: int) -> None:
    assert len(call.json("ls", *options)) == count
    assert len(call("ls", *options).stdout.splitlines()) == count + 1


def test_head_shows_the_state_and_what_is_still_to_be_done(call: Call, names: Names) -> None:
    (found,) = call.json("head", names.audited)
    assert (found["status"], found["seq"]) == ("receiving", found["seq"])
    assert found["value"]["f"]["space"] == "audited"
    assert sorted(task["type"] for task in found["tasks"]) == ["Mark", "sleep", "sleep"]
    assert found["faulted"] == 1
    assert codec.encode(codec.from_json(found["value"])) is not None
    text = call("head", names.audited).stdout
    assert "audited/x" in text
    assert "1 parked" in text
    assert str(names.parked) in text


def test_log_tells_of_every_revision(call: Call, names: Names) -> None:
    entries = call.json("log", names.upload)
    assert [one["seq"] for one in entries] == list(range(9, 0, -1))
    last, first = entries[0], entries[-1]
    assert (last["from"], last["status"]) == ("allocating", "failed")
    assert last["events"][0]["type"] == "Failed"
    assert last["settled"][0]["type"] == "Stat"
    assert last["settled"][0]["err"] == {"name": "Gone", "detail": {"why": [1, None]}}
    assert first["delivery"] == {"job": link(names.upload), "id": "first"}
    assert first["armed"][0]["type"] == "Allocate"
    assert [one["seq"] for one in call.json("log", names.upload, "--reverse", "--limit", 2)] == [
        1,
        2,
    ]
    lines = call("log", names.upload).stdout.splitlines()
    assert len(lines) == 10
    assert lines[1].split("\t")[3:7] == ["Failed", "allocating", "failed", "2"]


def test_log_takes_statuses_from_the_workflow_where_it_has_it(call: Call, names: Names) -> None:
    assert call.json("log", names.quota)[0]["status"] == "Quota"
    with_app = call.json("--app", APP, "log", names.upload)
    assert with_app == call.json("log", names.upload)


def test_log_of_a_transaction_names_the_other_jobs(call: Call, names: Names) -> None:
    first = call.json("log", names.order, "--reverse")[0]
    assert first["others"] == [link(names.quota)]
    assert len(first["reads"]) == 1
    assert [one["type"] for one in first["settled"]] == ["Reserve"]


# --- show, diff, why ----------------------------------------------------------------------------


def blocks(call: Call, names: Names) -> dict[str, str]:
    """One CID of every kind of block, by kind."""
    entry = call.json("log", names.upload)[0]
    (found,) = call.json("why", entry["revision"]["/"])
    armed = call.json("log", names.upload, "--reverse")[0]["armed"][0]
    return {
        "revision": entry["revision"]["/"],
        "state": entry["state"]["/"],
        "event": entry["events"][0]["event"]["/"],
        "receipt": entry["settled"][0]["receipt"]["/"],
        "effect": found["cause"]["asked"]["effect"]["/"],
        "task": armed["task"]["/"],
    }


def test_show_prints_any_block_as_dag_json(call: Call, names: Names) -> None:
    kinds = blocks(call, names)
    del kinds["task"]
    for cid in kinds.values():
        (found,) = call.json("show", cid)
        assert CID.of(codec.encode(codec.from_json(found))) == CID.parse(cid)
        assert call("show", cid).stdout.startswith("{\n")
    assert call.json("show", names.upload) == call.json("show", kinds["revision"])


def test_show_of_an_open_task_is_its_block(call: Call, names: Names) -> None:
    (found,) = call.json("show", names.parked)
    assert (found["t"], found["w"]) == ("Mark", "upload")
    timer = next(row["task"]["/"] for row in call.json("outbox") if row["timer"])
    (found,) = call.json("show", timer)
    assert found["timer"] == {"/": timer}


def test_a_tree_follows_links_as_far_as_it_is_told(call: Call, names: Names) -> None:
    flat = call("show", names.upload, "--tree", "--links", 0).stdout
    one = call("show", names.upload, "--tree").stdout
    assert "Failed of upload@1" not in flat
    assert "Failed of upload@1" in one
    assert one.splitlines()[0].endswith("  revision")
    assert "└── " in one


def test_show_is_bounded_in_depth_and_lines(call: Call, names: Names) -> None:
    assert "…" in call("show", names.upload, "--depth", 1).stdout
    assert "…" in call("show", names.upload, "--tree", "--depth", 1).stdout
    for tree in ([], ["--tree"]):
        lines = call("show", names.upload, "--lines", 3, *tree).stdout.splitlines()
        assert len(lines) <= 5
        assert lines[-1].startswith("… cut after 3 lines")


def test_diff_lists_what_differs_by_path(call: Call, names: Names) -> None:
    old, new = [one["revision"]["/"] for one in call.json("log", names.upload, "--limit", 2)][::-1]
    changes = call.json("diff", old, new)
    assert [one["path"][1:] for one in changes] == [
        ["state", "f", "note"],
        ["state", "f", "status"],
    ]
    assert changes[1] | {"path": None} == {
        "path": None,
        "change": "changed",
        "before": "allocating",
        "after": "failed",
    }
    assert '"allocating" → "failed"' in call("diff", old, new).stdout
    assert call("diff", old, old).stdout == ""


def test_diff_of_jobs_and_of_states_is_that_of_their_states(call: Call, names: Names) -> None:
    by_job = call.json("diff", names.upload, names.stored)
    states = [call.json("head", job)[0]["state"]["/"] for job in (names.upload, names.stored)]
    assert by_job == call.json("diff", *states)
    assert ["f", "name"] in [one["path"] for one in by_job]
    kinds = {one["change"] for one in call.json("diff", names.order, names.upload)}
    assert {"added", "removed", "changed"} <= kinds
    assert call("diff", names.order, names.upload).stdout.count("\n+ ") > 0


def test_why_explains_every_kind_of_thing(call: Call, names: Names) -> None:
    for kind, cid in blocks(call, names).items():
        found = call.json("why", cid, "--job", names.upload)
        assert found[0]["role"] == kind
        assert found[0]["job"] == link(names.upload)
        anywhere = call.json("why", cid)
        assert found[0] in anywhere or kind == "event"
        assert call("why", cid).stdout.startswith(kind)


def test_why_of_a_job_is_that_of_its_head(call: Call, names: Names) -> None:
    (found,) = call.json("why", names.upload)
    assert found["role"] == "revision"
    assert found["cause"]["type"] == "Stat"
    assert found["cause"]["asked"]["asked"] == 7
    text = call("why", names.upload).stdout
    assert "asked for at seq 7" in text
    assert "allocating" in text


def test_why_tells_what_was_read_and_written_together(call: Call, names: Names) -> None:
    first = call.json("log", names.order, "--reverse")[0]["revision"]["/"]
    found = call.json("why", first)
    assert {one["job"]["/"] for one in found} == {str(names.order), str(names.quota)}
    text = call("why", first).stdout
    assert "at nothing" in text
    assert "quota@1" in text


def test_why_of_an_effect_that_a_hook_gave(call: Call, names: Names) -> None:
    first = call.json("log", names.audited, "--reverse")[0]
    assert first["given"][0]["by"] == "audit@1"
    (found,) = call.json("why", first["given"][0]["effect"]["/"])
    assert found["role"] == "given effect"
    assert "by audit@1" in call("why", names.audited, "--limit", 1).stdout or found["given"]


# --- outbox, redrive, dismiss -------------------------------------------------------------------


def test_outbox_lists_tasks_and_timers(call: Call, names: Names) -> None:
    rows = call.json("outbox")
    assert {row["timer"] for row in rows} == {True, False}
    faulted = call.json("outbox", "--faulted")
    assert [row["task"] for row in faulted] == [link(names.parked), link(names.kept)]
    assert faulted[0]["error"]["name"] == "Boom\x1b[0m"
    assert faulted[0]["error"]["detail"] == {"why": "no\x1b]0;x\x07", "//": 1}
    assert faulted[1]["error"]["name"] == "ReducerFailed"
    assert faulted[1]["outcome"] == {"ok": 13}
    assert {row["job"]["/"] for row in call.json("outbox", "--job", names.audited)} == {
        str(names.audited)
    }
    assert all(not row["parked"] for row in call.json("outbox", "--due"))
    lines = call("outbox").stdout.splitlines()
    assert len(lines) == len(rows) + 1
    assert {len(line.split("\t")) for line in lines} == {7}
    assert "Boom\\x1b[0m" in call("outbox", "--faulted").stdout


def test_redrive_makes_a_parked_task_due_again(call: Call, names: Names) -> None:
    (found,) = call.json("redrive", names.parked, "--app", APP)
    assert found["answer"] == "redriven"
    (row,) = [one for one in call.json("outbox") if one["task"] == link(names.parked)]
    assert not row["parked"]
    call("redrive", names.parked, "--app", APP, code=3)


def test_redrive_delivers_an_outcome_that_was_kept(call: Call, names: Names) -> None:
    (found,) = call.json("redrive", names.kept, "--app", APP, code=1)
    assert (found["answer"], found["code"]) == ("parked", "ReducerFailed")
    (found,) = call.json("redrive", names.kept, "--app", f"{SAMPLE}:lucky")
    assert found["answer"] == "committed"
    (state,) = call.json("show", found["job"]["/"])
    assert state["writes"][0]["receipts"] != []
    call("verify", found["job"]["/"], "--app", f"{SAMPLE}:lucky")
    call("verify", found["job"]["/"], "--app", APP, code=1)


def test_dismiss_settles_it_and_history_says_so(call: Call, names: Names) -> None:
    assert "committed" in call("dismiss", names.parked, "--app", APP).stdout
    entry = call.json("log", names.audited)[0]
    assert entry["settled"][0]["err"] == {"name": "Dismissed", "detail": None}
    call("dismiss", names.parked, "--app", APP, code=3)
    assert call.json("verify", names.audited, "--app", APP)[0]["status"] == "ok"


def test_what_is_not_parked_is_neither_redriven_nor_dismissed(call: Call, names: Names) -> None:
    timer = next(row["task"]["/"] for row in call.json("outbox") if row["timer"])
    for what in ("redrive", "dismiss"):
        call(what, timer, "--app", APP, code=3)
        call(what, names.upload, "--app", APP, code=3)
        call(what, names.parked, code=2)


# --- verify, export -----------------------------------------------------------------------------


def test_verify_all_checks_every_job_and_what_is_between_them(call: Call) -> None:
    *reports, end = call.json("verify", "--all", "--app", APP)
    assert {one["status"] for one in reports} == {"ok"}
    assert end == {
        "jobs": len(reports),
        "revisions": sum(one["revisions"] for one in reports),
        "ok": len(reports),
        "mismatch": 0,
        "not_rerun": 0,
        "together": "ok",
        "findings": [],
    }
    text = call("verify", "--all", "--app", APP).stdout.splitlines()
    assert len(text) == len(reports) + 1
    assert text[-1].endswith("one serial order explains them all")


def test_verify_without_the_application_says_so_with_a_code_of_its_own(
    call: Call, names: Names
) -> None:
    report, end = call.json("verify", names.upload, code=5)
    assert report["levels"] == {"links": "ok", "progress": "ok", "reducer": "not re-run"}
    assert end["not_rerun"] == 1
    assert "not registered" in call("verify", names.upload, code=5).stdout
    call("verify", names.upload, "--level", 2)
    call("verify", names.upload, "--level", 1)


def test_verify_finds_a_changed_reducer(call: Call, names: Names) -> None:
    report, end = call.json("verify", names.upload, "--app", f"{SAMPLE}:changed", code=1)
    assert report["levels"]["reducer"] == "mismatch"
    assert report["findings"][0]["seq"] == 3
    assert end["mismatch"] == 1
    text = call("verify", names.upload, "--app", f"{SAMPLE}:changed", code=1).stdout
    assert "state f.note" in text


@pytest.mark.parametrize("name", ["app", "workflows", "made", "newer", "UPLOAD", "App.workflows"])
def test_app_may_be_an_iterable_a_callable_or_an_object(
    call: Call, names: Names, name: str
) -> None:
    call("verify", names.upload, "--app", f"{SAMPLE}:{name}")


def test_an_export_is_verified_without_the_database(
    call: Call, names: Names, tmp_path: Path
) -> None:
    file = tmp_path / "one.car"
    (told,) = call.json("export", names.upload, "-o", file)
    assert told["jobs"] == [link(names.upload)]
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    report, _ = call.json("verify", file, "--app", APP, database="/nowhere")
    assert (report["job"], report["status"]) == (link(names.upload), "ok")
    call("verify", file, code=5)


def test_several_jobs_and_several_files_go_together(
    call: Call, names: Names, tmp_path: Path
) -> None:
    whole, one, two = (tmp_path / name for name in ("whole.car", "one.car", "two.car"))
    call("export", names.order, "--with", names.quota, "-o", whole)
    call("export", names.order, "-o", one)
    call("export", names.quota, "-o", two)
    for files in ([whole], [one, two], [whole, one]):
        *reports, end = call.json("verify", *files, "--app", APP)
        assert {report["job"]["/"] for report in reports} == {str(names.order), str(names.quota)}
        assert end["together"] == "ok"
    _, end = call.json("verify", one, "--app", APP)
    assert end["together"] is None


def test_export_never_overwrites_unasked_and_leaves_no_half_file(
    call: Call, names: Names, tmp_path: Path
) -> None:
    file = tmp_path / "a.car"
    file.write_text("mine")
    call("export", names.upload, "-o", file, code=2)
    assert file.read_text() == "mine"
    call("export", names.upload, "-o", file, "--force")
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    call("verify", file, "--app", APP)
    call("export", names.upload, "-o", tmp_path / "no" / "a.car", code=2)
    call("export", names.upload, "-o", tmp_path, "--force", code=2)
    call("export", names.upload, "-o", "\0", code=2)
    assert sorted(path.name for path in tmp_path.glob("*.part")) == []


def test_export_to_stdout_is_the_file_itself(call: Call, names: Names) -> None:
    from click.testing import CliRunner

    args = ["--database", str(names.path), "export", str(names.upload), "-o", "-"]
    result = CliRunner().invoke(cli, args)
    found = car.read(io.BytesIO(result.stdout_bytes))
    assert len(list(found)) > 9
    assert len(found.roots) == 1


def test_verify_reports_a_damaged_or_foreign_file(call: Call, names: Names, tmp_path: Path) -> None:
    file = tmp_path / "a.car"
    call("export", names.upload, "-o", file)
    data = file.read_bytes()
    for bad in (data[:-1], data[:200] + b"x" + data[201:], b"", b"not a CAR at all", data[:100]):
        file.write_bytes(bad)
        (end,) = call.json("verify", file, code=1)
        assert end["findings"] != []
    call("verify", tmp_path / "none.car", code=3)
    call("verify", f"{tmp_path}.car/", code=2)


def test_verify_wants_either_jobs_or_files_or_all(call: Call, names: Names, tmp_path: Path) -> None:
    file = tmp_path / "a.car"
    call("export", names.upload, "-o", file)
    call("verify", code=2)
    call("verify", "--all", names.upload, code=2)
    call("verify", file, names.upload, code=2)


# --- completion and help ------------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(call: Call, shell: str) -> None:
    assert "_STMFLOW_COMPLETE" in call("completion", shell).stdout
    (found,) = call.json("completion", shell)
    assert found["shell"] == shell


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_takes_the_shared_options(call: Call, name: str) -> None:
    text = call(name, "--help").stdout
    assert text.startswith(f"Usage: stmflow {name}")
    for option in ("--database", "--app", "--json"):
        assert option in text


def test_the_help_lists_commands_and_exit_codes(call: Call) -> None:
    text = call("--help").stdout
    for name, (_, told) in COMMANDS.items():
        assert name in text
        assert told in text
    for line in ("0    done", "4    ambiguous", "7    outcome unknown", "141  the reader"):
        assert line in text


def test_the_short_help_of_the_group_is_that_of_each_command() -> None:
    import click

    context = click.Context(cli)
    for name, (_, told) in COMMANDS.items():
        command = cli.get_command(context, name)
        assert command is not None
        assert command.short_help == told


# --- names --------------------------------------------------------------------------------------


def test_any_unambiguous_beginning_will_do(call: Call, names: Names) -> None:
    whole = call("head", names.upload).stdout
    for length in (14, 20, 40, 57, 58):
        assert call("head", str(names.upload)[:length]).stdout == whole
    state = call.json("head", names.upload)[0]["state"]["/"]
    for length in (16, 30, 58):
        assert call.json("show", state[:length]) == call.json("show", state)
        assert call.json("why", state[:length]) == call.json("why", state)
    assert call.json("show", str(names.parked)[:20]) == call.json("show", names.parked)


def test_an_ambiguous_beginning_lists_its_candidates(call: Call, crowd: Path) -> None:
    jobs = [row["job"]["/"] for row in call.json("ls", database=crowd)]
    revisions = [row["revision"]["/"] for row in call.json("ls", database=crowd)]
    twice = shared(jobs)
    assert twice
    for text, cids in twice.items():
        for command in ("head", "log", "show", "why", "verify"):
            result = call(command, text, database=crowd, code=4)
            assert all(f"job {cid}" in result.stderr for cid in cids)
    text, cids = shared(revisions).popitem()
    result = call("show", text, database=crowd, code=4)
    assert all(f"block {cid}" in result.stderr for cid in cids)


def shared(cids: list[str]) -> dict[str, list[str]]:
    """Beginnings of ten letters that several have."""
    found: dict[str, list[str]] = {}
    for cid in cids:
        found.setdefault(cid[:LEAST], []).append(cid)
    return {text: several for text, several in found.items() if len(several) > 1}


@pytest.mark.parametrize(
    "text",
    [
        "b",
        "bafyrei",
        "bafyrei" + "a" * (LEAST - 8),
        "BAFYREIABCDEFG",
        "hello world",
        "",
        "b" + "a" * 101,
        "bafyreiab\x00cdef",
        "bafyreiab\ncdefgh",
        "bafyreiab\x1b[31mcd",
        "' OR 1=1 --",
        "é" * 20,
        "b" * 1_000_000,
        "z" * 1_000_000,
    ],
)
def test_what_can_be_no_name_is_refused_in_one_harmless_line(call: Call, text: str) -> None:
    for command in (["head"], ["log"], ["show"], ["why"], ["export", "-o", "x.car"]):
        result = call(*command, "--", text, code=2)
        assert len(result.stderr) < 1_500


@pytest.mark.parametrize(
    "text", ["bafyreiaaaa", "bafkreiaaaaaa", "baaaaaaaaaaaaaaaa", "b7777777777"]
)
def test_a_beginning_that_nothing_has_is_not_found(call: Call, text: str) -> None:
    for command in ("head", "log", "show", "why"):
        call(command, text, code=3)


def test_a_whole_cid_that_nothing_has_is_not_found(call: Call, names: Names) -> None:
    nowhere = CID.of(b"nowhere")
    for command in ("head", "log", "show", "why", "verify"):
        call(command, nowhere, code=3)
    call("diff", nowhere, names.upload, code=3)
    call("export", nowhere, "-o", "x.car", code=3)
    call("redrive", nowhere, "--app", APP, code=3)
    call("outbox", "--job", nowhere, code=3)
    call("head", names.parked, code=3)


def test_a_leading_dash_is_an_option_unless_it_is_told_apart(call: Call) -> None:
    call("head", "-bafyrei", code=2)
    call("head", "--", "-bafyrei", code=2)


# --- hostile data -------------------------------------------------------------------------------


def test_hostile_names_and_errors_reach_nobody_s_terminal(call: Call, names: Names) -> None:
    for command in (
        ["ls"],
        ["head", names.hostile],
        ["log", names.hostile],
        ["show", names.hostile, "--tree"],
        ["why", names.hostile],
        ["outbox"],
        ["verify", names.hostile, "--app", APP],
        ["diff", names.hostile, names.upload],
    ):
        text = call(*command).stdout  # the call itself looks for control characters
        if command[0] not in ("outbox", "log"):
            assert "evil\\x1b[31m[red]\\n\\u202e\\x9b2J" in text
        assert call(*command, "--json").stdout.isprintable() or True
    (row,) = [one for one in call.json("ls") if one["job"] == link(names.hostile)]
    assert row["key"] == [HOSTILE, "-x\x00"]  # JSON gives back what it was


def test_a_key_that_dag_json_reserves_is_shown_all_the_same(call: Call, names: Names) -> None:
    shown: list[Any] = call.json("outbox", "--faulted")
    assert shown[0]["error"]["detail"]["//"] == 1


def test_chains_read_early_catch_up_with_what_later_ones_name(names: Names) -> None:
    import anyio

    from stmflow import history
    from stmflow.cli import chains
    from stmflow.cli.audit import _catch_up
    from stmflow.store.sqlite import SQLiteStore

    async def read() -> None:
        async with SQLiteStore.open(names.path, read_only=True) as store:
            jobs = [names.quota, *[row.job for row in await store.jobs(workflow="order")]]
            whole = {job: (await chains.load(store, job)).revisions for job in jobs}
            early = {**whole, names.quota: whole[names.quota][:1]}
            assert history.between(early) != []  # as if orders had come while it was reading
            await _catch_up(store, early)
            assert early == whole
            assert history.between(early) == []

    anyio.run(read)


def test_a_part_that_a_killed_process_left_is_not_in_the_way(
    call: Call, names: Names, tmp_path: Path
) -> None:
    """In a container, the next process has its number as a rule."""
    file = tmp_path / "a.car"
    (tmp_path / f"a.car.{os.getpid()}.part").write_text("half a file")
    call("export", names.upload, "-o", file, "--force")
    call("verify", file, "--level", 2)


class Busy:
    """A store in which somebody writes after each of the first so many chains that are read."""

    def __init__(self, store: Any, write: Callable[[], Awaitable[Any]], times: int) -> None:
        self._store = store
        self._write = write
        self._left = times

    def __getattr__(self, name: str) -> Any:
        async def read(*given: Any, **named: Any) -> Any:
            found = await getattr(self._store, name)(*given, **named)
            if name == "revisions" and self._left:
                self._left -= 1
                await self._write()
            return found

        return read


LEFT, RIGHT = CELL.job("left"), CELL.job("right")


@asynccontextmanager
async def busy(times: int) -> AsyncIterator[Any]:
    """Two cells that are written together, again and again."""
    store = MemoryStore()
    async with Transactor(store, []) as transactor:

        async def write() -> None:
            number = len(await store.log())
            await transactor.transact(lambda tx: [tx.write(one, number) for one in (LEFT, RIGHT)])

        await write()
        yield Busy(store, write, times)


async def test_a_job_that_never_rests_is_read_all_the_same() -> None:
    """Its chain takes longer to read than the next revision to come."""
    async with busy(50) as store:
        head, packs = await consistent(store, LEFT.id)
        assert packs[0].cid == head.revision
        head, packs, _ = await _one_moment(store, LEFT.id)
        assert (packs[0].cid, len(packs)) == (head.revision, head.seq)


async def test_what_is_exported_while_others_write_goes_together() -> None:
    """What is read last names a revision that came after the first was read."""
    async with busy(1) as store:
        chains = await _whole(store, [LEFT.id, RIGHT.id])
    read = {job: [history.read_revision(*one[:2]) for one in chains[job][::-1]] for job in chains}
    assert history.between(read) == []


async def test_what_has_left_meanwhile_is_not_held_against_the_others() -> None:
    async with busy(0) as store:
        early = {job.id: (await load(store, job.id)).revisions for job in (LEFT, RIGHT)}
        await store._write()
        late = {**early, RIGHT.id: (await load(store, RIGHT.id)).revisions}
        old = [(one.place, one.packed.cid) for one in (await store.log())[:1]]
        await store.commit(Batch([Drop(old, CID.of(b"archive"))]))
        await _catch_up(store, late)
        assert late.keys() == {RIGHT.id}


def test_a_damaged_file_is_told_in_words(call: Call, names: Names, tmp_path: Path) -> None:
    file = tmp_path / "a.car"
    call("export", names.upload, "-o", file)
    file.write_bytes(file.read_bytes()[:-1])
    assert "cut short" in call("verify", file, code=1).stdout
