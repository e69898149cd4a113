"""Opening under restrictions, renaming with flags, and what a file system says of itself."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cowstore._linux import files
from cowstore._linux.fd import Descriptor, open_
from cowstore._linux.files import FsMagic, RenameFlag, Resolve, openat2, renameat2, statfs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


@pytest.fixture
def jail(tmp_path: Path) -> Iterator[tuple[Path, Descriptor]]:
    """A directory with links that want to leave it, and a secret beside it."""
    (tmp_path / "secret").write_text("secret")
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "secret").write_text("own")
    (root / "absolute").symlink_to("/secret")
    (root / "upwards").symlink_to("../secret")
    (root / "etc" / "loop").symlink_to("loop")
    (root / "magic").symlink_to("/proc/self/root")
    with open_(os.fsdecode(root), DIRECTORY) as directory:
        yield root, directory


def read(fd: int) -> bytes:
    with Descriptor(fd):
        return os.read(fd, 100)


def refused(directory: Descriptor, path: str, resolve: Resolve) -> int:
    with pytest.raises(OSError) as caught:
        os.close(openat2(directory, path, os.O_RDONLY, resolve=resolve))
    assert caught.value.filename == path
    assert caught.value.__notes__ == ["openat2(2)"]
    return caught.value.errno or 0


@pytest.mark.parametrize("path", ["absolute", "upwards", "../secret", "/secret", "etc/../../../secret", b"./absolute"])
def test_in_root_leads_back_in(jail: tuple[Path, Descriptor], path: str | bytes) -> None:
    assert read(openat2(jail[1], path, os.O_RDONLY, resolve=Resolve.IN_ROOT)) == b"own"


@pytest.mark.parametrize("path", ["absolute", "upwards", "../secret", "/secret"])
def test_beneath_refuses(jail: tuple[Path, Descriptor], path: str) -> None:
    assert refused(jail[1], path, Resolve.BENEATH) == errno.EXDEV


def test_without_restrictions_it_is_openat(jail: tuple[Path, Descriptor]) -> None:
    assert read(openat2(jail[1], "upwards", os.O_RDONLY)) == b"secret"
    assert read(openat2(None, os.fsdecode(jail[0] / "secret"), os.O_RDONLY)) == b"own"
    assert read(openat2(jail[1].fileno(), "secret", os.O_RDONLY)) == b"own"


def test_other_restrictions(jail: tuple[Path, Descriptor]) -> None:
    assert refused(jail[1], "upwards", Resolve.NO_SYMLINKS) == errno.ELOOP
    assert refused(jail[1], "etc/loop", Resolve.IN_ROOT) == errno.ELOOP
    assert refused(jail[1], "magic/etc", Resolve.NO_MAGICLINKS) == errno.ELOOP
    assert refused(jail[1], "/proc/self", Resolve.NO_XDEV) == errno.EXDEV
    assert refused(jail[1], "none", Resolve.IN_ROOT) == errno.ENOENT


names = st.sampled_from(["a", "b", "c", "..", ".", "up", "abs", ""])
targets = st.lists(names, min_size=1, max_size=6).map("/".join).filter(bool)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(links=st.lists(st.tuples(st.sampled_from(["up", "abs", "c"]), targets), max_size=4), paths=st.lists(targets))
def test_nothing_leaves_the_root(tmp_path: Path, links: list[tuple[str, str]], paths: list[str]) -> None:
    """Whatever links an archive plants, a lookup in the root ends in the root."""
    top = tmp_path / "top"
    if not top.exists():
        (top / "root" / "a" / "b").mkdir(parents=True)
    root = os.path.realpath(top / "root")
    for name in ("up", "abs", "c"):
        (top / "root" / name).unlink(missing_ok=True)
    for name, target in dict(links).items():
        os.symlink(target, top / "root" / name)
    with open_(root, DIRECTORY) as directory:
        for path in paths:
            try:
                fd = openat2(directory, path, os.O_PATH, resolve=Resolve.IN_ROOT | Resolve.NO_MAGICLINKS)
            except OSError as error:
                assert error.errno in {errno.ENOENT, errno.ELOOP, errno.ENOTDIR}
                continue
            with Descriptor(fd):
                where = os.readlink(f"/proc/self/fd/{fd}")
            assert where == root or where.startswith(root + "/")


def test_creates_with_mode_and_is_not_inherited(jail: tuple[Path, Descriptor]) -> None:
    previous = os.umask(0)
    try:
        fd = openat2(jail[1], "new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o641, Resolve.BENEATH)
    finally:
        os.umask(previous)
    with Descriptor(fd):
        assert os.fstat(fd).st_mode & 0o7777 == 0o641
        assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def test_a_mode_for_nothing_is_an_error(jail: tuple[Path, Descriptor]) -> None:
    with pytest.raises(OSError) as caught:
        openat2(jail[1], "secret", os.O_RDONLY, 0o600)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    ("failures", "resolve", "attempts"),
    [(3, Resolve.IN_ROOT, 4), (3, Resolve.CACHED, 1), (10**6, Resolve.IN_ROOT, files._OPENAT2_ATTEMPTS)],
)
def test_a_rename_beside_it_is_waited_out_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch, failures: int, resolve: Resolve, attempts: int
) -> None:
    calls = []

    def racing(*arguments: object) -> int:
        calls.append(arguments)
        ctypes.set_errno(errno.EAGAIN)
        return 77 if len(calls) > failures else -1

    monkeypatch.setattr(files, "_openat2", racing)
    try:
        assert openat2(None, "x", os.O_RDONLY, resolve=resolve) == 77
    except BlockingIOError:
        assert attempts in {1, files._OPENAT2_ATTEMPTS}
    assert len(calls) == attempts


def test_openat2_refuses_a_nul() -> None:
    with pytest.raises(OSError) as caught:
        openat2(None, b"/dev/null\0/x", os.O_RDONLY)
    assert caught.value.errno == errno.EINVAL


def test_renameat2(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    with open_(os.fsdecode(tmp_path), DIRECTORY) as directory:
        with pytest.raises(FileExistsError) as caught:
            renameat2(directory, "a", directory, b"b", RenameFlag.NOREPLACE)
        assert (caught.value.filename, caught.value.filename2) == ("a", b"b")
        assert caught.value.__notes__ == ["renameat2(2)"]
        renameat2(directory, "a", directory, "b", RenameFlag.EXCHANGE)
        assert (tmp_path / "a").read_text() == "b"
        renameat2(directory, "a", None, os.fsdecode(tmp_path / "b"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["b"]
    assert (tmp_path / "b").read_text() == "b"


@pytest.mark.parametrize("kind", [str, bytes, int, Descriptor])
def test_statfs_agrees_with_statvfs(tmp_path: Path, kind: type) -> None:
    expected = os.statvfs(tmp_path)
    with open_(os.fsdecode(tmp_path), DIRECTORY) as directory:
        ways: dict[type, str | bytes | int | Descriptor] = {
            str: os.fsdecode(tmp_path),
            bytes: os.fsencode(tmp_path),
            int: directory.fileno(),
            Descriptor: directory,
        }
        found = statfs(ways[kind])
    assert found.block_size == expected.f_frsize
    assert found.blocks == expected.f_blocks
    assert found.files == expected.f_files
    assert found.name_max == expected.f_namemax
    assert 0 < found.available <= found.free <= found.blocks
    assert 0 <= found.files_free <= found.files
    assert found.flags & os.ST_RDONLY == expected.f_flag & os.ST_RDONLY
    assert f"type={found.type}" in repr(found)


def test_statfs_knows_types() -> None:
    assert statfs("/proc").type == FsMagic.PROC
    with open_("/proc/self/ns", DIRECTORY) as directory:
        assert statfs(directory).type == FsMagic.PROC


def test_magic_numbers_are_the_kernels() -> None:
    numbers = {name: value for name, value in vars(FsMagic).items() if name.isupper()}
    assert numbers == {
        "AUFS": int.from_bytes(b"aufs", "big"),
        "BTRFS": 0x9123683E,
        "CGROUP": 0x0027E0EB,
        "CGROUP2": int.from_bytes(b"cgrp", "big"),
        "EXT4": 0xEF53,
        "FUSE": 0x65735546,
        "NFS": 0x6969,
        "OVERLAYFS": 0x794C7630,
        "PROC": 0x9FA0,
        "RAMFS": 0x858458F6,
        "SQUASHFS": 0x73717368,
        "TMPFS": 0x01021994,
        "XFS": int.from_bytes(b"XFSB", "big"),
        "ZFS": 0x2FC12FC1,
    }


def test_statfs_says_what_failed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        statfs(os.fsdecode(tmp_path / "none"))
    assert caught.value.filename == os.fsdecode(tmp_path / "none")
    assert caught.value.__notes__ == ["statfs(2)"]
    with pytest.raises(OSError) as bad:
        statfs(10**6)
    assert (bad.value.errno, bad.value.filename) == (errno.EBADF, 10**6)


def test_syncfs(tmp_path: Path) -> None:
    with open_(os.fsdecode(tmp_path), DIRECTORY) as directory:
        files.syncfs(directory)
    with pytest.raises(OSError) as caught:
        files.syncfs(10**6)
    assert caught.value.errno == errno.EBADF
    assert caught.value.__notes__ == ["syncfs(2)"]


def test_ficlone_shares_or_says_that_it_cannot(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"x" * 65536)
    with source.open("rb") as reader, target.open("wb") as writer:
        try:
            files.ficlone(writer, reader)
        except OSError as error:
            assert error.errno in {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY}
            assert (error.filename, error.filename2) == (reader.fileno(), writer.fileno())
            assert error.__notes__ == ["FICLONE(2)"]
            return
    assert target.read_bytes() == source.read_bytes()


def test_structures_and_numbers_are_those_of_the_headers() -> None:
    assert ctypes.sizeof(files.struct_open_how) == 24
    assert ctypes.sizeof(files.struct_statfs) == 120
    assert files.struct_statfs.f_namelen.offset == 64
    assert files.struct_statfs.f_flags.offset == 80
    write, size, group, number = 1, ctypes.sizeof(ctypes.c_int), 0x94, 9
    assert files.FICLONE == write << 30 | size << 16 | group << 8 | number == 0x40049409
    assert {name: flag.value for name, flag in Resolve.__members__.items()} == {
        "NONE": 0,
        "NO_XDEV": 1,
        "NO_MAGICLINKS": 2,
        "NO_SYMLINKS": 4,
        "BENEATH": 8,
        "IN_ROOT": 16,
        "CACHED": 32,
    }
    assert {name: flag.value for name, flag in RenameFlag.__members__.items()} == {
        "NONE": 0,
        "NOREPLACE": 1,
        "EXCHANGE": 2,
        "WHITEOUT": 4,
    }
