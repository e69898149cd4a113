"""The suites ``drivers``, ``scale``, ``run`` and ``layers``: workloads over drivers, interleaved."""

from __future__ import annotations

import os
import random
from contextlib import ExitStack

from cowstore._linux.procfs import ACCOUNTS, accounts
from cowstore.bench import floors
from cowstore.bench.grounds import SUBJECTS, ground
from cowstore.bench.results import LESS, MORE, Series
from cowstore.bench.timing import Stopwatch, median, paired_ratio, undisturbed
from cowstore.bench.words import figure
from cowstore.bench.work_files import CACHED, SHARE
from cowstore.bench.workloads import Plan, load_all
from cowstore.errors import CowstoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from cowstore.bench.grounds import Ground
    from cowstore.bench.results import Parameter, Run
    from cowstore.bench.scratch import Scratch
    from cowstore.store import Store

    Say = Callable[[str], None]

GROUND_BYTES = {False: 3 << 30, True: 12 << 30}
"""Size of each driver's file system; the file below it is sparse."""

_COUNTED = {"bytes taken per byte changed": ("1", LESS), SHARE: ("1", MORE), CACHED: ("B", LESS)}
"""Phases that are no times, their unit, and which way is better."""

_POPULATIONS = (10, 30, 100, 300, 1000, 3000, 10000)
_LIVES = 60


def pick(names: Iterable[str], known: Iterable[str], what: str) -> list[str]:
    """Return the names asked for, in the order that they are known in; all, if none is.

    :raises CowstoreError: one is not known.
    """
    known = list(known)
    wanted = list(names)
    for name in wanted:
        if name not in known:
            raise CowstoreError(f"there is no {what} {name!r}; there are: {', '.join(known)}")
    return [name for name in known if name in wanted] if wanted else known


def drivers(
    run: Run, scratch: Scratch, say: Say, *, plan: Plan, subjects: Sequence[str], works: Sequence[str], rounds: int
) -> None:
    """Run the workloads on every driver that works here, and the floors beside them."""
    known = load_all()
    works = pick(works, known, "workload")
    with ExitStack() as stack:
        grounds = _grounds(run, scratch, say, stack, pick(subjects, SUBJECTS, "driver"), GROUND_BYTES[plan.full])
        if not grounds:
            raise CowstoreError("no driver works here: " + "; ".join(f"{k}: {v}" for k, v in run.absent.items()))
        for name in works:
            say(name)
            _workload(run, grounds, name, plan, rounds)
        say("floors")
        try:
            floors.measure(run, scratch, plan)
            for one in grounds:
                floors.of_driver(run, one, plan)
        except (CowstoreError, OSError) as error:
            run.absent["floors"] = " ".join(str(error).split())
    run.method += [f"{name}: {known[name].sync}." for name in works]
    run.method.append(
        f"Every workload ran {rounds} times after one that does not count, the drivers in a new order each time, each "
        "on a fresh file system of its own on a loop device over a sparse file."
    )
    run.method.append(
        "Warm figures follow a first pass over the same files; cold ones the kernel's emptying of its caches."
        if plan.cold
        else "Warm figures only: the caches were not emptied (asked not to, or not root)."
    )


def _grounds(
    run: Run, scratch: Scratch, say: Say, stack: ExitStack, subjects: Sequence[str], size_bytes: int
) -> list[Ground]:
    found = []
    for subject in subjects:
        say(f"making room for {subject}")
        try:
            found.append(stack.enter_context(ground(subject, scratch, size_bytes)))
        except (CowstoreError, OSError, ModuleNotFoundError) as error:
            run.absent[subject] = " ".join(str(error).split())
    return found


def _workload(run: Run, grounds: list[Ground], name: str, plan: Plan, rounds: int) -> None:
    work = load_all()[name].work
    chance = random.Random(plan.seed)  # noqa: S311  # an order that can be had again
    watches = {one.subject: Stopwatch() for one in grounds}
    broken: set[str] = set()
    for number in range(-1, rounds):
        chance.shuffle(grounds)
        for one in grounds:
            if one.subject in broken:
                continue
            try:
                with undisturbed():
                    # The first time makes the bases, and does not count.
                    work(one, watches[one.subject] if number >= 0 else Stopwatch(), plan)
            except (CowstoreError, OSError) as error:
                broken.add(one.subject)
                run.absent[f"{one.subject}: {name}"] = " ".join(str(error).split())
    for one in sorted(grounds, key=lambda ground: list(SUBJECTS).index(ground.subject)):
        if one.subject not in broken:
            record(run, name, one.subject, watches[one.subject])


