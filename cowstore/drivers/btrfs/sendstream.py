"""Reading the kernel's send stream: the list of commands that turns one subvolume into another.

A stream is a header and then commands, each a head (length, number, checksum) and attributes (number, length, bytes).
Version 2 leaves the length of a data attribute out, which therefore is the last of its command. The checksum is not
tested: the stream comes through a pipe from the kernel of this machine and is not kept.

Source: ``fs/btrfs/send.h``; Btrfs documentation, "Btrfs send stream format".
"""

from __future__ import annotations

import enum
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAGIC = b"btrfs-stream\0"
MAX_VERSION = 3
"""The newest version whose commands are known here."""

_HEADER = struct.Struct("<I")
_COMMAND = struct.Struct("<IHI")
_ATTRIBUTE = struct.Struct("<HH")
_ATTRIBUTE_TYPE = struct.Struct("<H")
_READ_BYTES = 65536
_MAX_COMMAND_BYTES = 64 << 20


class StreamError(ValueError):
    """The stream ends early, is of a newer version, or does not fit what it should apply to."""


class Command(enum.IntEnum):
    """What a command does. Source: ``enum btrfs_send_cmd``."""

    SUBVOL = 1
    SNAPSHOT = 2
    MKFILE = 3
    MKDIR = 4
    MKNOD = 5
    MKFIFO = 6
    MKSOCK = 7
    SYMLINK = 8
    RENAME = 9
    LINK = 10
    UNLINK = 11
    RMDIR = 12
    SET_XATTR = 13
    REMOVE_XATTR = 14
    WRITE = 15
    CLONE = 16
    TRUNCATE = 17
    CHMOD = 18
    CHOWN = 19
    UTIMES = 20
    END = 21
    UPDATE_EXTENT = 22
    # Version 2.
    FALLOCATE = 23
    FILEATTR = 24
    ENCODED_WRITE = 25
    # Version 3.
    ENABLE_VERITY = 26


class Attribute(enum.IntEnum):
    """What an attribute says; only those that somebody here asks for. Source: ``enum`` of ``BTRFS_SEND_A_*``."""

    UUID = 1
    CTRANSID = 2
    INO = 3
    SIZE = 4
    MODE = 5
    UID = 6
    GID = 7
    RDEV = 8
    XATTR_NAME = 13
    XATTR_DATA = 14
    PATH = 15
    PATH_TO = 16
    PATH_LINK = 17
    FILE_OFFSET = 18
    DATA = 19
    CLONE_UUID = 20
    CLONE_CTRANSID = 21
    CLONE_PATH = 22
    CLONE_LEN = 24


class _Reader:
    """A descriptor read in large pieces and handed out in small ones."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._buffer = b""
        self._at = 0

    def take(self, count: int) -> bytes:
        """Return *count* bytes, or fewer at the end of the file."""
        end = self._at + count
        if end > len(self._buffer):
            self._fill(count)
            end = self._at + count
        piece = self._buffer[self._at : end]
        self._at += len(piece)
        return piece

    def _fill(self, count: int) -> None:
        pieces = [self._buffer[self._at :]]
        length = len(pieces[0])
        while length < count:
            piece = os.read(self._fd, max(_READ_BYTES, count - length))
            if not piece:
                break
            pieces.append(piece)
            length += len(piece)
        self._buffer = b"".join(pieces)
        self._at = 0


def commands(fd: int) -> Iterator[tuple[Command, Mapping[int, bytes]]]:
    """Yield the commands of the stream read from *fd* up to its end, each with its attributes.

    :raises StreamError: it ends early, is no stream, or is of an unknown version.
    """
    reader = _Reader(fd)
    head = reader.take(len(MAGIC) + _HEADER.size)
    if len(head) < len(MAGIC) + _HEADER.size:
        raise StreamError("the send stream ends in its header")
    if not head.startswith(MAGIC):
        raise StreamError("this is no send stream")
    (version,) = _HEADER.unpack_from(head, len(MAGIC))
    if not 1 <= version <= MAX_VERSION:
        raise StreamError(f"a send stream of version {version}; known are 1 to {MAX_VERSION}")
    while True:
        head = reader.take(_COMMAND.size)
        if len(head) < _COMMAND.size:
            raise StreamError("the send stream ends without its end command")
        length, number, _checksum = _COMMAND.unpack(head)
        if length > _MAX_COMMAND_BYTES:
            raise StreamError(f"a command of {length} bytes in the send stream")
        body = reader.take(length)
        if len(body) < length:
            raise StreamError("the send stream ends in a command")
        try:
            command = Command(number)
        except ValueError:
            raise StreamError(f"command {number} of the send stream is not known") from None
        if command is Command.END:
            return
        yield command, _attributes(body, version)


def _attributes(body: bytes, version: int) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at, end = 0, len(body)
    while at < end:
        if end - at < _ATTRIBUTE_TYPE.size:
            raise StreamError("an attribute of the send stream is cut")
        (kind,) = _ATTRIBUTE_TYPE.unpack_from(body, at)
        if version >= 2 and kind == Attribute.DATA:
            found[kind] = body[at + _ATTRIBUTE_TYPE.size :]
            return found
        if end - at < _ATTRIBUTE.size:
            raise StreamError("an attribute of the send stream is cut")
        _kind, length = _ATTRIBUTE.unpack_from(body, at)
        at += _ATTRIBUTE.size
        if end - at < length:
            raise StreamError("an attribute of the send stream is cut")
        found[kind] = body[at : at + length]
        at += length
    return found
