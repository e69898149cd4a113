"""Where a driver is measured: a fresh file system of its own, of the same size on the same backing for each driver."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager

from cowstore.bench import synthetic
from cowstore.errors import CowstoreError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cowstore.bench.scratch import Scratch
    from cowstore.store import Store

MIB = 1 << 20

#: Subject, driver, file system of its own, options. A driver on two file systems is two subjects.
SUBJECTS: dict[str, tuple[str, str, dict[str, object]]] = {
    "overlay": ("overlay", "ext4", {}),
    "btrfs": ("btrfs", "btrfs", {}),
    "devicemapper": (
        "devicemapper",
        "ext4",
        {"data_bytes": 4 << 30, "metadata_bytes": 16 << 20, "base_bytes": 4 << 30},
    ),
    "aufs": ("aufs", "ext4", {}),
    "copy": ("copy", "ext4", {}),
    "copy+reflink": ("copy", "xfs", {}),
}


class Ground:
    """One driver ready to be measured.

    :ivar subject: its name in the figures. :ivar store: an open, durable store on it.
    :ivar path: directory of its file system, beside the store.
    """

    def __init__(self, subject: str, path: str, open_store: Callable[[str, bool], Store]) -> None:
        self.subject = subject
        self.path = path
        self._open = open_store
        self.store = open_store("store", False)
        self._others: dict[str, Store] = {}
        self._bases: set[str] = set()
        self._number = 0

    @property
    def volatile(self) -> Store:
        """A second store of the same driver, in which nothing need survive a power cut."""
        return self.other("volatile", volatile=True)

    def other(self, name: str, *, volatile: bool = False) -> Store:
        """A store of that name beside the first one, made when it is first asked for."""
        if name not in self._others:
            self._others[name] = self._open(name, volatile)
        return self._others[name]

    def key(self, word: str) -> str:
        """Return a key that was not used before."""
        self._number += 1
        return f"{word}-{self._number}"

    def base(self, name: str, fill: Callable[[str], None], *, store: Store | None = None) -> str:
        """Return the key of a committed snapshot that *fill* fills, made at the first call."""
        where = self.store if store is None else store
        key = f"base-{name}"
        if (known := f"{where.root} {key}") not in self._bases:
            draft = self.key("draft")
            where.prepare(draft)
            with where.mounted(draft) as root:
                fill(str(root))
            where.commit(key, draft)
            self._bases.add(known)
        return key

    def empty(self, *, store: Store | None = None) -> str:
        """Return a committed snapshot with nothing in it."""
        return self.base("empty", lambda _root: None, store=store)

    def tree(self, files: int, seed: int) -> str:
        """Return a committed snapshot with a synthetic root of that many files."""
        return self.base(f"tree-{files}", lambda root: synthetic.grow(root, synthetic.Recipe(files, seed=seed)))

    def close(self) -> None:
        """Destroy the stores, so that a driver gives back its devices."""
        with ExitStack() as stack:
            for store in (self.store, *self._others.values()):
                stack.callback(store.destroy)


@contextmanager
def ground(subject: str, scratch: Scratch, size_bytes: int) -> Iterator[Ground]:
    """Make a ground for the length of the block.

    :param size_bytes: of its file system; the file below is sparse.
    :raises CowstoreError: the driver does not work here; says why. :raises OSError: as the kernel's calls.
    """
    import cowstore

    if subject not in SUBJECTS:
        raise CowstoreError(f"there is no driver {subject!r} to measure; there are: {', '.join(SUBJECTS)}")
    driver, kind, options = SUBJECTS[subject]
    point = scratch.path
    if os.geteuid() == 0:
        point = scratch.file_system(kind, size_bytes, subject.replace("+", "-"))
    elif kind != "ext4":
        raise CowstoreError(f"{subject} needs a {kind} of its own, which only root can make")

    def open_store(name: str, volatile: bool) -> Store:  # noqa: FBT001  # one meaning, one caller
        return cowstore.open(
            os.path.join(point, f"{name}-{subject}"), driver=driver, options=options, volatile=volatile
        )

    made = None
    try:
        made = Ground(subject, point, open_store)
        yield made
    finally:
        try:
            if made is not None:
                made.close()
        finally:
            if point != scratch.path:
                scratch.drop(point)
