"""The overlay driver: ids, roots, mounts, adopted directories, what can be wrong."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cowstore import _faults, mounting
from cowstore.driver import NoOptions
from cowstore.drivers.overlay import Overlay
from cowstore.errors import CowstoreError, DriverUnavailable, InvalidArgument, OutOfSpace, StoreCorrupt, Unsupported
from cowstore.model import MountFlag
from cowstore.results import FindingKind
from tests.root.drivers.ground import file_system_at, mounted, needs_user_attributes, tmpfs_at, told

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Path]:
    with tmpfs_at(tmp_path / "ground") as path:
        yield path


@pytest.fixture
def driver(ground: Path) -> Iterator[Overlay]:
    (ground / "overlay").mkdir()
    driver = Overlay(str(ground / "overlay"), NoOptions())
    yield driver
    driver.close()


def grow(driver: Overlay, point: Path, id: int, parent: int | None, *files: str) -> None:
    driver.create(id, parent, None)
    with mounted(driver, id, point) as root:
        for name in files:
            Path(root, name).write_text(name)
    driver.seal(id)


# Ids.


def test_every_verb_can_be_repeated(driver: Overlay, ground: Path) -> None:
    for _ in range(2):
        driver.create(1, None, None)
        driver.seal(1)
    with mounted(driver, 1, ground / "m") as root:
        Path(root, "kept").touch()
    driver.create(1, None, None)
    assert os.listdir(ground / "overlay/1/fs") == ["kept"]
    for _ in range(2):
        driver.remove(1)
        driver.release(1)
    assert list(driver.held()) == []
    assert sorted(os.listdir(ground / "overlay")) == ["empty"]


@pytest.mark.parametrize("verb", ["create", "remove", "adopt"])
def test_killed_between_any_two_steps(
    driver: Overlay, ground: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """Whatever is left is held or nothing, and can be done again or removed."""
    grow(driver, ground / "m", 1, None, "a")

    class KilledError(BaseException):
        pass

    points: list[str] = []

    def do() -> None:
        if verb == "adopt":
            driver.adopt(2, "/usr")
        else:
            driver.create(2, 1, None)
            if verb == "remove":
                driver.remove(2)

    monkeypatch.setattr(_faults, "hook", points.append)
    do()
    assert len(points) >= 4
    for number in range(len(points)):
        driver.remove(2)
        seen: list[str] = []

        def kill(name: str, seen: list[str] = seen, number: int = number) -> None:
            seen.append(name)
            if len(seen) > number:
                raise KilledError

        monkeypatch.setattr(_faults, "hook", kill)
        with pytest.raises(KilledError):
            do()
        monkeypatch.setattr(_faults, "hook", None)
        assert set(driver.held()) - {1, 2} == set()
        if verb != "remove":
            do()
            assert driver.holds(2)
            assert not (ground / "overlay/new-2").exists()
        driver.remove(2)
        assert list(driver.held()) == [1]
        assert list(driver.leftovers()) == []


def test_a_size_is_refused_and_nothing_made(driver: Overlay) -> None:
    with pytest.raises(Unsupported) as caught:
        driver.create(1, None, 1 << 20)
    assert caught.value.feature == "size_limits"
    assert list(driver.held()) == []


def test_no_room(tmp_path: Path) -> None:
    with tmpfs_at(tmp_path / "small", "nr_inodes=12") as path:
        driver = Overlay(str(path), NoOptions())
        driver.create(1, None, None)
        driver.create(2, 1, None)
        with pytest.raises(OutOfSpace) as caught:
            driver.create(3, 1, None)
        assert isinstance(caught.value.__cause__, OSError)
        assert not [name for name in os.listdir(path) if name.startswith("new-")]
        driver.close()


def test_a_work_directory_without_rights(driver: Overlay, ground: Path) -> None:
    """OV-27: the kernel makes it so."""
    grow(driver, ground / "m", 1, None, "a")
    assert stat.S_IMODE((ground / "overlay/1/work/work").stat().st_mode) == 0
    driver.remove(1)
    assert list(driver.held()) == []


# Roots.


def test_a_root_is_plain_whatever_the_umask_and_the_ground(ground: Path) -> None:
    """A default ACL and a set-group-id bit on the store's directory are handed down to all that is made in it."""
    place = ground / "overlay"
    place.mkdir()
    os.chown(place, 0, 7)
    place.chmod(0o2755)
    acl = bytes.fromhex(
        "0200000001000700ffffffff0200070007000000040000 00ffffffff100007 00ffffffff20000000ffffffff".replace(" ", "")
    )
    os.setxattr(place, "system.posix_acl_default", acl)
    driver = Overlay(str(place), NoOptions())
    old = os.umask(0o077)
    try:
        driver.create(1, None, None)
        driver.create(2, 1, None)
    finally:
        os.umask(old)
    for id in (1, 2):
        with mounted(driver, id, ground / "m") as root:
            found = os.stat(root)
            assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o755, 0, 0)
            assert os.listxattr(root) == []
    driver.close()


