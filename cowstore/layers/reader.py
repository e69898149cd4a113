"""Reading tar archives as a stream, in bounded memory.

Understood are v7, ustar, star, GNU and PAX, told apart header by header. What follows the end of the archive is read to
its last byte, since a layer's digest covers it.
"""

from __future__ import annotations

from cowstore.layers import headers, pax, sparse
from cowstore.layers.blocks import BLOCK, ZERO_BLOCK, Blocks, padded
from cowstore.layers.headers import Entry, Kind
from cowstore.layers.limits import Limits, Malformed, invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cowstore.layers.blocks import Source

_LONG_NAME, _LONG_LINK = ord("L"), ord("K")
_LOCAL = frozenset(b"xX")  # X is the spelling of old Solaris
_GLOBAL = ord("g")
_LABEL = ord("V")
_OLD_SPARSE = ord("S")
#: The number after this one, -1 to chown(2), means "leave it".
_ID_MAX = 0xFFFF_FFFE
_TIME_MAX_NS = (1 << 63) * 1_000_000_000


class _Pending:
    """What the headers about the next entry have said."""

    __slots__ = ("link", "name", "offset", "records", "repeated")

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.name: bytes | None = None
        self.link: bytes | None = None
        self.records: dict[bytes, bytes] = {}
        self.repeated: list[tuple[bytes, bytes]] = []


