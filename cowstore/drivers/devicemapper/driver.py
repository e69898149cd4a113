"""The driver's verbs. A thin device's number in the pool is the store's id; the base is 0."""

from __future__ import annotations

import errno
import os

from cowstore import _faults
from cowstore._linux.fd import open_
from cowstore._linux.files import syncfs
from cowstore.driver import Driver
from cowstore.drivers.devicemapper import filesystem, mounted, opening
from cowstore.drivers.devicemapper.base import BASE
from cowstore.drivers.devicemapper.borrowed import SPAN
from cowstore.drivers.devicemapper.locks import OPENING, UserLock, locked
from cowstore.drivers.devicemapper.metadata_snapshot import hold
from cowstore.drivers.devicemapper.options import FileSystem
from cowstore.drivers.devicemapper.options import Options as PoolOptions
from cowstore.drivers.devicemapper.record import IdRecord, Ids
from cowstore.drivers.devicemapper.status import DATA
from cowstore.errors import Busy, CowstoreError, OutOfSpace, StoreCorrupt, Unsupported
from cowstore.model import Capabilities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from cowstore._linux import dm
    from cowstore.drivers.devicemapper.filesystem import SuperBlock
    from cowstore.drivers.devicemapper.metadata import Metadata
    from cowstore.model import Mount
    from cowstore.results import Change, DriverStatus, FindingKind, Problem, Usage

_LARGEST_ID = (1 << 24) - 1


