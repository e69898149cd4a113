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
    while True:
        name = PREFIX + os.urandom(8).hex()
        btrfs.snap_create(home_fd, name, source_fd, read_only=True)
        try:
            root = open_(name, _DIRECTORY, dir_fd=home_fd)
        except FileNotFoundError:
            # Somebody took it for a dead one's before it was locked.
            continue
        try:
            fcntl.flock(root.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            root.close()
            continue
        return name, root


def stale(home_fd: int, names: Iterable[str]) -> list[str]:
    """List those of *names*, of the home, whose takers are dead."""
    found = []
    for name in names:
        if not name.startswith(PREFIX):
            continue
        try:
            with open_(name, _DIRECTORY, dir_fd=home_fd) as root:
                fcntl.flock(root.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                found.append(name)
        except (FileNotFoundError, BlockingIOError):
            continue
    return found
