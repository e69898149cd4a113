"""Mounting for real, each time in a child's own mount namespace: whatever goes wrong, nothing stays mounted."""

from __future__ import annotations

import errno
import os
import signal
from typing import TYPE_CHECKING

import pytest

from cowstore._linux import mount
from cowstore._linux.fd import Descriptor, open_
from cowstore._linux.files import FsMagic, statfs
from cowstore._linux.mount import FspickFlag, MountAttr, MountFlag, MoveMountFlag, OpenTreeFlag, UmountFlag
from cowstore._linux.namespaces import CloneFlag, clone3, pidfd_send_signal, unshare
from cowstore._linux.procfs import MountInfo, mountinfo
from tests.unit._linux.child import in_child

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EMPTY = MoveMountFlag.F_EMPTY_PATH
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


def privately(body: Callable[[], object]) -> None:
    """Run body in a child whose mounts nobody else sees."""

    def work() -> None:
        unshare(CloneFlag.NEWNS)
        mount.mount(None, "/", None, MountFlag.REC | MountFlag.PRIVATE)
        body()

    in_child(work)


def on(target: str | bytes) -> MountInfo:
    """Tell the topmost mount on target."""
    return [info for info in mountinfo() if info.mount_point == os.fsencode(target)][-1]


def is_mounted(target: str | bytes) -> bool:
    return any(info.mount_point == os.fsencode(target) for info in mountinfo())


def tmpfs(attrs: MountAttr = MountAttr.NONE, **options: str) -> Descriptor:
    """Make a detached tmpfs."""
    with mount.fsopen("tmpfs") as fs:
        for key, value in options.items():
            mount.fsconfig_set_string(fs, key, value)
        mount.fsconfig_create(fs)
        return mount.fsmount(fs, attrs)


@pytest.fixture
def target(tmp_path: Path) -> str:
    directory = tmp_path / "target"
    directory.mkdir()
    return os.fsdecode(directory)


def test_mount_and_umount2(target: str) -> None:
    def work() -> None:
        mount.mount("nothing", target, "tmpfs", MountFlag.NOSUID | MountFlag.NODEV, "size=64k,mode=711")
        assert statfs(target).type == FsMagic.TMPFS
        assert os.stat(target).st_mode & 0o7777 == 0o711
        assert on(target).source == b"nothing"
        assert {b"nosuid", b"nodev"} <= set(on(target).options.split(b","))
        assert on(target).super_option(b"size") == [b"64k"]
        mount.mount(None, target, None, MountFlag.REMOUNT | MountFlag.BIND | MountFlag.RDONLY)
        with pytest.raises(OSError) as caught:
            os.mkdir(target + "/x")
        assert caught.value.errno == errno.EROFS
        mount.umount2(target)
        with pytest.raises(OSError) as again:
            mount.umount2(target)
        assert (again.value.errno, again.value.filename) == (errno.EINVAL, target)
        assert again.value.__notes__ == ["umount2(2)"]

    privately(work)


def test_umount_flags(target: str) -> None:
    def work() -> None:
        mount.mount("nothing", target, "tmpfs")
        link = target + "-link"
        os.symlink(target, link)
        with pytest.raises(OSError) as caught:
            mount.umount2(link, UmountFlag.NOFOLLOW)
        assert caught.value.errno == errno.EINVAL
        with open_(target, DIRECTORY):
            with pytest.raises(OSError) as busy:
                mount.umount2(target)
            assert busy.value.errno == errno.EBUSY
            mount.umount2(target, UmountFlag.DETACH)
        assert not is_mounted(target)

    privately(work)


def test_mount_says_what_failed(target: str) -> None:
    def work() -> None:
        with pytest.raises(OSError) as caught:
            mount.mount("/dev/null", target, "ext4")
        assert caught.value.errno == errno.ENOTBLK
        assert (caught.value.filename, caught.value.filename2) == ("/dev/null", target)
        assert caught.value.__notes__ == ["mount(2) type ext4"]
        with pytest.raises(OSError) as unknown:
            mount.mount("x", target, "no-such-fs")
        assert unknown.value.errno == errno.ENODEV
        with pytest.raises(OSError) as opened:
            mount.fsopen("no-such-fs")
        assert (opened.value.errno, opened.value.filename) == (errno.ENODEV, "no-such-fs")

    privately(work)


