"""A container ends with its launcher also where the program or the machine stand in the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import cowstore
from cowstore.runtime.cgroups import PREFIX, Groups, Hierarchy, _sweep
from tests.root.cli.test_run import Runner

if TYPE_CHECKING:
    from collections.abc import Iterator

STUBBORN = """
import ctypes, signal, time
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
assert ctypes.CDLL(None).prctl(1, 0) == 0  # PR_SET_PDEATHSIG: not to be ended with its parent
print("up", flush=True)
time.sleep(1000)
"""


def below(pid: int) -> list[int]:
    done = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    children = [int(child) for child in done.stdout.split()]
    return [*children, *(lower for child in children for lower in below(child))]


def gone(pids: list[int], within_s: float = 1) -> bool:
    deadline = time.monotonic() + within_s
    while any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_process_1_that_does_not_want_to_end_with_its_launcher(tmp_path: Path) -> None:
    """RT-24."""
    run = Runner(tmp_path / "store")
    running = subprocess.Popen(
        run.command("--as-pid-1", "--", "/usr/bin/python3", "-c", STUBBORN), stdout=subprocess.PIPE
    )
    assert running.stdout is not None
    assert running.stdout.readline() == b"up\n"
    inside = below(running.pid)
    assert inside
    running.kill()
    running.wait()
    assert gone(inside)
    running.stdout.close()


@pytest.mark.parametrize("as_pid_1", [False, True])
def test_frozen_it_ends_with_its_launcher(store: cowstore.Store, as_pid_1: bool) -> None:
    """RT-24: stopped processes are ended like others, and freezing stops process 1 of a program's own too."""
    script = "i=0; while :; do i=$((i+1)); echo $i >> /count; sleep 0.02; done"
    with cowstore.spawn(store, parent="host", argv=["sh", "-c", script], as_pid_1=as_pid_1) as running:
        inside = [running.pid, *below(running.pid)]
        time.sleep(0.2)
        running.freeze()
        time.sleep(0.2)
        count = Path(f"/proc/{running.pid}/root/count")
        before = count.read_bytes()
        time.sleep(0.2)
        assert count.read_bytes() == before
        running.thaw()
        deadline = time.monotonic() + 5
        while count.read_bytes() == before:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        running.freeze()
        [launcher] = [pid for pid in below(os.getpid()) if running.pid in below(pid) and below(pid)[0] == running.pid]
        os.kill(launcher, signal.SIGKILL)
        assert gone(inside)


@pytest.fixture
def freezer() -> Iterator[Path]:
    """A group that can be frozen, of the old kind; nobody holds its lock."""
    root = Path("/sys/fs/cgroup/freezer")
    if not (root / "cgroup.procs").exists():
        pytest.skip("not proven: this machine has no freezer of version 1")
    above = root / f"cowstore-test-{os.getpid()}"
    path = above / f"{PREFIX}frozen"
    path.mkdir(parents=True)
    yield path
    for each in (path, above):
        if each.exists():
            each.rmdir()


@pytest.fixture
def frozen(freezer: Path) -> Iterator[subprocess.Popen[bytes]]:
    sleeper = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(1000)"])
    (freezer / "cgroup.procs").write_text(str(sleeper.pid))
    (freezer / "freezer.state").write_text("FROZEN")
    while (freezer / "freezer.state").read_text() != "FROZEN\n":
        time.sleep(0.01)
    sleeper.kill()
    with pytest.raises(subprocess.TimeoutExpired):
        sleeper.wait(0.3)
    yield sleeper
    sleeper.wait()


def test_a_frozen_group_is_thawed_before_its_end(freezer: Path, frozen: subprocess.Popen[bytes]) -> None:
    """RT-24: of version 1, in which even SIGKILL waits."""
    groups = Groups("frozen")
    groups.made[str(freezer)] = Hierarchy(1, str(freezer.parent), str(freezer.parent), frozenset({"freezer"}))
    groups.thaw()
    assert frozen.wait(1) == -9
    groups.remove()
    assert not freezer.exists()


def test_a_frozen_group_that_was_left_behind_is_thawed(freezer: Path, frozen: subprocess.Popen[bytes]) -> None:
    """RT-24: the next launcher sweeps it."""
    _sweep(str(freezer.parent))
    assert frozen.wait(1) == -9
    _sweep(str(freezer.parent))
    assert not freezer.exists()
