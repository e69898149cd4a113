"""The values that only some verbs give back: frozen and typed, as those of :mod:`cowstore.model`."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from cowstore.model import Capabilities, Kind


class ChangeKind(enum.StrEnum):
    """What happened to a path."""

    ADDED = "added"
    MODIFIED = "modified"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One path that differs.

    :ivar kind: added, modified or deleted.
    :ivar path: relative to the root, ``"."`` for the root itself; bytes that are not UTF-8 by surrogateescape.
    """

    kind: ChangeKind
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a snapshot takes by itself, its parents excluded.

    :ivar size_bytes: allocated bytes. :ivar inodes: inodes; -1 where the driver cannot count them.
    """

    size_bytes: int
    inodes: int


class FindingKind(enum.StrEnum):
    """The classes of what ``check`` can find."""

    ROW_WITHOUT_DATA = "row-without-data"
    DATA_WITHOUT_ROW = "data-without-row"
    WRONG_PARENT = "wrong-parent"
    BROKEN_LINK = "broken-link"
    WRONG_MODE = "wrong-mode"
    UNFINISHED = "unfinished"
    LEFTOVER = "leftover"
    MISSING_PARENT = "missing-parent"
    NOT_SEALED = "not-sealed"
    CATALOG_DAMAGED = "catalog-damaged"
    NOT_MOUNTABLE = "not-mountable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What a driver says of one id that it examined; the store turns it into a :class:`Finding`.

    :ivar repair: the driver can mend it by ``repair(id, kind)``.
    """

    kind: FindingKind
    text: str
    repair: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it should be.

    :ivar key: the snapshot, where there is one. :ivar id: its id, where there is one.
    :ivar text: what is wrong, with the path. :ivar repaired: ``check(repair=True)`` mended or removed it.
    """

    kind: FindingKind
    key: str | None
    id: int | None
    text: str
    repaired: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverStatus:
    """What a driver says of the ground it stands on.

    :ivar free_bytes: bytes that can still be written. :ivar total_bytes: all there are.
    :ivar details: further facts, for people (backing file system, pool fill levels, options in force).
    """

    free_bytes: int
    total_bytes: int
    details: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The store's own state.

    :ivar snapshots: how many of each kind. :ivar in_flight: verbs under way, in this process or others.
    """

    root: str
    driver: str
    volatile: bool
    read_only: bool
    snapshots: Mapping[Kind, int]
    in_flight: int
    capabilities: Capabilities
    driver_status: DriverStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerInfo:
    """What was written or read as a layer.

    :ivar diff_id: digest of the uncompressed archive. :ivar digest: digest of the bytes as they are.
    :ivar media_type: OCI media type. :ivar size_bytes: length of the bytes as they are.
    :ivar skipped: how many entries of which sort were left out (``{"sockets": 2}``).
    """

    diff_id: str
    digest: str
    media_type: str
    size_bytes: int
    skipped: Mapping[str, int]
