"""Going down and up a directory tree by descriptors, to any depth and through any name."""

from __future__ import annotations

import errno
import os

from cowstore._linux.files import Resolve, openat2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

__all__ = ["KEPT", "Descent"]

KEPT = 24
"""Directories on the way down that stay open. Those above are found again through ``..`` and compared."""

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Descent:
    """A place in a tree: an open directory, and the way back up to where it started.

    No path longer than one name is ever given to the kernel, no symbolic link is followed, and no mount is entered.
    """

    __slots__ = ("_fds", "_ids", "fd")

    def __init__(self, root_fd: int) -> None:
        """Start at a directory, which may be an O_PATH descriptor and stays the caller's."""
        self.fd = os.open(".", _FLAGS, dir_fd=root_fd)
        self._fds = [self.fd]
        self._ids: list[tuple[int, int]] = []

    @property
    def depth(self) -> int:
        """How many directories below the start this is."""
        return len(self._fds) - 1

    def enter(self, name: str | bytes) -> None:
        """Go down into a directory of that name.

        :raises OSError: ENOTDIR, it is none (any more); EXDEV, something is mounted on it; others as openat2(2).
        """
        fd = openat2(self.fd, name, _FLAGS, resolve=Resolve.NO_XDEV)
        self._fds.append(fd)
        self.fd = fd
        level = len(self._fds) - 1 - KEPT
        if level > 0 and (above := self._fds[level]) != -1:
            found = os.fstat(above)
            self._ids.append((found.st_dev, found.st_ino))
            os.close(above)
            self._fds[level] = -1

    def leave(self) -> None:
        """Go back up.

        :raises OSError: ESTALE, the directory was moved somewhere else meanwhile.
        """
        above = self._fds[-2]
        if above == -1:
            above = os.open("..", _FLAGS, dir_fd=self.fd)
            found = os.fstat(above)
            if (found.st_dev, found.st_ino) != self._ids[-1]:
                os.close(above)
                raise OSError(errno.ESTALE, "a directory was moved while its tree was read")
            self._ids.pop()
            self._fds[-2] = above
        os.close(self._fds.pop())
        self.fd = above

    def close(self) -> None:
        """Close all that is open."""
        while self._fds:
            fd = self._fds.pop()
            if fd != -1:
                os.close(fd)
        self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
