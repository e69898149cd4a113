"""A thin pool that somebody else made and looks after: LVM, say.

The store puts its devices beside the others', under numbers from a range of its own, and leaves alone what the owner
keeps count of: the pool's transaction id, its size, and whether it is active.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import contextmanager
from dataclasses import replace

from cowstore import _faults
from cowstore._linux import dm
from cowstore._linux.fd import open_
from cowstore.drivers.devicemapper import nodes
from cowstore.drivers.devicemapper.pool import Pool
from cowstore.drivers.devicemapper.record import Claim, forget, write
from cowstore.drivers.devicemapper.status import METADATA
from cowstore.drivers.devicemapper.thin import Thins
from cowstore.errors import CowstoreError, DriverUnavailable, InvalidArgument, StoreCorrupt, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cowstore._linux.fd import Descriptor
    from cowstore.drivers.devicemapper.options import Options
    from cowstore.drivers.devicemapper.record import PoolRecord

SPAN = 1 << 20
"""Devices that a store on a borrowed pool may have. The owner's numbers are expected to begin at 1 and go up."""
_RANGES = range((1 << 24) - SPAN, 0, -SPAN)


class BorrowedPool(Pool):
    """A pool of another's."""

    is_own = False

    def __init__(self, directory: str, record: PoolRecord, options: Options, control: Descriptor) -> None:
        super().__init__(directory, record, options, control)
        self.name = record.thin_pool

    def path(self, what: str) -> str:
        return f"/dev/mapper/{self.name}"

    def activate(self, *, create: bool = False) -> bool:
        info, _ = _look(self.control, self.name)
        self.dev = info.dev
        return True

    def deactivate(self) -> bool:
        """Take down the store's own devices; False while any is open."""
        return not self._has_devices()

    def commit(self) -> None:
        """Let the pool commit its metadata: to ask for its status without NOFLUSH does."""
        dm.table_status(self.control, self.name, flags=dm.DmFlag.NONE)
        status = self.status()
        if status.mode == "ro":
            raise self.full(METADATA, status)
        if status.mode == "Fail":
            raise CowstoreError(f"the pool {self.name} has failed; see the kernel's log")

    def give_back(self) -> None:
        """Delete the base, the last that is there of the store."""
        self.activate()
        claim = self.record.claim
        if claim is Claim.LOOKING or (claim is Claim.TAKING and not self._is_untouched()):
            return
        try:
            self.message(f"delete {self.number(0)}")
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise

    def _is_untouched(self) -> bool:
        """Tell whether the device of the base's number is there, and empty.

        A process that was killed between the intent and the record of it has either made it, then it is empty, or has
        not, then another store may have come since, which fills its own before it lets go of the pool.
        """
        thins = Thins(self)
        try:
            thins.activate(0, self.record.base_bytes, read_only=True)
        except StoreCorrupt:
            return False
        try:
            _, (target,) = dm.table_status(self.control, thins.name(0))
            return target.params.split()[0] == "0"
        finally:
            thins.deactivate(0, defer=True)


@contextmanager
def claiming(record: PoolRecord, control: Descriptor, directory: str) -> Iterator[None]:
    """Keep other stores from making or unmaking their first device in a borrowed pool, for the length of a block.

    The lock is on the pool's own node, the one thing that all stores on it share. A pool of its own needs none.
    """
    if not record.thin_pool:
        yield
        return
    info, _ = _look(control, record.thin_pool)
    with open_(nodes.block_node(directory, info.dev), os.O_RDONLY) as pool:
        fcntl.flock(pool.fileno(), fcntl.LOCK_EX)
        yield


def borrow(fresh: PoolRecord, options: Options, control: Descriptor, directory: str) -> PoolRecord:
    """Find the pool that the options name, and take a range of its numbers by making the first.

    The record says so before and after, so that a process that is killed in between leaves nothing that nobody knows.
    The caller is :func:`claiming`.

    :raises InvalidArgument: it is no thin pool. :raises Unsupported: LVM owns it, and the options do not say that this
        is meant.
    """
    info, target = _look(control, fresh.thin_pool)
    if info.uuid.startswith("LVM-") and not options.lvm:
        raise Unsupported(
            f"{options.thin_pool} is a thin pool that LVM owns ({info.name}): LVM keeps count of its devices and of "
            "its transaction id. Nothing was sent to it; give the option lvm=yes to put snapshots beside LVM's volumes "
            "(the transaction id is then left alone), or give the store a pool of its own",
            feature="lvm",
        )
    block = int(target.params.split()[2]) * dm.SECTOR
    found = replace(fresh, thin_pool=info.name, block_bytes=block, base_bytes=fresh.base_bytes // block * block)
    try:
        for first in _RANGES:
            mine = BorrowedPool(directory, replace(found, first_id=first, claim=Claim.LOOKING), options, control)
            if _claim(mine):
                return replace(mine.record, claim=Claim.TAKEN)
    except (OSError, CowstoreError):
        forget(directory)
        raise
    forget(directory)
    raise Unsupported(f"the pool {info.name} has no free range of {SPAN} numbers for a store's devices", feature="ids")


def _claim(pool: BorrowedPool) -> bool:
    """Make the device of the base's number; False where there is one."""
    thins = Thins(pool)
    pool.activate()
    write(pool.directory, pool.record)
    try:
        thins.activate(0, pool.record.base_bytes, read_only=True)
    except StoreCorrupt:
        pass
    else:
        thins.deactivate(0, defer=True)
        return False
    write(pool.directory, replace(pool.record, claim=Claim.TAKING))
    _faults.point("devicemapper.borrow.intended")
    try:
        pool.message(f"create_thin {pool.number(0)}")
    except FileExistsError:
        return False
    write(pool.directory, replace(pool.record, claim=Claim.TAKEN))
    return True


def _look(control: Descriptor, name: str) -> tuple[dm.Info, dm.Target]:
    """Return an active thin pool and its table's line; LVM's own name for one leads to it."""
    which: str | int = name
    targets: list[dm.Target] = []
    for _ in range(2):
        try:
            info, targets = dm.table_status(control, which, flags=dm.DmFlag.STATUS_TABLE)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            text = (
                f"there is no active thin pool {name}; activate it (with LVM: lvchange --activate y), or name another"
            )
            raise DriverUnavailable(text, driver="devicemapper", missing=[text]) from error
        if [target.type for target in targets] == ["thin-pool"]:
            return info, targets[0]
        below = dm.table_deps(control, which)
        if [target.type for target in targets] != ["linear"] or len(below) != 1:
            break
        which = below[0]
    kinds = ", ".join(sorted({target.type for target in targets}))
    raise InvalidArgument(f"{name} is no thin pool: its target is {kinds or 'none'}", argument="thin_pool")
