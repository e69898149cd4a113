"""Mounts of thin devices: describing one, and having one for a moment."""

from __future__ import annotations

import os
from contextlib import contextmanager

from cowstore.drivers.devicemapper import filesystem
from cowstore.model import Mount, MountFlag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cowstore._linux import dm
    from cowstore.drivers.devicemapper.options import FileSystem


def describe(
    kind: FileSystem, node: str, info: dm.Info, *, read_only: bool, volatile: bool = False, whole: bool = False
) -> Mount:
    """Describe the mount of an active device.

    :param read_only: of the mount; a device that is read-only is mounted without its journal, whatever is asked for.
    :param whole: the device's own root, not the directory in it that is the snapshot's.
    """
    return Mount(
        type=kind.value,
        source=os.fsencode(node),
        options=filesystem.mount_options(kind, read_only=info.read_only, volatile=volatile),
        flags=MountFlag.RDONLY if read_only else MountFlag.NONE,
        subdir=None if whole else filesystem.ROOT,
    )


@contextmanager
def opened(kind: FileSystem, node: str, info: dm.Info) -> Iterator[int]:
    """Mount a device for writing, seen by nobody, for the length of a block; gives a descriptor of its root.

    By the end its journal is empty, unless it is mounted elsewhere too.
    """
    from cowstore.mounting import detached

    with detached([describe(kind, node, info, read_only=False, whole=True)]) as top:
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=top.fileno())
        try:
            yield fd
        finally:
            os.close(fd)
