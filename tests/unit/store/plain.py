"""A driver of plain directories, so that the store can be tried without any privilege."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass

from cowstore.driver import Driver
from cowstore.model import Capabilities, Mount
from cowstore.results import DriverStatus, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainOptions:
    """What the tests set."""

    limit_bytes: int = 0
    eager: bool = False


class Plain(Driver):
    """Every id is a directory; a child is a copy."""

    name = "plain"
    Options = PlainOptions
    capabilities = Capabilities(max_depth=3, rootless=True, instant_create=False)
    seals = 0

    @classmethod
    def probe(cls, directory: str, options: object) -> None:
        return

    def path(self, id: int) -> str:
        return os.path.join(self.directory, str(id))

    def create(self, id: int, parent: int | None, size_bytes: int | None) -> None:
        if parent is None:
            os.makedirs(self.path(id), exist_ok=True)
        else:
            shutil.copytree(self.path(parent), self.path(id), dirs_exist_ok=True, symlinks=True)

    def seal(self, id: int) -> None:
        type(self).seals += 1
        os.stat(self.path(id))

    def remove(self, id: int) -> None:
        shutil.rmtree(self.path(id), ignore_errors=True)

    def mounts(self, id: int, read_only: bool, *, volatile: bool = False) -> tuple[Mount, ...]:
        return (Mount(type="bind", source=os.fsencode(self.path(id))),)

    def usage(self, id: int) -> Usage:
        return Usage(size_bytes=0, inodes=len(os.listdir(self.path(id))))

    def held(self) -> list[int]:
        return [int(name) for name in os.listdir(self.directory) if name.isdigit()]

    def unpack_directory(self, id: int) -> str | None:
        return self.path(id)

    def status(self) -> DriverStatus:
        return DriverStatus(free_bytes=1, total_bytes=2)
