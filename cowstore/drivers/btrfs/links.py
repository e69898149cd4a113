"""All names of the files that may have changed: if one of a file's names is told, they all are."""

from __future__ import annotations

import os
import stat

from cowstore._linux import btrfs
from cowstore.drivers.btrfs.looking import Tree
from cowstore.drivers.btrfs.touched import below

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator


class Names:
    """The names of a read-only subvolume's files, told by the kernel's own back references: no walk."""

    def __init__(self, root_fd: int) -> None:
        self.tree = Tree(root_fd)
        self._root_fd = root_fd
        self._directories: dict[int, bytes] = {btrfs.FIRST_FREE_OBJECTID: b""}
        self._seen: set[int] = set()

    def others(self, path: bytes) -> Iterator[bytes]:
        """Yield all names of the file at *path* when it has several and was not asked for before."""
        found = self.tree.stat(path)
        if found is None or found.st_nlink < 2 or stat.S_ISDIR(found.st_mode) or found.st_ino in self._seen:
            return
        self._seen.add(found.st_ino)
        for directory, name in list(btrfs.inode_refs(self._root_fd, found.st_ino)):
            above = self._path_of(directory)
            yield above + b"/" + name if above else name

    def _path_of(self, directory: int) -> bytes:
        """Return the path of the directory of that inode number."""
        names: list[bytes] = []
        number = directory
        while number not in self._directories:
            # A directory has exactly one name.
            number, name = next(btrfs.inode_refs(self._root_fd, number))
            names.append(name)
        names.append(self._directories[number])
        path = b"/".join(filter(None, reversed(names)))
        self._directories[directory] = path
        return path

    def linked_below(self, path: bytes) -> Iterator[bytes]:
        """Yield the paths of the files with several names at and below *path*."""
        waiting = [path]
        while waiting:
            current = waiting.pop()
            fd = self.tree.directory(current)
            if fd is None:
                # *path* itself may be a file.
                yield current
                continue
            own = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
            try:
                with os.scandir(own) as entries:
                    for entry in entries:
                        inner = os.fsencode(entry.name)
                        joined = current + b"/" + inner if current else inner
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(joined)
                        elif entry.stat(follow_symlinks=False).st_nlink > 1:
                            yield joined
            finally:
                os.close(own)


def close_over_links(alone: set[bytes], whole: Collection[bytes], sides: Iterable[Names]) -> None:
    """Add to *alone* every name, in either tree, of a file that one of the paths names in one of the trees.

    :param alone: paths to look at by themselves. :param whole: those to look at with all below them.
    """
    both = list(sides)
    waiting = list(alone)
    for top in whole:
        for names in both:
            waiting.extend(names.linked_below(top))
    while waiting:
        path = waiting.pop()
        for names in both:
            for other in names.others(path):
                if other not in alone and not below(other, whole):
                    alone.add(other)
                    waiting.append(other)
                elif other not in alone:
                    # It will be met anyway, but the other tree may have another file there, with names of its own.
                    waiting.append(other)
