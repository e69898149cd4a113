"""Device-mapper's ioctls, one function each, named as in the kernel's header.

They go through ctypes, which lets other threads run meanwhile: a suspend can take long, and ``fcntl.ioctl`` keeps the
interpreter locked for any buffer over 1024 bytes. A device is named by its name, or by its number (an int, as in
``st_rdev``).

Source: ``linux/dm-ioctl.h``; Documentation/admin-guide/device-mapper in the kernel's tree.
"""

from __future__ import annotations

import ctypes
import enum
import os
import struct
from dataclasses import dataclass

from cowstore._linux._call import bind, number_of, oserror, retry
from cowstore._linux.fd import Descriptor, open_

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from cowstore._linux._call import Fd

CONTROL = "/dev/mapper/control"
CONTROL_MAJOR, CONTROL_MINOR = 10, 236
"""Number of the control device; opening a node of it makes the kernel load the module."""

SECTOR = 512
NAME_LENGTH = 127
UUID_LENGTH = 128

_TYPE = 0xFD
_VERSION = (4, 0, 0)
_HEADER = struct.Struct("=3I I I I i I I I Q 128s 129s 7x")
_TARGET = struct.Struct("=QQiI16s")
_FIRST_BUFFER = 4096
_LARGEST_BUFFER = 1 << 26


class Command(enum.IntEnum):
    """Numbers of the ioctls. Source: ``DM_*_CMD``."""

    VERSION = 0
    LIST_DEVICES = 2
    DEV_CREATE = 3
    DEV_REMOVE = 4
    DEV_SUSPEND = 6
    DEV_STATUS = 7
    DEV_WAIT = 8
    TABLE_LOAD = 9
    TABLE_CLEAR = 10
    TABLE_DEPS = 11
    TABLE_STATUS = 12
    TARGET_MSG = 14
    GET_TARGET_VERSION = 17


class DmFlag(enum.IntFlag):
    """Flags of an ioctl, in and out. Source: ``DM_*_FLAG``."""

    NONE = 0
    READONLY = 1 << 0
    SUSPEND = 1 << 1
    PERSISTENT_DEV = 1 << 3
    STATUS_TABLE = 1 << 4
    ACTIVE_PRESENT = 1 << 5
    INACTIVE_PRESENT = 1 << 6
    BUFFER_FULL = 1 << 8
    SKIP_LOCKFS = 1 << 10
    NOFLUSH = 1 << 11
    QUERY_INACTIVE_TABLE = 1 << 12
    UEVENT_GENERATED = 1 << 13
    DATA_OUT = 1 << 16
    DEFERRED_REMOVE = 1 << 17


class UdevFlag(enum.IntFlag):
    """What a running udev should leave alone, handed to its rules with the device's events. Source: libdevmapper.h."""

    NONE = 0
    DISABLE_DM_RULES = 1 << 0
    DISABLE_SUBSYSTEM_RULES = 1 << 1
    DISABLE_DISK_RULES = 1 << 2
    DISABLE_OTHER_RULES = 1 << 3
    LOW_PRIORITY = 1 << 4
    DISABLE_LIBRARY_FALLBACK = 1 << 5
    PRIMARY_SOURCE = 1 << 6


PRIVATE = (
    UdevFlag.DISABLE_DM_RULES
    | UdevFlag.DISABLE_SUBSYSTEM_RULES
    | UdevFlag.DISABLE_DISK_RULES
    | UdevFlag.DISABLE_OTHER_RULES
    | UdevFlag.DISABLE_LIBRARY_FALLBACK
    | UdevFlag.PRIMARY_SOURCE
)
"""For a device nobody else should look at: udev makes no links to it and probes it for nothing."""


@dataclass(frozen=True, slots=True)
class Info:
    """What each ioctl tells of the device it was about."""

    name: str
    uuid: str
    dev: int
    flags: DmFlag
    open_count: int
    event_nr: int

    @property
    def live(self) -> bool:
        """Whether it has a table that answers (suspended or not)."""
        return DmFlag.ACTIVE_PRESENT in self.flags

    @property
    def suspended(self) -> bool:
        return DmFlag.SUSPEND in self.flags

    @property
    def read_only(self) -> bool:
        return DmFlag.READONLY in self.flags


@dataclass(frozen=True, slots=True)
class Target:
    """One line of a table, or of its status; start and length in sectors of 512 bytes."""

    start: int
    length: int
    type: str
    params: str


def request(command: Command) -> int:
    """Compute the ioctl's number: read and write, and the size of ``struct dm_ioctl``."""
    return 3 << 30 | _HEADER.size << 16 | _TYPE << 8 | command


_ioctl = bind("ioctl", ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)


