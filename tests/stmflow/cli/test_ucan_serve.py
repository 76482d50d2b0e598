"""`serve`: a host's own application, with a service of capabilities mounted in it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.project import ROOT
from tests.stmflow.cli.ucan_calls import make_key, run, run_json

HOST = """
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.applications import Starlette

from capabilities import Capability, Signer
from capabilities.service import WORKFLOWS, Ok, Reads, Service, application
from stmflow import Transactor
from stmflow.store.sqlite import SQLiteStore

@dataclass(frozen=True)
class Said:
    text: str

async def echo(asked, transactor):
    return Ok({"text": asked.arguments.text})

@asynccontextmanager
async def lifespan(app):
    async with SQLiteStore.open("jobs.db") as store, Transactor(store, WORKFLOWS) as transactor:
        providers = [Reads(Capability("note/echo", Said), echo)]
        app.mount("/", application(Service(Signer.generate(), transactor, providers)))
        yield
        print("left")

@asynccontextmanager
async def broken(app):
    raise RuntimeError("no database")
    yield

app = Starlette(lifespan=lifespan)
fails = Starlette(lifespan=broken)
number = 5
"""


@contextmanager
def serving(folder: Path, *args: str) -> Iterator[subprocess.Popen[str]]:
    (folder / "hosted.py").write_text(HOST)
    process = subprocess.Popen(
        [sys.executable, "-m", "stmflow", "serve", "--port", "0", *args],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        process.kill()


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_an_application_is_served_until_a_signal_and_put_away(
    tmp_path: Path, stop: signal.Signals
) -> None:
    with serving(tmp_path, "--app", "hosted:app", "--json") as process:
        assert process.stdout is not None
        endpoint = json.loads(process.stdout.readline())["endpoint"]
        key, _ = make_key(tmp_path, "a")
        for family in ("ucanto", "1.0"):
            told = run_json(
                *("invoke", endpoint, "note/echo", "--key", key, "--family", family),
                *("--args", '{"text": "hello"}'),
            )
            assert told["ok"] == {"text": "hello"}
        process.send_signal(stop)
        out, told = process.communicate(timeout=20)
        assert (process.returncode, out, told) == (0, "left\n", "")


def test_where_it_listens_is_told_in_a_line(tmp_path: Path) -> None:
    with serving(tmp_path, "--app", "hosted:app", "--host", "localhost") as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("serving on http://localhost:")
        process.terminate()


def test_an_application_that_does_not_start_is_told(tmp_path: Path) -> None:
    with serving(tmp_path, "--app", "hosted:fails") as process:
        out, told = process.communicate(timeout=20)
    assert (process.returncode, out) == (2, "")
    assert "no database" in told
    assert told.splitlines()[-1].startswith("stmflow: --app hosted:fails did not start")


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ([], "--app"),
        (["--app", "hosted"], "MODULE:NAME"),
        (["--app", "hosted:none"], "AttributeError"),
        (["--app", "hosted:number"], "no ASGI application but a int"),
        (["--app", "no_such_module:app"], "ModuleNotFoundError"),
        (["--app", "hosted:app", "--host", "no-such-host.invalid"], "cannot listen"),
    ],
)
def test_what_cannot_be_served_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], why: str
) -> None:
    (tmp_path / "hosted.py").write_text(HOST)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "hosted", raising=False)
    assert why in run("serve", *args, code=2).stderr


def test_a_port_that_is_taken_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hosted.py").write_text(HOST)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "hosted", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        told = run("serve", "--app", "hosted:app", "--port", port, code=2).stderr
    assert f"127.0.0.1:{port}: Address already in use" in told


def test_without_a_server_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plain.py").write_text("async def app(scope, receive, send): ...")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    told = run("serve", "--app", "plain:app", code=2).stderr
    assert "pip install 'stmflow[http]'" in told


def test_logs_are_one_object_a_line_when_they_are_asked_for(tmp_path: Path) -> None:
    with serving(tmp_path, "--app", "hosted:app", "--log", "json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("serving on ")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        lines = [json.loads(line) for line in process.stderr.read().splitlines()]
    assert {line["logger"] for line in lines} == {"uvicorn.error"}
    assert all({"at", "level", "message"} <= set(line) for line in lines)
