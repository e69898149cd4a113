"""The pool: making, opening, filling, growing and losing it."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import cowstore
from cowstore import _faults
from cowstore._linux import dm, loop
from cowstore.drivers.devicemapper import DeviceMapper
from cowstore.drivers.devicemapper.options import MIB, FileSystem, Options
from cowstore.errors import (
    Busy,
    CowstoreError,
    DriverUnavailable,
    InvalidArgument,
    OutOfSpace,
    StoreCorrupt,
    StoreMismatch,
    Unsupported,
)
from cowstore.mounting import xfs
from tests.vm.drivers.devicemapper.conftest import SMALL, devices, killed_at, write_random

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.vm.drivers.devicemapper.conftest import Bench

TINY = {**SMALL, "data_bytes": 64 * MIB, "data_limit_bytes": 64 * MIB, "base_bytes": 1024 * MIB}


def test_probe_leaves_nothing(tmp_path: Path) -> None:
    before = devices()
    DeviceMapper.probe(str(tmp_path), Options())
    assert devices() == before
    assert os.listdir(tmp_path) == []


def test_last_store_ends_the_pool(tmp_path: Path) -> None:
    """Two stores on one pool: it lives until the second is closed, with its loop devices."""
    before = devices()
    options = Options(**SMALL)  # type: ignore[arg-type]
    first = DeviceMapper(str(tmp_path), options)
    second = DeviceMapper(str(tmp_path), options)
    first.close()
    first.close()
    second.create(1, None, None)
    second.close()
    assert devices() == before
    third = DeviceMapper(str(tmp_path), options)
    assert third.held() == {1}
    third.remove(1)
    third.destroy()
    assert devices() == before
    assert os.listdir(tmp_path) == []


def test_two_pools_at_once(make: Callable[..., Bench]) -> None:
    """Pools are told apart by their UUID."""
    one, two = make("one"), make("two")
    one.driver.create(1, None, None)
    two.driver.create(1, None, None)
    assert one.fill(1, 1) != two.fill(1, 1)
    one.driver.remove(1)
    assert two.driver.held() == {1}


@pytest.mark.parametrize("program", ["#!/bin/sh\nexit 1\n", "#!/bin/sh\necho no room >&2\nkill -9 $$\n"])
def test_failed_making_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """DM-19: a mke2fs that fails; the second start works, and between them nothing is left."""
    before = devices()
    store, tools = tmp_path / "store", tmp_path / "tools"
    store.mkdir()
    tools.mkdir()
    (tools / "mke2fs").write_text(program)
    (tools / "mke2fs").chmod(0o755)
    with monkeypatch.context() as patched:
        patched.setenv("PATH", f"{tools}:{os.environ['PATH']}")
        with pytest.raises(CowstoreError, match="mke2fs"):
            DeviceMapper(str(store), Options(**SMALL))  # type: ignore[arg-type]
    assert devices() == before
    assert {path.name for path in store.iterdir()} <= {"lock", "ids.lock"}
    driver = DeviceMapper(str(store), Options(**SMALL))  # type: ignore[arg-type]
    driver.destroy()


def test_a_missing_program_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cowstore import _programs

    monkeypatch.setattr(_programs, "find", lambda _program: None)
    with pytest.raises(DriverUnavailable, match="e2fsprogs"):
        DeviceMapper(str(tmp_path), Options(**SMALL))  # type: ignore[arg-type]


def points_of_making(tmp_path: Path) -> list[str]:
    seen: list[str] = []
    _faults.hook = seen.append
    try:
        DeviceMapper(str(tmp_path), Options(**SMALL)).destroy()  # type: ignore[arg-type]
    finally:
        _faults.hook = None
    return seen


def test_killed_at_every_step_of_making(tmp_path: Path) -> None:
    """DM-04, DM-19: whatever a killed first start left, the next one makes the pool, and ends it."""
    before = devices()
    (tmp_path / "count").mkdir()
    points = points_of_making(tmp_path / "count")
    assert len(points) > 8
    for number in range(points.index("devicemapper.make.base") + 1):
        store = tmp_path / f"store{number}"
        store.mkdir()
        killed_at(number, lambda store=store: DeviceMapper(str(store), Options(**SMALL)))  # type: ignore[misc,arg-type]
        driver = DeviceMapper(str(store), Options(**SMALL))  # type: ignore[arg-type]
        driver.create(1, None, None)
        driver.remove(1)
        driver.destroy()
        assert devices() == before, f"left by {points[number]}"


def test_killed_between_message_and_record(tmp_path: Path) -> None:
    """DM-04: the pool has the snapshot, the catalog does not know it is ready; the next three creates work."""
    with cowstore.open(tmp_path / "store", driver="devicemapper", options=SMALL) as store:
        store.prepare("base")
        store.commit("layer", "base")

    def prepare(key: str) -> None:
        store = cowstore.open(tmp_path / "store")
        seen = []

        def hook(name: str) -> None:
            seen.append(name)
            if name == "devicemapper.message.sent":
                os.kill(os.getpid(), 9)

        _faults.hook = hook
        store.prepare(key, parent="layer")

    for number in range(10):
        child = os.fork()
        if child == 0:
            try:
                prepare(f"job-{number}")
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 9
    with cowstore.open(tmp_path / "store") as store:
        assert {snapshot.key for snapshot in store.walk()} == {"layer"}
        ids = {store.prepare(f"new-{number}", parent="layer").id for number in range(3)}
        assert len(ids) == 3
        assert store.check() == ()
        for snapshot in list(store.walk()):
            if snapshot.key != "layer":
                store.remove(snapshot.key)
        store.remove("layer")
        store.destroy()


def write_too_much(store: cowstore.Store) -> None:
    """The program's fsync fails soon; so does the end of the mount, for those who did not look."""
    with store.mounted("big") as root:
        begun = time.monotonic()
        with pytest.raises(OSError, match=r"Input/output error|No space") as refused:
            write_random(root / "large", 100)
        assert refused.value.errno in (errno.EIO, errno.ENOSPC)
        assert time.monotonic() - begun < 5


