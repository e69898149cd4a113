"""Realising :class:`~cowstore.model.Mount` values: detached, private, through the calls that work by descriptor.

A tree is made detached: it is in no mount table, nobody else can see it, and it goes with its last descriptor, however
the process ends. :func:`attach` gives it a place. Where the kernel is too old for that (overlay before Linux 6.7 takes
its layers only as one text of a page; before 6.15 a detached tree can neither be a layer nor be copied from) the same
is done in a mount namespace of a thread's own: :mod:`cowstore.mounting._workshop`.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import contextmanager

from cowstore._linux.fd import Descriptor, open_
from cowstore._linux.mount import (
    FspickFlag,
    MountAttr,
    MountFlag,
    MoveMountFlag,
    OpenTreeFlag,
    UmountFlag,
    fsconfig_create,
    fsconfig_reconfigure,
    fsconfig_set_flag,
    fsconfig_set_string,
    fsmount,
    fsopen,
    fspick,
    mount_setattr,
    move_mount,
    open_tree,
    umount2,
)
from cowstore.model import STACKED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from cowstore.model import Mount

__all__ = ["attach", "copy_of", "detach", "detached", "place"]

_VALUE_MAX = 255
"""Bytes of one option value that fsconfig(2) takes."""

_LAYERS = frozenset((b"lowerdir+", b"datadir+", b"upperdir", b"workdir"))
"""Overlay's options whose value is a directory."""

_AWKWARD = b"\\:,"
"""Bytes that one kernel or another takes for an escape or a separator in the path of a layer."""

_ATTRIBUTES = (
    (1, MountAttr.RDONLY),
    (2, MountAttr.NOSUID),
    (4, MountAttr.NODEV),
    (8, MountAttr.NOEXEC),
    (1024, MountAttr.NOATIME),
)
_REMOUNT = 32

# Plain numbers: making a flag out of two costs as much as a system call.
_CLONE = OpenTreeFlag.CLONE
_EMPTY = OpenTreeFlag.EMPTY_PATH
_CLONE_EMPTY = OpenTreeFlag.CLONE | OpenTreeFlag.EMPTY_PATH

takes_single_layers: bool | None = None
"""Whether overlay knows ``lowerdir+`` here (Linux 6.7); None until it matters. A test may set it."""

copies_detached: bool | None = None
"""Whether a detached tree can be copied from, and so be a layer, here (Linux 6.15); None until it matters."""


def detached(mounts: Iterable[Mount]) -> Descriptor:
    """Realise *mounts* as one detached, private tree.

    :returns: an O_PATH descriptor of its root directory (reopen ``"."`` to list it). Nothing is mounted any more once
        it, and all that was opened below it, is closed.
    :raises OSError: as the kernel's calls; the note holds the kernel's own words.
    """
    steps = tuple(mounts)
    if not steps:
        raise ValueError("no mounts: there is nothing to realise")
    if _is_known_to_fail(steps):
        return _in_workshop(steps)
    trees: list[Descriptor] = []
    try:
        for step in steps:
            trees.append(realise(step, trees))
        if steps[0].type == "aufs":
            from cowstore.mounting import aufs

            aufs.verify(steps, trees[-1])
    except OSError as error:
        close_all(trees)
        if error.errno == errno.EINVAL and _is_too_much(steps):
            return _in_workshop(steps)
        raise
    except BaseException:
        close_all(trees)
        raise
    if len(trees) > 1:
        close_all([tree for tree in trees if tree is not trees[-1]])
    return trees[-1]


def close_all(descriptors: Iterable[Descriptor]) -> None:
    """Close descriptors, of which some may be one."""
    for descriptor in descriptors:
        descriptor.close()


def attach(mounts: Iterable[Mount], target: str | bytes) -> None:
    """Realise *mounts* and mount the tree at the directory *target*, seen by no other mount namespace.

    Where mounts made at *target* would appear in other namespaces too (systemd makes the whole machine so), a pad is
    put between: an unreadable bind mount of the directory on itself, which is what appears there instead.

    :raises OSError: as :func:`detached` and move_mount(2); nothing is mounted then.
    """
    steps = tuple(mounts)
    if steps and all(step.type == "aufs" for step in steps):
        from cowstore.mounting import aufs

        held: list[Descriptor] = []
        try:
            calls = aufs.calls_of(steps, held)
            if calls is not None:
                with _padded(target):
                    aufs.mount_at(steps, calls, target)
                return
        finally:
            close_all(held)
    with detached(steps) as tree:
        place(tree, target)


def copy_of(mounted: str | bytes) -> Descriptor:
    """Return a detached copy of the mount at *mounted*: the same tree once more, not another realisation of it.

    :raises OSError: as open_tree(2).
    """
    return open_tree(None, mounted, OpenTreeFlag.CLONE | OpenTreeFlag.CLOEXEC)


