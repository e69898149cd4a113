"""Around a snapshot's life: opened again between every two steps, removed while walked, committed twice, busy."""

from __future__ import annotations

import gc
import os

from cowstore.errors import AlreadyExists, Busy, CowstoreError, HasChildren, NotFound, WrongKind
from cowstore.model import Kind
from cowstore.testing import leaks, oracle
from cowstore.testing._case import Factory, Ground, case
from cowstore.testing._expect import equal, refused
from cowstore.testing.edits import Editor


@case("beyond (1): reopen between every step; moby layer StoreRestore")
def reopen_between_steps(ground: Ground) -> None:
    """A whole life of layers in which every step is done by a store that was just opened."""

    def first(tree: Editor) -> None:
        tree.makedirs("a/b")
        tree.write("a/b/c", "one")

    parent = None
    for number, edits in enumerate((first, lambda tree: tree.write("a/b/c", "two"), lambda tree: tree.remove("a/b"))):
        ground.reopen().prepare("active", parent)
        ground.reopen()
        ground.edit("active", edits, restart=number == 0)
        ground.reopen()
        ground.same("active")
        before = ground.changes("active")
        parent = ground.reopen().commit(f"layer-{number}", "active").key
        ground.reopen()
        equal(ground.changes(parent), before, "changes after commit and opening")
        ground.reopen()
        ground.look(parent)
        ground.reopen().update(parent, {"number": str(number)})
    infos = ground.infos()
    ground.reopen()
    equal(ground.infos(), infos, "facts")
    for key in ("layer-2", "layer-1", "layer-0"):
        ground.reopen().remove(key)
    ground.reopen()
    equal(ground.listed(), set(), "keys")


@case("containerd, wanted: RemoveInWalk; ST-17")
def remove_in_walk(ground: Ground) -> None:
    """Removing what the walk just gave, and making others meanwhile, disturbs neither the walk nor the store."""
    store = ground.store
    for number in range(30):
        store.prepare(f"active-{number}")
    seen = []
    for snapshot in store.walk(kind=Kind.ACTIVE):
        if snapshot.key.startswith("active-"):
            seen.append(snapshot.key)
            store.remove(snapshot.key)
            store.prepare(f"new-{snapshot.key}")
    equal(sorted(seen), sorted(f"active-{number}" for number in range(30)), "what the walk gave")
    equal(ground.listed(), {f"new-active-{number}" for number in range(30)}, "keys afterwards")


@case("beyond (1): double commit; moby layer RegisterExistingLayer")
def commit_twice(ground: Ground) -> None:
    """The second commit of a key is NotFound, and the layer is what the first one made."""
    store = ground.store
    base = ground.grow(lambda tree: tree.write("file", "base"))[0]
    refused(NotFound, lambda: store.commit(base, f"{base}-active"))
    refused(NotFound, lambda: store.commit("other", f"{base}-active"))
    ground.look(base)
    equal(ground.listed(), {base}, "keys")


@case("containerd, wanted: RemoveAfterCommit (moby#24309)")
def remove_after_commit(ground: Ground) -> None:
    """The key of a committed one is gone; removing it says so and leaves the layer."""
    base = ground.grow(lambda tree: tree.write("file", "base"))[0]
    refused(NotFound, lambda: ground.store.remove(f"{base}-active"))
    ground.look(base)
    ground.store.prepare(f"{base}-active", base)
    ground.store.remove(f"{base}-active")
    ground.look(base)


@case("beyond (1): commit while mounted; TA-40")
def commit_while_mounted(ground: Ground) -> None:
    """What is mounted, by this store or another, cannot be committed; afterwards it can, and nothing is lost."""
    store = ground.store
    store.prepare("active")
    with ground.factory.open(ground.root) as other:
        for holder, committer in ((store, store), (store, other), (other, store)):
            with holder.mounted("active") as root:
                error = refused(Busy, lambda committer=committer: committer.commit("layer", "active"))  # type: ignore[misc]
                assert os.getpid() in error.holders, f"the holder is not named: {error.holders}"
                (root / "file").write_text("still here")
            equal(ground.listed(), {"active"}, "keys")
        tree = ground.scan("active")
        other.commit("layer", "active")
    oracle.assert_same_trees(tree, ground.scan("layer"), what="layer")


