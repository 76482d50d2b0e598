"""The test vectors of both families (`tests/vectors/ucan/README.md` says what is in them).

`STMFLOW_UCAN_VECTORS` names another directory of the same form to read instead.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from capabilities.principal import Signer
from stmflow.cid import CID
from tests.project import ROOT

DIRECTORY = Path(os.environ.get("STMFLOW_UCAN_VECTORS") or ROOT / "tests/vectors/ucan")
_OTHERS = DIRECTORY / "third-party"
THIRD_PARTY = _OTHERS if _OTHERS.is_dir() else None
"""Where the data that was not made here is, if it is there."""

needs_third_party = pytest.mark.skipif(
    THIRD_PARTY is None, reason="the vectors come without their third-party/"
)


@cache
def load(name: str) -> Any:
    """One file of the vectors, as JSON."""
    return json.loads((DIRECTORY / name).read_text())


def cases(name: str) -> list[dict[str, Any]]:
    """The cases of one file."""
    found: list[dict[str, Any]] = load(name)["cases"]
    assert found, f"no cases in {name}"
    return found


def parametrize(name: str) -> pytest.MarkDecorator:
    """Run a test, with an argument `case`, once for each case of one file."""
    return pytest.mark.parametrize("case", cases(name), ids=lambda case: case["id"])


def manifest() -> dict[str, Any]:
    found: dict[str, Any] = load("manifest.json")
    return found


def third_party(name: str) -> bytes:
    """A file of the data that was not made here; skips the test where it did not come along."""
    if THIRD_PARTY is None:
        pytest.skip("the vectors come without their third-party/")
    return (THIRD_PARTY / name).read_bytes()


def value(form: Any) -> Any:
    """The value that JSON stands for: `{"$hex": ...}` is bytes, `{"/": ...}` a CID."""
    match form:
        case {"$hex": str(text), **rest} if not rest:
            return bytes.fromhex(text)
        case {"/": str(text), **rest} if not rest:
            return CID.parse(text)
        case dict():
            return {key: value(each) for key, each in form.items()}
        case list():
            return [value(each) for each in form]
    return form


def signer(name: str) -> Signer:
    """One of the principals of the manifest, named as there; "webService" has "service"'s key."""
    principals = manifest()["principals"]
    entry = principals[name]
    archive = entry.get("archive") or next(
        other["archive"] for other in principals.values() if other["did"] == entry["key"]
    )
    return Signer.decode(bytes.fromhex(archive)).named(entry["did"])


def signer1(name: str) -> Signer:
    """One of the principals of the UCAN 1.0 cases."""
    return Signer.parse(manifest()["principals1"][name]["export"])