class TarReader:
    """The entries of an archive, one after the other; the content of each is to be had until the next is asked for.

    Args:
        source: gives the uncompressed bytes; it stays the caller's.
        limits: what the archive may ask for.

    Raises (from `next` and all that reads content):
        InvalidLayer: the archive is truncated, malformed or above a limit.
        OSError: the source's own.
    """

    __slots__ = ("_blocks", "_global", "_headers", "_left", "_limits", "_padding", "_total")

    def __init__(self, source: Source, limits: Limits = Limits()) -> None:  # noqa: B008  (a frozen value)
        self._blocks = Blocks(source)
        self._limits = limits
        self._global: dict[bytes, bytes] = {}
        self._headers = 0
        self._total = 0
        self._left = 0
        self._padding = 0

    def __iter__(self) -> Iterator[Entry]:
        while True:
            entry = self.next()
            if entry is None:
                return
            yield entry

    @property
    def content_offset(self) -> int:
        """Where the content of the entry just returned begins, in bytes of the archive."""
        return self._blocks.offset

    def next(self) -> Entry | None:
        """Return the next entry, passing over what is left of this one; None at the end, when all bytes are read."""
        blocks = self._blocks
        if self._left or self._padding:
            blocks.skip(self._left + self._padding)
            self._left = self._padding = 0
        try:
            entry = self._next()
        except Malformed as error:
            raise invalid(str(error), blocks.name, blocks.start) from None
        if entry is not None:
            self._left = entry.stored
            self._padding = -entry.stored % BLOCK
        return entry

    def _next(self) -> Entry | None:
        """Read headers up to that of an entry, and let those before it overrule it."""
        blocks = self._blocks
        pending: _Pending | None = None
        while True:
            offset = blocks.offset
            blocks.start, blocks.name = offset, b""
            block = blocks.header()
            if block is None or block == ZERO_BLOCK:
                self._end(block, pending)
                return None
            self._headers += 1
            if self._headers > self._limits.entries:
                raise Malformed(f"the archive has more than {self._limits.entries} headers")
            if block[156] in _LOCAL:
                # Some archives have one before every entry, so it is not worth an entry of its own.
                blocks.name = headers.text(block[:100])
                pending = pending or _Pending(offset)
                pending.repeated = pax.records(self._content(headers.content_size(block, offset)))
                pending.records.update(pending.repeated)
                continue
            entry = headers.parse(block, offset)
            blocks.name = entry.name
            if entry.kind is not None:
                break
            pending = self._about_next(entry, pending or _Pending(offset))
        if pending is not None or self._global:
            self._overrule(entry, pending or _Pending(offset))
            self._check(entry)
        elif not entry.plain or len(entry.name) > self._limits.name_bytes:
            self._check(entry)
        if entry.flag == _OLD_SPARSE:
            sparse.old(entry, blocks)
        if entry.name[-1:] == b"/" and entry.kind is Kind.FILE:
            # Archives older than the type flag, and writers that kept the habit.
            if entry.size:
                raise Malformed("a directory's name, but the content of a file")
            entry.kind = Kind.DIRECTORY
        self._total += entry.stored
        if self._total > self._limits.total_bytes:
            limit = self._limits.total_bytes
            raise Malformed(f"the content up to here is {self._total} bytes, where {limit} are allowed")
        return entry

    def copy_to(self, fd: int, size: int) -> None:
        """Write the next size bytes of the entry's stored content to a file descriptor, at its position."""
        self._left -= size
        self._blocks.copy(fd, size)

    def read(self, size: int) -> bytes:
        """Return up to size bytes of the entry's stored content; b"" at its end."""
        part = bytes(self._blocks.some(min(size, self._left))) if self._left and size else b""
        self._left -= len(part)
        return part

    def _about_next(self, entry: Entry, pending: _Pending) -> _Pending:
        """Take in a header that is not an entry of its own."""
        flag = entry.flag
        if flag == _LONG_NAME:
            pending.name = headers.text(self._content(entry.stored))
        elif flag == _LONG_LINK:
            pending.link = headers.text(self._content(entry.stored))
        elif flag == _GLOBAL:
            self._merge_global(pax.records(self._content(entry.stored)))
        elif flag == _LABEL:
            self._blocks.skip(padded(entry.stored))
        else:
            raise Malformed(f"its type {chr(flag)!r} is not one that a layer can have")
        return pending

    def _content(self, size: int) -> bytes:
        """Read the whole content of a header that is about others."""
        limit = self._limits.header_bytes
        if size > limit:
            raise Malformed(f"an extended header of {size} bytes, where {limit} are allowed")
        return self._blocks.read(padded(size))[:size]

    def _merge_global(self, found: list[tuple[bytes, bytes]]) -> None:
        """Take in defaults for all entries that follow; an empty value takes one back."""
        pax.check_global(found)
        for keyword, value in found:
            if value:
                self._global[keyword] = value
            else:
                self._global.pop(keyword, None)
        limit = self._limits.header_bytes
        if sum(len(keyword) + len(value) for keyword, value in self._global.items()) > limit:
            raise Malformed(f"global headers of more than {limit} bytes")

    def _overrule(self, entry: Entry, pending: _Pending) -> None:
        """Put what the headers before an entry said of it in the place of its own fields."""
        found = {**self._global, **pending.records} if self._global else pending.records
        if found:
            pax.apply(entry, found)
            if entry.kind is Kind.FILE:
                sparse.from_records(entry, found, pending.repeated)
            elif entry.flag not in headers.WITH_CONTENT:
                entry.stored = entry.size = 0
        if pending.name is not None:
            if found.get(b"path", pending.name) != pending.name:
                raise Malformed(f"it has two names, {entry.name!r} and {pending.name!r}")
            entry.name = pending.name
        if pending.link is not None:
            if found.get(b"linkpath", pending.link) != pending.link:
                raise Malformed(f"it has two link targets, {entry.link!r} and {pending.link!r}")
            entry.link = pending.link
        self._blocks.name = entry.name
        if b"GNU.sparse.major" in found and entry.kind is Kind.FILE:
            sparse.in_content(entry, found, self._blocks, self._limits.header_bytes)

    def _check(self, entry: Entry) -> None:
        """Look at what a plain header has no room to get wrong."""
        name, limit = entry.name, self._limits.name_bytes
        if len(name) > limit or len(entry.link) > limit:
            self._blocks.name = name[:80]
            raise Malformed(f"a name of more than {limit} bytes")
        if b"\0" in name or b"\0" in entry.link:
            raise Malformed("a name with a NUL")
        if not (0 <= entry.uid <= _ID_MAX and 0 <= entry.gid <= _ID_MAX):
            raise Malformed(f"its owner is {entry.uid}:{entry.gid}, which Linux cannot have")
        if not -_TIME_MAX_NS < entry.mtime_ns < _TIME_MAX_NS:
            raise Malformed("its mtime is beyond the kernel's clock")

    def _end(self, block: bytes | None, pending: _Pending | None) -> None:
        """Read what follows the last entry: nothing, or zeros only."""
        blocks = self._blocks
        if pending is not None and (pending.records or pending.name is not None or pending.link is not None):
            blocks.start = pending.offset
            raise Malformed("the archive ends behind a header about the next entry: it is truncated")
        if block is not None and not blocks.only_zeros_left():
            raise Malformed(
                "something follows the zeros that end the archive: it is damaged, or two archives stand one behind the"
                " other (`tar --concatenate` joins such)"
            )
