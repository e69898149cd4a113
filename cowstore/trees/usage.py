"""Measuring a directory tree."""

from __future__ import annotations

import errno
import os
import stat

from cowstore.trees._descent import Descent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from cowstore.errors import OutOfSpace

__all__ = ["measure", "out_of_room", "what_is_full"]

_INODES = 8
"""Fewer than this are as good as none: what could not be made is often gone again when somebody asks."""


def measure(dir_fd: int) -> tuple[int, int]:
    """Measure what the tree at a directory descriptor takes.

    A file with several names counts once, holes do not count, other file systems mounted inside do not either. What
    vanishes meanwhile is not counted.

    :returns: allocated bytes (blocks of 512 bytes as the file system counts them), and inodes, the root's included.
    :raises OSError: as open(2), getdents(2), statx(2).
    """
    with Descent(dir_fd) as place:
        root = os.fstat(place.fd)
        size, inodes = root.st_blocks * 512, 1
        linked: set[tuple[int, int]] = set()
        waiting = [_list(place.fd)]
        while True:
            if not waiting[-1]:
                waiting.pop()
                if not waiting:
                    return size, inodes
                place.leave()
                continue
            name = waiting[-1].pop()
            try:
                found = os.stat(name, dir_fd=place.fd, follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):
                    place.enter(name)
                    waiting.append(_list(place.fd))
                elif found.st_nlink > 1:
                    key = (found.st_dev, found.st_ino)
                    if key in linked:
                        continue
                    linked.add(key)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                if error.errno == errno.EXDEV:
                    continue
                raise
            size += found.st_blocks * 512
            inodes += 1


def _list(fd: int) -> list[str]:
    return os.listdir(fd)


def what_is_full(error: OSError, directory: str | int) -> str:
    """Tell what ran out where the kernel said ENOSPC or EDQUOT: ``"quota"``, ``"inodes"`` or ``"data"``.

    :param directory: path or descriptor of one on the file system that it said so of.
    """
    if error.errno == errno.EDQUOT:
        return "quota"
    try:
        room = os.statvfs(directory)
    except OSError:
        return "data"
    return "inodes" if room.f_files and room.f_favail < _INODES and room.f_bavail else "data"


def out_of_room(error: OSError, root_fd: int, tried: str, ways: Mapping[str, str]) -> OutOfSpace:
    """Say what ran out on the file system of a tree, how much of it there is, and what to do.

    :param tried: what was tried, on what. :param ways: by what ran out (:func:`what_is_full`), what is the matter and
        what to do; ``{used}`` and ``{total}`` stand for what of it is used and is there, bytes or inodes.
    """
    from cowstore.errors import OutOfSpace

    what, room = what_is_full(error, root_fd), os.fstatvfs(root_fd)
    used, total = (room.f_blocks - room.f_bavail) * room.f_frsize, room.f_blocks * room.f_frsize
    if what == "inodes":
        used, total = room.f_files - room.f_favail, room.f_files
    way = ways[what].format(used=used, total=total)
    return OutOfSpace(f"{tried}: {error}; {way}", what=what, used=used, total=total)
