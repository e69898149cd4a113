"""What a snapshot changed, in time of the change: only what the pool's block maps and ext4's inode tables say differs.

The comparison is the one of :mod:`cowstore.trees.compare`; it is shown only the names that lead to an inode that
differs, and in a directory that differs those that it has and the other has not.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from cowstore._linux.fd import open_
from cowstore.drivers.devicemapper.ext4 import BLOCK, Ext4, changed_inodes
from cowstore.drivers.devicemapper.filesystem import read_super_block
from cowstore.drivers.devicemapper.locks import locked
from cowstore.drivers.devicemapper.metadata_snapshot import hold
from cowstore.drivers.devicemapper.options import FileSystem
from cowstore.errors import Busy, OutOfSpace
from cowstore.trees._sides import PlainSide
from cowstore.trees.compare import Comparison

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cowstore.drivers.devicemapper.pool import Pool
    from cowstore.drivers.devicemapper.record import Ids
    from cowstore.drivers.devicemapper.thin import Thins
    from cowstore.model import Mount
    from cowstore.results import Change
    from cowstore.trees._sides import Side


_MOST_BLOCKS = 1 << 16
"""Beyond so many of the pool's own blocks it is no small change, and the whole comparison is as good."""


def differing(pool: Pool, thins: Thins, ids: Ids, id: int, base: int) -> set[int] | None:
    """Find the inodes that differ in *id* from *base*; None where this way cannot tell.

    It reads what lies on the devices, so neither may be mounted for writing, or wait for a replay of its journal.
    """
    if pool.record.file_system is not FileSystem.EXT4:
        return None
    try:
        with hold(pool) as metadata:
            root, below = metadata.device_root(pool.number(id)), metadata.device_root(pool.number(base))
            if root is None or below is None:
                return None
            mine, theirs = metadata.own(root, below)
    except (OutOfSpace, Busy):
        return None  # There is no room for a metadata snapshot, or somebody else has that of a borrowed pool.
    if len(mine) + len(theirs) > _MOST_BLOCKS:
        return None
    with ExitStack() as stack:
        sides = []
        for one in (id, base):
            known = ids.get(one)
            if known is None:
                return None
            with locked(pool.directory, one):
                info = thins.activate(one, known.size_bytes, read_only=known.sealed)
            if info.open_count and not info.read_only:
                return None
            node = thins.node(info)
            with open_(node, os.O_RDONLY) as device:
                found = read_super_block(device)
            if found is None or not found.clean or found.block_bytes != BLOCK or found.size_bytes > known.size_bytes:
                return None
            sides.append(stack.enter_context(Ext4(node)))
        each = pool.record.block_bytes // BLOCK
        blocks = [number * each + part for number in sorted({*mine, *theirs}) for part in range(each)]
        try:
            return changed_inodes(sides[0], sides[1], blocks)
        except ValueError:
            return None  # The one has grown beyond the other.


def realised(lower: tuple[Mount, ...], upper: tuple[Mount, ...], changed: set[int]) -> Iterator[Change]:
    """Yield the changes between two mounts, given all the inodes that differ."""
    from cowstore.mounting import detached

    with detached(lower) as below, detached(upper) as above:
        yield from compare(below.fileno(), above.fileno(), changed)


def compare(lower_fd: int, upper_fd: int, changed: set[int]) -> Iterator[Change]:
    """Yield the changes of the tree at *upper_fd*, given all the inodes that differ from those of *lower_fd*."""
    with PlainSide(lower_fd) as lower, PlainSide(upper_fd) as upper:
        yield from _Narrowed(lower, upper, changed | _leading(upper_fd, changed)).run()


class _Narrowed(Comparison):
    """Sees of both trees only what may differ."""

    def __init__(self, lower: Side, upper: Side, wanted: set[int]) -> None:
        super().__init__(lower, upper)
        self._sides = lower, upper
        self._wanted = wanted

    def names(self, *, in_lower: bool) -> set[str]:
        """List the names that are not of the same inode on both sides, or of one that differs or leads to one."""
        lower, upper = self._sides
        mine = _entries(upper.here())
        if not in_lower:
            return set(mine)
        theirs = _entries(lower.here())
        return {
            name
            for name in mine.keys() | theirs.keys()
            if mine.get(name) != theirs.get(name) or mine[name] in self._wanted
        }


def _entries(fd: int) -> dict[str, int]:
    with os.scandir(fd) as found:
        return {entry.name: entry.inode() for entry in found}


def _leading(top: int, changed: set[int]) -> set[int]:
    """Find the directories below which there is an inode that differs, by names alone."""
    leading: set[int] = set()
    above: list[int] = []
    with PlainSide(top) as place:

        def look() -> list[tuple[str, int]]:
            with os.scandir(place.here()) as found:
                entries = [(entry.name, entry.inode(), entry.is_dir(follow_symlinks=False)) for entry in found]
            if any(inode in changed for _, inode, _ in entries):
                leading.update(above)
            return [(name, inode) for name, inode, is_dir in entries if is_dir]

        levels = [look()]
        while levels:
            if levels[-1]:
                name, inode = levels[-1].pop()
                place.enter(name)
                above.append(inode)
                levels.append(look())
                continue
            levels.pop()
            if levels:
                place.leave()
                above.pop()
    return leading
