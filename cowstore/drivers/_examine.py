"""What can be wrong with an id that is a directory, and how it is mended."""

from __future__ import annotations

import os
import stat

from cowstore.results import FindingKind, Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cowstore.drivers._directories import DirectoryDriver


def examine(driver: DirectoryDriver, id: int, parent: int | None) -> Iterator[Problem]:
    """Name what is wrong with the directory of *id*."""
    where = os.path.join(driver.directory, str(id))
    broken = _tree(where)
    if broken is not None:
        yield broken
    yield from _parent(driver, where, id, parent)
    if broken is None:
        yield from _mountable(driver, id)


def _tree(where: str) -> Problem | None:
    try:
        if os.path.isfile(f"{where}/image"):
            return None
        found = os.lstat(f"{where}/fs")
    except FileNotFoundError:
        return Problem(kind=FindingKind.ROW_WITHOUT_DATA, text=f"{where}/fs is not there")
    if stat.S_ISLNK(found.st_mode):
        if not os.path.isdir(f"{where}/fs"):
            text = f"{where}/fs: the adopted directory {os.readlink(f'{where}/fs')} is not there"
            return Problem(kind=FindingKind.BROKEN_LINK, text=text)
    elif not stat.S_ISDIR(found.st_mode):
        return Problem(kind=FindingKind.ROW_WITHOUT_DATA, text=f"{where}/fs is not a directory")
    return None


def _parent(driver: DirectoryDriver, where: str, id: int, parent: int | None) -> Iterator[Problem]:
    try:
        linked: str | None = os.readlink(f"{where}/parent")
    except OSError:
        linked = None
    wanted = None if parent is None else f"../{parent}"
    if linked != wanted:
        kind = FindingKind.BROKEN_LINK if linked is None else FindingKind.WRONG_PARENT
        text = f"{where}/parent leads to {linked or 'nothing'}; the catalog says {wanted or 'no parent'}"
        yield Problem(kind=kind, text=text, repair=True)
    if parent is not None and not driver.holds(parent):
        text = f"{driver.directory}/{parent}, the parent of {id}, is not there"
        yield Problem(kind=FindingKind.MISSING_PARENT, text=text)


def _mountable(driver: DirectoryDriver, id: int) -> Iterator[Problem]:
    from cowstore.errors import CowstoreError
    from cowstore.mounting import detached

    try:
        with driver.looked_at(id) as mounts:
            detached(mounts).close()
    except PermissionError:
        return  # an ordinary user cannot tell
    except (OSError, CowstoreError) as error:
        notes = "".join(f" ({note})" for note in getattr(error, "__notes__", []))
        text = f"{driver.directory}/{id} cannot be mounted: {error}{notes}"
        yield Problem(kind=FindingKind.NOT_MOUNTABLE, text=text)


def repair(driver: DirectoryDriver, id: int, parent: int | None, kind: FindingKind) -> bool:
    """Mend the link to the parent."""
    where = os.path.join(driver.directory, str(id))
    if kind not in {FindingKind.BROKEN_LINK, FindingKind.WRONG_PARENT}:
        return False
    if parent is None:
        if os.path.lexists(f"{where}/parent"):
            os.unlink(f"{where}/parent")
        return True
    if not driver.holds(parent):
        return False
    # By rename: at no time is there no link, which would mean no parent.
    if os.path.lexists(f"{where}/parent.new"):
        os.unlink(f"{where}/parent.new")
    os.symlink(f"../{parent}", f"{where}/parent.new")
    os.rename(f"{where}/parent.new", f"{where}/parent")
    return True
