"""Runs one measurement of one peer, in the interpreter that has that peer installed.

`python -m benchmarks.peers.child MODULE WORKLOAD PLACE OPTIONS`, the last two in JSON, prints what
came out as one line. The workload `worker` runs what the peer wants beside its clients.
"""

from __future__ import annotations

import gc
import importlib
import json
import sys
from typing import Any

import anyio

from benchmarks.peers import loads
from benchmarks.peers.peer import Place
from benchmarks.peers.processes import end_with_parent


def main(module: str, workload: str, place: str, options: str = "{}") -> None:
    """Run in this process."""
    peer = importlib.import_module(f"benchmarks.peers.{module}")
    where = Place.from_json(place)

    async def run() -> Any:
        if workload == "worker":
            end_with_parent()
            return await peer.worker(where)
        return await getattr(loads, workload)(peer.opened, where, **json.loads(options))

    gc.freeze()  # as benchmarks.child: every Python process runs with the same
    gc.set_threshold(100_000, 50, 100)
    found = anyio.run(run, backend_options={"use_uvloop": where.fast_loop})
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
