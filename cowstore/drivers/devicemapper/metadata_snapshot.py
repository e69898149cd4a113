"""The pool's metadata snapshot, of which there is one per pool: taking it, and finding the device to read it from."""

from __future__ import annotations

import errno
import os
import time
from contextlib import contextmanager, suppress

from cowstore._linux import dm
from cowstore.drivers.devicemapper.locks import METADATA_SNAPSHOT, locked
from cowstore.drivers.devicemapper.metadata import Metadata
from cowstore.drivers.devicemapper.nodes import block_node
from cowstore.errors import Busy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cowstore.drivers.devicemapper.pool import Pool

_OTHERS_SECONDS = 10.0


@contextmanager
def hold(pool: Pool) -> Iterator[Metadata]:
    """Hold the pool's one metadata snapshot for the length of a block.

    :raises Busy: somebody else does, of a pool that is not ours alone.
    """
    with locked(pool.directory, METADATA_SNAPSHOT):
        _reserve(pool)
        try:
            root = pool.status().held_root
            assert root is not None
            with Metadata(node(pool), root) as metadata:
                yield metadata
        finally:
            pool.message("release_metadata_snap")


def _reserve(pool: Pool) -> None:
    """Make the snapshot. The lock is held, so that no other store on a pool of our own can have it."""
    deadline = time.monotonic() + _OTHERS_SECONDS
    while True:
        try:
            pool.message("reserve_metadata_snap")
            return
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            if pool.is_own:
                break
            if time.monotonic() > deadline:
                raise Busy(
                    f"somebody else holds the metadata snapshot of the pool {pool.name}; if nobody does (a process was "
                    f"killed), run `dmsetup message {pool.name} 0 release_metadata_snap`"
                ) from error
        time.sleep(0.01)
    # A killed process left it. After a power cut the kernel may find nothing where it should be: it says so, and has
    # forgotten it all the same.
    with suppress(OSError):
        pool.message("release_metadata_snap")
    pool.message("reserve_metadata_snap")


def node(pool: Pool) -> str:
    """Return the node of the device that holds the metadata: the first that the table names."""
    _, (target,) = dm.table_status(pool.control, pool.name, flags=dm.DmFlag.STATUS_TABLE)
    major, _, minor = target.params.split()[0].partition(":")
    return block_node(pool.directory, os.makedev(int(major), int(minor)))
