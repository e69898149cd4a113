"""Two runs side by side: what changed, by how much, and whether chance would do that too."""

from __future__ import annotations

import math

from cowstore.bench.results import MORE
from cowstore.bench.timing import median, quartiles

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from cowstore.bench.results import Run, Series

LEVEL = 0.01
"""Probability below which chance is no explanation."""

LEAST = 0.05
"""A difference of the medians below this is nobody's business, however certain."""


class Difference:
    """One series in both runs.

    :ivar ratio: of the medians, the new one to the old one. :ivar p: the probability that chance alone does as much.
    :ivar verdict: ``better``, ``worse`` or ``same``.
    """

    def __init__(self, old: Series, new: Series) -> None:
        self.old, self.new = old, new
        before = median(old.values)
        self.ratio = median(new.values) / before if before else 1.0
        self.p = rank_sum_p(old.values, new.values)
        self.verdict = self._judge()

    def _judge(self) -> str:
        """Give the verdict: a real difference is unlikely to be chance, large enough, and outside the spread."""
        if self.p > LEVEL or abs(self.ratio - 1) < LEAST or _overlap(self.old.values, self.new.values):
            return "same"
        return "better" if (self.ratio < 1) != (self.new.better == MORE) else "worse"


def compare(old: Run, new: Run) -> list[Difference]:
    """Return the differences of what is in both runs, in the new one's order.

    Each is judged by itself: of a hundred that are the same, one may be called different by chance.
    """
    before = {series.identity: series for series in old.series}
    return [
        Difference(before[series.identity], series)
        for series in new.series
        if series.identity in before and series.unit == before[series.identity].unit
    ]


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
    u = sum((a > b) + 0.5 * (a == b) for a in first for b in second)
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
    ties = sum(count**3 - count for count in (both.count(value) for value in set(both)))
    variance = n * m / 12 * (total + 1 - ties / (total * (total - 1))) if total > 1 else 0.0
    if variance <= 0:
        return 1.0
    z = max(0.0, abs(u - n * m / 2) - 0.5) / math.sqrt(variance)
    return math.erfc(z / math.sqrt(2))
