"""Policies: what a delegation demands of the arguments of an invocation.

A policy is a list of statements, all of which must hold:

    ["==", selector, value]   ["!=", ...]     the same value, deeply; 1 and 1.0 are, 1 and true not
    ["<", selector, number]   <= > >=         numbers only
    ["like", selector, glob]                  text only; * is any text, \\* the star itself
    ["and", [statement...]]   ["or", [...]]   an empty list holds
    ["not", statement]
    ["all", selector, statement]  ["any", ...]  the items of a list or values of a map; none: holds

A link is its text here, in a policy and in arguments: where a command takes a link, clients send
either, and what a policy forbids in one form is not to be had in the other.

A statement whose selector cannot be followed does not hold, `!=` included, so `not` around it does.
What is malformed is refused when the delegation is read; evaluation raises nothing on any data, but
stops (`LimitExceeded`) after a bounded number of steps.

Source: UCAN 1.0 delegation, "Policy".
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from capabilities.ucan1 import selector
from capabilities.ucan1.selector import MISSING, Selector
from stmflow.cid import CID
from stmflow.errors import LimitExceeded, MalformedBlock
from stmflow.limits import LIMITS


class Budget:
    """The steps that evaluation may take: as many as arguments may have bytes.

    One budget serves all policies of a chain. A step is a statement on one value, one value of a
    deep comparison, or 64 letters of text searched for a glob.
    """

    __slots__ = ("left",)

    def __init__(self, steps: int = LIMITS.arguments_bytes) -> None:
        self.left = steps

    def spend(self, steps: int) -> None:
        """Raise `LimitExceeded` when there are not as many left."""
        self.left -= steps
        if self.left < 0:
            raise LimitExceeded("policies that take too many steps on these arguments")


class Statement(Protocol):
    """One statement, parsed."""

    def holds(self, value: Any, budget: Budget) -> bool:
        """Tell whether it holds for `value`."""
        ...


@dataclass(frozen=True, slots=True)
class Policy:
    """The policy of one delegation.

    Attributes:
        plain: the list of statements, as the delegation carries it. Nobody changes it.
        statements: the same, parsed.
    """

    plain: list[Any]
    statements: tuple[Statement, ...]

    def holds(self, arguments: Any, budget: Budget | None = None) -> bool:
        """Tell whether all statements hold. Raises `LimitExceeded` when `budget` is spent."""
        return self.failing(arguments, budget) is None

    def failing(self, arguments: Any, budget: Budget | None = None) -> Any:
        """Return the first statement that does not hold, as it was written, or None."""
        budget = budget or Budget()
        arguments = with_text(arguments) if self.statements else arguments
        for plain, statement in zip(self.plain, self.statements, strict=True):
            if not statement.holds(arguments, budget):
                return plain
        return None


def parse(plain: Any) -> Policy:
    """Return the policy that `plain`, decoded DAG-CBOR, is.

    Raises `MalformedBlock` for anything else, and `LimitExceeded` for more than
    `LIMITS.policy_statements` statements, counting inner ones, deeper than `LIMITS.policy_depth`,
    with longer selectors than `LIMITS.selector_segments` or more stars in one glob than
    `LIMITS.policy_globs`.
    """
    if type(plain) is not list:
        raise MalformedBlock("a policy is a list of statements")
    return Policy(plain, _Parser().statements(plain, 1))


class _Parser:
    """Counts the statements while it parses them."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def statements(self, plain: list[Any], depth: int) -> tuple[Statement, ...]:
        return tuple([self.statement(each, depth) for each in plain])

    def statement(self, plain: Any, depth: int) -> Statement:
        self.count += 1
        if self.count > LIMITS.policy_statements:
            raise LimitExceeded(f"a policy of more than {LIMITS.policy_statements} statements")
        if depth > LIMITS.policy_depth:
            raise LimitExceeded(f"a policy deeper than {LIMITS.policy_depth} statements")
        match plain:
            case ["==" | "!=" as name, path, value]:
                return Equal(selector.parse(path), with_text(value), name == "==")
            case ["<" | "<=" | ">" | ">=" as name, path, int() | float() as number] if (
                type(number) is not bool
            ):
                return Ordered(selector.parse(path), name, _ORDERS[name], number)
            case ["like", path, str() as glob]:
                return Like(selector.parse(path), _pieces(glob))
            case ["and" | "or" as name, list() as parts]:
                return Joined(self.statements(parts, depth + 1), name == "and")
            case ["not", part]:
                return Not(self.statement(part, depth + 1))
            case ["all" | "any" as name, path, part]:
                return Each(selector.parse(path), self.statement(part, depth + 1), name == "all")
        name = plain[0] if type(plain) is list and plain and type(plain[0]) is str else "?"
        raise MalformedBlock(f"not a statement of a policy, or not in the form of {name!a:.40}")


