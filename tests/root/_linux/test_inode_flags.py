"""Flags of files: immutable, append only."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from cowstore._linux import files
from cowstore._linux.fd import open_
from cowstore._linux.files import InodeFlag, get_inode_flags, set_inode_flags
from cowstore.trees.remove import remove_tree

if TYPE_CHECKING:
    from pathlib import Path


def test_numbers_are_those_of_the_header() -> None:
    assert (files.FS_IOC_GETFLAGS, files.FS_IOC_SETFLAGS) == (0x80086601, 0x40086602)


def test_set_and_get(tmp_path: Path) -> None:
    path = tmp_path / "stone"
    path.touch()
    with open_(os.fspath(path), os.O_RDONLY) as fd:
        before = get_inode_flags(fd)
        set_inode_flags(fd, before | InodeFlag.IMMUTABLE)
        assert get_inode_flags(fd) & InodeFlag.IMMUTABLE
        with pytest.raises(PermissionError):
            path.unlink()
        set_inode_flags(fd, before)
        assert get_inode_flags(fd) == before
    path.unlink()


def test_what_has_none_says_so() -> None:
    with open_("/proc/self/status", os.O_RDONLY) as fd, pytest.raises(OSError) as caught:
        get_inode_flags(fd)
    assert caught.value.__notes__ == ["FS_IOC_GETFLAGS(2)"]


def test_a_tree_with_flags_is_removed(tmp_path: Path) -> None:
    (tmp_path / "tree" / "dir").mkdir(parents=True)
    (tmp_path / "tree" / "dir" / "stone").touch()
    (tmp_path / "tree" / "log").touch()
    for path, flag in (
        ("dir/stone", InodeFlag.IMMUTABLE),
        ("dir", InodeFlag.IMMUTABLE),
        ("log", InodeFlag.APPEND),
        (".", InodeFlag.APPEND),
    ):
        with open_(os.fspath(tmp_path / "tree" / path), os.O_RDONLY) as fd:
            set_inode_flags(fd, get_inode_flags(fd) | flag)
    with open_(os.fspath(tmp_path), os.O_RDONLY | os.O_DIRECTORY) as directory:
        remove_tree(directory.fileno(), "tree")
    assert not (tmp_path / "tree").exists()
