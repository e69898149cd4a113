"""Sizes of directories by the project quotas of the file system they are on: for overlay and copy.

On disk, below the driver's directory::

    <id>/quota     of the snapshot's project, which is how that is found again; there if it has, or had, a limit

All that a snapshot's tree is made of has the project of that file. Its number is a random one that nobody used: the
file system's own count tells. Whoever puts a file into a project and then finds one inode counted there is alone in
it; two that chose the same number at the same time both find two, and choose again. So no lock is needed that stores
on one file system would have to share, and no list of numbers.

Rejected: a range of numbers from the inode of the store's directory (an inode number has more bits than a project's,
and an administrator's projects are in no range), the number as text in a file (a second database).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import contextmanager, suppress

from cowstore import _faults
from cowstore._linux import quota
from cowstore.errors import CowstoreError, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cowstore.results import Usage

__all__ = ["binds_writers", "forget", "is_limited", "limited", "resize", "usage", "why_not"]

MARK = "quota"
FIRST_PROJECT = 1 << 31
"""Projects that people number by hand begin at 1."""

_TRIES = 100
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TRIAL_BYTES = 1 << 20

HOW = (
    "ext4: `tune2fs -O project,quota DEVICE` while it is not mounted, then `mount -o prjquota`; xfs: "
    "`mount -o prjquota`; or open the store with the option backing=image"
)


def why_not(directory: str) -> str | None:
    """Say why sizes cannot be limited in *directory*; None where they can. Nothing is written."""
    try:
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            state = quota.q_xgetqstatv(fd)
            if state & quota.FS_QUOTA_PDQ_ACCT and state & quota.FS_QUOTA_PDQ_ENFD:
                quota.q_getquota(fd, quota.MAX_PROJECT)
                return None
        finally:
            os.close(fd)
    except PermissionError:
        return "only root may set limits of projects"
    except OSError:
        pass  # Whatever it says, it means that there are none.
    from cowstore.drivers._backing import fs_type

    return f"the file system at {directory} ({fs_type(directory)}) enforces no project quotas ({HOW})"


def binds_writers(directory: str) -> bool:
    """Try whether a limit stops this process, where nothing is between it and the file system.

    ext4 lets whoever has CAP_SYS_RESOURCE write past every limit; overlay writes without it.
    """
    # A file without a name: nothing stays of it, whenever this is killed.
    fd = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        project = _claim(fd)
        quota.q_setquota(fd, project, _TRIAL_BYTES)
        try:
            for _ in range(2):
                os.write(fd, os.urandom(_TRIAL_BYTES))
            os.fsync(fd)
        except OSError as error:
            if error.errno not in {errno.EDQUOT, errno.ENOSPC}:
                raise
            return True
        finally:
            quota.q_setquota(fd, project, None)
    finally:
        os.close(fd)
    return False


# Projects.


def _candidate() -> int:
    """Choose a number that is probably nobody's."""
    return FIRST_PROJECT + int.from_bytes(os.urandom(4)) % (quota.MAX_PROJECT - FIRST_PROJECT)


def _claim(mark: int) -> int:
    """Put the file *mark* into a project that is nobody else's, if it is not in one yet; returns its number.

    :raises CowstoreError: none was found.
    """
    for _ in range(_TRIES):
        project = _candidate()
        found = quota.q_getquota(mark, project)
        if found.inodes or found.size_bytes or found.limited:
            continue
        quota.fssetxattr(mark, project, inherit=False)
        _faults.point("limits.claimed")
        if quota.q_getquota(mark, project).inodes == 1:
            return project
    raise CowstoreError("cannot find a project that nobody uses on this file system; try again")


def _project(driver_fd: int, mark: int) -> int | None:
    """Tell the project of the file *mark*; None if it is in none of its own yet."""
    project = quota.fsgetxattr(mark)[1]
    if project < FIRST_PROJECT:
        return None
    # A file that was not put into one has that of the directory it was made in, which may be somebody's.
    fd = os.open(".", _DIRECTORY, dir_fd=driver_fd)
    try:
        return None if quota.fsgetxattr(fd)[1] == project else project
    finally:
        os.close(fd)


