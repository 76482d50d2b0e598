"""Rules of the house that a syntax tree can check: time, chance, SQL and dangerous calls."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.project import PACKAGES, ROOT, dotted, sources

TIME = re.compile(
    r"time(\..*)?"
    r"|(datetime\.)?(datetime|date)\.(now|utcnow|today)"
    r"|anyio\.current_time|asyncio\.get_(running|event)_loop\(\)\.time"
)
CHANCE = re.compile(
    r"random\.(?!Random$).*|secrets(\..*)?|os\.(urandom|getrandom)|uuid\.uuid[14]|.*SystemRandom"
)
DANGER = re.compile(
    r"(eval|exec)|(pickle|marshal|shelve|dill)(\..*)?|yaml\.(load|load_all|unsafe_load)|os\.system"
)
# What a process has sent that the same check has forked; and code that is hashed, never loaded.
UNSTORED = {"stmflow.check.cores", "stmflow.check.journal"}
SQL = re.compile(
    r"\s*(SELECT|INSERT|UPDATE|DELETE|REPLACE|CREATE|ALTER|DROP|WITH|PRAGMA|BEGIN|ATTACH)\s", re.I
)

EXECUTE = (".execute", ".executemany", ".executescript", ".fetch")

# The edge, where time and chance come from; from there on they are arguments.
CLOCKS = {"stmflow.clock", "scheduler.testing.__main__"}
# Where a `Random(seed)` may be made. Elsewhere one may only stand in for an argument left out.
SEEDED = {
    "stmflow.clock",
    "stmflow.testing",
    "stmflow.check",
    "stmflow.cli",
    "scheduler.testing",
}

Rule = Callable[[ast.Module], Iterator[str]]


def reads_time(tree: ast.Module) -> Iterator[str]:
    yield from (name for name in names(tree) if TIME.fullmatch(name))


def draws_chance(tree: ast.Module) -> Iterator[str]:
    yield from (name for name in names(tree) if CHANCE.fullmatch(name))


def makes_generators(tree: ast.Module) -> Iterator[str]:
    """Generators that are made although one may have been given."""
    imports = imported(tree)
    defaults = {node.body for node in ast.walk(tree) if isinstance(node, ast.IfExp) and asks(node)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or node in defaults:
            continue
        if full_name(node.func, imports) == "random.Random":
            yield ast.unparse(node)


def asks(node: ast.IfExp) -> bool:
    """`... if argument is None else argument`."""
    match node.test:
        case ast.Compare(left=argument, ops=[ast.Is()], comparators=[ast.Constant(value=None)]) if (
            ast.dump(argument) == ast.dump(node.orelse)
        ):
            return True
    return False


def calls_danger(tree: ast.Module) -> Iterator[str]:
    yield from (name for name in names(tree) if DANGER.fullmatch(name))


def formats_sql(tree: ast.Module) -> Iterator[str]:
    """Formatted strings that reach an `execute` call or that begin like a statement."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(EXECUTE):
            yield from (ast.unparse(part) for part in ast.walk(node) if template(part))
        if (text := template(node)) and SQL.match(text):
            yield ast.unparse(node)


def template(node: ast.AST) -> str | None:
    """The constant text of an f-string, a `%` or a `.format`; None for anything else."""
    match node:
        case ast.JoinedStr(values=parts) if any(isinstance(p, ast.FormattedValue) for p in parts):
            texts = [str(part.value) for part in parts if isinstance(part, ast.Constant)]
            return " ".join(texts) or " "
        case ast.BinOp(left=ast.Constant(value=str(text)), op=ast.Mod()):
            return text
        case ast.Call(func=ast.Attribute(value=ast.Constant(value=str(text)), attr="format")):
            return text
    return None


def names(tree: ast.Module) -> Iterator[str]:
    """All that the module imports and uses of it, by full name whatever it is called here.

    Bare names that are not imported (builtins) come as they are; an argument that shares the name
    of a module does not.
    """
    imports = imported(tree)
    yield from imports.values()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            yield full_name(node, imports)


