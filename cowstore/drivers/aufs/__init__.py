"""AUFS: a branch per snapshot, its ancestors' below it.

On disk, below the driver's directory::

    <id>/fs        the snapshot's own branch
    <id>/parent    symbolic link to ../<parent's id>; an id without one has no parent
    <id>/flushed   there while the pseudo-links of a mount that is ending are whole
    new-<id>/      an id in the making, renamed when complete
    used/<id>      locked while the id is mounted writable; left over when somebody died
"""

from __future__ import annotations

from cowstore.drivers.aufs.driver import Aufs

__all__ = ["Aufs"]
