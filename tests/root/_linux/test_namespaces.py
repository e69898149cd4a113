"""New namespaces, joining others', and children born where they belong."""

from __future__ import annotations

import errno
import os
import select
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from cowstore._linux import mount, namespaces
from cowstore._linux.fd import open_
from cowstore._linux.mount import MountFlag, UmountFlag
from cowstore._linux.namespaces import CloneFlag, clone3, pidfd_open, pidfd_send_signal, setns, unshare
from tests.unit._linux.child import end_child, in_child

if TYPE_CHECKING:
    from pathlib import Path

KINDS = {
    "mnt": CloneFlag.NEWNS,
    "uts": CloneFlag.NEWUTS,
    "ipc": CloneFlag.NEWIPC,
    "net": CloneFlag.NEWNET,
    "cgroup": CloneFlag.NEWCGROUP,
    "user": CloneFlag.NEWUSER,
    "time_for_children": CloneFlag.NEWTIME,
    "pid_for_children": CloneFlag.NEWPID,
}


def identity(kind: str, pid: int | str = "self") -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


@pytest.mark.parametrize("kind", KINDS)
def test_unshare_makes_one_kind(kind: str) -> None:
    def work() -> None:
        before = {name: identity(name) for name in KINDS if name != "pid_for_children"}
        pids = identity("pid_for_children")
        unshare(KINDS[kind])
        if kind == "pid_for_children":
            # It has no identity before its first process.
            pid = os.fork()
            if pid == 0:
                os._exit(0 if os.getpid() == 1 else 1)
            assert os.waitpid(pid, 0)[1] == 0
        else:
            assert identity("pid_for_children") == pids
        changed = {name for name, value in before.items() if identity(name) != value}
        assert changed == {kind} - {"pid_for_children"}

    in_child(work)


def test_host_name_and_the_way_back() -> None:
    def work() -> None:
        own = os.uname().nodename
        with open_("/proc/self/ns/uts", os.O_RDONLY) as outside:
            unshare(CloneFlag.NEWUTS)
            namespaces.sethostname("cow-1")
            assert os.uname().nodename == "cow-1"
            with pytest.raises(OSError) as caught:
                setns(outside, CloneFlag.NEWNET)
            assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, outside.fileno())
            setns(outside, CloneFlag.NEWUTS)
        assert os.uname().nodename == own

    in_child(work)


def test_all_of_a_process_at_once() -> None:
    flags = CloneFlag.NEWUTS | CloneFlag.NEWIPC | CloneFlag.NEWNET
    pid, pidfd = clone3(flags | CloneFlag.PIDFD)
    if pid == 0:
        signal.pause()
        os._exit(1)
    assert pidfd is not None

    def work() -> None:
        setns(pidfd, flags)
        for kind in ("uts", "ipc", "net"):
            assert identity(kind) == identity(kind, pid)
        assert identity("mnt") != ""

    try:
        in_child(work)
    finally:
        with pidfd:
            pidfd_send_signal(pidfd, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_a_thread_needs_a_directory_of_its_own() -> None:
    """setns and unshare of a mount namespace are for a thread that shares its current directory with none."""
    said: list[object] = []

    def wander() -> None:
        with open_("/proc/self/ns/mnt", os.O_RDONLY) as here:
            try:
                setns(here, CloneFlag.NEWNS)
            except OSError as error:
                said.append(error.errno)
            unshare(CloneFlag.FS | CloneFlag.NEWNS)
            said.append(os.readlink("/proc/thread-self/ns/mnt"))
            setns(here, CloneFlag.NEWNS)
            said.append(os.readlink("/proc/thread-self/ns/mnt"))

    def work() -> None:
        thread = threading.Thread(target=wander)
        thread.start()
        thread.join()
        refused, away, back = said
        assert refused == errno.EINVAL
        assert away != back == identity("mnt")

    in_child(work)


def test_another_thread_forbids_a_user_namespace() -> None:
    def work() -> None:
        stop = threading.Event()
        thread = threading.Thread(target=stop.wait)
        thread.start()
        with pytest.raises(OSError) as caught:
            unshare(CloneFlag.NEWUSER)
        stop.set()
        thread.join()
        assert caught.value.errno == errno.EINVAL
        assert caught.value.__notes__ == ["unshare(2) NEWUSER"]

    in_child(work)


def test_a_child_that_is_process_1() -> None:
    read_end, write_end = os.pipe()

    def work() -> None:
        assert os.getpid() == 1
        assert os.getppid() == 0
        os.write(write_end, b"ok")

    pid, pidfd = clone3(CloneFlag.NEWPID | CloneFlag.NEWNS | CloneFlag.PIDFD)
    if pid == 0:
        end_child(work)
    assert pidfd is not None
    os.close(write_end)
    with pidfd, os.fdopen(read_end, "rb") as stream:
        assert stream.read() == b"ok"
        assert select.select([pidfd], [], [], 20)[0] == [pidfd]
        assert os.waitpid(pid, 0)[1] == 0


def test_handlers_can_be_cleared_for_the_child() -> None:
    def work() -> None:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            caught = next(int(line.split()[1], 16) for line in file if line.startswith("SigCgt:"))
        assert caught >> (signal.SIGUSR1 - 1) & 1 == 0

    previous = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        pid, _ = clone3(CloneFlag.CLEAR_SIGHAND)
        if pid == 0:
            end_child(work)
        assert os.waitpid(pid, 0)[1] == 0
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_born_in_a_cgroup(tmp_path: Path) -> None:
    tree = os.fsdecode(tmp_path)
    group = f"{tree}/cowstore-test-{os.getpid()}"

    def work() -> None:
        unshare(CloneFlag.NEWNS)
        mount.mount(None, "/", None, MountFlag.REC | MountFlag.PRIVATE)
        mount.mount("none", tree, "cgroup2")
        os.mkdir(group)
        try:
            with open_(group, os.O_RDONLY | os.O_DIRECTORY) as directory:
                pid, pidfd = clone3(CloneFlag.PIDFD, cgroup_fd=directory)
            if pid == 0:
                signal.pause()
                os._exit(1)
            assert pidfd is not None
            with open_(group + "/cgroup.procs", os.O_RDONLY) as procs:
                members = os.read(procs.fileno(), 100)
            with pidfd:
                pidfd_send_signal(pidfd, signal.SIGKILL)
                os.waitpid(pid, 0)
            assert members == b"%d\n" % pid
        finally:
            os.rmdir(group)
            mount.umount2(tree, UmountFlag.DETACH)

    in_child(work)


def test_a_directory_that_is_no_cgroup(tmp_path: Path) -> None:
    with open_(os.fsdecode(tmp_path), os.O_RDONLY | os.O_DIRECTORY) as directory, pytest.raises(OSError) as caught:
        clone3(CloneFlag.NONE, cgroup_fd=directory)
    assert caught.value.errno == errno.EBADF


def test_pidfd_open_of_process_1_is_no_right_to_join() -> None:
    def work() -> None:
        os.setuid(65534)
        with pidfd_open(1) as first:
            with pytest.raises(PermissionError):
                setns(first, CloneFlag.NEWUTS)
            with pytest.raises(PermissionError):
                pidfd_send_signal(first, 0)

    in_child(work)
