"""Where a layer's bytes go: hashed, compressed and written by threads beside the one that reads the tree."""

from __future__ import annotations

import hashlib
import os
import queue
import threading

from cowstore.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import BinaryIO, Protocol, Self

    class Compressor(Protocol):
        """What zlib, isal and zstd compressors have in common."""

        def compress(self, data: bytes | memoryview, /) -> bytes:
            """Take some, and give what is ready."""

        def flush(self) -> bytes:
            """Give the rest."""


CHUNK = 1 << 20
"""Bytes that are handed on at a time."""
_AHEAD = 6
"""Chunks there are: what is being filled, hashed and written, and what waits for that."""

MEDIA_TYPES = {
    None: "application/vnd.oci.image.layer.v1.tar",
    "none": "application/vnd.oci.image.layer.v1.tar",
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
}
"""OCI media type of a layer by its compression. Source: OCI image specification, media-types.md."""


def compressor(compression: str | None) -> Compressor | None:
    """Return a compressor whose output depends on nothing but its input and its library.

    :raises InvalidArgument: an unknown compression.
    """
    if compression in {None, "none"}:
        return None
    if compression == "gzip":
        # No name and no time in the gzip header: both libraries leave them out.
        try:
            from isal import isal_zlib
        except (ImportError, OSError):
            import zlib

            return zlib.compressobj(6, zlib.DEFLATED, 31)
        made: Compressor = isal_zlib.compressobj(2, isal_zlib.DEFLATED, 31)
        return made
    if compression == "zstd":
        try:
            from compression import zstd
        except ImportError:
            from backports import zstd
        fast: Compressor = zstd.ZstdCompressor(level=3)
        return fast
    raise InvalidArgument(f"cannot compress with {compression!r}: use gzip, zstd or none", argument="compression")


class Sink:
    """A file that a layer is written to. A context manager: leaving it without an error finishes the layer.

    Chunks go round: filled here, hashed by one thread, packed and written by the next, then filled again. New memory
    for each, and the kernel's zeroing of it, took a quarter of an export's time.

    :ivar diff_id: digest of the bytes given, after the end. :ivar digest: digest of the bytes written.
    :ivar size_bytes: how many were written.
    """

    def __init__(self, file: BinaryIO, compression: str | None = None) -> None:
        self._file = file
        self._compressor = compressor(compression)
        self._given = hashlib.sha256()
        self._written = self._given if self._compressor is None else hashlib.sha256()
        self._error: BaseException | None = None
        self._filled: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        self._hashed: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        self._empty: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        for _ in range(_AHEAD):
            self._empty.put(memoryview(bytearray(CHUNK)))
        self._threads = [
            threading.Thread(target=self._work, args=work, daemon=True)
            for work in (
                (self._filled, self._given.update, self._hashed),
                (self._hashed, self._pack, self._empty),
            )
        ]
        self._chunk: memoryview = memoryview(b"")
        self._size = self._room = 0
        self.size_bytes = 0
        self.diff_id = ""
        self.digest = ""

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._hand_on()
        finally:
            self._filled.put(None)
            for thread in self._threads:
                thread.join()
        if error is not None:
            return
        self._raise()
        if self._compressor is not None:
            self._store(memoryview(self._compressor.flush()))
        self.diff_id = f"sha256:{self._given.hexdigest()}"
        self.digest = f"sha256:{self._written.hexdigest()}"

    def write(self, data: bytes) -> None:
        """Take bytes; whatever failed in a thread is raised here."""
        end = self._size + len(data)
        if end <= self._room:
            self._chunk[self._size : end] = data
            self._size = end
            return
        rest = memoryview(data)
        while rest:
            count = min(self._more(), len(rest))
            self._chunk[self._size : self._size + count] = rest[:count]
            self._size += count
            rest = rest[count:]

    def read(self, fd: int, count: int) -> int:
        """Take up to *count* bytes from where an open file is at; returns how many, 0 at its end."""
        count = min(self._more(), count)
        taken = os.readv(fd, (self._chunk[self._size : self._size + count],))
        self._size += taken
        return taken

    def zeros(self, count: int) -> None:
        """Take that many zeros."""
        while count > 0:
            self.write(_ZEROS if count >= CHUNK else _ZEROS[:count])
            count -= CHUNK

    def _more(self) -> int:
        """Make sure that there is room, and return how much."""
        if self._size == self._room:
            self._hand_on()
            chunk = self._empty.get()
            assert chunk is not None
            self._chunk, self._room = chunk, CHUNK
        return self._room - self._size

    def _hand_on(self) -> None:
        self._raise()
        if self._size:
            self._filled.put(self._chunk[: self._size])
            self._size = self._room = 0

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(
        self,
        waiting: queue.SimpleQueue[memoryview | None],
        step: Callable[[memoryview], object],
        following: queue.SimpleQueue[memoryview | None],
    ) -> None:
        """Do *step* with every chunk; after an error only keep them going round."""
        while (chunk := waiting.get()) is not None:
            if self._error is None:
                try:
                    step(chunk)
                except BaseException as error:  # noqa: BLE001 - raised again in the thread that writes
                    self._error = error
            following.put(chunk)
        following.put(None)

    def _pack(self, chunk: memoryview) -> None:
        self._store(chunk if self._compressor is None else memoryview(self._compressor.compress(chunk)))

    def _store(self, data: memoryview) -> None:
        if self._compressor is not None:
            self._written.update(data)
        self.size_bytes += len(data)
        while data:
            # A raw file may take less than it is given.
            data = data[self._file.write(data) :]


_ZEROS = bytes(CHUNK)
