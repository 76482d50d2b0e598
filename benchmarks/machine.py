"""What the figures were taken on."""

from __future__ import annotations

import os
import platform
import time
from typing import Any

import apsw

from benchmarks.child import fast_loop, scratch
from stmflow import codec

SYNCS = 200


def facts() -> dict[str, Any]:
    """The versions, the cores, the load and the disk."""
    codec.encode(None)  # the backend is chosen at its first use
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "sqlite": apsw.sqlite_lib_version(),
        "codec": codec.backend(),
        "loop": "uvloop" if fast_loop() else "asyncio",
        "fdatasync_s": round(_syncs_per_second()),
    }


def _syncs_per_second() -> float:
    """How often a second one page can be appended and made durable."""
    with scratch() as folder:
        file = os.open(folder / "sync", os.O_WRONLY | os.O_CREAT)
        try:
            began = time.perf_counter()
            for _ in range(SYNCS):
                os.write(file, bytes(4_096))
                os.fdatasync(file)
            return SYNCS / (time.perf_counter() - began)
        finally:
            os.close(file)
