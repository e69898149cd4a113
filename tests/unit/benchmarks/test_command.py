"""The command line: what it refuses, in one line, before anything is measured."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from cowstore._linux import files
from cowstore.bench import command, results, scratch, synthetic
from cowstore.bench.peers import PHASES, load_peers
from cowstore.bench.workloads import load_all
from cowstore.cli.main import main as cowstore_main
from tests.unit.benchmarks import sample

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["nonsense"], 2, "nonsense"),
        ([], 2, "SUITE"),
        (["drivers", "--rounds", "0"], 2, "from 1 on"),
        (["drivers", "--only", "zfs"], 3, "zfs"),
        (["drivers", "--workload", "mining"], 3, "mining"),
        (["report", "/etc/passwd"], 3, "/etc/passwd"),
        (["compare", "/nonexistent", "/nonexistent"], 3, "/nonexistent"),
        (["quick", "--driver", "zfs"], 3, "zfs"),
        (["quick", "--driver", "copy", "--part", "x"], 3, "many snapshots"),
        (["quick", "--part", "prepare"], 2, "--driver"),
        (["quick", "--scratch", "/nonexistent"], 3, "--scratch DIR"),
        (["drivers", "--merge", "/nonexistent"], 3, "/nonexistent"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert command.main(words) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert said in err


def test_no_room_is_said_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "_KEEP_FREE", 1 << 60)
    assert command.main(["quick", "--scratch", str(tmp_path)]) == 3
    err = capsys.readouterr().err
    assert "no room" in err
    assert "--scratch DIR" in err
    assert list(tmp_path.iterdir()) == []


def test_without_root_a_suite_that_mounts_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert command.main(["peers"]) == 3
    assert "root" in capsys.readouterr().err


def test_reports_and_tables_of_what_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = str(tmp_path / "a.json"), str(tmp_path / "b.json")
    results.save(sample.run(), one)
    results.save(sample.run(seed=2, factor=1.5), other)
    page = tmp_path / "r.html"
    assert command.main(["report", one, "--html", str(page)]) == 0
    assert "overlay" in capsys.readouterr().out
    assert page.read_text().startswith("<!doctype html>")
    assert command.main(["report", one, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "cowstore-bench"
    assert command.main(["compare", one, one]) == 0
    assert "0 changed" in capsys.readouterr().out
    assert command.main(["compare", one, other]) == 1
    assert "worse" in capsys.readouterr().out


def test_cowstore_bench_is_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = str(tmp_path / "a.json")
    results.save(sample.run(), one)
    assert cowstore_main(["bench", "report", one]) == 0
    assert "overlay" in capsys.readouterr().out
    assert cowstore_main(["--json", "bench", "report", one]) == 0
    assert json.loads(capsys.readouterr().out)["suite"] == "drivers"
    assert cowstore_main(["bench", "drivers", "--list"]) == 0
    assert set(load_all()) == {line.split()[0] for line in capsys.readouterr().out.splitlines()}


def test_a_run_above_a_budget_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = sample.run()
    run.budgets.append(results.Budget(name="late", value=2.5, limit=2.0, unit="x", what="w"))
    results.save(run, str(tmp_path / "a.json"))
    assert command.main(["report", str(tmp_path / "a.json")]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "above budget: late is 2.50x, at most 2.00x is allowed"


@pytest.mark.parametrize(
    ("on_tmpfs", "chosen"),
    [({"/var/tmp"}, "/tmp"), ({"/tmp"}, "/var/tmp"), ({"/tmp", "/var/tmp"}, "/var/tmp"), (set(), "/var/tmp")],
)
def test_memory_is_measured_in_only_where_there_is_no_disk(
    on_tmpfs: set[str], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(path: str) -> SimpleNamespace:
        return SimpleNamespace(type=files.FsMagic.TMPFS if path in on_tmpfs else files.FsMagic.EXT4)

    monkeypatch.setattr(files, "statfs", told)
    assert scratch._usual_place() == chosen


def test_what_a_killed_run_left_is_swept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dead = tmp_path / f"{scratch.PREFIX}dead"
    (dead / "deep").mkdir(parents=True)
    (dead / ".lock").touch()
    (tmp_path / f"{scratch.PREFIX}not-ours").mkdir()
    with scratch.scratch(str(tmp_path), 1 << 20) as one:
        assert not dead.exists()
        with scratch.scratch(str(tmp_path), 1 << 20) as other:
            assert os.path.isdir(one.path)
            assert one.path != other.path
    assert "killed" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [f"{scratch.PREFIX}not-ours"]


def test_a_synthetic_tree_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    recipe = synthetic.Recipe(300, seed=7)
    sizes = [size for _, size in recipe.paths()]
    assert sizes == [size for _, size in synthetic.Recipe(300, seed=7).paths()]
    assert sizes != [size for _, size in synthetic.Recipe(300, seed=8).paths()]
    synthetic.grow(str(tmp_path), recipe)
    assert [(tmp_path / path).stat().st_size for path, _ in recipe.paths()] == sizes
    assert synthetic.edit(str(tmp_path), recipe, 30) == 30
    left = [(tmp_path / path).exists() for path, _ in recipe.paths()]
    assert left.count(False) == 10


def test_every_workload_and_peer_says_what_it_is() -> None:
    for work in load_all().values():
        assert work.summary
        assert work.sync
    peers = load_peers()
    wanted = [
        "containers-storage",
        "podman",
        "bwrap",
        "crun",
        "runc",
        "bsdtar",
        "umoci",
        "buildah",
        "dmsetup",
        "btrfs-progs",
    ]
    assert {*wanted, "containerd (ctr)", "GNU tar"} <= set(peers)
    assert PHASES == ("snapshot", "mount", "apply", "diff", "start")
