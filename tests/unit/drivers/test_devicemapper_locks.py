"""Locks of single ids: each is one by itself."""

from __future__ import annotations

import struct
import threading
from typing import TYPE_CHECKING

import pytest

from cowstore.drivers.devicemapper import locks

if TYPE_CHECKING:
    from pathlib import Path

NUMBERS = (0, 1, 2, (1 << 24) - 1, locks.POOL_SIZE, locks.METADATA_SNAPSHOT, locks.OPENING)


def is_free(directory: Path, number: int) -> bool:
    """Try to have a lock for a moment."""
    got = threading.Event()

    def take() -> None:
        with locks.locked(str(directory), number):
            got.set()

    threading.Thread(target=take, daemon=True).start()
    return got.wait(0.2)


def test_the_layout_is_the_kernels() -> None:
    """Two short ones, a gap, start and length of 64 bits, a process id and a gap."""
    assert locks._FLOCK.size == 32
    packed = locks._FLOCK.pack(1, 0, 7, 1, 0)
    assert struct.unpack_from("=q", packed, 8) == (7,)
    assert struct.unpack_from("=q", packed, 16) == (1,)


@pytest.mark.parametrize("number", NUMBERS)
def test_one_lock_stands_in_the_way_of_itself_alone(tmp_path: Path, number: int) -> None:
    with locks.locked(str(tmp_path), number):
        assert [other for other in NUMBERS if not is_free(tmp_path, other)] == [number]
    assert is_free(tmp_path, number)
