"""Given devices at the next opening: a name that leads to another disk is found out before the kernel is given it."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from cowstore._linux import dm
from cowstore.drivers.devicemapper import DeviceMapper, pool, record
from cowstore.drivers.devicemapper.options import MIB, Options
from cowstore.errors import CowstoreError, StoreCorrupt, StoreMismatch
from tests.vm.drivers.devicemapper.conftest import SMALL, Bench, devices, killed_at
from tests.vm.drivers.devicemapper.recorder import attached

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WHATS = ("data", "metadata")


@dataclass
class Rack:
    """Disks, and a name for each that leads to one of them, as a disk's name does until the next boot."""

    directory: Path
    disks: dict[str, str]

    def name(self, slot: str) -> str:
        return str(self.directory / slot)

    def plug(self, slot: str, disk: str) -> None:
        link = self.directory / slot
        link.unlink(missing_ok=True)
        link.symlink_to(self.disks[disk])

    def options(self, one: str) -> dict[str, object]:
        return {f"{what}_device": self.name(f"{one}-{what}") for what in WHATS}

    def hashes(self) -> dict[str, str]:
        """What is on the disks, read from the files below them: what is cached of the devices may be older."""
        files = self.directory.parent.glob("*.disk")
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def rack(tmp_path: Path) -> Iterator[Rack]:
    with ExitStack() as stack:
        disks = {}
        sizes = {"data": 96 * MIB, "metadata": 4 * MIB}
        for name, size in [(f"{one}-{what}", sizes[what]) for one in ("one", "two") for what in WHATS] + [
            ("other", 64 * MIB)
        ]:
            path = tmp_path / f"{name}.disk"
            path.touch()
            os.truncate(path, size)
            disks[name] = stack.enter_context(attached(path))
        directory = tmp_path / "names"
        directory.mkdir()
        found = Rack(directory, disks)
        for name in disks:
            found.plug(name, name)
        yield found


@pytest.fixture
def stores(rack: Rack, tmp_path: Path) -> tuple[Bench, Bench]:
    """Two stores on such disks, closed, with a snapshot each; their bases lie at the same place."""
    made = []
    for one in ("one", "two"):
        bench = Bench(tmp_path / one, **rack.options(one))
        bench.driver.create(1, None, None)
        bench.fill(1, 1)
        bench.driver.close()
        made.append(bench)
    subprocess.run(["mkfs.ext4", "-q", "-L", "precious", rack.disks["other"]], check=True)
    return made[0], made[1]


def uuid(bench: Bench) -> str:
    known = record.read(str(bench.directory))
    assert known is not None
    return known.uuid


@pytest.mark.parametrize(
    ("data", "metadata", "told", "of"),
    [
        ("one", "two", "metadata", "two"),
        ("two", "one", "data", "two"),
        ("two", "two", "metadata", "two"),
        ("other", "one", "data", "precious"),
    ],
)
def test_another_disk(rack: Rack, stores: tuple[Bench, Bench], data: str, metadata: str, told: str, of: str) -> None:
    """One of another store, both, or what is no pool's at all: the error says which, and what is on it."""
    one, two = stores
    rack.plug("one-data", "other" if data == "other" else f"{data}-data")
    rack.plug("one-metadata", f"{metadata}-metadata")
    before, left = rack.hashes(), devices()
    wrong = re.escape(rack.name(f"one-{told}"))
    with pytest.raises(
        StoreMismatch, match=f"{wrong} is not the {told} device of the pool cowstore-{uuid(one)}"
    ) as error:
        DeviceMapper(str(one.directory), one.options)
    assert (uuid(two) if of == "two" else of) in str(error.value)
    assert error.value.expected == uuid(one)
    assert (rack.hashes(), devices()) == (before, left)
    for what in WHATS:
        rack.plug(f"one-{what}", f"one-{what}")
    for bench in stores:
        bench.reopen(**rack.options(bench.directory.parent.name))
        assert len(bench.hash(1)) == 64
        bench.end()


def test_a_disk_that_is_no_pools(rack: Rack, stores: tuple[Bench, Bench]) -> None:
    """No metadata, no block device, no such name; the disks exchanged for each other."""
    one, _ = stores
    before = rack.hashes(), devices()
    for slot, disk, told in (
        ("one-metadata", "other", "holds no metadata of a thin pool"),
        ("one-metadata", "one-data", "holds no metadata of a thin pool"),
        ("one-data", "one-metadata", "is not the data device"),
    ):
        rack.plug(slot, disk)
        with pytest.raises((StoreCorrupt, StoreMismatch), match=f"{rack.name(slot)} {told}"):
            DeviceMapper(str(one.directory), one.options)
        rack.plug(slot, slot)
    (rack.directory / "one-data").unlink()
    with pytest.raises(StoreCorrupt, match=r"data .*is gone; say where it is now by the option data_device"):
        DeviceMapper(str(one.directory), one.options)
    (rack.directory / "one-data").touch()
    with pytest.raises(StoreCorrupt, match="no block device any more"):
        DeviceMapper(str(one.directory), one.options)
    rack.plug("one-data", "one-data")
    assert (rack.hashes(), devices()) == before
    one.reopen(**rack.options("one"))
    one.end()


