"""Exit codes, unusable databases, pipes, and what it costs to start."""

from __future__ import annotations

import json
import os
import pty
import re
import resource
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pytest

from stmflow import CID, errors
from stmflow.cli import EPILOG, exits
from stmflow.cli.output import Screen, clean, json_text, moment, relative, value_text
from stmflow.cli.settings import database_path, load
from tests.project import ROOT
from tests.stmflow.cli.conftest import APP, Call, Names

# --- codes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (click.UsageError("x"), 2),
        (errors.NotFound("x"), 3),
        (errors.UnknownTask("x"), 3),
        (errors.Ambiguous("x", []), 4),
        (errors.UnknownVersion("x"), 5),
        (errors.UnknownWorkflow("x"), 5),
        (errors.UnknownSchema("x"), 6),
        (errors.Corrupt("x"), 6),
        (errors.Unavailable("x"), 6),
        (errors.DiskFull("x"), 6),
        (errors.ReadOnly("x"), 6),
        (errors.UnsafeStore("x"), 6),
        (errors.MalformedBlock("x"), 6),
        (OSError("x"), 6),
        (errors.Indeterminate("x"), 7),
        (RuntimeError("x"), 70),
        (KeyboardInterrupt(), 130),
    ],
)
def test_every_failure_has_its_code_and_one_line(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exits.report(error) == code
    assert capsys.readouterr().err.count("\n") == 1
    assert re.search(rf"^ *{code} ", EPILOG.replace("   130", "\n130"), re.M)


def test_an_unknown_outcome_is_told_as_such(
    call: Call, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stmflow.transactor import Transactor

    async def lost(self: Any, task: Any) -> Any:
        raise errors.Indeterminate("nobody knows")

    monkeypatch.setattr(Transactor, "dismiss", lost)
    call("dismiss", names.parked, "--app", APP, code=7)


def test_a_task_that_is_parked_again_is_told_as_such(
    call: Call, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stmflow.transaction import Answer
    from stmflow.transactor import Transactor

    async def again(self: Any, task: Any, **_: Any) -> Any:
        return Answer("parked", names.audited, code="Boom\x1b[0m")

    monkeypatch.setattr(Transactor, "redrive", again)
    assert "parked Boom" in call("redrive", names.parked, "--app", APP, code=1).stdout


def test_a_fault_of_ours_is_one_line_too(
    call: Call, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stmflow.cli import names as module

    async def broken(*args: Any) -> Any:
        raise ZeroDivisionError("one\ntwo")

    monkeypatch.setattr(module, "find_job", broken)
    assert "fault" in call("head", names.upload, code=70).stderr


@pytest.mark.parametrize(
    "args",
    [
        ["nothing"],
        ["ls", "--nothing"],
        ["head"],
        ["ls", "--limit", "0"],
        ["verify", "--level", "4", "x"],
        ["completion", "tcsh"],
        ["no\x1b[31m\nsuch"],
        ["x" * 1_000_000],
        ["ls", "--" + "x" * 1_000_000],
    ],
)
def test_wrong_usage_is_one_line(call: Call, args: list[str]) -> None:
    call(*args, code=2)


def test_a_missing_version_stops_a_dismissal(call: Call, names: Names) -> None:
    only = "tests.stmflow.cli.sample:only_orders"
    call("dismiss", names.parked, "--app", only, code=5)


# --- databases ----------------------------------------------------------------------------------


def test_a_database_is_needed_and_may_come_from_the_environment(names: Names) -> None:
    bare = command("ls", env={"STMFLOW_DATABASE": ""})
    assert (bare.returncode, bare.stderr.count("\n")) == (2, 1)
    assert command("ls", env={"STMFLOW_DATABASE": str(names.path)}).returncode == 0
    found = command(
        "verify", "--all", env={"STMFLOW_DATABASE": str(names.path), "STMFLOW_APP": APP}
    )
    assert found.returncode == 0
    assert command("ls", "--database", str(names.path)).returncode == 0
    assert command("--database", "/nowhere", "ls", "--database", str(names.path)).returncode == 0


def test_a_database_that_is_not_there_is_not_made(call: Call, names: Names, tmp_path: Path) -> None:
    path = tmp_path / "none.db"
    for args in (["ls"], ["verify", "--all"], ["redrive", names.parked, "--app", APP]):
        call(*args, database=path, code=3)
    assert not path.exists()


def test_unusable_databases_are_refused(call: Call, names: Names, tmp_path: Path) -> None:
    foreign, newer, empty, text, cut = (tmp_path / name for name in "abcde")
    with sqlite3.connect(foreign) as other:
        other.execute("CREATE TABLE job (x)")
    other.close()
    shutil.copy(names.path, newer)
    with sqlite3.connect(newer) as other:
        other.execute("UPDATE meta SET schema = 99")
    other.close()
    empty.write_bytes(b"")
    text.write_text("this is no database, and long enough to be looked at " * 100)
    cut.write_bytes(names.path.read_bytes()[:5_000])
    for path in (tmp_path, foreign, newer, empty, text, cut):
        for args in (["ls"], ["head", names.upload], ["redrive", names.parked, "--app", APP]):
            call(*args, database=path, code=6)
        assert path.is_dir() or path.stat().st_size in (0, path.stat().st_size)
    assert empty.read_bytes() == b""


def test_a_damaged_block_is_found_by_verify(call: Call, names: Names) -> None:
    state = call.json("head", names.upload)[0]["state"]["/"]
    with sqlite3.connect(names.path) as other:
        ((row, data),) = other.execute(
            "SELECT r.row, r.data FROM revision r JOIN job j ON j.head = r.row WHERE j.id = ?",
            (names.upload.bytes,),
        ).fetchall()
        bad = data.replace(b"failed", b"stored")
        assert bad != data
        other.execute("UPDATE revision SET data = ? WHERE row = ?", (bad, row))
    other.close()
    report, _ = call.json("verify", names.upload, "--app", APP, code=1)
    assert report["levels"]["links"] == "mismatch"
    call("verify", "--all", "--app", APP, code=1)
    call("head", names.upload, code=6)
    call("show", state, code=3)


def test_a_damaged_row_of_the_outbox_is_found_by_verify(call: Call, names: Names) -> None:
    with sqlite3.connect(names.path) as other:
        other.execute("UPDATE timer SET due = due + 1")
    other.close()
    report, _ = call.json("verify", names.audited, "--app", APP, code=1)
    assert report["levels"]["progress"] == "mismatch"


def test_reading_changes_nothing(call: Call, names: Names) -> None:
    before = names.path.read_bytes()
    for args in (["ls"], ["log", names.upload], ["outbox"], ["verify", "--all", "--app", APP]):
        call(*args)
    assert names.path.read_bytes() == before


def test_a_folder_that_may_not_be_written_can_be_read_and_nothing_else(
    names: Names, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "jobs.db"
    shutil.copy(names.path, path)
    path.chmod(0o444)
    folder.chmod(0o555)
    try:
        found = unprivileged("--database", str(path), "ls")
        assert found.returncode == 0, found.stderr
        copied = unprivileged("--database", str(path), "backup", str(tmp_path / "copy.db"))
        assert copied.returncode == 0, copied.stderr
        assert sorted(one.name for one in folder.iterdir()) == ["jobs.db"]
        refused = unprivileged("--database", str(path), "--app", APP, "dismiss", str(names.parked))
        assert (refused.returncode, refused.stderr.count("\n")) == (6, 1), refused.stderr
    finally:
        folder.chmod(0o755)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("jobs.db", "jobs.db"),
        ("a?b=c", "a?b=c"),
        ("C:jobs.db", "C:jobs.db"),
        ("file:jobs.db", "jobs.db"),
        ("file:/a%20b.db?mode=ro", "/a b.db"),
        ("sqlite:///srv/jobs.db", "/srv/jobs.db"),
    ],
)
def test_a_database_is_a_path_or_a_plain_uri(text: str, path: str) -> None:
    assert database_path(text) == path


@pytest.mark.parametrize(
    "text",
    [
        ":memory:",
        "a\0b",
        "file:jobs.db?immutable=1",
        "file:jobs.db?mode=rwc",
        "file:jobs.db?mode=ro&vfs=unix-none",
        "file:jobs.db?nolock",
        "file:%00",
        "file:",
        "file://elsewhere/jobs.db",
        "sqlite:///a#b",
        "postgresq://user:pass@host/db",
        "http://host/",
    ],
)
def test_a_uri_with_what_is_not_known_is_refused(call: Call, text: str) -> None:
    with pytest.raises(click.UsageError):
        database_path(text)
    call("ls", database=text, code=2)


def test_mode_ro_forbids_writing(call: Call, names: Names) -> None:
    uri = f"file:{names.path}?mode=ro"
    call("ls", database=uri)
    call("dismiss", names.parked, "--app", APP, database=uri, code=6)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "nothing",
        "nothing:",
        ":name",
        "no.such.module:name",
        "tests.stmflow.cli.sample:nothing",
        "tests.stmflow.cli.sample:HOUR_MS",
        "tests.stmflow.cli.sample:update",
        "os:environ",
        "a\x1b[31m:b",
    ],
)
def test_an_app_that_gives_no_workflows_is_refused(call: Call, names: Names, name: str) -> None:
    with pytest.raises(click.UsageError):
        load(name)
    call("--app", name or ":", "verify", names.upload, code=2)


# --- processes ----------------------------------------------------------------------------------


def command(
    *args: str, env: dict[str, str] | None = None, through: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """`python -m stmflow` in a process of its own."""
    return subprocess.run(
        [*through, sys.executable, "-m", "stmflow", *args],
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def unprivileged(*args: str) -> subprocess.CompletedProcess[str]:
    """The same, by somebody whom modes of files bind: root they do not."""
    if os.geteuid() != 0:
        return command(*args)
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("root may write everywhere, and setpriv is not here")
    none = ("--inh-caps=-all", "--bounding-set=-all")
    return command(*args, through=(setpriv, *none))


def test_a_reader_that_goes_away_is_no_trouble(names: Names) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    for args in (["ls"], ["show", str(names.upload), "--tree"], ["verify", "--all"]):
        process = subprocess.Popen(
            [sys.executable, "-m", "stmflow", "--database", str(names.path), *args],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=writing,
            stderr=subprocess.PIPE,
        )
        _, told = process.communicate()
        assert (process.returncode, told) == (exits.READER_GONE, b"")
    os.close(writing)


def test_text_that_the_terminal_cannot_write_is_escaped(names: Names) -> None:
    found = command(
        "--database",
        str(names.path),
        "show",
        str(names.upload),
        "--tree",
        env={"PYTHONIOENCODING": "ascii"},
    )
    assert found.returncode == 0
    assert "\\u251c" in found.stdout


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_is_json_in_every_encoding(encoding: str) -> None:
    found = subprocess.run(
        [sys.executable, "-c", "from stmflow.cli.output import emit; emit({'é': '😀\\x80'})"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=True,
    )
    assert json.loads(found.stdout) == {"é": "😀\x80"}


@pytest.mark.parametrize("options", [[], ["--json"]])
@pytest.mark.parametrize(("where", "code"), [(">&-", 0), ("> /dev/full", exits.UNUSABLE)])
def test_an_output_that_takes_nothing_is_no_fault_of_stmflow(
    names: Names, where: str, code: int, options: list[str]
) -> None:
    told = [sys.executable, "-m", "stmflow", "--database", str(names.path), "ls", *options]
    found = subprocess.run(
        ["sh", "-c", f'"$@" {where}', "sh", *told],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert found.returncode == code, found.stderr
    assert found.stderr.count("\n") == bool(code)
    assert "fault" not in found.stderr


def on_a_terminal(*args: str, width: int = 120, **env: str) -> str:
    """What a person sees."""
    import fcntl
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "stmflow", *args],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **env},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    found = b""
    while True:
        try:
            part = os.read(ours, 65_536)
        except OSError:
            break
        if not part:
            break
        found += part
    process.wait()
    os.close(ours)
    return found.decode()


def test_a_terminal_gets_colours_and_short_cids_and_no_sequence_from_the_data(
    names: Names,
) -> None:
    for args in (
        ["ls"],
        ["head", str(names.hostile)],
        ["log", str(names.audited)],
        ["show", str(names.hostile), "--tree"],
        ["show", str(names.hostile)],
        ["why", str(names.hostile)],
        ["outbox"],
        ["verify", str(names.hostile)],
        ["diff", str(names.hostile), str(names.upload)],
    ):
        text = on_a_terminal("--database", str(names.path), *args)
        assert "\x1b[" in text or args[0] == "diff"
        bare = re.sub(r"\x1b\[[0-9;]*m", "", text)
        assert [c for c in bare if not c.isprintable() and c not in "\r\n"] == []
        assert "\x1b[31m[red]" not in text
        if args[0] in ("ls", "log", "outbox"):
            assert str(names.audited)[:16] in bare or args[0] == "log"
            assert str(names.audited) not in bare
    plain = on_a_terminal("--database", str(names.path), "ls", TERM="dumb")
    assert "\x1b" not in plain
    assert str(names.audited) in plain


@pytest.mark.parametrize("columns", ["0", "1"])
def test_a_terminal_of_no_width_is_written_to_all_the_same(names: Names, columns: str) -> None:
    shown = on_a_terminal("--database", str(names.path), "ls", COLUMNS=columns, NO_COLOR="1")
    assert str(names.upload)[:8] in shown
    shown = on_a_terminal("--database", str(names.path), "head", str(names.upload), COLUMNS=columns)
    assert str(names.upload)[:16] in shown


def cpu_seconds(*argv: str) -> float:
    """The least processor time of a few runs."""
    least = float("inf")
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, *argv],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            check=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        least = min(least, spent)
    return least


def test_help_costs_little_more_than_importing_the_core_and_click() -> None:
    click_alone = cpu_seconds("-c", "import click")
    core = cpu_seconds("-c", "import stmflow")
    shown = cpu_seconds("-m", "stmflow", "--help")
    assert shown < core + 2 * click_alone, (shown, core, click_alone)
    assert shown < 10 * click_alone, (shown, click_alone)


HEAVY = {"rich", "apsw", "multiformats", "dag_cbor", "scheduler", "capabilities", "aiobotocore"}


@pytest.mark.parametrize("args", [["--help"], ["verify", "--help"], ["completion", "fish"]])
def test_help_loads_nothing_heavy(args: Sequence[str]) -> None:
    program = (
        "import sys\nfrom stmflow.cli import cli\n"
        f"try: cli({list(args)!r})\nexcept SystemExit: pass\n"
        "print('loaded', *sorted({name.split('.')[0] for name in sys.modules}))\n"
        "print('history' if 'stmflow.history' in sys.modules else '')"
    )
    output = subprocess.check_output(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True
    )
    loaded = next(line for line in output.splitlines() if line.startswith("loaded"))
    assert HEAVY & set(loaded.split()) == set()
    assert not output.endswith("history\n")


# --- text ---------------------------------------------------------------------------------------


def test_what_is_not_printable_becomes_an_escape() -> None:
    assert clean("a\x1b[31m\x00\n\t\r\x9b\u202e\U000e0001\\é→") == (
        "a\\x1b[31m\\x00\\n\\t\\r\\x9b\\u202e\\U000e0001\\\\é→"
    )
    assert clean("\ud800") == "\\ud800"


def test_json_holds_no_character_that_a_terminal_obeys() -> None:
    text = json_text({"\x9b": "\x7f\u202e\U000e0001", "/": b"\x01", "//": CID.of(b"x")})
    assert text.isprintable()
    import json

    assert json.loads(text) == {
        "\x9b": "\x7f\u202e\U000e0001",
        "//": {"/": {"bytes": "AQ"}},
        "///": {"/": str(CID.of(b"x"))},
    }


@pytest.mark.parametrize(
    ("at", "told"),
    [
        (1_000_000, "now"),
        (990_000, "10 s ago"),
        (400_000, "10 min ago"),
        (1_000_000 + 7_200_000, "in 2 h"),
        (1_000_000 + 3 * 86_400_000, "in 3 d"),
    ],
)
def test_times_are_told_relative_to_now(at: int, told: str) -> None:
    assert relative(at, 1_000_000) == told


def test_times_beyond_the_calendar_are_told_as_numbers() -> None:
    assert moment(2**63 - 1) == "9223372036854775807 ms"
    assert moment(0) == "1970-01-01T00:00:00.000+00:00"


def test_values_are_told_in_one_short_line() -> None:
    assert value_text({"a": [1, None, True, "x"], "b": b"\x00" * 20}) == (
        '{a: [1, null, true, "x"], b: 0x' + "00" * 16 + "… (20 bytes)}"
    )
    assert len(value_text("x" * 1_000)) == 120
    assert len(value_text([1] * 1_000)) <= 120


def test_a_screen_that_is_no_terminal_is_plain(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.line(("[bold]x[/bold]\x1b", "red"), (CID.of(b"x"), ""))
    assert capsys.readouterr().out == f"[bold]x[/bold]\\x1b{CID.of(b'x')}\n"
