"""The documents under test: their code runs, their commands, links and names exist."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NamedTuple

import anyio
import click
import pytest
from packaging.requirements import Requirement

from tests.project import ROOT, pyproject

NO_RUN = re.compile(r"<!--\s*no-run\b:?\s*(.*?)\s*-->")
OUTSIDE = {"node_modules", "build", "dist"}


class Block(NamedTuple):
    """A fenced block of a document. `no_run` is the reason not to run it; None is: run it."""

    language: str
    text: str
    line: int
    no_run: str | None


def documents() -> list[Path]:
    """All Markdown files of the project."""
    found = []
    for path in ROOT.rglob("*.md"):
        parts = path.relative_to(ROOT).parts
        if not any(part in OUTSIDE or part.startswith(".") for part in parts):
            found.append(path)
    return sorted(found)


def blocks(text: str) -> Iterator[Block]:
    language, start, lines, no_run = None, 0, list[str](), None
    for number, line in enumerate(text.splitlines(), start=1):
        fence = re.match(r"\s*```(.*)", line)
        if language is not None and fence:
            yield Block(language, "\n".join(lines), start, no_run)
            language, no_run = None, None
        elif language is not None:
            lines.append(line)
        elif fence:
            language, start, lines = (fence[1].split() or [""])[0], number, []
        elif mark := NO_RUN.search(line):
            no_run = mark[1]
        elif line.strip():
            no_run = None


def commands(text: str) -> Iterator[str]:
    """The commands that a document tells its reader to type."""
    for block in blocks(text):
        lines = block.text.replace("\\\n", " ").splitlines()
        if block.language == "console":
            yield from (line.lstrip()[2:] for line in lines if line.lstrip().startswith("$ "))
        elif block.language in ("sh", "bash", "shell"):
            plain = (line.strip().removeprefix("$ ") for line in lines)
            yield from (line for line in plain if line and not line.startswith("#"))


def prose(text: str) -> str:
    """The text without its fenced blocks."""
    return re.sub(r"^\s*```.*?^\s*```", "", text, flags=re.M | re.S)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# --- Python blocks


def with_python() -> list[Path]:
    """The documents whose Python blocks are run."""
    return [
        path
        for path in documents()
        if relative(path) in ("README.md", "ARCHITECTURE.md")
        or path.is_relative_to(ROOT / "docs")
        or (path.is_relative_to(ROOT / "examples") and path.name == "README.md")
        if any(block.language == "python" for block in blocks(path.read_text()))
    ]


@pytest.mark.parametrize("path", with_python(), ids=relative)
def test_python_blocks_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = ModuleType("documented_" + re.sub(r"\W", "_", relative(path)))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in blocks(path.read_text()):
        if block.language == "python" and block.no_run is None:
            run(block, str(path), vars(module))


def run(block: Block, path: str, namespace: dict[str, Any]) -> None:
    """Run a block, with `await` allowed, and then the tests that it defines."""
    source = "\n" * block.line + block.text  # so that a traceback shows the document's own line
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code = compile(source, path, "exec", flags=flags, dont_inherit=True)
    if code.co_flags & inspect.CO_COROUTINE:
        anyio_run(code, namespace)
    else:
        exec(code, namespace)  # noqa: S102 -- the project's own documents
    for node in ast.parse(block.text).body:
        match node:
            case ast.FunctionDef(name=name) if name.startswith("test_"):
                namespace[name]()
            case ast.AsyncFunctionDef(name=name) if name.startswith("test_"):
                anyio.run(namespace[name])


def anyio_run(code: CodeType, namespace: dict[str, Any]) -> None:
    async def main() -> None:
        await eval(code, namespace)  # noqa: S307 -- the project's own documents

    anyio.run(main)


@pytest.mark.parametrize("path", documents(), ids=relative)
def test_a_block_that_is_not_run_says_why(path: Path) -> None:
    silent = [block.line for block in blocks(path.read_text()) if block.no_run == ""]
    assert silent == [], "write <!-- no-run: the reason -->"


# --- commands


@pytest.mark.parametrize("path", documents(), ids=relative)
def test_documented_make_targets_exist(path: Path) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.M))
    text = path.read_text()
    lines = [*commands(text), *re.findall(r"`(make [^`]+)`", prose(text))]
    words = [shlex.split(line, comments=True) for line in lines if line.startswith("make ")]
    named = {word for line in words for word in line[1:] if re.fullmatch(r"[a-z][a-z-]*", word)}
    assert named - targets == set()


@pytest.mark.parametrize("path", documents(), ids=relative)
def test_documented_cli_commands_exist(path: Path) -> None:
    lines = [line for line in commands(path.read_text()) if re.match(r"stmflow( |$)", line)]
    if lines:
        group = cli()
        assert [problem for line in lines for problem in misuse(group, line)] == []


def cli() -> click.Group:
    module = importlib.import_module("stmflow.cli")
    groups = [value for value in vars(module).values() if isinstance(value, click.Group)]
    assert groups, "stmflow.cli has no click.Group at module level"
    return groups[0]


def misuse(command: click.Command, line: str) -> Iterator[str]:
    """What this command line names and the CLI does not know."""
    context = click.Context(command, info_name="stmflow")
    words = iter(shlex.split(re.split(r"[|>]", line)[0], comments=True)[1:])
    for word in words:
        if word.startswith("-") and word != "-":
            name, equals, _ = word.partition("=")
            option = next((p for p in command.get_params(context) if name in p.opts), None)
            if option is None:
                yield f"{line}: no option {name}"
            elif isinstance(option, click.Option) and not (option.is_flag or equals):
                next(words, None)
        elif isinstance(command, click.Group):
            found = command.get_command(context, word)
            if found is None:
                yield f"{line}: no command {word}"
                return
            command, context = found, click.Context(found, parent=context, info_name=word)


def test_misuse_of_the_cli_is_found() -> None:
    flag = click.Option(["--due"], is_flag=True)
    group = click.Group(
        params=[click.Option(["--database"])],
        commands={"outbox": click.Command("outbox", params=[flag])},
    )
    assert list(misuse(group, "stmflow --database jobs.db outbox --due # all | less")) == []
    assert list(misuse(group, "stmflow --database=jobs.db inbox")) != []
    assert list(misuse(group, "stmflow outbox --late")) != []


# --- links


@pytest.mark.parametrize("path", documents(), ids=relative)
def test_relative_links_resolve(path: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", prose(path.read_text())))
    assert [link for link in links if not resolves(path, link)] == []


def resolves(path: Path, link: str) -> bool:
    if re.match(r"[a-z]+:", link):
        return True  # another site
    target, _, anchor = link.partition("#")
    file = (path.parent / target).resolve() if target else path
    if not file.exists() or not file.is_relative_to(ROOT):
        return False
    return not anchor or file.suffix != ".md" or anchor in anchors(file.read_text())


def anchors(text: str) -> set[str]:
    """The anchors that a Markdown page gets from its headings."""
    headings = re.findall(r"^#+\s+(.*?)\s*$", prose(text), re.M)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


# --- names and versions


def test_the_changelog_opens_with_the_version_of_the_package() -> None:
    versions = re.findall(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert versions[0] == pyproject()["project"]["version"]


def test_every_dependency_has_a_decision_page() -> None:
    project = pyproject()["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    named = {Requirement(line).name for lines in lists for line in lines}
    assert named - decided() == set()


def decided() -> set[str]:
    """The packages that docs/decisions/ covers: by a page's name, or in its line `Packages:`."""
    found = set()
    for page in (ROOT / "docs/decisions").glob("*.md"):
        found |= set(page.stem.split("-and-"))
        for line in re.findall(r"^Packages: (.*)$", page.read_text(), re.M):
            found |= set(re.findall(r"`([^`]+)`", line))
    return found


