"""``quick --driver``: the budgets of one driver, each a ratio to the bare calls that it cannot do without."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack

from cowstore.bench import bare, suites, synthetic
from cowstore.bench.grounds import ground
from cowstore.bench.installed import process
from cowstore.bench.quick import FEW, LARGE, MANY, SMALL, catalog_cycle, live, prepare_and_remove
from cowstore.bench.results import FLOOR, Budget
from cowstore.bench.timing import interleave, median, paired_ratio, undisturbed
from cowstore.bench.words import figure
from cowstore.errors import CowstoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cowstore.bench.grounds import Ground
    from cowstore.bench.results import Run
    from cowstore.bench.scratch import Scratch
    from cowstore.bench.timing import Step

    Say = Callable[[str], None]

SIZE_BYTES = {"devicemapper": 256 << 20}
"""Room that a driver's budgets may take, where that is less than :data:`cowstore.bench.quick.SIZE_BYTES`."""

_GROUND_BYTES = {"devicemapper": 1 << 30}
_LARGE_GROUND_BYTES = 3 << 30
ROUNDS = 60
_PROCESSES, _LIVES = 8, 5
_COPIED_FILES = 300
_UNUSED_ID = 9_999_999
"""An id that the store does not come to use in a run."""
_DEEPEST = 126
"""Lower branches of the deepest AUFS that is mounted."""


def measure(run: Run, scratch: Scratch, say: Say, subject: str) -> None:
    """Measure the budgets of one driver.

    :raises CowstoreError: it does not work here; says why.
    """
    with ground(subject, scratch, _GROUND_BYTES.get(subject, _LARGE_GROUND_BYTES)) as one, undisturbed():
        for name, step in _STEPS[subject].items():
            say(f"{subject}: {name}")
            step(run, one, say)
    run.method.append(f"{subject} on a fresh file system of its own on a loop device over a sparse file.")


def _budget(run: Run, name: str, value: float, limit: float, what: str) -> None:
    run.budgets.append(Budget(name=name, value=round(value, 3), limit=limit, unit="x", what=what))


def _against(
    run: Run, one: Ground, phase: str, ours: Step, floor: Step, limit: float, calls: str, driver: Step | None = None
) -> None:
    """Measure one thing beside its floor, in turns, and add the budget.

    :param driver: what of it the driver does, without the store around it; shown beside it.
    """
    steps = {"ours": ours, "floor": floor, **({"driver": driver} if driver else {})}
    found = interleave(steps, ROUNDS, seed=run.seed, warm_up=5)
    run.add("snapshot", one.subject, phase, found["ours"], floor=FLOOR)
    run.add("snapshot", FLOOR, phase, found["floor"])
    what = f"{phase} {figure(median(found['ours']), 's')}"
    if driver:
        run.add("snapshot", f"{one.subject} without the store", phase, found["driver"], floor=FLOOR)
        what += f" (the driver alone {figure(median(found['driver']), 's')})"
    _budget(
        run, f"{one.subject}-{phase.replace('+', '-')}", paired_ratio(found["ours"], found["floor"]), limit,
        f"{what} against {calls} {figure(median(found['floor']), 's')}",
    )  # fmt: skip


def _overlay(run: Run, one: Ground, _say: Say) -> None:
    """Measure a life against the bare calls."""
    store = one.volatile
    one.base("base", lambda _root: None, store=store)
    beside = [os.path.join(one.path, name) for name in ("bare", "lower")]
    for path in beside:
        os.mkdir(path)
    found = interleave(
        {
            "ours": lambda: live(store, "base-base"),
            "floor": bare.overlay_cycle(*beside),
            "catalog": lambda: catalog_cycle(store, "base-base"),
        },
        ROUNDS,
        seed=run.seed,
        warm_up=5,
    )
    run.add("snapshot", one.subject, "prepare+mount+unmount+remove", found["ours"], floor=FLOOR)
    run.add("snapshot", FLOOR, "prepare+mount+unmount+remove", found["floor"])
    run.add("snapshot", "catalog alone", "prepare+mount+unmount+remove", found["catalog"])
    below = median(found["floor"]) + median(found["catalog"])
    _budget(
        run, f"{one.subject}-life", median(found["ours"]) / below, 2.0,
        f"prepare, mount, unmount, remove {figure(median(found['ours']), 's')} against the bare calls "
        f"{figure(median(found['floor']), 's')} and the catalog's transactions {figure(median(found['catalog']), 's')}",
    )  # fmt: skip


