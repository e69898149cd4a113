"""Two runs side by side: what changed, by how much, and whether chance or the machine would do that too.

A machine is not the same from one minute to the next, a virtual one least of all. So what was measured beside a floor
is compared as a multiple of it; what has no floor must differ by more than the floors of the two runs do. And what was
measured in passes counts once for each: within one, repeats share the same moment.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter

from cowstore.bench.results import FLOOR, MORE
from cowstore.bench.timing import median, quartiles, stretches

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cowstore.bench.results import Budget, Run, Series

LEVEL = 0.01
"""Probability below which chance is no explanation."""

LEAST = 0.05
"""A difference of the medians below this is nobody's business, however certain."""


class Difference:
    """One series in both runs.

    :ivar ratio: of the medians, the new one to the old one; where there is a floor, of the multiples of it.
    :ivar p: the probability that chance alone does as much. :ivar floored: whether both have a floor.
    :ivar verdict: ``better``, ``worse``, ``same``, or ``machine`` for a floor that changed.
    """

    def __init__(self, old: Run, before: Series, new: Run, after: Series) -> None:
        self.old, self.new = before, after
        floor, other_floor = old.floor_of(before), new.floor_of(after)
        self.floored = floor is not None and other_floor is not None
        first = _samples(before, floor if self.floored else None)
        second = _samples(after, other_floor if self.floored else None)
        middle = median(first)
        self.ratio = median(second) / middle if middle else 1.0
        self.p = rank_sum_p(first, second)
        # A real difference is unlikely to be chance, large enough, and outside the spread.
        self.verdict = "same"
        if self.p <= LEVEL and abs(self.ratio - 1) >= LEAST and not _overlap(first, second):
            self.verdict = "better" if (self.ratio < 1) != (after.better == MORE) else "worse"


class Comparison:
    """Two runs side by side.

    :ivar differences: one for each series that is in both, in the new one's order.
    :ivar drift: the least and the most that floors changed by, as factors with 1 between them: what the machine did.
    :ivar budgets: how many are in both with a spread. :ivar apart: those of them whose spreads do not touch.
    """

    def __init__(self, old: Run, new: Run) -> None:
        before = {series.identity: series for series in old.series}
        self.differences = [
            Difference(old, before[series.identity], new, series)
            for series in new.series
            if series.identity in before and series.unit == before[series.identity].unit
        ]
        named = {(series.workload, series.floor) for series in new.series if series.floor}
        floors = [
            one
            for one in self.differences
            if (one.new.workload, one.new.subject) in named or one.new.subject.startswith(FLOOR)
        ]
        drifts = [one.ratio for one in floors if one.new.unit == "s"]
        self.drift = min([1.0, *drifts]), max([1.0, *drifts])
        for one in self.differences:
            if one in floors:
                one.verdict = "same" if one.verdict == "same" else "machine"
            elif not one.floored and one.new.unit == "s" and self.drift[0] <= one.ratio <= self.drift[1]:
                one.verdict = "same"
        both = list(_in_both(old, new))
        self.budgets = len(both)
        self.apart = [(one, other) for one, other in both if not _touch(one, other)]


def compare(old: Run, new: Run) -> Comparison:
    """Return what changed from *old* to *new*."""
    return Comparison(old, new)


def _samples(series: Series, floor: Series | None) -> list[float]:
    """Return what counts once each: medians of passes where there were several, as multiples of the floor's."""
    values: Sequence[float] = series.values
    below = [1.0 if floor is None else median(floor.values)] * len(values)
    if series.passes > 1:
        values = [median(part) for part in stretches(values, series.passes)]
        if floor is not None and floor.passes == series.passes:
            below = [median(part) for part in stretches(floor.values, floor.passes)]
    return [value / (bare or 1.0) for value, bare in zip(values, below, strict=False)]


def _in_both(old: Run, new: Run) -> Iterator[tuple[Budget, Budget]]:
    """Yield the budgets of the same name and place among those of that name, which have a spread in both."""
    for name in dict.fromkeys(budget.name for budget in new.budgets):
        pair = ([budget for budget in run.budgets if budget.name == name] for run in (old, new))
        for before, after in zip(*pair, strict=False):
            if before.low is not None and after.low is not None:
                yield before, after


def _touch(one: Budget, other: Budget) -> bool:
    assert one.low is not None and one.high is not None and other.low is not None and other.high is not None  # noqa: PT018
    return one.low <= other.high and other.low <= one.high


def _overlap(first: Sequence[float], second: Sequence[float]) -> bool:
    """Tell whether the medians lie within each other's middle half."""
    low, high = quartiles(first)
    other_low, other_high = quartiles(second)
    return low <= median(second) <= high or other_low <= median(first) <= other_high


def rank_sum_p(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the two-sided probability of Mann and Whitney's test: exact for few values without ties, else normal.

    Source: Mann and Whitney, "On a test of whether one of two random variables is stochastically larger than the
    other", 1947.
    """
    n, m = len(first), len(second)
    if not n or not m:
        return 1.0
    ordered = sorted(second)
    u = sum((bisect_left(ordered, a) + bisect_right(ordered, a)) / 2 for a in first)
    both = [*first, *second]
    if len(set(both)) == n + m and n * m <= 400:
        return _exact(n, m, min(u, n * m - u))
    return _normal(both, n, m, u)


def _exact(n: int, m: int, u: float) -> float:
    """Return the two-sided exact probability of a statistic as small as *u*, by counting partitions."""
    # ways[k]: selections of n ranks out of n+m with statistic k, built one rank at a time.
    table = [[1] + [0] * (n * m)] + [[0] * (n * m + 1) for _ in range(n)]
    for rank in range(1, n + m + 1):
        for taken in range(min(rank, n), 0, -1):
            shift = rank - taken
            if shift > m:
                continue
            source, target = table[taken - 1], table[taken]
            for k in range(n * m, shift - 1, -1):
                target[k] += source[k - shift]
    ways = table[n]
    return min(1.0, 2 * sum(ways[: math.floor(u) + 1]) / sum(ways))


def _normal(both: Sequence[float], n: int, m: int, u: float) -> float:
    total = n + m
    ties = sum(count**3 - count for count in Counter(both).values())
    variance = n * m / 12 * (total + 1 - ties / (total * (total - 1))) if total > 1 else 0.0
    if variance <= 0:
        return 1.0
    z = max(0.0, abs(u - n * m / 2) - 0.5) / math.sqrt(variance)
    return math.erfc(z / math.sqrt(2))
