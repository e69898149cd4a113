"""A thin pool that somebody else made and looks after: LVM, say.

The store puts its devices beside the others', under numbers from a range of its own, and leaves alone what the owner
keeps count of: the pool's transaction id, its size, and whether it is active.
"""

from __future__ import annotations

import errno
import os
from dataclasses import replace

from cowstore._linux import dm
from cowstore.drivers.devicemapper.pool import Pool
from cowstore.drivers.devicemapper.status import METADATA
from cowstore.errors import CowstoreError, DriverUnavailable, InvalidArgument, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
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
        try:
            self.message(f"delete {self.number(0)}")
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise


def borrow(fresh: PoolRecord, options: Options, control: Descriptor, directory: str) -> PoolRecord:
    """Find the pool that the options name, and take a range of its numbers by making the first.

    :raises InvalidArgument: it is no thin pool. :raises Unsupported: LVM owns it, and the options do not say that this
        is meant.
    """
    assert options.thin_pool is not None
    name = os.path.basename(options.thin_pool)
    info, target = _look(control, name)
    if info.uuid.startswith("LVM-") and not options.lvm:
        raise Unsupported(
            f"{options.thin_pool} is a thin pool that LVM owns ({info.name}): LVM keeps count of its devices and of "
            "its transaction id. Nothing was sent to it; give the option lvm=yes to put snapshots beside LVM's volumes "
            "(the transaction id is then left alone), or give the store a pool of its own",
            feature="lvm",
        )
    block = int(target.params.split()[2]) * dm.SECTOR
    found = replace(fresh, thin_pool=info.name, block_bytes=block, base_bytes=fresh.base_bytes // block * block)
    for first in _RANGES:
        pool = BorrowedPool(directory, replace(found, first_id=first), options, control)
        try:
            pool.message(f"create_thin {first}")
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
            continue
        return pool.record
    raise Unsupported(f"the pool {info.name} has no free range of {SPAN} numbers for a store's devices", feature="ids")


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
