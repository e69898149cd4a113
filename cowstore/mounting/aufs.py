"""What AUFS needs of whoever mounts: branches told by descriptor, and a look at what the kernel made of them.

AUFS takes a wrong permission for another one, and drops what follows an empty path, without an error. So after a mount
its branches are read back, by its own ioctl, or where that is not there from sysfs.

Source: measured (aufs 20240701); ``linux/aufs_type.h``; ``/sys/fs/aufs/si_<id>/br<N>``.
"""

from __future__ import annotations

import errno
import os

from cowstore._linux.fd import open_
from cowstore._linux.procfs import unescape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cowstore._linux.fd import Descriptor
    from cowstore.model import Mount

ROOT = "/sys/fs/aufs"
BRANCHES = frozenset((b"br", b"append"))
"""Options whose value is ``PATH=PERMISSION``."""

MAX_DIRECT_BYTES = 40
"""A longer branch is told by descriptor: so 80 of them always fit into one call, and 127 into two."""

_RW, _RO, _RR = b"rw", b"ro", b"rr"
BY_DESCRIPTOR = b"/proc/self/fd/"


def by_descriptor(value: bytes) -> bool:
    """Tell whether a branch, ``PATH=PERMISSION``, is told by a descriptor: it is long, or would be misread."""
    if len(value) > MAX_DIRECT_BYTES:
        return True
    # The permission has its own sign, and none of the others.
    return b":" in value or b"," in value or value.count(b"=") > 1


def branch(value: bytes, held: list[Descriptor]) -> bytes:
    """Return a branch as the kernel can be told it; what must stay open meanwhile goes to *held*."""
    if not by_descriptor(value):
        return value
    path, _, permission = value.rpartition(b"=")
    held.append(open_(path, os.O_PATH | os.O_DIRECTORY))
    return BY_DESCRIPTOR + b"%d=%s" % (held[-1].fileno(), permission)


def told(steps: Iterable[Mount]) -> list[tuple[bytes, bytes]]:
    """Return path and permission of all branches of *steps*, the topmost first."""
    found = []
    for step in steps:
        for name, value in step.options:
            if name in BRANCHES:
                path, _, permission = value.rpartition(b"=")
                found.append((path, permission))
    return found


def stacks(root: str | None = None) -> Iterator[list[tuple[bytes, bytes]]]:
    """Yield path and permission of the branches of every live mount, the topmost first.

    :param root: another directory in place of ``/sys/fs/aufs``.
    """
    where = ROOT if root is None else root
    try:
        names = os.listdir(where)
    except FileNotFoundError:
        return
    for name in names:
        if name.startswith("si_"):
            stack = _stack(os.path.join(where, name))
            if stack:
                yield stack


def _stack(directory: str) -> list[tuple[bytes, bytes]]:
    """Read the branches of one mount; empty where it has gone away."""
    try:
        # br<N> is a branch, brid<N> something else.
        numbers = sorted(int(name[2:]) for name in os.listdir(directory) if name[:2] == "br" and name[2:].isdigit())
        found = []
        for number in numbers:
            with open(os.path.join(directory, f"br{number}"), "rb") as file:
                path, _, permission = file.read().rstrip(b"\n").rpartition(b"=")
            found.append((unescape(path), permission))
        return found
    except OSError:
        return []


def in_use(path: str | bytes, root: str | None = None) -> bool:
    """Tell whether the directory is a branch of any live mount, one that was only taken off its place included."""
    real = os.fsencode(os.path.realpath(path))
    return any(there == real for stack in stacks(root) for there, _permission in stack)


def verify(steps: Iterable[Mount], tree: Descriptor, root: str | None = None) -> None:
    """Make sure that the kernel has a mount with exactly the branches of *steps*.

    :param tree: its root directory. :param root: another directory in place of ``/sys/fs/aufs``.
    :raises OSError: EINVAL, it made another; the note says which. Without ioctl and sysfs nothing can be told, and
        nothing is.
    """
    wanted = [(path, _kind(permission)) for path, permission in told(steps)]
    made = _branches(tree)
    if made is None:
        _verify_by_sysfs(wanted, ROOT if root is None else root)
    elif made != wanted and made != _resolved(wanted):
        raise _another(wanted, made)


def _branches(tree: Descriptor) -> list[tuple[bytes, tuple[bytes, bool]]] | None:
    """Ask a mount for its branches; None where it does not tell."""
    from cowstore._linux import aufs

    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tree.fileno())
    try:
        found = aufs.brinfo(fd)
    except OSError:
        return None
    finally:
        os.close(fd)
    kinds = {aufs.PERM_RW: _RW, aufs.PERM_RO: _RO, aufs.PERM_RR: _RR}
    return [(unescape(path), (kinds.get(bits & 7, b""), bool(bits & aufs.ATTR_WH))) for path, bits in found]


def _resolved(branches: list[tuple[bytes, tuple[bytes, bool]]]) -> list[tuple[bytes, tuple[bytes, bool]]]:
    """Return the branches by the paths that the kernel has for them."""
    return [(os.path.realpath(path), kind) for path, kind in branches]


def _verify_by_sysfs(wanted: list[tuple[bytes, tuple[bytes, bool]]], where: str) -> None:
    if not os.path.isdir(where):
        return
    wanted = _resolved(wanted)
    others = []
    for stack in stacks(where):
        found = [(path, _kind(permission)) for path, permission in stack]
        if found == wanted:
            return
        if found[0][0] == wanted[0][0]:
            others.append(found)
    raise _another(wanted, others[0] if others else [])


def _another(wanted: list[tuple[bytes, tuple[bytes, bool]]], made: list[tuple[bytes, tuple[bytes, bool]]]) -> OSError:
    error = OSError(errno.EINVAL, "AUFS made another mount than it was told to", os.fsdecode(wanted[0][0]))
    error.add_note(f"{len(wanted)} branches were told, and {len(made)} are there: {made[:3]}…")
    return error


def _kind(permission: bytes) -> tuple[bytes, bool]:
    """Return what matters of a permission: ``rw`` or ``ro``, and whether whiteouts count."""
    words = permission.split(b"+")
    return words[0], b"wh" in words[1:]
