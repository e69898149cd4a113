"""What counts as a change between two runs."""

from __future__ import annotations

from itertools import combinations

import pytest

from cowstore.bench.compare import compare, rank_sum_p
from tests.unit.benchmarks import sample


def brute_force(n: int, m: int, u: int) -> float:
    ranks = [sum(chosen) - n * (n + 1) // 2 for chosen in combinations(range(1, n + m + 1), n)]
    return min(1.0, 2 * sum(one <= u for one in ranks) / len(ranks))


@pytest.mark.parametrize(("n", "m"), [(3, 3), (4, 5), (2, 6), (6, 4)])
def test_exact_probability(n: int, m: int) -> None:
    for below in range(m + 1):
        # One list above all but so many of the other's.
        second = [float(value) for value in range(m)]
        first = [below - 0.5 + number / 100 for number in range(n)]
        assert rank_sum_p(first, second) == pytest.approx(brute_force(n, m, min(n * below, n * (m - below))))


def test_many_values_and_ties_take_the_normal_approximation() -> None:
    assert rank_sum_p([1.0] * 30, [1.0] * 30) == 1.0
    assert rank_sum_p([1.0, 2.0] * 20, [1.0, 2.0] * 20) > 0.9
    assert rank_sum_p([float(n) for n in range(30)], [float(n + 100) for n in range(30)]) < 1e-9
    assert rank_sum_p([], [1.0]) == 1.0


def test_two_runs_of_the_same_agree() -> None:
    found = compare(sample.run(seed=1), sample.run(seed=2))
    assert len(found) == len(sample.run().series)
    assert {one.verdict for one in found} == {"same"}


def test_slower_is_worse_and_faster_is_better() -> None:
    slower = {(one.verdict, one.new.unit) for one in compare(sample.run(), sample.run(seed=2, factor=1.3))}
    assert slower == {("worse", "s"), ("same", "1")}
    faster = {(one.verdict, one.new.unit) for one in compare(sample.run(), sample.run(seed=2, factor=0.7))}
    assert faster == {("better", "s"), ("same", "1")}


def test_more_of_what_is_better_is_better() -> None:
    before, after = sample.run(), sample.run()
    for run, level in ((before, 0.2), (after, 0.8)):
        run.series = []
        run.add("page-cache", "x", "share", [level + n / 1000 for n in range(8)], unit="1", better="more")
    assert [one.verdict for one in compare(before, after)] == ["better"]
    assert [one.verdict for one in compare(after, before)] == ["worse"]


def test_few_repeats_prove_nothing() -> None:
    before, after = sample.run(repeats=3), sample.run(seed=2, factor=2, repeats=3)
    assert {one.verdict for one in compare(before, after)} == {"same"}
