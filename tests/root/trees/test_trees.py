"""Trees with what only root can make: mounts inside, devices, other owners."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

import pytest

from cowstore._linux.mount import MountFlag, mount, umount2
from cowstore.trees.compare import compare
from cowstore.trees.copy import copy_tree
from cowstore.trees.remove import remove_tree
from cowstore.trees.usage import measure

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["another file system", "the same file system"])
def inside(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A tree in which something is mounted; a bind mount of the same file system does not show by its device."""
    point = tmp_path / "tree/a/mounted"
    point.mkdir(parents=True)
    (tmp_path / "other").mkdir()
    if request.param == "another file system":
        mount("tmpfs", str(point), "tmpfs")
    else:
        mount(str(tmp_path / "other"), str(point), None, MountFlag.BIND)
    (point / "kept").write_text("kept")
    yield tmp_path
    umount2(str(point))


def test_remove_stays_out_of_mounts(inside: Path) -> None:
    fd = os.open(inside, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="mounted") as caught:
            remove_tree(fd, "tree")
        assert caught.value.errno == errno.EBUSY
    finally:
        os.close(fd)
    assert (inside / "tree/a/mounted/kept").read_text() == "kept"


def test_copy_leaves_mount_points_empty(inside: Path) -> None:
    (inside / "target").mkdir()
    source, target = (os.open(inside / name, os.O_RDONLY) for name in ("tree", "target"))
    try:
        count = copy_tree(source, target)
        assert count.skipped() == {"mount points": 1}
        assert os.listdir(inside / "target/a/mounted") == []
        assert [change.path for change in compare(source, target) if change.path != "a/mounted"] in ([], ["a"])
        assert measure(target)[1] == 3
        assert measure(source)[1] == 2
    finally:
        os.close(source)
        os.close(target)


def test_devices_and_whiteouts(tmp_path: Path) -> None:
    """OV-24: a character device 0:0 is copied only where it is no mark."""
    for name in ("source", "target", "all"):
        (tmp_path / name).mkdir()
    os.mknod(tmp_path / "source/null", stat.S_IFCHR | 0o640, os.makedev(1, 3))
    os.mknod(tmp_path / "source/zero", stat.S_IFCHR | 0o600, 0)
    os.chown(tmp_path / "source/null", 5, 6)
    fds = {name: os.open(tmp_path / name, os.O_RDONLY) for name in ("source", "target", "all")}
    try:
        count = copy_tree(fds["source"], fds["target"], owners=False, devices=False)
        assert count.skipped() == {"device nodes": 1, "whiteouts": 1}
        count = copy_tree(fds["source"], fds["all"], whiteouts=True)
        assert count.skipped() == {}
        assert list(compare(fds["source"], fds["all"])) == []
        found = os.stat("null", dir_fd=fds["all"])
        assert (found.st_rdev, found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (
            os.makedev(1, 3),
            5,
            6,
            0o640,
        )
        (tmp_path / "all/null").unlink()
        os.mknod(tmp_path / "all/null", stat.S_IFCHR | 0o640, os.makedev(1, 5))
        assert [change.path for change in compare(fds["source"], fds["all"])] == ["null"]
    finally:
        for fd in fds.values():
            os.close(fd)


def test_owners_that_are_not_kept_are_counted(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / "source/f").touch()
    os.chown(tmp_path / "source/f", 5, 6)
    source, target = (os.open(tmp_path / name, os.O_RDONLY) for name in ("source", "target"))
    try:
        assert copy_tree(source, target, owners=False).skipped() == {"owners": 1}
        assert (tmp_path / "target/f").stat().st_uid == 0
    finally:
        os.close(source)
        os.close(target)
