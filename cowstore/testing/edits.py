"""Edits of a tree that give the same result wherever they are done: the same calls, the same times.

Each edit sets the modification time of what it made and of the directory whose list of names it changed, from a clock
that starts at the same tick for the same round. So a flat directory and a mounted snapshot that got the same edits are
the same to the nanosecond.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Edit = Callable[["Editor"], object]

_START_NS = 1_600_000_000_123_456_789
_TICK_NS = 1_000_000_007


class Editor:
    """Edits one tree.

    :param root: directory to edit.
    :param round_: starts the clock; the same number wherever the same edits are done.
    :param fresh: the tree was just made, so its root gets a time as well; the first round is of a fresh tree.
    """

    def __init__(self, root: str | bytes | os.PathLike[str], *, round_: int = 0, fresh: bool | None = None) -> None:
        self.root = os.fsencode(root)
        self._now = _START_NS + round_ * 10_000 * _TICK_NS
        if round_ == 0 if fresh is None else fresh:
            self.stamp(b".")

    def at(self, path: str | bytes) -> bytes:
        """Return the full path of *path*."""
        return os.path.join(self.root, os.fsencode(path))

    def stamp(self, *paths: str | bytes) -> None:
        """Set the modification time of *paths* to the next tick."""
        self._now += _TICK_NS
        for path in paths:
            os.utime(self.at(path), ns=(self._now, self._now), follow_symlinks=False)

    def _made(self, path: str | bytes) -> None:
        self.stamp(path, self._above(path))

    @staticmethod
    def _above(path: str | bytes) -> bytes:
        return os.path.dirname(os.fsencode(path)) or b"."

    def write(self, path: str | bytes, data: bytes | str = b"", mode: int | None = None) -> None:
        """Make a file, or rewrite one in place: the same inode, cut to nothing first."""
        full = self.at(path)
        new = not os.path.lexists(full)
        with _writable(full), open(full, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
        if mode is not None:
            os.chmod(full, mode)
        elif new:
            os.chmod(full, 0o644)
        if new:
            self._made(path)
        else:
            self.stamp(path)

    def write_at(self, path: str | bytes, offset: int, data: bytes) -> None:
        """Write into the middle of a file, or beyond its end, which leaves a hole."""
        with open(self.at(path), "r+b") as file:
            file.seek(offset)
            file.write(data)
        self.stamp(path)

    def append(self, path: str | bytes, data: bytes | str) -> None:
        """Write at the end of a file that is there."""
        with open(self.at(path), "r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write(data.encode() if isinstance(data, str) else data)
        self.stamp(path)

    def truncate(self, path: str | bytes, size_bytes: int) -> None:
        """Cut or stretch a file."""
        os.truncate(self.at(path), size_bytes)
        self.stamp(path)

    def sparse(self, path: str | bytes, size_bytes: int, *pieces: tuple[int, bytes]) -> None:
        """Make a file of holes and *pieces* (offset and bytes)."""
        with open(self.at(path), "wb") as file:
            file.truncate(size_bytes)
            for offset, data in pieces:
                file.seek(offset)
                file.write(data)
        os.chmod(self.at(path), 0o644)
        self._made(path)

    def replace(self, path: str | bytes, data: bytes | str) -> None:
        """Replace a file by a new one of the same name, as programs do that write safely."""
        beside = os.path.join(self._above(path), b".replacing")
        self.write(beside, data)
        os.rename(self.at(beside), self.at(path))
        self._made(path)

    def mkdir(self, path: str | bytes, mode: int = 0o755) -> None:
        """Make a directory."""
        os.mkdir(self.at(path))
        os.chmod(self.at(path), mode)
        self._made(path)

    def makedirs(self, path: str | bytes, mode: int = 0o755) -> None:
        """Make a directory and those above it that are missing."""
        parts = os.fsencode(path).split(b"/")
        for count in range(1, len(parts) + 1):
            part = b"/".join(parts[:count])
            if not os.path.lexists(self.at(part)):
                self.mkdir(part, mode)

    def remove(self, path: str | bytes) -> None:
        """Remove a file, or a directory with all that is in it."""
        _remove(self.at(path))
        self.stamp(self._above(path))

    def symlink(self, target: str | bytes, path: str | bytes) -> None:
        """Make a symbolic link."""
        os.symlink(os.fsencode(target), self.at(path))
        self._made(path)

    def link(self, source: str | bytes, path: str | bytes) -> None:
        """Give a file another name; the file's own time stays."""
        os.link(self.at(source), self.at(path), follow_symlinks=False)
        self.stamp(self._above(path))

    def fifo(self, path: str | bytes, mode: int = 0o600) -> None:
        """Make a FIFO."""
        os.mkfifo(self.at(path))
        os.chmod(self.at(path), mode)
        self._made(path)

    def device(self, path: str | bytes, major: int, minor: int, *, block: bool = False, mode: int = 0o600) -> None:
        """Make a device node."""
        os.mknod(self.at(path), mode | (stat.S_IFBLK if block else stat.S_IFCHR), os.makedev(major, minor))
        os.chmod(self.at(path), mode)
        self._made(path)

    def socket(self, path: str | bytes) -> None:
        """Leave a UNIX socket, as a server does that ended."""
        directory = os.open(self.at(self._above(path)), os.O_PATH | os.O_DIRECTORY)
        try:
            # A socket's address is at most 108 bytes.
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
                server.bind(os.fsencode(f"/proc/self/fd/{directory}/") + os.path.basename(os.fsencode(path)))
        finally:
            os.close(directory)
        os.chmod(self.at(path), 0o755)
        self._made(path)

    def chmod(self, path: str | bytes, mode: int) -> None:
        """Change the mode; the times stay."""
        os.chmod(self.at(path), mode)

    def chown(self, path: str | bytes, uid: int, gid: int) -> None:
        """Change the owner of the path itself; the times stay."""
        os.chown(self.at(path), uid, gid, follow_symlinks=False)

    def setxattr(self, path: str | bytes, name: str, value: bytes) -> None:
        """Set an extended attribute of the path itself."""
        os.setxattr(self.at(path), name, value, follow_symlinks=False)

    def removexattr(self, path: str | bytes, name: str) -> None:
        """Remove an extended attribute of the path itself."""
        os.removexattr(self.at(path), name, follow_symlinks=False)

    def utime(self, path: str | bytes, mtime_ns: int) -> None:
        """Set the modification time of the path itself."""
        os.utime(self.at(path), ns=(mtime_ns, mtime_ns), follow_symlinks=False)

    def rename(self, source: str | bytes, path: str | bytes) -> None:
        """Change a name by a single system call, whatever that says."""
        os.rename(self.at(source), self.at(path))
        self.stamp(self._above(source), self._above(path))

    def move(self, source: str | bytes, path: str | bytes) -> None:
        """Rename as mv does: what the kernel will not rename is copied and removed."""
        _move(self.at(source), self.at(path))
        self.stamp(self._above(source), self._above(path))


