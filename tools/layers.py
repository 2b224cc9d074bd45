"""The rules of the house that a reader cannot see in one file; `tests/unit/test_layers.py` asks.

    python -m tools.layers

Imports inside functions and behind TYPE_CHECKING count like any other. `LAYERS` is the one list.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from tools.source import Import, Module, read_modules, resolve

PACKAGE = "crossproof"

LAYERS = (
    *("codes", "errors", "working", "extras", "files", "tables", "result", "registry", "rounding"),
    *("kernels", "lm", "activations", "crosscoder", "interactions", "training", "evaluation"),
    "proof",
    *("clusters", "auditing", "report", "explorer", "testing", "commands", "cli", "__main__", ""),
)
"""Folders and modules of the package: each imports only itself and those before it.

The last, without a name, is the package's own `__init__` with the public names.
"""

OUTSIDE = ("paper", "models", "benchmarks")
"""Folders beside `src` that may use public names only."""

MOST_LINES, MOST_FUNCTION_LINES = 300, 60


def check(root: Path) -> dict[str, list[str]]:
    """What breaks each rule in the checkout at `root`: a line for everything found."""
    source = root / "src" / PACKAGE
    modules = read_modules(source, PACKAGE)
    outside = {f: read_modules(root / f, f) for f in OUTSIDE if (root / f).is_dir()}
    return {
        "upward": list(upward_imports(modules)),
        "circles": list(circles(modules)),
        "private": [line for o in outside.values() for line in private_imports(modules, o)],
        "long modules": list(long_modules(source)),
        "long functions": list(long_functions(modules)),
        "repeated classes": list(repeated_classes(modules)),
    }


def layer(module: str) -> str:
    """The folder (or module) of the package that a module belongs to."""
    return module.removeprefix(PACKAGE).removeprefix(".").partition(".")[0]


def imported(modules: Mapping[str, Module], found: Import) -> str:
    """The module of the package that an import runs: a submodule, or the one it is taken from."""
    inner = f"{found.module}.{found.name}"
    return inner if inner in modules else found.module


def upward_imports(modules: Mapping[str, Module]) -> Iterator[str]:
    """Imports of a layer that stands behind the importing one; layers that LAYERS has wrong."""
    layers = {layer(name) for name in modules}
    yield from (f"{PACKAGE}.{name} is missing in LAYERS" for name in sorted(layers - set(LAYERS)))
    yield from (f"{PACKAGE}.{name} of LAYERS is gone" for name in LAYERS if name not in layers)
    for module in modules.values():
        for found in module.imports:
            above, below = layer(module.name), layer(imported(modules, found))
            if found.module.partition(".")[0] != PACKAGE or not {above, below} <= set(LAYERS):
                continue
            if LAYERS.index(below) > LAYERS.index(above):
                yield f"{module.name}:{found.line} imports {found.module}, which stands above it"


def circles(modules: Mapping[str, Module]) -> Iterator[str]:
    """Modules that import each other, by whatever way; a name counts where it is defined."""
    onward: dict[str, set[str]] = defaultdict(set)
    for module in modules.values():
        if module.stub is None:  # a stub only hands on
            for found in module.imports:
                onward[module.name].add(resolve(modules, found.module, found.name)[0])
        onward[module.name] = (onward[module.name] & set(modules)) - {module.name}
    reached = {name: _reached(onward, name) for name in modules}
    seen: set[str] = set()
    for name in sorted(modules):
        circle = sorted({name} | {other for other in reached[name] if name in reached[other]})
        if len(circle) > 1 and name not in seen:
            seen |= set(circle)
            yield f"{', '.join(circle)} import each other"


def _reached(onward: Mapping[str, set[str]], start: str) -> set[str]:
    reached: set[str] = set()
    waiting = [start]
    while waiting:
        fresh = onward[waiting.pop()] - reached
        reached |= fresh
        waiting.extend(fresh)
    return reached


def private_imports(modules: Mapping[str, Module], outside: Mapping[str, Module]) -> Iterator[str]:
    """Imports of the package that take anything but a name of a public module's `__all__`.

    Public are folders and the modules beside them; `import crossproof` gives public names alone.
    """
    for module in outside.values():
        for found in module.imports:
            if found.module.partition(".")[0] != PACKAGE or not (found.name or layer(found.module)):
                continue
            source = modules.get(found.module)
            public = source is not None and (source.is_package or source.name.count(".") == 1)
            if source is None or not public or found.name not in source.exports:
                name = f"{found.module}.{found.name}".rstrip(".")
                yield f"{module.path}:{found.line} imports {name}, which no __all__ makes public"


def long_modules(source: Path) -> Iterator[str]:
    """Modules and stubs of more than `MOST_LINES` lines."""
    for path in sorted([*source.rglob("*.py"), *source.rglob("*.pyi")]):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > MOST_LINES:
            yield f"{path.relative_to(source)} has {lines} lines"


def long_functions(modules: Mapping[str, Module]) -> Iterator[str]:
    """Functions and methods of more than `MOST_FUNCTION_LINES` lines."""
    for module in modules.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MOST_FUNCTION_LINES:
                    yield f"{module.name}.{node.name} has {lines} lines"


def repeated_classes(modules: Mapping[str, Module]) -> Iterator[str]:
    """Class names with more than one definition in the package."""
    places: dict[str, list[str]] = defaultdict(list)
    for module in modules.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(module.name)
    for name, where in sorted(places.items()):
        if len(where) > 1:
            yield f"class {name} is defined in {', '.join(where)}"


def main() -> None:
    """Prints what breaks a rule in the current folder's checkout; exits 1 if anything does."""
    broken = {rule: lines for rule, lines in check(Path()).items() if lines}
    for rule, lines in broken.items():
        print(f"{rule} ({len(lines)})", *(f"  {line}" for line in lines), sep="\n")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
