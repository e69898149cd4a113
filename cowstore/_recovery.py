"""Finishing or undoing what dead processes left, and ending a whole store."""

from __future__ import annotations

import os
from contextlib import suppress

from cowstore import _faults, leases
from cowstore._leased import MOUNT_POINTS
from cowstore._removing import remove_data
from cowstore._rows import COMMITTING, CREATING, REMOVING
from cowstore.errors import Busy, CowstoreError
from cowstore.model import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cowstore._core import Core
    from cowstore._rows import Row


def recover(core: Core) -> Iterator[str]:
    """Finish or undo what owners that are gone have left; yields a line for each thing that was removed.

    An owner whose lock cannot be taken lives (or somebody else is cleaning up after it), and is left alone.
    """
    unfinished = {row.owner for row in core.catalog.unfinished() if row.owner}
    mounted = _mount_points(core)
    for token in sorted(unfinished | set(mounted) | set(os.listdir(core.owners_fd))):
        if token == core.token:
            continue
        fd = leases.take_dead_owner(core.owners_fd, token)
        if fd is None:
            continue
        try:
            for point in mounted.get(token, []):
                yield from _unmount(point)
            _faults.point("store.recover.unmounted")
            rows = [row for row in core.catalog.unfinished() if row.owner == token]
            removed = [_settle(core, row) for row in rows]
            yield from (line for line in removed if line)
            if None not in removed and not _mount_points(core).get(token):
                leases.forget_owner(core.owners_fd, token, fd)
                fd = -1  # closed, as below
        finally:
            leases.drop(fd)
    core.driver.tidy()


def is_needed(core: Core) -> bool:
    """Tell cheaply whether anybody is there, or was, whose work may be unfinished."""
    return bool(
        os.listdir(core.owners_fd) or os.listdir(os.path.join(core.root, MOUNT_POINTS)) or core.catalog.unfinished()
    )


def _mount_points(core: Core) -> dict[str, list[str]]:
    """Return the mount points of `mounted`, by their owner's token."""
    found: dict[str, list[str]] = {}
    directory = os.path.join(core.root, MOUNT_POINTS)
    for name in os.listdir(directory):
        found.setdefault(name.partition("-")[0], []).append(os.path.join(directory, name))
    return found


def _unmount(point: str) -> Iterator[str]:
    """Take down a dead owner's mount and its directory."""
    from cowstore import mounting
    from cowstore._log import logger

    try:
        mounting.detach(point)
        os.rmdir(point)
        yield f"mount {point}"
    except OSError as error:
        logger(__name__).warning("cannot take down %s, which a dead process left: %s", point, error)


def _settle(core: Core, row: Row) -> str | None:
    """Finish or undo what a dead owner left of one row.

    :returns: a line if something was removed, an empty one if not, None if it has to wait.
    """
    from cowstore._log import logger

    fd = leases.seize(core.leases_fd, row.id)
    if fd is None:
        return None  # A process that outlived its owner still runs on it.
    try:
        if row.state == COMMITTING:
            core.driver.seal(row.id)
            _faults.point("store.recover.sealed")
            core.catalog.finish_commit(row.id)
            return ""
        if row.state not in {CREATING, REMOVING}:
            core.catalog.begin_remove(row, owner=row.owner or "", mounted=True)
        remove_data(core, row)
        leases.forget(core.leases_fd, row.id, fd)
        fd = -1  # closed: the number may already be that of another thread's lease
    except (OSError, CowstoreError) as error:
        logger(__name__).warning(
            "%s: cannot settle %r, which a dead process left %s: %s", core.root, row.key, row.state, error
        )
        return None
    finally:
        leases.drop(fd)
    return f"{row.kind} {row.key!r} ({'ephemeral' if row.state == 'ready' else row.state})"


def note_boot(core: Core) -> None:
    """After a boot, take away data whose rows a power cut took, and never give out their ids again.

    Rows that are written without a sync are those of snapshots that were never sealed. Where a sealed id is beyond all
    that the catalog has given out, the catalog is an older copy put back: then nothing is touched.
    """
    with open("/proc/sys/kernel/random/boot_id", encoding="utf-8") as file:
        boot = file.read().strip()
    if core.catalog.meta().get("boot") == boot:
        return
    held = set(core.driver.held())
    last = core.catalog.last_id()
    lost = sorted((id for id in held if id > last and core.catalog.by_id(id) is None), reverse=True)
    if all(core.driver.is_unsealed(id) for id in lost):
        for id in lost:
            core.driver.remove(id)
            _faults.point("store.recover.lost")
    core.catalog.reserve_ids(max(held, default=0))
    core.catalog.set_meta("boot", boot)


def destroy(core: Core) -> None:
    """Remove the whole store. The store is closed afterwards.

    :raises Busy: a lease is held, or somebody else has the store open.
    """
    from cowstore.trees.remove import remove_tree

    list(recover(core))
    rows = sorted(core.catalog.rows(), key=lambda row: row.id, reverse=True)
    _expect_nobody_holds(core, rows)
    if not leases.upgrade(core.root_fd):
        raise Busy(
            f"cannot destroy {core.root}: another process, or another part of this one, has the store open; "
            "close it first"
        )
    try:
        # Whoever had the store open is gone, but may have left a program running on a snapshot.
        _expect_nobody_holds(core, rows)
    except BaseException:
        leases.downgrade(core.root_fd)
        raise
    driver = core.driver
    core.catalog.begin_remove_all(owner=core.own("destroy"))
    _faults.point("store.destroy.recorded")
    for id in sorted({row.id for row in rows if row.kind != Kind.VIEW} | set(driver.held()), reverse=True):
        driver.remove(id)
    _faults.point("store.destroy.removed")
    driver.destroy()
    _faults.point("store.destroy.driver")
    core.catalog.close()
    parent, name = os.path.split(core.root)
    # The catalog goes last: until then the directory is a store that can be destroyed again.
    for entry in os.listdir(core.root):
        if not entry.startswith("catalog.db"):
            remove_tree(core.root_fd, entry)
    for entry in os.listdir(core.root):
        os.unlink(os.path.join(core.root, entry))
    with suppress(OSError):
        os.rmdir(os.path.join(parent, name))
    core.disown()
    core.close()


def _expect_nobody_holds(core: Core, rows: Iterable[Row]) -> None:
    """Look for leases one by one: there may be more snapshots than a process may have files open, or inodes be left.

    :raises Busy: a lease is held.
    """
    for row in rows:
        leases.discard(core.leases_fd, row.id, core.seize_row(row, "destroy the store with"))
