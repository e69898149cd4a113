"""The commands that only look: info, ls, tree, changes, df."""

from __future__ import annotations

import os

from cowstore.cli._opening import location, open_to_read
from cowstore.cli._output import change_line, human_size, snapshot_document

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping

    from cowstore.cli._disks import Disk
    from cowstore.cli._output import Output
    from cowstore.model import Capabilities, Snapshot
    from cowstore.results import DriverStatus, Status, Usage


def ls(arguments: argparse.Namespace, out: Output) -> None:
    """List the snapshots, oldest first."""
    from cowstore.model import Kind

    with open_to_read(arguments) as store:
        found = list(
            store.walk(
                kind=Kind(arguments.kind) if arguments.kind else None,
                parent=arguments.parent,
                labels=dict(arguments.label) or None,
            )
        )
    if out.json:
        out.document([snapshot_document(snapshot) for snapshot in found])
        return
    out.table(
        ("KEY", "KIND", "PARENT", "CREATED", "LABELS"),
        (
            (
                snapshot.key,
                snapshot.kind.value,
                snapshot.parent or "-",
                f"{snapshot.created:%Y-%m-%d %H:%M:%S}",
                ",".join(f"{name}={value}" for name, value in sorted(snapshot.labels.items())) or "-",
            )
            for snapshot in found
        ),
    )


def tree(arguments: argparse.Namespace, out: Output) -> None:
    """Draw parents and children."""
    with open_to_read(arguments) as store:
        found = list(store.walk())
    children: dict[str | None, list[Snapshot]] = {}
    for snapshot in found:
        children.setdefault(snapshot.parent, []).append(snapshot)
    if out.json:
        out.document(_nested(children))
        return
    for branch, snapshot in _drawn(children):
        out.branch(branch, snapshot.key, "" if snapshot.kind == "committed" else snapshot.kind.value)


def _nested(children: Mapping[str | None, list[Snapshot]]) -> list[dict[str, object]]:
    """Return the tree as nested documents. Without recursion: chains may be as deep as the drivers allow."""
    roots: list[dict[str, object]] = []
    waiting: list[tuple[str | None, list[dict[str, object]]]] = [(None, roots)]
    while waiting:
        parent, into = waiting.pop()
        for snapshot in children.get(parent, ()):
            below: list[dict[str, object]] = []
            into.append({**snapshot_document(snapshot), "children": below})
            waiting.append((snapshot.key, below))
    return roots


def _drawn(children: Mapping[str | None, list[Snapshot]]) -> Iterator[tuple[str, Snapshot]]:
    """Yield the branch to each snapshot, and the snapshot; a lone child stays in its parent's column."""
    waiting = [(snapshot, "", "") for snapshot in reversed(children.get(None, ()))]
    while waiting:
        snapshot, first, rest = waiting.pop()
        yield first, snapshot
        below = children.get(snapshot.key, [])
        for child in reversed(below):
            last = child is below[-1]
            waiting.append((child, rest + ("└── " if last else "├── "), rest + ("    " if last else "│   ")))


def changes(arguments: argparse.Namespace, out: Output) -> None:
    """List what differs from the parent or another base."""
    from cowstore.cli._making import one_of

    base = one_of(arguments, "base")
    with open_to_read(arguments) as store:
        if out.json:
            out.document(
                [{"kind": change.kind.value, "path": change.path} for change in store.changes(arguments.key, base)]
            )
            return
        for change in store.changes(arguments.key, base):
            if arguments.null:
                print(change_line(change), end="\0")
            else:
                out.line(change_line(change))


def df(arguments: argparse.Namespace, out: Output) -> None:
    """Show what each snapshot takes by itself, and what is left."""
    with open_to_read(arguments) as store:
        keys = arguments.key or [snapshot.key for snapshot in store.walk()]
        taken = {key: store.usage(key) for key in keys}
        ground = store.status().driver_status
    if out.json:
        out.document(
            {
                "snapshots": [
                    {"key": key, "size_bytes": usage.size_bytes, "inodes": usage.inodes} for key, usage in taken.items()
                ],
                "free_bytes": ground.free_bytes,
                "total_bytes": ground.total_bytes,
            }
        )
        return
    out.table(("KEY", "SIZE", "INODES"), [_usage_row(key, usage) for key, usage in taken.items()])
    out.line(f"free: {_free(ground)}")


