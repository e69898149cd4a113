"""PAX extended headers: records of any bytes that overrule the header of the entry behind them.

Source: POSIX.1-2017 pax(1) "pax Extended Header"; star(5) for SCHILY.*; libarchive's tar(5) for LIBARCHIVE.xattr.*; GNU
tar for the spelling of '=' and '%' in names of SCHILY.xattr.*.
"""

from __future__ import annotations

import re

from cowstore.layers import acl
from cowstore.layers.limits import Malformed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cowstore.layers.headers import Entry

SCHILY_XATTR = b"SCHILY.xattr."
LIBARCHIVE_XATTR = b"LIBARCHIVE.xattr."
GNU_SPARSE = b"GNU.sparse."
#: Attribute names and values the kernel can hold at all.
XATTR_NAME_MAX = 255
XATTR_SIZE_MAX = 65536

#: Of one entry by their nature: as defaults for all that follow they would give every reader another archive.
_NOT_GLOBAL = (b"path", b"linkpath", b"size")
#: Twice the pieces of the longest sparse map, and some; the shortest record takes thirty times its bytes in memory.
_RECORDS_MAX = 140_000
_TIME = re.compile(rb"(-?)([0-9]{1,19})(?:\.([0-9]*))?").fullmatch
_INT64 = 1 << 63


def records(data: bytes) -> list[tuple[bytes, bytes]]:
    """Cut an extended header into its (keyword, value) records, in order.

    Raises:
        Malformed: it is not a sequence of "length keyword=value newline".
    """
    result = []
    position, end = 0, len(data)
    find = data.find
    while position < end:
        space = find(b" ", position, position + 12)
        digits = data[position:space]
        if space < 0 or not digits.isdigit():
            raise Malformed(f"no length at byte {position} of an extended header")
        stop = position + int(digits)
        keyword, equals, value = data[space + 1 : stop - 1].partition(b"=")
        if stop > end or stop <= space or data[stop - 1] != 0x0A or not equals or not keyword:
            raise Malformed(f"a broken record at byte {position} of an extended header")
        result.append((keyword, value))
        if len(result) > _RECORDS_MAX:
            raise Malformed(f"an extended header of more than {_RECORDS_MAX} records")
        position = stop
    return result


def check_global(found: list[tuple[bytes, bytes]]) -> None:
    """Refuse global records that could only mean one entry.

    Raises:
        Malformed: there is one.
    """
    for keyword, _ in found:
        if keyword in _NOT_GLOBAL or keyword.startswith(GNU_SPARSE):
            raise Malformed(f"a global extended header with {keyword.decode('ascii', 'replace')!r}")


def decimal(value: bytes, what: str) -> int:
    """Read a number that may not be negative.

    Raises:
        Malformed: it is none, or above 2^63.
    """
    if not value.isdigit() or len(value) > 19 or int(value) >= _INT64:
        raise Malformed(f"{what} is {value[:40]!r}")
    return int(value)


def time_ns(value: bytes) -> int:
    """Read seconds with any number of decimals as nanoseconds; what is below them is cut off.

    Raises:
        Malformed: it is no such number.
    """
    whole, _, fraction = value.partition(b".")
    if len(value) <= 28 and whole.isdigit() and fraction.isdigit():
        return int(whole) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0"))
    match = _TIME(value)
    if match is None:
        raise Malformed(f"mtime is {value[:40]!r}")
    sign, seconds, fraction = match.groups()
    nanoseconds = int(seconds) * 1_000_000_000
    if fraction:
        nanoseconds += int(fraction[:9].ljust(9, b"0"))
    return -nanoseconds if sign else nanoseconds


