"""Leases: lock files that say, across processes and pid namespaces, who is alive and what is in use.

``owners/<token>`` is locked exclusively by one open store from its first verb that writes until it is closed. A row of
the catalog that is unfinished or ephemeral names that token, so whoever can take the lock knows that its owner is gone.

``leases/<id>`` is locked shared by whoever has the snapshot mounted or runs a process on it, and exclusively, for a
moment, by commit, remove and release.

All are flock(2) locks of descriptors that nobody else shares: the kernel frees them when their holder dies, a second
store in the same process is a stranger like any other, and a forked child gives up its copies at once.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from contextlib import suppress

_held: set[int] = set()
_watching = False


def _keep(fd: int) -> int:
    """Remember a locked descriptor, so that a forked child closes its copy."""
    global _watching
    if not _watching:
        os.register_at_fork(after_in_child=_drop_all)
        _watching = True
    _held.add(fd)
    return fd


def _drop_all() -> None:
    for fd in _held:
        with suppress(OSError):
            os.close(fd)
    _held.clear()


def held() -> set[int]:
    """Return the descriptors of all locks this process holds."""
    return _held


def drop(fd: int) -> None:
    """Give up a lock that one of the functions below returned. In a forked child nothing is left to give up."""
    if fd in _held:
        _held.discard(fd)
        # Closing is not enough: a child that another thread has just forked has a copy until it execs.
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def _lock(directory_fd: int, name: str, operation: int, *, make: bool = True) -> int | None:
    """Lock a file of that name: its descriptor, or None if somebody holds it (non-blocking) or it is not there."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if make else 0)
    while True:
        try:
            fd = os.open(name, flags, 0o600, dir_fd=directory_fd)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fd, operation)
            # Between open and flock the last holder may have removed the name: then this lock means nothing.
            if os.fstat(fd).st_nlink:
                return _keep(fd)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def open_store(root: str) -> int:
    """Open the store's directory under a shared lock, which tells ``destroy`` that somebody has the store open."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
    except BaseException:
        os.close(fd)
        raise
    return _keep(fd)


def take_owner(directory_fd: int) -> tuple[str, int]:
    """Make and lock a new owner's file; returns its token and the descriptor."""
    while True:
        token = os.urandom(8).hex()
        fd = _lock(directory_fd, token, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if fd is not None:
            return token, fd


def take_dead_owner(directory_fd: int, token: str) -> int | None:
    """Lock the file of an owner that is gone; None while it lives, or while somebody else cleans up after it."""
    return _lock(directory_fd, token, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_dead(directory_fd: int, token: str) -> bool:
    """Tell whether nobody holds the owner's lock, writing nothing."""
    try:
        fd = os.open(token, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory_fd)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def forget_owner(directory_fd: int, token: str, fd: int) -> None:
    """Remove the file of an owner, whose lock is held, and give up the lock."""
    _unlink(directory_fd, token)
    drop(fd)


def share(directory_fd: int, id: int) -> int:
    """Hold a snapshot: it is busy until the descriptor is dropped. Waits while a commit or removal is under way."""
    fd = _lock(directory_fd, str(id), fcntl.LOCK_SH)
    assert fd is not None
    return fd


def seize(directory_fd: int, id: int) -> int | None:
    """Take a snapshot for oneself; None while somebody holds it."""
    return _lock(directory_fd, str(id), fcntl.LOCK_EX | fcntl.LOCK_NB)


def upgrade(fd: int) -> bool:
    """Turn a shared lock into an exclusive one; False, and the lock may be gone, while somebody else holds it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def downgrade(fd: int) -> None:
    """Let others share an exclusive lock again."""
    fcntl.flock(fd, fcntl.LOCK_SH)


# Whose tree can only be realised once for writing (two overlays on one upper directory break each other) has more to
# agree on: byte 0 of its lease file is locked shared by whoever has the tree writable, byte 1 exclusively while it is
# being realised. These are locks of the open file (F_OFD_SETLK), apart from flock's, and end with it as those do.
_WRITABLE, _REALISING = 0, 1


def begin_writing(fd: int) -> bool:
    """Wait until nobody is realising the tree for writing; True if nobody has it realised, who may do it then.

    The caller counts as one who has it, until the descriptor is dropped or :func:`end_writing`, and must call
    :func:`realised` when it has been done, or given up.

    :param fd: what :func:`share` returned.
    """
    _byte_lock(fd, fcntl.F_WRLCK, _REALISING, wait=True)
    try:
        alone = _byte_lock(fd, fcntl.F_WRLCK, _WRITABLE)
        _byte_lock(fd, fcntl.F_RDLCK, _WRITABLE, wait=True)
    except BaseException:
        _byte_lock(fd, fcntl.F_UNLCK, _REALISING)
        raise
    return alone


def realised(fd: int) -> None:
    """Let others look at the tree that :func:`begin_writing` was about."""
    _byte_lock(fd, fcntl.F_UNLCK, _REALISING)


def stop_others(fd: int) -> None:
    """Wait until nobody is realising the tree, and let nobody begin until :func:`realised`: it is being taken down."""
    _byte_lock(fd, fcntl.F_WRLCK, _REALISING, wait=True)


def end_writing(fd: int) -> None:
    """Say that this lease has the tree no longer writable."""
    _byte_lock(fd, fcntl.F_UNLCK, _WRITABLE)


def _byte_lock(fd: int, kind: int, byte: int, *, wait: bool = False) -> bool:
    """Lock or unlock one byte; False if somebody else's lock forbids it.

    Source: fcntl(2), "Open file description locks".
    """
    command = fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK
    try:
        fcntl.fcntl(fd, command, struct.pack("hhqqi4x", kind, os.SEEK_SET, byte, 1, 0))
    except BlockingIOError:
        return False
    return True


def forget(directory_fd: int, id: int, fd: int) -> None:
    """Remove the file of a snapshot that is gone, whose exclusive lock is held, and give up the lock."""
    _unlink(directory_fd, str(id))
    drop(fd)


def discard(directory_fd: int, id: int, fd: int) -> None:
    """Give up a lock, and remove the file unless somebody else holds it: the snapshot is gone, or was never there."""
    if upgrade(fd):
        _unlink(directory_fd, str(id))
    drop(fd)


def _unlink(directory_fd: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=directory_fd)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
