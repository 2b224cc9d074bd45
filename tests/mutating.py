"""Functions of the package changed in place, by their syntax trees: what a mutant is made of.

A change names a function and a pattern: Python in which X, Y and Z stand for any expression (the
same one wherever the letter recurs). Every expression of the function that has the pattern's shape
becomes the replacement; neither its text nor its place in the file matters. The function object
stays, with other code, so that everyone who imported it gets the mutant; `monkeypatch` puts the
code back.
"""

from __future__ import annotations
import __future__

import ast
import inspect
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

import crossproof
from tools.source import read_modules, statements

WILD = ("X", "Y", "Z")


@dataclass(frozen=True)
class Change:
    """In a function (or `Class.method`), expressions like `old` become `new`."""

    function: str
    old: str
    new: str
    module: str = ""
    """Where the function is, if its name says too little: the end of the module's name."""

    def apply(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Puts the mutant in the function's place; fails if nothing in it looks like `old`."""
        function = find_function(self.function, self.module)
        monkeypatch.setattr(function, "__code__", changed(function, self.old, self.new))


@dataclass(frozen=True)
class Constant:
    """An entry of a module-level dict, or (without a key) a module's number, set to a value."""

    name: str
    key: Any
    value: float

    def apply(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Sets the entry; whoever looks it up finds the new value."""
        monkeypatch.setitem(getattr(home(self.name), self.name), self.key, self.value)


@cache
def _homes() -> dict[str, list[str]]:
    homes: dict[str, list[str]] = {}
    package = read_modules(Path(crossproof.__file__).parent, "crossproof")
    theory = read_modules(Path(__file__).parent / "theory", "theory")
    for module in (*package.values(), *theory.values()):
        for node in statements(module.tree.body):
            target = getattr(node, "target", None)
            name = getattr(node, "name", None) or getattr(target, "id", None)
            homes.setdefault(str(name), []).append(module.name)
    return homes


def home(name: str, module: str = "") -> ModuleType:
    """The one module of package or theory that defines a name; not the certificates, by default."""
    places = _homes().get(name, [])
    if module:
        places = [place for place in places if place.endswith(f".{module}")]
    else:
        places = [place for place in places if ".certificate" not in place]
    assert len(places) == 1, f"{name} is defined in {', '.join(places) or 'no module'}"
    return import_module(places[0])


def find_function(name: str, module: str = "") -> FunctionType:
    """The plain function below decorators, property or type checks."""
    first, *rest = name.split(".")
    found: Any = getattr(home(first, module), first)
    for part in rest:
        found = inspect.getattr_static(found, part)
    found = inspect.unwrap(getattr(found, "fget", None) or getattr(found, "__func__", found))
    assert isinstance(found, FunctionType), f"{name} is no function"
    return found


def changed(function: FunctionType, old: str, new: str) -> Any:
    """Code of the function with every expression like `old` replaced."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    (definition,) = tree.body
    assert isinstance(definition, ast.FunctionDef)
    definition.decorator_list = []
    replacing = _Replacing(_expression(old), _expression(new))
    definition.body = [replacing.visit(node) for node in definition.body]
    assert replacing.count, f"nothing in {function.__qualname__} looks like {old}"
    flags = __future__.annotations.compiler_flag
    code = compile(
        ast.fix_missing_locations(tree), function.__code__.co_filename, "exec", flags, True
    )
    scope: dict[str, Any] = {}
    exec(code, dict(function.__globals__), scope)
    return scope[function.__name__].__code__


def _expression(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


class _Replacing(ast.NodeTransformer):
    def __init__(self, old: ast.expr, new: ast.expr) -> None:
        self.old, self.new, self.count = old, new, 0

    def visit(self, node: ast.AST) -> ast.AST:
        stands: dict[str, ast.AST] = {}
        if isinstance(node, ast.expr) and matches(self.old, node, stands):
            self.count += 1
            return _Filling(stands).visit(_expression(ast.unparse(self.new)))
        return self.generic_visit(node)


class _Filling(ast.NodeTransformer):
    def __init__(self, stands: Mapping[str, ast.AST]) -> None:
        self.stands = stands

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self.stands.get(node.id, node)


def matches(pattern: Any, node: Any, stands: dict[str, ast.AST]) -> bool:
    """Whether a node has the pattern's shape; `stands` learns what each wild letter stands for."""
    if isinstance(pattern, ast.Name) and pattern.id in WILD:
        known = stands.setdefault(pattern.id, node)
        return isinstance(node, ast.expr) and ast.dump(known) == ast.dump(node)
    if isinstance(pattern, ast.AST):
        return type(pattern) is type(node) and all(
            matches(getattr(pattern, name), getattr(node, name), stands)
            for name in pattern._fields
            if name not in ("ctx", "kind")
        )
    if isinstance(pattern, list):
        return len(pattern) == len(node) and all(
            matches(one, other, stands) for one, other in zip(pattern, node, strict=True)
        )
    return type(pattern) is type(node) and pattern == node
