"""What AUFS needs of whoever mounts: branches told by descriptor, and a look at what the kernel made of them.

AUFS takes a wrong permission for another one, and drops what follows an empty path, without an error. So after a mount
its branches are read back, by its own ioctl on that mount. ``/sys/fs/aufs/si_<id>/br<N>`` tells the same, but must not
be read: see :func:`any_mount`.

Source: measured (aufs 20240701); ``linux/aufs_type.h``.
"""

from __future__ import annotations

import errno
import os

from cowstore._linux.fd import open_
from cowstore._linux.procfs import unescape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

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
    wanted = [(path, _kind(permission)) for path, permission in told(steps)]
    made = _branches(tree)
    if made is not None and made != wanted and made != _resolved(wanted):
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


def _another(wanted: list[tuple[bytes, tuple[bytes, bool]]], made: list[tuple[bytes, tuple[bytes, bool]]]) -> OSError:
    error = OSError(errno.EINVAL, "AUFS made another mount than it was told to", os.fsdecode(wanted[0][0]))
    error.add_note(f"{len(wanted)} branches were told, and {len(made)} are there: {made[:3]}…")
    return error


def _kind(permission: bytes) -> tuple[bytes, bool]:
    """Return what matters of a permission: ``rw`` or ``ro``, and whether whiteouts count."""
    words = permission.split(b"+")
    return words[0], b"wh" in words[1:]
