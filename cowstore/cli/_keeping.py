"""The commands that mount, and those about the store as a whole: mount, umount, check, destroy."""

from __future__ import annotations

import os
import sys

from cowstore.cli._opening import location, open_to_read, open_to_write
from cowstore.errors import CowstoreError, InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from cowstore.cli._output import Output
    from cowstore.results import Finding


def mount(arguments: argparse.Namespace, out: Output) -> None:
    """Mount a snapshot on a directory, to stay there; without arguments, list what is mounted."""
    if arguments.key is None:
        _list_mounts(arguments, out)
        return
    if arguments.target is None:
        raise InvalidArgument(f"no directory given to mount {arguments.key!r} on", argument="DIR")
    if not os.path.isdir(arguments.target):
        raise InvalidArgument(
            f"cannot mount {arguments.key!r}: {arguments.target} is not a directory; make it first (mkdir -p)",
            argument="DIR",
        )
    with open_to_write(arguments) as store:
        store.attach(arguments.key, arguments.target)
    if out.json:
        out.document({"key": arguments.key, "target": arguments.target})


def _list_mounts(arguments: argparse.Namespace, out: Output) -> None:
    with open_to_read(arguments) as store:
        found = store.attached()
    if out.json:
        out.document([{"key": key, "target": target} for target, key in found.items()])
    elif found:
        out.table(("KEY", "DIR"), [(key, target) for target, key in found.items()])


def umount(arguments: argparse.Namespace, out: Output) -> None:
    """Unmount what `mount` mounted."""
    with open_to_write(arguments) as store:
        key = store.detach(arguments.target)
    if out.json:
        out.document({"key": key, "target": arguments.target})


def check(arguments: argparse.Namespace, out: Output) -> int:
    """Name every disagreement of catalog, driver and disk; mend what can be mended when asked."""
    opened = open_to_write(arguments) if arguments.repair else open_to_read(arguments)
    with opened as store:
        findings = store.check(repair=arguments.repair)
    left = sum(not finding.repaired for finding in findings)
    if out.json:
        out.document([_finding_document(finding) for finding in findings])
        return 1 if left else 0
    for finding in findings:
        where = "" if finding.key is None else f" {finding.key}"
        done = " [repaired]" if finding.repaired else ""
        out.line(f"{finding.kind.value}{where}: {finding.text}{done}")
    if not findings:
        out.remark("nothing wrong was found")
    elif left and not arguments.repair:
        out.remark(f"{left} found; `cowstore check --repair` mends or removes what it can")
    return 1 if left else 0


def _finding_document(finding: Finding) -> dict[str, object]:
    return {
        "kind": finding.kind.value,
        "key": finding.key,
        "id": finding.id,
        "text": finding.text,
        "repaired": finding.repaired,
    }


def destroy(arguments: argparse.Namespace, out: Output) -> None:
    """Remove the whole store. On a terminal it asks first."""
    root = location(arguments)
    with open_to_write(arguments) as store:
        if not arguments.yes and sys.stdin is not None and sys.stdin.isatty():
            count = sum(1 for _ in store.walk())
            print(f"Remove the store {root} with its {count} snapshots? [y/N] ", end="", file=sys.stderr, flush=True)
            if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
                raise CowstoreError(f"the store {root} was left as it is")
        store.destroy()
    if out.json:
        out.document({"destroyed": root})
