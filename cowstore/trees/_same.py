"""Whether two entries are the same: attributes, link targets, extended attributes, content."""

from __future__ import annotations

import errno
import os
import stat

__all__ = ["BOOKKEEPING", "file_xattrs", "same_attributes", "same_file", "xattrs"]

BOOKKEEPING = ("trusted.overlay.", "user.overlay.")
"""Extended attributes in which an overlay keeps its marks: part of how a tree is stored, not of the tree."""

_CHUNK = 1 << 17


def same_attributes(lower: os.stat_result, upper: os.stat_result) -> bool:
    """Compare what stat(2) tells, but for what a copy cannot have (inode, device, change and access times)."""
    mode = upper.st_mode
    if (
        lower.st_mode != mode
        or lower.st_mtime_ns != upper.st_mtime_ns
        or lower.st_uid != upper.st_uid
        or lower.st_gid != upper.st_gid
    ):
        return False
    if stat.S_ISREG(mode) or stat.S_ISLNK(mode):
        return lower.st_size == upper.st_size
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        return lower.st_rdev == upper.st_rdev
    return True


def same_file(lower_fd: int, upper_fd: int, name: str, mode: int) -> bool:
    """Compare what two entries of equal attributes hold.

    :param lower_fd: directory with the one *name*. :param upper_fd: directory with the other.
    :raises FileNotFoundError: one vanished.
    """
    if xattrs(lower_fd, name) != xattrs(upper_fd, name):
        return False
    if stat.S_ISREG(mode):
        return _same_content(lower_fd, upper_fd, name)
    if stat.S_ISLNK(mode):
        return os.readlink(name, dir_fd=lower_fd) == os.readlink(name, dir_fd=upper_fd)
    return True


def xattrs(dir_fd: int, name: str) -> dict[str, bytes]:
    """Read an entry's extended attributes, ACLs among them, without an overlay's marks.

    :param name: an entry, which is not followed; ``"."`` for the directory itself.
    """
    # There is no call that takes a directory descriptor and a name.
    return _read_xattrs(os.fsencode(f"/proc/self/fd/{dir_fd}/{name}"), follow_symlinks=False)


def file_xattrs(fd: int) -> dict[str, bytes]:
    """Read an open file's extended attributes, as :func:`xattrs`."""
    return _read_xattrs(fd, follow_symlinks=True)


def _read_xattrs(file: int | bytes, *, follow_symlinks: bool) -> dict[str, bytes]:
    try:
        names = os.listxattr(file, follow_symlinks=follow_symlinks)
        if not names:
            return {}
        return {
            name: os.getxattr(file, name, follow_symlinks=follow_symlinks)
            for name in names
            if not name.startswith(BOOKKEEPING)
        }
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        if error.errno == errno.ENODATA:  # taken away in between
            return _read_xattrs(file, follow_symlinks=follow_symlinks)
        raise


def _open(dir_fd: int, name: str) -> int:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(name, flags | os.O_NOATIME, dir_fd=dir_fd)
    except PermissionError:
        return os.open(name, flags, dir_fd=dir_fd)  # only the owner may leave the access time alone


def _same_content(lower_dir: int, upper_dir: int, name: str) -> bool:
    lower = _open(lower_dir, name)
    try:
        upper = _open(upper_dir, name)
        try:
            return _same_bytes(lower, upper)
        finally:
            os.close(upper)
    finally:
        os.close(lower)


def _same_bytes(lower: int, upper: int) -> bool:
    """Compare two files of equal size, passing over what is a hole in both."""
    offset = 0
    while True:
        one = os.pread(lower, _CHUNK, offset)
        other = os.pread(upper, _CHUNK, offset)
        if one != other:
            return False
        if not one:
            return True
        offset += len(one)
        if len(one) < _CHUNK:
            continue
        following = [_next_data(lower, offset), _next_data(upper, offset)]
        if following == [-1, -1]:
            return True
        offset = min(place for place in following if place != -1)


def _next_data(fd: int, offset: int) -> int:
    """Find the next byte that is not in a hole; -1 if there is none up to the end."""
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return -1
        if error.errno == errno.EINVAL:  # the file system cannot tell
            return offset
        raise
