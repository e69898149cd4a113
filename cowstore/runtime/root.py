"""Steps that make the root: the snapshot's own mounts, what is mounted into it, and the change of root.

The launcher opens what is this machine's, as trees that are mounted nowhere. Process 1 mounts them in its own mount
namespace, with which they go, however it ends.
"""

from __future__ import annotations

import errno
import os

from cowstore._linux.fd import open_
from cowstore._linux.mount import (
    MountAttr,
    MountFlag,
    MoveMountFlag,
    OpenTreeFlag,
    UmountFlag,
    fsconfig_create,
    fsconfig_set_flag,
    fsconfig_set_string,
    fsmount,
    fsopen,
    mount_setattr,
    move_mount,
    open_tree,
    pivot_root,
    umount2,
)
from cowstore.mounting import detached
from cowstore.runtime.inside import is_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore._linux._call import Fd
    from cowstore._linux.fd import Descriptor
    from cowstore.model import Mount
    from cowstore.runtime.binds import Bind
    from cowstore.runtime.inside import Inside

_NEXT = "root"
"""Where on the stage the root is mounted until it takes the stage's place."""

SECURED = MountAttr.NOSUID | MountAttr.NODEV | MountAttr.NOEXEC
_BY_DESCRIPTOR = MoveMountFlag.F_EMPTY_PATH | MoveMountFlag.T_EMPTY_PATH


def make_file_system(
    kind: str, options: tuple[tuple[str, str], ...] = (), attrs: MountAttr = MountAttr.NONE
) -> Descriptor:
    """Make a detached mount of a new file system.

    :param options: pairs of name and value; an empty value makes the option a flag.
    """
    with fsopen(kind) as context:
        fsconfig_set_string(context, "source", kind)
        for name, value in options:
            if value:
                fsconfig_set_string(context, name, value)
            else:
                fsconfig_set_flag(context, name)
        fsconfig_create(context)
        return fsmount(context, attrs)


def attach(mount: Fd, place: Fd) -> None:
    """Attach a detached mount at a directory or file, both given by descriptor."""
    move_mount(mount, "", place, "", _BY_DESCRIPTOR)


def separate_mounts(inside: Inside) -> None:  # noqa: ARG001  # every step has the same signature
    """Cut this namespace's mounts off from those outside, in both directions."""
    try:
        mount_setattr(None, "/", OpenTreeFlag.RECURSIVE, propagation=MountFlag.PRIVATE)
    except OSError as error:
        if error.errno == errno.EINVAL:
            error.add_note(
                "this runs in a chroot whose directory is no mount point: mount it on itself before "
                "(mount --bind DIR DIR)"
            )
        raise


def open_binds(inside: Inside, *, binds: tuple[Bind, ...]) -> None:
    """Take copies of what is to be bound, while this machine's own tree is still the root."""
    for number, bind in enumerate(binds):
        if bind.mounts and _realise(inside, number, bind):
            continue
        flags = OpenTreeFlag.CLONE | (OpenTreeFlag.RECURSIVE if bind.recursive else OpenTreeFlag.NONE)
        tree = open_tree(None, bind.source, flags)
        inside.tree[f"bind {number}"] = tree
        wanted = MountAttr.NOSUID | MountAttr.NODEV | (MountAttr.RDONLY if bind.read_only else MountAttr.NONE)
        recursive = OpenTreeFlag.RECURSIVE if bind.recursive else OpenTreeFlag.NONE
        mount_setattr(tree, "", OpenTreeFlag.EMPTY_PATH | recursive, set=wanted, propagation=MountFlag.PRIVATE)


def _realise(inside: Inside, number: int, bind: Bind) -> bool:
    """Realise the mounts of a bind; False where the kernel refuses, which a warning says."""
    from cowstore.mounting import detached

    try:
        tree = detached(bind.mounts)
    except OSError as error:
        inside.warnings.append(f"{bind.source} is shown read-only: {error.strerror} (something is mounted below it)")
        return False
    mount_setattr(tree, "", OpenTreeFlag.EMPTY_PATH, set=MountAttr.NOSUID | MountAttr.NODEV)
    inside.tree[f"bind {number}"] = tree
    return True


def realise_root(inside: Inside, *, mounts: tuple[Mount, ...], read_only: bool, held: bool) -> None:
    """Realise the snapshot: a tree that is mounted nowhere, and goes with its last descriptor.

    :param held: the launcher keeps one itself, so that the tree stays mounted whatever happens inside.
    """
    root = detached(mounts)
    inside.tree["root"] = root
    # Device nodes of an image are files like others: the devices are those of our own /dev.
    wanted = MountAttr.NODEV | (MountAttr.RDONLY if read_only else MountAttr.NONE)
    mount_setattr(root, "", OpenTreeFlag.EMPTY_PATH, set=wanted)
    if held:
        inside.held = open_(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=root)


# The stage: what process 1 stands on until it gets a root. It holds nothing of this machine.


def make_stage(inside: Inside) -> None:
    """Put an empty file system in memory over this namespace's root directory."""
    stage = make_file_system("tmpfs", (("mode", "755"), ("size", "64k")), SECURED)
    inside.take_root(stage)
    os.mkdir(_NEXT, 0o700, dir_fd=stage.fileno())
    # Process 1 still stands on what lies below.
    move_mount(stage, "", None, "/", MoveMountFlag.F_EMPTY_PATH)


