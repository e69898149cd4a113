"""The file system on which a pool's files lie: it may fill up while the pool itself has room.

A write that finds no room there is an I/O error to the pool. Of a snapshot's data that loses what a program wrote; of
the pool's metadata it is the end, since the kernel makes the pool read-only until thin_check(8) has looked at it. So
the metadata file has its blocks from the start, and for data some room is kept.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from cowstore.drivers.devicemapper.status import DATA
from cowstore.errors import OutOfSpace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from cowstore._linux._call import Fd

_LEAST = 4 << 20
"""Less is as good as nothing: to mount an ext4 for writing may take so much."""
_MARGIN = 64 << 20
"""What is kept from all that is new, for those that write already; of a small file system a twentieth."""


@dataclass(frozen=True, slots=True)
class Host:
    """How many bytes the file system of a directory has, and how many of them this process may still use."""

    directory: str
    free: int
    total: int

    @classmethod
    def of(cls, directory: str) -> Self:
        found = os.statvfs(directory)
        return cls(directory, found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)

    @property
    def is_short(self) -> bool:
        """Whether nothing new may be made."""
        return self.free < max(_LEAST, min(_MARGIN, self.total // 20))

    @property
    def is_full(self) -> bool:
        """Whether nothing may be written any more."""
        return self.free < _LEAST

    def full(self, pool: str) -> OutOfSpace:
        """Make the error that says so."""
        return OutOfSpace(
            f"the file system of {self.directory}, on which the pool {pool} lies, is full: {self.free} of {self.total} "
            "bytes are free; make room there, or remove snapshots",
            what=DATA,
            used=self.total - self.free,
            total=self.total,
        )


def allocate(file: Fd) -> None:
    """Give a file all its blocks, where its file system can promise them.

    :raises OSError: ENOSPC, there are not so many.
    """
    fd = file if isinstance(file, int) else file.fileno()
    found = os.fstat(fd)
    if found.st_blocks * 512 < found.st_size:
        os.posix_fallocate(fd, 0, found.st_size)
