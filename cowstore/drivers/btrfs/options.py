"""Options of the Btrfs driver."""

from __future__ import annotations

from dataclasses import dataclass

MIN_POOL_BYTES = 256 << 20
"""The smallest pool: below this Btrfs would mix data and metadata."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of the Btrfs driver.

    :ivar loop: keep everything in a Btrfs of its own in a loop file; by default only where the store's directory is on
        another file system. No forbids that.
    :ivar pool_size_bytes: size the loop file's file system begins with, at least 256 MiB. The file is sparse: it takes
        what is written. Never more than the room below it when it is made.
    :ivar pool_limit_bytes: size up to which it grows by itself.
    :ivar compression: ``zlib``, ``lzo``, ``zstd`` or ``zstd:LEVEL`` in the loop file; elsewhere it is the
        administrator's mount option.
    :ivar quota: use quota groups for ``size_bytes``. By default in the driver's own loop file (turned on when first
        needed), and elsewhere only if the administrator has turned them on; yes turns them on elsewhere too; no never
        uses them.
    """

    loop: bool | None = None
    pool_size_bytes: int = 16 << 30
    pool_limit_bytes: int = 1 << 40
    compression: str = ""
    quota: bool | None = None

    def __post_init__(self) -> None:
        """Refuse what can never work."""
        if self.pool_size_bytes < MIN_POOL_BYTES:
            raise ValueError(f"pool_size_bytes is {self.pool_size_bytes}; the least is {MIN_POOL_BYTES}")
        if self.pool_limit_bytes < self.pool_size_bytes:
            raise ValueError(
                f"pool_limit_bytes is {self.pool_limit_bytes}, less than pool_size_bytes, {self.pool_size_bytes}"
            )
        if self.compression.partition(":")[0] not in {"", "zlib", "lzo", "zstd"}:
            raise ValueError(f"compression is {self.compression!r}; choose zlib, lzo, zstd or zstd:LEVEL")