def _encode_dev(dev: int) -> int:
    """As ``huge_encode_dev`` does."""
    major, minor = os.major(dev), os.minor(dev)
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)


def _decode_dev(dev: int) -> int:
    return os.makedev((dev >> 8) & 0xFFF, (dev & 0xFF) | ((dev >> 12) & 0xFFF00))


def _text(raw: bytes) -> str:
    return os.fsdecode(raw.partition(b"\0")[0])


def _call(
    control: Fd,
    command: Command,
    which: str | int,
    *,
    flags: DmFlag = DmFlag.NONE,
    uuid: str = "",
    event_nr: int = 0,
    target_count: int = 0,
    data: bytes = b"",
    answers: bool = False,
) -> tuple[Info, int, bytes]:
    """Do one ioctl; returns what it told, the number of targets, and the bytes of its answer.

    ``answers`` says that the kernel appends an answer: a buffer that was too small is doubled and the call repeated.
    """
    name, dev = ("", _encode_dev(which)) if isinstance(which, int) else (which, 0)
    size = _HEADER.size + len(data) + (_FIRST_BUFFER if answers else 0)
    while True:
        buffer = ctypes.create_string_buffer(size)
        _HEADER.pack_into(
            buffer, 0, *_VERSION, size, _HEADER.size, target_count, 0, flags, event_nr, 0, dev,
            os.fsencode(name), os.fsencode(uuid),
        )  # fmt: skip
        ctypes.memmove(ctypes.byref(buffer, _HEADER.size), data, len(data))
        if retry(_ioctl, number_of(control), request(command), ctypes.addressof(buffer)) < 0:
            detail = (
                f"DM_{command.name} of {which if isinstance(which, str) else f'{os.major(which)}:{os.minor(which)}'}"
            )
            raise oserror("ioctl(2)", detail=detail)
        told = _HEADER.unpack_from(buffer, 0)
        answered = DmFlag(told[7])
        if not answers or DmFlag.BUFFER_FULL not in answered or size >= _LARGEST_BUFFER:
            break
        size *= 2
    info = Info(_text(told[11]), _text(told[12]), _decode_dev(told[10]), answered, told[6], told[8])
    return info, told[5], buffer.raw[told[4] : told[3]] if answers else b""


def _cookie(udev: UdevFlag) -> int:
    """The udev flags lie in the event number's upper half; the lower would name a semaphore, which we have not."""
    return udev << 16


def open_control(path: str = CONTROL) -> Descriptor:
    """Open the control device.

    Raises:
        OSError: ENOENT, no node; ENODEV or ENXIO, a kernel without device-mapper; EACCES, not root.
    """
    return open_(path, os.O_RDWR)


def version(control: Fd) -> tuple[int, int, int]:
    """Tell the version of the ioctl interface."""
    size = _HEADER.size
    buffer = ctypes.create_string_buffer(size)
    _HEADER.pack_into(buffer, 0, *_VERSION, size, size, 0, 0, 0, 0, 0, 0, b"", b"")
    if retry(_ioctl, number_of(control), request(Command.VERSION), ctypes.addressof(buffer)) < 0:
        raise oserror("ioctl(2)", detail="DM_VERSION")
    major, minor, patch = struct.unpack_from("=3I", buffer, 0)
    return major, minor, patch


def get_target_version(control: Fd, target: str) -> tuple[int, int, int]:
    """Tell the version of a target type, loading its module where the kernel can.

    Raises:
        OSError: EINVAL, there is no such target; ENOTTY, the kernel is older than this ioctl.
    """
    _, _, answer = _call(control, Command.GET_TARGET_VERSION, target, answers=True)
    major, minor, patch = struct.unpack_from("=3I", answer, 4)
    return major, minor, patch


def list_devices(control: Fd) -> list[tuple[str, int]]:
    """List name and number of all devices."""
    _, _, answer = _call(control, Command.LIST_DEVICES, "", answers=True)
    found = []
    offset = 0
    while offset + 12 < len(answer):
        dev, step = struct.unpack_from("=QI", answer, offset)
        if dev:
            found.append((_text(answer[offset + 12 : offset + 12 + NAME_LENGTH + 1]), _decode_dev(dev)))
        if not step:
            break
        offset += step
    return found


def dev_create(control: Fd, name: str, uuid: str = "") -> Info:
    """Make a device without a table; devtmpfs has its node, ``/dev/dm-<minor>``, when this returns.

    Raises:
        OSError: EBUSY, the name or uuid is taken.
    """
    return _call(control, Command.DEV_CREATE, name, uuid=uuid)[0]


