"""What is full is told apart: bytes or inodes of a snapshot's own file system, data or metadata of the pool."""

from __future__ import annotations

import io
import os
import random
import tarfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import cowstore
from cowstore._linux import dm
from cowstore.drivers.devicemapper import DeviceMapper
from cowstore.drivers.devicemapper.options import MIB, Options, WhenFull
from cowstore.errors import OutOfSpace
from tests.vm.drivers.devicemapper.conftest import SMALL, write_random

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tests.vm.drivers.devicemapper.conftest import Bench


def archive(*sizes: int) -> io.BytesIO:
    """A layer of files of these sizes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        for number, size in enumerate(sizes):
            member = tarfile.TarInfo(f"f{number}")
            member.size = size
            file.addfile(member, io.BytesIO(os.urandom(size)))
    out.seek(0)
    return out


def refused(verb: Callable[[], object]) -> OutOfSpace:
    with pytest.raises(OutOfSpace) as told:
        verb()
    return told.value


def test_inodes_run_out(tmp_path: Path) -> None:
    """The snapshot's own, few by `bytes_per_inode`: told from bytes, though the store's file system has plenty."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(200):
        (source / f"f{number}").touch()
    options = {**SMALL, "bytes_per_inode": MIB}
    with cowstore.open(tmp_path / "store", driver="devicemapper", options=options) as store:
        store.prepare("top")
        with store.mounted("top") as root:
            inodes = os.statvfs(root).f_files
        assert 32 <= inodes <= 128
        store.prepare("large", size_bytes=256 * MIB)
        with store.mounted("large") as root:
            for number in range(inodes + 20):
                (root / f"f{number}").touch()
        store.commit("larger", "large")
        verbs: tuple[tuple[str, Callable[[], object]], ...] = (
            ("top", lambda: store.apply_layer("top", archive(*[0] * 200))),
            ("tar", lambda: store.import_tar(archive(*[0] * 200), name="tar")),
            ("directory", lambda: store.import_directory(source, name="directory")),
        )
        for key, verb in verbs:
            error = refused(verb)
            assert (error.what, error.total) == ("inodes", inodes), key
            assert "inodes" in str(error)
            assert f"'{key}'" in str(error)
        assert [snapshot.key for snapshot in store.walk()] == ["larger"]
        store.prepare("top", size_bytes=256 * MIB)
        store.apply_layer("top", archive(*[0] * (inodes + 20)))
        # As large as what it is made of, and not as the base.
        store.squash("squashed", "larger")
        store.prepare("small")
        store.commit("smaller", "small")
        store.squash("over", "larger", "smaller")
        for key in ("squashed", "over"):
            with store.mounted(key) as root:
                assert len(os.listdir(root)) == inodes + 20
        for key in ("top", "squashed", "over", "larger", "smaller"):
            store.remove(key)
        store.destroy()


def test_a_snapshots_own_bytes_run_out(tmp_path: Path) -> None:
    """Its file system is full, and the pool is not: the way out is another."""
    with cowstore.open(tmp_path / "store", driver="devicemapper", options=SMALL) as store:
        error = refused(lambda: store.import_tar(archive(64 * MIB), name="tar"))
        assert error.what == "data"
        assert 32 * MIB < error.total < 64 * MIB
        assert "set_size" in str(error)
        store.prepare("top", size_bytes=128 * MIB)
        store.apply_layer("top", archive(64 * MIB))
        store.remove("top")
        store.destroy()


@pytest.fixture
def patience() -> Iterator[Callable[[int], None]]:
    """Sets how long the kernel lets a write wait for room, in seconds."""
    with dm.open_control() as control:
        dm.get_target_version(control, "thin-pool")  # loads the module
    path = Path("/sys/module/dm_thin_pool/parameters/no_space_timeout")
    before = path.read_text()

    def allow(seconds: int) -> None:
        path.write_text(str(seconds))

    yield allow
    path.write_text(before)


QUEUE = {"data_bytes": 64 * MIB, "data_limit_bytes": 64 * MIB, "when_full": WhenFull.QUEUE}


