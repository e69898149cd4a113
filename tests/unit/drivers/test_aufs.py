"""The AUFS driver against a fake that gives the kernel's recorded answers; and its branches, which need no kernel."""

from __future__ import annotations

import errno
import os
import random
import shutil
import threading
from typing import TYPE_CHECKING

import pytest

from cowstore import mounting
from cowstore._linux import aufs as abi
from cowstore._linux import files
from cowstore._linux.fd import open_
from cowstore.drivers.aufs import Aufs, marks, plink, probe, view
from cowstore.drivers.aufs import driver as driver_module
from cowstore.errors import Busy, DriverUnavailable, Unsupported
from cowstore.model import MountFlag
from cowstore.mounting import aufs as live
from cowstore.results import FindingKind
from cowstore.trees.compare import compare
from tests.unit.drivers.fake_aufs import FakeAufs, bits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="elsewhere: making trees of other owners needs root")


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeAufs:
    made = FakeAufs(tmp_path / "sysfs")
    made.install(monkeypatch)
    return made


@pytest.fixture
def aufs(tmp_path: Path, kernel: FakeAufs) -> Iterator[Aufs]:
    where = tmp_path / "store"
    where.mkdir()
    made = Aufs(str(where), Aufs.Options(xino_directory=str(tmp_path)))
    yield made
    made.close()


def branch(driver: Aufs, id: int) -> str:
    return f"{driver.directory}/{id}/fs"


def chain(driver: Aufs, depth: int) -> None:
    """Make sealed ids 1 to *depth*, each the child of the one before."""
    for id in range(1, depth + 1):
        driver.create(id, id - 1 or None, None)
        driver.seal(id)


# Mounts.


def test_a_mount_has_the_branches_in_order(aufs: Aufs, kernel: FakeAufs) -> None:
    chain(aufs, 3)
    aufs.create(4, 3, None)
    with mounting.detached(aufs.mounts(4, False)):
        (stack,) = kernel.stacks()
    assert [permission for _, permission in stack] == ["rw", "ro+wh", "ro+wh", "ro+wh"]
    assert [path for path, _ in stack] == [os.fsencode(branch(aufs, id)) for id in (4, 3, 2, 1)]


def test_a_sealed_id_is_mounted_read_only(aufs: Aufs, kernel: FakeAufs) -> None:
    chain(aufs, 2)
    steps = aufs.mounts(2, True)
    assert steps[0].flags == MountFlag.RDONLY
    with mounting.detached(steps):
        assert [permission for _, permission in kernel.stacks()[0]] == ["ro+wh", "ro+wh"]


def test_120_layers(aufs: Aufs, kernel: FakeAufs) -> None:
    """AU-03: a mount and one remount, each within the limits."""
    chain(aufs, 120)
    aufs.create(121, 120, None)
    with mounting.detached(aufs.mounts(121, False)):
        assert len(kernel.stacks()[0]) == 121
    assert len(kernel.calls) == 2
    assert all(count <= 84 and length <= 4095 for _, count, length in kernel.calls)


def test_127_branches_and_no_more(aufs: Aufs, kernel: FakeAufs) -> None:
    """AU-03."""
    chain(aufs, 127)
    with mounting.detached(aufs.mounts(127, True)):
        assert len(kernel.stacks()[0]) == 127
    assert aufs.capabilities.max_depth == 126
    aufs.create(128, 127, None)
    with pytest.raises(Unsupported, match="127"):
        aufs.mounts(128, False)


def test_a_kernel_built_for_fewer_branches_leaves_nothing_mounted(aufs: Aufs, kernel: FakeAufs) -> None:
    """The mount exists with the first branches when the rest is refused."""
    kernel.max_branches = 100
    chain(aufs, 120)
    with pytest.raises(OSError) as caught:
        mounting.detached(aufs.mounts(120, True))
    assert caught.value.errno == errno.ENOSPC
    assert kernel.stacks() == []