def test_every_byte_of_a_mount_point_is_told(tmp_path: Path) -> None:
    name = bytes(byte for byte in range(1, 256) if byte != ord("/"))
    odd = os.fsencode(tmp_path) + b"/" + name

    def work() -> None:
        os.mkdir(odd)
        mount.mount(b"so\n urce\\040#\xff", odd, b"tmpfs")
        assert on(odd).mount_point == odd
        assert on(odd).source == b"so\n urce\\040#\xff"
        os.mkdir(odd + b"/a b")
        mount.mount(odd + b"/a b", odd + b"/a b", None, MountFlag.BIND)
        assert on(odd + b"/a b").root == b"/a b"
        mount.mount(b"", odd, b"tmpfs")
        assert on(odd).source == b""

    privately(work)


def test_a_file_system_by_pieces(target: str) -> None:
    def work() -> None:
        before = len(mountinfo())
        with tmpfs(MountAttr.NODEV | MountAttr.NOSUID, source="some where", size="128k") as tree:
            assert len(mountinfo()) == before, "detached is not attached"
            os.mkdir("made", dir_fd=tree.fileno())
            mount.move_mount(tree, "", None, target, EMPTY)
        info = on(target)
        assert (info.fs_type, info.source) == (b"tmpfs", b"some where")
        assert {b"nodev", b"nosuid"} <= set(info.options.split(b","))
        assert os.listdir(target) == ["made"]
        with mount.fspick(None, target, FspickFlag.NO_AUTOMOUNT) as fs:
            mount.fsconfig_set_string(fs, "size", "256k")
            mount.fsconfig_set_flag(fs, "ro")
            mount.fsconfig_reconfigure(fs)
        assert on(target).super_option(b"size") == [b"256k"]
        assert on(target).super_option(b"ro") == [b""]

    privately(work)


def test_a_detached_mount_goes_with_its_descriptor() -> None:
    def work() -> None:
        tree = tmpfs()
        with open_("f", os.O_WRONLY | os.O_CREAT, dir_fd=tree) as file:
            os.write(file.fileno(), b"x")
        tree.close()
        with pytest.raises(OSError) as caught:
            mount.move_mount(tree, "", None, "/mnt", EMPTY)
        assert caught.value.errno == errno.EBADF

    privately(work)


def layers(root: str, *names: str) -> list[str]:
    """Make directories that each hold a file of their name."""
    made = [f"{root}/{name}" for name in names]
    for path in made:
        os.mkdir(path)
        with open(f"{path}/{os.path.basename(path)}", "x", encoding="ascii"):
            pass
    return made


def test_overlay_by_pieces(target: str, tmp_path: Path) -> None:
    def work() -> None:
        with tmpfs() as scratch:
            mount.move_mount(scratch, "", None, os.fsdecode(tmp_path), EMPTY)
        os.mkdir(target)
        one, two, upper = layers(os.fsdecode(tmp_path), "one", "two", "upper")
        os.mkdir(tmp_path / "work")
        with mount.fsopen("overlay") as fs:
            for lower in (one, two):
                mount.fsconfig_set_string(fs, "lowerdir+", lower)
            mount.fsconfig_set_string(fs, b"upperdir", os.fsencode(upper))
            mount.fsconfig_set_string(fs, "workdir", os.fsdecode(tmp_path / "work"))
            mount.fsconfig_create(fs)
            with mount.fsmount(fs) as tree:
                mount.move_mount(tree, "", None, target, EMPTY)
        assert sorted(os.listdir(target)) == ["one", "two", "upper"]
        assert on(target).super_option(b"lowerdir+") == [os.fsencode(one), os.fsencode(two)]
        assert statfs(target).type == FsMagic.OVERLAYFS

    privately(work)


