"""Removing one snapshot, in the order that can be tried again at every point."""

from __future__ import annotations

from cowstore import _faults, leases
from cowstore.errors import NotFound, OutOfSpace
from cowstore.model import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore._core import Core
    from cowstore._rows import Row


def remove(core: Core, key: str, *, wait: bool = False) -> None:
    """Record that *key* goes, let the driver remove its data, forget it.

    :param wait: return only when its space has been given back.
    """
    owner = core.own("remove")
    row, fd = _begin(core, key, owner)
    try:
        _faults.point("store.remove.recorded")
        remove_data(core, row)
        _faults.point("store.remove.dropped")
        leases.forget(core.leases_fd, row.id, fd)
        fd = -1  # closed: the number may already be that of another thread's lease
    finally:
        leases.drop(fd)
    if "cowstore.image." in row.labels or "cowstore.layer." in row.labels:
        from cowstore._blobs import collect

        collect(core)
    if wait:
        core.driver.drain()


def _begin(core: Core, key: str, owner: str) -> tuple[Row, int]:
    """Take the exclusive lease of *key*, and record that it goes; returns its row, and the lock's descriptor."""
    while True:
        row = core.wanted(key, "remove")
        fd = core.lock_row(row, "remove")
        try:
            while not _record(core, row, owner):
                core.refuse_attached(row, "remove")
        except NotFound:
            # Committed or removed since it was looked up, and perhaps the key was used again.
            leases.discard(core.leases_fd, row.id, fd)
        except BaseException:
            leases.drop(fd)
            raise
        else:
            return row, fd


def _record(core: Core, row: Row, owner: str) -> bool:
    """Record the intent; False if it is mounted somewhere."""
    try:
        return core.catalog.begin_remove(row, owner=owner)
    except OutOfSpace:
        # Not even the intent finds room: what was put by for just this gives it.
        if not core.give_up_ballast():
            raise
        return core.catalog.begin_remove(row, owner=owner)


def remove_data(core: Core, row: Row) -> None:
    """Remove what the driver holds of a row, then the row."""
    if row.kind != Kind.VIEW:
        core.driver.remove(row.id)
    _faults.point("store.remove.removed")
    core.catalog.drop(row.id)
