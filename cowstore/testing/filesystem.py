"""Trees that are changed layer by layer: containerd's FSSuite, each step compared with a flat directory.

Tree and changes of every layer are compared, before and after its commit; with the layer verbs, archives made of the
same layers are applied elsewhere by the cases of the layers.
"""

from __future__ import annotations

from cowstore.testing._case import Ground, case
from cowstore.testing.edits import Editor


def base_tree(tree: Editor) -> None:
    """Make a small /etc and /home, with a hard link and a symbolic one."""
    tree.makedirs("etc/cron.d")
    tree.write("etc/hosts", "127.0.0.1 localhost\n", 0o644)
    tree.write("etc/passwd", "root:x:0:0::/root:/bin/sh\n", 0o644)
    tree.write("etc/shadow", "root:*:19000::::::\n", 0o600)
    tree.makedirs("home/derek", 0o700)
    tree.write("home/derek/.bashrc", "alias ll='ls -l'\n", 0o600)
    tree.makedirs("usr/lib/locale")
    tree.write("usr/lib/libc.so", b"\x7fELF" + bytes(5000), 0o755)
    tree.link("usr/lib/libc.so", "usr/lib/libc.so.6")
    tree.symlink("libc.so.6", "usr/lib/libc.so.link")
    tree.symlink("/usr/lib", "lib")


@case("continuity FSSuite.Basic")
def basic(ground: Ground) -> None:
    """Files, links of both kinds, rename, removal and re-creation."""

    def second(tree: Editor) -> None:
        tree.replace("etc/hosts", "127.0.0.1 localhost.localdomain\n")
        tree.remove("etc/passwd")
        tree.write("etc/passwd", "derek:x:1000\n", 0o640)
        tree.rename("home/derek/.bashrc", "home/derek/.profile")
        tree.symlink("../etc/hosts", "home/hosts")

    def third(tree: Editor) -> None:
        tree.remove("home/derek")
        tree.write("home/derek", "now a file\n")
        tree.remove("lib")
        tree.makedirs("lib/modules")
        tree.remove("usr/lib/libc.so.link")

    ground.grow(base_tree, second, third)


@case("continuity FSSuite.Deletion")
def deletion(ground: Ground) -> None:
    """A directory removed and made again hides its old files; files and directories are removed."""

    def second(tree: Editor) -> None:
        tree.remove("home")
        tree.makedirs("home/derek", 0o700)
        tree.write("home/derek/new", "new")
        tree.remove("etc/hosts")
        tree.remove("usr")

    def third(tree: Editor) -> None:
        tree.remove("home/derek")
        tree.remove("etc")

    ground.grow(base_tree, second, third)


@case("continuity FSSuite.Update")
def update(ground: Ground) -> None:
    """Change of size, replacement, mode of a file and of a directory."""

    def second(tree: Editor) -> None:
        tree.append("etc/hosts", "::1 localhost\n")
        tree.replace("etc/passwd", "replaced\n")
        tree.chmod("etc/shadow", 0o000)
        tree.chmod("home/derek", 0o755)
        tree.truncate("home/derek/.bashrc", 3)

    ground.grow(base_tree, second)


@case("continuity FSSuite.DirectoryPermission")
def directory_permission(ground: Ground) -> None:
    """The mode of a directory stays when only what is in it changes."""

    def first(tree: Editor) -> None:
        tree.makedirs("odd", 0o1777)
        tree.makedirs("private", 0o700)
        tree.makedirs("set", 0o2755)
        for name in ("odd", "private", "set"):
            tree.write(f"{name}/file", name)

    def second(tree: Editor) -> None:
        for name in ("odd", "private", "set"):
            tree.write(f"{name}/more", name)
            tree.append(f"{name}/file", name)

    ground.grow(first, second, lambda tree: tree.remove("private/file"))


@case("continuity FSSuite.ParentDirectoryPermission")
def parent_permission(ground: Ground) -> None:
    """The modes of all directories above a change stay."""

    def first(tree: Editor) -> None:
        for path, mode in (("dir1", 0o700), ("dir1/dir2", 0o751), ("dir1/dir2/dir3", 0o711), ("other", 0o755)):
            tree.mkdir(path, mode)

    def second(tree: Editor) -> None:
        tree.write("dir1/dir2/dir3/deep", "deep")
        tree.write("dir1/d", "d")

    ground.grow(first, second, lambda tree: tree.remove("dir1/dir2/dir3"))


@case("continuity FSSuite.HardlinkUnmodified; TA-08")
def link_to_unmodified(ground: Ground) -> None:
    """A new name for a file of the layer below that does not change."""
    ground.grow(base_tree, lambda tree: tree.link("etc/hosts", "etc/hosts.link"))


@case("continuity FSSuite.HardlinkBeforeUnmodified")
def link_before_unmodified(ground: Ground) -> None:
    """The new name sorts before the old one."""
    ground.grow(base_tree, lambda tree: tree.link("etc/hosts", "etc/before"))


@case("continuity FSSuite.HardlinkBeforeModified")
def link_before_modified(ground: Ground) -> None:
    """The new name sorts before the old one, whose content changes as well."""

    def second(tree: Editor) -> None:
        tree.write("etc/hosts", "changed\n")
        tree.link("etc/hosts", "etc/before")
        tree.link("etc/hosts", "a-link")

    ground.grow(base_tree, second)


