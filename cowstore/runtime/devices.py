"""Steps that make /dev: a file system of its own with the few devices every program expects."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct

from cowstore._linux._call import oserror
from cowstore._linux.fd import Descriptor
from cowstore._linux.mount import MountAttr, MoveMountFlag, OpenTreeFlag, move_mount, open_tree
from cowstore.runtime import messages
from cowstore.runtime.root import SECURED, attach, make_file_system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore.runtime.inside import Inside

DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
"""Name, major and minor number of what is in /dev. Source: the kernel's admin-guide/devices.txt."""

LINKS = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)
TIOCSPTLCK, TIOCGPTPEER, TIOCSCTTY = 0x40045431, 0x5441, 0x540E
"""Requests about terminals. Source: include/uapi/asm-generic/ioctls.h."""

_TTY_GROUP = "5"  # gid of `tty` in every distribution, and what devpts is mounted with by all of them


def make_dev(inside: Inside) -> None:
    """Mount a fresh /dev with its standard devices, links, terminals, shared memory and message queues."""
    attrs = MountAttr.NOSUID | MountAttr.NOEXEC
    with inside.plain_directory("dev") as place:
        dev = make_file_system("tmpfs", (("mode", "755"), ("size", "65536k"), ("nr_inodes", "1024")), attrs)
        inside.tree["dev"] = dev
        here = dev.fileno()
        numbers = {name: os.makedev(major, minor) for name, major, minor in DEVICES}
        shown = [name for name, number in numbers.items() if not _make_device(here, name, number)]
        for name, target in LINKS:
            os.symlink(target, name, dir_fd=here)
        for name in ("pts", "shm", "mqueue"):
            os.mkdir(name, 0o755, dir_fd=here)
        attach(dev, place)
    for name in shown:
        _show_device(here, name, numbers[name])
    _mount_terminals(here)
    _mount_at(here, "shm", "tmpfs", (("mode", "1777"), ("size", "65536k")), SECURED)
    _mount_at(here, "mqueue", "mqueue", (), SECURED, optional=True)


def _mount_terminals(here: int) -> None:
    options = (("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"))
    attrs = MountAttr.NOSUID | MountAttr.NOEXEC
    try:
        _mount_at(here, "pts", "devpts", (*options, ("gid", _TTY_GROUP)), attrs)
    except OSError as error:
        # A user namespace that maps one id knows no such group.
        if error.errno != errno.EINVAL:
            raise
        _mount_at(here, "pts", "devpts", options, attrs)


def _make_device(here: int, name: str, number: int) -> bool:
    """Make a device node; False where the kernel lets nobody make one: in a user namespace."""
    try:
        os.mknod(name, stat.S_IFCHR | 0o666, number, dir_fd=here)
    except PermissionError:
        return False
    return True


def _show_device(here: int, name: str, number: int) -> None:
    """Show this machine's own device.

    :raises OSError: ENODEV, what this machine has there is something else.
    """
    with open_tree(None, f"/dev/{name}", OpenTreeFlag.CLONE) as outer:
        found = os.stat(outer.fileno())
        if not stat.S_ISCHR(found.st_mode) or found.st_rdev != number:
            raise oserror("open_tree(2)", f"/dev/{name}", detail="not the device of that name", code=errno.ENODEV)
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=here))
        move_mount(outer, "", here, name, MoveMountFlag.F_EMPTY_PATH)


def open_terminal(inside: Inside) -> None:
    """Open a terminal of the container's own, and hand its other end to the launcher."""
    dev = inside.tree["dev"].fileno()
    flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
    master = os.open("pts/ptmx", flags, dir_fd=dev)
    fcntl.ioctl(master, TIOCSPTLCK, struct.pack("i", 0))
    # By descriptor: the peer of this very master, whatever names there are.
    inside.terminal = Descriptor(fcntl.ioctl(master, TIOCGPTPEER, flags))
    messages.send(inside.status, messages.TERMINAL, master)
    taken = os.read(inside.control, 1)
    os.close(master)
    if not taken:
        os._exit(125)  # the launcher is gone


def take_terminal(inside: Inside) -> None:
    """Make the terminal the program's own: controlling its session, and its three standard streams."""
    assert inside.terminal is not None, "process 1 has opened it"
    fd = inside.terminal.fileno()
    fcntl.ioctl(fd, TIOCSCTTY, 0)
    for standard in (0, 1, 2):
        os.dup2(fd, standard)
    inside.terminal.close()


def _mount_at(
    dev: int, name: str, kind: str, options: tuple[tuple[str, str], ...], attrs: MountAttr, *, optional: bool = False
) -> None:
    place = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dev)
    try:
        with make_file_system(kind, options, attrs) as made:
            attach(made, place)
    except OSError:
        # A kernel without POSIX message queues has no such file system.
        if not optional:
            raise
    finally:
        os.close(place)
