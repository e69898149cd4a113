"""The capability sets of the calling thread.

Source: capabilities(7), capget(2); include/uapi/linux/capability.h.
"""

from __future__ import annotations

import ctypes
import errno
from ctypes import c_int, c_uint32, c_void_p

from cowstore._linux import prctl
from cowstore._linux._call import bind, oserror, retry
from cowstore._linux._flags import Numbers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class Cap(Numbers):
    """A capability; a set of them is `mask`ed into an int with bit 1 << cap. Later kernels may know more."""

    CHOWN = 0
    DAC_OVERRIDE = 1
    DAC_READ_SEARCH = 2
    FOWNER = 3
    FSETID = 4
    KILL = 5
    SETGID = 6
    SETUID = 7
    SETPCAP = 8
    LINUX_IMMUTABLE = 9
    NET_BIND_SERVICE = 10
    NET_BROADCAST = 11
    NET_ADMIN = 12
    NET_RAW = 13
    IPC_LOCK = 14
    IPC_OWNER = 15
    SYS_MODULE = 16
    SYS_RAWIO = 17
    SYS_CHROOT = 18
    SYS_PTRACE = 19
    SYS_PACCT = 20
    SYS_ADMIN = 21
    SYS_BOOT = 22
    SYS_NICE = 23
    SYS_RESOURCE = 24
    SYS_TIME = 25
    SYS_TTY_CONFIG = 26
    MKNOD = 27
    LEASE = 28
    AUDIT_WRITE = 29
    AUDIT_CONTROL = 30
    SETFCAP = 31
    MAC_OVERRIDE = 32
    MAC_ADMIN = 33
    SYSLOG = 34
    WAKE_ALARM = 35
    BLOCK_SUSPEND = 36
    AUDIT_READ = 37
    PERFMON = 38
    BPF = 39
    CHECKPOINT_RESTORE = 40


class struct_user_cap_header(ctypes.Structure):
    """The first argument of capget(2) and capset(2)."""

    _fields_ = [("version", c_uint32), ("pid", c_int)]


class struct_user_cap_data(ctypes.Structure):
    """Half of the second argument of capget(2) and capset(2): 32 capabilities."""

    _fields_ = [("effective", c_uint32), ("permitted", c_uint32), ("inheritable", c_uint32)]


_LINUX_CAPABILITY_VERSION_3 = 0x20080522

_capget = bind("capget", c_void_p, c_void_p)
_capset = bind("capset", c_void_p, c_void_p)


def mask(caps: Iterable[int]) -> int:
    """Make the int that stands for a set of capabilities."""
    bits = 0
    for cap in caps:
        bits |= 1 << cap
    return bits


def capget(pid: int = 0) -> tuple[int, int, int]:
    """Read the capability sets of a thread; 0 is the calling one.

    Returns:
        effective, permitted and inheritable as masks.

    Raises:
        OSError: ESRCH, there is no such thread.

    Source: capget(2).
    """
    header = struct_user_cap_header(_LINUX_CAPABILITY_VERSION_3, pid)
    data = (struct_user_cap_data * 2)()
    if retry(_capget, ctypes.byref(header), ctypes.byref(data)) == -1:
        raise oserror("capget(2)", detail=f"thread {pid}")
    low, high = data
    return (
        low.effective | high.effective << 32,
        low.permitted | high.permitted << 32,
        low.inheritable | high.inheritable << 32,
    )


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set the capability sets of the calling thread.

    Args:
        effective: mask of what it has in force; a subset of permitted.
        permitted: mask of what it may put in force; what is not in it now cannot be added.
        inheritable: mask of what goes on through execve to a program that has the same in its file.

    Raises:
        OSError: EPERM, more was asked for than may be had.

    Source: capset(2).
    """
    header = struct_user_cap_header(_LINUX_CAPABILITY_VERSION_3, 0)
    data = (struct_user_cap_data * 2)()
    for half, shift in zip(data, (0, 32), strict=True):
        half.effective = effective >> shift & 0xFFFFFFFF
        half.permitted = permitted >> shift & 0xFFFFFFFF
        half.inheritable = inheritable >> shift & 0xFFFFFFFF
    if retry(_capset, ctypes.byref(header), ctypes.byref(data)) == -1:
        raise oserror("capset(2)", detail=f"effective {effective:#x} permitted {permitted:#x}")


def bounding_set() -> int:
    """Read the bounding set of the calling thread as a mask, with all the capabilities this kernel knows.

    Raises:
        OSError: as prctl(2).
    """
    bits = 0
    for cap in range(64):
        try:
            held = prctl.capbset_read(cap)
        except OSError as error:
            if error.errno == errno.EINVAL:  # the first one the kernel does not know
                break
            raise
        bits |= held << cap
    return bits


def bounding_drop(caps: int) -> None:
    """Take every capability of a mask from the bounding set of the calling thread; what is not in it is no error.

    Raises:
        OSError: EPERM, CAP_SETPCAP is missing. Those of a lower number are gone by then.
    """
    left = bounding_set() & caps
    for cap in range(left.bit_length()):
        if left >> cap & 1:
            prctl.capbset_drop(cap)


def ambient_clear() -> None:
    """Empty the ambient set of the calling thread.

    Raises:
        OSError: as prctl(2).
    """
    prctl.cap_ambient_clear_all()
