"""Steps that cover what a container must not see or write in /proc and /sys."""

from __future__ import annotations

import errno
import os
import stat

from cowstore._linux._call import oserror
from cowstore._linux.mount import MountAttr, MountFlag, OpenTreeFlag, mount_setattr, open_tree
from cowstore.runtime.inside import is_directory
from cowstore.runtime.root import SECURED, attach, make_file_system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore.runtime.inside import Inside

MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
"""What tells of the machine, or of its other users, more than a program needs."""

READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
"""What changes the machine for everybody."""


def mask(inside: Inside, *, paths: tuple[str, ...]) -> None:
    """Cover directories by an empty one, files by /dev/null; what is not there needs no cover."""
    null = _null(inside)
    for path in paths:
        place = inside.find(path)
        if place is None:
            continue
        with place:
            if not is_directory(place):
                with open_tree(null, "", OpenTreeFlag.CLONE | OpenTreeFlag.EMPTY_PATH) as cover:
                    attach(cover, place)
                continue
            attrs = SECURED | MountAttr.RDONLY
            with make_file_system("tmpfs", (("size", "4096"), ("nr_inodes", "1"), ("mode", "555")), attrs) as cover:
                attach(cover, place)
    os.close(null)


def _null(inside: Inside) -> int:
    """Open the /dev/null that we made, and make sure that it is one.

    :raises OSError: EXDEV, it is something else.
    """
    fd = os.open("null", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=inside.tree["dev"].fileno())
    found = os.fstat(fd)
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != os.makedev(1, 3):
        os.close(fd)
        raise oserror("openat(2)", "/dev/null", detail="not the device 1:3", code=errno.EXDEV)
    return fd


def protect(inside: Inside, *, paths: tuple[str, ...]) -> None:
    """Make parts of /proc read-only."""
    for path in paths:
        place = inside.find(path)
        if place is None:
            continue
        with place, open_tree(place, "", OpenTreeFlag.CLONE | OpenTreeFlag.EMPTY_PATH) as copy:
            mount_setattr(
                copy, "", OpenTreeFlag.EMPTY_PATH, set=SECURED | MountAttr.RDONLY, propagation=MountFlag.PRIVATE
            )
            attach(copy, place)