def test_the_kernels_own_words_are_in_the_note(tmp_path: Path) -> None:
    def work() -> None:
        with mount.fsopen("overlay") as fs:
            with pytest.raises(OSError) as value:
                mount.fsconfig_set_string(fs, "xino", "perhaps")
            assert (value.value.errno, value.value.filename) == (errno.EINVAL, "perhaps")
            (note,) = value.value.__notes__
            assert note.startswith("fsconfig(2) xino: overlay: ")
            assert "xino" in note.removeprefix("fsconfig(2) xino: ")
            with pytest.raises(OSError) as key:
                mount.fsconfig_set_flag(fs, "no_such_option")
            assert "no_such_option" in key.value.__notes__[0].removeprefix("fsconfig(2) no_such_option")
            with pytest.raises(OSError) as early:
                mount.fsmount(fs)
            assert early.value.errno in {errno.EBUSY, errno.EINVAL}
        with mount.fsopen("ext4") as fs:
            mount.fsconfig_set_string(fs, "source", "/no/such/device")
            with pytest.raises(OSError) as create:
                mount.fsconfig_create(fs)
            assert create.value.errno == errno.ENOENT
            assert create.value.__notes__[0].startswith("fsconfig(2) create: /no/such/device: ")
        with mount.fsopen("overlay") as fs, pytest.raises(OSError) as long:
            mount.fsconfig_set_string(fs, "lowerdir+", os.fsdecode(tmp_path) + "/" + "x" * 250)
        assert long.value.errno == errno.EINVAL
        assert "fsconfig takes 255" in long.value.__notes__[0]

    privately(work)


def test_options_of_other_kinds() -> None:
    def work() -> None:
        with mount.fsopen("tmpfs") as fs:
            mount.fsconfig_set_flag(fs, "inode64")
            with pytest.raises(OSError) as closed:
                mount.fsconfig_set_fd(fs, "size", 10**6)
            assert closed.value.errno == errno.EBADF
            assert closed.value.__notes__ == ["fsconfig(2) size=fd 1000000"]
            with open_("/dev/null", os.O_RDONLY) as null, pytest.raises(OSError) as wrong:
                mount.fsconfig_set_fd(fs, "size", null)
            assert wrong.value.errno == errno.EINVAL

    privately(work)


def test_an_option_that_is_a_descriptor(target: str, tmp_path: Path) -> None:
    def work() -> None:
        lowers = layers(os.fsdecode(tmp_path), "one", "two")
        with mount.fsopen("overlay") as fs:
            try:
                for lower in lowers:
                    with open_(lower, DIRECTORY) as directory:
                        mount.fsconfig_set_fd(fs, "lowerdir+", directory)
            except OSError as error:
                # Overlay takes descriptors since 6.13; before, the kernel says so.
                assert error.errno == errno.EINVAL
                assert error.__notes__[0].startswith("fsconfig(2) lowerdir+=fd ")
                return
            mount.fsconfig_create(fs)
            with mount.fsmount(fs) as tree:
                mount.move_mount(tree, "", None, target, EMPTY)
        assert sorted(os.listdir(target)) == ["one", "two"]

    privately(work)


def test_bind_read_only(target: str, tmp_path: Path) -> None:
    def work() -> None:
        flags = OpenTreeFlag.CLONE | OpenTreeFlag.RECURSIVE
        with mount.open_tree(None, os.fsencode(tmp_path), flags) as tree:
            mount.mount_setattr(
                tree, "", OpenTreeFlag.EMPTY_PATH | OpenTreeFlag.RECURSIVE, set=MountAttr.RDONLY | MountAttr.NODEV
            )
            mount.move_mount(tree, "", None, target, EMPTY)
        with pytest.raises(OSError) as caught:
            os.mkdir(target + "/x")
        assert caught.value.errno == errno.EROFS
        os.mkdir(tmp_path / "x")
        assert "x" in os.listdir(target)
        mount.mount_setattr(None, target, clear=MountAttr.RDONLY)
        os.rmdir(target + "/x")
        options = on(target).options.split(b",")
        assert b"rw" in options
        assert b"nodev" in options

    privately(work)


