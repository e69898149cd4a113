"""What XFS needs of whoever mounts: it repeats a metadata write that fails for want of room for ever, unless told.

On a thin pool that is full, a program that waits for such a write would hang, and so would the end of its mount.

Source: the kernel's Documentation/admin-guide/xfs.rst, "Error handling".
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore._linux.fd import Descriptor

ERRORS = ("ENOSPC", "EIO")
_NO_SYSFS = frozenset((errno.ENOENT, errno.EROFS, errno.EACCES, errno.EPERM))


def settings(dev: int, *, sysfs: str = "/sys") -> str:
    """Name the directory of the settings of a mounted file system, given the number of its device."""
    name = os.path.basename(os.readlink(f"{sysfs}/dev/block/{os.major(dev)}:{os.minor(dev)}"))
    return f"{sysfs}/fs/xfs/{name}/error/metadata"


def fail_soon(tree: Descriptor, *, sysfs: str = "/sys") -> None:
    """Let a metadata write that fails not be repeated: the file system shuts down, and all who use it are told.

    Where there is no sysfs, or it may not be written (in some containers), the log says what that means.
    """
    try:
        directory = settings(os.fstat(tree.fileno()).st_dev, sysfs=sysfs)
        for name in ERRORS:
            with open(f"{directory}/{name}/max_retries", "w", encoding="ascii") as file:
                file.write("0")
    except OSError as error:
        if error.errno not in _NO_SYSFS:
            raise
        from cowstore._log import logger

        logger(__name__).warning(
            "xfs cannot be told to give up writes that fail (%s): on a full pool programs may hang", error
        )