def test_a_root_has_what_its_parents_has(driver: Overlay, ground: Path) -> None:
    """OV-17: mode, owner, times and attributes."""
    needs_user_attributes(ground)
    driver.create(1, None, None)
    with mounted(driver, 1, ground / "m") as root:
        subprocess.run(["chown", "5:6", root], check=True)
        os.chmod(root, 0o1555)
        os.setxattr(root, "user.k", b"\0v")
        os.setxattr(root, "trusted.k", b"t")
        os.utime(root, ns=(1, 1_000_000_001))
    old = os.umask(0o077)
    driver.create(2, 1, None)
    driver.create(3, 2, None)
    os.umask(old)
    for read_only in (False, True):
        with mounted(driver, 3, ground / "m", read_only=read_only) as root:
            found = os.stat(root)
            assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o1555, 5, 6)
            assert found.st_mtime_ns == 1_000_000_001
            assert sorted(os.listxattr(root)) == ["trusted.k", "user.k"]
    assert told(driver, 3, 1) == []


# Mounts.


def test_every_option_is_stated(driver: Overlay, ground: Path) -> None:
    driver.create(1, None, None)
    (step,) = driver.mounts(1, False)
    options = dict(step.options)
    assert {name: options[name] for name in (b"index", b"redirect_dir", b"metacopy")} == dict.fromkeys(
        (b"index", b"redirect_dir", b"metacopy"), b"off"
    )
    assert options[b"xino"] == b"auto"
    assert options[b"lowerdir+"].endswith(b"/empty")
    assert b"volatile" not in options
    assert (b"volatile", b"") in driver.mounts(1, False, volatile=True)[0].options
    (view,) = driver.mounts(1, True)
    assert view.flags == MountFlag.RDONLY
    assert not {b"upperdir", b"workdir"} & dict(view.options).keys()


def test_an_option_the_kernel_lacks_is_not_stated(driver: Overlay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "listdir", lambda _path: ["index", "redirect_dir"])
    assert driver.stated_options() == ((b"index", b"off"), (b"redirect_dir", b"off"))


def test_with_user_attributes_only_what_is_allowed_is_stated(driver: Overlay) -> None:
    driver.userxattr = True
    assert driver.stated_options() == ((b"userxattr", b""), (b"index", b"off"), (b"xino", b"auto"))


@pytest.mark.slow
def test_five_hundred_layers(driver: Overlay, ground: Path) -> None:
    """OV-01: the kernel's own limit, and a mount of one more for reading."""
    grow(driver, ground / "m", 1, None, "f1")
    for id in range(2, 502):
        driver.create(id, id - 1, None)
        (ground / f"overlay/{id}/fs/f{id}").touch()
    with mounted(driver, 501, ground / "m") as root:
        assert len(os.listdir(root)) == 501
    with mounted(driver, 501, ground / "m", read_only=True) as root:
        assert len(os.listdir(root)) == 501
    assert told(driver, 501, 499) == [("f500", "added"), ("f501", "added")]


def test_volatile_again_and_again(driver: Overlay, ground: Path) -> None:
    """OV-18: the mark that a volatile mount leaves does not stop the next mount, of either sort."""
    driver.create(1, None, None)
    for volatile in (True, True, False, True):
        mounting.detached(driver.mounts(1, False, volatile=volatile)).close()
    driver.remove(1)
    assert list(driver.held()) == []


def test_volatile_before_the_machine_went_down(driver: Overlay, ground: Path) -> None:
    driver.create(1, None, None)
    mounting.detached(driver.mounts(1, False, volatile=True)).close()
    mark = ground / "overlay/1/work/work/incompat/volatile"
    os.utime(mark, (1, time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) - 3600))
    with pytest.raises(StoreCorrupt, match="before the machine restarted") as caught:
        driver.mounts(1, False)
    assert str(mark) in str(caught.value)
    driver.volatile = True
    mounting.detached(driver.mounts(1, False)).close()


