"""What others have committed: a number that rises with each piece of news, and the jobs named."""

from __future__ import annotations

import threading
from base64 import b64decode, b64encode
from collections import deque
from collections.abc import Collection, Iterator

from stmflow.cid import CID

KEPT = 4_096
"""Jobs of which news is kept, and pieces of it at most: a reader who is further behind is told that
all may have changed. News of more jobs than that names none of them."""

NAMED = 160
"""Jobs in one notification, which has room for 8,000 bytes."""
NOTICES = 4
"""Notifications of one commit at most; where they do not suffice, it names no job."""
_CID_BYTES = 36


class News:
    """Told from any thread, read by any number of readers who each remember how far they got."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: deque[Collection[CID] | None] = deque()
        self._weight = 0
        self.version = 0
        """How much has been told so far."""

    def tell(self, jobs: Collection[CID] | None) -> None:
        """These jobs have changed; None: nobody knows which."""
        with self._lock:
            self._told.append(None if jobs is None or len(jobs) > KEPT else jobs)
            self._weight += _weight(self._told[-1])
            self.version += 1
            while self._weight > KEPT:
                self._weight -= _weight(self._told.popleft())

    def since(self, version: int) -> Collection[CID] | None:
        """The jobs that have changed since that version, or None: any may have."""
        with self._lock:
            count = self.version - version
            if count > len(self._told):
                return None
            lately = list(self._told)[len(self._told) - count :]
        found = set[CID]()
        for jobs in lately:
            if jobs is None:
                return None
            found.update(jobs)
        return found


def _weight(jobs: Collection[CID] | None) -> int:
    """What a piece takes of the room: one that names no job takes some, too."""
    return len(jobs) if jobs else 1


def news_of(writer: int, batches: int, jobs: Collection[CID]) -> Iterator[str]:
    """What a store sends of its commit: its number, how many it has made, and the jobs written."""
    begin = str(writer) + " " + str(batches) + " "
    named = [job.bytes for job in jobs]
    if len(named) > NAMED * NOTICES or any(len(job) != _CID_BYTES for job in named):
        yield begin + "*"
        return
    for at in range(0, len(named) or 1, NAMED):
        yield begin + b64encode(b"".join(named[at : at + NAMED])).decode()


def news_in(text: str) -> tuple[int, int, Collection[CID] | None]:
    """The same, read; no jobs (None) where it names none. Raises ValueError."""
    writer, batches, jobs = text.split(" ")
    if jobs == "*":
        return int(writer), int(batches), None
    data = b64decode(jobs, validate=True)
    named = [CID.parse(data[at : at + _CID_BYTES]) for at in range(0, len(data), _CID_BYTES)]
    return int(writer), int(batches), named
