"""The send stream's parser on streams made here: both versions, and every way of being broken."""

from __future__ import annotations

import os
import struct
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowstore.drivers.btrfs.sendstream import MAGIC, Attribute, Command, StreamError, commands

if TYPE_CHECKING:
    from collections.abc import Mapping


def attribute(kind: int, data: bytes, version: int) -> bytes:
    if version >= 2 and kind == Attribute.DATA:
        return struct.pack("<H", kind) + data
    return struct.pack("<HH", kind, len(data)) + data


def command(number: int, attributes: Mapping[int, bytes], version: int = 1) -> bytes:
    ordered = sorted(attributes, key=lambda kind: kind == Attribute.DATA)
    body = b"".join(attribute(kind, attributes[kind], version) for kind in ordered)
    return struct.pack("<IHI", len(body), number, 0) + body


def stream(*parts: bytes, version: int = 1, end: bool = True) -> bytes:
    return MAGIC + struct.pack("<I", version) + b"".join(parts) + (command(Command.END, {}) if end else b"")


def parse(data: bytes, pieces: int = 1 << 20) -> list[tuple[Command, Mapping[int, bytes]]]:
    read_fd, write_fd = os.pipe()

    def write() -> None:
        with os.fdopen(write_fd, "wb", buffering=0) as file:
            try:
                for at in range(0, len(data), pieces):
                    file.write(data[at : at + pieces])
            except BrokenPipeError:
                pass

    thread = threading.Thread(target=write)
    thread.start()
    try:
        return list(commands(read_fd))
    finally:
        os.close(read_fd)
        thread.join()


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("number", sorted(set(Command) - {Command.END}))
def test_every_command_is_read(number: Command, version: int) -> None:
    given_attributes: dict[int, bytes] = {Attribute.PATH: b"a/b", Attribute.DATA: b"\0" * 300, Attribute.PATH_TO: b"c"}
    assert parse(stream(command(number, given_attributes, version), version=version)) == [(number, given_attributes)]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted(set(Command) - {Command.END})),
            st.dictionaries(st.integers(1, 40), st.binary(max_size=400), max_size=6),
        ),
        max_size=8,
    ),
    st.sampled_from([1, 2, 3]),
    st.integers(1, 200),
)
def test_whatever_was_written_is_read(
    written: list[tuple[Command, dict[int, bytes]]], version: int, pieces: int
) -> None:
    data = stream(*(command(number, attributes, version) for number, attributes in written), version=version)
    assert parse(data, pieces) == written


def test_what_follows_the_end_is_not_read() -> None:
    assert parse(stream() + b"anything") == []


@given(st.data())
def test_a_cut_stream_is_an_error(data: st.DataObject) -> None:
    whole = stream(
        command(Command.MKFILE, {Attribute.PATH: b"x", Attribute.INO: b"12345678"}),
        command(Command.RENAME, {Attribute.PATH: b"x", Attribute.PATH_TO: b"yy"}),
    )
    with pytest.raises(StreamError):
        parse(whole[: data.draw(st.integers(0, len(whole) - 1))])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"something else, and longer than a header", "no send stream"),
        (stream(version=9), "version 9"),
        (stream(version=0), "version 0"),
        (stream(command(77, {})), "command 77"),
        (stream(struct.pack("<IHI", 1 << 31, 3, 0)), "bytes in the send stream"),
        (stream(struct.pack("<IHI", 3, 3, 0) + b"\x0f\0\x01"), "cut"),
        (stream(struct.pack("<IHI", 1, 3, 0) + b"\x0f"), "cut"),
        (stream(struct.pack("<IHI", 5, 3, 0) + b"\x0f\0\x09\0a"), "cut"),
    ],
)
def test_a_broken_stream_is_an_error(data: bytes, said: str) -> None:
    with pytest.raises(StreamError, match=said):
        parse(data)
