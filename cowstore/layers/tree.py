"""The directories of the tree that is unpacked into, by descriptors.

Every directory is opened by openat2(2) below the root with symbolic links, magic links and mount points forbidden. A
symbolic link on the way to an entry is therefore never followed by the kernel: it is read, resolved below the root by
the text alone (".." stops at the root, an absolute target starts there), and what comes out is opened in the same way.
So every open directory is known by its canonical path, and a link that somebody swaps in under us ends in an error.
"""

from __future__ import annotations

import errno
import os
import stat

from cowstore._linux.files import Resolve, openat2
from cowstore.layers.limits import Malformed
from cowstore.layers.names import join

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from cowstore.layers.claims import Claims
    from cowstore.layers.directory_log import DirectoryLog

#: Directories held open; archives come in depth-first order, so few are ever needed.
OPEN_MAX = 96
#: Names that led through a link, remembered with what they came to.
_ALIASES_MAX = 1024
_LINKS_MAX = 40
_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
RESOLVE = Resolve.IN_ROOT | Resolve.NO_MAGICLINKS | Resolve.NO_SYMLINKS | Resolve.NO_XDEV


class Directory:
    """One open directory.

    :ivar fd: O_PATH, but for the root's. :ivar path: canonical, relative to the root, b"" for the root itself.
    :ivar mode: its permission bits and :ivar mtime_ns: its time when it was opened.
    :ivar inherits: what is made in it gets something of it: the group, or an ACL.
    :ivar touched: the log knows that something in it changes.
    """

    __slots__ = ("fd", "inherits", "mode", "mtime_ns", "path", "touched")

    def __init__(self, fd: int, path: bytes, *, acl: bool) -> None:
        found = os.fstat(fd)
        self.fd = fd
        self.path = path
        self.mode = stat.S_IMODE(found.st_mode)
        self.mtime_ns = found.st_mtime_ns
        self.inherits = bool(found.st_mode & stat.S_ISGID) or (acl and _has_default_acl(fd))
        self.touched = False


