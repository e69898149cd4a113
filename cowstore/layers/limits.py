"""How much a layer may ask for, and the error that refuses one."""

from __future__ import annotations

import os
from dataclasses import dataclass

from cowstore.errors import InvalidLayer


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a layer may ask for at most; one that asks for more is an `InvalidLayer`.

    The defaults are far above any layer seen in the field and far below what hurts: reading within them takes less than
    64 MiB of memory, whatever the archive.

    :ivar entries: headers of any kind in the archive. Eight to sixteen bytes of memory go with each one applied over a
        tree that was not empty.
    :ivar header_bytes: bytes of one extended header, long name or sparse map.
    :ivar name_bytes: bytes of a name or link target; the kernel takes no path of more than 4095.
    :ivar total_bytes: bytes of file content in the whole archive, holes not counted.
    :ivar expansion: how many times longer the uncompressed stream may be than the compressed one ...
    :ivar expansion_free_bytes: ... once it is longer than this. deflate cannot exceed 1032, so the default only ever
        stops zstd, bzip2 and xz.
    """

    entries: int = 2_000_000
    header_bytes: int = 1 << 20
    name_bytes: int = 4095
    total_bytes: int = 1 << 40
    expansion: int = 2000
    expansion_free_bytes: int = 1 << 30


class Malformed(Exception):
    """What a parser finds wrong; whoever knows the entry and its place makes an `InvalidLayer` of it."""


def invalid(what: str, name: bytes = b"", offset: int = -1) -> InvalidLayer:
    """Build the error that refuses an archive.

    Args:
        what: what is wrong, as the end of a sentence.
        name: the entry's name, empty where it is not known.
        offset: of the entry's header in the uncompressed archive, in bytes; -1 where it is not known.
    """
    entry = os.fsdecode(name)
    where = ", ".join(
        part for part in (repr(entry) if entry else "", f"at byte {offset}" if offset >= 0 else "") if part
    )
    message = f"layer refused: {where}: {what}" if where else f"layer refused: {what}"
    return InvalidLayer(message, entry=entry, offset=offset)
