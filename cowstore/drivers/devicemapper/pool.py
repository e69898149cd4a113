"""The thin pool: activating, growing, asking and ending it.

The kernel keeps an active pool for all processes; it is found by a name that holds the pool's UUID. The first store to
open it activates it, the last to close it ends it.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from contextlib import ExitStack, suppress

from cowstore import _faults
from cowstore._linux import dm, loop
from cowstore._linux.fd import open_
from cowstore.drivers.devicemapper import events, identity, nodes
from cowstore.drivers.devicemapper.host import Host, allocate
from cowstore.drivers.devicemapper.locks import POOL_SIZE, locked
from cowstore.drivers.devicemapper.options import WhenFull
from cowstore.drivers.devicemapper.status import DATA, METADATA, METADATA_BLOCK, read_status
from cowstore.drivers.devicemapper.tables import FAILS, KEEPS_DISCARDS, ZEROING, PoolTable, swap_table, take_away
from cowstore.errors import CowstoreError, DriverUnavailable, OutOfSpace, StoreCorrupt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore._linux.fd import Descriptor
    from cowstore.drivers.devicemapper.options import Options
    from cowstore.drivers.devicemapper.record import PoolRecord
    from cowstore.drivers.devicemapper.status import PoolStatus

COMPLETE = 1
"""The pool's transaction id from the moment the base is whole: the pool commits it together with the base's blocks."""
_BYTES_PER_MAPPING = 48
"""Metadata that a mapped block takes at most, for its own entry and its part of half-filled nodes."""
_BUSY_SECONDS = 2.0


def _reserve(metadata_bytes: int) -> int:
    """Tell what is kept of the metadata from all that is new: a removal writes metadata before it frees any."""
    return min(1 << 20, metadata_bytes // 10)


class Pool:
    """One pool. All methods may be called from any thread and process."""

    is_own = True
    """Whether the store made it, and nobody else has devices in it."""

    def __init__(self, directory: str, record: PoolRecord, options: Options, control: Descriptor) -> None:
        self.directory = directory
        self.record = record
        self.options = options
        self.control = control
        self.name = f"cowstore-{record.uuid}-pool"
        self.uuid = f"COWSTORE-{record.uuid}-pool"
        self.prefix = f"cowstore-{record.uuid}-"
        """Of the names of all its devices, as *uuid_prefix* of their UUIDs."""
        self.uuid_prefix = f"COWSTORE-{record.uuid}-"
        self.dev = 0
        # The pool's fill when there was last seen to be room below it: a snapshot by itself takes none.
        self._host_checked = -1

    def number(self, id: int) -> int:
        """Return the number that an id's device has in the pool."""
        return self.record.first_id + id

    def path(self, what: str) -> str:
        """Return the file or device that holds the pool's data or metadata."""
        if self.record.on_files:
            return os.path.join(self.directory, what)
        return self.record.data_device if what == DATA else self.record.metadata_device

    # Activating. The caller holds the lock OPENING.

    def activate(self, *, create: bool = False) -> bool:
        """Make the pool active; False if it was.

        :param create: the metadata may be empty: the kernel formats it. Otherwise that would be the loss of all there
        is.
        :raises StoreCorrupt: no metadata, or damaged. :raises StoreMismatch: a pool of that name stands on other files,
            or a given device is another store's.
        """
        info = self._found()
        if info is not None and info.live:
            self.dev = info.dev
            identity.check_active(self)
            if info.suspended:
                # Whoever grew it was killed in between.
                dm.dev_resume(self.control, self.name, flags=dm.DmFlag.NOFLUSH)
            return False
        with ExitStack() as stack:
            ground = {what: self._attach(stack, what) for what in (DATA, METADATA)}
            if not create:
                identity.check(self, ground)
            _faults.point("devicemapper.pool.attached")
            if info is None:
                info = dm.dev_create(self.control, self.name, self.uuid)
            self.dev = info.dev
            try:
                self._load(ground)
                dm.dev_resume(self.control, self.name)
            except BaseException as error:
                take_away(self.control, self.name, error)
                if isinstance(error, OSError):
                    raise self._unloadable(error) from error
                raise
            # From here on the pool itself holds its loop devices, and they go with it.
            events.begin(self.directory)
        return True

    def _found(self) -> dm.Info | None:
        try:
            return dm.dev_status(self.control, self.name)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return None

    def _attach(self, stack: ExitStack, what: str) -> int:
        """Return the number of the device below; a file's loop device is held by *stack*."""
        path = self.path(what)
        try:
            if not self.record.on_files:
                found = os.stat(path)
                if not stat.S_ISBLK(found.st_mode):
                    raise StoreCorrupt(f"the pool's {what} device {path} is no block device any more", path=path)
                return found.st_rdev
            with open_(path, os.O_RDWR) as file:
                if what == METADATA:
                    # A copy of the store may be sparse. What is there can be used without.
                    with suppress(OSError):
                        allocate(file)
                find = nodes.find(self.directory)
                return stack.enter_context(loop.attach(file, file_name=os.fsencode(path), node=find)).dev
        except FileNotFoundError as error:
            if error.filename is not None and os.fsdecode(error.filename) != path:
                raise
            way_out = "put it back" if self.record.on_files else f"say where it is now by the option {what}_device"
            raise StoreCorrupt(
                f"the pool's {what} {path} is gone; {way_out}, or destroy the store", path=path
            ) from error

    def _unloadable(self, error: OSError) -> CowstoreError:
        if error.errno in (errno.ENOTBLK, errno.EILSEQ, errno.EINVAL, errno.EIO):
            path = self.path(METADATA)
            return StoreCorrupt(
                f"the kernel refuses the pool {self.name} ({error.strerror}): its metadata {path} is damaged or does "
                f"not fit its data {self.path(DATA)}; look with thin_check(8), mend with thin_repair(8)",
                path=path,
            )
        return DriverUnavailable(
            f"cannot activate the pool {self.name} on {self.path(DATA)}: {error}", driver="devicemapper"
        )

    def _table(self, ground: dict[str, int]) -> PoolTable:
        """Make the table that the options want."""
        block = self.record.block_bytes
        blocks = self._size_of(ground[DATA]) // block
        features = {ZEROING}
        if self.options.when_full is WhenFull.ERROR:
            features.add(FAILS)
        if not self.discards:
            features.add(KEEPS_DISCARDS)
        return PoolTable(
            metadata=ground[METADATA], data=ground[DATA], length=blocks * block, block=block,
            low_water=blocks * self.options.min_free_percent // 100 * block, features=frozenset(features),
        )  # fmt: skip

    def _load(self, ground: dict[str, int]) -> None:
        dm.table_load(self.control, self.name, [self._table(ground).target()])

    def follow_options(self) -> None:
        """Let a pool that another store has activated with other options follow ours, and say so."""
        with locked(self.directory, POOL_SIZE):
            _, (target,) = dm.table_status(self.control, self.name, flags=dm.DmFlag.STATUS_TABLE)
            there = PoolTable.read(target)
            ground = {METADATA: there.metadata, DATA: there.data}
            told = self._table(ground).differing(there)
            if not told:
                return
            self.reload(ground)
        from cowstore._log import logger

        logger(__name__).warning("the pool %s was active with other options; from now on it has %s", self.name, told)

    def _size_of(self, dev: int) -> int:
        with open_(nodes.block_node(self.directory, dev), os.O_RDONLY) as device:
            return os.lseek(device.fileno(), 0, os.SEEK_END)

    @property
    def discards(self) -> bool:
        """Whether removed snapshots' blocks go back to what is below: by default to a file, not to a disk."""
        return self.record.on_files if self.options.discard is None else self.options.discard

    def deactivate(self) -> bool:
        """End the pool; False while any of its devices is open. Its loop devices go with it.

        The caller holds the lock OPENING, and is the last user.
        """
        deadline = time.monotonic() + _BUSY_SECONDS
        told = self._found()
        while True:
            try:
                dm.dev_remove(self.control, self.name)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return True
                if error.errno != errno.EBUSY:
                    raise
                if self._has_devices() or time.monotonic() > deadline:
                    return False
                time.sleep(0.005)  # udev, or somebody's blkid, looks at it.
            else:
                nodes.forget(self.directory, f"/dev/dm-{os.minor(self.dev)}")
                events.end(self.directory, told.event_nr if told is not None else 0)
                return True

    def _has_devices(self) -> bool:
        """Take down the devices that a killed process left; tell whether there are others, which somebody has open."""
        used = False
        for name, _ in dm.list_devices(self.control):
            if not name.startswith(self.prefix) or name == self.name:
                continue
            try:
                dm.dev_remove(self.control, name)
            except OSError as error:
                if error.errno not in (errno.EBUSY, errno.ENXIO):
                    raise
                used = used or error.errno == errno.EBUSY
        return used

    def give_back(self) -> None:
        """Take out of a borrowed pool what is left of the store; a pool of its own goes as a whole."""

    # Asking.

    def commit(self) -> None:
        """Let the pool commit all it has, by a message that changes nothing."""
        self.message(f"set_transaction_id {COMPLETE} {COMPLETE}")

    def message(self, text: str) -> None:
        """Send the pool a message; each that succeeds commits the pool's metadata.

        :raises OSError: EEXIST, ENODATA and others as the message means it. :raises OutOfSpace: its metadata is full.
        """
        _faults.point("devicemapper.message.sending")
        try:
            dm.target_msg(self.control, self.name, text)
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.ENOSPC):
                raise self._refusal(error, text) from error
            raise
        _faults.point("devicemapper.message.sent")

    def _refusal(self, error: OSError, text: str) -> CowstoreError:
        status = self.status()
        if status.mode == "ro" or not status.free(METADATA) or error.errno == errno.ENOSPC:
            return self.full(METADATA, status)
        return CowstoreError(f"the pool {self.name} is in mode {status.mode} and refuses {text!r}: {error}")

    def status(self) -> PoolStatus:
        """Tell the fill levels and the mode.

        :raises StoreCorrupt: the pool has failed.
        """
        try:
            info, (target,) = dm.table_status(self.control, self.name)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            text = f"the pool {self.name} was removed behind the store's back; close the store and open it again"
            raise StoreCorrupt(text, path=self.directory) from error
        words = target.params.split()
        if len(words) < 5:
            raise StoreCorrupt(
                f"the pool {self.name} has failed ({target.params}): see the kernel's log, and thin_check(8) of "
                f"{self.path(METADATA)}",
                path=self.path(METADATA),
            )
        return read_status(words, self.record.block_bytes, info)

    def full(self, what: str, status: PoolStatus) -> OutOfSpace:
        """Make the error that says what is full, and what to do."""
        used, total = (
            (status.data_used, status.data_total) if what == DATA else (status.metadata_used, status.metadata_total)
        )
        way_out = "remove snapshots"
        if status.needs_check:
            way_out = f"close all stores on it, and run `thin_check --clear-needs-check-flag {self.path(METADATA)}`"
        elif self.record.on_files:
            way_out += f", or raise {what}_limit_bytes ({self._limit(what)})"
        elif self.is_own and status.mode == "ro":
            way_out = f"close all stores on it, enlarge {self.path(METADATA)}, and open one again"
        kept = f"{self.options.min_free_percent} % must stay free"
        if what == METADATA and _reserve(total) * 100 > total * self.options.min_free_percent:
            kept = f"{_reserve(total)} must stay free for removals"
        return OutOfSpace(
            f"the pool {self.name} has too little {what} space: {used} of {total} bytes are used, {kept}; {way_out}",
            what=what,
            used=used,
            total=total,
        )

    def no_room(self) -> OutOfSpace | None:
        """Make the error for a pool to which nothing can be written, or that has nothing below it to write to."""
        status = self.status()
        if status.is_full or not status.free(METADATA):
            return self.full(DATA if not status.free(DATA) else METADATA, status)
        return self.host_full()

    def lost(self, id: int) -> CowstoreError:
        """Make the error for a file system to which not all could be written."""
        return self.no_room() or CowstoreError(
            f"something written to id {id} of the pool {self.name} is lost (perhaps since the pool was full for a "
            "time), so that it can neither be committed nor enlarged; remove it and make it again"
        )

    # Growing.

    def _limit(self, what: str) -> int:
        limit = self.options.data_limit_bytes if what == DATA else self.options.metadata_limit_bytes
        unit = self.record.block_bytes if what == DATA else METADATA_BLOCK
        return limit - limit % unit

    def ensure_room(self, wanted_bytes: int = 0, *, writers: bool = False) -> PoolStatus:
        """Grow the pool's files, as far as they may, until so much can be written and the threshold is kept.

        The data file is sparse, so that growing costs nothing; nobody need watch the pool while it is written to.

        :param writers: count the others that are active too, as writers who may fill a snapshot of the usual size each.
            That is more than is needed where they have written already, or only read, and less where they are larger;
            what they were given room for when they began is there anyway, and the host's free room bounds it all.
        :raises OutOfSpace: less than ``min_free_percent`` is free, and no growth helps.
        """
        status = self.status()
        if writers:
            wanted_bytes += max(0, status.active - 1) * self.record.base_bytes
        host = None
        if self.record.on_files and (wanted_bytes or status.data_used != self._host_checked):
            host = Host.of(self.directory)
            wanted_bytes = min(wanted_bytes, host.free)
        mappings = wanted_bytes // self.record.block_bytes * _BYTES_PER_MAPPING
        for what, wanted in ((DATA, wanted_bytes), (METADATA, mappings)):
            if self._short(what, status, wanted) and self.record.on_files:
                status = self._grow(what, status, wanted)
            if self._short(what, status, 0):
                raise self.full(what, status)
        if host is not None:
            if host.is_short:
                raise host.full(self.name)
            self._host_checked = status.data_used
        return status

    def _short(self, what: str, status: PoolStatus, wanted: int) -> bool:
        total = status.data_total if what == DATA else status.metadata_total
        free = status.free(what)
        if what == METADATA:
            wanted = max(wanted, _reserve(total))
        return free < wanted or free * 100 < total * self.options.min_free_percent

    def host_full(self) -> OutOfSpace | None:
        """Make the error for a full file system below the pool's files, if it is."""
        if not self.record.on_files:
            return None
        host = Host.of(self.directory)
        return host.full(self.name) if host.is_full else None

    def _grow(self, what: str, status: PoolStatus, wanted: int) -> PoolStatus:
        with locked(self.directory, POOL_SIZE):
            status = self.status()
            if not self._short(what, status, wanted):
                return status
            total = status.data_total if what == DATA else status.metadata_total
            used = total - status.free(what)
            unit = self.record.block_bytes if what == DATA else METADATA_BLOCK
            # Half as much again at least, so that growing stays rare; the threshold beyond what is wanted.
            size = max(total + total // 2, (used + wanted) * 100 // (100 - self.options.min_free_percent) + unit)
            size = min(size - size % unit, self._limit(what))
            if size <= total:
                return status
            self._set_size(what, size)
            return self.status()

    def _set_size(self, what: str, size: int) -> None:
        """Grow a file, its loop device and the pool; each step can be repeated, and none loses anything."""
        ground = {}
        with open_(self.path(what), os.O_RDWR) as file:
            mine = os.fstat(file.fileno())
            if mine.st_size < size:
                os.ftruncate(file.fileno(), size)
            if what == METADATA:
                self._allocate(file, mine.st_size)
        _faults.point("devicemapper.grow.file")
        for dev in dm.table_deps(self.control, self.name):
            with open_(nodes.block_node(self.directory, dev), os.O_RDWR) as device:
                info = loop.get_status64(device)
                is_it = (info.device, info.inode) == (mine.st_dev, mine.st_ino)
                if is_it:
                    loop.set_capacity(device)
                ground[what if is_it else (METADATA if what == DATA else DATA)] = dev
        self.reload(ground)

    def _allocate(self, file: Descriptor, before: int) -> None:
        """Give the metadata file the blocks of its new size, or its old size back."""
        try:
            allocate(file)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            os.ftruncate(file.fileno(), before)
            raise Host.of(self.directory).full(self.name) from error

    def reload(self, ground: dict[str, int]) -> None:
        """Give the active pool a new table; I/O waits meanwhile."""
        self._load(ground)
        _faults.point("devicemapper.grow.loaded")
        swap_table(self.control, self.name, dm.DmFlag.NOFLUSH | dm.DmFlag.SKIP_LOCKFS)
