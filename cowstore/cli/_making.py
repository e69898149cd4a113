"""The commands that make, commit and remove snapshots: import, prepare, view, commit, rm."""

from __future__ import annotations

import os

from cowstore.cli._opening import open_to_write
from cowstore.cli._output import snapshot_document
from cowstore.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from cowstore.cli._output import Output
    from cowstore.model import Snapshot


def one_of(arguments: argparse.Namespace, name: str, *, required: bool = False) -> str | None:
    """Return the snapshot that was given by position or by name.

    :raises InvalidArgument: it was given twice and differently, or not at all though *required*.
    """
    by_position: str | None = getattr(arguments, f"{name}_by_position")
    by_name: str | None = getattr(arguments, name)
    if by_position is not None and by_name is not None and by_position != by_name:
        raise InvalidArgument(f"two different values for the {name}: {by_position!r} and {by_name!r}", argument=name)
    found = by_name if by_position is None else by_position
    if required and found is None:
        raise InvalidArgument(f"no {name} given; add its key, or --{name} KEY", argument=name)
    return found


def import_(arguments: argparse.Namespace, out: Output) -> None:
    """Make a committed snapshot from an image, a directory or an archive."""
    from cowstore.cli._progress import archive

    source = arguments.source
    platform = arguments.platform
    if source != "-" and os.path.isdir(source):
        with open_to_write(arguments, create=True) as store:
            snapshot = store.import_image(source, name=arguments.name, platform=platform)
    else:
        # The archive first: no store is made for one that is not there.
        with archive(source) as file, open_to_write(arguments, create=True) as store:
            snapshot = store.import_image(file, name=arguments.name, platform=platform)
    made(snapshot, out)


def prepare(arguments: argparse.Namespace, out: Output) -> None:
    """Make a writable snapshot."""
    parent = one_of(arguments, "parent")
    with open_to_write(arguments, create=parent is None) as store:
        snapshot = store.prepare(arguments.key, parent, labels=dict(arguments.label), size_bytes=arguments.size)
    made(snapshot, out)


def view(arguments: argparse.Namespace, out: Output) -> None:
    """Make a read-only snapshot."""
    parent = one_of(arguments, "parent", required=True)
    assert parent is not None
    with open_to_write(arguments) as store:
        snapshot = store.view(arguments.key, parent, labels=dict(arguments.label))
    made(snapshot, out)


def commit(arguments: argparse.Namespace, out: Output) -> None:
    """Turn a writable snapshot into a committed one."""
    with open_to_write(arguments) as store:
        snapshot = store.commit(arguments.name, arguments.key, labels=dict(arguments.label))
    made(snapshot, out)


def rm(arguments: argparse.Namespace, out: Output) -> None:
    """Remove snapshots in the order given; the first failure ends it."""
    removed: list[str] = []
    with open_to_write(arguments) as store:
        for key in arguments.key:
            store.remove(key, wait=arguments.wait)
            removed.append(key)
    if out.json:
        out.document({"removed": removed})


def made(snapshot: Snapshot, out: Output) -> None:
    """Tell of a new snapshot: as JSON, and otherwise by its key."""
    if out.json:
        out.document(snapshot_document(snapshot))
    else:
        out.line(snapshot.key)
