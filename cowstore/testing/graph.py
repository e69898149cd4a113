"""What graph drivers were measured by (containers/storage and moby graphtest), and what drivers ask themselves."""

from __future__ import annotations

import os
import stat

from cowstore.errors import Busy, NotFound, Unsupported
from cowstore.testing import oracle
from cowstore.testing._case import Ground, case
from cowstore.testing._expect import equal, refused
from cowstore.testing.edits import Editor

MIB = 1 << 20


@case("graphtest CreateEmpty")
def create_empty(ground: Ground) -> None:
    """A snapshot without a parent is an empty directory."""
    ground.store.prepare("empty")
    with ground.mounted("empty") as root:
        equal(os.listdir(root), [], "entries")
        assert stat.S_ISDIR(os.lstat(root).st_mode), "its root is no directory"
        equal(os.listxattr(root) if os.path.ismount(root) else [], [], "attributes of the root")
    equal([change for change in ground.changes("empty") if change[1] != "."], [], "changes")


@case("graphtest CreateBase", privileged=True)
def create_base(ground: Ground) -> None:
    """A sticky directory of other owners and a setuid file are kept exactly."""

    def edits(tree: Editor) -> None:
        tree.mkdir("a subdir", 0o705)
        tree.chown("a subdir", 1, 2)
        tree.chmod("a subdir", 0o1705)
        tree.write("a file", "some data", 0o222)
        tree.chmod("a file", 0o4222)

    key = ground.grow(edits)[0]
    tree = ground.scan(key)
    equal(sorted(tree), [b".", b"a file", b"a subdir"], "entries")
    equal(
        (oct(tree[b"a subdir"].mode), tree[b"a subdir"].uid, tree[b"a subdir"].gid), ("0o1705", 1, 2), "the directory"
    )
    equal(oct(tree[b"a file"].mode), "0o4222", "the file")


@case("graphtest CreateSnap; OV-17", privileged=True)
def create_snap(ground: Ground) -> None:
    """A child shows its parent's tree; mode, owner, time and attributes of the root come along, and can be changed."""

    def first(tree: Editor) -> None:
        tree.write("file", "file")
        tree.chmod(".", 0o555)
        tree.chown(".", 5, 6)
        tree.setxattr(".", "user.root", b"of the root")
        tree.utime(".", 1_500_000_000_987_654_321)

    def second(tree: Editor) -> None:
        tree.chmod(".", 0o2711)
        tree.chown(".", 7, 8)
        tree.setxattr(".", "user.root", b"changed")

    old = os.umask(0o077)
    try:
        keys = ground.grow(first, lambda tree: tree.write("other", "other"), second)
        ground.store.prepare("child", keys[2])
        ground.same("child")
    finally:
        os.umask(old)


@case("graphtest CreateFromTemplate")
def two_children(ground: Ground) -> None:
    """Two children of one layer, one written to, one read only: each has the layer's tree and its own changes."""
    base = ground.grow(lambda tree: tree.write("file", "base"))[0]
    ground.store.prepare("written", base)
    ground.store.prepare("kept", base)
    ground.store.view("seen", base)
    flat = oracle.scan(ground.flat)
    with ground.mounted("kept"), ground.mounted("seen"):
        ground.edit("written", lambda tree: tree.write("file", "changed"))
    for key in ("kept", "seen"):
        ground.assert_same(flat, ground.scan(key), what=key)
    equal(ground.changes("kept"), [], "changes of the one not written to")
    equal(ground.changes("written"), [("modified", "file")], "changes of the one written to")


@case("graphtest Changes")
def changes(ground: Ground) -> None:
    """The exact list for 20 files touched in turn: changed, added, removed, left alone."""

    def first(tree: Editor) -> None:
        for number in range(20):
            tree.write(f"file-{number}", bytes([number]) * 64)

    def second(tree: Editor) -> None:
        for number in range(20):
            match number % 4:
                case 0:
                    tree.write(f"file-{number}", bytes([number + 1]) * 64)
                case 1:
                    tree.write(f"new-{number}", "new")
                case 2:
                    tree.remove(f"file-{number}")

    keys = ground.grow(first, second)
    expected = {
        f"file-{number}": ("modified", "", "deleted", "")[number % 4] for number in range(20) if number % 2 == 0
    }
    expected |= {f"new-{number}": "added" for number in range(1, 20, 4)}
    found = {path: kind for kind, path in ground.changes(keys[1]) if path != "."}
    equal(found, expected, "changes")


