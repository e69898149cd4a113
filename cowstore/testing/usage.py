"""What a snapshot takes: exact to the block after a sync, its own only, never negative."""

from __future__ import annotations

import os

from cowstore.testing._case import Ground, case
from cowstore.testing._expect import equal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore.testing.edits import Editor

MIB = 1 << 20
_SLACK = 256 << 10
"""Bytes that directories, attributes and a file system's own bookkeeping may take beside the data."""


def _size(ground: Ground, key: str) -> int:
    found = ground.store.usage(key)
    assert found.size_bytes >= 0, f"usage of {key} is negative: {found}"
    assert found.inodes >= -1, f"inodes of {key} are negative: {found}"
    return found.size_bytes


def _near(found: int, expected: int, what: str) -> None:
    assert expected <= found <= expected + _SLACK, (
        f"{what}: expected {expected} bytes (and up to {_SLACK} more), found {found}"
    )


def _data(path: str, mebibytes: int) -> None:
    with open(path, "wb") as file:
        file.write(os.urandom(mebibytes * MIB))
        os.fsync(file.fileno())


@case("beyond (5); DM-18, graphtest DiffSize; moby layer LayerSize, MountSize")
def exact(ground: Ground) -> None:
    """A layer's usage is what was written in it, its child's only what was written there, before and after commit."""
    store = ground.store
    store.prepare("one")
    empty = _size(ground, "one")
    with ground.mounted("one") as root:
        _data(f"{root}/file", 4)
    _near(_size(ground, "one") - empty, 4 * MIB, "an active one")
    store.commit("layer-1", "one")
    _near(_size(ground, "layer-1") - empty, 4 * MIB, "a committed one")
    store.prepare("two", "layer-1")
    shares = ground.store.status().capabilities.instant_create
    child = _size(ground, "two")
    if shares:
        assert child <= _SLACK + empty, f"a child that was not written to takes {child} bytes"
    with ground.mounted("two") as root:
        _data(f"{root}/more", 2)
    grown = _size(ground, "two") - child
    _near(grown, 2 * MIB, "a child")
    with ground.mounted("two") as root:
        os.unlink(f"{root}/more")
    assert _size(ground, "two") <= child + 2 * MIB + _SLACK, "usage after removal"
    store.view("seen", "layer-1")
    equal(store.usage("seen").size_bytes, 0, "usage of a view")
    _near(_size(ground, "layer-1") - empty, 4 * MIB, "the parent, after its child was written to")


@case("beyond (5): inodes; TA-39: hard links", needs=("inode_usage",))
def inodes(ground: Ground) -> None:
    """Inodes are counted, names of one file once, and a removed one is given back."""
    ground.store.prepare("active")
    before = ground.store.usage("active").inodes

    def edits(tree: Editor) -> None:
        tree.write("file", "x" * 100_000)
        for number in range(5):
            tree.link("file", f"link-{number}")
        tree.mkdir("dir")
        tree.symlink("x", "dir/symlink")
        tree.fifo("fifo")

    ground.edit("active", edits, restart=True)
    equal(
        ground.store.usage("active").inodes - before, 4, "inodes of a file of six names, a directory, a link and a FIFO"
    )
    size = _size(ground, "active")
    assert size < 100_000 + _SLACK, f"the names of one file were counted more than once: {size} bytes"
    ground.edit("active", lambda tree: tree.remove("dir"))
    equal(ground.store.usage("active").inodes - before, 2, "inodes after removal")


@case("beyond (5): sparse files take their blocks")
def sparse(ground: Ground) -> None:
    """A file of holes counts what it takes, not how long it is."""
    ground.store.prepare("active")
    before = _size(ground, "active")
    with ground.mounted("active") as root, open(f"{root}/sparse", "wb") as file:
        file.truncate(1 << 30)
        file.seek(1 << 29)
        file.write(os.urandom(MIB))
        file.flush()
        os.fsync(file.fileno())
    _near(_size(ground, "active") - before, MIB, "a gibibyte of holes and one mebibyte")


@case("beyond (5): usage while it is mounted and written to")
def while_mounted(ground: Ground) -> None:
    """Usage can be asked while the snapshot is mounted, and sees what is synced."""
    ground.store.prepare("active")
    before = _size(ground, "active")
    with ground.mounted("active") as root:
        _data(f"{root}/file", 2)
        _near(_size(ground, "active") - before, 2 * MIB, "while mounted")


@case("beyond (5): space is given back")
def given_back(ground: Ground) -> None:
    """Removed snapshots give their space back to the store."""
    ground.store.prepare("kept")
    before = ground.store.status().driver_status
    assert 0 <= before.free_bytes <= before.total_bytes, f"free and total make no sense: {before}"
    for _ in range(3):
        ground.store.prepare("active")
        with ground.mounted("active") as root:
            _data(f"{root}/file", 16)
        ground.store.remove("active", wait=True)
    found = [os.path.join(path, name) for path, _, files in os.walk(ground.root) for name in files]
    left = [path for path in found if os.lstat(path).st_size == 16 * MIB]
    equal(left, [], "files of removed snapshots")
