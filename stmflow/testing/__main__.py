"""`python -m stmflow.testing check HISTORY`: the verdict on a recorded history, and why.

    python -m stmflow.testing check history.jsonl
    python -m stmflow.testing check history.jsonl --database jobs.db
    python -m stmflow.testing check history.jsonl --database postgresql://… --elle elle.json

Exit code 0: no anomaly. 1: there are some; each is told. 2: nothing could be checked.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import anyio

from stmflow.errors import StmflowError
from stmflow.testing import elle
from stmflow.testing.graph import Anomaly
from stmflow.testing.jepsen import Line, loads
from stmflow.testing.observed import check_history, check_store, revisions, transactions


def main(arguments: list[str] | None = None) -> int:
    """What came of it, as an exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m stmflow.testing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="check a history, and the database it is of")
    check.add_argument("history", type=Path, help="JSON lines in Jepsen's shape, or an array")
    check.add_argument("--database", metavar="PATH|DSN", help="what it is the history of")
    check.add_argument("--elle", type=Path, metavar="FILE", help="write it for Elle, too")
    options = parser.parse_args(arguments)
    if options.elle is not None and options.database is None:
        parser.error("--elle writes what a database holds: give --database, too")
    try:
        lines = loads(options.history.read_text())
        found = anyio.run(_check, lines, options.database, options.elle)
    except (OSError, UnicodeDecodeError, StmflowError) as error:
        print(f"{options.history}: {error}", file=sys.stderr)
        return 2
    operations = sum(line["type"] == "invoke" for line in lines)
    if not operations and options.database is None:
        print(f"{options.history}: no operation", file=sys.stderr)
        return 2
    for one in found:
        print(_plain(one))
    verdict = f"{len(found)} anomalies" if found else "no anomaly"
    print(f"{options.history}: {operations} operations, {verdict}")
    return int(bool(found))


async def _check(lines: Sequence[Line], database: str | None, target: Path | None) -> list[Anomaly]:
    if database is None:
        return check_history(lines)
    from stmflow.cli.settings import Settings

    async with Settings(database).reading() as store:
        if target is not None:
            made = transactions(await revisions(store), lines)
            target.write_text(elle.dumps(elle.list_append(made)))
        asked = [line for line in lines if line["f"] == "txn"]
        seen = [line for line in lines if line["f"] != "txn"]
        return [*check_history(asked), *await check_store(store, seen)]


def _plain(one: Anomaly) -> str:
    """What may be printed of it: names come from a file."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in str(one))


if __name__ == "__main__":
    sys.exit(main())
