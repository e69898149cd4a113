"""The Btrfs driver: every id is a subvolume, every child a snapshot of its parent's."""

from __future__ import annotations

import errno
import os
import time
from contextlib import contextmanager

from cowstore import _faults
from cowstore._linux import btrfs, files
from cowstore._linux.fd import Descriptor, open_
from cowstore.driver import Driver
from cowstore.drivers.btrfs import ground, space, subvolumes
from cowstore.drivers.btrfs.cleaning import Cleaning
from cowstore.drivers.btrfs.options import Options
from cowstore.drivers.btrfs.quota import Quota
from cowstore.errors import Busy, OutOfSpace
from cowstore.model import Capabilities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cowstore.drivers.btrfs.pool import Pool
    from cowstore.errors import CowstoreError
    from cowstore.model import Mount
    from cowstore.results import Change, DriverStatus, FindingKind, Problem, Usage

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
# A subvolume that is being sent cannot be deleted or made writable; `changes` of a dead reader ends by itself.
_SEND_ATTEMPTS = 20
_SEND_PAUSE_SECONDS = 0.05
_DRAIN_SECONDS = 600.0
_USAGE_SECONDS = 2.0


class Btrfs(Driver):
    """Subvolumes and snapshots, in a directory of a Btrfs or in a Btrfs of its own in a loop file.

    Differences from the law: none. A subvolume that a program makes inside a snapshot becomes a plain directory when
    the snapshot is sealed (:mod:`cowstore.drivers.btrfs.subvolumes`). A limit counts all a snapshot refers to, its
    parents' data included. :meth:`usage` adds up the allocated bytes of the files that differ from the parent.
    """

    name = "btrfs"
    Options = Options
    capabilities = Capabilities(size_limits=True, shares_page_cache=False, kernel_changes=True)

    def __init__(self, directory: str, options: object, *, volatile: bool = False, read_only: bool = False) -> None:
        super().__init__(directory, options, volatile=volatile, read_only=read_only)
        assert isinstance(options, Options)
        self._ground = _ground(directory, options, read_only=read_only)
        try:
            self._use(options.quota)
        except BaseException:
            self._ground.close()
            raise

    def _use(self, quota: bool | None) -> None:
        self._cleaning = Cleaning(self._home)
        own = self._is_pool()
        self._quota = Quota(
            self._home,
            may_enable=quota is True or (own and quota is not False),
            may_use=quota is not False,
        )
        if not self._quota.possible():
            import dataclasses

            self.capabilities = dataclasses.replace(self.capabilities, size_limits=False)
        if not self.read_only:
            self._quota.tidy()

    @classmethod
    def probe(cls, directory: str, options: object) -> None:
        from cowstore.drivers.btrfs.probe import probe

        assert isinstance(options, Options)
        probe(directory, options)

    @property
    def _home(self) -> int:
        return self._ground.home.fileno()

    def _is_pool(self) -> bool:
        return not isinstance(self._ground, ground.Directory)

    def _open(self, id: int) -> Descriptor:
        return open_(str(id), _DIRECTORY, dir_fd=self._home)

    @contextmanager
    def _doing(self, what: str, subvol_id: int | None = None) -> Iterator[None]:
        """Say which room is full, or that nothing can be written, when the block fails for that."""
        try:
            yield
        except OSError as error:
            public = space.explained(error, f"cannot {what}", self._home, self._quota, subvol_id)
            if public is None:
                raise
            raise public from error

    def explain(self, id: int, error: OSError, root_fd: int, tried: str) -> CowstoreError | None:
        return space.explained(error, tried, self._home, self._quota, subvolumes.subvol_id(root_fd))

    # The verbs.

    def create(self, id: int, parent: int | None, size_bytes: int | None) -> None:
        if size_bytes is not None:
            self._require_size(size_bytes)
        with self._doing(f"create snapshot {id}"):
            self._ground.make_room()
            try:
                if parent is None:
                    btrfs.subvol_create(self._home, str(id))
                else:
                    with self._open(parent) as source:
                        btrfs.snap_create(self._home, str(id), source)
            except FileExistsError:
                # It was made by a call that was killed after this point.
                pass
            _faults.point("btrfs.create.made")
            if parent is None:
                # The umask had its say.
                os.chmod(str(id), 0o755, dir_fd=self._home)
            self._limit(id, size_bytes, inherited=parent is not None)

    def _require_size(self, size_bytes: int) -> None:
        """Make sure that a size can be enforced, and is one."""
        capacity = self._ground.capacity_bytes()
        if size_bytes > capacity:
            raise OutOfSpace(
                f"cannot let a snapshot hold {size_bytes} bytes: the Btrfs can hold {capacity} in all; ask for less, "
                "or raise pool_limit_bytes",
                total=capacity,
            )
        self._quota.require(size_bytes)

    def _limit(self, id: int, size_bytes: int | None, *, inherited: bool) -> None:
        if size_bytes is None and not inherited:
            return
        if size_bytes is None and not self._quota.enabled():
            return
        with self._open(id) as root:
            number = subvolumes.subvol_id(root.fileno())
        if size_bytes is not None:
            self._quota.limit(number, size_bytes)
        else:
            self._quota.drop_inherited_limit(number)

    def seal(self, id: int) -> None:
        with self._open(id) as root:
            number = subvolumes.subvol_id(root.fileno())
            with self._doing(f"seal snapshot {id}", number):
                if btrfs.subvol_getflags(root) & btrfs.SubvolFlag.RDONLY:
                    return
                try:
                    self._seal(root)
                except OSError as error:
                    # Nothing is written any more. So what is there may stay, even where clones or subvolumes made
                    # inside, which no limit stops, have come to more than the limit.
                    if error.errno != errno.EDQUOT or self._quota.limit_of(number) is None:
                        raise
                    self._quota.limit(number, None)
                    self._seal(root)

    def _seal(self, root: Descriptor) -> None:
        self._forget(subvolumes.flatten(root.fileno()))
        _faults.point("btrfs.seal.flattened")
        if not self.volatile:
            files.syncfs(root)
        _faults.point("btrfs.seal.synced")
        # This commits the transaction too, so that the property is on disk when it returns.
        btrfs.subvol_setflags(root, btrfs.SubvolFlag.RDONLY)

    def remove(self, id: int) -> None:
        with self._doing(f"remove snapshot {id}"):
            for attempt in range(_SEND_ATTEMPTS):
                try:
                    self._forget(subvolumes.destroy(self._home, str(id).encode()))
                except PermissionError as error:
                    if attempt == _SEND_ATTEMPTS - 1:
                        raise Busy(f"cannot remove snapshot {id}: its changes are being read; try again") from error
                    time.sleep(_SEND_PAUSE_SECONDS)
                else:
                    return

    def _forget(self, subvol_ids: list[int]) -> None:
        """Note that these subvolumes are deleted, so that somebody can wait for their space and quota groups."""
        if subvol_ids:
            self._cleaning.add(subvol_ids)
            self._quota.forget(subvol_ids)

    def mounts(self, id: int, read_only: bool, *, volatile: bool = False) -> tuple[Mount, ...]:
        with self._open(id) as root:
            number = subvolumes.subvol_id(root.fileno())
        if not read_only and not self.read_only:
            try:
                self._ground.make_room()
            except OutOfSpace:
                # What is there can be read, and perhaps made smaller; writing will tell.
                pass
        return (self._ground.mount(id, number, read_only=read_only),)

    def usage(self, id: int) -> Usage:
        from cowstore.drivers.btrfs.usage import measure

        return measure(self._home, id, self._own_bytes, self.changes)

    def _own_bytes(self, subvol_id: int) -> int | None:
        """Return the bytes that a writable subvolume's quota group counts as its own; None without quota."""
        if self.read_only or not self._quota.enabled():
            return None
        # A deleted snapshot of it still shares its bytes until it is cleaned, and what is not committed is not counted.
        left = self._cleaning.wait(_USAGE_SECONDS)
        used = self._quota.used(subvol_id)
        if used is None or left:
            from cowstore._log import logger

            why = "the kernel has not cleaned what was removed" if left else "a rescan is needed"
            logger(__name__).warning("the quota group of subvolume %d is not counted right yet: %s", subvol_id, why)
            return None
        return used[1]

    def changes(self, id: int, base: int | None) -> Iterator[Change]:
        if base is not None:
            from cowstore.drivers.btrfs.changes import NotTold, changes

            try:
                with self._open(id) as upper, self._open(base) as lower:
                    yield from changes(
                        self._home, upper.fileno(), lower.fileno(), self._forget, writable=not self.read_only
                    )
            except NotTold:
                pass
            else:
                return
        yield from super().changes(id, base)

    def resize(self, id: int, size_bytes: int) -> None:
        self._require_size(size_bytes)
        with self._open(id) as root, self._doing(f"set the size of snapshot {id}"):
            self._quota.limit(subvolumes.subvol_id(root.fileno()), size_bytes)

    def held(self) -> list[int]:
        return [int(name) for name in self._ground.names() if name.isdigit()]

    def holds(self, id: int) -> bool:
        try:
            os.stat(str(id), dir_fd=self._home, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def status(self) -> DriverStatus:
        from cowstore.results import DriverStatus

        room = files.statfs(self._home)
        rooms = space.Rooms(self._home)
        details = self._ground.details() | {
            "quota": self._quota.kind(),
            "data_used_bytes": str(rooms.data_used),
            "metadata_used_bytes": str(rooms.metadata_used),
            "metadata_total_bytes": str(rooms.metadata_total),
            "unallocated_bytes": str(rooms.unallocated),
            "usage_method": "allocated bytes of the files that differ from the parent",
        }
        return DriverStatus(
            free_bytes=room.available * room.block_size, total_bytes=room.blocks * room.block_size, details=details
        )

    def drain(self) -> None:
        # In a file system of its own nobody else's deletions can keep it waiting.
        left = self._cleaning.wait(_DRAIN_SECONDS, everybodys=self._is_pool())
        self._ground.give_back()
        if self._quota.enabled():
            self._quota.retry()
            if self._is_pool():
                self._quota.sweep()
        if left:
            raise Busy(
                f"the space of removed snapshots is not back after {_DRAIN_SECONDS:.0f} seconds: the kernel has not "
                f"cleaned {len(left)} of their subvolumes; somebody has files of them open, or the disk is busy: try "
                "`cowstore cleanup` again later"
            )

    def close(self) -> None:
        try:
            if not self.read_only and not self._ground.home.closed:
                self._quota.tidy()
        finally:
            self._ground.close()

    def destroy(self) -> None:
        for path in self.leftovers():
            self.remove_leftover(path)
        counted = self._quota.enabled()
        groups = self._quota.noted() if counted else []
        groups += self._ground.destroy()
        if counted and not self._is_pool():
            with open_(self.directory, _DIRECTORY) as parent:
                Quota(parent.fileno(), may_enable=False, may_use=True).see_off(groups)

    # What check asks.

    def examine(self, id: int, parent: int | None, sealed: bool) -> Iterator[Problem]:
        from cowstore.drivers.btrfs.examine import examine

        with self._open(id) as root:
            if parent is None:
                yield from examine(root.fileno(), None, None, sealed=sealed)
            elif self.holds(parent):
                with self._open(parent) as above:
                    yield from examine(root.fileno(), parent, above.fileno(), sealed=sealed)

    def repair(self, id: int, parent: int | None, sealed: bool, kind: FindingKind) -> bool:
        from cowstore.results import FindingKind

        if kind is not FindingKind.NOT_SEALED:
            return False
        self.seal(id)
        return True

    def tidy(self) -> None:
        from cowstore.drivers.btrfs.moment import PREFIX, stale

        self._quota.tidy()
        if any(name.startswith(PREFIX) for name in self._ground.names()):
            for name in stale(self._home, self._ground.names()):
                self._forget(subvolumes.destroy(self._home, os.fsencode(name)))

    def leftovers(self) -> Iterator[str]:
        from cowstore.drivers.btrfs.moment import stale

        yield from self._ground.unfinished()
        for name in stale(self._home, self._ground.names()):
            yield os.path.join(self.directory, ground.HOME, name)

    def remove_leftover(self, path: str) -> None:
        if path in self._ground.unfinished():
            os.unlink(path)
            return
        name = os.path.basename(path)
        from cowstore.drivers.btrfs.moment import PREFIX

        if name.startswith(PREFIX):
            self._forget(subvolumes.destroy(self._home, os.fsencode(name)))


def _ground(directory: str, options: Options, *, read_only: bool) -> ground.Ground:
    """Open the ground that is there, or the one that the options and the file system ask for."""
    from cowstore.drivers.btrfs import pool

    there = {name: os.path.lexists(os.path.join(directory, name)) for name in (pool.FILE, ground.HOME)}
    if there[pool.FILE] or (not there[ground.HOME] and wants_pool(directory, options)):
        found: Pool = pool.Pool(directory, options, read_only=read_only)
        return found
    return ground.Directory(directory, read_only=read_only)


def wants_pool(directory: str, options: Options) -> bool:
    """Tell whether a new store in *directory* keeps its subvolumes in a loop file."""
    if options.loop is not None:
        return options.loop
    return files.statfs(directory).type != files.FsMagic.BTRFS
