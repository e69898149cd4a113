"""The base: thin device 0, an empty file system of which everything in the pool is a snapshot."""

from __future__ import annotations

import errno
import os

from cowstore import _faults
from cowstore._linux.fd import open_
from cowstore._linux.files import syncfs
from cowstore.drivers.devicemapper import filesystem
from cowstore.drivers.devicemapper.pool import COMPLETE
from cowstore.errors import StoreCorrupt, StoreMismatch
from cowstore.model import Mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore.drivers.devicemapper.pool import Pool
    from cowstore.drivers.devicemapper.thin import Thins

BASE = 0


def make(pool: Pool, thins: Thins) -> None:
    """Make the base in a pool that has none, or a half-made one."""
    status = pool.status()
    if pool.is_own and status.transaction >= COMPLETE:
        return
    if pool.is_own:
        _create(pool, thins)
    _faults.point("devicemapper.base.created")
    record = pool.record
    info = thins.activate(BASE, record.base_bytes, read_only=False)
    try:
        node = thins.node(info)
        filesystem.make(node, record.uuid, pool.options)
        _faults.point("devicemapper.base.formatted")
        _make_root(pool, node)
        with open_(node, os.O_RDWR) as device:
            os.fsync(device.fileno())
    finally:
        thins.deactivate(BASE, defer=True)
    _faults.point("devicemapper.base.filled")
    if pool.is_own:
        pool.message(f"set_transaction_id {status.transaction} {COMPLETE}")
    else:
        pool.commit()


def _create(pool: Pool, thins: Thins) -> None:
    """Make the base's device anew; in a borrowed pool it is what has claimed a range, and so is there."""
    number = pool.number(BASE)
    thins.deactivate(BASE, defer=False)
    try:
        pool.message(f"create_thin {number}")
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise
        pool.message(f"delete {number}")
        pool.message(f"create_thin {number}")


def _make_root(pool: Pool, node: str) -> None:
    """Make the directory that is the root of every snapshot."""
    from cowstore.mounting import detached

    options = filesystem.mount_options(pool.record.file_system, read_only=False, volatile=False)
    with detached([Mount(type=pool.record.file_system, source=os.fsencode(node), options=options)]) as top:
        os.mkdir(filesystem.ROOT, 0o755, dir_fd=top.fileno())
        os.chmod(filesystem.ROOT, 0o755, dir_fd=top.fileno())
        fd = os.open(filesystem.ROOT, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=top.fileno())
        try:
            syncfs(fd)
        finally:
            os.close(fd)


def check(pool: Pool, thins: Thins) -> None:
    """Make sure that the pool is the one that was made for this store.

    :raises StoreMismatch: it has another base, or none. :raises StoreCorrupt: the base cannot be read.
    """
    record = pool.record
    where = f"the pool {pool.name} on {pool.path('data')} and {pool.path('metadata')}"
    try:
        info = thins.activate(BASE, record.base_bytes, read_only=True)
    except StoreCorrupt as error:
        raise StoreMismatch(
            f"{where} holds no base; the store {pool.directory} wants UUID {record.uuid}. Give the store its "
            "pool back, or begin a new store",
            expected=record.uuid,
            found="no base",
        ) from error
    try:
        with open_(thins.node(info), os.O_RDONLY) as device:
            found = filesystem.read_super_block(device)
    except OSError as error:
        text = f"the base (id {BASE}) of {where} cannot be read: {error}; look at the kernel's log and at the disk"
        raise StoreCorrupt(text, path=pool.path("data")) from error
    finally:
        thins.deactivate(BASE, defer=True)
    if found is None or found.uuid != record.uuid:
        what = "no file system" if found is None else f"UUID {found.uuid}"
        raise StoreMismatch(
            f"{where} has {what} as its base; the store {pool.directory} wants UUID {record.uuid}. Give the store its "
            "pool back, or begin a new store",
            expected=record.uuid,
            found="" if found is None else found.uuid,
        )