def _open_mark(driver_fd: int, name: str, *, make: bool = False) -> int | None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT if make else 0)
    try:
        return os.open(f"{name}/{MARK}", flags, 0o600, dir_fd=driver_fd)
    except FileNotFoundError:
        if make:
            raise
        return None


@contextmanager
def _marked(driver_fd: int, name: str) -> Iterator[tuple[int, int] | None]:
    """Give the mark of an id's directory as a descriptor, and its project; None if it has none."""
    mark = _open_mark(driver_fd, name)
    try:
        project = None if mark is None else _project(driver_fd, mark)
        yield None if mark is None or project is None else (mark, project)
    finally:
        if mark is not None:
            os.close(mark)


def is_limited(driver_fd: int, name: str) -> bool:
    """Tell whether the directory of an id has, or had, a limit."""
    try:
        os.stat(f"{name}/{MARK}", dir_fd=driver_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


@contextmanager
def limited(driver_fd: int, name: str, size_bytes: int) -> Iterator[None]:
    """Limit what is made in the directory *name* in the length of the block, taken together, from now on.

    The directory itself stays in the project it is in: into one that hands its own down nothing of another can be
    renamed.
    """
    mark = _open_mark(driver_fd, name, make=True)
    assert mark is not None
    try:
        _faults.point("limits.marked")
        project = _claim(mark)
        quota.q_setquota(mark, project, size_bytes)
        _faults.point("limits.limited")
    finally:
        os.close(mark)
    fd = os.open(name, _DIRECTORY, dir_fd=driver_fd)
    try:
        flags, before = quota.fsgetxattr(fd)
        quota.fssetxattr(fd, project, inherit=True)
        _faults.point("limits.handed_down")
        yield
        quota.fssetxattr(fd, before, inherit=bool(flags & quota.FS_XFLAG_PROJINHERIT))
    finally:
        os.close(fd)


def forget(driver_fd: int, name: str) -> None:
    """Take the limit of an id away, so that nothing is left of its project once its files are removed."""
    with _marked(driver_fd, name) as found:
        if found is None:
            return
        mark, project = found
        try:
            quota.q_setquota(mark, project, None)
        except OSError as error:
            if error.errno not in {errno.ESRCH, errno.ENOSYS, errno.ENODEV, errno.EPERM}:
                raise
            # Quotas were turned off since, or an ordinary user removes: the limit of an empty project harms nobody.
            from cowstore._log import logger

            logger(__name__).info("the limit of project %d stays: %s", project, error)
    _faults.point("limits.forgotten")


# What is counted.


def usage(driver_fd: int, name: str) -> Usage | None:
    """Tell what the file system has counted of an id's tree; None where it counts nothing of it."""
    try:
        with _marked(driver_fd, name) as found:
            if found is None:
                return None
            mark, project = found
            counted = quota.q_getquota(mark, project)
            if not counted.limited:
                return None  # A tree that is being put into its project.
    except OSError as error:
        if error.errno not in {errno.ESRCH, errno.ENOSYS, errno.ENODEV, errno.EPERM, errno.ENOTTY, errno.EOPNOTSUPP}:
            raise
        return None
    from cowstore.results import Usage

    size_bytes, inodes = _beside(driver_fd, name)
    return Usage(size_bytes=max(0, counted.size_bytes - size_bytes), inodes=max(1, counted.inodes - inodes))


def _beside(driver_fd: int, name: str) -> tuple[int, int]:
    """Measure what is counted with the tree, and is not of it."""
    size_bytes = inodes = 0
    for part in (MARK, "copied", "work"):
        with suppress(FileNotFoundError):
            size_bytes += os.stat(f"{name}/{part}", dir_fd=driver_fd, follow_symlinks=False).st_blocks * 512
            inodes += 1
    if _is_directory(driver_fd, f"{name}/work"):
        for _fd, _where, _name, found in _walk(driver_fd, f"{name}/work"):
            # Overlay keeps a name there for the whiteout that it links into the layer wherever it needs one.
            if stat.S_ISDIR(found.st_mode) or found.st_nlink == 1:
                size_bytes += found.st_blocks * 512
                inodes += 1
    return size_bytes, inodes


# Changing one's mind.


def resize(driver_fd: int, name: str, size_bytes: int) -> None:
    """Limit an id that was made with or without a limit, mounted or not.

    :raises Unsupported: it was made without, and holds what cannot be put into a project any more.
    """
    trees = [f"{name}/{part}" for part in ("work", "fs") if _is_directory(driver_fd, f"{name}/{part}")]
    if not is_limited(driver_fd, name):
        for tree in trees:
            _refuse_special(driver_fd, tree)
    mark = _open_mark(driver_fd, name, make=True)
    assert mark is not None
    try:
        fcntl.flock(mark, fcntl.LOCK_EX)
        project = _project(driver_fd, mark)
        if project is None:
            project = _claim(mark)
        if not quota.q_getquota(mark, project).limited:
            # Only when all of it is in there: a limit says that it is. What is made meanwhile is made inside.
            for tree in trees:
                _enter(driver_fd, tree, project)
        _faults.point("limits.entered")
        quota.q_setquota(mark, project, size_bytes)
    finally:
        os.close(mark)


def _is_directory(driver_fd: int, path: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(path, dir_fd=driver_fd, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _refuse_special(driver_fd: int, path: str) -> None:
    """Refuse a tree with files that cannot be opened: in another project than their directory they cannot be moved."""
    for _fd, where, name, found in _walk(driver_fd, path):
        if not stat.S_ISDIR(found.st_mode) and not stat.S_ISREG(found.st_mode):
            raise Unsupported(
                f"cannot limit a snapshot that was made without a size and holds {where}/{name}: symbolic links, "
                "devices and whiteouts cannot be put into a project later; give a size to prepare",
                feature="size_limits",
            )


def _enter(driver_fd: int, path: str, project: int) -> None:
    """Put a tree into a project, from the top: what is made in it meanwhile is in there already."""
    root = os.open(path, _DIRECTORY, dir_fd=driver_fd)
    try:
        quota.fssetxattr(root, project, inherit=True)
    finally:
        os.close(root)
    for dir_fd, _where, name, found in _walk(driver_fd, path):
        directory = stat.S_ISDIR(found.st_mode)
        if not directory and not stat.S_ISREG(found.st_mode):
            continue  # Made meanwhile, and so in the project.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with suppress(FileNotFoundError):
            fd = os.open(name, flags, dir_fd=dir_fd)
            try:
                quota.fssetxattr(fd, project, inherit=directory)
            finally:
                os.close(fd)


def _walk(driver_fd: int, path: str) -> Iterator[tuple[int, str, str, os.stat_result]]:
    """Iterate over what is below a directory, each thing before what is in it: where it is, its name, its status."""
    from cowstore.trees._descent import Descent

    root = os.open(path, _DIRECTORY, dir_fd=driver_fd)
    try:
        with Descent(root) as place:
            waiting, names = [os.listdir(place.fd)], [path]
            while waiting:
                if not waiting[-1]:
                    waiting.pop()
                    names.pop()
                    if waiting:
                        place.leave()
                    continue
                name = waiting[-1].pop()
                try:
                    found = os.stat(name, dir_fd=place.fd, follow_symlinks=False)
                    yield place.fd, "/".join(names), name, found
                    if stat.S_ISDIR(found.st_mode):
                        place.enter(name)
                        waiting.append(os.listdir(place.fd))
                        names.append(name)
                except (FileNotFoundError, NotADirectoryError):
                    continue
    finally:
        os.close(root)