def test_disks_under_other_names(rack: Rack, stores: tuple[Bench, Bench], caplog: pytest.LogCaptureFixture) -> None:
    """They are found where the options say, if they are the store's, and from then on by those names alone."""
    one, two = stores
    for what in WHATS:
        rack.plug(f"new-{what}", f"one-{what}")
        rack.plug(f"one-{what}", "other" if what == "data" else "two-metadata")
    with pytest.raises(StoreMismatch, match="two-metadata is not the metadata device"):
        DeviceMapper(str(one.directory), Options(**{**SMALL, **rack.options("two")}))  # type: ignore[arg-type]
    one.reopen(**rack.options("new"))
    digest = one.hash(1)
    # The catalog knows the options of the first day only.
    one.reopen(**rack.options("one"))
    assert one.hash(1) == digest
    known = record.read(str(one.directory))
    assert known is not None
    assert known.data_device == rack.name("new-data")
    assert "keeps that" not in caplog.text
    one.end()
    two.reopen(**rack.options("two"))
    two.end()


def test_marked_metadata_are_metadata(rack: Rack, stores: tuple[Bench, Bench]) -> None:
    """The distribution's tools find nothing wrong with the mark, and the kernel keeps it when it commits."""
    one, _ = stores
    node = rack.disks["one-metadata"]
    said = subprocess.run(["thin_check", node], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr
    for _ in range(3):
        bench = one.reopen(**rack.options("one"))
        for id in range(2, 50):
            bench.create(id, 1, None)
        for id in range(2, 50):
            bench.remove(id)
        bench.close()
        with open(node, "rb") as disk:
            assert disk.read(4096)[16:32].hex() == uuid(one).replace("-", "")
    # What was repaired has lost the mark; the base tells all the same.
    with open(node, "r+b") as disk:
        block = bytearray(disk.read(4096))
    block[16:32] = bytes(16)
    from cowstore.drivers.devicemapper import identity

    block[:4] = identity.checksum(block).to_bytes(4, "little")
    with open(node, "r+b") as disk:
        disk.write(block)
    one.reopen(**rack.options("one"))
    one.end()


def test_killed_while_making_on_disks(rack: Rack, tmp_path: Path) -> None:
    """At the steps that are only taken there: the next opening makes the pool anew, unasked."""
    from cowstore import _faults

    options = Options(**{**SMALL, **rack.options("one")})  # type: ignore[arg-type]
    seen: list[str] = []
    (tmp_path / "count").mkdir()
    _faults.hook = seen.append
    try:
        DeviceMapper(str(tmp_path / "count"), options).destroy()
    finally:
        _faults.hook = None
    for node in rack.disks.values():
        subprocess.run(["wipefs", "--all", "--quiet", node], check=True)
        with open(node, "r+b") as disk:
            disk.write(bytes(4096))
    before = devices()
    store = tmp_path / "store"
    store.mkdir()
    for name in ("devicemapper.make.recorded", "devicemapper.make.base", "devicemapper.make.marked"):
        killed_at(seen.index(name), lambda: DeviceMapper(str(store), options))
    driver = DeviceMapper(str(store), options)
    driver.create(1, None, None)
    driver.remove(1)
    driver.destroy()
    assert devices() == before


def test_a_pool_that_cannot_be_marked(rack: Rack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody has opened it meanwhile: nothing is left, and the next attempt works."""
    options = Options(**{**SMALL, **rack.options("one")})  # type: ignore[arg-type]
    (tmp_path / "store").mkdir()
    before = devices()
    deactivate = pool.Pool.deactivate
    answers = [False]
    monkeypatch.setattr(pool.Pool, "deactivate", lambda self: answers.pop() if answers else deactivate(self))
    with pytest.raises(CowstoreError, match="opened by somebody else"):
        DeviceMapper(str(tmp_path / "store"), options)
    assert devices() == before
    DeviceMapper(str(tmp_path / "store"), Options(**{**SMALL, **rack.options("one"), "force": True})).destroy()  # type: ignore[arg-type]
    with dm.open_control() as control:
        assert not [name for name, _ in dm.list_devices(control) if name.startswith("cowstore")]
