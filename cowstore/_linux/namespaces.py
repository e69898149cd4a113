"""Namespaces, and processes held by descriptor.

Source: unshare(2), setns(2), clone(2), sethostname(2), pidfd_open(2), pidfd_send_signal(2), namespaces(7).
"""

from __future__ import annotations

import ctypes
import errno
import operator
from ctypes import c_char_p, c_int, c_long, c_size_t, c_uint, c_uint64, c_void_p
from functools import partial

from cowstore._linux._call import bind, bind_syscall, call_number, number_of, oserror, retry
from cowstore._linux._flags import Flags
from cowstore._linux.fd import Descriptor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cowstore._linux._call import Fd


class CloneFlag(Flags):
    """For the flags arguments of `unshare`, `setns` and `clone3`; PIDFD and what follows it are for `clone3` alone."""

    NONE = 0
    NEWTIME = 0x80
    FS = 0x200
    NEWNS = 0x20000
    NEWCGROUP = 0x2000000
    NEWUTS = 0x4000000
    NEWIPC = 0x8000000
    NEWUSER = 0x10000000
    NEWPID = 0x20000000
    NEWNET = 0x40000000
    PIDFD = 0x1000
    CLEAR_SIGHAND = 0x100000000
    INTO_CGROUP = 0x200000000


class struct_clone_args(ctypes.Structure):
    """The argument of clone3(2), as of Linux 5.7."""

    _fields_ = [
        ("flags", c_uint64),
        ("pidfd", c_uint64),
        ("child_tid", c_uint64),
        ("parent_tid", c_uint64),
        ("exit_signal", c_uint64),
        ("stack", c_uint64),
        ("stack_size", c_uint64),
        ("tls", c_uint64),
        ("set_tid", c_uint64),
        ("set_tid_size", c_uint64),
        ("cgroup", c_uint64),
    ]


#: CLONE_ARGS_SIZE_VER0, all that Linux 5.3 knows; the whole structure is only given where cgroup is used.
_CLONE_ARGS_SIZE_VER0 = 64
_SIGCHLD = 17  # signal.SIGCHLD everywhere but on alpha, mips and sparc; importing signal costs more than this line
#: What leaves the child memory, descriptors and a directory of its own, as after fork.
_FORK_LIKE = sum(flag.value for flag in CloneFlag) - 0x200  # FS; a sum, since `|` of flags costs 10 us each

_unshare = bind("unshare", c_int)
_setns = bind("setns", c_int, c_int)
_sethostname = bind("sethostname", c_char_p, c_size_t)
_pidfd_open = bind_syscall("pidfd_open", c_int, c_uint)
_pidfd_getfd = bind_syscall("pidfd_getfd", c_int, c_int, c_uint)
_pidfd_send_signal = bind_syscall("pidfd_send_signal", c_int, c_int, c_void_p, c_uint)
# Through PyDLL the GIL stays held: a child born while another thread has it could never take it.
_clone3 = ctypes.PyDLL(None, use_errno=True)["syscall"]
_clone3.argtypes = (c_long, c_void_p, c_size_t)
_clone3.restype = c_long
_before_fork, _after_fork_parent, _after_fork_child = (
    ctypes.pythonapi[name] for name in ("PyOS_BeforeFork", "PyOS_AfterFork_Parent", "PyOS_AfterFork_Child")
)
_before_fork.restype = _after_fork_parent.restype = _after_fork_child.restype = None
_call_it: Callable[[Callable[[], Any]], Any] = operator.call


def unshare(flags: CloneFlag) -> None:
    """Give the calling thread namespaces (NEWPID: its next children) or, with FS, a current directory of its own.

    Raises:
        OSError: EPERM; EINVAL, NEWUSER in a process with other threads, or NEWNS in one while FS is still shared
            with them; ENOSPC, a limit on namespaces; others as unshare(2).

    Source: unshare(2).
    """
    if retry(_unshare, flags) == -1:
        raise oserror("unshare(2)", detail=_named(flags))


def setns(fd: Fd, flags: CloneFlag = CloneFlag.NONE) -> None:
    """Put the calling thread into a namespace.

    Args:
        fd: a file of /proc/PID/ns; or a pidfd, whose namespaces named by flags are joined (since Linux 5.8).
        flags: the type fd has to be of; NONE is any.

    Raises:
        OSError: EPERM; EINVAL, fd is of another type, or a mount namespace and the thread shares its current directory
            with another (`unshare` FS first); others as setns(2).

    Source: setns(2).
    """
    number = number_of(fd)
    if retry(_setns, number, flags) == -1:
        raise oserror("setns(2)", number, detail=_named(flags))


def sethostname(name: str | bytes) -> None:
    """Set the host name of this UTS namespace.

    Args:
        name: at most 64 bytes.

    Raises:
        OSError: EPERM; EINVAL, it is too long.

    Source: sethostname(2).
    """
    encoded = name if isinstance(name, bytes) else name.encode(errors="surrogateescape")
    if retry(_sethostname, encoded, len(encoded)) == -1:
        raise oserror("sethostname(2)", detail=repr(name))


