"""A peer that does to a request whatever a network and a bad day can do; over real sockets.

    async with opened(Random(7)) as peer: ...  # peer.address, peer.carried, peer.connections

It keeps one promise, the one that `Reconcile` rests on: once it has said that a key is *void* up to
an attempt, it carries out none of these, however late their frames arrive. It does not look whether
it has carried out a key before: that is the client's to see to.
"""

from __future__ import annotations

import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import sha256
from random import Random
from typing import Final

import anyio
from anyio.abc import Listener, SocketAttribute, SocketStream, TaskGroup

from examples.transport.frames import BROKEN, BadFrame, Frame, Frames, pack

PATIENCE_SECONDS: Final = 60
"""How long it keeps a connection on which nothing happens."""
FRESH: Final = "fresh"

Mood = Callable[["Hostile", SocketStream, Frame], Awaitable[None]]


def answer_to(body: bytes) -> bytes:
    """What carrying out a request comes to."""
    return sha256(body).digest()


class Hostile:
    """The peer.

    Attributes:
        carried: how often each key was carried out. frames: how many came, by (key, attempt).
        met: what was done to requests, counted. connections: open now.
    """

    def __init__(self, random: Random, moods: Sequence[str], late_seconds: float) -> None:
        self.carried: Counter[str] = Counter()
        self.frames: Counter[tuple[str, int]] = Counter()
        self.met: Counter[str] = Counter()
        self.connections = 0
        self.address = ""
        self.late_seconds = late_seconds
        self._random = random
        self._moods = moods
        self._answers: dict[str, bytes] = {}
        self._void: dict[str, int] = {}
        self._group: TaskGroup | None = None

    async def token(self, fresh: bool) -> str:
        """Credentials: those that everybody has run out at any time; fresh ones do not."""
        return FRESH if fresh else "old"

    def carry_out(self, frame: Frame) -> Frame:
        """Do what is asked for, unless this attempt is void."""
        if frame.attempt <= self._void.get(frame.key, 0):
            return replace(frame, what="Void", body=b"")  # not a refusal: the next may do
        self.carried[frame.key] += 1
        body = self._answers.setdefault(frame.key, answer_to(frame.body))
        return replace(frame, what="Ok", body=body)

    def settle(self, frame: Frame) -> Frame:
        """What became of the key; or nothing will, up to this attempt."""
        if frame.key in self._answers:
            return replace(frame, what="Carried", body=self._answers[frame.key])
        self._void[frame.key] = max(self._void.get(frame.key, 0), frame.attempt)
        return replace(frame, what="Void")

    def later(self, act: Callable[[], object]) -> None:
        """Do it when the client has long given up."""

        async def wait() -> None:
            await anyio.sleep(self.late_seconds)
            act()

        assert self._group is not None
        self._group.start_soon(wait)

    async def serve(self, listener: Listener[SocketStream], group: TaskGroup) -> None:
        """Take connections until cancelled."""
        self._group = group
        await listener.serve(self._connection)

    async def _connection(self, stream: SocketStream) -> None:
        self.connections += 1
        try:
            with anyio.move_on_after(PATIENCE_SECONDS):
                await self._talk(stream)
        except (*BROKEN, BadFrame):
            pass  # the client has gone
        finally:
            self.connections -= 1
            with anyio.CancelScope(shield=True):
                await anyio.aclose_forcefully(stream)

    async def _talk(self, stream: SocketStream) -> None:
        if "refuses" in self._moods and self._random.random() < 0.03:
            self.met["refuses"] += 1
            reset(stream)
            return
        frame = await Frames(stream).next()
        mood = self._random.choice(self._moods)
        if frame.what == "settle":
            if MOODS[mood] in (silent, reset_before):
                await MOODS[mood](self, stream, frame)
            else:
                await stream.send(pack(self.settle(frame)))
            return
        self.frames[frame.key, frame.attempt] += 1
        if mood == "refuses credentials" and frame.token == FRESH:
            mood = "well"
        self.met[mood] += 1
        await MOODS[mood](self, stream, frame)


# --- moods ----------------------------------------------------------------------------------------


async def well(peer: Hostile, stream: SocketStream, frame: Frame) -> None:
    await stream.send(pack(peer.carry_out(frame)))


