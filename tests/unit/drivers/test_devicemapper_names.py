"""Blocks of ext4's directories, and ranges of blocks."""

from __future__ import annotations

import random
import struct

import pytest

from cowstore.drivers.devicemapper.ext4 import BLOCK, CannotTell
from cowstore.drivers.devicemapper.inodes import common, without
from cowstore.drivers.devicemapper.names import entries

TAIL = struct.pack("<IHBB4x", 0, 12, 0, 0xDE)


def entry(inode: int, length: int, name: bytes, kind: int = 1) -> bytes:
    return (struct.pack("<IHBB", inode, length, len(name), kind) + name).ljust(length, b"\0")


def test_entries_of_a_leaf() -> None:
    """A removed entry belongs to the one before it, or has no inode at the beginning; the checksum looks like one."""
    data = entry(0, 16, b"gone") + entry(12, 40, b"one") + entry(13, BLOCK - 68, b"\xff", 2) + TAIL
    assert list(entries(data)) == [(12, 1, b"one"), (13, 2, b"\xff")]


@pytest.mark.parametrize("depth", [0, 1])
def test_blocks_of_an_index_look_empty(depth: int) -> None:
    """The first has the two entries of every directory, the others none."""
    first = entry(20, 12, b".", 2) + entry(2, BLOCK - 12, b"..", 2)
    inner = struct.pack("<IHBB", 0, BLOCK, 0, 0) + b"\x07" * (BLOCK - 8)
    assert list(entries([first, inner][depth])) == [[(20, 2, b"."), (2, 2, b"..")], []][depth]


@pytest.mark.parametrize(
    "data",
    [
        bytes(BLOCK),
        b"\xff" * BLOCK,
        entry(12, 16, b"one").ljust(BLOCK, b"\0"),
        entry(12, BLOCK - 8, b"one") + bytes(8),
        entry(12, BLOCK - 4, b"one") + bytes(4),
        struct.pack("<IHBB", 12, 12, 5, 1) + bytes(BLOCK - 8),
        entry(12, BLOCK + 4, b"one")[:BLOCK],
        entry(12, 14, b"one") + entry(13, BLOCK - 14, b"two"),
    ],
)
def test_what_is_no_directory_is_not_taken_for_one(data: bytes) -> None:
    """Zeros, ones, an end too early or too late, a name that is too long, a length that is not a multiple of four."""
    with pytest.raises(CannotTell):
        list(entries(data))


def test_any_bytes_end() -> None:
    """Whatever a block holds, it is read, or refused."""
    chance = random.Random(1)
    for _ in range(2000):
        data = b"".join(
            struct.pack("<IHBB", chance.randrange(3), chance.choice([12, 16, 24, 40, 4000]), chance.randrange(9), 1)
            + bytes(chance.choice([4, 8, 16]))
            for _ in range(300)
        )[:BLOCK].ljust(BLOCK, b"\0")
        try:
            list(entries(data))
        except CannotTell:
            continue


def test_ranges() -> None:
    """As sets of numbers."""
    chance = random.Random(1)

    def ranges() -> list[tuple[int, int]]:
        places = sorted(chance.sample(range(60), 2 * chance.randrange(6)))
        return list(zip(places[::2], places[1::2], strict=True))

    def numbers(found: list[tuple[int, int]]) -> list[int]:
        return [number for begin, end in found for number in range(begin, end)]

    for _ in range(500):
        one, other = ranges(), ranges()
        assert numbers(common(one, other)) == sorted({*numbers(one)} & {*numbers(other)})
        assert numbers(without(one, other)) == sorted({*numbers(one)} - {*numbers(other)})
