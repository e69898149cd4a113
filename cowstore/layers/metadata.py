"""Owners, modes, extended attributes and times: what is put on, in which order, and what is left out and counted.

The order is owner, mode, attributes, times: a change of owner clears setuid and file capabilities, and everything
before the times changes them.
"""

from __future__ import annotations

import enum
import errno
import os
import stat
from dataclasses import asdict, dataclass

from cowstore.layers import acl
from cowstore.layers.limits import Malformed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore.layers.headers import Entry

_ACLS = (acl.ACCESS, acl.DEFAULT)
#: Bound to the host that an archive was made on, or to its storage: never taken from an archive, nor removed for one.
HOST_BOUND = (
    b"trusted.overlay.",  # how overlay keeps whiteouts, opaque directories and redirections in its upper directory
    b"user.overlay.",
    b"security.selinux",  # a label of the host's policy, which labels what it mounts
    b"security.SMACK64",
    b"security.apparmor",
    b"security.evm",  # signs the inode's number and file system among others
    b"system.nfs4_acl",  # an NFS server's, in another server's ids
    b"system.nfs4acl_xdr",
    b"system.richacl",
    b"system.cifs_acl",
    b"system.smb3_acl",
    b"system.ntfs_",
    b"trusted.SGI_ACL_",  # XFS keeps ACLs so; they come as system.posix_acl_*
    b"trusted.glusterfs.",
    b"ceph.",
    b"btrfs.",
    b"lustre.",
)
_NOT_SUPPORTED = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP})
_NOT_PERMITTED = frozenset({errno.EPERM, errno.EACCES})


