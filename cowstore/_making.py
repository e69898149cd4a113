"""Making snapshots and committing them: intent, act, record."""

from __future__ import annotations

from cowstore import _faults, leases
from cowstore._rows import labels_to_text
from cowstore.errors import WrongKind
from cowstore.model import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from cowstore._core import Core
    from cowstore.model import Snapshot


def make(
    core: Core,
    verb: str,
    key: str,
    kind: Kind,
    parent: str | None,
    labels: Mapping[str, str],
    *,
    size_bytes: int | None = None,
    ephemeral: bool = False,
) -> Snapshot:
    """Make an active snapshot or a view; a view is a row alone, it shows its parent's data."""
    owner = core.own(verb)
    with core.doing(verb, key):
        row = core.catalog.begin(
            key, kind, parent, labels=labels_to_text(labels), owner=owner, ephemeral=ephemeral, size_bytes=size_bytes,
            max_depth=core.driver.capabilities.max_depth,
        )  # fmt: skip
        try:
            _faults.point(f"store.{verb}.recorded")
            if kind is Kind.ACTIVE:
                core.create(row, size_bytes)
            _faults.point(f"store.{verb}.created")
            return core.catalog.ready(row)
        except BaseException:
            core.undo(row.id, has_data=kind is Kind.ACTIVE)
            raise


def commit(core: Core, name: str, key: str, labels: Mapping[str, str]) -> Snapshot:
    """Seal the data of an active snapshot, then record that it is the committed *name*."""
    owner = core.own("commit")
    with core.doing("commit", key):
        kind = core.catalog.get(key).kind
        if kind != Kind.ACTIVE:
            raise WrongKind(f"{key!r} cannot be committed: it is {kind}, not active", key=key, kind=kind)
        row, fd = core.seize(key, "commit")
        try:
            row = core.catalog.begin_commit(key, name, labels=labels_to_text(labels), owner=owner)
            try:
                _faults.point("store.commit.recorded")
                core.driver.seal(row.id)
                _faults.point("store.commit.sealed")
            except BaseException:
                core.catalog.abort_commit(row)
                raise
            snapshot = core.catalog.finish_commit(row.id)
            _faults.point("store.commit.published")
            return snapshot
        finally:
            leases.drop(fd)
