"""The driver itself; see the package for what is where."""

from __future__ import annotations

import errno
import os
import stat
import time
from contextlib import ExitStack, suppress

from cowstore import _faults
from cowstore.drivers._directories import DirectoryDriver
from cowstore.drivers.aufs import builder, marks, opaque, plink, view
from cowstore.drivers.aufs.options import Options
from cowstore.errors import Busy
from cowstore.model import Capabilities
from cowstore.mounting import aufs as live

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cowstore.model import Mount
    from cowstore.results import Change, DriverStatus, FindingKind, Problem, Usage

FLUSHED = "flushed"

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# AUFS lets go of a branch a moment after the unmount.
_BUSY_ATTEMPTS = 20
_BUSY_PAUSE_SECONDS = 0.1


class Aufs(DirectoryDriver):
    """Snapshots are AUFS mounts. What differs from the law is the kernel's.

    A program cannot rename(2) a directory that comes from a parent and is not empty (EXDEV), nor use names of more than
    242 bytes, nor names that begin with ``.wh.`` (EPERM). Hard links of a file from a parent follow it only while the
    mount lasts: :meth:`before_unmount` must be called before the unmount.
    """

    name = "aufs"
    Options = Options
    own_names = frozenset((marks.DIRECTORY,))
    capabilities = Capabilities(
        max_depth=builder.MAX_BRANCHES - 1,
        shares_page_cache=True,
        directory_rename=False,
        shared_writing=False,
        kernel_changes=True,
        exact_times=False,
        xattr_removal=False,
    )

    def __init__(self, directory: str, options: object, *, volatile: bool = False, read_only: bool = False) -> None:
        """Take hold of *directory*, and tell of pseudo-links that a killed process has left."""
        super().__init__(directory, options, volatile=volatile, read_only=read_only)
        assert isinstance(options, Options)
        self._options = options
        self._parents: dict[str, str] = {}
        self._marks = marks.Marks(self._fd)
        self._xino_directory = ""
        if options.max_branches != builder.MAX_BRANCHES:
            import dataclasses

            self.capabilities = dataclasses.replace(self.capabilities, max_depth=options.max_branches - 1)
        if read_only:
            return
        try:
            with suppress(FileExistsError):
                os.mkdir(marks.DIRECTORY, 0o700, dir_fd=self._fd)
                self.bear_nothing_down()
            self._tell_of_broken_links()
        except BaseException:
            self.close()
            raise

    @classmethod
    def probe(cls, directory: str, options: object) -> None:
        """Make a small mount in *directory*, with all that later ones need."""
        from cowstore.drivers.aufs.probe import probe

        assert isinstance(options, Options)
        probe(directory, options)

    def close(self) -> None:
        """Let go of the marks, and close the driver's directory."""
        self._marks.close()
        super().close()

    # Ids.

    def chain(self, name: str) -> list[str]:
        """List an id and its ancestors, nearest first; a parent that was read once is known."""
        found = [name]
        known = self._parents
        while (above := known.get(name)) is not None:
            if not above:
                return found
            found.append(above)
            name = above
        for above in super().chain(name)[1:]:
            known[found[-1]] = above
            found.append(above)
        if len(found) > 1:
            # Whatever has children is never made anew.
            known[found[-1]] = ""
        return found

    def create(self, id: int, parent: int | None, size_bytes: int | None) -> None:
        """Make the branch of *id*; it gets its name when it is complete."""
        self.refuse_size(id, size_bytes)
        self._parents.pop(str(id), None)
        new = f"new-{id}"
        try:
            self.start(id, parent)
            os.mkdir(f"{new}/fs", 0o755, dir_fd=self._fd)
            _faults.point("aufs.create.fs")
            self._furnish(f"{new}/fs")
            if parent is None:
                os.chmod(f"{new}/fs", 0o755, dir_fd=self._fd)  # the umask may have taken from it
            else:
                self._dress(f"{self.directory}/{new}/fs", f"{self.directory}/{parent}/fs")
            _faults.point("aufs.create.dressed")
            self.finish(new, id)
        except OSError as error:
            self.give_up(new)
            self.tell(error, f"make snapshot {id}")
            raise

    def _furnish(self, branch: str) -> None:
        """Make what AUFS would make at the first mount, which would then alter the time of the tree's root."""
        for name in (view.ORPHANS, view.PSEUDO_LINKS):
            os.mkdir(f"{branch}/{name}", 0o700, dir_fd=self._fd)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        os.close(os.open(f"{branch}/{view.BASE}", flags, 0o444, dir_fd=self._fd))

    @staticmethod
    def _dress(own: str, parents: str) -> None:
        """Give a fresh root directory what the parent's has: the mount's root is the topmost branch's."""
        found = os.stat(parents)
        os.chown(own, found.st_uid, found.st_gid)
        os.chmod(own, stat.S_IMODE(found.st_mode))
        for name in os.listxattr(parents):
            try:
                os.setxattr(own, name, os.getxattr(parents, name))
            except OSError as error:
                # EINVAL: AUFS leaves capabilities empty where it should take them away.
                if error.errno not in {errno.ENOTSUP, errno.ENODATA, errno.EINVAL}:
                    raise
        # Last, since the others alter it.
        os.utime(own, ns=(found.st_atime_ns, found.st_mtime_ns))

    def seal(self, id: int) -> None:
        """Take AUFS' bookkeeping out of the branch, and write out the file system it is on."""
        from cowstore.trees.remove import remove_tree

        if self._marks.there(id):
            self._settle(id)
        branch = os.open(f"{id}/fs", _DIRECTORY, dir_fd=self._fd)
        try:
            before = os.fstat(branch)
            view.clear(branch, remove_tree)
            os.utime(branch, ns=(before.st_atime_ns, before.st_mtime_ns))
        finally:
            os.close(branch)
        # Whatever was broken is so for good.
        self._marks.drop(id, remove=True)
        _faults.point("aufs.seal.cleared")
        super().seal(id)

    def remove(self, id: int) -> None:
        """Remove the branch of *id*, which AUFS may hold a moment longer than the mount.

        :raises Busy: it holds it much longer: the mount was only taken off its place, and somebody still uses it.
        """
        self._parents.pop(str(id), None)
        for attempt in range(_BUSY_ATTEMPTS):
            try:
                super().remove(id)
                break
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                if attempt == _BUSY_ATTEMPTS - 1:
                    raise Busy(
                        f"cannot remove {self.directory}/{id}: it is in use{_holders()}; end what uses it, and remove "
                        "it again"
                    ) from error
                time.sleep(_BUSY_PAUSE_SECONDS)
        self._marks.drop(id, remove=True)

    # Mounts.

    def mounts(self, id: int, read_only: bool, *, volatile: bool = False) -> tuple[Mount, ...]:
        """Describe the mount of the branch of *id* over its ancestors', and the remounts that add those left over."""
        here = os.fsencode(self.directory)
        paths = [b"%s/%s/fs" % (here, name.encode()) for name in self.chain(str(id))]
        writable = not (read_only or self.read_only)
        if writable:
            # It is mounted so by one at a time: whoever had marked it died, or did not release it.
            if self._marks.take(id):
                self._settle(id)
        elif not self.read_only:
            self._settle_dead(id)
        attributes = b"+icex" if self._options.ignore_xattrs else b""
        return builder.build(
            builder.branches_of(paths, writable=writable, attributes=attributes),
            options=self._mount_options(),
            read_only=not writable,
            max_branches=self._options.max_branches,
        )

    def _mount_options(self) -> tuple[tuple[bytes, bytes], ...]:
        """List the options of every mount; the table of inode numbers has a name of its own each time.

        dirperm1: what a parent's directory forbids does not matter once a child has opened it. acl: without it an ACL
        cannot be set, not even in the branch itself while it is mounted.
        """
        if not self._xino_directory:
            given = self._options.xino_directory
            self._xino_directory = given if os.path.isdir(given) else self.directory
        name = f"{self._xino_directory}/.cowstore-{os.urandom(8).hex()}.xino"
        return ((b"dio", b""), (b"dirperm1", b""), (b"acl", b""), (b"xino", os.fsencode(name)))

    def before_unmount(self, id: int, root_fd: int) -> None:
        """Make the other names of files with pseudo-links appear in the branch."""
        branch = os.open(f"{id}/fs", _DIRECTORY, dir_fd=self._fd)
        try:
            inodes = plink.pending(branch)
        finally:
            os.close(branch)
        if inodes:
            plink.flush(root_fd, inodes)
            _faults.point("aufs.unmount.flushed")
            os.close(os.open(f"{id}/{FLUSHED}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=self._fd))

    def release(self, id: int) -> None:
        """Put the branch in order, in which nobody has anything to write any more."""
        if not self.read_only and self._marks.there(id):
            self._marks.drop(id, remove=self._settle(id))

    def _settle(self, id: int) -> bool:
        """Take away the traces of a mount that is over; returns whether its hard links are whole."""
        if self.has(f"{id}/{FLUSHED}"):
            self._drop_links(id)
        self._order_marks(id)
        return not self._has_broken_links(id)

    def _settle_dead(self, id: int) -> None:
        """Do that for a mount whose process died."""
        with self._marks.seized(id) as alone:
            if alone and self._settle(id):
                self._marks.drop(id, remove=True)

    def _order_marks(self, id: int) -> None:
        """Spread the marks of opaque directories that AUFS would misread."""

        def opener(name: str) -> Callable[[], int]:
            return lambda: os.open(f"{name}/fs", _DIRECTORY, dir_fd=self._fd)

        branch = opener(str(id))()
        try:
            opaque.spread(branch, [opener(name) for name in self.chain(str(id))[1:]])
        finally:
            os.close(branch)
        _faults.point("aufs.settle.ordered")

    def _drop_links(self, id: int) -> None:
        branch = os.open(f"{id}/fs", _DIRECTORY, dir_fd=self._fd)
        try:
            plink.clear(branch)
        finally:
            os.close(branch)
        with suppress(FileNotFoundError):
            os.unlink(f"{id}/{FLUSHED}", dir_fd=self._fd)

    def _has_broken_links(self, id: int) -> bool:
        """Tell whether a mount of *id* ended without :meth:`before_unmount` while it had pseudo-links."""
        if self.has(f"{id}/{FLUSHED}"):
            return False
        try:
            branch = os.open(f"{id}/fs", _DIRECTORY, dir_fd=self._fd)
        except FileNotFoundError:
            return False
        try:
            return bool(plink.pending(branch))
        finally:
            os.close(branch)

    def _tell_of_broken_links(self) -> None:
        for id in self._marks.all():
            if self._has_broken_links(id) and not self._marks.lives(id):
                from cowstore._log import logger

                logger(__name__).warning(
                    "%s/%d was unmounted, or its process killed, before its pseudo-links were flushed: hard links of "
                    "files that come from a parent may show old content there",
                    self.directory, id,
                )  # fmt: skip

    # Questions.

    def unpack_directory(self, id: int) -> str | None:
        """Name none: through a mount, the kernel refuses the names that it could not show."""
        return None

    def usage(self, id: int) -> Usage:
        """Measure the branch without AUFS' own entries."""
        from cowstore.results import Usage

        found = super().usage(id)
        size_bytes, inodes = found.size_bytes, found.inodes
        for name in view.BOOKKEEPING:
            with suppress(FileNotFoundError):
                own = os.stat(f"{id}/fs/{name}", dir_fd=self._fd, follow_symlinks=False)
                size_bytes -= own.st_blocks * 512
                inodes -= 1
        return Usage(size_bytes=size_bytes, inodes=inodes)

    def changes(self, id: int, base: int | None) -> Iterator[Change]:
        """Tell what differs, read from the branches without a mount."""
        from cowstore.trees.compare import Comparison

        chain = self.chain(str(id))
        with ExitStack() as stack:

            def branches(names: list[str], *, partial: bool) -> view.Branches:
                roots = []
                for name in names:
                    roots.append(os.open(f"{name}/fs", _DIRECTORY, dir_fd=self._fd))
                    stack.callback(os.close, roots[-1])
                return stack.enter_context(view.Branches(roots, partial=partial))

            if base is None or str(base) not in chain[1:]:
                below = None if base is None else branches(self.chain(str(base)), partial=False)
                yield from Comparison(below, branches(chain, partial=False)).run()
                return
            cut = chain.index(str(base))
            own, ancestors = chain[:cut], chain[cut:]
            comparison = Comparison(
                branches(ancestors, partial=False),
                branches(own, partial=True),
                untouched=lambda keys: view.untouched(
                    branches(ancestors, partial=False), branches(own, partial=True), keys
                ),
            )
            yield from comparison.run()

    def status(self) -> DriverStatus:
        """Tell of the file system the branches are on, and how they are mounted."""
        from cowstore.drivers._backing import status

        stated = [name + b"=" + value if value else name for name, value in self._mount_options()[:-1]]
        details = {
            "aufs version": _version() or "none in this kernel",
            "mount options": os.fsdecode(b",".join(stated)),
            "dirperm1": "yes",
            "branches at most": str(self._options.max_branches),
        }
        return status(self.directory, details)

    def examine(self, id: int, parent: int | None, sealed: bool) -> Iterator[Problem]:
        """Look at the directory of *id*, and for hard links that a killed process has broken."""
        yield from super().examine(id, parent, sealed)
        if self._has_broken_links(id) and not self._marks.lives(id):
            from cowstore.results import FindingKind, Problem

            text = (
                f"{self.directory}/{id} was unmounted before its pseudo-links were flushed: hard links of files that "
                "come from a parent may show old content; repairing forgets that they belonged together"
            )
            yield Problem(kind=FindingKind.UNFINISHED, text=text, repair=True)

    def repair(self, id: int, parent: int | None, sealed: bool, kind: FindingKind) -> bool:
        """Mend the link to the parent, or drop pseudo-links that nothing can flush any more."""
        self._parents.clear()
        if kind != "unfinished":
            return super().repair(id, parent, sealed, kind)
        self._drop_links(id)
        self._settle_dead(id)
        return True


def _holders() -> str:
    """Say what may hold a branch, as far as AUFS can be asked."""
    if live.any_mount():
        return ", perhaps by an AUFS mount that was only taken off its place"
    return ""


def _version() -> str:
    """Tell the version of the kernel's AUFS; empty where there is none."""
    try:
        with open("/sys/module/aufs/version", encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
