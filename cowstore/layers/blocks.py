"""A byte stream cut into tar's blocks, through one buffer of fixed size."""

from __future__ import annotations

import os

from cowstore.layers.limits import invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from cowstore.errors import InvalidLayer

    class Source(Protocol):
        """What an archive is read from: a binary file object, or a `cowstore.layers.compression.Stream`."""

        def readinto(self, buffer: memoryview, /) -> int | None:
            """Read some bytes into buffer and return how many; 0 at the end only."""


BLOCK = 512
ZERO_BLOCK = bytes(BLOCK)
#: Large enough that a small file's header and content lie in it together, small enough for the processor's cache.
BUFFER = 256 * 1024


def padded(size: int) -> int:
    """Round a size in bytes up to whole blocks."""
    return (size + BLOCK - 1) & -BLOCK


class Blocks:
    """A cursor over the blocks of an archive.

    :ivar name: the entry being read, for error messages. :ivar start: offset of its header in bytes.
    """

    __slots__ = ("_base", "_buffer", "_end", "_position", "_source", "_view", "name", "start")

    def __init__(self, source: Source) -> None:
        self._source = source
        self._buffer = bytearray(BUFFER)
        self._view = memoryview(self._buffer)
        self._position = 0
        self._end = 0
        self._base = 0
        self.name = b""
        self.start = 0

    @property
    def offset(self) -> int:
        """How many bytes of the archive have been taken."""
        return self._base + self._position

    def _fill(self, wanted: int) -> int:
        """Have at least wanted bytes in the buffer unless the stream ends; return how many there are."""
        have = self._end - self._position
        if have >= wanted:
            return have
        view = self._view
        if self._position:
            view[:have] = view[self._position : self._end]
            self._base += self._position
            self._position, self._end = 0, have
        readinto = self._source.readinto
        while self._end < wanted:
            count = readinto(view[self._end :])
            if not count:
                break
            self._end += count
        return self._end

    def header(self) -> bytes | None:
        """Take the next block; None when the stream ends before it.

        Raises:
            InvalidLayer: the stream ends within it.
        """
        position = self._position
        if self._end - position < BLOCK:
            have = self._fill(BLOCK)
            if have < BLOCK:
                if have == 0:
                    return None
                raise self.truncated("within a header", BLOCK - have)
            position = self._position
        self._position = position + BLOCK
        return bytes(self._view[position : position + BLOCK])

    def read(self, size: int) -> bytes:
        """Take exactly size bytes, which the caller has bounded.

        Raises:
            InvalidLayer: the stream ends before.
        """
        start = self._position
        if start + size <= self._end:
            self._position = start + size
            return bytes(self._view[start : start + size])
        parts = []
        left = size
        while left:
            part = self.some(left)
            left -= len(part)
            parts.append(bytes(part))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def some(self, size: int) -> memoryview:
        """Take between 1 and size bytes, valid until the next call.

        Raises:
            InvalidLayer: the stream ends here.
        """
        have = self._end - self._position or self._fill(1)
        if not have:
            raise self.truncated("within its content", size)
        start = self._position
        self._position = stop = start + min(size, have)
        return self._view[start:stop]

    def copy(self, fd: int, size: int) -> None:
        """Write the next size bytes to a file descriptor, at its position.

        Raises:
            InvalidLayer: the stream ends before.
            OSError: as write(2).
        """
        start = self._position
        if start + size <= self._end:
            done = os.write(fd, self._view[start : start + size])
            self._position = start + done
            size -= done
        while size:
            part = self.some(size)
            done = os.write(fd, part)
            size -= done
            if done < len(part):
                self._position -= len(part) - done

    def skip(self, size: int) -> None:
        """Pass over size bytes.

        Raises:
            InvalidLayer: the stream ends before.
        """
        have = self._end - self._position
        if size <= have:
            self._position += size
            return
        while size:
            size -= len(self.some(size))

    def only_zeros_left(self) -> bool:
        """Read to the end of the stream; tell whether nothing but zeros came."""
        clean = True
        while self._fill(1):
            rest = self._view[self._position : self._end]
            clean = clean and bytes(rest).count(0) == len(rest)
            self._position = self._end
        return clean

    def truncated(self, where: str, missing: int) -> InvalidLayer:
        """Build the error of a stream that ends too early, with how many bytes are missing at least."""
        return invalid(
            f"the archive ends {where}, at byte {self._base + self._end} ({missing} more expected): it is truncated",
            self.name,
            self.start,
        )
