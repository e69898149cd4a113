"""containerd's SnapshotterSuite, every write done inside the mount, every tree compared with a flat directory."""

from __future__ import annotations

import os
import stat

from cowstore.errors import AlreadyExists, HasChildren, NotFound
from cowstore.model import Kind
from cowstore.testing import oracle
from cowstore.testing._case import Ground, case
from cowstore.testing._expect import equal, raises, refused
from cowstore.testing.edits import Editor


@case("containerd Basic")
def basic(ground: Ground) -> None:
    """A layer, a layer on it, and a view of both: trees, facts, and the order in which they can go."""
    store = ground.store
    store.prepare("one")
    assert store.mounts("one"), "no mounts"
    store.release("one")

    def first(tree: Editor) -> None:
        tree.write("foo", "foo\n", 0o777)
        tree.makedirs("a/b/c")

    ground.edit("one", first, restart=True)
    store.commit("layer-1", "one")
    found = store.stat("layer-1")
    equal((found.kind, found.parent), (Kind.COMMITTED, None), "layer-1")
    refused(NotFound, lambda: store.stat("one"))

    store.prepare("two", "layer-1")
    ground.same("two")

    def second(tree: Editor) -> None:
        tree.write("foo", "foo v2\n")
        tree.write("bar", "bar\n", 0o777)
        tree.remove("a/b")

    ground.edit("two", second)
    equal(store.stat("two").parent, "layer-1", "parent of two")
    store.commit("layer-2", "two")
    infos = ground.infos()
    equal(set(infos), {"layer-1", "layer-2"}, "keys")
    equal(infos["layer-1"], found, "layer-1 after its child's commit")
    equal(infos["layer-2"].parent, "layer-1", "parent of layer-2")
    store.view("seen", "layer-2")
    ground.same("seen")
    refused(HasChildren, lambda: store.remove("layer-2"), saying="remove")
    for key in ("seen", "layer-2", "layer-1"):
        store.remove(key)
    equal(ground.listed(), set(), "keys at the end")


@case("containerd StatActive")
def stat_active(ground: Ground) -> None:
    """Stat of an active one that was written to in its mount."""
    ground.store.prepare("active")
    ground.edit("active", lambda tree: tree.write("file", "content"), restart=True)
    found = ground.store.stat("active")
    equal((found.key, found.kind, found.parent), ("active", Kind.ACTIVE, None), "stat")
    ground.same("active")


@case("containerd StatComitted")
def stat_committed(ground: Ground) -> None:
    """Stat of a committed one that was written to in its mount."""
    keys = ground.grow(lambda tree: tree.write("file", "content"))
    found = ground.store.stat(keys[0])
    equal((found.key, found.kind, found.parent), (keys[0], Kind.COMMITTED, None), "stat")


@case("containerd TransitivityTest")
def transitivity(ground: Ground) -> None:
    """Parents, names and kinds through two levels, with trees."""
    keys = ground.grow(lambda tree: tree.write("bottom", "1"), lambda tree: tree.write("top", "2"))
    ground.store.prepare("above", keys[1])
    infos = ground.infos()
    equal([infos[key].parent for key in (*keys, "above")], [None, *keys], "parents")
    ground.same("above")


@case("containerd PreareViewFailingtest")
def prepare_view_twice(ground: Ground) -> None:
    """One key twice fails, whichever two verbs ask for it, and the first one's tree stays."""
    base = ground.grow(lambda tree: tree.write("file", "base"))[0]
    store = ground.store
    store.prepare("active", base)
    ground.edit("active", lambda tree: tree.write("more", "kept"))
    store.view("seen", base)
    for key in ("active", "seen"):
        refused(AlreadyExists, lambda key=key: store.prepare(key, base))  # type: ignore[misc]
        refused(AlreadyExists, lambda key=key: store.view(key, base))  # type: ignore[misc]
    ground.same("active")


@case("containerd Remove")
def remove_and_reuse(ground: Ground) -> None:
    """A key and a name can be used again after removal, with nothing of the old tree showing."""
    store = ground.store
    base = ground.grow(lambda tree: tree.write("base", "base"))[0]
    flat = oracle.scan(ground.flat)
    for _ in range(2):
        store.prepare("key", base)
        with ground.mounted("key") as root:
            Editor(root, round_=5).write("left", "over")
        store.remove("key")
        store.view("key", base)
        ground.assert_same(flat, ground.scan("key"), what="view")
        store.remove("key")
        store.prepare("key")
        with ground.mounted("key") as root:
            equal(os.listdir(root), [], "a fresh tree under a used key")
        store.commit("name", "key")
        refused(AlreadyExists, lambda: store.prepare("name"))
        store.remove("name")
        store.prepare("name", base)
        ground.assert_same(flat, ground.scan("name"), what="fresh child under a used name")
        store.remove("name")


