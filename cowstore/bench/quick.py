"""``quick``: the budgets that this project has set itself, each as a ratio taken side by side, in under a minute."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time

from cowstore.bench import bare, synthetic
from cowstore.bench.installed import Installed, interpreters, minimal_root, process
from cowstore.bench.results import FLOOR, Budget
from cowstore.bench.timing import interleave, median, paired_ratio, undisturbed
from cowstore.errors import CowstoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cowstore.bench.results import Run
    from cowstore.bench.scratch import Scratch
    from cowstore.store import Store

SIZE_BYTES = 1280 << 20
"""Room that the suite may take."""

MANY, FEW = 1000, 10
SMALL, LARGE = 8_000, 80_000
_GROUND_BYTES = 2560 << 20
_MIB = 1 << 20


class Quick:
    """The suite: one method for each budget, each adding its series and its verdict."""

    def __init__(self, run: Run, scratch: Scratch, say: Callable[[str], None]) -> None:
        self.run = run
        self.outer = scratch
        self.scratch = scratch.ground(_GROUND_BYTES, run)
        self.say = say

    def all(self) -> None:
        """Measure everything that this machine can."""
        if os.geteuid() != 0:
            self.run.absent["overlay in process"] = "only root can mount here; run as root for these budgets"
        steps: list[tuple[str, Callable[[], None], bool]] = [
            ("a life of an overlay snapshot", self.cycle, True),
            (f"{MANY} snapshots against {FEW}", self.many, True),
            ("prepare and remove of a Btrfs snapshot", self.btrfs, True),
            ("a tar archive in, a layer out", self.archives, True),
            ("changes in a small and a large tree", self.changes, True),
            ("processes", self.processes, True),
        ]
        for name, step, needs_root in steps:
            if needs_root and os.geteuid() != 0:
                continue
            self.say(name)
            with undisturbed():
                step()

    # In process.

    def cycle(self) -> None:
        """One throw-away snapshot from prepare to remove, and prepare and remove alone."""
        store = self._store("cycle", volatile=False)
        loose = self._store("volatile", volatile=True)
        floor = bare.overlay_cycle(self.scratch.directory("bare"), self.scratch.directory("lower"))
        directories = bare.directories_cycle(self.scratch.directory("bare"))
        catalog = self._store("catalog", volatile=False)
        found = interleave(
            {
                "cowstore": lambda: live(store),
                "bare": floor,
                "catalog": lambda: catalog_cycle(catalog),
                "volatile": lambda: prepare_and_remove(loose),
                "durable": lambda: prepare_and_remove(store),
                "directories": directories,
            },
            200,
            seed=self.run.seed,
            warm_up=10,
        )
        add = self.run.add
        add("throw-away", "cowstore", "prepare+mount+unmount+remove", found["cowstore"], floor=FLOOR)
        add("throw-away", FLOOR, "prepare+mount+unmount+remove", found["bare"])
        add("throw-away", "catalog alone", "prepare+mount+unmount+remove", found["catalog"])
        add("snapshot", "cowstore", "prepare+remove", found["volatile"], floor=FLOOR, notes=["without syncs"])
        add("snapshot", "cowstore", "prepare+remove, synced", found["durable"])
        add("snapshot", FLOOR, "prepare+remove", found["directories"])
        below = median(found["bare"]) + median(found["catalog"])
        self._budget(
            "overlay-life", median(found["cowstore"]) / below, 2.0, "x",
            f"prepare, mount, unmount, remove {_us(found['cowstore'])} against the bare calls "
            f"{_us(found['bare'])} and the catalog's transactions {_us(found['catalog'])}",
        )  # fmt: skip
        syncs = median(found["durable"]) - median(found["volatile"])
        self._budget(
            "prepare-remove", median(found["volatile"]) * 1e3, 0.5, "ms",
            f"prepare and remove without the catalog's syncs (those take {syncs * 1e6:.0f} µs more); "
            f"bare directories {_us(found['directories'])}",
        )  # fmt: skip
        for one in (store, loose, catalog):
            one.close()

    def many(self) -> None:
        """The same life in a store of many snapshots and in one of few."""
        stores = {number: self._store(f"with-{number}", volatile=True) for number in (FEW, MANY)}
        for number, store in stores.items():
            for one in range(number):
                store.prepare(f"sleeper-{one}", "base")
        found = interleave(
            {str(number): (lambda store=store: live(store)) for number, store in stores.items()},  # type: ignore[misc]
            150,
            seed=self.run.seed,
            warm_up=5,
        )
        for number in stores:
            self.run.add("population", "cowstore", "life of one more", found[str(number)], snapshots=number)
        self._budget(
            "population", paired_ratio(found[str(MANY)], found[str(FEW)]), 1.2, "x",
            f"one more life beside {MANY} snapshots {_us(found[str(MANY)])} against {FEW} {_us(found[str(FEW)])}",
        )  # fmt: skip
        for store in stores.values():
            store.close()

    def btrfs(self) -> None:
        """Prepare and remove on a Btrfs of the suite's own, against the two ioctls."""
        import cowstore

        try:
            point = self.outer.file_system("btrfs", 256 << 20, "btrfs")
            store = cowstore.open(os.path.join(point, "store"), driver="btrfs", volatile=True)
        except (CowstoreError, OSError) as error:
            self.run.absent["btrfs"] = str(error)
            return
        store.prepare("draft")
        store.commit("base", "draft")
        os.mkdir(os.path.join(point, "bare"))
        floor = bare.btrfs_cycle(os.path.join(point, "bare"))
        found = interleave(
            {"cowstore": lambda: prepare_and_remove(store), "bare": floor}, 100, seed=self.run.seed, warm_up=5
        )
        self.run.add("snapshot", "btrfs", "prepare+remove", found["cowstore"], floor=FLOOR)
        self.run.add("snapshot", "bare ioctls (btrfs)", "prepare+remove", found["bare"])
        self._budget(
            "btrfs-prepare-remove", paired_ratio(found["cowstore"], found["bare"]), 1.5, "x",
            f"prepare and remove {_us(found['cowstore'])} against the bare ioctls {_us(found['bare'])}",
        )  # fmt: skip
        store.close()

    # Archives.

    def archives(self) -> None:
        """A root file system's archive read, and a layer written, against GNU tar."""
        if shutil.which("tar") is None:
            self.run.absent["GNU tar"] = "not installed: apt-get install tar"
            return
        tree, archive = self.scratch.directory("tree"), os.path.join(self.scratch.path, "tree.tar")
        synthetic.grow(tree, synthetic.Recipe(1500, seed=self.run.seed))
        subprocess.run(["tar", "-C", tree, "-cf", archive, "."], check=True)
        store = self._store("archives", volatile=True)
        numbers = iter(range(1 << 30))
        written = os.path.join(self.scratch.path, "written.tar")

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
        found = interleave({"read": read, "untar": untar, "write": write, "tar": tar}, 9, seed=self.run.seed)
        size = os.stat(archive).st_size
        for workload, ours, theirs, limit, name in (
            ("import", "read", "untar", 1.3, "apply"),
            ("export", "write", "tar", 1.5, "export"),
        ):
            self.run.add(workload, "cowstore", "tar", found[ours], floor="GNU tar", bytes=size)
            self.run.add(workload, "GNU tar", "tar", found[theirs], bytes=size)
            self._budget(
                name, paired_ratio(found[ours], found[theirs]), limit, "x",
                f"{workload} of 1500 files, {size / _MIB:.0f} MiB, unsynced {_ms(found[ours])} against GNU tar "
                f"{_ms(found[theirs])}",
            )  # fmt: skip
        store.close()

    def changes(self) -> None:
        """Changes after ten edits over a small and a large tree."""
        store = self._store("changes", volatile=True)
        steps: dict[str, Callable[[], None]] = {}
        for files in (SMALL, LARGE):
            recipe = synthetic.Recipe(files, median_bytes=30, seed=self.run.seed)
            tree = self.scratch.directory("tree")
            synthetic.grow(tree, recipe)
            store.adopt(f"tree-{files}", tree)
            store.prepare(f"edited-{files}", f"tree-{files}")
            with store.mounted(f"edited-{files}") as root:
                synthetic.edit(str(root), recipe, 10)

            def look(key: str = f"edited-{files}") -> None:
                if sum(change.kind != "modified" for change in store.changes(key)) < 6:
                    raise CowstoreError(f"the changes of {key} are not complete")

            steps[str(files)] = look
        found = interleave(steps, 40, seed=self.run.seed, warm_up=2)
        for number, values in found.items():
            self.run.add("changes", "cowstore", "10 edits", values, files=int(number))
        small, large = found.values()
        self._budget(
            "changes", paired_ratio(large, small), 1.3, "x",
            f"changes of 10 edits in {LARGE} files {_us(large)} against {SMALL} {_us(small)}",
        )  # fmt: skip
        store.close()

    # Processes.

    def processes(self) -> None:
        """Whole processes, as an installed user has them: an import, a run on an existing base, runs from a program."""
        root = self.scratch.directory("root")
        minimal_root(root)
        for python in interpreters():
            try:
                with_it = Installed(python, self.scratch.directory("installed"))
            except CowstoreError as error:
                self.run.absent[python] = str(error)
                continue
            store = os.path.join(self.scratch.directory("runs"), "store")
            process(with_it.run_command("--store", store, "--base", root, "--", "true"), with_it.environment)
            self._commands(with_it, store, root)
            self._from_a_program(with_it, store, f"cowstore-run:{root}")
            if python == sys.executable:
                self._memory(with_it)

    def _commands(self, with_it: Installed, store: str, root: str) -> None:
        environment, python = with_it.environment, with_it.python
        command = with_it.run_command("--store", store, "--base", f"cowstore-run:{root}", "--", "true")
        found = interleave(
            {
                "pass": lambda: process([python, "-c", "pass"], environment),
                "import": lambda: process([python, "-c", "import cowstore; cowstore.open"], environment),
                "run": lambda: process(command, environment),
            },
            20,
            seed=self.run.seed,
            warm_up=2,
        )
        where = with_it.name
        self.run.add("process", FLOOR, "python -c pass", found["pass"], interpreter=where)
        self.run.add("process", "cowstore", "import", found["import"], floor=FLOOR, interpreter=where)
        self.run.add("process", "cowstore-run", "true", found["run"], floor=FLOOR, interpreter=where)
        floor = median(found["pass"])
        for name, what, limit in (("run", "cowstore-run -- true", 25.0), ("import", "import cowstore", 25.0)):
            above = (median(found[name]) - floor) * 1e3
            self._budget(
                f"{name}-process", above, limit, "ms",
                f"{what} {_ms(found[name])} less python -c pass {_ms(found['pass'])} of {with_it.name}",
            )  # fmt: skip

    def _from_a_program(self, with_it: Installed, store: str, base: str) -> None:
        first: list[float] = []
        warm: list[float] = []
        for _ in range(6):
            times = json.loads(with_it.output("-c", _RUNS, store, base))
            first.append(times[0])
            # The second may still be waiting for what the first one has started.
            warm.extend(times[3:])
        self.run.add("cowstore.run", "cowstore", "first", first, interpreter=with_it.name)
        self.run.add("cowstore.run", "cowstore", "later", warm, interpreter=with_it.name)
        self._budget("run-first", median(first) * 1e3, 25.0, "ms", f"first cowstore.run of true, {with_it.name}")
        self._budget("run-later", median(warm) * 1e3, 6.0, "ms", f"later cowstore.run of true, {with_it.name}")

    def _memory(self, with_it: Installed) -> None:
        """The most memory that a process needs which imports an archive with one large file, and exports it."""
        tree, archive = self.scratch.directory("large"), os.path.join(self.scratch.path, "large.tar")
        with open(os.path.join(tree, "large"), "wb") as file:
            file.writelines(os.urandom(_MIB) for _ in range(96))
        process(["tar", "-C", tree, "-cf", archive, "."], os.environ)
        store = os.path.join(self.scratch.directory("memory"), "store")
        peak = float(with_it.output("-c", _MEMORY, store, archive))
        self.run.add("memory", "cowstore", "import+export of 96 MiB", [peak], unit="B")
        self._budget("memory", peak / _MIB, 64.0, "MiB", "peak of a process that imports and exports a 96 MiB file")

    # Parts.

    def _store(self, name: str, *, volatile: bool) -> Store:
        """Open a new overlay store with one committed snapshot, ``base``."""
        import cowstore

        store = cowstore.open(os.path.join(self.scratch.directory(name), "store"), driver="overlay", volatile=volatile)
        store.prepare("draft")
        store.commit("base", "draft")
        return store

    def _budget(self, name: str, value: float, limit: float, unit: str, what: str) -> None:
        self.run.budgets.append(Budget(name=name, value=round(value, 3), limit=limit, unit=unit, what=what))


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


def _us(values: Sequence[float]) -> str:
    return f"{median(values) * 1e6:.0f} µs"


def _ms(values: Sequence[float]) -> str:
    return f"{median(values) * 1e3:.1f} ms"


_RUNS = """
import json, sys, time
import cowstore
times = []
with cowstore.open(sys.argv[1]) as store:
    for _ in range(12):
        started = time.perf_counter()
        done = cowstore.run(store, parent=sys.argv[2], argv=["true"])
        times.append(time.perf_counter() - started)
        assert done.status == 0, done
print(json.dumps(times))
"""

_MEMORY = """
import sys
import cowstore
from cowstore.bench.machine import peak_bytes
with cowstore.open(sys.argv[1], driver="overlay", volatile=True) as store:
    store.import_tar(sys.argv[2], name="large")
    with open(sys.argv[1] + ".layer", "wb") as file:
        store.export_layer("large", file, compression="gzip")
print(peak_bytes())
"""