def test_every_limit_is_documented() -> None:
    page = ROOT / "docs/limits.md"
    if not page.exists():
        pytest.skip("docs/limits.md is not there yet")
    limits = importlib.import_module("stmflow.limits").Limits
    documented = set(re.findall(r"`(\w+)`", page.read_text()))
    assert {field.name for field in dataclasses.fields(limits)} - documented == set()


# --- the reader of blocks itself


def test_blocks_are_read_with_their_marks() -> None:
    text = (
        "<!-- no-run: needs a network -->\n\n```python\na\n```\n"
        "<!-- no-run -->\nwords between\n```python\nb\n```\n"
        "<!-- no-run: -->\n```console\n$ make test\nout\n$ stmflow log \\\n  x\n```\n"
    )
    read = [(block.language, block.line, block.no_run) for block in blocks(text)]
    assert read == [("python", 3, "needs a network"), ("python", 8, None), ("console", 12, "")]
    assert list(commands(text)) == ["make test", "stmflow log    x"]


def test_a_block_may_await_and_its_tests_are_called() -> None:
    namespace: dict[str, Any] = {}
    source = "import anyio\nawait anyio.sleep(0)\ndone = []\ndef test_it(): done.append(1)"
    run(Block("python", source, 1, None), "page.md", namespace)
    assert namespace["done"] == [1]
    with pytest.raises(AssertionError):
        run(Block("python", "def test_no(): assert not done", 1, None), "page.md", namespace)
