"""Drive a store/add service with real JavaScript clients: `python -m tests.interop.run`.

It starts the example's service over a directory that is thrown away, runs every client of
`clients/` against it, looks into the bucket itself, and prints a table: checks down, clients
across, milliseconds in the cells. Exit 0: all passed; 1: something failed; 3: Node.js or npm is
missing here, and what that is.

    --endpoint URL --did DID   use a service that runs already (and --data DIR, --quota, --key)
    --reference                try the clients on the JavaScript reference instead of on ours
    --client NAME              only this client; may be repeated
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Timer
from typing import Any

from tests.interop.bucket import Contents
from tests.interop.node import Missing, install, node
from tests.interop.process import Unready, announced
from tests.interop.table import Line, printed
from tests.project import ROOT

HERE = ROOT / "tests/interop"
REFERENCE = ROOT / "benchmarks/js"

QUOTA_BYTES = 8 * 1024**2
"""What a new space may use here. The largest upload that has to fit is 2.5 MB."""

CLIENT_SECONDS = 180

NOT_THE_REFERENCE = {
    ("ucanto-client-9", "a negative size is refused"),
    ("ucanto-client-9", "415, 406 and 400"),  # its host answers 500 to what it cannot decode
    ("iso-ucan-0", "/store/ad does not prove /store/add"),  # commands are compared as text
}
"""What we ask of a service and the reference is known not to do."""


def main() -> int:
    options = arguments()
    try:
        install(HERE)
        with services(options) as known:
            lines = [line for name in clients(options) for line in run(name, known(name))]
            if options.reference:
                lines = [line.excused(NOT_THE_REFERENCE) for line in lines]
            print(printed(lines), flush=True)
    except Missing as error:
        print(f"skipped: {error}", file=sys.stderr)
        return 3
    except (Unready, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
        return 1
    return 1 if not lines or any(line.status == "failed" for line in lines) else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.interop.run", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for name in ("endpoint", "did", "key", "ucan1", "data"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--quota", type=int)
    parser.add_argument("--client", action="append", choices=all_clients())
    parser.add_argument("--reference", action="store_true")
    options = parser.parse_args()
    if (options.endpoint is None) != (options.did is None):
        parser.error("--endpoint and --did go together")
    return options


def all_clients() -> list[str]:
    return sorted(path.stem for path in (HERE / "clients").glob("*.mjs"))


def clients(options: argparse.Namespace) -> list[str]:
    return options.client or all_clients()


@contextmanager
def services(options: argparse.Namespace) -> Iterator[Any]:
    """A function from a client's name to what it is told of its service, while that runs."""
    with ExitStack() as stack:
        if options.endpoint:
            given = {name: value for name, value in vars(options).items() if value is not None}
            yield lambda name: given
        elif options.reference:
            install(REFERENCE)
            quota = f"--quota={options.quota or QUOTA_BYTES}"
            ucanto = stack.enter_context(announced([node(), str(REFERENCE / "server.mjs"), quota]))
            ucan1 = stack.enter_context(announced([node(), str(HERE / "reference/ucan1.mjs")]))
            yield lambda name: ucan1 if name.startswith("iso-ucan") else ucanto
        else:
            data = stack.enter_context(tempfile.TemporaryDirectory(prefix="interop-"))
            command = [sys.executable, "-m", "examples.store_add", "serve", "--port", "0"]
            command += ["--data", data, "--quota", str(options.quota or QUOTA_BYTES)]
            ours = {"quota": QUOTA_BYTES} | stack.enter_context(announced(command))
            yield lambda name: {**ours, "data": data}


def run(client: str, service: dict[str, Any]) -> Iterator[Line]:
    """Run one client and give its checks; a failed look into the bucket fails the check."""
    contents = Contents.below(Path(service["data"])) if "data" in service else None
    told = [f"--{name}={service[name]}" for name in TOLD if service.get(name) is not None]
    command = [node(), str(HERE / "clients" / f"{client}.mjs"), *told]
    print(f"== {client}", file=sys.stderr, flush=True)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        patience = Timer(CLIENT_SECONDS, process.kill)
        patience.start()
        failed = False
        try:
            for reported in filter(REPORT.match, process.stdout):
                line = Line.read(client, json.loads(reported))
                if contents and line.status == "ok":
                    line = line.looked_up(contents.lacks(line.stored))
                failed |= line.status == "failed"
                yield line
            if process.wait() and not failed:
                error = f"exit {process.returncode}"
                yield Line(client, "the client ends well", "failed", error=error)
        finally:
            patience.cancel()
            process.kill()


REPORT = re.compile(r'\{"check":')  # a client may print more
TOLD = ("endpoint", "did", "key", "quota", "ucan1")

if __name__ == "__main__":
    sys.exit(main())
