"""Who owns a descriptor, and for how long."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
from typing import TYPE_CHECKING

import pytest

from cowstore._linux.fd import AT_FDCWD, Descriptor, open_

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError as error:
        assert error.errno == errno.EBADF
        return False
    return True


@pytest.fixture
def number() -> Iterator[int]:
    """A number nobody else uses, closed afterwards if the test did not."""
    fd = os.open("/dev/null", os.O_RDONLY)
    yield fd
    if is_open(fd):
        os.close(fd)


def test_owns_until_the_block_ends(number: int) -> None:
    with Descriptor(number) as owner:
        assert owner.fileno() == number
        assert is_open(number)
    assert repr(owner) == "<Descriptor closed>"
    assert not is_open(number)


def test_closing_twice_spares_whoever_got_the_number(number: int) -> None:
    owner = Descriptor(number)
    owner.close()
    again = os.open("/dev/null", os.O_RDONLY)
    try:
        assert again == number
        owner.close()
        del owner
        gc.collect()
        assert is_open(again)
    finally:
        os.close(again)


def test_is_forgotten_even_when_close_fails(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = Descriptor(number)

    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, "disk gone")

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", fail)
        with pytest.raises(OSError, match="disk gone") as caught:
            owner.close()
        owner.close()
    assert caught.value.__notes__ == ["close(2)"]
    assert owner.closed


def test_zero_is_a_descriptor() -> None:
    kept = os.dup(0)
    try:
        os.close(0)
        with open_("/dev/null", os.O_RDONLY) as owner:
            assert owner.fileno() == 0
            assert not owner.closed
            assert open_("null", os.O_RDONLY, dir_fd=open_("/dev", os.O_RDONLY | os.O_DIRECTORY)).fileno() > 0
        assert not is_open(0)
        with open_("/dev", os.O_RDONLY | os.O_DIRECTORY) as directory:
            assert directory.fileno() == 0
            open_("null", os.O_RDONLY, dir_fd=directory).close()
    finally:
        os.dup2(kept, 0)
        os.close(kept)


def test_closed_has_no_number(number: int) -> None:
    """A -1 would be taken for "no descriptor" by what comes next: os.listdir(-1) lists the current directory."""
    owner = Descriptor(number)
    owner.close()
    for use in (owner.fileno, owner.detach, lambda: open_("x", os.O_RDONLY, dir_fd=owner)):
        with pytest.raises(OSError) as caught:
            use()
        assert caught.value.errno == errno.EBADF


def test_detach_gives_it_away(number: int) -> None:
    owner = Descriptor(number)
    assert owner.detach() == number
    assert owner.closed
    owner.close()
    del owner
    gc.collect()
    assert is_open(number)


def test_goes_with_the_object(number: int) -> None:
    owner = Descriptor(number)
    del owner
    gc.collect()
    assert not is_open(number)


@pytest.mark.parametrize("bad", [-1, AT_FDCWD])
def test_negative_is_none(bad: int) -> None:
    with pytest.raises(OSError) as caught:
        Descriptor(bad)
    assert caught.value.errno == errno.EBADF
    gc.collect()


def test_serves_where_a_file_object_does(tmp_path: Path) -> None:
    with open_(os.fsdecode(tmp_path / "lock"), os.O_RDWR | os.O_CREAT, 0o600) as owner:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.fsync(owner)


def test_repr(number: int) -> None:
    owner = Descriptor(number)
    assert repr(owner) == f"<Descriptor {number}>"
    owner.close()
    assert repr(owner) == "<Descriptor closed>"


def test_open_is_not_inherited_and_honours_mode(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        with open_(os.fsencode(tmp_path / "f"), os.O_WRONLY | os.O_CREAT, 0o666) as owner:
            assert fcntl.fcntl(owner, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
            assert os.fstat(owner.fileno()).st_mode & 0o7777 == 0o640
    finally:
        os.umask(previous)


def test_open_says_what_failed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        open_(os.fsdecode(tmp_path / "none"), os.O_RDONLY)
    assert caught.value.filename == os.fsdecode(tmp_path / "none")
    assert caught.value.__notes__ == ["openat(2)"]
    with pytest.raises(OSError) as nul:
        open_("a\0b", os.O_RDONLY)
    assert nul.value.errno == errno.EINVAL


def test_open_takes_any_byte(tmp_path: Path) -> None:
    name = bytes(byte for byte in range(1, 256) if byte != ord("/"))
    with open_(os.fsencode(tmp_path), os.O_RDONLY | os.O_DIRECTORY) as directory:
        open_(name, os.O_WRONLY | os.O_CREAT, dir_fd=directory).close()
    assert os.listdir(os.fsencode(tmp_path)) == [name]