def dev_remove(control: Fd, which: str | int, *, deferred: bool = False) -> Info:
    """Remove a device, or, when ``deferred`` and it is open, let its last close do it.

    A running udev is told nothing beside: its rules make nothing of a device that goes, and would run a program for it.

    Raises:
        OSError: ENXIO, there is none; EBUSY, it is open and not deferred.
    """
    flags = DmFlag.DEFERRED_REMOVE if deferred else DmFlag.NONE
    return _call(control, Command.DEV_REMOVE, which, flags=flags)[0]


def dev_suspend(control: Fd, which: str | int, *, flags: DmFlag = DmFlag.NONE) -> Info:
    """Stop a device: a mounted file system is synced and frozen (unless SKIP_LOCKFS), its I/O ends (unless NOFLUSH).

    Suspending a suspended device changes nothing.

    Raises:
        OSError: EINVAL, ENXIO, or what freezing the file system gave.
    """
    return _call(control, Command.DEV_SUSPEND, which, flags=flags | DmFlag.SUSPEND)[0]


def dev_resume(control: Fd, which: str | int, *, flags: DmFlag = DmFlag.NONE, udev: UdevFlag = PRIVATE) -> Info:
    """Swap in a loaded table, if there is one, and let the device work again.

    The flags of the suspend it ends (SKIP_LOCKFS, NOFLUSH) are those to give: the kernel suspends by itself to swap.

    Raises:
        OSError: ENXIO, no such device; EINVAL, no table at all, or one the target refuses now.
    """
    return _call(control, Command.DEV_SUSPEND, which, flags=flags & ~DmFlag.SUSPEND, event_nr=_cookie(udev))[0]


def dev_status(control: Fd, which: str | int) -> Info:
    """Tell a device's state.

    Raises:
        OSError: ENXIO, there is none.
    """
    return _call(control, Command.DEV_STATUS, which)[0]


def dev_wait(control: Fd, which: str | int, event_nr: int) -> Info:
    """Wait until the device's event number is beyond ``event_nr``; blocks, in this thread only.

    Raises:
        OSError: ENXIO, there is none (any more).
    """
    return _call(control, Command.DEV_WAIT, which, event_nr=event_nr, answers=True)[0]


def table_load(control: Fd, which: str | int, targets: Iterable[Target], *, read_only: bool = False) -> Info:
    """Load a table into the inactive slot; `dev_resume` makes it live.

    Raises:
        OSError: ENXIO, no such device; EINVAL, ENODATA (a thin id that is not in the pool) and others of the target.
    """
    data = bytearray()
    count = 0
    for target in targets:
        params = os.fsencode(target.params) + b"\0"
        step = (_TARGET.size + len(params) + 7) & ~7
        data += _TARGET.pack(target.start, target.length, 0, step, target.type.encode())
        data += params.ljust(step - _TARGET.size, b"\0")
        count += 1
    flags = DmFlag.READONLY if read_only else DmFlag.NONE
    return _call(control, Command.TABLE_LOAD, which, flags=flags, target_count=count, data=bytes(data))[0]


def table_clear(control: Fd, which: str | int) -> Info:
    """Empty the inactive slot."""
    return _call(control, Command.TABLE_CLEAR, which)[0]


def table_deps(control: Fd, which: str | int) -> list[int]:
    """List the numbers of the devices the live table stands on."""
    _, _, answer = _call(control, Command.TABLE_DEPS, which, answers=True)
    (count,) = struct.unpack_from("=I", answer, 0)
    return [_decode_dev(dev) for dev in struct.unpack_from(f"={count}Q", answer, 8)]


def table_status(control: Fd, which: str | int, *, flags: DmFlag = DmFlag.NOFLUSH) -> tuple[Info, list[Target]]:
    """Tell the status of each target, or with STATUS_TABLE its table line.

    NOFLUSH keeps a thin pool from committing its metadata first, which a status should not do.
    """
    info, count, answer = _call(control, Command.TABLE_STATUS, which, flags=flags, answers=True)
    targets = []
    offset = 0
    for _ in range(count):
        start, length, _status, step, kind = _TARGET.unpack_from(answer, offset)
        end = answer.find(b"\0", offset + _TARGET.size)
        params = answer[offset + _TARGET.size : end if end >= 0 else len(answer)]
        targets.append(Target(start, length, _text(kind), os.fsdecode(params)))
        offset = step  # counted from the start of the answer, unlike in a table that is loaded
    return info, targets


def target_msg(control: Fd, which: str | int, message: str, *, sector: int = 0) -> str:
    """Send a message to the target at a sector, and return its answer, if it gives one.

    Raises:
        OSError: what the target says; EINVAL, it does not know the message.
    """
    data = struct.pack("=Q", sector) + os.fsencode(message) + b"\0"
    info, _, answer = _call(control, Command.TARGET_MSG, which, data=data, answers=True)
    return _text(answer) if DmFlag.DATA_OUT in info.flags else ""
