"""The lock files: complete, hashed, and free of the place where they were written."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.project import ROOT, pyproject

EXTRAS = ("keys", "http", "cli", "postgres", "otel", "scxml", "dev")
LOCKS = ["requirements.lock", "requirements-fast.lock"]
PIN = re.compile(
    r"[a-z0-9._-]+(\[[a-z0-9,-]+\])?==[^\s;]+( ; [^-]+?)?(\s+--hash=sha256:[0-9a-f]{64})+"
)


def core() -> list[Requirement]:
    return [Requirement(line) for line in pyproject()["project"]["dependencies"]]


def optional(*extras: str) -> list[Requirement]:
    lines = pyproject()["project"]["optional-dependencies"]
    return [Requirement(line) for extra in extras for line in lines[extra]]


def wished(name: str) -> list[Requirement]:
    lines = (ROOT / name).read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def entries(name: str) -> list[str]:
    """The requirements of a lock, each with its hashes on one line."""
    text = (ROOT / name).read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip() and line.lstrip()[0] != "#"]


def pinned(name: str) -> dict[str, Version]:
    found: dict[str, Version] = {}
    for entry in entries(name):
        requirement = Requirement(entry.partition(" --hash")[0])
        (pin,) = requirement.specifier
        found[canonicalize_name(requirement.name)] = Version(pin.version)
    return found


def unmet(requirements: Iterable[Requirement], pins: dict[str, Version]) -> list[str]:
    return [
        str(each)
        for each in requirements
        if (version := pins.get(canonicalize_name(each.name))) is None
        or version not in each.specifier
    ]


@pytest.mark.parametrize("name", LOCKS)
def test_every_entry_is_a_pin_with_hashes_and_nothing_else(name: str) -> None:
    assert [entry for entry in entries(name) if not PIN.fullmatch(entry.strip())] == []


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_no_index_and_no_path(name: str) -> None:
    text = (ROOT / name).read_text()
    assert re.findall(r"^\s*-(?!-hash=)\S*", text, re.M) == []
    assert re.findall(r"\S*(?://|file:)\S*|\s[./~]\S*", text) == []


def test_the_lock_holds_every_dependency_of_the_project() -> None:
    assert unmet([*core(), *optional(*EXTRAS)], pinned("requirements.lock")) == []
    assert unmet(optional("fast"), pinned("requirements-fast.lock")) == []


def test_the_lock_was_made_from_what_is_wished_for() -> None:
    assert unmet(wished("requirements.in"), pinned("requirements.lock")) == []
    assert unmet(wished("requirements-fast.in"), pinned("requirements-fast.lock")) == []


def test_what_is_wished_for_is_what_the_project_declares() -> None:
    build = [Requirement(line) for line in pyproject()["build-system"]["requires"]]
    assert texts(wished("requirements.in")) == texts([*core(), *optional(*EXTRAS), *build])
    assert texts(wished("requirements-fast.in")) == texts(optional("fast"))


def test_what_needs_a_compiler_stands_in_the_optional_lock_alone() -> None:
    assert set(pinned("requirements-fast.lock")) & set(pinned("requirements.lock")) == set()


def texts(requirements: Iterable[Requirement]) -> list[str]:
    return sorted(str(each) for each in requirements)
