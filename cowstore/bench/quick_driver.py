"""``quick --driver``: the budgets of one driver, each a ratio to the bare calls that it cannot do without."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial

from cowstore.bench import bare, synthetic
from cowstore.bench.grounds import ground
from cowstore.bench.installed import process
from cowstore.bench.parts import Parts, looks, measure, took
from cowstore.bench.quick import FEW, LARGE, MANY, SMALL, catalog_cycle, live, prepare_and_remove
from cowstore.bench.results import FLOOR
from cowstore.errors import CowstoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cowstore.bench.grounds import Ground
    from cowstore.bench.parts import Part
    from cowstore.bench.results import Run
    from cowstore.bench.scratch import Scratch
    from cowstore.bench.timing import Step

    Say = Callable[[str], None]

SIZE_BYTES = {"devicemapper": 768 << 20}
"""Room that a driver's budgets may take, where that is less than :data:`cowstore.bench.quick.SIZE_BYTES`."""

_GROUND_BYTES = {"devicemapper": 1 << 30}
_LARGE_GROUND_BYTES = 3 << 30
ROUNDS = 12
"""In each pass."""
_PROCESSES, _LIVES = 8, 5
_COPIED_FILES = 300
_UNUSED_ID = 9_999_999
"""An id that the store does not come to use in a run."""
_DEEPEST = 126
"""Lower branches of the deepest AUFS that is mounted."""


def measure_driver(run: Run, scratch: Scratch, say: Say, subject: str, chosen: Sequence[str] = ()) -> None:
    """Measure the budgets of one driver.

    :param chosen: the names of its parts that are measured; all if empty.
    :raises CowstoreError: it does not work here; says why.
    """
    with ground(subject, scratch, _GROUND_BYTES.get(subject, _LARGE_GROUND_BYTES)) as one:
        made = Driver(run, scratch, one, say)
        parts = {
            f"{subject}: {name}": partial(part, made)
            for name, part in PARTS[subject].items()
            if name in (chosen or PARTS[subject])
        }
        measure(run, parts, say)
    run.method.append(f"{subject} on a fresh file system of its own on a loop device over a sparse file.")


