"""Damage done by hand, and what check says of it: every class of findings, one test each; what is whole stays.

``not-sealed`` is in tests/root/drivers (images, Btrfs) and tests/vm (thin devices): a directory has no such state.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

import cowstore
from cowstore.results import FindingKind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cowstore.results import Finding
    from cowstore.store import Store


@pytest.fixture(params=["overlay", "copy"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store of three layers, a child of the last, and a snapshot beside them."""
    with cowstore.open(tmp_path / "store", driver=request.param) as made:
        parent = None
        for number in range(3):
            made.prepare("active", parent)
            with made.mounted("active") as root:
                (root / f"file-{number}").write_text(str(number))
            parent = f"layer-{number}"
            made.commit(parent, "active")
        made.prepare("child", parent)
        made.prepare("beside")
        yield made
    with cowstore.open(tmp_path / "store") as again:
        whole(again, "beside")


def own(store: Store, key: str) -> str:
    return os.path.join(store.root, store.driver_name, str(store.stat(key).id))


def whole(store: Store, *keys: str) -> None:
    """What was not named is as it was."""
    for key in keys:
        with store.mounted(key) as root:
            assert (
                sorted(os.listdir(root))
                == {
                    "beside": [],
                    "layer-0": ["file-0"],
                    "layer-1": ["file-0", "file-1"],
                    "layer-2": ["file-0", "file-1", "file-2"],
                    "child": ["file-0", "file-1", "file-2"],
                }[key]
            )


def found(findings: tuple[Finding, ...]) -> list[tuple[str, str | None, bool]]:
    return [(str(finding.kind), finding.key, finding.repaired) for finding in findings]


def named(store: Store, *expected: tuple[FindingKind, str | None], repaired: bool) -> None:
    """Check says just that, changes nothing by saying it, and with repair mends it or not."""
    for _ in range(2):
        assert found(store.check()) == [(kind, key, False) for kind, key in expected]
    assert found(store.check(repair=True)) == [(kind, key, repaired) for kind, key in expected]
    assert found(store.check()) == ([] if repaired else [(kind, key, False) for kind, key in expected])


def test_row_without_data(store: Store) -> None:
    """A snapshot without data is forgotten; nothing descends from it."""
    shutil.rmtree(own(store, "child"))
    named(store, (FindingKind.ROW_WITHOUT_DATA, "child"), repaired=True)
    assert "child" not in {snapshot.key for snapshot in store.walk()}
    whole(store, "layer-0", "layer-1", "layer-2")


def test_row_without_data_that_has_children(store: Store) -> None:
    """It is named, and kept: its children still tell what is missing. The layers below it go on."""
    shutil.rmtree(own(store, "layer-2"))
    kinds = {(finding.kind, finding.key) for finding in store.check(repair=True) if not finding.repaired}
    assert (FindingKind.ROW_WITHOUT_DATA, "layer-2") in kinds
    assert {key for _, key in kinds} == {"layer-2", "child"}
    assert {"layer-2", "child"} <= {snapshot.key for snapshot in store.walk()}
    whole(store, "layer-0", "layer-1")


def test_data_without_row(store: Store) -> None:
    """What the catalog does not know is removed, and nothing else is."""
    with closing(sqlite3.connect(os.path.join(store.root, "catalog.db"))) as catalog, catalog:
        catalog.execute("DELETE FROM snapshots WHERE key = 'child'")
    before = set(os.listdir(f"{store.root}/{store.driver_name}"))
    named(store, (FindingKind.DATA_WITHOUT_ROW, None), repaired=True)
    assert len(before - set(os.listdir(f"{store.root}/{store.driver_name}"))) == 1
    whole(store, "layer-0", "layer-1", "layer-2")


def test_wrong_parent(store: Store) -> None:
    """The catalog is right: the link is made anew."""
    place = own(store, "child")
    os.unlink(f"{place}/parent")
    os.symlink(f"../{store.stat('layer-0').id}", f"{place}/parent")
    named(store, (FindingKind.WRONG_PARENT, "child"), repaired=True)
    whole(store, "layer-0", "layer-1", "layer-2", "child")


