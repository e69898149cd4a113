"""Results as a run would have them, without measuring anything."""

from __future__ import annotations

import random

from cowstore.bench.results import Budget, Run

DRIVERS = {"overlay": 1.0, "btrfs": 3.0, "copy": 40.0}


def run(*, seed: int = 1, factor: float = 1.0, repeats: int = 8) -> Run:
    """Make a run whose figures are known but for their noise.

    :param factor: of all but the floor.
    """
    chance = random.Random(seed)
    made = Run(suite="drivers", seed=seed, started="2026-01-01T00:00:00+00:00", seconds=12.5)
    made.machine = {"cowstore": "1", "kernel": "6.1", "processor": "a", "processors": 2, "file_system": "ext4"}
    made.method = ["Warm figures only."]

    def values(middle: float) -> list[float]:
        return [middle * factor * chance.uniform(0.97, 1.03) for _ in range(repeats)]

    for driver, slow in DRIVERS.items():
        for phase in ("prepare", "mount", "unmount", "remove"):
            made.add("life", driver, phase, values(slow * 1e-4))
        made.add("first-write", driver, "first", values(1.0 if driver == "overlay" else 1e-3), MiB=96)
        for number in (10, 100, 1000):
            made.add("population", driver, "life", values(slow * 1e-3), snapshots=number)
        shared = [1.0 if driver == "overlay" else 0.0] * repeats
        made.add("page-cache", driver, "share", shared, unit="1", better="more")
    made.add("floor", "bare", "mkdir", values(5e-5 / factor))
    made.budgets.append(Budget(name="life", value=1.4, limit=2.0, unit="x", what="a & b < c"))
    made.absent["devicemapper"] = "this kernel has none <of it>"
    return made
