"""Where a layer's bytes go: hashed, compressed and written by threads beside the one that reads the tree."""

from __future__ import annotations

import hashlib
import queue
import threading

from cowstore.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import BinaryIO, Protocol, Self

    class Compressor(Protocol):
        """What zlib, isal and zstd compressors have in common."""

        def compress(self, data: bytes, /) -> bytes:
            """Take some, and give what is ready."""

        def flush(self) -> bytes:
            """Give the rest."""


CHUNK = 1 << 20
"""Bytes that are handed on at a time."""
_AHEAD = 6
"""Chunks that may wait for a thread."""

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

    :ivar diff_id: digest of the bytes given, after the end. :ivar digest: digest of the bytes written.
    :ivar size_bytes: how many were written.
    """

    def __init__(self, file: BinaryIO, compression: str | None = None) -> None:
        self._file = file
        self._compressor = compressor(compression)
        self._given = hashlib.sha256()
        self._written = self._given if self._compressor is None else hashlib.sha256()
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._error: BaseException | None = None
        self._queues: list[queue.Queue[bytes | None]] = [queue.Queue(_AHEAD), queue.Queue(_AHEAD)]
        self._threads = [
            threading.Thread(target=self._work, args=(waiting, step), daemon=True)
            for waiting, step in zip(self._queues, (self._given.update, self._pack), strict=True)
        ]
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
            for waiting in self._queues:
                waiting.put(None)
            for thread in self._threads:
                thread.join()
        if error is not None:
            return
        self._raise()
        if self._compressor is not None:
            self._store(self._compressor.flush())
        self.diff_id = f"sha256:{self._given.hexdigest()}"
        self.digest = f"sha256:{self._written.hexdigest()}"

    def write(self, data: bytes) -> None:
        """Take bytes; whatever failed in a thread is raised here."""
        self._pending.append(data)
        self._pending_size += len(data)
        if self._pending_size >= CHUNK:
            self._hand_on()

    def zeros(self, count: int) -> None:
        """Take that many zeros."""
        while count > 0:
            self.write(_ZEROS if count >= CHUNK else _ZEROS[:count])
            count -= CHUNK

    def _hand_on(self) -> None:
        self._raise()
        if self._pending:
            chunk = self._pending[0] if len(self._pending) == 1 else b"".join(self._pending)
            self._pending, self._pending_size = [], 0
            for waiting in self._queues:
                waiting.put(chunk)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self, waiting: queue.Queue[bytes | None], step: object) -> None:
        """Do *step* with every chunk; after an error only keep the queue from filling up."""
        assert callable(step)
        while (chunk := waiting.get()) is not None:
            if self._error is None:
                try:
                    step(chunk)
                except BaseException as error:  # noqa: BLE001 - raised again in the thread that writes
                    self._error = error

    def _pack(self, chunk: bytes) -> None:
        self._store(chunk if self._compressor is None else self._compressor.compress(chunk))

    def _store(self, data: bytes) -> None:
        if self._compressor is not None:
            self._written.update(data)
        view = memoryview(data)
        while view:
            # A raw file may take less than it is given.
            taken = self._file.write(view)
            view = view[taken:]
        self.size_bytes += len(data)


_ZEROS = bytes(CHUNK)
