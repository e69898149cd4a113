"""Capability sets and prctl options that anyone may ask about."""

from __future__ import annotations

import ctypes
import errno
import os
import signal

import pytest

from cowstore._linux import capabilities, prctl
from cowstore._linux.capabilities import Cap
from tests.unit._linux.child import in_child


def status(key: str) -> int:
    """Read a mask of the calling thread from /proc, the kernel's other way of telling it."""
    with open("/proc/thread-self/status", encoding="ascii", errors="replace") as file:
        return next(int(line.split()[1], 16) for line in file if line.startswith(key + ":"))


def test_structures_are_those_of_the_header() -> None:
    assert ctypes.sizeof(capabilities.struct_user_cap_header) == 8
    assert ctypes.sizeof(capabilities.struct_user_cap_data) == 12


def test_names_are_the_kernels() -> None:
    assert sorted(Cap) == list(range(41))
    assert (Cap.CHOWN, Cap.SETPCAP, Cap.SYS_ADMIN, Cap.MKNOD, Cap.SETFCAP) == (0, 8, 21, 27, 31)
    assert (Cap.MAC_OVERRIDE, Cap.AUDIT_READ, Cap.PERFMON, Cap.BPF, Cap.CHECKPOINT_RESTORE) == (32, 37, 38, 39, 40)


def test_mask() -> None:
    assert capabilities.mask([]) == 0
    assert capabilities.mask([Cap.CHOWN, Cap.CHECKPOINT_RESTORE, 40]) == 1 | 1 << 40


def test_capget_agrees_with_proc() -> None:
    expected = (status("CapEff"), status("CapPrm"), status("CapInh"))
    assert capabilities.capget() == expected
    assert capabilities.capget(os.getpid()) == expected


def test_capget_of_nobody() -> None:
    with pytest.raises(ProcessLookupError) as caught:
        capabilities.capget(2**22 + 1)
    assert caught.value.__notes__ == [f"capget(2) thread {2**22 + 1}"]


def test_bounding_set_agrees_with_proc() -> None:
    assert capabilities.bounding_set() == status("CapBnd")


def test_capset_gives_up_and_cannot_take_back() -> None:
    def work() -> None:
        effective, permitted, inheritable = capabilities.capget()
        capabilities.capset(0, 0, 0)
        assert capabilities.capget() == (0, 0, 0)
        assert (status("CapEff"), status("CapPrm"), status("CapInh")) == (0, 0, 0)
        with pytest.raises(PermissionError) as caught:
            capabilities.capset(effective, permitted | 1, inheritable)
        assert caught.value.__notes__[0].startswith("capset(2) effective 0x")
        with pytest.raises(PermissionError) as dropped:
            prctl.capbset_drop(Cap.CHOWN)
        assert dropped.value.__notes__ == ["prctl(2) PR_CAPBSET_DROP 0"]

    in_child(work)


def test_unknown_capabilities() -> None:
    for call in (prctl.capbset_read, prctl.cap_ambient_is_set, prctl.cap_ambient_lower):
        with pytest.raises(OSError) as caught:
            call(63)
        assert caught.value.errno == errno.EINVAL


def test_ambient_set_can_always_be_emptied() -> None:
    def work() -> None:
        capabilities.ambient_clear()
        assert status("CapAmb") == 0
        assert not prctl.cap_ambient_is_set(Cap.CHOWN)
        prctl.cap_ambient_lower(Cap.CHOWN)

    in_child(work)


def test_no_new_privs() -> None:
    def work() -> None:
        prctl.set_no_new_privs()
        assert prctl.get_no_new_privs()
        assert status("NoNewPrivs") == 1

    assert prctl.get_no_new_privs() == bool(status("NoNewPrivs"))
    in_child(work)


def test_name() -> None:
    def work() -> None:
        for name in ("cowstore", b"\xff (x) 1", "longer than fifteen"):
            prctl.set_name(name)
            with open("/proc/thread-self/comm", "rb") as file:
                assert file.read() == os.fsencode(name)[:15] + b"\n"
        with pytest.raises(OSError) as caught:
            prctl.set_name("a\0b")
        assert caught.value.errno == errno.EINVAL

    in_child(work)


def test_dumpable() -> None:
    def work() -> None:
        prctl.set_dumpable(False)
        assert prctl.get_dumpable() == 0
        prctl.set_dumpable(True)
        assert prctl.get_dumpable() == 1

    in_child(work)


def test_keepcaps() -> None:
    def work() -> None:
        prctl.set_keepcaps(True)
        assert prctl.get_keepcaps()
        prctl.set_keepcaps(False)
        assert not prctl.get_keepcaps()

    in_child(work)


def test_pdeathsig() -> None:
    """The grandchild is killed with the child, and not before."""
    read_end, write_end = os.pipe()

    def work() -> None:
        os.close(read_end)
        ready_read, ready_write = os.pipe()
        if os.fork() == 0:
            prctl.set_pdeathsig(signal.SIGKILL)
            os.write(ready_write, b"r")
            signal.pause()
            os._exit(1)
        assert os.read(ready_read, 1) == b"r"
        os.write(write_end, b"x")

    in_child(work)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as stream:
        assert stream.read() == b"x"  # comes to its end only when the grandchild is gone
    with pytest.raises(OSError) as caught:
        prctl.set_pdeathsig(1000)
    assert caught.value.errno == errno.EINVAL
    assert caught.value.__notes__ == ["prctl(2) PR_SET_PDEATHSIG"]


def test_subreaper() -> None:
    def work() -> None:
        prctl.set_child_subreaper(True)
        read_end, write_end = os.pipe()
        middle = os.fork()
        if middle == 0:
            orphan = os.fork()
            if orphan == 0:
                os._exit(5)
            os.write(write_end, b"%d" % orphan)
            os._exit(0)
        os.waitpid(middle, 0)
        orphan, result = os.waitpid(-1, 0)
        assert orphan == int(os.read(read_end, 20))
        assert os.waitstatus_to_exitcode(result) == 5
        prctl.set_child_subreaper(False)

    in_child(work)
