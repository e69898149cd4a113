"""Where the directory drivers are tested: file systems of the tests' own, and small ways to look at trees."""

from __future__ import annotations

import errno
import os
import subprocess
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from cowstore import mounting
from cowstore._linux import loop
from cowstore._linux.fd import open_
from cowstore._linux.mount import MountFlag, mount, umount2

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cowstore.driver import Driver


@contextmanager
def tmpfs_at(path: Path, options: str = "mode=755") -> Iterator[Path]:
    """Overlay works on it wherever the tests' own directory lies."""
    path.mkdir()
    mount("tmpfs", str(path), "tmpfs", MountFlag.NONE, options)
    try:
        yield path
    finally:
        umount2(str(path))


def needs_user_attributes(path: Path) -> None:
    """Skip where the kernel's tmpfs takes none (before Linux 6.6)."""
    try:
        os.setxattr(path, "user.cowstore", b"")
        os.removexattr(path, "user.cowstore")
    except OSError:
        pytest.skip("elsewhere: this kernel's tmpfs takes no user.* attributes")


@contextmanager
def file_system_at(
    path: Path, kind: str, *mkfs: str, size_bytes: int = 512 << 20, options: str | None = None
) -> Iterator[Path]:
    """Make a file system in a loop file beside *path* and mount it there."""
    path.mkdir()
    image = path.with_suffix(".img")
    with open_(str(image), os.O_RDWR | os.O_CREAT, 0o600) as file:
        os.ftruncate(file.fileno(), size_bytes)
        subprocess.run([f"mkfs.{kind}", *mkfs, str(image)], check=True, capture_output=True, timeout=60)
        with loop.attach(file) as device:
            mount(device.node, str(path), kind, MountFlag.NONE, options)
            try:
                yield path
            finally:
                umount2(str(path))
    image.unlink()


@contextmanager
def mounted(driver: Driver, id: int, point: Path, *, read_only: bool = False) -> Iterator[str]:
    """Mount an id at *point* for the length of the block."""
    point.mkdir(exist_ok=True)
    mounting.attach(driver.mounts(id, read_only), str(point))
    try:
        yield str(point)
    finally:
        mounting.detach(str(point))
        driver.release(id)


def told(driver: Driver, id: int, base: int | None) -> list[tuple[str, str]]:
    return [(change.path, str(change.kind)) for change in driver.changes(id, base)]


@contextmanager
def quotas_at(path: Path, kind: str, size_bytes: int = 512 << 20) -> Iterator[Path]:
    """Make a file system that counts and limits projects; skip where the kernel can do that for none of its kind."""
    mkfs = ("-q", "-O", "quota,project") if kind == "ext4" else ("-q",)
    with ExitStack() as stack:
        try:
            stack.enter_context(file_system_at(path, kind, *mkfs, size_bytes=size_bytes, options="prjquota"))
        except OSError as error:
            if error.errno not in {errno.EINVAL, errno.ESRCH}:
                raise
            path.rmdir()
            path.with_suffix(".img").unlink()
            pytest.skip(f"elsewhere: this kernel has no quotas on {kind}; the kernel tier has: `tox -e kernel`")
        yield path