def apply(entry: Entry, found: dict[bytes, bytes]) -> None:
    """Overrule an entry's fields; records about sparse files are left to `cowstore.layers.sparse`.

    Args:
        entry: is changed.
        found: the records that hold for it, the later of two under one keyword; an empty value is as if not given.

    Raises:
        Malformed: a record has an impossible value.
    """
    encoded = None
    for keyword, value in found.items():
        setter = _SETTERS.get(keyword)
        if setter is not None:
            if value:
                setter(entry, value)
        elif keyword.startswith(SCHILY_XATTR):
            # What the empty value of any other record means, absent, an attribute's may mean as well as itself.
            _xattr(entry, _plain_name(keyword[len(SCHILY_XATTR) :]), value)
        elif keyword.startswith(LIBARCHIVE_XATTR):
            encoded = encoded or []
            encoded.append((keyword[len(LIBARCHIVE_XATTR) :], value))
    if encoded is not None:
        _encoded_xattrs(entry, encoded)
    if entry.acls is not None and entry.xattrs is not None:
        # Some writers give an ACL twice: as text with names, and as the attribute itself.
        entry.acls = [(name, text) for name, text in entry.acls if name not in entry.xattrs] or None


def _mtime(entry: Entry, value: bytes) -> None:
    entry.mtime_ns = time_ns(value)


def _path(entry: Entry, value: bytes) -> None:
    entry.name = value


def _linkpath(entry: Entry, value: bytes) -> None:
    entry.link = value


def _size(entry: Entry, value: bytes) -> None:
    entry.stored = entry.size = decimal(value, "size")


def _uid(entry: Entry, value: bytes) -> None:
    entry.uid = decimal(value, "uid")


def _gid(entry: Entry, value: bytes) -> None:
    entry.gid = decimal(value, "gid")


def _access_acl(entry: Entry, value: bytes) -> None:
    _acl(entry, acl.ACCESS, value)


def _default_acl(entry: Entry, value: bytes) -> None:
    _acl(entry, acl.DEFAULT, value)


#: What is done with a record's value, if it has one. All other records are about what a layer does not keep.
_SETTERS: dict[bytes, Callable[[Entry, bytes], None]] = {
    b"mtime": _mtime,
    b"path": _path,
    b"linkpath": _linkpath,
    b"size": _size,
    b"uid": _uid,
    b"gid": _gid,
    b"SCHILY.acl.access": _access_acl,
    b"SCHILY.acl.default": _default_acl,
}


def _plain_name(name: bytes) -> bytes:
    """Undo the spelling of '=' and '%', which a keyword cannot hold."""
    if b"%" in name:
        return name.replace(b"%3D", b"=").replace(b"%25", b"%")
    return name


def _xattr(entry: Entry, name: bytes, value: bytes) -> None:
    """Give the entry one more extended attribute."""
    if not 0 < len(name) <= XATTR_NAME_MAX or b"\0" in name:
        raise Malformed(f"an extended attribute has the name {name[:40]!r}")
    if len(value) > XATTR_SIZE_MAX:
        raise Malformed(f"the extended attribute {name!r} is {len(value)} bytes long; {XATTR_SIZE_MAX} are possible")
    if entry.xattrs is None:
        entry.xattrs = {}
    entry.xattrs[name] = value


def _acl(entry: Entry, name: bytes, value: bytes) -> None:
    """Give the entry an ACL: as an attribute where it speaks in numbers, as text where names must be looked up."""
    binary = acl.from_text(value, None)
    if binary is not None:
        _xattr(entry, name, binary)
        return
    if entry.acls is None:
        entry.acls = []
    entry.acls.append((name, value))


def _encoded_xattrs(entry: Entry, encoded: list[tuple[bytes, bytes]]) -> None:
    """Take the attributes in libarchive's spelling that are not there in the other one already."""
    import binascii
    from urllib.parse import unquote_to_bytes

    for keyword, value in encoded:
        name = unquote_to_bytes(keyword)
        if entry.xattrs is not None and name in entry.xattrs:
            continue
        try:
            plain = binascii.a2b_base64(value + b"=" * (-len(value) % 4), strict_mode=True)
        except binascii.Error:
            raise Malformed(f"the value of the extended attribute {name[:40]!r} is not base64") from None
        _xattr(entry, name, plain)