def test_broken_link(store: Store) -> None:
    os.unlink(f"{own(store, 'layer-2')}/parent")
    named(store, (FindingKind.BROKEN_LINK, "layer-2"), repaired=True)
    whole(store, "layer-0", "layer-1", "layer-2", "child")


def test_missing_parent(store: Store) -> None:
    """A chain with a hole, and no row for the hole: nothing can mend it, nothing is removed."""
    shutil.rmtree(own(store, "layer-1"))
    findings = store.check(repair=True)
    assert (FindingKind.MISSING_PARENT, "layer-2") in {(finding.kind, finding.key) for finding in findings}
    unmountable = {finding.key for finding in findings if finding.kind == FindingKind.NOT_MOUNTABLE}
    assert unmountable == ({"layer-2", "child"} if store.driver_name == "overlay" else set())
    assert not [finding for finding in findings if finding.repaired]
    assert {"layer-2", "child"} <= {snapshot.key for snapshot in store.walk()}
    whole(store, "layer-0")


def test_wrong_mode(store: Store) -> None:
    """A directory of the store that others may enter is closed again; modes inside snapshots are theirs."""
    with store.mounted("beside") as root:
        os.chmod(root, 0o1777)
    for name in ("leases", store.driver_name):
        os.chmod(os.path.join(store.root, name), 0o755)
    kind = FindingKind.WRONG_MODE
    named(store, (kind, None), (kind, None), repaired=True)
    assert os.stat(os.path.join(store.root, store.driver_name)).st_mode & 0o777 == 0o700
    with store.mounted("beside") as root:
        assert root.stat().st_mode & 0o7777 == 0o1777


def test_unfinished(store: Store) -> None:
    """Rows whose owner is gone: what was being made is undone, what was being removed is removed."""
    token, place = "0123456789abcdef-1", own(store, "child")
    with closing(sqlite3.connect(os.path.join(store.root, "catalog.db"))) as catalog, catalog:
        catalog.execute("UPDATE snapshots SET state = 'removing', owner = ? WHERE key = 'child'", (token,))
    named(store, (FindingKind.UNFINISHED, "child"), repaired=True)
    assert not os.path.exists(place)
    whole(store, "layer-0", "layer-1", "layer-2")


def test_leftover(store: Store) -> None:
    """Somebody's file in the driver's directory: named, and removed only when asked to."""
    place = os.path.join(store.root, store.driver_name)
    os.mkdir(f"{place}/not-an-id")
    os.mkdir(f"{place}/not-an-id/below", 0)
    named(store, (FindingKind.LEFTOVER, None), repaired=True)
    assert not os.path.exists(f"{place}/not-an-id")
    whole(store, "layer-0", "layer-1", "layer-2", "child")


def test_catalog_damaged(store: Store) -> None:
    """A page of the catalog overwritten: named with its path, and nothing is repaired or removed by guessing."""
    path = os.path.join(store.root, "catalog.db")
    before = sorted(os.listdir(f"{store.root}/{store.driver_name}"))
    store.close()
    with closing(sqlite3.connect(path)) as catalog:
        catalog.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        root = catalog.execute("SELECT rootpage FROM sqlite_schema WHERE name LIKE '%index%'").fetchone()[0]
        size = catalog.execute("PRAGMA page_size").fetchone()[0]
    with open(path, "r+b") as file:
        file.seek((root - 1) * size)
        good = file.read(size)
        file.seek((root - 1) * size + 8)
        file.write(b"\xff" * (size - 8))
    try:
        with cowstore.open(store.root) as damaged:
            kinds = {finding.kind for finding in damaged.check(repair=True)}
    except cowstore.StoreCorrupt as error:
        assert path in str(error)
    else:
        assert kinds == {FindingKind.CATALOG_DAMAGED}
    assert sorted(os.listdir(f"{store.root}/{store.driver_name}")) == before
    with open(path, "r+b") as file:
        file.seek((root - 1) * size)
        file.write(good)
    with cowstore.open(store.root) as again:
        assert again.check() == ()
