"""The numbers and sizes of Btrfs' ioctls are those of the kernel's header; no file system is needed."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING

import pytest

from cowstore._linux import _btrfs_abi as abi
from cowstore._linux import btrfs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NUMBERS = {
    "RESIZE": 0x50009403,
    "SYNC": 0x00009408,
    "SNAP_DESTROY": 0x5000940F,
    "TREE_SEARCH_V2": 0xC0709411,
    "INO_LOOKUP": 0xD0009412,
    "SPACE_INFO": 0xC0109414,
    "WAIT_SYNC": 0x40089416,
    "SNAP_CREATE_V2": 0x50009417,
    "START_SYNC": 0x80089418,
    "SUBVOL_CREATE_V2": 0x50009418,
    "SUBVOL_GETFLAGS": 0x80089419,
    "SUBVOL_SETFLAGS": 0x4008941A,
    "DEV_INFO": 0xD000941E,
    "FS_INFO": 0x8400941F,
    "SEND": 0x40489426,
    "QUOTA_CTL": 0xC0109428,
    "QGROUP_ASSIGN": 0x40189429,
    "QGROUP_CREATE": 0x4010942A,
    "QGROUP_LIMIT": 0x8030942B,
    "QUOTA_RESCAN": 0x4040942C,
    "QUOTA_RESCAN_STATUS": 0x8040942D,
    "QUOTA_RESCAN_WAIT": 0x0000942E,
    "GET_SUBVOL_INFO": 0x81F8943C,
    "SNAP_DESTROY_V2": 0x5000943F,
    "SUBVOL_SYNC_WAIT": 0x40109441,
}

SIZES = {
    abi.btrfs_ioctl_vol_args: 4096,
    abi.btrfs_ioctl_vol_args_v2: 4096,
    abi.btrfs_ioctl_get_subvol_info_args: 504,
    abi.btrfs_ioctl_search_key: 104,
    abi.btrfs_ioctl_search_args_v2: 112,
    abi.btrfs_ioctl_ino_lookup_args: 4096,
    abi.btrfs_ioctl_quota_ctl_args: 16,
    abi.btrfs_ioctl_qgroup_assign_args: 24,
    abi.btrfs_ioctl_qgroup_create_args: 16,
    abi.btrfs_ioctl_qgroup_limit_args: 48,
    abi.btrfs_ioctl_quota_rescan_args: 64,
    abi.btrfs_ioctl_subvol_wait: 16,
    abi.btrfs_ioctl_fs_info_args: 1024,
    abi.btrfs_ioctl_dev_info_args: 4096,
    abi.btrfs_ioctl_space_info: 24,
    abi.btrfs_ioctl_space_args: 16,
    abi.btrfs_ioctl_send_args: 72,
}


@pytest.mark.parametrize(("name", "number"), NUMBERS.items())
def test_request_number(name: str, number: int) -> None:
    assert getattr(abi, f"IOC_{name}") == number


def test_every_number_is_pinned() -> None:
    assert {name.removeprefix("IOC_") for name in vars(abi) if name.startswith("IOC_")} == set(NUMBERS)


@pytest.mark.parametrize("structure", SIZES)
def test_structure_size(structure: type[ctypes.Structure]) -> None:
    assert ctypes.sizeof(structure) == SIZES[structure]


def test_every_structure_is_pinned() -> None:
    sized = {one for one in vars(abi).values() if isinstance(one, type) and issubclass(one, ctypes.Structure)}
    assert sized - {abi.btrfs_ioctl_timespec} == set(SIZES)


def test_subvol_id_stands_where_the_name_does() -> None:
    assert abi.btrfs_ioctl_vol_args_v2.name.offset == 56


@pytest.mark.parametrize(
    "call",
    [
        lambda fd: btrfs.subvol_create(fd, "x"),
        lambda fd: btrfs.snap_create(fd, "x", fd),
        lambda fd: btrfs.snap_destroy(fd, "x"),
        btrfs.subvol_getflags,
        btrfs.get_subvol_info,
        btrfs.fs_info,
        btrfs.sync,
        lambda fd: btrfs.qgroup_limit(fd, 5, max_rfer=1),
        lambda fd: list(btrfs.root_refs(fd, 5)),
    ],
)
def test_elsewhere_than_on_btrfs_the_error_names_the_call(call: Callable[[int], object]) -> None:
    """BT-08."""
    fd = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(OSError) as caught:
            call(fd)
    finally:
        os.close(fd)
    assert caught.value.errno == errno.ENOTTY
    assert "BTRFS_IOC_" in caught.value.__notes__[0]


def test_a_name_that_does_not_fit_is_not_cut(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(OSError) as caught:
            btrfs.subvol_create(fd, "x" * 256)
        assert caught.value.errno == errno.ENAMETOOLONG
        with pytest.raises(OSError) as caught:
            btrfs.snap_destroy(fd, b"a\0b")
        assert caught.value.errno == errno.EINVAL
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("key", "following"),
    [
        ((5, 6, 7), (5, 6, 8)),
        ((5, 6, abi.U64_MAX), (5, 7, 0)),
        ((5, 255, abi.U64_MAX), (6, 0, 0)),
        ((abi.U64_MAX, 255, abi.U64_MAX), None),
    ],
)
def test_next_key(key: tuple[int, int, int], following: tuple[int, int, int] | None) -> None:
    assert btrfs._next_key(key) == following
