"""Mutants of a Python module: one thing in it changed, or a statement struck out."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

import attrs

_COMPARED: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_SUMS: Final[dict[type[ast.operator], type[ast.operator]]] = {ast.Add: ast.Sub, ast.Sub: ast.Add}
_EXTREMES: Final = {"min": "max", "max": "min", "any": "all", "all": "any"}


@attrs.frozen
class Mutant:
    """A module that is another in one place.

    Args:
        module: Its name, with dots.
        line: Which line, from 1.
        before: What stood there.
        after: What stands there now; `pass` where it was struck out.
        tree: All of it.
    """

    module: str
    line: int
    before: str
    after: str
    tree: ast.Module = attrs.field(eq=False, repr=False)

    def __str__(self) -> str:
        return f"{self.module}:{self.line}: {self.before!r} -> {self.after!r}"


def mutants(module: str, source: str) -> Iterator[Mutant]:
    """All mutants of what the functions of a module do, in the order of its lines."""
    for number in range(len(_places(ast.parse(source)))):
        tree = ast.parse(source)  # one of its own, which is changed
        place = _places(tree)[number]
        before, after = _first_line(place.node), _first_line(place.other)
        place.change()
        yield Mutant(module, place.line, before, after, ast.fix_missing_locations(tree))


def _first_line(node: ast.AST) -> str:
    return ast.unparse(node).split("\n", 1)[0]


@attrs.frozen
class _Place:
    """Where a node stands, and what may stand there in its place."""

    parent: ast.AST
    field: str
    index: int | None
    node: ast.expr | ast.stmt
    other: ast.expr | ast.stmt

    @property
    def line(self) -> int:
        return self.node.lineno

    def change(self) -> None:
        if self.index is None:
            setattr(self.parent, self.field, self.other)
        else:
            getattr(self.parent, self.field)[self.index] = self.other


_Functions = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


def _places(tree: ast.Module) -> list[_Place]:
    found: list[_Place] = []
    _look(tree, found, is_inside=False)
    return sorted(found, key=lambda place: place.line)


def _look(parent: ast.AST, found: list[_Place], *, is_inside: bool) -> None:
    """Find the places below a node: inside functions, and in nothing that is for readers or type checkers."""
    for field, value in ast.iter_fields(parent):
        if field in ("decorator_list", "annotation", "returns", "args") and isinstance(
            parent, _Functions | ast.AnnAssign | ast.arg
        ):
            continue
        for index, node in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(node, ast.AST) or isinstance(node, ast.JoinedStr | ast.Raise | ast.pattern):
                continue
            if is_inside and isinstance(node, ast.expr | ast.stmt) and not _is_told(node):
                place = index if isinstance(value, list) else None
                found.extend(_Place(parent, field, place, node, other) for other in _others(node))
            if not _is_told(node):
                _look(node, found, is_inside=is_inside or isinstance(node, _Functions))


def _is_told(node: ast.AST) -> bool:
    """Whether a statement is a docstring, or says to type checkers that a place is never reached."""
    if not isinstance(node, ast.Expr):
        return False
    value = node.value
    is_never = isinstance(value, ast.Call) and ast.unparse(value.func) == "assert_never"
    return isinstance(value, ast.Constant) or is_never


def _others(node: ast.expr | ast.stmt) -> Iterator[ast.expr | ast.stmt]:
    """What may stand in the place of a node."""
    match node:
        case ast.Compare(left=left, ops=[op], comparators=comparators) if type(op) in _COMPARED:
            yield ast.Compare(left, [_COMPARED[type(op)]()], comparators)
        case ast.BoolOp(op=op, values=values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield operand
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield ast.Constant(value + 1)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _SUMS:
            yield ast.BinOp(left, _SUMS[type(op)](), right)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=keywords) if name in _EXTREMES:
            yield ast.Call(ast.Name(_EXTREMES[name], ast.Load()), arguments, keywords)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield ast.IfExp(test, orelse, body)
        case ast.If(test=ast.Name() | ast.Call() | ast.Attribute() as test, body=body, orelse=orelse):
            yield ast.If(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.Expr(value=ast.Call() | ast.Await()) | ast.AugAssign() | ast.Delete():
            yield ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield ast.Pass()
