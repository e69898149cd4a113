"""A disk below the pool that fails, and works again: errors that name pool, device and id, and a retry that works."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from cowstore._linux import dm
from cowstore.drivers.devicemapper import DeviceMapper, tables
from cowstore.drivers.devicemapper.options import MIB
from cowstore.errors import CowstoreError, StoreCorrupt
from tests.vm.drivers.devicemapper.conftest import Bench, devices, write_random
from tests.vm.drivers.devicemapper.recorder import SECTOR, attached, mapped, node, number

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DATA_BYTES, METADATA_BYTES = 192 * MIB, 4 * MIB


class Disk:
    """A device-mapper device over a file, whose every access is an error while it fails."""

    def __init__(self, info: dm.Info, below: str) -> None:
        self.name, self.node = info.name, node(info)
        self._works = dm.Target(0, DATA_BYTES // SECTOR, "linear", f"{number(below)} 0")

    def _load(self, target: dm.Target) -> None:
        flags = dm.DmFlag.NOFLUSH | dm.DmFlag.SKIP_LOCKFS
        with dm.open_control() as control:
            dm.table_load(control, self.name, [target])
            dm.dev_suspend(control, self.name, flags=flags)
            dm.dev_resume(control, self.name, flags=flags)

    @contextmanager
    def failing(self) -> Iterator[None]:
        self._load(dm.Target(0, DATA_BYTES // SECTOR, "error", ""))
        try:
            yield
        finally:
            self._load(self._works)


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[tuple[Disk, str]]:
    """A disk for data that can fail, and one for metadata."""
    with ExitStack() as stack:
        nodes = []
        for name, size in (("data", DATA_BYTES), ("metadata", METADATA_BYTES)):
            path = tmp_path / f"{name}.disk"
            path.touch()
            os.truncate(path, size)
            nodes.append(stack.enter_context(attached(path)))
        linear = dm.Target(0, DATA_BYTES // SECTOR, "linear", f"{number(nodes[0])} 0")
        info = stack.enter_context(mapped("failing", [linear]))
        yield Disk(info, nodes[0]), nodes[1]


@pytest.fixture
def bench(tmp_path: Path, disks: tuple[Disk, str]) -> Iterator[Bench]:
    made = Bench(tmp_path / "one", data_device=disks[0].node, metadata_device=disks[1])
    yield made
    made.end()


def again(bench: Bench) -> DeviceMapper:
    return bench.reopen(data_device=bench.options.data_device, metadata_device=bench.options.metadata_device)


def test_an_unreadable_base(bench: Bench, disks: tuple[Disk, str]) -> None:
    """Found before the pool is active; nothing is left, and the next opening works."""
    disk, _ = disks
    bench.driver.create(1, None, None)
    digest = bench.fill(1, 1)
    name = bench.driver._pool.name
    bench.driver.close()
    before = devices()
    with disk.failing(), pytest.raises(StoreCorrupt, match=rf"base \(id 0\) of the pool {name} on {disk.node} cannot"):
        DeviceMapper(str(bench.directory), bench.options)
    assert devices() == before
    again(bench)
    assert bench.hash(1) == digest


def test_an_unreadable_base_in_a_borrowed_pool(tmp_path: Path, disks: tuple[Disk, str]) -> None:
    """Nothing but the pool itself leads there, so that it is found by the base's device."""
    disk, metadata = disks
    pool = dm.Target(0, DATA_BYTES // SECTOR, "thin-pool", f"{number(metadata)} {number(disk.node)} 128 0")
    with mapped("lent", [pool]):
        bench = Bench(tmp_path / "one", thin_pool="lent")
        bench.driver.create(1, None, None)
        digest = bench.fill(1, 1)
        bench.driver.close()
        before = devices()
        with disk.failing(), pytest.raises(StoreCorrupt, match=r"base \(id 0\) of the pool lent on .* cannot be read"):
            DeviceMapper(str(bench.directory), bench.options)
        assert devices() == before
        bench.reopen(thin_pool="lent")
        assert bench.hash(1) == digest
        bench.end()


def test_an_origin_that_cannot_be_suspended(bench: Bench, disks: tuple[Disk, str]) -> None:
    """What it has in memory cannot be written: no snapshot is made of it, its siblings know nothing, a retry works."""
    disk, _ = disks
    driver = bench.driver
    for id in (1, 2):
        driver.create(id, None, None)
    digest = bench.fill(2, 1)
    with bench.mounted(1) as root:
        (root / "unwritten").write_bytes(os.urandom(MIB))
        name, pool = driver._thins.name(1), driver._pool.name
        with disk.failing(), pytest.raises(CowstoreError) as told:
            driver.create(3, 1, None)
        for word in (
            f"the device {name} of id 1 cannot be suspended",
            pool.removesuffix("-pool"),
            "Input/output error",
        ):
            assert word in str(told.value)
        info = driver._thins.find(1)
        assert info is not None
        assert not info.suspended
        assert not driver.holds(3)
        assert "unwritten" in os.listdir(root)
    assert driver._pool.status().mode == "rw"
    assert bench.hash(2) == digest
    bench.fill(1, 1)
    with bench.mounted(1) as root:
        driver.create(3, 1, None)
        write_random(root / "still", 1)
    assert driver.held() == {1, 2, 3}
    assert len(bench.hash(3)) == 64


def test_a_table_that_cannot_be_swapped(bench: Bench, disks: tuple[Disk, str]) -> None:
    """Growing a mounted snapshot on a disk that fails: the first error is the one that is told, and none waits."""
    disk, _ = disks
    driver = bench.driver
    driver.create(1, None, None)
    with bench.mounted(1) as root:
        (root / "unwritten").write_bytes(os.urandom(MIB))
        with disk.failing(), pytest.raises(OSError, match="Input/output error") as told:
            driver.resize(1, 96 * MIB)
        assert not [note for note in told.value.__notes__ if "resumed" in note]
        info = driver._thins.find(1)
        assert info is not None
        assert not info.suspended
        assert dm.DmFlag.INACTIVE_PRESENT not in info.flags
    # What was to be written is lost: ext4 has noted it, and is not grown any more. A sibling is.
    with pytest.raises(CowstoreError, match=r"id 1 of the pool .* is lost .* nor enlarged"):
        driver.resize(1, 96 * MIB)
    driver.create(2, None, 96 * MIB)
    with bench.mounted(2) as root:
        assert os.statvfs(root).f_blocks * os.statvfs(root).f_frsize > 80 * MIB
        write_random(root / "fill", 1)


def test_an_error_is_told_before_that_of_cleaning_up(bench: Bench) -> None:
    """A pool's smaller table is refused when it is swapped in, and again when the pool is to go on with it."""
    pool = bench.driver._pool
    _, (target,) = dm.table_status(pool.control, pool.name, flags=dm.DmFlag.STATUS_TABLE)
    table = tables.PoolTable.read(target)
    dm.table_load(pool.control, pool.name, [dm.Target(0, target.length // 2, target.type, target.params)])
    with pytest.raises(OSError, match="Invalid argument") as told:
        tables.swap_table(pool.control, pool.name, dm.DmFlag.NOFLUSH | dm.DmFlag.SKIP_LOCKFS)
    assert [note for note in told.value.__notes__ if f"{pool.name} could not be resumed either" in note]
    pool.reload({"data": table.data, "metadata": table.metadata})
    assert not dm.dev_status(pool.control, pool.name).suspended
    bench.driver.create(1, None, None)
    bench.fill(1, 1)
