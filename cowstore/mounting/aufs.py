"""What AUFS needs of whoever mounts: branches told in few words, and a look at what the kernel made of them.

A detached tree takes a call of fsconfig(2) for each branch that is added later, and for each few of those named first.
Where the tree is mounted at once, mount(2) takes them all in one text, and the others in another.

AUFS takes a wrong permission for another one, and drops what follows an empty path, without an error. So after a mount
its branches are read back, by its own ioctl on that mount. ``/sys/fs/aufs/si_<id>/br<N>`` tells the same, but must not
be read: see :func:`any_mount`.

Source: measured (aufs 20240701); ``linux/aufs_type.h``.
"""

from __future__ import annotations

import errno
import os

from cowstore._linux.fd import open_
from cowstore._linux.mount import MountFlag, UmountFlag, mount, mount_setattr, umount2
from cowstore._linux.procfs import unescape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cowstore._linux.fd import Descriptor
    from cowstore.model import Mount

ROOT = "/sys/fs/aufs"
BRANCHES = frozenset((b"br", b"append"))
"""Options whose value is ``PATH=PERMISSION``."""

MAX_DIRECT_BYTES = 40
"""A longer branch is told by descriptor: so 80 of them always fit into one call, and 127 into two."""

BY_DESCRIPTOR = b"/proc/self/fd/"
MAX_TAIL_BYTES = 14
"""What may follow a descriptor: the end of a path whose beginning it stands for, which others have too."""

MAX_DATA_BYTES = 4095
"""What mount(2) takes of a text; it cuts off the rest without an error."""

_VALUE_MAX = 255
"""Bytes of one option value that fsconfig(2) takes."""


def by_descriptor(value: bytes) -> bool:
    """Tell whether a branch, ``PATH=PERMISSION``, is told by a descriptor: it is long, or would be misread."""
    if len(value) > MAX_DIRECT_BYTES:
        return True
    # The permission has its own sign, and none of the others.
    return b":" in value or b"," in value or value.count(b"=") > 1


def split(path: bytes) -> tuple[bytes, bytes]:
    """Return the directory that is opened for a branch told by descriptor, and the tail that follows it."""
    start = path.rfind(b"/", 0, max(path.rfind(b"/"), 0))
    tail = path[start:]
    if start < 1 or len(tail) > MAX_TAIL_BYTES or b":" in tail or b"," in tail or b"=" in tail:
        return path, b""
    return path[:start], tail


def options_of(step: Mount, held: list[Descriptor]) -> list[tuple[bytes, bytes]]:
    """Return the options of a step as the kernel can be told them; what must stay open meanwhile goes to *held*.

    Of those first named as many go into one value as it may hold; ``append`` takes one.
    """
    found: list[tuple[bytes, bytes]] = []
    beginnings: dict[bytes, bytes] = {}
    first = not step.flags & MountFlag.REMOUNT
    for name, value in step.options:
        if name not in BRANCHES:
            found.append((name, value))
            continue
        branch = _shortened(value, beginnings, held) if by_descriptor(value) else value
        if not first or not found or found[-1][0] != b"br":
            found.append((name, branch))
        elif len(found[-1][1]) + 1 + len(branch) <= _VALUE_MAX:
            found[-1] = b"br", found[-1][1] + b":" + branch
        else:
            found.append((b"br", branch))
    return found


def _shortened(value: bytes, beginnings: dict[bytes, bytes], held: list[Descriptor]) -> bytes:
    """Return a branch told by descriptor; those opened before are in *beginnings*."""
    path, _, permission = value.rpartition(b"=")
    directory, tail = split(path)
    beginning = beginnings.get(directory)
    if beginning is None:
        held.append(open_(directory, os.O_PATH | os.O_DIRECTORY))
        beginning = beginnings[directory] = BY_DESCRIPTOR + b"%d" % held[-1].fileno()
    return b"%s%s=%s" % (beginning, tail, permission)


