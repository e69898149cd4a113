"""The suite ``run``: the start of a process on a fresh snapshot, and the suite ``layers``: archives and layers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time

from cowstore.bench import machine, synthetic
from cowstore.bench.installed import Installed, interpreters, minimal_root, process
from cowstore.bench.parts import adopted, looks
from cowstore.bench.results import FLOOR
from cowstore.bench.timing import interleave, median, paired_ratio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cowstore.bench.results import Run
    from cowstore.bench.scratch import Scratch
    from cowstore.bench.workloads import Plan
    from cowstore.store import Store

    Say = Callable[[str], None]

_FROM_A_PROGRAM = """
import json, sys, threading, time
import cowstore
count = int(sys.argv[3])
times = []
with cowstore.open(sys.argv[1]) as store:
    def one():
        done = cowstore.run(store, parent=sys.argv[2], argv=["true"])
        assert done.status == 0, done
    started = time.perf_counter()
    one()
    times.append(time.perf_counter() - started)
    for _ in range(10):
        started = time.perf_counter()
        one()
        times.append(time.perf_counter() - started)
    threads = [threading.Thread(target=one) for _ in range(count)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times.append(time.perf_counter() - started)
print(json.dumps(times))
"""


def run_suite(run: Run, scratch: Scratch, say: Say, *, plan: Plan, rounds: int) -> None:
    """Measure whole processes and runs from a program, with every interpreter there is."""
    ground = scratch.ground(1 << 30, run)
    root = ground.directory("root")
    minimal_root(root)
    for python in interpreters():
        say(python)
        one = Installed(python, ground.directory("installed"))
        store = os.path.join(ground.directory("store"), "store")
        base = f"cowstore-run:{root}"
        process(one.run_command("--store", store, "--base", root, "--", "true"), one.environment)
        _processes(run, one, store, base, plan, rounds)
        _programs(run, one, store, base, plan, rounds)
    run.method.append(
        "Processes are timed from posix_spawn(3) to waitpid(2), their byte code compiled before, their files cached."
    )


def _processes(run: Run, one: Installed, store: str, base: str, plan: Plan, rounds: int) -> None:
    python, environment = one.python, one.environment

    def command(*words: str) -> Callable[[], None]:
        line = one.run_command("--store", store, "--base", base, *words, "--", "true")
        return lambda: process(line, environment)

    steps: dict[str, Callable[[], float | None]] = {
        "python -c pass": lambda: process([python, "-c", "pass"], environment),
        "import cowstore": lambda: process([python, "-c", "import cowstore; cowstore.open"], environment),
        "cowstore-run true": command(),
        "cowstore-run --read-only true": command("--read-only"),
        "cowstore-run --as-pid-1 true": command("--as-pid-1"),
        "true": lambda: process(["true"], environment),
    }
    for name, values in interleave(steps, rounds, seed=plan.seed, warm_up=2).items():
        bare_ones = name in {"true", "python -c pass"}
        run.add(
            "process", FLOOR if bare_ones else "cowstore", name, values,
            floor=None if bare_ones else FLOOR, interpreter=one.name,
        )  # fmt: skip


def _programs(run: Run, one: Installed, store: str, base: str, plan: Plan, rounds: int) -> None:
    number = plan.parallel[-1]
    first: list[float] = []
    later: list[float] = []
    together: list[float] = []
    for _ in range(max(3, rounds // 4)):
        times = json.loads(one.output("-c", _FROM_A_PROGRAM, store, base, str(number)))
        first.append(times[0])
        later.extend(times[3:-1])
        together.append(times[-1])
    run.add("cowstore.run", "cowstore", "first", first, interpreter=one.name)
    run.add("cowstore.run", "cowstore", "later", later, interpreter=one.name)
    run.add("cowstore.run", "cowstore", "at once", together, interpreter=one.name, containers=number)


def layers_suite(run: Run, scratch: Scratch, say: Say, *, plan: Plan, archive: str | None, rounds: int) -> None:
    """Measure archives and layers against GNU tar and bsdtar, and changes over a small and a large tree.

    :param archive: a root file system's tar archive; a synthetic one of the same shape by default.
    """
    import cowstore

    ground = scratch.ground(8 << 30 if plan.full else 4 << 30, run)
    tree = ground.directory("tree")
    if archive is None:
        archive = os.path.join(ground.path, "tree.tar")
        synthetic.grow(tree, synthetic.Recipe(plan.tree_files, seed=plan.seed))
        subprocess.run(["tar", "-C", tree, "-cf", archive, "."], check=True, timeout=600)
        what = "synthetic"
    else:
        what = os.path.basename(archive)
        archive = os.path.abspath(archive)
        subprocess.run(["tar", "-C", tree, "--xattrs", "--xattrs-include=*", "-xpf", archive], check=True, timeout=600)
    with cowstore.open(os.path.join(ground.directory("s"), "store"), driver="overlay", volatile=True) as store:
        store.import_tar(archive, name="tree")
        machine.forget_peak()
        for form, option in FORMS.items():
            say(f"archives: {form}")
            packed = _packed(archive, ground.path, form)
            if packed is None:
                run.absent[f"{form} archives"] = f"the program {form} is not installed"
                continue
            steps, sizes = _archive_steps(store, ground, tree, packed, form, option)
            _add_archives(run, interleave(steps, rounds, seed=plan.seed), form, what, sizes)
    peak = machine.peak_bytes() / _MIB
    if shutil.which("bsdtar") is None:
        run.absent["bsdtar"] = "not installed: apt-get install libarchive-tools"
    _changes(run, ground, say, plan)
    run.judge("memory", peak, 64.0, "peak of this process while it read and wrote archives", unit="MiB")


_MIB = 1 << 20

FORMS = {"plain": (), "gzip": ("--gzip",), "zstd": ("--zstd",)}
"""How archives are packed, and what GNU tar is told for it."""


def _packed(archive: str, directory: str, form: str) -> str | None:
    """Pack an archive with the program of that name; None where it is missing."""
    if form == "plain":
        return archive
    if shutil.which(form) is None:
        return None
    path = os.path.join(directory, f"tree.tar.{form}")
    with open(archive, "rb") as source, open(path, "wb") as target:
        subprocess.run([form, "-c"], stdin=source, stdout=target, check=True, timeout=600)
    return path


def _archive_steps(
    store: Store, ground: Scratch, tree: str, archive: str, form: str, option: tuple[str, ...]
) -> tuple[dict[str, Callable[[], float | None]], dict[str, int]]:
    """Return what reads and writes archives of one form, each as its users call it; and the sizes that are written."""
    written = os.path.join(ground.path, f"written.{form}")
    sizes: dict[str, int] = {}

    def read() -> float:
        started = time.perf_counter()
        store.import_tar(archive, name="imported")
        taken = time.perf_counter() - started
        store.remove("imported")
        return taken

    def write() -> float:
        started = time.perf_counter()
        with open(written, "wb") as file:
            store.export_layer("tree", file, compression=None if form == "plain" else form)
        taken = time.perf_counter() - started
        sizes["cowstore"] = os.stat(written).st_size
        return taken

    def tar(subject: str, *line: str) -> Callable[[], float]:
        def step() -> float:
            started = time.perf_counter()
            process([line[0], "-C", tree, *line[1:], *option, "-cf", written, "."], os.environ)
            taken = time.perf_counter() - started
            sizes[subject] = os.stat(written).st_size
            return taken

        return step

    def untar(program: str, *more: str) -> Callable[[], float]:
        def step() -> float:
            target = ground.directory("untar")
            started = time.perf_counter()
            process([program, "-C", target, *more, "-xpf", archive], os.environ)
            taken = time.perf_counter() - started
            shutil.rmtree(target)
            return taken

        return step

    steps: dict[str, Callable[[], float | None]] = {
        "import cowstore": read,
        "import GNU tar": untar("tar", "--xattrs", "--xattrs-include=*"),
        "export cowstore": write,
        "export GNU tar": tar("GNU tar", "tar", "--xattrs", "--sort=name"),
    }
    if shutil.which("bsdtar"):
        steps["import bsdtar"] = untar("bsdtar")
        steps["export bsdtar"] = tar("bsdtar", "bsdtar")
    return steps, sizes


def _add_archives(run: Run, found: Mapping[str, list[float]], form: str, what: str, sizes: Mapping[str, int]) -> None:
    """Add what was measured of one form, and its two budgets."""
    for name, values in found.items():
        verb, _, subject = name.partition(" ")
        floor = "GNU tar" if subject == "cowstore" else None
        run.add(verb, subject, f"{form} tar, unsynced", values, floor=floor, archive=what)
    for verb, limit, budget in (("import", 1.3, "apply"), ("export", 1.5, "export")):
        ratio = paired_ratio(found[f"{verb} cowstore"], found[f"{verb} GNU tar"])
        said = f"{verb} of {what}, {form}, to GNU tar"
        if verb == "export":
            said += f"; {sizes['cowstore'] / _MIB:.0f} MiB written, {sizes['GNU tar'] / _MIB:.0f} by GNU tar"
        run.judge(f"{budget}-{form}", ratio, limit, said)


def _changes(run: Run, ground: Scratch, say: Say, plan: Plan) -> None:
    import cowstore

    small = plan.base_files
    store = cowstore.open(os.path.join(ground.directory("s"), "store"), driver="overlay", volatile=True)
    with store:
        say(f"trees of {small} and {small * 10} files")
        steps = looks(store, (small, small * 10), plan.seed, adopted(store, ground))
        found = interleave(steps, 40, seed=plan.seed, warm_up=2)
    for number, values in found.items():
        run.add("changes", "overlay", "10 edits", values, files=int(number))
    ratio = median(found[str(small * 10)]) / median(found[str(small)])
    run.judge("changes", ratio, 1.3, f"changes of 10 edits in {small * 10} files against {small}")