def record(run: Run, workload: str, subject: str, watch: Stopwatch, *, floor: str | None = None) -> None:
    """Add what a stopwatch has seen; ``phase|name=value;name=value`` carries parameters."""
    for phase, values in watch.phases.items():
        name, _, given = phase.partition("|")
        parameters: dict[str, Parameter] = {}
        for pair in given.split(";") if given else ():
            key, _, value = pair.partition("=")
            parameters[key] = int(value) if value.isdigit() else value
        unit, better = _COUNTED.get(name, ("s", LESS))
        run.series.append(
            Series(
                workload=workload,
                subject=subject,
                phase=name,
                values=tuple(values),
                unit=unit,
                better=better,
                parameters=parameters,
                floor=floor,
            )
        )


# Scale.


def scale(run: Run, scratch: Scratch, say: Say, *, subjects: Sequence[str], most: int, rounds: int = _LIVES) -> None:
    """Measure one more life beside ever more snapshots, for every driver.

    :param most: snapshots at the end of the curve.
    """
    steps = [number for number in _POPULATIONS if number < most] + [most]
    for subject in pick(subjects, SUBJECTS, "driver"):
        say(f"{subject}, {most} snapshots")
        try:
            with ground(subject, scratch, GROUND_BYTES[most > 1000]) as one, undisturbed():
                curve(run, one, steps, say, rounds)
        except (CowstoreError, OSError, ModuleNotFoundError) as error:
            run.absent[subject] = " ".join(str(error).split())
    run.method.append(
        "A life is prepare, mount, unmount and remove of one child of an empty snapshot; the snapshots beside it are "
        "its siblings. Metadata is what the process has had written to storage for one prepare, by /proc/self/io."
    )


def curve(run: Run, one: Ground, steps: Sequence[int], say: Say, rounds: int) -> None:
    """Measure one more life beside each of those numbers of snapshots, and the last beside the first in turns."""
    base, store = one.empty(), one.store
    there = 0
    for number in steps:
        while there < number:
            store.prepare(f"sleeper-{there}", base)
            there += 1
        say(f"{one.subject}, {number} snapshots")
        watch = Stopwatch()
        written: list[float] = []
        for turn in range(-5, rounds):
            _life(one, store, base, watch if turn >= 0 else Stopwatch(), written)
        for phase, values in watch.phases.items():
            run.add("population", one.subject, phase, values, snapshots=number)
        run.add("population", one.subject, "life", _sums(watch), snapshots=number)
        if os.path.exists(ACCOUNTS):
            run.add("population", one.subject, "metadata of one prepare", written[5:], unit="B", snapshots=number)
    _side_by_side(run, one, base, there, rounds)


def _sums(watch: Stopwatch) -> list[float]:
    return [sum(parts) for parts in zip(*watch.phases.values(), strict=True)]


def _side_by_side(run: Run, one: Ground, base: str, many: int, rounds: int) -> None:
    """Compare a life in the full store with one in a store of few, in turns, so that both see the same machine."""
    few = one.other("few")
    one.empty(store=few)
    for number in range(_POPULATIONS[0]):
        few.prepare(f"sleeper-{number}", base)
    watches = {few: Stopwatch(), one.store: Stopwatch()}
    for turn in range(-5, rounds):
        for store, watch in watches.items():
            _life(one, store, base, watch if turn >= 0 else Stopwatch(), [])
    small, large = (_sums(watch) for watch in watches.values())
    run.judge(
        f"population-{one.subject}", paired_ratio(large, small), 1.2,
        f"a life beside {many} snapshots {figure(median(large), 's')} against {_POPULATIONS[0]} "
        f"{figure(median(small), 's')}, in turns",
    )  # fmt: skip


def _life(one: Ground, store: Store, base: str, watch: Stopwatch, written: list[float]) -> None:
    key = one.key("life")
    before = _written()
    with watch.phase("prepare"):
        store.prepare(key, base, ephemeral=True)
    written.append(_written() - before)
    mounted = store.mounted(key)
    with watch.phase("mount"):
        mounted.__enter__()
    with watch.phase("unmount"):
        mounted.__exit__(None, None, None)
    with watch.phase("remove"):
        store.remove(key)


def _written() -> int:
    try:
        return accounts()["write_bytes"]
    except FileNotFoundError:
        return 0
