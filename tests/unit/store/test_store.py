"""The verbs, over plain directories."""

from __future__ import annotations

import os
import resource
import shutil
import threading
from typing import TYPE_CHECKING

import pytest

import cowstore
from cowstore import (
    AlreadyExists,
    Busy,
    CowstoreError,
    FindingKind,
    HasChildren,
    InvalidArgument,
    Kind,
    NotFound,
    Unsupported,
    WrongKind,
    leases,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cowstore._rows import Row


def _layer(store: cowstore.Store, name: str, parent: str | None = None) -> cowstore.Snapshot:
    store.prepare(f"{name}-key", parent)
    return store.commit(name, f"{name}-key")


def test_a_life(store: cowstore.Store) -> None:
    made = store.prepare("job", labels={"a": "1"})
    assert (made.key, made.kind, made.parent, made.labels) == ("job", Kind.ACTIVE, None, {"a": "1"})
    assert made.created == made.updated
    done = store.commit("layer", "job", labels={"b": "2"})
    assert (done.key, done.kind, done.id, done.labels) == ("layer", Kind.COMMITTED, made.id, {"b": "2"})
    with pytest.raises(NotFound):
        store.stat("job")
    child = store.prepare("job", "layer")
    assert child.parent == "layer"
    assert child.labels == {}
    view = store.view("look", "layer")
    assert (view.kind, view.parent) == (Kind.VIEW, "layer")
    with pytest.raises(HasChildren) as caught:
        store.remove("layer")
    assert caught.value.children == ("job", "look")
    for key in ("job", "look", "layer"):
        store.remove(key)
    assert list(store.walk()) == []
    assert store.check() == ()


@pytest.mark.parametrize("key", ["", "a\0b", "x" * 256, "\ud800"])
def test_impossible_keys(store: cowstore.Store, key: str) -> None:
    with pytest.raises(InvalidArgument):
        store.prepare(key)
    with pytest.raises(ValueError, match="key"):
        store.stat(key)


@pytest.mark.parametrize("key", ["x" * 255, "/", "..", "a/b", "ключ", " ", "\n", "'; DROP TABLE snapshots; --", "%s"])
def test_any_other_key(store: cowstore.Store, key: str) -> None:
    assert store.prepare(key).key == key
    assert [snapshot.key for snapshot in store.walk()] == [key]
    assert store.commit(key + "2" if len(key) < 255 else "y", key).kind is Kind.COMMITTED


def test_refusals_change_nothing(store: cowstore.Store) -> None:
    _layer(store, "base")
    store.prepare("active", "base")
    store.view("view", "base")
    before = list(store.walk())
    with pytest.raises(AlreadyExists):
        store.prepare("active")
    with pytest.raises(AlreadyExists):
        store.view("base", "base")
    with pytest.raises(AlreadyExists):
        store.commit("base", "active")
    with pytest.raises(AlreadyExists):
        store.commit("active", "active")
    for verb in (store.prepare, store.view):
        with pytest.raises(WrongKind):
            verb("new", "active")
        with pytest.raises(WrongKind):
            verb("new", "view")
        with pytest.raises(NotFound):
            verb("new", "missing")
    with pytest.raises(WrongKind):
        store.commit("new", "view")
    with pytest.raises(WrongKind):
        store.commit("new", "base")
    with pytest.raises(NotFound):
        store.commit("new", "missing")
    with pytest.raises(NotFound):
        store.remove("missing")
    with pytest.raises(WrongKind):
        store.set_size("base", 10)
    with pytest.raises(Unsupported):
        store.set_size("active", 10)
    assert list(store.walk()) == before
    assert store.check() == ()


def test_the_driver_says_how_deep(store: cowstore.Store) -> None:
    _layer(store, "1")
    _layer(store, "2", "1")
    _layer(store, "3", "2")
    store.prepare("under three layers", "3")
    _layer(store, "4", "3")
    with pytest.raises(Unsupported) as caught:
        store.prepare("under four", "4")
    assert caught.value.feature == "max_depth"


def test_a_lease_makes_busy(store: cowstore.Store, opened: Callable[..., cowstore.Store]) -> None:
    """ST-06: a second handle in one process is a stranger like any other."""
    store.prepare("job")
    store.mounts("job")
    other = opened()
    for one in (store, other):
        with pytest.raises(Busy) as caught:
            one.remove("job")
        assert os.getpid() in caught.value.holders
        with pytest.raises(Busy):
            one.commit("layer", "job")
    store.release("job")
    other.commit("layer", "job")


def test_every_mounts_wants_its_release(store: cowstore.Store) -> None:
    store.prepare("job")
    store.mounts("job")
    store.mounts("job")
    store.release("job")
    with pytest.raises(Busy):
        store.remove("job")
    store.release("job")
    store.release("job")
    store.remove("job")
    with pytest.raises(NotFound):
        store.release("job")


def test_a_lease_of_a_view_holds_its_parent_too(store: cowstore.Store) -> None:
    _layer(store, "base")
    store.view("look", "base")
    with store.leased("look") as lease:
        assert lease.id == store.stat("base").id
        assert lease.read_only
        with pytest.raises(Busy):
            store.remove("look")
    store.remove("look")


def test_close_gives_up_leases_and_ephemeral_ones(opened: Callable[..., cowstore.Store]) -> None:
    first, second = opened(), opened()
    first.prepare("kept")
    first.prepare("gone", ephemeral=True)
    first.prepare("made a layer", ephemeral=True)
    first.mounts("kept")
    first.mounts("gone")
    first.commit("layer", "made a layer")
    first.close()
    first.close()
    assert {snapshot.key for snapshot in second.walk()} == {"kept", "layer"}
    second.remove("kept")
    with pytest.raises(CowstoreError, match="closed"):
        first.prepare("more")
    with pytest.raises(CowstoreError, match="closed"):
        first.stat("layer")


def test_labels(store: cowstore.Store) -> None:
    store.prepare("one", labels={"x": "1", "y": "2"})
    store.prepare("two", labels={"x": "other"})
    made = store.stat("one")
    changed = store.update("one", {"z": "ü"})
    assert changed.labels == {"z": "ü"}
    assert (changed.created, changed.kind, changed.id) == (made.created, made.kind, made.id)
    assert changed.updated > made.updated
    assert [snapshot.key for snapshot in store.walk(labels={"x": None})] == ["two"]
    assert [snapshot.key for snapshot in store.walk(labels={"x": "1"})] == []
    with pytest.raises(InvalidArgument):
        store.update("one", {"": "empty name"})
    with pytest.raises(InvalidArgument):
        store.update("one", {"n": 3})  # type: ignore[dict-item]
    with pytest.raises(NotFound):
        store.update("missing", {})


def test_walk_filters(store: cowstore.Store) -> None:
    _layer(store, "base")
    store.prepare("a", "base")
    store.view("v", "base")
    _layer(store, "top", "base")
    assert [snapshot.key for snapshot in store.walk(kind=Kind.COMMITTED)] == ["base", "top"]
    assert [snapshot.key for snapshot in store.walk(kind="view")] == ["v"]
    assert [snapshot.key for snapshot in store.walk(parent="base")] == ["a", "v", "top"]
    assert [snapshot.key for snapshot in store.walk(parent="base", kind=Kind.ACTIVE)] == ["a"]


def test_removal_while_walking(store: cowstore.Store) -> None:
    """The list is not changed under the walker: whatever is there throughout is seen once."""
    for number in range(1200):
        store.prepare(str(number))
    seen = []
    for snapshot in store.walk():
        seen.append(snapshot.key)
        if int(snapshot.key) % 2:
            store.remove(snapshot.key)
    assert seen == [str(number) for number in range(1200)]
    assert [snapshot.key for snapshot in store.walk()] == [str(number) for number in range(0, 1200, 2)]


def test_leftovers_do_not_get_into_a_snapshot(store: cowstore.Store, root: Path) -> None:
    """ST-04, ST-20: what lies where the next id would go is left alone, another id is used, and check names it."""
    (root / "plain/1").mkdir()
    (root / "plain/2").mkdir()
    (root / "plain/2/file").touch()
    made = store.prepare("job")
    assert made.id == 3
    assert os.listdir(root / "plain/3") == []
    assert (root / "plain/2/file").exists()
    assert [finding.id for finding in store.check()] == [2, 1]
    assert all(finding.repaired for finding in store.check(repair=True))
    assert store.check() == ()


def test_a_removal_that_failed_can_be_repeated(store: cowstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """ST-11: the record stays until the data are gone, and the key cannot be taken meanwhile."""
    store.prepare("job")

    def refuse(self: object, id: int) -> None:
        raise OSError(16, "Device or resource busy")

    with monkeypatch.context() as patch:
        patch.setattr(type(store._core.driver), "remove", refuse)
        with pytest.raises(CowstoreError, match="busy"):
            store.remove("job")
        with pytest.raises(NotFound):
            store.stat("job")
        with pytest.raises(AlreadyExists):
            store.prepare("job")
    store.remove("job")
    store.prepare("job")
    assert store.check() == ()


def test_a_failed_create_leaves_nothing(store: cowstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object, id: int, parent: int | None, size_bytes: int | None) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(store._core.driver), "create", refuse)
        with pytest.raises(cowstore.OutOfSpace):
            store.prepare("job")
    assert store.check() == ()
    store.prepare("job")


def test_a_failed_seal_leaves_the_snapshot_active(store: cowstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.prepare("job")

    def refuse(self: object, id: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(type(store._core.driver), "seal", refuse)
        with pytest.raises(CowstoreError, match="Input/output"):
            store.commit("layer", "job")
    assert store.stat("job").kind is Kind.ACTIVE
    assert store.commit("layer", "job").kind is Kind.COMMITTED


def test_two_handles_see_each_other(opened: Callable[..., cowstore.Store]) -> None:
    """ST-13: nobody works with an old copy of the catalog."""
    first, second, third = opened(), opened(), opened()
    second.prepare("L1")
    first.prepare("L2")
    assert {snapshot.key for snapshot in third.walk()} == {"L1", "L2"}


def test_read_only_looks_and_does_not_touch(opened: Callable[..., cowstore.Store]) -> None:
    writer = opened()
    _layer(writer, "base")
    reader = opened(read_only=True)
    assert reader.stat("base").kind is Kind.COMMITTED
    assert reader.status().read_only
    for attempt in (
        lambda: reader.prepare("x"),
        lambda: reader.remove("base"),
        lambda: reader.commit("y", "base"),
        lambda: reader.update("base", {}),
        reader.cleanup,
        reader.destroy,
        lambda: reader.check(repair=True),
    ):
        with pytest.raises(Unsupported, match="read-only"):
            attempt()
    assert reader.check() == ()


def test_a_forked_child_is_a_store_of_its_own(store: cowstore.Store) -> None:
    """Locks are not inherited: the child neither holds nor ends what is its parent's."""
    store.prepare("held")
    store.prepare("short", ephemeral=True)
    store.mounts("held")
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            store.prepare("from the child")
            store.prepare("child's own", ephemeral=True)
            store.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert {snapshot.key for snapshot in store.walk()} == {"held", "short", "from the child"}
    with pytest.raises(Busy):
        store.remove("held")
    store.release("held")
    store.remove("held")
    assert store.check() == ()


def test_threads(store: cowstore.Store) -> None:
    """ST-06: threads of one process do not step on each other."""
    _layer(store, "base")
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(20):
                key = f"{number}.{turn}"
                store.prepare(key, "base")
                if turn % 2:
                    store.remove(key)
                else:
                    store.commit(f"{key}!", key)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(list(store.walk())) == 1 + 8 * 10
    assert store.check() == ()


def test_destroy_wants_to_be_alone(opened: Callable[..., cowstore.Store], root: Path) -> None:
    first, second = opened(), opened()
    first.prepare("job")
    with pytest.raises(Busy, match="open"):
        first.destroy()
    second.close()
    first.mounts("job")
    first.destroy()
    assert not root.exists()
    first.close()


def test_destroy_keeps_the_store_where_a_program_still_runs(opened: Callable[..., cowstore.Store]) -> None:
    store = opened()
    store.prepare("job")
    left = leases.share(store._core.leases_fd, store.stat("job").id)
    with pytest.raises(Busy, match="job"):
        store.destroy()
    opened().prepare("another")
    leases.drop(left)


def test_more_snapshots_than_open_files_can_be_destroyed(store: cowstore.Store, root: Path) -> None:
    for number in range(80):
        store.prepare(f"job-{number}")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 20, before[1]))
    try:
        store.destroy()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert not root.exists()


def test_a_removal_without_room_for_its_record(store: cowstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system that is full to the last block, the room that was put by lets a snapshot go."""
    store.prepare("job")
    catalog = store._core.catalog
    begin = catalog.begin_remove
    ballast = os.path.join(store.root, "ballast")

    def begin_where_there_is_room(found: Row, *, owner: str) -> object:
        if os.path.exists(ballast):
            raise cowstore.OutOfSpace("full")
        return begin(found, owner=owner)

    monkeypatch.setattr(catalog, "begin_remove", begin_where_there_is_room)
    store.remove("job")
    assert list(store.walk()) == []


def test_one_broken_layer_stops_nothing_else(store: cowstore.Store, root: Path) -> None:
    """ST-18: with a layer's data gone, the list works, the others work, check names it, and it can be removed."""
    _layer(store, "broken")
    _layer(store, "whole")
    shutil.rmtree(root / "plain" / str(store.stat("broken").id))
    assert [snapshot.key for snapshot in store.walk()] == ["broken", "whole"]
    store.prepare("job", "whole")
    assert [(finding.kind, finding.key) for finding in store.check()] == [(FindingKind.ROW_WITHOUT_DATA, "broken")]
    store.remove("broken")
    assert store.check() == ()


def test_a_part_of_a_key_is_no_key(store: cowstore.Store) -> None:
    """CL-01: keys are whole; what two begin with names neither of them, and the empty one is refused."""
    store.prepare("ab11")
    store.prepare("ab22")
    with pytest.raises(NotFound):
        store.remove("ab")
    with pytest.raises(InvalidArgument):
        store.remove("")
    assert [snapshot.key for snapshot in store.walk()] == ["ab11", "ab22"]
