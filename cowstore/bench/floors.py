"""The floors of a run: what the primitives cost in bare calls, on file systems of the same kind, in the same run."""

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

    from cowstore.bench.grounds import Ground
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
        for kind, name, cycle in (
            ("btrfs", "Btrfs snapshot made and destroyed", bare.btrfs_cycle),
            ("xfs", "1 MiB file cloned on XFS, and removed", bare.clone_cycle),
        ):
            try:
                steps[name] = cycle(scratch.file_system(kind, 512 << 20, "floor"))
            except (CowstoreError, OSError) as error:
                run.absent[f"floor: {name}"] = " ".join(str(error).split())
    for name, values in interleave(steps, _ROUNDS, seed=plan.seed, warm_up=3).items():
        run.add("floor", FLOOR, name, values)
    for name, values in interleave(_tree(ground, plan), 3, seed=plan.seed).items():
        run.add("floor", FLOOR, name, values, files=plan.tree_files)


def of_driver(run: Run, ground: Ground, plan: Plan) -> None:
    """Add the floors that only a driver's own ground has: device-mapper's messages in its pool, a mount of AUFS."""
    if ground.subject not in {"devicemapper", "aufs"}:
        return
    base = ground.empty()
    if ground.subject == "devicemapper":
        pool = ground.store._core.driver._pool.name  # type: ignore[attr-defined]  # noqa: SLF001  # to be measured bare
        name = "thin snapshot made: create_snap and set_transaction_id"
        step = bare.thin_prepare(pool, ground.store.stat(base).id)
    else:
        key = ground.key("floor")
        ground.store.prepare(key, base)
        name, point = "mount(2) of two branches", os.path.join(ground.path, "point")
        os.mkdir(point)
        step = bare.mount_steps(ground.store.mounts(key), point)
        # Only one may have it writable, and those who asked for its mounts count.
        ground.store.release(key)
    for values in interleave({name: step}, _ROUNDS, seed=plan.seed, warm_up=3).values():
        run.add("floor", FLOOR, name, values)


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
