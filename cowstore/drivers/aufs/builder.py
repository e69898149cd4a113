"""From a list of branches to the mounts that realise them, within every limit that AUFS has and does not tell.

Nothing here touches the kernel or a file. The limits are measured (Linux 6.1, aufs 20240701):

* 127 branches in a mount, unless the kernel was built for more;
* branches and options of one call come in a table of a page: from the 85th on the kernel fails or crashes;
* data of mount(2), to which older kernels turn what fsconfig(2) collects, is cut off silently after 4095 bytes;
* a value of fsconfig(2) has at most 255 bytes;
* ``:``, ``,`` and ``=`` in a path cannot be escaped, and an empty path ends the list silently.

A branch whose path is awkward or long is told by whoever mounts as ``/proc/self/fd/N``, perhaps with a short tail: so
it counts here with the length of that, and no path is too long.
"""

from __future__ import annotations

from itertools import pairwise

from cowstore.errors import Unsupported
from cowstore.model import Mount, MountFlag
from cowstore.mounting.aufs import BY_DESCRIPTOR, by_descriptor, split

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_BRANCHES = 127
MAX_BRANCHES_PER_CALL = 80
MAX_DATA_BYTES = 4094
"""One less than mount(2) takes: the kernel's own collector counts the comma that it puts before the first option."""

_DESCRIPTOR_DIGITS = 7

LOWER = b"ro+wh"
"""Permission of every branch but the first: without ``+wh`` the whiteouts in it would count for nothing."""


class Branch:
    """A directory and its permission.

    :ivar path: absolute. :ivar permission: as AUFS writes it, ``rw`` or ``ro+wh`` perhaps with attributes.
    :ivar value: both, as an option's value. :ivar told_bytes: its length as it is told to the kernel, at most.
    """

    __slots__ = ("path", "permission", "told_bytes", "value")

    def __init__(self, path: bytes, permission: bytes) -> None:
        self.path = path
        self.permission = permission
        self.value = path + b"=" + permission
        self.told_bytes = len(self.value)
        if by_descriptor(self.value):
            self.told_bytes = len(BY_DESCRIPTOR) + _DESCRIPTOR_DIGITS + len(split(path)[1]) + 1 + len(permission)


def branches_of(paths: Sequence[bytes], *, writable: bool, attributes: bytes = b"") -> list[Branch]:
    """Give the first path the permission to be written, if it is to have it, and all others :data:`LOWER`.

    :param paths: the topmost first. :param attributes: of the writable branch, each with a leading ``+``.
    """
    return [
        Branch(path, b"rw" + attributes if writable and number == 0 else LOWER) for number, path in enumerate(paths)
    ]


def build(
    branches: Sequence[Branch], *, options: Sequence[tuple[bytes, bytes]], read_only: bool = False,
    max_branches: int = MAX_BRANCHES,
) -> tuple[Mount, ...]:  # fmt: skip
    """Return one mount, and as many remounts as it takes to add the branches that did not fit.

    :param branches: the topmost first. :param options: of the mount, besides the branches.
    :raises ValueError: a path that AUFS would take for something else, or a list it would refuse without a reason.
    :raises Unsupported: more branches than a mount can have.
    """
    _check(branches, max_branches)
    calls = list(_fill(branches, options))
    first = Mount(
        type="aufs",
        source=b"none",
        options=calls[0],
        flags=MountFlag.RDONLY if read_only else MountFlag.NONE,
    )
    rest = [Mount(type="aufs", source=b"none", options=call, flags=MountFlag.REMOUNT) for call in calls[1:]]
    return (first, *rest)


def _check(branches: Sequence[Branch], max_branches: int) -> None:
    if not branches:
        raise ValueError("an AUFS mount needs a branch")
    if len(branches) > max_branches:
        raise Unsupported(
            f"cannot mount {len(branches)} AUFS branches at once: {max_branches} is the most; squash the layers, or "
            "use a driver without that limit (overlay, btrfs, devicemapper)",
            feature="max_depth",
        )
    for branch in branches:
        if branch.path[:1] != b"/" or b"\0" in branch.path:
            raise ValueError(f"an AUFS branch must be an absolute path, not {branch.path!r}")
    # In order, whatever lies in a directory comes right after it.
    ordered = sorted([branch.path.rstrip(b"/") + b"/" for branch in branches])
    for above, path in pairwise(ordered):
        if path.startswith(above):
            raise ValueError(
                f"{path!r} is an AUFS branch twice" if path == above else f"the AUFS branch {path!r} lies in {above!r}"
            )


def _fill(
    branches: Sequence[Branch], options: Sequence[tuple[bytes, bytes]]
) -> Iterator[tuple[tuple[bytes, bytes], ...]]:
    """Yield the options of each call, filled up to the limits. The branches stand first, in order."""
    call: list[tuple[bytes, bytes]] = []
    tail = list(options)
    length = sum(_length(name, len(value)) for name, value in tail)
    for number, branch in enumerate(branches):
        name = b"append" if number else b"br"
        added = _length(name, branch.told_bytes)
        if call and (len(call) == MAX_BRANCHES_PER_CALL or length + added > MAX_DATA_BYTES):
            yield (*call, *tail)
            call, tail, length = [], [], 0
        call.append((name, branch.value))
        length += added
    yield (*call, *tail)


def _length(name: bytes, value_bytes: int) -> int:
    """Return what an option takes of the data, with its comma."""
    return len(name) + 1 + value_bytes + 1 if value_bytes else len(name) + 1
