"""Lists what nothing reaches: functions, classes, methods, constants, whole modules.

    python -m tools.unreachable [--trust-exports]

Reached is what the commands, the public names of `crossproof` itself and the folders of `OUTSIDE`
name, what those name in turn, and so on; tests do not count. That a folder exports a name
(`__all__`) helps it only with --trust-exports: a public name that nothing of ours uses is dead,
unless `unreachable-allowed.txt` can say who needs it.

Only syntax is read, so attributes go by their name: a method, and whatever overrides it, is reached
when reached code or a template says `.method` anywhere. Dunder methods and those that PyTorch calls
are reached with their class; what a decorator of a registry takes always is. A module that a string
names ("crossproof.commands.show", perhaps with gaps) is an object: its functions are its methods.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tools.source import Module, dotted, pattern, read_modules, resolve, statements

PACKAGE = "crossproof"
OUTSIDE = ("paper", "models", "benchmarks", "examples")
ALLOWED = Path("tools/unreachable-allowed.txt")
EXTERNAL_HOOKS = ("forward", "backward", "setup_context")  # what PyTorch calls on its subclasses

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, eq=False)
class Definition:
    """A function, class, method or constant of a module, or (without a name) its top level."""

    module: Module
    name: str
    code: tuple[ast.AST, ...]
    node: ast.stmt | None = None
    methods: dict[str, Definition] = field(default_factory=dict)
    bases: tuple[str, ...] = ()

    @property
    def full_name(self) -> str:
        return f"{self.module.name}.{self.name}".rstrip(".")

    @property
    def registered(self) -> bool:
        decorators = getattr(self.node, "decorator_list", [])
        return any("regist" in ast.unparse(decorator).lower() for decorator in decorators)


def definitions(module: Module) -> dict[str, Definition]:
    """The definitions of a module by name (of methods `Class.method`); "" is its top level."""
    top: list[ast.AST] = []
    defined: dict[str, Definition] = {}
    for node in statements(module.tree.body):
        if isinstance(node, ast.ClassDef):
            made = _class(module, node)
            defined |= {made.name: made} | {m.name: m for m in made.methods.values()}
        elif name := _name(node):
            defined[name] = Definition(module, name, (node,), node)
        elif not isinstance(node, ast.Import | ast.ImportFrom):
            top.append(node)
    return defined | {"": Definition(module, "", tuple(top))}


def _class(module: Module, node: ast.ClassDef) -> Definition:
    methods = {
        part.name: Definition(module, f"{node.name}.{part.name}", (part,), part)
        for part in node.body
        if isinstance(part, Function)
    }
    rest = [part for part in node.body if not isinstance(part, Function)]
    code = (*node.decorator_list, *node.bases, *node.keywords, *rest)
    bases = tuple(dotted(base) for base in node.bases)
    return Definition(module, node.name, code, node, methods, bases)


def _name(node: ast.stmt) -> str:
    """The name of a function or constant; of other statements, and of dunders, none."""
    if isinstance(node, Function):
        return node.name
    targets = node.targets if isinstance(node, ast.Assign) else []
    targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
    name = targets[0].id if len(targets) == 1 and isinstance(targets[0], ast.Name) else ""
    return "" if name.startswith("__") else name


class Reach:
    """Follows names until nothing new is reached."""

    def __init__(self, modules: dict[str, Module]) -> None:
        self.modules = modules
        self.defined = {name: definitions(module) for name, module in modules.items()}
        self.reached: set[Definition] = set()
        self.said: set[str] = set()
        self._unsaid: dict[str, list[Definition]] = defaultdict(list)
        """Methods of reached classes whose name no reached code has said."""

    def add(self, module: str, name: str) -> None:
        """Reaches a name of a module, wherever it is defined."""
        for here, there in {(module, name), resolve(self.modules, module, name)}:
            defined = self.defined.get(here, {})
            for part in {"", there.partition(".")[0]} & set(defined):
                self.visit(defined[part])

    def say(self, attribute: str) -> None:
        """Reaches the methods of this name of every reached class, now and later."""
        self.said.add(attribute)
        for method in self._unsaid.pop(attribute, []):
            self.visit(method)

    def read(self, module: Module, code: Iterable[ast.AST]) -> None:
        """Reaches everything that a piece of a module's code names."""
        for node in (inner for part in code for inner in ast.walk(part)):
            if isinstance(node, ast.Attribute):
                self.say(node.attr)
            if isinstance(node, ast.Name | ast.Attribute):
                self.add(module.name, dotted(node))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                self._read_string(node.value)
            elif isinstance(node, ast.JoinedStr):
                self._read_pattern(pattern(module, node))

    def _read_string(self, text: str) -> None:
        """A string may be a dotted name (`module:name` too), or an attribute for `getattr`."""
        if text.startswith(f"{PACKAGE}."):
            self.add(PACKAGE, text.removeprefix(f"{PACKAGE}.").replace(":", "."))
            if text in self.defined:
                self._await(self.defined[text])
        elif text.isidentifier():
            self.say(text)

    def _read_pattern(self, text: str) -> None:
        """A dotted name with gaps, f"crossproof.commands.{name}", is everything that fits."""
        if text.startswith(re.escape(f"{PACKAGE}.")):
            for definition in [d for defined in self.defined.values() for d in defined.values()]:
                if re.fullmatch(text.replace(":", r"\."), definition.full_name):
                    self.visit(definition)
                    if not definition.name:
                        self._await(self.defined[definition.module.name])

    def visit(self, definition: Definition) -> None:
        """Reaches a definition, its module's top level and what it names."""
        if definition in self.reached:
            return
        self.reached.add(definition)
        module = definition.module
        if definition.name:
            self.visit(self.defined[module.name][""])
        elif module.stub is None:  # importing it runs the top level of all that it imports
            for found in module.imports:
                self.add(found.module, "")
        self.read(module, definition.code)
        named = {
            inner.id
            for c in definition.code
            for inner in ast.walk(c)
            if isinstance(inner, ast.Name)
        }
        hooks = EXTERNAL_HOOKS if self._has_external_base(definition) else ()
        self._await(definition.methods, {*named, *hooks})

    def _await(self, methods: Mapping[str, Definition], called: Collection[str] = ()) -> None:
        """Reaches methods by name as soon as reached code says it; those that are `called` now."""
        for name, method in methods.items():
            if name in self.said or name in called or name.startswith("__"):
                self.visit(method)
            else:
                self._unsaid[name].append(method)

    def _has_external_base(self, definition: Definition) -> bool:
        for base in definition.bases:
            module, name = resolve(self.modules, definition.module.name, base)
            parent = self.defined.get(module, {}).get(name)
            if parent is None or self._has_external_base(parent):
                return True
        return False


