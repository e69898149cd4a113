"""Unpacking an archive into a directory tree, and into nothing else.

An entry replaces what is at its name, and never writes through it; a directory over a directory is the exception, and
takes its place attribute by attribute. Hard links are made inside the root. The rules that archives leave open are
written down in docs/layers.md.

Source: OCI image specification, "Applying Changesets".
"""

from __future__ import annotations

import enum
import errno
import os
import stat
from dataclasses import dataclass

from cowstore import _log
from cowstore._linux._call import number_of
from cowstore.layers import accounts
from cowstore.layers import whiteouts as wh
from cowstore.layers.claims import Claims
from cowstore.layers.directory_log import DirectoryLog
from cowstore.layers.headers import Kind
from cowstore.layers.limits import Limits, Malformed, invalid
from cowstore.layers.metadata import Metadata, Owners, Skipped
from cowstore.layers.names import join, split, split_target
from cowstore.layers.reader import TarReader
from cowstore.layers.tree import Tree
from cowstore.layers.whiteouts import Whiteouts
from cowstore.trees.remove import remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore._linux._call import Fd
    from cowstore.layers.blocks import Source
    from cowstore.layers.headers import Entry
    from cowstore.layers.tree import Directory

__all__ = ["Devices", "Extracted", "Owners", "Skipped", "Whiteouts", "extract"]

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MAJOR_MAX = (1 << 12) - 1
_MINOR_MAX = (1 << 20) - 1
#: What only the archive can be blamed for.
_ARCHIVE_ERRORS = frozenset({errno.ENAMETOOLONG, errno.EFBIG, errno.EILSEQ})


