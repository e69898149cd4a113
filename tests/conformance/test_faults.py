"""A process killed at every fault point of every verb, and during the recovery that follows."""

from __future__ import annotations

import pytest

from cowstore.testing import Factory, NotApplicable, faults


@pytest.mark.slow
@pytest.mark.parametrize("scenario", faults.SCENARIOS, ids=lambda scenario: scenario.name.replace(" ", "-"))
def test_killed_at_every_point(scenario: faults.Scenario, factory: Factory) -> None:
    try:
        points = faults.points(factory, scenario)
    except NotApplicable as reason:
        pytest.skip(f"elsewhere: {scenario.name}: {reason}")
    for point in points:
        faults.kill(factory, point)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", faults.SCENARIOS, ids=lambda scenario: scenario.name.replace(" ", "-"))
def test_killed_again_while_recovering(scenario: faults.Scenario, factory: Factory) -> None:
    try:
        points = faults.points(factory, scenario)
    except NotApplicable as reason:
        pytest.skip(f"elsewhere: {scenario.name}: {reason}")
    # Where a verb passes a point again, what is left behind is of the same sort.
    for point in points:
        if point.count == 1:
            for again in faults.twice(factory, point, most=1):
                faults.kill(factory, again)
