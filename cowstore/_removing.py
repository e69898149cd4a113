"""Removing one snapshot, in the order that can be tried again at every point."""

from __future__ import annotations

from cowstore import _faults, leases
from cowstore.errors import OutOfSpace
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
    row, fd = core.seize(key, "remove")
    try:
        try:
            row = core.catalog.begin_remove(row, owner=owner)
        except OutOfSpace:
            # Not even the intent finds room: what was put by for just this gives it.
            if not core.give_up_ballast():
                raise
            row = core.catalog.begin_remove(row, owner=owner)
        _faults.point("store.remove.recorded")
        remove_data(core, row)
        _faults.point("store.remove.dropped")
        leases.forget(core.leases_fd, row.id, fd)
    finally:
        leases.drop(fd)
    if "cowstore.image." in row.labels or "cowstore.layer." in row.labels:
        from cowstore._blobs import collect

        collect(core)
    if wait:
        core.driver.drain()


def remove_data(core: Core, row: Row) -> None:
    """Remove what the driver holds of a row, then the row."""
    if row.kind != Kind.VIEW:
        core.driver.remove(row.id)
    _faults.point("store.remove.removed")
    core.catalog.drop(row.id)
