"""ACLs that name users and groups by name: looked up in the tree that was unpacked, once it is all there.

GNU tar writes ACLs so. The host's own users have nothing to do with the names in an archive.

Source: passwd(5), group(5).
"""

from __future__ import annotations

import errno
import os
import stat

from cowstore._linux.files import openat2
from cowstore.layers import acl
from cowstore.layers.limits import Malformed, invalid
from cowstore.layers.tree import RESOLVE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore.layers.metadata import Metadata
    from cowstore.layers.tree import Tree

_FILES = {"user": b"etc/passwd", "group": b"etc/group"}
_BYTES_MAX = 4 << 20
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


def late_acls(tree: Tree, metadata: Metadata) -> None:
    """Put on the ACLs that were waiting for names; those with unknown names are left out and counted.

    Raises:
        InvalidLayer: the kernel refuses one.
        OSError: as setxattr(2).
    """
    root_fd = tree.root.fd
    tables: dict[str, dict[bytes, int]] = {}

    def lookup(kind: str, name: bytes) -> int | None:
        if kind not in tables:
            tables[kind] = _numbers(root_fd, _FILES[kind])
        return tables[kind].get(name)

    for path, found in metadata.acls.items():
        values = {name: acl.from_text(text, lookup) for name, text in found}
        known = {name: value for name, value in values.items() if value is not None}
        metadata.counts["acls"] += len(values) - len(known)
        fd = _open(root_fd, path) if known else None
        if fd is None:
            continue
        try:
            is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
            metadata.xattrs(fd, known, directory=is_directory, regular=not is_directory)
        except Malformed as error:
            raise invalid(str(error), path) from error
        finally:
            os.close(fd)


def _numbers(root_fd: int, path: bytes) -> dict[bytes, int]:
    """Read the names and numbers of a file in the form of passwd or group; empty where there is none."""
    fd = _open(root_fd, path)
    if fd is None:
        return {}
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        return {}
    with open(fd, "rb") as file:
        lines = file.read(_BYTES_MAX).split(b"\n")
    fields = [line.split(b":") for line in lines]
    return {
        field[0]: int(field[2]) for field in fields if len(field) > 2 and field[2].isdigit() and len(field[2]) <= 10
    }


def _open(root_fd: int, path: bytes) -> int | None:
    """Open a regular file or directory of the tree; None where there is none."""
    try:
        held = openat2(root_fd, path or b".", os.O_PATH | os.O_NOFOLLOW, 0, RESOLVE)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise
    try:
        # Opening a device or a fifo would do something.
        if stat.S_IFMT(os.fstat(held).st_mode) not in {stat.S_IFREG, stat.S_IFDIR}:
            return None
        return os.open(f"/proc/self/fd/{held}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(held)
