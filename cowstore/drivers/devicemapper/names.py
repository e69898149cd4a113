"""Where in the tree inodes are, found on the device: by ``..`` for a directory, for a file in the directories near it.

A file's inode tells how many names it has. ext4 puts the inode of a file near that of its directory, and a name that is
new stands in a directory that has changed; so only what is near is searched, until as many names are found. Whatever is
not found that way is searched further and further off.

Source: the kernel's Documentation/filesystems/ext4: directory.rst, allocators.rst.
"""

from __future__ import annotations

import os
import struct

from cowstore.drivers.devicemapper.ext4 import BLOCK, FIRST_OF_FILES, ROOT, CannotTell, Ext4
from cowstore.drivers.devicemapper.inodes import DIRECTORY, common, joined, without

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from typing import TypeAlias

    from cowstore.drivers.devicemapper.ext4 import Inode

    Place: TypeAlias = tuple[int, bytes]
    """Directory and name."""

_ENTRY = struct.Struct("<IHBB")
_DIRECTORY_TYPE = 2
_SHORTEST = 12
_THEMSELVES = (b".", b"..")
_NEAR_BLOCKS = 4
"""So many blocks of the inode table are searched first, below a file's; in each are 16 inodes."""
_AT_ONCE = 256
_FEW = 40
"""Up to so many inodes are searched for by their bytes; for more, all entries are looked at."""


class Places:
    """What a comparison has to look at.

    :ivar wanted: inodes that differ, directories that lead to one, and files that have names below a directory that
        was moved. :ivar changed: those that differ. :ivar names: which names lead to a wanted one, by directory, in
        directories that do not differ.
    """

    def __init__(self, changed: Collection[int]) -> None:
        self.changed = changed
        self.wanted: set[int] = set(changed)
        self.names: dict[int, set[str]] = {}

    def add(self, inode: int, place: Place) -> None:
        """Note one name of an inode."""
        directory, name = place
        self.wanted.add(inode)
        if directory not in self.changed:
            self.names.setdefault(directory, set()).add(os.fsdecode(name))


def find(upper: Ext4, lower: Ext4, changed: dict[int, int]) -> Places:
    """Find all the names of all the inodes that differ, and what leads to them.

    :param changed: what differs in *upper*, as :func:`~cowstore.drivers.devicemapper.inodes.changed_inodes` tells.
    :raises CannotTell: something is not where it should be.
    """
    files: dict[int, int] = {}
    directories: set[int] = set()
    for inode, links in changed.items():
        if inode >= FIRST_OF_FILES and links == DIRECTORY:
            directories.add(inode)
        elif inode >= FIRST_OF_FILES and links > 0:
            files[inode] = links
    tree = _Tree(upper)
    below, linked = tree.below(_moved(tree, _Tree(lower), directories))
    files.update((inode, links) for inode, links in linked.items() if inode not in changed)
    places = Places(changed.keys())
    leading = set(directories)
    for inode, place in tree.search(files, directories | below):
        places.add(inode, place)
        leading.add(place[0])
    for inode, place in tree.climb(leading):
        places.add(inode, place)
    return places


def _moved(upper: _Tree, lower: _Tree, directories: set[int]) -> set[int]:
    """Find which directories have another place than they had."""
    before = lower.file_system.inodes(number for number in directories if lower.file_system.is_used(number))
    there = {number for number, inode in before.items() if inode.is_directory}
    mine, theirs = upper.places(there), lower.places(there)
    return {number for number in there if mine[number] != theirs[number]}


