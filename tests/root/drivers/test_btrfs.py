"""The Btrfs driver on a directory of a Btrfs and in a loop file of its own."""

from __future__ import annotations

import errno
import io
import os
import re
import subprocess
import tarfile
import threading
from typing import TYPE_CHECKING

import pytest

import cowstore
from cowstore import _faults, _programs, mounting
from cowstore._linux import btrfs, loop, mount
from cowstore._linux.fd import open_
from cowstore.drivers.btrfs import Btrfs, questions
from cowstore.errors import DriverUnavailable, OutOfSpace, StoreMismatch
from cowstore.results import FindingKind
from tests.root.btrfs_ground import btrfs_at, directory
from tests.root.drivers.btrfs_fixtures import driver, elsewhere, make, on_btrfs, tree
from tests.tiers import need_program

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["driver", "elsewhere", "on_btrfs"]


def home(driver: Btrfs) -> int:
    return driver._home


def read(path: str) -> str:
    with open(path) as file:
        return file.read()


def fill(path: str, size_bytes: int) -> None:
    with open(path, "wb") as file:
        file.write(os.urandom(size_bytes))


def test_a_child_has_its_parents_files_and_its_own(driver: Btrfs) -> None:
    make(driver, 1, None, {"a": b"1", "d/b": b"2"})
    driver.create(2, 1, None)
    with tree(driver, 2) as root:
        assert read(f"{root}/d/b") == "2"
        os.unlink(f"{root}/a")
    with tree(driver, 1, read_only=True) as root:
        assert sorted(os.listdir(root)) == ["a", "d"]
        with pytest.raises(OSError) as caught:
            os.open(f"{root}/new", os.O_CREAT | os.O_WRONLY)
        assert caught.value.errno == errno.EROFS
    assert sorted(driver.held()) == [1, 2]
    assert driver.holds(2)
    assert not driver.holds(3)


def test_every_verb_can_be_repeated(driver: Btrfs) -> None:
    for _ in range(2):
        driver.create(1, None, None)
    for _ in range(2):
        driver.seal(1)
    for _ in range(2):
        driver.create(2, 1, None)
    for id in (2, 2, 1, 1, 77):
        driver.remove(id)
        driver.release(id)
    assert driver.held() == []


