"""A line of code knows its room: a module imports only from rooms below its own."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cowstore

PACKAGE = Path(cowstore.__file__).parent

ROOMS = [
    ["_linux", "_frozen"],
    ["model", "results", "errors", "_faults", "_forks", "_log", "_version", "_values"],
    ["trees", "mounting", "_programs"],
    ["driver"],
    ["drivers", "layers"],
    ["catalog", "_rows", "_database", "leases"],
    [
        "store",
        "_core",
        "_leased",
        "_importing",
        "_making",
        "_removing",
        "_recovery",
        "_checking",
        "_opening",
        "_layering",
        "_images",
        "_image_export",
        "_blobs",
        "_migrating",
        "_access",
        "_rootless",
    ],
    ["runtime"],
    ["testing", "bench", "cli"],
]
"""From the ground up. Drivers and layers are side by side: neither imports the other."""

RANK = {name: rank for rank, names in enumerate(ROOMS) for name in names}
HEAVY = (
    "typing",
    "pathlib",
    "json",
    "logging",
    "subprocess",
    "tempfile",
    "shutil",
    "hashlib",
    "random",
    "uuid",
    "socket",
)
"""Modules that a run on an existing base must not pay for."""


def _imports(path: Path) -> set[str]:
    """Return the modules of the package that a file imports, as dotted names below it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("cowstore.") for name in found if name.startswith("cowstore.")}


def _modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    room = path.relative_to(PACKAGE).with_suffix("").parts[0]
    assert room in RANK, f"{room} has no place in the picture"
    for name in _imports(path):
        # What the package itself re-exports may be used by those above everything.
        target = name.split(".")[0]
        if target not in RANK:
            assert RANK[room] >= RANK["store"], f"{path}: imports cowstore.{name}"
            continue
        beside = {room, target} == {"drivers", "layers"}
        assert RANK[target] <= RANK[room], f"{path}: {room} imports cowstore.{name}, which is above it"
        assert not beside, f"{path}: {room} imports cowstore.{name}, which is beside it"


def _loaded(statement: str) -> set[str]:
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); {statement}; print(*sys.modules)",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_is_light() -> None:
    """Importing the package loads nothing but itself."""
    bare = _loaded("pass")
    assert {name for name in _loaded("import cowstore") - bare if name.split(".")[0] != "__future__"} == {
        "cowstore",
        "cowstore._version",
    }


def test_opening_a_store_pays_for_nothing_it_does_not_need() -> None:
    bare = _loaded("import dataclasses, enum, sqlite3, ctypes, contextlib, threading")
    loaded = _loaded("import cowstore._opening, cowstore.drivers.overlay, cowstore.mounting") - bare
    assert loaded & set(HEAVY) == set()


def test_every_public_name_is_there() -> None:
    for name in cowstore.__all__:
        assert getattr(cowstore, name) is not None
    with pytest.raises(AttributeError):
        cowstore.no_such_name  # noqa: B018
    assert set(cowstore.__all__) <= set(dir(cowstore))
