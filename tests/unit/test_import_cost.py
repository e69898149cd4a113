"""Importing is cheap: what every run needs loads nothing that only some runs need."""

from __future__ import annotations

import subprocess
import sys

import pytest

FORBIDDEN = {
    "argparse",
    "asyncio",
    "concurrent",
    "hashlib",
    "importlib.metadata",
    "json",
    "logging",
    "pathlib",
    "random",
    "shutil",
    "socket",
    "subprocess",
    "tempfile",
    "typing",
    "uuid",
}
"""Modules of the standard library that cost milliseconds each. `re` comes with dataclasses, `datetime` with sqlite3."""

HOT = [
    "cowstore",
    "cowstore._linux.files",
    "cowstore._linux.mount",
    "cowstore._opening",
    "cowstore.driver",
    "cowstore.drivers.overlay",
    "cowstore.errors",
    "cowstore.leases",
    "cowstore.model",
    "cowstore.mounting",
    "cowstore.store",
    "cowstore.cli.run",
]


def imported_by(statement: str) -> set[str]:
    script = f"import sys; before = set(sys.modules); {statement}; print(*set(sys.modules) - before, file=sys.stderr)"
    command = [sys.executable, "-P", "-c", script]
    return set(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stderr.split())


@pytest.mark.parametrize("module", HOT)
def test_the_hot_path_imports_nothing_heavy(module: str) -> None:
    assert imported_by(f"import {module}") & FORBIDDEN == set()


def test_the_package_alone_imports_nearly_nothing() -> None:
    assert imported_by("import cowstore") <= {"__future__", "cowstore", "cowstore._version"}


def test_no_driver_loads_before_it_is_used() -> None:
    loaded = imported_by("import cowstore; cowstore.open; cowstore.Store")
    later = ("cowstore.drivers.", "cowstore.layers", "cowstore.runtime")
    assert not {name for name in loaded if name.startswith(later)}
