"""The floors: the system calls that a step cannot do without, through ctypes, with nothing around them.

Each function returns the step; the directory it works in is open as long as the step is there.
"""

from __future__ import annotations

import ctypes
import os
import time
from ctypes import c_char_p, c_int, c_uint, c_ulong, c_void_p

from cowstore._linux._call import bind, bind_syscall
from cowstore._linux.fd import open_
from cowstore._linux.files import FICLONE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cowstore._linux.fd import Descriptor
    from cowstore.model import Mount

_mkdirat = bind("mkdirat", c_int, c_char_p, c_uint)
_unlinkat = bind("unlinkat", c_int, c_char_p, c_int)
_mount = bind("mount", c_char_p, c_char_p, c_char_p, c_ulong, c_char_p)
_umount2 = bind("umount2", c_char_p, c_int)
_close = bind("close", c_int)
_ioctl = bind("ioctl", c_int, c_ulong, c_void_p)
_fsopen = bind_syscall("fsopen", c_char_p, c_uint)
_fsconfig = bind_syscall("fsconfig", c_int, c_uint, c_char_p, c_char_p, c_int)
_fsmount = bind_syscall("fsmount", c_int, c_uint, c_uint)
_move_mount = bind_syscall("move_mount", c_int, c_char_p, c_int, c_char_p, c_uint)

_AT_REMOVEDIR = 0x200
_SET_FLAG, _SET_STRING, _CREATE = 0, 1, 6
_AT_FDCWD = -100


def _ok(result: int) -> int:
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def overlay_cycle(directory: str, lower: str) -> Callable[[], None]:
    """Return one life of a throw-away overlay in bare calls: make its directories, mount, unmount, remove.

    :param directory: an empty directory. :param lower: the directory below.
    """
    place = open_(directory, os.O_PATH | os.O_DIRECTORY)
    top, point = (os.fsencode(os.path.join(directory, name)) for name in ("1", "point"))
    below = os.fsencode(lower)
    settings = (
        (_lower_option(below, os.fsencode(directory)), below),
        (b"upperdir", top + b"/fs"),
        (b"workdir", top + b"/work"),
    )

    def cycle(fd: int = place.fileno(), _held: object = place) -> None:
        for name in (b"1", b"1/fs", b"1/work", b"point"):
            _ok(_mkdirat(fd, name, 0o755))
        context = _ok(_fsopen(b"overlay", 1))
        for name, value in settings:
            _ok(_fsconfig(context, _SET_STRING, name, value, 0))
        _ok(_fsconfig(context, _SET_FLAG, b"volatile", None, 0))
        _ok(_fsconfig(context, _CREATE, None, None, 0))
        tree = _ok(_fsmount(context, 1, 0))
        _close(context)
        _ok(_move_mount(tree, b"", _AT_FDCWD, point, 4))
        _close(tree)
        _ok(_umount2(point, 8))
        _ok(_unlinkat(fd, b"point", _AT_REMOVEDIR))
        _ok(_unlinkat(fd, b"1/work/work/incompat/volatile/dirty", 0))
        for name in (b"1/work/work/incompat/volatile", b"1/work/work/incompat", b"1/work/work"):
            _ok(_unlinkat(fd, name, _AT_REMOVEDIR))
        for name in (b"1/work", b"1/fs", b"1"):
            _ok(_unlinkat(fd, name, _AT_REMOVEDIR))

    return cycle


def _lower_option(*lowers: bytes) -> bytes:
    """Return the option for one layer below: kernels before 6.7 take all of them as one.

    :param lowers: two directories that can be layers; only an overlay of them, never mounted, tells.
    """
    context = _ok(_fsopen(b"overlay", 1))
    try:
        for lower in lowers:
            _fsconfig(context, _SET_STRING, b"lowerdir+", lower, 0)
        return b"lowerdir" if _fsconfig(context, _CREATE, None, None, 0) == -1 else b"lowerdir+"
    finally:
        _close(context)


def directories_cycle(directory: str) -> Callable[[], None]:
    """Return what prepare and remove of an overlay snapshot cannot do without: its three directories, and their end."""
    place = open_(directory, os.O_PATH | os.O_DIRECTORY)

    def cycle(fd: int = place.fileno(), _held: object = place) -> None:
        for name in (b"1", b"1/fs", b"1/work"):
            _ok(_mkdirat(fd, name, 0o755))
        for name in (b"1/work", b"1/fs", b"1"):
            _ok(_unlinkat(fd, name, _AT_REMOVEDIR))

    return cycle


