"""The driver on a kernel that has AUFS: what a fake can only repeat."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

import cowstore
from cowstore import mounting
from cowstore._linux import aufs as abi
from cowstore._linux import procfs
from cowstore.drivers.aufs import Aufs, builder, view
from cowstore.errors import CowstoreError, DriverUnavailable, Unsupported
from cowstore.mounting import aufs as live
from tests.conformance import ground

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cowstore.store import Store


@pytest.fixture(autouse=True)
def _kernel_has_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    reason = ground.verdict("aufs", str(tmp_path_factory.mktemp("probe")))
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with cowstore.open(tmp_path / "store", driver="aufs") as opened:
        yield opened
        for key in [snapshot.key for snapshot in opened.walk()][::-1]:
            opened.remove(key)
        assert not opened.check()


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Aufs]:
    (tmp_path / "driver").mkdir()
    made = Aufs(str(tmp_path / "driver"), Aufs.Options())
    yield made
    made.close()


def branch(driver: Aufs, id: int) -> str:
    return f"{driver.directory}/{id}/fs"


def layers(driver: Aufs, count: int) -> None:
    for id in range(1, count + 1):
        driver.create(id, id - 1 or None, None)
        with open(f"{branch(driver, id)}/file-{id}", "w", encoding="utf-8") as file:
            file.write(str(id))


def test_126_branches_below_are_shown_and_127_refused(driver: Aufs) -> None:
    """AU-03: every one is there by the kernel's own list, and the first too many is refused before anything is done."""
    layers(driver, 127)
    steps = driver.mounts(127, False)
    assert len(steps) == 2, "one mount and one remount"
    with mounting.detached(steps) as tree:
        fd = os.open(".", os.O_RDONLY, dir_fd=tree.fileno())
        assert sorted(os.listdir(fd)) == sorted(f"file-{id}" for id in range(1, 128))
        os.close(fd)
    driver.release(127)
    driver.create(128, 127, None)
    with pytest.raises(Unsupported, match="127 is the most"):
        driver.mounts(128, False)


@pytest.mark.parametrize("read_only", [False, True])
def test_it_is_mounted_at_a_directory(driver: Aufs, tmp_path: Path, read_only: bool) -> None:
    """By mount(2), seen by nobody else, of any depth and with any path."""
    layers(driver, 127)
    point = tmp_path / "point"
    point.mkdir()
    steps = driver.mounts(127, read_only)
    mounting.attach(steps, str(point))
    try:
        assert sorted(os.listdir(point)) == sorted(f"file-{id}" for id in range(1, 128))
        (entry,) = [entry for entry in procfs.mountinfo() if entry.mount_point == os.fsencode(point)]
        assert entry.fs_type == b"aufs"
        assert not entry.shared
        assert (b"ro" in entry.options.split(b",")) == read_only
        if read_only:
            with pytest.raises(OSError):
                (point / "new").touch()
        else:
            (point / "new").touch()
    finally:
        assert mounting.detach(str(point))
    assert not os.listdir(point)
    driver.release(127)


