"""A store on a Btrfs without room: its catalog is mapped memory, and a page that cannot be copied ends a process."""

from __future__ import annotations

import mmap
import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

import cowstore
from cowstore import OutOfSpace
from cowstore._linux.fd import open_
from cowstore._linux.files import InodeFlag, get_inode_flags, set_inode_flags
from tests.root.btrfs_ground import btrfs_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    with btrfs_at(tmp_path, 150 << 20) as point:
        yield point


def fill(place: Path) -> None:
    """Leave no room on the file system, by ever smaller files; what is dirty is on the disk then."""
    number = 0
    for size in (8 << 20, 1 << 20, 64 << 10, 4096):
        with suppress(OSError):
            while True:
                number += 1
                with open(place / f"filler-{number}", "wb") as file:
                    file.write(os.urandom(size))
                    file.flush()
                    os.fsync(file.fileno())
    os.sync()


def status_of(work: Callable[[], None]) -> int:
    """Do something in a child; its exit status, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_file_that_is_never_copied(small: Path) -> None:
    """The memory that the users of a catalog share is made as such a file, with the catalog's owner and mode."""
    with cowstore.open(small / "store", driver="copy") as store:
        store.prepare("key")
        catalog, shared = small / "store/catalog.db", small / "store/catalog.db-shm"
        with open_(str(shared), os.O_RDONLY) as file:
            assert InodeFlag.NOCOW in get_inode_flags(file)
        for one in (catalog.stat(), shared.stat()):
            assert (one.st_uid, one.st_gid, one.st_mode & 0o777) == (0, 0, catalog.stat().st_mode & 0o777)
        with open_(str(catalog), os.O_RDONLY) as file:
            assert InodeFlag.NOCOW not in get_inode_flags(file)


@pytest.mark.slow
@pytest.mark.parametrize("driver", ["copy", "overlay"])
def test_no_room_is_an_error_and_ends_nobody(small: Path, driver: str) -> None:
    """Each verb says that the disk is full, what is there can be read, and with room the work goes on."""

    def map_a_page() -> None:
        with open_(str(small / "probe"), os.O_RDWR) as file, mmap.mmap(file.fileno(), 4096) as page:
            page[0] = 1

    with open_(str(small / "probe"), os.O_RDWR | os.O_CREAT, 0o600) as file:
        set_inode_flags(file, InodeFlag.NOCOW)
        os.write(file.fileno(), bytes(4096))
    with cowstore.open(small / "store", driver=driver) as store:
        store.prepare("made")
        store.commit("base", "made")

    def verbs() -> None:
        with cowstore.open(small / "store") as store:
            store.prepare("before", "base")
            fill(small)
            for number in range(60):
                with suppress(OutOfSpace):
                    store.prepare(f"key-{number}", "base")
                if number % 20 == 0:
                    os.sync()
            assert {"base", "before"} <= {snapshot.key for snapshot in store.walk()}

    def again() -> None:
        for path in small.glob("filler-*"):
            path.unlink()
        os.sync()
        with cowstore.open(small / "store") as store:
            store.prepare("after", "base")
            store.commit("layer", "after")
            for snapshot in [*store.walk()]:
                if snapshot.key.startswith("key-") or snapshot.key == "before":
                    store.remove(snapshot.key)
            assert {snapshot.key for snapshot in store.walk()} == {"base", "layer"}
            assert [*store.check()] == []

    found = status_of(verbs)
    if found == -signal.SIGBUS and status_of(map_a_page) == -signal.SIGBUS:
        pytest.skip("elsewhere: this kernel wants room for a page of a file that is never copied")
    assert found == 0
    assert status_of(again) == 0
