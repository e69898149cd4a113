"""Which room of a Btrfs is full: data, metadata or a quota group."""

from __future__ import annotations

import errno

from cowstore._linux import btrfs
from cowstore.errors import CowstoreError, DriverUnavailable, OutOfSpace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore.drivers.btrfs.quota import Quota

# So much metadata room a verb may ask for at once; the kernel asks for the worst case.
_METADATA_BYTES = 16 << 20
# With less than this it is metadata that is missing, whatever else is.
_METADATA_LEAST_BYTES = 8 << 20
# Less data room than this is none.
_DATA_BYTES = 1 << 20
# ``BTRFS_SPACE_INFO_GLOBAL_RSV``: metadata room that the kernel keeps back for itself, up to 512 MiB.
_GLOBAL_RESERVE = 1 << 49


class Rooms:
    """What is set aside and in use, in bytes, over all devices of a Btrfs.

    :ivar unallocated: bytes of the devices that are not set aside for anything yet.
    """

    def __init__(self, fd: int) -> None:
        self.data_total = self.data_used = self.metadata_total = self.metadata_used = 0
        self.reserve = 0
        for info in btrfs.space_info(fd):
            if int(info.flags) & _GLOBAL_RESERVE:
                self.reserve = info.total_bytes
                continue
            if info.flags & btrfs.BlockGroupFlag.DATA:
                self.data_total += info.total_bytes
                self.data_used += info.used_bytes
            if info.flags & btrfs.BlockGroupFlag.METADATA:
                self.metadata_total += info.total_bytes
                self.metadata_used += info.used_bytes
        self.unallocated = 0
        found = btrfs.fs_info(fd)
        for number in range(1, found.max_id + 1):
            try:
                device = btrfs.dev_info(fd, number)
            except OSError as error:
                if error.errno != errno.ENODEV:
                    raise
                continue
            self.unallocated += max(0, device.total_bytes - device.bytes_used)

    def full(self) -> str:
        """Tell which room it was that ran out: ``"metadata"`` or ``"data"``."""
        left = self.metadata_total - self.metadata_used - self.reserve
        if left >= _METADATA_BYTES or self.unallocated >= _METADATA_BYTES:
            return "data"
        data_left = self.data_total - self.data_used
        return "metadata" if left < _METADATA_LEAST_BYTES or data_left >= _DATA_BYTES else "data"


def explained(error: OSError, tried: str, fd: int, quota: Quota, subvol_id: int | None = None) -> CowstoreError | None:
    """Return the public error for a failure for want of room or of write access; None for any other.

    :param tried: the verb and its object, as the message begins: ``cannot seal snapshot 3``.
    :param subvol_id: the subvolume whose quota group may be the reason.
    """
    if error.errno == errno.EDQUOT:
        used = quota.used(subvol_id) if subvol_id is not None else None
        limit = quota.limit_of(subvol_id) if subvol_id is not None else None
        reached = (
            f"the limit of its quota group is reached ({limit} bytes); raise it with set_size"
            if limit is not None
            else "the limit of a quota group is reached that is not of this store's making; see `btrfs qgroup show`"
        )
        return OutOfSpace(
            f"{tried}: {reached}",
            what="quota",
            used=used[0] if used else 0,
            total=limit or 0,
        )
    if error.errno == errno.ENOSPC:
        rooms = Rooms(fd)
        full = rooms.full()
        used_bytes, total = (
            (rooms.metadata_used, rooms.metadata_total) if full == "metadata" else (rooms.data_used, rooms.data_total)
        )
        cure = "remove snapshots, add a device, or balance" if full == "metadata" else "remove snapshots or add room"
        return OutOfSpace(
            f"{tried}: the {full} room of the Btrfs is full ({used_bytes} of {total} bytes, {rooms.unallocated} "
            f"unallocated); {cure}",
            what=full,
            used=used_bytes,
            total=total,
        )
    if error.errno == errno.EROFS:
        return DriverUnavailable(
            f"{tried}: the Btrfs is read-only; it was mounted so, or an error made it so (see the kernel's log)",
            driver="btrfs",
            missing=["a writable Btrfs: remount it, or mend it"],
        )
    return None
