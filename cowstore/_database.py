"""The connection to a catalog: transactions, durability, threads and forks."""

from __future__ import annotations

import os
from _thread import RLock  # threading itself takes half a millisecond to import

from cowstore import _forks
from cowstore._rows import SCHEMA, explained, make_shared_memory, translated
from cowstore.errors import CowstoreError, StoreCorrupt, StoreMismatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from types import TracebackType
else:
    import _sqlite3 as sqlite3  # see cowstore._rows

_SHORT_LOG_PAGES = 400
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
        self._generation = -1
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
        generation = _forks.generation
        if self._database is not None and self._generation == generation:
            return self._database
        if self._closed:
            raise CowstoreError(f"the store of the catalog {self.path} is closed; open it again")
        if self._database is not None:
            # In a forked child: SQLite forbids even closing what the parent opened, so it is kept and never touched.
            _ORPHANS.append(self._database)
            self._lock = RLock()
        if self.read_only:
            make_shared_memory(self.path)
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
            make_shared_memory(self.path)
            self._database = sqlite3.connect(self.path, timeout=60, isolation_level=None, check_same_thread=False)
        self._generation = generation
        self._durable = None
        self._database.execute("PRAGMA foreign_keys=ON")
        return self._database

    def close(self) -> None:
        """Let go of the file. Closing twice is fine."""
        with self._lock:
            database, self._database = self._database, None
            self._closed = True
            if database is None or self._generation != _forks.generation:
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

    def reading(self) -> _Reading:
        """Hold the connection for the length of the block, to look."""
        return _Reading(self)

    def writing(self, *, durable: bool = False) -> _Writing:
        """One transaction; *durable*: when it ends, a power cut does not take it back."""
        return _Writing(self, durable=durable)

    def write(self, statement: str, *values: object, durable: bool = False) -> int:
        """Do one statement that is a transaction by itself; returns the number of rows it changed.

        SQLite can undo it as a whole. Within a transaction it would first put by what a statement that touches several
        tables changes, in memory that is taken from the system and given back each time (20 µs for a DELETE).
        """
        with _Reading(self) as connection:
            self._keep_promise(connection, durable=durable)
            return connection.execute(statement, values).rowcount

    def _keep_promise(self, connection: sqlite3.Connection, *, durable: bool) -> None:
        """Have the next transaction synced, or not."""
        durable = durable and not self.volatile
        if durable != self._durable:
            level = "FULL" if durable else "OFF" if self.volatile else "NORMAL"
            connection.execute(f"PRAGMA synchronous={level}")
            self._durable = durable


class _Reading:
    """A block in which the connection is this thread's. A class, since a generator takes three times as long."""

    __slots__ = ("_database", "_lock")

    def __init__(self, database: Database) -> None:
        self._database = database

    def __enter__(self) -> sqlite3.Connection:
        database = self._database
        # In a forked child the connection comes with a lock of its own: what is taken is what is given back.
        lock = self._lock = database._lock  # noqa: SLF001  # a part of it
        lock.acquire()
        try:
            return database._connection()  # noqa: SLF001
        except BaseException as error:
            lock.release()
            if isinstance(error, sqlite3.Error):
                raise explained(error, database.path) from error
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
        if isinstance(error, sqlite3.Error):
            raise explained(error, self._database.path) from error


class _Writing(_Reading):
    """A block that is one transaction, or none if it fails."""

    __slots__ = ("_connection", "_durable")

    def __init__(self, database: Database, *, durable: bool) -> None:
        self._database = database
        self._durable = durable

    def __enter__(self) -> sqlite3.Connection:
        connection = self._connection = super().__enter__()
        try:
            self._database._keep_promise(connection, durable=self._durable)  # noqa: SLF001
            connection.execute("BEGIN IMMEDIATE")
        except BaseException as error:
            super().__exit__(type(error), error, None)
            raise
        return connection

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        connection = self._connection
        try:
            if error is None:
                connection.execute("COMMIT")
        except BaseException as failure:
            error = failure
            raise
        finally:
            try:
                if error is not None and connection.in_transaction:
                    connection.execute("ROLLBACK")
            finally:
                super().__exit__(kind, error, trace)
