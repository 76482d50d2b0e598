"""ARCHITECTURE.md names stops; each must exist where it says."""

from __future__ import annotations

import importlib
import re

from tests.project import ROOT

STOP = re.compile(r"^\| \d+ \| `([\w/]+\.py)` `([\w.]+)` \|", re.M)


def test_the_loop_has_at_most_ten_stops_and_each_exists() -> None:
    stops = STOP.findall((ROOT / "ARCHITECTURE.md").read_text())
    assert 5 <= len(stops) <= 10
    for path, name in stops:
        found = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        for part in name.split("."):
            found = getattr(found, part)
        assert callable(found), f"{path} has no {name}"


def test_every_file_of_the_map_exists() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    folder, checked = ROOT, 0
    for indent, first, more in re.findall(r"^ {4}( *)(\S+/|\w+\.py)((?: \w+\.py)*)", text, re.M):
        if not indent:
            folder = ROOT / first
        for name in [first, *more.split()] if indent else ():
            assert (folder / name).exists(), f"{folder.name}/{name}"
            checked += 1
    assert checked > 20
