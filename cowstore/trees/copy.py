"""Copying a directory tree by descriptors: shared blocks where the file system can, and everything a file has."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack

from cowstore._linux.files import ficlone
from cowstore.trees._descent import Descent
from cowstore.trees._same import BOOKKEEPING

__all__ = ["HOST_BOUND", "CopyCount", "copy_tree"]

HOST_BOUND = frozenset((
    "security.selinux",
    "security.SMACK64",
    "security.apparmor",
    "security.ima",
    "security.evm",
    "system.nfs4_acl",
    "system.richacl",
    "system.cifs_acl",
    "system.smb3_acl",
))  # fmt: skip
"""Extended attributes that mean something on one machine or file system only."""

_NEVER_SHARES = frozenset((errno.EOPNOTSUPP, errno.EXDEV, errno.ENOSYS, errno.ENOTTY))
_CANNOT_SHARE = frozenset((*_NEVER_SHARES, errno.EINVAL, errno.EBADF, errno.EPERM, errno.ETXTBSY))
_CANNOT_COPY_RANGE = frozenset((errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EBADF, errno.EPERM))
_GONE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ESTALE))
_CHUNK = 1 << 20
_PATH_LIMIT = 4000
"""Bytes of a path that one call is given."""


class CopyCount:
    """What was copied, and what was left out.

    :ivar entries: everything made, the root excepted. :ivar shared: files whose blocks are the source's.
    :ivar xattrs: extended attributes that the target does not take. :ivar owners: entries that got the caller as owner.
    :ivar devices: device nodes left out. :ivar whiteouts: character devices 0:0 left out; overlay takes them for
        deletions. :ivar mounts: directories left empty, since something else is mounted on them.
    """

    __slots__ = ("devices", "entries", "mounts", "owners", "shared", "whiteouts", "xattrs")

    def __init__(self) -> None:
        self.entries = self.shared = 0
        self.xattrs = self.owners = self.devices = self.whiteouts = self.mounts = 0

    def skipped(self) -> dict[str, int]:
        """Tell how many of what sort were left out or changed; sorts without any are not named."""
        counts = {
            "extended attributes": self.xattrs,
            "owners": self.owners,
            "device nodes": self.devices,
            "whiteouts": self.whiteouts,
            "mount points": self.mounts,
        }
        return {sort: count for sort, count in counts.items() if count}


def copy_tree(
    src_fd: int,
    dst_fd: int,
    *,
    owners: bool = True,
    devices: bool = True,
    whiteouts: bool = False,
    host_xattrs: bool = False,
) -> CopyCount:
    """Copy the tree at *src_fd* into the empty directory *dst_fd*, which gets the source root's attributes too.

    Kept: types, permissions, owners, times to the nanosecond, extended attributes and ACLs, hard links, holes, device
    numbers, fifos, sockets (as names nobody listens on). Links are not followed, and what is mounted inside is not
    entered. What vanishes meanwhile is left out.

    :param src_fd: directory descriptor. :param dst_fd: directory descriptor.
    :param owners: keep owners; otherwise everything becomes the caller's.
    :param devices: make device nodes; otherwise they are left out and counted.
    :param whiteouts: make character devices 0:0 as well. :param host_xattrs: keep :data:`HOST_BOUND`.
    :raises OSError: as the calls that make files: ENOSPC, EDQUOT, EIO, EACCES. What was made so far stays.
    """
    with Descent(src_fd) as source, Descent(dst_fd) as target:
        copier = _Copier(source, target, owners=owners, devices=devices, whiteouts=whiteouts, host_xattrs=host_xattrs)
        copier.run()
        return copier.count


class _Directory:
    """A directory being copied; it gets its attributes when it is full, since filling it changes its time."""

    __slots__ = ("found", "names", "xattrs")

    def __init__(self, found: os.stat_result, names: list[str], xattrs: list[tuple[str, bytes]]) -> None:
        self.found = found
        self.names = names
        self.xattrs = xattrs


class _Copier:
    def __init__(
        self, source: Descent, target: Descent, *, owners: bool, devices: bool, whiteouts: bool, host_xattrs: bool
    ) -> None:
        self._source = source
        self._target = target
        self._root_fd = target.fd
        self._owners = owners
        self._devices = devices
        self._whiteouts = whiteouts
        self._host_xattrs = host_xattrs
        self._ids = (os.geteuid(), os.getegid())
        self._shares = True
        self._ranges = True
        self._path: list[bytes] = []
        # First name of each file that has several, and how many are still to come.
        self._linked: dict[tuple[int, int], tuple[bytes, int]] = {}
        self.count = CopyCount()

    def run(self) -> None:
        levels = [self._directory()]
        while levels:
            level = levels[-1]
            if level.names:
                below = self._entry(level.names.pop())
                if below is not None:
                    levels.append(below)
                continue
            self._dress(self._target.fd, level.found, level.xattrs)
            levels.pop()
            if levels:
                self._target.leave()
                self._source.leave()
                self._path.pop()

    def _directory(self) -> _Directory:
        fd = self._source.fd
        return _Directory(os.fstat(fd), os.listdir(fd), self._xattrs(fd))

    def _entry(self, name: str) -> _Directory | None:
        """Copy one entry; a directory is entered and returned."""
        try:
            found = os.stat(name, dir_fd=self._source.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        mode = found.st_mode
        if stat.S_ISDIR(mode):
            return self._enter(name, found)
        if found.st_nlink > 1 and self._link(name, found):
            return None
        if stat.S_ISREG(mode):
            made = self._file(name)
        elif stat.S_ISLNK(mode):
            made = self._symlink(name, found)
        else:
            made = self._node(name, found)
        if made:
            self.count.entries += 1
            if found.st_nlink > 1:
                path = b"/".join((*self._path, os.fsencode(name)))
                self._linked[found.st_dev, found.st_ino] = (path, found.st_nlink - 1)
        return None

    def _enter(self, name: str, found: os.stat_result) -> _Directory | None:
        source, target = self._source, self._target
        try:
            source.enter(name)
        except OSError as error:
            if error.errno == errno.EXDEV:
                self._leave_empty(name, found)
                return None
            if error.errno in _GONE:
                return None
            raise
        os.mkdir(name, 0o700, dir_fd=target.fd)
        target.enter(name)
        self._path.append(os.fsencode(name))
        self.count.entries += 1
        return self._directory()

    def _leave_empty(self, name: str, found: os.stat_result) -> None:
        os.mkdir(name, 0o700, dir_fd=self._target.fd)
        self._target.enter(name)
        self._dress(self._target.fd, found, [])
        self._target.leave()
        self.count.entries += 1
        self.count.mounts += 1

    # Files.

    def _link(self, name: str, found: os.stat_result) -> bool:
        """Make a further name of a file copied before; False if this is its first."""
        key = (found.st_dev, found.st_ino)
        if key not in self._linked:
            return False
        path, left = self._linked[key]
        with ExitStack() as stack:
            fd = self._root_fd
            while len(path) > _PATH_LIMIT:
                cut = path.rindex(b"/", 0, _PATH_LIMIT)
                fd = os.open(path[:cut], os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
                stack.callback(os.close, fd)
                path = path[cut + 1 :]
            os.link(path, name, src_dir_fd=fd, dst_dir_fd=self._target.fd, follow_symlinks=False)
        self.count.entries += 1
        if left == 1:
            del self._linked[key]
        else:
            self._linked[key] = (self._linked[key][0], left - 1)
        return True

    def _file(self, name: str) -> bool:
        source = self._open(name)
        if source == -1:
            return False
        try:
            found = os.fstat(source)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            target = os.open(name, flags, 0o600, dir_fd=self._target.fd)
            try:
                if found.st_size:
                    self._content(source, target, found.st_size)
                self._dress(target, found, self._xattrs(source))
            finally:
                os.close(target)
        finally:
            os.close(source)
        return True

    def _open(self, name: str) -> int:
        """Open a regular file of the source; -1 if it is none any more."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            try:
                fd = os.open(name, flags | os.O_NOATIME, dir_fd=self._source.fd)
            except PermissionError:
                fd = os.open(name, flags, dir_fd=self._source.fd)  # only the owner may leave the access time alone
        except OSError as error:
            if error.errno in _GONE:
                return -1
            raise
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            return -1
        return fd

    def _content(self, source: int, target: int, size: int) -> None:
        if self._shares:
            try:
                ficlone(target, source)
                self.count.shared += 1
                return
            except OSError as error:
                if error.errno not in _CANNOT_SHARE:
                    raise
                if error.errno in _NEVER_SHARES:
                    self._shares = False  # on these two file systems; otherwise this one file cannot
        offset = 0
        while offset < size:
            start, end = _data(source, offset, size)
            if start == -1:
                break
            self._range(source, target, start, end)
            offset = end
        os.ftruncate(target, size)

    def _range(self, source: int, target: int, start: int, end: int) -> None:
        """Copy one stretch without holes; it may turn out shorter, if the file is cut meanwhile."""
        while self._ranges and start < end:
            try:
                done = os.copy_file_range(source, target, min(end - start, 1 << 30), start, start)
            except OSError as error:
                if error.errno not in _CANNOT_COPY_RANGE:
                    raise
                self._ranges = False
                break
            if not done:
                break  # the end of the file, or one of /proc's kind, which has bytes all the same
            start += done
        while start < end:
            chunk = os.pread(source, min(end - start, _CHUNK), start)
            if not chunk:
                return
            view = memoryview(chunk)
            while view:
                done = os.pwrite(target, view, start)
                start += done
                view = view[done:]

    # What is not a file.

    def _symlink(self, name: str, found: os.stat_result) -> bool:
        try:
            link = os.readlink(name, dir_fd=self._source.fd)
        except OSError as error:
            if error.errno in _GONE or error.errno == errno.EINVAL:
                return False
            raise
        os.symlink(link, name, dir_fd=self._target.fd)
        self._dress_name(name, found)
        return True

    def _node(self, name: str, found: os.stat_result) -> bool:
        mode = found.st_mode
        if stat.S_ISCHR(mode) and found.st_rdev == 0:
            if not self._whiteouts:
                self.count.whiteouts += 1
                return False
        elif (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)) and not self._devices:
            self.count.devices += 1
            return False
        os.mknod(name, stat.S_IFMT(mode) | 0o600, found.st_rdev, dir_fd=self._target.fd)
        self._dress_name(name, found)
        return True

    # Attributes.

    def _xattrs(self, fd: int | str) -> list[tuple[str, bytes]]:
        """Read the extended attributes to copy."""
        try:
            return [
                (name, os.getxattr(fd, name, follow_symlinks=isinstance(fd, int)))
                for name in os.listxattr(fd, follow_symlinks=isinstance(fd, int))
                if not name.startswith(BOOKKEEPING) and (self._host_xattrs or name not in HOST_BOUND)
            ]
        except OSError as error:
            if error.errno == errno.ENODATA:
                return self._xattrs(fd)
            if error.errno in {errno.ENOTSUP, errno.ENOENT}:
                return []
            raise

    def _set_xattrs(self, fd: int | str, xattrs: list[tuple[str, bytes]]) -> None:
        for name, value in xattrs:
            try:
                os.setxattr(fd, name, value, follow_symlinks=isinstance(fd, int))
            except OSError as error:
                # An ordinary user may set only some; a file system may take only some.
                if error.errno != errno.ENOTSUP and not (error.errno == errno.EPERM and not self._owners):
                    raise
                self.count.xattrs += 1

    def _dress(self, fd: int, found: os.stat_result, xattrs: list[tuple[str, bytes]]) -> None:
        """Give an open file or directory what the source has; the owner first, since changing it takes rights away."""
        if self._ids != (found.st_uid, found.st_gid):
            if self._owners:
                os.fchown(fd, found.st_uid, found.st_gid)
            else:
                self.count.owners += 1
        if xattrs:
            self._set_xattrs(fd, xattrs)
        os.fchmod(fd, stat.S_IMODE(found.st_mode))
        os.utime(fd, ns=(found.st_atime_ns, found.st_mtime_ns))

    def _dress_name(self, name: str, found: os.stat_result) -> None:
        """Do the same to what cannot be opened."""
        fd = self._target.fd
        if self._ids != (found.st_uid, found.st_gid):
            if self._owners:
                os.chown(name, found.st_uid, found.st_gid, dir_fd=fd, follow_symlinks=False)
            else:
                self.count.owners += 1
        xattrs = self._xattrs(f"/proc/self/fd/{self._source.fd}/{name}")
        if xattrs:
            self._set_xattrs(f"/proc/self/fd/{fd}/{name}", xattrs)
        if not stat.S_ISLNK(found.st_mode):
            os.chmod(name, stat.S_IMODE(found.st_mode), dir_fd=fd)
        os.utime(name, ns=(found.st_atime_ns, found.st_mtime_ns), dir_fd=fd, follow_symlinks=False)


def _data(fd: int, offset: int, size: int) -> tuple[int, int]:
    """Find the next stretch of a file that is not a hole; its start is -1 if there is none."""
    try:
        start = os.lseek(fd, offset, os.SEEK_DATA)
        return start, min(os.lseek(fd, start, os.SEEK_HOLE), size)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return -1, -1
        if error.errno == errno.EINVAL:  # the file system cannot tell
            return offset, size
        raise
