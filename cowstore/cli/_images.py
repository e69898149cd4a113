"""The commands that move whole images and whole stores: export, migrate."""

from __future__ import annotations

import os

from cowstore.cli._opening import location, open_to_read
from cowstore.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from cowstore.cli._output import Output


def export(arguments: argparse.Namespace, out: Output) -> None:
    """Write a committed snapshot with its ancestors as an image."""
    compression = None if arguments.compression == "none" else arguments.compression
    with open_to_read(arguments) as store:
        digest = store.export_image(arguments.key, arguments.path, ref=arguments.ref, compression=compression)
    if out.json:
        path = os.path.abspath(arguments.path)
        out.document({"key": arguments.key, "path": path, "ref": arguments.ref or arguments.key, "digest": digest})
    else:
        out.line(digest)


def migrate(arguments: argparse.Namespace, out: Output) -> None:
    """Copy every snapshot into another store; interrupted, it goes on where it was when called again."""
    import cowstore
    from cowstore.cli._progress import counted

    target = os.path.abspath(arguments.directory)
    if os.path.realpath(target) == os.path.realpath(location(arguments)):
        raise InvalidArgument(f"{target} is the store itself; name another directory", argument="DIR")
    copied: list[str] = []
    options = dict(arguments.to_option)
    with (
        open_to_read(arguments) as store,
        cowstore.open(target, driver=arguments.to, options=options or None) as other,
        counted("migrating", sum(1 for _ in store.walk())) as step,
    ):
        for key in store.migrate(other):
            copied.append(key)
            step()
            if not out.json:
                out.line(key)
        driver = other.driver_name
    if out.json:
        out.document({"root": target, "driver": driver, "copied": copied})
    else:
        out.remark(f"{len(copied)} copied to {target}, a store of the {driver} driver; the old one is as it was")
