"""Layers out of snapshots and into them."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack

from cowstore._importing import born, filling, policy
from cowstore._leased import leased, realised
from cowstore._removing import remove
from cowstore._rootless.verbs import in_namespace
from cowstore.errors import WrongKind
from cowstore.model import Kind
from cowstore.results import LayerInfo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

    from cowstore._core import Core
    from cowstore._rows import Row
    from cowstore.layers.sink import Sink
    from cowstore.model import Snapshot


@in_namespace(writes=(2,))
def export_layer(core: Core, key: str, file: BinaryIO, *, base: str | None, compression: str | None) -> LayerInfo:
    """Write what differs in *key* from *base* as a layer."""
    from cowstore.layers.sink import MEDIA_TYPES

    below = core.catalog.get(key).parent_key if base is None else base
    with core.doing("export", key):
        sink, skipped = _write_difference(core, key, below, file, compression)
    return LayerInfo(
        diff_id=sink.diff_id,
        digest=sink.digest,
        media_type=MEDIA_TYPES[compression],
        size_bytes=sink.size_bytes,
        skipped=skipped,
    )


@in_namespace()
def apply_layer(core: Core, key: str, file: BinaryIO) -> LayerInfo:
    """Unpack a layer over the active *key*; if that fails, the snapshot is removed rather than left half-changed."""
    from cowstore.layers.compression import open_stream
    from cowstore.layers.extract import Whiteouts, extract
    from cowstore.layers.sink import MEDIA_TYPES

    core.own("apply a layer")
    row = core.catalog.get(key)
    if row.kind != Kind.ACTIVE:
        raise WrongKind(f"cannot apply a layer to {key!r}: it is {row.kind}, not active", key=key, kind=row.kind)
    try:
        with core.doing("apply a layer to", key), ExitStack() as stack:
            lease = stack.enter_context(leased(core, key))
            tree = stack.enter_context(realised(core, lease))
            root_fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tree.fileno())
            stack.callback(os.close, root_fd)
            tried = f"cannot apply a layer to {key!r} in {core.root}"
            with filling(core, lease.id, root_fd, tried), open_stream(file) as stream:
                owners, devices = policy()
                extracted = extract(stream, root_fd, whiteouts=Whiteouts.APPLY, owners=owners, devices=devices)
                lease.before_unmount(root_fd)
    except BaseException:
        remove(core, key)
        raise
    return LayerInfo(
        diff_id=stream.diff_id,
        digest=stream.digest,
        media_type=MEDIA_TYPES.get(stream.compression, "application/octet-stream"),
        size_bytes=stream.compressed_bytes,
        skipped=extracted.skipped.counts(),
    )


@in_namespace()
def squash(core: Core, name: str, key: str, base: str | None) -> Snapshot:
    """Make the committed *name*, a child of *base*, with the tree of *key*: one layer instead of many."""
    row = core.catalog.get(key)
    if row.kind != Kind.COMMITTED:
        raise WrongKind(f"cannot squash {key!r}: it is {row.kind}, not committed", key=key, kind=row.kind)
    with born(core, name, base, size_bytes=_room(core, row, base)) as birth:
        pour(core, key, base, birth.root_fd)
        birth.labels.update(row.snapshot().labels)
    return birth.snapshot


def _room(core: Core, row: Row, base: str | None) -> int | None:
    """Return the size that what holds a row's tree, as a child of *base*, must have; None where that has no size."""
    ids = [row.data_id] if base is None else [row.data_id, core.catalog.get(base).data_id]
    return max((size for id in ids if (size := core.driver.size_of(id)) is not None), default=None)


def pour(core: Core, key: str, base: str | None, root_fd: int) -> str:
    """Write the layer of *key* over *base* into a tree that shows *base*, without a file in between.

    :returns: the layer's diff id.
    """
    from cowstore.layers.compression import open_stream
    from cowstore.layers.extract import Whiteouts, extract

    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    failed: list[BaseException] = []

    def write() -> None:
        try:
            with open(write_fd, "wb", buffering=0) as file:
                _write_difference(core, key, base, file)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that reads
            failed.append(error)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        with open(read_fd, "rb", buffering=0) as file, open_stream(file) as stream:
            owners, devices = policy()
            extract(stream, root_fd, whiteouts=Whiteouts.APPLY, owners=owners, devices=devices)
            return stream.diff_id
    finally:
        thread.join()
        if failed:
            raise failed[0]


def _write_difference(
    core: Core, key: str, base: str | None, file: BinaryIO, compression: str | None = None
) -> tuple[Sink, dict[str, int]]:
    """Write the layer that leads from *base*, or from nothing, to *key*; returns what was written and what left out."""
    from cowstore.layers.export import write_layer
    from cowstore.layers.sink import Sink

    with ExitStack() as stack:
        lease = stack.enter_context(leased(core, key))
        lease.acquiring()
        tree = stack.enter_context(realised(core, lease, read_only=True))
        below = None
        if base is not None:
            lower = stack.enter_context(leased(core, base))
            lower.acquiring()
            below = lower.id
        with Sink(file, compression) as sink:
            changes = iter(()) if below == lease.id else core.driver.changes(lease.id, below)
            return sink, write_layer(tree.fileno(), changes, sink)
