"""Sizes of directories by a file system of their own, in an image file: for overlay and copy, on request.

On disk, below the driver's directory::

    <id>/image     an ext4 that holds fs, and for overlay work; without the right to write once it is sealed
    images         there if there has ever been one: without it nobody looks for any

No image is ever mounted where anybody could see it: it is one of the mounts that realise a snapshot, and goes with
them. What is acquired for those is a loop device, which the kernel takes back with the last who has it open; so a
process that was killed leaves none, and whoever comes second finds the first one's.
"""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import ExitStack, contextmanager, suppress

from cowstore import _faults
from cowstore._linux import loop
from cowstore._linux.fd import Descriptor, open_
from cowstore.drivers._directories import is_there
from cowstore.errors import InvalidArgument, StoreCorrupt, Unsupported
from cowstore.model import Mount, MountFlag, stacked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["IMAGE", "MARK", "Images", "why_not"]

IMAGE = "image"
MARK = "images"

MIN_BYTES = 1 << 20
"""The smallest that mke2fs makes something useful of."""

_BLOCK = 4096
_JOURNAL_FROM = 16 << 20
"""A smaller one has no journal, which would take most of it."""

_EXT4_IOC_RESIZE_FS = 1 << 30 | 8 << 16 | ord("f") << 8 | 16


def why_not() -> str | None:
    """Say why this process can make no images; None where it can."""
    from cowstore import _programs

    if os.geteuid() != 0:
        return "only root may attach images"
    if _programs.find("mke2fs") is None:
        return _programs.missing("mke2fs")
    if not os.access(loop.CONTROL, os.R_OK | os.W_OK):
        return f"{loop.CONTROL} is not there: load the module (modprobe loop)"
    return None


