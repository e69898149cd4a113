from __future__ import annotations

import io
import os
import tarfile
from typing import TYPE_CHECKING

import pytest

from cowstore.errors import InvalidLayer
from cowstore.layers.blocks import BUFFER
from cowstore.layers.headers import Kind
from cowstore.layers.limits import Limits
from cowstore.layers.reader import TarReader
from tests.unit.layers.archives import END, GNU, block, directory, file, hard_link, long_name, pad, pax, symlink

if TYPE_CHECKING:
    from pathlib import Path

    from _typeshed import WriteableBuffer


class Drip(io.RawIOBase):
    """Gives a few bytes at a time, as a pipe may."""

    def __init__(self, data: bytes, size: int = 7) -> None:
        self._file = io.BytesIO(data)
        self._size = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        return self._file.readinto(memoryview(buffer)[: self._size])


def entries(data: bytes, limits: Limits = Limits()) -> list[tuple[bytes, bytes]]:  # noqa: B008
    """Names and contents."""
    result = []
    reader = TarReader(io.BytesIO(data), limits)
    while (entry := reader.next()) is not None:
        content = b""
        while part := reader.read(1000):
            content += part
        result.append((entry.name, content))
    return result


def names(data: bytes) -> list[bytes]:
    return [entry.name for entry in TarReader(io.BytesIO(data))]


GOOD = directory(b"d/") + file(b"d/f", b"x" * 700) + symlink(b"s", b"d/f") + hard_link(b"h", b"d/f") + file(b"e")


def test_entries_and_contents() -> None:
    assert entries(GOOD + END) == [(b"d/", b""), (b"d/f", b"x" * 700), (b"s", b""), (b"h", b""), (b"e", b"")]


def test_content_may_be_left_unread() -> None:
    assert names(GOOD + END) == [b"d/", b"d/f", b"s", b"h", b"e"]


def test_any_size_of_pieces() -> None:
    data = GOOD + file(b"big", os.urandom(3 * BUFFER + 5)) + file(b"last", b"1") + END
    for size in (1000, 511, 513, BUFFER - 1, BUFFER + 1):
        assert [entry.name for entry in TarReader(Drip(data, size))][-2:] == [b"big", b"last"]
    assert [entry.name for entry in TarReader(Drip(GOOD + END))] == [b"d/", b"d/f", b"s", b"h", b"e"]


def test_offsets() -> None:
    assert [entry.offset for entry in TarReader(io.BytesIO(GOOD + END))] == [0, 512, 2048, 2560, 3072]


@pytest.mark.parametrize("data", [b"", bytes(512), bytes(1024), bytes(10240), bytes(1 << 20), bytes(700)])
def test_empty_archives(data: bytes) -> None:
    """IO-09."""
    assert names(data) == []


@pytest.mark.parametrize("end", [b"", bytes(512), bytes(1024), bytes(10240), bytes(1 << 20), bytes(513), bytes(1500)])
def test_ways_to_end(end: bytes) -> None:
    """No zero block, one, two, or padding of any length; all of it is read."""
    stream = io.BytesIO(GOOD + end)
    assert len(list(TarReader(stream))) == 5
    assert stream.read() == b""


@pytest.mark.parametrize(
    "end",
    [bytes(512) + GOOD + END, bytes(1024) + GOOD + END, bytes(9000) + b"x", bytes(1024) + b"\1", bytes(512) + b"junk"],
)
def test_what_follows_the_end(end: bytes) -> None:
    """Concatenated archives and junk: readers disagree about them, so they are refused."""
    with pytest.raises(InvalidLayer, match="follows the zeros"):
        names(GOOD + end)


@pytest.mark.parametrize(
    "data", [b"x", b"junk" * 100, b"junk" * 1000, b"\x7fELF" + bytes(2000), os.urandom(511), b"\0" * 511]
)
def test_junk(data: bytes) -> None:
    """apply-junk."""
    with pytest.raises(InvalidLayer):
        names(data)


@pytest.mark.parametrize("flag", [b"M", b"N", b"A", b"s", b"E", b"9", b" ", b"\xff"])
def test_unknown_types(flag: bytes) -> None:
    with pytest.raises(InvalidLayer, match="type"):
        names(block(b"n", flag) + END)