@dataclass(frozen=True, slots=True)
class Equal:
    """`==`, and `!=` where `same` is false."""

    selector: Selector
    value: Any
    same: bool

    def holds(self, value: Any, budget: Budget) -> bool:
        budget.spend(1)
        found = self.selector.resolve(value)
        return found is not MISSING and equal(found, self.value, budget) is self.same


@dataclass(frozen=True, slots=True)
class Ordered:
    """The four inequalities."""

    selector: Selector
    name: str
    holds_between: Callable[[Any, Any], bool]
    number: int | float

    def holds(self, value: Any, budget: Budget) -> bool:
        budget.spend(1)
        found = self.selector.resolve(value)
        return type(found) in (int, float) and self.holds_between(found, self.number)


@dataclass(frozen=True, slots=True)
class Like:
    """`like`; the pieces of the glob stand between its stars."""

    selector: Selector
    pieces: tuple[str, ...]

    def holds(self, value: Any, budget: Budget) -> bool:
        found = self.selector.resolve(value)
        if type(found) is not str:
            budget.spend(1)
            return False
        budget.spend(1 + len(found) // 64)
        return matches(found, self.pieces)


@dataclass(frozen=True, slots=True)
class Joined:
    """`and`, and `or` where `every` is false."""

    parts: tuple[Statement, ...]
    every: bool

    def holds(self, value: Any, budget: Budget) -> bool:
        budget.spend(1)
        results = (part.holds(value, budget) for part in self.parts)
        return all(results) if self.every else not self.parts or any(results)


@dataclass(frozen=True, slots=True)
class Not:
    """`not`."""

    part: Statement

    def holds(self, value: Any, budget: Budget) -> bool:
        budget.spend(1)
        return not self.part.holds(value, budget)


@dataclass(frozen=True, slots=True)
class Each:
    """`all`, and `any` where `every` is false."""

    selector: Selector
    part: Statement
    every: bool

    def holds(self, value: Any, budget: Budget) -> bool:
        budget.spend(1)
        found = self.selector.resolve(value)
        if type(found) is dict:
            found = list(found.values())
        if type(found) is not list:
            return False
        results = (self.part.holds(item, budget) for item in found)
        return all(results) if self.every else not found or any(results)


_ORDERS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def equal(one: Any, other: Any, budget: Budget) -> bool:
    """Tell whether two values of the data model are the same; numbers count by value alone.

    Python's `==` says so but for taking true for 1, hence the second look at what it finds equal.
    """
    if one != other:
        return False
    stack = [(one, other)]
    while stack:
        one, other = stack.pop()
        budget.spend(1)
        if type(one) is dict:
            stack.extend([(value, other[key]) for key, value in one.items()])
        elif type(one) is list:
            stack.extend(zip(one, other, strict=True))
        elif (type(one) is bool) is not (type(other) is bool):
            return False
    return True


def with_text(value: Any) -> Any:
    """The value with the text of each link in its place."""
    kind = type(value)
    if kind is dict:
        return {key: with_text(item) for key, item in value.items()}
    if kind is list:
        return [with_text(item) for item in value]
    return str(value) if kind is CID else value


def _pieces(glob: str) -> tuple[str, ...]:
    pieces = _STAR.split(glob)
    if len(pieces) - 1 > LIMITS.policy_globs:
        raise LimitExceeded(f"a glob of more than {LIMITS.policy_globs} stars")
    return tuple([piece.replace(r"\*", "*") for piece in pieces])


_STAR: Final = re.compile(r"(?<!\\)\*")  # a backslash is itself, but before a star


def matches(text: str, pieces: Sequence[str]) -> bool:
    """Tell whether `text` is the pieces in this order, with any text between them.

    Each piece is taken where it comes first: nothing is ever tried again, so one pass is enough.
    """
    first, *inner = pieces
    if not inner:
        return text == first
    last = inner.pop()
    end = len(text) - len(last)
    start = len(first)
    if start > end or not text.startswith(first) or not text.endswith(last):
        return False
    for piece in inner:
        start = text.find(piece, start, end)
        if start < 0:
            return False
        start += len(piece)
    return True
