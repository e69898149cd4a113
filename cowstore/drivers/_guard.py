"""Looking at a block device before it is written to: is it in use, and does it hold anything?

Whatever cannot be found out counts as a reason not to touch it.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from dataclasses import dataclass

from cowstore._linux import blkid
from cowstore._linux.fd import open_
from cowstore._linux.procfs import mountinfo
from cowstore.errors import Busy, InvalidArgument, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cowstore._linux.blkid import Signature
    from cowstore._linux.fd import Descriptor


THIN_POOL = "the metadata of a thin pool"


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What there is to know of a block device; size in bytes.

    :ivar uses: who or what uses it, in words. :ivar holds: in words, what it holds; empty where it is blank.
    """

    path: str
    dev: int
    size_bytes: int
    read_only: bool
    uses: tuple[str, ...]
    holds: str


def claim(path: str, *, force: bool = False) -> Device:
    """Make sure that a block device may be written to.

    :param force: although it holds something; never although it is in use.
    :raises InvalidArgument: it is no block device, or read-only. :raises Busy: it is in use.
    :raises Unsupported: it holds something; the message says what, by label and UUID.
    """
    found = describe(path)
    if found.uses:
        raise Busy(f"{path} is in use: {'; '.join(found.uses)}. Nothing was written to it")
    if found.read_only:
        raise InvalidArgument(f"{path} is read-only", argument="data_device")
    if found.holds and not force:
        raise Unsupported(
            f"{path} holds {found.holds}. Nothing was written to it; give the option force=yes if that may be lost",
            feature="force",
        )
    return found


def settle(seconds: float = 10.0) -> None:
    """Wait until a running udev has dealt with all devices, and whoever it tells of them (LVM, RAID) has taken his.

    Where none runs there is nothing to wait for; pyudev, where it is installed, tells of single devices.
    """
    deadline = time.monotonic() + seconds
    if not os.path.exists("/run/udev/control"):
        return
    while (os.path.exists("/run/udev/queue") or _is_new()) and time.monotonic() < deadline:
        time.sleep(0.01)


def _is_new() -> bool:
    """Tell whether udev has not finished with some block device."""
    try:
        import pyudev
    except ImportError:
        return False
    disks = pyudev.Context().list_devices(subsystem="block", DEVTYPE="disk")
    return not all(device.is_initialized for device in disks)


def describe(path: str, *, sysfs: str = "/sys") -> Device:
    """Find out what a block device is, who uses it, and what it holds.

    :raises InvalidArgument: there is no block device of that name.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        raise InvalidArgument(f"no block device {path}: {error.strerror}", argument="data_device") from error
    if not stat.S_ISBLK(found.st_mode):
        raise InvalidArgument(f"{path} is no block device", argument="data_device")
    dev = found.st_rdev
    numbers = dict.fromkeys(_family(dev, sysfs))
    uses = [*_stacked(dev, sysfs), *_mounted(numbers), *_swapped(numbers)]
    size, exclusive = _open_exclusively(path)
    if exclusive and not uses:
        uses.append(exclusive)
    return Device(
        path=path,
        dev=dev,
        size_bytes=size,
        read_only=_attribute(dev, sysfs, "ro") == "1",
        uses=tuple(uses),
        holds=_held(path),
    )


def _directory(dev: int, sysfs: str) -> str:
    return f"{sysfs}/dev/block/{os.major(dev)}:{os.minor(dev)}"


def _attribute(dev: int, sysfs: str, name: str) -> str:
    try:
        with open(f"{_directory(dev, sysfs)}/{name}", encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""


def _parts(dev: int, sysfs: str) -> Iterator[tuple[int, str]]:
    """Iterate over a disk's partitions: number and name. One that vanishes meanwhile is left out."""
    top = _directory(dev, sysfs)
    try:
        names = sorted(os.listdir(top))
    except OSError:
        return
    for name in names:
        if os.path.exists(f"{top}/{name}/partition"):
            number = _number(f"{top}/{name}/dev")
            if number is not None:
                yield number, name