def refuses(verb: Callable[[], object]) -> OutOfSpace:
    with pytest.raises(OutOfSpace) as told:
        verb()
    return told.value


def test_full_pool(tmp_path: Path) -> None:
    """DM-07: the writer fails within five seconds, a verb says what is full, the rest works, removal frees."""
    with cowstore.open(tmp_path / "store", driver="devicemapper", options=TINY) as store:
        store.prepare("first")
        with store.mounted("first") as root:
            digest = write_random(root / "file", 4)
        store.commit("base", "first")
        store.view("seen", "base")
        store.prepare("other", parent="base")
        store.prepare("big")
        with pytest.raises(OutOfSpace) as told:
            write_too_much(store)
        assert told.value.what == "data"
        assert "data space: 67108864 of 67108864 bytes" in str(told.value)
        verbs: tuple[Callable[[], object], ...] = (
            lambda: store.prepare("more"),
            lambda: store.import_directory("/etc", name="etc"),
        )
        for verb in verbs:
            error = refuses(verb)
            assert "cowstore-" in str(error)
            assert (error.what, error.total) == ("data", 64 * MIB)
        assert {snapshot.key for snapshot in store.walk()} == {"big", "other", "base", "seen"}
        for key in ("other", "base", "seen"):
            with store.mounted(key) as root:
                assert hashlib.sha256((root / "file").read_bytes()).hexdigest() == digest
        with pytest.raises(CowstoreError):
            store.commit("layer", "big")
        store.remove("big")
        assert store.status().driver_status.details["pool mode"] == "rw"
        store.prepare("again")
        with store.mounted("again") as root:
            write_random(root / "file", 20)
        store.commit("layer", "again")
        for key in ("layer", "other", "seen", "base"):
            store.remove(key)
        assert store.check() == ()
        store.destroy()


def test_an_import_that_does_not_fit(tmp_path: Path) -> None:
    """DM-07: a layer of 100 MiB for a pool of 64 is not listed afterwards."""
    source = tmp_path / "source"
    source.mkdir()
    write_random(source / "large", 100)
    with cowstore.open(tmp_path / "store", driver="devicemapper", options=TINY) as store:
        begun = time.monotonic()
        with pytest.raises(OutOfSpace, match="data space"):
            store.import_directory(source, name="layer")
        assert time.monotonic() - begun < 20
        assert not list(store.walk())
        store.prepare("small")
        store.remove("small")
        assert store.check() == ()
        store.destroy()