@case("containers/storage graphtest Echo")
def echo(ground: Ground) -> None:
    """A chain of directories cut off at each depth and made again: the exact lists."""
    chain = [f"d{number}" for number in range(9)]
    paths = ["/".join(chain[: count + 1]) for count in range(9)]

    def make(tree: Editor, start: int = 0) -> None:
        for path in paths[start:]:
            tree.mkdir(path)
        tree.write(f"{paths[-1]}/file", "echo")

    base = ground.grow(make)[0]
    flat = oracle.scan(ground.flat)
    for depth in range(10):
        target = paths[depth] if depth < 9 else f"{paths[-1]}/file"

        def cut(tree: Editor, target: str = target) -> None:
            tree.remove(target)

        def again(tree: Editor, depth: int = depth) -> None:
            if depth < 9:
                make(tree, depth)
            else:
                tree.write(f"{paths[-1]}/file", "echo")

        keys = ground.grow(cut, again, parent=base, name=f"echo-{depth}")
        above = [("modified", path) for path in paths[:depth]]
        equal(ground.changes(keys[0]), [*above, ("deleted", target)], f"changes of the cut at {depth}")
        made = [("added", path) for path in [*paths[depth:], f"{paths[-1]}/file"]]
        equal(ground.changes(keys[1]), [*above, *made], f"changes of the re-creation at {depth}")
        # The next depth starts from the base's tree again.
        _restore(ground, base, flat)


def _restore(ground: Ground, base: str, flat: oracle.Tree) -> None:
    """Bring the flat directory back to the tree of *base*."""
    ground.clear()
    with ground.mounted(base) as root:
        oracle.copy(root, ground.flat)
    ground.assert_same(flat, oracle.scan(ground.flat), what="the flat directory itself")


@case("graphtest DiffApply")
def changes_of_many(ground: Ground) -> None:
    """A layer of many files, some changed, a file and a directory removed: changes name just these."""

    def first(tree: Editor) -> None:
        for number in range(10):
            tree.mkdir(f"dir-{number}")
            for inner in range(30):
                tree.write(f"dir-{number}/file-{inner}", f"{number} {inner}" * (inner + 1))

    def second(tree: Editor) -> None:
        tree.write("dir-1/file-1", "changed")
        tree.remove("dir-2/file-2")
        tree.remove("dir-3")
        tree.write("dir-4/new", "new")

    keys = ground.grow(first, second)
    expected = [
        ("modified", "dir-1"), ("modified", "dir-1/file-1"), ("modified", "dir-2"),
        ("deleted", "dir-2/file-2"), ("deleted", "dir-3"), ("modified", "dir-4"), ("added", "dir-4/new"),
    ]  # fmt: skip
    equal(ground.changes(keys[1]), expected, "changes")


@case("graphtest ListLayers; moby layer StoreRestore")
def list_after_reopening(ground: Ground) -> None:
    """Exactly the snapshots that were made are listed, also by the next process, with their trees."""
    store = ground.store
    base = ground.grow(lambda tree: tree.write("file", "base"))[0]
    made = {base} | {store.prepare(f"active-{number}", base).key for number in range(5)}
    before = ground.infos()
    ground.reopen()
    equal(ground.listed(), made, "keys")
    equal(ground.infos(), before, "facts")
    for key in made:
        ground.same(key)


@case("graphtest SetQuota; moby quota", needs=("size_limits",), slow=True)
def quota(ground: Ground) -> None:
    """Writing past the limit fails, half of it does not, and a neighbour is not hurt; the limit can be raised."""
    import errno

    ground.store.prepare("small", size_bytes=48 * MIB)
    ground.store.prepare("other")
    with ground.mounted("small") as root, ground.mounted("other") as other:
        _fill(f"{root}/half", 16)
        error = refused(OSError, lambda: _fill(f"{root}/more", 64))
        assert error.errno in {errno.EDQUOT, errno.ENOSPC}, f"the write past the limit failed with {error}"
        equal(os.path.getsize(f"{root}/half"), 16 * MIB, "what was written before")
        _fill(f"{other}/fine", 16)
        os.unlink(f"{root}/more")
    ground.store.set_size("small", 128 * MIB)
    with ground.mounted("small") as root:
        _fill(f"{root}/more", 64)
    ground.store.commit("layer", "small")
    ground.store.prepare("child", "layer", size_bytes=256 * MIB)
    with ground.mounted("child") as root:
        equal(os.path.getsize(f"{root}/more"), 64 * MIB, "what the child sees")


