"""The W3C's SCXML tests: where they are had, and which of them do not pass, and why.

They are files of the npm package `@scion-scxml/test-framework`, downloaded when they are run and
never kept: Ecma data model, one document each, which ends in its state `pass` or `fail`.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from hashlib import sha256
from pathlib import Path

PACKAGE = "@scion-scxml/test-framework@2.0.16"
SHA256 = "b813071f5691c7a36bab65ba5ce5aae479933395177447a6609c110bc936622b"

CHILD = "a session invokes another one (`<invoke>`)"
HTTP = "the BasicHTTP event processor"
SCRIPT = "`<script>` and functions"
ELSEWHERE = "data from a file, or XML as data"
ASSIGNS = "an expression that assigns (`++var1`)"
PERSON = "a person has to read its log"

NOT_PASSED: dict[str, tuple[str, ...]] = {
    CHILD: (
        *("187", "191", "192", "207", "215", "216", "220", "223", "224", "225", "226", "228"),
        *("229", "230", "232", "233", "234", "235", "236", "237", "239", "240", "241", "242"),
        *("243", "244", "245", "247", "250", "252", "253", "276", "338", "347", "422", "530"),
        "554",
    ),
    HTTP: ("201", "509", "510", "518", "519", "520", "522", "531", "532", "534", "567", "577"),
    SCRIPT: ("301", "302", "303", "303-1", "303-2", "304", "452", "453", "456"),
    ELSEWHERE: ("446", "552", "557", "558", "561"),
    ASSIGNS: ("444",),
    PERSON: ("178", "307", "415"),
}
"""Reason → tests."""


class Missing(Exception):
    """The files cannot be had here; the message says why."""


def files(folder: Path) -> list[Path]:
    """The documents, downloaded into that folder. Raises Missing."""
    npm = shutil.which("npm")
    if npm is None:
        raise Missing("npm is not installed")
    try:
        command = [npm, "pack", PACKAGE, "--ignore-scripts", "--loglevel=error"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise Missing(f"npm cannot get {PACKAGE}: {error}") from None
    (archive,) = folder.glob("*.tgz")
    assert sha256(archive.read_bytes()).hexdigest() == SHA256, f"{PACKAGE} is not what it was"
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    found = (folder / "package/test/w3c-ecma").glob("test*.txml.scxml")
    return sorted(path for path in found if "sub" not in path.name)


def number(path: Path) -> str:
    """`303-1` of `test303-1.txml.scxml`."""
    return path.name.split(".")[0].removeprefix("test")
