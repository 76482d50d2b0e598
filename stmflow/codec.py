"""Strict DAG-CBOR: the one form in which blocks are stored, hashed and sent.

`encode` and `decode` are inverse: what `encode` takes, `decode` gives back equal (a tuple comes
back as a list), and bytes that `decode` takes are the bytes that `encode` writes. Everything else
is refused with `MalformedBlock` (no such value or no such bytes) or `LimitExceeded` (a bound of
`stmflow.limits` was passed). Nothing here recurses, so no input can exhaust the stack.

Two back ends give the same bytes, values and refusals: plain Python (always there), and `cbrrr` (C,
extra `fast`), taken on first use when it is installed; `use` forces one. The Python one is the
judge: whatever `cbrrr` refuses or may not be trusted with is decided by it.

Sources: ipld.io/specs/codecs/dag-cbor/spec (strictness), RFC 8949 sections 3 and 4.2.1, and
ipld.io/specs/codecs/dag-json/spec. `docs/decisions/own-codec-and-cid.md` says why it is our own.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat
from math import isfinite
from struct import Struct
from typing import Any, Final, Literal, TypeAlias, TypeVar, cast

from stmflow.cid import CID, from_bytes
from stmflow.errors import LimitExceeded, MalformedBlock
from stmflow.limits import LIMITS

Value: TypeAlias = Any
"""None, bool, int, float, str, bytes, CID, a list of these or a dict of text to these."""
Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Result = TypeVar("Result")
Backend: TypeAlias = Literal["python", "cbrrr"]


def encode(value: object) -> bytes:
    """Return the one DAG-CBOR form of `value`.

    Takes exactly `None`, bool, int (64 bit), finite float, str, bytes, list, tuple, dict with str
    keys and `CID`; no subclasses. Raises `MalformedBlock` or `LimitExceeded`.
    """
    return (_chosen or _choose()).encode(value)


def decode(data: bytes) -> Value:
    """Return the value that `data` encodes; every byte is accounted for.

    Raises `MalformedBlock` or `LimitExceeded`. Containers are new on each call.
    """
    return (_chosen or _choose()).decode(data)


def block(value: object) -> tuple[CID, bytes]:
    """Return `value` as a block: its CID and its bytes."""
    data = (_chosen or _choose()).encode(value)
    return CID.of(data), data


def scan(data: bytes) -> None:
    """Raise what `decode` would raise on `data`, and build nothing."""
    _guard(_scan, data)


def use(name: Backend) -> None:
    """Make this process use one back end. Raises `ImportError` where `cbrrr` is not installed."""
    global _chosen
    if name not in ("python", "cbrrr"):
        raise ValueError(f"no such back end: {name!r}; there are python and cbrrr")
    _chosen = _PYTHON if name == "python" else _with_cbrrr()


def backend() -> Backend:
    """Return the name of the back end in use."""
    return (_chosen or _choose()).name


def to_json(value: object) -> Json:
    """Return the DAG-JSON form of `value`, made of what `json.dumps` takes.

    Links are `{"/": "b..."}`, bytes `{"/": {"bytes": <base64 without padding>}}`. Raises what
    `encode` raises, and `MalformedBlock` for a map with the key `/`, which DAG-JSON reserves.
    """
    encode(value)
    return _json_from(value)


def from_json(form: object) -> Value:
    """Return the value whose DAG-JSON form, as `json.loads` gives it, is `form`."""
    value = _value_from(form, 0)
    encode(value)
    return value


def dag_json(value: object, *, indent: int | None = None) -> str:
    """Return `value` as DAG-JSON text: keys sorted, no spaces unless `indent` asks for lines."""
    separators = (",", ":") if indent is None else (",", ": ")
    form = to_json(value)
    return json.dumps(
        form, indent=indent, separators=separators, sort_keys=True, ensure_ascii=False
    )


# Heads. A head is the first byte (major type in the top three bits) with the bytes of its argument.

_UINT, _NINT, _BYTES, _TEXT, _LIST, _MAP = 0x00, 0x20, 0x40, 0x60, 0x80, 0xA0
_LINK: Final = b"\xd8\x2a"  # tag 42, then a byte string that starts with a zero
_LINK_36: Final = b"\xd8\x2a\x58\x25\x00"
_LINK_HEADS: Final = frozenset((_LINK_36 + b"\x01\x71\x12\x20", _LINK_36 + b"\x01\x55\x12\x20"))
_FLOAT: Final = Struct(">Bd")
_DOUBLE: Final = Struct(">d")
_CONSTANTS: Final[dict[int, bool | None]] = {0xF4: False, 0xF5: True, 0xF6: None}
_LEAST: Final = {25: 1 << 8, 26: 1 << 16, 27: 1 << 32}  # smaller arguments have shorter heads
_PACK_1, _PACK_2 = Struct(">BB").pack, Struct(">BH").pack
_PACK_4, _PACK_8 = Struct(">BI").pack, Struct(">BQ").pack


def _head(major: int, argument: int) -> bytes:
    if argument < 24:
        return bytes((major | argument,))
    if argument < 1 << 8:
        return _PACK_1(major | 24, argument)
    if argument < 1 << 16:
        return _PACK_2(major | 25, argument)
    if argument < 1 << 32:
        return _PACK_4(major | 26, argument)
    return _PACK_8(major | 27, argument)


_INTS: Final = tuple(_head(_UINT, n) for n in range(256))
_TEXTS: Final = tuple(_head(_TEXT, n) for n in range(256))

_DEPTH: Final = LIMITS.depth
_ITEMS: Final = LIMITS.items
_TEXT_BYTES: Final = LIMITS.text_bytes
_BLOCK_BYTES: Final = LIMITS.block_bytes
_INT_MIN: Final = LIMITS.int_min
_INT_MAX: Final = LIMITS.int_max


# The plain-Python encoder: one loop over a stack of iterators of (what to write before it, value).

_Frame: TypeAlias = Iterator[tuple[bytes, Any]]
_Shape: TypeAlias = tuple[bytes, tuple[str, ...], tuple[bytes, ...], int]
_NOTHING: Final = repeat(b"")
_CACHED: Final = 1_024  # shapes or keys remembered; all forgotten when full
_CACHED_BYTES: Final = 1_024  # of one shape's keys
_CACHED_KEY_BYTES: Final = 64
_ONLY_TEXT: Final = frozenset({str})
_shapes: dict[tuple[str, ...], _Shape] = {}


def _encode(value: object) -> bytes:
    out: list[bytes] = []
    put = out.append
    frame: _Frame = iter(((b"", value),))
    stack: list[_Frame] = []
    room = _BLOCK_BYTES  # bounds the walk over lists that are shared or contain themselves
    while True:
        for before, item in frame:
            put(before)
            kind = type(item)
            if kind is str:
                try:
                    text = item.encode()
                except UnicodeEncodeError:
                    raise MalformedBlock(f"a lone surrogate in text: {item!a:.60}") from None
                size = len(text)
                if size < 256:
                    put(_TEXTS[size])
                else:
                    put(_text_head(size))
                    room = _spend(room, size)
                put(text)
            elif kind is CID:
                link = item.bytes
                put(_LINK_36 if len(link) == 36 else _LINK + _head(_BYTES, len(link) + 1) + b"\0")
                put(link)
            elif kind is int:
                put(_INTS[item] if 0 <= item < 256 else _int(item))
            elif kind is bytes:
                room = _spend(room, len(item))
                put(_head(_BYTES, len(item)))
                put(item)
            elif item is None:
                put(b"\xf6")
            elif kind is bool:
                put(b"\xf5" if item else b"\xf4")
            elif kind is float:
                put(_float(item))
            elif kind is dict or kind is list or kind is tuple:
                if len(stack) == _DEPTH:
                    raise LimitExceeded(f"nested deeper than {_DEPTH}")
                stack.append(frame)
                if kind is dict:
                    keys = tuple(item)
                    shape = _shapes.get(keys)
                    if shape is None or {*map(type, keys)} != _ONLY_TEXT:
                        shape = _shape(keys)
                    head, order, befores, weight = shape
                    put(head)
                    frame = zip(befores, map(item.__getitem__, order), strict=False)
                else:
                    weight = len(item)
                    put(_items_head(_LIST, weight))
                    frame = zip(_NOTHING, item, strict=False)
                room = _spend(room, weight)
                break
            else:
                raise MalformedBlock(f"DAG-CBOR holds no {kind.__module__}.{kind.__qualname__}")
        else:
            if not stack:
                break
            frame = stack.pop()
    data = b"".join(out)
    _spend(_BLOCK_BYTES, len(data))
    return data


def _spend(room: int, size: int) -> int:
    if size > room:
        raise LimitExceeded(f"a block of more than {_BLOCK_BYTES} bytes")
    return room - size


def _shape(keys: tuple[str, ...]) -> _Shape:
    """What a map with these keys starts with; its keys in canonical order, plain and encoded.

    Encoded keys sort as the canonical order asks (shorter first, then by bytes), because the head
    that says the length comes first.
    """
    for key in keys:
        if type(key) is not str:
            raise MalformedBlock(f"a map key is text, not {type(key).__qualname__}")
    try:
        pairs = sorted([(_text_head(len(text)) + text, key) for key, text in _encoded(keys)])
    except UnicodeEncodeError as error:
        raise MalformedBlock(f"a lone surrogate in a map key: {error.object!a:.60}") from None
    befores = tuple([before for before, _ in pairs])
    weight = sum(map(len, befores))
    shape = (_items_head(_MAP, len(keys)), tuple([key for _, key in pairs]), befores, weight)
    if weight <= _CACHED_BYTES:
        if len(_shapes) >= _CACHED:
            _shapes.clear()
        _shapes[keys] = shape
    return shape


def _encoded(keys: tuple[str, ...]) -> list[tuple[str, bytes]]:
    return [(key, key.encode()) for key in keys]


def _text_head(size: int) -> bytes:
    if size > _TEXT_BYTES:
        raise LimitExceeded(f"text of {size} bytes; the limit is {_TEXT_BYTES}")
    return _head(_TEXT, size)


def _items_head(major: int, count: int) -> bytes:
    if count > _ITEMS:
        raise LimitExceeded(f"{count} items in one list or map; the limit is {_ITEMS}")
    return _head(major, count)


def _int(number: int) -> bytes:
    if not _INT_MIN <= number <= _INT_MAX:
        raise LimitExceeded(f"an integer outside {_INT_MIN} to {_INT_MAX}")
    return _head(_UINT, number) if number >= 0 else _head(_NINT, ~number)


def _float(number: float) -> bytes:
    if not isfinite(number):
        raise MalformedBlock(f"DAG-CBOR holds no {number}")
    return _FLOAT.pack(0xFB, number)


# The plain-Python decoder: one loop over a stack of the containers that are being filled.

_Open: TypeAlias = tuple[
    Iterator[int], Any, bool, bytes
]  # items to come, container, map?, last key
_ONE: Final = range(1)
_keys: dict[bytes, str] = {}


def _decode(data: bytes) -> Value:
    return _guard(_read, data)


def _guard(read: Callable[[bytes], Result], data: bytes) -> Result:
    _check_block(data)
    try:
        return read(data)
    except IndexError:
        raise _cut() from None
    except UnicodeDecodeError:
        raise MalformedBlock("text that is not UTF-8") from None


def _read(data: bytes) -> Value:
    root: list[Value] = []
    stack: list[_Open] = []
    count, into, is_map, last, key = iter(_ONE), cast("Any", root), False, b"", ""
    value: Any
    pos = 0
    while True:
        for _ in count:
            if is_map:
                head = data[pos]
                end = pos + head - 0x5F if 0x60 <= head < 0x78 else _key_end(data, pos)
                raw = data[pos:end]
                if raw <= last:
                    raise MalformedBlock("map keys out of order, or one key twice")
                last = raw
                key = _keys.get(raw) or _key(raw)
                pos = end
            head = data[pos]
            if head < 0x60:
                if head < 0x18:
                    value = head
                    pos += 1
                elif head < 0x40:
                    value, pos = _integer(data, pos)
                else:
                    size, pos = _argument(data, pos)
                    end = pos + size
                    value = data[pos:end]
                    pos = end
            elif head < 0x80:
                if head < 0x78:
                    pos += 1
                    end = pos + head - 0x60
                else:
                    size, pos = _text_size(data, pos)
                    end = pos + size
                value = data[pos:end].decode()
                pos = end
            elif head < 0xC0:
                if len(stack) == _DEPTH:
                    raise LimitExceeded(f"nested deeper than {_DEPTH}")
                size, pos = _items(data, pos)
                value = {} if head >= 0xA0 else []
                if is_map:
                    into[key] = value
                else:
                    into.append(value)
                stack.append((count, into, is_map, last))
                count, into, is_map, last = iter(range(size)), value, head >= 0xA0, b""
                break
            elif data[pos : pos + 9] in _LINK_HEADS:
                end = pos + 41
                value = from_bytes(data[pos + 5 : end])
                pos = end
            else:
                value, pos = _rare(data, pos)
            if is_map:
                into[key] = value
            else:
                into.append(value)
        else:
            if not stack:
                break
            count, into, is_map, last = stack.pop()
    if pos != len(data):
        raise _cut() if pos > len(data) else MalformedBlock("bytes after the end of the value")
    return root[0]


def _check_block(data: bytes) -> None:
    if type(data) is not bytes:
        raise MalformedBlock(f"a block is bytes, not {type(data).__qualname__}")
    if len(data) > _BLOCK_BYTES:
        raise LimitExceeded(f"a block of {len(data)} bytes; the limit is {_BLOCK_BYTES}")


def _cut() -> MalformedBlock:
    return MalformedBlock("cut short")


def _argument(data: bytes, pos: int) -> tuple[int, int]:
    """Return the argument of the head at `pos`, and where the head ends."""
    low = data[pos] & 0x1F
    pos += 1
    if low < 24:
        return low, pos
    if low == 24:
        argument = data[pos]
        end = pos + 1
        least = 24
    elif low < 28:
        end = pos + (1 << low - 24)
        argument = int.from_bytes(data[pos:end], "big")
        least = _LEAST[low]
        if end > len(data):
            raise _cut()
    else:
        raise MalformedBlock("an indefinite length or a reserved head")
    if argument < least:
        raise MalformedBlock("a head that is longer than it has to be")
    return argument, end


def _integer(data: bytes, pos: int) -> tuple[int, int]:
    argument, end = _argument(data, pos)
    if argument > _INT_MAX:
        raise LimitExceeded(f"an integer outside {_INT_MIN} to {_INT_MAX}")
    return (argument if data[pos] < _NINT else ~argument), end


def _text_size(data: bytes, pos: int) -> tuple[int, int]:
    size, pos = _argument(data, pos)
    if size > _TEXT_BYTES:
        raise LimitExceeded(f"text of {size} bytes; the limit is {_TEXT_BYTES}")
    return size, pos


def _items(data: bytes, pos: int) -> tuple[int, int]:
    count, pos = _argument(data, pos)
    if count > _ITEMS:
        raise LimitExceeded(f"{count} items in one list or map; the limit is {_ITEMS}")
    return count, pos


def _key_end(data: bytes, pos: int) -> int:
    if data[pos] & 0xE0 != _TEXT:
        raise MalformedBlock("a map key that is not text")
    size, pos = _text_size(data, pos)
    return pos + size


def _key(raw: bytes) -> str:
    """Return the key that `raw` encodes, head and all; short ones are remembered."""
    size, start = _argument(raw, 0)
    if len(raw) != start + size:
        raise _cut()
    key = raw[start:].decode()
    if size <= _CACHED_KEY_BYTES:
        if len(_keys) >= _CACHED:
            _keys.clear()
        _keys[raw] = key
    return key


def _rare(data: bytes, pos: int) -> tuple[Value, int]:
    """Read what is neither number, string nor container: constants, floats, uncommon links."""
    head = data[pos]
    if head in _CONSTANTS:
        return _CONSTANTS[head], pos + 1
    if head == 0xFB:
        if pos + 9 > len(data):
            raise _cut()
        number: float = _DOUBLE.unpack_from(data, pos + 1)[0]
        if not isfinite(number):
            raise MalformedBlock(f"DAG-CBOR holds no {number}")
        return number, pos + 9
    if head >= 0xE0:
        raise MalformedBlock(f"DAG-CBOR holds no simple value or short float {head:#x}")
    return _link(data, pos)


def _link(data: bytes, pos: int) -> tuple[CID, int]:
    if data[pos : pos + 2] != _LINK:
        raise MalformedBlock("a tag other than 42, or cut short")
    if data[pos + 2] & 0xE0 != _BYTES:
        raise MalformedBlock("a link that is not a byte string")
    size, start = _argument(data, pos + 2)
    end = start + size
    if end > len(data):
        raise _cut()
    if not size or data[start]:
        raise MalformedBlock("a link that does not start with a zero")
    return from_bytes(data[start + 1 : end]), end


# The scan: what `decode` does, but nothing is built.


def _scan(data: bytes) -> None:
    stack: list[tuple[Iterator[int], bytes | None]] = []
    count: Iterator[int] = iter(_ONE)
    last: bytes | None = None  # the key before, in a map
    pos = 0
    while True:
        for _ in count:
            if last is not None:
                last, pos = _scan_key(data, pos, last)
            head = data[pos]
            if head & 0xC0 != _LIST:
                pos = _skip(data, pos)
                continue
            if len(stack) == _DEPTH:
                raise LimitExceeded(f"nested deeper than {_DEPTH}")
            stack.append((count, last))
            size, pos = _items(data, pos)
            count, last = iter(range(size)), b"" if head >= _MAP else None
            break
        else:
            if not stack:
                break
            count, last = stack.pop()
    if pos != len(data):
        raise MalformedBlock("bytes after the end of the value")


def _scan_key(data: bytes, pos: int, last: bytes) -> tuple[bytes, int]:
    end = _key_end(data, pos)
    if data[pos:end] <= last:
        raise MalformedBlock("map keys out of order, or one key twice")
    return data[pos:end], _skip(data, pos)


def _skip(data: bytes, pos: int) -> int:
    """Return where the value at `pos`, no container, ends; refuse it if `decode` would."""
    head = data[pos]
    if head < _BYTES:
        return _integer(data, pos)[1]
    if head >= 0xC0:
        return _rare(data, pos)[1]
    size, start = _text_size(data, pos) if head >= _TEXT else _argument(data, pos)
    end = start + size
    if end > len(data):
        raise _cut()
    if head >= _TEXT:
        data[start:end].decode()
    return end


# The `cbrrr` back end. It knows no bounds, so `_may_encode` stands before it and `_may_return`
# behind it, and what it refuses is given to the Python back end, which says why.

_DEEP: Final = 4_096  # what it may nest in a block before the depth is looked at: some 300 KB
_CONTAINERS: Final = bytes((*range(0x81, 0x9C), *range(0xA1, 0xBC)))


def _with_cbrrr() -> _Codec:
    """Return the back end over `cbrrr`. Raises `ImportError` where it is not installed."""
    import cbrrr

    read: Callable[..., Any] = cbrrr.decode_dag_cbor
    write: Callable[..., bytes] = cbrrr.encode_dag_cbor

    def encode(value: object) -> bytes:
        if not _may_encode(value):
            return _encode(value)
        try:
            data = write(value, False, CID)
        except Exception:
            return _encode(value)
        return data if len(data) <= _TEXT_BYTES else _encode(value)

    def decode(data: bytes) -> Value:
        _check_block(data)
        if len(data) > _TEXT_BYTES or (len(data) > _DEEP and lists(data) > _DEEP):
            return _decode(data)
        try:
            value = read(data, False, from_bytes)
        except Exception:
            return _decode(data)
        return value if _may_return(value) else _decode(data)

    return _Codec("cbrrr", encode, decode)


def lists(data: bytes) -> int:
    """At least the number of lists and maps that have items in a block, without decoding it.

    They are what decoding takes most of its time for. Bytes that only look like the head of one,
    a fifth of those in keys, signatures and links, count as well.
    """
    return len(data) - len(data.translate(None, _CONTAINERS))


def _may_encode(value: object) -> bool:
    """Whether depth, items, integers and the size to be written are in bounds."""
    level: list[Any] = [(value,)]
    size = 0
    for _ in range(_DEPTH + 1):
        below: list[Any] = []
        for items in level:
            count = len(items)
            if type(items) is dict:
                try:
                    size += len("".join(items))
                except TypeError:
                    return False
                items = items.values()
            size += count
            if count > _ITEMS or size > _BLOCK_BYTES:
                return False
            for item in items:
                kind = type(item)
                if kind is str or kind is bytes:
                    size += len(item)
                elif kind is int:
                    if not _INT_MIN <= item <= _INT_MAX:
                        return False
                elif kind is dict or kind is list:
                    below.append(item)
        if not below:
            return size <= _BLOCK_BYTES
        level = below
    return False


def _may_return(value: object) -> bool:
    """Whether depth, items and integers are in bounds, in a value made from a bounded block."""
    level: list[Any] = [(value,)]
    for _ in range(_DEPTH + 1):
        below: list[Any] = []
        for items in level:
            if len(items) > _ITEMS:
                return False
            for item in items:
                kind = type(item)
                if kind is int:
                    if not _INT_MIN <= item <= _INT_MAX:
                        return False
                elif kind is dict:
                    below.append(item.values())
                elif kind is list:
                    below.append(item)
        if not below:
            return True
        level = below
    return False


@dataclass(frozen=True, slots=True)
class _Codec:
    name: Backend
    encode: Callable[[object], bytes]
    decode: Callable[[bytes], Value]


_PYTHON: Final = _Codec("python", _encode, _decode)
_chosen: _Codec | None = None


def _choose() -> _Codec:
    global _chosen
    try:
        _chosen = _with_cbrrr()
    except ImportError:
        _chosen = _PYTHON
    return _chosen


# DAG-JSON, for people.


def _json_from(value: Any) -> Json:
    if isinstance(value, CID):
        return {"/": str(value)}
    if isinstance(value, bytes):
        return {"/": {"bytes": b64encode(value).decode().rstrip("=")}}
    if isinstance(value, (list, tuple)):
        return [_json_from(item) for item in value]
    if isinstance(value, dict):
        if "/" in value:
            raise MalformedBlock('DAG-JSON has no map with the key "/"')
        return {key: _json_from(item) for key, item in value.items()}
    return cast("Json", value)


def _value_from(form: object, depth: int) -> Value:
    if depth > _DEPTH:
        raise LimitExceeded(f"nested deeper than {_DEPTH}")
    if isinstance(form, dict):
        if "/" in form:
            return _special(form)
        return {key: _value_from(item, depth + 1) for key, item in form.items()}
    if isinstance(form, list):
        return [_value_from(item, depth + 1) for item in form]
    return cast("Value", form)


def _special(form: dict[str, Any]) -> CID | bytes:
    match form:
        case {"/": str(text), **rest} if not rest:
            return CID.parse(text)
        case {"/": {"bytes": str(text), **inner}, **rest} if not rest and not inner:
            try:
                data = b64decode(text + "=" * (-len(text) % 4), validate=True)
            except ValueError:
                data = b""
            if b64encode(data).decode().rstrip("=") == text:
                return data
    raise MalformedBlock(f"not a link or bytes in DAG-JSON: {form!a:.60}")