def test_volume_label_is_passed_over() -> None:
    assert names(block(b"label", b"V", magic=GNU) + GOOD + END)[0] == b"d/"


def test_content_of_a_dump_directory_is_passed_over() -> None:
    data = block(b"d", b"D", size=600, magic=GNU) + pad(b"Yname\0" * 100) + file(b"f") + END
    assert [(entry.name, entry.kind) for entry in TarReader(io.BytesIO(data))] == [
        (b"d", Kind.DIRECTORY),
        (b"f", Kind.FILE),
    ]


@pytest.mark.parametrize("flag", [b"0", b"\0"])
def test_directory_by_its_slash(flag: bytes) -> None:
    (entry,) = TarReader(io.BytesIO(block(b"d/", flag, magic=bytes(8)) + END))
    assert entry.kind is Kind.DIRECTORY


def test_file_by_its_content_and_directory_by_its_slash() -> None:
    with pytest.raises(InvalidLayer, match="directory"):
        names(file(b"d/", b"content") + END)


def test_gnu_long_names() -> None:
    name, target = b"n" * 3000, b"t" * 2000
    data = long_name(name) + long_name(target, b"K") + symlink(b"short", b"short") + file(b"next") + END
    found = list(TarReader(io.BytesIO(data)))
    assert [(entry.name, entry.link) for entry in found] == [(name, target), (b"next", b"")]


def test_pax_and_gnu_names_that_differ() -> None:
    with pytest.raises(InvalidLayer, match="two names"):
        names(pax([(b"path", b"a")]) + long_name(b"b") + file(b"c") + END)
    assert names(pax([(b"path", b"a")]) + long_name(b"a") + file(b"c") + END) == [b"a"]
    with pytest.raises(InvalidLayer, match="two link"):
        names(pax([(b"linkpath", b"a")]) + long_name(b"b", b"K") + symlink(b"c", b"d") + END)


def test_local_records_hold_for_one_entry() -> None:
    data = pax([(b"path", b"long"), (b"mtime", b"1.5")]) + file(b"x") + file(b"y") + END
    found = list(TarReader(io.BytesIO(data)))
    assert [(entry.name, entry.mtime_ns) for entry in found] == [(b"long", 1_500_000_000), (b"y", 10**18)]


