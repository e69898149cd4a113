"""``quick``: the budgets that this project has set itself, each as a ratio taken side by side, in under a minute."""

from __future__ import annotations

import os
import shutil
import subprocess
import time

from cowstore.bench import bare, synthetic
from cowstore.bench.installed import process
from cowstore.bench.parts import Parts, adopted, looks, measure, took
from cowstore.bench.quick_programs import Programs
from cowstore.bench.results import FLOOR
from cowstore.bench.timing import median
from cowstore.errors import CowstoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cowstore.bench.parts import Part
    from cowstore.bench.results import Run
    from cowstore.bench.scratch import Scratch
    from cowstore.store import Store

SIZE_BYTES = 1280 << 20
"""Room that the suite may take."""

MANY, FEW = 1000, 10
SMALL, LARGE = 8_000, 80_000
_GROUND_BYTES = 2560 << 20
_MIB = 1 << 20


class Quick(Parts):
    """The suite, but for whole processes."""

    def __init__(self, run: Run, scratch: Scratch, say: Callable[[str], None]) -> None:
        super().__init__(run, scratch.ground(_GROUND_BYTES, run))
        self.outer = scratch
        self.say = say

    def all(self) -> None:
        """Measure everything that this machine can."""
        parts: dict[str, Callable[[], Part]] = {
            "a life of an overlay snapshot": self.cycle,
            f"{MANY} snapshots against {FEW}": self.many,
            "prepare and remove of a Btrfs snapshot": self.btrfs,
            "a tar archive in, a layer out": self.archives,
            "changes in a small and a large tree": self.changes,
        }
        if os.geteuid() != 0:
            # Their floors are calls that only root may make, or their times mostly those of the helper that mounts.
            for name in parts:
                self.run.absent[name] = "measured for root only; the processes below are measured for everybody"
            parts = {}
        parts |= Programs(self.run, self.scratch).all()
        measure(self.run, parts, self.say)

    # In process.

    def cycle(self) -> Part:
        """One throw-away snapshot from prepare to remove, and prepare and remove alone."""
        with (
            self._store("cycle") as store,
            self._store("volatile", volatile=True) as loose,
            self._store("catalog") as catalog,
        ):
            found = self.passes(
                {
                    "cowstore": lambda: live(store),
                    "bare": bare.overlay_cycle(self.scratch.directory("bare"), self.scratch.directory("lower")),
                    "catalog": lambda: catalog_cycle(catalog),
                    "volatile": lambda: prepare_and_remove(loose),
                    "durable": lambda: prepare_and_remove(store),
                    "directories": bare.directories_cycle(self.scratch.directory("bare")),
                },
                40,
            )
            yield found
        whole = "prepare+mount+unmount+remove"
        self.add("throw-away", "cowstore", whole, found, "cowstore", floor=FLOOR)
        self.add("throw-away", FLOOR, whole, found, "bare")
        self.add("throw-away", "catalog alone", whole, found, "catalog")
        self.add("snapshot", "cowstore", "prepare+remove", found, "volatile", floor=FLOOR, notes=["without syncs"])
        self.add("snapshot", "cowstore", "prepare+remove, synced", found, "durable")
        self.add("snapshot", FLOOR, "prepare+remove", found, "directories")
        self.run.judge(
            "overlay-life", found.figure(lambda of: of["cowstore"] / (of["bare"] + of["catalog"])), 2.0,
            f"prepare, mount, unmount, remove {took(found, 'cowstore')} against the bare calls "
            f"{took(found, 'bare')} and the catalog's transactions {took(found, 'catalog')}",
        )  # fmt: skip
        syncs = median(found.found["durable"]) - median(found.found["volatile"])
        self.run.judge(
            "prepare-remove", found.figure(lambda of: of["volatile"] * 1e3), 0.5,
            f"prepare and remove without the catalog's syncs (those take {syncs * 1e6:.0f} µs more); "
            f"bare directories {took(found, 'directories')}", unit="ms",
        )  # fmt: skip

    def many(self) -> Part:
        """The same life in a store of many snapshots and in one of few."""
        with self._store("few", volatile=True) as few, self._store("many", volatile=True) as many:
            for store, number in ((few, FEW), (many, MANY)):
                for one in range(number):
                    store.prepare(f"sleeper-{one}", "base")
            floor = bare.overlay_cycle(self.scratch.directory("bare"), self.scratch.directory("lower"))
            found = self.passes({"few": lambda: live(few), "many": lambda: live(many), "bare": floor}, 30)
            yield found
        phase = "life of one more"
        self.add("population", "cowstore", phase, found, "few", floor=FLOOR, snapshots=FEW)
        self.add("population", "cowstore", phase, found, "many", floor=FLOOR, snapshots=MANY)
        for number in (FEW, MANY):
            self.add("population", FLOOR, phase, found, "bare", snapshots=number)
        self.run.judge(
            "population", found.figure(lambda of: of["many"] / of["few"]), 1.2,
            f"one more life beside {MANY} snapshots {took(found, 'many')} against {FEW} {took(found, 'few')}",
        )  # fmt: skip

    def btrfs(self) -> Part:
        """Prepare and remove on a Btrfs of the suite's own, against the two ioctls."""
        import cowstore

        try:
            point = self.outer.file_system("btrfs", 256 << 20, "btrfs")
            store = cowstore.open(os.path.join(point, "store"), driver="btrfs", volatile=True)
        except (CowstoreError, OSError) as error:
            self.run.absent["btrfs"] = str(error)
            return
        with store:
            store.prepare("draft")
            store.commit("base", "draft")
            os.mkdir(os.path.join(point, "bare"))
            floor = bare.btrfs_cycle(os.path.join(point, "bare"))
            found = self.passes({"cowstore": lambda: prepare_and_remove(store), "bare": floor}, 20)
            yield found
        self.add("snapshot", "btrfs", "prepare+remove", found, "cowstore", floor="bare ioctls (btrfs)")
        self.add("snapshot", "bare ioctls (btrfs)", "prepare+remove", found, "bare")
        self.run.judge(
            "btrfs-prepare-remove", found.figure(_ratio), 1.5,
            f"prepare and remove {took(found, 'cowstore')} against the bare ioctls {took(found, 'bare')}",
        )  # fmt: skip

    # Archives.

    def archives(self) -> Part:
        """A root file system's archive read, and a layer written, against GNU tar."""
        if shutil.which("tar") is None:
            self.run.absent["GNU tar"] = "not installed: apt-get install tar"
            return
        tree, archive = self.scratch.directory("tree"), os.path.join(self.scratch.path, "tree.tar")
        synthetic.grow(tree, synthetic.Recipe(1500, seed=self.run.seed))
        subprocess.run(["tar", "-C", tree, "-cf", archive, "."], check=True)
        numbers = iter(range(1 << 30))
        written = os.path.join(self.scratch.path, "written.tar")
        with self._store("archives", volatile=True) as store:

            def read() -> float:
                # Nothing is removed in between: ext4 is slow where inodes have just been freed.
                started = time.perf_counter()
                store.import_tar(archive, name=f"imported-{next(numbers)}")
                return time.perf_counter() - started

            def untar() -> float:
                target = self.scratch.directory("untar")
                started = time.perf_counter()
                process(["tar", "-C", target, "--xattrs", "--xattrs-include=*", "-xpf", archive], os.environ)
                return time.perf_counter() - started

            def write() -> None:
                with open(written, "wb") as file:
                    store.export_layer("tree", file)

            def tar() -> None:
                process(["tar", "-C", tree, "--xattrs", "--sort=name", "-cf", written, "."], os.environ)

            store.import_tar(archive, name="tree")
            # What came first in a pass would find the caches that others have left: one round does not count.
            found = self.passes({"read": read, "untar": untar, "write": write, "tar": tar}, 2, warm_up=1)
            yield found
        size = os.stat(archive).st_size
        for workload, ours, theirs, limit, name in (
            ("import", "read", "untar", 1.3, "apply"),
            ("export", "write", "tar", 1.5, "export"),
        ):
            self.add(workload, "cowstore", "tar", found, ours, floor="GNU tar", bytes=size)
            self.add(workload, "GNU tar", "tar", found, theirs, bytes=size)
            self.run.judge(
                name, found.figure(lambda of, ours=ours, theirs=theirs: of[ours] / of[theirs]), limit,  # type: ignore[misc]
                f"{workload} of 1500 files, {size / _MIB:.0f} MiB, unsynced {took(found, ours)} against GNU tar "
                f"{took(found, theirs)}",
            )  # fmt: skip

    def changes(self) -> Part:
        """Changes after ten edits over a small and a large tree."""
        with self._store("changes", volatile=True) as store:
            steps = looks(store, (SMALL, LARGE), self.run.seed, adopted(store, self.scratch))
            yield from self.told("changes", "cowstore", steps, 10)

    def _store(self, name: str, *, volatile: bool = False) -> Store:
        """Open a new overlay store with one committed snapshot, ``base``."""
        import cowstore

        store = cowstore.open(os.path.join(self.scratch.directory(name), "store"), driver="overlay", volatile=volatile)
        store.prepare("draft")
        store.commit("base", "draft")
        return store


def _ratio(of: Mapping[str, float]) -> float:
    return of["cowstore"] / of["bare"]


def live(store: Store, base: str = "base") -> None:
    """Let one throw-away snapshot live: prepare, mount, unmount, remove."""
    store.prepare("life", base, ephemeral=True)
    with store.mounted("life"):
        pass
    store.remove("life")


def prepare_and_remove(store: Store, base: str = "base") -> None:
    """Make one snapshot and remove it."""
    store.prepare("life", base)
    store.remove("life")


def catalog_cycle(store: Store, base: str = "base") -> None:
    """Do what the catalog does in the life of a throw-away snapshot, and nothing else."""
    from cowstore.model import Kind

    core = store._core  # noqa: SLF001  # the catalog is measured without what is around it
    catalog, owner = core.catalog, core.own("measure")
    row = catalog.begin("life", Kind.ACTIVE, base, labels="{}", owner=owner, ephemeral=True)
    catalog.ready(row)
    catalog.get("life")
    catalog.find("life")
    catalog.attached(row.id)
    catalog.begin_remove(row, owner=owner)
    catalog.drop(row.id)