def _usage_row(key: str, usage: Usage) -> tuple[str, str, str]:
    return key, human_size(usage.size_bytes), "?" if usage.inodes < 0 else str(usage.inodes)


def _free(ground: DriverStatus) -> str:
    return f"{human_size(ground.free_bytes)} of {human_size(ground.total_bytes)}"


def info(arguments: argparse.Namespace, out: Output) -> int:
    """Show each driver, usable or why not, and the store's own state."""
    from cowstore._version import __version__
    from cowstore.cli._output import describe
    from cowstore.cli._probing import probe_all
    from cowstore.errors import CowstoreError

    root = location(arguments)
    status: Status | None = None
    trouble: Exception | None = None
    if os.path.isdir(root) and os.listdir(root):
        try:
            with open_to_read(arguments) as store:
                status = store.status()
        except (CowstoreError, OSError) as error:
            trouble = error
    probed = probe_all(root, arguments)
    listed = _disks() if arguments.disks else []
    if out.json:
        state = None if status is None else _status_document(status)
        out.document(
            {
                "version": __version__,
                "kernel": os.uname().release,
                "root": root,
                "store": {"error": describe(trouble)} if trouble else state,
                "drivers": [driver.document() for driver in probed],
                **({"disks": [disk.document() for disk in listed]} if arguments.disks else {}),
            }
        )
        return 1 if trouble else 0
    out.line(f"cowstore {__version__}, kernel {os.uname().release}")
    out.line("")
    for driver in probed:
        if driver.usable:
            out.line(f"{driver.name:13} usable")
        else:
            # What is missing says more than the sentence made from it.
            for number, text in enumerate(driver.missing or (driver.reason,)):
                out.line(f"{'' if number else driver.name:13} {'and' if number else 'not usable'}: {text}")
    out.line("")
    if arguments.disks:
        rows = [
            (disk.name, human_size(disk.size_bytes), disk.model, "; ".join(disk.used_by) or "free") for disk in listed
        ]
        out.table(("DISK", "SIZE", "MODEL", "USE"), rows)
        out.line("")
    if trouble:
        out.line(f"store {root}: {describe(trouble)}")
        return 1
    if status is None:
        out.line(f"store {root}: none yet (`cowstore import` and `cowstore prepare` make one)")
        return 0
    for text in _status_lines(status):
        out.line(text)
    return 0


def _disks() -> list[Disk]:
    from cowstore.cli._disks import disks

    return disks()


def _status_lines(status: Status) -> Iterator[str]:
    yield f"store {status.root}: driver {status.driver}"
    if status.volatile:
        yield "  volatile: what is committed may be lost with a power cut"
    if status.read_only:
        yield "  opened read-only"
    yield "  snapshots: " + ", ".join(f"{count} {kind}" for kind, count in status.snapshots.items())
    if status.in_flight:
        yield f"  verbs under way: {status.in_flight}"
    yield f"  free: {_free(status.driver_status)}"
    for name, value in status.driver_status.details.items():
        yield f"  {name}: {value}"


def _status_document(status: Status) -> dict[str, object]:
    return {
        "root": status.root,
        "driver": status.driver,
        "volatile": status.volatile,
        "read_only": status.read_only,
        "snapshots": {str(kind): count for kind, count in status.snapshots.items()},
        "in_flight": status.in_flight,
        "capabilities": capabilities_document(status.capabilities),
        "free_bytes": status.driver_status.free_bytes,
        "total_bytes": status.driver_status.total_bytes,
        "details": dict(status.driver_status.details),
    }


def capabilities_document(capabilities: Capabilities) -> dict[str, object]:
    """Return the capabilities as JSON has them."""
    import dataclasses

    return dataclasses.asdict(capabilities)
