"""Decoding the compressed forms, piece by piece and with bounded output.

Each decoder is a generator over the raw bytes that ends where they end, and nowhere before: a layer whose tail is
missing, or is not what it should be, is refused.
"""

from __future__ import annotations

import errno
import hashlib
import os

from cowstore.layers.limits import Malformed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Protocol

    class File(Protocol):
        """A binary file object."""

        def read(self, size: int, /) -> bytes | None:
            """Read up to size bytes; b"" only at the end."""


#: Bytes asked for at a time, and bytes a decoder may give at a time.
CHUNK = 256 * 1024
#: Memory that an xz or zstd stream may ask for: what their highest ordinary levels need.
_MEMORY_BYTES = 128 << 20
_ZSTD_WINDOW_LOG = 27


class Raw:
    """The bytes of a layer as they come, hashed on the way.

    :ivar sha256: of the bytes read so far. :ivar count: how many they are.
    """

    __slots__ = ("_file", "_pushed", "count", "sha256")

    def __init__(self, file: File) -> None:
        self._file = file
        self._pushed = b""
        self.sha256 = hashlib.sha256()
        self.count = 0

    def read(self) -> bytes:
        """Return some bytes; b"" at the end.

        Raises:
            BlockingIOError: the file is in non-blocking mode and has nothing yet.
            OSError: the file's own.
        """
        if self._pushed:
            data, self._pushed = self._pushed, b""
            return data
        answer = self._file.read(CHUNK)
        if answer is None:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        self.sha256.update(answer)
        self.count += len(answer)
        return answer

    def peek(self, size: int) -> bytes:
        """Return the next size bytes, fewer at the end, without taking them."""
        while len(self._pushed) < size:
            have, self._pushed = self._pushed, b""
            more = self.read()
            self._pushed = have + more
            if not more:
                break
        return self._pushed[:size]

    def push(self, data: bytes) -> None:
        """Put back what a decoder did not take."""
        self._pushed = data + self._pushed

    def skip(self, size: int) -> None:
        """Pass over size bytes.

        Raises:
            Malformed: there are not so many.
        """
        while size:
            data = self.read()
            if not data:
                raise _truncated("zstd")
            if len(data) > size:
                self.push(data[size:])
            size -= min(size, len(data))

    def skip_zeros(self) -> bool:
        """Pass over zeros; tell whether something else follows."""
        while data := self.read():
            rest = data.lstrip(b"\0")
            if rest:
                self.push(rest)
                return True
        return False


def _truncated(form: str) -> Malformed:
    return Malformed(f"its {form} data ends before its end: it is truncated")


def plain(raw: Raw) -> Iterator[bytes]:
    """Give the bytes as they are."""
    while data := raw.read():
        yield data


def gunzip(raw: Raw) -> Iterator[bytes]:
    """Decode any number of gzip members."""
    library = _zlib()
    while True:
        decoder: Any = library.decompressobj(wbits=31)
        data = raw.read()
        while not decoder.eof:
            try:
                piece: bytes = decoder.decompress(data, CHUNK)
            except library.error as error:
                raise Malformed(f"its gzip data is damaged: {error}") from error
            if piece:
                yield piece
            data = decoder.unconsumed_tail
            if not data and len(piece) < CHUNK and not decoder.eof:
                data = raw.read()
                if not data:
                    raise _truncated("gzip")
        raw.push(decoder.unused_data)
        if not raw.skip_zeros():
            return
        if raw.peek(2) != b"\x1f\x8b":
            raise Malformed("something that is neither zeros nor gzip follows its gzip data")


def unzstd(raw: Raw) -> Iterator[bytes]:
    """Decode any number of zstd frames, passing over those that are to be skipped."""
    zstd = _zstd()
    options = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
    while raw.skip_zeros():
        head = raw.peek(8)
        if 0x50 <= head[0] <= 0x5F and head[1:4] == b"\x2a\x4d\x18":
            if len(head) < 8:
                raise _truncated("zstd")
            raw.skip(8 + int.from_bytes(head[4:], "little"))
            continue
        yield from _frame(raw, "zstd", zstd.ZstdDecompressor(options=options), zstd.ZstdError)


def bunzip2(raw: Raw) -> Iterator[bytes]:
    """Decode any number of bzip2 streams."""
    import bz2

    while raw.skip_zeros():
        yield from _frame(raw, "bzip2", bz2.BZ2Decompressor(), OSError)


def unxz(raw: Raw) -> Iterator[bytes]:
    """Decode any number of xz streams."""
    import lzma

    while raw.skip_zeros():
        decoder = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_MEMORY_BYTES)
        yield from _frame(raw, "xz", decoder, lzma.LZMAError)


def _frame(raw: Raw, form: str, decoder: Any, error_class: type[Exception]) -> Iterator[bytes]:
    """Decode one frame or stream, with the interface that the standard library's decoders share."""
    data = raw.read()
    while True:
        try:
            piece: bytes = decoder.decompress(data, CHUNK)
        except error_class as error:
            raise Malformed(f"its {form} data is damaged: {error}") from error
        if piece:
            yield piece
        if decoder.eof:
            raw.push(decoder.unused_data)
            return
        data = b""
        if decoder.needs_input:
            data = raw.read()
            if not data:
                raise _truncated(form)


def _zlib() -> Any:
    """Find the faster library, which gives the same bytes, or the standard one."""
    try:
        from isal import isal_zlib
    except ImportError:
        import zlib

        return zlib
    return isal_zlib


def _zstd() -> Any:
    """Find the library: the standard one from Python 3.14 on, else its backport.

    Raises:
        Unsupported: neither is there.
    """
    try:
        from compression import zstd
    except ImportError:
        try:
            from backports import zstd
        except ImportError as error:
            from cowstore.errors import Unsupported

            raise Unsupported(
                "a zstd layer cannot be read: this Python has no zstd; install `backports.zstd`", feature="zstd"
            ) from error
    return zstd


DECODERS: dict[str, Callable[[Raw], Iterator[bytes]]] = {
    "none": plain,
    "gzip": gunzip,
    "zstd": unzstd,
    "bzip2": bunzip2,
    "xz": unxz,
}
