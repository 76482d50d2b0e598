"""Key files: made once, shown without their secret."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from capabilities import DID, Signer
from tests.stmflow.cli.ucan_calls import make_key, run, run_json


def test_a_new_key_is_a_file_of_its_owner_alone(tmp_path: Path) -> None:
    path, did = make_key(tmp_path, "a")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Signer.load(path).did == DID.parse(did)


def test_a_key_is_never_replaced(tmp_path: Path) -> None:
    path, _ = make_key(tmp_path, "a")
    before = path.read_bytes()
    assert "never replaced" in run("key", "new", path, code=2).stderr
    assert path.read_bytes() == before


@pytest.mark.shows("key")
def test_show_prints_the_secret_only_if_it_is_asked_for(tmp_path: Path) -> None:
    path, did = make_key(tmp_path, "a")
    secret = path.read_text().strip()
    assert run("key", "show", path).stdout == did + "\n"
    assert secret not in run("key", "show", path, "--json").output
    assert run("key", "show", path, "--secret").stdout == f"{did}\n{secret}\n"
    assert run_json("key", "show", path, "--secret") == {"did": did, "secret": secret}
    assert run_json("key", "new", tmp_path / "b")["file"] == str(tmp_path / "b")


@pytest.mark.shows("key")
def test_a_key_that_others_may_read_is_refused_by_name(tmp_path: Path) -> None:
    path, _ = make_key(tmp_path, "a")
    path.chmod(0o644)
    assert "UnknownKey" in run("key", "show", path, code=6).stderr


def test_what_is_no_key_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("evil\x1b[31m")
    path.chmod(0o600)
    assert "MalformedBlock" in run("key", "show", path, code=6).stderr
    path.write_text("x" * 2_000)
    assert "LimitExceeded" in run("key", "show", path, code=6).stderr
    assert "cannot be read" in run("key", "show", tmp_path, code=6).stderr
    assert "no key file" in run("key", "show", tmp_path / "none", code=3).stderr
    assert "cannot be written" in run("key", "new", tmp_path / "no" / "a", code=2).stderr
