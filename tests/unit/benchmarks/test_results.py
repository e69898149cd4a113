"""Results on disk: written, read, refused, merged."""

from __future__ import annotations

from pathlib import Path

import pytest

from cowstore import CowstoreError
from cowstore.bench import results
from cowstore.bench.workloads import load_all
from tests.unit.benchmarks import sample

PERFORMANCE = (Path(__file__).parents[3] / "docs" / "performance.md").read_text()
KEPT = sorted((Path(__file__).parents[3] / "benchmarks" / "results").glob("*.json"))


def test_there_and_back(tmp_path: Path) -> None:
    run = sample.run()
    path = str(tmp_path / "a.json")
    results.save(run, path)
    again = results.load(path)
    assert again.document() == run.document()
    assert again.series[0].identity == run.series[0].identity
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("no json", "not JSON"),
        ("[]", "schema"),
        ('{"schema": "other"}', "schema"),
        ('{"schema": "cowstore-bench", "version": 99}', "version 99"),
        ('{"schema": "cowstore-bench", "version": 3}', "damaged"),
    ],
)
def test_what_is_none_is_refused(content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(CowstoreError, match=said) as raised:
        results.load(str(path))
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CowstoreError, match=r"nowhere\.json"):
        results.load(str(tmp_path / "nowhere.json"))


def test_another_machines_figures_keep_apart() -> None:
    here, there = sample.run(), sample.run(seed=2)
    there.machine = {**there.machine, "kernel": "6.1-aufs"}
    there.series = [one for one in there.series if one.subject in {"copy", "bare"}]
    there.add("life", "devicemapper", "prepare", [1e-3], floor="bare")
    there.absent = {"floors": "why"}
    merged = results.merge(here, there)
    subjects = {one.subject for one in merged.series}
    assert {"overlay", "copy", "copy @ 6.1-aufs", "devicemapper @ 6.1-aufs", "bare @ 6.1-aufs"} <= subjects
    assert [one.floor for one in merged.series if one.subject.startswith("devicemapper")] == ["bare @ 6.1-aufs"]
    assert "devicemapper" not in merged.absent
    assert merged.absent["floors @ 6.1-aufs"] == "why"
    assert any("6.1-aufs" in line for line in merged.method)


def test_the_same_machines_figures_join() -> None:
    here, more = sample.run(), sample.run(seed=2)
    more.series = []
    more.add("life", "copy+reflink", "prepare", [1e-3])
    merged = results.merge(here, more)
    assert len(merged.series) == len(here.series) + 1
    assert "copy+reflink" in {one.subject for one in merged.series}


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_the_history_can_be_read_and_hides_nothing(path: Path) -> None:
    """Everything repeated, what is above a budget explained, and what a driver was not measured at named."""
    run = results.load(str(path))
    assert run.machine["kernel"]
    assert run.series
    assert all(len(series.values) >= 3 for series in run.series if series.unit == "s")
    for budget in run.over:
        assert f"`{budget.name}`" in PERFORMANCE, f"{budget.name} is above its budget, and its cause not told"
    if run.suite.startswith("drivers"):
        for driver in {series.subject for series in run.of("life")}:
            done = {series.workload for series in run.series if series.subject == driver}
            named = {name.removeprefix(f"{driver}: ") for name in run.absent}
            assert set(load_all()) <= done | named, driver
