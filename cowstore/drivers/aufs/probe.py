"""Trying whether AUFS works in a directory, telling apart what it gives one error for."""

from __future__ import annotations

import errno
import os

from cowstore._linux import files, mount, procfs
from cowstore.errors import DriverUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore.drivers.aufs.options import Options

WAYS_OUT = "put the store on ext4, xfs, btrfs or tmpfs (--store DIR), or use another driver (copy works anywhere)"

_REFUSED = {
    files.FsMagic.OVERLAYFS: "an overlay (a container's root is one)",
    files.FsMagic.AUFS: "AUFS itself, which does not nest",
    files.FsMagic.RAMFS: "a ramfs",
}


def probe(directory: str, options: Options) -> None:
    """Make a mount of two branches in *directory*, look at what became of it, and remove it.

    :raises DriverUnavailable: listing what is missing.
    """
    missing = _missing(directory)
    if not missing:
        try:
            missing = _try(directory, options)
        except OSError as error:
            missing = [explained(error, directory)]
    if missing:
        raise DriverUnavailable(
            f"the aufs driver cannot work in {directory}: {'; '.join(missing)}", driver="aufs", missing=missing
        )


def _missing(directory: str) -> list[str]:
    """List what can be told without trying."""
    missing = []
    if not _in_kernel():
        missing.append(
            "this kernel has no AUFS: mainline kernels never had it; boot one that has (some distributions build "
            "one, or patch your own from the aufs-standalone sources), or use the overlay driver, which does the same"
        )
    if os.geteuid() != 0 or not _in_first_user_namespace():
        missing.append(
            "AUFS can be mounted only by root of the machine, not in a user namespace: run as root, or use the overlay "
            "driver"
        )
    refused = _REFUSED.get(files.statfs(directory).type)
    if refused is not None:
        missing.append(f"{directory} is on {refused}, on which AUFS does not stack: {WAYS_OUT}")
    return missing


def _in_kernel() -> bool:
    """Tell whether the kernel has AUFS, loading its module where there is one."""
    if b"aufs" in _file_systems():
        return True
    try:
        mount.fsopen("aufs").close()
    except OSError as error:
        # Without permission to ask, the list is all there is.
        return error.errno not in {errno.ENODEV, errno.EPERM, errno.ENOSYS}
    return True


def _file_systems() -> set[bytes]:
    return {os.fsencode(name) for name in procfs.filesystems()}


def _in_first_user_namespace() -> bool:
    """Tell whether this process is in the machine's own user namespace, where every id is itself."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        return file.read().split() == ["0", "0", "4294967295"]


def _try(directory: str, options: Options) -> list[str]:
    """Use a small mount; returns what did not work though it raised nothing."""
    import tempfile

    from cowstore.drivers._directories import SCRATCH
    from cowstore.trees.remove import remove_tree

    scratch = tempfile.mkdtemp(prefix=SCRATCH, dir=directory)
    try:
        return _use(scratch, options)
    finally:
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remove_tree(fd, os.path.basename(scratch))
        finally:
            os.close(fd)


def _use(scratch: str, options: Options) -> list[str]:
    from cowstore import mounting
    from cowstore.drivers.aufs.driver import Aufs

    driver = Aufs(scratch, options)
    try:
        driver.create(1, None, None)
        for name in ("gone", "kept"):
            os.close(os.open(f"{scratch}/1/fs/{name}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        driver.seal(1)
        driver.create(2, 1, None)
        with mounting.detached(driver.mounts(2, False)) as tree:
            os.unlink("gone", dir_fd=tree.fileno())
            driver.before_unmount(2, tree.fileno())
        driver.release(2)
        # Only with its whiteouts a lower branch shows what was deleted as deleted.
        with mounting.detached(driver.mounts(2, True)) as tree:
            fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tree.fileno())
            try:
                shown = os.listdir(fd)
            finally:
                os.close(fd)
    finally:
        driver.close()
    return [] if shown == ["kept"] else [f"AUFS in {scratch} does not keep deletions (it shows {shown}): {WAYS_OUT}"]


def explained(error: OSError, directory: str) -> str:
    """Say what a refusal means. AUFS has EINVAL for nearly everything, and the reason in the kernel's log."""
    notes = "; ".join(getattr(error, "__notes__", []))
    note = f" ({notes})" if notes else ""
    if error.errno == errno.ENODEV:
        return "this kernel has no AUFS: boot one that has, or use the overlay driver"
    if error.errno == errno.EPERM:
        return f"AUFS can be mounted only by root of the machine, not in a user namespace{note}: run as root"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return f"no space left in {directory}, or for the table of inode numbers: free some"
    if error.errno == errno.EROFS:
        return f"{directory} is read-only: choose another directory"
    if error.errno == errno.EINVAL:
        return (
            f"AUFS refuses the file system of {directory}, or an option (dirperm1, dio, acl, xino){note}; the kernel's "
            f"log says which (dmesg | grep aufs): {WAYS_OUT}"
        )
    return f"{directory}: {error.strerror}{note}: {WAYS_OUT}"
