"""Waiting for the kernel to clean the subvolumes that this process has deleted."""

from __future__ import annotations

import time
from _thread import allocate_lock

from cowstore._linux import btrfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# From so many numbers on, those that are cleaned meanwhile are looked for and dropped.
_MANY = 1024


class Cleaning:
    """The numbers of deleted subvolumes whose space is, as far as is known, not back yet."""

    def __init__(self, home_fd: int) -> None:
        self._home = home_fd
        self._lock = allocate_lock()
        self._waiting: set[int] = set()
        self._limit = _MANY

    def add(self, subvol_ids: Iterable[int]) -> None:
        """Note that these were deleted."""
        with self._lock:
            self._waiting.update(subvol_ids)
            crowded = len(self._waiting) > self._limit
        if crowded:
            self._prune()

    def _prune(self) -> None:
        """Drop what is cleaned, so that a process which lives long and never waits does not grow."""
        from cowstore.drivers.btrfs import questions

        with self._lock:
            before = set(self._waiting)
        cleaned = before.difference(questions.deleted(self._home))
        with self._lock:
            self._waiting -= cleaned
            # Twice what is left: the questions cost the same per deletion however slow the kernel is.
            self._limit = max(_MANY, 2 * len(self._waiting))

    def wait(self, patience_seconds: float, *, everybodys: bool = False) -> list[int]:
        """Wait until they are cleaned, and that is on disk.

        :param everybodys: wait for all of the file system, not only for those that this process has deleted.
        :returns: the numbers of those that are not cleaned after that time; normally none.
        """
        from cowstore.drivers.btrfs import questions

        with self._lock:
            wanted = set(self._waiting)

        def dead() -> list[int]:
            return [one for one in questions.deleted(self._home) if everybodys or one in wanted]

        deadline = time.monotonic() + patience_seconds
        pause = 0.001
        left = dead()
        # What was cleaned before is on disk after this.
        btrfs.sync(self._home)
        while left:
            # A deletion whose transaction is not committed is not begun. Waiting in the kernel would be no use: when
            # the wake-up that a sync gives the cleaner is lost, which happens, it sleeps for thirty seconds more.
            time.sleep(pause)
            pause = min(pause * 1.5, 0.1)
            left = dead()
            # And what was cleaned meanwhile is free after one more.
            btrfs.sync(self._home)
            if time.monotonic() > deadline:
                break
        with self._lock:
            self._waiting -= wanted.difference(left)
        return left
