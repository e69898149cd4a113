"""Which branches are mounted writable, or were when somebody died: a file for each, locked by whoever has it so.

AUFS is not asked. It tells the branches of every mount below ``/sys/fs/aufs``, but whoever reads there while another
process unmounts brings the kernel down: the mount's super block is forgotten before its files are taken away
(``sysaufs_si_show``, aufs 20240701). The names of the directories are safe to list, and all that is used.

A driver locks ``used/<id>`` (flock, shared) when it describes the mount for writing, until it is released or the driver
closed; the lock of a process that dies goes with it. A mount can outlive its process, though: one that the store
records. So a driver that is closed without a release writes the number of this boot into the file.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager, suppress

from cowstore.drivers._directories import is_there
from cowstore.mounting import aufs as live

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

DIRECTORY = "used"

_MANY = 32
"""With so many held, those whose files are gone are looked for: others released, sealed or removed their ids."""


class Marks:
    """The files, as one driver sees and locks them."""

    def __init__(self, directory_fd: int) -> None:
        """Look at the marks of the driver's directory, which stays the caller's; they need not be there."""
        self._fd = directory_fd
        self._held: dict[int, int] = {}

    def all(self) -> list[int]:
        """List the ids that have one."""
        fd = os.open(DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._fd)
        try:
            return sorted(int(name) for name in os.listdir(fd) if name.isdigit())
        finally:
            os.close(fd)

    def there(self, id: int) -> bool:
        """Tell whether an id has one."""
        return is_there(self._fd, f"{DIRECTORY}/{id}")

    def take(self, id: int) -> bool:
        """Mark an id as mounted writable by this driver; returns whether it was marked before."""
        if self._has(id):
            return True
        if len(self._held) >= _MANY:
            for other in list(self._held):
                self._has(other)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        while True:
            before = True
            try:
                fd = os.open(f"{DIRECTORY}/{id}", flags | os.O_EXCL, 0o600, dir_fd=self._fd)
                before = False
            except FileExistsError:
                fd = os.open(f"{DIRECTORY}/{id}", flags, 0o600, dir_fd=self._fd)
            fcntl.flock(fd, fcntl.LOCK_SH)
            # Whoever put the branch in order may have removed the name meanwhile.
            if os.fstat(fd).st_nlink:
                break
            os.close(fd)
        os.ftruncate(fd, 0)
        self._held[id] = fd
        return before

    def drop(self, id: int, *, remove: bool) -> None:
        """Say that this driver has an id mounted no more, and, with *remove*, that its branch is in order."""
        if remove:
            with suppress(FileNotFoundError):
                os.unlink(f"{DIRECTORY}/{id}", dir_fd=self._fd)
        fd = self._held.pop(id, None)
        if fd is not None:
            _let_go(fd)

    def lives(self, id: int) -> bool:
        """Tell whether somebody has an id mounted writable, as far as can be known."""
        if self._has(id):
            return True
        with self.seized(id) as alone:
            return not alone and self.there(id)

    @contextmanager
    def seized(self, id: int) -> Iterator[bool]:
        """Keep others from mounting an id for the length of the block; False if it has no mark, or somebody lives."""
        if self._has(id):
            yield False
            return
        try:
            fd = os.open(f"{DIRECTORY}/{id}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._fd)
        except FileNotFoundError:
            yield False
            return
        try:
            yield _is_alone(fd)
        finally:
            _let_go(fd)

    def close(self) -> None:
        """Let go of all; what was not released may stay mounted."""
        while self._held:
            _id, fd = self._held.popitem()
            with suppress(OSError):
                os.write(fd, _boot())
            _let_go(fd)

    def _has(self, id: int) -> bool:
        """Tell whether this driver has marked an id; a mark that somebody else removed, who released it, is let go."""
        fd = self._held.get(id)
        if fd is None:
            return False
        if os.fstat(fd).st_nlink:
            return True
        self.drop(id, remove=False)
        return False


def _let_go(fd: int) -> None:
    # Closing is not enough: a child that another thread has just forked has a copy.
    fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


def _is_alone(fd: int) -> bool:
    """Lock a file for oneself unless it stands for somebody who lives."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    kept = os.pread(fd, 64, 0)
    return not (kept and kept == _boot() and live.any_mount()) and os.fstat(fd).st_nlink > 0


def _boot() -> bytes:
    with open("/proc/sys/kernel/random/boot_id", "rb") as file:
        return file.read().strip()