class _Tree:
    """The directories of one file system."""

    def __init__(self, file_system: Ext4) -> None:
        self.file_system = file_system
        self._above: dict[int, int] = {}
        """``..`` of the directories that were read."""

    def search(self, files: dict[int, int], likely: set[int]) -> Iterator[tuple[int, Place]]:
        """Find all names of files, of which it is known how many each has: in likely directories, then by nearness."""
        missing = dict(files)
        searched: set[int] = set()
        for fresh in self._by_nearness(missing, likely) if files else ():
            directories = {number: inode for number, inode in fresh.items() if number not in searched}
            searched.update(directories)
            for inode, place in self._look(directories, missing.keys()):
                missing[inode] -= 1
                yield inode, place
            for inode in [inode for inode, count in missing.items() if count <= 0]:
                if missing.pop(inode) < 0:
                    raise CannotTell(f"inode {inode} has more names than it says")
            if not missing:
                return
        if files:
            raise CannotTell(f"not all names of {len(missing)} inodes are found")

    def _by_nearness(self, missing: dict[int, int], likely: set[int]) -> Iterator[dict[int, Inode]]:
        """Yield directories: likely ones, then those near to what is missing, those less near, and in the end all.

        A directory is mostly made before what is in it, and so has a lower inode.
        """
        file_system = self.file_system
        yield file_system.inodes(likely)
        left = file_system.initialised_tables()
        reach = _NEAR_BLOCKS
        while left:
            middles = {(inode - 1) // file_system.per_table_block for inode in missing}
            near = joined([(middle - reach, middle + reach // 4 + 1) for middle in middles])
            for begin, end in common(left, near):
                for first in range(begin, end, _AT_ONCE):
                    yield file_system.directories(first, min(end - first, _AT_ONCE))
            left = without(left, near)
            reach *= 4

    def climb(self, directories: set[int]) -> Iterator[tuple[int, Place]]:
        """Find the places of directories, of those they are in, and so on up to the root."""
        known = {ROOT}
        while waiting := directories - known:
            found = self.places(waiting)
            yield from found.items()
            known |= waiting
            directories = {directory for directory, _ in found.values()}

    def places(self, directories: set[int]) -> dict[int, Place]:
        """Find the one place of each directory."""
        found: dict[int, Place] = {}
        above = self._parents(directories)
        for inode, place in self._look(self.file_system.inodes(set(above.values())), directories):
            if inode in found or above[inode] != place[0]:
                raise CannotTell(f"the directory {inode} has more than one place")
            found[inode] = place
        if len(found) != len(directories):
            raise CannotTell("a directory is not in the one that it is said to be in")
        return found

    def _parents(self, directories: set[int]) -> dict[int, int]:
        """Read ``..`` of directories."""
        unread = directories - self._above.keys()
        firsts = {
            self._blocks(number, inode)[0]: number for number, inode in self.file_system.inodes(unread).items()
        }  # fmt: skip
        for block, data in self.file_system.read_each(firsts):
            self._above[firsts[block]] = _above(firsts[block], data)
        return {number: self._above[number] for number in directories}

    def below(self, tops: set[int]) -> tuple[set[int], dict[int, int]]:
        """Find what is below directories: the directories, and by inode how many names those have that have several."""
        directories: set[int] = set()
        linked: dict[int, int] = {}
        waiting = set(tops)
        while waiting:
            directories |= waiting
            inner: set[int] = set()
            files: set[int] = set()
            for _, data in self._content(self.file_system.inodes(waiting)):
                for inode, kind, name in entries(data):
                    if name not in _THEMSELVES:
                        (inner if kind == _DIRECTORY_TYPE else files).add(inode)
            found = self.file_system.inodes(files)
            linked.update((number, inode.links) for number, inode in found.items() if inode.links > 1)
            waiting = inner - directories
        return directories, linked

    def _look(self, directories: dict[int, Inode], wanted: Collection[int]) -> Iterator[tuple[int, Place]]:
        """Find the entries of directories that name something wanted."""
        needles = [struct.pack("<I", inode) for inode in wanted] if len(wanted) <= _FEW else None
        for directory, data in self._content(directories):
            if needles is not None and not [needle for needle in needles if needle in data]:
                continue
            for inode, _, name in entries(data):
                if inode in wanted and name not in _THEMSELVES:
                    yield inode, (directory, name)

    def _content(self, directories: dict[int, Inode]) -> Iterator[tuple[int, bytes]]:
        """Read the blocks of directories, in the order in which they lie on the device."""
        owners: dict[int, int] = {}
        firsts: set[int] = set()
        expected = 0
        for number, inode in directories.items():
            blocks = self._blocks(number, inode)
            owners.update(dict.fromkeys(blocks, number))
            firsts.add(blocks[0])
            expected += len(blocks)
        if len(owners) != expected:
            raise CannotTell("directories share a block")
        for block, data in self.file_system.read_each(owners):
            if block in firsts:
                self._above[owners[block]] = _above(owners[block], data)
            yield owners[block], data

    def _blocks(self, number: int, inode: Inode) -> list[int]:
        if not inode.is_directory:
            raise CannotTell(f"inode {number} is no directory")
        runs, _ = self.file_system.extents(inode)
        blocks = [block for first, count in runs for block in range(first, first + count)]
        if not blocks or len(blocks) * BLOCK != inode.size:
            raise CannotTell(f"the directory {number} has not the blocks that it says")
        return blocks


def _above(directory: int, data: bytes) -> int:
    """Read ``..`` from the first block of a directory."""
    here, length, size, _ = _ENTRY.unpack_from(data)
    above: int
    above, _, other, _ = _ENTRY.unpack_from(data, _SHORTEST)
    if (here, length, size, data[8:10]) != (directory, _SHORTEST, 1, b".\0") or (other, data[20:22]) != (2, b".."):
        raise CannotTell(f"the directory {directory} does not begin with itself")
    return above


def entries(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield (inode, type, name) of a block of a directory; one of its index looks like an empty one."""
    place = 0
    while place <= BLOCK - _SHORTEST:
        inode, length, size, kind = _ENTRY.unpack_from(data, place)
        if length < _SHORTEST or length % 4 or (inode and size + 8 > length):
            break
        if inode:
            yield inode, kind, data[place + 8 : place + 8 + size]
        place += length
    if place != BLOCK:
        raise CannotTell("what should be a block of a directory is none")
