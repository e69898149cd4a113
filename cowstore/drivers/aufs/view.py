"""The format of AUFS' branches, read without the kernel: what a stack of them shows.

In a branch an empty regular file ``.wh.NAME`` hides NAME in the branches below, and ``.wh..wh..opq`` in a directory all
of that directory below. They are hard links of one file, ``.wh..wh.aufs`` at the branch's root, which says nothing.
Everything else that begins with ``.wh..wh.`` is AUFS' own bookkeeping.

Source: aufs.5; measured.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from cowstore.trees._descent import Descent
from cowstore.trees._sides import Side

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cowstore.trees._links import Key

WHITEOUT = ".wh."
OWN = ".wh..wh."
OPAQUE = ".wh..wh..opq"
BASE = ".wh..wh.aufs"
ORPHANS = ".wh..wh.orph"
PSEUDO_LINKS = ".wh..wh.plnk"
BOOKKEEPING = (BASE, ORPHANS, PSEUDO_LINKS)
"""What every branch that was mounted writable has at its root."""


def visible(entry: str) -> str | None:
    """Return the name that an entry of a branch is about, itself or hidden by it; None for bookkeeping."""
    if entry.startswith(OWN):
        return None
    # A bare ".wh." is an ordinary name.
    return entry.removeprefix(WHITEOUT) or entry


class _Place:
    """One branch at one level: the way into it, and what is listed there."""

    __slots__ = ("entries", "way")

    def __init__(self, way: Descent) -> None:
        self.way = way
        self.entries = frozenset(os.listdir(way.fd))

    def hides(self, name: str) -> bool:
        """Tell whether *name* of the branches below is hidden here.

        :raises OSError: EIO, what hides it is no regular file; the kernel says the same.
        """
        mark = WHITEOUT + name
        if mark not in self.entries:
            return False
        try:
            mode = os.stat(mark, dir_fd=self.way.fd, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return False
        if not stat.S_ISREG(mode):
            error = OSError(errno.EIO, os.strerror(errno.EIO), mark)
            error.add_note("an AUFS whiteout must be a regular file: somebody made this by hand")
            raise error
        return True

    def has(self, name: str) -> bool:
        """Tell whether *name* is in this branch and can be seen."""
        return name in self.entries and (not name.startswith(WHITEOUT) or name == WHITEOUT)


class Branches(Side):
    """A stack of branches as one tree.

    With *partial* it has only the names that these branches hold, as what lies on another stack; it is
    :attr:`complete` where that is hidden.
    """

    def __init__(self, roots: Sequence[int], *, partial: bool) -> None:
        """Look at branches, the topmost first.

        :param roots: their root directories, which stay the caller's.
        """
        self._ways: list[Descent] = []
        try:
            for root in roots:
                self._ways.append(Descent(root))
            places = [_Place(way) for way in self._ways]
        except BaseException:
            self.close()
            raise
        self.complete = not partial
        self._levels: list[tuple[list[_Place], bool]] = [(places, self.complete)]

    def names(self) -> list[str]:
        """List what the branches hold here, hidden names included."""
        found: set[str] = set()
        for place in self._levels[-1][0]:
            found.update(name for entry in place.entries if (name := visible(entry)) is not None)
        return list(found)

    def find(self, name: str) -> os.stat_result | None:
        """Tell what the topmost branch has; None for what is hidden or nowhere."""
        for place in self._levels[-1][0]:
            if place.hides(name):
                return None
            if place.has(name):
                with suppress(FileNotFoundError):
                    return os.stat(name, dir_fd=place.way.fd, follow_symlinks=False)
        return None

    def where(self, name: str) -> int:
        """Return the directory of the topmost branch that has the name."""
        for place in self._levels[-1][0]:
            if place.has(name):
                return place.way.fd
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)

    def here(self) -> int:
        """Return the directory of the topmost branch: its owner and mode are those of the tree."""
        return self._levels[-1][0][0].way.fd

    def enter(self, name: str) -> None:
        """Go down in all branches that go on with the topmost one's directory."""
        places: list[_Place] = []
        hidden = self.complete
        try:
            for place in self._levels[-1][0]:
                if place.hides(name):
                    hidden = True
                    break
                if not place.has(name):
                    continue
                found = os.stat(name, dir_fd=place.way.fd, follow_symlinks=False)
                if not stat.S_ISDIR(found.st_mode):
                    hidden = True
                    break
                place.way.enter(name)
                inner = _Place.__new__(_Place)
                inner.way, inner.entries = place.way, frozenset()
                places.append(inner)
                inner.entries = frozenset(os.listdir(place.way.fd))
                if OPAQUE in inner.entries:
                    hidden = True
                    break
            if not places:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        except BaseException:
            for place in places:
                place.way.leave()
            raise
        self._levels.append((places, hidden))
        self.complete = hidden

    def leave(self) -> None:
        """Go back up."""
        for place in self._levels.pop()[0]:
            place.way.leave()
        self.complete = self._levels[-1][1]

    def close(self) -> None:
        """Close all descriptors."""
        for way in self._ways:
            way.close()


def untouched(base: Side, upper: Branches, keys: set[Key]) -> set[Key]:
    """Tell which of the files *keys* of the tree *base* still have a name that no branch of *upper* holds.

    Looks through all of the base, which is asked for only where a file with several names was touched.

    :param base: at its root. :param upper: partial, at its root.
    """
    found: set[Key] = set()
    levels = [(base.names(), frozenset(upper.names()), True)]
    while levels:
        names, held, touched = levels[-1]
        if not names:
            levels.pop()
            if levels:
                base.leave()
                if touched:
                    upper.leave()
            continue
        name = names.pop()
        entry = base.find(name)
        if entry is None:
            continue
        is_dir = stat.S_ISDIR(entry.st_mode)
        if touched and name in held:
            if is_dir and _goes_on(upper, name):
                base.enter(name)
                levels.append((base.names(), frozenset(upper.names()), True))
        elif is_dir:
            base.enter(name)
            levels.append((base.names(), frozenset(), False))
        elif (False, entry.st_dev, entry.st_ino) in keys:
            found.add((False, entry.st_dev, entry.st_ino))
    return found


def _goes_on(upper: Branches, name: str) -> bool:
    """Go into a directory of *upper* if what lies below it is still seen."""
    over = upper.find(name)
    if over is None or not stat.S_ISDIR(over.st_mode):
        return False
    upper.enter(name)
    if upper.complete:
        upper.leave()
        return False
    return True


def clear(fd: int, remove_tree: Callable[[int, str], None]) -> None:
    """Take AUFS' bookkeeping out of the root of a branch that is not mounted; its whiteouts stay."""
    for name in BOOKKEEPING:
        remove_tree(fd, name)