class Devices(enum.Enum):
    """What becomes of device nodes; fifos are always made."""

    MAKE = "make"
    """They are made; needs CAP_MKNOD in the initial user namespace."""
    SKIP = "skip"
    """They are left out and counted, with what was at their names before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extracted:
    """What was unpacked.

    :ivar entries: of the archive, whiteouts included. :ivar size_bytes: file content written; holes, and further names
        of a file, do not count. :ivar skipped: what was left out.
    """

    entries: int
    size_bytes: int
    skipped: Skipped


def extract(
    stream: Source,
    root_fd: Fd,
    *,
    limits: Limits = Limits(),  # noqa: B008  (a frozen value)
    owners: Owners = Owners.KEEP,
    devices: Devices = Devices.MAKE,
    whiteouts: Whiteouts = Whiteouts.APPLY,
) -> Extracted:
    """Unpack an archive below a directory, and read the stream to its end.

    After an error the tree holds what was unpacked until then; making it as before, or gone, is the caller's.

    Args:
        stream: the uncompressed bytes; `cowstore.layers.compression.open_stream` gives them.
        root_fd: the root, not O_PATH; it stays the caller's.
        limits: what the archive may ask for.
        owners: who owns what is made.
        devices: what becomes of device nodes.
        whiteouts: what names that begin with `.wh.` mean.

    Raises:
        InvalidLayer: the archive is truncated, malformed, contradicts itself, asks for too much or tries to get out.
        OSError: the file system's or the stream's own, with a note that names the entry.
    """
    root = number_of(root_fd)
    with os.scandir(root) as found:
        claims = Claims() if next(found, None) is not None else None
    with DirectoryLog() as log, Tree(root, log, claims) as tree:
        extractor = _Extractor(TarReader(stream, limits), tree, log, claims, Metadata(owners), devices, whiteouts)
        return extractor.run()


class _Extractor:
    """One archive on its way into one tree."""

    __slots__ = (
        "_claims", "_devices", "_entries", "_handlers", "_log", "_metadata", "_reader", "_size_bytes",
        "_skipped_devices", "_tree", "_whiteouts",
    )  # fmt: skip

    def __init__(
        self,
        reader: TarReader,
        tree: Tree,
        log: DirectoryLog,
        claims: Claims | None,
        metadata: Metadata,
        devices: Devices,
        whiteouts: Whiteouts,
    ) -> None:
        self._reader = reader
        self._tree = tree
        self._log = log
        self._claims = claims
        self._metadata = metadata
        self._devices = devices
        self._whiteouts = whiteouts
        self._entries = 0
        self._size_bytes = 0
        self._skipped_devices: set[bytes] = set()
        self._handlers = {
            Kind.FILE: self._file,
            Kind.HARD_LINK: self._hard_link,
            Kind.SYMLINK: self._symlink,
            Kind.CHARACTER: self._device,
            Kind.BLOCK: self._device,
            Kind.DIRECTORY: self._directory,
            Kind.FIFO: self._fifo,
        }

    def run(self) -> Extracted:
        """Unpack everything, then finish what had to wait."""
        following, unpack = self._reader.next, self._one
        while (entry := following()) is not None:
            try:
                unpack(entry)
            except Malformed as error:
                raise invalid(str(error), entry.name, entry.offset) from error.__cause__
            except OSError as error:
                if error.errno in _ARCHIVE_ERRORS:
                    raise invalid(str(error.strerror), entry.name, entry.offset) from error
                error.add_note(f"unpacking {os.fsdecode(entry.name)!r}, at byte {entry.offset} of the archive")
                if error.errno == errno.EINVAL:
                    error.add_note(f"its owner {entry.uid}:{entry.gid} may have no number in this user namespace")
                raise
            self._entries += 1
        self._tree.close()
        accounts.late_acls(self._tree, self._metadata)
        self._log.finish(self._tree.root.fd, self._metadata)
        return self._report()

    def _report(self) -> Extracted:
        """Say what was done, and warn once of what was not."""
        skipped = Skipped(**self._metadata.counts)
        if skipped.xattrs or skipped.acls:
            _log.logger(__name__).warning(
                "%d extended attributes and %d ACLs were left out: the file system or the caller's rights do not allow"
                " them, or they name unknown users",
                skipped.xattrs,
                skipped.acls,
            )
        return Extracted(entries=self._entries, size_bytes=self._size_bytes, skipped=skipped)

    def _one(self, entry: Entry) -> None:
        """Unpack one entry."""
        tree = self._tree
        parent, name = split(entry.name)
        if b".wh." in entry.name and self._whiteout(entry, parent, name):
            return
        if not name:
            self._root(entry)
            return
        tree.trim()
        directory = tree.enter(parent, make=True)
        assert directory is not None
        if not directory.touched:
            tree.touch(directory)
        assert entry.kind is not None
        self._handlers[entry.kind](entry, directory, name)
        if self._claims is not None:
            self._claims.made.add(join(directory.path, name))

    def _whiteout(self, entry: Entry, parent: bytes, name: bytes) -> bool:
        """Deal with names that begin with `.wh.`; tell whether this is one."""
        if self._whiteouts is Whiteouts.REFUSE and wh.has_prefix(parent, name):
            raise Malformed("a whiteout, where a whole file system is expected")
        bookkeeping = wh.is_bookkeeping(parent, name)
        if not bookkeeping and not name.startswith(wh.PREFIX):
            return False
        if bookkeeping:
            self._metadata.counts["bookkeeping"] += 1
            return True
        if entry.kind is Kind.DIRECTORY:
            raise Malformed("a directory with the name of a whiteout")
        self._tree.trim()
        wh.apply(self._tree, self._log, self._claims, parent, name)
        return True

    def _root(self, entry: Entry) -> None:
        """Take the attributes of the root."""
        if entry.kind is not Kind.DIRECTORY:
            raise Malformed(f"a {entry.kind.value if entry.kind else 'thing'} in place of the root")
        self._tree.root.touched = True
        self._log.entry(b"", entry, clear=True)
        if self._claims is not None:
            self._claims.made.add(b"")

    def _file(self, entry: Entry, directory: Directory, name: bytes) -> None:
        """Make a regular file."""
        try:
            fd = os.open(name, _CREATE, 0o600, dir_fd=directory.fd)
        except FileExistsError:
            self._replace(directory, name)
            fd = os.open(name, _CREATE, 0o600, dir_fd=directory.fd)
        try:
            if entry.sparse is not None:
                self._sparse(fd, entry)
            elif entry.stored:
                self._reader.copy_to(fd, entry.stored)
            if directory.inherits:
                self._metadata.clear(fd)
            self._metadata.file(fd, entry)
        finally:
            os.close(fd)
        self._size_bytes += entry.stored
        if entry.acls is not None:
            self._late(join(directory.path, name), entry)

    def _late(self, path: bytes, entry: Entry) -> None:
        """Keep the ACLs that name users by name until all names are there."""
        if entry.acls is not None:
            self._metadata.acls[path] = entry.acls
        elif self._metadata.acls:
            self._metadata.acls.pop(path, None)

    def _sparse(self, fd: int, entry: Entry) -> None:
        """Write a file's pieces to their places, and leave the holes."""
        assert entry.sparse is not None
        for offset, length in entry.sparse:
            os.lseek(fd, offset, os.SEEK_SET)
            self._reader.copy_to(fd, length)
        os.ftruncate(fd, entry.size)

    def _directory(self, entry: Entry, directory: Directory, name: bytes) -> None:
        """Make a directory, or take over one that is there."""
        clear = directory.inherits
        try:
            os.mkdir(name, 0o700, dir_fd=directory.fd)
        except FileExistsError:
            found = os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                clear = True
            else:
                self._replace(directory, name)
                os.mkdir(name, 0o700, dir_fd=directory.fd)
        path = join(directory.path, name)
        self._log.entry(path, entry, clear=clear)
        self._late(path, entry)

    def _symlink(self, entry: Entry, directory: Directory, name: bytes) -> None:
        """Make a symbolic link, to whatever it says."""
        if not entry.link:
            raise Malformed("a symbolic link to nothing")
        try:
            os.symlink(entry.link, name, dir_fd=directory.fd)
        except FileExistsError:
            self._replace(directory, name)
            os.symlink(entry.link, name, dir_fd=directory.fd)
        self._metadata.symlink(directory.fd, name, entry)

    def _hard_link(self, entry: Entry, directory: Directory, name: bytes) -> None:
        """Give one more name to something inside the root."""
        target_parent, target = split_target(entry.link)
        if not target:
            raise Malformed("a hard link to the root")
        source = self._tree.enter(target_parent, make=False)
        missing = f"its target {os.fsdecode(entry.link)!r} is not there; a hard link must come behind its target"
        if source is None:
            raise Malformed(missing)
        path = join(source.path, target)
        try:
            found = os.stat(target, dir_fd=source.fd, follow_symlinks=False)
        except FileNotFoundError as error:
            if path in self._skipped_devices:
                self._skip_device(directory, name)
                return
            raise Malformed(missing) from error
        if stat.S_ISDIR(found.st_mode):
            raise Malformed(f"a hard link to the directory {os.fsdecode(entry.link)!r}")
        if path == join(directory.path, name):
            return
        try:
            os.link(target, name, src_dir_fd=source.fd, dst_dir_fd=directory.fd, follow_symlinks=False)
        except FileExistsError:
            self._replace(directory, name)
            source = self._tree.enter(target_parent, make=False)  # may have been closed, or be gone
            if source is None:
                raise Malformed(missing) from None
            try:
                os.link(target, name, src_dir_fd=source.fd, dst_dir_fd=directory.fd, follow_symlinks=False)
            except FileNotFoundError as error:
                raise Malformed(missing) from error

    def _device(self, entry: Entry, directory: Directory, name: bytes) -> None:
        """Make a device node, or leave it out."""
        major, minor = entry.major, entry.minor
        if not (0 <= major <= _MAJOR_MAX and 0 <= minor <= _MINOR_MAX):
            raise Malformed(f"a device number {major}:{minor} that Linux cannot have")
        character = entry.kind is Kind.CHARACTER
        if character and major == minor == 0:
            raise Malformed("the character device 0:0, by which overlay marks what is deleted")
        if self._devices is Devices.SKIP:
            self._skip_device(directory, name)
            return
        self._node(entry, directory, name, stat.S_IFCHR if character else stat.S_IFBLK, os.makedev(major, minor))

    def _skip_device(self, directory: Directory, name: bytes) -> None:
        """Leave a device node out, with what it would have replaced."""
        self._replace(directory, name)
        self._skipped_devices.add(join(directory.path, name))
        self._metadata.counts["devices"] += 1

    def _fifo(self, entry: Entry, directory: Directory, name: bytes) -> None:
        """Make a fifo."""
        self._node(entry, directory, name, stat.S_IFIFO, 0)

    def _node(self, entry: Entry, directory: Directory, name: bytes, kind: int, device: int) -> None:
        """Make what mknod(2) makes."""
        try:
            os.mknod(name, kind | 0o600, device, dir_fd=directory.fd)
        except FileExistsError:
            self._replace(directory, name)
            os.mknod(name, kind | 0o600, device, dir_fd=directory.fd)
        self._metadata.special(directory.fd, name, entry, clear=directory.inherits)

    def _replace(self, directory: Directory, name: bytes) -> None:
        """Remove what is at a name, and all that was known of it."""
        try:
            found = os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
        except FileNotFoundError:
            return
        remove_tree(directory.fd, name)
        if stat.S_ISDIR(found.st_mode) or stat.S_ISLNK(found.st_mode):
            self._tree.forget(directory)
        if self._metadata.acls:
            path = join(directory.path, name)
            below = path + b"/"
            for known in [key for key in self._metadata.acls if key == path or key.startswith(below)]:
                del self._metadata.acls[known]