async def byte_by_byte(peer: Hostile, stream: SocketStream, frame: Frame) -> None:
    for byte in pack(peer.carry_out(frame)):
        await stream.send(bytes([byte]))


async def silent(peer: Hostile, stream: SocketStream, frame: Frame) -> None:
    """Half open: it never answers, and does not hang up first."""
    await stream.receive()


async def done_in_silence(peer: Hostile, stream: SocketStream, frame: Frame) -> None:
    peer.carry_out(frame)
    await silent(peer, stream, frame)


async def late(peer: Hostile, stream: SocketStream, frame: Frame) -> None:
    await anyio.sleep(peer.late_seconds)
    await well(peer, stream, frame)


async def reset_before(peer: Hostile, stream: SocketStream, frame: Frame) -> None:
    reset(stream)


async def reset_and_done(peer: Hostile, stream: SocketStream, frame: Frame) -> None:
    peer.carry_out(frame)
    reset(stream)


async def reset_and_done_later(peer: Hostile, stream: SocketStream, frame: Frame) -> None:
    reset(stream)
    peer.later(lambda: peer.carry_out(frame))


async def reset_after_answer(peer: Hostile, stream: SocketStream, frame: Frame) -> None:
    await well(peer, stream, frame)
    reset(stream)


async def reset_within_answer(peer: Hostile, stream: SocketStream, frame: Frame) -> None:
    answer = pack(peer.carry_out(frame))
    await stream.send(answer[: len(answer) // 2])
    reset(stream)


async def busy(peer: Hostile, stream: SocketStream, frame: Frame) -> None:
    """503, with Retry-After."""
    await stream.send(pack(replace(frame, what="Throttled", body=b"", after_ms=20)))


async def sick(peer: Hostile, stream: SocketStream, frame: Frame) -> None:
    await stream.send(pack(replace(frame, what="Transient", body=b"")))


async def sick_but_done(peer: Hostile, stream: SocketStream, frame: Frame) -> None:
    peer.carry_out(frame)
    await sick(peer, stream, frame)


async def refuses_credentials(peer: Hostile, stream: SocketStream, frame: Frame) -> None:
    await stream.send(pack(replace(frame, what="Auth", body=b"")))


async def garbled(peer: Hostile, stream: SocketStream, frame: Frame) -> None:
    """A wrong checksum."""
    answer = bytearray(pack(peer.carry_out(frame)))
    answer[-1] ^= 1
    await stream.send(bytes(answer))


async def out_of_order(peer: Hostile, stream: SocketStream, frame: Frame) -> None:
    """First an answer to something else."""
    other = replace(frame, what="Ok", key=f"not {frame.key}", body=b"wrong")
    older = replace(frame, what="Fatal", attempt=frame.attempt - 1, body=b"")
    await stream.send(pack(other) + pack(older) + pack(peer.carry_out(frame)))


MOODS: Final[Mapping[str, Mood]] = {
    "well": well,
    "byte by byte": byte_by_byte,
    "silent": silent,
    "done in silence": done_in_silence,
    "late": late,
    "reset before": reset_before,
    "reset and done": reset_and_done,
    "reset and done later": reset_and_done_later,
    "reset after answer": reset_after_answer,
    "reset within answer": reset_within_answer,
    "busy": busy,
    "sick": sick,
    "sick but done": sick_but_done,
    "refuses credentials": refuses_credentials,
    "garbled": garbled,
    "out of order": out_of_order,
    "refuses": reset_before,
}


def reset(stream: SocketStream) -> None:
    """Closing this stream will send RST, and no more of what was to be sent."""
    raw = stream.extra(SocketAttribute.raw_socket)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@asynccontextmanager
async def opened(
    random: Random, *, moods: Sequence[str] = tuple(MOODS), late_seconds: float = 1.0
) -> AsyncIterator[Hostile]:
    """A peer on a port of its own.

    Args:
        moods: of which one is drawn for each request. late_seconds: how late *late* is.
    """
    peer = Hostile(random, moods, late_seconds)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    async with listener, anyio.create_task_group() as group:
        peer.address = f"127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
        group.start_soon(peer.serve, listener, group)
        yield peer
        group.cancel_scope.cancel()
