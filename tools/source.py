"""Python source read by its syntax trees alone: modules, what they import, what a name means.

Shared by `tools.layers` and `tools.unreachable`. Nothing is imported or run. A package whose names
are imported when they are first used lists them in a stub (`__init__.pyi`): there the stub counts.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path


@dataclass(frozen=True)
class Import:
    """One imported name, wherever the statement stands (in a function, behind TYPE_CHECKING)."""

    line: int
    module: str
    """Absolute dotted name of the module that is imported, or imported from."""
    name: str
    """The name taken from it; empty for `import module`."""
    bound: str
    """The name it gets here."""

    @property
    def meaning(self) -> tuple[str, str]:
        """Module and name that the bound name stands for: `import a.b` binds a, not a.b."""
        return self.bound if self.module.startswith(f"{self.bound}.") else self.module, self.name


@dataclass(frozen=True, eq=False)
class Module:
    """A parsed module; `stub` is the tree of the stub beside it."""

    name: str
    path: Path
    tree: ast.Module
    stub: ast.Module | None = None

    @property
    def is_package(self) -> bool:
        """Whether this is a folder's `__init__`."""
        return self.path.name == "__init__.py"

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        """Every import of the module and its stub."""
        trees = [self.tree] if self.stub is None else [self.tree, self.stub]
        return tuple(found for tree in trees for found in self._imports(tree))

    def _imports(self, tree: ast.Module) -> Iterator[Import]:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    bound = alias.asname or alias.name.partition(".")[0]
                    yield Import(node.lineno, alias.name, "", bound)
            elif isinstance(node, ast.ImportFrom):
                module = self._absolute(node)
                for alias in node.names:
                    yield Import(node.lineno, module, alias.name, alias.asname or alias.name)

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.name.split(".")
        upwards = node.level - self.is_package
        return ".".join([*parts[: len(parts) - upwards], *filter(None, [node.module])])

    @cached_property
    def bindings(self) -> dict[str, tuple[str, str]]:
        """Module and name that each imported name stands for, in whichever scope."""
        return {found.bound: found.meaning for found in self.imports}

    @cached_property
    def exports(self) -> frozenset[str]:
        """The public names: those of the stub, or of `__all__`."""
        if self.stub is not None:
            return frozenset(found.bound for found in self._imports(self.stub))
        lists = [
            node.value
            for node in self.tree.body
            if isinstance(node, ast.Assign)
            and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)
        ]
        strings = (node for value in lists for node in ast.walk(value))
        return frozenset(str(node.value) for node in strings if isinstance(node, ast.Constant))


def read_modules(folder: Path, package: str = "") -> dict[str, Module]:
    """The modules below `folder` by dotted name; `package` is the folder's own dotted name."""
    modules = {}
    for path in sorted(folder.rglob("*.py")):
        parts = [*filter(None, [package]), *path.relative_to(folder).with_suffix("").parts]
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        stub = path.with_suffix(".pyi")
        trees = [ast.parse(p.read_text(encoding="utf-8")) for p in (path, stub) if p.exists()]
        modules[name] = Module(name, path, *trees)
    return modules


def resolve(modules: Mapping[str, Module], module: str, name: str) -> tuple[str, str]:
    """The module that defines a (dotted) name of `module`, and the name there.

    Names that a module only hands on are followed. The name is empty if a module is meant; modules
    that are none of `modules` are returned as they are.
    """
    seen: set[tuple[str, str]] = set()
    while module in modules and name and (module, name) not in seen:
        seen.add((module, name))
        head, _, tail = name.partition(".")
        onward = modules[module].bindings.get(head, (module, head))
        if onward != (module, head):
            module, name = onward[0], ".".join(filter(None, [onward[1], tail]))
        elif f"{module}.{head}" in modules:
            module, name = f"{module}.{head}", tail
    return module, name


def statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run on import, those in `if`, `try` and `with` included."""
    for node in body:
        if not isinstance(node, ast.If | ast.Try | ast.With):
            yield node
            continue
        inner = [getattr(node, part, []) for part in ("body", "orelse", "finalbody")]
        inner += [handler.body for handler in getattr(node, "handlers", [])]
        yield from (statement for part in inner for statement in statements(part))


def dotted(node: ast.AST) -> str:
    """`a.b` of the expressions a.b and a.b[c]; empty for all but names and their attributes."""
    if isinstance(node, ast.Subscript):
        return dotted(node.value)
    if isinstance(node, ast.Attribute):
        owner = dotted(node.value)
        return f"{owner}.{node.attr}" if owner else ""
    return node.id if isinstance(node, ast.Name) else ""


def pattern(module: Module, node: ast.JoinedStr) -> str:
    """A regular expression of what an f-string of `module` may become: one name in each gap that
    is not filled by a string constant of the module."""
    texts = (
        part if isinstance(part, ast.Constant) else _value(module, part) for part in node.values
    )
    return "".join(r"\w+" if text is None else re.escape(str(text.value)) for text in texts)


def _value(module: Module, gap: ast.expr) -> ast.Constant | None:
    name = dotted(gap.value) if isinstance(gap, ast.FormattedValue) else ""
    for node in module.tree.body:
        if isinstance(node, ast.Assign) and name and name in map(dotted, node.targets):
            return node.value if isinstance(node.value, ast.Constant) else None
    return None
