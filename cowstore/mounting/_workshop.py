"""Realising mounts in a mount namespace of a thread's own, where they can be attached without anybody seeing them.

For kernels that cannot do it detached. The layers of an overlay are then given to mount(2) as numbers below
``/proc/self/fd``, the thread's current directory: so 500 of them fit into the one page there is, and no byte of a path
can be mistaken for a separator. What comes out is a detached copy, which outlives the thread and its namespace.
"""

from __future__ import annotations

import os
import threading

from cowstore._linux.fd import Descriptor, open_
from cowstore._linux.mount import (
    MountAttr,
    MountFlag,
    MoveMountFlag,
    OpenTreeFlag,
    fsconfig_create,
    fsmount,
    fsopen,
    mount,
    mount_setattr,
    move_mount,
    open_tree,
)
from cowstore._linux.namespaces import CloneFlag, unshare
from cowstore.model import STACKED
from cowstore.mounting import attributes, below, close_all, realise

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from cowstore.model import Mount

_DIRECTORIES = (b"upperdir", b"workdir")


def realised(steps: tuple[Mount, ...], *, lowerdir_plus: bool) -> Descriptor:
    """Realise *steps* in a thread with a mount namespace of its own, and return a detached copy of the tree.

    :param lowerdir_plus: overlay takes its layers one by one; otherwise mount(2) is used for it.
    :raises OSError: as the kernel's calls; EPERM without CAP_SYS_ADMIN in this user namespace.
    """
    result: list[Descriptor] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            result.append(_work(steps, lowerdir_plus=lowerdir_plus))
        except BaseException as error:  # noqa: BLE001  (raised again in the thread that asked)
            failure.append(error)

    thread = threading.Thread(target=work, name="cowstore-mounting")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


def _work(steps: tuple[Mount, ...], *, lowerdir_plus: bool) -> Descriptor:
    # Without a current directory of its own a thread may not leave the process's mount namespace.
    unshare(CloneFlag.FS | CloneFlag.NEWNS)
    mount(None, "/", None, MountFlag.REC | MountFlag.PRIVATE)
    with fsopen(b"tmpfs") as fs:
        fsconfig_create(fs)
        ground = fsmount(fs)
    # It covers the root directory, and is reached by its descriptor. The root of this thread stays what is below it.
    with ground:
        move_mount(ground, b"", None, "/", MoveMountFlag.F_EMPTY_PATH)
        trees: list[Descriptor] = []
        try:
            for number, step in enumerate(steps):
                trees.append(_step(step, trees, ground, b"%d" % number, lowerdir_plus=lowerdir_plus))
            return open_tree(trees[-1], b"", OpenTreeFlag.CLONE | OpenTreeFlag.EMPTY_PATH)
        finally:
            close_all(trees)


def _step(
    step: Mount, trees: Sequence[Descriptor], ground: Descriptor, name: bytes, *, lowerdir_plus: bool
) -> Descriptor:
    """Do one step; the tree after it is attached below *ground*, so that the next may copy it or lie on it."""
    if step.flags & MountFlag.REMOUNT:
        return realise(step, trees)
    os.mkdir(name, 0o700, dir_fd=ground.fileno())
    if step.type == "overlay" and not lowerdir_plus:
        _mount_overlay(step, trees, b"/proc/self/fd/%d/%s" % (ground.fileno(), name))
        made = open_tree(ground, name)
    else:
        # The sub-directory is taken below, from the attached tree.
        made = realise(_without_subdir(step), trees)
        move_mount(made, b"", ground, name, MoveMountFlag.F_EMPTY_PATH)
    if step.subdir is None:
        return made
    with made:
        return open_tree(made, step.subdir)


def _without_subdir(step: Mount) -> Mount:
    if step.subdir is None:
        return step
    from dataclasses import replace

    return replace(step, subdir=None)


def _mount_overlay(step: Mount, trees: Sequence[Descriptor], target: bytes) -> None:
    """Mount an overlay by mount(2), every directory told as a number."""
    held: list[Descriptor] = []

    def number(path: bytes) -> bytes:
        if path[:1] == STACKED:
            tree, inner = below(path, trees)
            if not inner:
                return b"%d" % tree.fileno()
            held.append(open_(inner, os.O_PATH | os.O_DIRECTORY, dir_fd=tree))
            return b"%d" % held[-1].fileno()
        held.append(open_(path, os.O_PATH | os.O_DIRECTORY))
        return b"%d" % held[-1].fileno()

    try:
        lowers = b":".join(number(value) for name, value in step.options if name == b"lowerdir+")
        options = [b"lowerdir=" + lowers]
        for name, value in step.options:
            if name in _DIRECTORIES:
                options.append(name + b"=" + number(value))
            elif name != b"lowerdir+":
                options.append(name + b"=" + value if value else name)
        os.chdir("/proc/self/fd")
        mount(b"overlay", target, b"overlay", MountFlag.NONE, b",".join(options))
        attrs = attributes(step)
        if attrs != MountAttr.NONE:
            mount_setattr(None, target, set=attrs)
    finally:
        close_all(held)
