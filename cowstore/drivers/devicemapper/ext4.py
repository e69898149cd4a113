"""Reading ext4 as it lies on a device that nobody writes to: which inodes differ from another's, and whose a block is.

Source: the kernel's Documentation/filesystems/ext4: super block, group descriptors, inodes, extent trees.
"""

from __future__ import annotations

import mmap
import os
import struct
from bisect import bisect_right

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

BLOCK = 4096
_EXTENTS_FLAG = 0x80000
_EXTENT_MAGIC = 0xF30A
_JOURNAL_INODE = 8
_DESCRIPTOR_64 = 64
_INITIALISED = 32768
"""A longer extent is one that is reserved, and reads as zeros."""


class Ext4:
    """One file system of 4 KiB blocks, read past the page cache."""

    def __init__(self, node: str) -> None:
        self._fd = os.open(node, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        self._page = mmap.mmap(-1, BLOCK)
        head = self.block(0)[1024:]
        self._blocks: int = struct.unpack_from("<I", head, 4)[0]
        self._per_group: int = struct.unpack_from("<I", head, 32)[0]
        self._inodes_per_group: int = struct.unpack_from("<I", head, 40)[0]
        self._inode_size: int = struct.unpack_from("<H", head, 88)[0]
        self._reserved: int = struct.unpack_from("<H", head, 206)[0]
        size = struct.unpack_from("<H", head, 254)[0] or 32
        self._groups = -(-self._blocks // self._per_group)
        self._table_blocks = -(-self._groups * size // BLOCK)
        table = b"".join(self.block(1 + number) for number in range(self._table_blocks))
        self._bitmaps = [self._pointer(table, group * size, 0, size) for group in range(self._groups)]
        self._inode_bitmaps = [self._pointer(table, group * size, 4, size) for group in range(self._groups)]
        self._tables = [self._pointer(table, group * size, 8, size) for group in range(self._groups)]
        self._sorted = sorted((table, group) for group, table in enumerate(self._tables))
        self._structure = {*self._bitmaps, *self._inode_bitmaps}
        self._bitmap = (-1, b"")
        self._per_table = self._inodes_per_group * self._inode_size // BLOCK

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd != -1:
            os.close(fd)
            self._page.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def _pointer(table: bytes, place: int, offset: int, size: int) -> int:
        low: int = struct.unpack_from("<I", table, place + offset)[0]
        high: int = struct.unpack_from("<I", table, place + 32 + offset)[0] if size >= _DESCRIPTOR_64 else 0
        return low | high << 32

    def block(self, number: int) -> bytes:
        """Read one block."""
        if os.preadv(self._fd, [self._page], number * BLOCK) != BLOCK:
            raise ValueError(f"block {number} lies beyond the device")
        return self._page[:]

    def inodes_in(self, number: int) -> int | None:
        """Return the number of the first inode of a block of an inode table; None for any other block."""
        at = bisect_right(self._sorted, (number, self._groups)) - 1
        if at < 0 or number >= self._sorted[at][0] + self._per_table:
            return None
        table, group = self._sorted[at]
        return group * self._inodes_per_group + (number - table) * (BLOCK // self._inode_size) + 1

    def differing(self, first: int, mine: bytes, theirs: bytes) -> set[int]:
        """Compare a block of an inode table, whose first inode is given, with another's."""
        size = self._inode_size
        return {
            first + place // size
            for place in range(0, BLOCK, size)
            if mine[place : place + size] != theirs[place : place + size]
        }

    def is_structure(self, number: int) -> bool:
        """Tell whether a block is one of the file system's own: super blocks, descriptors, bitmaps."""
        group, place = divmod(number, self._per_group)
        if place <= self._table_blocks + self._reserved and _has_super_block(group):
            return True
        return number in self._structure

    def is_free(self, number: int) -> bool:
        """Tell whether nothing owns a block."""
        group, place = divmod(number, self._per_group)
        if self._bitmap[0] != group:
            self._bitmap = group, self.block(self._bitmaps[group])
        return not self._bitmap[1][place >> 3] & 1 << (place & 7)

    def owned_by(self, inodes: set[int]) -> set[int]:
        """Return the blocks of these inodes, and of the journal."""
        found: set[int] = set()
        for inode in inodes | {_JOURNAL_INODE}:
            raw = self._inode(inode)
            attributes = struct.unpack_from("<I", raw, 104)[0] | struct.unpack_from("<H", raw, 118)[0] << 32
            if attributes:
                found.add(attributes)
            if struct.unpack_from("<I", raw, 32)[0] & _EXTENTS_FLAG and struct.unpack_from("<H", raw, 26)[0]:
                self._extents(raw[40:100], found)
        return found

    def _inode(self, number: int) -> bytes:
        group, index = divmod(number - 1, self._inodes_per_group)
        block, place = divmod(index * self._inode_size, BLOCK)
        return self.block(self._tables[group] + block)[place : place + self._inode_size]

    def _extents(self, node: bytes, found: set[int]) -> None:
        magic, count, _most, depth = struct.unpack_from("<HHHH", node, 0)
        if magic != _EXTENT_MAGIC:
            raise ValueError("what should be an extent tree is none")
        for entry in range(count):
            place = 12 + 12 * entry
            if depth:
                low, high = struct.unpack_from("<IH", node, place + 4)
                child = low | high << 32
                found.add(child)
                self._extents(self.block(child), found)
            else:
                length, high, low = struct.unpack_from("<HHI", node, place + 4)
                begin = low | high << 32
                found.update(range(begin, begin + (length if length <= _INITIALISED else length - _INITIALISED)))


def _has_super_block(group: int) -> bool:
    """Groups 0, 1 and the powers of 3, 5 and 7 have a copy."""
    if group <= 1:
        return True
    for base in (3, 5, 7):
        power = base
        while power < group:
            power *= base
        if power == group:
            return True
    return False


def changed_inodes(upper: Ext4, lower: Ext4, blocks: list[int]) -> set[int] | None:
    """Find the inodes that differ, from the blocks that may; None where one that differs is not theirs.

    An inode that is alike to the last bit names the same attributes and blocks. What those hold could still differ (a
    clock that was set back hides a write), and then a block differs that none of the inodes found owns.
    """
    changed: set[int] = set()
    others: list[int] = []
    for number in blocks:
        first = upper.inodes_in(number)
        if first is None:
            others.append(number)
        else:
            changed |= upper.differing(first, upper.block(number), lower.block(number))
    owned = upper.owned_by(changed)
    for number in others:
        if upper.is_structure(number) or number in owned or upper.is_free(number):
            continue
        if upper.block(number) != lower.block(number):
            return None
    return changed
