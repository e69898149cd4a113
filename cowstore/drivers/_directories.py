"""What the drivers have in common that keep an id in a directory of its own: overlay and copy.

On disk, below the driver's directory::

    <id>/fs        the tree, or the layer
    <id>/parent    symbolic link to ../<parent's id>; an id without one has no parent
    new-<id>/      an id in the making, renamed when complete

Those whose sizes can be limited are in :mod:`cowstore.drivers._sized`.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager

from cowstore import _faults
from cowstore.driver import Driver
from cowstore.errors import DriverUnavailable, OutOfSpace, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cowstore.model import Mount
    from cowstore.results import FindingKind, Problem, Usage

__all__ = ["SCRATCH", "DirectoryDriver", "id_of", "measured"]

SCRATCH = ".probe-"
"""How the name of a probe's directory begins."""


class DirectoryDriver(Driver):
    """A driver whose ids are directories."""

    own_names: frozenset[str] = frozenset()
    """What lies beside the ids in the driver's directory."""

    def __init__(self, directory: str, options: object, *, volatile: bool = False, read_only: bool = False) -> None:
        """Open the driver's directory."""
        super().__init__(directory, options, volatile=volatile, read_only=read_only)
        self._fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Close the driver's directory."""
        fd, self._fd = self._fd, -1
        if fd != -1:
            os.close(fd)

    def bear_nothing_down(self) -> None:
        """Take from the driver's directory what it would hand down to all that is made in it, and so to snapshots."""
        try:
            os.removexattr(self.directory, "system.posix_acl_default")
        except OSError as error:
            if error.errno not in {errno.ENODATA, errno.ENOTSUP}:
                raise
        mode = os.stat(self.directory).st_mode
        if mode & stat.S_ISGID:
            os.chmod(self.directory, stat.S_IMODE(mode) & ~stat.S_ISGID)

    # Making and removing.

    def refuse_size(self, id: int, size_bytes: int | None) -> None:
        """Refuse to make an id of limited size."""
        if size_bytes is not None:
            raise Unsupported(
                f"cannot limit snapshot {id} to {size_bytes} bytes: the {self.name} driver enforces no sizes here; "
                "leave the size out, or use a driver whose capabilities list size_limits",
                feature="size_limits",
            )

    def start(self, id: int, parent: int | None) -> str:
        """Make the directory of an id in the making, without what a verb that was killed may have left; its name."""
        new = f"new-{id}"
        try:
            os.mkdir(new, 0o700, dir_fd=self._fd)
        except FileExistsError:
            self.remove_directory(new)
            os.mkdir(new, 0o700, dir_fd=self._fd)
        _faults.point(f"{self.name}.create.made")
        if parent is not None:
            os.symlink(f"../{parent}", f"{new}/parent", dir_fd=self._fd)
            _faults.point(f"{self.name}.create.linked")
        return new

    def finish(self, new: str, id: int) -> None:
        """Give a complete id its name."""
        try:
            os.rename(new, str(id), src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            self.remove_directory(new)  # made before: once is enough
        _faults.point(f"{self.name}.create.renamed")

    def give_up(self, new: str) -> None:
        """Remove an id that could not be completed; what caused that is the error to tell."""
        try:
            self.remove_directory(new)
        except OSError as error:
            from cowstore._log import logger

            logger(__name__).warning("cannot remove %s/%s: %s", self.directory, new, error)

    def seal(self, id: int) -> None:
        """Write out the file system that the id's tree is on."""
        if self.volatile:
            return
        from cowstore._linux.files import syncfs

        fd = os.open(f"{id}/fs", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._fd)
        try:
            syncfs(fd)
        except OSError as error:
            self.tell(error, f"write out snapshot {id}")
            raise
        finally:
            os.close(fd)
        _faults.point(f"{self.name}.seal.synced")

    def remove(self, id: int) -> None:
        """Remove the directories of *id*, finished or not."""
        self.remove_directory(str(id))
        _faults.point(f"{self.name}.remove.removed")
        self.remove_directory(f"new-{id}")

    def remove_directory(self, name: str) -> None:
        """Remove one directory below the driver's, and all in it."""
        from cowstore.trees.remove import remove_tree

        remove_tree(self._fd, name)

    def tell(self, error: OSError, what: str) -> None:
        """Raise the class that tells the caller what to do about an error of the kernel, where there is one."""
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            from cowstore.trees.usage import what_is_full

            raise OutOfSpace(
                f"cannot {what} in {self.directory}: {error.strerror}; free space or inodes there, or remove snapshots",
                what=what_is_full(error, self.directory),
            ) from error
        if error.errno == errno.ENODEV:
            raise DriverUnavailable(
                f"cannot {what}: this kernel has no {self.name} file system; load the module (modprobe {self.name})",
                driver=self.name,
                missing=[f"{self.name} in the kernel: modprobe {self.name}"],
            ) from error

    # Questions.

    def chain(self, name: str) -> list[str]:
        """List the directories of an id and its ancestors, nearest first."""
        chain = [name]
        fd = self._fd
        while True:
            try:
                name = os.readlink(f"{name}/parent", dir_fd=fd)[3:]
            except FileNotFoundError:
                return chain
            chain.append(name)

    def has(self, name: str) -> bool:
        """Tell whether there is anything of that name in the driver's directory."""
        return is_there(self._fd, name)

    def usage(self, id: int) -> Usage:
        """Measure the id's own directory tree."""
        return measured(f"{self.directory}/{id}/fs")

    def unpack_directory(self, id: int) -> str | None:
        """Name the id's own directory tree."""
        return f"{self.directory}/{id}/fs"

    def held(self) -> Iterable[int]:
        """List the ids by the names of their directories."""
        return sorted({id for name in os.listdir(self.directory) if (id := id_of(name)) is not None})

    def holds(self, id: int) -> bool:
        """Look for the directories of *id*."""
        return self.has(str(id)) or self.has(f"new-{id}")

    @contextmanager
    def looked_at(self, id: int) -> Iterator[tuple[Mount, ...]]:
        """Describe the mounts of *id* for a look that ends with the block, and with it what they need."""
        yield self.mounts(id, True)

    def examine(self, id: int, parent: int | None, sealed: bool) -> Iterator[Problem]:
        """Look at the directory of *id*, its link, and whether it can be mounted."""
        from cowstore.drivers._examine import examine

        return examine(self, id, parent)

    def repair(self, id: int, parent: int | None, sealed: bool, kind: FindingKind) -> bool:
        """Mend the link to the parent."""
        from cowstore.drivers._examine import repair

        return repair(self, id, parent, kind)

    def leftovers(self) -> Iterator[str]:
        """List whatever has none of the driver's names."""
        for name in os.listdir(self.directory):
            if name not in self.own_names and id_of(name) is None:
                yield f"{self.directory}/{name}"

    def remove_leftover(self, path: str) -> None:
        """Remove what :meth:`leftovers` listed."""
        from cowstore.trees.remove import remove_tree

        remove_tree(self._fd, os.path.basename(path))


def is_there(dir_fd: int, name: str) -> bool:
    """Tell whether there is anything of that name in a directory."""
    try:
        os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def measured(path: str) -> Usage:
    """Measure a directory tree."""
    from cowstore.results import Usage
    from cowstore.trees.usage import measure

    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        size_bytes, inodes = measure(fd)
    finally:
        os.close(fd)
    return Usage(size_bytes=size_bytes, inodes=inodes)


def id_of(name: str) -> int | None:
    """Tell the id of a directory, finished or in the making; None for anything else."""
    digits = name.removeprefix("new-")
    return int(digits) if digits.isascii() and digits.isdigit() and str(int(digits)) == digits else None