@case("beyond (1): remove while mounted; aufs RemoveMountedDir; ST-11")
def remove_while_mounted(ground: Ground) -> None:
    """What is mounted, active or view or committed, cannot be removed; afterwards it can."""
    store = ground.store
    base = ground.grow(lambda tree: tree.write("file", "base"))[0]
    store.prepare("active", base)
    store.view("seen", base)
    with ground.factory.open(ground.root) as other:
        for key in ("active", "seen"):
            with ground.mounted(key) as root:
                for remover in (store, other):
                    refused(Busy, lambda remover=remover, key=key: remover.remove(key))  # type: ignore[misc]
                assert os.path.exists(f"{root}/file"), "the tree has gone although the removal was refused"
            other.remove(key)
        with ground.mounted(base) as root:
            refused(Busy, lambda: other.remove(base))
            assert os.path.exists(f"{root}/file"), "the tree has gone although the removal was refused"
        other.remove(base)
    equal(ground.listed(), set(), "keys")


@case("design: leases of mounts()")
def mounts_make_busy(ground: Ground) -> None:
    """A snapshot whose mounts were asked for is busy until as many releases, or until its store is closed."""
    store = ground.store
    store.prepare("active")
    equal(store.mounts("active"), store.mounts("active"), "mounts asked for twice")
    store.release("active")
    refused(Busy, lambda: store.commit("layer", "active"))
    refused(Busy, lambda: store.remove("active"))
    store.release("active")
    store.release("active")
    store.mounts("active")
    ground.reopen().commit("layer", "active")


@case("ST-15; beyond (1): unknown driver data present")
def another_driver(ground: Ground) -> None:
    """A store opened with another driver is refused with both names, and nothing of it is touched."""
    from cowstore.drivers import BUILT_IN
    from cowstore.errors import StoreMismatch

    base = ground.grow(lambda tree: tree.write("file", "base"))[0]
    ground.shut()
    before = sorted(os.listdir(ground.root))
    other = next(name for name in BUILT_IN if name != ground.factory.driver)
    error = refused(StoreMismatch, lambda: ground.factory.open(ground.root, driver=other, options={}))
    for word in (other, ground.factory.driver, ground.root):
        assert word in str(error), f"the message does not name {word}: {error}"
    equal(sorted(os.listdir(ground.root)), before, "the store's directory")
    store = ground.reopen(driver=None)
    equal(store.driver_name, ground.factory.driver, "the recorded driver")
    ground.look(base)


@case("ST-04: moby#44909, #23184")
def data_in_the_way(ground: Ground) -> None:
    """Data of a store's own sort at the id that comes next: another id is used, check names it, repair removes it."""
    store = ground.store
    last = store.prepare("first").id
    # The catalog forgets one snapshot, as after a power cut: its data stay.
    store.prepare("lost")
    ground.shut()
    import sqlite3

    with sqlite3.connect(os.path.join(ground.root, "catalog.db")) as catalog:
        catalog.execute("DELETE FROM snapshots WHERE key = 'lost'")
        catalog.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'snapshots'", (last,))
    catalog.close()
    store = ground.reopen()
    made = store.prepare("second")
    with ground.mounted("second") as root:
        equal(os.listdir(root), [], "the new snapshot's tree")
    assert made.id != last + 1 or not store.check(), "the id in doubt was used again"
    kinds = [str(finding.kind) for finding in store.check()]
    equal(kinds, ["data-without-row"], "findings")
    assert all(finding.repaired for finding in store.check(repair=True)), "not repaired"
    equal(store.check(), (), "findings after repair")
    equal(ground.listed(), {"first", "second"}, "keys")


@case("ST-13; ST-06: two stores in one process")
def two_handles(ground: Ground) -> None:
    """Two open stores on one directory see each other's work at once, and closing one does not hurt the other."""
    with ground.factory.open(ground.root) as other:
        ground.store.prepare("one")
        other.prepare("two")
        equal(ground.listed(), {"one", "two"}, "keys of the first")
        equal({snapshot.key for snapshot in other.walk()}, {"one", "two"}, "keys of the second")
        with other.mounted("one") as root:
            (root / "x").write_text("x")
            refused(Busy, lambda: ground.store.remove("one"))
    refused(AlreadyExists, lambda: ground.store.prepare("two"))
    ground.store.commit("layer", "one")


