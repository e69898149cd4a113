"""With a udev daemon or without one: run in guests of both kinds."""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tests.vm.drivers.devicemapper.conftest import Bench


def test_udev_is_told_to_leave_our_devices_alone(bench: Bench) -> None:
    """With a udev daemon or without: no link to our devices, and they can be removed the moment they are free."""
    driver = bench.driver
    udevd = os.path.exists("/run/udev/control")
    for id in range(1, 9):
        driver.create(id, None, None)
        with bench.mounted(id):
            pass
        assert driver._thins.find(id) is None
    if udevd:
        subprocess.run(["udevadm", "settle"], check=True)
    name = driver._pool.name
    assert not os.path.lexists(f"/dev/mapper/{name}")
    assert not [link for link in os.listdir("/dev/mapper") if link.startswith("cowstore-")]


def test_a_disk_that_udev_has_just_seen(tmp_path: Path) -> None:
    """A given device is looked at only when udev, and whoever it tells of it, is done with it."""
    from cowstore._linux import loop
    from cowstore.drivers import _guard
    from cowstore.drivers.devicemapper import DeviceMapper
    from cowstore.drivers.devicemapper.options import MIB, Options
    from tests.vm.drivers.devicemapper.conftest import SMALL

    nodes = []
    with ExitStack() as stack:
        for name, size in (("data", 128 * MIB), ("metadata", 4 * MIB)):
            path = tmp_path / name
            path.touch()
            os.truncate(path, size)
            with open(path, "r+b") as file:
                nodes.append(stack.enter_context(loop.attach(file)).node)
        _guard.settle(120)  # On a busy machine its rules take long.
        assert not os.path.exists("/run/udev/queue")
        (tmp_path / "store").mkdir()
        given = {**SMALL, "data_device": nodes[0], "metadata_device": nodes[1]}
        driver = DeviceMapper(str(tmp_path / "store"), Options(**given))  # type: ignore[arg-type]
        driver.create(1, None, None)
        driver.remove(1)
        driver.destroy()
