"""Run cases against whatever package is first in the path: status 10 if one fails, 0 if all pass, 3 if none could run."""

from __future__ import annotations

import sys
import traceback

from cowstore import testing
from cowstore.testing import Factory, NotApplicable, crowd, faults, model

CAUGHT, PASSED, NOTHING_RUN = 10, 0, 3


def _run(factory: Factory, name: str) -> None:
    """Run one case, or a scenario of kills, or scripts of the model, or a crowd."""
    sort, colon, which = name.partition(":")
    if not colon:
        testing.run(testing.named(name), factory)
    elif sort == "faults":
        scenario = next(scenario for scenario in faults.SCENARIOS if scenario.name == which.strip())
        for point in faults.points(factory, scenario):
            faults.kill(factory, point)
    elif sort == "model":
        for seed in range(int(which)):
            model.play(factory, seed)
    elif sort == "crowd":
        for seed in range(int(which)):
            ground = testing.Ground(factory, "crowd")
            try:
                crowd.random_verbs(ground, processes=6, verbs=60, seed=seed)
            finally:
                ground.abandon()
                ground.discard()
    else:
        raise LookupError(name)


def main(driver: str, names: list[str]) -> int:
    ran = 0
    with Factory(driver) as factory:
        for name in names:
            try:
                _run(factory, name)
            except NotApplicable as reason:
                print(f"{name}: {reason}")
                continue
            except LookupError:
                raise
            except Exception as error:
                print(f"{name}: {type(error).__name__}: {error}")
                traceback.print_exc()
                return CAUGHT
            ran += 1
    return PASSED if ran else NOTHING_RUN


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
