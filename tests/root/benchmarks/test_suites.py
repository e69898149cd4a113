"""The suites, each for real and as short as it can be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

import pytest

from cowstore import CowstoreError
from cowstore.bench import bare, quick_driver, results, running, suites
from cowstore.bench.grounds import SUBJECTS
from cowstore.bench.installed import Installed, interpreters
from cowstore.bench.peers import PHASES, load_peers
from cowstore.bench.results import Run
from cowstore.bench.scratch import PREFIX, scratch
from cowstore.bench.timing import median
from cowstore.bench.work_files import SHARE
from cowstore.bench.workloads import Plan, load_all
from cowstore.model import Mount, MountFlag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cowstore import Change
    from cowstore.bench.scratch import Scratch


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Scratch]:
    with scratch(str(tmp_path), 64 << 20) as made:
        yield made
    assert list(tmp_path.iterdir()) == []


class Small(Plan):
    """Workloads as small as they can be."""

    def __init__(self) -> None:
        super().__init__(seed=1, full=False, cold=False)
        self.tree_files = 120
        self.base_files = 100
        self.big_bytes = 4 << 20
        self.depths = (1, 3)
        self.parallel = (1, 2)
        self.readers = 3
        self.storm_files = 40
        self.overwrites = 4


def measured(place: Scratch, subject: str, works: list[str], rounds: int = 1) -> Run:
    run = Run(suite="drivers", seed=1, started="now")
    suites.drivers(run, place, lambda _text: None, plan=Small(), subjects=[subject], works=works, rounds=rounds)
    return run


@pytest.mark.slow
@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_workload_on_every_driver(subject: str, place: Scratch) -> None:
    try:
        run = measured(place, subject, list(load_all()))
    except Exception as error:
        if "no driver works here" in str(error):
            pytest.skip(f"elsewhere: {error}")
        raise
    assert run.absent == {}
    done = {series.workload for series in run.series}
    assert done >= set(load_all())
    assert all(value >= 0 for series in run.series for value in series.values)
    share = next(series for series in run.series if series.phase == SHARE)
    assert (share.values[0] > 0.9) == (subject in {"overlay", "aufs"})


@pytest.mark.slow
@pytest.mark.parametrize("subject", SUBJECTS)
def test_be_01_a_life_does_not_get_longer_with_the_number_of_snapshots(subject: str, place: Scratch) -> None:
    """BE-01 (moby#22383): near flat, and the metadata written for one more does not grow with how many there are."""
    run = Run(suite="scale", seed=1, started="now")
    suites.scale(run, place, lambda _text: None, subjects=[subject], most=400, rounds=25)
    if subject in run.absent:
        pytest.skip(f"elsewhere: {run.absent[subject]}")
    lives = {series.parameters["snapshots"]: min(series.values) for series in run.series if series.phase == "life"}
    assert sorted(lives) == [10, 30, 100, 300, 400]
    # The least of the repeats: others may be using this machine. The suite itself compares medians.
    assert lives[400] < 2 * lives[10] + 0.001
    written = {
        series.parameters["snapshots"]: median(series.values)
        for series in run.series
        if series.phase == "metadata of one prepare"
    }
    assert written[400] <= 2 * written[10] + (256 << 10)


@pytest.mark.slow
@pytest.mark.parametrize("subject", ["overlay", "btrfs"])
def test_be_03_changes_do_not_get_slower_with_the_base(subject: str, place: Scratch) -> None:
    """BE-03 (moby#10161): what ten edits cost to tell depends on the edits, not on the tree below them."""
    from cowstore.bench import synthetic
    from cowstore.bench.grounds import ground

    times = {}
    with ground(subject, place, 1 << 30) as one:
        for files in (200, 4000):
            recipe = synthetic.Recipe(files, median_bytes=20)
            base = one.base(f"tree-{files}", lambda root, recipe=recipe: synthetic.grow(root, recipe))  # type: ignore[misc]
            key = one.key("edited")
            one.store.prepare(key, base)
            with one.store.mounted(key) as root:
                synthetic.edit(str(root), recipe, 10)
            took: list[float] = []
            found: list[Change] = []
            for _ in range(9):
                started = time.perf_counter()
                found = list(one.store.changes(key))
                took.append(time.perf_counter() - started)
            # Ten files, and the directories above them.
            assert 10 <= len(found) <= 60
            times[files] = min(took)
    assert times[4000] < 3 * times[200] + 0.001


@pytest.mark.slow
@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_budgets_of_one_driver(subject: str, place: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    """All is measured beside its floor, as short as can be; nothing is judged."""
    for name, value in (("MANY", 20), ("FEW", 5), ("SMALL", 100), ("LARGE", 200), ("_LIVES", 1), ("_COPIED_FILES", 20)):
        monkeypatch.setattr(quick_driver, name, value)
    monkeypatch.setattr(quick_driver, "ROUNDS", 2)
    run = Run(suite="quick", seed=1, started="now")
    try:
        quick_driver.measure_driver(run, place, lambda _text: None, subject)
    except (CowstoreError, ModuleNotFoundError) as error:
        pytest.skip(f"elsewhere: {error}")
    names = {budget.name for budget in run.budgets}
    own = {
        "overlay": {"overlay-life", "overlay-changes"},
        "btrfs": {"btrfs-prepare-remove", "btrfs-changes"},
        "devicemapper": {"devicemapper-prepare", "devicemapper-parallel", "devicemapper-changes"},
        "aufs": {"aufs-mount", "aufs-changes"},
    }
    assert names == {f"population-{subject}", *own.get(subject, {f"{subject}-prepare-remove"})}
    assert all(budget.value > 0 for budget in run.budgets)


@pytest.mark.slow
def test_archives_beside_gnu_tar(place: Scratch) -> None:
    run = Run(suite="layers", seed=1, started="now")
    running.layers_suite(run, place, lambda _text: None, plan=Small(), archive=None, rounds=1)
    wanted = {f"{verb}-{form}" for verb in ("apply", "export") for form in running.FORMS}
    assert {budget.name for budget in run.budgets} >= {*wanted, "changes", "memory"} - {
        f"{verb}-{form}" for verb in ("apply", "export") for form in running.FORMS if f"{form} archives" in run.absent
    }
    assert {series.subject for series in run.of("export")} >= {"cowstore", "GNU tar"}


def test_the_bare_calls_of_a_mount_with_a_remount(tmp_path: Path) -> None:
    """The floor of a deep AUFS is what the driver describes, by mount(2) alone."""
    first = Mount(type="tmpfs", source=b"tmpfs", options=((b"size", b"64k"), (b"noswap", b"")))
    second = Mount(type="tmpfs", source=b"tmpfs", options=((b"size", b"128k"),), flags=MountFlag.REMOUNT)
    cycle = bare.mount_steps([first, second], str(tmp_path))
    assert cycle() > 0
    assert not os.path.ismount(tmp_path)
    assert cycle() > 0


def test_ctrl_c_takes_everything_with_it(tmp_path: Path) -> None:
    run = subprocess.Popen(
        [sys.executable, "-m", "cowstore.cli.main", "bench", "scale", "--only", "overlay", "--scratch", str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while not any("overlay" in name for path in tmp_path.iterdir() for name in os.listdir(path)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.3)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 130
    assert said == "bench: interrupted; the scratch directory is gone\n"
    assert list(tmp_path.iterdir()) == []


#: What is measured of each peer; what is missing must be said to be.
PEER_PHASES = {
    "cowstore (library)": {"snapshot", "mount", "apply", "diff", "start"},
    "GNU tar": {"apply", "diff"},
    "crun": {"start"},
    "containers-storage": {"snapshot", "mount", "apply", "diff"},
}


@pytest.mark.slow
def test_peers(tmp_path: Path) -> None:
    kept = tmp_path / "peers.json"
    # A process of its own: the suite enters a mount namespace.
    done = subprocess.run(
        [
            sys.executable, "-m", "cowstore.cli.main", "bench", "peers", "--rounds", "1", "--scratch", str(tmp_path),
            *(word for name in PEER_PHASES for word in ("--peer", name)), "--output", str(kept),
        ],
        capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = results.load(str(kept))
    for name, phases in PEER_PHASES.items():
        if name in run.absent:
            assert "not installed" in run.absent[name]
            continue
        assert {series.phase for series in run.series if series.subject == name} == phases
        missing = ", ".join(phase for phase in PHASES if phase not in phases)
        assert run.absent.get(f"{name}: {missing}", "") == load_peers()[name].cannot


@pytest.fixture
def as_a_user() -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Runs a suite as an ordinary user with an own interpreter, a readable copy of the package, and a directory."""
    python = next((path for path in interpreters() if path.startswith("/usr/")), None)
    if python is None:
        pytest.skip("elsewhere: the only interpreter is one that others than root cannot read")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as top:
        os.chmod(top, 0o755)
        own = os.path.join(top, "own")
        os.mkdir(own)
        os.chown(own, 65534, 65534)
        one = Installed(python, top)

        def bench(*words: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [python, "-m", "cowstore.cli.main", "bench", *words, "--scratch", own, "--json"],
                env=one.environment, user=65534, group=65534, extra_groups=[], capture_output=True, text=True,
                timeout=200, check=False,
            )  # fmt: skip

        yield bench
        assert os.listdir(own) == []


def test_the_rest_is_measured_without_root(as_a_user: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = as_a_user("drivers", "--rounds", "1", "--workload", "import")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {series["subject"] for series in found["series"]} >= {"copy"}
    assert {one["subject"] for one in found["absent"]} >= {"btrfs", "copy+reflink"}


@pytest.mark.slow
def test_whole_processes_are_measured_without_root(
    as_a_user: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = as_a_user("quick")
    assert done.returncode in {0, 1}, done.stderr
    found = json.loads(done.stdout)
    assert {one["name"] for one in found["budgets"]} >= {"run-process", "import-process", "run-first", "memory"}
    assert "a life of an overlay snapshot" in {one["subject"] for one in found["absent"]}


def test_a_run_that_measured_nothing_has_failed(as_a_user: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = as_a_user("drivers", "--only", "btrfs", "--workload", "life")
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.startswith("bench: no driver works here: btrfs: ")
    assert done.stderr.count("\n") == 1


def test_what_a_killed_run_left_is_taken_down(tmp_path: Path) -> None:
    """The stores of a killed run are destroyed first, then its mounts and loop devices go, then its files."""
    left = subprocess.Popen(
        [sys.executable, "-m", "cowstore.cli.main", "bench", "scale", "--only", "btrfs", "--scratch", str(tmp_path)],
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob("*/*/store-btrfs/catalog.db")):
        assert time.monotonic() < deadline
        assert left.poll() is None
        time.sleep(0.02)
    left.kill()
    left.wait()
    unlocked = tmp_path / f"{PREFIX}never-locked"
    unlocked.mkdir()
    os.utime(unlocked, (1, 1))
    with scratch(str(tmp_path), 64 << 20) as made:
        assert [str(path) for path in tmp_path.iterdir()] == [made.path]