def test_growing_ahead(tmp_path: Path) -> None:
    """DM-07: where the files may grow, the same write succeeds, and nobody had to watch."""
    options = {**TINY, "data_limit_bytes": 2048 * MIB, "metadata_limit_bytes": 64 * MIB}
    source = tmp_path / "source"
    source.mkdir()
    digest = write_random(source / "large", 100)
    with cowstore.open(tmp_path / "store", driver="devicemapper", options=options) as store:
        store.import_directory(source, name="layer")
        store.prepare("top", parent="layer")
        with store.mounted("top") as root:
            assert hashlib.sha256((root / "large").read_bytes()).hexdigest() == digest
            write_random(root / "more", 100)
        assert store.status().driver_status.total_bytes == 2048 * MIB
        store.remove("top")
        store.remove("layer")
        store.destroy()


SCANT = {**SMALL, "data_bytes": 64 * MIB, "data_limit_bytes": 64 * MIB}


def pass_the_low_water_mark(driver: DeviceMapper) -> None:
    driver.create(1, None, None)
    with driver_node(driver) as node, open(node, "r+b", buffering=0) as device:
        for place in range(55):
            os.pwrite(device.fileno(), b"x" * MIB, place * MIB)
        os.fsync(device.fileno())


def test_status_tells_of_the_kernels_events(make: Callable[..., Bench], caplog: pytest.LogCaptureFixture) -> None:
    """The pool calls when its low-water mark is reached; the next status says so, once, and logs the fill levels."""
    driver = make(**SCANT).driver
    assert driver.status().details["events"] == "0 new, 0 since the pool was activated"
    pass_the_low_water_mark(driver)
    assert driver.status().details["events"] == "1 new, 1 since the pool was activated"
    assert "has called" in caplog.text
    assert driver.status().details["events"] == "0 new, 1 since the pool was activated"


EVENTS = """
import sys
from cowstore.drivers.devicemapper import DeviceMapper
from cowstore.drivers.devicemapper.options import Options
from tests.vm.drivers.devicemapper.test_pool import SCANT, pass_the_low_water_mark

driver = DeviceMapper(sys.argv[1], Options(**SCANT))
if sys.argv[2] == "write":
    pass_the_low_water_mark(driver)
else:
    print(driver.status().details["events"])
driver.close()
"""


def test_another_process_is_told_of_events(tmp_path: Path) -> None:
    """The next to ask is told, though the pool has ended since, with whoever was there when the kernel called."""

    def process(what: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", EVENTS, str(tmp_path), what],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            capture_output=True, text=True, check=True, timeout=100,
        ).stdout.strip()  # fmt: skip

    assert process("ask") == "0 new, 0 since the pool was activated"
    process("write")
    assert process("ask") == "1 new, 0 since the pool was activated"
    assert process("ask") == "0 new, 0 since the pool was activated"
    driver = DeviceMapper(str(tmp_path), Options(**SCANT))  # type: ignore[arg-type]
    driver.remove(1)
    pass_the_low_water_mark(driver)
    assert process("ask") == "1 new, 1 since the pool was activated"
    assert driver.status().details["events"] == "0 new, 1 since the pool was activated"
    driver.remove(1)
    driver.destroy()
    assert os.listdir(tmp_path) == []


def test_waiting_for_an_event(make: Callable[..., Bench]) -> None:
    """The kernel wakes whoever waits for a pool's next event, and lets other threads run until then."""
    driver = make(**SCANT).driver
    pool = driver._pool
    woken: list[dm.Info] = []
    waiter = threading.Thread(target=lambda: woken.append(dm.dev_wait(pool.control, pool.name, 0)))
    waiter.start()
    waiter.join(0.2)
    assert waiter.is_alive()
    pass_the_low_water_mark(driver)
    waiter.join(30)
    assert not waiter.is_alive()
    assert [(info.name, info.event_nr) for info in woken] == [(pool.name, 1)]
    # One that has come already is not waited for.
    assert dm.dev_wait(pool.control, pool.name, 0).event_nr == 1
    with pytest.raises(OSError, match="No such device"):
        dm.dev_wait(pool.control, "cowstore-none", 0)