class Owners(enum.Enum):
    """Who owns what is unpacked."""

    KEEP = "keep"
    """Whom the archive says, by number; needs CAP_CHOWN."""
    CALLER = "caller"
    """The caller, whatever the archive says; entries of others are counted, and ACLs are left out and counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """What an archive has and the tree does not, as numbers of entries.

    :ivar devices: device nodes left out. :ivar owners: entries that got the caller as their owner.
    :ivar xattrs: extended attributes that the file system or a missing privilege refused.
    :ivar acls: ACLs left out. :ivar host_xattrs: attributes of `HOST_BOUND`, which are never taken.
    :ivar bookkeeping: entries that old AUFS exporters left in.
    """

    devices: int = 0
    owners: int = 0
    xattrs: int = 0
    acls: int = 0
    host_xattrs: int = 0
    bookkeeping: int = 0

    def counts(self) -> dict[str, int]:
        """Return those that are not 0."""
        return {name: count for name, count in asdict(self).items() if count}


class Metadata:
    """Puts an entry's attributes on what was made for it.

    :ivar acls: ACLs that name users by name, by canonical path: the names may be in a file still to come.
    """

    __slots__ = ("_caller", "_keep", "acls", "counts")

    def __init__(self, owners: Owners) -> None:
        self._keep = owners is Owners.KEEP
        self._caller = (os.geteuid(), os.getegid())
        self.counts = dict.fromkeys(Skipped.__slots__, 0)
        self.acls: dict[bytes, list[tuple[bytes, bytes]]] = {}

    def file(self, fd: int, entry: Entry) -> None:
        """Put all on a regular file that was just made."""
        if self._keep:
            os.fchown(fd, entry.uid, entry.gid)
        elif (entry.uid, entry.gid) != self._caller:
            self.counts["owners"] += 1
        os.fchmod(fd, entry.mode)
        if entry.xattrs is not None:
            self.xattrs(fd, entry.xattrs, directory=False, regular=True)
        os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))

    def symlink(self, dir_fd: int, name: bytes, entry: Entry) -> None:
        """Put all on a symbolic link, which has no mode."""
        self.owner(name, entry, dir_fd)
        if entry.xattrs is not None:
            self.xattrs(b"/proc/self/fd/%d/%s" % (dir_fd, name), entry.xattrs, directory=False, regular=False)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=dir_fd, follow_symlinks=False)

    def special(self, dir_fd: int, name: bytes, entry: Entry, *, clear: bool) -> None:
        """Put all on a device node or fifo, without opening what it stands for; clear: it may have inherited an ACL."""
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
        try:
            if stat.S_IFMT(os.fstat(fd).st_mode) in {stat.S_IFLNK, stat.S_IFREG, stat.S_IFDIR}:
                raise OSError(errno.ESTALE, "it was replaced meanwhile", name)
            path = (
                b"/proc/self/fd/%d" % fd
            )  # leads to the node itself; fchmod(2) and its like refuse an O_PATH descriptor
            self.owner(path, entry, None)
            if clear:
                self.clear(path)
            os.chmod(path, entry.mode)
            if entry.xattrs is not None:
                self.xattrs(path, entry.xattrs, directory=False, regular=False, follow=True)
            os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    def owner(self, path: bytes, entry: Entry, dir_fd: int | None) -> None:
        """Set the owner of what is not a regular file."""
        if not self._keep:
            self.counts["owners"] += (entry.uid, entry.gid) != self._caller
        elif dir_fd is None:
            os.chown(path, entry.uid, entry.gid)
        else:
            os.chown(path, entry.uid, entry.gid, dir_fd=dir_fd, follow_symlinks=False)

    def directory_owner(self, fd: int, owner: tuple[int, int], *, named: bool) -> None:
        """Set the owner of a directory; named: by an entry, which counts when somebody else gets it."""
        if self._keep:
            os.fchown(fd, *owner)
        elif named and owner != self._caller:
            self.counts["owners"] += 1

    def xattrs(
        self, target: int | bytes, values: dict[bytes, bytes], *, directory: bool, regular: bool, follow: bool = False
    ) -> None:
        """Set extended attributes.

        Args:
            target: a descriptor, or a path whose last part is followed only with follow.
            values: by name.
            directory: it is a directory.
            regular: it is a regular file.
            follow: see target.

        Raises:
            Malformed: the kernel says that a value is not one.
            OSError: the file system is full or broken, or a privilege is missing that KEEP needs.
        """
        nofollow = isinstance(target, int) or follow
        for name, value in values.items():
            if name.startswith(HOST_BOUND):
                self.counts["host_xattrs"] += 1
            elif name in _ACLS and not self._keep:
                self.counts["acls"] += 1
            elif name == acl.DEFAULT and not directory:
                continue  # means nothing here, and the kernel takes offence
            else:
                try:
                    os.setxattr(target, name, value, follow_symlinks=nofollow)
                except OSError as error:
                    self._refused(error, name, plain=directory or regular)

    def _refused(self, error: OSError, name: bytes, *, plain: bool) -> None:
        """Forgive what cannot be helped, and count it."""
        if error.errno in _NOT_SUPPORTED:
            self.counts["acls" if name in _ACLS else "xattrs"] += 1
        elif error.errno in _NOT_PERMITTED and (not self._keep or (not plain and name.startswith(b"user."))):
            # The kernel lets nobody have user.* on anything but files and directories.
            self.counts["xattrs"] += 1
        elif error.errno in {errno.EINVAL, errno.ERANGE, errno.E2BIG}:
            raise Malformed(f"the extended attribute {name!r} has a value that the kernel refuses") from error
        else:
            error.add_note(f"setxattr(2) {os.fsdecode(name)}")
            raise error

    def clear(self, target: int | bytes) -> None:
        """Take away the attributes that something has before it gets those of its entry, the host's excepted."""
        try:
            names = os.listxattr(target)
        except OSError as error:
            if error.errno in _NOT_SUPPORTED:
                return
            raise
        for name in map(os.fsencode, names):
            if not name.startswith(HOST_BOUND):
                try:
                    os.removexattr(target, name)
                except OSError as error:
                    if error.errno not in _NOT_SUPPORTED | _NOT_PERMITTED | {errno.ENODATA}:
                        raise