def test_a_leaked_copy_of_an_older_mount(driver: Overlay, ground: Path) -> None:
    """OV-20: a namespace made while it was mounted keeps it; the layer can be used all the same."""
    driver.create(1, None, None)
    with mounted(driver, 1, ground / "m"):
        holder = subprocess.Popen(["unshare", "-m", "sh", "-c", "echo; exec sleep 60"], stdout=subprocess.PIPE)
        assert holder.stdout is not None
        holder.stdout.read(1)
    try:
        driver.seal(1)
        for id in (2, 3):
            driver.create(id, 1, None)
            with mounted(driver, id, ground / "m") as root:
                Path(root, "f").touch()
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def test_renaming_a_directory_of_a_parent(driver: Overlay, ground: Path) -> None:
    """OV-23: declared, and mv(1) works."""
    driver.create(1, None, None)
    (ground / "overlay/1/fs/d").mkdir()
    (ground / "overlay/1/fs/d/f").touch()
    driver.create(2, 1, None)
    assert not driver.capabilities.directory_rename
    with mounted(driver, 2, ground / "m") as root:
        with pytest.raises(OSError, match="cross-device") as caught:
            os.rename(f"{root}/d", f"{root}/e")
        assert caught.value.errno == errno.EXDEV
        subprocess.run(["mv", f"{root}/d", f"{root}/e"], check=True)
    assert told(driver, 2, 1) == [("d", "deleted"), ("e", "added"), ("e/f", "added")]


# Adopted directories.


def test_the_machines_own_root(driver: Overlay, ground: Path, tmp_path: Path) -> None:
    """The store may lie below it: on the same file system the kernel wants an overlay between."""
    place = tmp_path / "overlay"
    place.mkdir()
    try:
        Overlay.probe(str(place), NoOptions())
    except DriverUnavailable:
        pytest.skip("elsewhere: the tests' directory is on a file system that cannot hold an overlay's upper directory")
    for own in (driver, Overlay(str(place), NoOptions())):
        own.adopt(1, "/")
        own.create(2, 1, None)
        with mounted(own, 2, ground / "m") as root:
            assert os.listdir(root) == os.listdir("/") or set(os.listdir(root)) == set(os.listdir("/"))
            Path(root, "cowstore-marker").touch()
        assert not Path("/cowstore-marker").exists()
        own.seal(2)
        own.create(3, 2, None)
        with mounted(own, 3, ground / "m") as root:
            assert Path(root, "cowstore-marker").exists()
            Path(root, "cowstore-marker").unlink()
            Path(root, "etc/cowstore-marker").touch()
        with mounted(own, 3, ground / "m", read_only=True) as root:
            assert Path(root, "etc/cowstore-marker").exists()
        with mounted(own, 1, ground / "m", read_only=True) as root, pytest.raises(OSError, match="Read-only"):
            Path(root, "cowstore-marker").touch()
        assert told(own, 3, 2) == [
            ("cowstore-marker", "deleted"),
            ("etc", "modified"),
            ("etc/cowstore-marker", "added"),
        ]
        assert told(own, 3, 1) == [("etc", "modified"), ("etc/cowstore-marker", "added")]
        assert own.usage(1).inodes == 0
        assert list(own.examine(1, None, True)) == []
        for id in (3, 2, 1):
            own.remove(id)
        assert list(own.held()) == []
        own.close()


def test_adopting_what_cannot_be(driver: Overlay, ground: Path) -> None:
    driver.create(1, None, None)
    with pytest.raises(InvalidArgument, match="inside the store"):
        driver.adopt(2, str(ground / "overlay/1/fs"))
    with pytest.raises((OSError, CowstoreError)):
        driver.adopt(2, str(ground / "nothing"))
    assert list(driver.held()) == [1]


def test_an_adopted_directory_is_left_alone(driver: Overlay, ground: Path) -> None:
    (ground / "mine").mkdir()
    (ground / "mine/f").touch()
    driver.adopt(1, str(ground / "mine"))
    driver.seal(1)
    driver.remove(1)
    assert os.listdir(ground / "mine") == ["f"]
    driver.adopt(1, str(ground / "mine"))
    os.rename(ground / "mine", ground / "moved")
    assert [problem.kind for problem in driver.examine(1, None, True)] == [FindingKind.BROKEN_LINK]


# What can be wrong.


def test_examine_and_repair(driver: Overlay, ground: Path) -> None:
    grow(driver, ground / "m", 1, None, "a")
    driver.create(2, 1, None)
    driver.create(3, 2, None)
    assert [list(driver.examine(id, parent, id < 3)) for id, parent in ((1, None), (2, 1), (3, 2))] == [[], [], []]
    place = ground / "overlay"
    (place / "2/parent").unlink()
    (problem,) = driver.examine(2, 1, True)
    assert (problem.kind, problem.repair) == (FindingKind.BROKEN_LINK, True)
    assert driver.repair(2, 1, True, problem.kind)
    (place / "3/parent").unlink()
    (place / "3/parent").symlink_to("../1")
    (problem,) = driver.examine(3, 2, False)
    assert problem.kind == FindingKind.WRONG_PARENT
    assert driver.repair(3, 2, False, problem.kind)
    (place / "3/work").rmdir()
    (problem,) = driver.examine(3, 2, False)
    assert problem.kind == FindingKind.UNFINISHED
    assert driver.repair(3, 2, False, problem.kind)
    assert list(driver.examine(3, 2, False)) == []
    os.rename(place / "2", place / "9")
    assert {problem.kind for problem in driver.examine(3, 2, False)} == {
        FindingKind.MISSING_PARENT,
        FindingKind.NOT_MOUNTABLE,
    }
    assert [problem.kind for problem in driver.examine(2, 1, True)][:1] == [FindingKind.ROW_WITHOUT_DATA]


