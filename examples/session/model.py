"""The words of a session: what may come, what is asked for, and what either side remembers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Literal, TypeAlias

from stmflow import At, Err

BODY_BYTES: Final = 4 * 1024
"""The longest message."""
BUFFER: Final = 512
"""The most messages of a side that the other has not acknowledged."""
BATCH: Final = 128
"""The most messages in one packet."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How patient a side is.

    Attributes:
        retries: connections that may fail in a row. base_ms, cap_ms: the pause before them, which
            doubles. dial_ms, shake_ms: until one is given up. grace_ms: how long a session
            outlives its wire. beat_ms: between two beats of the server (None: none); a side whose
            other side is silent for `misses` of them takes the wire for dead. renew_ms: how long
            the server believes what a client has shown of itself before it asks again (None: as
            long as the wire lasts); the client has `shake_ms` to show it.
    """

    retries: int = 8
    base_ms: int = 10
    cap_ms: int = 1_000
    dial_ms: int = 2_000
    shake_ms: int = 2_000
    grace_ms: int = 10_000
    beat_ms: int | None = 1_000
    misses: int = 3
    renew_ms: int | None = None


# --- events from outside --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connect:
    """The client wants a session with the peer. `nonce` tells its sessions from all others'."""

    tag: ClassVar[str] = "session/connect"

    client: str
    peer: str
    nonce: str
    terms: Terms = Terms()
    at: At = 0


@dataclass(frozen=True, slots=True)
class Post:
    """A message for the other side; to a side's job."""

    tag: ClassVar[str] = "session/post"

    body: bytes
    at: At = 0


@dataclass(frozen=True, slots=True)
class Close:
    """No more of this session; to a side's job."""

    tag: ClassVar[str] = "session/close"


@dataclass(frozen=True, slots=True)
class Shaken:
    """A client has introduced itself on a wire: the first message that it can still send, and the
    first that it has not received; `known` is whether it was welcomed in this session before.
    `instance` is the server that it has come to."""

    tag: ClassVar[str] = "session/shaken"

    instance: str
    client: str
    wire: str
    session: str
    known: bool
    sends: int
    wants: int
    terms: Terms = Terms()
    at: At = 0


# --- events that tasks and timers bring -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Paused:
    """The pause before a connection is over."""

    tag: ClassVar[str] = "session/paused"

    at: At = 0


@dataclass(frozen=True, slots=True)
class Opened:
    """There is a wire, and this is its name."""

    tag: ClassVar[str] = "session/opened"

    wire: str
    at: At = 0


@dataclass(frozen=True, slots=True)
class Unopened:
    """There is none, or not in time."""

    tag: ClassVar[str] = "session/unopened"

    error: Err | None = None
    at: At = 0


@dataclass(frozen=True, slots=True)
class Accepted:
    """The server knows the session, or has begun it, and has all messages before `ack`."""

    tag: ClassVar[str] = "session/accepted"

    session: str
    ack: int
    at: At = 0


@dataclass(frozen=True, slots=True)
class Mismatched:
    """The server does not know what the client thinks that they share."""

    tag: ClassVar[str] = "session/mismatched"

    error: Err
    at: At = 0


@dataclass(frozen=True, slots=True)
class Rejected:
    """The server will never take this client, or speaks another language; or, to the server: what
    the client has shown of itself is not good any more."""

    tag: ClassVar[str] = "session/rejected"

    error: Err


@dataclass(frozen=True, slots=True)
class Unshaken:
    """The server has not answered in time."""

    tag: ClassVar[str] = "session/unshaken"

    at: At = 0


@dataclass(frozen=True, slots=True)
class Broken:
    """The wire is broken, or what came over it is."""

    tag: ClassVar[str] = "session/broken"

    error: Err
    at: At = 0


@dataclass(frozen=True, slots=True)
class Received:
    """A packet: messages from number `seq` on, perhaps none; the sender has all before `ack`.
    `renew`: the server asks the client to show again who it is, or the client has shown it."""

    tag: ClassVar[str] = "session/received"

    session: str
    seq: int
    ack: int
    bodies: tuple[bytes, ...]
    beat: bool
    renew: bool
    at: At = 0


@dataclass(frozen=True, slots=True)
class Written:
    """A packet was handed to the network."""

    tag: ClassVar[str] = "session/written"


@dataclass(frozen=True, slots=True)
class BeatDue:
    """The server has to show that it lives."""

    tag: ClassVar[str] = "session/beat-due"

    at: At = 0


@dataclass(frozen=True, slots=True)
class RenewalDue:
    """What the client has shown of itself is too old."""

    tag: ClassVar[str] = "session/renewal-due"


@dataclass(frozen=True, slots=True)
class RenewalLate:
    """It was asked to show it again, and has not."""

    tag: ClassVar[str] = "session/renewal-late"


