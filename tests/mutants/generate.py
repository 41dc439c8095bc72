"""Mutants of a source text: small changes that a test should notice, each of one place.

Left alone is what says nothing about behaviour: annotations, decorators, assertions (they narrow types), docstrings, what a
raised error and a log line say, and f-strings, whose places Python 3.11 does not know.
"""

from __future__ import annotations

import ast
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import accumulate

_COMPARED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_CALLED = {"min": "max", "max": "min", "any": "all", "all": "any", "abs": "float"}
_CALLED |= {"startswith": "endswith", "endswith": "startswith"}
_CALLED |= {"removeprefix": "removesuffix", "removesuffix": "removeprefix"}
_SAYING = frozenset(("fail", "warning", "info", "debug", "plan_error"))
"""Names of calls whose arguments are a text for people."""


@dataclass(frozen=True)
class Mutant:
    """One change of a file.

    Attributes:
        file: path in the repository.
        scope: dotted name of the function or class; empty for the module.
        begin: first byte that is replaced.
        end: the byte after the last.
        before: what is replaced.
        after: what replaces it.
        number: among equal changes in the same scope, from 1.
        lines: first and last line of the statement (of a compound one, of its head).
    """

    file: str
    scope: str
    begin: int
    end: int
    before: str
    after: str
    number: int
    lines: tuple[int, int]

    @property
    def name(self) -> str:
        """What it is called, whatever else of the file is edited."""
        again = f" ({self.number})" if self.number > 1 else ""
        return f"{self.file} {self.scope or 'module'}: {_brief(self.before)} -> {_brief(self.after)}{again}"

    def apply(self, text: str) -> str:
        """The file's text with the change."""
        data = text.encode()
        return (data[: self.begin] + self.after.encode() + data[self.end :]).decode()


def mutants(file: str, text: str) -> list[Mutant]:
    """All mutants of a file, in its order."""
    data = text.encode()
    starts = [0, *accumulate(len(line) for line in data.splitlines(keepends=True))]
    seen: Counter[tuple[str, str, str]] = Counter()
    found = []
    for scope, lines, node, after in _Walk().module(ast.parse(text)):
        begin = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
        before = data[begin:end].decode()
        seen[scope, before, after] += 1
        found.append(Mutant(file, scope, begin, end, before, after, seen[scope, before, after], lines))
    return found


def draw(every: Iterable[Mutant], count: int, seed: str) -> list[Mutant]:
    """So many of them, by the digest of seed and name: an edit elsewhere leaves the others drawn."""
    return sorted(every, key=lambda mutant: hashlib.sha256(f"{seed} {mutant.name}".encode()).digest())[:count]


Found = tuple[str, tuple[int, int], "ast.expr | ast.stmt | ast.keyword", str]
"""Scope, lines of the statement, the node that is replaced, and its replacement."""


