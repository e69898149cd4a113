"""The commands that turn snapshots into layers and back: diff, apply, squash."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager

from cowstore.cli._making import made, one_of
from cowstore.cli._opening import open_to_read, open_to_write
from cowstore.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from typing import BinaryIO

    from cowstore.cli._output import Output
    from cowstore.results import LayerInfo


def diff(arguments: argparse.Namespace, out: Output) -> None:
    """Write what differs from the parent, or another base, as an OCI layer."""
    if out.json and arguments.output is None:
        raise InvalidArgument("with --json the layer needs a file of its own; add --output FILE", argument="output")
    base = one_of(arguments, "base")
    compression = None if arguments.compression == "none" else arguments.compression
    with open_to_read(arguments) as store, _written(arguments.output) as file:
        info = store.export_layer(arguments.key, file, base=base, compression=compression)
    if out.json:
        out.document(_layer_document(info))
    _tell_skipped(info, out)


def apply(arguments: argparse.Namespace, out: Output) -> None:
    """Unpack a layer over a writable snapshot."""
    from cowstore.cli._progress import archive

    with archive(arguments.source) as file, open_to_write(arguments) as store:
        info = store.apply_layer(arguments.key, file)
    if out.json:
        out.document(_layer_document(info))
    _tell_skipped(info, out)


def squash(arguments: argparse.Namespace, out: Output) -> None:
    """Make one layer of a chain."""
    with open_to_write(arguments) as store:
        snapshot = store.squash(arguments.name, arguments.key, arguments.base)
    made(snapshot, out)


@contextmanager
def _written(path: str | None) -> Iterator[BinaryIO]:
    """Give where the layer goes: standard output, or a file that appears under its name only when it is whole."""
    if path is None:
        if sys.stdout is None or sys.stdout.isatty():
            raise InvalidArgument("a layer is not for a terminal; add --output FILE, or redirect", argument="output")
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    draft = f"{path}.part-{os.getpid()}"
    try:
        with open(draft, "xb") as file:
            yield file
        os.replace(draft, path)
    except BaseException:
        if os.path.exists(draft):
            os.unlink(draft)
        raise


def _layer_document(info: LayerInfo) -> dict[str, object]:
    return {
        "diff_id": info.diff_id,
        "digest": info.digest,
        "media_type": info.media_type,
        "size_bytes": info.size_bytes,
        "skipped": dict(info.skipped),
    }


def _tell_skipped(info: LayerInfo, out: Output) -> None:
    left_out = ", ".join(f"{count} {sort}" for sort, count in info.skipped.items() if count)
    if left_out:
        out.remark(f"left out: {left_out}")
