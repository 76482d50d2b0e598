"""What commands of capabilities share: quick help, documented codes, a terminal."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from stmflow.cli import EPILOG, exits
from tests.project import ROOT
from tests.stmflow.cli.test_exits import HEAVY, on_a_terminal
from tests.stmflow.cli.ucan_calls import make_key, run


@pytest.mark.parametrize(
    "args", [["key", "new"], ["delegate"], ["invoke"], ["ucan", "show"], ["serve"], ["ucan"]]
)
def test_help_loads_nothing_heavy(args: list[str]) -> None:
    program = (
        "import sys\nfrom stmflow.cli import cli\n"
        f"try: cli({[*args, '--help']!r})\nexcept SystemExit: pass\n"
        "print('loaded', *sorted({name.split('.')[0] for name in sys.modules}))"
    )
    output = subprocess.check_output(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True
    )
    assert output.startswith("Usage: ")
    loaded = set(output.splitlines()[-1].split()[1:])
    assert (HEAVY | {"uvicorn", "starlette", "nacl", "http", "urllib.request"}) & loaded == set()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (exits.Untrusted("x"), 1),
        (exits.Unusable("x"), 6),
        (exits.Lost("x"), 7),
        (exits.Refused("x"), 8),
        (exits.Unreachable("x"), 9),
    ],
)
def test_every_failure_has_its_code_and_one_line(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exits.report(error) == code
    assert capsys.readouterr().err == "stmflow: x\n"
    assert re.search(rf"^ *{code} ", EPILOG, re.M)
    assert re.search(rf"^\| {code} \|", (ROOT / "docs/cli.md").read_text(), re.M)


def test_a_group_takes_the_shared_options_too(tmp_path: Path) -> None:
    path, did = make_key(tmp_path, "a")
    for args in (["key", "--json", "show"], ["--json", "key", "show"], ["key", "show", "--json"]):
        assert run(*args, path).stdout == f'{{"did":"{did}"}}\n'


def test_a_terminal_gets_short_cids_and_whole_names(tmp_path: Path) -> None:
    key, did = make_key(tmp_path, "a")
    path = tmp_path / "d"
    run("delegate", "--key", key, "--to", did, "--can", "store/add", "--expires", "7d", "-o", path)
    text = re.sub(r"\x1b\[[0-9;]*m", "", on_a_terminal("ucan", "show", str(path), width=160))
    assert text.count(did) == 3
    assert re.search(r"delegation  bafy[a-z0-9]{12}  UCAN 0\.9\.1", text)
    assert "until    in 7 d  in time" in text
