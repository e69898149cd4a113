"""Tar headers, written so that the same tree gives the same bytes on every machine.

A header is plain ustar where that can say everything; what it cannot (nanoseconds, long or odd names, large numbers,
extended attributes) goes into one PAX extended header before it, records sorted. No user or group names, no access or
change times, no padding beyond what the format asks for.

Source: POSIX.1-2017 pax(1) "ustar Interchange Format", "pax Extended Header"; star(5) for SCHILY.*; OCI image
specification, layer.md.
"""

from __future__ import annotations

import stat

from cowstore.layers.headers import byte_sum

BLOCK = 512
END = bytes(2 * BLOCK)
"""Two blocks of zeros end an archive."""

_REGULAR, _LINK, _SYMLINK, _CHARACTER, _BLOCK_DEVICE, _DIRECTORY, _FIFO, _PAX = b"0123456x"
_TYPES = {
    stat.S_IFREG: _REGULAR,
    stat.S_IFLNK: _SYMLINK,
    stat.S_IFCHR: _CHARACTER,
    stat.S_IFBLK: _BLOCK_DEVICE,
    stat.S_IFDIR: _DIRECTORY,
    stat.S_IFIFO: _FIFO,
}
_OCTAL_7 = 0o7777777
_OCTAL_11 = 0o77777777777
_NANOSECONDS = 10**9
WHITEOUT = b".wh."
"""What stands before the name of a file that is no longer there. Source: OCI layer.md, "Whiteouts"."""


def whiteout(name: bytes) -> bytes:
    """Return the whole entry that says *name* is gone: an empty file whose every field is fixed."""
    directory, _, leaf = name.rpartition(b"/")
    hidden = (directory + b"/" if directory else b"") + WHITEOUT + leaf
    return header(hidden, stat.S_IFREG | 0o644)


def header(
    name: bytes,
    mode: int,
    *,
    uid: int = 0,
    gid: int = 0,
    size: int = 0,
    mtime_ns: int = 0,
    device: tuple[int, int] = (0, 0),
    target: bytes = b"",
    hard_link: bool = False,
    xattrs: tuple[tuple[bytes, bytes], ...] = (),
) -> bytes:
    """Return the header of one entry, with the extended header it needs before it.

    :param name: path relative to the root, without a leading slash; a directory's gets its slash here.
    :param mode: type and permission bits, as ``st_mode``.
    :param size: bytes of content that follow; 0 for all but regular files.
    :param mtime_ns: modification time in nanoseconds since 1970, negative before.
    :param device: major and minor number of a device.
    :param target: of a symbolic link, or the earlier entry's name for a hard link.
    :param xattrs: names and values of extended attributes, in any order.
    :raises ValueError: a type that tar does not know (a socket).
    """
    kind = _LINK if hard_link else _TYPES.get(stat.S_IFMT(mode))
    if kind is None:
        raise ValueError(f"tar has no entry for a file of mode {mode:o}")
    if kind == _DIRECTORY and not name.endswith(b"/"):
        name += b"/"
    records: dict[bytes, bytes] = {}
    seconds, nanoseconds = divmod(mtime_ns, _NANOSECONDS)
    if nanoseconds or not 0 <= seconds <= _OCTAL_11:
        records[b"mtime"] = _time(mtime_ns)
        seconds = min(max(seconds, 0), _OCTAL_11)
    short, prefix = _split(name)
    if short is None:
        records[b"path"] = name
        short = name[:100]
    if len(target) > 100:
        records[b"linkpath"] = target
    fields = []
    numbers = (
        (b"uid", uid, _OCTAL_7),
        (b"gid", gid, _OCTAL_7),
        (b"size", size, _OCTAL_11),
        (b"SCHILY.devmajor", device[0], _OCTAL_7),
        (b"SCHILY.devminor", device[1], _OCTAL_7),
    )
    for keyword, value, most in numbers:
        if value > most:
            records[keyword] = b"%d" % value
        fields.append(value if value <= most else 0)
    for xattr, content in xattrs:
        # GNU tar's spelling: a record's keyword ends at its first "=".
        records[b"SCHILY.xattr." + xattr.replace(b"%", b"%25").replace(b"=", b"%3D")] = content
    extended = _extended(name, records) if records else b""
    return extended + _ustar(short, prefix, stat.S_IMODE(mode), fields, seconds, kind, target[:100])


def padding(size: int) -> bytes:
    """Return the zeros that fill up the last block of a content of *size* bytes."""
    return bytes(-size % BLOCK)


def _time(nanoseconds: int) -> bytes:
    """Return a time as decimal seconds, exactly."""
    sign = b"-" if nanoseconds < 0 else b""
    seconds, rest = divmod(abs(nanoseconds), _NANOSECONDS)
    fraction = b".%09d" % rest if rest else b""
    return sign + b"%d" % seconds + fraction.rstrip(b"0")


def _split(name: bytes) -> tuple[bytes | None, bytes]:
    """Return name and prefix as ustar holds them; None where it cannot."""
    if len(name) <= 100:
        return name, b""
    # The last part, a directory's slash included, must fit into the name, and be cut at a slash of its own.
    cut = name.find(b"/", len(name) - 101, len(name) - 1)
    if 0 < cut <= 155:
        return name[cut + 1 :], name[:cut]
    return None, b""


def _extended(name: bytes, records: dict[bytes, bytes]) -> bytes:
    """Return a PAX extended header with those records."""
    try:
        for keyword in (b"path", b"linkpath"):
            records.get(keyword, b"").decode()
    except UnicodeDecodeError:
        # Without it the names would have to be UTF-8.
        records = {b"hdrcharset": b"BINARY", **records}
    body = b"".join(_record(keyword, value) for keyword, value in sorted(records.items(), key=_charset_first))
    leaf = name.rstrip(b"/").rpartition(b"/")[2]
    front = _ustar((b"PaxHeaders/" + leaf)[:100], b"", 0o644, [0, 0, len(body), 0, 0], 0, _PAX, b"")
    return front + body + padding(len(body))


def _charset_first(record: tuple[bytes, bytes]) -> tuple[bool, bytes]:
    """Sort key: the character set speaks of the records behind it."""
    return record[0] != b"hdrcharset", record[0]


def _record(keyword: bytes, value: bytes) -> bytes:
    """Return one record, whose first part is the length of all of it, that part included."""
    rest = b" " + keyword + b"=" + value + b"\n"
    length = len(rest)
    while length != len(rest) + len(b"%d" % length):
        length = len(rest) + len(b"%d" % length)
    return b"%d" % length + rest


def _ustar(name: bytes, prefix: bytes, mode: int, numbers: list[int], seconds: int, kind: int, target: bytes) -> bytes:
    """Return one block of ustar header with its checksum."""
    uid, gid, size, major, minor = numbers
    block = b"%s%07o\0%07o\0%07o\0%011o\0%011o\0        %c%sustar\00000%s%07o\0%07o\0%s%s" % (
        name.ljust(100, b"\0"),
        mode,
        uid,
        gid,
        size,
        seconds,
        kind,
        target.ljust(100, b"\0"),
        bytes(64),
        major,
        minor,
        prefix.ljust(155, b"\0"),
        bytes(12),
    )
    return b"%s%06o\0 %s" % (block[:148], byte_sum(block), block[156:])
