"""Measuring: order, medians, spread."""

from __future__ import annotations

import gc
import time

import pytest

from cowstore.bench import timing


def test_steps_are_interleaved_in_a_new_order_each_round() -> None:
    seen: list[str] = []
    steps = {name: (lambda name=name: seen.append(name)) for name in "abc"}
    found = timing.interleave(steps, 20, seed=3, warm_up=2)
    assert {name: len(values) for name, values in found.items()} == {"a": 20, "b": 20, "c": 20}
    rounds = ["".join(seen[start : start + 3]) for start in range(0, len(seen), 3)]
    assert len(rounds) == 22
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert len(set(rounds)) > 3
    again: list[str] = []
    timing.interleave({name: (lambda name=name: again.append(name)) for name in "abc"}, 20, seed=3, warm_up=2)  # type: ignore[misc]
    assert again == seen


def test_a_step_may_say_what_it_took() -> None:
    assert timing.timed(lambda: 3.5) == 3.5
    assert timing.timed(lambda: time.sleep(0.01)) >= 0.01


def test_what_fails_is_not_counted() -> None:
    watch = timing.Stopwatch()
    with pytest.raises(ValueError, match="no"), watch.phase("one"):
        raise ValueError("no")
    with watch.phase("one"):
        pass
    assert len(watch.phases["one"]) == 1


def test_quartiles() -> None:
    assert timing.quartiles([]) == (0, 0)
    assert timing.quartiles([4.0]) == (4.0, 4.0)
    assert timing.quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 4.0)


def test_the_collector_is_left_as_it_was() -> None:
    assert gc.isenabled()
    with timing.undisturbed():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_passes_are_apart_and_told_apart() -> None:
    times = iter(range(100))
    found = timing.Passes({"a": lambda: float(next(times))}, 3, seed=1, warm_up=0)
    found()
    found()
    assert found.found == {"a": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]}
    assert found.figure(lambda of: of["a"]) == (2.5, 1.0, 4.0)
    assert timing.stretches(found.found["a"], 2) == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
