"""Signals: read from a descriptor, and given their default disposition.

Source: signalfd(2), sigsetops(3), signal(7).
"""

from __future__ import annotations

import ctypes
import os
import struct
from ctypes import c_int, c_size_t, c_void_p

from cowstore._linux._call import bind, bind_syscall, oserror, retry
from cowstore._linux.fd import Descriptor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from cowstore._linux._call import Fd


SI_KERNEL = 128
"""Code of a signal that the kernel sent, such as one for a key pressed at the terminal."""

_INFO_SIZE = 128  # sizeof(struct signalfd_siginfo), whose first three members are signo, errno, code
_HEAD = struct.Struct("=Iii")
_SFD_CLOEXEC, _SFD_NONBLOCK = os.O_CLOEXEC, os.O_NONBLOCK

_rt_sigaction = bind_syscall("rt_sigaction", c_int, c_void_p, c_void_p, c_size_t)
_signalfd = bind("signalfd", c_int, c_void_p, c_int)


def signalfd(signals: Iterable[int]) -> Descriptor:
    """Open a non-blocking descriptor from which the pending ones of these signals are read; they must be blocked.

    Raises:
        OSError: ENOMEM, EMFILE, ENFILE.

    Source: signalfd(2).
    """
    bits = 0
    for signal in signals:
        bits |= 1 << (signal - 1)
    # sigset_t of the C library is 128 bytes long; the kernel reads the first eight.
    words = (ctypes.c_uint64 * 16)(bits)
    fd = retry(_signalfd, -1, ctypes.byref(words), _SFD_CLOEXEC | _SFD_NONBLOCK)
    if fd == -1:
        raise oserror("signalfd(2)")
    return Descriptor(fd)


def rt_sigaction_default(signal: int) -> None:
    """Give a signal its default disposition, also one of the two that the C library keeps to itself.

    Raises:
        OSError: EINVAL, there is no such signal, or it cannot be set.

    Source: sigaction(2); the kernel's structure for this call, all zeros.
    """
    default = ctypes.create_string_buffer(32)
    if _rt_sigaction(signal, default, None, 8) == -1:
        raise oserror("rt_sigaction(2)")


def read_signals(fd: Fd) -> list[tuple[int, int]]:
    """Take the signals that are pending: the number and the code of each; none where there are none.

    Source: signalfd(2).
    """
    try:
        content = os.read(fd if isinstance(fd, int) else fd.fileno(), 32 * _INFO_SIZE)
    except BlockingIOError:
        return []
    found: list[tuple[int, int]] = []
    for start in range(0, len(content), _INFO_SIZE):
        number, _, code = _HEAD.unpack_from(content, start)
        found.append((number, code))
    return found
