"""A storage driver from outside the package: each snapshot is a directory, a child is a copy of its parent."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cowstore import Capabilities, Driver, DriverStatus, DriverUnavailable, Mount, MountFlag, Usage
from cowstore.mounting import detached
from cowstore.trees.copy import copy_tree
from cowstore.trees.remove import remove_tree
from cowstore.trees.usage import measure

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@contextmanager
def opened(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


class Plain(Driver):
    """Directories, copied. A child takes as long as its parent is large, and the capabilities say so."""

    name = "plain"
    capabilities = Capabilities(instant_create=False)

    @classmethod
    def probe(cls, directory: str, options: object) -> None:
        try:
            with detached([Mount(type="bind", source=os.fsencode(directory))]):
                pass
        except OSError as error:
            raise DriverUnavailable(f"{error}: run as root", driver="plain", missing=["permission to mount"]) from error

    def path(self, id: int) -> str:
        return os.path.join(self.directory, str(id))

    def create(self, id: int, parent: int | None, size_bytes: int | None) -> None:
        if size_bytes is not None:
            self.resize(id, size_bytes)  # raises Unsupported
        if os.path.isdir(self.path(id)):
            return  # done before
        draft = f"{self.path(id)}.new"  # a kill leaves only this name: held() finds it, remove() takes it away
        with opened(self.directory) as directory:
            remove_tree(directory, os.path.basename(draft))
        os.mkdir(draft)
        os.chmod(draft, 0o755)  # whatever the umask
        if parent is not None:
            with opened(self.path(parent)) as source, opened(draft) as target:
                copy_tree(source, target)
        os.rename(draft, self.path(id))

    def seal(self, id: int) -> None:
        if not self.volatile:
            os.sync()

    def remove(self, id: int) -> None:
        with opened(self.directory) as directory:
            remove_tree(directory, f"{id}.new")
            remove_tree(directory, str(id))

    def mounts(self, id: int, read_only: bool, *, volatile: bool = False) -> tuple[Mount, ...]:
        flags = MountFlag.RDONLY if read_only else MountFlag.NONE
        return (Mount(type="bind", source=os.fsencode(self.path(id)), flags=flags),)

    def usage(self, id: int) -> Usage:
        with opened(self.path(id)) as root:
            size_bytes, inodes = measure(root)
        return Usage(size_bytes=size_bytes, inodes=inodes)

    def held(self) -> Iterable[int]:
        return {int(name.removesuffix(".new")) for name in os.listdir(self.directory)}

    def status(self) -> DriverStatus:
        room = os.statvfs(self.directory)
        return DriverStatus(free_bytes=room.f_bavail * room.f_frsize, total_bytes=room.f_blocks * room.f_frsize)
