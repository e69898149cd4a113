"""Whose the ground of a pool is, told before the kernel is given it: a device's path may name another disk tomorrow.

The super block of a pool's metadata has a place for a UUID, which the kernel leaves as it is: on given devices that of
the store. Where these metadata say that the first block of the base is, the data device has the super block of its
file system, again with the store's UUID. So neither is taken for another store's, whether one has changed or both.

Source: the kernel's drivers/md/dm-thin-metadata.c (``thin_disk_superblock``), persistent-data/dm-block-manager.c.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct

from cowstore._linux import dm, loop
from cowstore._linux.fd import open_
from cowstore.drivers.devicemapper import filesystem, metadata, nodes
from cowstore.drivers.devicemapper.status import DATA, METADATA, METADATA_BLOCK
from cowstore.errors import StoreCorrupt, StoreMismatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore.drivers.devicemapper.pool import Pool

_CHECKSUM = struct.Struct("<I")
_CHECKSUM_XOR = 160774
_UUID = slice(16, 32)
_BASE = 0


def check(pool: Pool, ground: dict[str, int]) -> None:
    """Make sure that the kernel may be given what a pool stands on.

    :param ground: the numbers of its devices. :raises StoreCorrupt: the metadata are none, damaged, or cannot be read.
    :raises StoreMismatch: a given device is not the one of this store; the message says which, and what is on it.
    """
    path = pool.path(METADATA)
    with open_(nodes.block_node(pool.directory, ground[METADATA]), os.O_RDONLY) as device:
        filesystem.forget_cached(device)
        if not metadata.is_formatted(device.fileno()):
            raise StoreCorrupt(
                f"{path} holds no metadata of a thin pool; the pool {pool.name} is not activated, since the kernel "
                f"would make it anew, empty. {_way_out(pool)}, or repair it with thin_repair(8)",
                path=path,
            )
    if not pool.record.data_device:
        return
    place = _check_metadata(pool, nodes.block_node(pool.directory, ground[METADATA]))
    try:
        found = _super_block(nodes.block_node(pool.directory, ground[DATA]), place)
    except OSError as error:
        data = pool.path(DATA)
        text = f"the base (id 0) of the pool {pool.name} on {data} cannot be read: {error}; look at the kernel's log"
        raise StoreCorrupt(f"{text} and at the disk", path=data) from error
    if found is None or found.uuid != pool.record.uuid:
        raise _other(pool, DATA, "" if found is None else found.uuid)


def check_active(pool: Pool) -> None:
    """Make sure that the active pool of our name stands on our files and not on those of a copied store.

    :raises StoreMismatch: it does not.
    """
    if not pool.record.on_files:
        return
    mine = set()
    for what in (DATA, METADATA):
        status = os.stat(pool.path(what))
        mine.add((status.st_dev, status.st_ino))
    found = set()
    for dev in dm.table_deps(pool.control, pool.name):
        with open_(nodes.block_node(pool.directory, dev), os.O_RDONLY) as device:
            info = loop.get_status64(device)
            found.add((info.device, info.inode))
    if mine != found:
        raise StoreMismatch(
            f"the pool {pool.name} is active on other files than those in {pool.directory}: the store was copied. "
            "Two copies cannot be open at once; close or destroy the other store",
            expected=pool.directory,
            found=pool.name,
        )


def _check_metadata(pool: Pool, node: str) -> int:
    """Make sure that the metadata are of this store; returns where the base begins on the data device, in bytes."""
    try:
        with metadata.Metadata(node, 0) as known:
            # Zeros: made before there was a mark, or repaired. Then the base alone has to tell.
            marked = known.uuid not in (bytes(16), _raw(pool))
            if marked or known.data_block_bytes != pool.record.block_bytes:
                raise _other(pool, METADATA, filesystem.text_of_uuid(known.uuid) if marked else "")
            root = known.device_root(_BASE)
            first = None if root is None else next(known.mapped(root), None)
    except (OSError, struct.error) as error:
        path = pool.path(METADATA)
        raise StoreCorrupt(
            f"the metadata {path} of the pool {pool.name} cannot be read: {error}; look with thin_check(8), mend with "
            "thin_repair(8)",
            path=path,
        ) from error
    if first is None or first[0] != 0:
        raise _other(pool, METADATA, "")
    return first[1] * pool.record.block_bytes


def _super_block(node: str, place: int) -> filesystem.SuperBlock | None:
    """Read the super block of a file system that begins somewhere on a device, past what is cached of the device."""
    with open_(node, os.O_RDONLY | os.O_DIRECT) as device, mmap.mmap(-1, METADATA_BLOCK) as page:
        if os.preadv(device.fileno(), [page], place) != METADATA_BLOCK:
            return None
        return filesystem.super_block_of(page[:])


def _other(pool: Pool, what: str, found: str) -> StoreMismatch:
    from cowstore.drivers._guard import describe

    path = pool.path(what)
    holds = f"UUID {found}" if found else describe(path).holds or "nothing that is known"
    return StoreMismatch(
        f"{path} is not the {what} device of the pool {pool.name}: it holds {holds}; the store {pool.directory} wants "
        f"UUID {pool.record.uuid}. Nothing was written to it. {_way_out(pool)}",
        expected=pool.record.uuid,
        found=found,
    )


def _way_out(pool: Pool) -> str:
    if pool.record.data_device:
        return "Say where the disks are now by the options data_device and metadata_device"
    return "Restore the file"


def _raw(pool: Pool) -> bytes:
    return bytes.fromhex(pool.record.uuid.replace("-", ""))


def mark(pool: Pool) -> None:
    """Write the store's UUID into the metadata of a pool that is not active.

    :raises StoreCorrupt: what is there is not what the kernel writes; then nothing is written.
    """
    path = pool.path(METADATA)
    with open_(path, os.O_RDWR | os.O_EXCL) as device:
        filesystem.forget_cached(device)
        block = bytearray(os.pread(device.fileno(), METADATA_BLOCK, 0))
        if len(block) != METADATA_BLOCK or _CHECKSUM.unpack_from(block)[0] != checksum(block):
            raise StoreCorrupt(f"the super block of {path} has another checksum than the kernel's", path=path)
        block[_UUID] = _raw(pool)
        _CHECKSUM.pack_into(block, 0, checksum(block))
        if os.pwrite(device.fileno(), block, 0) != METADATA_BLOCK:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        os.fsync(device.fileno())
        filesystem.forget_cached(device)


def checksum(block: bytes | bytearray) -> int:
    """Compute the checksum of a super block, which lies before what it is of: CRC-32C, not inverted in the end."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)  # noqa: PLW2901  the register of the division
        table.append(byte)
    register = 0xFFFFFFFF
    for byte in memoryview(block)[_CHECKSUM.size :]:
        register = table[(register ^ byte) & 0xFF] ^ register >> 8
    return register ^ _CHECKSUM_XOR