class Driver(Parts):
    """The parts that drivers are measured by, each on the same ground."""

    def __init__(self, run: Run, scratch: Scratch, one: Ground, say: Say) -> None:
        super().__init__(run, scratch)
        self.one = one
        self.say = say

    def _against(
        self, phase: str, ours: Step, floor: Step, limit: float, calls: str, driver: Step | None = None
    ) -> Part:  # fmt: skip
        """Measure one thing beside its floor, in turns, and judge it.

        :param driver: what of it the driver does, without the store around it; shown beside it.
        """
        subject = self.one.subject
        found = self.passes({"ours": ours, "floor": floor, **({"driver": driver} if driver else {})}, ROUNDS)
        yield found
        self.add("snapshot", subject, phase, found, "ours", floor=FLOOR)
        self.add("snapshot", FLOOR, phase, found, "floor")
        what = f"{phase} {took(found, 'ours')}"
        if driver:
            self.add("snapshot", f"{subject} without the store", phase, found, "driver", floor=FLOOR)
            what += f" (the driver alone {took(found, 'driver')})"
        self.run.judge(
            f"{subject}-{phase.replace('+', '-')}", found.figure(lambda of: of["ours"] / of["floor"]), limit,
            f"{what} against {calls} {took(found, 'floor')}",
        )  # fmt: skip

    def overlay(self) -> Part:
        """A life against the bare calls."""
        store, one = self.one.volatile, self.one
        one.base("base", lambda _root: None, store=store)
        beside = [os.path.join(one.path, name) for name in ("bare", "lower")]
        for path in beside:
            os.mkdir(path)
        found = self.passes(
            {
                "ours": lambda: live(store, "base-base"),
                "floor": bare.overlay_cycle(*beside),
                "catalog": lambda: catalog_cycle(store, "base-base"),
            },
            ROUNDS,
        )
        yield found
        phase = "prepare+mount+unmount+remove"
        self.add("snapshot", one.subject, phase, found, "ours", floor=FLOOR)
        self.add("snapshot", FLOOR, phase, found, "floor")
        self.add("snapshot", "catalog alone", phase, found, "catalog")
        self.run.judge(
            f"{one.subject}-life", found.figure(lambda of: of["ours"] / (of["floor"] + of["catalog"])), 2.0,
            f"prepare, mount, unmount, remove {took(found, 'ours')} against the bare calls {took(found, 'floor')} and "
            f"the catalog's transactions {took(found, 'catalog')}",
        )  # fmt: skip

    def btrfs(self) -> Part:
        """Prepare and remove against the bare ioctls."""
        one, store = self.one, self.one.volatile
        base = one.empty(store=store)
        driver = store._core.driver  # noqa: SLF001  # to be measured without what is around it
        below = store.stat(base).id
        os.mkdir(os.path.join(one.path, "bare"))

        def alone() -> None:
            driver.create(_UNUSED_ID, below, None)
            driver.remove(_UNUSED_ID)

        return self._against(
            "prepare+remove", lambda: prepare_and_remove(store, base),
            bare.btrfs_cycle(os.path.join(one.path, "bare")), 1.5, "the two bare ioctls", alone,
        )  # fmt: skip

    def thin(self) -> Part:
        """Prepare against the bare ioctls."""
        store, base = self.one.store, self.one.empty()
        driver = store._core.driver  # noqa: SLF001  # to be measured without what is around it
        below = store.stat(base).id

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
        return self._against("prepare", prepare, floor, 1.5, calls, alone)

    def copy(self) -> Part:
        """Prepare and remove against cp and rm."""
        one, store = self.one, self.one.volatile
        recipe = synthetic.Recipe(_COPIED_FILES, seed=self.run.seed)
        base = one.base("copied", lambda root: synthetic.grow(root, recipe), store=store)
        tree, target = os.path.join(one.path, "tree"), os.path.join(one.path, "target")
        os.mkdir(tree)
        synthetic.grow(tree, recipe)

        def floor() -> None:
            process(["cp", "-a", "--reflink=auto", tree, target], os.environ)
            process(["rm", "-rf", target], os.environ)

        what = f"cp -a --reflink=auto and rm -rf of the same {_COPIED_FILES} files"
        return self._against("prepare+remove", lambda: prepare_and_remove(store, base), floor, 1.5, what)

    def many(self) -> Part:
        """One more life beside many snapshots, against one beside few."""
        few, store, base = self.one.other("few"), self.one.store, self.one.empty()
        self.one.empty(store=few)
        for place, number in ((few, FEW), (store, MANY)):
            for sleeper in range(number):
                place.prepare(f"sleeper-{sleeper}", base)
        found = self.passes({"few": lambda: live(few, base), "many": lambda: live(store, base)}, ROUNDS)
        yield found
        for name, number in (("few", FEW), ("many", MANY)):
            self.add("population", self.one.subject, "life", found, name, snapshots=number)
        self.run.judge(
            f"population-{self.one.subject}", found.figure(lambda of: of["many"] / of["few"]), 1.2,
            f"a life beside {MANY} snapshots {took(found, 'many')} against {FEW} {took(found, 'few')}",
        )  # fmt: skip

    def changes(self) -> Part:
        """Changes in a small and a large tree."""
        one, store = self.one, self.one.volatile

        def commit(name: str, recipe: synthetic.Recipe) -> str:
            return one.base(name, lambda root: synthetic.grow(root, recipe), store=store)

        steps = looks(store, (SMALL, LARGE), self.run.seed, commit)
        return self.told(f"{one.subject}-changes", one.subject, steps, max(1, ROUNDS // 2))

    def together(self) -> Part:
        """Eight processes at once against one."""
        one, base = self.one, self.one.empty()
        found = self.passes(
            {
                "one": lambda: _processes(one, base, 1, _PROCESSES * _LIVES),
                "many": lambda: _processes(one, base, _PROCESSES, _LIVES),
            },
            1,
            warm_up=0,
        )
        yield found
        for name, number in (("one", 1), ("many", _PROCESSES)):
            self.add("parallel", one.subject, f"{_PROCESSES * _LIVES} lives", found, name, processes=number)
        self.run.judge(
            f"{one.subject}-parallel", found.figure(lambda of: of["many"] / of["one"]), 1.0,
            f"{_PROCESSES * _LIVES} lives in {_PROCESSES} processes at once {took(found, 'many')} against one after "
            f"another {took(found, 'one')}, on {len(os.sched_getaffinity(0))} processors",
        )  # fmt: skip

    def deep(self) -> Part:
        """The deepest mount against mount(2) and one remount."""
        store, one = self.one.volatile, self.one
        parent = None
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
        return self._against("mount", ours, bare.mount_steps(steps, point), 2.0, what)


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

PARTS: dict[str, dict[str, Callable[[Driver], Part]]] = {
    "overlay": {"a life": Driver.overlay, "many snapshots": Driver.many, "changes": Driver.changes},
    "btrfs": {"prepare and remove": Driver.btrfs, "many snapshots": Driver.many, "changes": Driver.changes},
    "devicemapper": {
        "prepare": Driver.thin,
        "many snapshots": Driver.many,
        "processes at once": Driver.together,
        "changes": Driver.changes,
    },
    "aufs": {"a deep mount": Driver.deep, "many snapshots": Driver.many, "changes": Driver.changes},
    "copy": {"prepare and remove": Driver.copy, "many snapshots": Driver.many},
    "copy+reflink": {"prepare and remove": Driver.copy, "many snapshots": Driver.many},
}
"""The parts of each driver's budgets, by their names."""
