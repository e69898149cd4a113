"""The catalog: one SQLite file that knows every snapshot, and what is being done to it by whom.

A row is written *before* the kernel is touched, in one of the states below, and again after. What a power cut may take
(a row of ``prepare``) is written without a sync, since the driver can find the data again; what it may not (the record
of ``commit``, the intent of ``remove``) with one.
"""

from __future__ import annotations

import os
import time

from cowstore._database import Database
from cowstore._rows import COMMITTING, CREATING, READY, REMOVING, SELECT, Row
from cowstore.errors import (
    AlreadyExists,
    HasChildren,
    NotFound,
    StoreCorrupt,
    Unsupported,
    WrongKind,
)
from cowstore.model import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from cowstore.model import Snapshot

_PAGE = 500


class Catalog(Database):
    """An open catalog. Safe from threads; a forked child gets a connection of its own on first use."""

    # Facts of the store.

    def meta(self) -> dict[str, str]:
        """Return the facts of the store."""
        with self.reading() as connection:
            return dict(connection.execute("SELECT name, value FROM meta").fetchall())

    def set_meta(self, name: str, value: str) -> None:
        """Record a fact of the store."""
        self.write(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", name, value, durable=True
        )

    # Looking.

    def find(self, key: str) -> Row | None:
        """Return the row of that key in whatever state, or None."""
        with self.reading() as connection:
            return _one(connection, "WHERE s.key = ?", key)

    def get(self, key: str) -> Row:
        """Return the row of a snapshot that is there.

        :raises NotFound: no such key, or one that is only being made or removed.
        """
        row = self.find(key)
        if row is None or row.state in {CREATING, REMOVING}:
            raise NotFound(
                f"there is no snapshot {key!r} in {os.path.dirname(self.path)}; `cowstore ls` lists them", key=key
            )
        return row

    def by_id(self, id: int) -> Row | None:
        """Return the row of that id in whatever state, or None."""
        with self.reading() as connection:
            return _one(connection, "WHERE s.id = ?", id)

    def integrity(self) -> str:
        """Return what SQLite's own check finds, or an empty string."""
        with self.reading() as connection:
            lines = [str(line) for (line,) in connection.execute("PRAGMA quick_check(10)")]
            broken = connection.execute("PRAGMA foreign_key_check").fetchall()
        if broken:
            lines.append(f"{len(broken)} rows name a parent that is not there")
        return "; ".join(line for line in lines if line != "ok")

    def rows(self, *, after: int = 0) -> Iterator[Row]:
        """Walk all rows by id, in every state. No transaction is held between two pages."""
        while True:
            with self.reading() as connection:
                found = connection.execute(f"{SELECT} WHERE s.id > ? ORDER BY s.id LIMIT ?", (after, _PAGE)).fetchall()
            for columns in found:
                yield Row(columns)
            if len(found) < _PAGE:
                return
            after = found[-1][0]

    def unfinished(self) -> list[Row]:
        """List the rows that name an owner: verbs under way, and ephemeral snapshots."""
        with self.reading() as connection:
            return [
                Row(columns) for columns in connection.execute(f"{SELECT} WHERE s.owner IS NOT NULL ORDER BY s.id DESC")
            ]

    def in_flight(self) -> bool:
        """Tell whether any verb is under way."""
        with self.reading() as connection:
            return (
                connection.execute("SELECT 1 FROM snapshots WHERE state <> ? LIMIT 1", (READY,)).fetchone() is not None
            )

    def counts(self) -> tuple[dict[Kind, int], int]:
        """Count the snapshots of each kind, and the verbs under way."""
        with self.reading() as connection:
            found = dict(
                connection.execute(
                    "SELECT kind, count(*) FROM snapshots WHERE state IN (?, ?) GROUP BY kind", (READY, COMMITTING)
                ).fetchall()
            )
            under_way = connection.execute("SELECT count(*) FROM snapshots WHERE state <> ?", (READY,)).fetchone()[0]
        return {kind: found.get(kind.value, 0) for kind in Kind}, under_way

    def children(self, id: int, limit: int = 10) -> list[str]:
        """List keys of children of *id*, in every state."""
        with self.reading() as connection:
            return _children(connection, id, limit)

    # Making.

    def begin(
        self,
        key: str,
        kind: Kind,
        parent: str | Row | None,
        *,
        labels: str,
        owner: str,
        ephemeral: bool = False,
        size_bytes: int | None = None,
        max_depth: int | None = None,
    ) -> Row:
        """Record the intent to make *key*; it stays invisible until :meth:`ready`.

        :param parent: key of a committed snapshot, or the row of one in the making by the same owner.

        :raises AlreadyExists: the key is taken. :raises NotFound: no such parent.
        :raises WrongKind: the parent is not committed. :raises Unsupported: deeper than *max_depth* ancestors.
        """
        with self.writing(durable=kind is Kind.COMMITTED) as connection:
            self._check_free(connection, key)
            above = self._parent(connection, parent, max_depth) if isinstance(parent, str) else parent
            depth = 0 if above is None else above.depth + 1
            now = time.time_ns()
            id = connection.execute(
                "INSERT INTO snapshots (key, kind, state, parent, depth, labels, created, updated, size_bytes, "
                "ephemeral, owner) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    key, kind.value, CREATING, above and above.id, depth, labels, now, now, size_bytes, int(ephemeral),
                    owner,
                ),
            ).lastrowid  # fmt: skip
            return Row((
                id, key, kind.value, CREATING, above and above.id, above and above.key, depth, labels, now, now,
                size_bytes, int(ephemeral), owner, None,
            ))  # fmt: skip

    def _check_free(self, connection: sqlite3.Connection, key: str) -> None:
        found = connection.execute(
            "SELECT key, state, next_key FROM snapshots WHERE key = ? OR next_key = ?", (key, key)
        ).fetchone()
        if found is None:
            return
        state = {CREATING: "being made", REMOVING: "being removed", READY: "there", COMMITTING: "being committed"}[
            found[1]
        ]
        raise AlreadyExists(
            f"the key {key!r} is taken: a snapshot of that name is {state}; choose another, or remove it", key=key
        )

    def _parent(self, connection: sqlite3.Connection, key: str, max_depth: int | None) -> Row:
        row = _one(connection, "WHERE s.key = ?", key)
        if row is None or row.state in {CREATING, REMOVING}:
            raise NotFound(f"there is no snapshot {key!r} to be the parent; `cowstore ls` lists them", key=key)
        if row.kind != Kind.COMMITTED:
            raise WrongKind(
                f"{key!r} cannot be a parent: it is {row.kind}, not committed; commit it first", key=key, kind=row.kind
            )
        if max_depth is not None and row.depth + 1 > max_depth:
            raise Unsupported(
                f"{key!r} has {row.depth} ancestors, and this driver takes {max_depth} layers; "
                "squash some of them first",
                feature="max_depth",
            )
        return row

    def renumber(self, row: Row) -> int:
        """Give a row in the making the next id, because something unknown lies where its data would go."""
        with self.writing() as connection:
            last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'snapshots'").fetchone()[0]
            id = int(last) + 1
            connection.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'snapshots'", (id,))
            connection.execute("UPDATE snapshots SET id = ? WHERE id = ?", (id, row.id))
            return id

    def last_id(self) -> int:
        """Return the highest id that was ever given out."""
        with self.reading() as connection:
            found = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'snapshots'").fetchone()
        return int(found[0]) if found else 0

    def reserve_ids(self, last: int) -> None:
        """Never give out an id up to *last*."""
        with self.writing() as connection:
            changed = connection.execute(
                "UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'snapshots'", (last,)
            ).rowcount
            if changed == 0:
                connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('snapshots', ?)", (last,))

    def ready(self, row: Row, *, labels: str | None = None, durable: bool = False) -> Snapshot:
        """Publish a row in the making, with the labels it was begun with unless others are given."""
        if labels is not None:
            row.labels = labels
        changed = self.write(
            "UPDATE snapshots SET state = ?, labels = ?, owner = CASE WHEN ephemeral THEN owner END WHERE id = ?",
            READY, row.labels, row.id,
            durable=durable,
        )  # fmt: skip
        if not changed:
            raise StoreCorrupt(
                f"the row of id {row.id} has vanished from {self.path}; run `cowstore check`", path=self.path
            )
        row.state = READY
        return row.snapshot()

    def publish(self, made: list[tuple[Row, str]]) -> list[Snapshot]:
        """Publish rows in the making with their labels: all of them, or by a power cut none."""
        with self.writing(durable=True) as connection:
            for row, labels in made:
                connection.execute(
                    "UPDATE snapshots SET state = ?, labels = ?, owner = NULL WHERE id = ?", (READY, labels, row.id)
                )
            return [self._get(connection, row.id) for row, _ in made]

    def labelled(self, name: str, value: str) -> list[Row]:
        """List the committed snapshots with that label."""
        with self.reading() as connection:
            found = connection.execute(
                f"{SELECT} WHERE s.kind = ? AND s.state = ? AND json_extract(s.labels, ?) = ? ORDER BY s.id",
                (Kind.COMMITTED.value, READY, f'$."{name}"', value),
            )
            return [Row(columns) for columns in found]

    def _get(self, connection: sqlite3.Connection, id: int) -> Snapshot:
        row = _one(connection, "WHERE s.id = ?", id)
        if row is None:
            raise StoreCorrupt(
                f"the row of id {id} has vanished from {self.path}; run `cowstore check`", path=self.path
            )
        return row.snapshot()

    def drop(self, id: int) -> None:
        """Forget a row. Its data are gone already."""
        self.write("DELETE FROM snapshots WHERE id = ?", id)

    # Committing.

    def begin_commit(self, key: str, name: str, *, labels: str, owner: str) -> Row:
        """Record the intent to make the active *key* the committed *name*.

        Before anything is sealed its row is on the disk: after a power cut, sealed data of which the catalog knows
        nothing tell that it is not the store's latest.
        """
        with self.writing(durable=True) as connection:
            row = _one(connection, "WHERE s.key = ?", key)
            if row is None or row.state in {CREATING, REMOVING}:
                raise NotFound(f"there is no snapshot {key!r} to commit; `cowstore ls` lists them", key=key)
            if row.kind != Kind.ACTIVE:
                raise WrongKind(f"{key!r} cannot be committed: it is {row.kind}, not active", key=key, kind=row.kind)
            if row.state == COMMITTING:
                raise AlreadyExists(f"{key!r} is being committed already, as {row.next_key!r}", key=key)
            self._check_free(connection, name)
            connection.execute(
                "UPDATE snapshots SET state = ?, next_key = ?, next_labels = ?, owner = ? WHERE id = ?",
                (COMMITTING, name, labels, owner, row.id),
            )
            return row

    def finish_commit(self, id: int) -> Snapshot:
        """Record that the data of *id* are sealed: from now on it is the committed snapshot of its new name."""
        with self.writing(durable=True) as connection:
            now = time.time_ns()
            connection.execute(
                "UPDATE snapshots SET state = ?, kind = ?, key = next_key, labels = next_labels, next_key = NULL, "
                "next_labels = NULL, owner = NULL, ephemeral = 0, created = ?, updated = ? WHERE id = ? AND state = ?",
                (READY, Kind.COMMITTED.value, now, now, id, COMMITTING),
            )
            return self._get(connection, id)

    def abort_commit(self, row: Row) -> None:
        """Take back the intent: the snapshot is active again under its old key."""
        self.write(
            "UPDATE snapshots SET state = ?, next_key = NULL, next_labels = NULL, owner = ? WHERE id = ? AND state = ?",
            READY, row.owner, row.id, COMMITTING,
        )  # fmt: skip

    # Removing.

    def begin_remove(self, found: Row, *, owner: str, mounted: bool = False) -> bool:
        """Record the intent to remove a snapshot; it is invisible from now on. A removal that failed is found again.

        :param found: its row, as it was looked up. :param mounted: although it is recorded as mounted somewhere.
        :returns: False if it is recorded as mounted somewhere; nothing has happened then.
        :raises NotFound: it is not there any more. :raises HasChildren: others descend from it.
        """
        # An ephemeral snapshot goes after a power cut whatever the catalog remembers.
        durable = not found.ephemeral and found.kind != Kind.VIEW
        while not self.write(
            "UPDATE snapshots SET state = ?, owner = ? WHERE id = ? AND key = ? AND state <> ? "
            "AND NOT EXISTS (SELECT 1 FROM snapshots AS child WHERE child.parent = snapshots.id) "
            "AND (? OR NOT EXISTS (SELECT 1 FROM attachments WHERE attachments.id = snapshots.id))",
            REMOVING, owner, found.id, found.key, COMMITTING, mounted,
            durable=durable,
        ):  # fmt: skip
            self._refuse_removal(found)
            if not mounted and self.attached(found.id):
                return False
        return True

    def _refuse_removal(self, found: Row) -> None:
        """Say why a row cannot be removed, unless by now it can."""
        key = found.key
        with self.reading() as connection:
            row = _one(connection, "WHERE s.id = ? AND s.key = ?", found.id, key)
            children = _children(connection, found.id, 10)
        if row is None:
            raise NotFound(
                f"there is no snapshot {key!r} to remove: somebody else just removed or committed it", key=key
            )
        if row.state == COMMITTING:
            raise AlreadyExists(f"{key!r} cannot be removed: it is being committed as {row.next_key!r}", key=key)
        if children:
            raise HasChildren(
                f"cannot remove {key!r}: {', '.join(map(repr, children))} descend from it; remove them first",
                key=key,
                children=children,
            )

    def begin_remove_all(self, *, owner: str) -> None:
        """Record the intent to remove everything; nothing is listed from now on, and whoever opens next finishes it."""
        self.write("UPDATE snapshots SET state = ?, owner = ?", REMOVING, owner, durable=True)

    # Changing.

    def set_labels(self, key: str, labels: str) -> Snapshot:
        """Replace the labels of *key*."""
        with self.writing() as connection:
            row = _one(connection, "WHERE s.key = ?", key)
            if row is None or row.state in {CREATING, REMOVING}:
                raise NotFound(f"there is no snapshot {key!r} to update; `cowstore ls` lists them", key=key)
            now = max(time.time_ns(), row.updated + 1000)
            connection.execute("UPDATE snapshots SET labels = ?, updated = ? WHERE id = ?", (labels, now, row.id))
            return self._get(connection, row.id)

    def set_size(self, id: int, size_bytes: int) -> Snapshot:
        """Record the new size limit of *id*."""
        with self.writing() as connection:
            connection.execute(
                "UPDATE snapshots SET size_bytes = ?, updated = ? WHERE id = ?", (size_bytes, time.time_ns(), id)
            )
            return self._get(connection, id)

    # Mounts that outlive the process which made them (`cowstore mount`).

    def attach(self, id: int, target: str, namespace: str) -> None:
        """Record that *id* is mounted at *target* of a mount namespace, on somebody's behalf."""
        self.write("INSERT OR REPLACE INTO attachments VALUES (?, ?, ?)", _text(target), id, namespace)

    def detach(self, target: str) -> None:
        """Forget the mount at *target*."""
        self.write("DELETE FROM attachments WHERE target = ?", _text(target))

    def attachments(self) -> list[tuple[str, int]]:
        """List (target, id) of all recorded mounts."""
        with self.reading() as connection:
            return [(_path(target), id) for target, id in connection.execute("SELECT target, id FROM attachments")]

    def attached(self, id: int) -> list[tuple[str, str]]:
        """List (target, namespace) of the recorded mounts of *id*."""
        with self.reading() as connection:
            found = connection.execute("SELECT target, namespace FROM attachments WHERE id = ?", (id,))
            return [(_path(target), namespace) for target, namespace in found]


def _one(connection: sqlite3.Connection, where: str, *values: object) -> Row | None:
    columns = connection.execute(SELECT + where, values).fetchone()
    return None if columns is None else Row(columns)


def _children(connection: sqlite3.Connection, id: int, limit: int) -> list[str]:
    return [
        key
        for (key,) in connection.execute("SELECT key FROM snapshots WHERE parent = ? ORDER BY id LIMIT ?", (id, limit))
    ]


def _text(path: str) -> bytes:
    """Return a path as SQLite keeps it: bytes, since not every path is text."""
    return os.fsencode(path)


def _path(kept: bytes) -> str:
    return os.fsdecode(kept)
