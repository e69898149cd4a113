"""Giving up capabilities, as a container's first process does."""

from __future__ import annotations

import os

import pytest

from cowstore._linux import capabilities, prctl
from cowstore._linux.capabilities import Cap, mask
from tests.unit._linux.child import in_child


def status(key: str) -> int:
    with open("/proc/thread-self/status", encoding="ascii", errors="replace") as file:
        return next(int(line.split()[1], 16) for line in file if line.startswith(key + ":"))


def test_bounding_set_shrinks_for_ever() -> None:
    kept = mask([Cap.CHOWN, Cap.SETPCAP, Cap.SETUID])

    def work() -> None:
        before = capabilities.bounding_set()
        capabilities.bounding_drop(~kept & (1 << 64) - 1)
        assert capabilities.bounding_set() == before & kept == status("CapBnd")
        assert not prctl.capbset_read(Cap.SYS_ADMIN)
        capabilities.bounding_drop(mask([Cap.SYS_ADMIN]))
        # What execs from now on, even as root, has no more than that.
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.dup2(write_end, 1)
            os.execv("/bin/grep", ["grep", "CapEff", "/proc/self/status"])
        os.close(write_end)
        with os.fdopen(read_end, "rb") as stream:
            effective = int(stream.read().split()[1], 16)
        os.waitpid(pid, 0)
        assert effective == before & kept

    in_child(work)


def test_without_setpcap_the_bounding_set_stays() -> None:
    def work() -> None:
        effective, permitted, inheritable = capabilities.capget()
        capabilities.capset(effective & ~mask([Cap.SETPCAP]), permitted, inheritable)
        with pytest.raises(PermissionError) as caught:
            capabilities.bounding_drop(mask([Cap.MKNOD]))
        assert caught.value.__notes__ == ["prctl(2) PR_CAPBSET_DROP 27"]

    in_child(work)


def test_high_capabilities_are_in_the_second_half() -> None:
    high = mask([Cap.SYSLOG, Cap.CHECKPOINT_RESTORE])

    def work() -> None:
        before = capabilities.capget()[1]
        capabilities.capset(high, high, high)
        assert capabilities.capget() == (high & before, high, high)
        assert status("CapPrm") == high

    in_child(work)


def test_ambient_capabilities_come_and_go() -> None:
    def work() -> None:
        _, permitted, _ = capabilities.capget()
        with pytest.raises(PermissionError):
            prctl.cap_ambient_raise(Cap.MKNOD)
        capabilities.capset(permitted, permitted, mask([Cap.MKNOD, Cap.CHOWN]))
        prctl.cap_ambient_raise(Cap.MKNOD)
        prctl.cap_ambient_raise(Cap.CHOWN)
        prctl.cap_ambient_lower(Cap.CHOWN)
        assert prctl.cap_ambient_is_set(Cap.MKNOD)
        assert status("CapAmb") == mask([Cap.MKNOD])
        capabilities.ambient_clear()
        assert status("CapAmb") == 0

    in_child(work)


@pytest.mark.parametrize("keep", [True, False])
def test_keepcaps_decides_what_another_user_keeps(keep: bool) -> None:
    def work() -> None:
        prctl.set_keepcaps(keep)
        _, before, _ = capabilities.capget()
        os.setresuid(65534, 65534, 65534)
        assert capabilities.capget()[:2] == (0, before if keep else 0)

    in_child(work)
