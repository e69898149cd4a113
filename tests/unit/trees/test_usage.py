"""Measuring a tree."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cowstore.trees.usage import measure

if TYPE_CHECKING:
    from pathlib import Path


def measured(path: Path) -> tuple[int, int]:
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY)
    try:
        return measure(fd)
    finally:
        os.close(fd)


def test_an_empty_directory(tmp_path: Path) -> None:
    size, inodes = measured(tmp_path)
    assert inodes == 1
    assert size <= 4096


def test_names_of_one_file_count_once(tmp_path: Path) -> None:
    """TA-39: 10 MiB with five names are 10 MiB."""
    (tmp_path / "0").write_bytes(os.urandom(10 << 20))
    for name in range(1, 5):
        os.link(tmp_path / "0", tmp_path / str(name))
    size, inodes = measured(tmp_path)
    assert 10 << 20 <= size < (10 << 20) + 65536
    assert inodes == 2


def test_holes_do_not_count(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 33)
    assert measured(tmp_path)[0] < 65536


def test_as_find_counts(tmp_path: Path) -> None:
    for depth in ("a", "a/b", "a/b/c"):
        (tmp_path / depth).mkdir()
        (tmp_path / depth / "file").write_bytes(b"x" * 5000)
    os.symlink("/", tmp_path / "a/link")
    expected = [tmp_path, *tmp_path.rglob("*")]
    assert measured(tmp_path) == (sum(path.lstat().st_blocks * 512 for path in expected), len(expected))
