"""What can go wrong, split by what the caller does next.

    CowstoreError
    ├── NotFound (LookupError)          ask for something that is there
    ├── AlreadyExists                   choose another key
    ├── WrongKind                       the verb does not fit an active, view or committed snapshot
    ├── HasChildren                     remove the children first
    ├── Busy                            somebody holds a lease: wait, or end them
    ├── OutOfSpace                      free or add space, or raise the limit
    ├── DriverUnavailable               this machine lacks something: install it, or choose another driver
    ├── InvalidArgument (ValueError)    mend the call
    ├── InvalidLayer                    the archive is broken or hostile
    ├── InvalidImage                    the image is broken or hostile
    ├── Unsupported                     this driver, store or kernel cannot do it
    ├── StoreMismatch                   the store belongs to another driver, schema, pool or place
    └── StoreCorrupt                    run ``cowstore check``

Every message says what was tried, on what, what went wrong and what to do. The facts are attributes.
Below this tier only :class:`OSError` is raised, and everything here is raised ``from`` its cause.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class CowstoreError(Exception):
    """Base of all errors that cowstore raises on purpose.

    Also raised itself, for a failure of the kernel that no class below describes; the :class:`OSError` is its cause.
    """


class NotFound(CowstoreError, LookupError):
    """There is no snapshot of that key.

    :ivar key: the key that was asked for.
    """

    def __init__(self, message: str, *, key: str = "") -> None:
        super().__init__(message)
        self.key = key


class AlreadyExists(CowstoreError):
    """The key is taken, perhaps by a verb that is still under way.

    :ivar key: the key that is taken.
    """

    def __init__(self, message: str, *, key: str = "") -> None:
        super().__init__(message)
        self.key = key


class WrongKind(CowstoreError):
    """The verb does not fit the snapshot's kind (only a committed one can be a parent, only an active one committed).

    :ivar key: the snapshot. :ivar kind: what it is.
    """

    def __init__(self, message: str, *, key: str = "", kind: str = "") -> None:
        super().__init__(message)
        self.key = key
        self.kind = kind


class HasChildren(CowstoreError):
    """The snapshot is the parent of others, and so cannot go.

    :ivar key: the snapshot. :ivar children: keys of some of its children (at most ten).
    """

    def __init__(self, message: str, *, key: str = "", children: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.key = key
        self.children = tuple(children)


class Busy(CowstoreError):
    """Somebody holds a lease of the snapshot: it is mounted, or a process runs on it.

    :ivar key: the snapshot. :ivar holders: process ids that hold it, as far as they can be told.
    """

    def __init__(self, message: str, *, key: str = "", holders: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.key = key
        self.holders = tuple(holders)


class OutOfSpace(CowstoreError):
    """A file system, pool, quota or inode table is full.

    :ivar what: what is full (``"data"``, ``"metadata"``, ``"inodes"``, ``"quota"``).
    :ivar used: bytes (or inodes) in use. :ivar total: bytes (or inodes) there are; 0 where not known.
    """

    def __init__(self, message: str, *, what: str = "data", used: int = 0, total: int = 0) -> None:
        super().__init__(message)
        self.what = what
        self.used = used
        self.total = total


class DriverUnavailable(CowstoreError):
    """The driver cannot work on this machine or in this directory.

    :ivar driver: its name. :ivar missing: what is missing, each with what to do about it.
    """

    def __init__(self, message: str, *, driver: str = "", missing: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.driver = driver
        self.missing = tuple(missing)


class InvalidArgument(CowstoreError, ValueError):
    """A key, option, size or name that can never work.

    :ivar argument: the argument's name.
    """

    def __init__(self, message: str, *, argument: str = "") -> None:
        super().__init__(message)
        self.argument = argument


class InvalidLayer(CowstoreError):
    """An archive that is truncated, malformed or tries to leave its root.

    :ivar entry: name of the entry, as far as it is known. :ivar offset: byte offset in the uncompressed archive, or -1.
    """

    def __init__(self, message: str, *, entry: str = "", offset: int = -1) -> None:
        super().__init__(message)
        self.entry = entry
        self.offset = offset


class InvalidImage(CowstoreError):
    """An image whose parts are missing, do not match their digests, or contradict each other.

    :ivar part: the manifest, config, layer or file that is wrong.
    """

    def __init__(self, message: str, *, part: str = "") -> None:
        super().__init__(message)
        self.part = part


class Unsupported(CowstoreError):
    """This driver, store or kernel cannot do what was asked.

    :ivar feature: the capability that is missing.
    """

    def __init__(self, message: str, *, feature: str = "") -> None:
        super().__init__(message)
        self.feature = feature


class StoreMismatch(CowstoreError):
    """The store belongs to another driver, schema, pool or place than the one it is opened with.

    :ivar expected: what the store records. :ivar found: what was given or is there.
    """

    def __init__(self, message: str, *, expected: str = "", found: str = "") -> None:
        super().__init__(message)
        self.expected = expected
        self.found = found


class StoreCorrupt(CowstoreError):
    """The store's own files contradict each other or cannot be read.

    :ivar path: the file or directory that is damaged.
    """

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path
