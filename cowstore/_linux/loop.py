"""Loop devices: the driver's ioctls, and attaching a file to a free device without a race.

A device is known by its number (``st_rdev``), read from sysfs or from the node: ``loop3`` need not be 7:3, since with
partitions the minor is shifted.

Source: loop(4), ``linux/loop.h``.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import os
import stat
import struct
import time
from dataclasses import dataclass

from cowstore._linux._call import bind, number_of, oserror, retry
from cowstore._linux.fd import Descriptor, open_

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cowstore._linux._call import Fd

CONTROL = "/dev/loop-control"
CONTROL_MAJOR, CONTROL_MINOR = 10, 237
LOOP_MAJOR = 7

LOOP_CLR_FD = 0x4C01
LOOP_GET_STATUS64 = 0x4C05
LOOP_SET_CAPACITY = 0x4C07
LOOP_SET_DIRECT_IO = 0x4C08
LOOP_CONFIGURE = 0x4C0A
LOOP_CTL_GET_FREE = 0x4C82

_INFO = struct.Struct("=5Q4I64s64s32s2Q")
_CONFIG_SIZE = 8 + _INFO.size + 64
# Long enough for a queue of other programs on a busy machine; each round is a fraction of a millisecond.
_ATTACH_SECONDS = 20.0

_GONE = frozenset((errno.ENXIO, errno.ENOENT, errno.ENODEV, errno.EACCES, errno.EROFS, errno.EBUSY))

_ioctl = bind("ioctl", ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)


class LoopFlag(enum.IntFlag):
    """Flags of a loop device. Source: ``LO_FLAGS_*``."""

    NONE = 0
    READ_ONLY = 1
    AUTOCLEAR = 4
    PARTSCAN = 8
    DIRECT_IO = 16


@dataclass(frozen=True, slots=True)
class LoopInfo:
    """What a loop device stands on: the backing file's device (in the kernel's coding) and inode; sizes in bytes."""

    device: int
    inode: int
    offset: int
    size_limit: int
    number: int
    flags: LoopFlag
    file_name: bytes


def ctl_get_free(control: Fd) -> int:
    """Tell the index of a device that is free now, made if need be. It is not reserved.

    Raises:
        OSError: ENOSPC, no more may be made.
    """
    index = retry(_ioctl, number_of(control), LOOP_CTL_GET_FREE, None)
    if index < 0:
        raise oserror("ioctl(2)", detail="LOOP_CTL_GET_FREE")
    return index


def configure(
    device: Fd, file: Fd, *, flags: LoopFlag = LoopFlag.NONE, block_size: int = 0, file_name: bytes = b""
) -> None:
    """Attach a file to a free device in one step.

    ``block_size`` is the logical block size in bytes, 0 for the kernel's choice; ``file_name`` is what losetup shows,
    of which no more than 63 bytes are kept.

    Raises:
        OSError: EBUSY, the device has been taken; EINVAL, or ENOTTY before Linux 5.8.
    """
    info = _INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, flags, file_name[:63], b"", b"", 0, 0)
    config = ctypes.create_string_buffer(struct.pack("=II", number_of(file), block_size) + info, _CONFIG_SIZE)
    if retry(_ioctl, number_of(device), LOOP_CONFIGURE, ctypes.addressof(config)) < 0:
        raise oserror("ioctl(2)", detail="LOOP_CONFIGURE")


def get_status64(device: Fd) -> LoopInfo:
    """Tell what a device stands on.

    Raises:
        OSError: ENXIO, it is free.
    """
    buffer = ctypes.create_string_buffer(_INFO.size)
    if retry(_ioctl, number_of(device), LOOP_GET_STATUS64, ctypes.addressof(buffer)) < 0:
        raise oserror("ioctl(2)", detail="LOOP_GET_STATUS64")
    told = _INFO.unpack(buffer.raw)
    return LoopInfo(told[0], told[1], told[3], told[4], told[5], LoopFlag(told[8]), told[9].partition(b"\0")[0])


def set_capacity(device: Fd) -> None:
    """Take over the backing file's new size."""
    if retry(_ioctl, number_of(device), LOOP_SET_CAPACITY, None) < 0:
        raise oserror("ioctl(2)", detail="LOOP_SET_CAPACITY")


def set_direct_io(device: Fd, *, direct: bool) -> None:
    """Let the device bypass the backing file's page cache, or not.

    Raises:
        OSError: EINVAL, the file system cannot.
    """
    if retry(_ioctl, number_of(device), LOOP_SET_DIRECT_IO, int(direct)) < 0:
        raise oserror("ioctl(2)", detail="LOOP_SET_DIRECT_IO")


def clr_fd(device: Fd) -> None:
    """Detach the file, now or at the last close.

    Raises:
        OSError: ENXIO, the device is free already.
    """
    if retry(_ioctl, number_of(device), LOOP_CLR_FD, None) < 0:
        raise oserror("ioctl(2)", detail="LOOP_CLR_FD")


def device_number(index: int, *, sysfs: str = "/sys") -> int:
    """Read the number of the device of that index from sysfs, never from its name.

    Raises:
        OSError: ENOENT, it has vanished.
    """
    with open(f"{sysfs}/block/loop{index}/dev", encoding="ascii") as file:
        major, _, minor = file.read().strip().partition(":")
    return os.makedev(int(major), int(minor))


