"""The ground the overlay driver stands on, and what can be wrong with an id."""

from __future__ import annotations

import os
import stat

from cowstore.results import DriverStatus, FindingKind, Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cowstore.drivers.overlay import Overlay

_RESTRICTIONS = ((os.ST_NOSUID, "nosuid"), (os.ST_NODEV, "nodev"), (os.ST_NOEXEC, "noexec"))


class Backing:
    """The file system a directory is on: its type and the restrictions of its mount."""

    __slots__ = ("restrictions", "type")

    def __init__(self, type: str, restrictions: list[str]) -> None:  # noqa: A002  (mount(8)'s word)
        self.type = type
        self.restrictions = restrictions


def backing(path: str) -> Backing:
    """Tell what *path* is on."""
    from cowstore._linux.procfs import mountinfo

    real = os.fsencode(os.path.realpath(path)) + b"/"
    flags = os.statvfs(path).f_flag
    found = "a file system of unknown type"
    length = 0
    for entry in mountinfo():
        # Of several at one place the last is the one that is seen.
        point = entry.mount_point.rstrip(b"/") + b"/"
        if len(point) >= length and real.startswith(point):
            found, length = os.fsdecode(entry.fs_type), len(point)
    return Backing(found, [name for flag, name in _RESTRICTIONS if flags & flag])


def status(driver: Overlay) -> DriverStatus:
    """Tell the room that is left and the facts."""
    room = os.statvfs(driver.directory)
    ground = backing(driver.directory)
    details = {
        "backing file system": ground.type,
        "marks": "user.overlay.*" if driver.userxattr else "trusted.overlay.*",
        "options": ",".join(
            os.fsdecode(name + b"=" + value if value else name) for name, value in driver.stated_options()
        ),
        "size limits": "no",
    }
    if ground.restrictions:
        # They are not the merged tree's, which is a mount of its own; but binds of the store would have them.
        details["restrictions"] = ",".join(ground.restrictions)
    return DriverStatus(
        free_bytes=room.f_bavail * room.f_frsize, total_bytes=room.f_blocks * room.f_frsize, details=details
    )


def examine(driver: Overlay, id: int, parent: int | None, *, sealed: bool) -> Iterator[Problem]:
    """Name what is wrong with the directories of *id*."""
    where = os.path.join(driver.directory, str(id))
    broken = False
    try:
        found = os.lstat(f"{where}/fs")
        if stat.S_ISLNK(found.st_mode) and not os.path.isdir(f"{where}/fs"):
            broken = True
            text = f"{where}/fs: the adopted directory {os.readlink(f'{where}/fs')} is not there"
            yield Problem(kind=FindingKind.BROKEN_LINK, text=text)
        elif not stat.S_ISLNK(found.st_mode) and not stat.S_ISDIR(found.st_mode):
            broken = True
            yield Problem(kind=FindingKind.ROW_WITHOUT_DATA, text=f"{where}/fs is not a directory")
    except FileNotFoundError:
        broken = True
        yield Problem(kind=FindingKind.ROW_WITHOUT_DATA, text=f"{where}/fs is not there")
    if not sealed and not broken and not os.path.isdir(f"{where}/work"):
        broken = True
        yield Problem(kind=FindingKind.UNFINISHED, text=f"{where}/work is not there", repair=True)
    yield from _parent(driver, where, id, parent)
    if not broken:
        yield from _mountable(driver, id)


def _parent(driver: Overlay, where: str, id: int, parent: int | None) -> Iterator[Problem]:
    try:
        linked: str | None = os.readlink(f"{where}/parent")
    except OSError:
        linked = None
    wanted = None if parent is None else f"../{parent}"
    if linked != wanted:
        text = f"{where}/parent leads to {linked or 'nothing'}; the catalog says {wanted or 'no parent'}"
        kind = FindingKind.BROKEN_LINK if linked is None else FindingKind.WRONG_PARENT
        yield Problem(kind=kind, text=text, repair=True)
    if parent is not None and not driver.holds(parent):
        yield Problem(
            kind=FindingKind.MISSING_PARENT, text=f"{driver.directory}/{parent}, the parent of {id}, is not there"
        )


def _mountable(driver: Overlay, id: int) -> Iterator[Problem]:
    from cowstore.mounting import detached

    try:
        detached(driver.mounts(id, True)).close()
    except OSError as error:
        if isinstance(error, PermissionError):
            return  # an ordinary user cannot tell
        notes = "; ".join(getattr(error, "__notes__", []))
        yield Problem(
            kind=FindingKind.NOT_MOUNTABLE, text=f"{driver.directory}/{id} cannot be mounted: {error} ({notes})"
        )


def repair(driver: Overlay, id: int, parent: int | None, kind: FindingKind) -> bool:
    """Mend the link to the parent, or make the scratch directory anew."""
    where = os.path.join(driver.directory, str(id))
    if kind == FindingKind.UNFINISHED:
        os.mkdir(f"{where}/work", 0o700)
        return True
    if kind not in {FindingKind.BROKEN_LINK, FindingKind.WRONG_PARENT} or os.path.islink(f"{where}/fs"):
        return False
    if parent is None:
        os.unlink(f"{where}/parent")
        return True
    if not driver.holds(parent):
        return False
    # By rename: at no time is there no link, which would mean no parent.
    os.symlink(f"../{parent}", f"{where}/parent.new")
    os.rename(f"{where}/parent.new", f"{where}/parent")
    return True
