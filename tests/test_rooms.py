"""Who may import whom: DESIGN's rooms, checked on the import graph and on what really loads."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.project import PACKAGES, ROOT, dotted, pyproject, sources

LINT_IMPORTS = """
import sys
from importlinter.cli import lint_imports
sys.path.insert(0, ".")
sys.exit(lint_imports(config_filename="pyproject.toml", no_logo=True, no_cache=True))
"""

# A breach of each contract: its id, the file it is planted in, the planted line.
BREACHES = [
    ("pure-core", "stmflow/limits.py", "import os"),
    ("pure-core", "stmflow/errors.py", "from socket import socket"),
    ("capabilities", "capabilities/planted.py", "from stmflow import workflow"),
    ("capabilities", "capabilities/planted.py", "import scheduler"),
    ("scheduler", "scheduler/planted.py", "import capabilities"),
    ("scheduler", "scheduler/planted.py", "from stmflow.store.sqlite import *"),
    ("stores", "stmflow/store/memory.py", "import stmflow.store.sqlite"),
    ("apsw", "stmflow/store/memory.py", "import apsw"),
    ("apsw", "scheduler/planted.py", "import apsw"),
    ("stores", "stmflow/store/sqlite.py", "import stmflow.store.postgres_batch"),
    ("asyncpg", "stmflow/store/postgres.py", "import asyncpg"),
    ("otel", "stmflow/observe/logs.py", "from opentelemetry import trace"),
    ("s3", "scheduler/planted.py", "from botocore.config import Config"),
    ("s3", "stmflow/store/memory.py", "import aiobotocore.session"),
    ("direction", "stmflow/limits.py", "import scheduler"),
]

# What examples may import of ours; of each, only the names of its `__all__`.
PUBLIC = (
    "stmflow",
    "stmflow.check",
    "stmflow.testing",
    "stmflow.observe",
    "stmflow.observe.*",
    "stmflow.store.*",
    "scheduler",
    "scheduler.handlers",
    "scheduler.handlers.*",
    "scheduler.testing",
    "capabilities",
    "capabilities.service",
    "capabilities.ucanto",
    "capabilities.ucanto.receipt",
    "capabilities.ucanto.token",
    "capabilities.ucan1",
)
# In stmflow/store/, and no store: what stores may share.
SHARED = {"stmflow.store.locks", "stmflow.store.packing", "stmflow.store.rows"}
DRIVERS = {
    *("aiobotocore", "apsw", "asyncpg", "boto3", "botocore"),
    *("cbrrr", "click", "dag_cbor", "multiformats", "opentelemetry", "rich"),
}


# Until the core has its front door, some modules that the contracts name are still to come.
finished = pytest.mark.skipif(
    not (ROOT / "stmflow/__init__.py").exists(), reason="stmflow/__init__.py is not there yet"
)


@finished
def test_the_import_contracts_hold() -> None:
    outcome = lint_imports(ROOT)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


@finished
@pytest.mark.parametrize(("contract", "file", "line"), BREACHES)
def test_a_planted_breach_breaks_its_contract(
    contract: str, file: str, line: str, tmp_path: Path
) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package)
    with (tmp_path / file).open("a") as planted:
        planted.write(f"\n{line}\n")
    (name,) = (each["name"] for each in contracts() if each["id"] == contract)
    assert f"{name} BROKEN" in lint_imports(tmp_path).stdout


def test_every_contract_has_a_planted_breach() -> None:
    assert {each["id"] for each in contracts()} == {contract for contract, _, _ in BREACHES}


@finished
def test_every_store_stands_in_the_contracts() -> None:
    stores = {
        dotted(path)
        for path in (ROOT / "stmflow/store").iterdir()
        if path.name != "__init__.py" and (path.suffix == ".py" or path.is_dir())
        if path.name != "__pycache__"
    }
    (contract,) = (each for each in contracts() if each["id"] == "stores")
    assert stores - SHARED == set(contract["modules"])


@finished
def test_importing_stmflow_loads_no_driver() -> None:
    assert loaded_by("import stmflow") & DRIVERS == set()


@finished
def test_importing_the_scheduler_loads_no_driver() -> None:
    assert loaded_by("import scheduler, scheduler.handlers") & DRIVERS == set()


@finished
def test_importing_the_cli_loads_what_every_command_needs_and_no_more() -> None:
    unwanted = {"aiobotocore", "botocore", "boto3", "multiformats", "dag_cbor", "asyncpg"}
    assert loaded_by("import stmflow.cli") & (unwanted | {"scheduler", "capabilities"}) == set()


@finished
@pytest.mark.parametrize("name", PACKAGES)
def test_the_packages_are_ours_and_not_their_namesakes(name: str) -> None:
    assert Path(str(importlib.import_module(name).__file__)).parent == ROOT / name
    owners = importlib.metadata.packages_distributions().get(name, [])
    assert set(owners) <= {"stmflow"}, f"another distribution also installs `{name}`"


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_ships_its_types(name: str) -> None:
    assert (ROOT / name / "py.typed").exists()


@pytest.mark.parametrize(
    "name", [dotted(path) for path in sources(*PACKAGES) if "\n__all__" in path.read_text()]
)
def test_every_public_name_exists_once(name: str) -> None:
    module = importlib.import_module(name)
    assert len(set(module.__all__)) == len(module.__all__)
    assert [each for each in module.__all__ if not hasattr(module, each)] == []


@pytest.mark.parametrize("path", sources("examples"), ids=lambda path: dotted(path))
def test_examples_import_public_names_only(path: Path) -> None:
    assert private_imports(path.read_text()) == []


@finished
def test_private_imports_are_found() -> None:
    assert private_imports("import stmflow, json\nfrom stmflow.store.memory import *") == []
    for line in (
        "from stmflow.codec import encode",
        "import stmflow.codec",
        "from stmflow import no_such_name",
        "import stmflow as s\ns.no_such_name",
        "from scheduler import _private",
        "from examples.store_add import _private",
    ):
        assert private_imports(line) != [], line


def private_imports(source: str) -> list[str]:
    """The names that this source takes of our packages and that are not public."""
    found = []
    tree = ast.parse(source)
    modules: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
            if any(name.startswith("_") for name in names):
                found.append(f"from {node.module} import {', '.join(names)}")
            found += [f"{node.module}.{each}" for each in names if not public(node.module, each)]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                modules[alias.asname or alias.name] = alias.name
                if not public(alias.name, "*"):
                    found.append(alias.name)
    for node in (each for each in ast.walk(tree) if isinstance(each, ast.Attribute)):
        module = modules.get(ast.unparse(node.value))
        if module and not public(module, node.attr) and f"{module}.{node.attr}" not in modules:
            found.append(f"{module}.{node.attr}")
    return found


def public(module: str | None, name: str) -> bool:
    """Whether this name of this module may be used; `*` asks for the module itself."""
    if module is None or module.split(".")[0] not in PACKAGES:
        return True  # not ours, or an example's own
    if name != "*" and (ROOT / module.replace(".", "/") / f"{name}.py").exists():
        return allowed(f"{module}.{name}")  # `from stmflow.store import memory`
    names = getattr(importlib.import_module(module), "__all__", ())
    return allowed(module) and (name == "*" or name in names)


def allowed(module: str) -> bool:
    return any(fnmatchcase(module, pattern) for pattern in PUBLIC)


@cache
def loaded_by(statement: str) -> set[str]:
    """The top-level names of all modules that are loaded after this statement."""
    program = f"{statement}\nimport json, sys; print(json.dumps(list(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    output = subprocess.check_output([sys.executable, "-c", program], env=environment, text=True)
    return {name.split(".")[0] for name in json.loads(output)}


def contracts() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pyproject()["tool"]["importlinter"]["contracts"]
    return found


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LINT_IMPORTS],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
