"""Opaque directories over opaque directories, which AUFS misreads: of several marks below one name the lowest counts.

When AUFS looks up a directory it does not stop at the first branch that marks it opaque. So where a directory was made
anew in two layers, the upper one shows what the lower one holds too, from the next mount on. Therefore a branch that is
not mounted is put in order before others are stacked on it: where a directory of it and one below are both marked, the
upper mark is spread: each name that would show through gets a whiteout of its own, and each directory that would be
joined a mark, as far down as that takes. It means the same to every reader of the format.

Source: ``au_lkup_dentry`` (aufs 20240701); measured.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack, suppress

from cowstore.drivers.aufs.view import BASE, OPAQUE, OWN, WHITEOUT
from cowstore.trees._descent import Descent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class _Below:
    """One ancestor's branch, in a directory of that name: the way to it, and what is listed there."""

    __slots__ = ("names", "way")

    def __init__(self, way: Descent) -> None:
        self.way = way
        self.names = frozenset(os.listdir(way.fd))


def has_marks(branch_fd: int) -> bool:
    """Tell whether any directory of a branch is marked opaque."""
    with Descent(branch_fd) as place:
        waiting = [_directories(place.fd, os.listdir(place.fd))]
        while waiting:
            if waiting[-1]:
                place.enter(waiting[-1].pop())
                names = os.listdir(place.fd)
                if OPAQUE in names:
                    return True
                waiting.append(_directories(place.fd, names))
                continue
            waiting.pop()
            if waiting:
                place.leave()
    return False


def spread(branch_fd: int, ancestors: Sequence[Callable[[], int]]) -> int:
    """Put a branch in order, over the branches of its ancestors, which are; returns how many marks were spread.

    :param branch_fd: root of the branch, which is not mounted.
    :param ancestors: openers of their roots, the nearest first; asked only if there is any mark.
    """
    if not ancestors or not has_marks(branch_fd):
        return 0
    with ExitStack() as stack:
        below = []
        for opener in ancestors:
            root = opener()
            stack.callback(os.close, root)
            below.append(_Below(stack.enter_context(Descent(root))))
        place = stack.enter_context(Descent(branch_fd))
        return _spread(place, below, branch_fd)


def _spread(place: Descent, below: list[_Below], branch_fd: int) -> int:
    """Do one directory and those in it; every way is back where it was afterwards."""
    names = os.listdir(place.fd)
    if place.depth and OPAQUE in names:
        if not any(OPAQUE in one.names for one in below):
            # The only mark: all that is below is hidden, and what is in it need not be looked at.
            return 0
        _whiten(place.fd, names, below, branch_fd)
        count = 1
    else:
        count = 0
    reach = _reach(below)
    for name in _directories(place.fd, names):
        inner = _enter(reach, name)
        try:
            if inner:
                place.enter(name)
                try:
                    count += _spread(place, inner, branch_fd)
                finally:
                    place.leave()
        finally:
            for one in inner:
                one.way.leave()
    return count


def _reach(below: list[_Below]) -> list[_Below]:
    """Return the branches that AUFS looks into for what is in a directory: down to the lowest mark."""
    marked = [number for number, one in enumerate(below) if OPAQUE in one.names]
    return below[: marked[-1] + 1] if marked else below


def _enter(below: list[_Below], name: str) -> list[_Below]:
    """Go into the directories of that name that AUFS would join; a whiteout ends them, another type does not."""
    found: list[_Below] = []
    try:
        for one in below:
            if WHITEOUT + name in one.names:
                break
            if name in one.names and _is_directory(one.way.fd, name):
                one.way.enter(name)
                try:
                    found.append(_Below(one.way))
                except BaseException:
                    one.way.leave()
                    raise
    except BaseException:
        for one in found:
            one.way.leave()
        raise
    return found


def _whiten(fd: int, names: Sequence[str], below: list[_Below], branch_fd: int) -> None:
    """Take the mark of one directory, hiding by itself each thing that it hid; whatever is left half-way hides more."""
    before = os.fstat(fd)
    own = frozenset(names)
    for name in sorted(_shown(_reach(below))):
        if name not in own:
            _hide(branch_fd, fd, WHITEOUT + name)
        elif _is_directory(fd, name):
            _mark(branch_fd, fd, name)
    os.unlink(OPAQUE, dir_fd=fd)
    os.utime(fd, ns=(before.st_atime_ns, before.st_mtime_ns))


def _shown(below: list[_Below]) -> set[str]:
    """Return the names that AUFS would find in these directories, each until a whiteout ends the search for it."""
    found: set[str] = set()
    ended: set[str] = set()
    for one in below:
        found.update(name for name in one.names - ended if not name.startswith(WHITEOUT))
        ended.update(name.removeprefix(WHITEOUT) for name in one.names if name.startswith(WHITEOUT))
    return found


def _mark(branch_fd: int, fd: int, name: str) -> None:
    """Make the directory *name* opaque; its times stay."""
    inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    try:
        before = os.fstat(inner)
        _hide(branch_fd, inner, OPAQUE)
        os.utime(inner, ns=(before.st_atime_ns, before.st_mtime_ns))
    finally:
        os.close(inner)


def _hide(branch_fd: int, fd: int, mark: str) -> None:
    """Make a mark as AUFS does: a name of the one empty file, or a file of its own where that is not there."""
    with suppress(FileExistsError):
        try:
            os.link(BASE, mark, src_dir_fd=branch_fd, dst_dir_fd=fd, follow_symlinks=False)
        except FileExistsError:
            raise
        except OSError:
            os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444, dir_fd=fd))


def _directories(fd: int, names: Sequence[str]) -> list[str]:
    return [name for name in names if not name.startswith(OWN) and _is_directory(fd, name)]


def _is_directory(fd: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False
