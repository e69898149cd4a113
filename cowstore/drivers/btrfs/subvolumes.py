"""Subvolumes that programs made inside a snapshot: found, taken away, or turned into directories.

The rule: **a subvolume made inside a snapshot is a directory of it**. While the snapshot is active, it is there as the
program made it; ``seal`` replaces it by a plain directory with the same content (its data shared, not copied), since
the kernel leaves nested subvolumes out of every snapshot; ``remove`` deletes it with the rest.
"""

from __future__ import annotations

import errno
import os

from cowstore._linux import btrfs, files
from cowstore._linux.fd import Descriptor
from cowstore.drivers.btrfs.looking import PIECE_BYTES, pieces

PASSING_PREFIX = b".cowstore-was-subvolume-"
"""How the name begins that a directory has while it takes a subvolume's place; the subvolume's own UUID follows."""

_CONFINED = files.Resolve.BENEATH | files.Resolve.NO_SYMLINKS | files.Resolve.NO_MAGICLINKS
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def open_directory(dir_fd: int, path: bytes) -> Descriptor:
    """Open a directory below *dir_fd*, following no link, by a path of any length; empty is *dir_fd* itself."""
    if len(path) <= PIECE_BYTES:
        return Descriptor(files.openat2(dir_fd, path or b".", _DIRECTORY, resolve=_CONFINED))
    found = open_directory(dir_fd, b"")
    for piece in pieces(path):
        with found as above:
            found = open_directory(above.fileno(), piece)
    return found


def subvol_id(fd: int) -> int:
    """Return the number of the subvolume that *fd* is in."""
    return btrfs.ino_lookup(fd)[0]


def is_root(fd: int) -> bool:
    """Tell whether *fd* is the root directory of a subvolume."""
    return os.fstat(fd).st_ino == btrfs.FIRST_FREE_OBJECTID


def _depth(entry: tuple[bytes, int]) -> int:
    return entry[0].count(b"/")


def destroy(home_fd: int, name: bytes) -> list[int]:
    """Delete the subvolume called *name* in the directory and all that are nested in it, the deepest first.

    Read-only ones too. Deleting one that is not there succeeds.

    :returns: the numbers of those that were deleted.
    """
    try:
        with open_directory(home_fd, name) as top:
            number = subvol_id(top.fileno())
            try:
                btrfs.snap_destroy(home_fd, name)
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise
            else:
                return [number]
            from cowstore.drivers.btrfs import questions

            inner = sorted(questions.nested(top.fileno()), key=_depth, reverse=True)
            for path, _number in inner:
                _destroy_nested(top.fileno(), path)
        btrfs.snap_destroy(home_fd, name)
    except FileNotFoundError:
        return []
    return [one for _path, one in inner] + [number]


def _destroy_nested(top_fd: int, path: bytes) -> None:
    directory, _, name = path.rpartition(b"/")
    try:
        with open_directory(top_fd, directory) as parent:
            make_writable(parent.fileno())
            btrfs.snap_destroy(parent.fileno(), name)
    except FileNotFoundError:
        return


def make_writable(fd: int) -> None:
    """Take the read-only property from the subvolume that *fd* is in, if it has it."""
    try:
        flags = btrfs.subvol_getflags(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # A directory that is no subvolume's root: climb to it.
        with open_root(fd) as root:
            make_writable(root.fileno())
        return
    if flags & btrfs.SubvolFlag.RDONLY:
        btrfs.subvol_setflags(fd, flags & ~btrfs.SubvolFlag.RDONLY)


def open_root(fd: int) -> Descriptor:
    """Open the root of the subvolume that the directory *fd* is in."""
    current = Descriptor(os.open(".", _DIRECTORY | os.O_CLOEXEC, dir_fd=fd))
    while not is_root(current.fileno()):
        above = Descriptor(os.open("..", _DIRECTORY | os.O_CLOEXEC, dir_fd=current.fileno()))
        current.close()
        current = above
    return current


def flatten(fd: int) -> list[int]:
    """Turn every subvolume nested in the one whose root is *fd* into a plain directory with the same content.

    A directory is filled beside the subvolume under a name made of the subvolume's UUID, takes its place in one rename,
    and only then the subvolume is deleted. So when it is killed half-way and done again, the name tells how far it
    came.

    :returns: the numbers of the subvolumes that are gone.
    """
    from cowstore.drivers.btrfs import questions

    gone: list[int] = []
    for path, number in sorted(questions.nested(fd), key=_depth, reverse=True):
        directory, _, name = path.rpartition(b"/")
        with open_directory(fd, directory) as parent:
            make_writable(parent.fileno())
            _flatten_one(parent.fileno(), name)
        gone.append(number)
    return gone


def _flatten_one(parent_fd: int, name: bytes) -> None:
    from cowstore import _faults
    from cowstore.drivers.btrfs import questions
    from cowstore.trees.copy import copy_tree
    from cowstore.trees.remove import remove_tree

    before = os.fstat(parent_fd)
    with open_directory(parent_fd, name) as source:
        make_writable(source.fileno())
        passing = PASSING_PREFIX + questions.info(source.fileno()).uuid.hex().encode()
        if name != passing:
            # What is there of that name is a copy that was not finished.
            remove_tree(parent_fd, passing)
            os.mkdir(passing, 0o700, dir_fd=parent_fd)
            try:
                with open_directory(parent_fd, passing) as target:
                    copy_tree(source.fileno(), target.fileno(), whiteouts=True, host_xattrs=True)
            except OSError:
                # No room, say: the snapshot goes on as it was.
                remove_tree(parent_fd, passing)
                raise
            _faults.point("btrfs.flatten.copied")
            files.renameat2(parent_fd, name, parent_fd, passing, files.RenameFlag.EXCHANGE)
            _faults.point("btrfs.flatten.exchanged")
    btrfs.snap_destroy(parent_fd, passing)
    # The directory around it has not changed for whoever compares it later.
    os.utime(parent_fd, ns=(before.st_atime_ns, before.st_mtime_ns))
