"""Run cases against whatever package is first in the path: status 10 if one fails, 0 if all pass, 3 if none could run."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

from cowstore import testing
from cowstore.testing import Factory, NotApplicable, crowd, faults, model

CAUGHT, PASSED, NOTHING_RUN = 10, 0, 3


def _found(name: str) -> Callable[[Factory], None]:
    """Return what runs one case, or a scenario of kills, or scripts of the model, or a crowd."""
    sort, colon, which = name.partition(":")
    if not colon:
        case = testing.named(name)
        return lambda factory: testing.run(case, factory)
    if sort == "faults":
        scenario = next(scenario for scenario in faults.SCENARIOS if scenario.name == which.strip())
        return lambda factory: _kill(factory, scenario)
    seeds = range(int(which))
    return {"model": lambda factory: _play(factory, seeds), "crowd": lambda factory: _crowd(factory, seeds)}[sort]


def _kill(factory: Factory, scenario: faults.Scenario) -> None:
    for point in faults.points(factory, scenario):
        faults.kill(factory, point)


def _play(factory: Factory, seeds: range) -> None:
    for seed in seeds:
        model.play(factory, seed)


def _crowd(factory: Factory, seeds: range) -> None:
    for seed in seeds:
        ground = testing.Ground(factory, "crowd")
        try:
            crowd.random_verbs(ground, processes=6, verbs=60, seed=seed)
        finally:
            ground.abandon()
            ground.discard()


def main(driver: str, names: list[str]) -> int:
    ran = 0
    with Factory(driver) as factory:
        for name, run in [(name, _found(name)) for name in names]:
            try:
                run(factory)
            except NotApplicable as reason:
                print(f"{name}: {reason}")
                continue
            except Exception as error:
                print(f"{name}: {type(error).__name__}: {error}")
                traceback.print_exc()
                return CAUGHT
            ran += 1
    return PASSED if ran else NOTHING_RUN


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
