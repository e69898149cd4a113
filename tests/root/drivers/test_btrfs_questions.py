"""What the kernel knows of subvolumes: the same answers from btrfsutil and from the ioctls of our own."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import TYPE_CHECKING

import pytest

from cowstore._linux import btrfs
from cowstore.drivers.btrfs import Btrfs, questions
from cowstore.results import ChangeKind
from tests import tiers
from tests.root.btrfs_ground import directory
from tests.root.drivers.btrfs_fixtures import driver, elsewhere, make, on_btrfs, tree

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["driver", "elsewhere", "on_btrfs"]


@pytest.fixture
def library() -> ModuleType:
    """The package btrfsutil. One that is installed and does not work is a failure, not a reason to skip."""
    if importlib.util.find_spec("btrfsutil") is None:
        # Where the suite counts this is a failure: the tier installs it.
        pytest.skip("btrfsutil is not installed: pip install cowstore[btrfsutil]")
    found = questions.library()
    assert found is not None, "btrfsutil is installed, and cannot be imported"
    return found


@pytest.fixture(params=["btrfsutil", "ioctl"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way of asking by itself."""
    if request.param == "ioctl":
        monkeypatch.setattr(questions, "library", lambda: None)
    else:
        request.getfixturevalue("library")
    return str(request.param)


def nest(root: str) -> None:
    """Make s1, s1/deep/s2 and one of an odd name."""
    with directory(root) as fd:
        btrfs.subvol_create(fd, "s1")
    os.mkdir(f"{root}/s1/deep")
    os.makedirs(f"{root}/x/\udce4 odd\nname")
    for place, name in (("s1/deep", b"s2"), ("x/\udce4 odd\nname", b"\xff\n")):
        with directory(f"{root}/{place}") as fd:
            btrfs.subvol_create(fd, name)


def test_nested_subvolumes(driver: Btrfs, library: ModuleType) -> None:
    driver.create(1, None, None)
    with tree(driver, 1) as root:
        nest(root)
    with driver._open(1) as top:
        fd = top.fileno()
        by_search = questions.nested_by_search(fd, btrfs.ino_lookup(fd)[0])
        by_library = questions.nested_by_library(fd, library)
    assert sorted(by_search) == sorted(by_library)
    assert {path for path, _ in by_search} == {b"s1", b"s1/deep/s2", b"x/\xe4 odd\nname/\xff\n"}
    # A subvolume comes after the one it lies in, both ways.
    for found in (by_search, by_library):
        assert [path for path, _ in found].index(b"s1") < [path for path, _ in found].index(b"s1/deep/s2")


def test_facts_and_generations(driver: Btrfs, library: ModuleType) -> None:
    make(driver, 1, None, {"a": b"1"})
    make(driver, 2, 1, {"b": b"2"})
    driver.create(3, 2, None)
    told = {}
    for id in (1, 2, 3):
        with driver._open(id) as top:
            told[id] = questions.info_by_ioctl(top.fileno())
            assert told[id] == questions.info_by_library(top.fileno(), library)
    assert told[2].parent_uuid == told[1].uuid != told[2].uuid
    assert not any(told[1].parent_uuid)
    assert [told[id].read_only for id in (1, 2, 3)] == [True, True, False]
    assert told[2].generation > told[2].made > told[1].made
    assert told[3].generation == told[3].made
    with tree(driver, 3) as root, open(f"{root}/new", "w"):
        pass
    btrfs.sync(driver._home)
    with driver._open(3) as top:
        after = questions.info_by_ioctl(top.fileno())
        assert after == questions.info_by_library(top.fileno(), library)
    assert after.generation > told[3].generation
    assert after.made == told[3].made


def test_a_directory_is_no_subvolume(driver: Btrfs, way: str) -> None:
    make(driver, 1, None, {"d/a": b"1"})
    with driver._open(1) as top, directory(f"/proc/self/fd/{top.fileno()}/d") as fd, pytest.raises(OSError):
        questions.info(fd)


def test_deleted_subvolumes(driver: Btrfs, library: ModuleType) -> None:
    """Held by a descriptor, a deleted subvolume cannot be cleaned: both ways name it."""
    driver.create(1, None, None)
    with driver._open(1) as root:
        number = btrfs.ino_lookup(root)[0]
        driver.remove(1)
        assert btrfs.dead_roots(driver._home) == questions.deleted_by_library(driver._home, library) == [number]
    driver.drain()
    assert btrfs.dead_roots(driver._home) == questions.deleted_by_library(driver._home, library) == []


def test_the_driver_works_either_way(driver: Btrfs, way: str) -> None:
    """Nested subvolumes, usage, changes, check and waiting for a deletion."""
    make(driver, 1, None, {"a": b"1" * 5000})
    driver.create(2, 1, None)
    with tree(driver, 2) as root:
        nest(root)
        with open(f"{root}/s1/f", "wb") as file:
            file.write(b"2" * 9000)
    assert driver.usage(2).inodes >= 7
    assert list(driver.examine(2, 1, False)) == []
    driver.seal(2)
    assert [change.path for change in driver.changes(2, 1) if change.kind is ChangeKind.ADDED][:2] == ["s1", "s1/deep"]
    driver.create(3, 2, None)
    driver.seal(3)
    assert list(driver.changes(3, 2)) == []
    driver.create(4, None, None)
    with tree(driver, 4) as root:
        nest(root)
    for id in (4, 3, 2, 1):
        driver.remove(id)
    driver.drain()
    assert btrfs.dead_roots(driver._home) == []


def test_what_nobody_wrote_to_is_not_sent(driver: Btrfs, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sealed child of the generation in which it was made: the stream is not even asked for."""
    make(driver, 1, None, {"a": b"1"})
    make(driver, 2, 1, {})
    make(driver, 3, 1, {"b": b""})

    def barred(*_: object, **__: object) -> None:
        raise AssertionError("a stream was asked for")

    with monkeypatch.context() as patch:
        patch.setattr("cowstore.drivers.btrfs.changes.difference", barred)
        with pytest.raises(AssertionError):
            list(driver.changes(3, 1))
        # `make` mounts it, and a mount by itself writes nothing.
        assert list(driver.changes(2, 1)) == []
        with pytest.raises(AssertionError):
            list(driver.changes(2, 3))


def test_a_library_that_cannot_be_imported_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    questions.library.cache_clear()
    try:
        with monkeypatch.context() as patch:
            # None makes the import fail as a missing symbol of the C library does.
            patch.setitem(sys.modules, "btrfsutil", None)
            assert questions.library() is None
    finally:
        questions.library.cache_clear()


def test_the_skip_hides_no_failure() -> None:
    """Where every skip counts, that of a missing btrfsutil does: its reason is not among the excused."""
    assert not "btrfsutil is not installed".startswith(tiers.EXCUSED)
