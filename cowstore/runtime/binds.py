"""Directories and files of this machine that show inside the root."""

from __future__ import annotations

from cowstore._frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore.model import Mount


@frozen
class Bind:
    """One directory or file of this machine, shown at a path of the root.

    :ivar source: absolute path on this machine, its symbolic links followed.
    :ivar target: absolute path in the root, its symbolic links followed inside the root; made where it is missing.
    :ivar read_only: nothing can be written through it, nor through the mounts below it.
    :ivar recursive: the mounts below *source* show too.
    :ivar only_over: leave it out where *target* is not in the root, instead of making it.
    :ivar mounts: what to show instead of *source*, to be written to. Where the kernel refuses these, *source* shows.
    """

    source: str
    target: str
    read_only: bool = False
    recursive: bool = True
    only_over: bool = False
    mounts: tuple[Mount, ...] = ()
