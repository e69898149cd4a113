"""A small Btrfs for the tests of this tier: a loop file, mounted at a directory of the test's own."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from cowstore import _programs
from cowstore._linux import loop, mount
from cowstore._linux.fd import open_

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE_BYTES = 1 << 30


@contextmanager
def btrfs_at(
    where: Path, size_bytes: int = SIZE_BYTES, options: str = "", mkfs: tuple[str, ...] = ()
) -> Iterator[Path]:
    """Make a Btrfs and mount it for the length of the block; gives the directory."""
    image, point = where / "fs.img", where / "fs"
    point.mkdir()
    with ExitStack() as stack:
        file = stack.enter_context(open_(str(image), os.O_RDWR | os.O_CREAT, 0o600))
        stack.callback(image.unlink)
        os.ftruncate(file.fileno(), size_bytes)
        _programs.run("mkfs.btrfs", ["--quiet", *mkfs, str(image)])
        device = stack.enter_context(loop.attach(file))
        mount.mount(device.node, str(point), "btrfs", mount.MountFlag.NONE, options or None)
        stack.callback(mount.umount2, str(point))
        yield point


@contextmanager
def directory(path: Path | str) -> Iterator[int]:
    """Open a directory for the length of the block."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)
