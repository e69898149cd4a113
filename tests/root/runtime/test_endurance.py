"""Many runs, in turn and at once, some of them killed: afterwards the machine is as it was."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

import cowstore
from cowstore.errors import CowstoreError
from cowstore.runtime.cgroups import hierarchies
from cowstore.runtime.remote import server
from tests.root.runtime.processes import children

pytestmark = pytest.mark.timeout(600)

RUNS, BY_COMMAND, KILLED = 500, 100, 10
"""How many runs, how many of them by the command, and what part of a hundred is killed."""


class Machine:
    """What this machine holds for a store.

    :ivar mounts: lines of the mount table about it. :ivar groups: control groups of containers with nobody in them.
    :ivar processes: of containers, by the marks in their command lines. :ivar descriptors: open here.
    :ivar snapshots: keys of the store. :ivar held: entries of the driver's directory.
    :ivar leases: entries of the directory of leases.
    """

    def __init__(self, store: cowstore.Store, mark: str) -> None:
        self.mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if store.root in line]
        self.groups = sorted(str(path) for path in Path("/sys/fs/cgroup").rglob("cowstore-run-*") if _is_empty(path))
        self.processes = sorted(_with_mark(mark))
        self.descriptors = len(os.listdir("/proc/self/fd"))
        self.snapshots = sorted(snapshot.key for snapshot in store.walk())
        self.held = sorted(os.listdir(Path(store.root, store.driver_name)))
        self.leases = sorted(os.listdir(Path(store.root, "leases")))


def _is_empty(group: Path) -> bool:
    try:
        return not (group / "cgroup.procs").read_bytes()
    except OSError:  # removed meanwhile
        return False


def _with_mark(mark: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if mark in words:
                found.append(" ".join(words))
    return found


def settled(store: cowstore.Store, mark: str, before: Machine) -> Machine:
    """Look at the machine when the kernel has ended what was killed, and the next run has swept up."""
    deadline = time.monotonic() + 10
    while True:
        cowstore.run(store, parent="host", argv=["true"], limits=limits())
        now = Machine(store, mark)
        if vars(now) == vars(before) or time.monotonic() > deadline:
            return now
        time.sleep(0.05)


def limits() -> cowstore.Limits | None:
    """Return limits that this machine can keep, so that there are control groups to leave behind."""
    known = {controller for hierarchy in hierarchies() for controller in hierarchy.controllers}
    return cowstore.Limits(pids=20) if "pids" in known else None


def test_500_runs_of_which_some_are_killed(store: cowstore.Store) -> None:
    """No mount, group, process, descriptor or snapshot is left."""
    mark = "54321.5"
    _open_beside(store)
    cowstore.run(store, parent="host", argv=["true"], limits=limits())
    before = Machine(store, mark)
    ended = {"well": 0, "killed": 0}

    def one(number: int) -> None:
        chance = random.Random(number)
        killed = chance.randrange(100) < KILLED
        after_s = chance.uniform(0, 0.06)
        if number % (RUNS // BY_COMMAND) == 0:
            status: int | None = _by_command(store, mark, after_s if killed else None)
        else:
            status = _by_call(store, mark, after_s if killed else None, bounded=number % 7 == 0)
        ended["killed" if killed else "well"] += 1
        assert killed or status == 3, (number, status)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(RUNS)))
    assert ended["well"] + ended["killed"] == RUNS
    assert ended["killed"] > RUNS // 20
    _open_beside(store)
    now = settled(store, mark, before)
    assert vars(now) == vars(before)
    assert store.check() == ()


def _open_beside(store: cowstore.Store) -> None:
    """Open the store once more: whoever does removes what killed commands have left.

    SQLite keeps a descriptor of that as long as the first connection is open.
    """
    with cowstore.open(store.root) as other:
        other.stat("host")


def _by_command(store: cowstore.Store, mark: str, killed_after_s: float | None) -> int:
    script = "exit 3" if killed_after_s is None else f"sleep {mark}"
    command = [sys.executable, "-P", "-m", "cowstore.cli.run", "--store", store.root, "--base", "host", "--"]
    running = subprocess.Popen([*command, "sh", "-c", script, mark])
    if killed_after_s is not None:
        time.sleep(killed_after_s)
        running.kill()
    return running.wait(timeout=60)


def _by_call(store: cowstore.Store, mark: str, killed_after_s: float | None, *, bounded: bool) -> int | None:
    script = "exit 3" if killed_after_s is None else f"sleep {mark}"
    argv = ["sh", "-c", script, mark]
    with cowstore.spawn(store, parent="host", argv=argv, limits=limits() if bounded else None) as running:
        if killed_after_s is None:
            return running.wait(timeout_s=60).status
        time.sleep(killed_after_s)
        running.kill(signal.SIGKILL)
        return None


def test_launchers_that_are_killed_at_any_moment(store: cowstore.Store) -> None:
    """RT-24: a hundred times within their first 50 ms; the caller is told, and nothing stays."""
    mark = "65432.5"
    chance = random.Random(24)
    cowstore.run(store, parent="host", argv=["true"], limits=limits())
    before = Machine(store, mark)
    told = 0
    for number in range(100):
        with cowstore.spawn(store, parent="host", argv=["sleep", mark], as_pid_1=number % 2 == 1) as running:
            time.sleep(chance.uniform(0, 0.05))
            patience_s = 0.05
            while True:
                assert server.pid is not None
                # The one at work, and the one that waits for work. Where that had not begun, the next one does it.
                for launcher in children(server.pid):
                    with suppress(ProcessLookupError):
                        os.kill(launcher, signal.SIGKILL)
                try:
                    running.wait(timeout_s=patience_s)
                except TimeoutError:
                    patience_s *= 2
                    continue
                except CowstoreError as error:
                    assert "killed" in str(error)
                    told += 1
                break
    assert told == 100
    assert vars(settled(store, mark, before)) == vars(before)


def test_100_in_parallel(store: cowstore.Store, capfd: pytest.CaptureFixture[str]) -> None:
    """Each has its own root, and all are there at once."""

    def one(number: int) -> bytes | None:
        script = f"echo {number} > /srv/mark; sleep 1; cat /srv/mark"
        return cowstore.run(store, parent="host", argv=["sh", "-c", script], capture=True).out

    with ThreadPoolExecutor(100) as pool:
        assert list(pool.map(one, range(100))) == [b"%d\n" % number for number in range(100)]
    assert [snapshot.key for snapshot in store.walk()] == ["host"]
    assert capfd.readouterr() == ("", "")
