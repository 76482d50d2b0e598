"""`python -m tests.mutation`: plant faults at random for a stated time, or all of them.

    python -m tests.mutation --minutes 20 --seed 7
    python -m tests.mutation --module stmflow.effect --all

Prints each survivor as a difference. Exit code 0 only if every survivor is explained
(`explained.toml`).
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import tomllib
from collections import Counter
from pathlib import Path
from random import Random
from time import monotonic

from tests.mutation.modules import MODULES
from tests.mutation.run import Subject, load_others, prepare, tried

EXPLAINED = Path(__file__).with_name("explained.toml")
KILLED, TIMED_OUT, SURVIVED, EXPLAINED_ = "killed", "timed out", "survived", "explained"


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0: no fault went unnoticed."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--module", action="append", choices=MODULES, help="default: each of them")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--count", type=int, help="so many faults in each module")
    parser.add_argument("--all", action="store_true", help="every fault, however long it takes")
    parser.add_argument("--seed", type=int, help="which faults, and in which order; default: drawn")
    parser.add_argument("--again", type=Path, help="only what survived by that file of --json")
    parser.add_argument("--json", type=Path, help="append what came out there, a line each")
    options = parser.parse_args(arguments)
    seed = secrets.randbelow(2**30) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    load_others()
    subjects = prepare(options.module or list(MODULES))
    drawn = [
        (subject, number)
        for subject in subjects
        for number in _sample(subject, options.count, Random(seed))
    ]
    if options.again is not None:
        lines = [json.loads(line) for line in options.again.read_text().splitlines()]
        left = {(one["module"], one["diff"]) for one in lines if one["outcome"] == SURVIVED}
        drawn = [(one, n) for one, n in drawn if (one.name, one.mutants[n].diff()) in left]
    Random(seed).shuffle(drawn)
    explained = reasons()
    counts = {subject.name: Counter[str]() for subject in subjects}
    end = monotonic() + options.minutes * 60
    for subject, number in drawn:
        if monotonic() > end and not options.all:
            break
        mutant = subject.mutants[number]
        outcome, diff = tried(subject, mutant), mutant.diff()
        if outcome == SURVIVED and (subject.name, mutant.within, diff) in explained:
            outcome = EXPLAINED_
        counts[subject.name][outcome] += 1
        where = f"{subject.path.name}:{mutant.line} {mutant.within} ({mutant.kind})"
        if outcome == SURVIVED:
            print(f"\n{outcome}: {where}, {len(subject.chosen(mutant))} tests\n{diff}", flush=True)
        if options.json is not None:
            said = {"module": subject.name, "number": number, "outcome": outcome, "where": where}
            with options.json.open("a") as file:
                file.write(json.dumps(said | {"within": mutant.within, "diff": diff}) + "\n")
    print(table(subjects, counts))
    return int(any(count[SURVIVED] for count in counts.values()))


def _sample(subject: Subject, count: int | None, random: Random) -> list[int]:
    numbers = list(range(len(subject.mutants)))
    return numbers if count is None else random.sample(numbers, min(count, len(numbers)))


def reasons() -> dict[tuple[str, str, str], str]:
    """Module, function and difference of each fault that nobody can notice, and why."""
    listed = tomllib.loads(EXPLAINED.read_text())["fault"]
    return {(one["module"], one["within"], one["diff"].strip()): one["why"] for one in listed}


def table(subjects: list[Subject], counts: dict[str, Counter[str]]) -> str:
    """A line for each module."""
    width = max(len(subject.name) for subject in subjects)
    head = ("faults", "run", KILLED, TIMED_OUT, EXPLAINED_, SURVIVED)
    lines = [" ".join(["", f"{'module':{width}}", *(f"{name:>9}" for name in head)])]
    for subject in subjects:
        count = counts[subject.name]
        figures = (len(subject.mutants), count.total(), *(count[name] for name in head[2:]))
        lines.append(
            " ".join(["", f"{subject.name:{width}}", *(f"{figure:9,}" for figure in figures)])
        )
    return "\n".join(["", *lines])


if __name__ == "__main__":
    sys.exit(main())
