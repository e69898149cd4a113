"""One 512-byte header: its numbers, its checksum, its dialect.

Source: POSIX.1-2017 pax(1) "ustar Interchange Format"; the GNU tar manual, "Basic Tar Format"; star(5).
"""

from __future__ import annotations

import enum
import re
from zlib import adler32

from cowstore.layers.limits import Malformed, invalid

USTAR = b"ustar\0"
GNU = b"ustar  \0"
STAR_TRAILER = b"tar\0"


class Kind(enum.StrEnum):
    """What an entry makes; strings, since they hash faster than plain members."""

    FILE = "file"
    HARD_LINK = "hard link"
    SYMLINK = "symbolic link"
    CHARACTER = "character device"
    BLOCK = "block device"
    DIRECTORY = "directory"
    FIFO = "fifo"


#: Type flags of entries; those of headers about the next entry are the reader's.
KINDS = {
    ord("0"): Kind.FILE,
    0: Kind.FILE,
    ord("7"): Kind.FILE,  # contiguous, on systems that had it
    ord("S"): Kind.FILE,  # GNU sparse
    ord("1"): Kind.HARD_LINK,
    ord("2"): Kind.SYMLINK,
    ord("3"): Kind.CHARACTER,
    ord("4"): Kind.BLOCK,
    ord("5"): Kind.DIRECTORY,
    ord("D"): Kind.DIRECTORY,  # GNU incremental, with a list of names as its content
    ord("6"): Kind.FIFO,
}
#: These have content; the size that the header of any other names is not followed by bytes.
WITH_CONTENT = frozenset(b"0\x007SDgxXLKVMN")
_DEVICES = frozenset(b"34")

#: mode, uid, gid, size, mtime and checksum as nearly every writer spells them.
_NUMBERS = re.compile(rb"([0-7]{6}[0-7 ])[\0 ]" * 3 + rb"([0-7]{11})[\0 ]" * 2 + rb"([0-7]{6})[\0 ]{2}").match
_OCTAL = re.compile(rb"[ \0]*([0-7]*)[ \0]*").fullmatch
#: The chksum field counts as eight spaces.
_BLANK_CHECKSUM = 8 * ord(" ")


class Entry:
    """One entry of an archive, its names as bytes.

    :ivar offset: of its header in bytes. :ivar flag: type flag as a number. :ivar kind: what it makes.
    :ivar mode: permission bits. :ivar mtime_ns: nanoseconds since 1970, negative before.
    :ivar stored: bytes of content in the archive. :ivar size: length of the file it makes, in bytes.
    :ivar sparse: where the stored bytes go, as (offset, length) in rising order; None: they are the whole file.
    :ivar xattrs: extended attributes, ACLs among them. :ivar acls: ACLs that name users by name only, as
        (attribute, text); both None where there are none.
    :ivar plain: the numbers are spelled as nearly everybody does, so that they cannot be out of range.
    :ivar header: the raw block.
    """

    __slots__ = (
        "acls", "flag", "gid", "header", "kind", "link", "major", "minor", "mode", "mtime_ns", "name", "offset",
        "plain", "size", "sparse", "stored", "uid", "xattrs",
    )  # fmt: skip
    name: bytes
    link: bytes
    kind: Kind | None
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    stored: int
    size: int
    major: int
    minor: int
    plain: bool
    sparse: list[tuple[int, int]] | None
    xattrs: dict[bytes, bytes] | None
    acls: list[tuple[bytes, bytes]] | None

    def __init__(self, header: bytes, offset: int) -> None:
        self.header = header
        self.offset = offset
        self.flag = header[156]
        self.sparse = self.xattrs = self.acls = None
        self.link = b""
        self.major = self.minor = 0


def text(field: bytes) -> bytes:
    """Return the bytes of a field up to its first NUL."""
    end = field.find(b"\0")
    return field if end < 0 else field[:end]


def number(field: bytes) -> int:
    """Read a number in octal, or in base 256 where its first bit is set.

    Raises:
        Malformed: it is neither.
    """
    first = field[0]
    if first & 0x80:
        value = int.from_bytes(field, "big")
        width = 8 * len(field)
        # 0x80 marks a positive number, 0xff two's complement; 0x40 is the sign bit of what is left.
        return value - (1 << width) if first & 0x40 else value & ((1 << (width - 1)) - 1)
    match = _OCTAL(field)
    if match is None:
        raise Malformed(f"a field of the header, {field!r}, is not a number")
    return int(match[1] or b"0", 8)


