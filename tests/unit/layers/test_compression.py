from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import random
import sys
import zlib
from typing import TYPE_CHECKING

import pytest

from cowstore.errors import InvalidLayer, Unsupported
from cowstore.layers import decoders
from cowstore.layers.compression import Compression, open_stream
from cowstore.layers.limits import Limits
from tests.unit.layers.archives import END, file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

zstd = decoders._zstd()

CONTENT = random.Random(5).randbytes(300_000) + bytes(400_000) + b"text" * 30_000
PACK: dict[Compression, Callable[[bytes], bytes]] = {
    Compression.NONE: bytes,
    Compression.GZIP: gzip.compress,
    Compression.ZSTD: zstd.compress,
    Compression.BZIP2: bz2.compress,
    Compression.XZ: lzma.compress,
}
PACKED = [form for form in Compression if form is not Compression.NONE]
SKIPPABLE = b"\x5a\x2a\x4d\x18" + (70_000).to_bytes(4, "little") + b"s" * 70_000


class Drip:
    """A file that gives what it likes, as a pipe does."""

    def __init__(self, data: bytes, size: int) -> None:
        self._file = io.BytesIO(data)
        self._size = size

    def read(self, size: int, /) -> bytes:
        return self._file.read(min(size, self._size))


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@pytest.fixture(params=["isal", "zlib"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the fast library and without it."""
    if request.param == "zlib":
        monkeypatch.setitem(sys.modules, "isal", None)
        assert decoders._zlib() is zlib
    else:
        pytest.importorskip("isal")
    return str(request.param)


@pytest.mark.parametrize("form", list(Compression))
@pytest.mark.parametrize("content", [b"", b"x", CONTENT])
def test_content_and_digests(form: Compression, content: bytes, library: str) -> None:
    packed = PACK[form](content)
    with open_stream(io.BytesIO(packed)) as stream:
        assert stream.compression == form
        assert stream.read() == content
        assert stream.digest == sha256(packed)
        assert stream.diff_id == sha256(content)
        assert stream.compressed_bytes == len(packed)
        assert stream.size_bytes == len(content)


@pytest.mark.parametrize("form", list(Compression))
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_any_size_of_pieces(form: Compression, size: int, library: str) -> None:
    content = CONTENT[299_000:303_000]
    packed = PACK[form](content)
    with open_stream(Drip(packed, size)) as stream:
        parts = []
        buffer = bytearray(333)
        while count := stream.readinto(memoryview(buffer)):
            parts.append(bytes(buffer[:count]))
        assert b"".join(parts) == content
        assert (stream.digest, stream.diff_id) == (sha256(packed), sha256(content))


@pytest.mark.parametrize("form", PACKED)
@pytest.mark.parametrize("zeros", [0, 512, 300_000])
def test_several_members_and_zeros(form: Compression, zeros: int, library: str) -> None:
    """TA-31, IO-11: members, frames and streams one behind the other; zeros behind them count for the digest."""
    parts = [PACK[form](CONTENT[start : start + 200_000]) for start in range(0, len(CONTENT), 200_000)]
    packed = b"".join(parts) + PACK[form](b"") + bytes(zeros)
    with open_stream(Drip(packed, 65_000)) as stream:
        assert stream.read() == CONTENT
        assert (stream.digest, stream.diff_id) == (sha256(packed), sha256(CONTENT))


@pytest.mark.parametrize("where", ["first", "between", "last", "everywhere"])
def test_zstd_frames_to_be_skipped(where: str) -> None:
    """IO-11, zstd:chunked."""
    frames = [zstd.compress(CONTENT[start : start + 300_000]) for start in range(0, len(CONTENT), 300_000)]
    packed = {
        "first": SKIPPABLE + b"".join(frames),
        "between": frames[0] + SKIPPABLE + b"".join(frames[1:]),
        "last": b"".join(frames) + SKIPPABLE,
        "everywhere": SKIPPABLE + SKIPPABLE.join(frames) + SKIPPABLE,
    }[where]
    for size in (1 << 20, 1013):
        with open_stream(Drip(packed, size)) as stream:
            assert stream.compression is Compression.ZSTD
            assert stream.read() == CONTENT
            assert (stream.digest, stream.diff_id) == (sha256(packed), sha256(CONTENT))


def test_zstd_of_unknown_length() -> None:
    """IO-11: no content size in the frame, as a pipe gives it."""
    compressor = zstd.ZstdCompressor()
    packed = compressor.compress(CONTENT) + compressor.flush()
    with open_stream(io.BytesIO(packed)) as stream:
        assert stream.read() == CONTENT


@pytest.mark.parametrize("form", PACKED)
def test_truncated_everywhere(form: Compression, library: str) -> None:
    """TA-30."""
    packed = PACK[form](b"some content, and more of it" * 3)
    magic = 6 if form is Compression.XZ else 4
    for length in range(magic, len(packed)):
        with pytest.raises(InvalidLayer), open_stream(io.BytesIO(packed[:length])) as stream:
            stream.read()


@pytest.mark.parametrize("form", PACKED)
def test_truncated_in_the_second_member(form: Compression, library: str) -> None:
    first, second = PACK[form](b"first"), PACK[form](b"second")
    for length in range(1, len(second)):
        with pytest.raises(InvalidLayer), open_stream(io.BytesIO(first + second[:length])) as stream:
            stream.read()


@pytest.mark.parametrize("form", PACKED)
@pytest.mark.parametrize("tail", [b"x", b"junk" * 1000, bytes(100) + b"x", b"\x1f", b"\x50\x2a\x4d\x18\xff"])
def test_trailing_junk(form: Compression, tail: bytes, library: str) -> None:
    """TA-31: zeros are padding, anything else an error."""
    match = "follows" if form is Compression.GZIP else "."
    with pytest.raises(InvalidLayer, match=match), open_stream(io.BytesIO(PACK[form](CONTENT) + tail)) as stream:
        stream.read()


@pytest.mark.parametrize("form", [Compression.GZIP, Compression.BZIP2, Compression.XZ])
def test_damage(form: Compression, library: str) -> None:
    packed = PACK[form](CONTENT)
    for position in (len(packed) // 2, len(packed) - 6, len(packed) - 2):
        damaged = bytearray(packed)
        damaged[position] ^= 0x55
        with pytest.raises(InvalidLayer), open_stream(io.BytesIO(damaged)) as stream:
            stream.read()


def test_digests_before_the_end() -> None:
    with open_stream(io.BytesIO(gzip.compress(CONTENT))) as stream:
        stream.read(10)
        with pytest.raises(ValueError, match="end"):
            _ = stream.digest
        with pytest.raises(ValueError, match="end"):
            _ = stream.diff_id


@pytest.mark.parametrize("form", PACKED)
def test_bombs(form: Compression, library: str) -> None:
    """The bound holds before the memory is used."""
    limits = Limits(expansion=10, expansion_free_bytes=1 << 20)
    with (
        pytest.raises(InvalidLayer, match="expands"),
        open_stream(io.BytesIO(PACK[form](bytes(20 << 20))), limits=limits) as stream,
    ):
        all(iter(lambda: stream.read(1 << 16), b""))
    with open_stream(io.BytesIO(PACK[form](bytes(1 << 20))), limits=limits) as stream:
        assert len(stream.read()) == 1 << 20


@pytest.mark.parametrize(
    "data", [b"\x04\x22\x4d\x18" + bytes(100), b"\x1f\x9d\x90" + bytes(100), b"PK\3\4" + bytes(100)]
)
def test_forms_that_layers_do_not_have(data: bytes) -> None:
    with pytest.raises(InvalidLayer, match="packed with"):
        open_stream(io.BytesIO(data))


@pytest.mark.parametrize("form", list(Compression))
def test_junk(root: Path, form: Compression) -> None:
    """apply-junk, in five compressions."""
    with pytest.raises(InvalidLayer), open_stream(io.BytesIO(PACK[form](b"junk" * 500))) as stream:
        unpack_stream(root, stream)


@pytest.mark.parametrize("form", list(Compression))
@pytest.mark.parametrize("content", [b"", bytes(1024), bytes(10240)])
def test_empty_layers(root: Path, form: Compression, content: bytes) -> None:
    """IO-09: each keeps its own digest."""
    packed = PACK[form](content)
    with open_stream(io.BytesIO(packed)) as stream:
        unpack_stream(root, stream)
        assert (stream.digest, stream.diff_id) == (sha256(packed), sha256(content))
    assert os.listdir(root) == []


def test_member_border_within_a_file(root: Path) -> None:
    """TA-31."""
    archive = file(b"a", CONTENT) + file(b"b", b"b") + END
    packed = gzip.compress(archive[:100_000]) + gzip.compress(archive[100_000:]) + bytes(512)
    with open_stream(io.BytesIO(packed)) as stream:
        unpack_stream(root, stream)
        assert stream.digest == sha256(packed)
    assert (root / "a").read_bytes() == CONTENT
    assert (root / "b").read_bytes() == b"b"


def unpack_stream(root: Path, stream: object) -> None:
    from cowstore.layers.extract import Owners, extract

    fd = os.open(root, os.O_RDONLY)
    try:
        extract(stream, fd, owners=Owners.CALLER)  # type: ignore[arg-type]
    finally:
        os.close(fd)


def test_truncated_content_inside_gzip(root: Path) -> None:
    """TA-30: the header says 1000 bytes, ten come."""
    archive = file(b"a", b"x" * 1000)[:522]
    with pytest.raises(InvalidLayer, match="truncated"), open_stream(io.BytesIO(gzip.compress(archive))) as stream:
        unpack_stream(root, stream)


def test_without_zstd(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = zstd.compress(b"x")
    monkeypatch.setitem(sys.modules, "compression", None)
    monkeypatch.setitem(sys.modules, "backports", None)
    with pytest.raises(Unsupported, match=r"backports\.zstd"), open_stream(io.BytesIO(packed)) as stream:
        stream.read()


def test_non_blocking_file() -> None:
    class Empty:
        def read(self, _size: int, /) -> None:
            return None

    with pytest.raises(BlockingIOError):
        open_stream(Empty())


@pytest.mark.parametrize("threaded", [False, True])
def test_no_digest_after_an_error_or_a_close(threaded: bool) -> None:
    with open_stream(io.BytesIO(gzip.compress(CONTENT)[:-3]), threaded=threaded) as stream:
        with pytest.raises(InvalidLayer):
            stream.read()
        with pytest.raises(ValueError, match="broken"):
            stream.read(5)
        with pytest.raises(ValueError, match="end"):
            _ = stream.digest
    packed = gzip.compress(CONTENT)
    stream = open_stream(io.BytesIO(packed), threaded=threaded)
    stream.read(5)
    stream.close()
    with pytest.raises(ValueError, match="closed"):
        stream.read()
    with open_stream(io.BytesIO(packed), threaded=threaded) as stream:
        stream.read()
        assert stream.read(5) == b""
    assert stream.digest == sha256(packed)
