"""What all verbs of one open store share: its catalog, its driver, its locks, and the steps several verbs take."""

from __future__ import annotations

import errno
import os
from _thread import RLock  # threading itself takes half a millisecond to import
from contextlib import ExitStack

from cowstore import _forks, leases
from cowstore._rows import CREATING
from cowstore.errors import Busy, CowstoreError, NotFound, OutOfSpace, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from cowstore._rows import Row
    from cowstore.catalog import Catalog
    from cowstore.driver import Driver


_BALLAST = "ballast"
_BALLAST_BYTES = 256 << 10
"""More than the records of one removal take."""


class Core:
    """The inside of a :class:`~cowstore.store.Store`.

    :ivar root: absolute path of the store's directory. :ivar catalog: its catalog. :ivar token: this store's token of
        ownership, empty until the first verb that writes.
    :ivar confined: this process is an ordinary user's and may not mount; a helper of its own does what needs that.
    :ivar options: the driver's, as the store was opened.
    :ivar root_fd, leases_fd, owners_fd: descriptors of its directories; ``root_fd`` is locked shared.
    """

    def __init__(
        self,
        root: str,
        catalog: Catalog,
        driver_type: type[Driver],
        options: object,
        *,
        volatile: bool,
        read_only: bool,
    ) -> None:
        self.root = root
        self.catalog = catalog
        self.driver_type = driver_type
        self.volatile = volatile
        self.read_only = read_only
        self.lock = RLock()
        self.token = ""
        self.options = options
        self.confined = os.geteuid() != 0 and _is_confined()
        self._driver: Driver | None = None
        self._token_fd = -1
        self._generation = _forks.generation
        self.closed = False
        self._stack = ExitStack()
        self.root_fd = leases.open_store(root)
        self._stack.callback(leases.drop, self.root_fd)
        self.leases_fd = self._directory("leases")
        self.owners_fd = self._directory("owners")

    def _directory(self, name: str) -> int:
        """Open one of the store's own directories, to be closed with the store."""
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.root_fd)
        self._stack.callback(os.close, fd)
        return fd

    @property
    def driver(self) -> Driver:
        """The driver, taken hold of at first use: looking at the catalog needs none."""
        if self._generation != _forks.generation:
            self._after_fork()
        driver = self._driver
        if driver is None:
            with self.lock:
                if self.closed:
                    raise CowstoreError(f"the store {self.root} is closed; open it again")
                driver = self._driver
                if driver is None:
                    directory = os.path.join(self.root, self.driver_type.name)
                    driver = self.driver_type(directory, self.options, volatile=self.volatile, read_only=self.read_only)
                    if self.confined:
                        from cowstore._rootless.confined import Confined

                        driver = Confined(driver)
                    self._driver = driver
        return driver

    def own(self, verb: str) -> str:
        """Return this store's token of ownership, taking one at the first verb that writes.

        :raises Unsupported: the store is open for reading only.
        """
        if self.read_only:
            raise Unsupported(
                f"cannot {verb}: the store {self.root} is open read-only; open it without read_only", feature="write"
            )
        if self._generation != _forks.generation:
            self._after_fork()
        if not self.token:
            with self.lock:
                if self.closed:
                    raise CowstoreError(f"cannot {verb}: the store {self.root} is closed; open it again")
                if not self.token:
                    self.token, self._token_fd = leases.take_owner(self.owners_fd)
        return self.token

    def _after_fork(self) -> None:
        """Become a store of its own in a forked child: the parent's locks and ownership stay the parent's.

        The descriptors of directories are shared without harm; the locked ones are closed already.
        """
        self.lock = RLock()
        self.token, self._token_fd = "", -1
        self._driver = None
        self._generation = _forks.generation

    @property
    def forked(self) -> bool:
        """Whether this process is a child of the one that opened the store and has not written yet."""
        return self._generation != _forks.generation

    def close(self) -> None:
        """Let go of everything. Closing twice is fine."""
        with self.lock:
            if self.closed:
                return
            self.closed = True
            with self._stack:
                self._stack.callback(self.catalog.close)
                driver, self._driver = self._driver, None
                if driver is not None and not self.forked:
                    self._stack.callback(driver.close)
                if self.token and not self.forked:
                    self._stack.callback(leases.forget_owner, self.owners_fd, self.token, self._token_fd)

    def disown(self) -> None:
        """Forget the token without removing its file: the directory it is in is gone."""
        if self.token:
            leases.drop(self._token_fd)
            self.token = ""

    def doing(self, verb: str, what: str) -> _Doing:
        """Turn what the kernel refuses in the block into an error that says what was tried, on what."""
        return _Doing(self.root, verb, what)

    def create(self, row: Row, size_bytes: int | None) -> None:
        """Let the driver make the data of a row, under an id at which nothing lies."""
        self.free_id(row)
        self.driver.create(row.id, row.parent, size_bytes)

    def free_id(self, row: Row) -> None:
        """Give a row another id while something that no snapshot owns lies where its data would go."""
        while self.driver.holds(row.id):
            from cowstore._log import logger

            logger(__name__).warning(
                "%s: data of id %d that no snapshot owns are in the way; using another id (see `cowstore check`)",
                self.root,
                row.id,
            )
            row.id = self.catalog.renumber(row)

    def undo(self, id: int, *, has_data: bool = True) -> None:
        """Take back a row in the making and its data; what cannot be taken back now is at the next open."""
        try:
            if has_data:
                self.driver.remove(id)
            self.catalog.drop(id)
        except (OSError, CowstoreError) as error:
            from cowstore._log import logger

            logger(__name__).warning("%s: cannot take back the unfinished id %d now: %s", self.root, id, error)

    def put_ballast(self) -> None:
        """Put some room by, so that on a file system that is full to the last block something can be removed."""
        try:
            fd = os.open(_BALLAST, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self.root_fd)
        except OSError:
            return  # It is there, or there is no room for it.
        try:
            os.posix_fallocate(fd, 0, _BALLAST_BYTES)
        except OSError:
            self.give_up_ballast()
        finally:
            os.close(fd)

    def give_up_ballast(self) -> bool:
        """Free what was put by; False if there is nothing."""
        try:
            os.unlink(_BALLAST, dir_fd=self.root_fd)
        except OSError:
            return False
        return True

    def seize(self, key: str, verb: str) -> tuple[Row, int]:
        """Take the exclusive lease of *key*; returns its row, and the lock's descriptor.

        While it is held the key goes on naming the same snapshot: who commits or removes it needs the lease too.

        :raises NotFound: there is none. :raises Busy: somebody holds a lease, or has it mounted by
            :func:`cowstore._leased.attach`.
        """
        while True:
            row = self.wanted(key, verb)
            fd = self.seize_row(row, verb)
            now = self.catalog.find(key)
            if now is not None and now.id == row.id:
                return now, fd
            # Committed or removed since it was looked up, and perhaps the key was used again.
            leases.discard(self.leases_fd, row.id, fd)

    def wanted(self, key: str, verb: str) -> Row:
        """Return the row of a snapshot that is there, or was to be removed and is still half there.

        :raises NotFound: there is none.
        """
        row = self.catalog.find(key)
        if row is None or row.state == CREATING:
            raise NotFound(f"there is no snapshot {key!r} to {verb}; `cowstore ls` lists them", key=key)
        return row

    def seize_row(self, row: Row, verb: str) -> int:
        """Take the exclusive lease of a row; returns the lock's descriptor.

        :raises Busy: as :meth:`seize`.
        """
        fd = self.lock_row(row, verb)
        try:
            self.refuse_attached(row, verb)
        except BaseException:
            leases.drop(fd)
            raise
        return fd

    def lock_row(self, row: Row, verb: str) -> int:
        """Take the exclusive lease of a row that may be recorded as mounted; returns the lock's descriptor.

        :raises Busy: somebody holds a lease.
        """
        try:
            fd = leases.seize(self.leases_fd, row.id)
        except OSError as error:
            # Not even a lock's file finds room: what was put by gives an inode too.
            if error.errno != errno.ENOSPC or not self.give_up_ballast():
                raise
            fd = leases.seize(self.leases_fd, row.id)
        if fd is None:
            from cowstore._leased import busy

            raise busy(self, row, verb)
        return fd

    def refuse_attached(self, row: Row, verb: str) -> None:
        """Forget the records of mounts that are gone.

        :raises Busy: it is mounted by :func:`cowstore._leased.attach`.
        """
        from cowstore._leased import still_attached

        targets = still_attached(self.catalog, row.id)
        if targets:
            raise Busy(
                f"cannot {verb} {row.key!r}: it is mounted at {', '.join(targets)}; "
                f"unmount it (`cowstore umount {targets[0]}`)",
                key=row.key,
            )


