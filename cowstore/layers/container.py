"""What an image comes in: a directory or a tar archive of files, read by name."""

from __future__ import annotations

import os
import re
import stat
import tempfile

from cowstore.errors import InvalidImage, InvalidLayer
from cowstore.layers.compression import Compression, open_stream
from cowstore.layers.headers import Kind
from cowstore.layers.names import split_target
from cowstore.layers.oci import DOCUMENT_MAX
from cowstore.layers.reader import TarReader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import BinaryIO, Self

_OF_AN_IMAGE = re.compile(
    rb"(?:\./)?(?:\.?|oci-layout|index\.json|manifest\.json|repositories|blobs(?:/.*)?"
    rb"|[0-9a-f]{64}(?:\.json|\.tar)?(?:/.*)?)/?"
).fullmatch
"""Names that OCI layouts and docker-archives are made of; any other tells a plain root file system."""
_ENTRIES_MAX = 100_000
_LINKS_MAX = 16


class Container:
    """Files by name. A context manager; leaving it closes what is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def has(self, name: str) -> bool:
        """Tell whether there is a file of that name."""
        raise NotImplementedError

    def open(self, name: str) -> BinaryIO:
        """Open a file.

        :raises InvalidImage: it is not there, or no file.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Let go."""

    def read(self, name: str) -> bytes:
        """Read a document whole.

        :raises InvalidImage: it is not there, or longer than any document.
        """
        with self.open(name) as file:
            data = file.read(DOCUMENT_MAX + 1)
        if len(data) > DOCUMENT_MAX:
            raise InvalidImage(f"{name}: longer than {DOCUMENT_MAX} bytes, which no document is", part=name)
        return data


class Directory(Container):
    """A directory. No symbolic link leads out of it: none is followed."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def has(self, name: str) -> bool:
        """Tell whether there is a file of that name."""
        try:
            return stat.S_ISREG(os.stat(name, dir_fd=self._fd).st_mode)
        except OSError:
            return False

    def open(self, name: str) -> BinaryIO:
        """Open a file."""
        from cowstore._linux.files import Resolve, openat2

        try:
            fd = openat2(self._fd, name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, resolve=Resolve.BENEATH)
        except FileNotFoundError as error:
            raise InvalidImage(f"{name}: the image has no such file", part=name) from error
        except OSError as error:
            raise InvalidImage(f"{name}: cannot open it: {error.strerror}", part=name) from error
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise InvalidImage(f"{name}: not a regular file", part=name)
        return os.fdopen(fd, "rb")

    def close(self) -> None:
        """Close the directory."""
        fd, self._fd = self._fd, -1
        if fd != -1:
            os.close(fd)


