"""What an id changed, from its layers: only what was touched is looked at, however large the rest."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack

from cowstore.trees._descent import Descent
from cowstore.trees._sides import PlainSide, Side
from cowstore.trees.compare import Comparison

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cowstore.results import Change
    from cowstore.trees._links import Key

__all__ = ["Foreign", "Layers", "changes"]


class Foreign(Exception):
    """A layer holds marks that only the kernel resolves: it was mounted with other options than the driver's."""


class Layers(Side):
    """The layers that lie on a base, as one tree that has only the names they hold.

    A name that none of them holds is as in the base, but where :attr:`complete`: there the base is hidden.
    """

    def __init__(self, roots: Sequence[int], prefix: str) -> None:
        """Look at layers, the topmost first.

        :param roots: their root directories. :param prefix: of the attributes that hold overlay's marks.
        """
        self._prefix = prefix
        self._places: list[Descent] = []
        try:
            for root in roots:
                self._places.append(Descent(root))
        except BaseException:
            self.close()
            raise
        self.complete = False
        # Which layers have the directory, for each level; and whether the base is hidden there.
        self._levels: list[tuple[list[Descent], bool]] = [(list(self._places), False)]

    def names(self) -> list[str]:
        """List what the layers hold here, whiteouts included."""
        layers = self._levels[-1][0]
        if len(layers) == 1:
            return os.listdir(layers[0].fd)
        return list({name for place in layers for name in os.listdir(place.fd)})

    def find(self, name: str) -> os.stat_result | None:
        """Tell what the topmost layer has; None for a whiteout."""
        for place in self._levels[-1][0]:
            try:
                found = os.stat(name, dir_fd=place.fd, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if is_whiteout(found):
                return None
            if stat.S_ISREG(found.st_mode) and found.st_blocks * 512 < found.st_size:
                self._check(place, name, "metacopy")
            return found
        return None

    def where(self, name: str) -> int:
        """Return the directory of the topmost layer that has the name."""
        for place in self._levels[-1][0]:
            try:
                os.stat(name, dir_fd=place.fd, follow_symlinks=False)
            except FileNotFoundError:
                continue
            return place.fd
        raise _gone(name)

    def here(self) -> int:
        """Return the directory of the topmost layer."""
        return self._levels[-1][0][0].fd

    def enter(self, name: str) -> None:
        """Go down in all layers that go on with the topmost one's directory."""
        layers: list[Descent] = []
        hidden = self.complete
        try:
            for place in self._levels[-1][0]:
                try:
                    found = os.stat(name, dir_fd=place.fd, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if not stat.S_ISDIR(found.st_mode):
                    hidden = True  # whiteouts among them
                    break
                place.enter(name)
                layers.append(place)
                if self._is_opaque(place):
                    hidden = True
                    break
            if not layers:
                raise _gone(name)
        except BaseException:
            for place in layers:
                place.leave()
            raise
        self._levels.append((layers, hidden))
        self.complete = hidden

    def leave(self) -> None:
        """Go back up."""
        for place in self._levels.pop()[0]:
            place.leave()
        self.complete = self._levels[-1][1]

    def close(self) -> None:
        """Close all descriptors."""
        for place in self._places:
            place.close()

    def _is_opaque(self, place: Descent) -> bool:
        marks = [name.removeprefix(self._prefix) for name in os.listxattr(place.fd) if name.startswith(self._prefix)]
        if "redirect" in marks:
            raise Foreign("redirect")
        if "opaque" not in marks:
            return False
        value = os.getxattr(place.fd, f"{self._prefix}opaque")
        if value == b"x":  # whiteouts that are attributes
            raise Foreign("opaque")
        return value == b"y"

    def _check(self, place: Descent, name: str, mark: str) -> None:
        if f"{self._prefix}{mark}" in os.listxattr(f"/proc/self/fd/{place.fd}/{name}", follow_symlinks=False):
            raise Foreign(mark)


def _gone(name: str) -> OSError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)


def is_whiteout(found: os.stat_result) -> bool:
    """Tell whether an entry of a layer stands for a deletion."""
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def changes(layers: Sequence[str], base_fd: int, prefix: str) -> Iterator[Change]:
    """Yield what *layers*, the topmost first, change in the tree at *base_fd*.

    :param prefix: of the attributes that hold overlay's marks.
    """
    with ExitStack() as stack:
        roots = []
        for layer in layers:
            roots.append(os.open(layer, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            stack.callback(os.close, roots[-1])
        base = stack.enter_context(PlainSide(base_fd))
        upper = stack.enter_context(Layers(roots, prefix))
        yield from Comparison(base, upper, untouched=lambda keys: untouched(base_fd, roots, prefix, keys)).run()


def untouched(base_fd: int, roots: Sequence[int], prefix: str, keys: set[Key]) -> set[Key]:
    """Tell which files of the base still have a name in the merged tree that no layer holds.

    Looks through all of the base, which is asked for only where a file with several names was touched.
    """
    found: set[Key] = set()
    with PlainSide(base_fd) as base, Layers(roots, prefix) as upper:
        # The names still to look at; whether the layers go on here.
        levels = [(base.names(), True)]
        held = [set(upper.names())]
        while levels:
            names, touched = levels[-1]
            if not names:
                levels.pop()
                held.pop()
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
            if touched and name in held[-1]:
                over = upper.find(name) if is_dir else None
                if over is None or not stat.S_ISDIR(over.st_mode):
                    continue
                upper.enter(name)
                if upper.complete:
                    upper.leave()
                    continue
                base.enter(name)
                levels.append((base.names(), True))
                held.append(set(upper.names()))
            elif is_dir:
                base.enter(name)
                levels.append((base.names(), False))
                held.append(set())
            else:
                key = (False, entry.st_dev, entry.st_ino)
                if key in keys:
                    found.add(key)
    return found
