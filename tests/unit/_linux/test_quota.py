"""Project quotas: numbers and structures as the kernel has them, and which device a file system is on."""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING

import pytest

from cowstore._linux import _call, quota

if TYPE_CHECKING:
    from pathlib import Path


def test_numbers() -> None:
    """An ioctl's number holds the size of its structure; xfs's commands begin with its letter."""
    assert 2 << 30 | 28 << 16 | ord("X") << 8 | 31 == quota.FS_IOC_FSGETXATTR
    assert 1 << 30 | 28 << 16 | ord("X") << 8 | 32 == quota.FS_IOC_FSSETXATTR
    assert quota.Q_XGETQSTATV == 0x5808
    assert (quota.Q_GETQUOTA, quota.Q_SETQUOTA, quota.PRJQUOTA) == (0x800007, 0x800008, 2)
    assert (quota.FS_QUOTA_PDQ_ACCT, quota.FS_QUOTA_PDQ_ENFD) == (0x10, 0x20)
    assert quota.FS_XFLAG_PROJINHERIT == 0x200


def test_sizes_of_structures() -> None:
    """struct if_dqblk, fs_quota_statv and fsxattr on every 64-bit machine."""
    assert (quota._DQBLK.size, quota._STATV.size, quota._FSXATTR.size) == (72, 160, 28)
    # version, pad, flags, dquots in core; three of inode, blocks, extents, pad; time and warning limits; pad
    whole = struct.Struct("bBHI" + "QQII" * 3 + "iii" + "HHHH" + "I" + "7Q")
    assert whole.size == quota._STATV.size


def _answering(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> list[tuple[int, int, bytes]]:
    import ctypes

    calls: list[tuple[int, int, bytes]] = []

    def quotactl_fd(_fd: int, command: int, project: int, address: int) -> int:
        calls.append((command, project, ctypes.string_at(address, len(answer))))
        ctypes.memmove(address, answer, len(answer))
        return 0

    monkeypatch.setattr(quota, "_quotactl_fd", quotactl_fd)
    return calls


def test_what_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits come in units of 1024 bytes, what is taken in bytes."""
    calls = _answering(monkeypatch, quota._DQBLK.pack(2048, 0, 12345, 0, 0, 7, 0, 0, 63))
    found = quota.q_getquota(0, 3_000_000_000)
    assert (found.size_bytes, found.inodes, found.limit_bytes, found.limited) == (12345, 7, 2 << 20, True)
    assert calls[0][:2] == (0x80000702, 3_000_000_000)


@pytest.mark.parametrize(("limit", "hard"), [(None, 0), (1, 1), (1023, 1), (1024, 1), (2 << 20, 2048)])
def test_what_limits(monkeypatch: pytest.MonkeyPatch, limit: int | None, hard: int) -> None:
    """A limit is rounded down, but never to none; only that of space is told."""
    calls = _answering(monkeypatch, bytes(quota._DQBLK.size))
    quota.q_setquota(0, 5, limit)
    command, project, told = calls[0]
    assert (command, project) == (0x80000802, 5)
    assert quota._DQBLK.unpack(told) == (hard, 0, 0, 0, 0, 0, 0, 0, 1)


def test_what_is_enforced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The structure says its version on the way in, and the flags on the way out."""
    answer = struct.pack("=bxH", 1, 0x35) + bytes(156)
    calls = _answering(monkeypatch, answer)
    assert quota.q_xgetqstatv(0) == 0x35
    assert calls[0][0] == 0x580802
    assert calls[0][2][0] == 1


def test_project_nobody_heard_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """xfs says ENOENT of a project without anything."""

    def call(*_: object) -> None:
        raise _call.oserror("quotactl_fd(2)", code=errno.ENOENT)

    monkeypatch.setattr(quota, "_call", call)
    found = quota.q_getquota(0, 5)
    assert (found.size_bytes, found.inodes, found.limit_bytes, found.limited) == (0, 0, None, False)


def test_device_is_found_by_its_number(tmp_path: Path) -> None:
    """A node of another device, or none, is not taken for it."""
    number = os.stat(tmp_path).st_dev
    told = tmp_path / "sys" / "dev" / "block" / f"{os.major(number)}:{os.minor(number)}"
    told.mkdir(parents=True)
    fd = os.open(tmp_path, os.O_PATH)
    try:
        for text in ("", "MAJOR=1\n", "DEVNAME=missing\n", "DEVNAME=null\n"):
            (told / "uevent").write_text(text)
            with pytest.raises(OSError) as caught:
                quota.device_of(fd, sysfs=str(tmp_path / "sys"))
            assert caught.value.errno == errno.ENODEV
            assert f"{os.major(number)}:{os.minor(number)}" in caught.value.__notes__[0]
    finally:
        os.close(fd)


def test_old_kernel_is_asked_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where quotactl_fd is not known the device is named instead."""
    asked: list[tuple[int, bytes, int]] = []

    def old(command: int, device: bytes, project: int, _address: int) -> int:
        asked.append((command, device, project))
        return 0

    monkeypatch.setattr(quota, "_quotactl_fd", _call.bind_syscall("no_such_call"))
    monkeypatch.setattr(quota, "_quotactl", old)
    monkeypatch.setattr(quota, "device_of", lambda _fd: "/dev/vdz")
    quota.q_getquota(0, 9)
    assert asked == [(0x80000702, b"/dev/vdz", 9)]


def test_errors_name_the_call(tmp_path: Path) -> None:
    """proc has no quotas, and no attributes of that kind."""
    fd = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(OSError) as caught:
            quota.q_xgetqstatv(fd)
        assert "quotactl" in caught.value.__notes__[0]
        with pytest.raises(OSError) as caught:
            quota.fsgetxattr(fd)
        assert "FS_IOC_FSGETXATTR" in caught.value.__notes__[0]
    finally:
        os.close(fd)
