"""What is to become of directories once everything is in them.

A directory's times change with each thing made in it, and its mode or a default ACL could stand in the way of the rest
or be inherited by it. So all attributes of directories wait for the end. The log is read in the order it was written,
so that the last word counts, and lies on disk when it grows: an archive of a million directories is no reason to fill
the memory.
"""

from __future__ import annotations

import errno
import io
import marshal
import os
import stat

from cowstore._linux.files import openat2
from cowstore.layers.limits import Malformed, invalid
from cowstore.layers.tree import RESOLVE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO, Self, TypeAlias

    from cowstore.layers.headers import Entry
    from cowstore.layers.metadata import Metadata

    #: path; mode and owner (None: as they are); mtime_ns; extended attributes; whether to take away those it has;
    #: offset of the entry in the archive, -1 where there is none
    Record: TypeAlias = tuple[bytes, int | None, tuple[int, int] | None, int, dict[bytes, bytes] | None, bool, int]

_MEMORY_BYTES = 4 << 20
_LENGTH_BYTES = 4
_IMPLIED_MODE = 0o755
#: A directory that the log knows is not there any more: something else took its place later.
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


class DirectoryLog:
    """A list of what directories get at the end; `finish` gives it to them."""

    __slots__ = ("_file", "_on_disk")

    def __init__(self) -> None:
        self._file: BinaryIO = io.BytesIO()
        self._on_disk = False

    def entry(self, path: bytes, entry: Entry, *, clear: bool) -> None:
        """Note a directory that the archive names.

        Args:
            path: canonical, relative to the root.
            entry: its entry.
            clear: it may have attributes besides the entry's: it was there before, or inherited some.
        """
        self._add((path, entry.mode, (entry.uid, entry.gid), entry.mtime_ns, entry.xattrs, clear, entry.offset))

    def implied(self, path: bytes) -> None:
        """Note a directory that something in the archive needs and nothing describes: 0755, root's, of 1970."""
        self._add((path, _IMPLIED_MODE, (0, 0), 0, None, True, -1))

    def kept(self, path: bytes, mode: int, mtime_ns: int) -> None:
        """Note a directory that was there before, in which something changes, and that is to look untouched."""
        closed = mode & stat.S_IRWXU != stat.S_IRWXU  # then it may have been opened up meanwhile
        self._add((path, mode if closed else None, None, mtime_ns, None, False, -1))

    def _add(self, record: Record) -> None:
        data = marshal.dumps(record)
        self._file.write(len(data).to_bytes(_LENGTH_BYTES, "little"))
        self._file.write(data)
        if not self._on_disk and self._file.tell() > _MEMORY_BYTES:
            self._spill()

    def _spill(self) -> None:
        """Go on in a file without a name."""
        import tempfile

        memory, self._file = self._file, tempfile.TemporaryFile()  # noqa: SIM115  (closed by `close`)
        self._on_disk = True
        memory.seek(0)
        while data := memory.read(_MEMORY_BYTES):
            self._file.write(data)

    def _records(self) -> Iterator[Record]:
        """Read the log from its beginning."""
        self._file.seek(0)
        while length := self._file.read(_LENGTH_BYTES):
            yield marshal.loads(self._file.read(int.from_bytes(length, "little")))  # noqa: S302  (written above)

    def finish(self, root_fd: int, metadata: Metadata) -> None:
        """Give the directories what is noted of them, in that order; modes that bind their owner last, deepest first.

        Raises:
            InvalidLayer: an attribute has a value that the kernel refuses.
            OSError: as fchown(2), fchmod(2), setxattr(2), utimensat(2).
        """
        closed: dict[bytes, int] = {}
        for path, mode, owner, mtime_ns, xattrs, clear, offset in self._records():
            fd = _open(root_fd, path)
            if fd is None:
                continue
            try:
                if clear:
                    metadata.clear(fd)
                if owner is not None:
                    metadata.directory_owner(fd, owner, named=offset >= 0)
                if mode is not None:
                    os.fchmod(fd, mode | stat.S_IRWXU)
                if xattrs:
                    metadata.xattrs(fd, xattrs, directory=True, regular=False)
                os.utime(fd, ns=(mtime_ns, mtime_ns))
            except Malformed as error:
                raise invalid(str(error), path, offset) from error
            except OSError as error:
                error.add_note(f"unpacking the directory {os.fsdecode(path)!r}")
                raise
            finally:
                os.close(fd)
            closed.pop(path, None)
            if mode is not None and mode & stat.S_IRWXU != stat.S_IRWXU:
                closed[path] = mode
        # Below a directory comes behind it, so backwards means deepest first.
        for path in sorted(closed, reverse=True):
            fd = _open(root_fd, path)
            if fd is not None:
                try:
                    os.fchmod(fd, closed[path])
                finally:
                    os.close(fd)

    def close(self) -> None:
        """Give up the log's memory or file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _open(root_fd: int, path: bytes) -> int | None:
    """Open a directory for its attributes; None when it is gone."""
    flags = os.O_DIRECTORY | os.O_NOFOLLOW
    try:
        try:
            return openat2(root_fd, path or b".", os.O_RDONLY | flags, 0, RESOLVE)
        except PermissionError:
            held = openat2(root_fd, path or b".", os.O_PATH | flags, 0, RESOLVE)
            try:
                # Its owner may not read it, but may allow himself to.
                os.chmod(f"/proc/self/fd/{held}", stat.S_IMODE(os.fstat(held).st_mode) | stat.S_IRWXU)
            finally:
                os.close(held)
            return openat2(root_fd, path or b".", os.O_RDONLY | flags, 0, RESOLVE)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise
