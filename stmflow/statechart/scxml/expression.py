"""Expressions of an SCXML document: a small, total part of ECMAScript, parsed here, never `eval`ed.

Literals, arrays and objects, variables, `a.b`, `a[b]`, `.length`, `.concat(…)`, `.indexOf(…)`,
`In('state')`, `! - + typeof`, `* / % + -`, comparisons, `in`, `instanceof Array`, `& |`,
`&& || ?:`.
No assignment, no functions, no loops: an expression ends after as many steps as it has signs.

Values are plain IPLD data; whole numbers stay whole. Arrays and objects are values: equal if they
hold the same, while ECMAScript would compare identities.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from stmflow.limits import LIMITS


class _Undefined:
    def __repr__(self) -> str:
        return "undefined"


UNDEFINED: Final = _Undefined()


class ExpressionError(Exception):
    """An expression that is not understood, or that has no value."""


class Scope(NamedTuple):
    """What an expression sees: variables by name, and the names of the active states."""

    variables: Mapping[str, Any]
    active: frozenset[str]


Compiled = Callable[[Scope], Any]

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)
    |(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |(?P<name>[A-Za-z_$][\w$]*)
    |(?P<sign>===|!==|==|!=|<=|>=|&&|\|\||[-+*/%<>!?:.,()\[\]{}|&])
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "0": "\0"}
_LITERALS: Final = {"true": True, "false": False, "null": None, "undefined": UNDEFINED}
_LEVELS: Final = ("||", "&&", "|", "&", "== != === !==", "< > <= >= in instanceof", "+ -", "* / %")
_BINARY: Final = {
    operator: level for level, all in enumerate(_LEVELS, start=1) for operator in all.split()
}
_RESERVED: Final = frozenset(
    {
        *("return", "new", "function", "var", "let", "const", "if", "else", "for", "while", "do"),
        *("switch", "case", "break", "continue", "throw", "try", "catch", "finally", "delete"),
        *("void", "this", "class", "with"),
    }
)


def compiled(text: str) -> Compiled:
    """The expression as a function of a scope, which raises ExpressionError where it has no value.

    Raises:
        ExpressionError: it is not of this language.
    """
    parser = _Parser(text)
    node = parser.expression(0)
    if parser.sign is not None:
        raise ExpressionError(f"{text!r}: {parser.sign!r} is not expected")
    return node


def truth(value: Any) -> bool:
    """What ECMAScript takes a value for: an array or object for true, empty or not."""
    return bool(value) or isinstance(value, (list, dict)) if value is not UNDEFINED else False


def stored(value: Any) -> Any:
    """A value without what is undefined inside it."""
    if isinstance(value, dict):
        return {key: stored(one) for key, one in value.items() if one is not UNDEFINED}
    return [stored(one) for one in value] if isinstance(value, list) else value


class _Parser:
    """By precedence, one sign ahead."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.depth = 0
        self._tokens = _tokens(text)
        self.kind: str | None = None
        self.sign: str | None = None
        self._next()

    def _next(self) -> str:
        last = self.sign
        self.kind, self.sign = next(self._tokens, (None, None))
        return last or ""

    def _expect(self, sign: str) -> None:
        if self.kind != "sign" or self.sign != sign:
            raise ExpressionError(f"{self.text!r}: {sign!r} is missing")
        self._next()

    def _take(self, sign: str) -> bool:
        taken = self.kind == "sign" and self.sign == sign
        if taken:
            self._next()
        return taken

    def expression(self, least: int) -> Compiled:
        self.depth += 1
        if self.depth > LIMITS.depth:
            raise ExpressionError(f"an expression deeper than {LIMITS.depth}")
        left = self._unary()
        while self.kind in ("sign", "name") and _BINARY.get(self.sign or "", 0) > least:
            operator = self._next()
            left = _binary(operator, left, self.expression(_BINARY[operator]))
        if least == 0 and self._take("?"):
            left = self._choice(left)
        self.depth -= 1
        return left

    def _choice(self, when: Compiled) -> Compiled:
        yes = self.expression(0)
        self._expect(":")
        no = self.expression(0)
        return lambda scope: yes(scope) if truth(when(scope)) else no(scope)

    def _unary(self) -> Compiled:
        for sign in ("!", "-", "+"):
            if self._take(sign):
                return _prefixed(sign, self._deeper())
        if self.kind == "name" and self.sign == "typeof":
            self._next()
            return _typeof(self._deeper())
        return self._postfix(self._primary())

    def _deeper(self) -> Compiled:
        self.depth += 1
        if self.depth > LIMITS.depth:
            raise ExpressionError(f"an expression deeper than {LIMITS.depth}")
        operand = self._unary()
        self.depth -= 1
        return operand

    def _primary(self) -> Compiled:
        kind, sign = self.kind, self.sign
        if kind == "number":
            return _constant(_number(self._next()))
        if kind == "string":
            return _constant(_string(self._next()))
        if kind == "name":
            return self._named(self._next())
        if self._take("("):
            inner = self.expression(0)
            self._expect(")")
            return inner
        if self._take("["):
            items = self._list("]")
            return lambda scope: [_kept(item(scope)) for item in items]
        if self._take("{"):
            return self._object()
        raise ExpressionError(f"{self.text!r}: {sign or 'its end'} is not expected")

    def _named(self, name: str) -> Compiled:
        if name in _RESERVED or name in _BINARY:
            raise ExpressionError(f"{self.text!r}: {name} is not understood")
        if name in _LITERALS:
            return _constant(_LITERALS[name])
        if name == "In" and self._take("("):
            (state,) = self._list(")") or (None,)
            if state is None:
                raise ExpressionError(f"{self.text!r}: In needs the name of a state")
            asked = state
            return lambda scope: asked(scope) in scope.active
        return _variable(name)

    def _postfix(self, node: Compiled) -> Compiled:
        while True:
            if self._take("."):
                if self.kind != "name":
                    raise ExpressionError(f"{self.text!r}: a name is missing")
                name = self._next()
                if self._take("("):
                    node = _method(node, name, self._list(")"))
                else:
                    node = _member(node, _constant(name))
            elif self._take("["):
                node = _member(node, self.expression(0))
                self._expect("]")
            else:
                return node

    def _list(self, end: str) -> list[Compiled]:
        items: list[Compiled] = []
        while not self._take(end):
            if items:
                self._expect(",")
            items.append(self.expression(0))
        return items

    def _object(self) -> Compiled:
        pairs: dict[str, Compiled] = {}
        while not self._take("}"):
            if pairs:
                self._expect(",")
            if self.kind not in ("name", "string"):
                raise ExpressionError(f"{self.text!r}: a key is missing")
            quoted = self.kind == "string"
            key = self._next()
            self._expect(":")
            pairs[_string(key) if quoted else key] = self.expression(0)
        return lambda scope: {key: _kept(value(scope)) for key, value in pairs.items()}


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    at, text = 0, text.rstrip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise ExpressionError(f"{text!r}: {text[at:].strip()[:1]!r} is not understood")
        yield str(found.lastgroup), found[str(found.lastgroup)]
        at = found.end()


