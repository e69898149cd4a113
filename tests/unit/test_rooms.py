"""The package is built in rooms, one above the other; a room imports only from itself and from those below it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import cowstore

PACKAGE = Path(cowstore.__file__).parent

ROOMS = [
    {"_version"},
    {"_linux"},
    {"model", "results", "errors", "_faults", "_log", "_values"},
    {"trees", "mounting", "_programs"},
    {"driver", "drivers._options"},
    {"drivers", "layers"},
    {"catalog", "_rows", "leases"},
    {"store"},
    {"runtime"},
    {"testing", "cli"},
]
"""From the ground up. A module belongs to the room that names it, or else its package; other private modules beside
the store are its parts."""

APART = [("drivers", "layers"), ("layers", "drivers"), ("testing", "cli"), ("cli", "testing")]
"""Neighbours in one room that do not know each other."""

FACE = "cowstore"
"""The package itself hands out names from every room, when they are asked for."""


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    del found[""]
    return found


def room(module: str) -> int | None:
    name = module
    while name:
        for number, names in enumerate(ROOMS):
            if name in names:
                return number
        name = name.rpartition(".")[0]
    return room("store") if module.startswith("_") else None


def imported(path: Path) -> set[str]:
    """Return the modules of the package that a file imports at run time, anywhere in it."""

    class Visitor(ast.NodeVisitor):
        def __init__(self) -> None:
            self.found: set[str] = set()

        def visit_If(self, node: ast.If) -> None:
            if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
                self.generic_visit(node)

        def visit_Import(self, node: ast.Import) -> None:
            self.found.update(name.name for name in node.names)

        def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
            assert node.module is not None, "no relative imports"
            self.found.add(node.module)
            self.found.update(f"{node.module}.{name.name}" for name in node.names)

    visitor = Visitor()
    visitor.visit(ast.parse(path.read_bytes()))
    prefix = f"{FACE}."
    return {name.removeprefix(prefix) for name in visitor.found if name.startswith(prefix)} & set(modules())


@pytest.mark.parametrize("module", modules())
def test_imports_only_from_below(module: str) -> None:
    own = room(module)
    assert own is not None, f"give {module} a room"
    for name in imported(modules()[module]):
        other = room(name)
        assert other is not None, f"give {name} a room"
        assert other <= own, f"{module} imports {name}, which is above it"
        assert (module.partition(".")[0], name.partition(".")[0]) not in APART, f"{module} imports {name}"


def test_the_package_has_typing_information() -> None:
    assert (PACKAGE / "py.typed").exists()


def test_public_names_are_what_type_checkers_see() -> None:
    """What is listed is importable, and is what the type-checking block hands out."""
    tree = ast.parse((PACKAGE / "__init__.py").read_bytes())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    shown = {alias.asname for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert shown | {"__version__"} == set(cowstore.__all__)
    for name in cowstore.__all__:
        assert getattr(cowstore, name) is not None
