"""Removing a tree."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from cowstore.trees.remove import remove_tree
from tests.trees_oracle import populate

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def top(tmp_path: Path):  # type: ignore[no-untyped-def]
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def test_a_tree_and_again(top: int, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    populate(str(tmp_path / "tree"))
    os.mkfifo(tmp_path / "tree/fifo")
    for _ in range(2):
        remove_tree(top, "tree")
        assert os.listdir(tmp_path) == []


def test_anything_else(top: int, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    for name in ("file", b"fifo", "nothing"):
        remove_tree(top, name)
    assert os.listdir(tmp_path) == []


def test_links_are_not_followed(top: int, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").touch()
    (tmp_path / "tree").mkdir()
    os.symlink("../kept", tmp_path / "tree/link")
    os.symlink("kept", tmp_path / "link")
    remove_tree(top, "tree")
    remove_tree(top, "link")
    assert [path.name for path in tmp_path.rglob("*")] == ["kept", "file"]


def test_rights_that_stand_in_the_way(top: int, tmp_path: Path) -> None:
    """OV-27: the kernel leaves overlay's work directory with mode 000."""
    (tmp_path / "work/work/deep").mkdir(parents=True)
    (tmp_path / "work/work/deep/file").touch()
    (tmp_path / "work/work/deep").chmod(0)
    (tmp_path / "work/work").chmod(0)
    (tmp_path / "work").chmod(0o500)
    remove_tree(top, "work")
    assert os.listdir(tmp_path) == []


def test_any_name_any_depth(top: int, tmp_path: Path) -> None:
    """1500 levels of 255 bytes each."""
    name = b"\xff" * 255
    fd = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir(name, dir_fd=fd)
        os.close(os.open(b"\n", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    remove_tree(top, name)
    remove_tree(top, b"\n")
    assert os.listdir(tmp_path) == []


def test_somebody_goes_on_writing(top: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tree/below").mkdir(parents=True)
    (tmp_path / "tree/below/file").touch()
    real = os.rmdir
    times: list[int] = []

    def after_a_write(path: str | bytes, *, dir_fd: int) -> None:
        if path == b"below" and len(times) < 3 and os.listdir(tmp_path / "tree/below") == []:
            times.append(1)
            (tmp_path / "tree/below/more").touch()
        real(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "rmdir", after_a_write)
    remove_tree(top, "tree")
    assert len(times) == 3
    assert os.listdir(tmp_path) == []
