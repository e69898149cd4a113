"""The Btrfs driver's own loop file: made whole or not at all, shared, found again, growing."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from cowstore import _faults, mounting
from cowstore._linux import btrfs, loop
from cowstore.drivers.btrfs import Btrfs, pool
from cowstore.errors import OutOfSpace, StoreMismatch
from tests.root.btrfs_ground import btrfs_at
from tests.root.drivers.btrfs_fixtures import elsewhere, make, tree

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["elsewhere"]

SMALL = Btrfs.Options(pool_size_bytes=512 << 20)


def device_of(driver: Btrfs) -> str:
    assert isinstance(driver._ground, pool.Pool)
    return driver._ground.device.node


def fill(path: str, size_bytes: int) -> None:
    with open(path, "wb") as file:
        file.write(os.urandom(size_bytes))
        os.fsync(file.fileno())


def attached_below(where: Path) -> int:
    return sum(os.fsencode(f"{where}/") in name for _number, name in loop.attached())


def test_nothing_shows_in_the_mount_table(elsewhere: Path) -> None:
    with open("/proc/self/mounts") as file:
        before = file.read()
    made = Btrfs(str(elsewhere), SMALL)
    make(made, 1, None, {"a": b"x"})
    with open("/proc/self/mounts") as file:
        assert file.read() == before
    made.close()
    made.close()
    wait_detached(elsewhere)


def wait_detached(where: Path) -> None:
    """The kernel ends a file system, and with it the device's last use, a moment after the last close."""
    deadline = time.monotonic() + 10
    while attached_below(where) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert attached_below(where) == 0


def test_the_file_is_sparse_and_gives_space_back(elsewhere: Path) -> None:
    made = Btrfs(str(elsewhere), SMALL)
    image = elsewhere / "pool.img"
    assert image.stat().st_size == 512 << 20
    assert image.stat().st_blocks * 512 < 32 << 20
    make(made, 1, None, {"big": os.urandom(64 << 20)})
    full = image.stat().st_blocks
    assert full * 512 > 64 << 20
    made.remove(1)
    made.drain()
    assert image.stat().st_blocks < full // 2
    made.destroy()


def test_a_store_that_was_closed_is_opened_again(elsewhere: Path) -> None:
    made = Btrfs(str(elsewhere), SMALL)
    make(made, 1, None, {"a": b"x"})
    made.close()
    wait_detached(elsewhere)
    again = Btrfs(str(elsewhere), Btrfs.Options())
    with tree(again, 1, read_only=True) as root:
        assert os.listdir(root) == ["a"]
    again.remove(1)
    again.destroy()
    assert os.listdir(elsewhere) == []


def test_two_in_one_process_share_the_device(elsewhere: Path) -> None:
    one, two = Btrfs(str(elsewhere), SMALL), Btrfs(str(elsewhere), SMALL)
    assert device_of(one) == device_of(two)
    assert attached_below(elsewhere) == 1
    make(one, 1, None, {"a": b"x"})
    assert two.holds(1)
    one.close()
    two.create(2, 1, None)
    two.remove(2)
    two.remove(1)
    two.destroy()


CHILD = """
import os, sys, time
from cowstore.drivers.btrfs import Btrfs
number = int(sys.argv[2])
for turn in range(3):
    driver = Btrfs(sys.argv[1], Btrfs.Options(pool_size_bytes=512 << 20))
    id = 10 * number + turn
    driver.create(id, None, None)
    print(driver._ground.device.node, flush=True)
    driver.close()
"""


def test_processes_that_open_a_store_at_once_share_it(elsewhere: Path) -> None:
    children = [
        subprocess.Popen([sys.executable, "-c", CHILD, str(elsewhere), str(number)], stdout=subprocess.PIPE)
        for number in range(1, 6)
    ]
    for child in children:
        child.communicate(timeout=60)
        assert child.returncode == 0
    made = Btrfs(str(elsewhere), SMALL)
    assert sorted(made.held()) == sorted(10 * number + turn for number in range(1, 6) for turn in range(3))
    for id in made.held():
        made.remove(id)
    made.destroy()