class Archive(Container):
    """An uncompressed tar archive that can be sought in."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._members: dict[bytes, tuple[int, int]] = {}
        self._links: dict[bytes, bytes] = {}

    def close(self) -> None:
        """Close the archive."""
        self._file.close()

    def index(self) -> bool:
        """Read where everything lies; False if the archive is not one of an image."""
        self._file.seek(0)
        reader = TarReader(self._file)  # type: ignore[arg-type]
        count = 0
        while (entry := reader.next()) is not None:
            count += 1
            if not _OF_AN_IMAGE(entry.name) or count > _ENTRIES_MAX:
                return False
            directory, leaf = split_target(entry.name)
            name = directory + b"/" + leaf if directory else leaf
            if entry.kind is Kind.FILE and entry.sparse is None:
                self._members[name] = (reader.content_offset, entry.size)
                self._links.pop(name, None)
            elif entry.kind in {Kind.SYMLINK, Kind.HARD_LINK}:
                # A symbolic link is relative to the directory it is in, a hard link to the root.
                base = directory + b"/" if entry.kind is Kind.SYMLINK and directory else b""
                if entry.link.startswith(b"/") or _leaves(base + entry.link):
                    raise InvalidImage(
                        f"{os.fsdecode(name)}: a link that leads out of the image", part=os.fsdecode(name)
                    )
                self._links[name] = base + entry.link
        return b"manifest.json" in self._members or b"oci-layout" in self._members

    def _find(self, name: str) -> tuple[int, int]:
        wanted = os.fsencode(name)
        for _ in range(_LINKS_MAX):
            directory, leaf = split_target(wanted)
            wanted = directory + b"/" + leaf if directory else leaf
            if wanted in self._members:
                return self._members[wanted]
            if wanted not in self._links:
                raise InvalidImage(f"{name!r}: the image has no such file", part=name)
            wanted = self._links[wanted]
        raise InvalidImage(f"{name!r}: a loop of links", part=name)

    def has(self, name: str) -> bool:
        """Tell whether there is a file of that name."""
        try:
            self._find(name)
        except InvalidImage:
            return False
        return True

    def open(self, name: str) -> BinaryIO:
        """Open a stretch of the archive."""
        offset, size = self._find(name)
        return _Part(self._file.fileno(), offset, size)  # type: ignore[return-value]


class _Part:
    """A stretch of a file, with a place of its own to read at."""

    def __init__(self, fd: int, offset: int, size: int) -> None:
        self._fd = fd
        self._place = offset
        self._end = offset + size

    def read(self, size: int = -1) -> bytes:
        """Read up to *size* bytes."""
        left = self._end - self._place
        data = os.pread(self._fd, left if size < 0 else min(size, left), self._place)
        self._place += len(data)
        return data

    def readinto(self, buffer: memoryview) -> int:
        """Read into *buffer*; how many bytes."""
        with memoryview(buffer).cast("B") as view:
            count = (
                os.preadv(self._fd, [view[: self._end - self._place]], self._place) if self._end > self._place else 0
            )
        self._place += count
        return count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        return


def _leaves(name: bytes) -> bool:
    """Tell whether a name's ".." lead above where it starts."""
    depth = 0
    for part in name.split(b"/"):
        depth += -1 if part == b".." else part not in {b"", b"."}
        if depth < 0:
            return True
    return False


def open_archive(file: BinaryIO, scratch: str) -> tuple[Archive | None, BinaryIO]:
    """Open a tar archive, packed or not, as the container of an image.

    :param file: a binary file object. :param scratch: directory for an unnamed copy, where one is needed.
    :returns: the container, or None if the archive is a plain root file system; and the file to read that from, which
        is the caller's to close.
    """
    place, packed, first = _peek(file)
    if first is not None and not _OF_AN_IMAGE(first):
        return None, file
    copied = first is None or packed or place != 0
    if copied:
        file = _unpacked(file, scratch)
    archive = Archive(os.fdopen(os.dup(file.fileno()), "rb"))
    try:
        found = archive.index()
    except InvalidLayer:
        found = False
    except BaseException:
        archive.close()
        raise
    if not found:
        archive.close()
        file.seek(0)
        return None, file
    if copied:
        file.close()
    return archive, file


def _peek(file: BinaryIO) -> tuple[int, bool, bytes | None]:
    """Return where a file stands, whether it is packed, and the name of its first entry.

    :returns: None for the name where the file cannot be sought in; an empty one where there is no entry.
    """
    try:
        if not file.seekable():
            return 0, False, None
        file.fileno()
        place = file.tell()
    except (AttributeError, OSError):
        return 0, False, None
    with open_stream(file) as stream:
        try:
            entry = TarReader(stream).next()
            first = b"" if entry is None else entry.name
        except InvalidLayer:
            first = b"/"
        packed = stream.compression is not Compression.NONE
    file.seek(place)
    return place, packed, first


def _unpacked(file: BinaryIO, scratch: str) -> BinaryIO:
    """Copy the uncompressed bytes to a file without a name, that can be sought in."""
    copy = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - the caller's
    try:
        with open_stream(file) as stream:
            while chunk := stream.read(1 << 20):
                copy.write(chunk)
        copy.flush()
    except BaseException:
        copy.close()
        raise
    return copy
