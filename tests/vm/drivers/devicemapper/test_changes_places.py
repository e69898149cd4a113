"""Where changed inodes are found on the device: by kind of change, over block groups, and when that is not tried."""

from __future__ import annotations

import errno
import os
import re
import shutil
import struct
from typing import TYPE_CHECKING

import pytest

import cowstore
from cowstore.drivers.devicemapper import changes
from cowstore.drivers.devicemapper.ext4 import CannotTell, Ext4
from cowstore.drivers.devicemapper.options import MIB
from cowstore.errors import CowstoreError
from tests.vm.drivers.devicemapper.conftest import SMALL
from tests.vm.drivers.devicemapper.test_changes import told
from tests.vm.drivers.devicemapper.test_filesystem import formatted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cowstore.drivers.devicemapper.names import Places
    from tests.vm.drivers.devicemapper.conftest import Bench

GROVES, MANY, DEEP = 20, 1050, 60
INODES_PER_GROUP = 128


def plant(root: Path) -> None:
    """Make a tree over more than sixteen small block groups, so that a directory and its files are far apart too."""
    for number in range(GROVES):
        directory = root / f"d{number}"
        (directory / "inner").mkdir(parents=True)
        for inner in range(10):
            (directory / f"f{inner}").write_bytes(b"x" * (number * inner * 37 % 5000))
            (directory / "inner" / f"g{inner}").write_bytes(b"y")
    (root / "large").mkdir()
    for number in range(MANY):
        (root / "large" / f"entry-with-a-long-name-{number}").write_bytes(b"")
    deep = root
    for number in range(DEEP):
        deep /= f"n{number % 3}"
    deep.mkdir(parents=True)
    (deep / "end").write_bytes(b"end")
    (root / "behind").mkdir()
    (root / "behind/last").write_bytes(b"last")
    os.link(root / "d1/f1", root / "behind/link")
    os.link(root / "d1/f1", root / "d18/link")
    os.link(root / "d2/inner/g2", root / "outside")
    for name in ("d5/f5", "d5/f6", "d19/f1"):
        os.setxattr(root / name, "user.large", b"shared" * 100)
    os.setxattr(root / "d6/f6", "user.large", b"alone" * 100)


def nothing(root: Path) -> None:
    """Only mount it."""


def in_place(root: Path) -> None:
    (root / "d3/f3").write_bytes(b"new")
    (root / "behind/last").write_bytes(b"new")


def linked(root: Path) -> None:
    """A file with names in three directories."""
    (root / "d1/f1").write_bytes(b"new")


def linked_once_more(root: Path) -> None:
    os.link(root / "d3/f3", root / "d17/inner/again")


def unlinked(root: Path) -> None:
    (root / "d18/link").unlink()
    (root / "d7/f7").unlink()
    shutil.rmtree(root / "d8")


def moved(root: Path) -> None:
    (root / "d9/f1").rename(root / "d10/inner/f1")
    (root / "behind/link").rename(root / "d10/link")


def directory_renamed(root: Path) -> None:
    """Below it is a file, unchanged, that has a name elsewhere too."""
    (root / "d2").rename(root / "renamed")


def directory_moved(root: Path) -> None:
    (root / "d1").rename(root / "d11/inner/d1")


def directories_swapped(root: Path) -> None:
    (root / "d1").rename(root / "between")
    (root / "d2").rename(root / "d1")
    (root / "between").rename(root / "d2")


def directory_replaced(root: Path) -> None:
    """By a copy with the same times, hard links between the two trees among them."""
    shutil.copytree(root / "d2", root / "copy")
    (root / "d2").rename(root / "old")
    (root / "copy").rename(root / "d2")


def in_the_large(root: Path) -> None:
    (root / "large/entry-with-a-long-name-700").write_bytes(b"new")


def in_the_large_renamed(root: Path) -> None:
    (root / "large/entry-with-a-long-name-3").unlink()
    (root / "large/entry-with-a-long-name-4").rename(root / "large/other")
    (root / "large/fresh").write_bytes(b"new")


def emptied_and_filled(root: Path) -> None:
    """Inodes are used again, by other kinds of files."""
    shutil.rmtree(root / "d12")
    (root / "d12").write_bytes(b"a file")
    for number in range(30):
        (root / f"d13/fresh{number}").mkdir()
        (root / f"d13/fresh{number}/link").symlink_to("x" * (10 + number * 10))


