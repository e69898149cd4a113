"""Discarding what is free."""

from __future__ import annotations

import ctypes
import errno
import os

import pytest

from cowstore._linux import trim


def test_number() -> None:
    """The number holds the size of the structure."""
    assert ctypes.sizeof(trim.struct_fstrim_range) == 24
    assert 3 << 30 | 24 << 16 | ord("X") << 8 | 121 == trim.FITRIM


def test_where_nothing_can_be_discarded_the_error_names_the_call() -> None:
    fd = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(OSError) as caught:
            trim.fitrim(fd)
    finally:
        os.close(fd)
    assert caught.value.errno in {errno.ENOTTY, errno.EOPNOTSUPP, errno.EPERM}
    assert "FITRIM" in caught.value.__notes__[0]
