"""What a snapshot takes by itself: the allocated bytes of the files that differ from its parent's."""

from __future__ import annotations

import os
import stat
import struct

from cowstore._linux import _btrfs_abi as abi
from cowstore._linux import btrfs
from cowstore._linux.fd import open_
from cowstore.drivers.btrfs import questions
from cowstore.drivers.btrfs.looking import Tree
from cowstore.results import ChangeKind, Usage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cowstore.results import Change

_HALVES = struct.Struct("<QQ")
_NUMBER = struct.Struct("<Q")
_ROOT_REF = struct.Struct("<QQH")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def measure(
    home_fd: int,
    id: int,
    own_bytes: Callable[[int], int | None],
    changes: Callable[[int, int | None], Iterable[Change]],
) -> Usage:
    """Measure one snapshot.

    A parentless one is walked; of a child only what differs from its parent is looked at. Where quota groups are on,
    the bytes of a writable one without subvolumes in it are its group's own: exact, metadata included.

    :param own_bytes: tells the bytes that the subvolume of a number has for itself, or None where quota is off.
    :param changes: tells what differs between two ids.
    """
    with open_(str(id), _DIRECTORY, dir_fd=home_fd) as root:
        info = questions.info(root.fileno())
        # Before anything is snapshot for the comparison, since that shares the bytes for a while. The bytes of
        # subvolumes inside are counted by groups of their own.
        counted = not info.read_only and not questions.nested(root.fileno())
        own = own_bytes(info.number) if counted else None
        parent = find(home_fd, info.parent_uuid)
        if parent is None:
            from cowstore.trees.usage import measure as walk

            size_bytes, inodes = walk(root.fileno())
        else:
            size_bytes, inodes = _differing(root.fileno(), changes(id, parent))
    return Usage(size_bytes=size_bytes if own is None else own, inodes=inodes)


def _differing(root_fd: int, changes: Iterable[Change]) -> tuple[int, int]:
    size_bytes = inodes = 0
    seen: set[tuple[int, int]] = set()
    with Tree(root_fd) as tree:
        for change in changes:
            if change.kind is ChangeKind.DELETED:
                continue
            found = tree.stat(b"" if change.path == "." else os.fsencode(change.path))
            if found is None:
                continue
            if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
                if (found.st_dev, found.st_ino) in seen:
                    continue
                seen.add((found.st_dev, found.st_ino))
            size_bytes += found.st_blocks * 512
            inodes += 1
    return size_bytes, inodes


def find(home_fd: int, uuid: bytes) -> int | None:
    """Return the id of the subvolume of that UUID in the home; None where it is not there."""
    if not any(uuid):
        return None
    low, high = _HALVES.unpack(uuid)
    kind = (abi.UUID_KEY_SUBVOL, abi.UUID_KEY_SUBVOL)
    own, _ = btrfs.ino_lookup(home_fd)
    items = btrfs.tree_search(home_fd, abi.UUID_TREE_OBJECTID, objectid=(low, low), type=kind, offset=(high, high))
    for _objectid, _type, _offset, data in items:
        for (number,) in _NUMBER.iter_unpack(data):
            name = _name_in(home_fd, own, number)
            if name is not None and name.isdigit():
                return int(name)
    return None


def _name_in(home_fd: int, home: int, number: int) -> bytes | None:
    """Return the name of a subvolume in the root directory of the subvolume *home*; None where it lies elsewhere."""
    kind = (abi.ROOT_BACKREF_KEY, abi.ROOT_BACKREF_KEY)
    items = btrfs.tree_search(
        home_fd, abi.ROOT_TREE_OBJECTID, objectid=(number, number), type=kind, offset=(home, home)
    )
    for _objectid, _type, _offset, data in items:
        directory, _sequence, length = _ROOT_REF.unpack_from(data)
        if directory == abi.FIRST_FREE_OBJECTID:
            return data[_ROOT_REF.size : _ROOT_REF.size + length]
    return None
