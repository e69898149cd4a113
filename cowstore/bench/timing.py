"""Measuring: what is compared is interleaved, each round in another order, and told by its median and its spread."""

from __future__ import annotations

import gc
import os
import random
import statistics
import time
from contextlib import contextmanager, suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Step = Callable[[], float | None]


class Stopwatch:
    """Times of the phases of one thing, by the names of the phases.

    :ivar phases: seconds of every repeat, in the order of the first appearance.
    """

    def __init__(self) -> None:
        self.phases: dict[str, list[float]] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the block as one repeat of the phase *name*; one that fails is not counted."""
        started = time.perf_counter()
        yield
        self.add(name, time.perf_counter() - started)

    def add(self, name: str, seconds: float) -> None:
        """Count one repeat."""
        self.phases.setdefault(name, []).append(seconds)


def timed(step: Step) -> float:
    """Return the seconds that *step* takes, or those it says that it took."""
    started = time.perf_counter()
    told = step()
    taken = time.perf_counter() - started
    return taken if told is None else told


def interleave(steps: Mapping[str, Step], rounds: int, *, seed: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Run all *steps* *rounds* times, in a seeded random order within each round.

    :param warm_up: rounds before the first that counts.
    :returns: seconds by the name of the step.
    """
    chance = random.Random(seed)  # noqa: S311  # an order that can be had again
    names = list(steps)
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-warm_up, rounds):
        chance.shuffle(names)
        for name in names:
            seconds = timed(steps[name])
            if number >= 0:
                found[name].append(seconds)
    return found


class Found:
    """What was measured in passes that lie apart in time.

    What a machine does to itself for some seconds touches one pass; how far the passes lie apart is the spread within
    which another run is to be expected.

    :ivar found: seconds by the name of the step, those of one pass after those of another. :ivar count: of the passes.
    """

    def __init__(self, found: dict[str, list[float]], count: int) -> None:
        self.found = found
        self.count = count

    def figure(self, of: Callable[[Mapping[str, float]], float]) -> tuple[float, float, float]:
        """Return what *of* makes of the medians of each pass: the median, the least and the most of that.

        What is compared in a pass has seen the same moment of the machine; what lies in another has not.
        """
        parts = {name: stretches(values, self.count) for name, values in self.found.items()}
        each = [of({name: median(part[number]) for name, part in parts.items()}) for number in range(self.count)]
        return median(each), min(each, default=0.0), max(each, default=0.0)


class Passes(Found):
    """Steps that are compared, each call of this one pass."""

    def __init__(self, steps: Mapping[str, Step], rounds: int, *, seed: int, warm_up: int = 1) -> None:
        super().__init__({name: [] for name in steps}, 0)
        self._steps, self._rounds, self._seed, self._warm_up = steps, rounds, seed, warm_up

    def __call__(self) -> None:
        """Measure one pass."""
        self.count += 1
        taken = interleave(self._steps, self._rounds, seed=self._seed + self.count, warm_up=self._warm_up)
        for name, seconds in taken.items():
            self.found[name] += seconds


def stretches(values: Sequence[float], count: int) -> list[Sequence[float]]:
    """Return *values* in so many parts of the same length, in their order."""
    length = len(values) // count
    return [values[number * length : (number + 1) * length] for number in range(count)]


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep the garbage collector out of the block."""
    gc.collect()
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@contextmanager
def preferred(*, alone: bool = False) -> Iterator[bool]:
    """Let this process and its children go before others in the block, where that is allowed; tells whether it is.

    :param alone: one thing at a time is measured, so that the scheduler's class for real time does no harm: whatever
        else runs, another processor or a twentieth of this one is left for it. It holds in every session.
    """
    before, policy, given = os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    except PermissionError:
        yield False
        return
    # Where sessions are scheduled as groups (sched(7), autogroup), the priority within one says nothing to others.
    _prefer_session("-20")
    try:
        if alone:
            with suppress(OSError):
                os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        yield True
    finally:
        if alone:
            os.sched_setscheduler(0, policy, given)
        _prefer_session("0")
        os.setpriority(os.PRIO_PROCESS, 0, before)


def _prefer_session(nice: str) -> None:
    try:
        with open("/proc/self/autogroup", "w", encoding="ascii") as file:
            file.write(nice)
    except OSError:
        return


def median(values: Sequence[float]) -> float:
    """Return the median; of nothing it is 0."""
    return statistics.median(values) if values else 0.0


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """Return the bounds between which the middle half lies."""
    if len(values) < 2:
        only = median(values)
        return only, only
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def best(values: Sequence[float]) -> float:
    """Return the smallest."""
    return min(values, default=0.0)


def paired_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the ratio of the medians of two interleaved series."""
    floor = median(below)
    return median(above) / floor if floor else 0.0
