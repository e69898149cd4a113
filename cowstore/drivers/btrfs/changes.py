"""What differs between two subvolumes, in the time of the difference.

The kernel's send stream says which paths may differ (:mod:`~cowstore.drivers.btrfs.touched`); these alone are then
compared by the same comparison that all drivers share, which drops what the stream says too much and knows the rules
for directories, links and types.
"""

from __future__ import annotations

import os
from contextlib import ExitStack, closing

from cowstore._linux import btrfs
from cowstore.drivers.btrfs import questions, subvolumes
from cowstore.drivers.btrfs.links import Names, close_over_links
from cowstore.drivers.btrfs.looking import Tree
from cowstore.drivers.btrfs.moment import moment
from cowstore.drivers.btrfs.sending import difference
from cowstore.drivers.btrfs.sendstream import StreamError
from cowstore.drivers.btrfs.touched import Touched, outermost
from cowstore.trees._sides import PlainSide, Side
from cowstore.trees.compare import Comparison

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cowstore.results import Change

MAX_NODES = 100_000
"""Beyond this many names in the stream the whole trees are compared: that takes no more time then, and no memory."""

# Names to look at, by directory; None stands for everything below.
Wanted = dict[str, "Wanted | None"]


class NotTold(Exception):
    """The kernel cannot tell the difference here; the trees must be compared."""


def changes(
    home_fd: int, upper_fd: int, lower_fd: int, forget: Callable[[list[int]], None], *, writable: bool
) -> Iterator[Change]:
    """Yield what differs in the subvolume at *upper_fd* from that at *lower_fd*, sorted by path.

    :param forget: told the number of a subvolume that was made for the moment and deleted.
    :param writable: such subvolumes may be made.
    :raises NotTold: before anything is yielded: subvolumes are nested in one, one is writable and no snapshot of it may
        be made, or the difference is large.
    """
    if _untouched(upper_fd, lower_fd):
        return
    with ExitStack() as stack:
        steady = []
        for fd in (upper_fd, lower_fd):
            if btrfs.subvol_getflags(fd) & btrfs.SubvolFlag.RDONLY:
                steady.append(fd)
                continue
            if not writable:
                raise NotTold("it is writable, and the store is open for reading only")
            if questions.nested(fd):
                raise NotTold("there are subvolumes in it, which no snapshot shows")
            steady.append(stack.enter_context(moment(home_fd, fd, forget)))
            if questions.nested(fd):
                raise NotTold("a program has just made a subvolume in it")
        upper, lower = steady
        wanted = candidates(upper, lower)
        with PlainSide(lower) as before, _Candidates(upper, lower, wanted) as after:
            yield from Comparison(before, after).run()


def _untouched(upper_fd: int, lower_fd: int) -> bool:
    """Tell whether the upper one is sealed, and nothing was written to it since it was made of the lower one."""
    upper = questions.info(upper_fd)
    # While it is writable the kernel may still hold back what was written.
    return upper.read_only and upper.generation == upper.made and upper.parent_uuid == questions.info(lower_fd).uuid


def candidates(upper_fd: int, lower_fd: int, *, version: int = 1) -> Wanted:
    """Find the paths at which two read-only subvolumes may differ.

    :param version: of the stream that the kernel is asked for.
    :raises NotTold: they are too many, or the kernel could not send them.
    """
    touched = Touched()
    try:
        with closing(difference(upper_fd, subvolumes.subvol_id(lower_fd), version=version)) as stream:
            for command, attributes in stream:
                touched.apply(command, attributes)
                if touched.count > MAX_NODES:
                    raise NotTold(f"more than {MAX_NODES} names differ")
    except (StreamError, OSError) as error:
        # A path longer than the kernel's own buffer is ENAMETOOLONG. Whatever it is, the comparison is always right,
        # and meets the same error if the disk is to blame.
        from cowstore._log import logger

        logger(__name__).warning("the kernel cannot send the difference, so whole trees are compared: %s", error)
        raise NotTold(str(error)) from error
    alone, left = touched.paths()
    whole = outermost(left)
    with ExitStack() as stack:
        sides = [Names(upper_fd), Names(lower_fd)]
        for side in sides:
            stack.enter_context(side.tree)
        close_over_links(alone, frozenset(whole), sides)
    return _by_directory(alone, whole)


def _by_directory(alone: set[bytes], whole: list[bytes]) -> Wanted:
    root: Wanted = {}
    for path in whole:
        _put(root, path, last=None)
    for path in alone:
        _put(root, path, last={})
    return root


def _put(root: Wanted, path: bytes, *, last: Wanted | None) -> None:
    if not path:
        return
    *above, name = os.fsdecode(path).split("/")
    place = root
    for directory in above:
        inner = place.setdefault(directory, {})
        if inner is None:
            return
        place = inner
    if last is None:
        place[name] = None
    else:
        place.setdefault(name, last)


class _Candidates(Side):
    """The upper tree as if it had only the names to look at."""

    complete = False

    def __init__(self, upper_fd: int, lower_fd: int, wanted: Wanted) -> None:
        self._upper = PlainSide(upper_fd)
        self._lower = Tree(lower_fd)
        self._way: list[tuple[bytes, Wanted | None]] = [(b"", wanted)]

    def names(self) -> list[str]:
        """List the names to look at in this directory, those among them that are only in the lower one."""
        path, wanted = self._way[-1]
        if wanted is not None:
            return list(wanted)
        found = set(self._upper.names())
        fd = self._lower.directory(path)
        if fd is not None:
            own = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
            try:
                found.update(os.listdir(own))
            finally:
                os.close(own)
        return list(found)

    def find(self, name: str) -> os.stat_result | None:
        """Tell what is there under a name, or None."""
        return self._upper.find(name)

    def where(self, name: str) -> int:
        """Return this directory."""
        return self._upper.where(name)

    def here(self) -> int:
        """Return this directory."""
        return self._upper.here()

    def enter(self, name: str) -> None:
        """Go down into a directory."""
        self._upper.enter(name)
        path, wanted = self._way[-1]
        inner = None if wanted is None else wanted.get(name, {})
        encoded = os.fsencode(name)
        self._way.append((path + b"/" + encoded if path else encoded, inner))

    def leave(self) -> None:
        """Go back up."""
        self._upper.leave()
        self._way.pop()

    def close(self) -> None:
        """Close all descriptors."""
        self._upper.close()
        self._lower.close()
