"""Trees that come from outside: archives, directories copied, and directories adopted."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager

from cowstore import _faults, leases
from cowstore._rootless.verbs import in_namespace
from cowstore._rows import labels_to_text
from cowstore.errors import InvalidArgument, InvalidLayer
from cowstore.model import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from cowstore._core import Core
    from cowstore._rows import Row
    from cowstore.layers.extract import Devices
    from cowstore.layers.metadata import Owners
    from cowstore.model import Snapshot

DIGEST_LABEL = "cowstore.import.digest"
"""Label of an imported archive: digest of the bytes that were read."""

SOURCE_LABEL = "cowstore.adopted"
"""Label of an adopted snapshot: the directory that it is."""


class _Birth:
    """A snapshot in the making. Whoever fills it sets the labels it shall have."""

    __slots__ = ("labels", "root_fd", "row", "snapshot")

    def __init__(self, root_fd: int, row: Row) -> None:
        self.root_fd = root_fd
        self.row = row
        self.labels: dict[str, str] = {}
        self.snapshot: Snapshot


@contextmanager
def born(
    core: Core, name: str, parent: str | None = None, *, kind: Kind = Kind.COMMITTED, size_bytes: int | None = None
) -> Iterator[_Birth]:
    """Make a snapshot from what the block writes below a directory descriptor; nothing of it if it fails.

    Until the block has ended well and, for a committed one, all is on disk, nobody sees it.
    """
    depth = core.driver.capabilities.max_depth
    owner = core.own("import")
    row = core.catalog.begin(name, kind, parent, labels="{}", owner=owner, size_bytes=size_bytes, max_depth=depth)
    try:
        _faults.point("store.import.recorded")
        core.create(row, size_bytes)
        _faults.point("store.import.created")
        with writable_tree(core, row) as root_fd:
            birth = _Birth(root_fd, row)
            yield birth
        _faults.point("store.import.filled")
        if kind is Kind.COMMITTED:
            core.driver.seal(row.id)
        _faults.point("store.import.sealed")
        birth.snapshot = core.catalog.ready(row, labels=labels_to_text(birth.labels), durable=True)
    except BaseException:
        core.undo(row.id)
        raise


@contextmanager
def writable_tree(core: Core, row: Row) -> Iterator[int]:
    """Give the root of a row in the making as a directory descriptor, without a mount where the driver can."""
    driver = core.driver
    with ExitStack() as stack:
        stack.callback(leases.drop, leases.share(core.leases_fd, row.id))
        directory = driver.unpack_directory(row.id) if row.parent is None else None
        if directory is None and core.confined:
            directory = driver.tree_directory(row.id)
        if directory is None:
            from cowstore.mounting import detached

            stack.callback(driver.release, row.id)
            tree = stack.enter_context(detached(driver.mounts(row.id, False)))
            root_fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tree.fileno())
        else:
            root_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, root_fd)
        with filling(core, row.id, root_fd, f"cannot fill {row.key!r} in {core.root}"):
            yield root_fd
            if directory is None:
                driver.before_unmount(row.id, root_fd)


@contextmanager
def filling(core: Core, id: int, root_fd: int, tried: str) -> Iterator[None]:
    """Let the driver say what a refused write into the tree of *id* means: what is full need not be the store's."""
    try:
        yield
    except OSError as error:
        told = core.driver.explain(id, error, root_fd, tried)
        if told is None:
            raise
        raise told from error


@contextmanager
def opened(source: object) -> Iterator[BinaryIO]:
    """Give a binary file object for a path, or the object itself."""
    if hasattr(source, "read"):
        yield source  # type: ignore[misc]
        return
    if not isinstance(source, (str, bytes, os.PathLike)):
        raise InvalidArgument(
            f"the source must be a path or a binary file object, not {type(source).__name__}", argument="source"
        )
    path = os.fsdecode(source)
    if os.path.isdir(path):
        raise InvalidArgument(f"{path} is a directory, not an archive; use import_directory", argument="source")
    with open(path, "rb") as file:
        yield file