def calls_of(steps: Iterable[Mount], held: list[Descriptor]) -> list[bytes] | None:
    """Return the text that mount(2) takes for each of *steps*, None where one would be cut off or misread.

    :param held: gets what must stay open meanwhile.
    """
    calls = []
    for step in steps:
        options = options_of(step, held)
        if any(b"," in value for _name, value in options):
            return None
        calls.append(b",".join([name + b"=" + value if value else name for name, value in options]))
    return calls if all(len(data) <= MAX_DATA_BYTES for data in calls) else None


def mount_at(steps: Sequence[Mount], calls: Sequence[bytes], target: str | bytes) -> None:
    """Mount *steps* at a directory by mount(2), and make sure of what came of it.

    :param calls: what :func:`calls_of` returned for them.
    :raises OSError: as mount(2) and :func:`verify`; nothing is mounted then.
    """
    from cowstore.mounting import attributes

    mount(steps[0].source, target, b"aufs", MountFlag.NONE, calls[0])
    try:
        for data in calls[1:]:
            mount(None, target, None, MountFlag.REMOUNT, data)
        if steps[0].flags:
            mount_setattr(None, target, set=attributes(steps[0]))
        # A link, which mount(2) has followed and umount2(2) would not, is refused here.
        fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _verify(steps, fd)
        finally:
            os.close(fd)
    except BaseException:
        umount2(target, UmountFlag.DETACH)
        raise


def told(steps: Iterable[Mount]) -> list[tuple[bytes, bytes]]:
    """Return path and permission of all branches of *steps*, the topmost first."""
    found = []
    for step in steps:
        for name, value in step.options:
            if name in BRANCHES:
                path, _, permission = value.rpartition(b"=")
                found.append((path, permission))
    return found


def any_mount(root: str | None = None) -> bool:
    """Tell whether AUFS has any live mount, one that was only taken off its place included.

    Only names are listed: whoever reads a file of a mount that is just ending brings the kernel down, since the mount's
    super block is forgotten before its files are taken away.

    :param root: another directory in place of ``/sys/fs/aufs``. Source: ``sysaufs_si_show``, aufs 20240701.
    """
    try:
        return any(name.startswith("si_") for name in os.listdir(ROOT if root is None else root))
    except FileNotFoundError:
        return False


def verify(steps: Iterable[Mount], tree: Descriptor) -> None:
    """Make sure that the kernel has a mount with exactly the branches of *steps*.

    :param tree: its root directory.
    :raises OSError: EINVAL, it made another; the note says which. Where the ioctl is not there, nothing is told.
    """
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tree.fileno())
    try:
        _verify(steps, fd)
    finally:
        os.close(fd)


def _verify(steps: Iterable[Mount], fd: int) -> None:
    from cowstore._linux import aufs

    wanted = told(steps)
    try:
        made = aufs.brinfo(fd)
    except OSError:
        return
    kinds: dict[bytes, int] = {}
    for (path, permission), (there, bits) in zip(wanted, made, strict=False):
        kind = kinds.get(permission)
        if kind is None:
            kind = kinds[permission] = _bits(permission)
        if kind != bits & (_KIND_MASK | aufs.ATTR_WH):
            break
        if path != there and path != (plain := unescape(there)) and os.path.realpath(path) != plain:
            break
    else:
        if len(made) == len(wanted):
            return
    error = OSError(errno.EINVAL, "AUFS made another mount than it was told to", os.fsdecode(wanted[0][0]))
    error.add_note(f"{len(wanted)} branches were told, and {len(made)} are there: {made[:3]}…")
    raise error


_KIND_MASK = 7


def _bits(permission: bytes) -> int:
    """Return what matters of a permission: ``rw`` or ``ro``, and whether whiteouts count."""
    from cowstore._linux import aufs

    kind, *attributes = permission.split(b"+")
    bits = {b"rw": aufs.PERM_RW, b"ro": aufs.PERM_RO, b"rr": aufs.PERM_RR}.get(kind, 0)
    return bits | aufs.ATTR_WH if b"wh" in attributes else bits
