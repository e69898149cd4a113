"""The loopback of a new network namespace is down until somebody brings it up."""

from __future__ import annotations

import errno
import socket

import pytest

from cowstore._linux import capabilities
from cowstore._linux.namespaces import CloneFlag, unshare
from cowstore._linux.network import interface_up
from tests.unit._linux.child import in_child


def can_connect() -> bool:
    with socket.socket() as server:
        server.bind(("0.0.0.0", 0))
        server.listen()
        with socket.socket() as client:
            try:
                client.connect(("127.0.0.1", server.getsockname()[1]))
            except OSError as error:
                assert error.errno == errno.ENETUNREACH
                return False
            return True


def test_loopback() -> None:
    def work() -> None:
        unshare(CloneFlag.NEWNET)
        assert not can_connect()
        interface_up("lo")
        assert can_connect()
        interface_up(b"lo")
        assert can_connect()
        with pytest.raises(OSError) as caught:
            interface_up("eth0")
        assert (caught.value.errno, caught.value.filename) == (errno.ENODEV, "eth0")
        assert caught.value.__notes__ == ["ioctl(2) SIOCSIFFLAGS"]

    in_child(work)


def test_needs_net_admin() -> None:
    def work() -> None:
        unshare(CloneFlag.NEWNET)
        capabilities.capset(0, 0, 0)
        with pytest.raises(PermissionError) as caught:
            interface_up("lo")
        assert caught.value.filename == "lo"

    in_child(work)