def _number(text: str) -> int | float:
    return int(text) if text.isdigit() else float(text)


def _string(text: str) -> str:
    return re.sub(r"\\(.)", lambda one: _ESCAPES.get(one[1], one[1]), text[1:-1], flags=re.DOTALL)


# --- what the parts come to -----------------------------------------------------------------------


def _constant(value: Any) -> Compiled:
    return lambda scope: value


def _variable(name: str) -> Compiled:
    def variable(scope: Scope) -> Any:
        if name not in scope.variables:
            raise ExpressionError(f"{name} is not declared")
        return scope.variables[name]

    variable.name = name  # type: ignore[attr-defined]
    return variable


def _typeof(of: Compiled) -> Compiled:
    def typeof(scope: Scope) -> str:
        name = getattr(of, "name", None)
        value = UNDEFINED if name is not None and name not in scope.variables else of(scope)
        if value is UNDEFINED:
            return "undefined"
        if isinstance(value, bool):
            return "boolean"
        return {int: "number", float: "number", str: "string"}.get(type(value), "object")

    return typeof


def _prefixed(sign: str, of: Compiled) -> Compiled:
    if sign == "!":
        return lambda scope: not truth(of(scope))
    return lambda scope: _bounded(-_numeric(of(scope)) if sign == "-" else _numeric(of(scope)))


def _member(of: Compiled, key: Compiled) -> Compiled:
    def member(scope: Scope) -> Any:
        value, name = of(scope), key(scope)
        if isinstance(value, dict):
            return value.get(name, UNDEFINED) if isinstance(name, str) else UNDEFINED
        if isinstance(value, (list, str)):
            if name == "length":
                return len(value)
            fits = type(name) is int and 0 <= name < len(value)
            return value[name] if fits else UNDEFINED
        raise ExpressionError(f"{_shown(value)} has no {name!r}")

    return member


def _method(of: Compiled, name: str, given: list[Compiled]) -> Compiled:
    def method(scope: Scope) -> Any:
        value, arguments = of(scope), [one(scope) for one in given]
        if name == "concat" and isinstance(value, list):
            joined = list(value)
            for one in arguments:
                joined += one if isinstance(one, list) else [_kept(one)]
            return _bounded(joined)
        if name == "indexOf" and isinstance(value, (list, str)) and len(arguments) == 1:
            if isinstance(value, str):
                return value.find(_text(arguments[0]))
            return next((n for n, one in enumerate(value) if _same(one, arguments[0])), -1)
        raise ExpressionError(f"{_shown(value)} has no method {name!r}")

    return method


