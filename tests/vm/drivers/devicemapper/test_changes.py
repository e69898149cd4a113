"""Changes in time of the change: the comparison of the whole trees is the oracle."""

from __future__ import annotations

import os
import random
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from cowstore.driver import Driver
from cowstore.drivers.devicemapper import changes

if TYPE_CHECKING:
    from pathlib import Path

    from cowstore.drivers.devicemapper.names import Places
    from tests.vm.drivers.devicemapper.conftest import Bench


def told(bench: Bench, id: int, base: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]], Places | None]:
    """What the driver tells, what the comparison tells, and what was found by the block map."""
    driver = bench.driver
    found = changes.differing(driver._pool, driver._thins, driver._ids, id, base)
    narrowed = [(change.kind.value, change.path) for change in driver.changes(id, base)]
    whole = [(change.kind.value, change.path) for change in Driver.changes(driver, id, base)]
    for one in (id, base):
        driver.release(one)
    return narrowed, whole, found


def grow(root: Path, count: int) -> None:
    for number in range(count):
        path = root / f"d{number % 7}" / f"e{number % 3}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * (number * 37 % 9000))
    for number in range(0, count, 9):
        os.link(root / f"d{number % 7}" / f"e{number % 3}" / f"f{number}", root / f"link{number}")


def edit(root: Path, chance: random.Random) -> None:
    """Do one of the things that programs do, to anything there is."""
    paths = sorted(path for path in root.rglob("*"))
    files = [path for path in paths if path.is_file() and not path.is_symlink()]
    one, other = chance.choice(files), chance.choice(paths)
    fresh = (other if other.is_dir() and not other.is_symlink() else root) / f"new{chance.random()}"
    what = chance.randrange(12)
    with suppress(OSError):  # a directory that is not empty, a name moved into itself
        if what == 0:
            one.write_bytes(os.urandom(chance.randrange(20000)))
        elif what == 1:
            with open(one, "ab") as file:
                file.write(b"more")
        elif what == 2:
            other.unlink()
        elif what == 3:
            other.rename(fresh)
        elif what == 4:
            os.link(one, fresh)
        elif what == 5:
            fresh.mkdir()
        elif what == 6:
            fresh.symlink_to(chance.choice(["x", "y" * 200]))
        elif what == 7:
            one.chmod(chance.choice([0o600, 0o755, 0o4755]))
        elif what == 8:
            os.setxattr(one, "user.x", os.urandom(chance.choice([10, 900])))
        elif what == 9:
            found = one.stat()
            one.write_bytes(os.urandom(found.st_size))
            os.utime(one, ns=(found.st_atime_ns, found.st_mtime_ns))
        elif what == 10:
            one.unlink()
            one.mkdir()
        else:
            one.replace(fresh)


@pytest.mark.parametrize("seed", [1, 3])
def test_same_as_the_comparison(bench: Bench, seed: int) -> None:
    """Random edits, a grandchild too, and a base that is no ancestor."""
    driver, chance = bench.driver, random.Random(seed)
    driver.create(1, None, None)
    with bench.mounted(1) as root:
        grow(root, 80)
    driver.seal(1)
    for id, parent in ((2, 1), (3, 2), (4, 1)):
        driver.create(id, parent, None)
        with bench.mounted(id) as root:
            for _ in range(1 + 4 * seed):
                edit(root, chance)
        if id != 4:
            driver.seal(id)
    for id, base in ((2, 1), (3, 2), (3, 1), (4, 1), (4, 2), (1, 3)):
        narrowed, whole, found = told(bench, id, base)
        assert narrowed == whole, (id, base)
        assert found is not None, (id, base)


def test_a_write_that_left_no_trace_in_its_inode(bench: Bench) -> None:
    """Written on the device itself, as if the clock had stood still: a block differs that no changed inode owns."""
    driver = bench.driver
    driver.create(1, None, None)
    with bench.mounted(1) as root:
        grow(root, 20)
        (root / "victim").write_bytes(b"A" * 8192)
    driver.seal(1)
    driver.create(2, 1, None)
    with bench.mounted(2) as root:
        (root / "other").write_bytes(b"other")
    with bench.active(2, read_only=False) as node, open(node, "r+b") as device:
        content = device.read(48 << 20)
        place = content.index(b"A" * 8192)
        device.seek(place)
        device.write(b"B")
        device.flush()
        os.fsync(device.fileno())
    narrowed, whole, found = told(bench, 2, 1)
    assert found is None
    assert narrowed == whole == [("added", "other"), ("modified", "victim")]


def test_time_of_the_change(bench: Bench) -> None:
    """One edit among many files is found without looking at the others."""
    driver = bench.driver
    driver.create(1, None, None)
    with bench.mounted(1) as root:
        grow(root, 1000)
    driver.seal(1)
    driver.create(2, 1, None)
    with bench.mounted(2) as root:
        (root / "d0/e0/f0").write_bytes(b"new")
    taken = []
    for changes_of in (driver.changes, lambda id, base: Driver.changes(driver, id, base)):
        begun = time.perf_counter()
        found = {change.path for change in changes_of(2, 1)}
        taken.append(time.perf_counter() - begun)
        assert found == {"d0", "d0/e0", "d0/e0/f0", "link0"}
    print(f"{taken[0] * 1e3:.0f} ms by the block map, {taken[1] * 1e3:.0f} ms by comparing")
    for one in (1, 2):
        driver.release(one)


def test_a_mounted_one_is_compared(bench: Bench) -> None:
    """What a mounted file system has in memory does not show on the device."""
    driver = bench.driver
    driver.create(1, None, None)
    driver.seal(1)
    driver.create(2, 1, None)
    with bench.mounted(2) as root:
        (root / "new").write_bytes(b"x")
        assert changes.differing(driver._pool, driver._thins, driver._ids, 2, 1) is None
        assert [change.path for change in driver.changes(2, 1)] == ["new"]
