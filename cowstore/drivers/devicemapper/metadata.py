"""Reading a thin pool's metadata: which thin devices there are, and which blocks of one are its own.

Read from the pool's metadata snapshot, which the kernel leaves alone while it is held; snapshots of one origin share
the nodes of their block maps, so that comparing two costs what differs.

Source: the kernel's drivers/md/dm-thin-metadata.c, persistent-data/dm-btree-internal.h.
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import Self

from cowstore._linux.fd import open_

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cowstore._linux.fd import Descriptor

BLOCK = 4096
MAGIC = 27022010
_INTERNAL, _LEAF = 1, 2
_NODE = struct.Struct("<IIQIIII")
_TIME_BITS = 24


class MetadataError(OSError):
    """What was read is no metadata of a thin pool."""


def is_formatted(fd: int) -> bool:
    """Tell whether the super block of a thin pool is there; the kernel formats anew where the first block is zeroed."""
    head = os.pread(fd, 4096, 0)
    return len(head) == BLOCK and struct.unpack_from("<Q", head, 32)[0] == MAGIC


class Metadata:
    """The metadata as of one held root, read past the page cache, which is not told of the pool's writes."""

    def __init__(self, node: str, root: int) -> None:
        """Open the metadata device.

        :param root: block of the held metadata root, as the pool's status tells it.
        """
        self._device: Descriptor = open_(node, os.O_RDONLY | os.O_DIRECT)
        try:
            self._page = mmap.mmap(-1, BLOCK)
        except BaseException:
            self._device.close()
            raise
        self._super = self._read(root)
        if struct.unpack_from("<Q", self._super, 32)[0] != MAGIC:
            self.close()
            raise MetadataError(f"block {root} of {node} is no super block of a thin pool")

    def close(self) -> None:
        self._device.close()
        self._page.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, block: int) -> bytes:
        if os.preadv(self._device.fileno(), [self._page], block * BLOCK) != BLOCK:
            raise MetadataError(f"block {block} lies beyond the metadata device")
        return self._page[:]

    @property
    def uuid(self) -> bytes:
        """What whoever made the pool has put into its super block; zeros by default."""
        return self._super[16:32]

    @property
    def data_block_bytes(self) -> int:
        sectors: int = struct.unpack_from("<I", self._super, 336)[0]
        return sectors * 512

    @property
    def _mapping_root(self) -> int:
        # Behind magic, version, time, transaction id, held root and the two space maps of 128 bytes.
        root: int = struct.unpack_from("<Q", self._super, 320)[0]
        return root

    def _node(self, block: int) -> tuple[bool, list[int], list[int]]:
        """Return whether a node is a leaf, its keys, and its values (all values of 8 bytes)."""
        data = self._read(block)
        _csum, flags, where, count, most, size, _padding = _NODE.unpack_from(data, 0)
        if where != block or flags not in (_INTERNAL, _LEAF) or size != 8 or count > most:
            raise MetadataError(f"block {block} is no node of a block map")
        keys = list(struct.unpack_from(f"<{count}Q", data, _NODE.size))
        values = list(struct.unpack_from(f"<{count}Q", data, _NODE.size + 8 * most))
        return flags == _LEAF, keys, values

    def devices(self) -> dict[int, int]:
        """Return the root of the block map of every thin device, by id."""
        found: dict[int, int] = {}
        waiting = [self._mapping_root]
        while waiting:
            leaf, keys, values = self._node(waiting.pop())
            if leaf:
                found.update(zip(keys, values, strict=True))
            else:
                waiting += values
        return found

    def device_root(self, id: int) -> int | None:
        """Return the root of one thin device's block map; None where there is no such device."""
        block = self._mapping_root
        while True:
            leaf, keys, values = self._node(block)
            below = [index for index, key in enumerate(keys) if key <= id]
            if not below:
                return None
            if leaf:
                return values[below[-1]] if keys[below[-1]] == id else None
            block = values[below[-1]]

    def _height(self, root: int) -> int:
        height = 0
        while True:
            leaf, _, values = self._node(root)
            if leaf:
                return height
            root = values[0]
            height += 1

    def mapped(self, root: int) -> Iterator[tuple[int, int]]:
        """Iterate over the (virtual block, data block) that one block map has."""
        blocks = [root]
        for _ in range(self._height(root)):
            blocks = [value for block in blocks for value in self._node(block)[2]]
        for block in blocks:
            yield from self._leaves([block]).items()

    def own(self, root: int, parent: int | None) -> tuple[dict[int, int], dict[int, int]]:
        """Compare two block maps: the (virtual: data) entries only the first has, and those only the second has."""
        mine, theirs = [root], [] if parent is None else [parent]
        height = self._height(root)
        other = -1 if parent is None else self._height(parent)
        while height > 0 or other > 0:
            # A node at one height is shared or it is not; below a shared one nothing differs.
            if height == other:
                mine, theirs = _without_common(mine, theirs)
            down = max(height, other)
            if height == down:
                mine, height = [value for block in mine for value in self._node(block)[2]], height - 1
            if other == down:
                theirs, other = [value for block in theirs for value in self._node(block)[2]], other - 1
        mine, theirs = _without_common(mine, theirs)
        ours, others = self._leaves(mine), self._leaves(theirs)
        # Of sets, not entry by entry: a leaf has up to 252, of which one may differ.
        return dict(ours.items() - others.items()), dict(others.items() - ours.items())

    def _leaves(self, blocks: list[int]) -> dict[int, int]:
        found: dict[int, int] = {}
        for block in blocks:
            _, keys, values = self._node(block)
            found.update(zip(keys, [value >> _TIME_BITS for value in values], strict=True))
        return found


def _without_common(one: list[int], two: list[int]) -> tuple[list[int], list[int]]:
    common = set(one) & set(two)
    return [block for block in one if block not in common], [block for block in two if block not in common]
