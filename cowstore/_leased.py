"""Holding a snapshot, and mounting it: what `mounted`, the runtime and everybody else who needs a tree stands on."""

from __future__ import annotations

import errno
import itertools
import os
from contextlib import ExitStack, contextmanager

from cowstore import _faults, leases
from cowstore.errors import Busy, CowstoreError, NotFound, Unsupported
from cowstore.model import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator

    from cowstore._core import Core
    from cowstore._rows import Row
    from cowstore.catalog import Catalog
    from cowstore.model import Mount

MOUNT_POINTS = "mnt"
"""Directory of the store below which `mounted` mounts, as ``<owner's token>-<id>-<number>``."""

_numbers = itertools.count()


class Lease:
    """A snapshot held: busy for everybody until :meth:`close`, in whatever process the descriptor lives.

    :ivar key: its key. :ivar id: the id whose tree it shows (a view shows its parent's). :ivar fd: descriptor of the
        lock; a process that inherits it keeps the snapshot busy.
    :ivar read_only: nothing may be written.
    """

    __slots__ = ("_acquired", "_core", "_fds", "_mounts", "ephemeral", "fd", "id", "key", "read_only")

    def __init__(self, core: Core, key: str) -> None:
        """Hold *key* of a store.

        :raises NotFound: there is none.
        """
        self._core = core
        self._mounts: tuple[Mount, ...] | None = None
        self._acquired = False
        self._fds: list[int] = []
        self.key = key
        while True:
            row = core.catalog.get(key)
            self._fds = [leases.share(core.leases_fd, row.id)]
            if row.kind == Kind.VIEW:
                self._fds.append(leases.share(core.leases_fd, row.data_id))
            # While this waited for the lock, the snapshot may have been committed or removed, and its key used again.
            now = core.catalog.find(key)
            if now is not None and (now.id, now.kind, now.state) == (row.id, row.kind, "ready"):
                break
            leases.discard(core.leases_fd, row.id, self._fds.pop(0))
            self._drop()
            if now is not None and now.state not in {"ready", "creating"}:
                raise NotFound(
                    f"there is no snapshot {key!r} in {core.root} any more: it is being removed or committed", key=key
                )
        self.fd = self._fds[0]
        self.id = row.data_id
        self.ephemeral = bool(row.ephemeral)
        self.read_only = row.kind != Kind.ACTIVE or core.read_only

    @property
    def mounts(self) -> tuple[Mount, ...]:
        """The mounts that realise the tree; what they need is acquired at the first look."""
        if self._mounts is None:
            self.acquiring()
            driver = self._core.driver
            if self.ephemeral and not self.read_only and driver.capabilities.volatile_mounts:
                self._mounts = driver.mounts(self.id, False, volatile=True)
            else:
                self._mounts = driver.mounts(self.id, self.read_only)
        return self._mounts

    def acquiring(self) -> None:
        """Say that the driver acquires something for this id, so that the last lease to end gives it up."""
        self._acquired = True

    def kept_by_mount(self) -> None:
        """Say that a recorded mount goes on needing what was acquired, after this lease has ended."""
        self._acquired = False

    def before_unmount(self, root_fd: int) -> None:
        """Let the driver do what must happen while the tree is still mounted; for whoever unmounts a writable tree."""
        if not self.read_only:
            self._core.driver.before_unmount(self.id, root_fd)

    def close(self) -> None:
        """Give the snapshot up; if nobody else holds it, the driver gives up what its mounts needed."""
        try:
            # The last descriptor is that of the id whose tree it is.
            if self._acquired and self._fds and self._fds[-1] in leases.held() and leases.upgrade(self._fds[-1]):
                self._core.driver.release(self.id)
        finally:
            self._acquired = False
            self._drop()

    def _drop(self) -> None:
        while self._fds:
            leases.drop(self._fds.pop())


@contextmanager
def leased(core: Core, key: str) -> Iterator[Lease]:
    """Hold *key* for the length of the block."""
    lease = Lease(core, key)
    try:
        yield lease
    finally:
        lease.close()


