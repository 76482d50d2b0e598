"""Tables and diagrams in Markdown that are made from code.

    python -m tools.tables [--write]

A document says where one belongs; what stands between the marks is made anew:

    <!-- table: MODULE[:NAME] WORKFLOW LIMIT -->
    <!-- /table -->

`diagram` in the place of `table` draws the states. LIMIT: states to explore of each check. Without
--write nothing is changed; exit code 1 says that a document is not as it should be.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stmflow.check.table import Table

ROOT = Path(__file__).resolve().parent.parent
MARK = re.compile(r"(<!-- (table|diagram): (\S+) (\S+) (\d+) -->\n).*?(<!-- /\2 -->)", re.DOTALL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put them in")
    options = parser.parse_args()
    stale = [path for path in documents() if renewed(path.read_text()) != path.read_text()]
    for path in stale:
        print(f"{'written' if options.write else 'not as made'}: {path.relative_to(ROOT)}")
        if options.write:
            path.write_text(renewed(path.read_text()))
    return 1 if stale and not options.write else 0


def documents() -> Iterator[Path]:
    """The documents with such marks."""
    for folder in ("docs", "examples"):
        for path in sorted((ROOT / folder).rglob("*.md")):
            if MARK.search(path.read_text()):
                yield path


def renewed(text: str) -> str:
    """The text with everything between marks made anew."""
    return MARK.sub(_made, text)


def _made(found: re.Match[str]) -> str:
    begin, kind, target, workflow, limit, end = found.groups()
    one = _table(target, workflow, int(limit))
    if kind == "table":
        from stmflow.check.table import LEGEND

        return f"{begin}\n{one.markdown()}\n\n{LEGEND}\n\n{end}"
    from stmflow.check.diagram import Diagram

    return f"{begin}\n```mermaid\n{Diagram.of(one).mermaid()}\n```\n\n{end}"


@cache
def _table(target: str, workflow: str, limit: int) -> Table:
    from stmflow.cli.table import tables

    (found,) = tables(target, workflow, limit)
    return found


if __name__ == "__main__":
    sys.exit(main())