@in_namespace(only_for_ids=True)
def import_tar(core: Core, source: object, name: str) -> Snapshot:
    """Make the committed *name* from an archive."""
    from cowstore.layers.compression import open_stream
    from cowstore.layers.extract import Whiteouts, extract

    what = getattr(source, "name", source)
    with core.doing("import", str(what)), refusal_names(what), opened(source) as file, born(core, name) as birth:
        with open_stream(file) as stream:
            owners, devices = policy()
            extracted = extract(stream, birth.root_fd, whiteouts=Whiteouts.REFUSE, owners=owners, devices=devices)
            birth.labels[DIGEST_LABEL] = stream.digest
        _report(str(what), extracted.skipped.counts())
    return birth.snapshot


@contextmanager
def refusal_names(what: object) -> Iterator[None]:
    """Say which archive it was that has been refused."""
    try:
        yield
    except InvalidLayer as error:
        refused = InvalidLayer(f"cannot import {str(what)!r}: {error}", entry=error.entry, offset=error.offset)
        raise refused from error


def policy() -> tuple[Owners, Devices]:
    """Say what becomes of foreign owners and device nodes: an ordinary user can make neither."""
    from cowstore.layers.extract import Devices
    from cowstore.layers.metadata import Owners

    ids = _ids() if os.geteuid() == 0 else 1
    return Owners.KEEP if ids > 1 else Owners.CALLER, Devices.MAKE if ids == _ALL_IDS else Devices.SKIP


_ALL_IDS = 2**32 - 1
"""Ids that the first user namespace of a machine knows. Only there can devices be made."""


def _ids() -> int:
    """Tell how many user ids this user namespace knows."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        return sum(int(line.split()[2]) for line in file)


def _report(what: str, skipped: dict[str, int]) -> None:
    """Say how much was left out or changed on the way in."""
    if any(skipped.values()):
        from cowstore._log import logger

        counted = ", ".join(f"{count} {sort}" for sort, count in skipped.items() if count)
        logger(__name__).warning("importing %s: left out or changed: %s", what, counted)


@in_namespace(only_for_ids=True)
def import_directory(core: Core, source: str, name: str) -> Snapshot:
    """Make the committed *name* as a copy of a directory."""
    from cowstore.layers.extract import Devices
    from cowstore.layers.metadata import Owners
    from cowstore.trees.copy import copy_tree

    owners, devices = policy()
    with core.doing("import", source), ExitStack() as stack:
        fd = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, fd)
        if os.path.realpath(core.root).startswith(os.path.join(os.path.realpath(source), "")):
            raise InvalidArgument(f"cannot import {source}: the store {core.root} lies inside it", argument="source")
        birth = stack.enter_context(born(core, name))
        counted = copy_tree(fd, birth.root_fd, owners=owners is Owners.KEEP, devices=devices is Devices.MAKE)
        _report(source, counted.skipped())
    return birth.snapshot


def adopt(core: Core, name: str, path: str) -> Snapshot:
    """Make the committed *name* whose tree is the directory *path*."""
    owner = core.own("adopt")
    with core.doing("adopt", path):
        if not os.path.isdir(path):
            raise InvalidArgument(f"cannot adopt {path}: it is not a directory", argument="path")
        row = core.catalog.begin(
            name, Kind.COMMITTED, None, labels=labels_to_text({SOURCE_LABEL: printable(path)}), owner=owner
        )
        try:
            _faults.point("store.adopt.recorded")
            core.free_id(row)
            core.driver.adopt(row.id, path)
            _faults.point("store.adopt.adopted")
            return core.catalog.ready(row, durable=True)
        except BaseException:
            core.undo(row.id)
            raise


def printable(path: str) -> str:
    """Return a path as text that any catalog can hold; bytes that are not UTF-8 show as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