def pidfd_open(pid: int, flags: int = 0) -> Descriptor:
    """Open a process; readable once it has ended, never another process that got its number.

    Args:
        pid: a child of the caller, or one whose number cannot be reused meanwhile.
        flags: 0, or os.PIDFD_NONBLOCK (os.O_NONBLOCK).

    Raises:
        OSError: ESRCH, there is none; ENOSYS, Linux before 5.3.

    Source: pidfd_open(2).
    """
    fd = retry(_pidfd_open, pid, flags)
    if fd == -1:
        raise oserror("pidfd_open(2)", detail=f"process {pid}")
    return Descriptor(fd)


def pidfd_send_signal(pidfd: Fd, signal: int) -> None:
    """Send a signal to the process behind a pidfd; 0 only asks whether one could.

    Raises:
        OSError: ESRCH, it has ended and was waited for; EPERM.

    Source: pidfd_send_signal(2).
    """
    if retry(_pidfd_send_signal, number_of(pidfd), signal, None, 0) == -1:
        raise oserror("pidfd_send_signal(2)", detail=f"signal {signal}")


def pidfd_getfd(pidfd: Fd, target: int) -> Descriptor:
    """Duplicate a descriptor of the process behind a pidfd.

    Args:
        pidfd: the process, which the caller may trace.
        target: the number of the descriptor there.

    Raises:
        OSError: EBADF, there is none of that number; EPERM; ESRCH, it has ended; ENOSYS, Linux before 5.6.

    Source: pidfd_getfd(2).
    """
    fd = retry(_pidfd_getfd, number_of(pidfd), target, 0)
    if fd == -1:
        raise oserror("pidfd_getfd(2)", detail=f"descriptor {target}")
    return Descriptor(fd)


def clone3(flags: CloneFlag, *, cgroup_fd: Fd | None = None) -> tuple[int, Descriptor | None]:
    """Fork, with the child in new namespaces, in a cgroup, or held by a pidfd from its first instruction.

    Like `os.fork` to Python (hooks run, locks are made anew, the child has this thread only), but not to the C library:
    its own handlers do not run. With other threads that are in C code right now, the child may wait for ever for a lock
    of malloc; let it do little before it execs, or fork where no other thread runs.

    Args:
        flags: namespaces, PIDFD, CLEAR_SIGHAND; whatever shares something is refused.
        cgroup_fd: a directory of a cgroup v2 hierarchy the child is born in (sets INTO_CGROUP; since Linux 5.7).

    Returns:
        0 and None in the child; in the parent the child's number (as it sees it) and, with PIDFD, its pidfd.

    Raises:
        OSError: EINVAL, a flag is refused; ENOSYS, Linux before 5.3 or a seccomp filter that wants `os.fork` used;
            EAGAIN, ENOMEM, ENOSPC, a limit; EACCES, EBUSY, EOPNOTSUPP about the cgroup; others as clone(2).

    Source: clone(2).
    """
    if flags & ~_FORK_LIKE:
        raise oserror("clone3(2)", detail=f"{_named(flags)}: not all of that is fork-like", code=errno.EINVAL)
    pidfd = c_int(-1)
    arguments = struct_clone_args(flags=flags, exit_signal=_SIGCHLD)
    if flags & CloneFlag.PIDFD:
        arguments.pidfd = ctypes.addressof(pidfd)
    size = _CLONE_ARGS_SIZE_VER0
    if cgroup_fd is not None:
        arguments.flags |= CloneFlag.INTO_CGROUP
        arguments.cgroup = number_of(cgroup_fd)
        size = ctypes.sizeof(arguments)
    pid = _fork_by(partial(_clone3, call_number("clone3"), ctypes.addressof(arguments), size))
    if pid == -1:
        raise oserror("clone3(2)", detail=_named(flags))
    return pid, Descriptor(pidfd.value) if pid and flags & CloneFlag.PIDFD else None


def _fork_by(clone: Callable[[], int]) -> int:
    """Do what `os.fork` does around fork(2) around clone; -1 with errno set where it fails.

    The interpreter looks for requests of other threads ("drop the GIL") and for signals after every call it makes. In
    the child, before PyOS_AfterFork_Child, such a request is a memory of a thread that is not there: obeyed, it waits
    for ever. So nothing may be interpreted between the three; unpacking a map makes the calls without the interpreter,
    and neither unpacking nor comparing looks for requests.
    """
    steps: tuple[Callable[[], Any], ...] = (_before_fork, clone)
    _, pid = map(_call_it, steps)
    if pid == 0:
        _after_fork_child()
        return 0
    _after_fork_parent()
    return int(pid)


def _named(flags: CloneFlag) -> str:
    """Name the flags for a note."""
    return CloneFlag(flags).name or ""
