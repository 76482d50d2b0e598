"""Programs that print one line of JSON when they are ready and end on SIGTERM."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Thread, Timer
from typing import Any

from tests.project import ROOT

READY_SECONDS = 90.0
END_SECONDS = 30.0


class Unready(Exception):
    """A program did not start or did not end as it should; the message names it."""


@contextmanager
def announced(command: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What the program announced about itself, while it runs; then SIGTERM.

    Raises:
        Unready: it ended or stayed silent instead, or had to be killed in the end.
    """
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            announcement = _first_line(process, command)
            drain = Thread(target=process.communicate, daemon=True)
            drain.start()  # a full pipe would stop it
            yield announcement
            process.terminate()
            drain.join(END_SECONDS)
        finally:
            ended = process.poll()
            process.kill()
    if ended is None:
        raise Unready(f"{_name(command)} had to be killed: it did not end on SIGTERM")
    if ended != 0:
        raise Unready(f"{_name(command)} ended with {ended} on SIGTERM")


def _first_line(process: subprocess.Popen[str], command: Sequence[str]) -> dict[str, Any]:
    assert process.stdout is not None
    patience = Timer(READY_SECONDS, process.kill)
    patience.start()
    try:
        text = process.stdout.readline()
    finally:
        patience.cancel()
    try:
        announcement: dict[str, Any] = json.loads(text)
    except ValueError:
        raise Unready(f"{_name(command)} did not get ready; it printed {text!r}") from None
    return announcement


def _name(command: Sequence[str]) -> str:
    return " ".join(command[1:])
