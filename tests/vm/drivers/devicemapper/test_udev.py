"""With a udev daemon or without one: run in guests of both kinds."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
