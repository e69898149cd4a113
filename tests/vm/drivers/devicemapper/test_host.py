"""The file system below the pool's files fills up behind the store's back: an error before damage."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

import cowstore
from cowstore._linux import dm
from cowstore.drivers.devicemapper import DeviceMapper
from cowstore.drivers.devicemapper.options import GIB, MIB, Options
from cowstore.errors import CowstoreError, OutOfSpace
from tests.vm.drivers.devicemapper.conftest import SMALL, Bench, devices, write_random

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(params=["tmpfs", "ext4"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A small file system."""
    place = tmp_path / "host"
    place.mkdir()
    if request.param == "tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", str(place)], check=True)
    else:
        image = tmp_path / "image"
        image.touch()
        os.truncate(image, 192 * MIB)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


@contextmanager
def filled(host: Path, leave: int = 0) -> Iterator[None]:
    """Somebody else takes all that is free, but for so many bytes; gives it back in the end."""
    path = host / "somebody else's"
    with open(path, "wb", buffering=0) as file:
        room = os.statvfs(host)
        if leave:
            os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize - leave)
        for size in (MIB, 4096) if not leave else ():
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    try:
        yield
    finally:
        path.unlink()


def refuses(verb: Callable[[], object], where: Path) -> None:
    with pytest.raises(OutOfSpace, match=f"file system of {where}.*is full") as told:
        verb()
    assert told.value.what == "data"


def test_a_full_host_damages_nothing(host: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Refused by name; what is there mounts, if only for reading, and can be removed; then all is as before."""
    bench = Bench(host)
    driver = bench.driver
    driver.create(1, None, None)
    digest = bench.fill(1, 8)
    driver.seal(1)
    for id in (2, 3, 4):
        driver.create(id, 1, None)
    bench.fill(3, 4, "more")
    with filled(host):
        assert bench.hash(1) == bench.hash(2) == bench.hash(3) == digest
        with bench.mounted(2) as root, pytest.raises(OSError, match="Read-only"):
            (root / "new").touch()
        assert "mounted read-only: the file system of" in caplog.text
        refuses(lambda: driver.create(5, 1, None), bench.directory)
        refuses(lambda: driver.resize(2, 96 * MIB), bench.directory)
        assert not driver.holds(5)
        # Messages write metadata, and always to places that it has not used before.
        for number in range(300):
            driver._pool.message(f"create_snap {1000 + number} 1")
        for number in range(300):
            driver._pool.message(f"delete {1000 + number}")
        driver.remove(3)
        status = driver._pool.status()
        assert (status.mode, status.needs_check) == ("rw", False)
    driver.create(3, 1, None)
    for id in (2, 3, 4):
        bench.fill(id, 2, "more")
        assert bench.hash(id) == digest
    driver.seal(4)
    bench.end()


def test_a_host_that_fills_up_under_a_writer(host: Path) -> None:
    """Its program is told, so are the verbs; what it wrote cannot be committed, and siblings can."""
    with cowstore.open(host / "store", driver="devicemapper", options=SMALL) as store:
        where = host / "store" / "devicemapper"
        for key in ("one", "two"):
            store.prepare(key)
            with store.mounted(key) as root:
                write_random(root / "file", 1)
        source = host / "source"
        source.mkdir()
        write_random(source / "file", 40)

        def write() -> None:
            with store.mounted("one") as root, filled(host), pytest.raises(OSError, match=r"Input/output|Read-only"):
                write_random(root / "file", 8)

        with pytest.raises(CowstoreError, match="lost"):
            write()
        with filled(host, leave=24 * MIB):
            refuses(lambda: store.import_directory(source, name="layer"), where)
        with pytest.raises(CowstoreError, match="lost"):
            store.commit("layer", "one")
        store.remove("one")
        store.commit("layer", "two")
        store.prepare("three", parent="layer")
        with store.mounted("three") as root:
            write_random(root / "more", 8)
        assert store.check() == ()
        for key in ("three", "layer"):
            store.remove(key)
        store.destroy()


def test_a_margin_is_kept_from_what_is_new(host: Path) -> None:
    """A twentieth of a small file system: checked though the pool has not been written to since the last time."""
    bench = Bench(host)
    driver = bench.driver
    driver.create(1, None, None)
    with bench.mounted(1), filled(host, leave=6 * MIB):
        pass
    with filled(host, leave=6 * MIB):
        with bench.mounted(1) as root:
            (root / "small").write_bytes(b"x")
            refuses(lambda: driver._pool.ensure_room(MIB), bench.directory)
        refuses(lambda: driver.create(2, None, None), bench.directory)
    driver.create(2, None, None)
    bench.end()


def test_metadata_has_its_blocks(host: Path) -> None:
    """From the start, and what it grows by; where there is no room for them no pool is made, and nothing is left."""

    def sparse(path: Path) -> bool:
        found = os.stat(path)
        return found.st_blocks * 512 < found.st_size

    before = devices()
    (host / "other").mkdir()
    for leave, told in ((3 * MIB, "smaller metadata_bytes"), (6 * MIB, "file system of .*other.* is full")):
        with filled(host, leave=leave), pytest.raises(OutOfSpace, match=told):
            DeviceMapper(str(host / "other"), Options(**SMALL))  # type: ignore[arg-type]
    assert not {"data", "metadata", "pool"} & set(os.listdir(host / "other"))
    assert devices() == before
    bench = Bench(host, metadata_limit_bytes=32 * MIB, data_limit_bytes=64 * GIB)
    metadata = bench.directory / "metadata"
    assert not sparse(metadata)
    assert sparse(bench.directory / "data")
    bench.driver.create(1, None, 8 * GIB)
    with bench.mounted(1):
        pass
    # What may be written is what the host has room for, and so are the maps of it.
    assert os.stat(metadata).st_size == 4 * MIB
    with filled(host, leave=24 * MIB), pytest.raises(OutOfSpace, match="is full"):
        bench.driver._pool._set_size("metadata", 30 * MIB)
    assert os.stat(metadata).st_size == 4 * MIB
    bench.driver._pool._set_size("metadata", 8 * MIB)
    assert bench.driver._pool.status().metadata_total == 8 * MIB
    assert not sparse(metadata)
    bench.driver.close()
    copy = bench.directory / "copy"
    subprocess.run(["cp", "--sparse=always", metadata, copy], check=True)
    assert sparse(copy)
    copy.rename(metadata)
    bench.reopen()
    assert not sparse(metadata)
    bench.end()


def test_room_for_all_who_may_write(make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    """One mount asks the kernel how many are active, and never for a list of them."""
    bench = make(data_limit_bytes=16 * GIB, base_bytes=512 * MIB)
    driver = bench.driver
    for id in range(1, 6):
        driver.create(id, None, None)
    monkeypatch.setattr(dm, "list_devices", lambda _: pytest.fail("all devices were listed"))
    for id in range(1, 6):
        driver.mounts(id, False)
        status = driver._pool.status()
        assert status.active == id
        assert status.free("data") >= id * 512 * MIB
    for id in range(1, 6):
        driver.release(id)
    assert driver._pool.status().active == 0
    monkeypatch.undo()