@contextmanager
def driver_node(driver: DeviceMapper) -> Iterator[str]:
    (mount,) = driver.mounts(1, False)
    yield os.fsdecode(mount.source)
    driver.release(1)


def test_metadata_is_watched_too(make: Callable[..., Bench]) -> None:
    """DM-09: lots of data space, little metadata: refused by name before the pool turns read-only."""
    bench = make(
        metadata_bytes=2 * MIB, metadata_limit_bytes=2 * MIB, data_bytes=4096 * MIB, data_limit_bytes=4096 * MIB,
        min_free_percent=70,
    )  # fmt: skip
    driver = bench.driver

    def snapshot_and_scatter() -> None:
        for id in range(1, 2000):
            driver.create(id, id - 1 or None, None)
            with bench.active(id, read_only=False) as node, open(node, "r+b", buffering=0) as device:
                os.pwrite(device.fileno(), b"x" * 4096, 32 * MIB)

    with pytest.raises(OutOfSpace) as told:
        snapshot_and_scatter()
    assert told.value.what == "metadata"
    assert "metadata" in str(told.value)
    status = driver._pool.status()
    assert status.mode == "rw"
    assert "metadata used" in driver.status().details
    # Removal needs metadata of its own, and works.
    for id in sorted(driver.held(), reverse=True):
        driver.remove(id)
    driver.create(1, None, None)


def test_metadata_grows(make: Callable[..., Bench]) -> None:
    """Room for the block map of all that a mounted snapshot may write is made before."""
    bench = make(metadata_bytes=2 * MIB, metadata_limit_bytes=16 * MIB, data_limit_bytes=8192 * MIB)
    bench.driver.create(1, None, 4096 * MIB)
    with bench.mounted(1):
        status = bench.driver._pool.status()
    assert status.metadata_total > 3 * MIB
    assert status.data_total > 4096 * MIB


def test_pool_of_another_store(make: Callable[..., Bench], tmp_path: Path) -> None:
    """DM-10: both UUIDs and the place are named; nothing is formatted or deleted."""
    one, two = make("one"), make("two")
    two.driver.create(1, None, None)
    two.fill(1, 1)
    for bench in (one, two):
        bench.driver.close()
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    shutil.copy(one.directory / "pool", mixed / "pool")
    for name in ("data", "metadata"):
        subprocess.run(["cp", "--sparse=always", two.directory / name, mixed / name], check=True)
    before = {name: hashlib.sha256((mixed / name).read_bytes()).hexdigest() for name in ("data", "metadata", "pool")}
    expected = (one.directory / "pool").read_text().split()[1]
    found = (two.directory / "pool").read_text().split()[1]
    left = devices()
    with pytest.raises(StoreMismatch) as told:
        DeviceMapper(str(mixed), one.options)
    assert (told.value.expected, told.value.found) == (expected, found)
    assert expected in str(told.value)
    assert found in str(told.value)
    assert str(mixed / "metadata") in str(told.value)
    assert devices() == left
    assert hashlib.sha256((mixed / "pool").read_bytes()).hexdigest() == before["pool"]
    assert hashlib.sha256((mixed / "data").read_bytes()).hexdigest() == before["data"]
    one.reopen()
    two.reopen()


def test_metadata_that_is_gone_is_never_made_anew(make: Callable[..., Bench]) -> None:
    """DM-10: the kernel formats a pool whose first metadata block is zero; that would be the loss of all there is."""
    bench = make()
    bench.driver.create(1, None, None)
    digest = bench.fill(1, 1)
    bench.driver.close()
    path = bench.directory / "metadata"
    with open(path, "r+b") as file:
        head = file.read(4096)
        file.seek(0)
        file.write(bytes(4096))
    left = devices()
    with pytest.raises(StoreCorrupt, match="no metadata"):
        DeviceMapper(str(bench.directory), bench.options)
    with open(path, "r+b") as file:
        assert file.read(4096) == bytes(4096)
        file.seek(0)
        file.write(b"\xff" * 8 + head[8:])
    with pytest.raises(StoreCorrupt, match="thin_check"):
        DeviceMapper(str(bench.directory), bench.options)
    assert devices() == left
    with open(path, "r+b") as file:
        file.write(head)
    bench.reopen()
    assert bench.hash(1) == digest
    for name in ("data", "metadata"):
        bench.driver.close()
        os.rename(bench.directory / name, bench.directory / "away")
        with pytest.raises(StoreCorrupt, match=f"{name} .*is gone"):
            DeviceMapper(str(bench.directory), bench.options)
        os.rename(bench.directory / "away", bench.directory / name)
        bench.reopen()