class DeviceMapper(Driver):
    """Thin snapshots on a pool of its own.

    A read-only mount of a sealed id is of a read-only device, without a replay of its journal, which is empty. Sizes
    are those of the devices: a child is never smaller than its parent, and nothing shrinks. `usage` counts blocks of
    the pool (64 KiB by default) that the id has and its parent has not.
    """

    name = "devicemapper"
    Options = PoolOptions
    capabilities = Capabilities(size_limits=True, volatile_mounts=True, inode_usage=False, kernel_changes=True)
    options: PoolOptions

    def __init__(self, directory: str, options: object, *, volatile: bool = False, read_only: bool = False) -> None:
        super().__init__(directory, options, volatile=volatile, read_only=read_only)
        self._ids = Ids(directory)
        # Devices of the pool of which there was no record when it was last listed.
        self._unrecorded: set[int] = set()
        with locked(directory, OPENING):
            lock = UserLock(directory)
            try:
                self._pool, self._thins = opening.open_pool(directory, self.options, read_only=read_only)
            except BaseException:
                lock.close()
                raise
        self._lock: UserLock | None = lock
        if self._pool.record.file_system is not FileSystem.EXT4:
            self.capabilities = Capabilities(size_limits=True, volatile_mounts=True, inode_usage=False)
        if not read_only:
            try:
                self._ids.make()
                self._reap()
            except BaseException:
                self.close()
                raise

    @classmethod
    def probe(cls, directory: str, options: object) -> None:
        from cowstore.drivers.devicemapper.probing import probe

        assert isinstance(options, PoolOptions)
        probe(directory, options)

    # Making.

    def create(self, id: int, parent: int | None, size_bytes: int | None) -> None:
        origin = BASE if parent is None else parent
        most = _LARGEST_ID if self._pool.is_own else SPAN - 1
        if not BASE < id <= most:
            raise Unsupported(f"a pool numbers its devices from 1 to {most}; {id} is beyond that", feature="ids")
        base = IdRecord(parent=BASE, size_bytes=self._pool.record.base_bytes, sealed=True)
        above = base if parent is None else self._known(parent)
        inherited = above.size_bytes
        wanted = inherited if size_bytes is None else self._sized(size_bytes, inherited)
        self._pool.ensure_room()
        fresh = self._ids.add(id, IdRecord(parent=origin, size_bytes=inherited))
        _faults.point("devicemapper.create.recorded")
        try:
            if above.sealed:
                # Its device, if active at all, is read-only: no write is under way for which a suspend would wait.
                self._snapshot(id, origin, fresh=fresh)
            else:
                with locked(self.directory, origin), self._thins.suspended(origin):
                    self._snapshot(id, origin, fresh=fresh)
        except (OSError, CowstoreError):
            if fresh:
                self._ids.drop(id)
            raise
        if wanted > inherited:
            self.resize(id, wanted)

    def _snapshot(self, id: int, origin: int, *, fresh: bool) -> None:
        try:
            self._pool.message(f"create_snap {self._pool.number(id)} {self._pool.number(origin)}")
        except OSError as error:
            if error.errno == errno.EEXIST and not fresh:
                return  # Done before.
            if error.errno == errno.EEXIST:
                text = f"the pool {self._pool.name} holds a device {id} of which nothing is known; run `cowstore check`"
                raise StoreCorrupt(text, path=self.directory) from error
            if error.errno == errno.ENODATA:
                raise self._deleted(origin) from error
            raise

    def _sized(self, size_bytes: int, least: int) -> int:
        """Round a size up to whole blocks, and make sure that it can be had."""
        block = self._pool.record.block_bytes
        size = -(-size_bytes // block) * block
        if size < least:
            raise Unsupported(
                f"a snapshot cannot be limited to {size_bytes} bytes: its parent's file system has {least}, and a file "
                "system is only ever grown; a store's smallest size is its option base_bytes",
                feature="shrink",
            )
        most = self.options.data_limit_bytes if self._pool.record.on_files else self._pool.status().data_total
        if size > max(most, least):
            raise OutOfSpace(
                f"a snapshot of {size_bytes} bytes can never be filled: the pool {self._pool.name} has room for {most}",
                what=DATA,
                total=most,
            )
        return size

    def resize(self, id: int, size_bytes: int) -> None:
        known = self._known(id)
        size = self._sized(size_bytes, known.size_bytes)
        self._pool.ensure_room()
        with locked(self.directory, id):
            self._ids.put(id, self._known(id).resize(size))
            _faults.point("devicemapper.resize.recorded")
            active = self._thins.find(id)
            if active is not None and active.live:
                self._thins.resize(id, size)
            info = self._thins.activate(id, size, read_only=False)
            try:
                _faults.point("devicemapper.resize.device")
                self._grow(id, info, size)
            finally:
                if active is None:
                    self._thins.deactivate(id, defer=True)

    def _grow(self, id: int, info: dm.Info, size: int) -> None:
        found = self._super_block(id, info)
        if found.damaged:
            raise self._pool.lost(id)  # The kernel grows none that has noted an error.
        with self._opened(info) as fd:
            filesystem.grow(self._pool.record.file_system, fd, found.block_bytes, size)

    def _opened(self, info: dm.Info) -> AbstractContextManager[int]:
        return mounted.opened(self._pool.record.file_system, self._thins.node(info), info)

    def size_of(self, id: int) -> int | None:
        return self._known(id).size_bytes

    def seal(self, id: int) -> None:
        with locked(self.directory, id):
            known = self._known(id)
            if known.lost:
                raise self._pool.lost(id)
            if not known.sealed:
                self._settle(id, known)
                self._ids.put(id, known.seal())
                _faults.point("devicemapper.seal.recorded")
            if not self.volatile:
                self._ids.sync()
                self._pool.commit()

    def _settle(self, id: int, known: IdRecord) -> None:
        """Leave a clean file system on an id that nobody has mounted, and all of it on the disk."""
        info = self._thins.activate(id, known.size_bytes, read_only=False)
        try:
            if not self._thins.is_closed(id):
                raise Busy(f"the device {info.name} is still mounted", holders=self._holders(id))
            found = self._super_block(id, info)
            if not found.clean:
                self._replay(info)
                found = self._super_block(id, info)
            if found.damaged:
                raise self._pool.lost(id)
            if not self.volatile:
                with open_(self._thins.node(info), os.O_RDWR) as device:
                    os.fsync(device.fileno())
        finally:
            self._thins.deactivate(id, defer=True)

    def _replay(self, info: dm.Info) -> None:
        """Mount and unmount, which empties the journal."""
        with self._opened(info):
            pass

    # Using.

    def mounts(self, id: int, read_only: bool, *, volatile: bool = False) -> tuple[Mount, ...]:
        known = self._known(id)
        with locked(self.directory, id):
            info = self._thins.activate(id, known.size_bytes, read_only=known.sealed)
        if not (info.read_only or self._grow_for_writers(0 if read_only else known.size_bytes) or info.open_count):
            info = self._readable(id, known, info)
        kind = self._pool.record.file_system
        return (mounted.describe(kind, self._thins.node(info), info, read_only=read_only, volatile=volatile),)

    def _readable(self, id: int, known: IdRecord, info: dm.Info) -> dm.Info:
        """Make sure that an id can be mounted although there is no room: if not for writing, then for reading.

        ext4 notes a mount in its super block, and there may be no room for the copy of that block.
        """
        reason: object = self._pool.host_full()
        if reason is None:
            if not self._pool.status().is_full:
                return info
            try:
                self._replay(info)
                return info
            except OSError as error:
                reason = f"the pool is full: {error}"
        from cowstore._log import logger

        name = self._thins.name(id)
        logger(__name__).warning("id %d (the device %s) is mounted read-only: %s", id, name, reason)
        with locked(self.directory, id):
            self._thins.deactivate(id, defer=False)
            return self._thins.activate(id, known.size_bytes, read_only=True)

    def _grow_for_writers(self, size_bytes: int) -> bool:
        """Give the pool room for all that may be written to what is active now, as far as it may grow.

        A pool that stays full is no reason not to mount: what is there can be read, and removed.
        """
        try:
            self._pool.ensure_room(size_bytes, writers=True)
        except OutOfSpace:
            return False
        return True

    def before_unmount(self, id: int, root_fd: int) -> None:
        """Write out what was written: unmounting would not tell that a full pool took none of it."""
        if self.volatile:
            return
        try:
            syncfs(root_fd)
        except OSError as error:
            with locked(self.directory, id):
                self._ids.put(id, self._known(id).lose())
            raise self._pool.lost(id) from error

    def explain(self, id: int, error: OSError, root_fd: int, tried: str) -> CowstoreError | None:
        from cowstore.drivers.devicemapper.reporting import explained

        return explained(self._pool, error, root_fd, tried) or super().explain(id, error, root_fd, tried)

    def release(self, id: int) -> None:
        with locked(self.directory, id):
            self._thins.deactivate(id, defer=True)

    # Removing.

    def remove(self, id: int) -> None:
        with locked(self.directory, id):
            if self._remove(id):
                self._ids.drop(id)
            else:
                # Somebody else's mount namespace holds a copy of the mount; its last close ends the device.
                self._ids.doom(id)
        self._unrecorded.discard(id)
        self._reap()

    def _remove(self, id: int) -> bool:
        """Give back the blocks and delete the device; False while somebody holds it."""
        if not self._thins.deactivate(id, defer=True):
            return False
        if self._pool.discards:
            known = self._ids.get_doomed(id)
            try:
                self._thins.discard(id, self._pool.record.base_bytes if known is None else known.size_bytes)
            except StoreCorrupt:
                return True  # Not in the pool.
            except Busy:
                return False
            finally:
                gone = self._thins.deactivate(id, defer=True)
            if not gone:
                return False
            _faults.point("devicemapper.remove.discarded")
        try:
            self._pool.message(f"delete {self._pool.number(id)}")
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EBUSY):
                raise
            return error.errno == errno.ENODATA
        return True

    def _reap(self) -> None:
        """Remove what could not be removed before."""
        for id in self._ids.doomed():
            with locked(self.directory, id):
                try:
                    if self._ids.is_doomed(id) and self._remove(id):
                        self._ids.drop(id)
                except (OSError, CowstoreError) as error:
                    # One that is stuck is no reason to keep the others, or not to open the store.
                    from cowstore._log import logger

                    name = self._thins.name(id)
                    logger(__name__).warning("cannot remove id %d (the device %s) now: %s", id, name, error)

    def drain(self) -> None:
        self._reap()

    # Looking.

    def _known(self, id: int) -> IdRecord:
        known = self._ids.get(id)
        if known is None:
            text = f"{self._ids.path(id)} is gone: nothing is known of id {id}; run `cowstore check`"
            raise StoreCorrupt(text, path=self._ids.path(id))
        return known

    def _deleted(self, id: int) -> StoreCorrupt:
        text = f"the pool {self._pool.name} has no device {id} any more: it was deleted behind the store's back"
        return StoreCorrupt(text, path=self.directory)

    def _super_block(self, id: int, info: dm.Info) -> SuperBlock:
        node = self._thins.node(info)
        # Past the page cache: what a mounted file system wrote does not show there.
        with open_(node, os.O_RDONLY) as device:
            found = filesystem.read_super_block(device)
        if found is None:
            raise StoreCorrupt(f"id {id} ({node}) of the pool {self._pool.name} holds no file system", path=node)
        return found

    def _holders(self, id: int) -> list[int]:
        from cowstore.drivers.devicemapper.thin import holders

        return holders(self._thins.find(id))

    def _metadata(self) -> AbstractContextManager[Metadata]:
        return hold(self._pool)

    def held(self) -> set[int]:
        with self._metadata() as metadata:
            first = self._pool.number(0)
            found = {number - first for number in metadata.devices() if self._pool.is_own or 0 <= number - first < SPAN}
        known, doomed = set(self._ids), set(self._ids.doomed())
        self._unrecorded = found - known - doomed - {BASE}
        return (found | known) - {BASE} - doomed

    def holds(self, id: int) -> bool:
        if self._ids.get(id) is not None or self._ids.is_doomed(id):
            return True
        # One that was removed while `held` looked was still in the pool, and in no record any more.
        return id in self._unrecorded and self._is_in_pool(id)

    def _is_in_pool(self, id: int) -> bool:
        with self._metadata() as metadata:
            return metadata.device_root(self._pool.number(id)) is not None

    def is_unsealed(self, id: int) -> bool:
        # A sealed id has a record that was synced.
        known = self._ids.get(id)
        return known is None or not known.sealed

    def usage(self, id: int) -> Usage:
        from cowstore.results import Usage

        known = self._known(id)
        self._write_out(id)
        with self._metadata() as metadata:
            root = metadata.device_root(self._pool.number(id))
            if root is None:
                raise self._deleted(id)
            mine, _ = metadata.own(root, metadata.device_root(self._pool.number(known.parent)))
        return Usage(size_bytes=len(mine) * self._pool.record.block_bytes, inodes=-1)

    def _write_out(self, id: int) -> None:
        """Let a mounted, written file system put into the pool what is only in memory."""
        info = self._thins.find(id)
        if info is not None and not info.read_only and info.open_count:
            with self._opened(info) as fd:
                syncfs(fd)

    def changes(self, id: int, base: int | None) -> Iterator[Change]:
        from cowstore.drivers.devicemapper import changes

        differing = None if base is None else changes.differing(self._pool, self._thins, self._ids, id, base)
        if base is None or differing is None:
            yield from super().changes(id, base)
        else:
            yield from changes.realised(self.mounts(base, True), self.mounts(id, True), differing)

    def status(self) -> DriverStatus:
        from cowstore.drivers.devicemapper.reporting import status

        return status(self._pool)

    def examine(self, id: int, parent: int | None, sealed: bool) -> Iterator[Problem]:
        from cowstore.drivers.devicemapper.reporting import examine

        return examine(self._pool, self._thins, self._ids, id, BASE if parent is None else parent, sealed=sealed)

    def repair(self, id: int, parent: int | None, sealed: bool, kind: FindingKind) -> bool:
        from cowstore.drivers.devicemapper.reporting import repair

        return repair(self._pool, self._thins, self._ids, id, BASE if parent is None else parent, sealed=sealed)

    # Ending.

    def close(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            opening.close_pool(self._pool, lock)

    def destroy(self) -> None:
        opening.destroy_pool(self._pool, self._lock)
        self._lock = None
