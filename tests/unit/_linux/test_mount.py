"""What of mounting can be told without the right to mount."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from typing import TYPE_CHECKING

import pytest

from cowstore._linux import mount

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from enum import IntFlag

FLAGS: dict[type[IntFlag], dict[str, int]] = {
    mount.MountFlag: {
        "RDONLY": 1 << 0,
        "NOSUID": 1 << 1,
        "NODEV": 1 << 2,
        "NOEXEC": 1 << 3,
        "REMOUNT": 1 << 5,
        "NOSYMFOLLOW": 1 << 8,
        "NOATIME": 1 << 10,
        "NODIRATIME": 1 << 11,
        "BIND": 1 << 12,
        "MOVE": 1 << 13,
        "REC": 1 << 14,
        "UNBINDABLE": 1 << 17,
        "PRIVATE": 1 << 18,
        "SLAVE": 1 << 19,
        "SHARED": 1 << 20,
        "RELATIME": 1 << 21,
        "STRICTATIME": 1 << 24,
    },
    mount.UmountFlag: {"FORCE": 1, "DETACH": 2, "EXPIRE": 4, "NOFOLLOW": 8},
    mount.OpenTreeFlag: {
        "CLONE": 1,
        "SYMLINK_NOFOLLOW": 0x100,
        "NO_AUTOMOUNT": 0x800,
        "EMPTY_PATH": 0x1000,
        "RECURSIVE": 0x8000,
        "CLOEXEC": os.O_CLOEXEC,
    },
    mount.MoveMountFlag: {
        "F_SYMLINKS": 0x1,
        "F_AUTOMOUNTS": 0x2,
        "F_EMPTY_PATH": 0x4,
        "T_SYMLINKS": 0x10,
        "T_AUTOMOUNTS": 0x20,
        "T_EMPTY_PATH": 0x40,
        "SET_GROUP": 0x100,
        "BENEATH": 0x200,
    },
    mount.FsmountFlag: {"CLOEXEC": 1},
    mount.MountAttr: {
        "RDONLY": 0x1,
        "NOSUID": 0x2,
        "NODEV": 0x4,
        "NOEXEC": 0x8,
        "NOATIME": 0x10,
        "STRICTATIME": 0x20,
        "ATIME": 0x70,
        "NODIRATIME": 0x80,
        "IDMAP": 0x100000,
        "NOSYMFOLLOW": 0x200000,
    },
    mount.FspickFlag: {"CLOEXEC": 1, "SYMLINK_NOFOLLOW": 2, "NO_AUTOMOUNT": 4, "EMPTY_PATH": 8},
}


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.__name__)
def test_flags_are_those_of_the_headers(flag: type[IntFlag]) -> None:
    members = {name: member.value for name, member in flag.__members__.items()}
    assert members == {"NONE": 0} | FLAGS[flag]
    assert "For the " in (flag.__doc__ or "")


def test_structure_is_that_of_the_header() -> None:
    assert ctypes.sizeof(mount.struct_mount_attr) == 32
    assert mount.struct_mount_attr.userns_fd.offset == 24


@pytest.fixture
def context() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of something read message by message, as a file system context is."""
    kernel, user = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    user.setblocking(False)
    with kernel, user:
        yield kernel, user


def test_messages_are_told_apart(context: tuple[socket.socket, socket.socket]) -> None:
    kernel, user = context
    for line in (b"e overlay: Bad value\n", b"w ext4: old\n", b"i xfs: fine\n", b"odd", b"e \xff\n"):
        kernel.send(line)
    assert mount.read_messages(user) == [
        "overlay: Bad value",
        "warning: ext4: old",
        "info: xfs: fine",
        "odd",
        "\\xff",
    ]
    assert mount.read_messages(user) == []


def test_error_holds_every_message(context: tuple[socket.socket, socket.socket]) -> None:
    kernel, user = context
    kernel.send(b"w overlay: first\n")
    kernel.send(b"e overlay: second\n")
    with pytest.raises(OSError) as caught:
        mount.fsconfig_set_string(user, "xino", "perhaps")
    assert caught.value.errno == errno.EINVAL, "a socket is no context"
    assert caught.value.filename == "perhaps"
    assert caught.value.__notes__ == ["fsconfig(2) xino: warning: overlay: first; overlay: second"]


