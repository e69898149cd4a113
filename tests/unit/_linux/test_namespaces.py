"""Forking by clone3, and processes held by descriptor."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import select
import signal
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from cowstore._linux import namespaces
from cowstore._linux.namespaces import CloneFlag, clone3, pidfd_open, pidfd_send_signal
from tests.unit._linux.child import end_child, in_child

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_structure_and_flags_are_those_of_the_header() -> None:
    assert ctypes.sizeof(namespaces.struct_clone_args) == 88
    assert namespaces.struct_clone_args.set_tid.offset == namespaces._CLONE_ARGS_SIZE_VER0 == 64
    assert namespaces.struct_clone_args.cgroup.offset == 80
    assert signal.SIGCHLD == namespaces._SIGCHLD
    assert {name: flag.value for name, flag in CloneFlag.__members__.items()} == {
        "NONE": 0,
        "NEWTIME": 0x00000080,
        "FS": 0x00000200,
        "PIDFD": 0x00001000,
        "NEWNS": 0x00020000,
        "NEWCGROUP": 0x02000000,
        "NEWUTS": 0x04000000,
        "NEWIPC": 0x08000000,
        "NEWUSER": 0x10000000,
        "NEWPID": 0x20000000,
        "NEWNET": 0x40000000,
        "CLEAR_SIGHAND": 0x100000000,
        "INTO_CGROUP": 0x200000000,
    }
    assert sum(flag.value for flag in CloneFlag) - CloneFlag.FS == namespaces._FORK_LIKE


@contextlib.contextmanager
def busy_thread() -> Iterator[None]:
    """Another thread that wants the GIL all the time, and says so as often as it can."""
    stop = threading.Event()

    def spin() -> None:
        count = 0
        while not stop.is_set():
            count += 1

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        thread.join()


def test_fifty_children_beside_a_busy_thread() -> None:
    """A child that obeyed the other thread's request for the GIL would wait for a thread it does not have."""

    def work() -> None:
        assert sum(range(1000)) == 499500
        assert threading.active_count() == 1
        assert threading.current_thread() is threading.main_thread()

    with busy_thread():
        for _ in range(50):
            pid, pidfd = clone3(CloneFlag.PIDFD)
            if pid == 0:
                end_child(work)
            assert pidfd is not None
            with pidfd:
                ended, _, _ = select.select([pidfd], [], [], 20)
                if not ended:
                    pidfd_send_signal(pidfd, signal.SIGKILL)
                _, status = os.waitpid(pid, 0)
            assert os.waitstatus_to_exitcode(status) == 0


def test_the_child_is_python_s() -> None:
    """Hooks of os.register_at_fork run, a thread can be started, another child can be forked."""
    hooks: list[str] = []
    os.register_at_fork(
        before=lambda: hooks.append("before"),
        after_in_parent=lambda: hooks.append("parent"),
        after_in_child=lambda: hooks.append("child"),
    )

    def work() -> None:
        assert hooks == ["before", "child"]
        assert os.getppid() == parent
        thread = threading.Thread(target=hooks.clear)
        thread.start()
        thread.join()
        assert hooks == []
        in_child(lambda: None)

    parent = os.getpid()
    pid, pidfd = clone3(CloneFlag.NONE)
    if pid == 0:
        end_child(work)
    assert pidfd is None
    assert hooks == ["before", "parent"]
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_the_child_has_no_pidfd_of_itself() -> None:
    pid, pidfd = clone3(CloneFlag.PIDFD)
    if pid == 0:
        os._exit(0 if pidfd is None else 1)
    assert pidfd is not None
    with pidfd:
        assert fcntl.fcntl(pidfd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        done = os.waitid(os.P_PIDFD, pidfd.fileno(), os.WEXITED)
    assert done is not None
    assert (done.si_pid, done.si_status) == (pid, 0)


@pytest.mark.parametrize("flags", [0x100, 0x400, 0x4000, 0x10000, CloneFlag.FS, 1 << 40])
def test_what_is_not_a_fork_is_refused(flags: int) -> None:
    """CLONE_VM, FILES, VFORK, THREAD: Python would run on in two places at once."""
    with pytest.raises(OSError) as caught:
        clone3(CloneFlag(flags))
    assert caught.value.errno == errno.EINVAL
    assert "fork-like" in caught.value.__notes__[0]


def test_a_failed_clone_leaves_python_whole() -> None:
    with pytest.raises(OSError) as caught:
        clone3(CloneFlag.INTO_CGROUP)  # and no cgroup
    assert caught.value.errno == errno.EINVAL
    assert caught.value.__notes__ == ["clone3(2) INTO_CGROUP"]
    with pytest.raises(OSError) as closed:
        clone3(CloneFlag.NONE, cgroup_fd=10**6)
    assert closed.value.errno == errno.EBADF
    in_child(lambda: None)  # the import lock is not held


def test_pidfd_of_a_child() -> None:
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(1)
    with pidfd_open(pid) as pidfd:
        pidfd_send_signal(pidfd, 0)
        assert select.select([pidfd], [], [], 0)[0] == []
        pidfd_send_signal(pidfd, signal.SIGKILL)
        assert select.select([pidfd], [], [], 20)[0] == [pidfd]
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
        with pytest.raises(ProcessLookupError) as caught:
            pidfd_send_signal(pidfd, signal.SIGTERM)
        assert caught.value.__notes__ == ["pidfd_send_signal(2) signal 15"]


def test_pidfd_of_nobody() -> None:
    with pytest.raises(OSError) as caught:
        pidfd_open(2**22 + 1)  # above the highest pid_max
    assert caught.value.errno in {errno.ESRCH, errno.EINVAL}
    assert caught.value.__notes__ == [f"pidfd_open(2) process {2**22 + 1}"]


def test_unshare_fs_needs_no_privilege() -> None:
    def work() -> None:
        here = os.getcwd()
        there: list[str] = []

        def wander() -> None:
            namespaces.unshare(CloneFlag.FS)
            os.chdir("/proc")
            there.append(os.getcwd())

        thread = threading.Thread(target=wander)
        thread.start()
        thread.join()
        assert there == ["/proc"]
        assert os.getcwd() == here

    in_child(work)


def test_errors_name_the_call() -> None:
    with pytest.raises(OSError) as caught:
        namespaces.setns(0, CloneFlag.NEWNET)
    assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, 0)
    assert caught.value.__notes__ == ["setns(2) NEWNET"]
    with pytest.raises(OSError) as shared:
        namespaces.unshare(CloneFlag.INTO_CGROUP | CloneFlag.PIDFD)
    assert shared.value.errno == errno.EINVAL
    assert shared.value.__notes__ == ["unshare(2) PIDFD|INTO_CGROUP"]
    with pytest.raises(OSError) as named:
        namespaces.sethostname("x" * 65)
    assert named.value.errno in {errno.EINVAL, errno.EPERM}
