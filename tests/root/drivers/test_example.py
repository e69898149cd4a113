"""The driver of the documentation passes the suite from outside the package."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

import cowstore.testing
from cowstore import drivers
from cowstore.testing import Case, Factory, NotApplicable, model
from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Factory]:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "examples"))
    # As an entry point of an installed package would.
    monkeypatch.setitem(drivers.BUILT_IN, "plain", ("plain_driver", "Plain"))
    with Factory("plain", directory=str(tmp_path)) as made:
        yield made
    sys.modules.pop("plain_driver", None)


@pytest.mark.parametrize(
    "case", [case for case in cowstore.testing.cases() if not case.slow], ids=lambda case: case.name
)
def test_case(case: Case, factory: Factory) -> None:
    try:
        cowstore.testing.run(case, factory)
    except NotApplicable as reason:
        pytest.skip(f"elsewhere: {case.name}: {reason}")


@pytest.mark.parametrize("seed", range(3))
def test_script(seed: int, factory: Factory) -> None:
    model.play(factory, seed)
