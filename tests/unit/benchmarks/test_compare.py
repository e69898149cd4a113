"""What counts as a change between two runs."""

from __future__ import annotations

from itertools import combinations

import pytest

from cowstore.bench.compare import compare, rank_sum_p
from cowstore.bench.results import Run
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
    found = compare(sample.run(seed=1), sample.run(seed=2)).differences
    assert len(found) == len(sample.run().series)
    assert {one.verdict for one in found} == {"same"}


def test_slower_is_worse_and_faster_is_better() -> None:
    slower = {(one.verdict, one.new.unit) for one in compare(sample.run(), sample.run(seed=2, factor=1.3)).differences}
    assert slower == {("worse", "s"), ("same", "s"), ("same", "1")}
    faster = {(one.verdict, one.new.unit) for one in compare(sample.run(), sample.run(seed=2, factor=0.7)).differences}
    assert faster == {("better", "s"), ("same", "s"), ("same", "1")}


def test_more_of_what_is_better_is_better() -> None:
    before, after = sample.run(), sample.run()
    for run, level in ((before, 0.2), (after, 0.8)):
        run.series = []
        run.add("page-cache", "x", "share", [level + n / 1000 for n in range(8)], unit="1", better="more")
    assert [one.verdict for one in compare(before, after).differences] == ["better"]
    assert [one.verdict for one in compare(after, before).differences] == ["worse"]


def test_few_repeats_prove_nothing() -> None:
    before, after = sample.run(repeats=3), sample.run(seed=2, factor=2, repeats=3)
    assert {one.verdict for one in compare(before, after).differences} == {"same"}


def beside_a_floor(machine: float, ours: float, *, passes: int = 1) -> Run:
    """Make a run of one thing with a floor and one without, on a machine so much slower."""
    run = Run(suite="quick", seed=1, started="now")
    noise = [1 + number / 1000 for number in range(10)]
    run.add("life", "cowstore", "all", [2e-3 * machine * ours * one for one in noise], floor="bare", passes=passes)
    run.add("life", "bare", "all", [1e-3 * machine * one for one in noise], passes=passes)
    run.add("changes", "cowstore", "list", [4e-3 * machine * ours * one for one in noise], passes=passes)
    return run


@pytest.mark.parametrize("passes", [1, 5])
def test_a_slower_machine_is_no_slower_cowstore(passes: int) -> None:
    before, after = beside_a_floor(1.0, 1.0, passes=passes), beside_a_floor(1.3, 1.0, passes=passes)
    found = compare(before, after)
    assert [one.verdict for one in found.differences] == ["same", "machine", "same"]
    assert list(found.drift) == pytest.approx([1.0, 1.3])


def test_a_slower_cowstore_is_seen_on_a_slower_machine() -> None:
    found = compare(beside_a_floor(1.0, 1.0, passes=5), beside_a_floor(1.1, 1.5, passes=5))
    assert [one.verdict for one in found.differences] == ["worse", "machine", "worse"]
    assert found.differences[0].ratio == pytest.approx(1.5)


def test_a_pass_counts_once_however_often_it_repeats() -> None:
    before, after = beside_a_floor(1.0, 1.0, passes=2), beside_a_floor(1.0, 2.0, passes=2)
    assert {one.verdict for one in compare(before, after).differences} == {"same"}


def test_budgets_agree_where_their_spreads_touch() -> None:
    before, after = (Run(suite="quick", seed=1, started="now") for _ in range(2))
    for run, shift in ((before, 0.0), (after, 0.1)):
        run.judge("near", (1.0 + shift, 0.9 + shift, 1.1 + shift), 2.0, "w")
        run.judge("far", (1.0 + 5 * shift, 0.9 + 5 * shift, 1.1 + 5 * shift), 2.0, "w")
        run.judge("in one", 1.0 + shift, 2.0, "w")
    found = compare(before, after)
    assert found.budgets == 2
    assert [new.name for _, new in found.apart] == ["far"]
