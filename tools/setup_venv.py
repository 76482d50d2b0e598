"""Make a virtual environment with all that requirements.lock names, and stmflow itself.

Run by `make setup`, with the interpreter that the environment is for; needs the standard library
only. A stamp inside the environment names what was installed, so that a second run is instant. An
interrupted run leaves a mark, and the next one starts that environment over.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
FAST_LOCK = ROOT / "requirements-fast.lock"
NO_FAST = (
    "note: the optional speed-ups (cbrrr, uvloop) could not be installed, which needs a C compiler"
    " and Python's headers; all works without them. To try again: make fast"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", default=".venv", help="where it goes (default: %(default)s)")
    parser.add_argument("--fast", action="store_true", help="only try the optional speed-ups again")
    options = parser.parse_args()
    home = ROOT / options.venv
    with LOCK.open() as lock:  # two runs at once: the second waits, then finds the stamp
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            if options.fast:
                return install_fast(home)
            return 0 if read(home / ".stamp") == wanted() else install(home)
        except subprocess.CalledProcessError:
            print("setup failed: see pip's words above; run it again to resume", file=sys.stderr)
        except KeyboardInterrupt:
            print("setup interrupted: run it again to resume", file=sys.stderr)
    return 1


def wanted() -> str:
    """What the stamp says when there is nothing to do."""
    digest = hashlib.sha256()
    for path in (LOCK, FAST_LOCK, ROOT / "pyproject.toml"):
        digest.update(path.read_bytes())
    version = ".".join(map(str, sys.version_info[:2]))
    return f"{digest.hexdigest()} python{version} {ROOT}\n"


def install(home: Path) -> int:
    unfinished = home / ".unfinished"
    if unfinished.exists() or not usable(home):
        make(home, unfinished)
    unfinished.touch()
    print(f"installing the locked packages into {home.name}: about a minute", flush=True)
    pip(home, "install", "--require-hashes", "-r", str(LOCK))
    pip(home, "install", "--no-deps", "--no-build-isolation", "-e", str(ROOT))
    install_fast(home)
    (home / ".stamp").write_text(wanted())
    unfinished.unlink()
    return 0


def usable(home: Path) -> bool:
    """Whether `home` is an environment of this Python, made here, that can install."""
    stamp = read(home / ".stamp").split(maxsplit=2)
    moved = bool(stamp) and stamp[1:] != wanted().split(maxsplit=2)[1:]
    if moved or not (home / "bin" / "python").exists():
        return False
    question = "import pip, sys; print(*sys.version_info[:2])"
    answer = subprocess.run(
        [home / "bin" / "python", "-c", question], capture_output=True, text=True, check=False
    )
    return answer.stdout.split() == [str(part) for part in sys.version_info[:2]]


def make(home: Path, unfinished: Path) -> None:
    """A new, empty environment; the mark is set before the first file of it is written."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    unfinished.touch()
    # Not `with_pip=True` of a running environment: the base interpreter's venv makes it.
    base = getattr(sys, "_base_executable", sys.executable)
    subprocess.run([base, "-m", "venv", str(home)], check=True)


def install_fast(home: Path) -> int:
    try:
        pip(
            home,
            *("install", "--require-hashes", "--no-build-isolation", "-r", str(FAST_LOCK)),
            quiet=True,
        )
    except subprocess.CalledProcessError:
        print(NO_FAST)
        return 1
    return 0


def pip(home: Path, *arguments: str, quiet: bool = False) -> None:
    command = [
        str(home / "bin" / "python"),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--no-input",
    ]
    subprocess.run(
        [*command, *arguments, "-qq"],
        check=True,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL if quiet else None,
    )


def read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


if __name__ == "__main__":
    sys.exit(main())
