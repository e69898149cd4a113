"""Blobs the store keeps: the packed layers, configs and manifests of imported images, byte for byte.

A layer that was packed by somebody else cannot be packed again to the same bytes, so these are kept (measured on a
Debian image: two fifths of what the unpacked layer takes) for as long as a snapshot names them by a label.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress

from cowstore._rows import labels_from_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from cowstore._core import Core

DIRECTORY = "blobs"
"""The store's directory of blobs, named ``<algorithm>-<digits>``; drafts begin with a dot."""

LABELS = ("cowstore.layer.digest", "cowstore.image.manifest", "cowstore.image.config-digest")
"""Labels by which a snapshot names a blob."""


def path_of(core: Core, digest: str) -> str:
    """Return where a blob lies."""
    return os.path.join(core.root, DIRECTORY, digest.replace(":", "-"))


def has(core: Core, digest: str) -> bool:
    """Tell whether a blob is kept."""
    return os.path.exists(path_of(core, digest))


@contextmanager
def draft(core: Core) -> Iterator[tuple[BinaryIO, list[str]]]:
    """Give a file to write a blob to, and a list to put its digest in; without one nothing is kept."""
    directory = os.path.join(core.root, DIRECTORY)
    with suppress(FileExistsError):
        os.mkdir(directory, 0o700)
    name = os.path.join(directory, f".{core.own('keep a blob')}-{os.urandom(4).hex()}")
    digest: list[str] = []
    try:
        with open(name, "xb") as file:
            yield file, digest
            file.flush()
            if digest and not core.volatile:
                os.fsync(file.fileno())
        if digest:
            os.rename(name, path_of(core, digest[0]))
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)


def keep(core: Core, digest: str, data: bytes) -> None:
    """Keep a document."""
    if not has(core, digest):
        with draft(core) as (file, named):
            file.write(data)
            named.append(digest)


def collect(core: Core) -> list[str]:
    """Remove what no snapshot needs any more, and drafts of owners that are gone; returns their names."""
    from cowstore import leases

    directory = os.path.join(core.root, DIRECTORY)
    names = _listed(directory)
    # Blobs come before the rows that name them: while anything is in the making, all may be needed.
    needed = set(names) if core.catalog.in_flight() else _needed(core)
    removed = []
    for name in names:
        if name.startswith("."):
            useless = leases.is_dead(core.owners_fd, name[1:].partition("-")[0])
        else:
            useless = name not in needed
        if useless:
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(directory, name))
                removed.append(name)
    return removed


def _needed(core: Core) -> set[str]:
    """Return the names of the blobs that snapshots name, and of those that kept manifests name."""
    import json

    needed = set()
    for row in core.catalog.rows():
        if "cowstore." not in row.labels:
            continue
        labels = labels_from_text(row.labels)
        needed |= {labels[label] for label in LABELS if label in labels}
        manifest = labels.get("cowstore.image.manifest")
        if manifest and has(core, manifest):
            with open(path_of(core, manifest), "rb") as file:
                needed |= {layer["digest"] for layer in json.load(file)["layers"]}
    return {digest.replace(":", "-") for digest in needed}


def _listed(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