def place(tree: Descriptor, target: str | bytes) -> None:
    """Mount a detached tree at the directory *target*, as :func:`attach` does."""
    with _padded(target):
        move_mount(tree, b"", None, target, MoveMountFlag.F_EMPTY_PATH)


@contextmanager
def _padded(target: str | bytes) -> Iterator[None]:
    """See to it that what the block mounts at *target* is seen by no other mount namespace."""
    padded = _is_shared(target) and _pad(target)
    try:
        yield
    except BaseException:
        if padded:
            umount2(target, UmountFlag.NOFOLLOW)
        raise


def detach(target: str | bytes, *, patience_seconds: float = 0.1) -> bool:
    """Unmount what :func:`attach` mounted at *target*; nothing happens where nothing is mounted.

    A tree that stays busy for *patience_seconds* is taken off its place all the same, and ends with its last user.

    :returns: whether it has ended.
    :raises OSError: as umount2(2), EBUSY excepted.
    """
    ended = True
    deadline = 0.0
    while True:
        try:
            umount2(target, UmountFlag.NOFOLLOW)
            break
        except OSError as error:
            if error.errno == errno.EINVAL:
                return ended
            if error.errno != errno.EBUSY:
                raise
            now = time.monotonic()
            deadline = deadline or now + patience_seconds
            if now >= deadline:
                umount2(target, UmountFlag.NOFOLLOW | UmountFlag.DETACH)
                ended = False
                break
            time.sleep(0.005)
    if _is_pad(target):
        umount2(target, UmountFlag.NOFOLLOW | UmountFlag.DETACH)
    return ended


def realise(step: Mount, trees: Sequence[Descriptor]) -> Descriptor:
    """Do one step on the *trees* that those before have made, and return what is the tree after it."""
    if step.flags & _REMOUNT:
        if not trees:
            raise ValueError("a remount needs a mount before it")
        _reconfigure(step, trees[-1])
        return trees[-1]
    if step.type == "bind":
        made = open_tree(None, step.source, _CLONE)
        try:
            mount_setattr(made, b"", _EMPTY, set=attributes(step), propagation=MountFlag.PRIVATE)
        except BaseException:
            made.close()
            raise
    else:
        made = _new(step, trees)
    if step.subdir is None:
        return made
    with made:
        return open_tree(made, step.subdir, _CLONE)


def attributes(step: Mount) -> MountAttr:
    """Translate the flags of a step for fsmount(2) and mount_setattr(2)."""
    wanted = MountAttr.NONE
    if step.flags:
        for flag, attribute in _ATTRIBUTES:
            if step.flags & flag:
                wanted |= attribute
    return wanted


def _new(step: Mount, trees: Sequence[Descriptor]) -> Descriptor:
    """Make a file system and a detached mount of it."""
    held: list[Descriptor] = []
    try:
        with fsopen(step.type) as fs:
            if step.source:
                fsconfig_set_string(fs, b"source", step.source)
            for name, value in _options(step, held):
                if not value:
                    fsconfig_set_flag(fs, name)
                elif name in _LAYERS:
                    fsconfig_set_string(fs, name, layer(value, trees, held))
                else:
                    fsconfig_set_string(fs, name, value)
            fsconfig_create(fs)
            made = fsmount(fs, attributes(step))
    finally:
        close_all(held)
    if step.type == "xfs":
        from cowstore.mounting import xfs

        try:
            xfs.fail_soon(made)
        except BaseException:
            made.close()
            raise
    return made


def layer(value: bytes, trees: Sequence[Descriptor], held: list[Descriptor]) -> bytes:
    """Return a path by which the kernel can be told a layer; what must stay open meanwhile goes to *held*."""
    if value[:1] == STACKED:
        tree, path = below(value, trees)
        return b"/proc/self/fd/%d%s" % (tree.fileno(), path and b"/" + path)
    if len(value) <= _VALUE_MAX and not any(byte in value for byte in _AWKWARD):
        return value
    held.append(open_(value, os.O_PATH | os.O_DIRECTORY))
    return b"/proc/self/fd/%d" % held[-1].fileno()


def below(value: bytes, trees: Sequence[Descriptor]) -> tuple[Descriptor, bytes]:
    """Return the tree that a stacked layer stands for, and the path in it."""
    if not trees:
        raise ValueError("a stacked layer needs a mount before it")
    step, _, path = value[1:].partition(b"/")
    return trees[int(step) if step else -1], path


def _options(step: Mount, held: list[Descriptor]) -> Sequence[tuple[bytes, bytes]]:
    """Return the options of a step, AUFS' branches as it can be told them; see :func:`layer` for *held*."""
    if step.type != "aufs":
        return step.options
    from cowstore.mounting import aufs

    return aufs.options_of(step, held)


