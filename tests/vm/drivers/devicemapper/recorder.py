"""A disk whose every write is recorded, so that a power cut at any moment can be played back.

The kernel's target ``log-writes`` writes down what reaches the disk, and in which order, with a barrier where the disk
was told to flush. What a cut leaves is all that came before some barrier, and of what came after it any part at all.

Source: the kernel's Documentation/admin-guide/device-mapper/log-writes.rst.
"""

from __future__ import annotations

import os
import struct
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cowstore._linux import dm, loop

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Iterator
    from pathlib import Path

SECTOR = 512
_SUPER = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")
_MAGIC = 0x6A736677736872
_FLUSH, _FUA, _DISCARD, _MARK = 1, 2, 4, 8


@dataclass(frozen=True, slots=True)
class Write:
    """One thing that reached the disk; place and length in bytes, None for data that were discarded."""

    place: int
    length: int
    data: bytes | None
    forced: bool


@dataclass(frozen=True, slots=True)
class Cut:
    """What is on the disk when the power goes: all of *before*, and perhaps some of *after*.

    :ivar said: what the script had written down by then (see :meth:`Recorder.mark`).
    """

    number: int
    before: tuple[Write, ...]
    after: tuple[Write, ...]
    said: frozenset[str]


class Recorder:
    """A disk of *size* bytes in a file, and the record of it in another."""

    def __init__(self, directory: Path, size: int) -> None:
        self.disk, self._log = directory / "disk", directory / "log"
        self._name = f"recorder-{directory.name}"
        for path, bytes_ in ((self.disk, size), (self._log, 4 * size)):
            path.touch()
            os.truncate(path, bytes_)
        self._size = size

    @contextmanager
    def recording(self) -> Iterator[str]:
        """Give the node of the recorded device."""
        with (
            attached(self.disk) as disk,
            attached(self._log) as log,
            mapped(
                self._name, [dm.Target(0, self._size // SECTOR, "log-writes", f"{number(disk)} {number(log)}")]
            ) as info,
        ):
            yield node(info)

    def mark(self, text: str) -> None:
        """Write something down between what reached the disk before and what does after."""
        with dm.open_control() as control:
            dm.target_msg(control, self._name, f"mark {text}")

    def cuts(self) -> Iterator[Cut]:
        """Iterate over the moments at which the disk was told to flush, and something had been written since."""
        pending: list[Write] = []
        before: tuple[Write, ...] = ()
        said: set[str] = set()
        heard = frozenset[str]()
        count = 0
        for flags, what in self._entries():
            if isinstance(what, str):
                said.add(what)
                continue
            if flags & _FLUSH and pending:
                if count:
                    yield Cut(count, before, tuple(pending), heard)
                count, before, pending, heard = count + 1, tuple(pending), [], frozenset(said)
            if what is not None:
                pending.append(what)
        yield Cut(count, before, tuple(pending), heard)

    def _entries(self) -> Iterator[tuple[int, Write | str | None]]:
        with open(self._log, "rb") as log:
            magic, version, count, sector = _SUPER.unpack_from(log.read(SECTOR))
            assert (magic, version, sector) == (_MAGIC, 1, SECTOR)
            for _ in range(count):
                head = log.read(SECTOR)
                place, length, flags, data_length = _ENTRY.unpack_from(head)
                if flags & _MARK:
                    yield flags, head[_ENTRY.size : _ENTRY.size + data_length].decode()
                    continue
                data = None if flags & _DISCARD else log.read(length * SECTOR)
                what = Write(place * SECTOR, length * SECTOR, data, bool(flags & _FUA)) if length else None
                yield flags, what


def replay(path: Path, writes: Iterable[Write]) -> None:
    """Do again what was recorded, on another disk."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        for write in writes:
            os.pwrite(fd, bytes(write.length) if write.data is None else write.data, write.place)
    finally:
        os.close(fd)


def copy_sparse(source: Path, target: Path) -> None:
    """Copy a file, but for its holes."""
    with open(source, "rb") as old, open(target, "wb") as new:
        size = os.fstat(old.fileno()).st_size
        new.truncate(size)
        place = 0
        while place < size:
            try:
                place = os.lseek(old.fileno(), place, os.SEEK_DATA)
            except OSError:
                return  # Nothing but a hole.
            end = os.lseek(old.fileno(), place, os.SEEK_HOLE)
            os.lseek(new.fileno(), place, os.SEEK_SET)
            while place < end:
                place += os.sendfile(new.fileno(), old.fileno(), place, end - place)


def torn(cut: Cut, chance: random.Random) -> list[Write]:
    """Choose what else reached the disk before the cut: of what was not flushed any part, in any order.

    A write that is forced (FUA) has reached it before anything that waited for it was sent.
    """
    reached = cut.after[: chance.randrange(len(cut.after) + 1)]
    return [write for write in reached if write.forced or chance.random() < 0.5]


def node(info: dm.Info) -> str:
    return f"/dev/dm-{os.minor(info.dev)}"


def number(path: str) -> str:
    dev = os.stat(path).st_rdev
    return f"{os.major(dev)}:{os.minor(dev)}"


@contextmanager
def attached(path: Path) -> Iterator[str]:
    """A file as a block device."""
    with open(path, "r+b") as file, loop.attach(file, direct_io=False) as device:
        yield device.node


@contextmanager
def mapped(name: str, targets: list[dm.Target]) -> Iterator[dm.Info]:
    """A device-mapper device of that name and table."""
    with dm.open_control() as control:
        dm.dev_create(control, name)
        try:
            dm.table_load(control, name, targets)
            yield dm.dev_resume(control, name)
        finally:
            dm.dev_remove(control, name)
