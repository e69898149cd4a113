"""Names and sizes; bringing an interface up is for the root tier."""

from __future__ import annotations

import errno

import pytest

from cowstore._linux import network


def test_structure_is_that_of_the_header() -> None:
    assert network.IFREQ.size == 40


@pytest.mark.parametrize("name", ["nosuch0", b"nosuch0", "", "sixteen-bytes-xx", "lo\0x"])
def test_there_is_none_of_that_name(name: str | bytes) -> None:
    with pytest.raises(OSError) as caught:
        network.interface_up(name)
    assert caught.value.errno == errno.ENODEV
    assert caught.value.__notes__[0].startswith("ioctl(2)")
