from __future__ import annotations

import ctypes
import errno
import os
from typing import TYPE_CHECKING

import pytest

from cowstore._linux import aufs

if TYPE_CHECKING:
    from pathlib import Path


def test_the_number_is_what_the_structure_makes_it() -> None:
    assert ctypes.sizeof(aufs.aufs_brinfo) == 4096
    assert aufs.aufs_brinfo.path.offset == 8
    assert 1 << 30 | ctypes.sizeof(aufs.aufs_brinfo) << 16 | ord("A") << 8 | 5 == aufs.CTL_BRINFO


def test_another_file_system_says_so(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(OSError) as caught:
        aufs.brinfo(fd)
    os.close(fd)
    assert caught.value.errno in {errno.ENOTTY, errno.EINVAL}
