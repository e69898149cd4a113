"""Reading ext4 as it lies on a device that nobody writes to: past the page cache, without a mount, in long reads.

Source: the kernel's Documentation/filesystems/ext4: super.rst, group_descr.rst, bitmaps.rst, inodes.rst, ifork.rst.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
from dataclasses import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Self

BLOCK = 4096
ROOT = 2
FIRST_OF_FILES = 11
"""Lower inodes, but for the root, are the file system's own."""

_MAGIC = 0xEF53
_HAS_JOURNAL, _EXT_ATTR, _RESIZE_INODE, _DIR_INDEX = 0x4, 0x8, 0x10, 0x20
_COMPATIBLE = _HAS_JOURNAL | _EXT_ATTR | _RESIZE_INODE | _DIR_INDEX
_FILETYPE, _EXTENTS, _64BIT, _FLEX_BG, _CSUM_SEED = 0x2, 0x40, 0x80, 0x200, 0x2000
_INCOMPATIBLE = _FILETYPE | _EXTENTS | _64BIT | _FLEX_BG | _CSUM_SEED
_SPARSE_SUPER, _LARGE_FILE, _HUGE_FILE, _GDT_CSUM, _DIR_NLINK, _EXTRA_ISIZE = 0x1, 0x2, 0x8, 0x10, 0x20, 0x40
_METADATA_CSUM = 0x400
_READ_ONLY_COMPATIBLE = (
    _SPARSE_SUPER | _LARGE_FILE | _HUGE_FILE | _GDT_CSUM | _DIR_NLINK | _EXTRA_ISIZE | _METADATA_CSUM
)
_INODE_UNINIT, _BLOCK_UNINIT = 0x1, 0x2
_DESCRIPTOR_64 = 64
_EXTENTS_FLAG = 0x80000
_EXTENT_MAGIC = 0xF30A
_INITIALISED = 32768
"""A longer extent is one that is reserved, and reads as zeros."""
_JOURNAL_INODE = 8
_INODE = struct.Struct("<H2xI18xH4xI4x60s4xI10xH")
_IS_DIRECTORY = re.compile(rb"[\x40-\x4f]")
"""Of the upper byte of a mode."""
_AT_ONCE = 256
_GAP = 8
"""So many blocks that nobody asked for are read sooner than the device is asked twice."""


class CannotTell(Exception):
    """What lies on the device is not what this reads, or is not as it should be."""


@dataclass(frozen=True, slots=True)
class Inode:
    """What is needed of an inode.

    :ivar root: the head of its extent tree. :ivar attributes: block with its extended attributes, or 0.
    """

    mode: int
    size: int
    links: int
    flags: int
    root: bytes
    attributes: int

    @property
    def is_directory(self) -> bool:
        return self.mode >> 12 == 4


