"""The interface of a storage driver. Its docstring is the law; drivers document only where they differ."""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod

from cowstore._frozen import frozen
from cowstore.errors import Unsupported
from cowstore.model import Capabilities

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import ClassVar

    from cowstore.errors import CowstoreError
    from cowstore.model import Mount
    from cowstore.results import Change, DriverStatus, FindingKind, Problem, Usage


@frozen
class NoOptions:
    """Options of a driver that has none."""


class Driver(ABC):
    """A copy-on-write mechanism: it knows ids and a directory of its own, and nothing of keys.

    The store gives it small integers. An id is *made* by :meth:`create`, as a writable child of a sealed id or of
    nothing; it is *sealed* once, and never changes after that; it is *removed* once nothing descends from it. In
    between, :meth:`mounts` tells how its tree is realised. The driver describes; whoever needs the tree mounts.

    The law:

    1. Every verb can be repeated: doing it twice has the effect of once. :meth:`remove` of an id that is not there
       succeeds; so does :meth:`release` of one that is not held. A verb that was killed half-way can be done again,
       and :meth:`remove` takes away whatever any verb left half-made.
    2. :meth:`create` makes a child in time that does not depend on the parent's size
       (``capabilities.instant_create``), and publishes no mount.
    3. :meth:`seal` makes the id immutable and, unless the driver was made ``volatile``, durable: when it returns, a
       power cut loses nothing of it.
    4. :meth:`mounts` acquires what its mounts need (an activated device, say); :meth:`release` gives that up. Both are
       counted by the kernel's own state, never by a number in a file. The store calls :meth:`release` only when no
       lease of the id is left in any process.
    5. A driver may mount privately and detached for its own work. :meth:`changes` has the comparison of two trees as
       its default; a driver overrides it where the kernel already knows. All drivers give the same changes for the same
       edits.
    6. Nobody asks a driver's name or the kernel's version: :attr:`capabilities` are declared, features are tried.
    7. No lock of the whole store is held while a driver works; two threads or processes may call any verbs of two ids
       at once, and any verb of one id where the store's leases allow it. A driver that shares state of the kernel
       between ids (an origin to suspend, a pool's one metadata snapshot) takes a flock of its own in its directory.

    Errors: the classes of :mod:`cowstore.errors` that tell the caller what to do (``OutOfSpace``, ``Unsupported``,
    ``DriverUnavailable``, ``InvalidArgument``, ``StoreMismatch``, ``Busy``), raised ``from`` the :class:`OSError`; any
    other :class:`OSError` as it is.

    A class becomes a driver of ``cowstore.open(driver=NAME)`` by an entry point in the group ``cowstore.drivers``.
    """

    name: ClassVar[str]
    """Name under which the driver is asked for, and of its directory in the store."""

    Options: ClassVar[type] = NoOptions
    """Frozen data class of the options, units in the names, every field with a default."""

    capabilities: Capabilities = Capabilities()
    """What it can do; of the class where that is certain, set by ``__init__`` where it had to be tried."""

    def __init__(self, directory: str, options: object, *, volatile: bool = False, read_only: bool = False) -> None:
        """Take hold of the driver's own directory, making what must be in it (unless *read_only*).

        :param directory: absolute path, made by ``os.fsdecode``; it exists, and is empty at first.
        :param options: an instance of :attr:`Options`.
        :param volatile: nothing need survive a power cut.
        :param read_only: neither write nor make anything.
        """
        self.directory = directory
        self.options = options
        self.volatile = volatile
        self.read_only = read_only

    @classmethod
    @abstractmethod
    def probe(cls, directory: str, options: object) -> None:
        """Try the smallest real thing in *directory*, and leave nothing behind.

        :raises DriverUnavailable: listing what is missing and, for each, what to do.
        """

    @abstractmethod
    def create(self, id: int, parent: int | None, size_bytes: int | None) -> None:
        """Make *id* as a writable child of the sealed id *parent*, or empty.

        The root of an empty one is a directory of mode 0755 owned by the caller's effective ids.

        :param size_bytes: the most it may hold, in bytes; None for no limit of its own.
        :raises Unsupported: *size_bytes* cannot be enforced; nothing was made.
        :raises OutOfSpace: there is no room.
        """

    @abstractmethod
    def seal(self, id: int) -> None:
        """Make *id* immutable, and durable unless volatile. It is not mounted by anybody."""

    @abstractmethod
    def remove(self, id: int) -> None:
        """Take away all of *id*; nothing descends from it, and no lease of it is held."""

    @abstractmethod
    def mounts(self, id: int, read_only: bool, *, volatile: bool = False) -> tuple[Mount, ...]:
        """Describe the mounts that realise *id*, and acquire what they need.

        :param read_only: nothing may be written through them. True for every sealed id.
        :param volatile: nothing written need survive a crash, since the snapshot will be thrown away. Passed only to a
            driver with ``capabilities.volatile_mounts``.
        """

    def release(self, id: int) -> None:
        """Give up what :meth:`mounts` acquired."""
        return

    @abstractmethod
    def usage(self, id: int) -> Usage:
        """Measure what *id* takes by itself, its ancestors excluded: allocated bytes, and inodes where countable."""

    def changes(self, id: int, base: int | None) -> Iterator[Change]:
        """Tell what differs in *id* from *base*, or from the empty tree, sorted by the bytes of the path.

        The default realises both and compares them (:func:`cowstore.trees.compare.compare`). *base* need not be an
        ancestor.
        """
        from contextlib import ExitStack

        from cowstore.mounting import detached
        from cowstore.trees.compare import compare

        with ExitStack() as stack:
            # What mounts() acquires here is given up by the store, when the last lease of the id ends.
            upper = stack.enter_context(detached(self.mounts(id, True)))
            lower = None if base is None else stack.enter_context(detached(self.mounts(base, True)))
            yield from compare(None if lower is None else lower.fileno(), upper.fileno())

    def resize(self, id: int, size_bytes: int) -> None:
        """Change the most that *id* may hold, mounted or not.

        :raises Unsupported: sizes are not enforced, or the driver cannot shrink.
        """
        raise Unsupported(
            f"cannot limit the size of a snapshot to {size_bytes} bytes: the {self.name} driver "
            "does not enforce sizes here; use a driver whose capabilities list size_limits",
            feature="size_limits",
        )

    def size_of(self, id: int) -> int | None:
        """Return the size that a copy of *id* must be made with to have its room. The default needs none.

        That is for drivers whose snapshots have a size of their own even where none was asked for.
        """
        return None

    @abstractmethod
    def held(self) -> Iterable[int]:
        """List the ids found on disk or in the pool, half-made ones included."""

    def holds(self, id: int) -> bool:
        """Tell whether anything of *id* is there. The default looks through :meth:`held`."""
        return id in set(self.held())

    def is_unsealed(self, id: int) -> bool:
        """Tell whether *id*, of which the catalog knows nothing, was surely never sealed. The default cannot tell."""
        return False

    @abstractmethod
    def status(self) -> DriverStatus:
        """Tell the room that is left, and the facts of the ground the driver stands on."""

    def drain(self) -> None:
        """Wait until the space of all ids removed so far has been given back. The default has nothing to wait for."""
        return

    def tidy(self) -> None:
        """Take away what verbs that were killed left beyond their ids; others' may be under way. The default has none.

        Called at open when somebody died, and by ``cleanup``.
        """
        return

    def close(self) -> None:
        """Let go of the driver's own descriptors and mounts. Closing twice is fine."""
        return

    def destroy(self) -> None:
        """Take away what the driver made beyond its ids (a pool, its devices and loop files). Ends with :meth:`close`.

        All ids are removed already; the store deletes the directory afterwards.
        """
        self.close()

    # What only some drivers do.

    def before_unmount(self, id: int, root_fd: int) -> None:
        """Do what must happen while the tree is still mounted; called by whoever unmounts.

        :param root_fd: directory descriptor of the mounted tree.
        """
        return

    def explain(self, id: int, error: OSError, root_fd: int, tried: str) -> CowstoreError | None:
        """Say what it means that the kernel refused to write into the mounted tree of *id*.

        The default tells what ran out where something did: of the file system that the tree is on, which need not be
        the store's.

        :param root_fd: directory descriptor of the tree. :param tried: what was tried, on what: the message begins so.
        :returns: None where the error says all there is to say.
        """
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            return None
        from cowstore.trees.usage import out_of_room

        return out_of_room(
            error,
            root_fd,
            tried,
            {
                "inodes": "all of the {total} inodes of its file system are used: remove files",
                "quota": "its limit is reached: raise it (set_size)",
                "data": "{used} of the {total} bytes of its file system are used: free some, or raise its limit",
            },
        )

    def unpack_directory(self, id: int) -> str | None:
        """Name a directory into which the tree of a fresh, parentless *id* may be written without a mount.

        None where there is no such thing, and the mounts must be used.
        """
        return None

    def tree_directory(self, id: int) -> str | None:
        """Name the directory that is the tree of *id*, for reading it, and writing it unsealed, where none can mount.

        None where a tree takes a mount.
        """
        return None

    def adopt(self, id: int, path: str) -> None:
        """Make *id*, sealed at once, whose tree is the directory *path* outside the store.

        :raises Unsupported: the driver cannot.
        """
        raise Unsupported(
            f"cannot adopt {path}: the {self.name} driver keeps all trees itself; import the directory instead "
            "(import_directory, or `cowstore import`)",
            feature="adopts",
        )

    def examine(self, id: int, parent: int | None, sealed: bool) -> Iterator[Problem]:
        """Name what is wrong with *id*, which the catalog says is a child of *parent*. The default finds nothing."""
        return iter(())

    def repair(self, id: int, parent: int | None, sealed: bool, kind: FindingKind) -> bool:
        """Mend what :meth:`examine` named as repairable; tell whether it is mended."""
        return False

    def leftovers(self) -> Iterator[str]:
        """List paths in the driver's directory that belong to no id and should not be there."""
        return iter(())

    def remove_leftover(self, path: str) -> None:
        """Take away one path that :meth:`leftovers` listed."""
        raise Unsupported(f"cannot remove {path}: the {self.name} driver lists no leftovers", feature="leftovers")
