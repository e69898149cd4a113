"""Filters of system calls: classic BPF programs that the kernel runs at the entry of each.

Source: seccomp(2); include/uapi/linux/seccomp.h, include/uapi/linux/filter.h.
"""

from __future__ import annotations

import ctypes
from ctypes import c_uint, c_ushort, c_void_p

from cowstore._linux._call import bind_syscall, oserror, retry

SET_MODE_FILTER = 1

RET_KILL_PROCESS = 0x80000000
RET_KILL_THREAD = 0x00000000
RET_TRAP = 0x00030000
RET_ERRNO = 0x00050000  # with the number in the low 16 bits
RET_TRACE = 0x7FF00000
RET_LOG = 0x7FFC0000
RET_ALLOW = 0x7FFF0000

INSTRUCTION_SIZE = 8
MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS


class struct_sock_fprog(ctypes.Structure):
    """The third argument of seccomp(2): a program and its length in instructions."""

    _fields_ = [("len", c_ushort), ("filter", c_void_p)]


_seccomp = bind_syscall("seccomp", c_uint, c_uint, c_void_p)


def set_mode_filter(program: bytes, flags: int = 0) -> None:
    """Put the calling thread, and all it starts, behind one more filter, for ever.

    Args:
        program: instructions of eight bytes, in this machine's byte order.
        flags: SECCOMP_FILTER_FLAG_* bits.

    Raises:
        OSError: EACCES, neither CAP_SYS_ADMIN nor no_new_privs; EINVAL, no valid program; ENOSYS, the kernel has no
            filters, or no number of the call is known on this machine.

    Source: seccomp(2), SECCOMP_SET_MODE_FILTER.
    """
    content = ctypes.create_string_buffer(program, len(program))
    argument = struct_sock_fprog(len(program) // INSTRUCTION_SIZE, ctypes.addressof(content))
    if retry(_seccomp, SET_MODE_FILTER, flags, ctypes.byref(argument)) == -1:
        raise oserror("seccomp(2)", detail="SECCOMP_SET_MODE_FILTER")
