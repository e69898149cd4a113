"""Archives made byte by byte, since no writer would make most of them, and places to unpack them in."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from cowstore.layers.extract import Devices, Extracted, Owners, Whiteouts, extract
from cowstore.layers.limits import Limits

END = bytes(1024)
USTAR = b"ustar\x0000"
GNU = b"ustar  \0"


def field(value: int, width: int) -> bytes:
    """A number in octal, or in base 256 where it does not fit."""
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    raw = (value & ((1 << 8 * width) - 1)).to_bytes(width, "big")
    return bytes([0x80 if value >= 0 else 0xFF]) + raw[1:]


def block(
    name: bytes,
    flag: bytes = b"0",
    *,
    size: int = 0,
    mode: int = 0o644,
    uid: int | None = None,
    gid: int | None = None,
    mtime: int = 1_000_000_000,
    link: bytes = b"",
    magic: bytes = USTAR,
    major: int = 0,
    minor: int = 0,
    prefix: bytes = b"",
) -> bytes:
    """One header with a right checksum."""
    uid = os.geteuid() if uid is None else uid
    gid = os.getegid() if gid is None else gid
    head = (
        name[:100].ljust(100, b"\0")
        + field(mode, 8)
        + field(uid, 8)
        + field(gid, 8)
        + field(size, 12)
        + field(mtime, 12)
        + b" " * 8
        + flag
        + link[:100].ljust(100, b"\0")
        + magic
        + bytes(64)
        + field(major, 8)
        + field(minor, 8)
        + prefix.ljust(155, b"\0")
        + bytes(12)
    )
    return sealed(head)


def sealed(head: bytes) -> bytes:
    """A header with its checksum put right."""
    assert len(head) == 512
    head = head[:148] + b" " * 8 + head[156:]
    return head[:148] + b"%06o\0 " % sum(head) + head[156:]


def pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def records(pairs: list[tuple[bytes, bytes]]) -> bytes:
    """PAX records."""
    result = b""
    for key, value in pairs:
        length = len(key) + len(value) + 3
        while len(str(length)) + len(key) + len(value) + 3 != length:
            length = len(str(length)) + len(key) + len(value) + 3
        result += b"%d %s=%s\n" % (length, key, value)
    return result


def pax(pairs: list[tuple[bytes, bytes]], flag: bytes = b"x") -> bytes:
    data = records(pairs)
    return block(b"PaxHeaders/x", flag, size=len(data)) + pad(data)


def file(name: bytes, data: bytes = b"", **fields: object) -> bytes:
    return block(name, b"0", size=len(data), **fields) + pad(data)  # type: ignore[arg-type]


def directory(name: bytes, mode: int = 0o755, **fields: object) -> bytes:
    return block(name, b"5", mode=mode, **fields)  # type: ignore[arg-type]


def symlink(name: bytes, target: bytes, **fields: object) -> bytes:
    return block(name, b"2", link=target, mode=0o777, **fields)  # type: ignore[arg-type]


def hard_link(name: bytes, target: bytes, **fields: object) -> bytes:
    return block(name, b"1", link=target, **fields)  # type: ignore[arg-type]


def long_name(name: bytes, flag: bytes = b"L") -> bytes:
    return block(b"././@LongLink", flag, size=len(name) + 1, magic=GNU) + pad(name + b"\0")


def unpack(
    root: Path,
    *parts: bytes,
    end: bytes = END,
    limits: Limits = Limits(),  # noqa: B008
    owners: Owners = Owners.CALLER,
    devices: Devices = Devices.SKIP,
    whiteouts: Whiteouts = Whiteouts.APPLY,
) -> Extracted:
    """Unpack an archive of these parts into a directory."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        stream = io.BytesIO(b"".join(parts) + end)
        return extract(stream, fd, limits=limits, owners=owners, devices=devices, whiteouts=whiteouts)
    finally:
        os.close(fd)


@dataclass(frozen=True)
class Node:
    """All there is to know of one file, its place and ctime excepted."""

    mode: int
    owner: tuple[int, int]
    rdev: int
    mtime_ns: int
    links: int
    target: str
    content: str
    xattrs: tuple[tuple[str, bytes], ...]


def look(path: Path, *, times: bool = True) -> Node:
    found = path.lstat()
    regular = stat.S_ISREG(found.st_mode)
    return Node(
        mode=found.st_mode,
        owner=(found.st_uid, found.st_gid),
        rdev=found.st_rdev,
        mtime_ns=found.st_mtime_ns if times else 0,
        links=1 if stat.S_ISDIR(found.st_mode) else found.st_nlink,
        target=os.readlink(path) if path.is_symlink() else "",
        content=hashlib.sha256(path.read_bytes()).hexdigest() if regular else "",
        xattrs=tuple(
            (name, os.getxattr(path, name, follow_symlinks=False))
            for name in sorted(os.listxattr(path, follow_symlinks=False))
        ),
    )


def survey(root: Path, *, times: bool = True, without: Path | None = None) -> dict[str, Node]:
    """Everything below a directory, and itself; without one subtree."""
    result = {".": look(root, times=times)}
    for place, directories, files in os.walk(root):
        directories[:] = [name for name in directories if Path(place, name) != without]
        for name in directories + files:
            path = Path(place, name)
            result[str(path.relative_to(root))] = look(path, times=times)
    return result
