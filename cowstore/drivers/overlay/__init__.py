"""Driver ``overlay``: an upper directory per snapshot, its ancestors' as lower ones.

On disk, below the driver's directory::

    <id>/fs        the snapshot's own layer; for an adopted one a symbolic link to the directory
    <id>/work      overlay's scratch directory
    <id>/parent    symbolic link to ../<parent's id>; an id without one has no parent
    <id>/nested    there if the store lies below the adopted directory
    <id>/quota     there if the snapshot's size is limited, see cowstore.drivers._limits
    <id>/image     in place of fs and work, which are in it, see cowstore.drivers._image
    new-<id>/      an id in the making, renamed when complete
    empty/         lowest layer of a snapshot without parents, so that it is an overlay too
    images         there if there has ever been an image
    userxattr      there if the layers' marks are in user.overlay.*, as an ordinary user makes them
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import ExitStack

from cowstore import _faults
from cowstore.driver import NoOptions
from cowstore.drivers._sized import IMAGES, Options, SizedDriver
from cowstore.errors import InvalidArgument, StoreCorrupt
from cowstore.model import STACKED, Capabilities, Mount, MountFlag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cowstore._linux.loop import LoopDevice
    from cowstore.results import Change, DriverStatus, FindingKind, Problem, Usage

__all__ = ["NoOptions", "Options", "Overlay"]

MAX_LOWERS = 500
"""Lower layers the kernel takes. Source: OVL_MAX_STACK in fs/overlayfs/params.h."""

EMPTY = "empty"
USERXATTR = "userxattr"

BOOKKEEPING = ("trusted.overlay.", "user.overlay.")
"""Extended attributes in which overlay keeps its marks."""

_STATED = (
    (b"index", b"off", "index"),
    (b"redirect_dir", b"off", "redirect_dir"),
    (b"metacopy", b"off", "metacopy"),
    (b"xino", b"auto", "xino_auto"),
)
"""Options that are stated whatever the kernel's own defaults, and the module parameter by which it has them.