def write_past_the_end(node: str) -> None:
    """Write 63 MiB to a pool of 64 that has the base already."""
    fd = os.open(node, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for place in range(63):
            os.pwrite(fd, b"x" * MIB, place * MIB)
        os.fsync(fd)
    finally:
        os.close(fd)


def test_a_write_waits_as_long_as_is_said(make: Callable[..., Bench], patience: Callable[[int], None]) -> None:
    """DM-07, when_full=queue: it fails after the time that status names, and removal ends the trouble."""
    driver = make(**QUEUE).driver
    patience(2)
    assert driver.status().details["when full"] == "queue, for 2 s (no_space_timeout of dm_thin_pool)"
    driver.create(1, None, None)
    (mount,) = driver.mounts(1, False)
    begun = time.monotonic()
    with pytest.raises(OSError, match=r"Input/output error|No space"):
        write_past_the_end(os.fsdecode(mount.source))
    assert 2 <= time.monotonic() - begun < 12
    # The kernel does not let the next one wait again, until there is room.
    assert driver.status().details["when full"] == "error"
    with pytest.raises(OutOfSpace):
        driver.create(2, None, None)
    driver.release(1)
    driver.remove(1)
    assert driver.status().details["when full"].startswith("queue")
    driver.create(2, None, None)


def test_a_waiting_write_goes_on_when_there_is_room(
    make: Callable[..., Bench], patience: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    """DM-07, when_full=queue: another store that may let the pool grow does, and the writer never knows."""
    bench = make(**QUEUE)
    patience(60)
    bench.driver.create(1, None, None)
    (mount,) = bench.driver.mounts(1, False)
    failures: list[BaseException] = []

    def write() -> None:
        try:
            write_past_the_end(os.fsdecode(mount.source))
        except BaseException as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    deadline = time.monotonic() + 30
    while bench.driver._pool.status().mode == "rw" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert bench.driver._pool.status().mode == "out_of_data_space"
    assert writer.is_alive()
    more = Options(**{**SMALL, **QUEUE, "data_limit_bytes": 256 * MIB})  # type: ignore[arg-type]
    other = DeviceMapper(str(bench.directory), more)
    other._pool.ensure_room(64 * MIB)
    writer.join(30)
    assert not writer.is_alive()
    assert not failures
    assert "other options" not in caplog.text
    other.close()


def test_options_of_a_pool_that_is_active_are_followed(
    make: Callable[..., Bench], caplog: pytest.LogCaptureFixture
) -> None:
    """What a second store wants of an active pool it gets, and the log says so; what is fixed stays, and it says so."""
    bench = make()
    bench.driver.create(1, None, None)
    with bench.mounted(1) as root:
        wanted = {
            **SMALL,
            "when_full": WhenFull.QUEUE,
            "discard": False,
            "min_free_percent": 20,
            "block_bytes": 1 << 20,
        }
        other = DeviceMapper(str(bench.directory), Options(**wanted))  # type: ignore[arg-type]
        for text in ("when_full=queue", "discard=no", "low-water mark", "block_bytes=65536 (not 1048576)"):
            assert text in caplog.text
        write_random(root / "file", 4)
    details = bench.driver.status().details
    assert details["when full"].startswith("queue")
    assert details["discards reach the data"] == "no"
    other.close()
    caplog.clear()
    DeviceMapper(str(bench.directory), bench.options).close()
    assert "when_full=error" in caplog.text
    caplog.clear()
    DeviceMapper(str(bench.directory), bench.options).close()
    assert not caplog.text
    for name, was, want in (
        ("base_bytes", 64 * MIB, 128 * MIB),
        ("data_bytes", 256 * MIB, 200 * MIB),
        ("bytes_per_inode", 16 << 10, 32 << 10),
        ("journal_bytes", 4 * MIB, 8 * MIB),
    ):
        other = DeviceMapper(str(bench.directory), Options(**{**SMALL, name: want}))  # type: ignore[arg-type]
        other.close()
        assert f"was made with {name}={was} (not {want}), and keeps that" in caplog.text


def scatter(node: str, places: Iterable[int]) -> None:
    """Write 4 KiB at each of these blocks of the pool, 64 KiB in size."""
    fd = os.open(node, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for count, place in enumerate(places):
            os.pwrite(fd, b"x" * 4096, place << 16)
            if count % 500 == 499:
                os.fsync(fd)
        os.fsync(fd)
    finally:
        os.close(fd)


SCARCE = {
    "metadata_bytes": 2 * MIB,
    "metadata_limit_bytes": 2 * MIB,
    "data_bytes": 16384 * MIB,
    "data_limit_bytes": 16384 * MIB,
}


def test_little_metadata_and_much_data(make: Callable[..., Bench]) -> None:
    """DM-09: snapshots, 4 KiB at 2000 places in each, until one is refused; the pool is never stopped by the kernel."""
    driver = make(**SCARCE, base_bytes=1024 * MIB).driver
    chance = random.Random(9)

    def snapshot_and_scatter() -> None:
        for id in range(1, 1000):
            driver.create(id, None, None)
            (mount,) = driver.mounts(id, False)
            scatter(os.fsdecode(mount.source), chance.sample(range(1 << 14), 2000))
            driver.release(id)

    error = refused(snapshot_and_scatter)
    assert error.what == "metadata"
    status = driver._pool.status()
    assert (status.mode, status.metadata_total) == ("rw", 2 * MIB)
    made = driver.held()
    assert len(made) > 5
    driver.remove(max(made))
    driver.create(2000, None, None)
