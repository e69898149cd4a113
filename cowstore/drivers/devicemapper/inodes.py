"""Which inodes of an ext4 differ from those of another that is laid out alike, given the blocks that may differ.

Source: the kernel's Documentation/filesystems/ext4: attributes.rst, inodes.rst, special_inodes.rst.
"""

from __future__ import annotations

import struct
import sys

from cowstore.drivers.devicemapper.ext4 import CannotTell, Ext4, Inode, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TypeAlias

    Ranges: TypeAlias = list[tuple[int, int]]
    """Sorted, none touching another's inside: (first, the one after the last)."""

DIRECTORY = -1
_ATTRIBUTES_MAGIC = 0xEA020000


def changed_inodes(upper: Ext4, lower: Ext4, ranges: Ranges) -> dict[int, int]:
    """Find the inodes of *upper* that differ, or that *lower* has not, from the blocks that may differ.

    An inode that is alike to the last bit names the same attributes and blocks. What those hold could still differ (a
    clock that was set back hides a write), and then a block differs that none of the inodes found owns.

    :returns: by inode the number of its names, of which a directory has :data:`DIRECTORY`, and what was removed while
        open none.
    :raises CannotTell: there is such a block, or something is not as it should be.
    """
    if upper.geometry != lower.geometry:
        raise CannotTell("the one has grown beyond the other")
    ranges = common(ranges, [(0, upper.blocks)])
    tables = upper.tables()
    changed: dict[int, int] = {}
    owned = _Owned(upper)
    owned.add(upper.journal())
    for number, inode in _changed_in_tables(upper, lower, ranges, tables):
        changed[number] = DIRECTORY if inode.is_directory and inode.links else inode.links
        owned.add(inode)
    numbers = [
        number
        for begin, end in without(without(ranges, tables), joined(owned.ranges))
        for number in range(begin, end)
        if not upper.is_structure(number) and not upper.is_free(number)
    ]
    unowned = [number for number, mine, theirs in _pairs(upper, lower, numbers) if mine != theirs]
    if unowned:
        _require_attributes(upper, lower, changed, owned.attributes, unowned)
    return changed


def _changed_in_tables(upper: Ext4, lower: Ext4, ranges: Ranges, tables: Ranges) -> Iterator[tuple[int, Inode]]:
    firsts: dict[int, int] = {}
    for table in tables:
        for begin, end in common([table], ranges):
            firsts.update((number, upper.first_inode(table[0], number)) for number in range(begin, end))
    for number, mine, theirs in _pairs(upper, lower, firsts):
        first = firsts[number]
        if mine == theirs and upper.usage_from(first) == lower.usage_from(first):
            continue
        for index, (one, other) in enumerate(zip(upper.inodes_at(mine), lower.inodes_at(theirs), strict=True)):
            inode = first + index
            if upper.is_used(inode) and (one != other or not lower.is_used(inode)):
                yield inode, parse(one)


class _Owned:
    """The blocks that hold what some inodes hold, and of each block of extended attributes how many of them have it."""

    def __init__(self, file_system: Ext4) -> None:
        self._file_system = file_system
        self.ranges: Ranges = []
        self.attributes: dict[int, int] = {}

    def add(self, inode: Inode) -> None:
        content, nodes = self._file_system.extents(inode)
        self.ranges += [(first, first + count) for first, count in content]
        self.ranges += [(node, node + 1) for node in nodes]
        self.attributes[inode.attributes] = self.attributes.get(inode.attributes, 0) + 1


def _require_attributes(
    upper: Ext4, lower: Ext4, changed: Iterable[int], owned: dict[int, int], blocks: list[int]
) -> None:
    """Make sure that blocks hold extended attributes, and no others than they held for inodes that do not differ.

    Inodes of equal attributes share a block with them, which counts its users: one that joins or leaves changes that.
    """
    left = {inode.attributes for inode in lower.inodes(number for number in changed if lower.is_used(number)).values()}
    for number, mine, theirs in _pairs(upper, lower, blocks):
        magic, users = struct.unpack_from("<II", mine)
        if (number not in left and number not in owned) or magic != _ATTRIBUTES_MAGIC:
            raise CannotTell(f"block {number} differs, and none of the inodes that differ owns it")
        if users > owned.get(number, 0) and _uncounted(mine) != _uncounted(theirs):
            raise CannotTell(f"block {number} differs, and inodes that do not differ may have it")


def _uncounted(block: bytes) -> bytes:
    """Leave out of a block of attributes the count of its users, and its checksum."""
    return block[:4] + block[8:16] + block[20:]


def _pairs(upper: Ext4, lower: Ext4, numbers: Iterable[int]) -> Iterator[tuple[int, bytes, bytes]]:
    numbers = sorted(numbers)
    for (number, mine), (_, theirs) in zip(upper.read_each(numbers), lower.read_each(numbers), strict=True):
        yield number, mine, theirs


def common(one: Ranges, other: Ranges) -> Ranges:
    """Return what two lists of ranges have in common."""
    found: Ranges = []
    place = 0
    for begin, end in one:
        while place < len(other) and other[place][1] <= begin:
            place += 1
        at = place
        while at < len(other) and other[at][0] < end:
            found.append((max(begin, other[at][0]), min(end, other[at][1])))
            at += 1
    return found


def without(one: Ranges, other: Ranges) -> Ranges:
    """Return what is in the first list of ranges and not in the second."""
    begins = [0, *(end for _, end in other)]
    ends = [*(begin for begin, _ in other), sys.maxsize]
    return common(one, [(begin, end) for begin, end in zip(begins, ends, strict=True) if begin < end])


def joined(ranges: Ranges) -> Ranges:
    """Sort ranges, and make one of those that touch."""
    found: Ranges = []
    for begin, end in sorted(ranges):
        if found and begin <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((begin, end))
    return found
