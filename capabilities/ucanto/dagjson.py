"""DAG-JSON as `@ipld/dag-json` prints it: the text under the signatures of ucanto's tokens.

No white space; keys in the order of their UTF-16 code units; links `{"/":"b..."}`, bytes
`{"/":{"bytes":"<base64 without padding>"}}`; numbers as JavaScript prints them, with `.0` behind a
large one that would read as an integer.

One text stands for one value here, or a signature would fit several blocks. So three things are
refused that JavaScript prints like something else: a map with the key `/`, a float that is a safe
integer (it prints `5.0` and `5` alike), and an integer past 2**53 - 1.

Sources: ipld.io/specs/codecs/dag-json/spec, ECMA-262 section 6.1.6.1.20 (Number::toString).
"""

from __future__ import annotations

from base64 import b64encode
from json.encoder import encode_basestring as quote
from typing import Any, Final

from stmflow import codec
from stmflow.cid import CID
from stmflow.errors import LimitExceeded, MalformedBlock
from stmflow.limits import LIMITS

__all__ = ["encode", "quote", "text"]

_INT_MAX: Final = LIMITS.ucan_int_max
_DEPTH: Final = LIMITS.depth


def encode(value: object) -> bytes:
    """Return `value` as DAG-JSON. Raises `MalformedBlock` or `LimitExceeded`."""
    codec.encode(value)
    return text(value).encode()


def text(value: Any, depth: int = 0) -> str:
    """Return `value`, which the codec has decoded or encoded, as text; its size is not bounded."""
    kind = type(value)
    if kind is str:
        return quote(value)
    if kind is int:
        if -_INT_MAX <= value <= _INT_MAX:
            return str(value)
        raise LimitExceeded(f"an integer outside {-_INT_MAX} to {_INT_MAX}")
    if kind is CID:
        return f'{{"/":"{value}"}}'
    if kind is dict:
        depth = _deeper(depth)
        pairs = [f"{quote(key)}:{text(value[key], depth)}" for key in _ordered(value)]
        return f"{{{','.join(pairs)}}}"
    if kind is list or kind is tuple:
        depth = _deeper(depth)
        return f"[{','.join([text(item, depth) for item in value])}]"
    if kind is bytes:
        return f'{{"/":{{"bytes":"{b64encode(value).decode().rstrip("=")}"}}}}'
    if value is None:
        return "null"
    if kind is bool:
        return "true" if value else "false"
    if kind is float:
        return _float(value)
    raise MalformedBlock(f"DAG-JSON holds no {kind.__module__}.{kind.__qualname__}")


def _deeper(depth: int) -> int:
    if depth == _DEPTH:
        raise LimitExceeded(f"nested deeper than {_DEPTH}")
    return depth + 1


def _ordered(keyed: dict[str, Any]) -> list[str]:
    if "/" in keyed:
        raise MalformedBlock('DAG-JSON has no map with the key "/"')
    if all(map(str.isascii, keyed)):
        return sorted(keyed)
    return sorted(keyed, key=lambda key: key.encode("utf-16-be"))


def _float(number: float) -> str:
    """As JavaScript: the shortest digits that read back the same, laid out by the exponent."""
    if number.is_integer() and abs(number) <= _INT_MAX:
        raise MalformedBlock(f"{number!r} in a signed token: JavaScript writes it as an integer")
    mantissa, _, exponent = repr(abs(number)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(digits) - len(fraction) + int(exponent or 0)
    digits = digits.rstrip("0")
    sign = "-" if number < 0 else ""
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    if 0 < point <= 21:
        return f"{sign}{digits[:point].ljust(point, '0')}.{digits[point:] or '0'}"
    rest = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{rest}e{point - 1:+d}"
