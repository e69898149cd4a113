"""The bytes of a layer as they come, and the archive in them.

gzip, zstd, bzip2, xz and plain are told apart by their first bytes, never by a name or media type. Members, frames and
streams may follow one another, with zeros between and behind them; anything else there is an error. Both digests are
taken on the way, over every byte.

Source: RFC 1952; RFC 8878; the .xz file format; OCI image specification, "Image Layer Filesystem Changeset".
"""

from __future__ import annotations

import enum
import hashlib
import os

from cowstore.layers.decoders import DECODERS, Raw
from cowstore.layers.limits import Limits, Malformed, invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

    from cowstore.layers.beside import Beside
    from cowstore.layers.decoders import File


class Compression(enum.StrEnum):
    """How the bytes of a layer are packed."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"
    BZIP2 = "bzip2"
    XZ = "xz"


_MAGIC = {
    Compression.GZIP: (b"\x1f\x8b",),
    # A frame, or one to be skipped (0x184D2A50 to 0x184D2A5F) before it.
    Compression.ZSTD: (b"\x28\xb5\x2f\xfd", *(bytes([0x50 + low, 0x2A, 0x4D, 0x18]) for low in range(16))),
    Compression.BZIP2: (b"BZh",),
    Compression.XZ: (b"\xfd7zXZ\0",),
}
#: Known by sight only, to be refused by name: the tar reader would just see junk.
_REFUSED = {b"\x04\x22\x4d\x18": "lz4", b"\x1f\x9d": "compress", b"PK\3\4": "zip"}
_MAGIC_BYTES = 6


class Stream:
    """The uncompressed bytes of a layer; made by `open_stream`.

    A context manager: leaving it stops the thread that works beside it, if there is one. The file stays the caller's.

    :ivar compression: how the bytes were packed.
    """

    __slots__ = ("_beside", "_chunks", "_ended", "_raw", "_rest", "_uncompressed", "compression", "size_bytes")

    def __init__(self, raw: Raw, compression: Compression, limits: Limits, *, threaded: bool) -> None:
        self.compression = compression
        self.size_bytes = 0
        self._raw = raw
        self._uncompressed = raw.sha256 if compression is Compression.NONE else hashlib.sha256()
        self._chunks: Iterator[bytes] | None = self._decode(limits)
        self._beside: Beside | None = None
        if threaded:
            from cowstore.layers.beside import Beside

            self._chunks = self._beside = Beside(self._decode(limits))
        self._rest = memoryview(b"")
        self._ended = False

    def _decode(self, limits: Limits) -> Iterator[bytes]:
        """Give the uncompressed bytes, counted and hashed."""
        raw, free, ratio = self._raw, limits.expansion_free_bytes, limits.expansion
        hashed = self._uncompressed is not raw.sha256
        try:
            for chunk in DECODERS[self.compression](raw):
                if hashed:
                    self._uncompressed.update(chunk)
                self.size_bytes += len(chunk)
                if self.size_bytes > free and self.size_bytes > ratio * raw.count:
                    raise Malformed(f"it expands to more than {ratio} times its length, {raw.count} bytes so far")
                yield chunk
        except Malformed as error:
            raise invalid(str(error)) from error

    def readinto(self, buffer: memoryview, /) -> int:
        """Read some bytes into buffer; return how many, 0 only at the end.

        Raises:
            InvalidLayer: what comes is truncated, damaged, or expands beyond the limit.
            ValueError: it was closed, or has raised before.
            OSError: the file's own.
        """
        if not self._rest and not self._advance():
            return 0
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def _advance(self) -> bool:
        """Fetch the next chunk; tell whether there is one."""
        if self._chunks is None:
            raise ValueError("reading from a layer that is closed or broken")
        try:
            self._rest = memoryview(next(self._chunks))
        except StopIteration:
            self._ended = True
            return False
        except BaseException:
            self._chunks, self._rest = None, memoryview(b"")  # else the next attempt would look like the end
            raise
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Read up to size bytes, or all that are left; b"" only at the end.

        Raises:
            InvalidLayer: as `readinto`.
            OSError: the file's own.
        """
        if size < 0:
            parts = [bytes(self._rest)]
            while self._advance():
                parts.append(bytes(self._rest))
            self._rest = memoryview(b"")
            return b"".join(parts)
        buffer = bytearray(size)
        return bytes(buffer[: self.readinto(memoryview(buffer))]) if size else b""

    @property
    def digest(self) -> str:
        """Digest of the bytes as they came, "sha256:...".

        Raises:
            ValueError: they have not been read to the end.
        """
        self._check_ended()
        return f"sha256:{self._raw.sha256.hexdigest()}"

    @property
    def diff_id(self) -> str:
        """Digest of the uncompressed bytes, "sha256:...".

        Raises:
            ValueError: they have not been read to the end.
        """
        self._check_ended()
        return f"sha256:{self._uncompressed.hexdigest()}"

    @property
    def compressed_bytes(self) -> int:
        """How many bytes have come so far."""
        return self._raw.count

    def _check_ended(self) -> None:
        if not self._ended:
            raise ValueError("the digest of a layer that has not been read to its end")

    def close(self) -> None:
        """Stop; nothing can be read any more."""
        self._chunks, self._rest = None, memoryview(b"")
        if self._beside is not None:
            self._beside.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def open_stream(
    file: File,
    *,
    limits: Limits = Limits(),  # noqa: B008  (a frozen value)
    threaded: bool | None = None,
) -> Stream:
    """Tell how a layer is packed, and unpack it as it is read.

    Args:
        file: a binary file object, read from where it stands to its end; it need not be seekable.
        limits: bounds the expansion.
        threaded: read, decompress and hash in a thread of its own; None: where there is a second processor. The file
            is used in that thread until the stream is closed.

    Raises:
        InvalidLayer: it is packed in a way that layers are not.
        OSError: the file's own.
    """
    if threaded is None:
        threaded = len(os.sched_getaffinity(0)) > 1
    raw = Raw(file)
    head = raw.peek(_MAGIC_BYTES)
    for magic, name in _REFUSED.items():
        if head.startswith(magic):
            raise invalid(f"it is packed with {name}; gzip, zstd, bzip2, xz and none can be read")
    for compression, magics in _MAGIC.items():
        if head.startswith(magics):
            return Stream(raw, compression, limits, threaded=threaded)
    return Stream(raw, Compression.NONE, limits, threaded=threaded)
