"""The structures, flags and request numbers of Btrfs' ioctls; the calls are in :mod:`cowstore._linux.btrfs`.

Source: ``linux/btrfs.h``, ``linux/btrfs_tree.h``.
"""

from __future__ import annotations

import ctypes
import enum

FIRST_FREE_OBJECTID = 256
"""Inode number of the root directory of every subvolume."""

EMPTY_SUBVOL_DIR_OBJECTID = 2
"""Inode number of the empty directory that a snapshot has where its source had a nested subvolume."""

ROOT_TREE_OBJECTID = 1
FS_TREE_OBJECTID = 5
QUOTA_TREE_OBJECTID = 8
UUID_TREE_OBJECTID = 9
ORPHAN_OBJECTID = 2**64 - 5

INODE_REF_KEY = 12
INODE_EXTREF_KEY = 13
ROOT_ITEM_KEY = 132
ROOT_BACKREF_KEY = 144
ROOT_REF_KEY = 156
ORPHAN_ITEM_KEY = 48
UUID_KEY_SUBVOL = 251
QGROUP_STATUS_KEY = 240
QGROUP_INFO_KEY = 242
QGROUP_LIMIT_KEY = 244

U64_MAX = 2**64 - 1
NAME_MAX = 255

_MAGIC = 0x94
_WRITE, _READ = 1, 2


class SubvolFlag(enum.IntFlag):
    """Flags of a subvolume. Source: ``BTRFS_SUBVOL_*``."""

    NONE = 0
    RDONLY = 1 << 1
    QGROUP_INHERIT = 1 << 2
    SPEC_BY_ID = 1 << 4


class SendFlag(enum.IntFlag):
    """Flags of a send. Source: ``BTRFS_SEND_FLAG_*``."""

    NONE = 0
    NO_FILE_DATA = 1
    OMIT_STREAM_HEADER = 2
    OMIT_END_CMD = 4
    VERSION = 8
    COMPRESSED = 16


class QuotaCommand(enum.IntEnum):
    """What :func:`quota_ctl` does. Source: ``BTRFS_QUOTA_CTL_*``."""

    ENABLE = 1
    DISABLE = 2
    ENABLE_SIMPLE_QUOTA = 4


class QgroupLimitFlag(enum.IntFlag):
    """Which limits of a quota group are set. Source: ``BTRFS_QGROUP_LIMIT_*``."""

    NONE = 0
    MAX_RFER = 1
    MAX_EXCL = 2


class SubvolSyncMode(enum.IntEnum):
    """What :func:`subvol_sync_wait` waits for. Source: ``BTRFS_SUBVOL_SYNC_*``."""

    WAIT_FOR_ONE = 0
    WAIT_FOR_QUEUED = 1
    COUNT = 2


class BlockGroupFlag(enum.IntFlag):
    """What a block group holds, and in how many copies. Source: ``BTRFS_BLOCK_GROUP_*``."""

    DATA = 1
    SYSTEM = 2
    METADATA = 4
    RAID0 = 8
    RAID1 = 16
    DUP = 32
    RAID10 = 64
    RAID5 = 128
    RAID6 = 256
    RAID1C3 = 512
    RAID1C4 = 1024


class btrfs_ioctl_vol_args(ctypes.Structure):
    _fields_ = (("fd", ctypes.c_int64), ("name", ctypes.c_char * 4088))


