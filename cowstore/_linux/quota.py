"""Project quotas: what a directory tree takes, counted and limited by the file system itself.

The general calls serve ext4 and xfs alike; only the question what is enforced has one form, which was xfs's first.
Before Linux 5.14 the file system is told by its block device; after that by anything on it.

Source: quotactl(2), quotactl_fd(2), ioctl_xfs_fsgetxattr(2); ``linux/quota.h``, ``linux/dqblk_xfs.h``, ``linux/fs.h``.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct

from cowstore._linux._call import bind, bind_syscall, number_of, oserror, retry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore._linux._call import Fd

PRJQUOTA = 2
Q_GETQUOTA = 0x800007
Q_SETQUOTA = 0x800008
Q_XGETQSTATV = ord("X") << 8 | 8

FS_QUOTA_PDQ_ACCT = 1 << 4
FS_QUOTA_PDQ_ENFD = 1 << 5
FS_XFLAG_PROJINHERIT = 0x200
FS_IOC_FSGETXATTR = 0x801C581F
FS_IOC_FSSETXATTR = 0x401C5820

LIMIT_UNIT = 1024
"""Bytes that limits count in. Source: QIF_DQBLKSIZE."""

MAX_PROJECT = 0xFFFFFFFE
"""The last project there can be: the number after it stands for none."""

_QIF_BLIMITS = 1
_FS_QSTATV_VERSION1 = 1

#: struct if_dqblk: hard and soft limit of space, space, hard and soft limit of inodes, inodes, two times, what is valid
_DQBLK = struct.Struct("=8QI4x")
#: struct fs_quota_statv: version, flags, and what nobody asks
_STATV = struct.Struct("=bxH156x")
#: struct fsxattr: flags, extent size, extents, project, extent size of copies
_FSXATTR = struct.Struct("=5I8x")

_quotactl_fd = bind_syscall("quotactl_fd", ctypes.c_uint, ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p)
_quotactl = bind("quotactl", ctypes.c_uint, ctypes.c_char_p, ctypes.c_uint, ctypes.c_void_p)


class Counted:
    """What the file system has counted of a project: bytes and inodes; limit of space in bytes, None for none."""

    __slots__ = ("inodes", "limit_bytes", "limited", "size_bytes")

    def __init__(self, size_bytes: int, inodes: int, limit_bytes: int | None, *, limited: bool) -> None:
        self.size_bytes = size_bytes
        self.inodes = inodes
        self.limit_bytes = limit_bytes
        self.limited = limited  # by anything, soft limits and limits of inodes too


def _call(fd: Fd, command: int, project: int, buffer: ctypes.Array[ctypes.c_char], name: str) -> None:
    """Give a command for projects to the file system that fd is on."""
    number = command << 8 | PRJQUOTA
    address = ctypes.addressof(buffer)
    try:
        if retry(_quotactl_fd, number_of(fd), number, project, address) == 0:
            return
        error = oserror("quotactl_fd(2)", detail=name)
    except OSError as unknown:  # no number is known for it on this machine
        error = unknown
    if error.errno != errno.ENOSYS:
        raise error
    # An old kernel says so; so does a file system that has no such command, and then says it again.
    device = device_of(fd)
    if retry(_quotactl, number, os.fsencode(device), project, address) != 0:
        raise oserror("quotactl(2)", device, detail=name)


def device_of(fd: Fd, *, sysfs: str = "/sys", dev: str = "/dev") -> str:
    """Name the node of the block device that the file system of fd is on.

    Raises:
        OSError: ENODEV, it is on none, or its node is not there.
    """
    wanted = os.fstat(number_of(fd)).st_dev
    try:
        with open(f"{sysfs}/dev/block/{os.major(wanted)}:{os.minor(wanted)}/uevent", encoding="ascii") as file:
            told = dict(line.rstrip("\n").partition("=")[::2] for line in file)
        node = f"{dev}/{told['DEVNAME']}"
        if os.stat(node).st_rdev == wanted:
            return node
    except (OSError, KeyError):
        pass
    detail = f"block device {os.major(wanted)}:{os.minor(wanted)} has no node"
    raise oserror("quotactl(2)", code=errno.ENODEV, detail=detail)


def q_xgetqstatv(fd: Fd) -> int:
    """Tell what is counted and enforced on the file system that fd is on: ``FS_QUOTA_*`` bits.

    Raises:
        OSError: ENOSYS, nothing is, or it knows no quotas; ENODEV or ENOTBLK before Linux 5.14, it is on no device.
    """
    buffer = ctypes.create_string_buffer(_STATV.pack(_FS_QSTATV_VERSION1, 0), _STATV.size)
    _call(fd, Q_XGETQSTATV, 0, buffer, "Q_XGETQSTATV")
    flags: int = _STATV.unpack(buffer.raw)[1]
    return flags


def q_getquota(fd: Fd, project: int) -> Counted:
    """Tell what is counted of a project, and how it is limited. One never heard of has nothing.

    Raises:
        OSError: ESRCH, projects are not counted here; EPERM without CAP_SYS_ADMIN in the first user namespace.
    """
    buffer = ctypes.create_string_buffer(_DQBLK.size)
    try:
        _call(fd, Q_GETQUOTA, project, buffer, "Q_GETQUOTA")
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return Counted(0, 0, None, limited=False)
    hard, soft, space, inodes_hard, inodes_soft, inodes, _, _, _ = _DQBLK.unpack(buffer.raw)
    limited = bool(hard or soft or inodes_hard or inodes_soft)
    return Counted(space, inodes, hard * LIMIT_UNIT or None, limited=limited)


def q_setquota(fd: Fd, project: int, limit_bytes: int | None) -> None:
    """Limit the space of a project, to the `LIMIT_UNIT` below; None takes the limit away.

    Raises:
        OSError: ESRCH, projects are not counted here; EPERM without CAP_SYS_ADMIN in the first user namespace; ERANGE.
    """
    hard = 0 if limit_bytes is None else max(1, limit_bytes // LIMIT_UNIT)
    argument = _DQBLK.pack(hard, 0, 0, 0, 0, 0, 0, 0, _QIF_BLIMITS)
    _call(fd, Q_SETQUOTA, project, ctypes.create_string_buffer(argument, _DQBLK.size), "Q_SETQUOTA")


def fsgetxattr(fd: Fd) -> tuple[int, int]:
    """Tell the ``FS_XFLAG_*`` bits and the project of an open file or directory.

    Raises:
        OSError: ENOTTY or EOPNOTSUPP, the file system has none.
    """
    flags, _, _, project, _ = _FSXATTR.unpack(_fsxattr(fd))
    return flags, project


def fssetxattr(fd: Fd, project: int, *, inherit: bool) -> None:
    """Put an open file or directory into a project.

    Args:
        fd: opened for reading at least.
        project: its number.
        inherit: what is made in the directory will be of the same project.

    Raises:
        OSError: EINVAL outside the first user namespace; EOPNOTSUPP, the file system has no projects; EDQUOT.
    """
    flags, extent_size, extents, _, copied = _FSXATTR.unpack(_fsxattr(fd))
    flags = flags | FS_XFLAG_PROJINHERIT if inherit else flags & ~FS_XFLAG_PROJINHERIT
    try:
        fcntl.ioctl(number_of(fd), FS_IOC_FSSETXATTR, _FSXATTR.pack(flags, extent_size, extents, project, copied))
    except OSError as error:
        error.add_note(f"ioctl(2) FS_IOC_FSSETXATTR: project {project}")
        raise


def _fsxattr(fd: Fd) -> bytes:
    try:
        return fcntl.ioctl(number_of(fd), FS_IOC_FSGETXATTR, bytes(_FSXATTR.size))
    except OSError as error:
        error.add_note("ioctl(2) FS_IOC_FSGETXATTR")
        raise
