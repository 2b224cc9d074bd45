"""What a mutant is: one small change of a function, put into the module that is already loaded."""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult},
    **{ast.Pow: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult},
    **{ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And},
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt},
    **{ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is},
}
NAMES = {"minimum": "maximum", "min": "max", "relu": "below", "low": "high", "any": "all"}
NAMES |= {new: old for old, new in NAMES.items()} | {"add": "subtract", "subtract": "add"}
"""One replacement of each."""
BOUNDS = {"low": "value", "high": "value"}
"""Bounds that may be mistaken for what they are bounds of."""
TERMS = {"add", "subtract", "minimum", "maximum"}
"""Methods of two arguments, whose second may be forgotten."""


@dataclass(frozen=True)
class Mutant:
    """One change of one file."""

    file: Path
    place: int
    """Which of the nodes that can be changed."""
    way: int
    """Which of its changes."""
    line: int
    stop: int
    """The lines of the statement that is changed."""
    name: str
    """The module, the function, the change in words, and which of several alike."""
    key: str
    """The same for as long as the function's text is."""

    def make(self) -> ast.Module:
        """The changed module."""
        tree = ast.parse(self.file.read_text(encoding="utf-8"))
        site = _sites(tree)[self.place]
        list(_changes(site.node))[self.way]()
        return ast.fix_missing_locations(tree)

    def install(self) -> None:
        """Puts the change into the loaded module and all that imported from it.

        Functions keep their identity and get other code; numbers are replaced wherever they went.
        """
        module = sys.modules[dotted(self.file)]
        changed: dict[str, Any] = {**vars(module), "__builtins__": __builtins__}
        exec(compile(self.make(), str(self.file.resolve()), "exec"), changed)
        for name, new in changed.items():
            old = vars(module).get(name)
            if isinstance(new, type) and new.__module__ == module.__name__:
                for attribute, value in vars(new).items():
                    _transplant(vars(old).get(attribute), value)
            elif isinstance(new, FunctionType) and new.__module__ == module.__name__:
                _transplant(old, new)
            elif isinstance(new, int | float | str | tuple | set | dict) and name[:2] != "__":
                _replace(name, old, new)


@dataclass(frozen=True)
class _Site:
    node: ast.AST
    function: str
    text: str
    """The function's own text."""
    line: int
    stop: int


def mutants(file: Path) -> list[Mutant]:
    """Every single change of a file: no annotations, no words."""
    source, found, seen = file.read_text(encoding="utf-8"), list[Mutant](), dict[str, int]()
    for place, site in enumerate(_sites(ast.parse(source))):
        for way in range(len(list(_changes(site.node)))):
            name = f"{file.stem}.{site.function}: {_words(site.node, way)}"
            seen[name] = seen.get(name, 0) + 1
            name += f" ({seen[name]})" if seen[name] > 1 else ""
            key = hashlib.sha256(f"{file}\n{name}\n{site.text}".encode()).hexdigest()[:16]
            found.append(Mutant(file, place, way, site.line, site.stop, name, key))
    return found


def _words(node: ast.AST, way: int) -> str:
    before = ast.unparse(node).split("\n")[0]
    twin = ast.parse(ast.unparse(ast.fix_missing_locations(_module(node)))).body[0]
    inner = twin.value if isinstance(node, ast.expr) and isinstance(twin, ast.Expr) else twin
    list(_changes(inner))[way]()
    return f"{before} -> {ast.unparse(inner).split(chr(10))[0]}"


def _module(node: ast.AST) -> ast.Module:
    if isinstance(node, ast.expr):
        return ast.Module([ast.Expr(node)], [])
    assert isinstance(node, ast.stmt)
    return ast.Module([node], [])


def _sites(tree: ast.Module) -> list[_Site]:
    return [site for site in _walk(tree, "", "", 0, 0) if next(_changes(site.node), None)]


def _walk(node: ast.AST, function: str, text: str, line: int, stop: int) -> Iterator[_Site]:
    """Nodes in order, without annotations and strings, each with its function and statement."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        function = f"{function}.{node.name}" if function else node.name
        text = ast.unparse(node) if isinstance(node, ast.FunctionDef) else ""
    if isinstance(node, ast.stmt):
        bodies = [getattr(part, "lineno", 0) for part in getattr(node, "body", [])]
        line, stop = node.lineno, min(bodies, default=node.end_lineno or 0)
        text = text or ast.unparse(node)
    yield _Site(node, function or "module", text, line, stop)
    for name, value in ast.iter_fields(node):
        children = value if isinstance(value, list) else [value]
        for child in children if name not in ("annotation", "returns", "decorator_list") else []:
            if isinstance(child, ast.AST) and getattr(child, "arg", "") != "strict":  # of zip
                yield from _walk(child, function, text, line, stop)


def _changes(node: ast.AST) -> Iterator[Any]:
    """Functions that change the node in place, one way each."""
    if isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign) and type(node.op) in OPERATORS:
        yield lambda: setattr(node, "op", OPERATORS[type(node.op)]())
    if isinstance(node, ast.Compare):
        for at, operator in enumerate(node.ops):
            if type(operator) in OPERATORS:
                new = OPERATORS[type(operator)]
                yield lambda at=at, new=new: node.ops.__setitem__(at, new())
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float | bool):
        number = node.value
        values = [not number] if isinstance(number, bool) else [number + 1, number - 1]
        yield from [lambda v=v: setattr(node, "value", v) for v in values if v != number]
    if isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant):
        yield lambda: setattr(node, "operand", ast.UnaryOp(node.op, node.operand))
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        yield lambda: setattr(node, "test", ast.UnaryOp(ast.Not(), node.test))
    if isinstance(node, ast.If):
        yield lambda: setattr(node, "test", ast.Constant(False))
    if isinstance(node, ast.For):
        yield lambda: setattr(node, "iter", ast.List([], ast.Load()))
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
        for names in (NAMES, BOUNDS):
            if node.attr in names:
                yield lambda new=names[node.attr]: setattr(node, "attr", new)
    yield from _forgotten(node)


def _forgotten(node: ast.AST) -> Iterator[Any]:
    """The second of two terms left out; a statement that only calls left out."""
    match node:
        case ast.Call(func=ast.Attribute(attr=name), args=[first, _]) if name in TERMS:
            same = ast.parse("lambda x: x", mode="eval").body
            yield lambda: vars(node).update(func=same, args=[first])
        case ast.Expr(value=ast.Call()):
            yield lambda: setattr(node, "value", ast.Constant(None))


def _function(of: Any) -> FunctionType | None:
    """The plain function below property, class method and type checks."""
    of = of.func if isinstance(of, cached_property) else of
    of = getattr(of, "fget", None) or getattr(of, "__func__", None) or of
    of = inspect.unwrap(of) if callable(of) else of
    return of if isinstance(of, FunctionType) else None


def _transplant(old: Any, new: Any) -> None:
    to, source = _function(old), _function(new)
    if to is None or source is None:
        return
    to.__defaults__, to.__kwdefaults__ = source.__defaults__, source.__kwdefaults__
    if not source.__code__.co_freevars and to.__code__.co_filename != "<string>":
        to.__code__ = source.__code__


def _replace(name: str, old: Any, new: Any) -> None:
    if old == new:
        return
    for module in [m for m in sys.modules.values() if isinstance(m, ModuleType)]:
        if vars(module).get(name) is old:
            setattr(module, name, new)


@cache
def dotted(file: Path) -> str:
    """The module's name: `src/crossproof/a/b.py` is `crossproof.a.b`."""
    parts = file.with_suffix("").parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