def imported(tree: ast.Module) -> dict[str, str]:
    """Local name → full name, for all that the module imports."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                root = alias.name.partition(".")[0]
                found[alias.asname or root] = alias.name if alias.asname else root
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


def full_name(node: ast.expr, imports: dict[str, str]) -> str:
    """The name with its imported head spelled out; nothing for an attribute of something else."""
    text = ast.unparse(node)
    head = re.match(r"\w*", text)
    assert head is not None
    if head[0] in imports:
        return imports[head[0]] + text[head.end() :]
    return text if text.isidentifier() else ""


def breaches(rule: Rule, path: Path) -> list[str]:
    return sorted(set(rule(ast.parse(path.read_text(), str(path)))))


def within(name: str, rooms: set[str]) -> bool:
    return any(name == room or name.startswith(f"{room}.") for room in rooms)


OURS = pytest.mark.parametrize("path", sources(*PACKAGES), ids=dotted)


@OURS
def test_nothing_but_the_clock_reads_time(path: Path) -> None:
    assert within(dotted(path), CLOCKS) or breaches(reads_time, path) == []


@OURS
def test_chance_is_drawn_from_an_argument_only(path: Path) -> None:
    assert within(dotted(path), CLOCKS) or breaches(draws_chance, path) == []


@OURS
def test_a_generator_is_made_at_the_edge_or_where_none_was_given(path: Path) -> None:
    assert within(dotted(path), SEEDED) or breaches(makes_generators, path) == []


@pytest.mark.parametrize(
    "path", sources(*PACKAGES, "examples", "benchmarks", "tools"), ids=lambda p: dotted(p)
)
def test_nothing_stored_or_received_is_executed(path: Path) -> None:
    found = breaches(calls_danger, path)
    assert [
        name for name in found if not (within(dotted(path), UNSTORED) and "marshal" in name)
    ] == []


@pytest.mark.parametrize("path", sources("stmflow/store", "stmflow/cli"), ids=dotted)
def test_sql_is_constant_text_with_parameters(path: Path) -> None:
    assert breaches(formats_sql, path) == []


@OURS
def test_a_module_has_a_docstring(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


PLANTED: list[tuple[Rule, str]] = [
    (reads_time, "import time"),
    (reads_time, "from time import monotonic as m"),
    (reads_time, "from datetime import datetime\ndatetime.now()"),
    (reads_time, "import datetime as d\nd.datetime.utcnow()"),
    (reads_time, "import anyio\nanyio.current_time()"),
    (reads_time, "from asyncio import get_running_loop\nget_running_loop().time()"),
    (draws_chance, "import random\nrandom.random()"),
    (draws_chance, "from random import choice"),
    (draws_chance, "import secrets"),
    (draws_chance, "import uuid\nuuid.uuid4()"),
    (draws_chance, "import os\nos.urandom(8)"),
    (makes_generators, "import random\nrandom.Random()"),
    (makes_generators, "from random import Random\nRandom(1)"),
    (calls_danger, "eval('1')"),
    (calls_danger, "import pickle"),
    (calls_danger, "import yaml\nyaml.load(text)"),
    (formats_sql, "db.execute(f'{statement} where a = 1')"),
    (formats_sql, "db.execute('select * from %s' % table)"),
    (formats_sql, "db.executemany('insert into {}'.format(table), rows)"),
    (formats_sql, "statement = f'DELETE FROM jobs WHERE key = {key}'"),
]


@pytest.mark.parametrize(("rule", "source"), PLANTED)
def test_a_planted_breach_is_found(rule: Rule, source: str) -> None:
    assert list(rule(ast.parse(source))) != []


@pytest.mark.parametrize(
    ("rule", "source"),
    [
        (reads_time, "clock.now()\nfrom datetime import timedelta\ntimedelta(hours=1)"),
        (draws_chance, "from random import Random\ndef jitter(chance: Random): chance.random()"),
        (draws_chance, "from random import Random\ndef jitter(random: Random): random.random()"),
        (makes_generators, "from random import Random\ndef jitter(chance: Random): ..."),
        (makes_generators, "from random import Random\nr = Random() if r is None else r"),
        (calls_danger, "import re\nre.compile('a')\nrepeat = evaluate(1)"),
        (
            formats_sql,
            "db.execute('select a from b where c = ?', (c,))\nraise Lost(f'{c} lost')",
        ),
    ],
)
def test_what_the_rules_allow_is_not_reported(rule: Rule, source: str) -> None:
    assert list(rule(ast.parse(source))) == []


def test_the_project_names_its_folders() -> None:
    assert [name for name in PACKAGES if not (ROOT / name).is_dir()] == []
