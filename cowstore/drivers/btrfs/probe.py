"""Trying whether Btrfs works in a directory, by the smallest real thing."""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from cowstore import _programs
from cowstore._linux import btrfs, files, loop, mount
from cowstore._linux.fd import open_
from cowstore.errors import CowstoreError, DriverUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore.drivers.btrfs.options import Options

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_NAMES = {
    value: name.lower().removesuffix("fs") + ("fs" if name.endswith("FS") else "")
    for name, value in vars(files.FsMagic).items()
    if name.isupper()
}


def probe(directory: str, options: Options) -> None:
    """Make and delete a subvolume, or a small pool, in *directory*.

    :raises DriverUnavailable: listing what is missing.
    """
    from cowstore.drivers.btrfs.driver import wants_pool

    pooled = wants_pool(directory, options)
    missing = list(_missing(directory, pooled=pooled))
    if not missing:
        try:
            (_try_pool if pooled else _try_directory)(directory)
        except OSError as error:
            missing.append(_reason(error, directory))
        except CowstoreError as error:
            missing.append(str(error))
    if missing:
        raise DriverUnavailable(
            f"the btrfs driver cannot work in {directory}: " + "; ".join(missing), driver="btrfs", missing=missing
        )


def file_system_name(directory: str) -> str:
    """Name the type of the file system that *directory* is on, for people."""
    kind = files.statfs(directory).type
    return _NAMES.get(kind, f"a file system of type {kind:#x}")


def _missing(directory: str, *, pooled: bool) -> list[str]:
    """List what can be told without trying."""
    missing: list[str] = []
    if os.geteuid() != 0:
        missing.append("it needs root: run as root, or choose the overlay or copy driver")
        return missing
    try:
        # This loads the module where there is one.
        mount.fsopen("btrfs").close()
    except OSError as error:
        if error.errno == errno.ENODEV:
            missing.append("this kernel has no Btrfs: load the module btrfs, or choose another driver")
            return missing
        missing.append(f"a Btrfs cannot be mounted here ({error.strerror}): it needs CAP_SYS_ADMIN of the machine")
        return missing
    if not pooled:
        if files.statfs(directory).type != files.FsMagic.BTRFS:
            missing.append(
                f"{directory} is on {file_system_name(directory)}, not on Btrfs, and the option loop=no forbids a loop "
                "file: leave it out, or name a directory of a Btrfs"
            )
        return missing
    if _programs.find("mkfs.btrfs") is None:
        missing.append(_programs.missing("mkfs.btrfs"))
    try:
        loop.open_control().close()
    except OSError as error:
        missing.append(f"there are no loop devices ({loop.CONTROL}: {error.strerror}): load the module loop")
    return missing


def _try_directory(directory: str) -> None:
    with open_(directory, _DIRECTORY) as parent:
        token = os.urandom(6).hex()
        first, second = f".probe-{token}-1", f".probe-{token}-2"
        try:
            btrfs.subvol_create(parent, first)
            with open_(first, _DIRECTORY, dir_fd=parent) as source:
                btrfs.snap_create(parent, second, source, read_only=True)
        finally:
            for name in (second, first):
                with suppress(FileNotFoundError):
                    btrfs.snap_destroy(parent, name)


def _try_pool(directory: str) -> None:
    """Make a pool of the smallest size, mount it detached, and make a subvolume in it."""
    from cowstore.drivers.btrfs.options import MIN_POOL_BYTES
    from cowstore.drivers.btrfs.options import Options as PoolOptions
    from cowstore.drivers.btrfs.pool import mount_context

    options = PoolOptions(pool_size_bytes=MIN_POOL_BYTES)
    path = os.path.join(directory, f".probe-{os.urandom(6).hex()}.img")
    try:
        with open_(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600) as file:
            os.ftruncate(file.fileno(), MIN_POOL_BYTES)
            _programs.run("mkfs.btrfs", ["--quiet", path])
            with (
                loop.attach(file) as device,
                mount_context(device.node, options) as context,
                mount.fsmount(context) as root,
                open_(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=root) as top,
            ):
                btrfs.subvol_create(top, "probe")
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)


def _reason(error: OSError, directory: str) -> str:
    """Say what a failed trial means, and what to do."""
    call = (getattr(error, "__notes__", None) or [""])[0]
    if error.errno == errno.EROFS:
        return f"the file system of {directory} is read-only: mount it writable (an error may have made it so)"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return f"there is no room in {directory} ({error.strerror}): free some"
    if error.errno in {errno.EPERM, errno.EACCES}:
        return f"this process may not ({call}: {error.strerror}): it needs CAP_SYS_ADMIN of the machine"
    return f"a trial failed ({call}: {error})"
