"""Locks of this driver, all freed by the kernel when their holder ends.

``lock`` is flocked, shared, by each open store. In ``ids.lock`` each id has the byte of its number; to open or end the
pool, to change its size, and to use its one metadata snapshot have bytes that no id reaches.
"""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_FLOCK = struct.Struct("hhqqi4x")
"""``struct flock`` with the compiler's own gaps: without them the kernel reads one place for every number."""
POOL_SIZE = 1 << 40
METADATA_SNAPSHOT = POOL_SIZE + 1
OPENING = POOL_SIZE + 2
"""Bytes of ``ids.lock`` beyond every id (the pool numbers its devices with 24 bits)."""


@contextmanager
def locked(directory: str, number: int) -> Iterator[None]:
    """Hold the lock of an id, or of one of the names above, against other threads and other processes.

    Locks of an open file description, so that each call here is a holder of its own.

    Source: fcntl(2), F_OFD_SETLKW.
    """
    fd = os.open(os.path.join(directory, "ids.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0))
        yield
    finally:
        os.close(fd)


class UserLock:
    """The lock that tells whether any store uses the pool; held shared for the life of a driver.

    Made, and asked, under the lock ``OPENING``.
    """

    __slots__ = ("_fd",)

    def __init__(self, directory: str) -> None:
        self._fd = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_SH)

    def is_last(self) -> bool:
        """Tell whether nobody else uses the pool."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd != -1:
            os.close(fd)
