"""Snapshots of snapshots: what is in them, when their origin is in use, what they take."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from cowstore import mounting
from cowstore._linux import dm
from cowstore.drivers.devicemapper import metadata_snapshot
from cowstore.drivers.devicemapper.locks import POOL_SIZE, locked
from cowstore.drivers.devicemapper.options import MIB
from cowstore.errors import Busy, StoreCorrupt, Unsupported
from tests.vm.drivers.devicemapper.conftest import write_random

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cowstore.drivers.devicemapper.metadata import Metadata
    from tests.vm.drivers.devicemapper.conftest import Bench


def write_small(root: Path, count: int) -> dict[str, str]:
    """Write files with no fsync; returns name and hash."""
    written = {}
    for number in range(count):
        data = os.urandom(1 + number * 7)
        (root / f"f{number}").write_bytes(data)
        written[f"f{number}"] = hashlib.sha256(data).hexdigest()
    return written


def hashes(root: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in root.iterdir()}


def test_snapshot_of_a_mounted_origin(bench: Bench) -> None:
    """DM-02: 500 files without a sync are all in the snapshot, and its file system is clean."""
    driver = bench.driver
    driver.create(1, None, None)
    with bench.mounted(1) as root:
        written = write_small(root, 500)
        driver.create(2, 1, None)
        with bench.active(2, read_only=False) as node:
            checked = subprocess.run(["e2fsck", "-fn", node], capture_output=True, text=True, check=False)
            assert checked.returncode == 0, checked.stdout
        (root / "f0").write_bytes(b"after")
    with bench.mounted(2) as root:
        assert hashes(root) == written
    assert "lost+found" not in written


def test_origin_is_resumed_when_the_snapshot_fails(bench: Bench) -> None:
    """The origin goes on working on every path."""
    driver = bench.driver
    driver.create(1, None, None)
    with bench.mounted(1) as root:
        driver._pool.message("create_thin 7")  # in the way, and nothing is known of it
        with pytest.raises(StoreCorrupt, match="device 7"):
            driver.create(7, 1, None)
        write_random(root / "still", 1)
        info = driver._thins.find(1)
        assert info is not None
        assert not info.suspended
    assert not driver.holds(7)


def test_many_threads_snapshot_one_mounted_origin(bench: Bench) -> None:
    """A second suspend changes nothing, so that without the origin's lock a first resume would uncover the second."""
    bench.driver.create(1, None, None)
    failures: list[BaseException] = []

    def snapshot(first: int) -> None:
        try:
            for id in range(first, first + 5):
                bench.driver.create(id, 1, None)
        except BaseException as error:
            failures.append(error)

    with bench.mounted(1) as root:
        threads = [threading.Thread(target=snapshot, args=(10 * number,)) for number in range(1, 5)]
        for thread in threads:
            thread.start()
        for number in range(50):
            (root / f"w{number}").write_bytes(b"x" * 5000)
        for thread in threads:
            thread.join(60)
    assert not failures
    for id in (10, 24, 33, 44):
        with bench.active(id, read_only=False) as node:
            assert subprocess.run(["e2fsck", "-fn", node], capture_output=True, check=False).returncode == 0


def test_view_of_a_busy_origins_snapshot(bench: Bench) -> None:
    """DM-15: sealed while its origin was written to, it mounts read-only with no journal to replay."""
    driver = bench.driver
    driver.create(1, None, None)
    stop = threading.Event()

    with bench.mounted(1) as root:

        def write() -> None:
            number = 0
            while not stop.is_set():
                (root / f"w{number % 50}").write_bytes(os.urandom(3000))
                number += 1
                time.sleep(0.001)

        writer = threading.Thread(target=write)
        writer.start()
        time.sleep(0.2)
        driver.create(2, 1, None)
        stop.set()
        writer.join()
    driver.seal(2)
    with bench.active(2, read_only=True) as node:
        info = driver._thins.find(2)
        assert info is not None
        assert info.read_only
        with pytest.raises(OSError, match="not permitted") as refused, open(node, "r+b", buffering=0) as device:
            device.write(b"x" * 4096)
        assert refused.value.errno == errno.EPERM
    with bench.mounted(2, read_only=True) as root:
        assert any(root.iterdir())
        with pytest.raises(OSError, match="Read-only"):
            (root / "new").touch()


