"""A Btrfs of the driver's own in a sparse loop file, for stores on any other file system.

The file system is mounted detached: it hangs on descriptors, in no mount table, and goes with its last user. Any number
of processes share it. The file is attached once, to a loop device that the kernel clears after the last user; whoever
comes next looks for that device first, since a second device with the same Btrfs would be refused, or worse.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import ExitStack, contextmanager

from cowstore import _faults
from cowstore._linux import btrfs, files, loop, mount, trim
from cowstore._linux.fd import Descriptor, open_
from cowstore.drivers.btrfs.ground import Ground, attributes
from cowstore.drivers.btrfs.options import MIN_POOL_BYTES, Options
from cowstore.errors import OutOfSpace, StoreMismatch
from cowstore.model import Mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

FILE = "pool.img"
NEW = "pool.img.new"
LOCK = "pool.lock"

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_MIB = 1 << 20
# A pool grows while less than half of it, or less than this, is free: what a sparse file does not hold costs nothing,
# and nobody is there to grow it while a program writes.
_HEADROOM_BYTES = 8 << 30
# What the file system below must keep: a loop device that cannot write ends in an aborted Btrfs.
_RESERVE_BYTES = 64 * _MIB


class Pool(Ground):
    """A loop file with a Btrfs in it, whose top is the home of the subvolumes."""

    def __init__(self, directory: str, options: Options, *, read_only: bool) -> None:
        """Attach the file and mount it detached, both made if need be.

        :raises StoreMismatch: a copy of this pool is in use.
        :raises OutOfSpace: there is no room for one.
        """
        self._directory = directory
        self._path = os.path.join(directory, FILE)
        self._options = options
        self._read_only = read_only
        with ExitStack() as stack:
            with self._locked():
                self._file = stack.enter_context(self._open_file())
                self.device = stack.enter_context(self._attach())
                self._settle_size()
                self._root = stack.enter_context(self._mount())
                self.home = stack.enter_context(open_(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._root))
            if not read_only:
                self._resize_to_device()
            stack.pop_all()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock under which the pool is made, attached and grown; the kernel frees it whatever happens."""
        flags = os.O_RDONLY if self._read_only else os.O_RDWR | os.O_CREAT
        with open_(os.path.join(self._directory, LOCK), flags, 0o600) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _open_file(self) -> Descriptor:
        try:
            return open_(self._path, os.O_RDWR)
        except FileNotFoundError:
            if self._read_only:
                raise
        make(self._directory, self._options)
        return open_(self._path, os.O_RDWR)

    def _attach(self) -> loop.LoopDevice:
        return loop.find_attached(self._file) or loop.attach(self._file, file_name=os.fsencode(self._path))

    def _settle_size(self) -> None:
        """Let the device follow the file, should a growth have been interrupted."""
        size = os.fstat(self._file.fileno()).st_size
        if os.lseek(self.device.fileno(), 0, os.SEEK_END) < size:
            loop.set_capacity(self.device)

    def _mount(self) -> Descriptor:
        try:
            with mount_context(self.device.node, self._options) as context:
                return mount.fsmount(context)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
            raise StoreMismatch(
                f"cannot mount {self._path}: a copy of this pool is in use, and two with the same UUID cannot be; "
                "close the store that uses the other, or give one of them a new UUID (btrfstune -u)",
                expected="one pool of this UUID",
                found="another that is mounted",
            ) from error

    def mount(self, id: int, subvol_id: int, *, read_only: bool) -> Mount:
        return Mount(
            type="btrfs",
            source=os.fsencode(self.device.node),
            options=((b"subvolid", b"%d" % subvol_id),),
            flags=attributes(read_only=read_only),
        )

    def details(self) -> dict[str, str]:
        status = os.fstat(self._file.fileno())
        return {
            "ground": f"loop file {self._path} on {self.device.node}",
            "pool_size_bytes": str(status.st_size),
            "pool_limit_bytes": str(self._options.pool_limit_bytes),
            "pool_file_bytes": str(status.st_blocks * 512),
            "free_below_bytes": str(_free_below(self._directory)),
            "compression": self._options.compression or "off",
        }

    def capacity_bytes(self) -> int:
        """Tell the size up to which the pool may grow."""
        return max(super().capacity_bytes(), self._options.pool_limit_bytes)

    def make_room(self) -> None:
        """Grow by doubling, up to the limit and to what the file system below has, once room runs short."""
        below = _free_below(self._directory)
        if below < _RESERVE_BYTES:
            raise OutOfSpace(
                f"cannot begin new work in the pool {self._path}: the file system below it has {below} bytes left; "
                "free some there",
                used=0,
                total=below,
            )
        free, size = self._room()
        if free >= min(size // 2, _HEADROOM_BYTES) or size >= self._options.pool_limit_bytes:
            return
        with self._locked():
            self._grow(below)

    def _room(self) -> tuple[int, int]:
        status = files.statfs(self.home)
        return status.available * status.block_size, status.blocks * status.block_size

    def _grow(self, below: int) -> None:
        free, size = self._room()
        file = os.fstat(self._file.fileno())
        wanted = min(size * 2, self._options.pool_limit_bytes, file.st_blocks * 512 + below - _RESERVE_BYTES)
        wanted -= wanted % _MIB
        if free >= min(size // 2, _HEADROOM_BYTES) or wanted <= file.st_size:
            return
        os.ftruncate(self._file.fileno(), wanted)
        _faults.point("btrfs.pool.lengthened")
        loop.set_capacity(self.device)
        self._resize_to_device()

    def _resize_to_device(self) -> None:
        """Let the file system follow the device."""
        device = os.lseek(self.device.fileno(), 0, os.SEEK_END)
        if btrfs.dev_info(self.home, 1).total_bytes >= device - device % _MIB:
            return
        try:
            btrfs.resize(self.home, "max")
        except OSError as error:
            # Another process is at it, or a balance is under way: whoever opens next will do it.
            if error.errno not in {errno.EINPROGRESS, errno.EBUSY}:
                raise

    def give_back(self) -> None:
        """Punch what is free in the file system out of the file, which the kernel itself does only minutes later."""
        try:
            trim.fitrim(self.home)
        except OSError as error:
            if error.errno not in {errno.EOPNOTSUPP, errno.EPERM, errno.EROFS}:
                raise

    def unfinished(self) -> list[str]:
        path = os.path.join(self._directory, NEW)
        return [path] if os.path.lexists(path) else []

    def close(self) -> None:
        self.home.close()
        self._root.close()
        self.device.close()
        self._file.close()

    def destroy(self) -> list[int]:
        with self._locked():
            self.close()
            for name in (FILE, NEW):
                try:
                    os.unlink(os.path.join(self._directory, name))
                except FileNotFoundError:
                    continue
        os.unlink(os.path.join(self._directory, LOCK))
        # Their file system is gone with them.
        return []


def _free_below(directory: str) -> int:
    status = files.statfs(directory)
    return status.available * status.block_size


def make(directory: str, options: Options) -> None:
    """Make the loop file with a Btrfs in it, whole or not at all.

    :raises OutOfSpace: the file system of *directory* has not the room for the smallest one.
    """
    from cowstore import _programs

    size = min(options.pool_size_bytes, _free_below(directory) - _RESERVE_BYTES)
    if size < MIN_POOL_BYTES:
        raise OutOfSpace(
            f"cannot make a pool in {directory}: it needs {MIN_POOL_BYTES + _RESERVE_BYTES} bytes there, and "
            f"{_free_below(directory)} are free",
            total=_free_below(directory),
        )
    new = os.path.join(directory, NEW)
    with open_(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600) as file:
        os.ftruncate(file.fileno(), size - size % _MIB)
        _programs.run("mkfs.btrfs", ["--quiet", "--label", "cowstore", new])
        os.fsync(file.fileno())
    _faults.point("btrfs.pool.formatted")
    os.rename(new, os.path.join(directory, FILE))
    with open_(directory, _DIRECTORY) as parent:
        os.fsync(parent.fileno())


def mount_context(node: str, options: Options) -> Descriptor:
    """Return a context in which the Btrfs on the device *node* is set up, ready for fsmount(2).

    Blocks that are given up are given back to the file below, where the kernel can do that.
    """
    wanted = ["discard=async", f"compress={options.compression}" if options.compression else ""]
    while True:
        context = mount.fsopen("btrfs")
        try:
            mount.fsconfig_set_string(context, "source", node)
            for option in filter(None, wanted):
                mount.fsconfig_set_string(context, *option.split("=", 1))
            mount.fsconfig_create(context)
        except OSError as error:
            context.close()
            if error.errno != errno.EINVAL or not wanted[0]:
                raise
            wanted[0] = ""
        else:
            return context
