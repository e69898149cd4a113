"""The one directory that a run may write in, with its mounts and loop devices; gone when the run ends."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from contextlib import ExitStack, contextmanager, suppress

from cowstore.errors import CowstoreError, OutOfSpace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType
    from typing import NoReturn

    from cowstore._linux.loop import LoopDevice
    from cowstore.bench.results import Run

PREFIX = "cowstore-bench-"
_LOCK = ".lock"
_KEEP_FREE = 256 << 20
"""Bytes that stay free on the file system whatever a run asks for."""
_INODES = 100_000
"""Files that there must be room for: the large trees lie on file systems of their own."""


class Scratch:
    """A directory to measure in.

    :ivar path: its absolute path.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._number = 0
        self._loops: dict[str, LoopDevice] = {}

    def directory(self, name: str) -> str:
        """Make a new directory with *name* in its own name."""
        self._number += 1
        path = os.path.join(self.path, f"{self._number}-{name}")
        os.mkdir(path, 0o755)
        return path

    def file_system(self, kind: str, size_bytes: int, name: str) -> str:
        """Make a file system of *kind* on a loop device over a sparse file, mount it, and return where.

        :param kind: ``ext4``, ``xfs`` or ``btrfs``.
        :raises DriverUnavailable: its mkfs is not installed. :raises OSError: no loop devices here.
        """
        from cowstore import _programs
        from cowstore._linux import loop
        from cowstore._linux.fd import open_
        from cowstore._linux.mount import mount

        arguments = {
            "ext4": ("mke2fs", ["-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"]),
            "xfs": ("mkfs.xfs", ["-q", "-K", "-m", "reflink=1"]),
            "btrfs": ("mkfs.btrfs", ["-q", "-K"]),
        }
        program, options = arguments[kind]
        need(self.path, size_bytes // 4)
        point = self.directory(name)
        image = f"{point}.img"
        with open_(image, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600) as file:
            os.ftruncate(file.fileno(), size_bytes)
            _programs.run(program, [*options, image])
            device = loop.attach(file)
        self._loops[point] = device
        mount(device.node, point, kind)
        return point

    def ground(self, size_bytes: int, run: Run) -> Scratch:
        """Return a scratch directory on a fresh ext4 of its own, where that can be had; *run* is told which it is.

        On a file system that others use, ext4 is up to fifty times slower at making a directory or file: it passes
        over every inode that was freed in the last minutes.
        """
        try:
            made = Scratch(self.file_system("ext4", size_bytes, "ground"))
        except (CowstoreError, OSError) as error:
            run.method.append(
                f"Measured in {self.path} itself, since no file system of its own could be made ({error}): making and "
                "removing files is slower where inodes have just been freed."
            )
            return self
        run.method.append("Measured on a fresh ext4 on a loop device over a sparse file in the scratch directory.")
        return made

    def drop(self, point: str) -> None:
        """Give a file system back before the end of the run."""
        _unmount_below(point)
        loop = self._loops.pop(point, None)
        if loop is not None:
            loop.close()
            with suppress(FileNotFoundError):
                os.unlink(f"{point}.img")

    def close(self) -> None:
        """Take down everything that is mounted here, and remove it all."""
        _unmount_below(self.path)
        for point in list(self._loops):
            self._loops.pop(point).close()
        _remove(self.path)


def need(path: str, size_bytes: int) -> None:
    """Make sure that the file system of *path* has room.

    :raises OutOfSpace: it has not; says how much, and what to do.
    """
    found = os.statvfs(path)
    free = found.f_bavail * found.f_frsize
    if free < size_bytes + _KEEP_FREE:
        raise OutOfSpace(
            f"no room to measure in {path}: {free >> 20} MiB are free, {(size_bytes + _KEEP_FREE) >> 20} are needed; "
            "name another directory with --scratch DIR",
            what="data",
        )
    if found.f_files and found.f_favail < _INODES:
        raise OutOfSpace(
            f"no room to measure in {path}: {found.f_favail} inodes are free, {_INODES} are needed; "
            "name another directory with --scratch DIR",
            what="inodes",
        )


@contextmanager
def scratch(parent: str | None, size_bytes: int) -> Iterator[Scratch]:
    """Give a scratch directory for the length of the block.

    :param parent: where to make it; by default ``$TMPDIR``, or ``/var/tmp`` or ``/tmp``, whichever is on a disk.
    :param size_bytes: what the run may need.
    :raises OutOfSpace: there is less.
    """
    import tempfile

    where = os.path.realpath(parent or os.environ.get("TMPDIR") or _usual_place())
    if not os.path.isdir(where):
        raise CowstoreError(f"cannot measure in {where}: there is no such directory; name another with --scratch DIR")
    _sweep(where)
    need(where, size_bytes)
    with ExitStack() as stack:
        stack.enter_context(_terminated())
        path = tempfile.mkdtemp(prefix=PREFIX, dir=where)
        os.chmod(path, 0o755)
        made = Scratch(path)
        stack.callback(_close, made)
        lock = os.open(os.path.join(path, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield made


def _usual_place() -> str:
    """Return ``/var/tmp``, or ``/tmp`` where only that is on a disk: in memory nothing waits, and no ratio is right."""
    from cowstore._linux.files import FsMagic, statfs

    for place in ("/var/tmp", "/tmp"):
        if os.path.isdir(place) and statfs(place).type != FsMagic.TMPFS:
            return place
    return "/var/tmp"


def _close(made: Scratch) -> None:
    """Remove a scratch directory, undisturbed by a second Ctrl-C or a request to end."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _ENDINGS}
    try:
        made.close()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def _terminated() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does."""

    def stop(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _sweep(where: str) -> None:
    """Remove what runs that were killed have left in *where*; only what carries our name and nobody's lock."""
    for name in os.listdir(where):
        path = os.path.join(where, name)
        if not name.startswith(PREFIX) or os.path.islink(path):
            continue
        try:
            lock = os.open(os.path.join(path, _LOCK), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            # Killed before it had a lock, it has nothing else either; one that is just being made is not ours to judge.
            if time.time() - os.lstat(path).st_mtime > _MAKING_SECONDS:
                with suppress(OSError):
                    os.rmdir(path)
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            print(f"bench: removing {path}, which a run that was killed has left", file=sys.stderr)
            _destroy_stores(path)
            Scratch(path).close()
        finally:
            os.close(lock)


_MAKING_SECONDS = 60.0


def _destroy_stores(path: str) -> None:
    """Destroy the stores that still hold something of the machine: a pool's devices outlive their files' names."""
    import cowstore

    for directory, names, files in os.walk(path):
        if "catalog.db" in files:
            names.clear()
            try:
                cowstore.open(directory).destroy()
            except (CowstoreError, OSError) as error:
                print(f"bench: {directory} is left as it is: {' '.join(str(error).split())}", file=sys.stderr)
        elif directory.count(os.sep) - path.count(os.sep) >= _STORE_DEPTH:
            names.clear()


_STORE_DEPTH = 3
"""Directories between a scratch directory and a store in it."""


def _unmount_below(path: str) -> None:
    from cowstore._linux.mount import UmountFlag, umount2
    from cowstore._linux.procfs import mountinfo

    top = os.fsencode(path)
    points = [entry.mount_point for entry in mountinfo()]
    for point in reversed([point for point in points if point == top or point.startswith(top + b"/")]):
        try:
            umount2(point, UmountFlag.NOFOLLOW)
        except OSError:
            umount2(point, UmountFlag.NOFOLLOW | UmountFlag.DETACH)


def _remove(path: str) -> None:
    from cowstore._linux.fd import open_
    from cowstore.trees.remove import remove_tree

    parent, name = os.path.split(path)
    with open_(parent, os.O_RDONLY | os.O_DIRECTORY) as above:
        try:
            remove_tree(above.fileno(), name)
        except OSError:
            # Subvolumes and immutable files of a driver that broke half-way.
            import shutil

            shutil.rmtree(path, ignore_errors=True)
