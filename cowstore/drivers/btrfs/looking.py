"""Looking at paths of a tree from its root's descriptor: any length, through no link."""

from __future__ import annotations

import errno
import os

from cowstore._linux import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
_CONFINED = files.Resolve.BENEATH | files.Resolve.NO_SYMLINKS | files.Resolve.NO_MAGICLINKS
PIECE_BYTES = 3000
"""Of a path so much is given to the kernel at once; it takes 4095."""
# ELOOP: a link stands where a directory was.
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


class Tree:
    """A tree of files, with the directory that was asked for last kept open: sorted questions are cheap."""

    def __init__(self, root_fd: int) -> None:
        self.root_fd = root_fd
        self._path = b""
        self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the directory that was kept open."""
        fd, self._fd = self._fd, -1
        if fd != -1:
            os.close(fd)

    def directory(self, path: bytes) -> int | None:
        """Return a descriptor (O_PATH) of the directory at *path*, good until the next question; None if it is none."""
        if not path:
            return self.root_fd
        if self._fd != -1 and path == self._path:
            return self._fd
        self.close()
        fd = self.root_fd
        try:
            for piece in pieces(path):
                deeper = files.openat2(fd, piece, _FLAGS, resolve=_CONFINED)
                if fd != self.root_fd:
                    os.close(fd)
                fd = deeper
        except OSError as error:
            if fd != self.root_fd:
                os.close(fd)
            if error.errno in _ABSENT:
                return None
            raise
        self._path, self._fd = path, fd
        return fd

    def place(self, path: bytes) -> tuple[int, bytes] | None:
        """Return the directory that *path* is in, and its name there; None where there is no such directory."""
        directory, _, name = path.rpartition(b"/")
        fd = self.directory(directory)
        return None if fd is None else (fd, name or b".")

    def stat(self, path: bytes) -> os.stat_result | None:
        """Return what is at *path*; None for nothing."""
        place = self.place(path)
        if place is None:
            return None
        try:
            return os.stat(place[1], dir_fd=place[0], follow_symlinks=False)
        except FileNotFoundError:
            return None


def pieces(path: bytes) -> list[bytes]:
    """Cut a path that may be longer than the kernel takes."""
    if len(path) <= PIECE_BYTES:
        return [path]
    pieces: list[bytes] = []
    for name in path.split(b"/"):
        if pieces and len(pieces[-1]) + len(name) < PIECE_BYTES:
            pieces[-1] += b"/" + name
        else:
            pieces.append(name)
    return pieces