@contextmanager
def mounted(core: Core, key: str) -> Iterator[pathlib.Path]:
    """Mount *key* for the length of the block, private, under a lease."""
    import pathlib

    from cowstore import mounting

    with ExitStack() as stack:
        with core.doing("mount", key):
            lease = stack.enter_context(leased(core, key))
            point = _mount_point(core, lease)
            stack.callback(os.rmdir, point)
            _faults.point("store.mounted.point")
            try:
                mounting.attach(lease.mounts, point)
            except OSError as error:
                if error.errno != errno.EPERM:
                    raise
                raise Unsupported(
                    f"cannot mount {key!r}: this process may not mount here ({error}); "
                    "run the program that wants the tree inside `cowstore unshare -- PROGRAM`, or as root",
                    feature="mount",
                ) from error
        _faults.point("store.mounted.attached")
        try:
            yield pathlib.Path(point)
        finally:
            with core.doing("unmount", key):
                unmount(lease, point)
            _faults.point("store.mounted.detached")


def unmount(lease: Lease, point: str) -> None:
    """Take down the tree of *lease* at *point*."""
    from cowstore import mounting

    try:
        if not lease.read_only:
            fd = os.open(point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                lease.before_unmount(fd)
            finally:
                os.close(fd)
    finally:
        # A driver that says what was lost (a full pool took no more) must not keep the tree mounted.
        mounting.detach(point)


def _mount_point(core: Core, lease: Lease) -> str:
    """Make the directory to mount on: below the store, or a temporary one where nothing may be written there."""
    if core.read_only:
        import tempfile

        return tempfile.mkdtemp(prefix="cowstore-")
    point = os.path.join(core.root, MOUNT_POINTS, f"{core.own('mount')}-{lease.id}-{next(_numbers)}")
    os.mkdir(point, 0o700)
    return point


# Mounts that stay beyond the life of the process that made them.


def namespace() -> str:
    """Name this mount namespace, unlike any other of any boot."""
    with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
        boot = file.read().strip()
    return f"{boot} {os.readlink('/proc/self/ns/mnt')}"


def attach(core: Core, key: str, target: str) -> None:
    """Mount *key* at *target*, and record it, so that the snapshot is busy as long as it is there."""
    from cowstore import mounting

    with leased(core, key) as lease:
        core.catalog.attach(lease.id, target, namespace())
        _faults.point("store.attach.recorded")
        try:
            mounting.attach(lease.mounts, target)
            _faults.point("store.attach.attached")
        except BaseException:
            core.catalog.detach(target)
            raise
        # The lease ends here, and must not take with it what the mount needs.
        lease.kept_by_mount()


def detach(core: Core, target: str) -> str:
    """Unmount what :func:`attach` mounted at *target*; returns the key."""
    id = dict(core.catalog.attachments()).get(target)
    if id is None:
        raise NotFound(
            f"nothing of the store {core.root} is mounted at {target}; `cowstore mount` says what is", key=target
        )
    row = core.catalog.by_id(id)
    if row is None:
        raise CowstoreError(f"the snapshot mounted at {target} is no longer in the catalog; unmount it with umount(8)")
    with leased(core, row.key) as lease:
        lease.acquiring()
        if is_mounted(target):
            unmount(lease, target)
        _faults.point("store.detach.detached")
        core.catalog.detach(target)
    return row.key


def is_mounted(target: str) -> bool:
    """Tell whether *target* is a mount point in this mount namespace."""
    from cowstore._linux.procfs import mountinfo

    wanted = os.fsencode(target)
    return any(entry.mount_point == wanted for entry in mountinfo())


def still_attached(catalog: Catalog, id: int) -> list[str]:
    """List where *id* is still mounted by :func:`attach`; records of mounts that are gone are forgotten."""
    found = []
    for target, where in catalog.attached(id):
        here = namespace()
        if (where == here and not is_mounted(target)) or where.partition(" ")[0] != here.partition(" ")[0]:
            catalog.detach(target)
        else:
            found.append(target)
    return found


def busy(core: Core, row: Row, verb: str) -> Busy:
    """Say who holds the lease of *row*, as far as /proc/locks and /proc tell."""
    holders = _holders(core.leases_fd, row.id)
    who = f" by process {', '.join(map(str, holders))}" if holders else ""
    return Busy(
        f"cannot {verb} {row.key!r} in {core.root}: it is mounted or in use{who}; end that, then try again",
        key=row.key,
        holders=holders,
    )


def _holders(leases_fd: int, id: int) -> list[int]:
    """List processes that hold the lock of a lease, as the kernel shows them in this pid namespace."""
    try:
        inode = os.stat(str(id), dir_fd=leases_fd).st_ino
        with open("/proc/locks", encoding="ascii") as file:
            fields = [line.split() for line in file]
    except OSError:
        return []
    pids = {
        int(line[4])
        for line in fields
        if len(line) > 5 and line[1] == "FLOCK" and line[5].rpartition(":")[2] == str(inode)
    }
    return sorted(pid for pid in pids if pid > 0)
