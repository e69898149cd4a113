"""The file system that a driver's directory is on."""

from __future__ import annotations

import os

from cowstore.results import DriverStatus

_RESTRICTIONS = ((os.ST_NOSUID, "nosuid"), (os.ST_NODEV, "nodev"), (os.ST_NOEXEC, "noexec"))


def fs_type(path: str) -> str:
    """Tell the type of the file system that *path* is on, as mount(8) calls it."""
    from cowstore._linux.procfs import mountinfo

    real = os.fsencode(os.path.realpath(path)) + b"/"
    found = "a file system of unknown type"
    length = 0
    for entry in mountinfo():
        # Of several at one place the last is the one that is seen.
        point = entry.mount_point.rstrip(b"/") + b"/"
        if len(point) >= length and real.startswith(point):
            found, length = os.fsdecode(entry.fs_type), len(point)
    return found


def restrictions(path: str) -> list[str]:
    """List what the mount that *path* is on forbids: programs in a snapshot may need it."""
    flags = os.statvfs(path).f_flag
    return [name for flag, name in _RESTRICTIONS if flags & flag]


def status(directory: str, details: dict[str, str]) -> DriverStatus:
    """Tell the room that is left, and the facts of the ground before the driver's own."""
    room = os.statvfs(directory)
    ground = {"backing file system": fs_type(directory)}
    forbidden = restrictions(directory)
    if forbidden:
        ground["mounted with"] = ",".join(forbidden)
    return DriverStatus(
        free_bytes=room.f_bavail * room.f_frsize,
        total_bytes=room.f_blocks * room.f_frsize,
        details={**ground, **details},
    )