def parse(header: bytes, offset: int) -> Entry:
    """Read one header.

    Args:
        header: 512 bytes, not all zero.
        offset: where it stands in the archive, in bytes.

    Raises:
        InvalidLayer: the checksum does not match.
        Malformed: a field is no number, or out of bounds.
    """
    entry = Entry(header, offset)
    match = _NUMBERS(header, 100)
    entry.plain = match is not None
    if match is not None:
        mode, uid, gid, size, mtime, checksum = match.groups()
        entry.mode = int(mode, 8) & 0o7777
        entry.uid = int(uid, 8)
        entry.gid = int(gid, 8)
        entry.stored = int(size, 8)
        entry.mtime_ns = int(mtime, 8) * 1_000_000_000
        expected = int(checksum, 8)
    else:
        expected = _odd_numbers(entry, header, offset)
    _verify(header, expected, offset)
    flag = entry.flag
    entry.kind = KINDS.get(flag)
    entry.name = _name(header)
    if flag not in WITH_CONTENT:
        entry.stored = 0
        if flag in _DEVICES:
            _device(entry, header)
        elif header[157]:
            entry.link = text(header[157:257])
    entry.size = entry.stored
    return entry


def content_size(header: bytes, offset: int) -> int:
    """Read of a header only how many bytes of content follow it.

    Raises:
        InvalidLayer: the checksum does not match.
        Malformed: a field is no number, or out of bounds.
    """
    match = _NUMBERS(header, 100)
    if match is None:
        return parse(header, offset).stored
    _verify(header, int(match[6], 8), offset)
    return int(match[4], 8)


def _verify(header: bytes, expected: int, offset: int) -> None:
    """Add up a header's bytes."""
    total = byte_sum(header) - sum(header[148:156]) + _BLANK_CHECKSUM
    if total != expected and _signed_sum(header) != expected:
        raise invalid("the header's checksum is wrong: this is damaged, or not a tar archive", offset=offset)


def _odd_numbers(entry: Entry, header: bytes, offset: int) -> int:
    """Read the numbers of a header in any spelling; return its checksum."""
    try:
        checksum = number(header[148:156])
    except Malformed:
        raise invalid("the header has no checksum: this is damaged, or not a tar archive", offset=offset) from None
    entry.mode = number(header[100:108]) & 0o7777
    entry.uid = number(header[108:116])
    entry.gid = number(header[116:124])
    entry.stored = number(header[124:136])
    entry.mtime_ns = number(header[136:148]) * 1_000_000_000
    if entry.stored < 0:
        raise Malformed(f"its size is {entry.stored}")
    return checksum


def byte_sum(block: bytes) -> int:
    """Add up the bytes of a block of 512, ten times as fast as sum().

    The lower half of an Adler-32 checksum is one more than the sum modulo 65521, which half a block cannot reach.
    Source: RFC 1950, section 8.2.
    """
    return (adler32(block[:256]) & 0xFFFF) + (adler32(block[256:]) & 0xFFFF) - 2


def _signed_sum(header: bytes) -> int:
    """Add up the block as those did whose char was signed."""
    field = slice(148, 156)
    high = sum(1 for byte in header if byte & 0x80) - sum(1 for byte in header[field] if byte & 0x80)
    return sum(header) - sum(header[field]) + _BLANK_CHECKSUM - 256 * high


def _name(header: bytes) -> bytes:
    """Join prefix and name, where the header's dialect has a prefix."""
    end = header.find(b"\0", 0, 100)
    name = header[:100] if end < 0 else header[:end]
    if not header[345]:
        return name
    magic = header[257:265]
    if magic.startswith(USTAR):
        # star keeps its access time where the last 24 bytes of the prefix would be, and says so at the very end.
        prefix = text(header[345:476] if header[508:512] == STAR_TRAILER else header[345:500])
    elif magic == GNU and not _gnu_times(header):
        prefix = text(header[345:500])
    else:
        return name
    return prefix + b"/" + name if prefix else name


def _gnu_times(header: bytes) -> bool:
    """Tell whether GNU's access and change times stand where ustar has its prefix.

    Some writers put a prefix under GNU's magic, which has none. Such a header is told by what GNU would have put
    there instead: two numbers, which a path hardly ever looks like.
    """
    try:
        number(header[345:357])
        number(header[357:369])
    except Malformed:
        prefix = text(header[345:500])
        return not prefix.isascii()
    return True


def _device(entry: Entry, header: bytes) -> None:
    """Read the device's numbers."""
    entry.major = number(header[329:337])
    entry.minor = number(header[337:345])
