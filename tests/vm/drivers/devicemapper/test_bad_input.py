"""What can be missing, full, taken away or stuck: each a clear error, siblings untouched, and a retry works."""

from __future__ import annotations

import errno
import os
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cowstore._linux import dm
from cowstore.drivers.devicemapper import DeviceMapper, opening
from cowstore.drivers.devicemapper.options import MIB, Options
from cowstore.errors import DriverUnavailable, OutOfSpace
from tests.vm.drivers.devicemapper.conftest import SMALL, devices, write_random

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.vm.drivers.devicemapper.conftest import Bench


def refusing(number: int) -> Callable[..., object]:
    def refuse(*_: object, **_more: object) -> object:
        raise OSError(number, os.strerror(number))

    return refuse


@contextmanager
def without(*modules: str) -> Iterator[None]:
    """A kernel that has not these modules, and cannot load them."""
    loader = Path("/proc/sys/kernel/modprobe")
    before = loader.read_text()
    loaded = [line.split()[0] for line in Path("/proc/modules").read_text().splitlines()]
    for name in modules:
        if name in loaded:
            subprocess.run(["rmmod", name], check=True)
    loader.write_text("/bin/false")
    try:
        yield
    finally:
        loader.write_text(before)
        for name in reversed(modules):
            subprocess.run(["modprobe", name], check=True)


def users(module: str) -> list[str]:
    """A loaded module, and before it those that use it."""
    lines = [line.split() for line in Path("/proc/modules").read_text().splitlines()]
    found: list[str] = []

    def add(name: str) -> None:
        for word in lines:
            if word[0] == name:
                for user in filter(None, word[3].strip("-").split(",")):
                    add(user)
                found.extend([name] if name not in found else [])

    add(module)
    if not found:
        pytest.skip(f"elsewhere: this kernel has {module} built in, and cannot do without")
    return found


def test_no_control_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without device-mapper, really without; and, by a stand-in, a user who may not. Nothing is made."""
    with dm.open_control() as control:
        dm.version(control)
    node = os.path.exists("/dev/mapper/control")
    with without(*users("dm_mod")):
        for attempt in (DeviceMapper.probe, DeviceMapper):
            with pytest.raises(DriverUnavailable, match=r"cannot be reached: .*No such.* \(modprobe dm_mod\)"):
                attempt(str(tmp_path), Options(**SMALL))  # type: ignore[arg-type]
    assert os.path.exists("/dev/mapper/control") == node
    with monkeypatch.context() as patched:
        patched.setattr(opening, "open_control", refusing(errno.EACCES))
        for attempt in (DeviceMapper.probe, DeviceMapper):
            with pytest.raises(DriverUnavailable, match="modprobe dm_mod"):
                attempt(str(tmp_path), Options(**SMALL))  # type: ignore[arg-type]
    assert {path.name for path in tmp_path.iterdir()} <= {"lock", "ids.lock", "nodes"}
    DeviceMapper(str(tmp_path), Options(**SMALL)).destroy()  # type: ignore[arg-type]


def test_no_thin_target(tmp_path: Path) -> None:
    """Device-mapper without the module of thin pools, and none can be loaded; with it, all works."""
    with dm.open_control() as control:
        dm.get_target_version(control, "thin-pool")
    before = devices()
    with without(*users("dm_thin_pool")):
        for attempt in (DeviceMapper.probe, DeviceMapper):
            with pytest.raises(DriverUnavailable, match=r"no thin-pool target: load it \(modprobe dm_thin_pool\)"):
                attempt(str(tmp_path), Options(**SMALL))  # type: ignore[arg-type]
    assert devices() == before
    DeviceMapper(str(tmp_path), Options(**SMALL)).destroy()  # type: ignore[arg-type]


@pytest.mark.parametrize("block", [4096, 96 << 10, 2 << 30])
def test_wrong_block_size(block: int) -> None:
    with pytest.raises(ValueError, match="64 KiB"):
        Options(block_bytes=block)


def test_full_metadata(tmp_path: Path) -> None:
    """With no threshold at all the metadata can be filled; the error says so, what is there can be read, and mended."""
    options = {**SMALL, "metadata_bytes": 2 * MIB, "metadata_limit_bytes": 2 * MIB, "min_free_percent": 0}
    driver = DeviceMapper(str(tmp_path), Options(**options))  # type: ignore[arg-type]
    driver.create(1, None, None)
    driver.seal(1)

    def fill() -> None:
        for number in range(100, 1000):
            driver._pool.message(f"create_thin {number}")

    for verb in (fill, lambda: driver.create(2, 1, None)):
        with pytest.raises(OutOfSpace, match=driver._pool.name) as told:
            verb()
        assert told.value.what == "metadata"
        assert "209715 must stay free for removals" in str(told.value)
    assert not driver.holds(2)
    driver.mounts(1, True)
    assert list(driver.changes(1, 1)) == []
    driver.release(1)
    driver.close()
    subprocess.run(["thin_check", "--clear-needs-check-flag", str(tmp_path / "metadata")], check=True)
    driver = DeviceMapper(str(tmp_path), Options(**{**SMALL, "metadata_limit_bytes": 16 * MIB}))  # type: ignore[arg-type]
    driver.create(5000, 1, None)
    driver.remove(5000)
    driver.close()


def test_a_stuck_device_among_others(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of three that were set aside cannot be removed now: the other two are, and the store opens."""
    driver = bench.driver
    for id in (1, 2, 3, 4):
        driver.create(id, None, None)
        if id != 4:
            driver._ids.doom(id)
    message = driver._pool.message

    def stuck(text: str) -> None:
        if text == "delete 2":
            raise OSError(errno.EIO, "stuck")
        message(text)

    with monkeypatch.context() as patched:
        patched.setattr(driver._pool, "message", stuck)
        driver.drain()
    assert [driver.holds(id) for id in (1, 2, 3, 4)] == [False, True, False, True]
    driver = bench.reopen()
    assert driver.held() == {4}
    assert not driver.holds(2)


