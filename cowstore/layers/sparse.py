"""Files with holes, in the four spellings of GNU tar.

Source: the GNU tar manual, "Storing Sparse Files".
"""

from __future__ import annotations

from cowstore.layers.blocks import BLOCK
from cowstore.layers.headers import number
from cowstore.layers.limits import Malformed
from cowstore.layers.pax import decimal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from cowstore.layers.blocks import Blocks
    from cowstore.layers.headers import Entry

    Map = list[tuple[int, int]]

_PAIR = 24
_PAIR_KEYWORDS = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
#: A piece takes a hundred bytes of memory, a few in an archive.
_PIECES_MAX = 65536


def old(entry: Entry, blocks: Blocks) -> None:
    """Read the map of an 'S' entry: four pieces in its header, 21 in each block that follows.

    Raises:
        Malformed: the map is impossible.
        InvalidLayer: the stream ends within it.
    """
    header = entry.header
    pieces = _pairs(header[386:482])
    more = header[482]
    while more:
        block = blocks.read(BLOCK)
        pieces += _pairs(block[:504])
        more = block[504]
        _bounded(len(pieces))
    _set(entry, pieces, number(header[483:495]))


def _pairs(area: bytes) -> Map:
    """Read (offset, length) pairs of 12-byte numbers up to the first unused one."""
    pieces = []
    for start in range(0, len(area), _PAIR):
        pair = area[start : start + _PAIR]
        if not pair[0]:
            break
        pieces.append((number(pair[:12]), number(pair[12:])))
    return pieces


def from_records(entry: Entry, found: dict[bytes, bytes], repeated: list[tuple[bytes, bytes]]) -> None:
    """Read the map that an extended header describes, where it describes one; that of form 1.0 follows in the content.

    Args:
        entry: is changed: the map, the file's length, its name where the header's is a stand-in.
        found: the entry's records, the later of two under one keyword.
        repeated: the same in order, which form 0.0 needs.

    Raises:
        Malformed: the map is impossible.
    """
    if b"GNU.sparse.name" in found:
        entry.name = found[b"GNU.sparse.name"]
    if b"GNU.sparse.major" in found:
        return
    if b"GNU.sparse.size" not in found:
        return
    if b"GNU.sparse.map" in found:
        text = found[b"GNU.sparse.map"]
        _bounded(text.count(b",") // 2)
        words = text.split(b",") if text else []
    else:
        pairs = [record for record in repeated if record[0] in _PAIR_KEYWORDS]
        if [keyword for keyword, _ in pairs] != [*_PAIR_KEYWORDS] * (len(pairs) // 2):
            raise Malformed("a sparse map whose offsets and lengths do not come in pairs")
        words = [value for _, value in pairs]
    _bounded(len(words) // 2)
    numbers = [decimal(word, "a sparse map") for word in words]
    if len(numbers) % 2:
        raise Malformed("a sparse map with half a pair")
    _set(entry, zip(numbers[::2], numbers[1::2], strict=True), decimal(found[b"GNU.sparse.size"], "GNU.sparse.size"))


def in_content(entry: Entry, found: dict[bytes, bytes], blocks: Blocks, limit: int) -> None:
    """Read the map at the head of the content (form 1.0).

    Args:
        entry: is changed: map and length, and the map is taken off its stored bytes.
        found: the entry's records.
        blocks: stands at the content.
        limit: bytes that the map may take.

    Raises:
        Malformed: the map is impossible, or longer than limit.
        InvalidLayer: the stream ends within it.
    """
    version = found[b"GNU.sparse.major"], found.get(b"GNU.sparse.minor", b"0")
    if version != (b"1", b"0"):
        raise Malformed(f"a sparse file of form {b'.'.join(version).decode('ascii', 'replace')}")
    numbers: list[int] = []
    wanted, taken, rest = 1, 0, b""
    while len(numbers) < wanted:
        if taken >= min(limit, entry.stored) or len(rest) > 20:
            raise Malformed("a sparse map that does not end")
        *lines, rest = (rest + blocks.read(BLOCK)).split(b"\n")
        taken += BLOCK
        if not numbers and lines:
            numbers.append(decimal(lines.pop(0), "the length of a sparse map"))
            _bounded(numbers[0])
            wanted = 1 + 2 * numbers[0]
        numbers += [decimal(line, "a sparse map") for line in lines[: wanted - len(numbers)]]
    entry.stored -= taken
    real = decimal(found.get(b"GNU.sparse.realsize", b""), "GNU.sparse.realsize")
    _set(entry, zip(numbers[1::2], numbers[2::2], strict=True), real)


def _bounded(pieces: int) -> None:
    """Refuse a map that would not fit in memory."""
    if pieces > _PIECES_MAX:
        raise Malformed(f"a sparse map of more than {_PIECES_MAX} pieces")


def _set(entry: Entry, pieces: Iterable[tuple[int, int]], size: int) -> None:
    """Check a map against the file's length and the stored bytes, and give it to the entry."""
    if size >= 1 << 63:
        raise Malformed(f"a sparse file of {size} bytes")
    reached = stored = 0
    kept = []
    for offset, length in pieces:
        if offset < reached or length < 0 or offset + length > size:
            raise Malformed(f"a sparse map with a piece of {length} bytes at {offset}, in a file of {size}")
        reached = offset + length
        stored += length
        if length:
            kept.append((offset, length))
    if stored != entry.stored:
        raise Malformed(f"a sparse map of {stored} bytes for {entry.stored} bytes of content")
    entry.sparse = kept
    entry.size = size
