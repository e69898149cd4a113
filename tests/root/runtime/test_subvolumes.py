"""A program in a container that makes subvolumes of its own: no obstacle to anything, and nothing of it stays."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest

import cowstore
from cowstore._linux import btrfs
from cowstore.runtime.remote import server
from tests.root.btrfs_ground import btrfs_at, directory
from tests.tiers import need_program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GIB = 1 << 30

PROGRAM = """
set -e
for place in /work /work/inner /work/inner/deep; do btrfs -q subvolume create $place; done
mkdir /work/inner/plain
btrfs -q subvolume create /work/inner/plain/deepest
for place in /work /work/inner /work/inner/deep /work/inner/plain/deepest; do echo "in $place" > $place/said; done
ln /work/inner/said /work/inner/again
btrfs -q property set /work/inner/deep ro true
truncate -s 2G /work/inner/large
printf middle | dd of=/work/inner/large bs=1 seek=1073741824 conv=notrunc status=none
"""


@pytest.fixture(params=["directory", "pool"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A Btrfs of 1 GiB, smaller than the file; or a directory of another file system."""
    need_program("btrfs")
    with btrfs_at(tmp_path) if request.param == "directory" else nullcontext(tmp_path) as place:
        yield place
        # The warm launcher has the mounts of the time when it was made.
        server.stop()


def run(store: cowstore.Store, key: str, script: str) -> str:
    binds = [f"{path}:{path}:ro" for path in ("/usr", "/etc/alternatives") if os.path.isdir(path)]
    done = cowstore.run(store, key=key, argv=["sh", "-c", script], binds=binds, capture=True, timeout_s=60)
    assert done.status == 0, (done.out, done.err, done.failure)
    return (done.out or b"").decode()


def subvolumes(fd: int) -> list[bytes]:
    """Names of all subvolumes in the file system, at any depth, whoever made them."""
    top = btrfs.FS_TREE_OBJECTID
    found: list[bytes] = []
    waiting = [top]
    while waiting:
        for ref in btrfs.root_refs(fd, waiting.pop()):
            found.append(ref.name)
            waiting.append(ref.subvol_id)
    return found


def test_nested_subvolumes_and_a_large_sparse_file(where: Path) -> None:
    """BT-01: made by a program in the container; commit, child and removal work, and nothing is left."""
    options: dict[str, object] = {"pool_size_bytes": GIB} if where.name != "fs" else {}
    with cowstore.open(where / "store", driver="btrfs", options=options) as store:
        store.prepare("empty")
        with store.mounted("empty") as root:
            (root / "usr").mkdir()
            for name in ("bin", "sbin", "lib", "lib64"):
                (root / name).symlink_to(f"usr/{name}")
        store.commit("base", "empty")
        before = store.status().driver_status.free_bytes
        store.prepare("job", "base")
        run(store, "job", PROGRAM)
        store.commit("layer", "job")
        store.prepare("child", "layer")
        said = run(
            store, "child",
            "cat /work/said /work/inner/deep/said /work/inner/plain/deepest/said; stat -c '%s %b' /work/inner/large; "
            "stat -c %h /work/inner/said; dd if=/work/inner/large bs=1 skip=1073741824 count=6 status=none; "
            "rm -r /work/inner/deep /work/inner/plain",
        )  # fmt: skip
        lines = said.splitlines()
        assert lines[:3] == ["in /work", "in /work/inner/deep", "in /work/inner/plain/deepest"]
        size, blocks = (int(word) for word in lines[3].split())
        assert size == 2 * GIB
        assert blocks * 512 < 1 << 20, "its holes were filled"
        assert lines[4:] == ["2", "middle"]
        told = [(str(change.kind), change.path) for change in store.changes("child") if change.path.startswith("work")]
        assert told == [
            ("modified", "work"), ("modified", "work/inner"), ("deleted", "work/inner/deep"),
            ("deleted", "work/inner/plain"),
        ]  # fmt: skip
        assert not store.check()
        for key in ("child", "layer"):
            store.remove(key, wait=True)
        store.prepare("again", "base")
        run(store, "again", PROGRAM)
        store.remove("again", wait=True)
        assert not store.check()
        assert abs(store.status().driver_status.free_bytes - before) < 1 << 20
        store.remove("base", wait=True)
        _nothing_is_left(where, store)
        store.destroy()
    assert not (where / "store").exists()


def _nothing_is_left(where: Path, store: cowstore.Store) -> None:
    """On the user's Btrfs only the store's own empty home is left, and no deleted subvolume waits."""
    if where.name != "fs":
        return
    with directory(where) as fd:
        btrfs.sync(fd)
        assert subvolumes(fd) == [b"volumes"]
        assert btrfs.dead_roots(fd) == []
    assert [found.key for found in store.walk()] == []
