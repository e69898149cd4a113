"""A pool that somebody else owns: refused where that is LVM and nobody asked for it, and left as it was found."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from cowstore import _faults
from cowstore._linux import dm, loop
from cowstore.drivers.devicemapper import DeviceMapper
from cowstore.drivers.devicemapper.borrowed import SPAN, BorrowedPool
from cowstore.drivers.devicemapper.options import MIB, Options
from cowstore.errors import DriverUnavailable, InvalidArgument, OutOfSpace, Unsupported
from tests.vm.drivers.devicemapper.conftest import SMALL, Bench, devices, killed_at
from tests.vm.drivers.devicemapper.recorder import SECTOR, number

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

VOLUME, TRANSACTION = 1, 7
FIRST = (1 << 24) - SPAN
"""The number of the first store's base."""


@pytest.fixture
def lvm(tmp_path: Path) -> Iterator[dm.Info]:
    """A pool as LVM leaves one: two devices by its names and UUIDs, a volume, a transaction id of its own."""
    with ExitStack() as stack:
        control = stack.enter_context(dm.open_control())
        nodes = []
        for name, size in (("metadata", 4 * MIB), ("data", 128 * MIB)):
            path = tmp_path / f"lvm-{name}"
            path.touch()
            os.truncate(path, size)
            with open(path, "r+b") as file:
                nodes.append(stack.enter_context(loop.attach(file)).node)
        lines = (
            ("vg-pool-tpool", "LVM-x-tpool", "thin-pool", f"{number(nodes[0])} {number(nodes[1])} 128 0"),
            ("vg-pool", "LVM-x-pool", "linear", ""),
        )
        info = None
        for name, uuid, kind, params in lines:
            below = "" if info is None else f"{os.major(info.dev)}:{os.minor(info.dev)} 0"
            made = dm.dev_create(control, name, uuid)
            stack.callback(dm.dev_remove, control, name)
            dm.table_load(control, name, [dm.Target(0, 128 * MIB // SECTOR, kind, params or below)])
            dm.dev_resume(control, name)
            info = info or made
        assert info is not None
        dm.target_msg(control, info.name, f"create_thin {VOLUME}")
        dm.target_msg(control, info.name, f"set_transaction_id 0 {TRANSACTION}")
        yield info


def told(name: str) -> list[str]:
    with dm.open_control() as control:
        _, (target,) = dm.table_status(control, name)
    return target.params.split()


def options(**more: object) -> Options:
    return Options(**{**SMALL, "thin_pool": "/dev/mapper/vg-pool", **more})  # type: ignore[arg-type]


def test_refused_unless_asked_for(tmp_path: Path, lvm: dm.Info) -> None:
    """DM-06: known by its UUID, and refused before the first message."""
    before = told(lvm.name), devices()
    (tmp_path / "store").mkdir()
    with pytest.raises(Unsupported, match="LVM owns"):
        DeviceMapper(str(tmp_path / "store"), options())
    assert (told(lvm.name), devices()) == before
    with pytest.raises(DriverUnavailable, match="no active thin pool"):
        DeviceMapper(str(tmp_path / "store"), options(thin_pool="elsewhere"))


def test_no_pool(tmp_path: Path, lvm: dm.Info) -> None:
    """What is no thin pool is said to be none."""
    with dm.open_control() as control:
        dm.dev_create(control, "zeros")
        try:
            dm.table_load(control, "zeros", [dm.Target(0, 8, "error", "")])
            dm.dev_resume(control, "zeros")
            with pytest.raises(InvalidArgument, match="no thin pool: its target is error"):
                DeviceMapper(str(tmp_path), options(thin_pool="zeros"))
        finally:
            dm.dev_remove(control, "zeros")


def test_left_as_it_was_found(tmp_path: Path, lvm: dm.Info) -> None:
    """DM-06: with lvm=yes the store lives beside LVM's volumes, and never touches the transaction id."""
    used = told(lvm.name)[2]
    one = Bench(tmp_path / "one", thin_pool="vg-pool", lvm=True)
    two = Bench(tmp_path / "two", thin_pool="vg-pool-tpool", lvm=True)
    for bench in (one, two):
        driver = bench.driver
        driver.create(1, None, None)
        digest = bench.fill(1, 4)
        driver.seal(1)
        driver.create(2, 1, 96 * MIB)
        assert driver.usage(2).size_bytes < 2 * MIB
        bench.fill(2, 1, "more")
        driver = bench.reopen()
        assert driver.held() == {1, 2}
        assert bench.hash(1) == bench.hash(2) == digest
        assert not list(driver.examine(2, 1, False))
        assert told(lvm.name)[0] == str(TRANSACTION)
    assert abs(one.driver._pool.number(0) - two.driver._pool.number(0)) == SPAN
    assert one.driver.status().details["pool"] == lvm.name
    one.end()
    assert two.driver.held() == {1, 2}
    two.end()
    words = told(lvm.name)
    assert (words[0], words[2]) == (str(TRANSACTION), used)
    with dm.open_control() as control, pytest.raises(FileExistsError):
        dm.target_msg(control, lvm.name, f"create_thin {VOLUME}")


def points_of_making(directory: Path) -> list[str]:
    seen: list[str] = []
    directory.mkdir()
    _faults.hook = seen.append
    try:
        DeviceMapper(str(directory), options(lvm=True)).destroy()
    finally:
        _faults.hook = None
    return seen


def taken(name: str, numbers: Iterable[int]) -> set[int]:
    """Which of these device numbers the pool has."""
    found = set()
    with dm.open_control() as control:
        for one in numbers:
            try:
                dm.target_msg(control, name, f"create_thin {one}")
            except FileExistsError:
                found.add(one)
            else:
                dm.target_msg(control, name, f"delete {one}")
    return found


def test_killed_at_every_step_of_borrowing(tmp_path: Path, lvm: dm.Info) -> None:
    """A number is written down before it is taken: whatever a killed first start left is undone by the next one."""
    points = points_of_making(tmp_path / "count")
    assert "devicemapper.borrow.intended" in points
    before = told(lvm.name)[1:3], devices()
    for step in range(points.index("devicemapper.make.base") + 1):
        store = tmp_path / f"store{step}"
        store.mkdir()
        killed_at(step, lambda store=store: DeviceMapper(str(store), options(lvm=True)))  # type: ignore[misc]
        driver = DeviceMapper(str(store), options(lvm=True))
        assert driver._pool.number(0) == FIRST, f"left by {points[step]}"
        driver.create(1, None, None)
        driver.remove(1)
        driver.destroy()
        assert (told(lvm.name)[1:3], devices()) == before, f"left by {points[step]}"
        assert not taken(lvm.name, (FIRST, FIRST - SPAN))


def test_a_number_that_another_store_took_meanwhile(tmp_path: Path, lvm: dm.Info) -> None:
    """Killed when it was written down and not yet taken: what is there later is another store's, and left alone."""
    for name in ("one", "count"):
        (tmp_path / name).mkdir()
    points = points_of_making(tmp_path / "count" / "inner")
    killed_at(
        points.index("devicemapper.borrow.intended"), lambda: DeviceMapper(str(tmp_path / "one"), options(lvm=True))
    )
    two = Bench(tmp_path / "two", thin_pool="vg-pool", lvm=True)
    assert two.driver._pool.number(0) == FIRST
    two.driver.create(1, None, None)
    digest = two.fill(1, 1)
    one = DeviceMapper(str(tmp_path / "one"), options(lvm=True))
    assert one._pool.number(0) == FIRST - SPAN
    one.destroy()
    two.reopen(thin_pool="vg-pool", lvm=True)
    assert two.hash(1) == digest
    two.end()


def test_a_borrowed_pool_without_room(tmp_path: Path, lvm: dm.Info, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written down of an attempt that failed is gone; the next one begins anew."""
    message = BorrowedPool.message

    def refused(pool: BorrowedPool, text: str) -> None:
        if text.startswith("create_thin"):
            raise pool.full("metadata", pool.status())
        message(pool, text)

    (tmp_path / "store").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(BorrowedPool, "message", refused)
        with pytest.raises(OutOfSpace, match="vg-pool"):
            DeviceMapper(str(tmp_path / "store"), options(lvm=True))
    assert not (tmp_path / "store" / "pool").exists()
    DeviceMapper(str(tmp_path / "store"), options(lvm=True)).destroy()
