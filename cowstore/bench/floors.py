"""The floors of a run: what the primitives cost on a plain file system of the same kind, in bare calls."""

from __future__ import annotations

import os
import shutil

from cowstore.bench import bare, synthetic
from cowstore.bench.results import FLOOR
from cowstore.bench.timing import interleave
from cowstore.bench.workloads import flush, fsynced
from cowstore.errors import CowstoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cowstore.bench.results import Run
    from cowstore.bench.scratch import Scratch
    from cowstore.bench.workloads import Plan

_ROUNDS = 40


def measure(run: Run, scratch: Scratch, plan: Plan) -> None:
    """Add a series for each primitive."""
    ground = scratch.ground(1 << 30, run)
    steps: dict[str, Callable[[], float | None]] = {
        "mkdir and rmdir of a snapshot's directories": bare.directories_cycle(ground.directory("bare")),
        "4 KiB written and synced": _sync(ground.directory("sync")),
    }
    if os.geteuid() == 0:
        steps["overlay mounted and unmounted, with its directories"] = bare.overlay_cycle(
            ground.directory("bare"), ground.directory("lower")
        )
        try:
            point = scratch.file_system("btrfs", 256 << 20, "floor")
        except (CowstoreError, OSError):
            pass
        else:
            steps["Btrfs snapshot made and destroyed"] = bare.btrfs_cycle(point)
    for name, values in interleave(steps, _ROUNDS, seed=plan.seed, warm_up=3).items():
        run.add("floor", FLOOR, name, values)
    for name, values in interleave(_tree(ground, plan), 3, seed=plan.seed).items():
        run.add("floor", FLOOR, name, values, files=plan.tree_files)


def _sync(directory: str) -> Callable[[], None]:
    numbers = iter(range(1 << 30))
    return lambda: fsynced(f"{directory}/{next(numbers)}", b"x" * 4096, create=True)


def _tree(ground: Scratch, plan: Plan) -> dict[str, Callable[[], float | None]]:
    """Return what is done to a whole tree, in a plain directory."""
    recipe = synthetic.Recipe(plan.tree_files, seed=plan.seed)
    tree = ground.directory("tree")
    synthetic.grow(tree, recipe)

    def copy() -> None:
        target = ground.directory("copy")
        shutil.copytree(tree, target, symlinks=True, dirs_exist_ok=True)
        flush(target)

    def look() -> None:
        for path, _, names in os.walk(tree):
            for name in names:
                os.lstat(f"{path}/{name}")

    return {"readdir and stat of the tree, warm": look, "copy of the tree by Python's shutil": copy}
