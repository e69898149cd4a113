"""Driver ``copy``: every snapshot is a whole directory tree, copied from its parent's.

On disk, below the driver's directory::

    <id>/fs        the tree
    <id>/quota     there if the snapshot's size is limited, see cowstore.drivers._limits
    <id>/image     in place of fs, which is in it, see cowstore.drivers._image
    <id>/copied    when the copy was begun and ended (see `_Copied`)
    <id>/parent    symbolic link to ../<parent's id>
    new-<id>/      an id in the making
    images         there if there has ever been an image

The baseline of the benchmarks, the oracle of the tests, and what works where nothing else does.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack

from cowstore import _faults
from cowstore.driver import NoOptions
from cowstore.drivers._directories import SCRATCH
from cowstore.drivers._sized import Options, SizedDriver
from cowstore.errors import DriverUnavailable
from cowstore.model import Capabilities, Mount, MountFlag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from cowstore._linux.loop import LoopDevice
    from cowstore.results import Change, DriverStatus

__all__ = ["Copy", "NoOptions", "Options"]


class Copy(SizedDriver):
    """Snapshots are copies. To make one takes as long as copying its parent; with reflinks, without its content.

    ``usage`` counts the whole tree, blocks shared by reflink too: the file system does not tell them apart.
    """

    name = "copy"
    capabilities = Capabilities(instant_create=False, rootless=True)

    def __init__(self, directory: str, options: object, *, volatile: bool = False, read_only: bool = False) -> None:
        """Open the driver's directory."""
        super().__init__(directory, options, volatile=volatile, read_only=read_only)
        self._binds: bool | None = None
        if not read_only:
            self.bear_nothing_down()

    @classmethod
    def probe(cls, directory: str, options: object) -> None:
        """Make two snapshots in *directory* and mount one."""
        import tempfile

        from cowstore.trees.remove import remove_tree

        scratch = None
        try:
            scratch = tempfile.mkdtemp(prefix=SCRATCH, dir=directory)
            _use(scratch)
        except OSError as error:
            missing = [_explained(error, directory)]
            raise DriverUnavailable(
                f"the copy driver cannot work in {directory}: {missing[0]}", driver="copy", missing=missing
            ) from error
        finally:
            if scratch is not None:
                fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    remove_tree(fd, os.path.basename(scratch))
                finally:
                    os.close(fd)

    def create(self, id: int, parent: int | None, size_bytes: int | None) -> None:
        """Copy the parent's tree; the directory gets its name when the copy is complete."""
        self.check_size(id, size_bytes)
        if self.has(str(id)):
            return  # once is enough, and much
        new = f"new-{id}"
        try:
            self.start(id, parent)
            if size_bytes is None:
                self._fill(new, new, parent)
            else:
                with self.sized(new, size_bytes) as where:
                    self._fill(where, new, parent)
            self.finish(new, id)
        except BaseException as error:
            # Whatever ends it: what was copied so far may be all the room there was.
            self.give_up(new)
            if isinstance(error, OSError):
                self.tell(error, f"copy snapshot {parent} to {id}")
            raise

    def _fill(self, where: str, new: str, parent: int | None) -> None:
        """Make the tree below *where*, absolute or in the driver's directory."""
        os.mkdir(f"{where}/fs", 0o755, dir_fd=self._fd)
        _faults.point("copy.create.fs")
        if parent is None:
            os.chmod(f"{where}/fs", 0o755, dir_fd=self._fd)  # the umask may have taken from it
        else:
            with ExitStack() as stack:
                self._copy(f"{where}/fs", self._tree(stack, parent), f"{new}/copied")
        _faults.point("copy.create.copied")

    def _tree(self, stack: ExitStack, id: int) -> str:
        """Return a path of the tree of *id* that is good as long as *stack*."""
        return self.images.tree(stack, str(id)) if self.may_have_images() else f"{id}/fs"

    def _copy(self, own: str, parents: str, record: str) -> None:
        from cowstore.trees.copy import copy_tree

        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        source = os.open(parents, flags, dir_fd=self._fd)
        try:
            target = os.open(own, flags, dir_fd=self._fd)
            try:
                with _Copied.begin(self._fd, record) as copied:
                    _faults.point("copy.create.begun")
                    whole = os.geteuid() == 0
                    copy_tree(source, target, owners=whole, devices=whole, whiteouts=True, host_xattrs=True)
                    copied.end()
            finally:
                os.close(target)
        finally:
            os.close(source)

    def mounts(self, id: int, read_only: bool, *, volatile: bool = False) -> tuple[Mount, ...]:
        """Describe a bind mount of the tree."""
        return self.described(id, read_only, None)

    def described(
        self,
        id: int,
        read_only: bool,
        held: list[LoopDevice] | None,
        *,
        volatile: bool = False,
    ) -> tuple[Mount, ...]:
        """Describe the one mount; what it needs is put to *held*, or kept until it is released."""
        if self.is_image(str(id)):
            needed = self.images.hold(id) if held is None else held
            return (self.images.mount(str(id), needed, read_only=read_only, subdir=b"fs"),)
        flags = MountFlag.RDONLY if read_only else MountFlag.NONE
        return (Mount(type="bind", source=os.fsencode(f"{self.directory}/{id}/fs"), flags=flags),)

    def tree_directory(self, id: int) -> str | None:
        """Name the id's own directory; an image takes a mount."""
        return None if self.is_image(str(id)) else f"{self.directory}/{id}/fs"

    def changes(self, id: int, base: int | None) -> Iterator[Change]:
        """Compare the trees where they lie; from the parent, without reading what was not written to since the copy."""
        from cowstore.trees.compare import compare

        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        with ExitStack() as stack:
            upper = os.open(self._tree(stack, id), flags, dir_fd=self._fd)
            stack.callback(os.close, upper)
            if base is None:
                yield from compare(None, upper)
                return
            lower = os.open(self._tree(stack, base), flags, dir_fd=self._fd)
            stack.callback(os.close, lower)
            after = before = None
            if self.chain(str(id))[1:2] == [str(base)]:
                after, before = _Copied.read(self._fd, f"{id}/copied")
            yield from compare(lower, upper, unchanged_after_ns=after, unchanged_before_ns=before)

    def why_no_quota(self) -> str | None:
        """Say why project quotas cannot limit sizes here; None where they can: nothing is between them and writers."""
        reason = super().why_no_quota()
        if reason is not None:
            return reason
        if self._binds is None:
            from cowstore.drivers._limits import binds_writers

            self._binds = binds_writers(self.directory)
        if self._binds:
            return None
        return (
            f"the file system at {self.directory} lets root write past its quotas (ext4 lets whoever has "
            "CAP_SYS_RESOURCE): use xfs, the overlay driver, or the option backing=image"
        )

    def status(self) -> DriverStatus:
        """Tell of the file system the trees are on, and whether it shares blocks between copies."""
        from cowstore.drivers._backing import status

        shares = None if self.read_only else shares_blocks(self.directory)
        return status(self.directory, {"reflinks": {True: "yes", False: "no", None: "not tried"}[shares]})


