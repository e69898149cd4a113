"""The catalog's rules: which key is what, whose child, and what may be done to it (containerd's MetaStoreSuite).

Two of the originals asked nothing (they ran another case's body, or used the populated database); here they do.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime

from cowstore.errors import AlreadyExists, HasChildren, InvalidArgument, NotFound, WrongKind
from cowstore.model import Kind
from cowstore.testing._case import Ground, case
from cowstore.testing._expect import equal, refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cowstore.store import Store


def populate(store: Store) -> None:
    """Make committed-1 and -2 (its child), active-1 (no parent), -2 and -3 (on them), view-1 and view-2."""
    store.prepare("making-1", labels={"a": "1"})
    store.commit("committed-1", "making-1", labels={"kept": "yes"})
    store.prepare("making-2", "committed-1")
    store.commit("committed-2", "making-2")
    store.prepare("active-1")
    store.prepare("active-2", "committed-1", labels={"a": "2"})
    store.prepare("active-3", "committed-2")
    store.view("view-1", "committed-1")
    store.view("view-2", "committed-2", labels={"b": ""})


ALL = {
    "committed-1": (Kind.COMMITTED, None, {"kept": "yes"}),
    "committed-2": (Kind.COMMITTED, "committed-1", {}),
    "active-1": (Kind.ACTIVE, None, {}),
    "active-2": (Kind.ACTIVE, "committed-1", {"a": "2"}),
    "active-3": (Kind.ACTIVE, "committed-2", {}),
    "view-1": (Kind.VIEW, "committed-1", {}),
    "view-2": (Kind.VIEW, "committed-2", {"b": ""}),
}
"""Kind, parent and labels of what :func:`populate` makes."""


def _facts(store: Store) -> dict[str, tuple[Kind, str | None, dict[str, str]]]:
    return {found.key: (found.kind, found.parent, dict(found.labels)) for found in store.walk()}


@case("containerd MetaStoreSuite.GetInfo")
def get_info(ground: Ground) -> None:
    """Stat tells kind, parent and labels of every kind; labels are not inherited by a commit."""
    populate(ground.store)
    for key, (kind, parent, labels) in ALL.items():
        found = ground.store.stat(key)
        equal((found.key, found.kind, found.parent, dict(found.labels)), (key, kind, parent, labels), f"stat of {key}")


@case("containerd MetaStoreSuite.GetInfoNotExist")
def get_info_not_exist(ground: Ground) -> None:
    """Stat of an unknown key among known ones is NotFound, and carries the key."""
    populate(ground.store)
    equal(refused(NotFound, lambda: ground.store.stat("active-not-there")).key, "active-not-there", "key of the error")
    refused(NotFound, lambda: ground.store.stat("making-1"))


@case("containerd MetaStoreSuite.GetInfoEmptyDB")
def get_info_empty(ground: Ground) -> None:
    """Stat in a store without any snapshot is NotFound."""
    refused(NotFound, lambda: ground.store.stat("active-1"))
    equal(list(ground.store.walk()), [], "walk of an empty store")


@case("containerd MetaStoreSuite.Walk")
def walk(ground: Ground) -> None:
    """Walk gives each snapshot once, with the same facts as stat."""
    populate(ground.store)
    found = list(ground.store.walk())
    equal(len(found), len(ALL), "number of snapshots")
    equal(_facts(ground.store), ALL, "walk")
    for snapshot in found:
        equal(ground.store.stat(snapshot.key), snapshot, f"stat and walk of {snapshot.key}")


@case("containerd MetaStoreSuite.GetSnapshot")
def get_snapshot(ground: Ground) -> None:
    """Active ones and views give at least one mount, with or without a parent, and again after release."""
    populate(ground.store)
    for key in ("active-1", "active-2", "active-3", "view-1", "view-2"):
        for _ in range(2):
            mounts = ground.store.mounts(key)
            assert mounts, f"{key} has no mounts"
            ground.store.release(key)


@case("containerd MetaStoreSuite.GetSnapshotNotExist")
def get_snapshot_not_exist(ground: Ground) -> None:
    """The mounts of an unknown key are NotFound."""
    populate(ground.store)
    refused(NotFound, lambda: ground.store.mounts("active-not-there"))
    refused(NotFound, lambda: ground.store.mounted("active-not-there").__enter__())


@case("containerd MetaStoreSuite.GetSnapshotCommitted")
def get_snapshot_committed(ground: Ground) -> None:
    """A committed snapshot is never writable through its mounts."""
    populate(ground.store)
    with ground.mounted("committed-1") as root:
        refused(OSError, lambda: os.mkdir(f"{root}/new"))


@case("containerd MetaStoreSuite.GetSnapshotEmptyDB (vacuous there)")
def get_snapshot_empty(ground: Ground) -> None:
    """The mounts of a key in a store without any snapshot are NotFound."""
    equal(ground.listed(), set(), "keys")
    refused(NotFound, lambda: ground.store.mounts("active-1"))


@case("containerd MetaStoreSuite.CreateActive")
def create_active(ground: Ground) -> None:
    """Prepare and view return what stat then tells; ids are all different."""
    store = ground.store
    made = [store.prepare("one", labels={"x": "y"})]
    store.commit("base", store.prepare("two").key)
    made += [store.prepare("three", "base"), store.view("four", "base")]
    for snapshot in made:
        equal(store.stat(snapshot.key), snapshot, f"what was returned for {snapshot.key}")
    equal([snapshot.kind for snapshot in made], [Kind.ACTIVE, Kind.ACTIVE, Kind.VIEW], "kinds")
    equal(len({snapshot.id for snapshot in store.walk()}), 4, "different ids")


@case("containerd MetaStoreSuite.CreateActiveNotExist")
def create_active_not_exist(ground: Ground) -> None:
    """A parent that is not there is NotFound, and nothing is made."""
    populate(ground.store)
    refused(NotFound, lambda: ground.store.prepare("new", "not-there"))
    refused(NotFound, lambda: ground.store.view("new", "not-there"))
    equal(_facts(ground.store), ALL, "walk afterwards")


@case("containerd MetaStoreSuite.CreateActiveExist")
def create_active_exist(ground: Ground) -> None:
    """A key of any kind that is taken is AlreadyExists, for prepare and view; the old one stays as it is."""
    populate(ground.store)
    for key in ALL:
        refused(AlreadyExists, lambda key=key: ground.store.prepare(key))  # type: ignore[misc]
        refused(AlreadyExists, lambda key=key: ground.store.view(key, "committed-1"))  # type: ignore[misc]
    equal(_facts(ground.store), ALL, "walk afterwards")


@case("containerd MetaStoreSuite.CreateActiveFromActive")
def create_active_from_active(ground: Ground) -> None:
    """Only a committed one can be a parent."""
    populate(ground.store)
    for parent in ("active-1", "active-2", "view-1"):
        refused(WrongKind, lambda parent=parent: ground.store.prepare("new", parent))  # type: ignore[misc]
        refused(WrongKind, lambda parent=parent: ground.store.view("new", parent))  # type: ignore[misc]
    equal(_facts(ground.store), ALL, "walk afterwards")


@case("containerd MetaStoreSuite.Commit")
def commit(ground: Ground) -> None:
    """Commit consumes the key, keeps the parent, and makes something that can be a parent."""
    populate(ground.store)
    for key, name in (("active-1", "committed-3"), ("active-2", "committed-4"), ("active-3", "committed-5")):
        parent = ground.store.stat(key).parent
        done = ground.store.commit(name, key)
        equal((done.key, done.kind, done.parent), (name, Kind.COMMITTED, parent), f"what commit of {key} returned")
        equal(dict(done.labels), {}, "labels, which are not inherited")
        refused(NotFound, lambda key=key: ground.store.stat(key))  # type: ignore[misc]
        ground.store.prepare(key, name)


@case("containerd MetaStoreSuite.CommitNotExist (vacuous there)")
def commit_not_exist(ground: Ground) -> None:
    """Commit of an unknown key is NotFound, and the name stays free."""
    populate(ground.store)
    refused(NotFound, lambda: ground.store.commit("committed-new", "active-not-there"))
    equal(_facts(ground.store), ALL, "walk afterwards")
    ground.store.prepare("committed-new")


@case("containerd MetaStoreSuite.CommitExist")
def commit_exist(ground: Ground) -> None:
    """Commit under a name that is taken, even its own, is AlreadyExists; the active one can be committed afterwards."""
    populate(ground.store)
    for name in ("committed-1", "active-2", "view-1", "active-1"):
        refused(AlreadyExists, lambda name=name: ground.store.commit(name, "active-1"))  # type: ignore[misc]
    equal(_facts(ground.store), ALL, "walk afterwards")
    ground.store.commit("committed-3", "active-1")


@case("containerd MetaStoreSuite.CommitCommitted")
def commit_committed(ground: Ground) -> None:
    """What is committed cannot be committed."""
    populate(ground.store)
    refused(WrongKind, lambda: ground.store.commit("committed-3", "committed-1"))
    equal(_facts(ground.store), ALL, "walk afterwards")


@case("containerd MetaStoreSuite.CommitViewFails")
def commit_view(ground: Ground) -> None:
    """A view cannot be committed."""
    populate(ground.store)
    refused(WrongKind, lambda: ground.store.commit("committed-3", "view-1"))
    equal(_facts(ground.store), ALL, "walk afterwards")


@case("containerd MetaStoreSuite.Remove")
def remove(ground: Ground) -> None:
    """Everything can be removed, children first; then nothing is left."""
    populate(ground.store)
    for key in ("view-1", "view-2", "active-1", "active-2", "active-3", "committed-2", "committed-1"):
        ground.store.remove(key)
        refused(NotFound, lambda key=key: ground.store.stat(key))  # type: ignore[misc]
    equal(list(ground.store.walk()), [], "walk afterwards")


@case("containerd MetaStoreSuite.RemoveNotExist")
def remove_not_exist(ground: Ground) -> None:
    """Removal of an unknown key is NotFound."""
    populate(ground.store)
    refused(NotFound, lambda: ground.store.remove("not-there"))
    equal(_facts(ground.store), ALL, "walk afterwards")


@case("containerd MetaStoreSuite.RemoveWithChildren")
def remove_with_children(ground: Ground) -> None:
    """What has children of any kind cannot go, and the error names them."""
    populate(ground.store)
    error = refused(HasChildren, lambda: ground.store.remove("committed-1"))
    equal(set(error.children), {"committed-2", "active-2", "view-1"}, "children named")
    error = refused(HasChildren, lambda: ground.store.remove("committed-2"))
    equal(set(error.children), {"active-3", "view-2"}, "children named")
    equal(_facts(ground.store), ALL, "walk afterwards")


@case("containerd MetaStoreSuite.ParentIDs")
def parent_chain(ground: Ground) -> None:
    """The parents of a chain, followed by stat, lead to the lowest, also when opened again."""
    store = ground.store
    parent = None
    for number in range(5):
        store.prepare("active", parent)
        parent = store.commit(f"layer-{number}", "active").key
    store = ground.reopen()
    chain, key = [], parent
    while key is not None:
        chain.append(key)
        key = store.stat(key).parent
    equal(chain, [f"layer-{number}" for number in (4, 3, 2, 1, 0)], "chain")


@case("containerd MetaStoreSuite.Rebase")
def commit_keeps_parent(ground: Ground) -> None:
    """Commit has no way to change the parent: that would give another tree than the one which was looked at."""
    populate(ground.store)
    equal(ground.store.commit("committed-3", "active-1").parent, None, "parent of what had none")
    equal(ground.store.commit("committed-4", "active-3").parent, "committed-2", "parent of what had one")


@case("containerd SnapshotterSuite.Update")
def update(ground: Ground) -> None:
    """Update replaces all labels, bumps updated, and keeps everything else, for all kinds."""
    before = datetime.now(UTC)
    populate(ground.store)
    after = datetime.now(UTC)
    for key in ("committed-1", "active-2", "view-2"):
        old = ground.store.stat(key)
        assert old.created.tzinfo is not None, "times are not in UTC"
        assert abs((old.created - before).total_seconds()) < (after - before).total_seconds() + 1, (
            "created at another time"
        )
        if key != "committed-1":
            equal(old.updated, old.created, f"updated of {key} at birth")
        for labels in ({"l1": "v1", "l2": ""}, {"l2": "é", "l/3": "a\nb"}, {}):
            new = ground.store.update(key, labels)
            equal(dict(new.labels), labels, f"labels of {key}")
            equal(ground.store.stat(key), new, f"stat of {key}")
            kept = (new.key, new.kind, new.parent, new.created, new.id)
            equal(kept, (old.key, old.kind, old.parent, old.created, old.id), f"the rest of {key}")
            assert new.updated > old.updated, f"updated of {key} did not advance"
            old = new
    refused(NotFound, lambda: ground.store.update("not-there", {}))


@case("containerd SnapshotterSuite.Walk")
def walk_filters(ground: Ground) -> None:
    """Walk filters by kind, parent, presence and value of labels, and by all of these at once."""
    store = ground.store
    populate(store)

    def found(**filters: object) -> set[str]:
        return {snapshot.key for snapshot in store.walk(**filters)}  # type: ignore[arg-type]

    equal(found(kind=Kind.VIEW), {"view-1", "view-2"}, "kind")
    equal(found(kind="committed"), {"committed-1", "committed-2"}, "kind as text")
    equal(found(parent="committed-1"), {"committed-2", "active-2", "view-1"}, "parent")
    equal(found(parent="active-1"), set(), "parent without children")
    equal(found(labels={"a": "2"}), {"active-2"}, "label by value")
    equal(found(labels={"a": "3"}), set(), "label by another value")
    equal(found(labels={"b": None}), {"view-2"}, "label by presence")
    equal(found(labels={"b": ""}), {"view-2"}, "label by empty value")
    equal(found(labels={"a": "2", "b": None}), set(), "two labels")
    equal(found(kind=Kind.ACTIVE, parent="committed-1", labels={"a": "2"}), {"active-2"}, "all of them")
    equal(found(kind=Kind.VIEW, parent="committed-1", labels={"a": "2"}), set(), "all of them, none fits")


@case("design: keys")
def keys(ground: Ground) -> None:
    """Any text of up to 255 characters is a key, never a path; what cannot be one is refused, nothing made."""
    odd = [
        "/",
        ".",
        "..",
        "../../etc",
        " ",
        "a b",
        "-n",
        "é" * 255,
        "x" * 255,
        "new\nline",
        "'; DROP TABLE snapshots",
        "%s",
        "\\",
    ]
    for key in odd:
        ground.store.prepare(key)
        equal(ground.store.stat(key).key, key, "key")
    equal(ground.listed(), set(odd), "keys")
    for key in odd:
        ground.store.commit(key + "'" if len(key) < 255 else key[:-1], key)
    for bad in ("", "x" * 256, "nul\0", "\udc80"):
        refused(InvalidArgument, lambda bad=bad: ground.store.prepare(bad))  # type: ignore[misc]
        refused(InvalidArgument, lambda bad=bad: ground.store.stat(bad))  # type: ignore[misc]
        refused(InvalidArgument, lambda bad=bad: ground.store.remove(bad))  # type: ignore[misc]
    equal(len(ground.listed()), len(odd), "keys afterwards")


@case("design: closed stores")
def close_twice(ground: Ground) -> None:
    """The second close is fine, and a closed store says that it is closed (containerd CloseTwice)."""
    from cowstore.errors import CowstoreError

    store = ground.store
    store.prepare("active")
    store.close()
    store.close()
    refused(CowstoreError, lambda: store.stat("active"), saying="closed")
    refused(CowstoreError, lambda: store.prepare("other"), saying="closed")
    ground.reopen()
    equal(ground.listed(), {"active"}, "keys afterwards")