def test_leftovers(driver: Overlay, ground: Path) -> None:
    driver.create(1, None, None)
    for name in ("stray", "new-x", ".probe-abc", "01"):
        (ground / "overlay" / name).mkdir()
    found = sorted(driver.leftovers())
    assert [os.path.basename(path) for path in found] == [".probe-abc", "01", "new-x", "stray"]
    for path in found:
        driver.remove_leftover(path)
    assert list(driver.leftovers()) == []


# Grounds.


def test_probe_leaves_nothing(ground: Path) -> None:
    Overlay.probe(str(ground), NoOptions())
    assert os.listdir(ground) == []


def test_a_store_on_an_overlay(driver: Overlay, ground: Path) -> None:
    """OV-21: refused with the type and the ways out."""
    driver.create(1, None, None)
    with mounted(driver, 1, ground / "m") as root:
        with pytest.raises(DriverUnavailable) as caught:
            Overlay.probe(root, NoOptions())
        assert os.listdir(root) == []
    for word in ("overlay at", "tmpfs", "copy"):
        assert word in str(caught.value)
    assert caught.value.missing


def test_a_file_system_without_types_of_entries(tmp_path: Path) -> None:
    """OV-05: found by trying. An ext4 without the filetype feature stands for an xfs with ftype=0."""
    with (
        file_system_at(tmp_path / "fs", "ext4", "-q", "-O", "^filetype", size_bytes=64 << 20) as path,
        pytest.raises(DriverUnavailable, match="type of directory entries"),
    ):
        Overlay.probe(str(path), NoOptions())


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_on(tmp_path: Path, kind: str) -> None:
    with file_system_at(tmp_path / "fs", kind, *(["-q"] if kind != "xfs" else [])) as path:
        Overlay.probe(str(path), NoOptions())
        driver = Overlay(str(path), NoOptions())
        grow(driver, tmp_path / "m", 1, None, "a")
        grow(driver, tmp_path / "m", 2, 1, "b")
        assert told(driver, 2, 1) == [("b", "added")]
        assert driver.status().details["backing file system"] == kind
        driver.close()


def test_restrictions_of_the_ground_are_named(tmp_path: Path) -> None:
    """ST-21."""
    with tmpfs_at(tmp_path / "ground", "mode=755") as path:
        subprocess.run(["mount", "-o", "remount,nosuid,nodev", str(path)], check=True)
        driver = Overlay(str(path), NoOptions())
        assert driver.status().details["mounted with"] == "nosuid,nodev"
        driver.close()


_AS_A_USER = """
import os, sys
from pathlib import Path
from cowstore import mounting
from cowstore.driver import Driver, NoOptions
from cowstore.drivers.overlay import Overlay

place = sys.argv[1]
Overlay.probe(place, NoOptions())
driver = Overlay(place, NoOptions())
assert driver.userxattr
driver.create(1, None, None)
Path(place, "1/fs/d").mkdir()
Path(place, "1/fs/d/old").touch()
Path(place, "1/fs/f").write_text("f")
driver.create(2, 1, None)
with mounting.detached(driver.mounts(2, False)) as tree:
    fd = tree.fileno()
    os.unlink("d/old", dir_fd=fd)
    os.rmdir("d", dir_fd=fd)
    os.mkdir("d", dir_fd=fd)
    os.mkdir("d/new", dir_fd=fd)
    os.rename("f", "g", src_dir_fd=fd, dst_dir_fd=fd)
    assert os.listdir("/proc/self/fd/%d/d" % fd) == ["new"]
assert os.listxattr(place + "/2/fs/d") == ["user.overlay.opaque"]
found = [(change.path, str(change.kind)) for change in driver.changes(2, 1)]
assert found == [("d", "modified"), ("d/new", "added"), ("d/old", "deleted"), ("f", "deleted"), ("g", "added")], found
assert found == [(change.path, str(change.kind)) for change in Driver.changes(driver, 2, 1)]
driver.close()
again = Overlay(place, NoOptions())
assert again.userxattr
for id in (2, 1):
    again.remove(id)
assert sorted(os.listdir(place)) == ["empty", "userxattr"], os.listdir(place)
"""


def test_in_a_user_namespace(ground: Path) -> None:
    """OV-08, OV-14, OV-27: the space of attributes is found by trying, and stays with the store."""
    needs_user_attributes(ground)
    place = ground / "overlay"
    place.mkdir()
    command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", _AS_A_USER, str(place)]
    subprocess.run(command, check=True, timeout=60)
