"""What can be chosen for a thin pool; all but the thresholds is fixed when the pool is made."""

from __future__ import annotations

import enum
from dataclasses import dataclass

MIB = 1 << 20
GIB = 1 << 30


class FileSystem(enum.StrEnum):
    """What the base holds, and so every snapshot."""

    EXT4 = "ext4"
    XFS = "xfs"


class WhenFull(enum.StrEnum):
    """What becomes of a write for which a full pool has no block.

    ``error``: it fails at once, so fsync(2) tells the program. ``queue``: it waits for room, for as long as the
    kernel's ``no_space_timeout`` (a parameter of dm_thin_pool, 60 s by default), then fails.
    """

    ERROR = "error"
    QUEUE = "queue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of the devicemapper driver.

    Those marked (fixed) are recorded when the pool is made; others given later are not looked at, and the log says so.
    The others hold for the pool from when a store is opened with them, whoever activated it.

    :ivar data_bytes: first size of the data file (fixed). It is sparse.
    :ivar data_limit_bytes: size up to which the data file grows by itself.
    :ivar metadata_bytes: first size of the metadata file (fixed). It has all its blocks from the start.
    :ivar metadata_limit_bytes: size up to which the metadata file grows by itself; the kernel uses no more than 16 GiB.
    :ivar data_device: block device to use in place of a file (fixed); with ``metadata_device``. Its name may change.
    :ivar metadata_device: block device for the pool's metadata (fixed). Its name may change.
    :ivar thin_pool: name of an active thin pool of somebody else's, to be used beside its other devices (fixed).
    :ivar lvm: use it although LVM owns it; its transaction id is left alone.
    :ivar force: use the given devices although they carry the signature of something else.
    :ivar block_bytes: size of the pool's blocks, what a first write to a place takes (fixed). A multiple of 64 KiB.
    :ivar base_bytes: size of the file system of a snapshot that asks for none (fixed).
    :ivar file_system: ``ext4`` or ``xfs`` (fixed).
    :ivar bytes_per_inode: one inode is made for so many bytes of ext4 (fixed).
    :ivar journal_bytes: size of ext4's journal (fixed).
    :ivar min_free_percent: part of the pool's data, and of its metadata, that must be free before anything is made.
    :ivar when_full: ``error`` or ``queue``.
    :ivar discard: give the blocks of a removed snapshot back to the file or device below; None for files only.
    :ivar keep_active: leave the pool active when the last store on it is closed.
    """

    data_bytes: int = 16 * GIB
    data_limit_bytes: int = 256 * GIB
    metadata_bytes: int = 64 * MIB
    metadata_limit_bytes: int = 2 * GIB
    data_device: str | None = None
    metadata_device: str | None = None
    thin_pool: str | None = None
    lvm: bool = False
    force: bool = False
    block_bytes: int = 64 << 10
    base_bytes: int = 10 * GIB
    file_system: FileSystem = FileSystem.EXT4
    bytes_per_inode: int = 16 << 10
    journal_bytes: int = 16 * MIB
    min_free_percent: int = 10
    when_full: WhenFull = WhenFull.ERROR
    discard: bool | None = None
    keep_active: bool = False

    def __post_init__(self) -> None:
        if (self.data_device is None) != (self.metadata_device is None):
            raise ValueError("data_device and metadata_device go together")
        if self.thin_pool is not None and self.data_device is not None:
            raise ValueError("thin_pool names a pool that has its devices; leave out data_device and metadata_device")
        if self.thin_pool is not None and self.when_full is WhenFull.QUEUE:
            raise ValueError("when_full is for the owner of the pool that thin_pool names to choose; leave it out")
        if not 64 << 10 <= self.block_bytes <= GIB or self.block_bytes % (64 << 10):
            raise ValueError(f"block_bytes must be a multiple of 64 KiB up to 1 GiB, not {self.block_bytes}")
        if not 0 <= self.min_free_percent <= 90:
            raise ValueError(f"min_free_percent must be between 0 and 90, not {self.min_free_percent}")
        if self.metadata_bytes < 2 * MIB:
            raise ValueError(f"metadata_bytes must be at least 2 MiB, not {self.metadata_bytes}")
        smallest = 16 * MIB if self.file_system is FileSystem.EXT4 else 300 * MIB
        if self.base_bytes < smallest:
            raise ValueError(f"base_bytes must be at least {smallest} for {self.file_system}, not {self.base_bytes}")
        if self.data_bytes < self.block_bytes:
            raise ValueError(f"data_bytes must be at least one block of {self.block_bytes}, not {self.data_bytes}")
