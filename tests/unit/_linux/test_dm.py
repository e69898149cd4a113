"""The sizes and numbers the kernel's header fixes, and the parts of the ioctl interface that need no kernel."""

from __future__ import annotations

import os

import pytest

from cowstore._linux import dm


def test_struct_sizes() -> None:
    """``struct dm_ioctl`` is 312 bytes, ``struct dm_target_spec`` 40."""
    assert dm._HEADER.size == 312
    assert dm._TARGET.size == 40


@pytest.mark.parametrize(
    ("command", "number"),
    [
        (dm.Command.VERSION, 0xC138FD00),
        (dm.Command.LIST_DEVICES, 0xC138FD02),
        (dm.Command.DEV_CREATE, 0xC138FD03),
        (dm.Command.DEV_REMOVE, 0xC138FD04),
        (dm.Command.DEV_SUSPEND, 0xC138FD06),
        (dm.Command.DEV_STATUS, 0xC138FD07),
        (dm.Command.DEV_WAIT, 0xC138FD08),
        (dm.Command.TABLE_LOAD, 0xC138FD09),
        (dm.Command.TABLE_CLEAR, 0xC138FD0A),
        (dm.Command.TABLE_DEPS, 0xC138FD0B),
        (dm.Command.TABLE_STATUS, 0xC138FD0C),
        (dm.Command.TARGET_MSG, 0xC138FD0E),
        (dm.Command.GET_TARGET_VERSION, 0xC138FD11),
    ],
)
def test_ioctl_numbers(command: dm.Command, number: int) -> None:
    assert dm.request(command) == number


@pytest.mark.parametrize(("major", "minor"), [(0, 0), (254, 0), (253, 255), (253, 256), (253, 70000), (7, 3)])
def test_device_numbers_survive_the_kernels_coding(major: int, minor: int) -> None:
    number = os.makedev(major, minor)
    assert dm._decode_dev(dm._encode_dev(number)) == number


def test_huge_encoding_of_a_minor_above_255() -> None:
    """As ``huge_encode_dev``: the minor's upper bits lie above the major."""
    assert dm._encode_dev(os.makedev(253, 0x1234)) == 0x34 | 253 << 8 | 0x1200 << 12


def test_udev_flags_fill_the_upper_half_of_the_event_number() -> None:
    """The lower half would name a semaphore; there is none."""
    assert dm._cookie(dm.PRIVATE) & 0xFFFF == 0
    assert dm._cookie(dm.PRIVATE) >> 16 == 0b1101111