def test_sealing_replays_what_a_crash_left(bench: Bench) -> None:
    """A journal that waits to be replayed is replayed once, before the snapshot becomes immutable."""
    driver = bench.driver
    driver.create(1, None, None)
    with bench.mounted(1) as root:
        written = write_small(root, 20)
        os.sync()
        # A snapshot without a freeze is what a power cut leaves.
        driver._pool.message("create_snap 2 1")
        driver._ids.add(2, driver._known(1))
    info = driver._thins.activate(2, driver._known(2).size_bytes, read_only=True)
    assert not driver._super_block(2, info).clean
    driver.release(2)
    driver.seal(2)
    with bench.mounted(2, read_only=True) as root:
        assert hashes(root) == written


def test_a_mounted_id_cannot_be_sealed(bench: Bench) -> None:
    bench.driver.create(1, None, None)
    with bench.mounted(1), pytest.raises(Busy) as refused:
        bench.driver.seal(1)
    assert os.getpid() in refused.value.holders


def test_child_is_never_smaller_than_its_parent(bench: Bench) -> None:
    """DM-13: a parent grown beyond the base passes its size on, whatever the options say now; nothing shrinks."""
    bench.driver.create(1, None, 200 * MIB)
    digest = bench.fill(1, 100)
    bench.driver.seal(1)
    driver = bench.reopen(base_bytes=16 * MIB)
    driver.create(2, 1, None)
    assert bench.hash(2) == digest
    with bench.mounted(2) as root:
        assert os.statvfs(root).f_blocks * os.statvfs(root).f_frsize > 150 * MIB
    with pytest.raises(Unsupported, match="base_bytes"):
        driver.create(3, 1, 100 * MIB)
    assert not driver.holds(3)
    with pytest.raises(Unsupported):
        driver.resize(2, 100 * MIB)
    driver.create(4, None, None)
    with bench.mounted(4) as root:
        # The base is as large as it was made.
        assert os.statvfs(root).f_blocks * os.statvfs(root).f_frsize > 32 * MIB


def test_growing_a_mounted_snapshot(bench: Bench) -> None:
    """DM-13: grown online, several times, while files are open in it."""
    bench.driver.create(1, None, None)
    with bench.mounted(1) as root, open(root / "open", "wb") as file:
        sizes = [os.statvfs(root).f_blocks]
        for mebibytes in (96, 128, 160):
            bench.driver.resize(1, mebibytes * MIB)
            bench.driver.resize(1, mebibytes * MIB)
            sizes.append(os.statvfs(root).f_blocks)
            file.write(b"x" * MIB)
        assert sizes == sorted(set(sizes))
        write_random(root / "large", 100)
    with bench.active(1, read_only=False) as node:
        assert subprocess.run(["e2fsck", "-fn", node], capture_output=True, check=False).returncode == 0


def test_usage_is_its_own_blocks(bench: Bench) -> None:
    """DM-18: 5 MiB on a parent of 100 are about 5, mounted or not; an empty child takes nothing."""
    driver = bench.driver
    driver.create(1, None, 160 * MIB)
    bench.fill(1, 100)
    driver.seal(1)
    driver.create(2, 1, None)
    assert driver.usage(2).size_bytes == 0
    with bench.mounted(2) as root:
        (root / "more").write_bytes(os.urandom(5 * MIB))
        mounted = driver.usage(2).size_bytes
    unmounted = driver.usage(2).size_bytes
    assert 5 * MIB <= mounted <= unmounted <= 8 * MIB
    assert 100 * MIB <= driver.usage(1).size_bytes <= 108 * MIB
    assert driver.usage(2).size_bytes % driver._pool.record.block_bytes == 0