def _number(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            major, _, minor = file.read().strip().partition(":")
        return os.makedev(int(major), int(minor))
    except (OSError, ValueError):
        return None


def _family(dev: int, sysfs: str) -> Iterator[int]:
    """Iterate over a device, its partitions, and all that stands on any of them."""
    yield dev
    for number, _ in _parts(dev, sysfs):
        yield from _family(number, sysfs)
    for name in _holders(dev, sysfs):
        holder = _number(f"{_directory(dev, sysfs)}/holders/{name}/dev")
        if holder is not None:
            yield from _family(holder, sysfs)


def _holders(dev: int, sysfs: str) -> list[str]:
    try:
        return sorted(os.listdir(f"{_directory(dev, sysfs)}/holders"))
    except OSError:
        return []


def _stacked(dev: int, sysfs: str) -> Iterator[str]:
    for number, name in [(dev, ""), *_parts(dev, sysfs)]:
        for holder in _holders(number, sysfs):
            what = _mapped(f"{_directory(number, sysfs)}/holders/{holder}")
            yield f"{holder}{what} stands on {name or 'it'}"
        if name:
            yield f"it has the partition {name}"


def _mapped(directory: str) -> str:
    """Say what a device-mapper device is; an LVM volume is known by its UUID."""
    try:
        with open(f"{directory}/dm/uuid", encoding="utf-8") as file:
            uuid = file.read().strip()
        with open(f"{directory}/dm/name", encoding="utf-8") as file:
            name = file.read().strip()
    except OSError:
        return ""
    return f" ({'the LVM volume ' if uuid.startswith('LVM-') else ''}{name})"


def _mounted(numbers: dict[int, None]) -> Iterator[str]:
    for entry in mountinfo():
        number = os.makedev(entry.major, entry.minor)
        if number in numbers or _rdev(os.fsdecode(entry.source)) in numbers:
            yield f"mounted at {os.fsdecode(entry.mount_point)}"


def _swapped(numbers: dict[int, None]) -> Iterator[str]:
    try:
        with open("/proc/swaps", encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()[1:]
    except FileNotFoundError:
        return
    for line in lines:
        name = line.split()[0].encode("utf-8", "surrogateescape").decode("unicode_escape")
        if _rdev(name) in numbers:
            yield f"swap space {name}"


def _rdev(path: str) -> int | None:
    """Return the number of the block device at a path; Btrfs' mounts tell their source only so."""
    if not path.startswith("/"):
        return None
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_rdev if stat.S_ISBLK(found.st_mode) else None


def _open_exclusively(path: str) -> tuple[int, str]:
    """Return the size, and what is wrong: this alone covers other mount namespaces and members of a RAID."""
    try:
        with open_(path, os.O_RDONLY | os.O_EXCL) as device:
            return os.lseek(device.fileno(), 0, os.SEEK_END), ""
    except OSError as error:
        if error.errno == errno.EBUSY:
            return (
                0,
                "the kernel has given it to somebody (another mount namespace, a RAID, a multi-device file system)",
            )
        return 0, f"it cannot be opened: {error.strerror}"


def _held(path: str) -> str:
    try:
        with open_(path, os.O_RDONLY) as device:
            _forget_cached(device)
            found = blkid.do_safeprobe(device)
            return _words(found) if found else _head(device.fileno())
    except blkid.Ambivalent:
        return "signatures of more than one thing"
    except OSError as error:
        return f"what cannot be found out ({error})"


def _forget_cached(device: Descriptor) -> None:
    """Drop what is cached of the device, if it can be: a device-mapper target writes to it beside the cache."""
    from cowstore.drivers.devicemapper.filesystem import forget_cached

    try:
        forget_cached(device)
    except PermissionError:
        return


def _words(found: Signature) -> str:
    label = f", label {found.label!r}" if found.label else ""
    uuid = f", UUID {found.uuid}" if found.uuid else ""
    return f"{found.type}{label}{uuid}"


def _head(fd: int) -> str:
    """Recognise a thin pool's metadata, of which libblkid knows nothing."""
    from cowstore.drivers.devicemapper.metadata import is_formatted

    return THIN_POOL if is_formatted(fd) else ""