@cache
def _checkout(root: Path) -> tuple[dict[str, Module], dict[str, Module]]:
    package = read_modules(root / "src" / PACKAGE, PACKAGE)
    return package, {n: m for f in OUTSIDE for n, m in read_modules(root / f, f).items()}


def reach(root: Path, allowed: Iterable[str] = (), trust_exports: bool = False) -> Reach:
    """What the roots of the checkout at `root` reach, with `allowed` names as further roots."""
    package, outside = _checkout(root)
    made = Reach(package | outside)
    templates = [p.read_text(encoding="utf-8") for p in (root / "src").rglob("*.jinja")]
    for attribute in re.findall(r"\.(\w+)", "".join(templates)):
        made.say(attribute)
    for module in outside.values():
        made.read(module, [module.tree])
    made.add(f"{PACKAGE}.cli", "main")
    made.add(f"{PACKAGE}.__main__", "")
    for name, module in package.items():
        for exported in module.exports if name == PACKAGE or trust_exports else ():
            made.add(name, exported)
    for definition in [found for name in package for found in made.defined[name].values()]:
        home = definition.module.name
        if definition.registered or {home, definition.full_name} & set(allowed):
            made.visit(definition)
    return made


def unreached(made: Reach) -> dict[str, str]:
    """What is not reached and where it is; modules and classes whole."""
    lines: dict[str, str] = {}
    for name, defined in made.defined.items():
        missing = {n: d for n, d in defined.items() if n and d not in made.reached}
        path = made.modules[name].path
        if name.partition(".")[0] != PACKAGE or not missing:
            continue
        if len(missing) == len(defined) - 1:  # all but the top level
            lines[name], missing = f"{path}, the whole module", {}
        for definition in missing.values():
            owner = definition.name.rpartition(".")[0]
            if owner not in missing and definition.node:
                lines[definition.full_name] = f"{path}:{definition.node.lineno}"
    return lines


def read_allowed(path: Path) -> list[str]:
    """The dotted names of the lines `name: reason`; # begins a comment."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    pairs = [line.partition(":") for line in lines if line.strip() and not line.startswith("#")]
    if bare := [name for name, _, reason in pairs if not reason.strip()]:
        sys.exit(f"{path} gives no reason for {', '.join(bare)}")
    return [name.strip() for name, _, _ in pairs]


def findings(root: Path, trust_exports: bool = False) -> list[str]:
    """A line for everything that is not reached, and for every allowed name that is."""
    allowed = read_allowed(root / ALLOWED)
    needless = set(allowed) - set(unreached(reach(root, (), trust_exports)))
    dead = unreached(reach(root, allowed, trust_exports))
    exported = set(dead) - set(unreached(reach(root, allowed, trust_exports=True)))
    return [
        *(f"{n}  ({at}{'; only exported' if n in exported else ''})" for n, at in dead.items()),
        *(f"{name}  ({ALLOWED}: reached, or gone)" for name in sorted(needless)),
    ]


def main() -> None:
    """Prints the findings in the current folder's checkout; exits 1 if there is any."""
    parser = argparse.ArgumentParser(description="List what nothing in crossproof reaches.")
    parser.add_argument("--trust-exports", action="store_true", help="count __all__ as a use")
    lines = findings(Path(), parser.parse_args().trust_exports)
    print(*lines, sep="\n")
    sys.exit(bool(lines))


if __name__ == "__main__":
    main()
