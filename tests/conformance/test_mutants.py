"""Bugs planted in each driver, and in the store, are caught by the suite."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.conformance import ground
from tests.mutants import runner

if TYPE_CHECKING:
    from pathlib import Path

MUTANTS = runner.mutants()


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_caught(mutant: runner.Mutant, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("the root tier needs root: type `sudo make test`")
    if mutant.driver not in ground.drivers():
        pytest.skip(f"elsewhere: {mutant.driver} was not asked for")
    reason = ground.verdict(mutant.driver, str(tmp_path))
    if reason is not None:
        pytest.skip(reason)
    said = runner.survives(mutant)
    assert said is None, f"{mutant.name} survived: {said}"


@pytest.mark.parametrize("driver", ["overlay", "copy", "btrfs", "aufs", "devicemapper"])
def test_there_are_five_of_each(driver: str) -> None:
    assert len([mutant for mutant in MUTANTS if mutant.driver == driver]) >= 5
