"""Removing a directory tree by descriptors."""

from __future__ import annotations

import errno
import os
import stat

from cowstore.trees._descent import Descent

__all__ = ["remove_tree"]

_ATTEMPTS = 100
"""How often a directory is emptied while somebody goes on filling it."""


def remove_tree(dir_fd: int, name: str | bytes) -> None:
    """Remove *name*, whatever it is, and all below it; nothing happens if it is not there.

    Symbolic links are removed, never followed. Permissions and flags (immutable, append only) that stand in the way are
    changed. What is mounted somewhere inside stays, and so does what holds it.

    :param dir_fd: the directory that *name* is in.
    :raises OSError: EBUSY, something is mounted inside; EPERM, EACCES, EROFS, EIO and the like as unlink(2), rmdir(2).
    """
    if _unlink(dir_fd, name):
        return
    with Descent(dir_fd) as place:
        _remove_directory(place, name)


def _remove_directory(place: Descent, name: str | bytes) -> None:
    """Remove a directory of *place*, which is there again afterwards."""
    if not _enter(place, name):
        return
    # One list of directories still to go for each level, and the name of each level.
    waiting = [_remove_files(place)]
    names = [name]
    attempts = 0
    while True:
        if waiting[-1]:
            below: str | bytes = waiting[-1].pop()
            if _rmdir(place.fd, below):
                continue
            if _enter(place, below):
                names.append(below)
                waiting.append(_remove_files(place))
            continue
        place.leave()
        done = names.pop()
        waiting.pop()
        if not _rmdir(place.fd, done):
            # Somebody wrote into it meanwhile.
            attempts += 1
            if attempts > _ATTEMPTS:
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), done)
            if _enter(place, done):
                names.append(done)
                waiting.append(_remove_files(place))
                continue
        if not names:
            return


def _remove_files(place: Descent) -> list[bytes]:
    """Remove everything in the directory but directories, and return the names of those."""
    with os.scandir(place.fd) as entries:
        return [
            os.fsencode(entry.name)
            for entry in entries
            if entry.is_dir(follow_symlinks=False) or not _unlink(place.fd, entry.name)
        ]


def _unlink(dir_fd: int, name: str | bytes) -> bool:
    """Remove anything but a directory; tell whether it is gone."""
    for last in (False, True):
        try:
            os.unlink(name, dir_fd=dir_fd)
            return True
        except FileNotFoundError:
            return True
        except IsADirectoryError:
            return False
        except PermissionError:
            if last or not (_release(dir_fd, name) | _permit(dir_fd)):
                raise
    return False


def _rmdir(dir_fd: int, name: str | bytes) -> bool:
    """Remove an empty directory; tell whether it is gone."""
    for last in (False, True):
        try:
            os.rmdir(name, dir_fd=dir_fd)
            return True
        except FileNotFoundError:
            return True
        except NotADirectoryError:
            return _unlink(dir_fd, name)
        except PermissionError:
            if last or not (_release(dir_fd, name) | _permit(dir_fd)):
                raise
        except OSError as error:
            # Some file systems answer EEXIST. EBUSY is a mount point: entering it says so, or it is one no longer.
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            return False
    return False


def _enter(place: Descent, name: str | bytes) -> bool:
    """Go into a directory, whatever its mode; False where there is none any more."""
    for last in (False, True):
        try:
            place.enter(name)
            return True
        except FileNotFoundError:
            return False
        except NotADirectoryError:
            _unlink(place.fd, name)
            return False
        except PermissionError:
            if last or not (_permit_child(place.fd, name) or _permit(place.fd)):
                raise
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise OSError(errno.EBUSY, "something is mounted on it", name) from error
            raise
    return False


def _release(dir_fd: int, name: str | bytes) -> bool:
    """Make an entry and its directory neither immutable nor append-only; tell whether that changed anything."""
    changed = _unflag(dir_fd)
    try:
        mode = os.lstat(name, dir_fd=dir_fd).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            return changed  # to open a device node may do something
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
    except OSError:
        return changed
    try:
        return _unflag(fd) or changed
    finally:
        os.close(fd)


def _unflag(fd: int) -> bool:
    from cowstore._linux.files import InodeFlag, get_inode_flags, set_inode_flags

    hindering = InodeFlag.IMMUTABLE | InodeFlag.APPEND
    try:
        flags = get_inode_flags(fd)
        if not flags & hindering:
            return False
        set_inode_flags(fd, InodeFlag(int(flags) & ~int(hindering)))
    except OSError:
        return False  # no such flags here, or not for this user to change
    return True


def _permit(fd: int) -> bool:
    """Give the owner every right on a directory; tell whether that changed anything."""
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    if mode & stat.S_IRWXU == stat.S_IRWXU:
        return False
    os.fchmod(fd, mode | stat.S_IRWXU)
    return True


def _permit_child(dir_fd: int, name: str | bytes) -> bool:
    """Do the same to a directory that cannot be opened. The kernel leaves overlay's work directories so."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        found = os.fstat(fd)
        if not stat.S_ISDIR(found.st_mode) or found.st_mode & stat.S_IRWXU == stat.S_IRWXU:
            return False
        # fchmod(2) does not take such a descriptor.
        os.chmod(f"/proc/self/fd/{fd}", stat.S_IMODE(found.st_mode) | stat.S_IRWXU)
        return True
    finally:
        os.close(fd)