def test_a_killed_process_leaves_no_device(elsewhere: Path) -> None:
    body = CHILD.replace("driver.close()", "time.sleep(60)")
    with subprocess.Popen([sys.executable, "-c", body, str(elsewhere), "1"], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline().startswith(b"/dev/loop")
        assert attached_below(elsewhere) == 1
        child.send_signal(signal.SIGKILL)
    wait_detached(elsewhere)
    again = Btrfs(str(elsewhere), SMALL)
    assert again.held() == [10]
    again.remove(10)
    again.destroy()


def test_a_mount_outlives_the_driver_and_is_shared_by_the_next(elsewhere: Path) -> None:
    made = Btrfs(str(elsewhere), SMALL)
    make(made, 1, None, {"a": b"x"})
    with mounting.detached(made.mounts(1, True)) as root:
        made.close()
        again = Btrfs(str(elsewhere), SMALL)
        assert attached_below(elsewhere) == 1
        assert os.listdir(f"/proc/self/fd/{root.fileno()}/.") == ["a"]
        again.create(2, 1, None)
        again.remove(2)
    again.remove(1)
    again.destroy()


def test_it_grows_up_to_its_limit(elsewhere: Path) -> None:
    options = Btrfs.Options(pool_size_bytes=256 << 20, pool_limit_bytes=768 << 20)
    made = Btrfs(str(elsewhere), options)
    assert made.status().total_bytes == 256 << 20
    sizes = []
    for id in range(1, 12):
        made.create(id, None, None)
        with tree(made, id) as root:
            fill(f"{root}/f", 30 << 20)
        sizes.append(made.status().total_bytes)
    assert sizes[-1] == 768 << 20
    assert sizes == sorted(sizes)
    assert (elsewhere / "pool.img").stat().st_size == 768 << 20
    for id in range(1, 12):
        made.remove(id)
    made.destroy()


@pytest.mark.parametrize("at", ["btrfs.pool.formatted", "btrfs.pool.lengthened"])
def test_making_and_growing_can_be_killed(elsewhere: Path, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def kill(point: str) -> None:
        if point == at:
            raise Killed

    options = Btrfs.Options(pool_size_bytes=256 << 20, pool_limit_bytes=512 << 20)
    made = None
    with monkeypatch.context() as patch:
        patch.setattr(_faults, "hook", kill)
        with pytest.raises(Killed):  # noqa: PT012  (where it comes from depends on the point)
            made = Btrfs(str(elsewhere), options)
            made.create(1, None, None)
            with tree(made, 1) as root:
                fill(f"{root}/f", 100 << 20)
            made.create(2, None, None)
    if made is not None:
        made.close()
        wait_detached(elsewhere)
    again = Btrfs(str(elsewhere), options)
    again.create(3, None, None)
    assert again.status().total_bytes == (256 if made is None else 512) << 20
    for id in again.held():
        again.remove(id)
    again.destroy()
    assert os.listdir(elsewhere) == []


def test_a_copy_of_a_pool_in_use_is_refused(elsewhere: Path, tmp_path: Path) -> None:
    Btrfs(str(elsewhere), SMALL).close()
    wait_detached(elsewhere)
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(elsewhere / "pool.img", copy / "pool.img")
    made = Btrfs(str(elsewhere), SMALL)
    try:
        other = Btrfs(str(copy), SMALL)
    except StoreMismatch as error:
        assert "copy of this pool" in str(error)
    else:
        # Since Linux 6.7 a second file system of the same UUID gets another one for as long as it is mounted.
        other.create(5, None, None)
        other.close()
    made.create(1, None, None)
    assert made.held() == [1]
    made.remove(1)
    made.destroy()
    wait_detached(tmp_path)


def test_there_is_no_room_for_a_pool(tmp_path: Path) -> None:
    with btrfs_at(tmp_path, 200 << 20) as point:
        with pytest.raises(OutOfSpace, match="cannot make a pool"):
            Btrfs(str(point), Btrfs.Options(loop=True))
        assert os.listdir(point) == ["pool.lock"]


def test_a_full_file_system_below_stops_new_work(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Btrfs(str(elsewhere), SMALL)
    make(made, 1, None, {"a": b"x"})
    monkeypatch.setattr(pool, "_free_below", lambda directory: 10 << 20)
    with pytest.raises(OutOfSpace, match="file system below"):
        made.create(2, 1, None)
    # What is there can still be read and removed.
    with tree(made, 1, read_only=True) as root:
        assert os.listdir(root) == ["a"]
    made.remove(1)
    made.destroy()


def test_a_loop_file_can_be_asked_for_on_a_btrfs(tmp_path: Path) -> None:
    with btrfs_at(tmp_path) as point:
        made = Btrfs(str(point), Btrfs.Options(loop=True, pool_size_bytes=256 << 20, compression="zstd:1"))
        make(made, 1, None, {"zeros": b"\1" * (8 << 20)})
        with tree(made, 1, read_only=True) as root:
            assert os.stat(f"{root}/zeros").st_size == 8 << 20
        assert made.status().details["compression"] == "zstd:1"
        # What is there decides, whatever the options say now.
        made.close()
        again = Btrfs(str(point), Btrfs.Options())
        assert again.holds(1)
        again.remove(1)
        again.destroy()
        wait_detached(point)


def test_reading_only(elsewhere: Path) -> None:
    made = Btrfs(str(elsewhere), SMALL)
    make(made, 1, None, {"a": b"x"})
    make(made, 2, 1, {"b": b"x"})
    made.create(3, 1, None)
    made.close()
    wait_detached(elsewhere)
    before = sorted(os.listdir(elsewhere))
    reader = Btrfs(str(elsewhere), Btrfs.Options(), read_only=True)
    assert sorted(reader.held()) == [1, 2, 3]
    assert [change.path for change in reader.changes(2, 1) if change.path != "."] == ["b"]
    assert list(reader.changes(3, 1)) == []
    assert reader.usage(2).inodes >= 1
    reader.close()
    assert sorted(os.listdir(elsewhere)) == before


def test_a_thread_waits_for_another_that_makes_the_pool(elsewhere: Path) -> None:
    made: list[Btrfs] = []
    threads = [threading.Thread(target=lambda: made.append(Btrfs(str(elsewhere), SMALL))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4
    assert len({device_of(one) for one in made}) == 1
    for one in made[1:]:
        one.close()
    made[0].destroy()


def test_resizing_waits_for_nobody(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another exclusive operation of the file system is under way: the next open does it."""
    made = Btrfs(str(elsewhere), SMALL)

    def busy(fd: object, size: str) -> None:
        raise OSError(errno.EINPROGRESS, "in progress")

    monkeypatch.setattr(btrfs, "resize", busy)
    assert isinstance(made._ground, pool.Pool)
    os.truncate(elsewhere / "pool.img", 600 << 20)
    loop.set_capacity(made._ground.device)
    made._ground._resize_to_device()
    monkeypatch.undo()
    again = Btrfs(str(elsewhere), SMALL)
    assert again.status().total_bytes == 600 << 20
    again.close()
    made.destroy()