def test_a_copied_store_is_refused_while_the_first_is_open(bench: Bench, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bench.directory, copy, symlinks=True)
    with pytest.raises(StoreMismatch, match="copied"):
        DeviceMapper(str(copy), bench.options)


def test_a_copy_on_another_file_system_is_refused(bench: Bench, tmp_path: Path) -> None:
    """A cloned file system gives the files of the copy the numbers of the first's: only the device tells them apart.

    Taken for the store itself, two stores would write to one pool, each with records of its own.
    """
    clone = tmp_path / "clone"
    clone.mkdir()
    disk = tmp_path / "disk"
    disk.touch()
    os.truncate(disk, 512 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(disk)], check=True)
    subprocess.run(["mount", "-o", "loop", str(disk), str(clone)], check=True)
    try:
        (clone / "driver").mkdir()
        bench.driver.close()
        shutil.copytree(bench.directory, clone / "driver", symlinks=True, dirs_exist_ok=True)
        second = tmp_path / "second"
        second.mkdir()
        subprocess.run(["umount", str(clone)], check=True)
        shutil.copy(disk, tmp_path / "cloned disk")
        subprocess.run(["mount", "-o", "loop", str(disk), str(clone)], check=True)
        subprocess.run(["mount", "-o", "loop", str(tmp_path / "cloned disk"), str(second)], check=True)
        inodes = [os.stat(top / "driver" / "data").st_ino for top in (clone, second)]
        assert inodes[0] == inodes[1]
        driver = DeviceMapper(str(clone / "driver"), bench.options)
        with pytest.raises(StoreMismatch, match="copied"):
            DeviceMapper(str(second / "driver"), bench.options)
        driver.close()
    finally:
        for top in (clone, tmp_path / "second"):
            subprocess.run(["umount", str(top)], check=False)
    bench.reopen()


def test_a_late_failure_of_opening_leaves_nothing(bench: Bench) -> None:
    """The pool was activated already when the records turned out to be unusable: it ends, and all is closed."""
    bench.driver.close()
    before, open_files = devices(), os.listdir("/proc/self/fd")
    records = bench.directory / "doomed"
    records.rmdir()
    records.touch()
    with pytest.raises(FileExistsError):
        DeviceMapper(str(bench.directory), bench.options)
    assert devices() == before
    assert os.listdir("/proc/self/fd") == open_files
    records.unlink()
    bench.reopen()


def test_a_moved_store_opens(bench: Bench, tmp_path: Path) -> None:
    bench.driver.create(1, None, None)
    digest = bench.fill(1, 1)
    bench.driver.close()
    bench.directory.rename(tmp_path / "moved")
    bench.directory = tmp_path / "moved"
    bench.reopen()
    assert bench.hash(1) == digest


def test_recorded_block_size_is_used(make: Callable[..., Bench]) -> None:
    """Made with one, opened with another: the one it was made with."""
    bench = make(block_bytes=128 << 10)
    bench.driver.create(1, None, None)
    digest = bench.fill(1, 2)
    bench.reopen(block_bytes=64 << 10)
    assert bench.driver._pool.record.block_bytes == 128 << 10
    assert bench.hash(1) == digest


def test_xfs(make: Callable[..., Bench]) -> None:
    """The other file system: mounted beside its own copies, grown, sealed."""
    bench = make(file_system=FileSystem.XFS, base_bytes=320 * MIB, data_bytes=1024 * MIB, data_limit_bytes=1024 * MIB)
    driver = bench.driver
    driver.create(1, None, None)
    digest = bench.fill(1, 4)
    driver.seal(1)
    driver.create(2, 1, 512 * MIB)
    with bench.mounted(2) as root:
        assert hashlib.sha256((root / "fill").read_bytes()).hexdigest() == digest
        assert os.statvfs(root).f_blocks * os.statvfs(root).f_frsize > 400 * MIB
        driver.create(3, 1, None)
        assert driver.usage(2).size_bytes > 0
    assert bench.hash(1) == digest
    driver.seal(2)
    assert bench.hash(2) == digest


