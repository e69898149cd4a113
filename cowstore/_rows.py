"""The catalog's file: its tables, its rows, and how it is made."""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager, suppress

from cowstore import _faults
from cowstore.errors import CowstoreError, OutOfSpace, StoreCorrupt, Unsupported
from cowstore.model import Kind, Snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

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
    next_key TEXT UNIQUE,
    next_labels TEXT
);
CREATE INDEX children ON snapshots (parent);
CREATE INDEX unfinished ON snapshots (owner) WHERE owner IS NOT NULL;
CREATE TABLE attachments (
    target BLOB PRIMARY KEY,
    id INTEGER NOT NULL REFERENCES snapshots (id) ON DELETE CASCADE,
    namespace TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX attached ON attachments (id);
"""

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
        return Snapshot(
            key=self.key,
            kind=Kind(self.kind),
            parent=self.parent_key,
            labels=labels_from_text(self.labels),
            created=_moment(self.created),
            updated=_moment(self.updated),
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
    import datetime as dt

    return dt.datetime.fromtimestamp(nanoseconds // 10**9, dt.UTC) + dt.timedelta(
        microseconds=nanoseconds % 10**9 // 1000
    )


def create(path: str, meta: Mapping[str, str]) -> None:
    """Make a catalog at *path*, whole or not at all; somebody else's that is there already wins.

    :param meta: facts of the store: ``uuid``, ``driver``, ``options`` …
    """
    draft = f"{path}.new-{os.urandom(8).hex()}"
    try:
        with translated(path):
            connection = sqlite3.connect(draft, isolation_level=None)
            try:
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


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Turn SQLite's errors into ours; *path* is the catalog."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise OutOfSpace(
                f"cannot write the catalog {path}: its file system is full; free some space", what="data"
            ) from error
        if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            raise StoreCorrupt(
                f"the catalog {path} is damaged ({error}); put back a copy, "
                "or look at what is left with `cowstore check`",
                path=path,
            ) from error
        if code in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH}:
            raise Unsupported(
                f"cannot write the catalog {path}: {error}; open the store with read_only=True, or as its owner",
                feature="write",
            ) from error
        if code == sqlite3.SQLITE_CANTOPEN:
            raise CowstoreError(
                f"cannot open the catalog {path}: {error}; check that it is there and that you may read and write it"
            ) from error
        if code == sqlite3.SQLITE_IOERR:
            raise CowstoreError(
                f"cannot read or write the catalog {path}: {error}; "
                "the file system may be full, or one (NFS, say) without shared memory maps"
            ) from error
        raise CowstoreError(f"the catalog {path} did not answer: {error}") from error
