"""What a snapshot changed, in time of the change: only what the pool's block maps and ext4's inode tables say differs.

The comparison is the one of :mod:`cowstore.trees.compare`; it is shown only the names that lead to an inode that
differs, and in a directory that differs those that it has and the other has not.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack

from cowstore.drivers.devicemapper.ext4 import BLOCK, CannotTell, Ext4
from cowstore.drivers.devicemapper.inodes import changed_inodes, joined
from cowstore.drivers.devicemapper.locks import locked
from cowstore.drivers.devicemapper.metadata_snapshot import hold
from cowstore.drivers.devicemapper.names import find
from cowstore.drivers.devicemapper.options import FileSystem
from cowstore.errors import Busy, OutOfSpace
from cowstore.trees._sides import PlainSide
from cowstore.trees.compare import Comparison

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cowstore.drivers.devicemapper.inodes import Ranges
    from cowstore.drivers.devicemapper.names import Places
    from cowstore.drivers.devicemapper.pool import Pool
    from cowstore.drivers.devicemapper.record import Ids
    from cowstore.drivers.devicemapper.thin import Thins
    from cowstore.model import Mount
    from cowstore.results import Change
    from cowstore.trees._sides import Side


_MOST_BLOCKS = 1 << 16
"""Beyond so many of the pool's own blocks it is no small change, and the whole comparison is as good."""


def differing(pool: Pool, thins: Thins, ids: Ids, id: int, base: int) -> Places | None:
    """Find what differs in *id* from *base*, and where it is; None where this way cannot tell.

    It reads what lies on the devices, so neither may be mounted for writing, or wait for a replay of its journal. Both
    are activated, as the mounts that come next need them, and given up with those.
    """
    if pool.record.file_system is not FileSystem.EXT4:
        return None
    try:
        ranges = _ranges(pool, id, base)
        if ranges is None:
            return None
        with ExitStack() as stack:
            nodes = [_still(pool, thins, ids, one) for one in (id, base)]
            upper, lower = [stack.enter_context(Ext4(node)) for node in nodes]
            return find(upper, lower, changed_inodes(upper, lower, ranges))
    except (CannotTell, OutOfSpace, Busy):
        return None  # Of the last two: no room for a metadata snapshot, or somebody has that of a borrowed pool.
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
            raise
        return None  # Somebody took a device down. Whoever mounts it next activates it again.


def _ranges(pool: Pool, id: int, base: int) -> Ranges | None:
    """Find which of ext4's blocks may differ, from the pool's block maps; None where they are too many."""
    with hold(pool) as metadata:
        root, below = metadata.device_root(pool.number(id)), metadata.device_root(pool.number(base))
        if root is None or below is None:
            return None
        mine, theirs = metadata.own(root, below)
    if len(mine) + len(theirs) > _MOST_BLOCKS:
        return None
    each = pool.record.block_bytes // BLOCK
    return joined([(number * each, (number + 1) * each) for number in {*mine, *theirs}])


def _still(pool: Pool, thins: Thins, ids: Ids, id: int) -> str:
    """Activate an id that nobody writes to; returns its node.

    :raises CannotTell: somebody may, or nothing is known of it.
    """
    known = ids.get(id)
    if known is None:
        raise CannotTell(f"nothing is known of id {id}")
    with locked(pool.directory, id):
        info = thins.activate(id, known.size_bytes, read_only=known.sealed)
    if info.open_count and not info.read_only:
        raise CannotTell(f"id {id} is open for writing")
    return thins.node(info)


def realised(lower: tuple[Mount, ...], upper: tuple[Mount, ...], places: Places) -> Iterator[Change]:
    """Yield the changes between two mounts, given all the places where they differ."""
    from cowstore.mounting import detached

    with detached(lower) as below, detached(upper) as above:
        yield from compare(below.fileno(), above.fileno(), places)


def compare(lower_fd: int, upper_fd: int, places: Places) -> Iterator[Change]:
    """Yield the changes of the tree at *upper_fd*, given all the places where it differs from that at *lower_fd*."""
    with PlainSide(lower_fd) as lower, PlainSide(upper_fd) as upper:
        yield from _Narrowed(lower, upper, places).run()


class _Narrowed(Comparison):
    """Sees of both trees only what may differ."""

    def __init__(self, lower: Side, upper: Side, places: Places) -> None:
        super().__init__(lower, upper)
        self._sides = lower, upper
        self._places = places

    def names(self, *, in_lower: bool) -> set[str]:
        """List the names that are not of the same inode on both sides, or of one that differs or leads to one."""
        lower, upper = (side.here() for side in self._sides)
        if not in_lower:
            return set(os.listdir(upper))
        directory = os.fstat(upper).st_ino
        if directory not in self._places.changed and os.fstat(lower).st_ino == directory:
            return self._places.names.get(directory, set())
        mine, theirs = _entries(upper), _entries(lower)
        return {
            name
            for name in mine.keys() | theirs.keys()
            if mine.get(name) != theirs.get(name) or mine[name] in self._places.wanted
        }


def _entries(fd: int) -> dict[str, int]:
    with os.scandir(fd) as found:
        return {entry.name: entry.inode() for entry in found}
