"""Control groups of version 2: which may hold processes, and which may give controllers to those below."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cowstore.runtime.cgroups import hierarchies

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPT = """
import os, sys
from cowstore.errors import CowstoreError
from cowstore.runtime.cgroups import Groups, hierarchies
where, controller, name, value = sys.argv[1:]
with open(os.path.join(where, "cgroup.procs"), "w") as file: file.write("0")
groups = Groups("test")
try:
    groups._set(hierarchies(), controller, [(2, name, value, True)])
except CowstoreError as error:
    print("refused:", error)
else:
    [made] = groups.made
    with open(os.path.join(made, name)) as file: print("set:", file.read().strip())
    if os.fork() == 0:
        with open(os.path.join(made, "cgroup.procs"), "w") as file: file.write("0")
        os._exit(0)
    print("joined:", os.waitstatus_to_exitcode(os.wait()[1]))
groups.remove()
"""


@pytest.fixture
def group() -> Iterator[Path]:
    """A group of version 2 of our own below the launcher's, with a controller for those below it, if there is any."""
    found = next((each for each in hierarchies() if each.version == 2), None)
    usable = {"memory", "pids", "cpu", "hugetlb"} & set(found.controllers if found else ())
    if found is None or not usable:
        pytest.skip("not proven: all controllers of this machine are in hierarchies of version 1")
    path = Path(found.root) / f"cowstore-test-{os.getpid()}"
    before = (Path(found.root) / "cgroup.subtree_control").read_text().split()
    (Path(found.root) / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in usable))
    path.mkdir()
    yield path
    for directory, _, _ in os.walk(path, topdown=False):
        os.rmdir(directory)
    for name in usable - set(before):
        (Path(found.root) / "cgroup.subtree_control").write_text(f"-{name}")


def limit(path: Path) -> tuple[str, str, str]:
    """Return a controller of a group, and a limit of it to set."""
    for controller, name, value in (("pids", "pids.max", "77"), ("memory", "memory.max", "104857600")):
        if controller in (path / "cgroup.controllers").read_text().split():
            return controller, name, value
    [name] = [file.name for file in path.glob("hugetlb.2MB.max")] or [next(path.glob("hugetlb.*.max")).name]
    return "hugetlb", name, "0"


def run(path: Path, *words: str) -> str:
    command = [sys.executable, "-P", "-c", SCRIPT, str(path), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_launcher_that_is_alone_in_its_group(group: Path) -> None:
    """RT-15: the group is made beside its own, where the one above has the controller."""
    words = limit(group)
    assert run(group, *words).splitlines() == [f"set: {words[2]}", "joined: 0"]
    assert not list(group.iterdir()) or not [path for path in group.iterdir() if path.is_dir()]


def test_a_launcher_in_a_leaf_whose_parent_keeps_the_controller(group: Path) -> None:
    """RT-15: it moves into a group of its own below, and the present one gives the controller on."""
    words = limit(group)
    (group / "cgroup.subtree_control").write_text(f"+{words[0]}")
    leaf = group / "leaf"
    leaf.mkdir()
    # The group above has the controller, but may not be written to from where a user was delegated the leaf alone.
    assert run(leaf, *words).splitlines() == [f"set: {words[2]}", "joined: 0"]


def test_a_group_with_others_in_it_is_refused_with_the_way_out(group: Path) -> None:
    """RT-15: no bare EBUSY."""
    words = limit(group)
    inner = group / "inner"
    inner.mkdir()
    other = subprocess.Popen(["sleep", "100"])
    try:
        (inner / "cgroup.procs").write_text(str(other.pid))
        # Above it nobody gives the controller on, and in it is somebody else.
        said = run(inner, *words)
        assert said.startswith(f"refused: the {words[0]} controller cannot be used below {inner}"), said
        assert "systemd-run --scope -p Delegate=yes" in said
    finally:
        other.kill()
        other.wait()
