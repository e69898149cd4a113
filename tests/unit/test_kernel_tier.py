"""What the kernel tier says at its end, without a guest."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests import perdriver
from tests.vm import guest, tier

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("counts", "line"),
    [
        ({"passed": 3}, "overlay: 3 passed"),
        ({"passed": 3, "skipped": 2}, "overlay: 3 passed"),
        ({"passed": 3, "failed": 1}, "overlay: 3 passed, 1 failed"),
        ({"not proven": 4}, "overlay: not proven on this kernel"),
        ({"not proven": 4, "failed": 1}, "overlay: 1 failed"),
    ],
)
def test_a_line_for_each_driver(counts: dict[str, int], line: str) -> None:
    assert list(perdriver.lines({"overlay": counts})) == [line]


def test_several_runs_are_added(tmp_path: Path) -> None:
    for number, counts in enumerate([{"copy": {"passed": 2}}, {"copy": {"passed": 1, "failed": 1}}, {}]):
        (tmp_path / f"{number}.json").write_text(json.dumps(counts))
    assert perdriver.added(tmp_path) == {"copy": {"passed": 3, "failed": 1}}


@pytest.mark.parametrize(
    ("tally", "failed", "asked", "status"),
    [
        ({"copy": {"passed": 1}}, {}, [], 0),
        ({"copy": {"passed": 1}, "aufs": {"not proven": 1}}, {}, [], 0),
        ({"aufs": {"not proven": 9}}, {}, ["aufs"], tier.NOT_PROVEN),
        ({}, {}, ["aufs"], tier.NOT_PROVEN),
        ({"copy": {"passed": 1, "failed": 1}}, {"copy": 1}, [], tier.FAILED),
        ({"copy": {"passed": 1}}, {"copy": guest.TIMED_OUT}, [], tier.FAILED),
        ({}, {"copy": guest.LAUNCHER_FAILED}, [], tier.FAILED),
        ({}, {"aufs": guest.LAUNCHER_FAILED}, ["aufs"], tier.NOT_PROVEN),
        ({}, {"devicemapper": guest.LAUNCHER_FAILED}, ["devicemapper"], tier.FAILED),
        ({}, {"devicemapper": tier.NOT_PROVEN}, ["devicemapper"], tier.NOT_PROVEN),
        ({}, {"aufs": guest.GUEST_DIED}, ["aufs"], tier.FAILED),
        ({}, {"aufs": guest.TIMED_OUT}, ["aufs"], tier.FAILED),
    ],
)
def test_status(tally: perdriver.Tally, failed: dict[str, int], asked: list[str], status: int) -> None:
    """A guest that did not boot, hung or died is a failure; what no kernel at hand can prove is neither, nor proof."""
    assert tier.verdict(tally, failed, asked) == status


def test_plans_name_tests_that_are_there() -> None:
    for runs in tier.PLANS.values():
        for run in runs:
            named = [word.partition("::")[0] for word in run.arguments if word.startswith("tests/")]
            assert named
            for path in named:
                assert (guest.CHECKOUT / path).exists(), f"{run.name}: {path}"


def test_each_run_is_known_by_its_name() -> None:
    for runs in tier.PLANS.values():
        assert len({run.name for run in runs}) == len(runs)