def test_a_kernel_built_for_more(tmp_path: Path, kernel: FakeAufs) -> None:
    (tmp_path / "store").mkdir()
    made = Aufs(str(tmp_path / "store"), Aufs.Options(xino_directory=str(tmp_path), max_branches=511))
    kernel.max_branches = 511
    assert made.capabilities.max_depth == 510
    chain(made, 200)
    with mounting.detached(made.mounts(200, True)):
        assert len(kernel.stacks()[0]) == 200
    made.close()


@pytest.mark.parametrize("name", ["a:b", "a,b=c", "x" * 250, "a b\\c", "\udcff\n"])
def test_any_store_path(tmp_path: Path, kernel: FakeAufs, name: str) -> None:
    where = tmp_path / name
    where.mkdir()
    made = Aufs(str(where), Aufs.Options(xino_directory=str(tmp_path)))
    chain(made, 90)
    made.create(91, 90, None)
    with mounting.detached(made.mounts(91, False)):
        assert [path for path, _ in kernel.stacks()[0]] == [
            os.fsencode(os.path.realpath(branch(made, id))) for id in range(91, 0, -1)
        ]
    made.close()


def test_a_mount_that_is_not_what_was_told_is_an_error(aufs: Aufs, kernel: FakeAufs) -> None:
    """AUFS drops what it misreads in silence."""
    chain(aufs, 3)
    kernel.drops_last = True
    with pytest.raises(OSError, match="another mount") as caught:
        mounting.detached(aufs.mounts(3, True))
    assert caught.value.errno == errno.EINVAL
    assert "3 branches were told, and 2 are there" in caught.value.__notes__[0]
    assert kernel.stacks() == []