def test_access_times_are_a_field(target: str) -> None:
    def work() -> None:
        with tmpfs(MountAttr.NOATIME) as tree:
            mount.move_mount(tree, "", None, target, EMPTY)
        assert b"noatime" in on(target).options.split(b",")
        mount.mount_setattr(None, target, clear=MountAttr.ATIME)
        assert b"relatime" in on(target).options.split(b",")
        with pytest.raises(OSError) as caught:
            mount.mount_setattr(None, target, set=MountAttr.NOATIME)
        assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, target)

    privately(work)


def test_propagation(target: str) -> None:
    def work() -> None:
        with tmpfs() as tree:
            mount.move_mount(tree, "", None, target, EMPTY)
        assert not on(target).shared
        mount.mount_setattr(None, target, propagation=MountFlag.SHARED)
        assert on(target).shared
        with open_(target, DIRECTORY) as directory:
            mount.mount_setattr(directory, "", OpenTreeFlag.EMPTY_PATH, propagation=MountFlag.UNBINDABLE)
        assert on(target).optional == (b"unbindable",)
        with pytest.raises(OSError) as caught:
            mount.open_tree(None, target, OpenTreeFlag.CLONE)
        assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, target)

    privately(work)


def test_move_an_attached_mount(target: str, tmp_path: Path) -> None:
    def work() -> None:
        other = os.fsdecode(tmp_path / "other")
        os.mkdir(other)
        mount.mount("nothing", target, "tmpfs")
        with open_(os.fsdecode(tmp_path), DIRECTORY) as start, open_(other, DIRECTORY) as end:
            mount.move_mount(start, "target", end, "", MoveMountFlag.T_EMPTY_PATH)
        assert is_mounted(other)
        assert not is_mounted(target)
        with pytest.raises(OSError) as caught:
            mount.move_mount(None, target, None, other)
        assert (caught.value.errno, caught.value.filename, caught.value.filename2) == (errno.EINVAL, target, other)

    privately(work)


def test_idmapped(target: str) -> None:
    """Files of user 0 are those of user 1000 through a mapped copy of their mount."""

    def work() -> None:
        pid, pidfd = clone3(CloneFlag.NEWUSER | CloneFlag.PIDFD)
        if pid == 0:
            signal.pause()
            os._exit(0)
        assert pidfd is not None
        for kind in ("uid_map", "gid_map"):
            with open_(f"/proc/{pid}/{kind}", os.O_WRONLY) as file:
                os.write(file.fileno(), b"0 1000 10\n")
        with open_(f"/proc/{pid}/ns/user", os.O_RDONLY) as users, tmpfs() as tree:
            os.mkdir("made", dir_fd=tree.fileno())
            mount.mount_setattr(tree, "", OpenTreeFlag.EMPTY_PATH, set=MountAttr.IDMAP, userns_fd=users)
            mount.move_mount(tree, "", None, target, EMPTY)
        pidfd_send_signal(pidfd, signal.SIGKILL)
        pidfd.close()
        os.waitpid(pid, 0)
        assert os.stat(target + "/made").st_uid == 1000
        assert b"idmapped" in on(target).options.split(b",")

    privately(work)


def test_pivot_root(target: str) -> None:
    def work() -> None:
        with tmpfs() as tree:
            mount.move_mount(tree, "", None, target, EMPTY)
        os.mkdir(target + "/marker")
        os.chdir(target)
        mount.pivot_root(".", ".")
        mount.umount2(".", UmountFlag.DETACH)
        os.chdir("/")
        assert os.listdir("/") == ["marker"]

    privately(work)


def test_pivot_root_says_what_failed(target: str) -> None:
    def work() -> None:
        with pytest.raises(OSError) as caught:
            mount.pivot_root(target, target)
        assert caught.value.errno in {errno.EINVAL, errno.EBUSY}
        assert (caught.value.filename, caught.value.filename2) == (target, target)
        assert caught.value.__notes__ == ["pivot_root(2)"]

    privately(work)


def test_descriptors_are_not_inherited(target: str) -> None:
    def work() -> None:
        with (
            mount.fsopen("tmpfs") as fs,
            mount.fspick(None, "/proc") as picked,
            mount.open_tree(None, target) as opened,
            tmpfs() as tree,
        ):
            for owner in (fs, picked, opened, tree):
                assert not os.get_inheritable(owner.fileno())

    privately(work)
