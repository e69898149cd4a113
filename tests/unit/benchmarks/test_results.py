"""Results on disk: written, read, refused, merged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cowstore import CowstoreError
from cowstore.bench import results
from tests.unit.benchmarks import sample

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


def test_the_history_can_be_read() -> None:
    for path in KEPT:
        assert results.load(str(path)).series
        assert json.loads(path.read_text())["machine"]["kernel"]
