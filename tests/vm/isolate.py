"""Runs a command that cannot write to this machine's files nor outlive its caller: a script of its own, stdlib only.

``isolate.py [--writable PATH]... [--memory PATH]... [--sparse PATH=SIZE]... -- COMMAND...``
As root, the command gets its own mount and pid
namespaces in which every mount is read-only but the given paths; a guest kernel that serves the host's files to its
root user could otherwise be asked to remount them writable.  An ordinary user's guest is stopped by the permissions.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys

CLONE_NEWNS, CLONE_NEWPID = 0x00020000, 0x20000000
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
PR_SET_PDEATHSIG = 1
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
SYS_MOUNT_SETATTR = 442
MOUNT_ATTR_RDONLY = 1

libc = ctypes.CDLL(None, use_errno=True)


class MountAttributes(ctypes.Structure):
    """struct mount_attr."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


def check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str | None, flags: int) -> None:
    code = libc.mount(
        os.fsencode(source), os.fsencode(target), kind.encode() if kind else None, ctypes.c_ulong(flags), None
    )
    check(code, f"mount {target}")


def set_read_only(path: str, value: bool, *, recursive: bool) -> None:
    attributes = MountAttributes(**{"attr_set" if value else "attr_clr": MOUNT_ATTR_RDONLY})
    code = libc.syscall(
        ctypes.c_long(SYS_MOUNT_SETATTR), ctypes.c_long(AT_FDCWD), ctypes.c_char_p(os.fsencode(path)),
        ctypes.c_ulong(AT_RECURSIVE if recursive else 0), ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )  # fmt: skip
    check(code, f"mount_setattr {path}")


def restrict(writable: list[str], memory: list[str]) -> None:
    """Make every mount of the new namespace read-only, save the given paths and memory file systems at ``memory``."""
    check(libc.unshare(CLONE_NEWNS | CLONE_NEWPID), "unshare")
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    for path in writable:
        mount(path, path, None, MS_BIND)
    for path in memory:
        mount("tmpfs", path, "tmpfs", 0)
    set_read_only("/", True, recursive=True)
    for path in [*writable, *memory]:
        set_read_only(path, False, recursive=False)


def exit_like(status: int) -> int:
    return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def supervise(command: list[str], *, separate: bool) -> int:
    """Run the command as the child of a process 1 that reaps, so that nothing of it is left when either ends."""
    first = os.fork()
    if first == 0:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if separate:
            mount("proc", "/proc", "proc", 0)
        child = os.fork()
        if child == 0:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            os.execvp(command[0], command)
        while True:
            pid, status = os.wait()
            if pid == child:
                os._exit(exit_like(status))
    return exit_like(os.waitpid(first, 0)[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--writable", action="append", default=[])
    parser.add_argument("--memory", action="append", default=[])
    parser.add_argument("--sparse", action="append", default=[], metavar="PATH=SIZE", help="made below --memory")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    root = os.geteuid() == 0
    if root:
        restrict(options.writable, options.memory)
    for item in options.sparse:
        path, _, size = item.rpartition("=")
        with open(path, "wb") as file:
            file.truncate(int(size))
    return supervise(options.command, separate=root)


if __name__ == "__main__":
    sys.exit(main())
