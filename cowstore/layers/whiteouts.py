"""Files that say what is gone.

A whiteout `.wh.NAME` removes what was at NAME before the layer, an opaque marker `.wh..wh..opq` all that was in its
directory before. What the layer itself unpacks stays, whichever comes first. The removals are ordinary ones below the
root: where that is a mounted snapshot, the kernel makes of them what it needs.

Source: OCI image specification, "Whiteouts".
"""

from __future__ import annotations

import enum
import errno
import os
import stat

from cowstore.layers.limits import Malformed
from cowstore.layers.names import join
from cowstore.trees._descent import Descent
from cowstore.trees.remove import remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore.layers.claims import Claims
    from cowstore.layers.directory_log import DirectoryLog
    from cowstore.layers.tree import Directory, Tree

PREFIX = b".wh."
OPAQUE = b".wh..wh..opq"
#: AUFS's own files; those that old exporters left in mean nothing to anybody else.
BOOKKEEPING = b".wh..wh."
_NOTHING_THERE = frozenset({errno.ENOENT, errno.ENOTDIR})


class Whiteouts(enum.Enum):
    """What names that begin with `.wh.` mean."""

    APPLY = "apply"
    """Whiteouts of a layer."""
    REFUSE = "refuse"
    """Nothing that belongs here: the archive is a whole file system, and such a name could not be exported again."""


def has_prefix(parent: bytes, name: bytes) -> bool:
    """Tell whether any part of a name has the prefix."""
    return name.startswith(PREFIX) or parent.startswith(PREFIX) or b"/" + PREFIX in parent


def is_bookkeeping(parent: bytes, name: bytes) -> bool:
    """Tell whether an entry is one of AUFS's own, or below one."""
    if name.startswith(BOOKKEEPING) and name != OPAQUE:
        return True
    return parent.startswith(BOOKKEEPING) or b"/" + BOOKKEEPING in parent


def apply(tree: Tree, log: DirectoryLog, claims: Claims | None, parent: bytes, name: bytes) -> None:
    """Carry out one whiteout.

    Args:
        tree: where.
        log: is told of directories that stay for what is in them only.
        claims: what the layer has put there; None: nothing was there before it, so nothing is to be hidden.
        parent: the entry's directory.
        name: its last part, with the prefix.

    Raises:
        Malformed: it would hide a directory from within, or nothing at all.
        OSError: as unlink(2), rmdir(2).
    """
    hidden = name[len(PREFIX) :]
    if hidden in {b"", b".", b".."}:
        raise Malformed(f"a whiteout of {hidden!r}, which is no name")
    if claims is None:
        return
    directory = tree.enter(parent, make=False)
    if directory is None:
        return
    if name == OPAQUE:
        tree.touch(directory)
        _empty(directory.fd, directory.path, log, claims)
        tree.forget(directory)
        return
    try:
        found = os.stat(hidden, dir_fd=directory.fd, follow_symlinks=False)
    except OSError as error:
        if error.errno in _NOTHING_THERE:
            return
        raise
    path = join(directory.path, hidden)
    if claims.holds(path):
        if stat.S_ISDIR(found.st_mode):
            _empty_below(directory, hidden, path, log, claims)
            tree.forget(directory)
        return
    tree.touch(directory)
    remove_tree(directory.fd, hidden)
    if not stat.S_ISREG(found.st_mode):
        tree.forget(directory)


def _empty_below(directory: Directory, name: bytes, path: bytes, log: DirectoryLog, claims: Claims) -> None:
    """Empty a directory that the layer has put something in, or has named."""
    _demote(path, log, claims)
    with Descent(directory.fd) as place:
        place.enter(name)
        _empty(place.fd, path, log, claims)


def _demote(path: bytes, log: DirectoryLog, claims: Claims) -> None:
    """Make a directory that is hidden and needed all the same as if it had only been implied."""
    if path not in claims.made:
        log.implied(path)
        claims.made.add(path)


def _empty(fd: int, path: bytes, log: DirectoryLog, claims: Claims) -> None:
    """Remove from a directory what the layer has not put there, to any depth."""
    with Descent(fd) as place:
        paths = [path]
        waiting = [_sift(place, path, claims)]
        while True:
            if waiting[-1]:
                name = waiting[-1].pop()
                below = join(paths[-1], name)
                _demote(below, log, claims)
                place.enter(name)
                paths.append(below)
                waiting.append(_sift(place, below, claims))
            elif place.depth:
                place.leave()
                paths.pop()
                waiting.pop()
            else:
                return


def _sift(place: Descent, path: bytes, claims: Claims) -> list[bytes]:
    """Remove what the layer knows nothing of; return the directories of which it knows something."""
    known = []
    gone = []
    with os.scandir(place.fd) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)
            if not claims.holds(join(path, name)):
                gone.append(name)
            elif entry.is_dir(follow_symlinks=False):
                known.append(name)
    for name in gone:
        remove_tree(place.fd, name)
    return known