class btrfs_ioctl_vol_args_v2(ctypes.Structure):
    _fields_ = (
        ("fd", ctypes.c_int64),
        ("transid", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("unused", ctypes.c_uint64 * 4),
        ("name", ctypes.c_char * 4040),
    )


class btrfs_ioctl_timespec(ctypes.Structure):
    _fields_ = (("sec", ctypes.c_uint64), ("nsec", ctypes.c_uint32))


class btrfs_ioctl_get_subvol_info_args(ctypes.Structure):
    _fields_ = (
        ("treeid", ctypes.c_uint64),
        ("name", ctypes.c_char * (NAME_MAX + 1)),
        ("parent_id", ctypes.c_uint64),
        ("dirid", ctypes.c_uint64),
        ("generation", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("uuid", ctypes.c_uint8 * 16),
        ("parent_uuid", ctypes.c_uint8 * 16),
        ("received_uuid", ctypes.c_uint8 * 16),
        ("ctransid", ctypes.c_uint64),
        ("otransid", ctypes.c_uint64),
        ("stransid", ctypes.c_uint64),
        ("rtransid", ctypes.c_uint64),
        ("ctime", btrfs_ioctl_timespec),
        ("otime", btrfs_ioctl_timespec),
        ("stime", btrfs_ioctl_timespec),
        ("rtime", btrfs_ioctl_timespec),
        ("reserved", ctypes.c_uint64 * 8),
    )


class btrfs_ioctl_search_key(ctypes.Structure):
    _fields_ = (
        ("tree_id", ctypes.c_uint64),
        ("min_objectid", ctypes.c_uint64),
        ("max_objectid", ctypes.c_uint64),
        ("min_offset", ctypes.c_uint64),
        ("max_offset", ctypes.c_uint64),
        ("min_transid", ctypes.c_uint64),
        ("max_transid", ctypes.c_uint64),
        ("min_type", ctypes.c_uint32),
        ("max_type", ctypes.c_uint32),
        ("nr_items", ctypes.c_uint32),
        ("unused", ctypes.c_uint32),
        ("unused_tail", ctypes.c_uint64 * 4),
    )


class btrfs_ioctl_search_args_v2(ctypes.Structure):
    """The head of the arguments; the items that were found follow it in memory."""

    _fields_ = (("key", btrfs_ioctl_search_key), ("buf_size", ctypes.c_uint64))


class btrfs_ioctl_ino_lookup_args(ctypes.Structure):
    _fields_ = (("treeid", ctypes.c_uint64), ("objectid", ctypes.c_uint64), ("name", ctypes.c_char * 4080))


class btrfs_ioctl_quota_ctl_args(ctypes.Structure):
    _fields_ = (("cmd", ctypes.c_uint64), ("status", ctypes.c_uint64))


class btrfs_ioctl_qgroup_assign_args(ctypes.Structure):
    _fields_ = (("assign", ctypes.c_uint64), ("src", ctypes.c_uint64), ("dst", ctypes.c_uint64))


class btrfs_ioctl_qgroup_create_args(ctypes.Structure):
    _fields_ = (("create", ctypes.c_uint64), ("qgroupid", ctypes.c_uint64))


class btrfs_ioctl_qgroup_limit_args(ctypes.Structure):
    _fields_ = (
        ("qgroupid", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("max_rfer", ctypes.c_uint64),
        ("max_excl", ctypes.c_uint64),
        ("rsv_rfer", ctypes.c_uint64),
        ("rsv_excl", ctypes.c_uint64),
    )


class btrfs_ioctl_quota_rescan_args(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("progress", ctypes.c_uint64), ("reserved", ctypes.c_uint64 * 6))


class btrfs_ioctl_subvol_wait(ctypes.Structure):
    _fields_ = (("subvolid", ctypes.c_uint64), ("mode", ctypes.c_uint32), ("count", ctypes.c_uint32))


class btrfs_ioctl_fs_info_args(ctypes.Structure):
    _fields_ = (
        ("max_id", ctypes.c_uint64),
        ("num_devices", ctypes.c_uint64),
        ("fsid", ctypes.c_uint8 * 16),
        ("nodesize", ctypes.c_uint32),
        ("sectorsize", ctypes.c_uint32),
        ("clone_alignment", ctypes.c_uint32),
        ("csum_type", ctypes.c_uint16),
        ("csum_size", ctypes.c_uint16),
        ("flags", ctypes.c_uint64),
        ("generation", ctypes.c_uint64),
        ("metadata_uuid", ctypes.c_uint8 * 16),
        ("reserved", ctypes.c_uint8 * 944),
    )


class btrfs_ioctl_dev_info_args(ctypes.Structure):
    _fields_ = (
        ("devid", ctypes.c_uint64),
        ("uuid", ctypes.c_uint8 * 16),
        ("bytes_used", ctypes.c_uint64),
        ("total_bytes", ctypes.c_uint64),
        ("unused", ctypes.c_uint64 * 379),
        ("path", ctypes.c_char * 1024),
    )


class btrfs_ioctl_space_info(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("total_bytes", ctypes.c_uint64), ("used_bytes", ctypes.c_uint64))


class btrfs_ioctl_space_args(ctypes.Structure):
    """The head of the arguments; the :class:`btrfs_ioctl_space_info` follow it in memory."""

    _fields_ = (("space_slots", ctypes.c_uint64), ("total_spaces", ctypes.c_uint64))


class btrfs_ioctl_send_args(ctypes.Structure):
    _fields_ = (
        ("send_fd", ctypes.c_int64),
        ("clone_sources_count", ctypes.c_uint64),
        ("clone_sources", ctypes.POINTER(ctypes.c_uint64)),
        ("parent_root", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("version", ctypes.c_uint32),
        ("reserved", ctypes.c_uint8 * 28),
    )


def _number(direction: int, nr: int, size: int) -> int:
    return direction << 30 | size << 16 | _MAGIC << 8 | nr


def _of(direction: int, nr: int, argument: type[ctypes.Structure] | type[ctypes.c_uint64]) -> int:
    return _number(direction, nr, ctypes.sizeof(argument))


IOC_RESIZE = _of(_WRITE, 3, btrfs_ioctl_vol_args)
IOC_SYNC = _number(0, 8, 0)
IOC_SNAP_DESTROY = _of(_WRITE, 15, btrfs_ioctl_vol_args)
IOC_TREE_SEARCH_V2 = _of(_READ | _WRITE, 17, btrfs_ioctl_search_args_v2)
IOC_INO_LOOKUP = _of(_READ | _WRITE, 18, btrfs_ioctl_ino_lookup_args)
IOC_SPACE_INFO = _of(_READ | _WRITE, 20, btrfs_ioctl_space_args)
IOC_WAIT_SYNC = _of(_WRITE, 22, ctypes.c_uint64)
IOC_SNAP_CREATE_V2 = _of(_WRITE, 23, btrfs_ioctl_vol_args_v2)
IOC_START_SYNC = _of(_READ, 24, ctypes.c_uint64)
IOC_SUBVOL_CREATE_V2 = _of(_WRITE, 24, btrfs_ioctl_vol_args_v2)
IOC_SUBVOL_GETFLAGS = _of(_READ, 25, ctypes.c_uint64)
IOC_SUBVOL_SETFLAGS = _of(_WRITE, 26, ctypes.c_uint64)
IOC_DEV_INFO = _of(_READ | _WRITE, 30, btrfs_ioctl_dev_info_args)
IOC_FS_INFO = _of(_READ, 31, btrfs_ioctl_fs_info_args)
IOC_SEND = _of(_WRITE, 38, btrfs_ioctl_send_args)
IOC_QUOTA_CTL = _of(_READ | _WRITE, 40, btrfs_ioctl_quota_ctl_args)
IOC_QGROUP_ASSIGN = _of(_WRITE, 41, btrfs_ioctl_qgroup_assign_args)
IOC_QGROUP_CREATE = _of(_WRITE, 42, btrfs_ioctl_qgroup_create_args)
# The header says _IOR although the kernel only reads the argument.
IOC_QGROUP_LIMIT = _of(_READ, 43, btrfs_ioctl_qgroup_limit_args)
IOC_QUOTA_RESCAN = _of(_WRITE, 44, btrfs_ioctl_quota_rescan_args)
IOC_QUOTA_RESCAN_STATUS = _of(_READ, 45, btrfs_ioctl_quota_rescan_args)
IOC_QUOTA_RESCAN_WAIT = _number(0, 46, 0)
IOC_GET_SUBVOL_INFO = _of(_READ, 60, btrfs_ioctl_get_subvol_info_args)
IOC_SNAP_DESTROY_V2 = _of(_WRITE, 63, btrfs_ioctl_vol_args_v2)
IOC_SUBVOL_SYNC_WAIT = _of(_WRITE, 65, btrfs_ioctl_subvol_wait)
