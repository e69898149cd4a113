from __future__ import annotations

import pytest

from cowstore.errors import InvalidLayer
from cowstore.layers.headers import Kind, number, parse
from cowstore.layers.limits import Malformed
from tests.unit.layers.archives import GNU, block, field, sealed


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"0000644\0", 0o644),
        (b"000644 \0", 0o644),
        (b"  644 \0\0", 0o644),
        (b"\0" * 8, 0),
        (b" " * 8, 0),
        (b"77777777", 0o77777777),
        (b"\x80" + b"\0" * 6 + b"\x01", 1),
        (b"\x80\0\0\0\x80\0\0\0", 1 << 31),
        (b"\xff" * 8, -1),
        (b"\xff\xff\xff\xff\xff\xff\xff\xfe", -2),
        (b"\x80" + b"\xff" * 11, (1 << 88) - 1),
    ],
)
def test_number(raw: bytes, value: int) -> None:
    assert number(raw) == value


@pytest.mark.parametrize(
    "raw", [b"0000648\0", b"-000644\0", b"0x00644\0", b"06 44\0\0\0", b"+1\0\0\0\0\0\0", b"1_1\0\0\0\0\0"]
)
def test_number_that_is_none(raw: bytes) -> None:
    with pytest.raises(Malformed):
        number(raw)


@pytest.mark.parametrize("value", [0, 1, 2097151, 2097152, 2_100_000_000, 0xFFFFFFFE])
def test_owner_in_octal_and_base_256(value: int) -> None:
    """TA-21."""
    entry = parse(block(b"f", uid=value, gid=value), 0)
    assert (entry.uid, entry.gid) == (value, value)


@pytest.mark.parametrize("value", [-1, -86400 * 365 * 100, 0, 1 << 40])
def test_mtime_before_1970_and_far(value: int) -> None:
    assert parse(block(b"f", mtime=value), 0).mtime_ns == value * 10**9


def test_checksum_is_verified() -> None:
    head = bytearray(block(b"f"))
    head[0] ^= 1
    with pytest.raises(InvalidLayer, match="checksum"):
        parse(bytes(head), 512)


def test_checksum_with_all_bytes_high() -> None:
    """Sums beyond the modulus of what they are computed with."""
    head = sealed(b"\xff" * 100 + block(b"f")[100:157] + b"\xff" * 100 + block(b"f")[257:])
    assert parse(head, 0).name == b"\xff" * 100
    for position in (0, 99, 160, 256, 300, 511):
        bad = bytearray(head)
        bad[position] ^= 0x80
        with pytest.raises(InvalidLayer):
            parse(bytes(bad), 0)


def test_checksum_of_signed_chars() -> None:
    head = bytearray(block("ä".encode() * 20))
    signed = sum(byte - 256 if byte > 127 else byte for byte in head[:148] + b" " * 8 + head[156:])
    head[148:156] = b"%06o\0 " % signed
    assert parse(bytes(head), 0).name == "ä".encode() * 20


def test_prefix_of_ustar() -> None:
    """PrefixHeaderReadable."""
    assert parse(block(b"name", prefix=b"some/dir"), 0).name == b"some/dir/name"
    assert parse(block(b"n" * 100, prefix=b"p" * 155), 0).name == b"p" * 155 + b"/" + b"n" * 100


def test_no_prefix_under_gnu_magic() -> None:
    times = field(1_000_000_000, 12) * 2
    assert parse(block(b"name", magic=GNU, prefix=times), 0).name == b"name"


def test_prefix_under_gnu_magic_where_no_times_are() -> None:
    """UntarUstarGnuConflict: old writers put a prefix into headers that have none."""
    assert parse(block(b"name", magic=GNU, prefix=b"root/.cpanm/work"), 0).name == b"root/.cpanm/work/name"


def test_no_prefix_in_v7() -> None:
    assert parse(block(b"name", magic=bytes(8), prefix=b"junk"), 0).name == b"name"


def test_prefix_of_star_is_shorter() -> None:
    head = block(b"name", prefix=b"dir".ljust(131, b"\0") + b"00000000000\0" * 2)
    assert parse(sealed(head[:508] + b"tar\0"), 0).name == b"dir/name"


@pytest.mark.parametrize(
    ("flag", "kind"),
    [
        (b"0", Kind.FILE),
        (b"\0", Kind.FILE),
        (b"7", Kind.FILE),
        (b"1", Kind.HARD_LINK),
        (b"2", Kind.SYMLINK),
        (b"3", Kind.CHARACTER),
        (b"4", Kind.BLOCK),
        (b"5", Kind.DIRECTORY),
        (b"6", Kind.FIFO),
        (b"x", None),
    ],
)
def test_kinds(flag: bytes, kind: Kind | None) -> None:
    assert parse(block(b"n", flag), 0).kind is kind


@pytest.mark.parametrize("flag", [b"1", b"2", b"3", b"4", b"5", b"6"])
def test_size_without_content(flag: bytes) -> None:
    """Old writers give a hard link its file's size; no content follows it."""
    assert parse(block(b"n", flag, size=1000), 0).stored == 0


def test_negative_size() -> None:
    with pytest.raises(Malformed, match="size"):
        parse(block(b"n", size=-5), 0)


def test_device_numbers() -> None:
    entry = parse(block(b"n", b"3", major=1, minor=3), 0)
    assert (entry.major, entry.minor) == (1, 3)


def test_mode_keeps_twelve_bits() -> None:
    assert parse(block(b"n", mode=0o107755), 0).mode == 0o7755