def test_what_cannot_be_mounted_at_a_directory_leaves_nothing_there(
    driver: Aufs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither where the kernel made another mount, nor where the directory is named by a link."""
    layers(driver, 3)
    point = tmp_path / "point"
    point.mkdir()
    (tmp_path / "link").symlink_to(point)
    steps = driver.mounts(3, True)
    with pytest.raises(OSError):
        mounting.attach(steps, str(tmp_path / "link"))
    monkeypatch.setattr(abi, "brinfo", lambda _fd: [])
    with pytest.raises(OSError, match="another mount"):
        mounting.attach(steps, str(point))
    assert not os.listdir(point)
    assert not live.any_mount()


def test_the_kernel_itself_has_no_more(driver: Aufs) -> None:
    """Should the option promise more than this kernel was built for, the mount fails whole."""
    layers(driver, 130)
    steps = builder.build(
        builder.branches_of([branch(driver, id).encode() for id in range(130, 0, -1)], writable=True),
        options=(),
        max_branches=511,
    )
    try:
        mounting.detached(steps).close()
    except OSError as error:
        assert error.errno == errno.ENOSPC
    else:
        pytest.skip("elsewhere: this kernel was built for more than 127 branches")
    assert not live.any_mount(), "half of it is mounted"


def test_a_directory_that_a_child_opened_is_open(store: Store) -> None:
    """AU-05: base d 0700; child d 0755; read as another user."""
    store.prepare("one")
    with store.mounted("one") as root:
        (root / "d").mkdir(mode=0o700)
        (root / "d" / "f").write_text("read")
    store.commit("base", "one")
    store.prepare("two", "base")
    with store.mounted("two") as root:
        (root / "d").chmod(0o755)
    store.prepare("keep")
    with store.mounted("two") as root:
        fd = os.open(root, os.O_PATH)
        done = subprocess.run(
            ["cat", f"/proc/self/fd/{fd}/d/f"], user=1000, group=1000, extra_groups=[], pass_fds=[fd],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        os.close(fd)
    assert (done.stdout, done.returncode) == ("read", 0), done.stderr
    assert store.status().driver_status.details["dirperm1"] == "yes"


def linked(store: Store) -> None:
    """A base with one file of three names, and a child that is about to write to it."""
    store.prepare("one")
    with store.mounted("one") as root:
        (root / "h1").write_text("old")
        (root / "d").mkdir()
        os.link(root / "h1", root / "h2")
        os.link(root / "h1", root / "d" / "h3")
    store.commit("base", "one")
    store.prepare("two", "base")


def test_hard_links_are_whole_after_the_unmount(store: Store) -> None:
    linked(store)
    with store.mounted("two") as root:
        (root / "h1").write_text("new")
    with store.mounted("two") as root:
        assert [(root / name).read_text() for name in ("h1", "h2", "d/h3")] == ["new"] * 3
        assert len({(root / name).stat().st_ino for name in ("h1", "h2", "d/h3")}) == 1
    assert [change.path for change in store.changes("two")] == ["d", "d/h3", "h1", "h2"]


WRITER = """
import os, signal, sys, cowstore
with cowstore.open(sys.argv[1]) as store, store.mounted("two") as root:
    (root / "h1").write_text("new")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_before_the_flush_is_told_at_the_next_open(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    where = tmp_path / "store"
    with cowstore.open(where, driver="aufs") as store:
        linked(store)
    done = subprocess.run([sys.executable, "-c", WRITER, str(where)], check=False)
    assert done.returncode == -signal.SIGKILL
    with caplog.at_level(logging.WARNING), cowstore.open(where) as store:
        said = caplog.text
        with store.mounted("two") as root:
            assert (root / "h1").read_text() == "new"
        if (where / "aufs/2/fs" / view.PSEUDO_LINKS).exists() and os.listdir(where / "aufs/2/fs" / view.PSEUDO_LINKS):
            assert "pseudo-links" in said
            assert [str(found.kind) for found in store.check()] == ["unfinished"]
            store.check(repair=True)
        assert not store.check()
        store.destroy()


def test_what_a_branch_cannot_say(store: Store) -> None:
    """Names of 243 bytes, and names of its own, are refused by the kernel; nothing of them stays."""
    store.prepare("one")
    with store.mounted("one") as root:
        (root / ("n" * 242)).touch()
        for name, code in (("n" * 243, errno.ENAMETOOLONG), (".wh.x", errno.EPERM), (".wh..wh.aufs", errno.EPERM)):
            with pytest.raises(OSError) as caught:
                (root / name).touch()
            assert caught.value.errno == code, name
    assert [change.path for change in store.changes("one")] == ["n" * 242]


def test_a_longer_name_cannot_be_imported(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / ("n" * 243)).touch()
    with pytest.raises((CowstoreError, OSError)) as caught:
        store.import_directory(source, name="base")
    assert "File name too long" in str(caught.value)
    assert not list(store.walk())


def test_it_does_not_nest(tmp_path: Path, store: Store) -> None:
    """A store in a snapshot of its own kind, or in an overlay, is refused with the reason."""
    store.prepare("one")
    with store.mounted("one") as root, pytest.raises(DriverUnavailable, match="does not nest"):
        cowstore.open(root / "inner", driver="aufs")


def test_a_busy_tree_is_taken_down_when_it_is_let_go(store: Store) -> None:
    """AU-04: a file of the snapshot stays open in another process over the unmount; it is removed all the same."""
    store.prepare("one")
    with store.mounted("one") as root:
        (root / "f").write_text("x")
        with open(root / "f", encoding="utf-8") as held:
            holder = subprocess.Popen(["sleep", "60"], stdin=held)
    try:
        store.release("one")
    finally:
        holder.kill()
        holder.wait()
    for _ in range(50):
        if not live.any_mount():
            break
        time.sleep(0.1)
    else:
        raise AssertionError("the branch is held though nobody uses it")
    store.remove("one")
    assert not list(store.walk())
