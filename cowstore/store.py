"""The Store: who is whose child, who holds what, and what has been promised. It knows keys; the driver knows ids."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress

from cowstore import _faults
from cowstore._making import commit, make
from cowstore._rows import COMMITTING, labels_to_text
from cowstore._values import check_key, check_labels, check_size
from cowstore.errors import Busy, NotFound, WrongKind
from cowstore.model import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    import pathlib
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager
    from types import TracebackType
    from typing import BinaryIO, Self

    from cowstore._core import Core
    from cowstore._leased import Lease
    from cowstore.model import Capabilities, Mount, Snapshot
    from cowstore.results import Change, Finding, LayerInfo, Status, Usage

    Source = str | bytes | os.PathLike[str] | os.PathLike[bytes]


class Store:
    """A directory of snapshots on one driver. Made by :func:`cowstore.open`; a context manager.

    All verbs may be called from any thread, and any number of processes may share the directory. Every verb raises
    :class:`~cowstore.errors.CowstoreError` classes only; each leaves what it found when it fails.
    """

    def __init__(self, core: Core) -> None:
        """Only :func:`cowstore.open` makes stores."""
        self._core = core
        self._kept: dict[str, list[Lease]] = {}

    # Life.

    @property
    def root(self) -> str:
        """Absolute path of the store's directory."""
        return self._core.root

    @property
    def driver_name(self) -> str:
        """Name of the driver the store belongs to."""
        return self._core.driver_type.name

    @property
    def capabilities(self) -> Capabilities:
        """What the store's driver can do here."""
        return self._core.driver.capabilities

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give up all leases of this store, remove its ephemeral snapshots, and let go. Closing twice is fine."""
        core = self._core
        with core.lock, ExitStack() as stack:
            stack.callback(core.close)
            kept, self._kept = self._kept, {}
            if core.forked or core.closed:
                return
            if core.token:
                stack.callback(_faults.point, "store.close.removed")
                stack.callback(self._remove_ephemeral)
                stack.callback(_faults.point, "store.close.released")
            for held in kept.values():
                for lease in held:
                    stack.callback(lease.close)

    def _remove_ephemeral(self) -> None:
        for row in self._core.catalog.unfinished():
            if row.owner == self._core.token and row.ephemeral:
                # Busy: somebody else holds it, and the next open after that one has ended removes it.
                with suppress(NotFound, Busy):
                    self.remove(row.key)

    # Making.

    def prepare(
        self,
        key: str,
        parent: str | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        size_bytes: int | None = None,
        ephemeral: bool = False,
    ) -> Snapshot:
        """Make a writable snapshot of the committed *parent*, or an empty one.

        :param size_bytes: the most it may hold, in bytes, where the driver enforces sizes.
        :param ephemeral: it goes when this store is closed or its process ends.
        :raises AlreadyExists: the key is taken. :raises NotFound: no such parent. :raises WrongKind: the parent is not
            committed. :raises Unsupported: too deep, or sizes are not enforced here. :raises OutOfSpace: no room.
        """
        return make(
            self._core, "prepare", check_key(key), Kind.ACTIVE, parent, check_labels(labels),
            size_bytes=check_size(size_bytes), ephemeral=ephemeral,
        )  # fmt: skip

    def view(self, key: str, parent: str, *, labels: Mapping[str, str] | None = None) -> Snapshot:
        """Make a read-only snapshot of the committed *parent*.

        :raises AlreadyExists: the key is taken. :raises NotFound: no such parent. :raises WrongKind: the parent is not
            committed.
        """
        return make(self._core, "view", check_key(key), Kind.VIEW, check_key(parent, "parent"), check_labels(labels))

    def commit(self, name: str, key: str, *, labels: Mapping[str, str] | None = None) -> Snapshot:
        """Make the active *key* the committed *name*; *key* is gone afterwards. Labels are not inherited.

        When it returns, a power cut loses nothing of it (unless the store is volatile).

        :raises NotFound: no such key. :raises WrongKind: not active. :raises AlreadyExists: the name is taken.
        :raises Busy: a lease of it is held.
        """
        return commit(self._core, check_key(name, "name"), check_key(key), check_labels(labels))

    def remove(self, key: str, *, wait: bool = False) -> None:
        """Remove a snapshot. One whose removal failed before can be removed again.

        :param wait: return only when its space has been given back.
        :raises NotFound: no such key. :raises HasChildren: others descend from it. :raises Busy: a lease of it is held.
        """
        from cowstore._removing import remove

        with self._core.doing("remove", check_key(key)):
            remove(self._core, key, wait=wait)

    # Looking.

    def stat(self, key: str) -> Snapshot:
        """Return the snapshot of that key.

        :raises NotFound: there is none.
        """
        check_key(key)
        return self._core.catalog.get(key).snapshot()

    def walk(
        self,
        *,
        kind: Kind | str | None = None,
        parent: str | None = None,
        labels: Mapping[str, str | None] | None = None,
    ) -> Iterator[Snapshot]:
        """Iterate over the snapshots in order of their making; others may be made and removed meanwhile.

        :param kind: only those of that kind. :param parent: only children of that key.
        :param labels: only those with all these labels; a value of None asks for the label whatever its value.
        """
        wanted = None if kind is None else Kind(kind)
        return self._walk(wanted, parent, dict(labels or {}))

    def _walk(self, kind: Kind | None, parent: str | None, labels: dict[str, str | None]) -> Iterator[Snapshot]:
        for row in self._core.catalog.rows():
            if row.state not in {"ready", COMMITTING} or (kind is not None and row.kind != kind):
                continue
            if parent is not None and row.parent_key != parent:
                continue
            snapshot = row.snapshot()
            if all(
                name in snapshot.labels and value in {None, snapshot.labels[name]} for name, value in labels.items()
            ):
                yield snapshot

    def update(self, key: str, labels: Mapping[str, str]) -> Snapshot:
        """Replace the labels of *key*.

        :raises NotFound: there is none.
        """
        check_key(key)
        self._core.own("update")
        return self._core.catalog.set_labels(key, labels_to_text(check_labels(labels)))

    def usage(self, key: str) -> Usage:
        """Measure what *key* takes by itself, its parents excluded. A view takes nothing."""
        from cowstore.results import Usage

        row = self._core.catalog.get(check_key(key))
        if row.kind == Kind.VIEW:
            return Usage(size_bytes=0, inodes=0)
        # The key may have become another snapshot's meanwhile: what is held is what is measured.
        with self._core.doing("measure", key), self.leased(key) as lease:
            return self._core.driver.usage(lease.id)

    def changes(self, key: str, base: str | None = None) -> Iterator[Change]:
        """Iterate over what differs in *key* from *base* (by default its parent), sorted by path."""
        self._core.catalog.get(check_key(key))
        if base is not None:
            self._core.catalog.get(check_key(base, "base"))
        return self._changes(key, base)

    def _changes(self, key: str, base: str | None) -> Iterator[Change]:
        with self._core.doing("compare", key), ExitStack() as stack:
            if not self._core.read_only:
                # If this process is killed, the next open knows that somebody may have left something.
                self._core.own("compare")
            for held in (key,) if base is None else (key, base):
                stack.enter_context(self.leased(held)).acquiring()
            # Asked only now: what is held keeps its key.
            row = self._core.catalog.get(key)
            if base is None and row.parent_key is not None:
                # Otherwise whoever ends the last lease of it would take it down between its mounts and their use.
                stack.enter_context(self.leased(row.parent_key)).acquiring()
            below = row.parent if base is None else self._core.catalog.get(base).data_id
            if row.data_id != below:
                yield from self._core.driver.changes(row.data_id, below)

    def set_size(self, key: str, size_bytes: int) -> Snapshot:
        """Change the most that the active *key* may hold, mounted or not.

        :raises WrongKind: not active. :raises Unsupported: sizes are not enforced, or the driver cannot shrink.
        """
        check_size(size_bytes)
        self._core.own("set the size of")
        row = self._core.catalog.get(check_key(key))
        if row.kind != Kind.ACTIVE:
            raise WrongKind(f"cannot set the size of {key!r}: it is {row.kind}, not active", key=key, kind=row.kind)
        with self._core.doing("set the size of", key), self.leased(key) as lease:
            self._core.driver.resize(lease.id, size_bytes)
            return self._core.catalog.set_size(lease.id, size_bytes)

    # Mounts.

    def leased(self, key: str) -> AbstractContextManager[Lease]:
        """Hold *key* for the length of the block, with the mounts that realise it; it is busy meanwhile.

        :raises NotFound: there is none.
        """
        from cowstore._leased import leased

        return leased(self._core, check_key(key))

    def mounts(self, key: str) -> tuple[Mount, ...]:
        """Describe the mounts that realise *key*, for a caller who mounts; it is busy until :meth:`release`.

        :raises NotFound: there is none.
        """
        from cowstore._leased import Lease

        with self._core.doing("describe the mounts of", check_key(key)):
            with self._core.lock:
                if kept := self._kept.get(key):
                    # Described again it is the same lease, counted once more.
                    kept.append(kept[-1])
                    return kept[-1].mounts
            lease = Lease(self._core, key)
            try:
                mounts = lease.mounts
            except BaseException:
                lease.close()
                raise
            with self._core.lock:
                self._kept.setdefault(key, []).append(lease)
            return mounts

    def release(self, key: str) -> None:
        """Give up what one :meth:`mounts` acquired; the caller has unmounted. Without one, nothing happens."""
        check_key(key)
        with self._core.lock:
            kept = self._kept.get(key, [])
            lease = kept.pop() if kept else None
            if not kept:
                self._kept.pop(key, None)
        if lease is None:
            self._core.catalog.get(key)
            return
        if lease in kept:
            return
        with self._core.doing("release", key):
            lease.close()

    def mounted(self, key: str) -> AbstractContextManager[pathlib.Path]:
        """Mount *key* for the length of the block, below the store, private, under a lease; gives the path of its root.

        :raises NotFound: there is none. :raises Unsupported: this process may not mount; says how it can.
        """
        from cowstore._leased import mounted

        return mounted(self._core, check_key(key))

    def attach(self, key: str, target: Source) -> None:
        """Mount *key* at the directory *target*, to stay until :meth:`detach`, beyond the life of this process."""
        from cowstore._leased import attach

        self._core.own("mount")
        with self._core.doing("mount", key):
            attach(self._core, check_key(key), os.path.realpath(os.fsdecode(target)))

    def detach(self, target: Source) -> str:
        """Unmount what :meth:`attach` mounted at *target*; returns the key."""
        from cowstore._leased import detach

        path = os.path.realpath(os.fsdecode(target))
        self._core.own("unmount")
        with self._core.doing("unmount", path):
            return detach(self._core, path)

    def attached(self) -> dict[str, str]:
        """Tell what :meth:`attach` has mounted, in whatever mount namespace: the key by each target."""
        rows = {target: self._core.catalog.by_id(id) for target, id in self._core.catalog.attachments()}
        return {target: row.key for target, row in rows.items() if row is not None}

    # Bringing in.

    def import_tar(self, source: object, *, name: str) -> Snapshot:
        """Make the committed *name* from a root file system's archive, plain or compressed.

        :param source: a path, or a binary file object read to its end.
        :raises InvalidLayer: broken or hostile; nothing is left. :raises OutOfSpace: no room; nothing is left.
        """
        from cowstore._importing import import_tar

        return import_tar(self._core, source, check_key(name, "name"))

    def import_directory(self, source: Source, *, name: str) -> Snapshot:
        """Make the committed *name* as a copy of the directory *source*, mounts below it left out."""
        from cowstore._importing import import_directory

        return import_directory(self._core, os.fsdecode(source), check_key(name, "name"))

    def adopt(self, name: str, path: Source) -> Snapshot:
        """Make the committed *name* whose tree is the directory *path* itself, read-only by agreement.

        :raises Unsupported: the driver keeps all trees itself.
        """
        from cowstore._importing import adopt

        return adopt(self._core, check_key(name, "name"), os.path.realpath(os.fsdecode(path)))

    # Layers.

    def export_layer(
        self, key: str, file: BinaryIO, *, base: str | None = None, compression: str | None = None
    ) -> LayerInfo:
        """Write what differs in *key* from *base* (by default its parent) as an OCI layer.

        The same tree gives the same bytes on every driver and machine, but for what a compression library adds.

        :param file: a binary file object open for writing. :param compression: ``"gzip"``, ``"zstd"`` or None.
        :raises InvalidLayer: a name that no layer can hold. :raises InvalidArgument: an unknown compression.
        """
        from cowstore._layering import export_layer

        return export_layer(
            self._core,
            check_key(key),
            file,
            base=None if base is None else check_key(base, "base"),
            compression=compression,
        )

    def apply_layer(self, key: str, file: BinaryIO) -> LayerInfo:
        """Unpack an OCI layer, plain or compressed, over the active *key*.

        :param file: a binary file object, read to its end.
        :raises InvalidLayer: broken or hostile; the snapshot is removed then, as on any other error.
        :raises WrongKind: not active.
        """
        from cowstore._layering import apply_layer

        return apply_layer(self._core, check_key(key), file)

    def squash(self, name: str, key: str, base: str | None = None) -> Snapshot:
        """Make the committed *name*, a child of *base* or of nothing, with the tree of the committed *key*."""
        from cowstore._layering import squash

        return squash(
            self._core, check_key(name, "name"), check_key(key), None if base is None else check_key(base, "base")
        )

    # Images.

    def import_image(self, source: object, *, name: str, platform: str | None = None) -> Snapshot:
        """Make the committed *name* from an image, with one committed snapshot for each layer.

        Layers below the top get their chain id as key and are shared between images. If the top layer is here already
        under another key, *name* becomes an empty child of it.

        :param source: a path or a binary file object: an OCI layout (directory or archive), a docker-archive, or a
            plain root file system; told apart by content.
        :param platform: ``os/architecture[/variant]``; by default this machine's.
        :raises InvalidImage: damaged, contradictory or ambiguous; nothing is left. :raises InvalidLayer: likewise.
        """
        from cowstore._images import import_image

        return import_image(self._core, source, check_key(name, "name"), platform)

    def export_image(self, key: str, path: Source, *, ref: str | None = None, compression: str | None = "gzip") -> str:
        """Write the committed *key* with its ancestors as an OCI layout; returns the manifest's digest.

        :param path: a directory, made or extended atomically; or a name that ends in ``.tar``.
        :param ref: what the image is called in the layout; the key by default.
        :param compression: of the layers that were not imported; ``"gzip"``, ``"zstd"`` or None.
        """
        from cowstore._image_export import export_image

        return export_image(self._core, check_key(key), os.fsdecode(path), ref=ref, compression=compression)

    def migrate(self, target: Store) -> Iterator[str]:
        """Copy every snapshot with its labels into another store, whatever its driver; this one is only read.

        :returns: an iterator over the keys as they are copied, each checked by its digest. Interrupted, it goes on
            where it was when called again.
        :raises AlreadyExists: *target* has a snapshot of one of the keys that is no copy.
        """
        from cowstore._migrating import migrate

        return migrate(self._core, target._core)

    # The whole.

    def status(self) -> Status:
        """Tell the driver, the pool, and totals."""
        from cowstore.results import Status

        snapshots, in_flight = self._core.catalog.counts()
        with self._core.doing("look at", self.root):
            return Status(
                root=self.root,
                driver=self.driver_name,
                volatile=self._core.volatile,
                read_only=self._core.read_only,
                snapshots=snapshots,
                in_flight=in_flight,
                capabilities=self._core.driver.capabilities,
                driver_status=self._core.driver.status(),
            )

    def check(self, *, repair: bool = False) -> tuple[Finding, ...]:
        """Compare catalog, driver and disk; empty when all is well.

        :param repair: mend, or remove, only what is named.
        """
        from cowstore._checking import check

        if repair:
            self._core.own("repair")
        with self._core.doing("check", self.root):
            return tuple(check(self._core, repair=repair))

    def cleanup(self) -> tuple[str, ...]:
        """Finish or undo what dead processes left, wait until removed space is given back; tells what was removed."""
        from cowstore._blobs import collect
        from cowstore._recovery import recover

        self._core.own("clean up")
        with self._core.doing("clean up", self.root):
            removed = (*recover(self._core), *collect(self._core))
            self._core.driver.drain()
            return removed

    def destroy(self) -> None:
        """Remove the whole store: all snapshots, the pool with its devices or subvolumes, and the directory.

        :raises Busy: a lease of any snapshot is held.
        """
        from cowstore._recovery import destroy

        self._core.own("destroy")
        with self._core.doing("destroy", self.root):
            kept, self._kept = self._kept, {}
            for held in kept.values():
                for lease in held:
                    lease.close()
            destroy(self._core)