class Tree:
    """A root, and the directories below it that are open.

    Args:
        root_fd: the root; it stays the caller's.
        log: is told of directories whose attributes are to be set at the end.
        claims: is told what was there before and is changed; None: nothing was there before.

    A context manager: leaving it closes what it opened.
    """

    __slots__ = ("_aliases", "_claims", "_log", "_open", "_privileged", "root")

    def __init__(self, root_fd: int, log: DirectoryLog, claims: Claims | None) -> None:
        self.root = Directory(root_fd, b"", acl=True)
        self._open = {b"": self.root}
        self._aliases: dict[bytes, bytes] = {}
        self._log = log
        self._claims = claims
        self._privileged = os.geteuid() == 0

    def enter(self, path: bytes, *, make: bool) -> Directory | None:
        """Open a directory, unless it is open.

        Args:
            path: relative to the root, clean; links on the way are followed inside the root.
            make: make what is missing on the way.

        Returns:
            the directory, owned by the tree, open until `trim` or `forget`; None where it is missing and make is False.

        Raises:
            Malformed: it is no directory, or a link leads to it in circles.
            OSError: as openat2(2), mkdir(2).
        """
        found = self._open.get(path)
        if found is not None:
            return found
        canonical = self._aliases.get(path, path)
        found = self._open.get(canonical)
        if found is not None:
            return found
        parent, _, leaf = canonical.rpartition(b"/")
        above = self._open.get(parent)
        try:
            fd = openat2(above.fd, leaf, _FLAGS, 0, RESOLVE) if above else self._openat2(canonical)
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.ELOOP, errno.ENOTDIR}:
                raise
            return self._walk(path, make=make)
        return self._keep(fd, canonical)

    def touch(self, directory: Directory) -> None:
        """Note that something in a directory is about to change; one that the archive does not name keeps its times."""
        if directory.touched:
            return
        directory.touched = True
        claims, path = self._claims, directory.path
        known = bool(path) if claims is None else claims.holds(path)
        if not known:
            self._log.kept(path, directory.mode, directory.mtime_ns)
        # The log has its mode, or the archive names another.
        if not self._privileged and directory.mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(f"/proc/self/fd/{directory.fd}", directory.mode | stat.S_IRWXU)
        while claims is not None and not known:
            claims.passed.add(path)
            path = path.rpartition(b"/")[0]
            known = claims.holds(path)
            if not known:
                fd = self._openat2(path)
                found = os.fstat(fd)
                os.close(fd)
                self._log.kept(path, stat.S_IMODE(found.st_mode), found.st_mtime_ns)

    def trim(self) -> None:
        """Close the half that was opened first when there are many; to be called when none is in use."""
        if len(self._open) <= OPEN_MAX:
            return
        for path in [path for path in self._open if path][: OPEN_MAX // 2]:
            os.close(self._open.pop(path).fd)

    def forget(self, keep: Directory) -> None:
        """Close all but one: a directory or a link was removed, and what led through it is somewhere else now."""
        for path, directory in list(self._open.items()):
            if path and directory is not keep:
                del self._open[path]
                os.close(directory.fd)
        self._aliases.clear()

    def close(self) -> None:
        """Close all; the root stays open."""
        self.forget(self.root)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _keep(self, fd: int, path: bytes) -> Directory:
        """Remember an open directory."""
        try:
            # Nothing that an archive makes has a default ACL before the end, so a tree that was empty has none.
            directory = Directory(fd, path, acl=self._claims is not None or self.root.inherits)
        except OSError:
            os.close(fd)
            raise
        self._open[path] = directory
        return directory

    def _openat2(self, path: bytes) -> int:
        """Open a directory by its canonical path."""
        return openat2(self.root.fd, path or b".", _FLAGS, 0, RESOLVE)

    def _walk(self, path: bytes, *, make: bool) -> Directory | None:
        """Open a directory part by part: one of them is missing, or is a link."""
        todo = path.split(b"/")[::-1]
        done: list[bytes] = []
        links = 0
        fd = self._openat2(b"")
        try:
            while todo:
                part = todo.pop()
                if part == b"..":
                    del done[-1:]
                elif part not in {b"", b"."}:
                    below = self._step(fd, part, b"/".join(done), make=make)
                    if below is None:
                        return None
                    if isinstance(below, int):
                        os.close(fd)
                        fd = below
                        done.append(part)
                        continue
                    links += 1
                    if links > _LINKS_MAX:
                        raise Malformed(f"more than {_LINKS_MAX} symbolic links on the way to it")
                    todo += below.split(b"/")[::-1]
                    if not below.startswith(b"/"):
                        continue
                    done.clear()
                else:
                    continue
                os.close(fd)
                fd = -1
                fd = self._openat2(b"/".join(done))
            return self._arrive(os.dup(fd), path, b"/".join(done))
        finally:
            if fd != -1:
                os.close(fd)

    def _arrive(self, fd: int, path: bytes, canonical: bytes) -> Directory:
        """Remember where a walk came to."""
        if path != canonical:
            if len(self._aliases) >= _ALIASES_MAX:
                self._aliases.clear()
            self._aliases[path] = canonical
            found = self._open.get(canonical)
            if found is not None:
                os.close(fd)
                return found
        return self._keep(fd, canonical)

    def _step(self, fd: int, part: bytes, above: bytes, *, make: bool) -> int | bytes | None:
        """Go one part further: a descriptor, a link's target, or None where it is missing and is not made."""
        try:
            return openat2(fd, part, _FLAGS, 0, RESOLVE)
        except FileNotFoundError:
            if not make:
                return None
            self._imply(fd, part, above)
            return openat2(fd, part, _FLAGS, 0, RESOLVE)
        except OSError as error:
            if error.errno not in {errno.ELOOP, errno.ENOTDIR}:
                raise
        try:
            return os.readlink(part, dir_fd=fd)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        if make:
            raise Malformed(f"{os.fsdecode(join(above, part))!r} on the way to it is not a directory")
        return None

    def _imply(self, fd: int, part: bytes, above: bytes) -> None:
        """Make a directory that the archive only implies."""
        known = self._open.get(above)
        self.touch(known if known is not None else Directory(fd, above, acl=False))
        os.mkdir(part, 0o700, dir_fd=fd)
        path = join(above, part)
        self._log.implied(path)
        if self._claims is not None:
            self._claims.made.add(path)


def _has_default_acl(fd: int) -> bool:
    """Tell whether what is made in a directory gets an ACL."""
    try:
        os.getxattr(f"/proc/self/fd/{fd}", "system.posix_acl_default")
    except OSError:
        return False
    return True