index would tie an upper layer to the lower ones it was first used with; with redirect_dir or metacopy it would no
longer hold all that changed. xino lets files on one file system and their copies on another look like one device's,
which programs that stay on one file system count on; where that cannot be, auto is off.
"""

_NOT_FOR_USERS = frozenset((b"redirect_dir", b"metacopy"))
"""Off with userxattr in any case, and refused as options beside it."""


class Overlay(SizedDriver):
    """Snapshots are overlays. What differs from the law is the kernel's.

    A program cannot rename(2) a directory that comes from a parent (EXDEV, as across file systems; ``mv`` copies then).
    A file with several names loses those that were not written through, when it is first written to.
    """

    name = "overlay"
    own_names = frozenset((EMPTY, USERXATTR, IMAGES))
    capabilities = Capabilities(
        max_depth=MAX_LOWERS,
        shares_page_cache=True,
        directory_rename=False,
        shared_writing=False,
        adopts=True,
        volatile_mounts=True,
        rootless=True,
        kernel_changes=True,
    )

    def __init__(self, directory: str, options: object, *, volatile: bool = False, read_only: bool = False) -> None:
        """Take hold of *directory*; on first use, find out in which attributes overlay can keep its marks here."""
        super().__init__(directory, options, volatile=volatile, read_only=read_only)
        self._raw = os.fsencode(directory) + b"/"
        self._stated: tuple[tuple[bytes, bytes], ...] | None = None
        self._no_image = -1
        try:
            if not read_only:
                self._prepare_directory()
            self.userxattr = self.has(USERXATTR)
        except BaseException:
            self.close()
            raise

    def _prepare_directory(self) -> None:
        try:
            os.mkdir(EMPTY, 0o755, dir_fd=self._fd)
        except FileExistsError:
            return
        _faults.point("overlay.open.made")
        self.bear_nothing_down()
        if not keeps_trusted_marks(os.path.join(self.directory, EMPTY)):
            os.close(os.open(USERXATTR, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=self._fd))

    @classmethod
    def probe(cls, directory: str, options: object) -> None:
        """Mount small overlays in *directory*, and delete files, replace directories and mount volatile in them."""
        from cowstore.drivers.overlay._probe import probe

        probe(directory)

    # Ids.

    def create(self, id: int, parent: int | None, size_bytes: int | None) -> None:
        """Make the three directories of *id*; they get their name when they are complete."""
        self.check_size(id, size_bytes)
        new = f"new-{id}"
        try:
            self.start(id, parent)
            if size_bytes is None:
                self._fill(new, parent)
            else:
                with self.sized(new, size_bytes) as where:
                    self._fill(where, parent)
            self.finish(new, id)
        except BaseException as error:
            self.give_up(new)
            if isinstance(error, OSError):
                self.tell(error, f"make snapshot {id}")
            raise

    def _fill(self, where: str, parent: int | None) -> None:
        """Make the scratch directory and the layer below *where*, absolute or in the driver's directory."""
        os.mkdir(f"{where}/work", 0o700, dir_fd=self._fd)
        _faults.point("overlay.create.work")
        os.mkdir(f"{where}/fs", 0o755, dir_fd=self._fd)
        _faults.point("overlay.create.fs")
        if parent is None:
            os.chmod(f"{where}/fs", 0o755, dir_fd=self._fd)  # the umask may have taken from it
        # What is sealed stays what it is, and children often have the same parent.
        elif parent == self._no_image or not self.is_image(str(parent)):
            self._no_image = parent
            self._inherit(f"{where}/fs", f"{parent}/fs")
        else:
            with ExitStack() as stack:
                self._inherit(f"{where}/fs", self.images.tree(stack, str(parent)))
        _faults.point("overlay.create.dressed")

    def _path(self, name: str) -> bytes:
        """Return the whole path of what lies in the driver's directory."""
        return os.fsencode(name) if name.startswith("/") else self._raw + name.encode()

    def _inherit(self, own: str, parents: str) -> None:
        """Give a fresh root directory what the parent's has: the merged root is the upper one."""
        fd = self._fd
        found = os.stat(parents, dir_fd=fd)
        if found.st_uid != os.geteuid() or found.st_gid != os.getegid():
            os.chown(own, found.st_uid, found.st_gid, dir_fd=fd)
        os.chmod(own, stat.S_IMODE(found.st_mode), dir_fd=fd)
        source = self._path(parents)
        for name in os.listxattr(source):
            if not name.startswith(BOOKKEEPING):
                try:
                    os.setxattr(self._path(own), name, os.getxattr(source, name))
                except OSError as error:
                    if error.errno not in {errno.ENOTSUP, errno.ENODATA}:
                        raise
        # Last, since the others alter it.
        os.utime(own, ns=(found.st_atime_ns, found.st_mtime_ns), dir_fd=fd)

    def remove(self, id: int) -> None:
        """Remove the directories of *id*; what is in the making is seldom there."""
        if self._images is not None:
            self._images.release(id)
        self.remove_directory(str(id))
        _faults.point("overlay.remove.removed")
        if self.has(new := f"new-{id}"):
            self.remove_directory(new)

    def remove_directory(self, name: str) -> None:
        """Remove one id's directory; without reading any, where there is nothing in the layer."""
        fd = self._fd
        try:
            try:
                os.rmdir(f"{name}/fs", dir_fd=fd)
            except FileNotFoundError:
                if not self.has(name):
                    return
            if not self._remove_work(name):
                from cowstore.drivers.overlay._volatile import take_mark_away

                take_mark_away(f"{self.directory}/{name}/work")
                os.rmdir(f"{name}/work/work", dir_fd=fd)
                os.rmdir(f"{name}/work", dir_fd=fd)
            _faults.point("overlay.remove.emptied")
            try:
                os.unlink(f"{name}/parent", dir_fd=fd)
            except FileNotFoundError:
                pass
            os.rmdir(name, dir_fd=fd)
        except OSError:
            super().remove_directory(name)

    def _remove_work(self, name: str) -> bool:
        """Remove the scratch directory as an overlay leaves it; False where it was used as a volatile one."""
        try:
            os.rmdir(f"{name}/work", dir_fd=self._fd)
        except FileNotFoundError:
            return True
        except OSError:
            return self._remove_used_work(name)
        return True

    def _remove_used_work(self, name: str) -> bool:
        """Remove what an overlay made in the scratch directory, which is empty, and it."""
        try:
            for part in ("work/work", "work"):
                os.rmdir(f"{name}/{part}", dir_fd=self._fd)
        except OSError:
            return False
        return True

    def adopt(self, id: int, path: str) -> None:
        """Make *id* whose layer is a symbolic link to *path*."""
        real = os.path.realpath(path)
        own = os.path.realpath(self.directory)
        if real == own or real.startswith(own + "/"):
            raise InvalidArgument(f"cannot adopt {path}: it lies inside the store", argument="path")
        new = f"new-{id}"
        try:
            self.start(id, None)
            os.symlink(real, f"{new}/fs", dir_fd=self._fd)
            _faults.point("overlay.adopt.linked")
            if self._lies_below(real):
                os.mkdir(f"{new}/nested", 0o700, dir_fd=self._fd)
            _faults.point("overlay.adopt.tried")
            self.finish(new, id)
        except OSError as error:
            self.give_up(new)
            self.tell(error, f"adopt {path}")
            raise

    def _lies_below(self, path: str) -> bool:
        """Find out whether the kernel takes *path* and a directory of the store as layers of one overlay.

        It does not (ELOOP) where one lies below the other on one file system. Comparing paths would miss bind mounts.
        """
        from cowstore.mounting import detached

        trial = self._overlay([os.fsencode(path), self._raw + EMPTY.encode()])
        try:
            detached((trial,)).close()
        except OSError as error:
            if error.errno == errno.ELOOP:
                return True
            raise
        return False

    # Mounts.

    def mounts(self, id: int, read_only: bool, *, volatile: bool = False) -> tuple[Mount, ...]:
        """Describe the overlay of *id* over its ancestors."""
        return self.described(id, read_only, None, volatile=volatile)

    def described(
        self, id: int, read_only: bool, held: list[LoopDevice] | None, *, volatile: bool = False
    ) -> tuple[Mount, ...]:
        """Describe the overlay of *id*; what it needs is put to *held*, or kept until it is released."""
        chain = self.chain(str(id))
        last = chain[-1]
        adopted = self._is_adopted(last)
        lowers = [self._raw + name.encode() + b"/fs" for name in chain]
        images: tuple[Mount, ...] = ()
        if self.may_have_images():
            needed = self.images.hold(id) if held is None else held
            images, lowers = self.images.layers(chain, needed, read_only=read_only)
        if read_only or (adopted and len(chain) == 1):
            if adopted and len(chain) == 1:
                return (Mount(type="bind", source=lowers[0], flags=MountFlag.RDONLY),)
            own: tuple[tuple[bytes, bytes], ...] = ()
        else:
            own = self._own(chain[0], lowers.pop(0), volatile=volatile or self.volatile)
        if len(lowers) < (1 if own else 2):
            lowers.append(self._raw + EMPTY.encode())
        below: tuple[Mount, ...] = ()
        if adopted and len(lowers) > 1 and self.has(f"{last}/nested"):
            # Two layers on one file system, one below the other: the kernel takes them with an overlay between.
            ground = Mount(type="tmpfs", source=b"tmpfs", options=((b"mode", b"755"), (b"size", b"4k")))
            below = (ground, self._overlay([lowers[-1], STACKED]))
            lowers[-1] = STACKED
        elif len(lowers) > MAX_LOWERS:
            split = len(lowers) - MAX_LOWERS
            below = (self._overlay(lowers[split:]),)
            lowers[split:] = [STACKED]
        return (*images, *below, self._overlay(lowers, own))

    def _overlay(self, lowers: list[bytes], own: tuple[tuple[bytes, bytes], ...] = ()) -> Mount:
        options = (*self.stated_options(), *[(b"lowerdir+", lower) for lower in lowers], *own)
        flags = MountFlag.NONE if own else MountFlag.RDONLY
        return Mount(type="overlay", source=b"overlay", options=options, flags=flags)

    def _own(self, name: str, upper: bytes, *, volatile: bool) -> tuple[tuple[bytes, bytes], ...]:
        """Describe the writable layer."""
        work = upper[:-2] + b"work"
        if not upper.startswith(STACKED):
            self._ready(work)
        else:
            with ExitStack() as stack:
                self._ready(os.fsencode(self.images.tree(stack, name, "work")))
        own = ((b"upperdir", upper), (b"workdir", work))
        return (*own, (b"volatile", b"")) if volatile else own

    def _ready(self, work: bytes) -> None:
        """Make a scratch directory that has been used before fit for use."""
        if self.userxattr:
            from cowstore.drivers.overlay._volatile import open_up

            open_up(work)
        if os.path.exists(work + b"/work/incompat/volatile"):
            from cowstore.drivers.overlay._volatile import clear_mark

            clear_mark(os.fsdecode(work), keeps=not self.volatile)

    def stated_options(self) -> tuple[tuple[bytes, bytes], ...]:
        """List the options that every overlay of this store is mounted with."""
        if self._stated is None:
            try:
                known = set(os.listdir("/sys/module/overlay/parameters"))
            except OSError:
                known = {parameter for _, _, parameter in _STATED}
            stated = [(name, value) for name, value, parameter in _STATED if parameter in known]
            if self.userxattr:
                stated = [(b"userxattr", b""), *(pair for pair in stated if pair[0] not in _NOT_FOR_USERS)]
            self._stated = tuple(stated)
        return self._stated

    # Questions.

    def _is_adopted(self, name: str) -> bool:
        try:
            return stat.S_ISLNK(os.stat(f"{name}/fs", dir_fd=self._fd, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return False

    def seal(self, id: int) -> None:
        """Write out the file system the layers are on. An adopted directory is somebody else's."""
        if not self._is_adopted(str(id)):
            super().seal(id)

    def usage(self, id: int) -> Usage:
        """Measure the layer of *id*. An adopted directory is not the store's, and counts nothing."""
        if self._is_adopted(str(id)):
            from cowstore.results import Usage

            return Usage(size_bytes=0, inodes=0)
        return super().usage(id)

    def changes(self, id: int, base: int | None) -> Iterator[Change]:
        """Tell what differs; from an ancestor by looking only at what the layers between hold."""
        chain = self.chain(str(id))
        if base is None or str(base) not in chain[1:]:
            return self._compared(id, base)
        return self._changes(id, base, chain[: chain.index(str(base))])

    def _compared(self, id: int, base: int | None) -> Iterator[Change]:
        """Compare the trees."""
        from cowstore.mounting import detached
        from cowstore.trees.compare import compare

        with ExitStack() as stack:
            trees = [
                stack.enter_context(detached(stack.enter_context(self.looked_at(one))))
                for one in (id, base)
                if one is not None
            ]
            yield from compare(trees[1].fileno() if len(trees) > 1 else None, trees[0].fileno())

    def _changes(self, id: int, base: int, own: list[str]) -> Iterator[Change]:
        from cowstore.drivers.overlay._changes import Foreign, changes
        from cowstore.mounting import detached

        prefix = "user.overlay." if self.userxattr else "trusted.overlay."
        last = b""
        try:
            with ExitStack() as stack:
                tree = stack.enter_context(detached(stack.enter_context(self.looked_at(base))))
                if self.may_have_images():
                    layers = [self.images.tree(stack, name) for name in own]
                else:
                    layers = [f"{self.directory}/{name}/fs" for name in own]
                for change in changes(layers, tree.fileno(), prefix):
                    last = os.fsencode(change.path)
                    yield change
        except Foreign as mark:
            where = f"{self.directory}/{id}"
            if str(mark) == "metacopy":
                raise StoreCorrupt(
                    f"cannot compare {where}: somebody mounted it with metacopy=on, and the kernel hides its files "
                    "without; write each of them anew in such a mount, or remove the snapshot",
                    path=where,
                ) from mark
            from cowstore._log import logger

            logger(__name__).warning(
                "%s was mounted by somebody else, with redirect_dir=on: comparing everything", where
            )
            # Both tell the same in the same order.
            for change in self._compared(id, base):
                if os.fsencode(change.path) > last:
                    yield change

    def status(self) -> DriverStatus:
        """Tell of the file system the layers are on, and how overlays are mounted."""
        from cowstore.drivers._backing import status

        options = [name + b"=" + value if value else name for name, value in self.stated_options()]
        details = {
            "marks": "user.overlay.*" if self.userxattr else "trusted.overlay.*",
            "mount options": os.fsdecode(b",".join(options)),
        }
        return status(self.directory, details)

    def examine(self, id: int, parent: int | None, sealed: bool) -> Iterator[Problem]:
        """Look at the directories of *id*, and try to mount it."""
        yield from super().examine(id, parent, sealed)
        if not sealed and self.has(f"{id}/fs") and not self.has(f"{id}/work"):
            from cowstore.results import FindingKind, Problem

            text = f"{self.directory}/{id}/work is not there"
            yield Problem(kind=FindingKind.UNFINISHED, text=text, repair=True)

    def repair(self, id: int, parent: int | None, sealed: bool, kind: FindingKind) -> bool:
        """Mend the link to the parent, or make the scratch directory anew."""
        if kind == "unfinished":
            os.mkdir(f"{id}/work", 0o700, dir_fd=self._fd)
            return True
        return super().repair(id, parent, sealed, kind)


def keeps_trusted_marks(path: str) -> bool:
    """Find out whether overlay's marks can be written as ``trusted.*`` attributes: only the machine's own root may."""
    name = "trusted.overlay.cowstore"
    try:
        os.setxattr(path, name, b"")
    except OSError as error:
        if error.errno in {errno.EPERM, errno.ENOTSUP}:
            return False
        raise
    os.removexattr(path, name)
    return True
