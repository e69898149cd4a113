"""Copying a tree."""

from __future__ import annotations

import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from cowstore.trees import copy
from cowstore.trees.copy import CopyCount, copy_tree
from tests.trees_oracle import TIMES, differences, flat, populate, read

if TYPE_CHECKING:
    from pathlib import Path


def copied(source: Path, target: Path, *, owners: bool = True, devices: bool = True) -> CopyCount:
    target.mkdir(exist_ok=True)
    fds = [os.open(path, os.O_PATH | os.O_DIRECTORY) for path in (source, target)]
    try:
        return copy_tree(fds[0], fds[1], owners=owners, devices=devices)
    finally:
        for fd in fds:
            os.close(fd)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.mkdir()
    return path


def test_everything_a_tree_has(source: Path, tmp_path: Path) -> None:
    populate(str(source))
    os.symlink("nowhere", source / "link")
    os.utime(source / "link", ns=(TIMES[1], TIMES[1]), follow_symlinks=False)
    os.mkfifo(source / "fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(source / "socket"))
    (source / "big").write_bytes(os.urandom(3 << 20))
    (source / "readonly").mkdir(0o555)
    os.setxattr(source / "big", "user.k", b"\0\xff")
    os.setxattr(source / "big", "user.overlay.opaque", b"y")
    (source / "big").chmod(0o4711)
    source.chmod(0o711)
    os.setxattr(source, "user.root", b"1")
    os.utime(source, ns=(TIMES[2], TIMES[2]))
    count = copied(source, tmp_path / "target")
    before, after = read(str(source)), read(str(tmp_path / "target"))
    assert differences(before, after) == []
    assert before.facts == after.facts
    assert count.entries == len(flat(before))
    assert not count.skipped()
    assert os.listxattr(tmp_path / "target/big") == ["user.k"]


@pytest.mark.parametrize("ranges", [True, False])
def test_holes(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranges: bool) -> None:
    """TA-21: 8 GiB with three pages stay three pages."""
    with (source / "sparse").open("wb") as file:
        file.write(b"a" * 4096)
        file.seek(1 << 32)
        file.write(b"b" * 4096)
        file.seek((1 << 33) - 8192)
        file.write(b"c" * 4096)
        file.truncate(1 << 33)
    if not ranges:

        def refuse(*_arguments: object) -> int:
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr(os, "copy_file_range", refuse)
        monkeypatch.setattr(copy, "ficlone", refuse)
    copied(source, tmp_path / "target")
    found = (tmp_path / "target/sparse").stat()
    assert found.st_size == 1 << 33
    assert found.st_blocks * 512 < 1 << 20
    assert not differences(read_sparse(source), read_sparse(tmp_path / "target"))


def read_sparse(tree: Path):  # type: ignore[no-untyped-def]
    """Describe a tree without reading 8 GiB."""
    from tests.trees_oracle import Entry

    with (tree / "sparse").open("rb") as file:
        pieces = []
        for offset in (0, 1 << 20, 1 << 32, (1 << 33) - 8192):
            file.seek(offset)
            pieces.append(file.read(8192))
    root = Entry({"mode": stat.S_IFDIR, "uid": 0, "gid": 0, "xattrs": {}, "mtime": 0}, (0, 0))
    root.children["sparse"] = Entry({"mode": stat.S_IFREG, "content": pieces}, (0, 1))
    return root


def test_a_file_whose_size_copy_file_range_does_not_see(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers 0 for files of /proc's kind, which have bytes all the same; and never ends up in a loop."""
    (source / "f").write_bytes(b"content")
    monkeypatch.setattr(os, "copy_file_range", lambda *_arguments: 0)
    copied(source, tmp_path / "target")
    assert (tmp_path / "target/f").read_bytes() == b"content"


def test_names_further_away_than_a_path_reaches(source: Path, tmp_path: Path) -> None:
    """Hard links in a tree of 60 levels of 200 bytes."""
    name = "n" * 200
    fd = os.open(source, os.O_RDONLY)
    for _ in range(60):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("one", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.link("one", "two", src_dir_fd=fd, dst_dir_fd=fd)
    os.close(fd)
    count = copied(source, tmp_path / "target")
    assert count.entries == 62
    fd = os.open(tmp_path / "target", os.O_RDONLY)
    for _ in range(60):
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    assert os.stat("one", dir_fd=fd).st_nlink == 2
    os.close(fd)
    from cowstore.trees.remove import remove_tree

    fd = os.open(tmp_path, os.O_RDONLY)
    remove_tree(fd, "source")
    remove_tree(fd, "target")
    os.close(fd)


def test_files_that_vanish_or_change_their_type(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c", "d"):
        (source / name).write_bytes(b"x")
    real = os.stat

    def and_then(path, *arguments, **keywords):  # type: ignore[no-untyped-def]
        found = real(path, *arguments, **keywords)
        if path == "a":
            (source / "a").unlink()
        elif path == "b":
            (source / "b").unlink()
            (source / "b").mkdir()
        elif path == "c":
            (source / "c").unlink()
            os.mkfifo(source / "c")
        return found

    monkeypatch.setattr(os, "stat", and_then)
    copied(source, tmp_path / "target")
    assert os.listdir(tmp_path / "target") == ["d"]


def test_the_callers_own(source: Path, tmp_path: Path) -> None:
    (source / "f").write_bytes(b"x")
    count = copied(source, tmp_path / "target", owners=False, devices=False)
    assert count.skipped() == {}
    assert (tmp_path / "target/f").stat().st_uid == os.geteuid()