@case("design: ephemeral")
def ephemeral(ground: Ground) -> None:
    """Ephemeral snapshots go with the store that made them, and with no other; what is committed of them stays."""
    store = ground.store
    with ground.factory.open(ground.root) as other:
        other.prepare("short", ephemeral=True)
        other.prepare("shorter", ephemeral=True)
        other.prepare("kept")
        other.prepare("becomes", ephemeral=True)
        other.commit("layer", "becomes")
        with other.mounted("short") as root:
            (root / "x").write_text("x")
        other.remove("shorter")
        with ground.factory.open(ground.root):
            equal(ground.listed(), {"short", "kept", "layer"}, "keys while its store is open")
    equal(ground.listed(), {"kept", "layer"}, "keys afterwards")
    store.prepare("short")


@case("design: destroy")
def destroy_store(ground: Ground) -> None:
    """Destroy takes everything, is refused while something is held, and a new store can be made in the same place."""
    store = ground.store
    base = ground.grow(lambda tree: tree.write("file", "base"))[0]
    store.prepare("active", base)
    with ground.factory.open(ground.root) as other, other.mounted("active") as root:
        refused(Busy, store.destroy)
        assert (root / "file").exists(), "the tree has gone although destroy was refused"
    ground.look(base)
    ground.reopen().destroy()
    ground.shut()
    assert not os.path.exists(ground.root) or not os.listdir(ground.root), "something is left in the store's directory"
    equal(leaks.mounts_below(ground.directory), [], "mounts")
    equal(list(ground.store.walk()), [], "what a new store lists")


@case("design: failing verbs leave what they found")
def failures_change_nothing(ground: Ground) -> None:
    """Every refused verb leaves catalog, disk and trees as they were."""
    store = ground.store
    base = ground.grow(lambda tree: tree.write("file", "base"))[0]
    store.prepare("active", base)
    store.view("seen", base)
    before, tree = ground.infos(), ground.scan("active")
    refused(HasChildren, lambda: store.remove(base))
    refused(WrongKind, lambda: store.commit("x", "seen"))
    refused(WrongKind, lambda: store.commit("x", base))
    refused(AlreadyExists, lambda: store.commit("seen", "active"))
    refused(NotFound, lambda: store.commit("x", "y"))
    refused(NotFound, lambda: store.prepare("x", "y"))
    refused(WrongKind, lambda: store.prepare("x", "active"))
    refused(AlreadyExists, lambda: store.prepare("active", base))
    refused(AlreadyExists, lambda: store.import_directory(ground.flat, name="active"))
    refused(CowstoreError, lambda: store.import_directory(f"{ground.flat}/not-there", name="x"))
    refused(CowstoreError, lambda: store.import_tar(f"{ground.flat}/file", name="x"))
    equal(ground.infos(), before, "facts")
    equal(store.status().in_flight, 0, "verbs under way")
    oracle.assert_same_trees(tree, ground.scan("active"), what="active")
    ground.clean()


@case("design: read-only stores")
def read_only_store(ground: Ground) -> None:
    """A store opened for reading shows everything and changes nothing."""
    from cowstore.errors import Unsupported

    base = ground.grow(lambda tree: tree.write("file", "base"))[0]
    ground.store.prepare("active", base)
    before = ground.infos()
    store = ground.reopen(read_only=True)
    equal(ground.infos(), before, "facts")
    for verb in (
        lambda: store.prepare("x", base),
        lambda: store.view("x", base),
        lambda: store.commit("x", "active"),
        lambda: store.remove("active"),
        lambda: store.update(base, {}),
        lambda: store.import_directory(ground.flat, name="x"),
        store.cleanup,
        store.destroy,
    ):
        refused(Unsupported, verb)
    equal(ground.infos(), before, "facts afterwards")
    with store.mounted("active") as root:
        equal((root / "file").read_text(), "base", "content")
        refused(OSError, lambda: (root / "file").write_text("x"))
    ground.reopen()


