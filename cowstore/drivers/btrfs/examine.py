"""What ``check`` asks of one subvolume."""

from __future__ import annotations

from cowstore.drivers.btrfs import questions
from cowstore.results import FindingKind, Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def examine(fd: int, parent: int | None, parent_fd: int | None, *, sealed: bool) -> Iterator[Problem]:
    """Name what is wrong with the subvolume whose root is *fd*, which should be a snapshot of that of *parent_fd*."""
    try:
        info = questions.info(fd)
    except OSError as error:
        yield Problem(kind=FindingKind.NOT_MOUNTABLE, text=f"is no subvolume ({error.strerror})")
        return
    wanted = bytes(16) if parent_fd is None else questions.info(parent_fd).uuid
    if info.parent_uuid != wanted:
        of = "of nothing" if parent is None else f"of {parent}"
        yield Problem(kind=FindingKind.WRONG_PARENT, text=f"is not a snapshot {of}, as the catalog says")
    if sealed and not info.read_only:
        yield Problem(kind=FindingKind.NOT_SEALED, text="is committed, but writable", repair=True)
