"""Every case of the suite on every driver."""

from __future__ import annotations

import pytest

import cowstore.testing
from cowstore.testing import Case, Factory, NotApplicable


def _parameters() -> list[object]:
    return [
        pytest.param(case, id=case.name, marks=[pytest.mark.slow] if case.slow else [])
        for case in cowstore.testing.cases()
    ]


@pytest.mark.parametrize("case", _parameters())
def test_case(case: Case, factory: Factory) -> None:
    try:
        cowstore.testing.run(case, factory)
    except NotApplicable as reason:
        # What a driver does not claim, the cases of honesty prove that it refuses.
        pytest.skip(f"elsewhere: {case.name} on {factory.driver}: {reason}")