def test_a_stuck_device_when_the_pool_ends(bench: Bench) -> None:
    """A device that somebody holds keeps the pool; the others go, and the next store takes the pool over."""
    driver = bench.driver
    for id in (1, 2, 3):
        driver.create(id, None, None)
        driver.mounts(id, False)
    info = driver._thins.find(2)
    assert info is not None
    with open(f"/dev/dm-{os.minor(info.dev)}", "rb"):
        driver.close()
        mapped = devices()[0]
        assert driver._thins.name(2) in mapped
        assert driver._thins.name(1) not in mapped
        assert driver._pool.name in mapped
        bench.reopen()
        assert bench.driver.held() == {1, 2, 3}
    bench.driver.release(2)


def fail(driver: DeviceMapper, id: int) -> None:
    """Do what `dmsetup remove --force` does to a device in use: every access to it is an error from now on."""
    control, name = driver._pool.control, driver._thins.name(id)
    length = driver._known(id).size_bytes // dm.SECTOR
    dm.table_load(control, name, [dm.Target(0, length, "error", "")])
    flags = dm.DmFlag.NOFLUSH | dm.DmFlag.SKIP_LOCKFS
    dm.dev_suspend(control, name, flags=flags)
    dm.dev_resume(control, name, flags=flags)


def test_a_device_removed_behind_the_back(bench: Bench) -> None:
    """Taken away, or turned into errors under a mount: its program fails, and the snapshot is there the next time."""
    driver = bench.driver
    driver.create(1, None, None)
    digest = bench.fill(1, 1)
    driver.create(2, None, None)
    driver.mounts(1, False)
    dm.dev_remove(driver._pool.control, driver._thins.name(1))
    assert bench.hash(1) == digest
    with bench.mounted(1) as root:
        fail(driver, 1)
        with pytest.raises(OSError, match=r"Input/output error|Read-only"):
            write_random(root / "more", 1)
    driver.release(1)
    bench.fill(2, 1)
    assert driver.held() == {1, 2}
    assert bench.hash(1) == digest