@case("containerd LayerFileupdate; moby#21555", slow=True)
def file_update(ground: Ground) -> None:
    """Changes of content with the same size within one second, and of the mode only, are seen."""

    def first(tree: Editor) -> None:
        tree.write("same-size", "aaaa\n", 0o700)
        tree.write("mode-only", "mode\n", 0o777)

    key = ground.grow(first)[0]
    for number in range(5):

        def update(tree: Editor, number: int = number) -> None:
            tree.write("same-size", f"bb{number}b\n")
            tree.utime("same-size", 1_600_000_000_000_000_000 + number)
            tree.chmod("mode-only", 0o766 - number)

        key = ground.grow(update, parent=key, name=f"update-{number}")[0]


@case("containerd RemoveDirectoryInLowerLayer; moby#25244")
def remove_directory_below(ground: Ground) -> None:
    """A directory removed and made again hides what it held, also from a third layer."""

    def first(tree: Editor) -> None:
        tree.makedirs("dir1", 0o700)
        tree.write("dir1/f1", "1", 0o644)

    def second(tree: Editor) -> None:
        tree.remove("dir1")
        tree.makedirs("dir1", 0o700)
        tree.write("dir1/f2", "2")

    ground.grow(first, second, lambda tree: tree.write("dir1/f3", "3"))


@case("containerd Chown; moby#20240, #24913, #28391", privileged=True)
def chown(ground: Ground) -> None:
    """Changing the owner of directories and files of the layer below, one inside the other."""

    def first(tree: Editor) -> None:
        tree.makedirs("opt/a/b")
        tree.write("opt/a/b/file.txt", "hello")

    def second(tree: Editor) -> None:
        for path in ("opt", "opt/a", "opt/a/b", "opt/a/b/file.txt"):
            tree.chown(path, 1, 1)

    ground.grow(first, second, lambda tree: tree.chown("opt/a", 2, 3))


@case("containerd DirectoryPermissionOnCommit; moby#27298", privileged=True)
def directory_permission(ground: Ground) -> None:
    """Owners given, taken back, and directories made again, over three layers."""

    def first(tree: Editor) -> None:
        for number in range(1, 6):
            tree.makedirs(f"dir{number}", 0o700)
            tree.write(f"dir{number}/f", "x")
            if number in {1, 2, 3, 5}:
                tree.chown(f"dir{number}", 1, 1)

    def second(tree: Editor) -> None:
        tree.chown("dir1", 0, 0)
        tree.remove("dir2")
        tree.remove("dir3")
        tree.makedirs("dir3", 0o711)
        tree.remove("dir4")
        tree.makedirs("dir4", 0o755)
        tree.chown("dir4", 1, 1)

    def third(tree: Editor) -> None:
        tree.chown("dir1", 1, 1)
        tree.makedirs("dir2", 0o700)
        tree.chown("dir3", 5, 6)
        tree.remove("dir5")

    ground.grow(first, second, third)


@case("containerd RemoveIntermediateSnapshot")
def remove_intermediate(ground: Ground) -> None:
    """What lies in the middle of a chain cannot go; from the top down everything can."""
    keys = ground.grow(lambda tree: tree.write("a", "1"), lambda tree: tree.write("b", "2"))
    ground.store.prepare("top", keys[1])
    for key in keys:
        refused(HasChildren, lambda key=key: ground.store.remove(key))  # type: ignore[misc]
    ground.same("top")
    for key in ("top", keys[1], keys[0]):
        ground.store.remove(key)


@case("containerd DeletedFilesInChildSnapshot")
def deleted_stays_deleted(ground: Ground) -> None:
    """A file removed in the second layer stays away under an empty third one."""

    def first(tree: Editor) -> None:
        tree.write("foo", "foo")
        tree.write("bar", "bar")

    def nothing(_tree: Editor) -> None:
        return

    ground.grow(first, lambda tree: tree.remove("foo"), nothing)


@case("containerd MoveFileFromLowerLayer")
def move_from_lower(ground: Ground) -> None:
    """A file copied elsewhere and removed, and a hard link moved out of the layer below."""

    def first(tree: Editor) -> None:
        tree.makedirs("dir1", 0o700)
        tree.write("dir1/f1", "1", 0o644)
        tree.makedirs("dir2", 0o700)
        tree.write("dir2/f2", "2", 0o644)

    def second(tree: Editor) -> None:
        tree.makedirs("dir3", 0o700)
        tree.write("dir3/f1", "1", 0o644)
        tree.remove("dir1/f1")
        tree.link("dir2/f2", "dir3/f2")
        tree.remove("dir2/f2")

    ground.grow(first, second)


