"""Which of the kernel's events of a pool have been told of, whoever asks next.

The kernel counts from the pool's activation. The symbolic link ``events`` holds how many of them were told of; below
zero where the pool has ended with some untold, so that these come on top. Nothing depends on it: where it cannot be
written, an event is told of twice, or not.
"""

from __future__ import annotations

import os
from contextlib import suppress

from cowstore.drivers.devicemapper.record import relink

NAME = "events"


def untold(directory: str, events: int) -> int:
    """Tell how many events have not been told of, of an active pool that has had *events*."""
    return events - min(_read(directory), events)


def note(directory: str, events: int) -> None:
    """Write down that all were told of."""
    if _read(directory) != events:
        _write(directory, events)


def begin(directory: str) -> None:
    """Note that the pool begins to count: what was told of belongs to a time that a power cut has ended."""
    if _read(directory) > 0:
        _write(directory, 0)


def end(directory: str, events: int) -> None:
    """Note that the pool has ended after so many."""
    if events:
        _write(directory, -untold(directory, events))


def _read(directory: str) -> int:
    try:
        return int(os.readlink(os.path.join(directory, NAME)))
    except (OSError, ValueError):
        return 0


def _write(directory: str, count: int) -> None:
    with suppress(OSError):
        relink(os.path.join(directory, NAME), str(count))
