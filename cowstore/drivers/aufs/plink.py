"""Pseudo-links: hard links of files that lie below, which AUFS keeps in memory and forgets at the unmount.

When a file with several names is first written to, only the name that was used appears in the writable branch, with a
second link in ``.wh..wh.plnk`` named after AUFS' inode number. The other names follow it as long as the mount lasts;
then they show the old file again. So before the unmount each of them must be made to appear: reading a regular file
does that, and so does giving any other its own owner again.

Source: measured; what the ``auplink`` program does.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from cowstore.drivers.aufs.view import PSEUDO_LINKS
from cowstore.trees._descent import Descent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NOATIME | os.O_NONBLOCK | os.O_CLOEXEC


def pending(branch_fd: int) -> set[int]:
    """Return the inode numbers, as the mount shows them, of the files with pseudo-links in a writable branch."""
    try:
        fd = os.open(PSEUDO_LINKS, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=branch_fd)
    except FileNotFoundError:
        return set()
    try:
        names = os.listdir(fd)
    finally:
        os.close(fd)
    return {int(number) for name in names if (number := name.partition(".")[0]).isdigit()}


def flush(root_fd: int, inodes: set[int]) -> int:
    """Make every name of these files appear in the writable branch; returns how many names were touched.

    :param root_fd: root of the mounted tree. :param inodes: as :func:`pending` gives them.
    """
    count = 0
    with Descent(root_fd) as place:
        for name, found in _walk(place):
            if found.st_ino in inodes and found.st_nlink > 1:
                _touch(place.fd, name, found)
                count += 1
    return count


def _touch(dir_fd: int, name: str, found: os.stat_result) -> None:
    with suppress(FileNotFoundError):
        if stat.S_ISREG(found.st_mode):
            # A change of owner would do too, but takes away setuid bits and capabilities.
            fd = os.open(name, _FLAGS, dir_fd=dir_fd)
            try:
                os.read(fd, 1)
            finally:
                os.close(fd)
        else:
            os.chown(name, found.st_uid, found.st_gid, dir_fd=dir_fd, follow_symlinks=False)


def _walk(place: Descent) -> Iterator[tuple[str, os.stat_result]]:
    """Yield every name that is no directory, with *place* in its directory; other file systems are not entered."""
    waiting = [os.listdir(place.fd)]
    while waiting:
        if not waiting[-1]:
            waiting.pop()
            if waiting:
                place.leave()
            continue
        name = waiting[-1].pop()
        try:
            found = os.stat(name, dir_fd=place.fd, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                place.enter(name)
                waiting.append(os.listdir(place.fd))
                continue
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            import errno

            if error.errno == errno.EXDEV:
                continue
            raise
        yield name, found


def clear(branch_fd: int) -> None:
    """Drop the links that stand for pseudo-links, once the branch is not mounted any more: they keep data alive."""
    try:
        fd = os.open(PSEUDO_LINKS, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=branch_fd)
    except FileNotFoundError:
        return
    try:
        for name in os.listdir(fd):
            os.unlink(name, dir_fd=fd)
    finally:
        os.close(fd)