def retries(root: Path) -> set[str]:
    """How often xfs repeats a metadata write that failed: what its settings say while it is mounted."""
    directory = Path(xfs.settings(os.stat(root).st_dev))
    return {(directory / name / "max_retries").read_text().strip() for name in ("ENOSPC", "EIO")}


def test_a_full_pool_under_xfs(tmp_path: Path) -> None:
    """DM-07: xfs repeats a metadata write that failed for ever, unless told; nobody hangs, and removal frees."""
    options = {
        **SMALL, "file_system": "xfs", "base_bytes": 512 * MIB, "data_bytes": 384 * MIB, "data_limit_bytes": 384 * MIB,
    }  # fmt: skip
    with cowstore.open(tmp_path / "store", driver="devicemapper", options=options) as store:
        store.prepare("first")
        with store.mounted("first") as root:
            assert retries(root) == {"0"}
            digest = write_random(root / "file", 4)
        store.commit("base", "first")
        for key in ("other", "filler", "big"):
            store.prepare(key, parent="base")
        with store.mounted("filler") as root:
            write_random(root / "filler", 250)
        begun = time.monotonic()
        with pytest.raises(OutOfSpace) as told:
            write_too_much(store)
        # The program's fsync had five seconds of it; so has the end of the mount.
        assert time.monotonic() - begun < 10
        assert told.value.what == "data"
        with pytest.raises(OutOfSpace):
            store.prepare("more")
        with pytest.raises(CowstoreError):
            store.commit("layer", "big")
        for key in ("base", "other", "filler"):
            with store.mounted(key) as root:
                assert hashlib.sha256((root / "file").read_bytes()).hexdigest() == digest
        store.remove("big")
        store.prepare("again")
        with store.mounted("again") as root:
            write_random(root / "file", 20)
        store.commit("layer", "again")
        assert store.check() == ()
        for key in ("layer", "filler", "other", "base"):
            store.remove(key)
        store.destroy()


def test_pool_removed_behind_the_back(bench: Bench) -> None:
    """The error names the pool; the next opening works."""
    bench.driver.create(1, None, None)
    digest = bench.fill(1, 1)
    subprocess.run(["dmsetup", "remove", bench.driver._pool.name], check=True)
    with pytest.raises(StoreCorrupt, match=bench.driver._pool.name):
        bench.driver.create(2, None, None)
    bench.reopen()
    assert bench.hash(1) == digest


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[tuple[loop.LoopDevice, loop.LoopDevice]]:
    """Two block devices."""
    made = []
    for name, size in (("data-disk", 256 * MIB), ("metadata-disk", 8 * MIB)):
        path = tmp_path / name
        path.touch()
        os.truncate(path, size)
        with open(path, "r+b") as file:
            made.append(loop.attach(file, file_name=os.fsencode(path)))
    yield made[0], made[1]
    for device in made:
        device.close()


def test_given_devices(tmp_path: Path, disks: tuple[loop.LoopDevice, loop.LoopDevice]) -> None:
    """A pool on block devices; what they hold is looked at first, and what is in use is never taken."""
    data, metadata = disks
    (tmp_path / "store").mkdir()
    directory = str(tmp_path / "store")
    options = {**SMALL, "data_device": data.node, "metadata_device": metadata.node}
    subprocess.run(["mkfs.ext4", "-q", "-L", "precious", data.node], check=True)
    with pytest.raises(Unsupported, match="precious"):
        DeviceMapper(directory, Options(**options))  # type: ignore[arg-type]
    place = tmp_path / "place"
    place.mkdir()
    subprocess.run(["mount", data.node, str(place)], check=True)
    with pytest.raises(Busy, match="mounted at"):
        DeviceMapper(directory, Options(**options, force=True))  # type: ignore[arg-type]
    subprocess.run(["umount", str(place)], check=True)
    driver = DeviceMapper(directory, Options(**options, force=True))  # type: ignore[arg-type]
    driver.create(1, None, None)
    with pytest.raises(Busy):
        DeviceMapper(str(place), Options(**options, force=True))  # type: ignore[arg-type]
    driver.close()
    with pytest.raises(Unsupported, match="holds"):
        DeviceMapper(str(place), Options(**options))  # type: ignore[arg-type]
    driver = DeviceMapper(directory, Options(**options))  # type: ignore[arg-type]
    assert driver.held() == {1}
    assert not driver._pool.discards
    driver.remove(1)
    driver.destroy()