class Ext4:
    """One file system of 4 KiB blocks.

    :ivar blocks: how many it has. :ivar per_table_block: inodes in a block of an inode table.
    """

    def __init__(self, node: str) -> None:
        """Open a device.

        :raises CannotTell: it holds something else, or waits for a replay of its journal. :raises OSError: as open(2).
        """
        self._fd = os.open(node, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        self._room = mmap.mmap(-1, _AT_ONCE * BLOCK)
        try:
            self._know(self.read(0, 2))
        except BaseException:
            self.close()
            raise

    def _know(self, head: bytes) -> None:
        block = head[1024:2048]
        if struct.unpack_from("<H", block, 0x38)[0] != _MAGIC:
            raise CannotTell("no ext4")
        compatible, incompatible, read_only = struct.unpack_from("<III", block, 0x5C)
        if compatible & ~_COMPATIBLE or incompatible & ~_INCOMPATIBLE or read_only & ~_READ_ONLY_COMPATIBLE:
            raise CannotTell("it has features that are not known here, or a journal to replay")
        if not incompatible & _FILETYPE or not read_only & _SPARSE_SUPER:
            raise CannotTell("it lacks features that every ext4 has")
        count, first, log_size = struct.unpack_from("<I12xII", block, 4)
        self.blocks: int = count | (struct.unpack_from("<I", block, 0x150)[0] << 32 if incompatible & _64BIT else 0)
        self._per_group, self._inodes_per_group = struct.unpack_from("<I4xI", block, 0x20)
        self._inode_size: int = struct.unpack_from("<H", block, 0x58)[0]
        if first or log_size != 2 or not self._inode_size or self._inodes_per_group * self._inode_size % BLOCK:
            raise CannotTell("its blocks or inodes are of another size")
        self._reserved: int = struct.unpack_from("<H", block, 0xCE)[0]
        size = struct.unpack_from("<H", block, 0xFE)[0] if incompatible & _64BIT else 32
        self._groups = -(-self.blocks // self._per_group)
        self._descriptors = -(-self._groups * size // BLOCK)
        self._know_groups(head, size, has_flags=bool(read_only & (_GDT_CSUM | _METADATA_CSUM)))

    def _know_groups(self, head: bytes, size: int, *, has_flags: bool) -> None:
        raw = head[BLOCK:] if self._descriptors == 1 else self.read(1, self._descriptors)
        places = range(0, self._groups * size, size)
        self._bitmaps = [_pointer(raw, place, size) for place in places]
        self._inode_bitmaps = [_pointer(raw, place + 4, size) for place in places]
        self._tables = [_pointer(raw, place + 8, size) for place in places]
        flags = [struct.unpack_from("<H", raw, place + 0x12)[0] if has_flags else 0 for place in places]
        self._no_bitmap = {group for group, flag in enumerate(flags) if flag & _BLOCK_UNINIT}
        self._no_inodes = {group for group, flag in enumerate(flags) if flag & _INODE_UNINIT}
        self._structure = {*self._bitmaps, *self._inode_bitmaps}
        self._bitmap = (-1, b"")
        self._used: dict[int, bytes] = {}
        self._known_directories: dict[int, Inode] = {}
        self.per_table_block = BLOCK // self._inode_size
        self._per_table = self._inodes_per_group * self._inode_size // BLOCK
        self._group_of_table = {table: group for group, table in enumerate(self._tables)}

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd != -1:
            os.close(fd)
            self._room.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Blocks.

    def read(self, first: int, count: int = 1) -> bytes:
        """Read blocks that follow each other.

        :raises CannotTell: they lie beyond the device.
        """
        parts = []
        for begin in range(first, first + count, _AT_ONCE):
            size = min(first + count - begin, _AT_ONCE) * BLOCK
            with memoryview(self._room)[:size] as room:
                if os.preadv(self._fd, [room], begin * BLOCK) != size:
                    raise CannotTell(f"block {begin} lies beyond the device, or those after it do")
                parts.append(bytes(room))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_each(self, numbers: Iterable[int]) -> Iterator[tuple[int, bytes]]:
        """Read blocks, in the order of their numbers; neighbours in one call."""
        for run in _runs(sorted(numbers)):
            data = self.read(run[0], run[-1] - run[0] + 1)
            for number in run:
                place = (number - run[0]) * BLOCK
                yield number, data[place : place + BLOCK]

    def is_structure(self, number: int) -> bool:
        """Tell whether a block is one of the file system's own: super blocks, descriptors, bitmaps."""
        group, place = divmod(number, self._per_group)
        if place <= self._descriptors + self._reserved and _has_super_block(group):
            return True
        return number in self._structure

    def is_free(self, number: int) -> bool:
        """Tell whether nothing owns a block that is no structure."""
        group, place = divmod(number, self._per_group)
        if group in self._no_bitmap:
            return True
        if self._bitmap[0] != group:
            self._bitmap = group, self.read(self._bitmaps[group])
        return not self._bitmap[1][place >> 3] & 1 << (place & 7)

    # Inodes.

    @property
    def geometry(self) -> tuple[object, ...]:
        """What must be equal for two file systems to be laid out alike."""
        return self.blocks, self._inode_size, self._reserved, self._bitmaps, self._inode_bitmaps, self._tables

    def tables(self) -> list[tuple[int, int]]:
        """List where the inode tables are, sorted, as (first block, block after the last)."""
        return sorted((table, table + self._per_table) for table in self._tables)

    def first_inode(self, table: int, block: int) -> int:
        """Return the number of the first inode in a block of the inode table that begins at the block *table*."""
        before: int = self._group_of_table[table] * self._inodes_per_group
        return before + (block - table) * self.per_table_block + 1

    def inodes_at(self, block: bytes) -> list[bytes]:
        """Split a block of an inode table."""
        size = self._inode_size
        return [block[place : place + size] for place in range(0, BLOCK, size)]

    def usage(self, group: int) -> bytes:
        """Return which of a group's inodes are used, as a bitmap; a table may hold anything where they are not."""
        if group not in self._used:
            size = self._inodes_per_group >> 3
            # Those of sixteen groups lie side by side (flex_bg).
            blocks = {}
            for one in range(group & ~15, min(self._groups, (group | 15) + 1)):
                if one in self._no_inodes:
                    self._used[one] = bytes(size)
                else:
                    blocks[self._inode_bitmaps[one]] = one
            for block, data in self.read_each(blocks):
                self._used[blocks[block]] = data[:size]
        return self._used[group]

    def usage_from(self, first: int) -> bytes:
        """Return which inodes of one block of a table are used, given the first of them."""
        group, index = divmod(first - 1, self._inodes_per_group)
        return self.usage(group)[index >> 3 : -(-(index + self.per_table_block) // 8)]

    def is_used(self, inode: int) -> bool:
        group, index = divmod(inode - 1, self._inodes_per_group)
        return bool(self.usage(group)[index >> 3] & 1 << (index & 7))

    def inodes(self, numbers: Iterable[int]) -> dict[int, Inode]:
        """Read inodes.

        :raises CannotTell: there is none of such a number.
        """
        found: dict[int, Inode] = {}
        wanted: dict[int, list[tuple[int, int]]] = {}
        for number in numbers:
            known = self._known_directories.get(number)
            if known is not None:
                found[number] = known
                continue
            group, index = divmod(number - 1, self._inodes_per_group)
            if not 0 <= group < self._groups:
                raise CannotTell(f"there is no inode {number}")
            block, place = divmod(index * self._inode_size, BLOCK)
            wanted.setdefault(self._tables[group] + block, []).append((number, place))
        for block, data in self.read_each(wanted):
            for number, place in wanted[block]:
                inode = found[number] = parse(data[place : place + self._inode_size])
                if inode.is_directory:
                    self._known_directories[number] = inode
        return found

    def initialised_tables(self) -> list[tuple[int, int]]:
        """List the blocks of the tables, numbered through, of those groups that ever had an inode, as ranges."""
        per = self._per_table
        return [(group * per, (group + 1) * per) for group in range(self._groups) if group not in self._no_inodes]

    def directories(self, first: int, count: int) -> dict[int, Inode]:
        """Find the directories whose inodes lie in some blocks of the tables, which are numbered through."""
        blocks = {}
        for at in range(first, first + count):
            begin = at * self.per_table_block + 1
            used = int.from_bytes(self.usage_from(begin), "little")
            if used:
                group, block = divmod(at, self._per_table)
                blocks[self._tables[group] + block] = begin, used
        found = {}
        size = self._inode_size
        for number, data in self.read_each(blocks):
            begin, used = blocks[number]
            for match in _IS_DIRECTORY.finditer(data[1::size]):
                index = match.start()
                if used >> index & 1:
                    found[begin + index] = parse(data[index * size : (index + 1) * size])
        self._known_directories.update(found)
        return found

    def extents(self, inode: Inode) -> tuple[list[tuple[int, int]], list[int]]:
        """Return where an inode's content is, in its order, as (first block, how many), and its extent tree's blocks.

        :raises CannotTell: what should be an extent tree is none.
        """
        runs: list[tuple[int, int]] = []
        nodes: list[int] = []
        if inode.flags & _EXTENTS_FLAG:
            self._extents(inode.root, -1, runs, nodes)
        return runs, nodes

    def _extents(self, node: bytes, expected: int, runs: list[tuple[int, int]], nodes: list[int]) -> None:
        magic, count, _most, depth = struct.unpack_from("<HHHH", node, 0)
        if magic != _EXTENT_MAGIC or 12 + 12 * count > len(node) or depth > 5 or expected not in (-1, depth):
            raise CannotTell("what should be an extent tree is none")
        for place in range(12, 12 + 12 * count, 12):
            if depth:
                low, high = struct.unpack_from("<IH", node, place + 4)
                nodes.append(low | high << 32)
                self._extents(self.read(nodes[-1]), depth - 1, runs, nodes)
            else:
                length, high, low = struct.unpack_from("<HHI", node, place + 4)
                runs.append((low | high << 32, length if length <= _INITIALISED else length - _INITIALISED))

    def journal(self) -> Inode:
        """Read the journal's inode."""
        return self.inodes([_JOURNAL_INODE])[_JOURNAL_INODE]


def parse(raw: bytes) -> Inode:
    """Read an inode from an inode table."""
    mode, size, links, flags, root, low, high = _INODE.unpack_from(raw)
    return Inode(mode, size, links, flags, root, low | high << 32)


def _pointer(raw: bytes, place: int, size: int) -> int:
    low: int = struct.unpack_from("<I", raw, place)[0]
    high: int = struct.unpack_from("<I", raw, place + 32)[0] if size >= _DESCRIPTOR_64 else 0
    return low | high << 32


def _runs(numbers: list[int]) -> Iterator[list[int]]:
    """Split sorted numbers into those that are read at once."""
    begin = 0
    for place in range(1, len(numbers) + 1):
        if (
            place == len(numbers)
            or numbers[place] - numbers[place - 1] > _GAP
            or numbers[place] - numbers[begin] >= _AT_ONCE
        ):
            yield numbers[begin:place]
            begin = place


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