def test_the_umask_has_no_say_in_the_roots_mode(driver: Btrfs) -> None:
    before = os.umask(0o077)
    try:
        driver.create(1, None, None)
    finally:
        os.umask(before)
    with tree(driver, 1) as root:
        found = os.stat(root)
    assert (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (0o755, 0, 0)


def test_a_mount_shows_one_subvolume_and_nothing_else(driver: Btrfs) -> None:
    make(driver, 1, None, {"a": b"1"})
    make(driver, 2, None, {"b": b"2"})
    with tree(driver, 1, read_only=True) as root:
        assert os.listdir(root) == ["a"]
        assert os.listdir(f"{root}/..") == ["a"]


# Nested subvolumes.


def nest(root: str) -> None:
    """Make s1 and s1/deep/s2 in a tree, with files in them."""
    with directory(root) as fd:
        btrfs.subvol_create(fd, "s1")
    os.mkdir(f"{root}/s1/deep")
    with directory(f"{root}/s1/deep") as fd:
        btrfs.subvol_create(fd, "s2")
    for place in ("s1", "s1/deep/s2"):
        with open(f"{root}/{place}/f", "w") as file:
            file.write(place)


def test_a_subvolume_made_inside_does_not_stand_in_the_way_of_removal(driver: Btrfs) -> None:
    """BT-01: all gone, the deepest first, read-only ones too."""
    driver.create(1, None, None)
    with tree(driver, 1) as root:
        nest(root)
        for place in ("s1/deep/s2", "s1"):
            with directory(f"{root}/{place}") as fd:
                btrfs.subvol_setflags(fd, btrfs.SubvolFlag.RDONLY)
    driver.remove(1)
    driver.drain()
    assert driver.held() == []
    assert btrfs.dead_roots(home(driver)) == []
    left = [ref.name for ref in btrfs.root_refs(home(driver), btrfs.ino_lookup(home(driver))[0])]
    assert left == []


def test_what_is_mounted_in_a_snapshot_is_not_removed_with_it(driver: Btrfs, tmp_path: Path) -> None:
    """BT-01: must not cross into another volume that is mounted there."""
    other, at = tmp_path / "other", tmp_path / "at"
    other.mkdir()
    at.mkdir()
    (other / "kept").write_text("x")
    driver.create(1, None, None)
    mounting.attach(driver.mounts(1, False), str(at))
    try:
        (at / "mnt").mkdir()
        nest(str(at))
        subprocess.run(["mount", "--bind", str(other), str(at / "mnt")], check=True)
        try:
            driver.remove(1)
            assert (other / "kept").read_text() == "x"
        finally:
            subprocess.run(["umount", "-l", str(at)], check=False)
    finally:
        mounting.detach(str(at))
    assert driver.held() == []


def test_a_subvolume_made_inside_is_a_directory_after_the_seal(driver: Btrfs) -> None:
    driver.create(1, None, None)
    with tree(driver, 1) as root:
        nest(root)
        os.chmod(f"{root}/s1", 0o711)
        with open(f"{root}/s1/sparse", "wb") as file:
            file.truncate(2 << 30)
        with directory(f"{root}/s1/deep/s2") as fd:
            btrfs.subvol_setflags(fd, btrfs.SubvolFlag.RDONLY)
        os.utime(f"{root}/s1", ns=(5, 7))
        before = os.stat(root).st_mtime_ns
    driver.seal(1)
    driver.create(2, 1, None)
    for id in (1, 2):
        with tree(driver, id, read_only=id == 1) as root:
            assert read(f"{root}/s1/f") == "s1"
            assert read(f"{root}/s1/deep/s2/f") == "s1/deep/s2"
            assert os.listdir(root) == ["s1"]
            found = os.stat(f"{root}/s1")
            assert found.st_ino != btrfs.FIRST_FREE_OBJECTID
            assert (found.st_mode & 0o777, found.st_mtime_ns) == (0o711, 7)
            assert os.stat(f"{root}/s1/sparse").st_blocks == 0
            assert os.stat(root).st_mtime_ns == before
            assert questions.nested_by_search(home(driver), 5) is not None
    with directory(f"/proc/self/fd/{home(driver)}/1") as fd:
        assert questions.nested(fd) == []
    driver.remove(2)
    driver.remove(1)
    driver.drain()
    assert btrfs.dead_roots(home(driver)) == []


class _Killed(BaseException):
    pass


@pytest.mark.parametrize(
    "at", ["btrfs.flatten.copied", "btrfs.flatten.exchanged", "btrfs.seal.flattened", "btrfs.seal.synced"]
)
def test_a_seal_that_was_killed_is_finished_by_the_next(
    driver: Btrfs, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.create(1, None, None)
    with tree(driver, 1) as root:
        nest(root)

    def kill(point: str) -> None:
        if point == at:
            raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(_faults, "hook", kill)
        with pytest.raises(_Killed):
            driver.seal(1)
    driver.seal(1)
    with tree(driver, 1, read_only=True) as root:
        assert os.listdir(root) == ["s1"]
        assert sorted(os.listdir(f"{root}/s1")) == ["deep", "f"]
        assert read(f"{root}/s1/deep/s2/f") == "s1/deep/s2"
    with directory(f"/proc/self/fd/{home(driver)}/1") as fd:
        assert questions.nested(fd) == []


def test_a_seal_without_room_leaves_the_snapshot_as_it_was(driver: Btrfs, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.create(1, None, None)
    with tree(driver, 1) as root:
        nest(root)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("cowstore.trees.copy.copy_tree", full)
        with pytest.raises(OutOfSpace):
            driver.seal(1)
    with tree(driver, 1) as root:
        assert os.listdir(root) == ["s1"]
        assert sorted(os.listdir(f"{root}/s1")) == ["deep", "f"]
        assert os.listdir(f"{root}/s1/deep") == ["s2"]
    driver.seal(1)


def deepen(root: str, depth: int) -> int:
    """Make directories in one another, so many that no path reaches the last; return its descriptor."""
    fd = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("n" * 250, dir_fd=fd)
        deeper = os.open("n" * 250, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    return fd


@pytest.mark.parametrize("way", ["seal", "remove"])
def test_a_subvolume_deeper_than_a_path_may_be_long(driver: Btrfs, way: str) -> None:
    """BT-01: where neither the kernel nor btrfsutil can name its path, it is found and does not stand in the way."""
    driver.create(1, None, None)
    with tree(driver, 1) as root:
        fd = deepen(root, 20)
        btrfs.subvol_create(fd, "s")
        with open_("s/f", os.O_CREAT | os.O_WRONLY, dir_fd=fd) as file:
            os.write(file.fileno(), b"kept")
        os.close(fd)
    if way == "seal":
        driver.seal(1)
        with tree(driver, 1, read_only=True) as root:
            fd = os.open(root, os.O_RDONLY)
            for name in ["n" * 250] * 20 + ["s"]:
                deeper = os.open(name, os.O_RDONLY, dir_fd=fd)
                os.close(fd)
                fd = deeper
            assert os.fstat(fd).st_ino != btrfs.FIRST_FREE_OBJECTID
            with open_("f", os.O_RDONLY, dir_fd=fd) as file:
                assert os.read(file.fileno(), 10) == b"kept"
            os.close(fd)
    driver.remove(1)
    driver.drain()
    assert driver.held() == []
    assert btrfs.dead_roots(home(driver)) == []


def test_nothing_can_be_written_in_a_view(driver: Btrfs) -> None:
    """BT-15: neither to the tree nor to what was a subvolume in it."""
    driver.create(1, None, None)
    with tree(driver, 1) as root:
        nest(root)
    driver.seal(1)
    with tree(driver, 1, read_only=True) as root:
        for place in (".", "s1", "s1/deep/s2"):
            with pytest.raises(OSError) as caught:
                os.open(f"{root}/{place}/new", os.O_CREAT | os.O_WRONLY)
            assert caught.value.errno == errno.EROFS
            with directory(f"{root}/{place}") as fd, pytest.raises(OSError) as caught:
                btrfs.subvol_create(fd, "new")
            assert caught.value.errno == errno.EROFS


def test_a_snapshot_never_lies_in_its_source(driver: Btrfs) -> None:
    """BT-15: a snapshot's place is always beside its source, in the home."""
    make(driver, 1, None, {"a": b""})
    driver.create(2, 1, None)
    assert [ref.name for ref in btrfs.root_refs(home(driver), btrfs.ino_lookup(home(driver))[0])] == [b"1", b"2"]
    with tree(driver, 2) as root:
        assert os.listdir(root) == ["a"]


def test_links_in_two_subvolumes_are_not_mixed_up(driver: Btrfs) -> None:
    """BT-09: the same inode numbers on both sides of a border."""
    driver.create(1, None, None)
    with tree(driver, 1) as root:
        with directory(root) as fd:
            btrfs.subvol_create(fd, "other")
        for place in (".", "other"):
            with open(f"{root}/{place}/x", "w") as file:
                file.write(place)
            os.link(f"{root}/{place}/x", f"{root}/{place}/y")
        assert os.stat(f"{root}/x").st_ino - os.stat(f"{root}/other/x").st_ino in {0, 1}
    usage = driver.usage(1)
    # The root, the other root, and one file in each.
    assert usage.inodes == 4
    driver.seal(1)
    with tree(driver, 1, read_only=True) as root:
        for place in (".", "other"):
            assert read(f"{root}/{place}/y") == place
            assert os.stat(f"{root}/{place}/x").st_ino == os.stat(f"{root}/{place}/y").st_ino
            assert os.stat(f"{root}/{place}/x").st_nlink == 2
        assert os.stat(f"{root}/x").st_ino != os.stat(f"{root}/other/x").st_ino


# Grounds, and machines that lack something.


def test_a_store_that_must_not_use_a_loop_file_says_where_it_is(elsewhere: Path) -> None:
    """BT-08."""
    with pytest.raises(DriverUnavailable, match=re.escape(f"{elsewhere} is on ")) as caught:
        Btrfs.probe(str(elsewhere), Btrfs.Options(loop=False))
    assert "not on Btrfs" in caught.value.missing[0]
    assert os.listdir(elsewhere) == []


@pytest.mark.parametrize("ground", ["on_btrfs", "elsewhere"])
def test_a_probe_leaves_nothing_behind(ground: str, request: pytest.FixtureRequest) -> None:
    where: Path = request.getfixturevalue(ground)
    Btrfs.probe(str(where), Btrfs.Options())
    assert os.listdir(where) == []


def test_missing_mkfs_is_named(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cowstore._programs.find", lambda program: None)
    with pytest.raises(DriverUnavailable, match=r"mkfs\.btrfs.*btrfs-progs"):
        Btrfs.probe(str(elsewhere), Btrfs.Options())


def test_missing_loop_devices_are_named(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr("cowstore._linux.loop.open_control", none)
    with pytest.raises(DriverUnavailable, match="no loop devices"):
        Btrfs.probe(str(elsewhere), Btrfs.Options())


def test_a_read_only_file_system_is_named(tmp_path: Path) -> None:
    with btrfs_at(tmp_path) as point:
        (point / "store").mkdir()
        subprocess.run(["mount", "-o", "remount,ro", str(point)], check=True)
        with pytest.raises(DriverUnavailable, match="read-only"):
            Btrfs.probe(str(point / "store"), Btrfs.Options())


def test_a_file_system_that_turns_read_only_is_named(tmp_path: Path) -> None:
    with btrfs_at(tmp_path) as point:
        (point / "store").mkdir()
        made = Btrfs(str(point / "store"), Btrfs.Options())
        subprocess.run(["mount", "-o", "remount,ro", str(point)], check=True)
        with pytest.raises(DriverUnavailable, match="read-only"):
            made.create(1, None, None)
        made.close()


def test_a_degraded_file_system_is_like_any_other(tmp_path: Path) -> None:
    """Half of a mirror is missing: what the administrator could mount, a store can be in."""
    images = [tmp_path / "one.img", tmp_path / "two.img"]
    for image in images:
        with open(image, "wb") as new:
            new.truncate(300 << 20)
    _programs.run("mkfs.btrfs", ["--quiet", "-d", "raid1", "-m", "raid1", *map(str, images)])
    point = tmp_path / "fs"
    point.mkdir()
    with open_(str(images[0]), os.O_RDWR) as file, loop.attach(file) as device:
        mount.mount(device.node, str(point), "btrfs", mount.MountFlag.NONE, "degraded")
        try:
            (point / "store").mkdir()
            Btrfs.probe(str(point / "store"), Btrfs.Options())
            made = Btrfs(str(point / "store"), Btrfs.Options())
            make(made, 1, None, {"a": b"written"})
            made.create(2, 1, None)
            with tree(made, 2) as root:
                assert read(f"{root}/a") == "written"
                fill(f"{root}/b", 1 << 20)
            assert [change.path for change in made.changes(2, 1)] == ["b"]
            for id in (2, 1):
                made.remove(id)
            made.drain()
            made.destroy()
        finally:
            mount.umount2(str(point))


def test_full_data_and_full_metadata_are_told_apart(tmp_path: Path) -> None:
    with btrfs_at(tmp_path, 300 << 20) as point:
        (point / "store").mkdir()
        made = Btrfs(str(point / "store"), Btrfs.Options())
        make(made, 1, None, {"a": b""})
        with pytest.raises(OSError) as caught:
            fill(str(point / "fill"), 300 << 20)
        assert caught.value.errno == errno.ENOSPC
        error = made_error(made, caught.value)
        assert error.what == "data"
        assert error.total > 0
        os.unlink(point / "fill")
        made.remove(1)
        made.destroy()


def made_error(driver: Btrfs, cause: Exception) -> OutOfSpace:
    """Return what the driver makes of an error."""
    with pytest.raises(OutOfSpace) as caught, driver._doing("do something"):
        raise cause
    return caught.value


def test_full_metadata_is_told_from_full_data(elsewhere: Path) -> None:
    """A pool of 256 MiB, whose data room is taken by one file and whose metadata room by small ones, kept inline."""
    made = Btrfs(str(elsewhere), Btrfs.Options(pool_size_bytes=256 << 20, pool_limit_bytes=256 << 20))
    make(made, 1, None, {"a": b"x"})
    made.create(2, 1, None)
    with tree(made, 2) as root, directory(root) as fd:
        with open_("large", os.O_WRONLY | os.O_CREAT, dir_fd=fd) as file:
            data = until_full(lambda number: os.posix_fallocate(file.fileno(), number << 20, 1 << 20))
        assert made_error(made, data).what == "data"
        for number in range(1300):
            # Most of the way in large steps: an attribute of this size fills a leaf.
            with open_(f"x{number}", os.O_WRONLY | os.O_CREAT, dir_fd=fd) as file:
                os.setxattr(file.fileno(), "user.x", bytes(15_000))

        def small(number: int) -> None:
            with open_(f"i{number}", os.O_WRONLY | os.O_CREAT, dir_fd=fd) as file:
                os.write(file.fileno(), bytes(2000))

        assert made_error(made, until_full(small)).what == "metadata"
    # A verb is refused by the kernel in the end, and names the room.
    refused = until_full(lambda number: made.create(10 + number, None, None))
    assert isinstance(refused, OutOfSpace)
    assert "the metadata room of the Btrfs is full" in str(refused)
    assert isinstance(refused.__cause__, OSError)
    assert refused.__cause__.errno == errno.ENOSPC
    assert refused.what == "metadata"
    assert 0 < refused.used < refused.total
    # Removal works in the full pool, and gives the room back.
    for id in sorted(made.held(), reverse=True):
        made.remove(id)
    made.drain()
    made.create(3, None, None)
    made.remove(3)
    made.destroy()


def until_full(do: Callable[[int], None]) -> OSError | OutOfSpace:
    """Do something again and again until it is refused for want of room; return the error."""
    for number in range(100_000):
        try:
            do(number)
        except OutOfSpace as error:
            return error
        except OSError as error:
            assert error.errno == errno.ENOSPC
            return error
    raise AssertionError("nothing is ever full")


def test_full_metadata_is_named(driver: Btrfs, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = btrfs.BlockGroupFlag
    monkeypatch.setattr(
        btrfs,
        "space_info",
        lambda fd: [
            btrfs.SpaceInfo(kinds.DATA, 100 << 20, 1 << 20),
            btrfs.SpaceInfo(kinds.METADATA, 50 << 20, 49 << 20),
        ],
    )
    device = btrfs.dev_info(home(driver), 1)
    device.bytes_used = device.total_bytes
    monkeypatch.setattr(btrfs, "dev_info", lambda fd, number: device)
    error = made_error(driver, OSError(errno.ENOSPC, "No space left on device"))
    assert (error.what, error.used, error.total) == ("metadata", 49 << 20, 50 << 20)


def test_a_reached_limit_is_named(driver: Btrfs) -> None:
    assert made_error(driver, OSError(errno.EDQUOT, "Disk quota exceeded")).what == "quota"


def layer_of(size: int) -> io.BytesIO:
    """A layer of one file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        member = tarfile.TarInfo("large")
        member.size = size
        file.addfile(member, io.BytesIO(os.urandom(size)))
    out.seek(0)
    return out


def test_what_is_full_below_a_layer_is_told_apart(tmp_path: Path) -> None:
    """A verb that writes through the mount tells the snapshot's limit from the room of the whole Btrfs."""
    options = {"loop": True, "pool_size_bytes": 300 << 20, "pool_limit_bytes": 300 << 20}
    with cowstore.open(tmp_path / "store", driver="btrfs", options=options) as store:
        store.prepare("limited", size_bytes=8 << 20)
        with pytest.raises(OutOfSpace, match="quota group") as caught:
            store.apply_layer("limited", layer_of(32 << 20))
        assert (caught.value.what, caught.value.total) == ("quota", 8 << 20)
        with pytest.raises(OutOfSpace, match="data room of the Btrfs") as caught:
            store.import_tar(layer_of(320 << 20), name="large")
        assert caught.value.what == "data"
        assert not list(store.walk())
        store.destroy()


def test_a_store_copied_file_by_file_is_refused(on_btrfs: Path, tmp_path: Path) -> None:
    made = Btrfs(str(on_btrfs), Btrfs.Options())
    make(made, 1, None, {"a": b""})
    copy = on_btrfs.parent / "copy"
    subprocess.run(["cp", "-a", str(on_btrfs), str(copy)], check=True)
    with pytest.raises(StoreMismatch, match="no Btrfs subvolume"):
        Btrfs(str(copy), Btrfs.Options())
    made.remove(1)
    made.destroy()


def test_destroy_takes_its_own_and_nothing_else(on_btrfs: Path) -> None:
    """BT-12: a store with five layers, and somebody else's subvolume beside it."""
    with directory(on_btrfs.parent) as fd:
        btrfs.subvol_create(fd, "theirs")
    (on_btrfs.parent / "theirs" / "f").write_text("x")
    made = Btrfs(str(on_btrfs), Btrfs.Options())
    for id in range(1, 6):
        make(made, id, id - 1 or None, {f"f{id}": b"x"})
    for id in reversed(range(1, 6)):
        made.remove(id)
    made.destroy()
    assert os.listdir(on_btrfs) == []
    assert (on_btrfs.parent / "theirs" / "f").read_text() == "x"
    with directory(on_btrfs.parent) as fd:
        assert [ref.name for ref in btrfs.root_refs(fd, 5)] == [b"theirs"]


def test_the_home_is_left_out_of_the_administrators_snapshots(on_btrfs: Path) -> None:
    made = Btrfs(str(on_btrfs), Btrfs.Options())
    make(made, 1, None, {"a": b""})
    with directory(on_btrfs.parent) as fd:
        btrfs.snap_create(fd, "backup", fd)
    assert os.listdir(on_btrfs.parent / "backup" / "store" / "volumes") == []
    made.remove(1)
    made.destroy()


def test_a_received_subvolume_inside_is_no_obstacle(driver: Btrfs, tmp_path: Path) -> None:
    """BT-13 is about transferring snapshots by send and receive, which this driver does not do; one that a program
    received inside a snapshot is a read-only subvolume like any other.
    """
    need_program("btrfs")
    at = tmp_path / "at"
    at.mkdir()
    driver.create(1, None, None)
    mounting.attach(driver.mounts(1, False), str(at))
    try:
        with directory(at) as fd:
            btrfs.subvol_create(fd, "sent")
        (at / "sent" / "f").touch()
        os.setxattr(at / "sent" / "f", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
        with directory(at / "sent") as fd:
            btrfs.subvol_setflags(fd, btrfs.SubvolFlag.RDONLY)
        (at / "in").mkdir()
        script = 'btrfs send -q "$1/sent" | btrfs receive -q "$1/in"'
        subprocess.run(["sh", "-c", script, "sh", str(at)], check=True, timeout=60)
        assert (at / "in" / "sent").stat().st_ino == btrfs.FIRST_FREE_OBJECTID
    finally:
        mounting.detach(str(at))
    driver.seal(1)
    with tree(driver, 1, read_only=True) as root:
        for place in ("sent", "in/sent"):
            assert os.listdir(f"{root}/{place}") == ["f"]
            assert os.getxattr(f"{root}/{place}/f", "security.capability")


def test_check_finds_a_wrong_parent_and_a_missing_seal(driver: Btrfs) -> None:
    make(driver, 1, None, {})
    make(driver, 2, None, {})
    driver.create(3, 1, None)
    assert list(driver.examine(1, None, True)) == []
    assert list(driver.examine(3, 1, False)) == []
    assert [found.kind for found in driver.examine(3, 2, False)] == [FindingKind.WRONG_PARENT]
    (found,) = driver.examine(3, 1, True)
    assert (found.kind, found.repair) == (FindingKind.NOT_SEALED, True)
    assert driver.repair(3, 1, True, found.kind)
    assert list(driver.examine(3, 1, True)) == []


def test_many_threads_make_and_remove_at_once(driver: Btrfs) -> None:
    make(driver, 1, None, {"a": b"x"})
    failures: list[BaseException] = []

    def work(first: int) -> None:
        try:
            for id in range(first, first + 5):
                driver.create(id, 1, None)
                driver.remove(id)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(100 * number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert driver.held() == [1]


def test_status_says_where_it_stands(driver: Btrfs) -> None:
    found = driver.status()
    assert 0 < found.free_bytes <= found.total_bytes
    assert "loop file" in found.details["ground"] or "the Btrfs that holds" in found.details["ground"]
    assert found.details["usage_method"]