def test_global_records() -> None:
    """TA-28, TypeXGlobalHeader: defaults are honoured, comments ignored, and no entry is made of the header."""
    data = (
        pax([(b"comment", b"0123"), (b"mtime", b"7"), (b"uid", b"12")], b"g")
        + file(b"a")
        + pax([(b"mtime", b"8")])
        + file(b"b")
        + pax([(b"mtime", b"")])
        + file(b"c")
        + pax([(b"mtime", b"")], b"g")
        + file(b"d")
        + END
    )
    found = [(entry.name, entry.mtime_ns // 10**9, entry.uid) for entry in TarReader(io.BytesIO(data))]
    assert found == [(b"a", 7, 12), (b"b", 8, 12), (b"c", 10**9, 12), (b"d", 10**9, 12)]


def test_global_header_alone() -> None:
    """XGlobalNoParent: what `git archive` makes of an empty tree."""
    assert names(pax([(b"comment", b"0123")], b"g") + END) == []


@pytest.mark.parametrize("key", [b"path", b"size", b"linkpath"])
def test_global_header_about_one_entry(key: bytes) -> None:
    with pytest.raises(InvalidLayer, match="global"):
        names(pax([(key, b"1")], b"g") + GOOD + END)


def test_size_by_pax() -> None:
    data = pax([(b"size", b"5")]) + block(b"f", size=0) + pad(b"12345") + file(b"g") + END
    assert entries(data) == [(b"f", b"12345"), (b"g", b"")]


def test_size_by_pax_of_what_has_no_content() -> None:
    assert names(pax([(b"size", b"512")]) + hard_link(b"h", b"f") + file(b"g") + END) == [b"h", b"g"]


@pytest.mark.parametrize("end", [b"", END])
def test_header_about_an_entry_that_does_not_come(end: bytes) -> None:
    with pytest.raises(InvalidLayer, match="next entry"):
        names(GOOD + pax([(b"path", b"x")]) + end)
    with pytest.raises(InvalidLayer, match="next entry"):
        names(GOOD + long_name(b"x") + end)


def test_truncated_everywhere() -> None:
    """TA-30: at every byte of an archive, but those where no reader can see it."""
    data = long_name(b"n" * 120) + file(b"n", b"x" * 600) + pax([(b"mtime", b"1")]) + directory(b"d") + END
    boundaries = {0, 512 * 5, 512 * 8}
    for length in range(len(data)):
        if length in boundaries or length >= 512 * 9:
            names(data[:length])
        else:
            with pytest.raises(InvalidLayer) as caught:
                names(data[:length])
            assert "truncated" in str(caught.value)
            assert 0 <= caught.value.offset <= length


def test_the_message_names_entry_and_place() -> None:
    data = file(b"a") + file(b"dir/b", b"x" * 1000)[:600]
    with pytest.raises(InvalidLayer) as caught:
        names(data)
    assert caught.value.entry == "dir/b"
    assert caught.value.offset == 512
    assert "'dir/b'" in str(caught.value)
    assert "512" in str(caught.value)


@pytest.mark.parametrize(
    ("limits", "data"),
    [
        (Limits(entries=3), GOOD),
        (Limits(entries=3), pax([(b"comment", b"x")]) * 4 + file(b"f")),
        (Limits(header_bytes=1000), pax([(b"comment", b"x" * 1000)]) + file(b"f")),
        (Limits(header_bytes=1000), long_name(b"x" * 1000) + file(b"f")),
        (
            Limits(header_bytes=1000),
            pax([(b"comment", b"x" * 900)], b"g") + pax([(b"b", b"x" * 900)], b"g") + file(b"f"),
        ),
        (Limits(name_bytes=100), long_name(b"x" * 101) + file(b"f")),
        (Limits(name_bytes=100), pax([(b"linkpath", b"x" * 101)]) + symlink(b"f", b"t")),
        (Limits(total_bytes=1000), file(b"a", b"x" * 600) + file(b"b", b"x" * 600)),
        (Limits(), block(b"huge", b"x", size=1 << 30)),
        (Limits(), block(b"huge", b"L", size=1 << 30, magic=GNU)),
        (Limits(), block(b"huge", size=1 << 60)),
    ],
)
def test_limits(limits: Limits, data: bytes) -> None:
    """A header of 1 GiB is refused before it is read."""
    with pytest.raises(InvalidLayer):
        entries(data + END, limits)


@pytest.mark.parametrize("owner", [-1, -2, 0xFFFFFFFF, 1 << 40])
def test_owners_that_linux_cannot_have(owner: int) -> None:
    """4294967295 would mean "leave it" to chown(2)."""
    with pytest.raises(InvalidLayer, match="owner"):
        names(block(b"f", uid=owner, gid=0) + END)
    with pytest.raises(InvalidLayer, match="owner"):
        names(block(b"f", uid=0, gid=owner) + END)


@pytest.mark.parametrize("key", [b"path", b"linkpath"])
def test_names_with_nul(key: bytes) -> None:
    with pytest.raises(InvalidLayer, match="NUL"):
        names(pax([(key, b"a\0b")]) + symlink(b"f", b"t") + END)


def test_mtime_beyond_the_clock() -> None:
    with pytest.raises(InvalidLayer, match="clock"):
        names(block(b"f", mtime=1 << 70) + END)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_tarfile_writes(form: int, tmp_path: Path) -> None:
    """The standard library as the oracle."""
    buffer = io.BytesIO()
    long = "d/" + "x" * 90 + "/" + "y" * 90
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for number, name in enumerate(["a", "d/b", long, "ü" * 40, "d/\udcff"]):
            info = tarfile.TarInfo(name)
            info.size = number * 300
            info.mtime = 1_700_000_000 + number
            info.uid = 0o7777777 if form == tarfile.USTAR_FORMAT else 3_000_000_000
            archive.addfile(info, io.BytesIO(b"c" * info.size))
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as archive:
        expected = [
            (os.fsencode(info.name), info.size, info.mtime * 10**9, info.uid, info.mode)
            for info in archive.getmembers()
        ]
    buffer.seek(0)
    found = [(entry.name, entry.size, entry.mtime_ns, entry.uid, entry.mode) for entry in TarReader(buffer)]
    assert found == expected
