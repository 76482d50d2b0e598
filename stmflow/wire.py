"""Pieces of canonical DAG-CBOR, for what the engine writes on every commit.

DAG-CBOR is compositional: a list is its head and its items' bytes, a map its head and its sorted
keys and values. So what is already encoded is never walked again. Pieces join to exactly the bytes
of `codec.encode` (a property test compares them); the typed callers see to the bounds of depth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stmflow.cid import CID
from stmflow.codec import (
    _BYTES,
    _INTS,
    _LINK,
    _LINK_36,
    _LIST,
    _MAP,
    _TEXTS,
    _float,
    _head,
    _int,
    _items_head,
    _text_head,
)
from stmflow.errors import LimitExceeded, MalformedBlock
from stmflow.limits import LIMITS

NULL = b"\xf6"
TRUE = b"\xf5"
FALSE = b"\xf4"
EMPTY_LIST = b"\x80"

_LISTS = tuple(_head(_LIST, size) for size in range(24))

real = _float
"""A finite float."""


def integer(number: int) -> bytes:
    """An integer within the bounds."""
    return _INTS[number] if 0 <= number < 256 else _int(number)


def text(value: str) -> bytes:
    """Text within the bounds. Raises MalformedBlock for a lone surrogate."""
    try:
        data = value.encode()
    except UnicodeEncodeError:
        raise MalformedBlock(f"a lone surrogate in text: {value!a:.60}") from None
    size = len(data)
    return (_TEXTS[size] if size < 256 else _text_head(size)) + data


_tags: dict[str, bytes] = {}


def tag(name: str) -> bytes:
    """The text of a tag: one of the few names that workflows declare, encoded once."""
    known = _tags.get(name)
    if known is None:
        known = text(name)
        if len(_tags) < 4_096:
            _tags[name] = known
    return known


def octets(value: bytes) -> bytes:
    """A byte string."""
    return _head(_BYTES, len(value)) + value


def link(cid: CID) -> bytes:
    """A link."""
    data = cid.bytes
    if len(data) == 36:
        return _LINK_36 + data
    return _LINK + _head(_BYTES, len(data) + 1) + b"\0" + data


def array(items: Sequence[bytes]) -> bytes:
    """A list of encoded items."""
    size = len(items)
    return b"".join((_LISTS[size] if size < 24 else _items_head(_LIST, size), *items))


def links(cids: Sequence[CID]) -> bytes:
    """A list of links."""
    return array([link(cid) for cid in cids]) if cids else EMPTY_LIST


def canonical(names: Sequence[str]) -> list[str]:
    """Map keys in canonical order: shorter first, then by bytes."""
    return sorted(names, key=lambda name: (len(name.encode()), name.encode()))


def mapping(names: Sequence[str]) -> Callable[[Sequence[bytes]], bytes]:
    """A function that joins encoded values, given in the order of `names` as written here, to a
    map. The names must be given in canonical order."""
    assert list(names) == canonical(names), names
    template = [part for name in names for part in (text(name), b"")]
    template.insert(0, _items_head(_MAP, len(names)))

    def join(values: Sequence[bytes]) -> bytes:
        parts = template[:]
        parts[2::2] = values
        return b"".join(parts)

    return join


def checked(block: bytes) -> bytes:
    """The block, if it is within the bound. Raises LimitExceeded."""
    if len(block) > LIMITS.block_bytes:
        raise LimitExceeded(f"a block of more than {LIMITS.block_bytes} bytes")
    return block