@pytest.mark.parametrize("wrong", ["ro", "rw", "rr+wh"])
def test_a_wrong_permission_is_told_by_the_mount_itself(
    tmp_path: Path, aufs: Aufs, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain(aufs, 2)
    steps = aufs.mounts(2, True)
    said = [(os.fsencode(branch(aufs, 2)), bits("ro+wh")), (os.fsencode(branch(aufs, 1)), bits("ro+wh"))]
    monkeypatch.setattr(abi, "brinfo", lambda _fd: said)
    with open_(str(tmp_path), os.O_PATH) as tree:
        live.verify(steps, tree)
        said[1] = said[1][0], bits(wrong)
        with pytest.raises(OSError, match="another mount"):
            live.verify(steps, tree)
        del said[1]
        with pytest.raises(OSError, match="another mount") as caught:
            live.verify(steps, tree)
    assert "2 branches were told, and 1 are there" in caught.value.__notes__[0]


def test_a_mount_that_cannot_be_asked_is_believed(tmp_path: Path, aufs: Aufs) -> None:
    """An AUFS without the ioctl: its files in sysfs would tell, but reading them can bring the kernel down."""
    chain(aufs, 2)
    with open_(str(tmp_path), os.O_PATH) as no_aufs:
        live.verify(aufs.mounts(2, True), no_aufs)


def test_whether_anything_is_mounted_is_told_by_names_alone(aufs: Aufs, kernel: FakeAufs) -> None:
    """Reading a file there while another process unmounts ends in a panic (sysaufs_si_show)."""
    aufs.create(1, None, None)
    assert not live.any_mount()
    with mounting.detached(aufs.mounts(1, False)):
        assert live.any_mount()
        assert not [name for _, _, names in os.walk(kernel.sysfs) for name in names]
    assert not live.any_mount()
    shutil.rmtree(kernel.sysfs)
    assert not live.any_mount()


def test_every_mount_has_a_table_of_its_own(aufs: Aufs) -> None:
    aufs.create(1, None, None)
    tables = {dict(aufs.mounts(1, False)[0].options)[b"xino"] for _ in range(5)}
    assert len(tables) == 5


def test_without_a_tmpfs_the_table_lies_in_the_store(tmp_path: Path, kernel: FakeAufs) -> None:
    (tmp_path / "store").mkdir()
    made = Aufs(str(tmp_path / "store"), Aufs.Options(xino_directory="/nowhere"))
    made.create(1, None, None)
    assert dict(made.mounts(1, False)[0].options)[b"xino"].startswith(os.fsencode(made.directory))
    made.close()


def test_the_mode_of_a_parents_directory_does_not_count(aufs: Aufs) -> None:
    """AU-05: every mount asks for dirperm1, and status says so. Reading as another user needs the kernel."""
    aufs.create(1, None, None)
    for read_only in (False, True):
        assert (b"dirperm1", b"") in aufs.mounts(1, read_only)[0].options
    assert aufs.status().details["dirperm1"] == "yes"


def test_xattrs_that_the_branch_cannot_store(tmp_path: Path, kernel: FakeAufs) -> None:
    """AU-07: an error for the program that writes, unless told to lose them."""
    (tmp_path / "store").mkdir()
    made = Aufs(str(tmp_path / "store"), Aufs.Options(xino_directory=str(tmp_path), ignore_xattrs=True))
    chain(made, 1)
    made.create(2, 1, None)
    with mounting.detached(made.mounts(2, False)):
        assert [permission for _, permission in kernel.stacks()[0]] == ["rw+icex", "ro+wh"]
    made.close()


# Ids.


def test_the_root_is_dressed_as_the_parents(aufs: Aufs) -> None:
    aufs.create(1, None, None)
    os.chown(branch(aufs, 1), 5, 6)
    os.chmod(branch(aufs, 1), 0o1700)
    os.setxattr(branch(aufs, 1), "trusted.x", b"1")
    os.utime(branch(aufs, 1), ns=(1, 2))
    aufs.seal(1)
    aufs.create(2, 1, None)
    found = os.stat(branch(aufs, 2))
    assert (found.st_mode & 0o7777, found.st_uid, found.st_gid, found.st_mtime_ns) == (0o1700, 5, 6, 2)
    assert os.getxattr(branch(aufs, 2), "trusted.x") == b"1"


def test_a_size_is_refused(aufs: Aufs) -> None:
    with pytest.raises(Unsupported):
        aufs.create(1, None, 1 << 20)
    assert list(aufs.held()) == []


def test_a_branch_that_is_held_a_moment_is_removed(aufs: Aufs, monkeypatch: pytest.MonkeyPatch) -> None:
    """AU-04."""
    aufs.create(1, None, None)
    monkeypatch.setattr(driver_module, "_BUSY_PAUSE_SECONDS", 0.001)
    failures = [3]
    real = Aufs.remove_directory

    def busy(self: Aufs, name: str) -> None:
        if failures[0]:
            failures[0] -= 1
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        real(self, name)

    monkeypatch.setattr(Aufs, "remove_directory", busy)
    aufs.remove(1)
    assert not aufs.holds(1)


def test_a_branch_that_stays_held_is_an_error_that_says_by_what(aufs: Aufs, monkeypatch: pytest.MonkeyPatch) -> None:
    """AU-04: and a later removal works."""
    aufs.create(1, None, None)
    monkeypatch.setattr(driver_module, "_BUSY_PAUSE_SECONDS", 0.0)

    def busy(self: Aufs, name: str) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    with mounting.detached(aufs.mounts(1, False)), monkeypatch.context() as patch:
        patch.setattr(Aufs, "remove_directory", busy)
        with pytest.raises(Busy, match="perhaps by an AUFS mount"):
            aufs.remove(1)
    assert aufs.holds(1)
    aufs.remove(1)
    assert list(aufs.held()) == []
    assert list(aufs.leftovers()) == []


def test_a_half_removed_id_is_still_held(aufs: Aufs) -> None:
    """AU-04: so that opening finishes the removal."""
    aufs.create(1, None, None)
    shutil.rmtree(branch(aufs, 1))
    assert list(aufs.held()) == [1]
    aufs.remove(1)
    assert list(aufs.held()) == []


# Probing.


@pytest.fixture
def has_aufs(kernel: FakeAufs, monkeypatch: pytest.MonkeyPatch) -> FakeAufs:
    monkeypatch.setattr(probe, "_file_systems", lambda: {b"ext4", b"aufs"})
    return kernel


def test_a_kernel_without_aufs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AU-07."""
    if b"aufs" in probe._file_systems():
        monkeypatch.setattr(probe, "_in_kernel", lambda: False)
    with pytest.raises(DriverUnavailable, match="this kernel has no AUFS") as caught:
        Aufs.probe(str(tmp_path), Aufs.Options())
    assert "use the overlay driver" in caught.value.missing[0]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("magic", "said"),
    [
        (files.FsMagic.OVERLAYFS, "an overlay"),
        (files.FsMagic.AUFS, "AUFS itself"),
        (files.FsMagic.RAMFS, "a ramfs"),
    ],
)
def test_a_file_system_that_aufs_refuses_is_named(
    tmp_path: Path, has_aufs: FakeAufs, monkeypatch: pytest.MonkeyPatch, magic: int, said: str
) -> None:
    found = files.statfs(str(tmp_path))
    found.type = magic
    monkeypatch.setattr(files, "statfs", lambda path: found)
    with pytest.raises(DriverUnavailable, match=f"is on {said}"):
        Aufs.probe(str(tmp_path), Aufs.Options())


def test_a_user_namespace_is_named(tmp_path: Path, has_aufs: FakeAufs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_in_first_user_namespace", lambda: False)
    with pytest.raises(DriverUnavailable, match="not in a user namespace") as caught:
        Aufs.probe(str(tmp_path), Aufs.Options())
    assert len(caught.value.missing) == 1


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.EINVAL, "refuses the file system"),
        (errno.EPERM, "only by root of the machine"),
        (errno.ENOSPC, "no space left"),
        (errno.EROFS, "is read-only"),
        (errno.ENODEV, "this kernel has no AUFS"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_refused_trial_is_explained(tmp_path: Path, has_aufs: FakeAufs, code: int, said: str) -> None:
    has_aufs.refuses = code
    where = tmp_path / "store"
    where.mkdir()
    with pytest.raises(DriverUnavailable, match=said):
        Aufs.probe(str(where), Aufs.Options(xino_directory=str(tmp_path)))
    assert os.listdir(where) == []


def test_deletions_that_come_back_are_noticed(tmp_path: Path, has_aufs: FakeAufs) -> None:
    """The fake deletes nothing, since it shows the topmost branch alone: that must not pass for a working AUFS."""
    where = tmp_path / "store"
    where.mkdir()
    with pytest.raises(DriverUnavailable):
        Aufs.probe(str(where), Aufs.Options(xino_directory=str(tmp_path)))
    assert os.listdir(where) == []


# Pseudo-links. A plain directory stands for the mounted tree: of it only the inode numbers matter.


def linked(tmp_path: Path, aufs: Aufs) -> tuple[str, int]:
    """Make an id whose branch has a pseudo-link to a file of a "mounted" tree with three names."""
    root = tmp_path / "root"
    (root / "d").mkdir(parents=True)
    (root / "h1").write_text("x")
    os.link(root / "h1", root / "h2")
    os.link(root / "h1", root / "d" / "h3")
    os.symlink("x", root / "other")
    number = (root / "h1").stat().st_ino
    aufs.create(1, None, None)
    aufs.mounts(1, False)
    with open(f"{branch(aufs, 1)}/h1", "w"):
        pass
    os.link(f"{branch(aufs, 1)}/h1", f"{branch(aufs, 1)}/{view.PSEUDO_LINKS}/{number}.21")
    return str(root), number


def test_pseudo_links_are_flushed_before_the_unmount(
    tmp_path: Path, aufs: Aufs, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, number = linked(tmp_path, aufs)
    os.mkfifo(f"{root}/fifo")
    os.link(f"{root}/fifo", f"{root}/fifo2")
    fifo = os.stat(f"{root}/fifo").st_ino
    os.link(f"{branch(aufs, 1)}/h1", f"{branch(aufs, 1)}/{view.PSEUDO_LINKS}/{fifo}.22")
    touched: list[str] = []
    real = plink._touch

    def touch(dir_fd: int, name: str, found: os.stat_result) -> None:
        touched.append(name)
        real(dir_fd, name, found)

    monkeypatch.setattr(plink, "_touch", touch)
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    aufs.before_unmount(1, fd)
    os.close(fd)
    assert sorted(touched) == ["fifo", "fifo2", "h1", "h2", "h3"]
    # Nothing is written into a branch that is mounted; the links go with the release.
    assert len(os.listdir(f"{branch(aufs, 1)}/{view.PSEUDO_LINKS}")) == 2
    aufs.release(1)
    assert os.listdir(f"{branch(aufs, 1)}/{view.PSEUDO_LINKS}") == []
    assert marked(aufs) == []
    assert os.stat(f"{branch(aufs, 1)}/h1").st_nlink == 1
    assert number > 0


def flush(driver: Aufs, root: str) -> None:
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    driver.before_unmount(1, fd)
    os.close(fd)


def marked(driver: Aufs) -> list[str]:
    return sorted(os.listdir(f"{driver.directory}/{marks.DIRECTORY}"))


def die(driver: Aufs) -> None:
    """Lose the locks as a process does that is killed."""
    for fd in driver._marks._held.values():
        os.close(fd)
    driver._marks._held.clear()


def told(driver: Aufs) -> list[FindingKind]:
    return [problem.kind for problem in driver.examine(1, None, False)]


def test_a_mount_of_another_that_lives_is_left_alone(
    tmp_path: Path, aufs: Aufs, caplog: pytest.LogCaptureFixture
) -> None:
    """Looking at it, and opening the store, neither say that its links are broken nor touch them."""
    root, _number = linked(tmp_path, aufs)
    other = Aufs(aufs.directory, aufs._options)
    assert told(other) == []
    flush(aufs, root)
    other.mounts(1, True)
    assert len(os.listdir(f"{branch(aufs, 1)}/{view.PSEUDO_LINKS}")) == 1
    assert marked(aufs) == ["1"]
    assert caplog.text == ""
    die(aufs)
    other.mounts(1, True)
    assert os.listdir(f"{branch(aufs, 1)}/{view.PSEUDO_LINKS}") == []
    assert marked(aufs) == []
    other.close()


def test_a_mount_that_outlives_its_process_is_known(tmp_path: Path, aufs: Aufs) -> None:
    """A driver that is closed without a release leaves it mounted: the store has a record of it."""
    linked(tmp_path, aufs)
    steps = aufs.mounts(1, False)
    other = Aufs(aufs.directory, aufs._options)
    mark = tmp_path / "store" / marks.DIRECTORY / "1"
    with mounting.detached(steps):
        aufs.close()
        assert told(other) == []
        this_boot = mark.read_bytes()
        mark.write_bytes(b"another boot")
        assert told(other) == [FindingKind.UNFINISHED]
        mark.write_bytes(this_boot)
    assert told(other) == [FindingKind.UNFINISHED], "nothing is mounted any more"
    other.mounts(1, False)
    assert mark.read_bytes() == b""
    assert told(other) == []
    other.close()


def test_a_mark_that_is_removed_while_it_is_waited_for_is_made_again(aufs: Aufs) -> None:
    aufs.create(1, None, None)
    aufs.mounts(1, False)
    die(aufs)
    other = Aufs(aufs.directory, aufs._options)
    waiting = threading.Thread(target=other.mounts, args=(1, False))
    with aufs._marks.seized(1) as alone:
        assert alone
        waiting.start()
        waiting.join(0.1)
        assert waiting.is_alive()
        aufs._marks.drop(1, remove=True)
    waiting.join(10)
    assert marked(aufs) == ["1"]
    assert aufs._marks.lives(1)
    other.close()


def test_a_mark_that_another_released_is_made_again(aufs: Aufs) -> None:
    """`umount` is another process than `mount`, and so are two that had one snapshot in use."""
    aufs.create(1, None, None)
    aufs.mounts(1, False)
    other = Aufs(aufs.directory, aufs._options)
    other.release(1)
    assert marked(aufs) == []
    assert not aufs._marks.lives(1)
    aufs.mounts(1, False)
    other.release(1)
    aufs.mounts(1, False)
    assert marked(aufs) == ["1"]
    assert other._marks.lives(1)
    other.close()


def test_marks_of_ids_that_others_removed_are_let_go(aufs: Aufs) -> None:
    other = Aufs(aufs.directory, aufs._options)
    for id in range(1, 41):
        aufs.create(id, None, None)
        aufs.mounts(id, False)
        other.remove(id)
    assert len(aufs._marks._held) < 40
    other.close()


def test_a_kill_before_the_flush_is_told_at_the_next_open(
    tmp_path: Path, aufs: Aufs, caplog: pytest.LogCaptureFixture
) -> None:
    linked(tmp_path, aufs)
    die(aufs)
    again = Aufs(aufs.directory, aufs._options)
    assert "before its pseudo-links were flushed" in caplog.text
    (found,) = [problem for problem in again.examine(1, None, False) if problem.kind is FindingKind.UNFINISHED]
    assert found.repair
    assert again.repair(1, None, False, found.kind)
    assert not [problem for problem in again.examine(1, None, False) if problem.kind is FindingKind.UNFINISHED]
    again.close()
    caplog.clear()
    Aufs(aufs.directory, aufs._options).close()
    assert caplog.text == ""


def test_a_kill_after_the_flush_is_nothing_to_tell(
    tmp_path: Path, aufs: Aufs, caplog: pytest.LogCaptureFixture
) -> None:
    root, _number = linked(tmp_path, aufs)
    flush(aufs, root)
    die(aufs)
    again = Aufs(aufs.directory, aufs._options)
    assert caplog.text == ""
    again.seal(1)
    assert marked(again) == []
    again.close()


# The format of branches.


class Emulated:
    """What AUFS writes into a branch for the edits of a program, as it was measured.

    :ivar plain: the same edits on a plain directory.
    """

    def __init__(self, plain: Path, rw: Path, lowers: list[Path]) -> None:
        self.plain, self.rw, self.lowers = plain, rw, lowers
        # The driver has made the bookkeeping already, as AUFS does at the first mount otherwise.
        assert set(os.listdir(rw)) == set(view.BOOKKEEPING)

    def _below(self, path: str) -> bool:
        """Whether a lower branch shows the path (the lower branches of these tests hold whiteouts too)."""
        roots = [os.open(lower, os.O_RDONLY) for lower in self.lowers]
        try:
            with view.Branches(roots, partial=False) as side:
                *above, name = path.split("/")
                try:
                    for directory in above:
                        if not (found := side.find(directory)) or not found.st_mode & 0o040000:
                            return False
                        side.enter(directory)
                except OSError:
                    return False
                return side.find(name) is not None
        finally:
            for fd in roots:
                os.close(fd)

    def _hidden(self, path: str) -> bool:
        """Whether an opaque directory of the branch, or a whiteout, hides the path below already."""
        parts = path.split("/")
        for depth in range(1, len(parts)):
            above = self.rw.joinpath(*parts[:depth])
            if (above / view.OPAQUE).exists():
                return True
        return False

    def _mark(self, at: Path) -> None:
        os.link(self.rw / view.BASE, at)

    def _whiteout(self, path: str) -> Path:
        at = self.rw / path
        return at.with_name(view.WHITEOUT + at.name)

    def _parents_up(self, path: str) -> None:
        parts = path.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            above = "/".join(parts[:depth])
            if not (self.rw / above).exists():
                (self.rw / above).mkdir()
            self._same_metadata(above)

    def _same_metadata(self, path: str) -> None:
        if (self.plain / path).exists() and (self.rw / path).exists():
            found = os.stat(self.plain / path)
            os.chmod(self.rw / path, found.st_mode & 0o7777)
            os.utime(self.rw / path, ns=(found.st_atime_ns, found.st_mtime_ns))

    def finish(self) -> None:
        for above, inner, names in os.walk(self.plain):
            relative = os.path.relpath(above, self.plain)
            for name in (*inner, *names):
                self._same_metadata(os.path.normpath(os.path.join(relative, name)))
        self._same_metadata(".")

    def write(self, path: str, content: str) -> None:
        self._parents_up(path)
        (self.plain / path).write_text(content)
        self._whiteout(path).unlink(missing_ok=True)
        (self.rw / path).write_text(content)

    def mkdir(self, path: str) -> None:
        self._parents_up(path)
        (self.plain / path).mkdir()
        (self.rw / path).mkdir()
        if self._whiteout(path).exists():
            self._whiteout(path).unlink()
            self._mark(self.rw / path / view.OPAQUE)

    def unlink(self, path: str) -> None:
        (self.plain / path).unlink()
        self._gone(path)

    def rmtree(self, path: str) -> None:
        shutil.rmtree(self.plain / path)
        self._gone(path)

    def _gone(self, path: str) -> None:
        self._parents_up(path)
        at = self.rw / path
        if at.is_dir():
            shutil.rmtree(at)
        else:
            at.unlink(missing_ok=True)
        if self._below(path) and not self._hidden(path):
            self._mark(self._whiteout(path))

    def step(self, chance: random.Random) -> None:
        files_, directories = [], ["."]
        for above, inner, names in os.walk(self.plain):
            relative = os.path.relpath(above, self.plain)
            files_ += [os.path.normpath(os.path.join(relative, name)) for name in names]
            directories += [os.path.normpath(os.path.join(relative, name)) for name in inner]
        new = os.path.normpath(os.path.join(chance.choice(sorted(directories)), chance.choice(["a", "a-", "b", "c"])))
        action = chance.randrange(5)
        if action in {0, 1} and not (self.plain / new).is_dir():
            self.write(new, str(chance.randrange(3)))
        elif action == 2 and not (self.plain / new).exists():
            self.mkdir(new)
        elif action == 3 and files_:
            self.unlink(chance.choice(sorted(files_)))
        elif action == 4 and len(directories) > 1:
            self.rmtree(chance.choice(sorted(directories)[1:]))


@pytest.mark.parametrize("seed", range(40))
def test_changes_are_told_by_the_branches(seed: int, tmp_path: Path, aufs: Aufs) -> None:
    """Of three layers of random edits, every one against every other, as the plain trees differ."""
    chance = random.Random(seed)
    plain: list[Path] = []
    lowers: list[Path] = []
    for id in range(1, 4):
        current = tmp_path / f"plain{id}"
        if plain:
            shutil.copytree(plain[-1], current, symlinks=True)
        else:
            current.mkdir()
            os.chmod(current, 0o755)
        aufs.create(id, id - 1 or None, None)
        layer = aufs_path(aufs, id)
        emulated = Emulated(current, layer, lowers)
        for _ in range(25):
            emulated.step(chance)
        emulated.finish()
        if id < 3:
            aufs.seal(id)
        plain.append(current)
        lowers.insert(0, layer)
    for upper in range(1, 4):
        for base in range(1, 4):
            if base != upper:
                assert list(aufs.changes(upper, base)) == plain_changes(plain[base - 1], plain[upper - 1])
        assert list(aufs.changes(upper, None)) == plain_changes(None, plain[upper - 1])


def aufs_path(driver: Aufs, id: int) -> Path:
    from pathlib import Path

    return Path(branch(driver, id))


def plain_changes(lower: Path | None, upper: Path) -> list[object]:
    fds = [None if path is None else os.open(path, os.O_RDONLY) for path in (lower, upper)]
    try:
        assert fds[1] is not None
        return list(compare(fds[0], fds[1]))
    finally:
        for fd in fds:
            if fd is not None:
                os.close(fd)


def kinds(driver: Aufs, id: int, base: int | None) -> dict[str, str]:
    return {change.path: str(change.kind) for change in driver.changes(id, base)}


def test_bookkeeping_is_neither_seen_nor_counted(aufs: Aufs) -> None:
    """AU-01."""
    aufs.create(1, None, None)
    layer = aufs_path(aufs, 1)
    (layer / "f").write_text("x" * 5000)
    empty = aufs.usage(1)
    (layer / ".wh..wh.dr.2_1_2").mkdir()
    (layer / "d").mkdir()
    (layer / "d" / ".wh..wh.hino").touch()
    assert kinds(aufs, 1, None) == {"d": "added", "f": "added"}
    (layer / ".wh..wh.dr.2_1_2").rmdir()
    shutil.rmtree(layer / "d")
    assert aufs.usage(1) == empty
    aufs.seal(1)
    assert os.listdir(layer) == ["f"]


def test_whiteouts_of_one_inode_are_deletions_each(aufs: Aufs) -> None:
    aufs.create(1, None, None)
    for name in ("a", "b", "c"):
        (aufs_path(aufs, 1) / name).write_text(name)
    aufs.seal(1)
    aufs.create(2, 1, None)
    layer = aufs_path(aufs, 2)
    for name in ("a", "b"):
        os.link(layer / view.BASE, layer / f".wh.{name}")
    assert kinds(aufs, 2, 1) == {"a": "deleted", "b": "deleted"}
    # After the seal too, when the file they are links of is gone.
    aufs.seal(2)
    assert sorted(os.listdir(layer)) == [".wh.a", ".wh.b"]
    assert kinds(aufs, 2, 1) == {"a": "deleted", "b": "deleted"}


def test_whiteouts_made_by_hand(aufs: Aufs) -> None:
    """A regular file of any mode and content hides; beside a file of the name, it hides that; others are errors."""
    aufs.create(1, None, None)
    (aufs_path(aufs, 1) / "a").write_text("x")
    aufs.seal(1)
    aufs.create(2, 1, None)
    layer = aufs_path(aufs, 2)
    (layer / ".wh.a").write_text("not empty")
    os.chmod(layer / ".wh.a", 0)
    (layer / ".wh.").write_text("an ordinary name")
    assert kinds(aufs, 2, 1) == {".wh.": "added", "a": "deleted"}
    (layer / "a").write_text("both")
    assert kinds(aufs, 2, 1) == {".wh.": "added", "a": "deleted"}
    (layer / ".wh.a").unlink()
    (layer / ".wh.a").mkdir()
    with pytest.raises(OSError) as caught:
        kinds(aufs, 2, 1)
    assert caught.value.errno == errno.EIO
    assert "regular file" in caught.value.__notes__[0]


def test_an_opaque_directory_hides_all_below(aufs: Aufs) -> None:
    aufs.create(1, None, None)
    (aufs_path(aufs, 1) / "d").mkdir()
    (aufs_path(aufs, 1) / "d" / "old").write_text("x")
    aufs.seal(1)
    aufs.create(2, 1, None)
    (aufs_path(aufs, 2) / "d").mkdir()
    (aufs_path(aufs, 2) / "d" / view.OPAQUE).touch()
    (aufs_path(aufs, 2) / "d" / "new").write_text("x")
    assert kinds(aufs, 2, 1) == {"d": "modified", "d/new": "added", "d/old": "deleted"}


def test_a_name_too_long_for_a_whiteout(aufs: Aufs) -> None:
    """243 bytes and more cannot be opened through a mount; what is in a branch all the same is told."""
    aufs.create(1, None, None)
    (aufs_path(aufs, 1) / ("n" * 255)).write_text("x")
    aufs.seal(1)
    aufs.create(2, 1, None)
    assert kinds(aufs, 2, 1) == {}
    assert kinds(aufs, 1, None) == {"n" * 255: "added"}
    assert aufs.unpack_directory(1) is None


def test_hard_links_across_layers(aufs: Aufs) -> None:
    aufs.create(1, None, None)
    lower = aufs_path(aufs, 1)
    (lower / "h1").write_text("x")
    os.link(lower / "h1", lower / "h2")
    aufs.seal(1)
    aufs.create(2, 1, None)
    layer = aufs_path(aufs, 2)
    # As after a flush: both names copied up, the link that stood for the pseudo-link still there.
    shutil.copy2(lower / "h1", layer / "h1")
    (layer / "h1").write_text("new")
    os.link(layer / "h1", layer / "h2")
    os.link(layer / "h1", layer / view.PSEUDO_LINKS / "11.21")
    assert kinds(aufs, 2, 1) == {"h1": "modified", "h2": "modified"}
    assert aufs.usage(2).inodes == 2