def test_usage_agrees_with_the_pool(bench: Bench) -> None:
    """The sum over all ids and the base is what the pool has mapped: exact to the block."""
    driver = bench.driver
    for id, parent in ((1, None), (2, 1), (3, 1), (4, 3)):
        driver.create(id, parent, None)
        bench.fill(id, 2, f"file-{id}")
        driver.seal(id)
    # Nothing of a parent has been overwritten in place by a child, so that no block is counted as nobody's.
    with driver._metadata() as metadata:
        roots = metadata.devices()
        mapped = {data for root in roots.values() for _, data in metadata.mapped(root)}
        base = len(list(metadata.mapped(roots[0])))
    own = sum(driver.usage(id).size_bytes for id in (1, 2, 3, 4)) // driver._pool.record.block_bytes
    assert len(mapped) == base + own
    assert driver._pool.status().data_used == len(mapped) * driver._pool.record.block_bytes


def test_metadata_is_read_as_thin_dump_reads_it(bench: Bench) -> None:
    """The distribution's tool is the oracle of our reader of block maps."""
    driver = bench.driver
    driver.create(1, None, None)
    bench.fill(1, 20)
    driver.create(2, 1, None)
    bench.fill(2, 3, "other")
    with driver._metadata() as metadata:
        ours = {id: dict(metadata.mapped(root)) for id, root in metadata.devices().items()}
        said = subprocess.run(
            ["thin_dump", "-m", "--format", "human_readable", metadata_snapshot.node(driver._pool)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        listed = subprocess.run(
            ["thin_ls", "-m", "--no-headers", "--format", "DEV,MAPPED_BLOCKS", metadata_snapshot.node(driver._pool)],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    assert said.returncode == 0, said.stderr
    assert {int(id): int(count) for id, count in (line.split() for line in listed.splitlines())} == {
        id: len(entries) for id, entries in ours.items()
    }


HOLDER = "import os, sys; sys.stdout.write('ready'); sys.stdout.flush(); sys.stdin.read()"


def test_removal_while_another_namespace_holds_the_mount(bench: Bench) -> None:
    """DM-16: it is set aside, is gone for everybody, and goes with its last holder."""
    driver = bench.driver
    driver.create(1, None, 192 * MIB)
    bench.fill(1, 100)
    used = driver._pool.status().data_used
    mounting.attach(driver.mounts(1, False), str(bench.place))
    holder = subprocess.Popen(
        ["unshare", "--mount", sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        holder.stdout.read(5)
        mounting.detach(str(bench.place))
        driver.release(1)
        info = driver._thins.find(1)
        assert info is not None
        assert dm.DmFlag.DEFERRED_REMOVE in info.flags
        # Called back, and let go again.
        driver.mounts(1, True)
        driver.release(1)
        driver.remove(1)
        driver.remove(1)
        assert 1 not in driver.held()
    finally:
        holder.communicate(b"")
    driver.drain()
    assert not driver.holds(1)
    # All of it, what lies beyond the size of the base too, down to the file.
    assert driver._pool.status().data_used <= used - 100 * MIB
    os.sync()
    assert bench.data_kib() < (used - 100 * MIB) // 1024


def test_store_removal_is_immediate_though_the_mount_was_copied(tmp_path: Path) -> None:
    """DM-16: a mount point of ours that goes takes the copies in other namespaces with it."""
    import cowstore
    from tests.vm.drivers.devicemapper.conftest import SMALL

    with cowstore.open(tmp_path / "store", driver="devicemapper", options=SMALL) as store:
        store.prepare("top")
        with store.mounted("top") as root:
            (root / "x").touch()
            holder = subprocess.Popen(
                ["unshare", "--mount", sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            assert holder.stdout is not None
            holder.stdout.read(5)
        try:
            store.remove("top")
            assert not list(store.walk())
            assert store.check() == ()
        finally:
            holder.communicate(b"")
        store.destroy()


def test_discard_gives_space_back_to_the_host(make: Callable[..., Bench]) -> None:
    """DM-01: the data file shrinks back after a removal, and what a sibling shares stays whole."""
    bench = make(data_bytes=768 * MIB, data_limit_bytes=768 * MIB, base_bytes=300 * MIB)
    driver = bench.driver
    driver.create(1, None, None)
    digest = bench.fill(1, 20)
    driver.seal(1)
    driver.create(2, 1, None)
    driver.create(3, 1, None)
    os.sync()
    before = bench.data_kib()
    bench.fill(2, 200, "large")
    os.sync()
    assert bench.data_kib() > before + 190 * 1024
    driver.remove(2)
    os.sync()
    assert bench.data_kib() <= before * 1.05, f"{before} KiB before, {bench.data_kib()} after"
    assert bench.hash(3) == digest


def test_volatile_mount(bench: Bench) -> None:
    """Nothing of it need survive, so no barrier is sent; it is a mount like any other."""
    bench.driver.create(1, None, None)
    (mount,) = bench.driver.mounts(1, False, volatile=True)
    assert (b"nobarrier", b"") in mount.options
    with mounting.detached([mount]) as tree:
        os.mkdir("x", dir_fd=tree.fileno())
    bench.driver.release(1)


def test_verbs_repeat(bench: Bench) -> None:
    """The law's first article."""
    driver = bench.driver
    for _ in range(2):
        driver.create(1, None, None)
    for _ in range(2):
        driver.mounts(1, False)
    for _ in range(2):
        driver.release(1)
    for _ in range(2):
        driver.seal(1)
    for _ in range(2):
        driver.remove(1)
    assert driver.held() == set()


def test_an_id_deleted_behind_the_back(bench: Bench) -> None:
    """The error names pool and id; siblings stay; it can still be removed."""
    driver = bench.driver
    driver.create(1, None, None)
    driver.create(2, None, None)
    driver._pool.message("delete 1")
    for verb in (lambda: driver.mounts(1, False), lambda: driver.usage(1), lambda: driver.create(3, 1, None)):
        with pytest.raises(StoreCorrupt, match=f"{driver._pool.name}.* 1"):
            verb()
    assert [problem.kind.value for problem in driver.examine(1, None, False)] == ["not-mountable"]
    assert not list(driver.examine(2, None, False))
    driver.remove(1)
    assert driver.held() == {2}


def test_a_device_is_made_when_the_pool_goes_on(bench: Bench) -> None:
    """The kernel makes none in a pool that is suspended, as it is while it grows: that is waited for."""
    pool = bench.driver._pool
    bench.driver.create(1, None, None)
    stopped = threading.Event()

    def grow() -> None:
        with locked(pool.directory, POOL_SIZE):
            dm.dev_suspend(pool.control, pool.name, flags=dm.DmFlag.NOFLUSH | dm.DmFlag.SKIP_LOCKFS)
            stopped.set()
            time.sleep(0.3)
            dm.dev_resume(pool.control, pool.name)

    thread = threading.Thread(target=grow)
    thread.start()
    assert stopped.wait(10)
    try:
        assert bench.driver.mounts(1, False)
    finally:
        thread.join()
    bench.driver.release(1)


def test_removed_while_it_is_listed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes between the look at the pool and that at the records is not taken for data of nobody."""
    driver = bench.driver
    driver.create(1, None, None)
    look = driver._metadata

    @contextmanager
    def then_removed() -> Iterator[Metadata]:
        with look() as metadata:
            yield metadata
        monkeypatch.undo()
        driver.remove(1)

    monkeypatch.setattr(driver, "_metadata", then_removed)
    assert driver.held() == {1}
    assert not driver.holds(1)
