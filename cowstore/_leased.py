"""Holding a snapshot, and mounting it: what `mounted`, the runtime and everybody else who needs a tree stands on."""

from __future__ import annotations

import errno
import itertools
import os
from contextlib import ExitStack, contextmanager, suppress

from cowstore import _faults, leases
from cowstore.driver import Driver
from cowstore.errors import Busy, CowstoreError, NotFound, Unsupported
from cowstore.model import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator

    from cowstore._core import Core
    from cowstore._linux.fd import Descriptor
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

    __slots__ = ("_acquired", "_core", "_fds", "_mounts", "_writing", "ephemeral", "fd", "id", "key", "read_only")

    def __init__(self, core: Core, key: str) -> None:
        """Hold *key* of a store.

        :raises NotFound: there is none.
        """
        self._core = core
        self._mounts: tuple[Mount, ...] | None = None
        self._acquired = False
        self._writing = False
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
        """The mounts that realise the tree; what they need is acquired at the first look.

        :raises Busy: the tree can be realised for writing only once at a time, and is.
        """
        if self._mounts is None:
            with self._realising() as alone:
                if not alone:
                    raise busy(self._core, self._core.catalog.get(self.key), "mount")
                self._mounts = self._describe()
        return self._mounts

    def _describe(self) -> tuple[Mount, ...]:
        self.acquiring()
        driver = self._core.driver
        if self.ephemeral and not self.read_only and driver.capabilities.volatile_mounts:
            return driver.mounts(self.id, False, volatile=True)
        return driver.mounts(self.id, self.read_only)

    @contextmanager
    def _realising(self, target: str | None = None) -> Iterator[bool]:
        """Be the only one who realises the tree, for the length of the block; False if somebody has it already.

        If the block fails, nothing was realised. Where a tree may be realised many times there is nothing to agree on.
        """
        if self.read_only or self._writing or self._core.driver.capabilities.shared_writing:
            yield True
            return
        alone = leases.begin_writing(self.fd) and not still_attached(self._core.catalog, self.id, besides=target)
        try:
            yield alone
            self._writing = True
        except BaseException:
            leases.end_writing(self.fd)
            raise
        finally:
            leases.realised(self.fd)

    def attach(self, target: str) -> None:
        """Mount the tree at *target*; where it can be realised for writing only once, one that is mounted is shared.

        :raises Busy: it is realised where it cannot be reached: in another mount namespace.
        """
        from cowstore import mounting

        with self._realising(target) as alone:
            if alone:
                if self._mounts is None:
                    self._mounts = self._describe()
                mounting.attach(self._mounts, target)
                return
            self.acquiring()
            for point in self._mounted_at(target):
                try:
                    tree = mounting.copy_of(point)
                except OSError:
                    continue  # Taken down meanwhile.
                with tree:
                    mounting.place(tree, target)
                return
            raise busy(self._core, self._core.catalog.get(self.key), "mount")

    def detach(self, point: str) -> None:
        """Take down the tree at *point*; who mounts it at the same moment finds it there, or not at all."""
        if self.read_only or self._core.driver.capabilities.shared_writing:
            self._unmount(point)
            return
        leases.stop_others(self.fd)
        try:
            self._unmount(point)
        finally:
            leases.end_writing(self.fd)
            self._writing = False
            leases.realised(self.fd)

    def _unmount(self, point: str) -> None:
        from cowstore import mounting

        try:
            if not self.read_only:
                fd = os.open(point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    self.before_unmount(fd)
                finally:
                    os.close(fd)
        finally:
            # A driver that says what was lost (a full pool took no more) must not keep the tree mounted.
            mounting.detach(point)

    def _mounted_at(self, target: str) -> Iterator[str]:
        """List where the tree is mounted already in this mount namespace."""
        directory = os.path.join(self._core.root, MOUNT_POINTS)
        outside = os.stat(directory).st_dev
        found = [os.path.join(directory, name) for name in os.listdir(directory) if f"-{self.id}-" in name]
        for point in [*found, *still_attached(self._core.catalog, self.id, besides=target)]:
            if point != target and os.path.isdir(point) and os.stat(point).st_dev != outside:
                yield point

    def acquiring(self) -> None:
        """Say that the driver acquires something for this id, so that the last lease to end gives it up."""
        self._acquired = True

    def kept_by_mount(self) -> None:
        """Say that a recorded mount goes on needing what was acquired, after this lease has ended."""
        self._acquired = False

    @property
    def has_to_unmount(self) -> bool:
        """Whether :meth:`before_unmount` does anything for this tree."""
        driver: Driver = getattr(self._core.driver, "inner", self._core.driver)
        return not self.read_only and type(driver).before_unmount is not Driver.before_unmount

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


def realised(core: Core, lease: Lease, *, read_only: bool = False) -> Descriptor:
    """Give the tree of *lease* as a directory, mounted where nobody sees it, or just opened where nothing can be."""
    directory = core.driver.tree_directory(lease.id) if core.confined else None
    if directory is not None:
        from cowstore._linux.fd import open_

        return open_(directory, os.O_RDONLY | os.O_DIRECTORY)
    from cowstore.mounting import detached

    return detached(core.driver.mounts(lease.id, True) if read_only else lease.mounts)


@contextmanager
def _saying_how(key: str) -> Iterator[None]:
    """Tell a process that may not mount where it may."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
        raise Unsupported(
            f"cannot mount {key!r}: this process may not mount here ({error}); "
            "run the program that wants the tree inside `cowstore unshare -- PROGRAM`, or as root",
            feature="mount",
        ) from error


@contextmanager
def mounted(core: Core, key: str) -> Iterator[pathlib.Path]:
    """Mount *key* for the length of the block, private, under a lease."""
    import pathlib

    with ExitStack() as stack:
        with core.doing("mount", key):
            lease = stack.enter_context(leased(core, key))
            point = _mount_point(core, lease)
            stack.callback(os.rmdir, point)
            _faults.point("store.mounted.point")
            with _saying_how(key):
                lease.attach(point)
        _faults.point("store.mounted.attached")
        try:
            yield pathlib.Path(point)
        finally:
            with core.doing("unmount", key):
                lease.detach(point)
            _faults.point("store.mounted.detached")


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
    with leased(core, key) as lease:
        core.catalog.attach(lease.id, target, namespace())
        _faults.point("store.attach.recorded")
        try:
            with _saying_how(key):
                lease.attach(target)
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
            lease.detach(target)
        _faults.point("store.detach.detached")
        core.catalog.detach(target)
    return row.key


def is_mounted(target: str) -> bool:
    """Tell whether *target* is a mount point in this mount namespace."""
    from cowstore._linux.procfs import mountinfo

    wanted = os.fsencode(target)
    return any(entry.mount_point == wanted for entry in mountinfo())


def still_attached(catalog: Catalog, id: int, *, besides: str | None = None) -> list[str]:
    """List where *id* is still mounted by :func:`attach`; records of mounts that are gone are forgotten.

    :param besides: a target that is being mounted just now.
    """
    found = []
    for target, where in catalog.attached(id):
        if target == besides:
            continue
        here = namespace()
        if where == here:
            gone = not is_mounted(target)
        else:
            gone = where.partition(" ")[0] != here.partition(" ")[0] or not _is_alive(where.partition(" ")[2])
        if gone:
            catalog.detach(target)
        else:
            found.append(target)
    return found


_FIRST_PID_NAMESPACE = 0xEFFFFFFC
"""Inode of the process namespace in which all others are seen. Source: PROC_PID_INIT_INO, include/linux/proc_ns.h."""


def _is_alive(namespace: str) -> bool:
    """Tell whether a mount namespace may still have processes: where all are seen, it has one that is seen."""
    if os.stat("/proc/self/ns/pid").st_ino != _FIRST_PID_NAMESPACE:
        return True
    own = os.geteuid()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            if os.readlink(f"/proc/{name}/ns/mnt") == namespace:
                return True
        except PermissionError:
            with suppress(FileNotFoundError):
                if os.stat(f"/proc/{name}").st_uid == own:
                    return True  # It may not be looked into, and so may be there.
        except OSError:
            continue
    # A namespace can be kept by a file that is bound to it, without any process.
    return _is_kept(namespace)


def _is_kept(namespace: str) -> bool:
    from cowstore._linux.procfs import mountinfo

    return any(entry.fs_type == b"nsfs" and entry.root == os.fsencode(namespace) for entry in mountinfo())


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
