"""Small pools, and looking at them from outside."""

from __future__ import annotations

import hashlib
import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from cowstore import _faults, mounting
from cowstore.drivers.devicemapper import DeviceMapper
from cowstore.drivers.devicemapper.options import MIB, Options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SMALL: dict[str, int] = {
    "data_bytes": 256 * MIB,
    "data_limit_bytes": 256 * MIB,
    "metadata_bytes": 4 * MIB,
    "metadata_limit_bytes": 4 * MIB,
    "base_bytes": 64 * MIB,
    "journal_bytes": 4 * MIB,
}


class Bench:
    """A driver in a directory of its own, and a place to mount on."""

    def __init__(self, directory: Path, **options: object) -> None:
        self.directory = directory / "driver"
        self.place = directory / "place"
        for path in (self.directory, self.place):
            path.mkdir(parents=True, exist_ok=True)
        self.options = Options(**{**SMALL, **options})  # type: ignore[arg-type]
        self.driver = DeviceMapper(str(self.directory), self.options)

    def reopen(self, **options: object) -> DeviceMapper:
        self.driver.close()
        self.options = Options(**{**SMALL, **options})  # type: ignore[arg-type]
        self.driver = DeviceMapper(str(self.directory), self.options)
        return self.driver

    @contextmanager
    def mounted(self, id: int, *, read_only: bool = False) -> Iterator[Path]:
        mounting.attach(self.driver.mounts(id, read_only), str(self.place))
        try:
            yield self.place
        finally:
            mounting.detach(str(self.place))
            self.driver.release(id)

    @contextmanager
    def active(self, id: int, *, read_only: bool) -> Iterator[str]:
        """Activate an id without a mount; gives its node."""
        (mount,) = self.driver.mounts(id, read_only)
        try:
            yield os.fsdecode(mount.source)
        finally:
            self.driver.release(id)

    def fill(self, id: int, mebibytes: int, name: str = "fill") -> str:
        """Write random bytes; returns their hash."""
        with self.mounted(id) as root:
            return write_random(root / name, mebibytes)

    def hash(self, id: int, name: str = "fill") -> str:
        with self.mounted(id, read_only=True) as root:
            return hashlib.sha256((root / name).read_bytes()).hexdigest()

    def data_kib(self) -> int:
        """What the data file takes on the disk."""
        return os.stat(self.directory / "data").st_blocks // 2

    def end(self) -> None:
        for id in sorted(self.driver.held(), reverse=True):
            self.driver.remove(id)
        self.driver.destroy()


def write_random(path: Path, mebibytes: int) -> str:
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for _ in range(mebibytes):
            block = os.urandom(MIB)
            digest.update(block)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def devices() -> tuple[str, str]:
    """What device-mapper and loop devices there are, told by the distribution's own tools."""
    mapped = subprocess.run(["dmsetup", "ls"], capture_output=True, text=True, check=True).stdout
    loops = subprocess.run(["losetup", "--all", "--noheadings"], capture_output=True, text=True, check=True).stdout
    return mapped, loops


def killed_at(number: int, work: Callable[[], object]) -> None:
    """Do *work* in a child that is killed at the fault point of that number."""
    child = os.fork()
    if child == 0:
        left = [number]

        def hook(_name: str) -> None:
            if not left[0]:
                os.kill(os.getpid(), 9)
            left[0] -= 1

        _faults.hook = hook
        try:
            work()
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 9


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Makes drivers, and ends them after the test."""
    made: list[Bench] = []

    def one(name: str = "one", **options: object) -> Bench:
        made.append(Bench(tmp_path / name, **options))
        return made[-1]

    yield one
    for bench in made:
        bench.end()


@pytest.fixture
def bench(make: Callable[..., Bench]) -> Bench:
    """One small pool."""
    return make()