@case("containerd ViewReadonly")
def view_read_only(ground: Ground) -> None:
    """A view that is really mounted refuses every kind of write."""
    base = ground.grow(lambda tree: tree.write("file", "content"))[0]
    ground.store.view("seen", base)
    with ground.mounted("seen") as root:
        refused(OSError, lambda: os.mknod(f"{root}/new"))
        refused(OSError, lambda: os.truncate(f"{root}/file", 0))
        refused(OSError, lambda: os.unlink(f"{root}/file"))
        refused(OSError, lambda: os.chmod(f"{root}/file", 0o600))
        refused(OSError, lambda: os.mkdir(f"{root}/dir"))
    ground.same("seen")


@case("containerd StatInWalk")
def stat_in_walk(ground: Ground) -> None:
    """Stat, and any other verb, works while walking, and agrees with what the walk gives."""
    base = ground.grow(lambda tree: tree.write("file", "content"))[0]
    for number in range(5):
        ground.store.prepare(f"active-{number}", base)
    for snapshot in ground.store.walk():
        equal(ground.store.stat(snapshot.key), snapshot, "stat in walk")
        ground.store.update(snapshot.key, {"seen": "yes"})


@case("containerd RootPermission; OV-17")
def root_permission(ground: Ground) -> None:
    """The root of a new snapshot is 0755 and the caller's own, whatever the umask."""
    for mask in (0o022, 0o077, 0o000):
        old = os.umask(mask)
        try:
            ground.store.prepare(f"active-{mask}")
            with ground.mounted(f"active-{mask}") as root:
                status = os.stat(root)
        finally:
            os.umask(old)
        equal(oct(stat.S_IMODE(status.st_mode)), oct(0o755), f"mode with umask {mask:o}")
        equal((status.st_uid, status.st_gid), (os.geteuid(), os.getegid()), "owner")


@case("containerd Rename; moby#25409, OV-06, OV-23")
def rename(ground: Ground) -> None:
    """Directories are renamed in one call where the driver claims it, as mv does everywhere; files over others, too."""

    def first(tree: Editor) -> None:
        tree.makedirs("dir1", 0o700)
        tree.makedirs("somefiles", 0o700)
        tree.write("somefiles/f1", "was here first!", 0o644)
        tree.write("somefiles/f2", "2", 0o604)
        tree.makedirs("deep/a/b")
        tree.write("deep/a/b/c", "c")

    def second(tree: Editor) -> None:
        tree.move("dir1", "dir2")
        tree.write("somefiles/f1-overwrite", "new content 1", 0o644)
        tree.rename("somefiles/f1-overwrite", "somefiles/f1")
        tree.rename("somefiles/f2", "somefiles/f3")
        tree.move("deep", "other")

    keys = ground.grow(first, second)
    ground.store.prepare("direct", keys[0])
    claimed = ground.store.status().capabilities.directory_rename
    with ground.mounted("direct") as root:
        if claimed:
            os.rename(f"{root}/deep", f"{root}/moved")
            equal(os.listdir(f"{root}/moved/a/b"), ["c"], "what came along")
        else:
            with raises(OSError) as caught:
                os.rename(f"{root}/deep", f"{root}/moved")
            assert isinstance(caught.error, OSError)
            equal(os.strerror(caught.error.errno or 0), "Invalid cross-device link", "refusal")


@case("containerd 128LayersMount", slow=True)
def layers_128(ground: Ground) -> None:
    """128 layers, each rewriting, adding, and making a directory again; the tree is compared at every level.

    Where a driver's limit is lower, as many as it can have.
    """
    limit = ground.reopen(volatile=True).status().capabilities.max_depth

    def first(tree: Editor) -> None:
        tree.write("bottom", "way at the bottom\n", 0o777)
        tree.write("overwriteme", "FIRST!\n", 0o777)
        tree.makedirs("addhere")
        tree.makedirs("onlyme")
        tree.write("onlyme/bottom", "bye!\n", 0o777)

    parent = None
    for number in range(min(128, limit or 128)):

        def above(tree: Editor, number: int = number) -> None:
            tree.write("overwriteme", f"{number} WAS HERE!\n", 0o777)
            tree.write(f"addhere/file-{number}", "same\n", 0o755)
            tree.remove("onlyme")
            tree.makedirs("onlyme")
            tree.write(f"onlyme/file-{number}", "only me!\n", 0o777)

        ground.store.prepare("active", parent)
        ground.edit("active", first if number == 0 else above, restart=number == 0)
        parent = ground.store.commit(f"layer-{number}", "active").key
    assert parent is not None
    ground.look(parent)
