"""Btrfs' ioctls on a Btrfs."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from cowstore._linux import btrfs
from tests.root.btrfs_ground import btrfs_at, directory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def top(tmp_path: Path) -> Iterator[Path]:
    with btrfs_at(tmp_path) as point:
        yield point


def test_a_snapshot_has_its_source_for_a_parent(top: Path) -> None:
    with directory(top) as fd:
        btrfs.subvol_create(fd, "one")
        (top / "one" / "f").write_text("1")
        with directory(top / "one") as one:
            btrfs.snap_create(fd, "two", one, read_only=True)
            source = btrfs.get_subvol_info(one)
            assert btrfs.ino_lookup(one) == (source.treeid, b"")
        with directory(top / "two") as two:
            made = btrfs.get_subvol_info(two)
            assert bytes(made.parent_uuid) == bytes(source.uuid)
            assert made.name == b"two"
            assert btrfs.subvol_getflags(two) == btrfs.SubvolFlag.RDONLY
            with pytest.raises(OSError) as caught:
                os.open("g", os.O_CREAT | os.O_WRONLY, dir_fd=two)
            assert caught.value.errno == errno.EROFS
            btrfs.subvol_setflags(two, btrfs.SubvolFlag.NONE)
            os.close(os.open("g", os.O_CREAT | os.O_WRONLY, dir_fd=two))
        assert (top / "two" / "f").read_text() == "1"
        with pytest.raises(FileExistsError):
            btrfs.subvol_create(fd, "two")


def test_deleting_is_told_until_it_is_done(top: Path) -> None:
    with directory(top) as fd:
        btrfs.subvol_create(fd, "one")
        with directory(top / "one") as one:
            number = btrfs.ino_lookup(one)[0]
        btrfs.snap_destroy(fd, "one")
        assert btrfs.dead_roots(fd) == [number]
        deadline = time.monotonic() + 60
        while btrfs.dead_roots(fd) and time.monotonic() < deadline:
            btrfs.sync(fd)
            time.sleep(0.01)
        assert btrfs.dead_roots(fd) == []
        with pytest.raises(FileNotFoundError):
            btrfs.snap_destroy(fd, "one")


def test_deleting_by_number(top: Path) -> None:
    with directory(top) as fd:
        btrfs.subvol_create(fd, "one")
        with directory(top / "one") as one:
            number = btrfs.ino_lookup(one)[0]
        btrfs.snap_destroy_by_id(fd, number)
        assert os.listdir(top) == []
        with pytest.raises(OSError) as caught:
            btrfs.subvol_sync_wait(fd, number + 1000)
        # ENOTTY is what a kernel before 6.13 says.
        assert caught.value.errno in {errno.ENOENT, errno.ENOTTY}


def test_a_subvolume_with_another_in_it_is_not_deleted(top: Path) -> None:
    with directory(top) as fd:
        btrfs.subvol_create(fd, "one")
        with directory(top / "one") as one:
            btrfs.subvol_create(one, "inner")
            inner = os.stat("inner", dir_fd=one)
            assert inner.st_ino == btrfs.FIRST_FREE_OBJECTID
            assert [ref.name for ref in btrfs.root_refs(fd, btrfs.ino_lookup(one)[0])] == [b"inner"]
        with pytest.raises(OSError) as caught:
            btrfs.snap_destroy(fd, "one")
        assert caught.value.errno == errno.ENOTEMPTY


def test_search_gives_each_item_once_over_many_buffers(top: Path) -> None:
    with directory(top) as fd:
        btrfs.subvol_create(fd, "one")
        with directory(top / "one") as one:
            for number in range(1500):
                btrfs.subvol_create(one, f"{number}-{'x' * 100}")
            found = [ref.name for ref in btrfs.root_refs(fd, btrfs.ino_lookup(one)[0])]
        assert sorted(found) == sorted(os.fsencode(name) for name in os.listdir(top / "one"))


def test_all_links_of_an_inode_are_found(top: Path) -> None:
    (top / "d").mkdir()
    file = top / "first"
    file.write_text("")
    names = {b"first"}
    # More names in one directory than one item holds: the rest goes to items of another kind.
    for number in range(400):
        name = f"{number:04}-{'y' * 60}"
        os.link(file, top / "d" / name)
        names.add(name.encode())
    os.sync()
    with directory(top) as fd:
        found = list(btrfs.inode_refs(fd, file.stat().st_ino))
    assert {name for _directory, name in found} == names
    assert {number for number, _name in found} == {256, (top / "d").stat().st_ino}
    assert len(found) == len(names)


def test_sizes_and_devices(top: Path) -> None:
    with directory(top) as fd:
        found = btrfs.fs_info(fd)
        assert found.num_devices == 1
        device = btrfs.dev_info(fd, 1)
        assert device.path.startswith(b"/dev/loop")
        assert device.total_bytes == 1 << 30
        with pytest.raises(OSError) as caught:
            btrfs.dev_info(fd, 7)
        assert caught.value.errno == errno.ENODEV
        kinds = [info.flags for info in btrfs.space_info(fd)]
        assert any(kind & btrfs.BlockGroupFlag.METADATA for kind in kinds)
        btrfs.resize(fd, str(512 << 20))
        assert btrfs.dev_info(fd, 1).total_bytes == 512 << 20
        btrfs.resize(fd, "max")
        assert btrfs.dev_info(fd, 1).total_bytes == 1 << 30


def test_start_and_wait_for_a_commit(top: Path) -> None:
    with directory(top) as fd:
        (top / "f").write_text("x")
        transid = btrfs.start_sync(fd)
        assert transid > 0
        btrfs.wait_sync(fd, transid)
        btrfs.wait_sync(fd)


def test_a_quota_group_limits_and_goes(top: Path) -> None:
    with directory(top) as fd:
        btrfs.quota_ctl(fd, btrfs.QuotaCommand.ENABLE)
        btrfs.quota_rescan_wait(fd)
        btrfs.subvol_create(fd, "one")
        with directory(top / "one") as one:
            number = btrfs.ino_lookup(one)[0]
            btrfs.qgroup_limit(one, 0, max_rfer=4 << 20)
            with pytest.raises(OSError) as caught:
                (top / "one" / "f").write_bytes(os.urandom(8 << 20))
            assert caught.value.errno == errno.EDQUOT
            btrfs.qgroup_limit(fd, number)
            (top / "one" / "f").write_bytes(os.urandom(8 << 20))
        btrfs.qgroup_create(fd, 1 << 48 | 7)
        btrfs.qgroup_assign(fd, number, 1 << 48 | 7)
        btrfs.qgroup_assign(fd, number, 1 << 48 | 7, assign=False)
        btrfs.qgroup_create(fd, 1 << 48 | 7, create=False)
        try:
            btrfs.quota_rescan(fd)
        except OSError as error:
            assert error.errno == errno.EINPROGRESS
        btrfs.quota_rescan_wait(fd)
        btrfs.quota_ctl(fd, btrfs.QuotaCommand.DISABLE)


def test_only_the_read_only_can_be_sent(top: Path) -> None:
    with directory(top) as fd:
        btrfs.subvol_create(fd, "one")
        read_fd, write_fd = os.pipe()
        with directory(top / "one") as one, pytest.raises(PermissionError):
            btrfs.send(one, write_fd, flags=btrfs.SendFlag.NO_FILE_DATA)
        os.close(read_fd)
        os.close(write_fd)


def test_other_threads_run_during_a_call(top: Path) -> None:
    """A send that waits for its reader would stop everything otherwise, its reader included."""
    with directory(top) as fd:
        btrfs.subvol_create(fd, "one")
        for number in range(2000):
            (top / "one" / f"{number}-{'z' * 60}").touch()
        with directory(top / "one") as one:
            btrfs.subvol_setflags(one, btrfs.SubvolFlag.RDONLY)
            read_fd, write_fd = os.pipe()
            fcntl.fcntl(write_fd, fcntl.F_SETPIPE_SZ, 4096)

            def send() -> None:
                btrfs.send(one, write_fd, flags=btrfs.SendFlag.NO_FILE_DATA)
                os.close(write_fd)

            thread = threading.Thread(target=send)
            thread.start()
            length = 0
            while piece := os.read(read_fd, 4096):
                length += len(piece)
            thread.join()
            os.close(read_fd)
        assert length > 2000 * 60