@contextmanager
def _writable(full: bytes) -> Iterator[None]:
    """Let an ordinary user rewrite a file of their own that is not writable; the mode is put back."""
    if not os.path.lexists(full) or os.access(full, os.W_OK):
        yield
        return
    mode = stat.S_IMODE(os.lstat(full).st_mode)
    os.chmod(full, mode | stat.S_IWUSR)
    yield
    os.chmod(full, mode)


def _remove(full: bytes) -> None:
    if not stat.S_ISDIR(os.lstat(full).st_mode):
        os.unlink(full)
        return
    for name in os.listdir(full):
        _remove(os.path.join(full, name))
    os.rmdir(full)


def _move(source: bytes, target: bytes) -> None:
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    else:
        return
    status = os.lstat(source)
    os.mkdir(target)
    for name in os.listdir(source):
        _move(os.path.join(source, name), os.path.join(target, name))
    os.chown(target, status.st_uid, status.st_gid)
    os.chmod(target, stat.S_IMODE(status.st_mode))
    for attribute in os.listxattr(source):
        if not attribute.startswith(("trusted.overlay.", "user.overlay.")):
            os.setxattr(target, attribute, os.getxattr(source, attribute))
    os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))
    os.rmdir(source)


def attempt(tree: Editor, name: str, path: str, other: str, number: int) -> str:
    """Do one edit; return what it raised, as a word."""
    try:
        _do(tree, name, path, other, number)
    except OSError as error:
        return os.strerror(error.errno or 0)
    except ValueError as error:
        return str(error)
    return "done"


_MAKING = {"write", "replace", "mkdir", "symlink", "fifo", "device", "sparse", "socket"}


def _do(tree: Editor, name: str, path: str, other: str, number: int) -> None:
    above = os.path.dirname(path if name in _MAKING else other if name in {"link", "move"} else "")
    if above and not os.path.lexists(tree.at(above)):
        tree.makedirs(above)
    match name:
        case "write" | "append" | "replace":
            getattr(tree, name)(path, bytes([65 + number % 26]) * (number % 5000))
        case "write_at":
            tree.write_at(path, number % 9000, b"written")
        case "truncate":
            tree.truncate(path, number % 3000)
        case "touch_back":
            before = os.lstat(tree.at(path))
            tree.write_at(path, 0, bytes([48 + number % 10]) * min(before.st_size, 3))
            tree.utime(path, before.st_mtime_ns)
        case "chmod":
            if not os.path.islink(tree.at(path)):
                tree.chmod(path, (0o755, 0o700, 0o711, 0o1777, 0o4755, 0o640)[number % 6])
        case "chown":
            if os.geteuid() == 0:
                tree.chown(path, number % 3, number % 5)
        case "setxattr":
            tree.setxattr(path, f"user.{number % 2}", bytes([number % 256]) * (number % 50))
        case "removexattr":
            tree.removexattr(path, f"user.{number % 2}")
        case "utime":
            tree.utime(path, 1_500_000_000_000_000_000 + number)
        case "symlink":
            tree.symlink(f"nowhere-{number}", path)
        case "fifo" | "socket" | "mkdir" | "remove":
            getattr(tree, name)(path)
        case "device":
            if os.geteuid() == 0:
                tree.device(path, 240, number % 1000, block=number % 2 == 0)
        case "sparse":
            if not os.path.lexists(tree.at(path)):
                tree.sparse(path, 100_000 + number, (50_000, b"middle"))
        case "link" | "move":
            if not (other + "/").startswith(path + "/"):
                getattr(tree, name)(path, other)
        case _:
            raise AssertionError(f"unknown edit {name}")