def _btrfs(run: Run, one: Ground, _say: Say) -> None:
    """Measure prepare and remove against the bare ioctls."""
    store = one.volatile
    base, driver = one.empty(store=store), store._core.driver  # noqa: SLF001  # to be measured without what is around it
    below = store.stat(base).id
    os.mkdir(os.path.join(one.path, "bare"))

    def alone() -> None:
        driver.create(_UNUSED_ID, below, None)
        driver.remove(_UNUSED_ID)

    _against(
        run, one, "prepare+remove", lambda: prepare_and_remove(store, base),
        bare.btrfs_cycle(os.path.join(one.path, "bare")), 1.5, "the two bare ioctls", alone,
    )  # fmt: skip


def _thin(run: Run, one: Ground, _say: Say) -> None:
    """Measure prepare against the bare ioctls."""
    store, base = one.store, one.empty()
    driver, below = store._core.driver, store.stat(base).id  # noqa: SLF001  # to be measured without what is around it

    def prepare() -> float:
        started = time.perf_counter()
        store.prepare("thin", base)
        taken = time.perf_counter() - started
        store.remove("thin")
        return taken

    def alone() -> float:
        started = time.perf_counter()
        driver.create(_UNUSED_ID, below, None)
        taken = time.perf_counter() - started
        driver.remove(_UNUSED_ID)
        return taken

    floor = bare.thin_prepare(driver._pool.name, below)  # type: ignore[attr-defined]  # noqa: SLF001
    calls = "the two bare messages create_snap and set_transaction_id"
    _against(run, one, "prepare", prepare, floor, 1.5, calls, alone)


def _copy(run: Run, one: Ground, _say: Say) -> None:
    """Measure prepare and remove against cp and rm."""
    store = one.volatile
    recipe = synthetic.Recipe(_COPIED_FILES, seed=run.seed)
    base = one.base("copied", lambda root: synthetic.grow(root, recipe), store=store)
    tree, target = os.path.join(one.path, "tree"), os.path.join(one.path, "target")
    os.mkdir(tree)
    synthetic.grow(tree, recipe)

    def floor() -> None:
        process(["cp", "-a", "--reflink=auto", tree, target], os.environ)
        process(["rm", "-rf", target], os.environ)

    what = f"cp -a --reflink=auto and rm -rf of the same {_COPIED_FILES} files"
    _against(run, one, "prepare+remove", lambda: prepare_and_remove(store, base), floor, 1.5, what)


def _many(run: Run, one: Ground, say: Say) -> None:
    """Measure one more snapshot beside many."""
    suites.curve(run, one, (FEW, MANY), say, ROUNDS)


