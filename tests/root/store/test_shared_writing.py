"""One active snapshot mounted by many: where a tree can be realised for writing only once, the mount is shared."""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING

import pytest

import cowstore
from cowstore import Busy

if TYPE_CHECKING:
    from pathlib import Path


def test_two_mounts_are_one_tree(any_store: cowstore.Store, tmp_path: Path) -> None:
    """Two overlays on one upper directory break each other: what the second mount shows is the first."""
    any_store.prepare("base")
    with any_store.mounted("base") as root:
        (root / "lower").write_text("x")
    any_store.commit("layer", "base")
    any_store.prepare("job", "layer")
    other = cowstore.open(any_store.root)
    with any_store.mounted("job") as first:
        (first / "a").write_text("1")
        with other.mounted("job") as second:
            (second / "b").write_text("2")
            (first / "lower").unlink()
            assert sorted(os.listdir(first)) == sorted(os.listdir(second)) == ["a", "b"]
        (tmp_path / "here").mkdir()
        other.attach("job", tmp_path / "here")
    with any_store.mounted("job") as third:
        (tmp_path / "here/c").write_text("3")
        assert sorted(os.listdir(third)) == ["a", "b", "c"]
    other.detach(tmp_path / "here")
    other.close()
    any_store.commit("done", "job")
    assert {change.path for change in any_store.changes("done")} == {"a", "b", "c", "lower"}


def test_who_mounts_by_hand_is_alone(any_store: cowstore.Store) -> None:
    any_store.prepare("job")
    other = cowstore.open(any_store.root)
    assert any_store.mounts("job") == any_store.mounts("job")
    if any_store.capabilities.shared_writing:
        other.mounts("job")
    else:
        with pytest.raises(Busy):
            other.mounts("job")
        with pytest.raises(Busy), other.mounted("job"):
            pass
    any_store.release("job")
    any_store.release("job")
    other.mounts("job")
    other.release("job")
    other.close()
    any_store.remove("job")


def test_two_processes_take_turns(any_store: cowstore.Store) -> None:
    """ST-08: one process's unmount never pulls the root from under the other; at the end nothing is mounted."""
    any_store.prepare("job")
    with any_store.mounted("job") as root:
        (root / "file").write_text("content")
    children = []
    for seed in range(2):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                chance = random.Random(seed)
                with cowstore.open(any_store.root) as store:
                    for _ in range(60):
                        with store.mounted("job") as root:
                            for _ in range(3):
                                assert (root / "file").read_text() == "content"
                                time.sleep(chance.random() / 500)
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0]
    assert os.listdir(os.path.join(any_store.root, "mnt")) == []
    any_store.remove("job")


def test_a_mount_taken_down_by_hand_is_mounted_again(any_store: cowstore.Store) -> None:
    """ST-10: nothing but the kernel's own state says whether something is mounted."""
    any_store.prepare("job")
    with any_store.mounted("job") as root:
        (root / "file").write_text("content")
    with any_store.mounted("job") as root:
        assert os.system(f"umount '{root}'") == 0
    with any_store.mounted("job") as root:
        assert (root / "file").read_text() == "content"