def btrfs_cycle(directory: str) -> Callable[[], None]:
    """Return the two ioctls of a Btrfs snapshot's life: made from a subvolume, and destroyed.

    :param directory: an empty directory of a Btrfs.
    """
    from cowstore._linux import _btrfs_abi as abi
    from cowstore._linux import btrfs

    place = open_(directory, os.O_RDONLY | os.O_DIRECTORY)
    btrfs.subvol_create(place, "base")
    base = open_("base", os.O_RDONLY | os.O_DIRECTORY, dir_fd=place)
    make = abi.btrfs_ioctl_vol_args_v2(fd=base.fileno(), name=b"child")
    end = abi.btrfs_ioctl_vol_args(name=b"child")
    made, ended = ctypes.byref(make), ctypes.byref(end)

    def cycle(fd: int = place.fileno(), _held: object = (place, base)) -> None:
        _ok(_ioctl(fd, abi.IOC_SNAP_CREATE_V2, made))
        _ok(_ioctl(fd, abi.IOC_SNAP_DESTROY, ended))

    return cycle


def clone_cycle(directory: str) -> Callable[[], None]:
    """Return a file of 1 MiB cloned and removed.

    :param directory: an empty directory of a file system with reflinks. Source: ioctl_ficlone(2).
    """
    place = open_(directory, os.O_PATH | os.O_DIRECTORY)
    with open(os.path.join(directory, "origin"), "wb") as file:
        file.write(os.urandom(1 << 20))
        file.flush()
        os.fsync(file.fileno())
    origin = open_("origin", os.O_RDONLY, dir_fd=place)

    def cycle(fd: int = place.fileno(), origin: Descriptor = origin, _held: object = place) -> None:
        clone = os.open("clone", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=fd)
        _ok(_ioctl(clone, FICLONE, origin.fileno()))
        _close(clone)
        _ok(_unlinkat(fd, b"clone", 0))

    return cycle


def thin_prepare(pool: str, origin: int) -> Callable[[], float]:
    """Return the two messages by which a thin snapshot is made, create_snap and set_transaction_id.

    :param pool: name of the pool's device. :param origin: id of the thin device that a snapshot is made of.
    Source: Documentation/admin-guide/device-mapper/thin-provisioning.rst.
    """
    from cowstore._linux import dm

    control = dm.open_control()
    _, (target,) = dm.table_status(control, pool)
    transaction = target.params.split()[0]
    messages = (f"create_snap {_FOREIGN_ID} {origin}", f"set_transaction_id {transaction} {transaction}")
    requests = [_message(pool, text) for text in messages]
    number = dm.request(dm.Command.TARGET_MSG)

    def cycle(fd: int = control.fileno(), _held: object = control) -> float:
        # The kernel answers in the same memory.
        buffers = [ctypes.create_string_buffer(request, len(request)) for request in requests]
        started = time.perf_counter()
        for buffer in buffers:
            _ok(_ioctl(fd, number, ctypes.addressof(buffer)))
        taken = time.perf_counter() - started
        dm.target_msg(control, pool, f"delete {_FOREIGN_ID}")
        return taken

    return cycle


_FOREIGN_ID = (1 << 24) - 2
"""Thin id that no store comes to use."""


def _message(pool: str, text: str) -> bytes:
    """Return the memory that device-mapper's ioctl for a message is given. Source: linux/dm-ioctl.h."""
    from cowstore._linux import dm

    header, version = dm._HEADER, dm._VERSION  # noqa: SLF001  # the same bytes, without what is around them
    data = bytes(8) + text.encode() + b"\0"
    size = header.size + len(data)
    return header.pack(*version, size, header.size, 0, 0, 0, 0, 0, 0, pool.encode(), b"") + data


def mount_steps(steps: Sequence[Mount], point: str) -> Callable[[], float]:
    """Return the bare mount(2) of the first of *steps* and the remounts of the others, at *point*.

    Branches are named by descriptors that are open already, as their paths may be too long for one call. The unmounting
    is not part of what it tells.
    """
    target = os.fsencode(point)
    held: list[Descriptor] = []

    def short(name: bytes, value: bytes) -> bytes:
        path, mark, permission = value.partition(b"=")
        if not mark or not path.startswith(b"/"):
            return b"=".join(filter(None, (name, value)))
        held.append(open_(path, os.O_PATH | os.O_DIRECTORY))
        return b"%s=/proc/self/fd/%d=%s" % (name, held[-1].fileno(), permission)

    calls = [
        (step.source, step.type.encode(), int(step.flags), b",".join(short(*pair) for pair in step.options))
        for step in steps
    ]

    def cycle(_held: object = held) -> float:
        started = time.perf_counter()
        for source, kind, flags, data in calls:
            _ok(_mount(source, target, kind, flags, data))
        taken = time.perf_counter() - started
        _ok(_umount2(target, 0))
        return taken

    return cycle