@case("OV-08: try#163")
def remade_directory(ground: Ground) -> None:
    """A directory removed and made again holds only what is new."""

    def first(tree: Editor) -> None:
        tree.mkdir("d")
        tree.write("d/old", "old")

    def second(tree: Editor) -> None:
        tree.remove("d")
        tree.mkdir("d")
        tree.write("d/new", "new")

    ground.grow(first, second)


@case("OV-10: containers/storage#141, moby#37880")
def new_directory_is_added(ground: Ground) -> None:
    """A directory that was never there below is *added*, whatever the kernel marks it with."""

    def first(tree: Editor) -> None:
        tree.mkdir("n")
        tree.write("n/y", "y")

    def second(tree: Editor) -> None:
        tree.mkdir("foo", 0o711)
        tree.mkdir("n/sub")
        tree.write("n/x", "x")

    keys = ground.grow(first, second)
    found = ground.changes(keys[1])
    assert not [change for change in found if change[0] == "deleted"], f"nothing was deleted: {found}"
    assert ("added", "foo") in found, f"foo was added: {found}"


@case("OV-12: fuse-overlayfs#306")
def nested_recreation(ground: Ground) -> None:
    """Removal and re-creation one inside the other, over three layers."""

    def first(tree: Editor) -> None:
        tree.makedirs("a/b/c")
        tree.write("a/b/c/old", "old")

    def second(tree: Editor) -> None:
        tree.remove("a")
        tree.makedirs("a/b/c")
        tree.write("a/b/c/new", "new")

    def third(tree: Editor) -> None:
        tree.remove("a/b")
        tree.mkdir("a/b")

    ground.grow(first, second, third)


@case("OV-13: fuse-overlayfs#151")
def same_name_elsewhere(ground: Ground) -> None:
    """A removed name at the root says nothing of the same name further down."""

    def first(tree: Editor) -> None:
        tree.write("log", "log")
        tree.mkdir("srv")
        tree.write("srv/log", "log")

    ground.grow(first, lambda tree: tree.remove("log"))


_TYPES = ("directory", "opaque", "file", "symlink", "absent", "fifo", "link")


def _make(tree: Editor, path: str, kind: str, *, mark: str) -> None:
    match kind:
        case "directory" | "opaque":
            tree.mkdir(path, 0o750)
            tree.write(f"{path}/in-{mark}", mark)
            tree.mkdir(f"{path}/sub")
            tree.write(f"{path}/sub/same", mark)
        case "file":
            tree.write(path, f"file {mark}", 0o640)
        case "symlink":
            tree.symlink(f"to-{mark}", path)
        case "fifo":
            tree.fifo(path)
        case "link":
            tree.write(f"{path}-other", f"linked {mark}", 0o604)
            tree.link(f"{path}-other", path)


@case("try all-commit-cases; TA-13")
def every_type_over_every_type(ground: Ground) -> None:
    """Every type of entry replaced by every other, or removed, or made anew, over three layers."""
    pairs = [(old, new) for old in _TYPES for new in _TYPES]

    def first(tree: Editor) -> None:
        for old, new in pairs:
            _make(tree, f"{old}-{new}", old, mark="one")

    def second(tree: Editor) -> None:
        for old, new in pairs:
            path = f"{old}-{new}"
            if old == "directory" and new == "directory":
                tree.write(f"{path}/in-two", "two")
                tree.remove(f"{path}/sub/same")
                continue
            if old != "absent":
                tree.remove(path)
            if old == "link":
                tree.remove(f"{path}-other")
            _make(tree, path, new, mark="two")

    def third(tree: Editor) -> None:
        for old, new in pairs:
            path = f"{old}-{new}"
            if new != "absent":
                tree.remove(path)
            if old != "absent":
                _make(tree, path, "file" if old == "link" else old, mark="three")

    ground.grow(first, second, third)


@case("design: empty layers")
def empty_layers(ground: Ground) -> None:
    """A layer in which nothing was done has no changes, and neither has one in which something was done and undone."""

    def nothing(_tree: Editor) -> None:
        return

    def undone(tree: Editor) -> None:
        tree.write("gone", "gone")
        tree.remove("gone")
        tree.stamp(".")

    keys = ground.grow(base_tree, nothing, undone)
    found = ground.changes(keys[1])
    assert found == [], f"nothing was done, yet there are changes: {found}"
    found = ground.changes(keys[2])
    assert found == [], f"only the root's time differs, yet there are changes: {found}"


@case("containerd WhiteoutIncludesParents")
def against_another_base(ground: Ground) -> None:
    """Changes against any other snapshot: a grandparent, a child, a sibling, itself."""
    from cowstore.testing import oracle

    def second(tree: Editor) -> None:
        tree.write("etc/hosts", "two")
        tree.remove("usr")

    def third(tree: Editor) -> None:
        tree.makedirs("usr/new")
        tree.write("etc/hosts", "three")

    keys = ground.grow(base_tree, second, third)
    ground.store.prepare("sibling", keys[0])
    with ground.mounted("sibling") as root:
        Editor(root, round_=9).write("etc/passwd", "sibling")
    trees = {key: ground.scan(key) for key in (*keys, "sibling")}
    for key, upper in trees.items():
        for base, lower in trees.items():
            oracle.assert_changes(
                ground.changes(key, base), oracle.changes(lower, upper), what=f"changes of {key} from {base}"
            )