def _fill(path: str, mebibytes: int) -> None:
    """Write, and make the kernel find the room."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC)
    try:
        for number in range(mebibytes):
            os.write(fd, bytes([number + 1]) * MIB)
        os.fsync(fd)
    finally:
        os.close(fd)


@case("CS:SetQuota passes when the write succeeds: done right here")
def quota_or_refusal(ground: Ground) -> None:
    """Where sizes are not enforced, asking for one is Unsupported before anything is made."""
    if ground.store.status().capabilities.size_limits:
        return
    refused(Unsupported, lambda: ground.store.prepare("limited", size_bytes=64 * MIB))
    equal(ground.listed(), set(), "keys")
    ground.store.prepare("limited")
    refused(Unsupported, lambda: ground.store.set_size("limited", 64 * MIB))


@case("CS copy: CopyHardlink")
def hard_links_kept(ground: Ground) -> None:
    """Names of one file stay names of one file in every child, also across directories."""

    def first(tree: Editor) -> None:
        tree.makedirs("x/y")
        tree.write("one", "linked")
        for name in ("two", "x/three", "x/y/four"):
            tree.link("one", name)
        tree.symlink("nowhere", "link-1")
        tree.link("link-1", "x/link-2")
        tree.fifo("fifo-1")
        tree.link("fifo-1", "x/fifo-2")

    ground.grow(first, lambda tree: tree.write("beside", "x"), lambda tree: tree.remove("x/three"))


@case("AUFS pseudo-links; overlay index: names of a file that part")
def hard_links_written(ground: Ground) -> None:
    """What one mount shows of a parent's file with several names, written to by one of them, the next one shows too."""

    def first(tree: Editor) -> None:
        tree.mkdir("dir")
        tree.write("one", "old")
        for name in ("two", "dir/three"):
            tree.link("one", name)

    ground.store.prepare("active", ground.grow(first)[0])
    names = ("one", "two", "dir/three")
    with ground.mounted("active") as root:
        with open(f"{root}/one", "a", encoding="utf-8") as file:
            file.write(" and new")
        # Only asked for the sizes: reading a name may already be what keeps it together with the others.
        sizes = [os.lstat(f"{root}/{name}").st_size for name in names]
    equal(sizes[0], 11, "size of the name that was written to")
    with ground.mounted("active") as root:
        equal([os.lstat(f"{root}/{name}").st_size for name in names], sizes, "sizes in the next mount")
    told = {path for _, path in ground.changes("active")} - {"dir"}
    equal(told, {name for name, size in zip(names, sizes, strict=True) if size == 11}, "names that are told")
    ground.store.commit("layer", "active")
    equal([len(ground.scan("layer")[name.encode()].content) for name in names], sizes, "sizes once committed")


@case("aufs RemoveImage, Exists, CleanupWithDir")
def removed_for_good(ground: Ground) -> None:
    """What is removed is not there for any verb, its space is given back, and others stay."""
    store = ground.store
    base = ground.grow(lambda tree: tree.write("file", "base"))[0]
    store.prepare("gone", base)
    store.prepare("kept", base)
    store.remove("gone", wait=True)
    for verb in (store.stat, store.mounts, store.usage, store.remove, store.release):
        refused(NotFound, lambda verb=verb: verb("gone"))  # type: ignore[misc]
    refused(NotFound, lambda: list(store.changes("gone")))
    refused(NotFound, lambda: store.commit("layer", "gone"))
    ground.same("kept")


@case("aufs MountedTrueResponse, RemoveMountedDir; devmapper MountLeaks")
def mounts_come_and_go(ground: Ground) -> None:
    """A mount is there within the block and nowhere after it, twice in a row."""
    from cowstore.testing import leaks

    base = ground.grow(lambda tree: tree.write("file", "base"))[0]
    ground.store.prepare("active", base)
    for _ in range(2):
        with ground.mounted("active") as root:
            assert os.path.exists(f"{root}/file"), "the tree is not there"
            with ground.mounted(base) as below:
                Editor(root, round_=3).write("written", "here")
                assert not os.path.exists(f"{below}/written"), "what was written shows in the parent"
        assert not os.path.exists(f"{root}/file"), "the tree is still there"
        equal(leaks.mounts_below(ground.root), [], "mounts below the store")


@case("ST-08: one snapshot mounted twice at once; OV-20")
def mounted_twice(ground: Ground) -> None:
    """A second writable mount of a snapshot is the same tree, written to from both sides, or it is Busy."""

    def edits(tree: Editor) -> None:
        for number in range(3):
            tree.write(f"file-{number}", "base")

    base = ground.grow(edits)[0]
    ground.store.prepare("active", base)
    ground.store.view("seen", base)
    with ground.mounted("active") as first:
        try:
            with ground.mounted("active") as second:
                for number, (here, there) in enumerate(((first, second), (second, first), (first, second))):
                    Editor(here, round_=3 + number).append(f"file-{number}", " and more")
                    equal(_text(f"{there}/file-{number}"), "base and more", f"file {number} by the other mount")
                os.unlink(f"{first}/file-0")
                assert not os.path.exists(f"{second}/file-0"), "what was removed by one mount shows in the other"
        except Busy:
            pass
        Editor(first, round_=9).write("last", "by the first mount")
        with ground.mounted("seen") as seen, ground.mounted("seen") as again:
            equal(_text(f"{seen}/file-1"), _text(f"{again}/file-1"), "a view mounted twice")
    with ground.mounted("active") as root:
        equal(_text(f"{root}/last"), "by the first mount", "what the first mount wrote")


def _text(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


@case("moby#12080: UnixDomainSockets", privileged=False)
def sockets(ground: Ground) -> None:
    """A socket left behind is a socket in every child, and its removal is a removal."""
    ground.grow(
        lambda tree: tree.socket("server"), lambda tree: tree.write("x", "x"), lambda tree: tree.remove("server")
    )
