"""Sizes by project quotas, on the file systems that have them."""

from __future__ import annotations

import errno
import io
import itertools
import os
import stat
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

import cowstore
from cowstore import _faults
from cowstore._linux import quota
from cowstore._linux.capabilities import Cap, capget, capset
from cowstore._linux.fd import open_
from cowstore.drivers import _limits
from cowstore.errors import CowstoreError, OutOfSpace, Unsupported
from cowstore.trees.usage import measure
from tests.root.drivers.ground import file_system_at, quotas_at, tmpfs_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cowstore.store import Store

MIB = 1 << 20


@pytest.fixture(params=["overlay-ext4", "overlay-xfs", "copy-xfs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A driver, and a file system on which it can limit sizes."""
    driver, kind = request.param.split("-")
    with quotas_at(tmp_path / "fs", kind) as path:
        yield driver, path


@pytest.fixture
def store(place: tuple[str, Path]) -> Iterator[Store]:
    driver, path = place
    with cowstore.open(path / "store", driver=driver) as made:
        yield made


def fill(path: Path, mebibytes: int) -> None:
    """Write, and make the kernel find the room."""
    with open(path, "wb", buffering=0) as file:
        for number in range(mebibytes):
            os.write(file.fileno(), bytes([number + 1]) * MIB)
        os.fsync(file.fileno())


def refused(path: Path, mebibytes: int) -> None:
    with pytest.raises(OSError) as caught:
        fill(path, mebibytes)
    # xfs says it of projects as of a disk that is full.
    assert caught.value.errno in {errno.EDQUOT, errno.ENOSPC}


def synced(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        from cowstore._linux.files import syncfs

        syncfs(fd)
    finally:
        os.close(fd)


def own(store: Store, key: str) -> str:
    """Name the directory of a snapshot's id."""
    return os.path.join(store.root, store.driver_name, str(store.stat(key).id))


def project_of(store: Store, key: str) -> int:
    fd = os.open(f"{own(store, key)}/quota", os.O_RDONLY)
    try:
        return quota.fsgetxattr(fd)[1]
    finally:
        os.close(fd)


def counted(place: Path, project: int) -> quota.Counted:
    fd = os.open(place, os.O_PATH)
    try:
        return quota.q_getquota(fd, project)
    finally:
        os.close(fd)


def measured(path: str) -> tuple[int, int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        return measure(fd)
    finally:
        os.close(fd)


def eventually(ask: Callable[[], object], expected: object) -> None:
    """Compare, again for some seconds: xfs takes files away after unlink(2) has returned, and counts them till then."""
    deadline = time.monotonic() + 10
    while (found := ask()) != expected and time.monotonic() < deadline:
        time.sleep(0.05)
    assert found == expected


def exact(store: Store, key: str) -> tuple[int, int]:
    """Compare what the quota counted with what is there; xfs gives room it reserved for a file's end back at a sync."""
    there = measured(f"{own(store, key)}/fs")
    eventually(lambda: (store.usage(key).size_bytes, store.usage(key).inodes), there)
    return there


def nothing_left_of(place: Path, project: int) -> None:
    def left() -> tuple[int, int, bool]:
        found = counted(place, project)
        return found.size_bytes, found.inodes, found.limited

    eventually(left, (0, 0, False))


def test_write_fails_at_the_limit_and_hurts_nobody(store: Store) -> None:
    """Half of it is written, all of it is not, and neighbours with and without a limit go on."""
    assert store.capabilities.size_limits
    store.prepare("small", size_bytes=16 * MIB)
    store.prepare("other", size_bytes=16 * MIB)
    store.prepare("free")
    with store.mounted("small") as small, store.mounted("other") as other, store.mounted("free") as free:
        fill(small / "half", 8)
        refused(small / "more", 32)
        assert (small / "half").stat().st_size == 8 * MIB
        fill(other / "half", 8)
        fill(free / "much", 64)
        (small / "more").unlink()
        fill(small / "again", 4)
        room = os.statvfs(small)
        if store.driver_name == "overlay":
            assert room.f_blocks * room.f_frsize == 16 * MIB, "df shows something else"
    assert store.check() == ()


def test_limit_is_raised_and_lowered_while_mounted(store: Store) -> None:
    store.prepare("active", size_bytes=8 * MIB)
    with store.mounted("active") as root:
        refused(root / "file", 16)
        store.set_size("active", 32 * MIB)
        fill(root / "file", 16)
        store.set_size("active", 4 * MIB)
        refused(root / "more", 8)
        assert (root / "file").read_bytes()[-1:] == b"\x10"
        (root / "file").unlink()
        (root / "more").unlink(missing_ok=True)
        fill(root / "little", 2)
        refused(root / "more", 8)


def test_usage_is_exact(store: Store) -> None:
    """What the quota counts is what the tree takes, to the block, whatever is beside the tree."""
    store.prepare("base")
    with store.mounted("base") as root:
        fill(root / "gone", 1)
        (root / "dir").mkdir()
        fill(root / "dir" / "changed", 1)
    store.commit("layer", "base")
    store.prepare("active", "layer", size_bytes=64 * MIB)
    empty = exact(store, "active")
    with store.mounted("active") as root:
        for number in range(300):
            (root / f"a-file-with-a-long-name-{number}").write_bytes(b"x" * number * 50)
        os.link(root / "a-file-with-a-long-name-299", root / "link")
        (root / "symlink").symlink_to("nowhere" * 20)
        os.mkfifo(root / "fifo")
        with open(root / "sparse", "wb") as file:
            file.truncate(1 << 30)
            file.seek(1 << 29)
            file.write(b"x" * MIB)
        (root / "gone").unlink()
        with open(root / "dir" / "changed", "ab") as file:
            file.write(b"more")
        synced(root)
    more = exact(store, "active")
    assert more > empty
    with store.mounted("active") as root:
        for name in os.listdir(root):
            if name.startswith("a-file"):
                os.unlink(root / name)
        synced(root)
    less = exact(store, "active")
    assert 0 <= less[0] < more[0]
    assert less[1] == more[1] - 299, "the last one has another name"
    store.commit("committed", "active")
    assert exact(store, "committed") == less


def test_limits_stay_over_a_restart(place: tuple[str, Path]) -> None:
    driver, path = place
    with cowstore.open(path / "store", driver=driver) as store:
        store.prepare("active", size_bytes=16 * MIB)
        with store.mounted("active") as root:
            fill(root / "half", 8)
        project = project_of(store, "active")
    with cowstore.open(path / "store") as store:
        assert project_of(store, "active") == project
        with store.mounted("active") as root:
            refused(root / "more", 16)
        store.set_size("active", 32 * MIB)
        with store.mounted("active") as root:
            fill(root / "more", 16)


def test_stores_on_one_file_system_do_not_collide(place: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Both try the same numbers in the same order, and find out from the file system which are taken."""
    driver, path = place
    numbers = [_limits.FIRST_PROJECT + number for number in range(10)]
    found = []
    with open_(str(path), os.O_PATH) as top, open_(str(path / "somebody's"), os.O_RDWR | os.O_CREAT, 0o600) as file:
        quota.q_setquota(top, numbers[0], MIB)  # somebody's, without a file yet
        quota.fssetxattr(file, numbers[1], inherit=False)
        for name in ("one", "two"):
            with cowstore.open(path / name, driver=driver) as store:
                assert store.capabilities.size_limits  # found out with a project of its own
                candidates = iter(numbers)
                monkeypatch.setattr(_limits, "_candidate", lambda candidates=candidates: next(candidates))
                for key in ("first", "second"):
                    store.prepare(key, size_bytes=8 * MIB)
                    found.append(project_of(store, key))
                    with store.mounted(key) as root:
                        refused(root / "much", 16)
                        (root / "much").unlink(missing_ok=True)
                        fill(root / "little", 2)
            monkeypatch.undo()
    assert found == numbers[2:6]
    assert counted(path, numbers[0]).limit_bytes == MIB


def test_two_that_choose_the_same_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both find that nobody uses it, and put their files in; whoever sees two there chooses again."""
    with quotas_at(tmp_path / "fs", "ext4") as path:
        local = threading.local()
        both = threading.Barrier(2, timeout=20)
        put = quota.fssetxattr

        def candidate() -> int:
            local.count = getattr(local, "count", -1) + 1
            # The first is the same for both; then each has its own.
            return _limits.FIRST_PROJECT + (local.count and local.count * 2 + local.number)

        def meet(fd: int, project: int, *, inherit: bool) -> None:
            if local.count == 0:
                both.wait()
            put(fd, project, inherit=inherit)
            if local.count == 0:
                both.wait()

        monkeypatch.setattr(_limits, "_candidate", candidate)
        monkeypatch.setattr(quota, "fssetxattr", meet)
        found: dict[int, int] = {}

        def work(number: int) -> None:
            local.number = number
            with open_(str(path / str(number)), os.O_RDWR | os.O_CREAT, 0o600) as file:
                found[number] = _limits._claim(file.fileno())

        threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(set(found.values())) == 2
        for project in found.values():
            assert counted(path, project).inodes == 1


def test_removal_gives_the_limit_back(store: Store, place: tuple[str, Path]) -> None:
    store.prepare("active", size_bytes=16 * MIB)
    project = project_of(store, "active")
    with store.mounted("active") as root:
        fill(root / "file", 4)
    before = counted(place[1], project)
    assert before.limit_bytes == 16 * MIB
    assert before.size_bytes >= 4 * MIB
    store.remove("active", wait=True)
    nothing_left_of(place[1], project)


def test_nothing_stays_of_a_snapshot_that_could_not_be_made(
    store: Store, place: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at any point: the next open takes the limit back with the rest."""
    driver, path = place
    # A trial of whether limits hold takes one too, and xfs gives it back a little later.
    first = _limits.FIRST_PROJECT + 100
    projects = range(first, first + 10)
    monkeypatch.setattr(_limits, "_candidate", itertools.count(first).__next__)
    points: list[str] = []
    monkeypatch.setattr(_faults, "hook", points.append)
    store.prepare("whole", size_bytes=16 * MIB)
    monkeypatch.setattr(_faults, "hook", None)
    store.remove("whole", wait=True)
    assert {"limits.marked", "limits.claimed", "limits.limited", "limits.handed_down"} <= set(points)
    for point in dict.fromkeys(points):
        for project in projects:
            nothing_left_of(path, project)
        pid = os.fork()
        if pid == 0:

            def die(name: str, point: str = point) -> None:
                if name == point:
                    os._exit(9)

            _faults.hook = die
            _limits._candidate = itertools.count(first).__next__
            with cowstore.open(path / "store") as mine:
                mine.prepare("killed", size_bytes=16 * MIB)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9, point
        with cowstore.open(path / "store") as again:
            for key in [found.key for found in again.walk()]:
                again.remove(key, wait=True)
            assert again.check() == (), point
        for project in projects:
            nothing_left_of(path, project)
    assert driver == store.driver_name


def test_parent_larger_than_the_limit(tmp_path: Path) -> None:
    """A copy that does not fit is refused, and leaves nothing."""
    with quotas_at(tmp_path / "fs", "xfs") as path, cowstore.open(path / "store", driver="copy") as store:
        store.prepare("base")
        with store.mounted("base") as root:
            fill(root / "file", 16)
        store.commit("layer", "base")
        with pytest.raises(OutOfSpace):
            store.prepare("small", "layer", size_bytes=4 * MIB)
        assert [found.key for found in store.walk()] == ["layer"]
        assert store.check() == ()
        store.prepare("large", "layer", size_bytes=32 * MIB)
        exact(store, "large")


def test_layer_larger_than_the_limit(store: Store) -> None:
    """A layer is not unpacked past the limit, by root neither."""
    store.prepare("source")
    with store.mounted("source") as root:
        fill(root / "file", 16)
    archive = io.BytesIO()
    store.export_layer("source", archive)
    archive.seek(0)
    store.prepare("small", size_bytes=4 * MIB)
    with pytest.raises(OutOfSpace):
        store.apply_layer("small", archive)


def test_size_given_later(store: Store) -> None:
    """What is there already is counted, what is made meanwhile too, and the limit holds."""
    store.prepare("active")
    with store.mounted("active") as root:
        (root / "a/b/c").mkdir(parents=True)
        fill(root / "a/b/file", 4)
        os.link(root / "a/b/file", root / "a/b/c/link")
        store.set_size("active", 16 * MIB)
        synced(root)
        assert exact(store, "active")[0] >= 4 * MIB
        refused(root / "a/b/c/more", 32)
        os.rename(root / "a/b/file", root / "moved")
        os.rename(root / "a/b", root / "b")
        (root / "b/c/more").unlink()
        fill(root / "b/c/little", 4)
        synced(root)
    exact(store, "active")
    store.set_size("active", 64 * MIB)
    with store.mounted("active") as root:
        fill(root / "more", 32)
    assert store.check() == ()


def test_size_given_too_late(store: Store) -> None:
    """Symbolic links and devices cannot be put into a project: nothing is changed then."""
    store.prepare("active")
    with store.mounted("active") as root:
        (root / "dir").mkdir()
        (root / "dir/link").symlink_to("nowhere")
    with pytest.raises(Unsupported, match=r"fs/dir/link: symbolic links.*give a size to prepare"):
        store.set_size("active", 16 * MIB)
    assert not os.path.exists(f"{own(store, 'active')}/quota")
    with store.mounted("active") as root:
        fill(root / "much", 32)
        os.rename(root / "dir/link", root / "link")


def test_whiteouts_and_copies_stay_in_the_project(tmp_path: Path) -> None:
    """What overlay makes in its scratch directory can be moved to the layer, and is counted."""
    with quotas_at(tmp_path / "fs", "ext4") as path, cowstore.open(path / "store", driver="overlay") as store:
        store.prepare("base")
        with store.mounted("base") as root:
            for number in range(5):
                (root / f"dir-{number}").mkdir()
                fill(root / f"dir-{number}" / "file", 1)
        store.commit("layer", "base")
        store.prepare("active", "layer", size_bytes=16 * MIB)
        with store.mounted("active") as root:
            (root / "dir-0/file").unlink()
            (root / "dir-0").rmdir()
            (root / "dir-0").mkdir()
            (root / "dir-1/file").unlink()
            (root / "dir-1/file").write_text("again")
            with open(root / "dir-2/file", "ab") as file:
                file.write(b"x")
            os.chmod(root / "dir-3/file", 0o600)
            os.rename(root / "dir-4/file", root / "dir-0/file")
            synced(root)
        exact(store, "active")
        layer = f"{own(store, 'active')}/fs"
        assert stat.S_ISCHR(os.lstat(f"{layer}/dir-4/file").st_mode)


def test_store_in_somebodys_project(place: tuple[str, Path]) -> None:
    """A directory that hands its project down: snapshots of limited size have their own, and his limit stays."""
    driver, path = place
    (path / "his").mkdir()
    with open_(str(path / "his"), os.O_RDONLY) as his:
        quota.fssetxattr(his, 42, inherit=True)
        quota.q_setquota(his, 42, 256 * MIB)
        with cowstore.open(path / "his/store", driver=driver) as store:
            store.prepare("free")
            store.prepare("small", size_bytes=8 * MIB)
            with store.mounted("small") as root, store.mounted("free") as free:
                fill(free / "file", 16)
                refused(root / "file", 16)
                (root / "file").unlink(missing_ok=True)
                (root / "file").write_text("x")
                synced(root)
            exact(store, "small")
            store.remove("small", wait=True)
            assert quota.q_getquota(his, 42).limit_bytes == 256 * MIB
            assert quota.q_getquota(his, 42).size_bytes >= 16 * MIB
            store.destroy()


def test_call_by_device(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As before Linux 5.14."""
    from cowstore._linux._call import bind_syscall

    monkeypatch.setattr(quota, "_quotactl_fd", bind_syscall("no_such_call"))
    assert store.capabilities.size_limits
    store.prepare("small", size_bytes=8 * MIB)
    with store.mounted("small") as root:
        refused(root / "file", 16)


# Where there are none.


@pytest.mark.parametrize("driver", ["overlay", "copy"])
@pytest.mark.parametrize("kind", ["tmpfs", "ext4", "xfs"])
def test_no_quota_no_size(tmp_path: Path, driver: str, kind: str) -> None:
    """Refused with the way out before anything is made, although ext4 would take the number."""
    with (
        tmpfs_at(tmp_path / "fs") if kind == "tmpfs" else file_system_at(tmp_path / "fs", kind, "-q") as path,
        cowstore.open(path / "store", driver=driver) as store,
    ):
        assert not store.capabilities.size_limits
        before = os.listdir(path / "store" / driver)
        with pytest.raises(Unsupported, match=r"tune2fs .*prjquota.*backing=image"):
            store.prepare("small", size_bytes=8 * MIB)
        assert list(store.walk()) == []
        store.prepare("active")
        with pytest.raises(Unsupported, match="prjquota"):
            store.set_size("active", 8 * MIB)
        store.remove("active", wait=True)
        assert os.listdir(path / "store" / driver) == before


@contextmanager
def without(cap: Cap) -> Iterator[None]:
    """Do without a capability in the length of the block."""
    effective, permitted, inheritable = capget()
    capset(effective & ~(1 << cap), permitted, inheritable)
    try:
        yield
    finally:
        capset(effective, permitted, inheritable)


def test_ext4_lets_root_write_past_it(tmp_path: Path) -> None:
    """A limit that would not hold is none: copy refuses it, with nothing between program and file system."""
    with quotas_at(tmp_path / "fs", "ext4") as path:
        if not capget()[0] >> Cap.SYS_RESOURCE & 1:
            pytest.skip("elsewhere: this root has no CAP_SYS_RESOURCE; the kernel tier's has: `tox -e kernel`")
        with cowstore.open(path / "store", driver="copy") as store:
            assert not store.capabilities.size_limits
            with pytest.raises(Unsupported, match="CAP_SYS_RESOURCE"):
                store.prepare("small", size_bytes=8 * MIB)
            assert list(store.walk()) == []
            assert store.check() == ()
        with without(Cap.SYS_RESOURCE), cowstore.open(path / "store") as store:
            assert store.capabilities.size_limits
            store.prepare("small", size_bytes=8 * MIB)
            with store.mounted("small") as root:
                refused(root / "file", 16)
            assert store.check() == ()


def test_quotas_turned_off_since(tmp_path: Path) -> None:
    """Snapshots that had a limit are used, measured and removed all the same."""
    from cowstore._linux import loop
    from cowstore._linux.mount import MountFlag, mount, umount2

    with quotas_at(tmp_path / "fs", "xfs") as path, cowstore.open(path / "store", driver="overlay") as store:
        store.prepare("small", size_bytes=8 * MIB)
        with store.mounted("small") as root:
            (root / "file").write_text("x")
        store.close()
        umount2(str(path))
        with open_(str(path.with_suffix(".img")), os.O_RDWR) as file, loop.attach(file) as device:
            deadline = time.monotonic() + 20
            while True:
                try:
                    mount(device.node, str(path), "xfs", MountFlag.NONE, None)
                    break
                except OSError as error:
                    # To XFS these are two file systems of one UUID, until the kernel has let go of the first.
                    if error.errno != errno.EINVAL or time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)
            with cowstore.open(path / "store") as again:
                assert not again.capabilities.size_limits
                assert again.usage("small").inodes == 2
                with pytest.raises(Unsupported):
                    again.set_size("small", 16 * MIB)
                with again.mounted("small") as root:
                    fill(root / "much", 16)
                again.remove("small", wait=True)
                assert again.check() == ()
            umount2(str(path))
            mount(device.node, str(path), "xfs", MountFlag.NONE, "prjquota")


def test_capabilities_are_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody pays for size_limits before asking, and it is a capability like the others for whoever looks."""
    import copy
    import dataclasses
    import pickle

    asked = itertools.count()
    with tmpfs_at(tmp_path / "fs") as path, cowstore.open(path / "store", driver="overlay") as store:
        driver = store._core.driver
        monkeypatch.setattr(type(driver), "why_no_sizes", lambda _self: next(asked) and None)
        store.prepare("one")
        with store.mounted("one"):
            pass
        assert next(asked) == 0
        found = store.capabilities
        assert dataclasses.asdict(found)["size_limits"] is True
        assert dataclasses.replace(found, size_limits=False).size_limits is False
        assert pickle.loads(pickle.dumps(found)).size_limits is True
        assert copy.copy(found).adopts
        assert found == store.status().capabilities
        assert next(asked) == 2
        assert "size_limits=True" in repr(found)
        with pytest.raises(dataclasses.FrozenInstanceError):
            found.adopts = False  # type: ignore[misc]
    with pytest.raises(CowstoreError, match="closed"):
        _ = store.capabilities
