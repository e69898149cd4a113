"""Trying what the overlay driver needs, in the directory it is to have."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack

from cowstore.errors import DriverUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore.drivers.overlay import Overlay

WAYS_OUT = (
    "put the store on a local file system such as ext4, xfs, btrfs or tmpfs (--store DIR; in a container, a volume), "
    "or use another driver (copy works anywhere)"
)


def probe(directory: str) -> None:
    """Make a store in miniature in *directory*, use it in every way that has failed somewhere, and remove it.

    :raises DriverUnavailable: with everything that is missing.
    """
    import tempfile

    from cowstore.drivers._directories import SCRATCH
    from cowstore.trees.remove import remove_tree

    try:
        scratch = tempfile.mkdtemp(prefix=SCRATCH, dir=directory)
    except OSError as error:
        raise unavailable(
            directory, [f"cannot write to {directory}: {error.strerror}; choose another directory"]
        ) from error
    try:
        missing = (
            []
            if names_types(scratch)
            else [f"{_kind(directory)} at {directory} does not tell the type of directory entries: {_no_types()}"]
        )
        if not missing:
            missing = _try(scratch)
        if missing:
            raise unavailable(directory, missing)
    except OSError as error:
        raise unavailable(directory, [explained(error, directory)]) from error
    finally:
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remove_tree(fd, os.path.basename(scratch))
        finally:
            os.close(fd)


def unavailable(directory: str, missing: list[str]) -> DriverUnavailable:
    """Make the error that lists what is missing."""
    return DriverUnavailable(
        f"the overlay driver cannot work in {directory}: {'; '.join(missing)}", driver="overlay", missing=missing
    )


def names_types(directory: str) -> bool:
    """Tell whether reading a directory tells the types of its entries. Overlay finds its whiteouts by them.

    Python asks for the type of an entry only where reading the directory did not tell it; the entry is gone by then.
    """
    name = os.path.join(directory, "type")
    os.mkdir(name)
    with os.scandir(directory) as entries:
        found = [entry for entry in entries if entry.name == "type"]
    os.rmdir(name)
    return found[0].is_dir(follow_symlinks=False)


def _no_types() -> str:
    return (
        "an xfs must be made with ftype=1 (mkfs.xfs -n ftype=1, the default since 2015), an ext4 with the filetype "
        "feature; " + WAYS_OUT
    )


def _try(scratch: str) -> list[str]:
    """Use small overlays; returns what did not work though it raised nothing."""
    from cowstore.drivers.overlay import NoOptions, Overlay

    driver = Overlay(scratch, NoOptions())
    try:
        return _use(driver)
    except OSError as error:
        # What overlay says when it cannot write its marks.
        if error.errno != errno.EIO or not driver.userxattr or _takes_user_marks(scratch):
            raise
        kind = _kind(scratch)
        hint = "tmpfs does since Linux 6.6; " if kind == "tmpfs" else ""
        return [
            f"{kind} does not take user.* attributes, in which an ordinary user's marks are kept ({hint}{WAYS_OUT})"
        ]
    finally:
        driver.close()


def _takes_user_marks(path: str) -> bool:
    try:
        os.setxattr(path, "user.overlay.cowstore", b"")
    except OSError as error:
        if error.errno not in {errno.ENOTSUP, errno.EPERM}:
            raise
        return False
    return True


def _use(driver: Overlay) -> list[str]:
    from cowstore.mounting import detached

    lower, upper = (os.path.join(driver.directory, f"{id}", "fs") for id in (1, 2))
    driver.create(1, None, None)
    os.mkdir(f"{lower}/old")
    for name in ("gone", "old/file"):
        os.close(os.open(f"{lower}/{name}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    driver.create(2, 1, None)
    with ExitStack() as stack:
        root = stack.enter_context(detached(driver.mounts(2, False))).fileno()
        os.unlink("gone", dir_fd=root)
        os.unlink("old/file", dir_fd=root)
        os.rmdir("old", dir_fd=root)
        os.mkdir("old", dir_fd=root)
    missing = []
    try:
        found = os.lstat(f"{upper}/gone")
        if not (stat.S_ISCHR(found.st_mode) and found.st_rdev == 0):
            raise FileNotFoundError
    except FileNotFoundError:
        missing.append(f"{_kind(upper)} does not keep the marks of deleted files: {WAYS_OUT}")
    prefix = "user" if driver.userxattr else "trusted"
    try:
        os.getxattr(f"{upper}/old", f"{prefix}.overlay.opaque")
    except OSError:
        missing.append(
            f"{_kind(upper)} does not keep the marks of replaced directories ({prefix}.* attributes): {WAYS_OUT}"
        )
    # Twice: the mark of the first must not be in the way of the second.
    for _ in range(2):
        detached(driver.mounts(2, False, volatile=True)).close()
    detached(driver.mounts(2, True)).close()
    return missing


def _kind(path: str) -> str:
    from cowstore.drivers._backing import fs_type

    return fs_type(path)


def explained(error: OSError, directory: str) -> str:
    """Say what a refusal means and what to do."""
    kind = _kind(directory)
    note = f" ({'; '.join(notes)})" if (notes := getattr(error, "__notes__", [])) else ""
    if error.errno == errno.ENODEV:
        return "this kernel has no overlay file system: load the module (modprobe overlay), or use another driver"
    if error.errno in {errno.EPERM, errno.EACCES}:
        return f"this process may not mount here: run as root, or inside `cowstore unshare -- PROGRAM`{note}"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return f"no space left in {directory}: free some"
    if error.errno == errno.EROFS:
        return f"{directory} is read-only: choose another directory"
    if error.errno == errno.ENOSYS:
        return f"this kernel is too old, or its calls are filtered{note}: use another driver"
    if error.errno in {errno.EINVAL, errno.EREMOTE, errno.ENOTSUP}:
        return f"{kind} at {directory} cannot hold the writable layer of an overlay{note}: {WAYS_OUT}"
    return f"{kind} at {directory}: {error.strerror}{note}: {WAYS_OUT}"
