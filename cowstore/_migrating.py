"""Copying a store to another one, of whatever driver, each snapshot checked by its digest before anybody sees it.

What is there already was checked when it was made, so a migration that was killed goes on where it was.
"""

from __future__ import annotations

import os
import shutil

from cowstore import _blobs
from cowstore._importing import SOURCE_LABEL, born
from cowstore._layering import pour
from cowstore._rootless.verbs import in_namespace
from cowstore.errors import AlreadyExists, CowstoreError, Unsupported
from cowstore.layers.export import write_layer
from cowstore.layers.sink import Sink
from cowstore.model import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cowstore._core import Core
    from cowstore._rows import Row

DIFF_ID_LABEL = "cowstore.migrated.diff-id"
"""Label of a migrated snapshot: digest of what differs from its parent, in both stores."""


@in_namespace()
def migrate(source: Core, target: Core) -> Iterator[str]:
    """Copy every snapshot with its labels, parents first; yields the key of each that was copied.

    :raises AlreadyExists: the target has another snapshot of that key.
    :raises CowstoreError: a copy does not digest to what the original does; it is removed, and the source untouched.
    """
    _copy_blobs(source, target)
    for row in source.catalog.rows():
        if row.state != "ready" or row.ephemeral:
            continue
        if _is_there(row, target):
            continue
        if row.kind == Kind.VIEW:
            assert row.parent_key is not None
            copied = target.catalog.begin(
                row.key, Kind.VIEW, row.parent_key, labels=row.labels, owner=target.own("migrate")
            )
            target.catalog.ready(copied)
        else:
            _copy(source, row, target)
        yield row.key


def _is_there(row: Row, target: Core) -> bool:
    """Tell whether a snapshot was copied already."""
    there = target.catalog.find(row.key)
    if there is None:
        return False
    copied = there.state == "ready" and (there.kind == Kind.VIEW or DIFF_ID_LABEL in there.labels)
    if copied and (there.kind, there.parent_key) == (row.kind, row.parent_key):
        return True
    raise AlreadyExists(
        f"{target.root} has a snapshot {row.key!r} that is no copy of this one; migrate into an empty store",
        key=row.key,
    )


def _copy(source: Core, row: Row, target: Core) -> None:
    """Copy one snapshot, and compare what differs from its parent in both."""
    labels = dict(row.snapshot().labels)
    if SOURCE_LABEL in labels:
        raise Unsupported(
            f"cannot migrate {row.key!r}: it is the directory {labels[SOURCE_LABEL]}, adopted; "
            "import that, or remove it",
            feature="adopts",
        )
    size_bytes = row.size_bytes if target.driver.capabilities.size_limits else None
    with (
        target.doing("migrate", row.key),
        born(target, row.key, row.parent_key, kind=Kind(row.kind), size_bytes=size_bytes) as birth,
    ):
        wanted = pour(source, row.key, row.parent_key, birth.root_fd)
        with open(os.devnull, "wb") as nowhere, Sink(nowhere) as sink:
            write_layer(birth.root_fd, target.driver.changes(birth.row.id, birth.row.parent), sink)
        if sink.diff_id != wanted:
            raise CowstoreError(
                f"the copy of {row.key!r} digests to {sink.diff_id}, and the original to {wanted}; "
                "it was removed again: check that nothing writes to the original, and migrate again"
            )
        birth.labels.update(labels | {DIFF_ID_LABEL: wanted})


def _copy_blobs(source: Core, target: Core) -> None:
    """Copy the bytes that images came in."""
    directory = os.path.join(source.root, _blobs.DIRECTORY)
    if not os.path.isdir(directory):
        return
    for name in sorted(os.listdir(directory)):
        digest = name.replace("-", ":", 1)
        if not name.startswith(".") and not _blobs.has(target, digest):
            with open(os.path.join(directory, name), "rb") as blob, _blobs.draft(target) as (copy, named):
                shutil.copyfileobj(blob, copy, 1 << 20)
                named.append(digest)
