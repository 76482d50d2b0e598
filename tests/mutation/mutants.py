"""The faults that are planted, as changes of a syntax tree.

After the usual operators (Offutt et al., *An experimental determination of sufficient mutant
operators*, TOSEM 5(2), 1996): comparisons, connectives, arithmetic and constants are exchanged,
statements and operands left out, conditions fixed, results dropped.

Left alone is what no test should depend on: annotations, docstrings, the words of messages,
decorators, and assertions (an invariant that holds cannot be seen to be checked).
"""

from __future__ import annotations

import ast
import copy
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

EXCHANGED: dict[type[ast.AST], tuple[type[Any], ...]] = {
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.FloorDiv,),
    ast.FloorDiv: (ast.Mult,),
    ast.Div: (ast.Mult,),
    ast.Mod: (ast.Add,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.LShift: (ast.RShift,),
    ast.RShift: (ast.LShift,),
}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}
TOLD = {"debug", "info", "warning", "error", "exception", "critical"}
"""Methods of a logger: what they say is for people."""

Field = tuple[str, int | None]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault: at `parent.field` (at the index) stands `new`."""

    kind: str
    line: int
    end: int
    within: str
    function: ast.AST
    parent: ast.AST
    field: Field
    new: Any

    def plant(self) -> None:
        """Change the tree."""
        name, index = self.field
        if index is None:
            setattr(self.parent, name, self.new)
        else:
            getattr(self.parent, name)[index] = self.new
        ast.fix_missing_locations(self.function)

    def diff(self) -> str:
        """The lines of the function that are different, without their indent; plants nothing."""
        name, index = self.field
        held = getattr(self.parent, name)
        old = held if index is None else held[index]
        before = ast.unparse(self.function)
        self.plant()
        after = ast.unparse(self.function)
        if index is None:
            setattr(self.parent, name, old)
        else:
            held[index] = old
        lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
        return "\n".join(
            f"{line[0]} {line[1:].strip()}"
            for line in lines
            if line[0] in "+-" and not line.startswith(("+++", "---"))
        )


def mutants(tree: ast.Module) -> list[Mutant]:
    """All faults that can be planted in a module, in the order of its text."""
    return list(_below(tree, tree, "", tree))


def _below(node: ast.AST, function: ast.AST, within: str, owner: ast.AST) -> Iterator[Mutant]:
    for name, value in ast.iter_fields(node):
        if _left_alone(node, name):
            continue
        parts = enumerate(value) if isinstance(value, list) else [(None, value)]
        for index, part in parts:
            if not isinstance(part, ast.AST) or _no_code(part):
                continue
            inside, here = function, within
            if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                here = f"{within}.{part.name}" if within else part.name
                inside = part
            elif function is owner and isinstance(part, ast.stmt):
                inside = part
            if isinstance(part, ast.stmt | ast.expr):
                line, end = part.lineno, part.end_lineno or part.lineno
            else:
                line = end = 0
            for kind, new in _changes(part, node, name):
                at = line or getattr(node, "lineno", 0)
                last = end or getattr(node, "end_lineno", at)
                yield Mutant(kind, at, last, here, inside, node, (name, index), new)
            yield from _below(part, inside, here, owner)


def _left_alone(node: ast.AST, field: str) -> bool:
    return field in ("annotation", "returns", "decorator_list", "type_params", "bases")


def _no_code(node: ast.AST) -> bool:
    match node:
        case ast.Import() | ast.ImportFrom() | ast.Assert() | ast.JoinedStr() | ast.Global():
            return True
        case ast.Expr(value=ast.Constant()):  # a docstring
            return True
        case ast.Assign(targets=[ast.Name(id="__all__" | "__slots__")]):
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id="log"), attr=told))):
            return told in TOLD
        case ast.FunctionDef(name="__repr__" | "__str__"):
            return True
        case ast.Subscript(value=ast.Name(id="Callable" | "Mapping")):  # a type
            return True
        case ast.Call(func=ast.Name(id="Final" | "TypeVar" | "NewType" | "cast")):
            return True
    return False


def _changes(node: ast.AST, parent: ast.AST, field: str) -> Iterator[tuple[str, Any]]:
    """What may stand in the place of a node."""
    match node:
        case ast.cmpop() | ast.boolop() | ast.operator():
            if type(node) in EXCHANGED and not _typing(parent):
                yield from (("operator", other()) for other in EXCHANGED[type(node)])
        case ast.BoolOp(values=values) if len(values) == 2:
            yield from (("operand", copy.deepcopy(value)) for value in values)
        case ast.BoolOp(op=op, values=values):
            for left_out in range(len(values)):
                rest = [copy.deepcopy(v) for n, v in enumerate(values) if n != left_out]
                yield "operand", ast.BoolOp(op, rest)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield "not", copy.deepcopy(operand)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            yield "sign", copy.deepcopy(operand)
        case ast.Constant(value=bool(value)):
            yield "constant", ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield "constant", ast.Constant(value + 1)
        case ast.Constant(value=str(value)) if not _message(parent):
            yield "text", ast.Constant(f"{value}~")
        case ast.Name(id=name) if name in NAMES and field == "func":
            yield "name", ast.Name(NAMES[name], ast.Load())
        case ast.Return(value=value) if value is not None and not _none(value):
            yield "result", ast.Return(ast.Constant(None))
        case ast.Break():
            yield "jump", ast.Continue()
        case ast.Continue():
            yield "jump", ast.Break()
        case ast.Raise() | ast.Expr() | ast.AugAssign() | ast.Delete():
            yield "left out", ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield "left out", ast.Pass()
        case ast.Slice(lower=lower, upper=upper):
            yield from ([("slice", ast.Slice(None, upper))] if lower else [])
            yield from ([("slice", ast.Slice(lower, None))] if upper else [])
        case ast.ExceptHandler(type=caught, name=name, body=body) if not _raises(body):
            yield "handler", ast.ExceptHandler(caught, name, [ast.Raise()])
    if field in ("test", "guard") and isinstance(node, ast.expr) and not _loop(node, parent):
        for value in (True, False):
            yield "condition", ast.Constant(value)
    if isinstance(parent, ast.comprehension) and field == "ifs":
        yield "condition", ast.Constant(True)


def _message(parent: ast.AST) -> bool:
    """The words of an error: a call of what begins like a class."""
    match parent:
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            return name[:1].isupper() or name in TOLD
    return False


def _typing(parent: ast.AST) -> bool:
    """`X | None` at the level of types."""
    match parent:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return any(
                isinstance(one, ast.Name) and (one.id[:1].isupper() or one.id in ("int", "str"))
                for one in (left, right)
            ) or any(_none(one) for one in (left, right))
    return False


def _none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _raises(body: list[ast.stmt]) -> bool:
    return isinstance(body[-1], ast.Raise)


def _loop(node: ast.AST, parent: ast.AST) -> bool:
    """`while True`."""
    return isinstance(parent, ast.While) and isinstance(node, ast.Constant)
