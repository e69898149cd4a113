"""A layer from a tree and the list of its changes.

The whiteouts come first, then everything else, both in the order of the changes: so every whiteout stands before its
siblings, and a directory before what is in it. Nothing but the list of the paths is kept, and that on disk when long.
"""

from __future__ import annotations

import os
import stat
import tempfile

from cowstore.errors import CowstoreError, InvalidLayer
from cowstore.layers.metadata import HOST_BOUND
from cowstore.layers.writer import END, WHITEOUT, header, padding, whiteout
from cowstore.results import ChangeKind
from cowstore.trees._descent import Descent
from cowstore.trees._same import file_xattrs, xattrs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cowstore.layers.sink import Sink
    from cowstore.results import Change

_SPOOL = 4 << 20
"""Bytes of paths that are kept in memory."""
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def write_layer(root_fd: int, changes: Iterable[Change], sink: Sink) -> dict[str, int]:
    """Write the layer of *changes*, whose tree is below *root_fd*.

    :returns: how many entries of which sort were left out.
    :raises InvalidLayer: a name that no layer can hold. :raises CowstoreError: a file changed while it was read.
    :raises OSError: a file cannot be read.
    """
    writer = _Writer(root_fd, sink)
    with tempfile.SpooledTemporaryFile(_SPOOL) as spool, writer.place:
        for change in changes:
            path = os.fsencode(change.path)
            if change.kind is ChangeKind.DELETED:
                writer.check_name(path)
                sink.write(whiteout(path))
            else:
                spool.write(path + b"\0")
        spool.seek(0)
        for path in _spooled(spool):
            writer.add(path)
    sink.write(END)
    return writer.skipped


def _spooled(spool: tempfile.SpooledTemporaryFile[bytes]) -> Iterator[bytes]:
    """Return the paths one by one; no path holds a NUL."""
    rest = b""
    while chunk := spool.read(1 << 16):
        *whole, rest = (rest + chunk).split(b"\0")
        yield from whole


class _Writer:
    """Adds entries one by one, holding the place in the tree it is at."""

    def __init__(self, root_fd: int, sink: Sink) -> None:
        self.place = Descent(root_fd)
        self.skipped: dict[str, int] = {}
        self._sink = sink
        self._directory: list[bytes] = []
        self._links: dict[tuple[int, int], bytes] = {}
        epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
        self._latest_ns = int(epoch) * 10**9 if epoch.isascii() and epoch.isdigit() else None

    def check_name(self, path: bytes) -> None:
        """Refuse a name that would be taken for a whiteout."""
        leaf = path.rpartition(b"/")[2]
        if leaf.startswith(WHITEOUT):
            shown = os.fsdecode(path)
            raise InvalidLayer(
                f"cannot write {shown!r} into a layer: a name that begins with '.wh.' would hide another; rename it",
                entry=shown,
            )

    def add(self, path: bytes) -> None:
        """Write one entry with its content."""
        directory, _, leaf = path.rpartition(b"/")
        if path == b".":
            directory, leaf = b"", b"."
        self.check_name(path)
        fd = self._go(directory.split(b"/") if directory else [])
        found = os.stat(leaf, dir_fd=fd, follow_symlinks=False)
        if stat.S_ISSOCK(found.st_mode):
            self.skipped["sockets"] = self.skipped.get("sockets", 0) + 1
            return
        if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
            first = self._links.setdefault((found.st_dev, found.st_ino), path)
            if first != path:
                self._sink.write(self._header(path, found, target=first, hard_link=True))
                return
        if stat.S_ISREG(found.st_mode):
            self._add_file(fd, leaf, path, found)
            return
        attributes = _portable(xattrs(fd, os.fsdecode(leaf)))
        if stat.S_ISLNK(found.st_mode):
            self._sink.write(self._header(path, found, target=os.readlink(leaf, dir_fd=fd), xattrs=attributes))
        else:
            self._sink.write(self._header(path, found, xattrs=attributes))

    def _go(self, parts: list[bytes]) -> int:
        """Open the directory of those parts; most entries are beside or below the last one."""
        common = 0
        for here, there in zip(self._directory, parts, strict=False):
            if here != there:
                break
            common += 1
        while len(self._directory) > common:
            self._directory.pop()
            self.place.leave()
        for part in parts[common:]:
            self.place.enter(part)
            self._directory.append(part)
        return self.place.fd

    def _header(
        self,
        path: bytes,
        found: os.stat_result,
        *,
        size: int = 0,
        target: bytes = b"",
        hard_link: bool = False,
        xattrs: tuple[tuple[bytes, bytes], ...] = (),
    ) -> bytes:
        mtime_ns = found.st_mtime_ns
        if self._latest_ns is not None:
            mtime_ns = min(mtime_ns, self._latest_ns)
        device = (0, 0)
        if stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode):
            device = (os.major(found.st_rdev), os.minor(found.st_rdev))
        return header(
            path, found.st_mode, uid=found.st_uid, gid=found.st_gid, size=size, mtime_ns=mtime_ns, device=device,
            target=target, hard_link=hard_link, xattrs=xattrs,
        )  # fmt: skip

    def _add_file(self, fd: int, leaf: bytes, path: bytes, found: os.stat_result) -> None:
        """Write a regular file; holes are written as zeros, but not read."""
        file = _open(fd, leaf)
        try:
            attributes = _portable(file_xattrs(file))
            self._sink.write(self._header(path, found, size=found.st_size, xattrs=attributes))
            if found.st_blocks * 512 < found.st_size:
                self._copy_sparse(file, path, found.st_size)
            else:
                self._copy(file, path, found.st_size)
            now = os.fstat(file)
        finally:
            os.close(file)
        if _state(now) != _state(found):
            raise _changed(path)
        self._sink.write(padding(found.st_size))

    def _copy(self, file: int, path: bytes, size: int) -> None:
        while size:
            taken = self._sink.read(file, size)
            if not taken:
                raise _changed(path)
            size -= taken

    def _copy_sparse(self, file: int, path: bytes, size: int) -> None:
        place = 0
        while place < size:
            try:
                data = os.lseek(file, place, os.SEEK_DATA)
            except OSError as error:
                if error.errno != 6:  # ENXIO: nothing but a hole to the end
                    raise
                data = size
            self._sink.zeros(min(data, size) - place)
            if data >= size:
                return
            place = os.lseek(file, data, os.SEEK_HOLE)
            os.lseek(file, data, os.SEEK_SET)
            self._copy(file, path, min(place, size) - data)


def _open(fd: int, leaf: bytes) -> int:
    """Open a file to read it, without touching its access time where that is allowed."""
    try:
        return os.open(leaf, _READ | os.O_NOATIME, dir_fd=fd)
    except PermissionError:
        return os.open(leaf, _READ, dir_fd=fd)


def _state(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _changed(path: bytes) -> CowstoreError:
    shown = os.fsdecode(path)
    return CowstoreError(f"{shown!r} changed while it was read; end (or freeze) what writes it, then export again")


def _portable(found: dict[str, bytes]) -> tuple[tuple[bytes, bytes], ...]:
    """Return the extended attributes that belong into a layer."""
    if not found:
        return ()
    named = ((os.fsencode(name), value) for name, value in found.items())
    return tuple((name, value) for name, value in named if not name.startswith(HOST_BOUND))