def _binary(operator: str, left: Compiled, right: Compiled) -> Compiled:
    if operator == "&&":
        return lambda scope: right(scope) if truth(value := left(scope)) else value
    if operator == "||":
        return lambda scope: value if truth(value := left(scope)) else right(scope)
    if operator == "instanceof":
        if getattr(right, "name", None) != "Array":
            raise ExpressionError("instanceof is understood of Array alone")
        return lambda scope: isinstance(left(scope), list)
    act = _OPERATORS[operator]
    return lambda scope: act(left(scope), right(scope))


def _same(one: Any, other: Any) -> bool:
    """`===`: a number is no boolean."""
    if isinstance(one, bool) is not isinstance(other, bool):
        return False
    return bool(stored(one) == stored(other)) if one is not UNDEFINED else other is UNDEFINED


def _alike(one: Any, other: Any) -> bool:
    """`==`: null is undefined, and a text or boolean is compared as a number with one."""
    nothing = (None, UNDEFINED)
    if any(one is n for n in nothing) or any(other is n for n in nothing):
        return any(one is n for n in nothing) and any(other is n for n in nothing)
    if isinstance(one, str) and isinstance(other, str):
        return one == other
    if any(isinstance(value, (list, dict)) for value in (one, other)):
        return bool(stored(one) == stored(other))
    try:
        return bool(_numeric(one) == _numeric(other))
    except ExpressionError:
        return False


def _less(one: Any, other: Any) -> bool:
    if isinstance(one, str) and isinstance(other, str):
        return one < other
    return bool(_numeric(one) < _numeric(other))


def _plus(one: Any, other: Any) -> Any:
    if isinstance(one, str) or isinstance(other, str):
        return _bounded(_text(one) + _text(other))
    return _bounded(_numeric(one) + _numeric(other))


def _divided(one: Any, other: Any) -> Any:
    upper, lower = _numeric(one), _numeric(other)
    if lower == 0:
        raise ExpressionError("division by zero")
    if isinstance(upper, int) and isinstance(lower, int) and upper % lower == 0:
        return upper // lower
    return _bounded(upper / lower)


def _rest(one: Any, other: Any) -> Any:
    upper, lower = _numeric(one), _numeric(other)
    if lower == 0:
        raise ExpressionError("division by zero")
    rest = abs(upper) % abs(lower)
    return -rest if upper < 0 else rest


def _within(one: Any, other: Any) -> bool:
    if isinstance(other, dict):
        return _text(one) in other
    if isinstance(other, list):
        return type(one) is int and 0 <= one < len(other)
    raise ExpressionError(f"nothing is in {_shown(other)}")


_OPERATORS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "===": _same,
    "!==": lambda one, other: not _same(one, other),
    "==": _alike,
    "!=": lambda one, other: not _alike(one, other),
    "<": _less,
    ">": lambda one, other: _less(other, one),
    "<=": lambda one, other: _less(one, other) or _alike(one, other),
    ">=": lambda one, other: _less(other, one) or _alike(one, other),
    "+": _plus,
    "-": lambda one, other: _bounded(_numeric(one) - _numeric(other)),
    "*": lambda one, other: _bounded(_numeric(one) * _numeric(other)),
    "/": _divided,
    "%": _rest,
    "|": lambda one, other: _whole(one) | _whole(other),
    "&": lambda one, other: _whole(one) & _whole(other),
    "in": _within,
}


def _numeric(value: Any) -> int | float:
    if isinstance(value, (bool, int)):
        return int(value)
    if isinstance(value, float):
        return value
    if value is None:
        return 0
    if isinstance(value, str):
        try:
            return _number(value.strip() or "0")
        except ValueError:
            pass
    raise ExpressionError(f"{_shown(value)} is not a number")


def _whole(value: Any) -> int:
    number = _numeric(value)
    if number != int(number):
        raise ExpressionError(f"{_shown(value)} is not whole")
    return int(number)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is UNDEFINED or value is None:
        return "undefined" if value is UNDEFINED else "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(int(value)) if value == int(value) else str(value)
    raise ExpressionError(f"{_shown(value)} is not a text")


def _kept(value: Any) -> Any:
    """What an array or object holds in the place of undefined."""
    return None if value is UNDEFINED else value


def _bounded(value: Any) -> Any:
    """A value that can be stored."""
    if isinstance(value, int) and not LIMITS.int_min <= value <= LIMITS.int_max:
        raise ExpressionError("an integer out of bounds")
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        raise ExpressionError("a number out of bounds")
    if isinstance(value, str) and len(value.encode()) > LIMITS.text_bytes:
        raise ExpressionError(f"a text of more than {LIMITS.text_bytes} bytes")
    if isinstance(value, list) and len(value) > LIMITS.items:
        raise ExpressionError(f"more than {LIMITS.items} items")
    return value


def _shown(value: Any) -> str:
    return repr(value)[:40]
