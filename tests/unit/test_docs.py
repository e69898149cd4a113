"""The documentation says what the code says."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cowstore.model import Capabilities

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs/drivers").glob("*.md"))]


@pytest.fixture(scope="module")
def from_code() -> ModuleType:
    spec = importlib.util.spec_from_file_location("from_code", ROOT / "docs/_ext/from_code.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_capability_is_explained(from_code: ModuleType) -> None:
    assert set(from_code.CAPABILITIES) == {field.name for field in dataclasses.fields(Capabilities)}


def test_the_table_of_the_readme_is_that_of_the_code(from_code: ModuleType) -> None:
    assert (ROOT / "README.md").read_text() == from_code.readme_with_drivers(), (
        "type `python docs/_ext/from_code.py` to write the table anew"
    )


def test_every_driver_has_a_page(from_code: ModuleType) -> None:
    for driver in from_code.drivers():
        assert (ROOT / "docs" / "drivers" / f"{driver.name}.md").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+\.md)[^)]*\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_changelog_has_the_version_being_made() -> None:
    assert re.search(r"^## Unreleased$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