def at_the_end_of_the_chain(root: Path) -> None:
    (next(root.glob("n0" + "/n1/n2/n0" * (DEEP // 3 - 1) + "/n1/n2")) / "end").write_bytes(b"new")


def replaced(root: Path) -> None:
    for name in ("d14/f1", "d14/f2", "d1/f1"):
        (root / "fresh").write_bytes(b"replacement")
        (root / "fresh").replace(root / name)


def attributes(root: Path) -> None:
    """Of three files that share a block one gets others; of another they are changed where they are."""
    os.setxattr(root / "d5/f6", "user.large", b"others" * 100)
    os.setxattr(root / "d6/f6", "user.large", b"again" * 100)
    os.removexattr(root / "d19/f1", "user.large")


def only_times(root: Path) -> None:
    os.utime(root / "d15/f1", (1, 1))
    os.utime(root / "d16/inner", (1, 1))


def modes(root: Path) -> None:
    for number in range(GROVES):
        (root / f"d{number}/f3").chmod(0o640)
        (root / f"d{number}/inner/g3").chmod(0o640)


def of_the_root(root: Path) -> None:
    root.chmod(0o700)


EDITS: list[tuple[Callable[[Path], None], ...]] = [
    (nothing,),
    (in_place, linked, in_the_large),
    (linked_once_more, unlinked, at_the_end_of_the_chain),
    (moved, in_the_large_renamed),
    (directory_renamed, attributes),
    (directory_moved,),
    (directories_swapped, only_times),
    (directory_replaced, replaced),
    (emptied_and_filled,),
    (of_the_root, modes),
]
"""Those that do not touch each other share a snapshot: each is compared as a whole too, which takes its time."""


def test_same_as_the_comparison(make: Callable[..., Bench]) -> None:
    """Each kind of change by itself, on a pool whose free blocks are full of ones; and between two of them."""
    bench = make(base_bytes=4096 * MIB, bytes_per_inode=128 * MIB // INODES_PER_GROUP, discard=False)
    driver = bench.driver
    driver.create(99, None, None)
    with bench.mounted(99) as root, open(root / "fill", "wb") as file:
        file.writelines(b"\xff" * MIB for _ in range(100))
    driver.remove(99)
    driver.create(1, None, None)
    with bench.mounted(1) as root:
        plant(root)
        groups = {(os.lstat(path).st_ino - 1) // INODES_PER_GROUP for path in (root / "d1", root / "behind/last")}
        assert len(groups) == 2
    driver.seal(1)
    for id, edits in enumerate(EDITS, 2):
        driver.create(id, 1, None)
        with bench.mounted(id) as root:
            for edit in edits:
                edit(root)
        driver.seal(id)
    for id, base in [*((id, 1) for id in range(2, len(EDITS) + 2)), (4, 3), (8, 7), (1, 9)]:
        narrowed, whole, found = told(bench, id, base)
        assert narrowed == whole, (EDITS[id - 2], base)
        assert found is not None, (EDITS[id - 2], base)
        assert bool(whole) == (id != 2), (EDITS[id - 2], base)


FEATURES = {
    "inline_data": (0x60, 0x8000),
    "ea_inode": (0x60, 0x400),
    "meta_bg": (0x60, 0x10),
    "encrypt": (0x60, 0x10000),
    "casefold": (0x60, 0x20000),
    "needs_recovery": (0x60, 0x4),
    "bigalloc": (0x64, 0x200),
    "quota": (0x64, 0x100),
    "sparse_super2": (0x5C, 0x200),
    "orphan_file": (0x5C, 0x1000),
}


@pytest.mark.parametrize("feature", FEATURES)
def test_features_that_are_not_known(tmp_path: Path, feature: str) -> None:
    """Whatever may lie otherwise is left to the comparison."""
    image = formatted(tmp_path)
    with Ext4(str(image)):
        pass
    place, bit = FEATURES[feature]
    with open(image, "r+b") as file:
        file.seek(1024 + place)
        word = struct.unpack("<I", file.read(4))[0]
        file.seek(1024 + place)
        file.write(struct.pack("<I", word | bit))
    with pytest.raises(CannotTell):
        Ext4(str(image))


def test_attributes_that_are_shared_with_what_is_unchanged(bench: Bench) -> None:
    """An inode that joins others changes the count of their block; if more has changed there, nobody can tell whose."""
    driver = bench.driver
    value = b"shared by three" * 50
    driver.create(1, None, None)
    with bench.mounted(1) as root:
        for name in "abc":
            (root / name).write_bytes(b"x")
        for name in "ab":
            os.setxattr(root / name, "user.large", value)
    driver.seal(1)
    driver.create(2, 1, None)
    with bench.mounted(2) as root:
        os.setxattr(root / "c", "user.large", value)
    narrowed, whole, found = told(bench, 2, 1)
    assert narrowed == whole == [("modified", "c")]
    assert found is not None
    with bench.active(2, read_only=False) as node, open(node, "r+b") as device:
        # One of them is in the journal.
        for found_at in re.finditer(re.escape(value), device.read(48 * MIB)):
            device.seek(found_at.start())
            device.write(b"S")
        device.flush()
        os.fsync(device.fileno())
    assert changes.differing(driver._pool, driver._thins, driver._ids, 2, 1) is None
    for id in (1, 2):
        driver.release(id)


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), CannotTell("unclear")], ids=["failure", "unclear"])
def test_no_device_stays_active(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """What was activated to be read is given up by the end of the leases, as what was activated to be mounted is.

    Not sooner: another process may be about to mount it.
    """

    def fail(*_: object) -> Places:
        raise error

    with cowstore.open(tmp_path / "store", driver="devicemapper", options=SMALL) as store:
        store.prepare("draft")
        store.commit("base", "draft")
        store.prepare("active", "base")
        thins = store._core.driver._thins  # type: ignore[attr-defined]
        monkeypatch.setattr(changes, "find", fail)
        if isinstance(error, CannotTell):
            assert list(store.changes("active")) == []
        else:
            with pytest.raises(CowstoreError):
                list(store.changes("active"))
        assert [thins.find(store.stat(key).id) for key in ("base", "active")] == [None, None]
        store.destroy()


def test_a_device_that_vanishes_is_no_failure(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its activation and its opening; the comparison activates it anew."""
    driver = bench.driver
    driver.create(1, None, None)
    driver.seal(1)
    driver.create(2, 1, None)
    with bench.mounted(2) as root:
        (root / "new").write_bytes(b"x")
    usual = changes._still

    def gone(*arguments: object) -> str:
        node = usual(*arguments)  # type: ignore[arg-type]
        driver.release(arguments[-1])  # type: ignore[arg-type]
        return node

    with monkeypatch.context() as patch:
        patch.setattr(changes, "_still", gone)
        assert changes.differing(driver._pool, driver._thins, driver._ids, 2, 1) is None
    assert [change.path for change in driver.changes(2, 1)] == ["new"]
    for id in (1, 2):
        driver.release(id)
