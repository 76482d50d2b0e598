"""Node.js and npm: whether they are here, and the packages that a folder has locked."""

from __future__ import annotations

import re
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

MAJOR = 20


class Missing(Exception):
    """Something is not installed here; the message says what, and how to get it."""


def node() -> str:
    """The path of Node.js. Raises Missing where there is none, or one too old."""
    found = shutil.which("node")
    if found is None:
        raise Missing(f"the JavaScript clients need Node.js {MAJOR} or newer (`node`): {HOW}")
    version = subprocess.run([found, "--version"], capture_output=True, text=True).stdout.strip()
    number = re.match(r"v(\d+)", version)
    if number is None or int(number[1]) < MAJOR:
        raise Missing(f"the JavaScript clients need Node.js {MAJOR} or newer, not {version}: {HOW}")
    return found


HOW = "https://nodejs.org, or apt install nodejs npm"


def install(folder: Path) -> None:
    """Install what `package-lock.json` names; instant when that has not changed.

    Without the packages' own scripts: nothing is compiled or run. Raises Missing without npm.
    """
    node()
    npm = shutil.which("npm")
    if npm is None:
        raise Missing(f"the JavaScript clients need npm: {HOW}")
    lock = sha256((folder / "package-lock.json").read_bytes()).hexdigest()
    stamp = folder / "node_modules/.locked"
    if stamp.exists() and stamp.read_text() == lock:
        return
    subprocess.run([npm, "ci", "--ignore-scripts", "--loglevel=error"], cwd=folder, check=True)
    stamp.write_text(lock)