@dataclass(frozen=True, slots=True)
class Silent:
    """Nothing has come for too long."""

    tag: ClassVar[str] = "session/silent"

    at: At = 0


@dataclass(frozen=True, slots=True)
class GraceOver:
    """The session has been without a wire for too long."""

    tag: ClassVar[str] = "session/grace-over"


# --- tasks ----------------------------------------------------------------------------------------
# A wire lives in one process, which gives it a name that no other has.


@dataclass(frozen=True, slots=True)
class Dial:
    """Open a wire, one for each number. Outcome: its name."""

    tag: ClassVar[str] = "session/dial"

    client: str
    number: int
    peer: str
    until: int


@dataclass(frozen=True, slots=True)
class Shake:
    """The client introduces itself on a wire, once. What it has to show for that is fetched when
    it is written, and is in no block. Outcome: nothing."""

    tag: ClassVar[str] = "session/shake"

    wire: str
    client: str
    session: str
    known: bool
    sends: int
    wants: int


@dataclass(frozen=True, slots=True)
class Greet:
    """Read the server's answer to that. Outcome: the session's name, and what the server has."""

    tag: ClassVar[str] = "session/greet"

    wire: str


@dataclass(frozen=True, slots=True)
class Welcome:
    """The server answers that it knows the session, and what it has. Outcome: nothing."""

    tag: ClassVar[str] = "session/welcome"

    wire: str
    session: str
    ack: int


@dataclass(frozen=True, slots=True)
class Write:
    """Send a packet over a wire; with `renew`, a client's has what it has to show of itself, for
    this session, fetched when it is written. Outcome: nothing."""

    tag: ClassVar[str] = "session/write"

    wire: str
    number: int
    session: str
    seq: int
    ack: int
    bodies: tuple[bytes, ...]
    beat: bool
    renew: bool


@dataclass(frozen=True, slots=True)
class Read:
    """Read the packet of that number from a wire; what a client shows in it is looked at first.
    Outcome: the packet."""

    tag: ClassVar[str] = "session/read"

    wire: str
    number: int


@dataclass(frozen=True, slots=True)
class Hang:
    """Close a wire. Outcome: nothing."""

    tag: ClassVar[str] = "session/hang"

    wire: str


@dataclass(frozen=True, slots=True)
class Deliver:
    """Messages have come. A transactional task: they are delivered in the commit that counts them,
    so exactly once. Outcome: nothing."""

    tag: ClassVar[str] = "session/deliver"

    side: Literal["client", "server"]
    client: str
    session: str
    seq: int
    bodies: tuple[bytes, ...]


# --- states ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Link:
    """One side's end of a session: what it has numbered, and how far it is on the present wire.

    Attributes:
        seq: the number of the next message. ack: that of the next one wanted from the other side.
        buffer: messages not acknowledged, up to `seq`. wire: the present one, or "".
        told: up to which message they were written to it. busy: a packet is being written.
        owed: the other side waits for an acknowledgement; beat: or for a sign of life; renew: or
        the client is to show again who it is. written, read: packets on this wire.
    """

    seq: int = 0
    ack: int = 0
    buffer: tuple[bytes, ...] = ()
    wire: str = ""
    told: int = 0
    busy: bool = False
    owed: bool = False
    beat: bool = False
    renew: bool = False
    written: int = 0
    read: int = 0

    @property
    def oldest(self) -> int:
        """The number of the first message that can still be sent."""
        return self.seq - len(self.buffer)


ClientStatus: TypeAlias = Literal[
    "no-connection", "backing-off", "connecting", "handshaking", "connected", "gone"
]
ServerStatus: TypeAlias = Literal["no-connection", "connected", "gone"]


@dataclass(frozen=True, slots=True)
class Client:
    """The client's side.

    Attributes:
        number: which of its sessions this is. known: the server has welcomed it. dials: how often
            it has dialled. tries: connections that failed in a row. grace: when the session ends
            without a wire, in milliseconds. lost: messages of sessions that have ended, of which it
            is not known whether they were received.
    """

    client: str
    peer: str
    nonce: str
    terms: Terms
    status: ClientStatus
    link: Link
    number: int = 1
    known: bool = False
    dials: int = 0
    tries: int = 0
    grace: int = 0
    lost: int = 0
    error: Err | None = None

    @property
    def session(self) -> str:
        """The session's name."""
        return f"{self.nonce}.{self.number}"


@dataclass(frozen=True, slots=True)
class Server:
    """The server's side of its present session with a client, the `number`-th."""

    instance: str
    client: str
    session: str
    terms: Terms
    status: ServerStatus
    link: Link
    number: int = 1
    lost: int = 0
    error: Err | None = None
