"""Comparing two directory trees completely: types, permissions, owners, times, links, extended attributes, content."""

from __future__ import annotations

import errno
import heapq
import os
import stat

from cowstore.results import ChangeKind
from cowstore.trees._links import Links
from cowstore.trees._same import same_attributes, same_file, xattrs
from cowstore.trees._sides import PlainSide, Side
from cowstore.trees._slots import Answers, Slot
from cowstore.trees._whole import everything, is_unlike_an_empty_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from cowstore.results import Change
    from cowstore.trees._links import Key

__all__ = ["Comparison", "compare"]


def compare(
    lower_fd: int | None,
    upper_fd: int,
    *,
    unchanged_after_ns: int | None = None,
    unchanged_before_ns: int | None = None,
) -> Iterator[Change]:
    """Yield what differs in the tree at *upper_fd* from that at *lower_fd*, sorted by the bytes of the path.

    Directories that hold a change are themselves modified; the root (path ``"."``) only if
    its mode, owner or extended attributes differ.
    A rename is a deletion and an addition. Another type is a modification: with a directory that gives way to a file go
    its children without being named; of a deleted directory only the topmost is named. Of the names of one file all are
    changed if one is, so that none is split from the others. Other file systems mounted inside are not entered.

    Content is compared where sizes and times agree: times can be set.

    :param lower_fd: directory descriptor, O_PATH ones among them; None for the empty tree, whose root has mode 0755 and
        the caller's effective ids.
    :param upper_fd: directory descriptor.
    :param unchanged_after_ns: with *unchanged_before_ns*: a file of the upper tree whose change time lies between the
        two (nanoseconds since 1970, the second excluded) was not written to since it was made as a copy of the lower
        one, and its content need not be compared.
    :param unchanged_before_ns: see above.
    :raises OSError: as open(2), read(2), getdents(2), getxattr(2). What vanishes meanwhile is not there.
    """
    from contextlib import ExitStack

    if lower_fd is None:
        yield from everything(upper_fd)
        return
    with ExitStack() as stack:
        lower = stack.enter_context(PlainSide(lower_fd))
        upper = stack.enter_context(PlainSide(upper_fd))
        comparison = Comparison(lower, upper)
        if unchanged_before_ns is not None:
            comparison.unchanged = (unchanged_after_ns or 0, unchanged_before_ns)
        yield from comparison.run()


class _Level:
    """A directory being compared."""

    __slots__ = ("below", "in_lower", "names", "prefix", "slot")

    def __init__(self, prefix: str, names: list[bytes], slot: Slot | None, *, in_lower: bool) -> None:
        self.prefix = prefix
        self.names = names
        self.slot = slot
        self.in_lower = in_lower
        # What lies below "a" comes after "a-b" and before "a0": directories wait for their turn.
        self.below: list[tuple[bytes, Slot, bool]] = []


