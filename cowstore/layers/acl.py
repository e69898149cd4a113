"""POSIX ACLs: from the text in an archive to the attribute the kernel takes.

Source: acl(5); star(5) on SCHILY.acl.access; include/uapi/linux/posix_acl_xattr.h.
"""

from __future__ import annotations

import re
import struct

from cowstore.layers.limits import Malformed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: Looks up a ("user" or "group", name) and gives its number, or None.
if TYPE_CHECKING:
    Lookup = Callable[[str, bytes], int | None]

ACCESS = b"system.posix_acl_access"
DEFAULT = b"system.posix_acl_default"

_VERSION = struct.pack("<I", 2)
_UNDEFINED = 0xFFFFFFFF
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
#: tag -> (without a qualifier, with one)
_TAGS = {
    b"u": (_USER_OBJ, _USER),
    b"user": (_USER_OBJ, _USER),
    b"g": (_GROUP_OBJ, _GROUP),
    b"group": (_GROUP_OBJ, _GROUP),
    b"m": (_MASK, None),
    b"mask": (_MASK, None),
    b"o": (_OTHER, None),
    b"other": (_OTHER, None),
}
_NEEDED = {_USER_OBJ, _GROUP_OBJ, _OTHER}
_PERMISSIONS = re.compile(rb"[r-][w-][x-]").fullmatch


def from_text(value: bytes, lookup: Lookup | None) -> bytes | None:
    """Turn an ACL's text into the attribute's binary form.

    Args:
        value: entries "tag:qualifier:rwx[:id]" between commas or newlines, with comments from '#' on.
        lookup: for qualifiers that are names without a number beside them; None: there is nowhere to look.

    Returns:
        the attribute's value; None where a name cannot be looked up.

    Raises:
        Malformed: the text is not an ACL.
    """
    entries = []
    for line in value.replace(b",", b"\n").split(b"\n"):
        words = line.partition(b"#")[0].strip()
        if not words:
            continue
        entry = _entry(words, lookup)
        if entry is None:
            return None
        entries.append(entry)
    tags = [tag for tag, _, _ in entries]
    single = [tag for tag in tags if tag not in {_USER, _GROUP}]
    if not set(single) >= _NEEDED or len(set(single)) != len(single):
        raise Malformed(f"an ACL without exactly one owner, group and other entry: {value[:80]!r}")
    if len(single) != len(tags) and _MASK not in single:
        raise Malformed(f"an ACL that names users or groups has no mask: {value[:80]!r}")
    entries.sort(key=lambda entry: (entry[0], entry[2]))
    return _VERSION + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def _entry(words: bytes, lookup: Lookup | None) -> tuple[int, int, int] | None:
    """Read one entry as (tag, permissions, id); None where its name is not known."""
    fields = [field.strip() for field in words.split(b":")]
    # "other:r--" and "mask:r--" are allowed to leave the empty qualifier out.
    if len(fields) == 2:
        fields.insert(1, b"")
    if len(fields) not in {3, 4} or fields[0] not in _TAGS or _PERMISSIONS(fields[2]) is None:
        raise Malformed(f"an ACL entry {words[:80]!r}")
    permissions = sum(bit for bit, letter in zip((4, 2, 1), fields[2], strict=True) if letter != ord("-"))
    plain, named = _TAGS[fields[0]]
    if not fields[1]:
        return plain, permissions, _UNDEFINED
    if named is None:
        raise Malformed(f"an ACL entry {words[:80]!r}")
    digits = fields[3] if len(fields) == 4 else fields[1]
    if digits.isdigit() and len(digits) <= 10 and int(digits) < _UNDEFINED:
        return named, permissions, int(digits)
    if len(fields) == 4 or digits.isdigit():
        raise Malformed(f"an ACL entry {words[:80]!r}")
    identity = lookup("user" if named == _USER else "group", fields[1]) if lookup is not None else None
    return None if identity is None else (named, permissions, identity)
