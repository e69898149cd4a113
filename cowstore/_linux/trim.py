"""Telling the device below a file system what is free."""

from __future__ import annotations

import ctypes

from cowstore._linux._call import bind, number_of, oserror, retry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore._linux._call import Fd

FITRIM = 0xC0185879

_ioctl = bind("ioctl", ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)


class struct_fstrim_range(ctypes.Structure):
    """The argument of FITRIM."""

    _fields_ = (("start", ctypes.c_uint64), ("len", ctypes.c_uint64), ("minlen", ctypes.c_uint64))


def fitrim(fd: Fd, *, min_length: int = 0) -> int:
    """Discard all that is free in the file system that fd is on.

    Args:
        fd: anything on it.
        min_length: shorter pieces are left, in bytes.

    Returns:
        how many bytes were discarded.

    Raises:
        OSError: EOPNOTSUPP, the device cannot; EROFS; EPERM without CAP_SYS_ADMIN.

    Source: `linux/fs.h`, fstrim(8).
    """
    argument = struct_fstrim_range(0, 2**64 - 1, min_length)
    if retry(_ioctl, number_of(fd), FITRIM, ctypes.byref(argument)) < 0:
        raise oserror("ioctl(2)", detail="FITRIM")
    return int(argument.len)