class Comparison:
    """Two sides walked in step, without recursion."""

    def __init__(
        self, lower: Side | None, upper: Side, *, untouched: Callable[[set[Key]], Iterable[Key]] | None = None
    ) -> None:
        """Compare *upper* with *lower*, or with nothing.

        :param untouched: see :class:`~cowstore.trees._links.Links`; needed where the upper side is not complete.
        """
        self._lower = lower
        self._upper = upper
        self._links = Links(untouched)
        self._answers = Answers()
        self.unchanged = (0, 0)

    def run(self) -> Iterator[Change]:
        """Yield the changes."""
        levels = [self._level("", None, in_lower=self._lower is not None)]
        levels[0].names.insert(_place_of_root(levels[0].names), b".")
        answers = self._answers
        while levels:
            level = levels[-1]
            if level.below and (not level.names or level.below[0][0] < level.names[-1]):
                entered = self._descend(level)
                if entered is not None:
                    levels.append(entered)
            elif level.names:
                self._entry(level, os.fsdecode(level.names.pop()))
            else:
                levels.pop()
                if levels:
                    self._upper.leave()
                    if level.in_lower:
                        assert self._lower is not None
                        self._lower.leave()
                    if level.slot is not None:
                        level.slot.close()
            if answers.is_ready():
                yield from answers.ready()
        self._links.settle()
        yield from answers.ready()

    def _level(self, prefix: str, slot: Slot | None, *, in_lower: bool) -> _Level:
        """List the directory both sides are in."""
        # The next one is the last.
        names = sorted(map(os.fsencode, self.names(in_lower=in_lower)), reverse=True)
        return _Level(prefix, names, slot, in_lower=in_lower)

    def names(self, *, in_lower: bool) -> set[str]:
        """List the names to be compared in the directory both sides are in; one left out is the same on both."""
        names = set(self._upper.names())
        if in_lower and self._upper.complete:
            assert self._lower is not None
            names.update(self._lower.names())
        return names

    def _descend(self, level: _Level) -> _Level | None:
        """Go into the next directory below; None where it is not to be entered."""
        key, slot, in_lower = heapq.heappop(level.below)
        name = os.fsdecode(key[:-1])
        try:
            self._upper.enter(name)
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.EXDEV}:
                raise
            slot.close()
            return None
        if in_lower:
            assert self._lower is not None
            try:
                self._lower.enter(name)
            except OSError as error:
                self._upper.leave()
                if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.EXDEV}:
                    raise
                slot.close()
                return None
        return self._level(f"{level.prefix}{name}/", slot, in_lower=in_lower)

    def _entry(self, level: _Level, name: str) -> None:
        """Compare one entry."""
        if name == ".":
            self._root()
            return
        lower = self._lower.find(name) if level.in_lower and self._lower is not None else None
        upper = self._upper.find(name)
        path = level.prefix + name
        if upper is None:
            if lower is not None:
                self._tell(path, level, ChangeKind.DELETED, lower, None)
            return
        if lower is None:
            slot = self._tell(path, level, ChangeKind.ADDED, None, upper)
            if stat.S_ISDIR(upper.st_mode):
                self._enter_later(level, name, slot, in_lower=False)
            return
        is_dir = stat.S_ISDIR(upper.st_mode)
        if self._same(name, lower, upper):
            if not is_dir and lower.st_nlink == 1 and upper.st_nlink == 1:
                return
            slot = Slot(path, level.slot)
            self._answers.add(slot)
            if not is_dir:
                self._links.undecided(lower, upper, slot)
                return
        else:
            slot = Slot(path, level.slot)
            slot.tell()
            self._answers.add(slot)
            self._links.told(lower, upper)
        if is_dir:
            self._enter_later(level, name, slot, in_lower=stat.S_ISDIR(lower.st_mode))

    def _enter_later(self, level: _Level, name: str, slot: Slot, *, in_lower: bool) -> None:
        heapq.heappush(level.below, (os.fsencode(name) + b"/", slot, in_lower))

    def _tell(
        self, path: str, level: _Level, kind: ChangeKind, lower: os.stat_result | None, upper: os.stat_result | None
    ) -> Slot:
        slot = Slot(path, level.slot, kind)
        self._answers.add(slot)
        if level.slot is not None:
            level.slot.tell()
        if self._lower is not None:  # otherwise nothing is unchanged, and nothing hangs on it
            self._links.told(lower, upper)
        return slot

    def _same(self, name: str, lower: os.stat_result, upper: os.stat_result) -> bool:
        if not same_attributes(lower, upper):
            return False
        if lower.st_ino == upper.st_ino and lower.st_dev == upper.st_dev:
            return True
        after, before = self.unchanged
        if after <= upper.st_ctime_ns < before:
            return True
        assert self._lower is not None
        try:
            return same_file(self._lower.where(name), self._upper.where(name), name, upper.st_mode)
        except FileNotFoundError:
            return False

    def _root(self) -> None:
        """Compare the two roots, but for their times: every file made in one changes those, and no layer keeps them."""
        upper = self._upper.here()
        found = os.fstat(upper)
        here = (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)
        if self._lower is not None:
            lower = self._lower.here()
            found = os.fstat(lower)
            there = (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)
            same = here == there and xattrs(lower, ".") == xattrs(upper, ".")
        else:
            same = not is_unlike_an_empty_root(upper)
        if not same:
            self._answers.add(Slot(".", None, ChangeKind.MODIFIED))


def _place_of_root(names: list[bytes]) -> int:
    """Find where ``.`` belongs in a list sorted backwards."""
    return sum(name > b"." for name in names)
