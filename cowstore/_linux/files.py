"""Files and file systems: what `os` does not reach.

Source: openat2(2), ioctl_ficlonerange(2), ioctl_iflags(2), syncfs(2), statfs(2), renameat2(2).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from ctypes import c_char_p, c_int, c_long, c_size_t, c_uint, c_uint64, c_void_p

from cowstore._linux._call import bind, bind_syscall, libc, number_of, oserror, path_bytes, retry
from cowstore._linux._flags import Flags

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore._linux._call import Fd, Path


class Resolve(Flags):
    """For the resolve argument of `openat2`."""

    NONE = 0
    NO_XDEV = 0x01
    NO_MAGICLINKS = 0x02
    NO_SYMLINKS = 0x04
    BENEATH = 0x08
    IN_ROOT = 0x10
    CACHED = 0x20


class RenameFlag(Flags):
    """For the flags argument of `renameat2`."""

    NONE = 0
    NOREPLACE = 1
    EXCHANGE = 2
    WHITEOUT = 4


class InodeFlag(Flags):
    """What `get_inode_flags` gives; there are more, which have no name here. Source: ioctl_iflags(2)."""

    IMMUTABLE = 0x10
    APPEND = 0x20
    NOCOW = 0x800000


class FsMagic:
    """What the type of a `Statfs` is compared with; constants, since nearly every kernel has types not named here.

    Source: include/uapi/linux/magic.h; fs/aufs.
    """

    AUFS = 0x61756673
    BTRFS = 0x9123683E
    CGROUP = 0x27E0EB
    CGROUP2 = 0x63677270
    EXT4 = 0xEF53
    FUSE = 0x65735546
    NFS = 0x6969
    OVERLAYFS = 0x794C7630
    PROC = 0x9FA0
    RAMFS = 0x858458F6
    SQUASHFS = 0x73717368
    TMPFS = 0x01021994
    XFS = 0x58465342
    ZFS = 0x2FC12FC1


class struct_open_how(ctypes.Structure):
    """The argument of openat2(2)."""

    _fields_ = [("flags", c_uint64), ("mode", c_uint64), ("resolve", c_uint64)]


class struct_statfs(ctypes.Structure):
    """The answer of statfs(2) as every 64-bit architecture but s390x, alpha and mips has it."""

    _fields_ = [
        ("f_type", c_long),
        ("f_bsize", c_long),
        ("f_blocks", c_uint64),
        ("f_bfree", c_uint64),
        ("f_bavail", c_uint64),
        ("f_files", c_uint64),
        ("f_ffree", c_uint64),
        ("f_fsid", c_int * 2),
        ("f_namelen", c_long),
        ("f_frsize", c_long),
        ("f_flags", c_long),
        ("f_spare", c_long * 4),
    ]


class Statfs:
    """What a file system says of itself.

    `type` is one of `FsMagic`, or another; `blocks`, `free` and `available` (to ordinary users) count units of
    `block_size` bytes, `files` and `files_free` inodes; `name_max` is in bytes, `flags` are os.ST_* bits.
    """

    __slots__ = ("available", "block_size", "blocks", "files", "files_free", "flags", "free", "name_max", "type")

    def __init__(self, raw: struct_statfs) -> None:
        self.type: int = raw.f_type
        self.block_size: int = raw.f_frsize or raw.f_bsize  # the unit of the counts; f_bsize is only the best for I/O
        self.blocks: int = raw.f_blocks
        self.free: int = raw.f_bfree
        self.available: int = raw.f_bavail
        self.files: int = raw.f_files
        self.files_free: int = raw.f_ffree
        self.name_max: int = raw.f_namelen
        self.flags: int = raw.f_flags

    def __repr__(self) -> str:
        return f"<Statfs {', '.join(f'{name}={getattr(self, name)}' for name in self.__slots__)}>"


#: _IOW(0x94, 9, int)
FICLONE = 0x40049409
#: _IOR('f', 1, long)
FS_IOC_GETFLAGS = 2 << 30 | ctypes.sizeof(c_long) << 16 | ord("f") << 8 | 1
#: _IOW('f', 2, long)
FS_IOC_SETFLAGS = 1 << 30 | ctypes.sizeof(c_long) << 16 | ord("f") << 8 | 2
#: RESOLVE_BENEATH and RESOLVE_IN_ROOT answer EAGAIN while something is renamed beside them; an attacker may keep it up.
_OPENAT2_ATTEMPTS = 256

_openat2 = bind_syscall("openat2", c_int, c_char_p, c_void_p, c_size_t)
_renameat2 = (bind if hasattr(libc, "renameat2") else bind_syscall)(
    "renameat2", c_int, c_char_p, c_int, c_char_p, c_uint
)
_syncfs = bind("syncfs", c_int)
_statfs = bind("statfs", c_char_p, c_void_p)
_fstatfs = bind("fstatfs", c_int, c_void_p)
_OPEN_HOW_SIZE = ctypes.sizeof(struct_open_how)


def openat2(dir_fd: Fd | None, path: Path, flags: int, mode: int = 0, resolve: Resolve = Resolve.NONE) -> int:
    """Open a file under restrictions on how its path is followed, with O_CLOEXEC.

    Args:
        dir_fd: where path starts (the root, with IN_ROOT); None is the current directory.
        path: not empty.
        flags: os.O_* bits.
        mode: permission of a file this creates; must be 0 where it creates none.
        resolve: the restrictions.

    Returns:
        a descriptor number, the caller's to close.

    Raises:
        OSError: EXDEV, path leads out of what BENEATH, IN_ROOT or NO_XDEV allow; ELOOP, a forbidden link; ENOSYS, Linux
            before 5.6; others as openat2(2).

    Source: openat2(2).
    """
    name = path if type(path) is bytes and b"\0" not in path else path_bytes(path, "openat2(2)")
    how = struct_open_how(flags | os.O_CLOEXEC, mode, resolve)
    start = number_of(dir_fd)
    for _ in range(_OPENAT2_ATTEMPTS):
        fd = retry(_openat2, start, name, ctypes.byref(how), _OPEN_HOW_SIZE)
        if fd != -1:
            return fd
        if ctypes.get_errno() != errno.EAGAIN or resolve & Resolve.CACHED:
            break
    raise oserror("openat2(2)", path)


def renameat2(
    from_fd: Fd | None, from_path: Path, to_fd: Fd | None, to_path: Path, flags: RenameFlag = RenameFlag.NONE
) -> None:
    """Rename, refusing to replace, exchanging, or leaving a whiteout behind.

    Args:
        from_fd: where from_path starts; None is the current directory.
        from_path: the old name.
        to_fd: where to_path starts; None is the current directory.
        to_path: the new name.
        flags: what is different from rename(2).

    Raises:
        OSError: EEXIST, with NOREPLACE; EINVAL, the file system knows no such flag; others as renameat2(2).

    Source: renameat2(2).
    """
    call = "renameat2(2)"
    start, end = number_of(from_fd), number_of(to_fd)
    if retry(_renameat2, start, path_bytes(from_path, call), end, path_bytes(to_path, call), flags) == -1:
        raise oserror(call, from_path, to_path)


def ficlone(dst_fd: Fd, src_fd: Fd) -> None:
    """Make dst share all of src's blocks, replacing its content; both on one file system.

    Raises:
        OSError: EOPNOTSUPP, EXDEV, EINVAL, it cannot; others as FICLONE(2).

    Source: ioctl_ficlonerange(2).
    """
    target, source = number_of(dst_fd), number_of(src_fd)
    while True:
        try:
            fcntl.ioctl(target, FICLONE, source)
            return
        except InterruptedError:
            continue
        except OSError as error:
            error.filename, error.filename2 = source, target
            error.add_note("FICLONE(2)")
            raise


def get_inode_flags(fd: Fd) -> InodeFlag:
    """Return the flags of a regular file or directory that is open, as lsattr(1) shows them.

    Raises:
        OSError: ENOTTY, EOPNOTSUPP, the file system has none.

    Source: ioctl_iflags(2).
    """
    # The header says long, and means int.
    value = ctypes.c_int()
    try:
        fcntl.ioctl(number_of(fd), FS_IOC_GETFLAGS, value)
    except OSError as error:
        error.filename = number_of(fd)
        error.add_note("FS_IOC_GETFLAGS(2)")
        raise
    return InodeFlag(value.value)


def set_inode_flags(fd: Fd, flags: InodeFlag) -> None:
    """Replace the flags of a regular file or directory that is open.

    Raises:
        OSError: EPERM, only a privileged process may change `InodeFlag.IMMUTABLE` and `InodeFlag.APPEND`.

    Source: ioctl_iflags(2).
    """
    try:
        fcntl.ioctl(number_of(fd), FS_IOC_SETFLAGS, ctypes.c_int(flags))
    except OSError as error:
        error.filename = number_of(fd)
        error.add_note("FS_IOC_SETFLAGS(2)")
        raise


def syncfs(fd: Fd) -> None:
    """Write out the file system that fd is on.

    Raises:
        OSError: EIO, ENOSPC, EDQUOT: something written since fd was opened is lost (told since Linux 5.8).

    Source: syncfs(2).
    """
    number = number_of(fd)
    if retry(_syncfs, number) == -1:
        raise oserror("syncfs(2)", number)


def statfs(path_or_fd: Path | Fd) -> Statfs:
    """Ask the file system of a path or descriptor for its type, size and limits.

    Raises:
        OSError: as statfs(2).

    Source: statfs(2).
    """
    raw = struct_statfs()
    if isinstance(path_or_fd, (str, bytes)):
        name: Path | int = path_or_fd
        result = retry(_statfs, path_bytes(path_or_fd, "statfs(2)"), ctypes.byref(raw))
    else:
        name = number_of(path_or_fd)
        result = retry(_fstatfs, name, ctypes.byref(raw))
    if result == -1:
        raise oserror("statfs(2)", name)
    return Statfs(raw)
