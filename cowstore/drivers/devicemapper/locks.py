"""Locks of this driver, all freed by the kernel when their holder ends.

``lock`` is flocked: shared by each open store, exclusively to make, activate or end the pool. In ``ids.lock`` each id
has the byte of its number, and the pool's single metadata snapshot and its size have bytes below zero ids can reach.
"""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_FLOCK = struct.Struct("=hhqqi4x")
POOL_SIZE = 1 << 40
METADATA_SNAPSHOT = POOL_SIZE + 1
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
    """The lock that tells whether any store uses the pool; held shared for the life of a driver."""

    __slots__ = ("_fd",)

    def __init__(self, directory: str) -> None:
        """Take the lock exclusively, waiting for whoever makes or ends the pool right now."""
        self._fd = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def share(self) -> None:
        """Let others use the pool too."""
        fcntl.flock(self._fd, fcntl.LOCK_SH)

    def is_last(self) -> bool:
        """Tell whether nobody else uses the pool; if so, nobody can begin to until :meth:`close`."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd != -1:
            os.close(fd)