def attached(*, sysfs: str = "/sys") -> list[tuple[int, bytes]]:
    """List number and backing file of the devices in use; one that goes away meanwhile is left out."""
    found = []
    for name in sorted(os.listdir(f"{sysfs}/block")):
        if not name.startswith("loop") or not name[4:].isdigit():
            continue
        try:
            with open(f"{sysfs}/block/{name}/loop/backing_file", "rb") as file:
                backing = file.read().removesuffix(b"\n")
            found.append((device_number(int(name[4:]), sysfs=sysfs), backing))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
                raise
    return found


class LoopDevice:
    """A file attached to a loop device, for as long as this object, or anything else, holds the device open.

    The kernel detaches at the last close (autoclear), so a killed owner leaves nothing attached, and a path alone,
    without the descriptor, would be no hold on it.
    """

    __slots__ = ("_descriptor", "dev", "node")

    def __init__(self, descriptor: Descriptor, node: str) -> None:
        self._descriptor = descriptor
        self.node = node
        self.dev = os.fstat(descriptor.fileno()).st_rdev

    def fileno(self) -> int:
        return self._descriptor.fileno()

    def close(self) -> None:
        """Give up this hold; nothing happens the second time."""
        self._descriptor.close()

    def __enter__(self) -> LoopDevice:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_control(path: str = CONTROL) -> Descriptor:
    """Open the control device; raises OSError (ENOENT, no node; EACCES, not root)."""
    return open_(path, os.O_RDWR)


def attach(
    file: Fd,
    *,
    read_only: bool = False,
    direct_io: bool = True,
    file_name: bytes = b"",
    node: Callable[[str, int], str] | None = None,
) -> LoopDevice:
    """Attach a file to a free loop device, however many others do the same.

    To find a free device and to take it are two calls, so one that was taken in between (EBUSY) or removed (ENXIO,
    ENODEV) is no failure: the next is tried. Direct I/O is left out where the file system has none. ``node``, given the
    usual path and number of a device, tells where its node is, if not there.

    Raises:
        OSError: EBUSY after twenty seconds of it; ENOENT, the device's node is missing (the error names it).
    """
    flags = LoopFlag.AUTOCLEAR | (LoopFlag.READ_ONLY if read_only else LoopFlag.NONE)
    if direct_io:
        flags |= LoopFlag.DIRECT_IO
    deadline = time.monotonic() + _ATTACH_SECONDS
    pause = 0.0002
    path = CONTROL if node is None else node(CONTROL, os.makedev(CONTROL_MAJOR, CONTROL_MINOR))
    with open_control(path) as control:
        while True:
            try:
                device, path = _open_index(ctl_get_free(control), read_only=read_only, node=node)
                with device:
                    flags = _configure_direct(device, file, flags, file_name)
                    return LoopDevice(Descriptor(device.detach()), path)
            except OSError as error:
                taken = error.errno in (errno.EBUSY, errno.ENXIO, errno.ENODEV, errno.EAGAIN)
                if not taken or time.monotonic() > deadline:
                    raise
            # Different for each contender, so that they do not meet again.
            time.sleep(pause * (1 + os.urandom(1)[0] / 256))
            pause = min(pause * 1.5, 0.02)


def find_attached(file: Descriptor, *, read_only: bool = False) -> LoopDevice | None:
    """Return a hold on a device that a file is attached to whole; None where there is none.

    Only devices of files with such a name are looked into: one that is opened, if only for a moment, is not given up
    for that moment, which its owner may be waiting for.
    """
    status = os.fstat(file.fileno())
    tail = b"/".join(os.fsencode(os.readlink(f"/proc/self/fd/{file.fileno()}")).split(b"/")[-2:])
    for number, backing in attached():
        if not backing.endswith(tail):
            continue
        try:
            node = "/dev/" + os.path.basename(os.readlink(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}"))
            with open_(node, os.O_RDONLY if read_only else os.O_RDWR) as device:
                # Asked of the open device: it cannot be cleared and given another file any more.
                info = get_status64(device)
                same = info.inode == status.st_ino and info.device == status.st_dev and info.offset == 0
                if same and (read_only or not info.flags & LoopFlag.READ_ONLY):
                    return LoopDevice(Descriptor(device.detach()), node)
        except OSError as error:
            if error.errno not in _GONE:
                raise
    return None


def _open_index(index: int, *, read_only: bool, node: Callable[[str, int], str] | None) -> tuple[Descriptor, str]:
    """Open the device of that index, and make sure that the node is of that device."""
    path = f"/dev/loop{index}"
    wanted = device_number(index)
    if node is not None:
        path = node(path, wanted)
    device = open_(path, os.O_RDONLY if read_only else os.O_RDWR)
    found = os.fstat(device.fileno())
    if not stat.S_ISBLK(found.st_mode) or found.st_rdev != wanted:
        device.close()
        detail = f"is not block device {os.major(wanted)}:{os.minor(wanted)}"
        raise oserror("openat(2)", path, code=errno.ENOENT, detail=detail)
    return device, path


def _configure_direct(device: Fd, file: Fd, flags: LoopFlag, file_name: bytes) -> LoopFlag:
    """Attach, without direct I/O where that is refused; returns the flags that worked."""
    try:
        configure(device, file, flags=flags, file_name=file_name)
    except OSError as error:
        if error.errno != errno.EINVAL or LoopFlag.DIRECT_IO not in flags:
            raise
        flags &= ~LoopFlag.DIRECT_IO
        configure(device, file, flags=flags, file_name=file_name)
    return flags
