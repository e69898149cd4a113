"""Device nodes and the control device, with and without udev, with and without devtmpfs.

The number the kernel tells is the truth. Where ``/dev`` has no node of that number (a container's ``/dev``, say), one
is made in the driver's own directory.
"""

from __future__ import annotations

import errno
import os
import stat

from cowstore._linux import dm, loop
from cowstore._linux.fd import open_

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cowstore._linux.fd import Descriptor

NODES = "nodes"


def node(directory: str, dev: int, usual: str, *, kind: int = stat.S_IFBLK) -> str:
    """Return the path of a node of a device: the usual one if it is of that device, else one made in *directory*.

    :raises OSError: EPERM, EACCES, EROFS: none can be made here.
    """
    if _is_node(usual, dev, kind):
        return usual
    own = os.path.join(directory, NODES, os.path.basename(usual))
    if not _is_node(own, dev, kind):
        os.makedirs(os.path.dirname(own), mode=0o700, exist_ok=True)
        try:
            os.unlink(own)
        except FileNotFoundError:
            pass
        try:
            os.mknod(own, kind | 0o600, dev)
        except FileExistsError:
            pass  # Another thread or process was faster, with the same number.
    return own


def find(directory: str) -> Callable[[str, int], str]:
    """Return what tells the loop module where nodes are: in ``/dev``, or made in *directory*."""

    def path(usual: str, dev: int) -> str:
        character = dev == os.makedev(loop.CONTROL_MAJOR, loop.CONTROL_MINOR)
        return node(directory, dev, usual, kind=stat.S_IFCHR if character else stat.S_IFBLK)

    return path


def forget(directory: str, usual: str) -> None:
    """Remove a node that :func:`node` made, when its device is gone."""
    try:
        os.unlink(os.path.join(directory, NODES, os.path.basename(usual)))
    except (FileNotFoundError, NotADirectoryError):
        return


def _is_node(path: str, dev: int, kind: int) -> bool:
    try:
        found = os.stat(path)
    except OSError:
        return False
    return stat.S_IFMT(found.st_mode) == kind and found.st_rdev == dev


def block_node(directory: str, dev: int) -> str:
    """Return the node of a block device by its number alone."""
    mapped = f"/dev/dm-{os.minor(dev)}"
    if os.major(dev) != loop.LOOP_MAJOR and _is_node(mapped, dev, stat.S_IFBLK):
        return mapped
    try:
        # With partitions a loop device's number is not its index.
        name = os.path.basename(os.readlink(f"/sys/dev/block/{os.major(dev)}:{os.minor(dev)}"))
    except OSError:
        name = f"loop{os.minor(dev)}" if os.major(dev) == loop.LOOP_MAJOR else f"dm-{os.minor(dev)}"
    return node(directory, dev, f"/dev/{name}")


def open_control(directory: str) -> Descriptor:
    """Open device-mapper's control device; opening its node makes the kernel load the module.

    :raises OSError: EACCES or EPERM, not allowed; ENODEV, ENXIO or ENOENT, the kernel has no device-mapper.
    """
    try:
        return dm.open_control()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            raise
    number = os.makedev(dm.CONTROL_MAJOR, dm.CONTROL_MINOR)
    return open_(node(directory, number, dm.CONTROL, kind=stat.S_IFCHR), os.O_RDWR)