def test_one_device_for_both(tmp_path: Path, disks: tuple[loop.LoopDevice, loop.LoopDevice]) -> None:
    """By the same name or by another: said before a byte of it is written, with force too."""
    data, _ = disks
    other = tmp_path / "by-another-name"
    other.symlink_to(data.node)
    (tmp_path / "store").mkdir()
    with open(data.node, "r+b", buffering=0) as device:
        device.write(b"precious" * 64)
    for name in (data.node, str(other)):
        given = {**SMALL, "data_device": data.node, "metadata_device": name, "force": True}
        with pytest.raises(InvalidArgument, match=f"{data.node} and metadata_device {name} are one device"):
            DeviceMapper(str(tmp_path / "store"), Options(**given))  # type: ignore[arg-type]
    with open(data.node, "rb") as device:
        assert device.read(512) == b"precious" * 64
    assert not (tmp_path / "store" / "pool").exists()


def test_no_block_device(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="no block device"):
        DeviceMapper(str(tmp_path), Options(data_device="/dev/null", metadata_device="/dev/zero"))


WITHOUT_DEV = """
import os, sys
from cowstore import mounting
from cowstore.drivers.devicemapper import DeviceMapper
from cowstore.drivers.devicemapper.options import Options
from tests.vm.drivers.devicemapper.conftest import SMALL

driver = DeviceMapper(sys.argv[1], Options(**SMALL))
for id in range(1, 51):
    driver.create(id, None, None)
    with mounting.detached(driver.mounts(id, False)) as tree:
        os.mkdir("made", dir_fd=tree.fileno())
    driver.release(id)
for id in range(1, 51):
    driver.remove(id)
driver.destroy()
print(sorted(os.listdir("/dev")))
"""


def test_a_dev_without_nodes(tmp_path: Path) -> None:
    """DM-11: fifty of fifty layers in a namespace whose /dev is an empty tmpfs."""
    script = "mount -t tmpfs tmpfs /dev; cd /dev; mknod null c 1 3; mknod zero c 1 5; mknod urandom c 1 9"
    command = f'{script} && exec "$0" -c "$1" "$2"'
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command, sys.executable, WITHOUT_DEV, str(tmp_path)],
        env=environment, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "dm-" not in done.stdout


def test_shifted_loop_numbers(tmp_path: Path) -> None:
    """DM-22: with partitions enabled loop1 is not 7:1."""
    subprocess.run(["modprobe", "-r", "loop"], check=True)
    subprocess.run(["modprobe", "loop", "max_part=15"], check=True)
    try:
        path = tmp_path / "file"
        path.touch()
        os.truncate(path, MIB)
        with open(path, "r+b") as file, loop.attach(file) as first, loop.attach(file) as second:
            assert os.minor(max(first.dev, second.dev)) == 16
            assert stat.S_ISBLK(os.stat(second.node).st_mode)
        driver = DeviceMapper(str(tmp_path), Options(**SMALL))  # type: ignore[arg-type]
        driver.create(1, None, None)
        driver.remove(1)
        driver.destroy()
    finally:
        subprocess.run(["modprobe", "-r", "loop"], check=True)
        subprocess.run(["modprobe", "loop"], check=True)


def test_buffer_full_is_tried_again(bench: Bench) -> None:
    """More devices than the first buffer has room for are all listed."""
    for id in range(1, 81):
        bench.driver.create(id, None, None)
        bench.driver.mounts(id, True)
    names = [name for name, _ in dm.list_devices(bench.driver._pool.control)]
    assert sum(name.startswith("cowstore-") for name in names) == 81
    for id in range(1, 81):
        bench.driver.release(id)