class _Walk:
    def module(self, tree: ast.Module) -> Iterator[Found]:
        for statement in tree.body:
            yield from self._statement(statement, "")

    def _statement(self, node: ast.stmt, scope: str) -> Iterator[Found]:
        match node:
            case ast.Import() | ast.ImportFrom() | ast.Assert() | ast.Pass() | ast.Expr(value=ast.Constant()):
                return
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                return
            case ast.Assign(value=ast.Subscript()) if not scope:
                return  # a type's name
            case ast.FunctionDef() | ast.ClassDef():
                scope = f"{scope}.{node.name}" if scope else node.name
        blocks = [
            child
            for field in ("body", "orelse", "finalbody")
            for child in getattr(node, field, [])
            if isinstance(child, ast.stmt)
        ]
        blocks += [child for handler in getattr(node, "handlers", []) for child in handler.body]
        last = min((child.lineno - 1 for child in blocks), default=node.end_lineno or 0)
        lines = (node.lineno, max(node.lineno, last))
        for place, after in self._changed(node):
            yield scope, lines, place, after
        if not isinstance(node, ast.Raise):
            for expression in self._expressions(node):
                for place, after in self._walked(expression):
                    yield scope, lines, place, after
        for child in blocks:
            yield from self._statement(child, scope)

    def _expressions(self, node: ast.stmt) -> list[ast.expr]:
        """What of a statement is computed, apart from the statements inside."""
        match node:
            case ast.FunctionDef():
                return [value for value in (*node.args.defaults, *node.args.kw_defaults) if value is not None]
            case ast.AnnAssign():
                return [node.value] if node.value is not None else []
            case ast.With():
                return [item.context_expr for item in node.items]
            case ast.ClassDef():
                return []
        return [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]

    def _changed(self, node: ast.stmt) -> Iterator[tuple[ast.expr | ast.stmt | ast.keyword, str]]:
        """A statement left out, or its opposite."""
        match node:
            case ast.Return(value=value) if value is not None and not _is_none(value):
                yield value, "None"
            case ast.Expr() | ast.Raise() | ast.AugAssign() | ast.Continue() | ast.Delete():
                yield node, "pass"
            case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
                yield node, "pass"
            case ast.Break():
                yield node, "continue"
            case ast.For():
                yield node.iter, "()"
            case ast.If(test=test) | ast.While(test=test):
                yield from self._negated(test)

    def _negated(self, test: ast.expr) -> Iterator[tuple[ast.expr, str]]:
        if not isinstance(test, ast.Compare | ast.UnaryOp):  # whose own changes say the same
            yield test, f"not ({ast.unparse(test)})"

    def _walked(self, node: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt | ast.keyword, str]]:
        if isinstance(node, ast.JoinedStr):
            return
        if isinstance(node, ast.expr):
            for after in self._expression(node):
                yield node, after
        if isinstance(node, ast.Call):
            if _name(node.func) in _SAYING:
                return
            for keyword in node.keywords:
                if keyword.arg is not None:
                    yield node, ast.unparse(_without(node, keyword))
        if isinstance(node, ast.IfExp):
            yield from self._negated(node.test)
        if isinstance(node, ast.comprehension):
            for test in node.ifs:
                yield test, "True"
        for child in ast.iter_child_nodes(node):
            yield from self._walked(child)

    def _expression(self, node: ast.expr) -> Iterator[str]:
        match node:
            case ast.Compare():
                for place, operator in enumerate(node.ops):
                    for other in _COMPARED[type(operator)]:
                        changed = deepcopy(node)
                        changed.ops[place] = other()
                        yield ast.unparse(changed)
            case ast.BoolOp():
                other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
                yield f"({ast.unparse(ast.BoolOp(other, node.values))})"
                for left_out in node.values if len(node.values) > 2 else ():
                    kept = [value for value in node.values if value is not left_out]
                    yield f"({ast.unparse(ast.BoolOp(node.op, kept))})"
            case ast.BinOp() if type(node.op) in _COMPUTED and not _is_text(node):
                yield f"({ast.unparse(ast.BinOp(node.left, _COMPUTED[type(node.op)](), node.right))})"
            case ast.UnaryOp(op=ast.Not() | ast.USub()):
                yield f"({ast.unparse(node.operand)})"
            case ast.Constant(value=bool(value)):
                yield str(not value)
            case ast.Constant(value=int(value)) | ast.Constant(value=float(value)):
                yield repr(value + 1)
            case ast.Constant(value=str(value)):
                yield repr(f"{value}XX")
            case ast.Call(func=ast.Name(id="sorted")):
                yield f"list({ast.unparse(node.args[0])})"
            case ast.Call(func=function) if _name(function) in _CALLED:
                called = deepcopy(node)
                if isinstance(called.func, ast.Name):
                    called.func.id = _CALLED[called.func.id]
                elif isinstance(called.func, ast.Attribute):
                    called.func.attr = _CALLED[called.func.attr]
                yield ast.unparse(called)


def _without(call: ast.Call, keyword: ast.keyword) -> ast.Call:
    return ast.Call(call.func, call.args, [other for other in call.keywords if other is not keyword])


def _name(function: ast.expr) -> str:
    return getattr(function, "attr", "") or getattr(function, "id", "")


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_text(node: ast.BinOp) -> bool:
    sides = (node.left, node.right)
    return any(isinstance(side, ast.JoinedStr | ast.Constant) and not _is_number(side) for side in sides)


def _is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float)


def _brief(text: str) -> str:
    return " ".join(text.split())
