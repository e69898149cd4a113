"""The values that cross a line between two rooms: frozen, typed, without behaviour of their own.

Here are those which every run needs. What only some verbs give back is in :mod:`cowstore.results`, since a data class
costs half a millisecond to define.
"""

from __future__ import annotations

import enum

from cowstore._frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

MAX_KEY_LENGTH = 255
"""Characters a key may have."""

STACKED = b"\0"
"""Option value that stands for the tree which the earlier mounts of the same tuple have made.

Whoever realises the mounts puts the path (or ``/proc/self/fd/N``) of that tree in its place. No path can hold a NUL.
Followed by digits and a path (:func:`stacked`) it stands for a directory of what one earlier step has made.
"""


def stacked(step: int, path: bytes) -> bytes:
    """Return the option value that stands for the directory *path* of what mount number *step* of the tuple made.

    :param step: counted from 0. :param path: relative.
    """
    return b"%s%d/%s" % (STACKED, step, path)


class Kind(enum.StrEnum):
    """What a snapshot is."""

    ACTIVE = "active"
    VIEW = "view"
    COMMITTED = "committed"


class MountFlag(enum.IntFlag):
    """Flags of a :class:`Mount`: the ``MS_*`` numbers of mount(2). Source: mount(2)."""

    NONE = 0
    RDONLY = 1
    NOSUID = 2
    NODEV = 4
    NOEXEC = 8
    REMOUNT = 32
    NOATIME = 1024


@frozen
class Snapshot:
    """One snapshot as the store knows it."""

    key: str
    kind: Kind
    parent: str | None
    labels: Mapping[str, str]
    created: datetime
    updated: datetime
    id: int


@frozen
class Mount:
    """One step of realising a snapshot; a snapshot is a tuple of them, applied in order to one target.

    :ivar type: ``"bind"``, or a file-system type.
    :ivar source: directory (bind), device, or a name that means nothing.
    :ivar options: pairs of name and value; an empty value makes the option a flag, :data:`STACKED` stands for the tree
        made so far, or, by :func:`stacked`, a part of what an earlier step made.
    :ivar flags: attributes of the mount. ``REMOUNT`` changes the tree made so far and mounts nothing.
    :ivar subdir: directory of the mounted file system that is the tree, or None for all of it.
    """

    type: str
    source: bytes
    options: tuple[tuple[bytes, bytes], ...] = ()
    flags: MountFlag = MountFlag.NONE
    subdir: bytes | None = None


@frozen
class Capabilities:
    """What a driver can do. Each flag has a test that fails when it lies.

    :ivar max_depth: committed ancestors a snapshot may have; None for no limit of the driver's own.
    :ivar size_limits: ``size_bytes`` and ``set_size`` are enforced.
    :ivar shares_page_cache: one parent's file is cached once for all children.
    :ivar directory_rename: a program can rename(2) a directory that comes from a parent.
    :ivar adopts: a directory outside the store can become a committed snapshot.
    :ivar volatile_mounts: a mount can be told that nothing of it need survive a crash.
    :ivar shared_writing: one active snapshot's tree can be realised for writing more than once at a time.
    :ivar instant_create: a child is made in time that does not depend on its parent's size.
    :ivar rootless: works for an ordinary user.
    :ivar inode_usage: ``usage`` counts inodes.
    :ivar kernel_changes: ``changes`` is told by the kernel's own state, not by comparing two trees.
    :ivar exact_times: a time that a program sets is kept to the nanosecond, and a directory's own changes only with its
        list of names; otherwise to the second, and a directory's with the first write below it.
    :ivar xattr_removal: a program can take an extended attribute away; otherwise it may stay, empty, and an empty one
        of a parent's file may be lost.
    """

    max_depth: int | None = None
    size_limits: bool = False
    shares_page_cache: bool = False
    directory_rename: bool = True
    adopts: bool = False
    volatile_mounts: bool = False
    shared_writing: bool = True
    instant_create: bool = True
    rootless: bool = False
    inode_usage: bool = True
    kernel_changes: bool = False
    exact_times: bool = True
    xattr_removal: bool = True
