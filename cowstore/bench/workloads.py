"""The workloads by name: what users of a root file system do, each done through the store as a user would.

A workload gets a :class:`~cowstore.bench.grounds.Ground` and a :class:`~cowstore.bench.timing.Stopwatch`, times its
phases apart, checks what came out after each phase outside the timed part, and takes its snapshots away again.
"""

from __future__ import annotations

import os

from cowstore.errors import CowstoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cowstore.bench.grounds import Ground
    from cowstore.bench.timing import Stopwatch
    from cowstore.store import Store

    Work = Callable[[Ground, Stopwatch, "Plan"], None]


class Plan:
    """How large the workloads are.

    :ivar seed: of everything random. :ivar tree_files: files of the tree that is worked on.
    :ivar base_files: files of the smaller of two trees whose changes are told; the other has ten times as many.
    :ivar big_bytes: size of the large file. :ivar depths: layers below. :ivar parallel: how many at once.
    :ivar readers: children that read one file.
    :ivar cold: the caches may be emptied between.
    """

    def __init__(self, *, seed: int, full: bool, cold: bool) -> None:
        self.seed = seed
        self.full = full
        self.cold = cold
        self.tree_files = 8000 if full else 2000
        self.base_files = 8_000
        self.big_bytes = (1 << 30) if full else (96 << 20)
        self.depths: tuple[int, ...] = (1, 10, 100, 500) if full else (1, 10, 100)
        self.parallel: tuple[int, ...] = (1, 4, 16, 64) if full else (1, 8)
        self.readers = 16 if full else 4
        self.storm_files = 4000 if full else 800
        self.overwrites = 200 if full else 60


class Workload:
    """One entry of the list.

    :ivar summary: one sentence. :ivar sync: what the timed phases do about syncs. :ivar work: does it once.
    """

    def __init__(self, name: str, summary: str, sync: str, work: Work) -> None:
        self.name = name
        self.summary = summary
        self.sync = sync
        self.work = work


WORKLOADS: dict[str, Workload] = {}


def workload(name: str, summary: str, sync: str) -> Callable[[Work], Work]:
    """Enter a function into the list."""

    def enter(work: Work) -> Work:
        WORKLOADS[name] = Workload(name, summary, sync, work)
        return work

    return enter


def load_all() -> dict[str, Workload]:
    """Return all workloads."""
    for name in ("work_lives", "work_files", "work_layers", "work_programs"):
        __import__(f"cowstore.bench.{name}")
    return WORKLOADS


def check(condition: object, what: str) -> None:
    """Make sure that a phase did what it was timed for.

    :raises CowstoreError: it did not; its figure would mean nothing.
    """
    if not condition:
        raise CowstoreError(f"a workload did not do its work: {what}")


def check_gone(store: Store, *keys: str) -> None:
    """Make sure that a removal did what it was timed for."""
    check(not {found.key for found in store.walk()} & set(keys), f"{', '.join(keys)} removed")


def flush(root: str | os.PathLike[str]) -> None:
    """Write out the file system that *root* is of."""
    from cowstore._linux.files import syncfs

    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syncfs(fd)
    finally:
        os.close(fd)


def fsynced(path: str, data: bytes, *, at: int = 0, create: bool = False) -> None:
    """Write *data* into a file and wait until it is on disk."""
    flags = os.O_WRONLY | os.O_CLOEXEC | ((os.O_CREAT | os.O_TRUNC) if create else 0)
    fd = os.open(path, flags, 0o644)
    try:
        os.pwrite(fd, data, at)
        os.fsync(fd)
    finally:
        os.close(fd)