class Images:
    """The images of one driver's ids.

    :param directory: the driver's. :param directory_fd: a descriptor of it, which stays the driver's.
    """

    def __init__(self, directory: str, directory_fd: int, *, read_only: bool) -> None:
        self._directory = directory
        self._fd = directory_fd
        self._read_only = read_only
        self._held: dict[int, list[loop.LoopDevice]] = {}

    def has(self, name: str) -> bool:
        """Tell whether the directory of an id holds an image."""
        return is_there(self._fd, f"{name}/{IMAGE}")

    def is_sealed(self, name: str) -> bool:
        """Tell whether nobody may write to an image any more."""
        return not os.stat(f"{name}/{IMAGE}", dir_fd=self._fd, follow_symlinks=False).st_mode & 0o200

    # What is acquired.

    def hold(self, id: int) -> list[loop.LoopDevice]:
        """Return where to put the devices that the mounts of *id* need, until :meth:`release`."""
        # What somebody else has removed needs nothing any more.
        for other in [other for other in self._held if other != id and not is_there(self._fd, str(other))]:
            self.release(other)
        return self._held.setdefault(id, [])

    def release(self, id: int) -> None:
        """Give up the devices that the mounts of *id* needed."""
        for device in self._held.pop(id, []):
            device.close()

    def close(self) -> None:
        """Give up all devices."""
        for id in list(self._held):
            self.release(id)

    # Making and changing.

    @contextmanager
    def made(self, name: str, size_bytes: int) -> Iterator[str]:
        """Make the image of an id in the making, mounted for the length of the block; gives the path of its root.

        :raises InvalidArgument: it would be too small. :raises DriverUnavailable: mke2fs is not installed.
        """
        from cowstore import _programs

        if size_bytes < MIN_BYTES:
            raise InvalidArgument(
                f"the size of an image must be {MIN_BYTES} bytes at least, not {size_bytes}", argument="size_bytes"
            )
        with suppress(FileExistsError):
            os.close(os.open(MARK, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self._fd))
        with open_(f"{name}/{IMAGE}", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self._fd) as file:
            os.ftruncate(file.fileno(), size_bytes // _BLOCK * _BLOCK)
            _faults.point("image.made.file")
            journal = ["-J", "size=4"] if size_bytes >= _JOURNAL_FROM else ["-O", "^has_journal"]
            _programs.run(
                "mke2fs",
                [
                    "-q", "-F", "-t", "ext4", "-b", str(_BLOCK), "-I", "256", "-i", "8192", "-m", "0", *journal,
                    "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1", f"{self._directory}/{name}/{IMAGE}",
                ],
            )  # fmt: skip
        _faults.point("image.made.formatted")
        with self.opened(name) as root:
            yield f"/proc/self/fd/{root.fileno()}"
        _faults.point("image.made.filled")

    def seal(self, name: str, *, durable: bool) -> None:
        """Take the right to write from an image that nobody has mounted, and write it out."""
        with self._file(name) as file:
            if durable:
                from cowstore._linux.files import syncfs

                with self.opened(name) as root, open_(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=root) as top:
                    # Also replays the journal of a machine that went down.
                    syncfs(top)
            _faults.point("image.seal.clean")
            os.fchmod(file.fileno(), 0o400)
            if durable:
                os.fsync(file.fileno())

    def resize(self, name: str, size_bytes: int) -> None:
        """Make an image, mounted or not, and its file system larger.

        :raises Unsupported: it would have to become smaller.
        """
        wanted = size_bytes // _BLOCK * _BLOCK
        with self.opened(name) as root, self._locked(name) as file:
            now = os.fstat(file.fileno()).st_size
            if wanted < now:
                raise Unsupported(
                    f"cannot make the image {self._directory}/{name}/{IMAGE} smaller ({now} bytes now, {size_bytes} "
                    "wanted): prepare another snapshot, or use a file system with project quotas",
                    feature="size_limits",
                )
            os.ftruncate(file.fileno(), wanted)
            _faults.point("image.resize.file")
            device = loop.find_attached(file)
            if device is None:
                raise StoreCorrupt(f"the loop device of {self._directory}/{name}/{IMAGE} is gone", path=name)
            with device, open_(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=root) as top:
                loop.set_capacity(device)
                _faults.point("image.resize.device")
                try:
                    _grow(top, wanted)
                except PermissionError as error:
                    os.ftruncate(file.fileno(), now)
                    loop.set_capacity(device)
                    raise Unsupported(
                        f"cannot make the image {self._directory}/{name}/{IMAGE} larger: the kernel lets only a "
                        "process with CAP_SYS_RESOURCE grow an ext4; give it that, or prepare another snapshot",
                        feature="size_limits",
                    ) from error

    # Mounting.

    def layers(
        self, chain: list[str], held: list[loop.LoopDevice], *, read_only: bool
    ) -> tuple[tuple[Mount, ...], list[bytes]]:
        """Describe the mounts of those images that a chain has, and where each of its layers is.

        :param chain: directories of the ids, nearest first. :param held: where what they need is put.
        """
        steps: list[Mount] = []
        layers = []
        for name in chain:
            if self.has(name):
                layers.append(stacked(len(steps), b"fs"))
                steps.append(self.mount(name, held, read_only=read_only or name is not chain[0]))
            else:
                layers.append(os.fsencode(f"{self._directory}/{name}/fs"))
        return tuple(steps), layers

    def mount(self, name: str, held: list[loop.LoopDevice], *, read_only: bool, subdir: bytes | None = None) -> Mount:
        """Describe the mount of one image."""
        device, sealed = self._attach(name)
        held.append(device)
        # All mounts of one image share its file system, and must agree whether that is written to.
        options: tuple[tuple[bytes, bytes], ...] = ((b"discard", b""),)
        if self._read_only:
            options = ((b"ro", b""), (b"noload", b""))
        elif sealed:
            options = ((b"ro", b""),)
        flags = MountFlag.RDONLY if read_only or sealed else MountFlag.NONE
        return Mount(type="ext4", source=os.fsencode(device.node), options=options, flags=flags, subdir=subdir)

    @contextmanager
    def opened(self, name: str) -> Iterator[Descriptor]:
        """Mount one image, where nobody sees it, for the length of the block; gives its root."""
        from cowstore.mounting import detached

        held: list[loop.LoopDevice] = []
        try:
            with detached((self.mount(name, held, read_only=self._read_only),)) as root:
                yield root
        finally:
            for device in held:
                device.close()

    def tree(self, stack: ExitStack, name: str, part: str = "fs") -> str:
        """Return a path of an id's layer, in an image or not, that is good as long as *stack*."""
        if not self.has(name):
            return f"{self._directory}/{name}/{part}"
        return f"/proc/self/fd/{stack.enter_context(self.opened(name)).fileno()}/{part}"

    def _file(self, name: str) -> Descriptor:
        flags = os.O_RDONLY if self._read_only else os.O_RDWR
        return open_(f"{name}/{IMAGE}", flags | os.O_NOFOLLOW, dir_fd=self._fd)

    @contextmanager
    def _locked(self, name: str) -> Iterator[Descriptor]:
        """Be the only one who attaches or resizes an image; gives the image, opened for that alone.

        A loop device keeps what it was given open, and with that a lock on it, as a forked child does.
        """
        with self._file(name) as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX)
            try:
                yield file
            finally:
                fcntl.flock(file.fileno(), fcntl.LOCK_UN)

    def _attach(self, name: str) -> tuple[loop.LoopDevice, bool]:
        """Return a hold on the loop device of an image, and whether the image is sealed."""
        # Two devices of one file would be two file systems that write over each other.
        with self._locked(name) as lock, self._file(name) as file:
            sealed = not os.fstat(lock.fileno()).st_mode & 0o200
            device = loop.find_attached(file, read_only=self._read_only)
            if device is None:
                told = os.fsencode(f"{self._directory}/{name}/{IMAGE}")
                device = loop.attach(file, read_only=self._read_only, file_name=told[-63:])
            return device, sealed


def _grow(top: Descriptor, size_bytes: int) -> None:
    """Make a mounted ext4 larger."""
    fcntl.ioctl(top.fileno(), _EXT4_IOC_RESIZE_FS, struct.pack("=Q", size_bytes // _BLOCK))