def test_error_without_messages_names_what_was_done(context: tuple[socket.socket, socket.socket]) -> None:
    _, user = context
    for call, note in (
        (lambda: mount.fsconfig_set_flag(user, "ro"), "fsconfig(2) ro"),
        (lambda: mount.fsconfig_set_fd(user, "fd", 0), "fsconfig(2) fd=fd 0"),
        (lambda: mount.fsconfig_create(user), "fsconfig(2) create"),
        (lambda: mount.fsconfig_reconfigure(user), "fsconfig(2) reconfigure"),
        (lambda: mount.fsmount(user), "fsmount(2)"),
    ):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno in {errno.EINVAL, errno.EPERM}
        assert caught.value.__notes__ == [note]


def test_a_value_too_long_is_named_as_the_cause(context: tuple[socket.socket, socket.socket]) -> None:
    _, user = context
    with pytest.raises(OSError) as caught:
        mount.fsconfig_set_string(user, "lowerdir+", "/" + "x" * 255)
    assert caught.value.__notes__ == ["fsconfig(2) lowerdir+: a value of 256 bytes; fsconfig takes 255"]


@pytest.mark.parametrize("call", [mount.fsconfig_create, mount.fsconfig_reconfigure])
def test_an_interrupted_context_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, context: tuple[socket.socket, socket.socket], call: Callable[[socket.socket], None]
) -> None:
    """The kernel answers EBUSY to the second attempt, which would hide what happened."""
    codes = [errno.EINTR, errno.EBUSY]

    def interrupted(*_: object) -> int:
        ctypes.set_errno(codes.pop(0))
        return -1

    monkeypatch.setattr(mount, "_fsconfig", interrupted)
    with pytest.raises(InterruptedError):
        call(context[1])


def test_mount_data_is_never_cut() -> None:
    """A list of overlay's lower directories cut at 4096 bytes made mount(2) answer ENOENT, of a path nobody gave."""
    with pytest.raises(OSError) as caught:
        mount.mount("overlay", "/nowhere", "overlay", data="lowerdir=" + "x" * 4087)
    assert caught.value.errno == errno.E2BIG
    assert caught.value.__notes__ == ["mount(2) 4096 bytes of options; the kernel takes 4095"]
    with pytest.raises(OSError) as fits:
        mount.mount("overlay", "/nowhere", "overlay", data="lowerdir=" + "x" * 4086)
    assert fits.value.errno != errno.E2BIG


def test_errors_name_both_paths() -> None:
    with pytest.raises(OSError) as caught:
        mount.mount("/source", "/no/target", None, mount.MountFlag.BIND)
    assert caught.value.errno in {errno.ENOENT, errno.EPERM}
    assert (caught.value.filename, caught.value.filename2) == ("/source", "/no/target")
    with pytest.raises(OSError) as moved:
        mount.move_mount(None, "/from", None, b"/to")
    assert moved.value.errno in {errno.ENOENT, errno.EPERM}
    assert (moved.value.filename, moved.value.filename2) == ("/from", b"/to")


def test_errors_name_the_call() -> None:
    for call, name in (
        (lambda: mount.umount2("/no/such"), "umount2(2)"),
        (lambda: mount.pivot_root("/no/new", "/no/old"), "pivot_root(2)"),
        (lambda: mount.fsopen("no-such-type"), "fsopen(2)"),
        (lambda: mount.fspick(None, "/no/such"), "fspick(2)"),
        (lambda: mount.open_tree(None, "/no/such"), "open_tree(2)"),
        (lambda: mount.mount_setattr(None, "/no/such", set=mount.MountAttr.RDONLY), "mount_setattr(2)"),
        (lambda: mount.mount(None, "/no/such", "tmpfs"), "mount(2) type tmpfs"),
    ):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno in {errno.ENOENT, errno.EPERM, errno.ENODEV}
        assert caught.value.filename is not None
        assert caught.value.__notes__ == [name]


def test_nul_is_refused() -> None:
    for call in (
        lambda: mount.mount("a\0", "/t", "tmpfs"),
        lambda: mount.mount("a", b"/t\0x", "tmpfs"),
        lambda: mount.umount2("/\0"),
        lambda: mount.fsopen("tmpfs\0"),
        lambda: mount.fsconfig_set_string(0, "key", b"a\0"),
    ):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EINVAL