@case("design: adopt", needs=("adopts",))
def adopt(ground: Ground) -> None:
    """An adopted directory is a layer that is never written to, and stays where it is when the layer is removed."""
    source = ground.scratch("outside")
    tree = Editor(source)
    tree.makedirs("etc/deep")
    tree.write("etc/motd", "hello")
    tree.write("etc/deep/file", "deep")
    before = oracle.scan(source)
    store = ground.store
    found = store.adopt("machine", source)
    equal((found.kind, found.parent), (Kind.COMMITTED, None), "the layer")
    ground.same("machine", source)
    store.prepare("active", "machine")
    with ground.mounted("active") as root:
        Editor(root, round_=2).write("etc/motd", "changed")
        Editor(root, round_=3).remove("etc/deep")
    equal([change for change in ground.changes("active") if change[1] not in {".", "etc"}], [
        ("deleted", "etc/deep"), ("modified", "etc/motd"),
    ], "changes")  # fmt: skip
    store.commit("layer", "active")
    ground.reopen()
    ground.clean()
    oracle.assert_same_trees(before, oracle.scan(source), what="the directory outside")
    ground.empty()
    oracle.assert_same_trees(before, oracle.scan(source), what="the directory outside after removal")


@case("TA-20, IO: import_directory")
def import_directory(ground: Ground) -> None:
    """A copied directory is a layer with the same tree, and owes its source nothing afterwards."""
    tree = Editor(ground.flat)
    tree.makedirs("a/b")
    tree.write("a/file", b"x" * 100_000, 0o640)
    tree.link("a/file", "a/b/link")
    tree.symlink("../file", "a/b/symlink")
    tree.sparse("sparse", 1 << 22, (1 << 21, b"middle"))
    tree.chmod("a/b", 0o711)
    tree.stamp("a/b")
    found = ground.store.import_directory(ground.flat, name="imported")
    equal((found.key, found.kind, found.parent), ("imported", Kind.COMMITTED, None), "what was returned")
    ground.look("imported")
    expected = ground.scan("imported")
    Editor(ground.flat, round_=4).remove("a")
    oracle.assert_same_trees(expected, ground.scan("imported"), what="the layer after its source changed")


@case("design: what is left")
def nothing_accumulates(ground: Ground) -> None:
    """After everything was removed, the store's directory holds as many entries as before, no descriptor is left."""
    store = ground.store
    ground.grow(lambda tree: tree.write("file", "base"), name="warm")
    ground.empty()
    gc.collect()
    files, descriptors = _count(ground.root), len(os.listdir("/proc/self/fd"))
    for number in range(3):
        base = ground.grow(lambda tree: tree.makedirs("a/b/c"), lambda tree: tree.remove("a"), name=f"n{number}")[1]
        store.prepare("active", base)
        store.view("seen", base)
        with ground.mounted("active"), ground.mounted("seen"):
            pass
        store.usage("active")
        list(store.changes("active"))
        ground.empty()
    store.cleanup()
    gc.collect()
    equal(_count(ground.root), files, "entries in the store's directory")
    equal(len(os.listdir("/proc/self/fd")), descriptors, "open descriptors")


def _count(directory: str) -> int:
    return sum(len(names) + len(files) for _, names, files in os.walk(directory))


@case("beyond (1): a second store on another file system in one process")
def two_stores(ground: Ground) -> None:
    """Two stores of one driver in one process, the second on another file system where there is one, do not mix."""
    elsewhere = _another_file_system(ground.directory)
    second = Ground(Factory(ground.factory.driver, options=ground.factory.options, directory=elsewhere), "second")
    try:
        for number, (here, text) in enumerate(((ground, "first"), (second, "second"))):
            here.grow(lambda tree, text=text, number=number: tree.write("file", text * (number + 1)))  # type: ignore[misc]
            here.store.prepare("active", "layer-1")
        with ground.mounted("active") as one, second.mounted("active") as two:
            equal((_read(f"{one}/file"), _read(f"{two}/file")), ("first", "secondsecond"), "contents")
        ground.shut()
        second.same("active")
        ground.same("active")
        second.destroy()
        ground.same("active")
    except BaseException:
        second.abandon()
        raise
    finally:
        second.discard()
        os.rmdir(elsewhere)


def _another_file_system(directory: str) -> str:
    """Make a directory on another file system than *directory*, or beside it where there is none."""
    import tempfile

    here = os.stat(directory).st_dev
    for candidate in ("/dev/shm", "/var/tmp", "/tmp", "/run"):
        if os.path.isdir(candidate) and os.access(candidate, os.W_OK) and os.stat(candidate).st_dev != here:
            return tempfile.mkdtemp(prefix="cowstore-suite-", dir=candidate)
    return tempfile.mkdtemp(prefix="cowstore-suite-", dir=directory)


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()