def make_proc(inside: Inside) -> None:
    """Mount a fresh /proc of the new process namespace."""
    with inside.plain_directory("proc") as place:
        try:
            proc = make_file_system("proc", (), SECURED)
        except PermissionError as error:
            error.add_note(
                "the /proc outside is partly covered (as in a container), and the kernel shows no fuller one inside: "
                "run with the outer /proc uncovered (podman: --security-opt unmask=ALL)"
            )
            raise
        attach(proc, place)
    inside.tree["proc"] = proc


def make_sys(inside: Inside) -> None:
    """Mount /sys, read-only."""
    attrs = SECURED | MountAttr.RDONLY
    with inside.plain_directory("sys") as place:
        try:
            made = make_file_system("sysfs", (), attrs)
        except PermissionError:
            # It shows the network, and that of the machine belongs to no user namespace: what is there is shown.
            made = open_tree(None, "/sys", OpenTreeFlag.CLONE | OpenTreeFlag.RECURSIVE)
            mount_setattr(made, "", OpenTreeFlag.EMPTY_PATH | OpenTreeFlag.RECURSIVE, set=attrs)
        attach(made, place)
    inside.tree["sys"] = made


# Its own root.


def mount_root(inside: Inside) -> None:
    """Mount the snapshot, which the launcher has realised."""
    root = inside.tree.pop("root")
    move_mount(root, "", inside.root, _NEXT, MoveMountFlag.F_EMPTY_PATH)
    inside.take_root(root)


def mount_proc(inside: Inside) -> None:
    """Move /proc to the root."""
    _move(inside, "proc")


def mount_sys(inside: Inside) -> None:
    """Move /sys to the root."""
    _move(inside, "sys")


def mount_dev(inside: Inside) -> None:
    """Move /dev to the root."""
    _move(inside, "dev")


def _move(inside: Inside, name: str) -> None:
    """Move what was mounted ahead, with all that is mounted in it."""
    with inside.plain_directory(name) as place:
        attach(inside.tree[name], place)


def hide(inside: Inside, *, paths: tuple[str, ...]) -> None:
    """Cover directories of the root by an empty one that cannot be read or written."""
    for path in paths:
        place = inside.find(path, os.O_PATH | os.O_DIRECTORY)
        if place is None:
            continue
        attrs = SECURED | MountAttr.RDONLY
        with place, make_file_system("tmpfs", (("mode", "0"), ("size", "4096"), ("nr_inodes", "1")), attrs) as cover:
            attach(cover, place)


def bind(inside: Inside, *, binds: tuple[Bind, ...]) -> None:
    """Attach directories and files of this machine in the root."""
    for number, wanted in enumerate(binds):
        with inside.tree.pop(f"bind {number}") as tree:
            if wanted.only_over:
                found = inside.find(wanted.target)
                if found is None or is_directory(found) != is_directory(tree):
                    continue
                place = found
            else:
                place = inside.place(wanted.target, directory=is_directory(tree))
            with place:
                attach(tree, place)


def mount_tmpfs(inside: Inside, *, places: tuple[tuple[str, int | None], ...]) -> None:
    """Mount empty file systems in memory."""
    for path, size_bytes in places:
        options = [("mode", "1777")]
        if size_bytes is not None:
            options.append(("size", str(size_bytes)))
        attrs = MountAttr.NOSUID | MountAttr.NODEV
        with inside.place(path, directory=True) as place, make_file_system("tmpfs", tuple(options), attrs) as made:
            attach(made, place)


def enter_stage(inside: Inside) -> None:
    """Make the stage the root, and let go of this machine's own tree: of no mount of it one more is left here."""
    os.fchdir(inside.root)
    try:
        pivot_root(".", ".")
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        _chroot(inside)
        return
    # The old root lies on top of the new one now, at the same place; "." is the new one's.
    umount2(".", UmountFlag.DETACH)
    os.chdir("/")
    inside.entered = True


def pivot(inside: Inside) -> None:
    """Make the snapshot the root, and let go of the stage."""
    os.fchdir(inside.root)
    if inside.chrooted:
        os.chroot(".")
    else:
        pivot_root(".", ".")
        umount2(".", UmountFlag.DETACH)
    os.chdir("/")


def _chroot(inside: Inside) -> None:
    """Do as well as can be where the kernel's first root file system is the root: an initramfs cannot be pivoted away.

    The stage lies over the old root already. Every other mount of this machine is taken off below it, and the program
    is kept from chroot(2), the one way back.
    """
    from cowstore._linux.procfs import mountinfo

    for entry in reversed(mountinfo()):
        if entry.mount_point != b"/" and not entry.mount_point.startswith(b"/proc"):
            try:
                umount2(entry.mount_point, UmountFlag.DETACH)
            except OSError:
                continue  # below one that went already
    os.chroot(".")
    os.chdir("/")
    inside.entered = inside.chrooted = True
    inside.warnings.append(
        "the root could not be pivoted (this machine runs from an initramfs): used chroot(2), "
        "without CAP_SYS_CHROOT inside"
    )
