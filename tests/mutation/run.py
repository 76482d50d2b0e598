"""Runs the tests of one module in a forked process, with a fault planted or without.

The parent has loaded what tests need from others, and nothing of the project: so a fork is ready to
import the module with its fault in a fraction of a second.
"""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any

import coverage
import pytest

from tests.mutation.modules import MODULES
from tests.mutation.mutants import Mutant, mutants

ROOT = Path(__file__).resolve().parent.parent.parent
OTHERS = (
    "anyio",
    "anyio.pytest_plugin",
    "apsw",
    "click",
    "dag_cbor",
    "httpx",
    "hypothesis",
    "hypothesis.stateful",
    "multiformats",
    "nacl.signing",
    "pydantic",
    "starlette.applications",
)
REWRITTEN = "ignore::pytest.PytestAssertRewriteWarning"  # of what is loaded already
OPTIONS = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", REWRITTEN)
MEMORY_BYTES = 8 * 2**30
SECONDS = 20
"""A run may take so long, and ten times what it takes without a fault."""

FLAKY = 3
"""So many tests may fail without a fault; more, and something is wrong."""


@dataclass(slots=True)
class Subject:
    """A module, its faults, and which tests run which of its lines."""

    name: str
    path: Path
    tree: ast.Module
    mutants: list[Mutant]
    seconds: dict[str, float] = field(default_factory=dict)
    tests: dict[int, list[str]] = field(default_factory=dict)

    def chosen(self, mutant: Mutant) -> list[str]:
        """The tests that run the fault's lines, the quickest first."""
        lines = range(mutant.line, mutant.end + 1)
        found = {test for line in lines for test in self.tests.get(line, [])}
        if "" in found:  # the line runs when the module is imported
            found = set(self.seconds)
        return sorted(found, key=lambda test: (self.seconds.get(test, 0.0), test))


def prepare(names: Sequence[str]) -> list[Subject]:
    """The modules with the tests that run them, found out by running all of these once.

    Raises:
        RuntimeError: they fail without any fault.
    """
    subjects = [_subject(name) for name in names]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        code, said = _forked(lambda: _recorded(subjects, file), seconds=1_800)
        if code != 0 or not file.exists():
            raise RuntimeError(f"the tests fail as they are:\n{said}")
        figures = json.loads(file.read_text())
    for subject in subjects:
        files = MODULES[subject.name]
        subject.seconds = {
            test: took
            for test, took in figures["seconds"].items()
            if test.partition("::")[0] in files
        }
        subject.tests = {
            int(line): [test for test in tests if not test or test in subject.seconds]
            for line, tests in figures["lines"][subject.name].items()
        }
    return subjects


def _subject(name: str) -> Subject:
    path = ROOT / (name.replace(".", "/") + ".py")
    tree = ast.parse(path.read_text())
    return Subject(name, path, tree, mutants(tree))


def tried(subject: Subject, mutant: Mutant) -> str:
    """`killed`, `timed out` or `survived`."""
    chosen = subject.chosen(mutant)
    first = MODULES[subject.name][0]
    own = [test for test in chosen if test.startswith(first)]
    for tests in (own, [test for test in chosen if not test.startswith(first)]):
        if tests and (outcome := _outcome(subject, mutant, tests)) != "survived":
            return outcome
    return "survived"


def _outcome(subject: Subject, mutant: Mutant, tests: Sequence[str]) -> str:
    took = sum(subject.seconds.get(test, 0.0) for test in tests)
    code, _ = _forked(lambda: _faulty(subject, mutant, tests), seconds=SECONDS + 10 * took)
    return "timed out" if code is None else "killed" if code else "survived"


def _forked(work: Callable[[], int], *, seconds: float) -> tuple[int | None, str]:
    """The exit code of what ran in a process group of its own, None if it ran too long; and what
    it said."""
    with tempfile.TemporaryDirectory(prefix="stmflow-mutant-") as folder:
        said = os.open(f"{folder}/said", os.O_RDWR | os.O_CREAT, 0o600)
        child = os.fork()
        if child == 0:
            code = 70
            try:
                os.setsid()
                os.dup2(said, 1)
                os.dup2(said, 2)
                os.environ["TMPDIR"] = tempfile.tempdir = folder
                limit = int(seconds) + 1
                resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
                resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
                code = work()
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        code = _ended(child, time.monotonic() + 2 * seconds)
        text = os.pread(said, 100_000, 0).decode(errors="replace")
        os.close(said)
    return code, text


def _ended(child: int, deadline: float) -> int | None:
    pause = 0.005
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            _end(child)
            if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
                return None
            return os.waitstatus_to_exitcode(status)
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)
    _end(child)
    os.waitpid(child, 0)
    return None


def _end(group: int) -> None:
    """Whatever it started ends with it."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        pass


# --- in the child -------------------------------------------------------------------------------


class _Chosen:
    """A pytest plugin: these tests only, in this order."""

    def __init__(self, tests: Sequence[str]) -> None:
        self.places = {test: place for place, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if item.nodeid in self.places]
        items.sort(key=lambda item: self.places[item.nodeid])


def _faulty(subject: Subject, mutant: Mutant, chosen: Sequence[str]) -> int:
    mutant.plant()
    sys.meta_path.insert(0, _Finder(subject))
    files = sorted({test.partition("::")[0] for test in chosen})
    return int(pytest.main([*OPTIONS, "-x", *files], plugins=[_Chosen(chosen)]))


class _Finder:
    """Finds the module with the fault in the place of the real one."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != self.subject.name:
            return None
        loader = _Loader(name, str(self.subject.path))
        loader.subject = self.subject
        return importlib.util.spec_from_file_location(name, self.subject.path, loader=loader)


class _Loader(importlib.machinery.SourceFileLoader):
    subject: Subject

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.subject.tree, str(self.subject.path), "exec")


class _Timed:
    """A pytest plugin: what each test takes, and the lines that it runs."""

    def __init__(self, measured: coverage.Coverage) -> None:
        self.measured = measured
        self.seconds: dict[str, float] = {}
        self.failed: set[str] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.measured.switch_context(item.nodeid)
        start = time.perf_counter()
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = time.perf_counter() - start
            self.measured.switch_context("")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:  # a machine under load: such a test is no witness
            self.failed.add(report.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if "postgres" not in item.nodeid]


def _recorded(subjects: Sequence[Subject], file: Path) -> int:
    measured = coverage.Coverage(
        data_file=None,
        config_file=False,
        include=[str(subject.path) for subject in subjects],
        messages=False,
    )
    timed = _Timed(measured)
    files = list(dict.fromkeys(file for subject in subjects for file in MODULES[subject.name]))
    measured.start()
    code = int(pytest.main([*OPTIONS, *files], plugins=[timed]))
    measured.stop()
    data = measured.get_data()
    lines = {subject.name: data.contexts_by_lineno(str(subject.path)) for subject in subjects}
    seconds = {test: took for test, took in timed.seconds.items() if test not in timed.failed}
    file.write_text(json.dumps({"seconds": seconds, "lines": lines}))
    return code if len(timed.failed) > FLAKY else 0


def load_others() -> None:
    """Load, once, what tests need from others."""
    os.environ["CI"] = "1"  # properties draw the same examples each time
    os.chdir(ROOT)
    for name in OTHERS:
        importlib.import_module(name)
