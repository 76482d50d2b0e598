"""`stmflow table`, `diagram` and `tla`, on a database of one real job."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from examples.bank.accounts import ACCOUNT, Close, Open
from stmflow import Transactor
from stmflow.cli import cli
from stmflow.store.sqlite import SQLiteStore

WORKFLOW = "examples.bank.accounts:ACCOUNT"


async def closed(path: Path) -> None:
    async with SQLiteStore.open(str(path)) as store, Transactor(store, [ACCOUNT]) as transactor:
        await transactor.send(ACCOUNT.job("a"), Open("a"))
        await transactor.send(ACCOUNT.job("a"), Close("a"))


async def test_a_job_of_a_database_is_marked(tmp_path: Path) -> None:
    from anyio.to_thread import run_sync

    path = tmp_path / "jobs.db"
    await closed(path)

    def drawn(job: str) -> str:
        given = ["diagram", WORKFLOW, "--job", job, "--database", str(path)]
        return CliRunner().invoke(cli, given).output

    for job in ("a", str(ACCOUNT.job("a"))):
        text = await run_sync(drawn, job)
        assert "[*] --> open: (1), Open" in text
        assert "open --> closed: (2), Close" in text
        assert "class closed here" in text
    assert "here" not in await run_sync(drawn, "b")


def test_a_table_is_printed() -> None:
    text = CliRunner().invoke(cli, ["table", WORKFLOW]).output
    assert "## bank/account" in text
    assert "| Open | (→open) |" in text


def test_a_check_is_written_as_tla(tmp_path: Path) -> None:
    given = ["tla", "formal.models", "--only", "bank", "--to", str(tmp_path)]
    assert "bank.tla: 9 states" in CliRunner().invoke(cli, given).output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bank.cfg", "bank.tla"]
