"""The tables of docs/conformance.md name cases and tests that are there, and all cases that there are."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import cowstore.testing
from cowstore.testing import faults

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent.parent
TABLES = (ROOT / "docs" / "conformance.md").read_text().partition("## All cases")[0]
SUITE = {case.name for case in cowstore.testing.cases()}
FILES = {path.name: [*ROOT.glob(f"tests/**/{path.name}")] for path in ROOT.glob("tests/**/test_*.py")}
ROWS = [line for line in TABLES.splitlines() if re.match(r"\| (?!case \||group \|)", line)]


@pytest.fixture(scope="module")
def page() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cases", ROOT / "docs/_ext/cases.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_list_of_cases_is_that_of_the_suite(page: ModuleType) -> None:
    assert page.PAGE.read_text() == page.page_with_cases(), "type `python docs/_ext/cases.py` to write the list anew"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:50])
def test_what_a_row_names_is_there(row: str) -> None:
    answer = row.split("|")[2]
    named = re.findall(r"`([^`]+)`", answer)
    assert named or "not applicable: " in answer, "names no test, and no reason"
    for name in named:
        assert _is_there(name), name


def _is_there(name: str) -> bool:
    """Look up a case, a test in a file, a file or directory of tests, or a part of the suite."""
    file, _, function = name.partition("::")
    if function:
        return any(f"def {function}(" in path.read_text() for path in FILES.get(file, []))
    if name in SUITE or name in FILES or (ROOT / name).exists():
        return True
    module = name.removeprefix("cowstore.testing.")
    return (ROOT / "cowstore" / "testing" / f"{module}.py").exists()


def test_every_scenario_of_kills_is_named() -> None:
    for scenario in faults.SCENARIOS:
        assert scenario.name in TABLES
