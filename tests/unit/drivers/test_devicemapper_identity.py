"""What is written into a pool's super block."""

from __future__ import annotations

from cowstore.drivers.devicemapper.identity import checksum


def test_checksum_is_the_kernels() -> None:
    """The known answer of CRC-32C, which the kernel does not invert in the end, and the constant of this block."""
    assert checksum(bytes(4) + b"123456789") == 0xE3069283 ^ 0xFFFFFFFF ^ 160774
