"""What AUFS tells of a mount through its own ioctl."""

from __future__ import annotations

import ctypes
import sys

from cowstore._linux._call import bind, number_of, oserror

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore._linux._call import Fd

CTL_BRINFO = 0x50004105

PERM_RW = 1
PERM_RO = 2
PERM_RR = 4
ATTR_WH = 1 << 12

_SIZE = 4096
_PERM_OFFSET, _PATH_OFFSET = 4, 8

_spare: list[bytearray] = []
"""The table of the last call, for the next; whoever is using one has taken it out."""

_ioctl = bind("ioctl", ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)


class aufs_brinfo(ctypes.Structure):
    """One branch; the path fills it up to a page."""

    _fields_ = (("id", ctypes.c_int16), ("perm", ctypes.c_int), ("path", ctypes.c_char * (_SIZE - _PATH_OFFSET)))


def brinfo(fd: Fd) -> list[tuple[bytes, int]]:
    """List the branches of the mount that *fd* is in, the topmost first.

    Args:
        fd: a directory in it, open for reading.

    Returns:
        path, escaped as in /proc/mounts, and permission bits of each.

    Raises:
        OSError: ENOTTY, it is no AUFS; E2BIG, a path is longer than a page.

    Source: `linux/aufs_type.h`.
    """
    count = _ioctl(number_of(fd), CTL_BRINFO, None)
    if count < 0:
        raise oserror("ioctl(2) AUFS_CTL_BRINFO")
    size = count * _SIZE
    # A page for each branch: as long as a mount takes, if the kernel has to find them anew each time.
    try:
        table = _spare.pop()
    except IndexError:
        table = bytearray(size)
    if len(table) < size:
        table = bytearray(size)
    if _ioctl(number_of(fd), CTL_BRINFO, (ctypes.c_char * size).from_buffer(table)) < 0:
        raise oserror("ioctl(2) AUFS_CTL_BRINFO")
    found = []
    for start in range(0, size, _SIZE):
        path = start + _PATH_OFFSET
        perm = int.from_bytes(table[start + _PERM_OFFSET : path], sys.byteorder)
        found.append((bytes(table[path : table.index(0, path)]), perm))
    if not _spare:
        _spare.append(table)
    return found
