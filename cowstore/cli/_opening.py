"""How the commands open the store they were told of."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from cowstore.store import Store


def open_to_write(arguments: argparse.Namespace, *, create: bool = False) -> Store:
    """Open the store for a command that changes it.

    :param create: make the store if it is not there yet.
    """
    import cowstore

    return cowstore.open(arguments.store, driver=arguments.driver, options=arguments.option or None, create=create)


def open_to_read(arguments: argparse.Namespace) -> Store:
    """Open the store for a command that only looks; one that we may not write to is opened read-only."""
    import cowstore

    root = location(arguments)
    return cowstore.open(
        arguments.store,
        driver=arguments.driver,
        options=arguments.option or None,
        create=False,
        read_only=os.path.isdir(root) and not os.access(root, os.W_OK),
    )


def location(arguments: argparse.Namespace) -> str:
    """Return the absolute path of the store, whether it is there or not."""
    from cowstore._opening import default_root

    return os.path.abspath(arguments.store or default_root())
