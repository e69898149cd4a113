from __future__ import annotations

import gzip
import io
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from cowstore.errors import InvalidLayer
from cowstore.layers.beside import Beside
from cowstore.layers.compression import open_stream

if TYPE_CHECKING:
    from collections.abc import Iterator


def count(number: int, fail: BaseException | None = None) -> Iterator[bytes]:
    for index in range(number):
        yield b"%d" % index
    if fail is not None:
        raise fail


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "cowstore-layer"]


@pytest.mark.parametrize("number", [0, 1, 7, 8, 9, 1000])
def test_all_chunks_in_order(number: int) -> None:
    beside = Beside(count(number))
    assert list(beside) == [b"%d" % index for index in range(number)]
    assert list(beside) == []
    beside.close()
    assert threads() == []


def test_errors_come_where_the_chunk_would() -> None:
    beside = Beside(count(20, OSError("broken")))
    for _ in range(20):
        next(beside)
    with pytest.raises(OSError, match="broken"):
        next(beside)
    assert list(beside) == []
    beside.close()


def test_it_stays_only_a_little_ahead() -> None:
    made = []

    def chunks() -> Iterator[bytes]:
        for index in range(1000):
            made.append(index)
            yield b"x"

    beside = Beside(chunks())
    time.sleep(0.1)
    assert len(made) < 20
    beside.close()
    assert threads() == []


def test_stopped_half_way() -> None:
    beside = Beside(count(1000))
    next(beside)
    beside.close()
    beside.close()
    assert threads() == []


def test_a_pipe_that_nobody_writes_to() -> None:
    """The thread cannot be stopped, but nobody waits for it for long."""
    read, write = os.pipe()
    with open(read, "rb", buffering=0) as file:
        os.write(write, gzip.compress(os.urandom(100_000))[:1000])
        stream = open_stream(file, threaded=True)
        assert len(stream.read(10)) > 0
        started = time.monotonic()
        stream.close()
        assert time.monotonic() - started < 10
        os.close(write)
        for thread in threading.enumerate():
            if thread.name == "cowstore-layer":
                thread.join(10)
        assert threads() == []


@pytest.mark.parametrize("threaded", [False, True])
def test_streams_are_the_same(threaded: bool) -> None:
    content = os.urandom(1_000_000)
    with open_stream(io.BytesIO(gzip.compress(content)), threaded=threaded) as stream:
        parts = []
        while part := stream.read(33_333):
            parts.append(part)
        assert b"".join(parts) == content
        digests = stream.digest, stream.diff_id
    with open_stream(io.BytesIO(gzip.compress(content)[:-5]), threaded=threaded) as stream, pytest.raises(InvalidLayer):
        stream.read()
    with open_stream(io.BytesIO(gzip.compress(content)), threaded=not threaded) as stream:
        stream.read()
        assert stream.diff_id == digests[1]
    assert threads() == []
