"""The catalog's file: its tables, its rows, and how it is made."""

from __future__ import annotations

import os
from contextlib import suppress

from cowstore import _faults
from cowstore.errors import CowstoreError, OutOfSpace, StoreCorrupt, Unsupported
from cowstore.model import Kind, Snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping
    from datetime import datetime
    from types import TracebackType
else:
    # All that the package adds is about dates, and takes as long to import as the rest of it.
    import _sqlite3 as sqlite3

SCHEMA = 1
"""Version of the tables below, kept as ``user_version``."""

READY, CREATING, COMMITTING, REMOVING = "ready", "creating", "committing", "removing"
"""States of a row. ``creating`` and ``removing`` rows are never listed; a ``committing`` one still shows as active."""

_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE snapshots (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    parent INTEGER REFERENCES snapshots (id),
    depth INTEGER NOT NULL,
    labels TEXT NOT NULL,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    size_bytes INTEGER,
    ephemeral INTEGER NOT NULL DEFAULT 0,
    owner TEXT,
    next_key TEXT,
    next_labels TEXT
);
CREATE UNIQUE INDEX next_keys ON snapshots (next_key) WHERE next_key IS NOT NULL;
CREATE INDEX children ON snapshots (parent);
CREATE INDEX unfinished ON snapshots (owner) WHERE owner IS NOT NULL;
CREATE TABLE attachments (
    target BLOB PRIMARY KEY,
    id INTEGER NOT NULL REFERENCES snapshots (id) ON DELETE CASCADE,
    namespace TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX attached ON attachments (id);
"""

_PAGE_BYTES = 1024
"""A transaction of one row takes as long as what it writes: a page for each table and index it touches. So pages are
small, and ``next_keys`` holds only what is being committed. A catalog made otherwise works as well."""

COLUMNS = (
    "s.id, s.key, s.kind, s.state, s.parent, p.key, s.depth, s.labels, s.created, s.updated, "
    "s.size_bytes, s.ephemeral, s.owner, s.next_key"
)
SELECT = f"SELECT {COLUMNS} FROM snapshots s LEFT JOIN snapshots p ON p.id = s.parent "  # noqa: S608 - constants only


class Row:
    """One row of the catalog, with its parent's key."""

    __slots__ = (
        "created", "depth", "ephemeral", "id", "key", "kind", "labels", "next_key", "owner", "parent", "parent_key",
        "size_bytes", "state", "updated",
    )  # fmt: skip

    def __init__(self, columns: tuple[object, ...]) -> None:
        self.id: int
        self.key: str
        self.kind: str
        self.state: str
        self.parent: int | None
        self.parent_key: str | None
        self.depth: int
        self.labels: str
        self.created: int
        self.updated: int
        self.size_bytes: int | None
        self.ephemeral: int
        self.owner: str | None
        self.next_key: str | None
        (
            self.id, self.key, self.kind, self.state, self.parent, self.parent_key, self.depth, self.labels,
            self.created, self.updated, self.size_bytes, self.ephemeral, self.owner, self.next_key,
        ) = columns  # type: ignore[assignment]  # fmt: skip

    @property
    def data_id(self) -> int:
        """The id whose tree this row shows: a view has none of its own, it shows its parent's."""
        if self.kind == "view":
            assert self.parent is not None
            return self.parent
        return self.id

    def snapshot(self) -> Snapshot:
        """Return the row as the value that callers see."""
        created = _moment(self.created)
        return Snapshot(
            key=self.key,
            kind=Kind(self.kind),
            parent=self.parent_key,
            labels=labels_from_text(self.labels),
            created=created,
            updated=created if self.updated == self.created else _moment(self.updated),
            id=self.id,
        )


def labels_from_text(text: str) -> dict[str, str]:
    """Read labels as the catalog keeps them."""
    if text == "{}":
        return {}
    import json

    labels: dict[str, str] = json.loads(text)
    return labels


def labels_to_text(labels: Mapping[str, str] | None) -> str:
    """Write labels as the catalog keeps them: JSON, names sorted."""
    if not labels:
        return "{}"
    import json

    return json.dumps(dict(labels), sort_keys=True, ensure_ascii=False)


def _moment(nanoseconds: int) -> datetime:
    """Return a time in UTC, to the microsecond."""
    if TYPE_CHECKING:
        from datetime import UTC, datetime, timedelta
    else:
        # The classes themselves; the package makes them a second time in Python before it takes these.
        from _datetime import UTC, datetime, timedelta

    seconds = datetime.fromtimestamp(nanoseconds // 10**9, UTC)
    return seconds + timedelta(microseconds=nanoseconds % 10**9 // 1000)


def make_shared_memory(path: str) -> None:
    """Make the file by which the users of the catalog at *path* agree, where it must not be as SQLite makes it.

    SQLite maps it and writes to it for reading, too. A full Btrfs has no room for the copy of a page that was written
    out, and the kernel ends the process with SIGBUS. A file that is never copied needs no room; the kernel looks at
    that since some version after 6.1. What cannot be made here SQLite makes, or says why not.
    """
    shared = f"{path}-shm"
    if os.path.exists(shared):
        return
    from cowstore._linux.files import FsMagic, InodeFlag, set_inode_flags, statfs

    with suppress(OSError):
        if statfs(os.path.dirname(path)).type != FsMagic.BTRFS:
            return
        fd = os.open(shared, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            set_inode_flags(fd, InodeFlag.NOCOW)  # only possible while it is empty
            with suppress(FileNotFoundError):
                catalog = os.stat(path)
                os.fchown(fd, catalog.st_uid, catalog.st_gid)
                os.fchmod(fd, catalog.st_mode & 0o777)
        finally:
            os.close(fd)


def create(path: str, meta: Mapping[str, str]) -> None:
    """Make a catalog at *path*, whole or not at all; somebody else's that is there already wins.

    :param meta: facts of the store: ``uuid``, ``driver``, ``options`` …
    """
    draft = f"{path}.new-{os.urandom(8).hex()}"
    try:
        with translated(path):
            make_shared_memory(draft)
            connection = sqlite3.connect(draft, isolation_level=None)
            try:
                connection.execute(f"PRAGMA page_size={_PAGE_BYTES}")
                connection.execute("PRAGMA journal_mode=WAL")
                connection.executescript(f"BEGIN;{_TABLES}PRAGMA user_version={SCHEMA};COMMIT;")
                connection.executemany("INSERT INTO meta VALUES (?, ?)", list(meta.items()))
            finally:
                connection.close()  # the last one: everything is in the one file afterwards
        _sync(draft)
        _faults.point("catalog.create.drafted")
        try:
            os.link(draft, path)
        except (FileExistsError, FileNotFoundError):
            # Somebody else was first; who opens the store then clears away drafts.
            if os.path.exists(path):
                return
            raise
        _faults.point("catalog.create.linked")
        _sync(os.path.dirname(path))
    finally:
        for leftover in (draft, f"{draft}-wal", f"{draft}-shm"):
            with suppress(FileNotFoundError):
                os.unlink(leftover)


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class translated:  # noqa: N801  # used as a word
    """Turn SQLite's errors in the block into ours; *path* is the catalog."""

    __slots__ = ("_path",)

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, sqlite3.Error):
            raise explained(error, self._path) from error


def explained(error: sqlite3.Error, path: str) -> CowstoreError:
    """Say what SQLite refused of the catalog at *path*, and what to do."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return OutOfSpace(f"cannot write the catalog {path}: its file system is full; free some space", what="data")
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return StoreCorrupt(
            f"the catalog {path} is damaged ({error}); put back a copy, or look at what is left with `cowstore check`",
            path=path,
        )
    if code in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH}:
        return Unsupported(
            f"cannot write the catalog {path}: {error}; open the store with read_only=True, or as its owner",
            feature="write",
        )
    if code == sqlite3.SQLITE_CANTOPEN:
        return CowstoreError(
            f"cannot open the catalog {path}: {error}; check that it is there and that you may read and write it"
        )
    if code == sqlite3.SQLITE_IOERR:
        return CowstoreError(
            f"cannot read or write the catalog {path}: {error}; "
            "the file system may be full, or one (NFS, say) without shared memory maps"
        )
    return CowstoreError(f"the catalog {path} did not answer: {error}")
