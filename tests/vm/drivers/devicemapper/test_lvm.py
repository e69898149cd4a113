"""A thin pool that LVM itself has made, with its own tools before, meanwhile and after."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from cowstore._linux import dm, loop
from cowstore.drivers.devicemapper import DeviceMapper
from cowstore.drivers.devicemapper.options import MIB, Options
from cowstore.errors import Unsupported
from tests.vm.drivers.devicemapper.conftest import SMALL, Bench, devices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Lvm = Callable[..., str]

GROUP = "cowstoretest"


@pytest.fixture
def lvm(tmp_path: Path) -> Iterator[Lvm]:
    """Runs LVM's commands on a group of one loop device, with a pool and a volume in it; all goes at the end."""
    _load_targets()
    path = tmp_path / "physical"
    path.touch()
    with open(path, "r+b") as file:
        file.truncate(400 * MIB)
        device = loop.attach(file)
    config = (
        "activation { udev_sync=0 udev_rules=0 monitoring=0 } backup { backup=0 archive=0 } "
        f'devices {{ use_devicesfile=0 filter=["a|^{device.node}$|", "r|.*|"] }} '
        'global { thin_check_executable="" event_activation=0 }'
    )

    def run(command: str, *words: str) -> str:
        done = subprocess.run(
            [command, "--config", config, *words],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command} {words}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    with device:
        run("vgcreate", GROUP, device.node)
        try:
            run("lvcreate", "-Zn", "-T", "-L", "256M", "--poolmetadatasize", "4M", f"{GROUP}/pool")
            run("lvcreate", "-T", "-V", "64M", "-n", "volume", f"{GROUP}/pool")
            yield run
        finally:
            run("vgremove", "--force", "--yes", GROUP)
    assert not [name for name in devices() if name.startswith(GROUP)]


def _load_targets() -> None:
    """Have the kernel load its thin targets, which LVM would do by a program: a table that it cannot make is enough."""
    with dm.open_control() as control:
        for kind in ("thin-pool", "thin"):
            dm.dev_create(control, f"{GROUP}-none")
            with suppress(OSError):
                dm.table_load(control, f"{GROUP}-none", [dm.Target(0, 8, kind, "")])
            dm.dev_remove(control, f"{GROUP}-none")


def transaction_id(lvm: Lvm) -> str:
    return lvm("lvs", "--noheadings", "-o", "transaction_id", f"{GROUP}/pool")


@pytest.mark.parametrize("name", [f"{GROUP}-pool", f"{GROUP}-pool-tpool", f"/dev/mapper/{GROUP}-pool"])
def test_refused_unless_asked_for(name: str, lvm: Lvm, tmp_path: Path) -> None:
    """DM-06: by each of its names."""
    before = devices(), transaction_id(lvm)
    (tmp_path / "store").mkdir()
    with pytest.raises(Unsupported, match="LVM owns"):
        DeviceMapper(str(tmp_path / "store"), Options(**{**SMALL, "thin_pool": name}))  # type: ignore[arg-type]
    assert (devices(), transaction_id(lvm)) == before


def test_beside_its_volumes(lvm: Lvm, tmp_path: Path) -> None:
    """DM-06: LVM makes and removes volumes while the store is open, and goes down and up while it is closed."""
    before = transaction_id(lvm)
    bench = Bench(tmp_path / "one", thin_pool=f"{GROUP}-pool", lvm=True)
    bench.driver.create(1, None, None)
    digest = bench.fill(1, 4)
    assert transaction_id(lvm) == before
    lvm("lvcreate", "-T", "-V", "32M", "-n", "second", f"{GROUP}/pool")
    bench.driver.create(2, 1, None)
    lvm("lvremove", "--yes", f"{GROUP}/second")
    bench.fill(2, 1, "more")
    after = transaction_id(lvm)
    bench.driver.close()
    lvm("vgchange", "-an", GROUP)
    lvm("vgchange", "-ay", GROUP)
    assert transaction_id(lvm) == after
    bench.driver = DeviceMapper(str(bench.directory), bench.options)
    assert bench.hash(1) == bench.hash(2) == digest
    bench.end()
