"""What the kernel knows of its subvolumes: those in one, the facts of one, those that are deleted and not yet cleaned.

``btrfsutil`` answers where it can be imported, our own ioctls otherwise, and the answers are the same. It knows ways of
asking that older kernels understand; but it keeps the interpreter locked, so whatever can take long (snapshots,
deletions, syncs) is not asked of it.

Source: libbtrfsutil's ``btrfsutil.h``; ``linux/btrfs.h``, ``linux/btrfs_tree.h``.
"""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import dataclass
from functools import cache

from cowstore._linux import _btrfs_abi as abi
from cowstore._linux import btrfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

# In a subvolume's own item read-only is bit 0; only the two flag ioctls move it.
_RDONLY = 1
_INODE_REF = struct.Struct("<QH")


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """The facts of one subvolume.

    :ivar uuid: its own. :ivar parent_uuid: that of the subvolume it is a snapshot of; zeros for none.
    :ivar generation: the transaction that last changed something in it, or made a snapshot of it.
    :ivar made: the transaction that made it.
    """

    number: int
    uuid: bytes
    parent_uuid: bytes
    generation: int
    made: int
    read_only: bool


@cache
def library() -> ModuleType | None:
    """Return the optional ``btrfsutil``; None where it is missing or does not fit its own C library."""
    try:
        import btrfsutil
    except (ImportError, OSError):
        return None
    found: ModuleType = btrfsutil
    return found


def info(fd: int) -> Info:
    """Return the facts of the subvolume whose root is *fd*.

    :raises OSError: EINVAL, *fd* is no subvolume's root; ENOTTY or EINVAL where the file system is not Btrfs.
    """
    found = library()
    return info_by_ioctl(fd) if found is None else info_by_library(fd, found)


def info_by_library(fd: int, found: ModuleType) -> Info:
    """As :func:`info`, told by ``btrfsutil``."""
    told = found.subvolume_info(fd)
    return Info(
        number=told.id,
        uuid=told.uuid,
        parent_uuid=told.parent_uuid,
        generation=told.generation,
        made=told.otransid,
        read_only=bool(told.flags & _RDONLY),
    )


def info_by_ioctl(fd: int) -> Info:
    """As :func:`info`, told by one ioctl."""
    if os.fstat(fd).st_ino != btrfs.FIRST_FREE_OBJECTID:
        raise OSError(errno.EINVAL, "not the root of a subvolume")
    told = btrfs.get_subvol_info(fd)
    return Info(
        number=told.treeid,
        uuid=bytes(told.uuid),
        parent_uuid=bytes(told.parent_uuid),
        generation=told.generation,
        made=told.otransid,
        read_only=bool(told.flags & _RDONLY),
    )


def deleted(fd: int) -> list[int]:
    """List the numbers of the subvolumes of the file system that are deleted and not yet cleaned."""
    found = library()
    return btrfs.dead_roots(fd) if found is None else deleted_by_library(fd, found)


def deleted_by_library(fd: int, found: ModuleType) -> list[int]:
    """As :func:`deleted`, told by ``btrfsutil``."""
    return list(found.deleted_subvolumes(fd))


def nested(fd: int) -> list[tuple[bytes, int]]:
    """List path and number of all subvolumes below the one whose root is *fd*, each after those it lies in.

    Subvolumes only: what is mounted on a directory in it is another file system's affair.
    """
    # Mostly there are none, which the first item of the own search tells at once.
    own = btrfs.ino_lookup(fd)[0]
    if next(btrfs.root_refs(fd, own), None) is None:
        return []
    found = library()
    if found is not None:
        try:
            return nested_by_library(fd, found)
        except OSError as error:
            # It knows no way to a path longer than the kernel tells.
            if error.errno != errno.ENAMETOOLONG:
                raise
    return nested_by_search(fd, own)


def nested_by_library(fd: int, found: ModuleType) -> list[tuple[bytes, int]]:
    """As :func:`nested`, told by ``btrfsutil``."""
    return [(os.fsencode(path), number) for path, number in found.SubvolumeIterator(fd)]


def nested_by_search(fd: int, own: int) -> list[tuple[bytes, int]]:
    """As :func:`nested`, told by the tree of roots; *own* is the number of the subvolume of *fd*."""
    found: list[tuple[bytes, int]] = []
    waiting = [(b"", own)]
    while waiting:
        prefix, number = waiting.pop()
        for link in btrfs.root_refs(fd, number):
            path = prefix + _directory(fd, number, link.dir_inode) + link.name
            found.append((path, link.subvol_id))
            waiting.append((path + b"/", link.subvol_id))
    return found


def _directory(fd: int, number: int, inode: int) -> bytes:
    """Return the path of a directory in the subvolume of that number, ending in a slash (empty for the root)."""
    try:
        return btrfs.ino_lookup(fd, number, inode)[1]
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
    names: list[bytes] = []
    kind = (abi.INODE_REF_KEY, abi.INODE_REF_KEY)
    while inode != btrfs.FIRST_FREE_OBJECTID:
        # A directory has exactly one name.
        above = next(btrfs.tree_search(fd, number, objectid=(inode, inode), type=kind), None)
        if above is None:
            raise OSError(errno.ENOENT, "a directory was removed meanwhile")
        _objectid, _type, inode, data = above
        _index, length = _INODE_REF.unpack_from(data)
        names.append(data[_INODE_REF.size : _INODE_REF.size + length] + b"/")
    return b"".join(reversed(names))