class _Doing:
    """See :meth:`Core.doing`. A class, since a generator takes three times as long."""

    __slots__ = ("_root", "_verb", "_what")

    def __init__(self, root: str, verb: str, what: str) -> None:
        self._root, self._verb, self._what = root, verb, what

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError):
            raise from_os(error, f"cannot {self._verb} {self._what!r} in {self._root}", self._root) from error


def _is_confined() -> bool:
    from cowstore._rootless.confined import is_confined

    return is_confined()


def from_os(error: OSError, tried: str, root: str) -> CowstoreError:
    """Say what the kernel refused of the store at *root*, with a way out where one is known."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        from cowstore.trees.usage import what_is_full

        what = what_is_full(error, root)
        ways = {"inodes": "remove files or snapshots there: no inodes are left", "quota": "raise the limit"}
        return OutOfSpace(f"{tried}: {error}; {ways.get(what, 'free some space')}", what=what)
    if error.errno in {errno.EPERM, errno.EACCES}:
        return CowstoreError(
            f"{tried}: {error}; you (user {os.geteuid()}) may not: run as root or as the owner of the store"
        )
    if error.errno == errno.EROFS:
        return Unsupported(f"{tried}: {error}; the file system is read-only: put the store elsewhere", feature="write")
    return CowstoreError(f"{tried}: {error}")
