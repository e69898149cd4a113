"""TA-22: the four ways in which GNU tar writes files with holes."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from cowstore.errors import InvalidLayer
from tests.unit.layers.archives import GNU, block, field, file, pad, pax, sealed, unpack

if TYPE_CHECKING:
    from pathlib import Path

MiB = 1 << 20


def old(name: bytes, pieces: list[tuple[int, int]], size: int, data: bytes) -> bytes:
    """An 'S' entry, with as many extension blocks as its map needs."""

    def area(some: list[tuple[int, int]], slots: int) -> bytes:
        pairs = b"".join(field(offset, 12) + field(length, 12) for offset, length in some)
        return pairs.ljust(24 * slots, b"\0")

    head = block(name, b"S", size=len(data), magic=GNU)
    rest = pieces[4:]
    head = sealed(head[:386] + area(pieces[:4], 4) + (b"\1" if rest else b"\0") + field(size, 12) + head[495:])
    while rest:
        some, rest = rest[:21], rest[21:]
        head += area(some, 21) + (b"\1" if rest else b"\0") + bytes(7)
    return head + pad(data)


def expected(pieces: list[tuple[int, int]], size: int, data: bytes) -> bytes:
    result = bytearray(size)
    position = 0
    for offset, length in pieces:
        result[offset : offset + length] = data[position : position + length]
        position += length
    return bytes(result)


def form_00(pieces: list[tuple[int, int]], size: int, data: bytes) -> bytes:
    pairs = [(b"GNU.sparse.size", b"%d" % size), (b"GNU.sparse.numblocks", b"%d" % len(pieces))]
    for offset, length in pieces:
        pairs += [(b"GNU.sparse.offset", b"%d" % offset), (b"GNU.sparse.numbytes", b"%d" % length)]
    return pax(pairs) + file(b"f", data)


def form_01(pieces: list[tuple[int, int]], size: int, data: bytes) -> bytes:
    flat = b",".join(b"%d,%d" % piece for piece in pieces)
    return pax([(b"GNU.sparse.size", b"%d" % size), (b"GNU.sparse.name", b"f"), (b"GNU.sparse.map", flat)]) + file(
        b"GNUSparseFile.1/f", data
    )


def form_10(pieces: list[tuple[int, int]], size: int, data: bytes) -> bytes:
    head = pad(b"%d\n" % len(pieces) + b"".join(b"%d\n%d\n" % piece for piece in pieces))
    return pax(
        [
            (b"GNU.sparse.major", b"1"),
            (b"GNU.sparse.minor", b"0"),
            (b"GNU.sparse.name", b"f"),
            (b"GNU.sparse.realsize", b"%d" % size),
            (b"size", b"%d" % (len(head) + len(data))),
        ]
    ) + file(b"GNUSparseFile.1/f", head + data)


MAPS = [
    ([(0, 100)], 100),
    ([(4096, 512), (3 * MiB, 1000)], 4 * MiB),
    ([(0, 10), (20, 10), (8192, 1), (2 * MiB, 7), (2 * MiB + 4096, 600)], 2 * MiB + 4696),
    ([(number * 8192, 100) for number in range(60)], 60 * 8192),
    ([(number * 8192, 3) for number in range(400)], 400 * 8192),
    ([(5 * MiB, 0)], 5 * MiB),
    ([], 0),
    ([(0, 5), (5, 5), (10, 0)], 10),
]


@pytest.mark.parametrize("form", ["old", "0.0", "0.1", "1.0"])
@pytest.mark.parametrize(("pieces", "size"), MAPS)
def test_content_and_holes(root: Path, form: str, pieces: list[tuple[int, int]], size: int) -> None:
    data = os.urandom(sum(length for _, length in pieces))
    make = {"old": lambda p, s, d: old(b"f", p, s, d), "0.0": form_00, "0.1": form_01, "1.0": form_10}[form]
    unpack(root, make(pieces, size, data), file(b"next", b"next"))
    assert (root / "f").read_bytes() == expected(pieces, size, data)
    assert (root / "next").read_bytes() == b"next"
    assert sorted(os.listdir(root)) == ["f", "next"]


def test_holes_take_no_space(root: Path) -> None:
    """TA-21."""
    size = 8 << 30
    unpack(root, old(b"f", [(4 << 30, 4096)], size, b"x" * 4096))
    found = (root / "f").stat()
    assert found.st_size == size
    assert found.st_blocks * 512 < MiB


@pytest.mark.parametrize(
    ("pieces", "size", "stored"),
    [
        ([(0, 10)], 5, 10),
        ([(10, 10), (0, 10)], 100, 20),
        ([(0, 10), (5, 10)], 100, 20),
        ([(0, 10)], 100, 20),
        ([(0, 20)], 100, 10),
        ([((1 << 62), 10)], 100, 10),
    ],
)
@pytest.mark.parametrize("form", ["old", "0.0", "0.1", "1.0"])
def test_impossible_maps(root: Path, form: str, pieces: list[tuple[int, int]], size: int, stored: int) -> None:
    make = {"old": lambda p, s, d: old(b"f", p, s, d), "0.0": form_00, "0.1": form_01, "1.0": form_10}[form]
    with pytest.raises(InvalidLayer):
        unpack(root, make(pieces, size, b"x" * stored))


@pytest.mark.parametrize(
    "data",
    [
        pax([(b"GNU.sparse.size", b"10"), (b"GNU.sparse.map", b"0,5,7")]) + file(b"f", b"x" * 5),
        pax([(b"GNU.sparse.size", b"10"), (b"GNU.sparse.map", b"0,-5")]) + file(b"f", b"x" * 5),
        pax([(b"GNU.sparse.size", b"10"), (b"GNU.sparse.offset", b"0")]) + file(b"f", b"x" * 5),
        pax([(b"GNU.sparse.size", b"x"), (b"GNU.sparse.map", b"0,5")]) + file(b"f", b"x" * 5),
        pax([(b"GNU.sparse.size", b"9" * 19), (b"GNU.sparse.map", b"0,5")]) + file(b"f", b"x" * 5),
        pax([(b"GNU.sparse.size", b"10"), (b"GNU.sparse.map", b"0,0," * 70_000 + b"0,5")]) + file(b"f", b"x" * 5),
        pax([(b"GNU.sparse.major", b"2"), (b"GNU.sparse.minor", b"0")]) + file(b"f", b"x" * 5),
        pax([(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0")]) + file(b"f", pad(b"1\n0\n0\n")),
        pax([(b"GNU.sparse.major", b"1"), (b"GNU.sparse.realsize", b"5")]) + file(b"f", b"9" * 2048),
        pax([(b"GNU.sparse.major", b"1"), (b"GNU.sparse.realsize", b"5")]) + file(b"f", pad(b"99999999\n0\n")),
        pax([(b"GNU.sparse.major", b"1"), (b"GNU.sparse.realsize", b"5")]) + file(b"f", pad(b"5\n0\n0\n")),
        pax([(b"GNU.sparse.major", b"1"), (b"GNU.sparse.realsize", b"5")]) + file(b"f", b""),
    ],
)
def test_broken_maps(root: Path, data: bytes) -> None:
    with pytest.raises(InvalidLayer):
        unpack(root, data)


def test_truncated_map(root: Path) -> None:
    data = old(b"f", [(number * 8192, 1) for number in range(60)], 60 * 8192, b"x" * 60)
    for length in (512, 600, 1024, 1500):
        with pytest.raises(InvalidLayer):
            unpack(root, data[:length], end=b"")


@pytest.mark.parametrize("form", ["gnu", "0.0", "0.1", "1.0"])
def test_what_gnu_tar_writes(root: Path, tmp_path: Path, form: str) -> None:
    """GNU tar as the oracle."""
    if shutil.which("tar") is None:
        pytest.skip("GNU tar is not there: apt-get install tar")
    # Beside what the root's fixture watches.
    sources = tmp_path.parent / f"{tmp_path.name}-sources"
    sources.mkdir()
    with (sources / "f").open("wb") as target:
        for number in range(40):
            target.seek(number * 70_000)
            target.write(os.urandom(4096))
        target.truncate(10 * MiB)
    archive = sources / "a.tar"
    options = ["--format=gnu"] if form == "gnu" else ["--format=posix", f"--sparse-version={form}"]
    subprocess.run(["tar", "-S", *options, "-cf", archive, "-C", sources, "f"], check=True)
    assert archive.stat().st_size < 2 * MiB
    unpack(root, archive.read_bytes(), end=b"")
    assert (root / "f").read_bytes() == (sources / "f").read_bytes()