def _reconfigure(step: Mount, tree: Descriptor) -> None:
    """Change the options of the file system that *tree* is of."""
    held: list[Descriptor] = []
    try:
        with fspick(tree, b"", FspickFlag.EMPTY_PATH) as fs:
            for name, value in _options(step, held):
                if value:
                    fsconfig_set_string(fs, name, value)
                else:
                    fsconfig_set_flag(fs, name)
            fsconfig_reconfigure(fs)
    finally:
        close_all(held)


# What older kernels need.


def _is_known_to_fail(steps: tuple[Mount, ...]) -> bool:
    """Tell whether this kernel was found to be too old for *steps*."""
    return (takes_single_layers is False and any(step.type == "overlay" for step in steps)) or (
        copies_detached is False and any(_builds_on_detached(step) for step in steps)
    )


def _is_too_much(steps: tuple[Mount, ...]) -> bool:
    """Find out, after a refusal, whether this kernel is too old for *steps*, or the refusal means something else."""
    global takes_single_layers, copies_detached
    if takes_single_layers is None and any(step.type == "overlay" for step in steps):
        takes_single_layers = _takes_single_layers()
    if copies_detached is None and any(_builds_on_detached(step) for step in steps):
        copies_detached = _copies_detached()
    return _is_known_to_fail(steps)


def _builds_on_detached(step: Mount) -> bool:
    return step.subdir is not None or any(value[:1] == STACKED for _, value in step.options)


def _takes_single_layers() -> bool:
    """Try ``lowerdir+``.

    Older kernels either do not know the option or, where mount(2) is behind it, swallow anything until the end.
    """
    with fsopen(b"overlay") as fs:
        try:
            fsconfig_set_string(fs, b"lowerdir+", b"/proc/self/fd/-1")
        except OSError as error:
            return error.errno != errno.EINVAL
    return False


def _copies_detached() -> bool:
    """Try to copy a detached tree."""
    with fsopen(b"tmpfs") as fs:
        fsconfig_create(fs)
        with fsmount(fs) as made:
            try:
                open_tree(made, b"", _CLONE_EMPTY).close()
            except OSError:
                return False
    return True


def _in_workshop(steps: tuple[Mount, ...]) -> Descriptor:
    global takes_single_layers
    from cowstore.mounting import _workshop

    if takes_single_layers is None:
        takes_single_layers = _takes_single_layers()
    return _workshop.realised(steps, lowerdir_plus=takes_single_layers)


# Propagation.

_PAD = (
    MountAttr.RDONLY | MountAttr.NOSUID | MountAttr.NODEV | MountAttr.NOEXEC | MountAttr.NODIRATIME | MountAttr.NOATIME
)
_PAD_SHOWS = os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | os.ST_NODIRATIME | os.ST_NOATIME

_shared: dict[tuple[str | bytes, int], bool] = {}
"""Whether mounts made below a directory appear elsewhere, by directory and mount namespace."""


def _is_shared(target: str | bytes) -> bool:
    """Tell whether a mount made at *target* would appear in other mount namespaces.

    Reading the mount table takes longer than mounting: the answer is kept for all targets of one directory.
    """
    parent = os.path.dirname(os.path.abspath(target))
    key = (parent, os.stat("/proc/thread-self/ns/mnt").st_ino)
    known = _shared.get(key)
    if known is None:
        from cowstore._linux.procfs import mountinfo

        with open_(target, os.O_PATH | os.O_DIRECTORY) as place:
            here = _mount_id(place)
        entry = next((entry for entry in mountinfo("/proc/thread-self/mountinfo") if entry.mount_id == here), None)
        known = entry is not None and entry.shared
        if len(_shared) >= 64:
            _shared.clear()
        _shared[key] = known
    return known


def _mount_id(place: Descriptor) -> int:
    """Tell which mount a descriptor is on."""
    with open(f"/proc/thread-self/fdinfo/{place.fileno()}", "rb") as file:
        for line in file:
            name, _, value = line.partition(b":")
            if name == b"mnt_id":
                return int(value)
    return -1


def _pad(target: str | bytes) -> bool:
    """Put a private bind mount of *target* over it."""
    with open_tree(None, target, _CLONE) as pad:
        move_mount(pad, b"", None, target, MoveMountFlag.F_EMPTY_PATH)
    try:
        mount_setattr(None, target, set=_PAD, clear=MountAttr.ATIME, propagation=MountFlag.PRIVATE)
    except BaseException:
        umount2(target, UmountFlag.NOFOLLOW)
        raise
    return True


def _is_pad(target: str | bytes) -> bool:
    """Tell whether what is mounted at *target* is a pad of ours: nobody else has use for all these restrictions."""
    return os.statvfs(target).f_flag & _PAD_SHOWS == _PAD_SHOWS