def _changes(run: Run, one: Ground, _say: Say) -> None:
    """Measure changes in a small and a large tree."""
    store = one.volatile
    steps: dict[str, Step] = {}
    for files in (SMALL, LARGE):
        recipe = synthetic.Recipe(files, median_bytes=30, seed=run.seed)
        base = one.base(f"tree-{files}", lambda root, recipe=recipe: synthetic.grow(root, recipe), store=store)  # type: ignore[misc]
        key = f"edited-{files}"
        store.prepare(key, base)
        with store.mounted(key) as root:
            synthetic.edit(str(root), recipe, 10)

        def look(key: str = key) -> None:
            if sum("/file-" in change.path for change in store.changes(key)) < 10:
                raise CowstoreError(f"the changes of {key} are not complete")

        steps[str(files)] = look
    found = interleave(steps, ROUNDS // 2, seed=run.seed, warm_up=2)
    for number, values in found.items():
        run.add("changes", one.subject, "10 edits", values, files=int(number))
    small, large = found.values()
    _budget(
        run, f"{one.subject}-changes", paired_ratio(large, small), 1.3,
        f"changes of 10 edits in {LARGE} files {figure(median(large), 's')} against {SMALL} "
        f"{figure(median(small), 's')}",
    )  # fmt: skip


def _together(run: Run, one: Ground, _say: Say) -> None:
    """Measure eight processes at once against one."""
    base = one.empty()
    found = interleave(
        {
            "one": lambda: _processes(one, base, 1, _PROCESSES * _LIVES),
            "many": lambda: _processes(one, base, _PROCESSES, _LIVES),
        },
        3,
        seed=run.seed,
        warm_up=0,
    )
    for name, number in (("one", 1), ("many", _PROCESSES)):
        run.add("parallel", one.subject, f"{_PROCESSES * _LIVES} lives", found[name], processes=number)
    _budget(
        run, f"{one.subject}-parallel", paired_ratio(found["many"], found["one"]), 1.0,
        f"{_PROCESSES * _LIVES} lives in {_PROCESSES} processes at once {figure(median(found['many']), 's')} against "
        f"one after another {figure(median(found['one']), 's')}, on {len(os.sched_getaffinity(0))} processors",
    )  # fmt: skip


def _processes(one: Ground, base: str, count: int, lives: int) -> float:
    """Let processes that are all ready begin at once; returns the seconds until the last has ended."""
    with ExitStack() as stack:
        line = [sys.executable, "-c", _LIVE, str(one.store.root), base, str(lives)]
        running = []
        for _ in range(count):
            made = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            stack.enter_context(made)
            stack.callback(made.kill)
            running.append(made)
        for made in running:
            assert made.stdout is not None
            if made.stdout.readline() != b"ready\n":
                raise CowstoreError("a process of several did not start")
        started = time.perf_counter()
        for made in running:
            assert made.stdin is not None
            made.stdin.close()
        for made in running:
            assert made.stdout is not None
            if made.stdout.readline() != b"done\n":
                raise CowstoreError("a process of several did not come to its end")
        return time.perf_counter() - started


def _deep(run: Run, one: Ground, _say: Say) -> None:
    """Measure the deepest mount against mount(2) and one remount."""
    store, parent = one.volatile, None
    for number in range(_DEEPEST):
        store.prepare("draft", parent)
        parent = store.commit(f"layer-{number}", "draft").key
    store.prepare("deep", parent)
    steps, point = store.mounts("deep"), os.path.join(one.path, "point")
    os.mkdir(point)
    # Only one may have it writable, and those who asked for its mounts count.
    store.release("deep")

    def ours() -> float:
        started = time.perf_counter()
        mounted = store.mounted("deep")
        mounted.__enter__()
        taken = time.perf_counter() - started
        mounted.__exit__(None, None, None)
        return taken

    what = f"mount(2) and {len(steps) - 1} remount of {_DEEPEST} lower branches, bare,"
    _against(run, one, "mount", ours, bare.mount_steps(steps, point), 2.0, what)


_LIVE = """
import os, sys
import cowstore
with cowstore.open(sys.argv[1]) as store:
    print("ready", flush=True)
    sys.stdin.read()
    for number in range(int(sys.argv[3])):
        key = f"{os.getpid()}-{number}"
        store.prepare(key, sys.argv[2], ephemeral=True)
        with store.mounted(key):
            pass
        store.remove(key)
    print("done", flush=True)
"""

_STEPS: dict[str, dict[str, Callable[[Run, Ground, Say], None]]] = {
    "overlay": {"a life": _overlay, "many snapshots": _many, "changes": _changes},
    "btrfs": {"prepare and remove": _btrfs, "many snapshots": _many, "changes": _changes},
    "devicemapper": {"prepare": _thin, "many snapshots": _many, "processes at once": _together},
    "aufs": {"a deep mount": _deep, "many snapshots": _many, "changes": _changes},
    "copy": {"prepare and remove": _copy, "many snapshots": _many},
    "copy+reflink": {"prepare and remove": _copy, "many snapshots": _many},
}