class _Copied:
    """When a copy was begun and ended, by the clock of the file system that stamps its files.

    A file of the copy whose change time lies between was not touched since: not even its times can have been set. The
    record is worth nothing after the tree was itself copied or restored, which stamps all files anew: its own change
    time, which cannot be set either, then is not the one it tells.
    """

    __slots__ = ("_begun", "_fd")

    SLACK_NS = 2_000_000_000

    def __init__(self, fd: int, begun: int) -> None:
        self._fd = fd
        self._begun = begun

    @classmethod
    def begin(cls, dir_fd: int, path: str) -> _Copied:
        """Make the record. It is worth nothing until :meth:`end`."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(path, flags, 0o600, dir_fd=dir_fd)
        return cls(fd, os.fstat(fd).st_ctime_ns)

    def end(self) -> None:
        """Complete the record."""
        os.utime(self._fd)
        ended = os.fstat(self._fd).st_ctime_ns
        os.write(self._fd, b"%d %d\n" % (self._begun, ended))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._fd)

    @classmethod
    def read(cls, dir_fd: int, path: str) -> tuple[int, int] | tuple[None, None]:
        """Return the two times in nanoseconds since 1970; None where there is no record, or not one to trust."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
        except FileNotFoundError:
            return None, None
        try:
            stamped = os.fstat(fd).st_ctime_ns
            begun, ended = (int(word) for word in os.read(fd, 100).split())
        except ValueError:
            return None, None
        finally:
            os.close(fd)
        if not begun <= ended <= stamped <= ended + cls.SLACK_NS:
            return None, None
        return begun, ended


def shares_blocks(directory: str) -> bool:
    """Find out whether files in *directory* can share blocks (FICLONE)."""
    import tempfile

    from cowstore._linux.files import ficlone

    with tempfile.TemporaryFile(dir=directory) as one, tempfile.TemporaryFile(dir=directory) as other:
        one.write(b"\0" * 4096)
        one.flush()
        try:
            ficlone(other.fileno(), one.fileno())
        except OSError:
            return False
        return True


def _use(scratch: str) -> None:
    """Make a snapshot and a child of it, and mount that."""
    from cowstore.mounting import detached

    driver = Copy(scratch, NoOptions())
    try:
        driver.create(1, None, None)
        os.symlink("nowhere", f"{scratch}/1/fs/link")
        driver.create(2, 1, None)
        try:
            detached(driver.mounts(2, True)).close()
        except PermissionError:
            if os.geteuid() == 0:
                raise
            # An ordinary user mounts in a namespace of his own, or does without mounts.
    finally:
        driver.close()


def _explained(error: OSError, directory: str) -> str:
    """Say what a refusal means and what to do."""
    note = f" ({'; '.join(notes)})" if (notes := getattr(error, "__notes__", [])) else ""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return f"no space left in {directory}: free some"
    if error.errno == errno.EROFS:
        return f"{directory} is read-only: choose another directory"
    if error.errno in {errno.EPERM, errno.EACCES}:
        return f"this process may not write or mount in {directory}{note}: run as root, or choose another directory"
    return f"{error.strerror}{note}: choose a directory on another file system (--store DIR)"
