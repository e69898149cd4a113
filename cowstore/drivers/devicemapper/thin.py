"""Thin devices: activating one, taking it down, discarding all of it.

The kernel counts who has one open. The caller holds the id's lock, so that two processes never make one device at once.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import time

from cowstore import _faults
from cowstore._linux import dm
from cowstore._linux._call import bind, oserror, retry
from cowstore._linux.fd import open_
from cowstore.drivers.devicemapper import nodes
from cowstore.drivers.devicemapper.locks import POOL_SIZE, locked
from cowstore.drivers.devicemapper.tables import go_on, swap_table, take_away
from cowstore.errors import Busy, CowstoreError, StoreCorrupt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore.drivers.devicemapper.pool import Pool

BLKDISCARD = 0x1277
_BUSY_SECONDS = 0.25
_CLOSING_SECONDS = 2.0
_READERS_SECONDS = 5.0
_ioctl = bind("ioctl", ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)


class Thins:
    """The thin devices of one pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.control = pool.control

    def name(self, id: int) -> str:
        return f"{self._pool.prefix}{id}"

    def find(self, id: int) -> dm.Info | None:
        """Look whether an id's device is active."""
        try:
            return dm.dev_status(self.control, self.name(id))
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return None

    def node(self, info: dm.Info) -> str:
        """Return the path of an active device's node."""
        return nodes.block_node(self._pool.directory, info.dev)

    def activate(self, id: int, size_bytes: int, *, read_only: bool) -> dm.Info:
        """Make an id's device, or take over the one there is.

        A device on its way out (a deferred removal) is called back; one that a killed process left half-made is
        finished.

        :raises StoreCorrupt: the pool has no such id.
        """
        deadline = time.monotonic() + _READERS_SECONDS
        while True:
            info = self.find(id)
            if info is not None and dm.DmFlag.DEFERRED_REMOVE in info.flags and not self._call_back(id):
                continue
            if info is not None and info.live:
                if info.suspended:
                    info = dm.dev_resume(self.control, self.name(id))
                if info.read_only and not read_only:
                    self._wait_for_readers(id, deadline)
                    continue
                return info
            return self._make(id, size_bytes, read_only=read_only, there=info is not None)

    def _make(self, id: int, size_bytes: int, *, read_only: bool, there: bool) -> dm.Info:
        name = self.name(id)
        if not there:
            dm.dev_create(self.control, name, f"{self._pool.uuid_prefix}{id}")
        _faults.point("devicemapper.activate.created")
        try:
            self._load(id, size_bytes, read_only=read_only)
            _faults.point("devicemapper.activate.loaded")
            return dm.dev_resume(self.control, name)
        except OSError as error:
            take_away(self.control, name, error)
            if error.errno != errno.ENODATA:
                raise
            raise StoreCorrupt(
                f"the pool {self._pool.name} has no thin device {id}: it was deleted behind the store's back",
                path=self._pool.directory,
            ) from error

    def _load(self, id: int, size_bytes: int, *, read_only: bool) -> None:
        pool = self._pool.dev
        params = f"{os.major(pool)}:{os.minor(pool)} {self._pool.number(id)}"
        targets = [dm.Target(0, size_bytes // dm.SECTOR, "thin", params)]
        try:
            dm.table_load(self.control, self.name(id), targets, read_only=read_only)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # The kernel loads none while the pool is suspended, as it is to get a new table: that is done under a lock.
            with locked(self._pool.directory, POOL_SIZE):
                dm.table_load(self.control, self.name(id), targets, read_only=read_only)

    def _call_back(self, id: int) -> bool:
        """Undo a deferred removal; False when it was faster."""
        try:
            dm.target_msg(self.control, self.name(id), "@cancel_deferred_remove")
        except OSError as error:
            if error.errno not in (errno.ENXIO, errno.EBUSY, errno.ENODEV):
                raise
            time.sleep(0.001)
            return False
        return True

    def _wait_for_readers(self, id: int, deadline: float) -> None:
        """Take down a device that was activated for reading, as soon as its readers are gone."""
        if self.deactivate(id, defer=False):
            return
        if time.monotonic() > deadline:
            pids = holders(self.find(id))
            raise Busy(f"the device {self.name(id)} is mounted read-only{_by(pids)}; try again later", holders=pids)
        time.sleep(0.01)

    def is_closed(self, id: int) -> bool:
        """Tell whether nobody has an active device open; one whose mount has just ended may be for a moment."""
        deadline = time.monotonic() + _CLOSING_SECONDS
        pause = 0.0005
        while (info := self.find(id)) is not None and info.open_count:
            if time.monotonic() > deadline:
                return False
            time.sleep(pause)
            pause *= 2
        return True

    def resize(self, id: int, size_bytes: int) -> None:
        """Give an active device another size; a mounted file system is frozen meanwhile, and thawed on every path."""
        self._load(id, size_bytes, read_only=False)
        swap_table(self.control, self.name(id))

    def deactivate(self, id: int, *, defer: bool) -> bool:
        """Take down an id's device; True when it is gone.

        :param defer: let its last close take it down, should it stay open for longer than a moment.
        """
        name = self.name(id)
        info = self.find(id)
        if info is None:
            return True
        deadline = time.monotonic() + _BUSY_SECONDS
        pause = 0.0005
        while True:
            try:
                dm.dev_remove(self.control, name)
                break
            except OSError as error:
                if error.errno == errno.ENXIO:
                    break
                if error.errno != errno.EBUSY:
                    raise
            if time.monotonic() > deadline:
                return defer and self._defer(id)
            time.sleep(pause)
            pause *= 2
        nodes.forget(self._pool.directory, f"/dev/dm-{os.minor(info.dev)}")
        return True

    def _defer(self, id: int) -> bool:
        try:
            dm.dev_remove(self.control, self.name(id), deferred=True)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return True
        return False

    def suspended(self, id: int) -> Suspended:
        """Stop an id's device, if it is active, for the length of a block: its file system is synced and clean then."""
        return Suspended(self, id)

    def discard(self, id: int, size_bytes: int) -> None:
        """Give back all blocks of an inactive id that nobody shares, down to the file below.

        :raises Busy: somebody holds the device.
        """
        info = self.activate(id, size_bytes, read_only=False)
        try:
            with open_(self.node(info), os.O_RDWR | os.O_EXCL) as device:
                buffer = ctypes.create_string_buffer(struct.pack("=QQ", 0, size_bytes), 16)
                if retry(_ioctl, device.fileno(), BLKDISCARD, ctypes.addressof(buffer)) < 0:
                    raise oserror("ioctl(2)", self.node(info), detail="BLKDISCARD")
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise Busy(
                    f"the device {self.name(id)} is in use{_by(holders(info))}", holders=holders(info)
                ) from error
            if error.errno not in (errno.EOPNOTSUPP, errno.EIO):
                raise


class Suspended:
    """A device held still; resumed however the block ends, and never suspended for longer."""

    __slots__ = ("_id", "_name", "_thins")

    def __init__(self, thins: Thins, id: int) -> None:
        self._thins = thins
        self._id = id
        self._name = thins.name(id)

    def __enter__(self) -> bool:
        """Tell whether there was an active device to suspend."""
        info = self._thins.find(self._id)
        if info is None or not info.live:
            self._name = ""
            return False
        try:
            dm.dev_suspend(self._thins.control, self._name)
        except BaseException as error:
            # A suspend that failed half-way may have stopped some of it.
            go_on(self._thins.control, self._name, error)
            if not isinstance(error, OSError):
                raise
            raise CowstoreError(
                f"the device {self._name} of id {self._id} cannot be suspended for a snapshot ({error.strerror}); it "
                "goes on as before, and no snapshot was made: see the kernel's log, then try again"
            ) from error
        return True

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if not self._name:
            return
        if error is None:
            dm.dev_resume(self._thins.control, self._name)
        else:
            go_on(self._thins.control, self._name, error)


def holders(info: dm.Info | None) -> list[int]:
    """List processes in whose mount namespace the device is mounted, as far as /proc shows them."""
    if info is None:
        return []
    wanted = f" {os.major(info.dev)}:{os.minor(info.dev)} ".encode()
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/mountinfo", "rb") as file:
                if wanted in file.read():
                    found.append(int(name))
        except OSError:
            continue
    return sorted(found)


def _by(pids: list[int]) -> str:
    return f" by process {', '.join(map(str, pids[:10]))}" if pids else ""
