"""Bounds that bite, on whatever control groups this machine has."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import cowstore
from cowstore._linux.procfs import children
from cowstore.errors import CowstoreError, InvalidArgument, Unsupported
from cowstore.runtime.cgroups import Groups, Hierarchy, hierarchies
from cowstore.runtime.limits import Limits

PYTHON = ("/usr/bin/python3", "-I", "-S", "-c")


def available() -> set[str]:
    return {controller for hierarchy in hierarchies() for controller in hierarchy.controllers}


def left_behind() -> list[str]:
    return [str(path) for path in Path("/sys/fs/cgroup").rglob("cowstore-run-*")]


def needs(controller: str) -> None:
    if controller not in available():
        pytest.skip(f"not proven: this machine has no {controller} controller")


def test_memory(store: cowstore.Store) -> None:
    needs("memory")
    limits = Limits(memory_bytes=64 << 20)
    done = cowstore.run(store, parent="host", argv=[*PYTHON, "x = bytearray(256 << 20)"], limits=limits)
    assert (done.status, done.out_of_memory) == (137, True)
    done = cowstore.run(store, parent="host", argv=[*PYTHON, "x = bytearray(32 << 20)"], limits=limits)
    assert (done.status, done.out_of_memory) == (0, False)
    assert 32 << 20 <= done.peak_memory_bytes <= 64 << 20
    assert left_behind() == []


def test_the_end_of_a_child_for_want_of_memory_is_told(store: cowstore.Store) -> None:
    needs("memory")
    script = f"{PYTHON[0]} -I -S -c 'x = bytearray(256 << 20)'; echo $?; exit 5"
    done = cowstore.run(
        store, parent="host", argv=["sh", "-c", script], limits=Limits(memory_bytes=64 << 20), capture=True
    )
    assert (done.status, done.out, done.out_of_memory) == (5, b"137\n", True)


def test_processes(store: cowstore.Store) -> None:
    """A fork bomb is held, and this machine stays responsive."""
    needs("pids")
    script = (
        "import os, time\n"
        "made = 0\n"
        "for _ in range(200):\n"
        "    try:\n"
        "        if os.fork() == 0:\n"
        "            time.sleep(100)\n"
        "        made += 1\n"
        "    except BlockingIOError:\n"
        "        break\n"
        "print(made, flush=True)\n"
        "os._exit(0)\n"
    )
    done = cowstore.run(store, parent="host", argv=[*PYTHON, script], limits=Limits(pids=50), capture=True)
    assert done.out == b"48\n"  # process 1 and the program itself count too
    bomb = "bomb() { bomb | bomb & }; bomb"
    started = time.monotonic()
    slowest = 0.0
    with cowstore.spawn(
        store, parent="host", argv=["sh", "-c", bomb], limits=Limits(pids=50), timeout_s=1, capture=True
    ) as running:
        for _ in range(10):
            asked = time.monotonic()
            subprocess.run(["true"], check=True)
            slowest = max(slowest, time.monotonic() - asked)
            assert running.stats().processes <= 50
            time.sleep(0.05)
        running.wait()
    assert slowest < 2
    assert time.monotonic() - started < 10
    assert left_behind() == []


def test_processors(store: cowstore.Store) -> None:
    needs("cpu")
    script = (
        "import os, time\n"
        "os.fork()\n"
        "end = time.monotonic() + 1\n"
        "while time.monotonic() < end: pass\n"
        "times = os.times()\n"
        "print(times.user + times.system)\n"
    )
    done = cowstore.run(store, parent="host", argv=[*PYTHON, script], limits=Limits(cpus=0.5), capture=True)
    assert done.out is not None
    assert sum(map(float, done.out.split())) < 0.75


def test_the_program_sees_its_own_group_as_the_topmost(store: cowstore.Store) -> None:
    needs("pids")
    for limits in (None, Limits(pids=20)):
        done = cowstore.run(store, parent="host", argv=["cat", "/proc/self/cgroup"], limits=limits, capture=True)
        assert done.out is not None
        assert {line.rpartition(":")[2] for line in done.out.decode().splitlines()} == {"/"}
    done = cowstore.run(
        store,
        parent="host",
        argv=["cat", "/proc/self/oom_score_adj"],
        limits=Limits(memory_bytes=1 << 30),
        capture=True,
    )
    assert done.out is not None
    assert done.out.strip() == Path("/proc/self/oom_score_adj").read_bytes().strip()


def test_no_limit_needs_nothing(store: cowstore.Store) -> None:
    """RT-17: on a machine without control groups it runs, and says what it cannot bound."""
    script = f"""
