"""What the driver tells of its pool and of single ids, for `status` and `check`."""

from __future__ import annotations

import errno
import os

from cowstore._linux.fd import open_
from cowstore.drivers.devicemapper import events, filesystem
from cowstore.drivers.devicemapper.locks import locked
from cowstore.drivers.devicemapper.record import IdRecord
from cowstore.drivers.devicemapper.status import DATA, METADATA
from cowstore.errors import CowstoreError, StoreCorrupt
from cowstore.results import DriverStatus, FindingKind, Problem
from cowstore.trees.usage import out_of_room

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cowstore.drivers.devicemapper.filesystem import SuperBlock
    from cowstore.drivers.devicemapper.pool import Pool
    from cowstore.drivers.devicemapper.record import Ids
    from cowstore.drivers.devicemapper.status import PoolStatus
    from cowstore.drivers.devicemapper.thin import Thins


def status(pool: Pool) -> DriverStatus:
    """Tell the fill levels. Free and total are what the pool can become, where its file may grow."""
    now = pool.status()
    total, free = now.data_total, now.free(DATA)
    if pool.record.on_files:
        total = max(total, pool.options.data_limit_bytes)
        host = os.statvfs(pool.directory)
        free = min(total - now.data_used, host.f_bavail * host.f_frsize)
    details = {
        "pool": pool.name,
        "pool mode": now.mode + (", needs check" if now.needs_check else ""),
        "data": pool.path(DATA),
        "data used": _level(now.data_used, now.data_total),
        "metadata": pool.path(METADATA),
        "metadata used": _level(now.metadata_used, now.metadata_total),
        "block size": str(pool.record.block_bytes),
        "base": f"{pool.record.file_system}, {pool.record.base_bytes} bytes, UUID {pool.record.uuid}",
        "when full": "error" if now.fails_when_full else f"queue, {_queueing()}",
        "discards reach the data": "yes" if now.discards_pass_down else "no",
        "transaction id": str(now.transaction),
        "events": _events(pool, now),
    }
    if pool.record.on_files:
        details["data file on disk"] = str(os.stat(pool.path(DATA)).st_blocks * 512)
        details["data may grow to"] = str(pool.options.data_limit_bytes)
        details["metadata may grow to"] = str(pool.options.metadata_limit_bytes)
    return DriverStatus(free_bytes=max(0, free), total_bytes=total, details=details)


_NO_SPACE_TIMEOUT = "/sys/module/dm_thin_pool/parameters/no_space_timeout"


def _queueing() -> str:
    """Say how long a write waits for room: a parameter of the kernel's module says it, for all pools of the machine."""
    try:
        with open(_NO_SPACE_TIMEOUT, encoding="ascii") as file:
            seconds = int(file.read())
    except (OSError, ValueError):
        return "for as long as no_space_timeout of dm_thin_pool says"
    return f"for {seconds} s (no_space_timeout of dm_thin_pool)" if seconds else "for ever (no_space_timeout is 0)"


def _events(pool: Pool, now: PoolStatus) -> str:
    """Count the kernel's events, and log what has become of the pool if there are any that nobody was told of."""
    untold = events.untold(pool.directory, now.events)
    if untold:
        from cowstore._log import logger

        logger(__name__).warning(
            "the pool %s has called: %d of %d bytes of data and %d of %d of metadata are used, mode %s",
            pool.name, now.data_used, now.data_total, now.metadata_used, now.metadata_total, now.mode,
        )  # fmt: skip
    events.note(pool.directory, now.events)
    return f"{untold} new, {now.events} since the pool was activated"


def _level(used: int, total: int) -> str:
    return f"{used} of {total} bytes ({used * 100 / total:.1f} %)"


def explained(pool: Pool, error: OSError, root_fd: int, tried: str) -> CowstoreError | None:
    """Say what a refused write into a snapshot means: the pool is full, what is below it, or its own file system.

    A file system that could not write because of the pool goes read-only, and says EROFS or EIO from then on.
    """
    if error.errno in {errno.ENOSPC, errno.EIO, errno.EROFS} and (full := pool.no_room()):
        return full
    if error.errno != errno.ENOSPC:
        return None
    return out_of_room(
        error,
        root_fd,
        tried,
        {
            "inodes": "all of the {total} inodes of its file system are used: enlarge it (set_size), which brings "
            "more, or make the store with a smaller bytes_per_inode",
            "data": f"its file system of {{total}} bytes is full, the pool {pool.name} is not: give it a larger "
            "size_bytes, or enlarge it (set_size)",
        },
    )


def examine(pool: Pool, thins: Thins, ids: Ids, id: int, parent: int, *, sealed: bool) -> Iterator[Problem]:
    """Name what is wrong with an id: its record, its device, its file system."""
    try:
        known = ids.get(id)
    except StoreCorrupt as error:
        known = None
        yield Problem(kind=FindingKind.BROKEN_LINK, text=str(error), repair=True)
    else:
        if known is None:
            yield Problem(kind=FindingKind.BROKEN_LINK, text=f"{ids.path(id)} is missing", repair=True)
        elif known.parent != parent:
            text = f"{ids.path(id)} names the parent {known.parent}, the catalog {parent}"
            yield Problem(kind=FindingKind.WRONG_PARENT, text=text, repair=True)
        elif sealed and not known.sealed:
            yield Problem(kind=FindingKind.NOT_SEALED, text=f"{ids.path(id)} is not sealed", repair=True)
    try:
        found = _look(pool, thins, id, known.size_bytes if known else pool.record.base_bytes, sealed=sealed)
    except (OSError, CowstoreError) as error:
        yield Problem(kind=FindingKind.NOT_MOUNTABLE, text=str(error))
        return
    if found is None:
        yield Problem(kind=FindingKind.NOT_MOUNTABLE, text=f"the device of id {id} holds no file system")
    elif found.damaged:
        yield Problem(
            kind=FindingKind.NOT_MOUNTABLE, text=f"the file system of id {id} notes an error: writes were lost"
        )


def _look(pool: Pool, thins: Thins, id: int, size_bytes: int, *, sealed: bool) -> SuperBlock | None:
    with locked(pool.directory, id):
        before = thins.find(id)
        info = thins.activate(id, size_bytes, read_only=sealed)
        try:
            with open_(thins.node(info), os.O_RDONLY) as device:
                return filesystem.read_super_block(device)
        finally:
            if before is None:
                thins.deactivate(id, defer=True)


def repair(pool: Pool, thins: Thins, ids: Ids, id: int, parent: int, *, sealed: bool) -> bool:
    """Write an id's record anew, from the catalog and from what its file system says."""
    try:
        found = _look(pool, thins, id, pool.record.base_bytes, sealed=sealed)
    except (OSError, CowstoreError):
        return False
    if found is None:
        return False
    block = pool.record.block_bytes
    size = -(-found.size_bytes // block) * block
    with locked(pool.directory, id):
        ids.put(id, IdRecord(parent=parent, size_bytes=size, sealed=sealed))
    return True
