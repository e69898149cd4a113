"""The connection to a catalog: transactions, durability, threads and forks."""

from __future__ import annotations

import os
import sqlite3
from _thread import RLock  # threading itself takes half a millisecond to import
from contextlib import contextmanager

from cowstore._rows import SCHEMA, translated
from cowstore.errors import CowstoreError, StoreCorrupt, StoreMismatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_SHORT_LOG_PAGES = 100
"""Pages after which a log that is left behind is written back: whoever opens the catalog next reads all of it."""

_ORPHANS: list[sqlite3.Connection] = []
"""Connections that a fork brought along, or that end with the process: never used, never closed, never collected."""


class Database:
    """An open catalog. Safe from threads; a forked child gets a connection of its own on first use."""

    def __init__(self, path: str, *, read_only: bool = False, volatile: bool = False) -> None:
        self.path = path
        self.read_only = read_only
        self.volatile = volatile
        self._lock = RLock()
        self._pid = -1
        self._durable: bool | None = None
        self._database: sqlite3.Connection | None = None
        self._closed = False
        self._leaves_log = False
        with translated(path):
            self._check()

    def _check(self) -> None:
        """Refuse a catalog that is empty, damaged, or written by a newer cowstore."""
        version = self._connection().execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            raise StoreCorrupt(
                f"the catalog {self.path} is empty; put back a copy, or remove the store's directory", path=self.path
            )
        if version != SCHEMA:
            raise StoreMismatch(
                f"the catalog {self.path} has schema {version}, this cowstore knows schema {SCHEMA}; "
                "use the version that wrote it",
                expected=str(SCHEMA),
                found=str(version),
            )

    def _connection(self) -> sqlite3.Connection:
        pid = os.getpid()
        if self._database is not None and self._pid == pid:
            return self._database
        if self._closed:
            raise CowstoreError(f"the store of the catalog {self.path} is closed; open it again")
        if self._database is not None:
            # In a forked child: SQLite forbids even closing what the parent opened, so it is kept and never touched.
            _ORPHANS.append(self._database)
            self._lock = RLock()
        if self.read_only:
            from urllib.parse import quote

            self._database = sqlite3.connect(
                f"file:{quote(os.fsencode(self.path))}?mode=ro",
                uri=True,
                timeout=60,
                isolation_level=None,
                check_same_thread=False,
            )
        else:
            if not os.path.exists(self.path):
                raise StoreCorrupt(
                    f"the catalog {self.path} is gone; put back a copy, or remove the store's directory", path=self.path
                )
            self._database = sqlite3.connect(self.path, timeout=60, isolation_level=None, check_same_thread=False)
        self._pid = pid
        self._durable = None
        self._database.execute("PRAGMA foreign_keys=ON")
        return self._database

    def close(self) -> None:
        """Let go of the file. Closing twice is fine."""
        with self._lock:
            database, self._database = self._database, None
            self._closed = True
            if database is None or self._pid != os.getpid():
                return
            if self._leaves_log:
                _ORPHANS.append(database)
            else:
                database.close()

    def leave_log(self) -> None:
        """Leave the write-ahead log to whoever opens the catalog next, for a process that ends without clean-up.

        Closing the last connection writes the log back and removes it, the next one makes it anew: four syncs, a
        millisecond on an idle fast disk, ten on a busy one. A log that is left is as good as one left by a crash.
        """
        with self._lock, translated(self.path):
            if not self.read_only:
                self._connection().execute(f"PRAGMA wal_autocheckpoint={_SHORT_LOG_PAGES}")
            self._leaves_log = True

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock, translated(self.path):
            yield self._connection()

    @contextmanager
    def writing(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """One transaction; *durable*: when it ends, a power cut does not take it back."""
        with self._lock, translated(self.path):
            connection = self._connection()
            durable = durable and not self.volatile
            if durable != self._durable:
                level = "FULL" if durable else "OFF" if self.volatile else "NORMAL"
                connection.execute(f"PRAGMA synchronous={level}")
                self._durable = durable
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
