"""How every other module here reaches the kernel: libc, raw system calls, and the one way an error is made.

A prototype is bound once, at import, so that no thread ever sees another thread's argument types, and integers are
never cut to a C int by a variadic call. errno is ctypes' own per-thread copy. ctypes does not repeat a call that a
signal interrupted: `retry` does.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from functools import partial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol, TypeAlias

    class HasFileno(Protocol):
        def fileno(self) -> int: ...

    #: A descriptor, owned or borrowed.
    Fd: TypeAlias = int | HasFileno
    #: A path as the kernel takes it: every byte but NUL.
    Path: TypeAlias = str | bytes

AT_FDCWD = -100

#: Numbers of the calls younger than the C libraries we must run on. From 403 on all architectures share one table
#: (alpha excepted); what is older has a symbol in glibc and musl and is called by it, but for the few in `_OLDER`.
NUMBERS = {
    "pidfd_send_signal": 424,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_open": 434,
    "clone3": 435,
    "openat2": 437,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
    "quotactl_fd": 443,
}
_OLDER = {
    "x86_64": {"rt_sigaction": 13, "renameat2": 316, "seccomp": 317},
    "aarch64": {"rt_sigaction": 134, "renameat2": 276, "seccomp": 277},
    "riscv64": {"rt_sigaction": 134, "renameat2": 276, "seccomp": 277},
}

# CDLL(None) finds the C library already in this process, glibc or musl alike; a name such as libc.so.6 does not.
libc = ctypes.CDLL(None, use_errno=True)


def call_number(call: str, machine: str | None = None) -> int:
    """Tell the number of a system call.

    Args:
        call: the call's name in the man page.
        machine: as in `uname -m`; this machine by default.

    Raises:
        OSError: ENOSYS, no number is known for it on that machine.

    Source: the kernel's scripts/syscall.tbl, arch/x86/entry/syscalls/syscall_64.tbl.
    """
    number = NUMBERS.get(call)
    if number is None:
        # A 32-bit interpreter on a 64-bit kernel uses another table; it gets no number rather than a wrong one.
        table = _OLDER.get(machine or os.uname().machine, {}) if sys.maxsize > 2**32 else {}
        number = table.get(call)
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), call)
    return number


def bind(call: str, *argtypes: Any) -> Callable[..., int]:
    """Bind a C library function that returns an int and sets errno; argtypes are ctypes types."""
    function = libc[call]  # indexing, unlike an attribute, makes a new object: nobody else can change its types
    function.argtypes = argtypes
    function.restype = ctypes.c_int
    return function


def bind_syscall(call: str, *argtypes: Any) -> Callable[..., int]:
    """Bind a raw system call whose arguments are of the given ctypes types and that returns a long.

    On a machine without a number for it the result raises `OSError` (ENOSYS) when called, as an old kernel would.
    """
    function = libc["syscall"]
    function.argtypes = (ctypes.c_long, *argtypes)
    function.restype = ctypes.c_long
    try:
        number = call_number(call)
    except OSError:
        return lambda *_arguments: call_number(call)
    return partial(function, number)


def retry(function: Callable[..., int], *arguments: Any) -> int:
    """Call until no signal interrupts it; returns -1 with errno set where it fails for another reason."""
    while True:
        result = function(*arguments)
        if result != -1 or ctypes.get_errno() != errno.EINTR:
            return result


def oserror(call: str, *names: Path | int | None, detail: str = "", code: int | None = None) -> OSError:
    """Make the error of the call that has just failed in this thread.

    Args:
        call: the call with its man section, `fsopen(2)`; it becomes the note.
        names: up to two paths (or descriptors) the call was about; None and "" stand for none.
        detail: what the note says after the call.
        code: an errno; by default ctypes' copy of this thread's.

    Returns:
        the error, to be raised by the caller.
    """
    number = ctypes.get_errno() if code is None else code
    given = [name for name in names if (name != AT_FDCWD if isinstance(name, int) else name)]
    error = OSError(number, os.strerror(number), *given[:1], *([None, given[1]] if len(given) == 2 else []))
    error.add_note(f"{call} {detail}" if detail else call)
    return error


def path_bytes(path: Path, call: str) -> bytes:
    """Encode a path or another string for the kernel.

    Raises:
        OSError: EINVAL, it holds a NUL. ctypes would hand it over and the kernel would use what stands before.
    """
    encoded = path if type(path) is bytes else os.fsencode(path)
    if b"\0" in encoded:
        raise oserror(call, path, detail="a NUL cannot be part of it", code=errno.EINVAL)
    return encoded


def number_of(fd: Fd | None) -> int:
    """Tell the number behind a descriptor; None is the current directory (AT_FDCWD)."""
    if fd is None:
        return AT_FDCWD
    return fd if isinstance(fd, int) else fd.fileno()
