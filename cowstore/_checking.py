"""Comparing what the catalog says, what the driver holds and what lies on disk; and mending what differs."""

from __future__ import annotations

import dataclasses
import os
import stat
from contextlib import suppress

from cowstore import leases
from cowstore._leased import MOUNT_POINTS
from cowstore._removing import remove
from cowstore._rootless.verbs import in_namespace
from cowstore._rows import CREATING, REMOVING
from cowstore.errors import CowstoreError
from cowstore.model import Kind
from cowstore.results import Finding, FindingKind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cowstore._core import Core
    from cowstore._rows import Row


@in_namespace()
def check(core: Core, *, repair: bool) -> Iterator[Finding]:
    """Yield everything that is not as it should be; with *repair*, mend or remove just that first."""
    damage = core.catalog.integrity()
    if damage:
        yield Finding(kind=FindingKind.CATALOG_DAMAGED, key=None, id=None, text=f"{core.catalog.path}: {damage}")
        return
    # What the driver holds is listed first: a row that appears afterwards cannot make its data look unknown.
    held = set(core.driver.held())
    rows = {row.id: row for row in core.catalog.rows()}
    yield from _modes(core, repair=repair)
    yield from _unfinished(core, rows, repair=repair)
    for id in sorted(held - set(rows), reverse=True):
        if core.catalog.by_id(id) is None and core.driver.holds(id):
            yield _unknown_data(core, id, repair=repair)
    for row in sorted(rows.values(), key=lambda row: row.id, reverse=True):
        if row.state == "ready" and row.kind != Kind.VIEW:
            yield from _examined(core, row, present=row.id in held, repair=repair)
    for path in core.driver.leftovers():
        yield _leftover(core, path, repair=repair)


def _modes(core: Core, *, repair: bool) -> Iterator[Finding]:
    """Name what others may enter: there they would find set-user-id programs of every image, and write to them."""
    for name in ("leases", "owners", MOUNT_POINTS, core.driver_type.name):
        path = os.path.join(core.root, name)
        mode = stat.S_IMODE(os.stat(path).st_mode)
        if not mode & 0o077:
            continue
        text = f"{path} is open to others than its owner (mode {mode:04o}, not 0700)"
        finding = Finding(kind=FindingKind.WRONG_MODE, key=None, id=None, text=text)
        if repair:
            os.chmod(path, 0o700)
            finding = dataclasses.replace(finding, repaired=True)
        yield finding


def _unfinished(core: Core, rows: dict[int, Row], *, repair: bool) -> Iterator[Finding]:
    """Name rows and mount points whose owner is gone; the owners that live are at work, and are left alone."""
    from cowstore._recovery import recover

    # An owner that is gone may have come to its end since its work was seen: what it left is still there afterwards.
    left = [row for row in rows.values() if row.owner and _is_gone(core, row.owner) and _is_still(core, row)]
    directory = os.path.join(core.root, MOUNT_POINTS)
    tokens = {name: name.partition("-")[0] for name in os.listdir(directory)}
    points = [
        name
        for name, token in tokens.items()
        if _is_gone(core, token) and os.path.lexists(os.path.join(directory, name))
    ]
    if repair and (left or points):
        list(recover(core))
    for row in left:
        now = core.catalog.by_id(row.id) if repair else row
        yield Finding(
            kind=FindingKind.UNFINISHED,
            key=row.key,
            id=row.id,
            text=f"{row.key!r} was left {_state(row)} by a process that is gone",
            repaired=now is None or now.owner is None,
        )
    for name in points:
        text = f"{os.path.join(directory, name)} was left by a process that is gone, as a mount or with files in it"
        repaired = repair and _is_cleared(directory, name)
        yield Finding(kind=FindingKind.UNFINISHED, key=None, id=None, text=text, repaired=repaired)


def _is_gone(core: Core, owner: str) -> bool:
    return owner != core.token and leases.is_dead(core.owners_fd, owner)


def _is_still(core: Core, row: Row) -> bool:
    """Tell whether a row is under way for the same owner as when it was read."""
    now = core.catalog.by_id(row.id)
    return now is not None and now.owner == row.owner


def _is_cleared(directory: str, name: str) -> bool:
    """Remove a mount point and what lies in it: nothing is mounted there, or it would be there still."""
    from cowstore.trees.remove import remove_tree

    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            remove_tree(fd, name)
    finally:
        os.close(fd)
    return not os.path.lexists(os.path.join(directory, name))


def _state(row: Row) -> str:
    return row.state if row.state in {CREATING, REMOVING, "committing"} else "behind (it is ephemeral)"


def _unknown_data(core: Core, id: int, *, repair: bool) -> Finding:
    where = os.path.join(core.root, core.driver_type.name, str(id))
    finding = Finding(
        kind=FindingKind.DATA_WITHOUT_ROW, key=None, id=id, text=f"{where}: data of id {id}, which no snapshot owns"
    )
    if not repair:
        return finding
    core.driver.remove(id)
    return dataclasses.replace(finding, repaired=not core.driver.holds(id))


def _examined(core: Core, row: Row, *, present: bool, repair: bool) -> Iterator[Finding]:
    """Name what is wrong with one snapshot's data."""
    driver = core.driver
    if not present:
        # Removed by somebody since the driver was asked, or really gone?
        now = core.catalog.by_id(row.id)
        if now is None or now.state != "ready" or driver.holds(row.id):
            return
        text = f"{row.key!r}: the driver holds nothing of id {row.id}"
        finding = Finding(kind=FindingKind.ROW_WITHOUT_DATA, key=row.key, id=row.id, text=text)
        if repair:
            finding = dataclasses.replace(finding, repaired=_forget(core, row))
        yield finding
        return
    sealed = row.kind == Kind.COMMITTED
    for problem in driver.examine(row.id, row.parent, sealed):
        now = core.catalog.by_id(row.id)
        if now is None or now.state != "ready":
            return  # what was seen is somebody removing or committing it meanwhile
        finding = Finding(kind=problem.kind, key=row.key, id=row.id, text=f"{row.key!r}: {problem.text}")
        if repair and problem.repair:
            finding = dataclasses.replace(finding, repaired=driver.repair(row.id, row.parent, sealed, problem.kind))
        yield finding


def _forget(core: Core, row: Row) -> bool:
    """Remove the row of a snapshot whose data are gone, unless others descend from it."""
    try:
        remove(core, row.key)
    except CowstoreError:
        return False
    return True


def _leftover(core: Core, path: str, *, repair: bool) -> Finding:
    finding = Finding(kind=FindingKind.LEFTOVER, key=None, id=None, text=f"{path}: belongs to no snapshot")
    if repair:
        core.driver.remove_leftover(path)
        finding = dataclasses.replace(finding, repaired=not os.path.lexists(path))
    return finding
