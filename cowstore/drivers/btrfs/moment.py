"""A read-only snapshot for a moment, so that a writable subvolume can be sent.

Its taker holds a flock on it. So whoever finds one that can be locked knows that the taker is dead.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager

from cowstore._linux import btrfs
from cowstore._linux.fd import Descriptor, open_

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

PREFIX = ".moment-"

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


@contextmanager
def moment(home_fd: int, source_fd: int, forget: Callable[[list[int]], None]) -> Iterator[int]:
    """Hold a read-only snapshot of the subvolume whose root is *source_fd*; gives its root's descriptor.

    :param forget: told the number of the snapshot once it is deleted.
    """
    name, root = _take(home_fd, source_fd)
    with root:
        number = btrfs.ino_lookup(root)[0]
        try:
            yield root.fileno()
        finally:
            btrfs.snap_destroy(home_fd, name)
            forget([number])


def _take(home_fd: int, source_fd: int) -> tuple[str, Descriptor]:
    """Make a snapshot and lock it."""
    name = PREFIX + os.urandom(8).hex()
    # Between its making and its lock nobody may take it for a dead one's.
    with open_(".", _DIRECTORY, dir_fd=home_fd) as guard:
        fcntl.flock(guard.fileno(), fcntl.LOCK_SH)
        btrfs.snap_create(home_fd, name, source_fd, read_only=True)
        root = open_(name, _DIRECTORY, dir_fd=home_fd)
        fcntl.flock(root.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    return name, root


def stale(home_fd: int, names: Iterable[str]) -> list[str]:
    """List those of *names*, of the home, whose takers are dead."""
    suspects = [name for name in names if name.startswith(PREFIX)]
    if not suspects:
        return []
    found = []
    with open_(".", _DIRECTORY, dir_fd=home_fd) as guard:
        fcntl.flock(guard.fileno(), fcntl.LOCK_EX)
        for name in suspects:
            try:
                with open_(name, _DIRECTORY, dir_fd=home_fd) as root:
                    fcntl.flock(root.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                    # One that is gone by now was deleted by its taker, who let go of it afterwards.
                    os.stat(name, dir_fd=home_fd, follow_symlinks=False)
                    found.append(name)
            except (FileNotFoundError, BlockingIOError):
                continue
    return found