import cowstore
from cowstore.runtime.limits import Limits
with cowstore.open({store.root!r}) as store:
    print(cowstore.run(store, parent="host", argv=["true"]).status)
    try:
        cowstore.run(store, parent="host", argv=["true"], limits=Limits(memory_bytes=1 << 30))
    except cowstore.CowstoreError as error:
        print(error)
    done = cowstore.run(store, parent="host", argv=["true"], limits=Limits(memory_bytes=1 << 30, best_effort=True))
    print(done.status, *done.warnings)
"""
    hidden = 'for m in $(grep -o " /sys/fs/cgroup[^ ]*" /proc/mounts | sort -r); do umount -l $m; done; exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", hidden, "sh", sys.executable, "-P", "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "0", done.stderr
    assert "cannot limit memory: this machine has no memory controller" in lines[1]
    assert "--limits best-effort" in lines[1]
    assert lines[2].startswith("0 memory is not limited: this machine has no memory controller")


def test_groups_of_a_launcher_that_was_killed_are_swept(store: cowstore.Store) -> None:
    needs("pids")
    script = f"""
import cowstore
from cowstore.runtime.limits import Limits
with cowstore.open({store.root!r}) as store:
    limits = Limits(pids=20, memory_bytes=1 << 28)
    cowstore.run(store, parent="host", argv=["sh", "-c", "echo up; sleep 100"], limits=limits)
"""
    running = subprocess.Popen([sys.executable, "-P", "-c", script], stdout=subprocess.PIPE)
    assert running.stdout is not None
    assert running.stdout.readline() == b"up\n"
    [fork_server] = children(running.pid)
    [launcher] = [pid for pid in children(fork_server) if _runs(pid, "sh")]  # the other one waits for work
    os.kill(launcher, 9)
    running.wait()
    running.stdout.close()
    assert left_behind()
    deadline = time.monotonic() + 5
    while left_behind() and time.monotonic() < deadline:
        cowstore.run(store, parent="host", argv=["true"], limits=Limits(pids=20, memory_bytes=1 << 28))
    assert left_behind() == []


def _runs(pid: int, name: str) -> bool:
    return any(
        Path(f"/proc/{child}/comm").read_text().strip() == name or _runs(child, name) for child in children(pid)
    )


def test_what_makes_no_sense_is_refused(store: cowstore.Store) -> None:
    for limits in (
        Limits(memory_bytes=1),
        Limits(cpus=0),
        Limits(pids=1),
        Limits(io_weight=0),
        Limits(cpus=float("nan")),
    ):
        with pytest.raises(InvalidArgument):
            cowstore.run(store, parent="host", argv=["true"], limits=limits)


def test_a_missing_controller_is_named(tmp_path: Path) -> None:
    """RT-17."""
    bare = [Hierarchy(2, str(tmp_path), str(tmp_path), frozenset({"cpu"}))]
    with pytest.raises(Unsupported, match="no pids controller"):
        Groups("x").make(Limits(pids=10), bare)
    groups = Groups("x")
    groups.make(Limits(pids=10, best_effort=True), bare)
    assert len(groups.warnings) == 1
    assert not list(tmp_path.iterdir())


def test_a_group_that_may_not_be_made_is_refused_with_the_way_out(tmp_path: Path) -> None:
    """RT-15: nothing half-made is left."""
    (tmp_path / "cgroup.subtree_control").write_text("")
    occupied = [Hierarchy(1, str(tmp_path), str(tmp_path / "absent"), frozenset({"pids"}))]
    with pytest.raises((CowstoreError, OSError)):
        Groups("x").make(Limits(pids=10), occupied)
