"""Awkward ground: odd paths of the store, a path that moves, a full disk, a store that is a file."""

from __future__ import annotations

import errno
import os
import shutil
import time
from contextlib import contextmanager

from cowstore.errors import Busy, CowstoreError, DriverUnavailable, NotFound, OutOfSpace, StoreCorrupt, StoreMismatch
from cowstore.testing import leaks, oracle
from cowstore.testing._case import Factory, Ground, NotApplicable, case
from cowstore.testing._expect import equal, refused
from cowstore.testing.edits import Editor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from cowstore.store import Store

ODD_PATHS = {
    "colon": b"a:b",
    "comma": b"a,b",
    "backslash": b"a\\b\\\\c",
    "equals": b"lowerdir=x,upperdir=y:z",
    "space": b" a b ",
    "newline": b"a\nb",
    "tab": b"a\tb",
    "quotes": b"a'b\"c",
    "percent": b"a%sb%00",
    "hash": b"a#b?c",
    "not utf-8": b"a\xff\xfeb",
    "long": b"x" * 200,
    "very long": b"/".join([b"y" * 150] * 2),
    "escapes": b"a\\040b\\134",
    "dash": b"-o",
    "dollar": b"$HOME",
}
"""Directories in which a store must work, or be refused with the reason."""


def _live(ground: Ground) -> None:
    """Lead a short life in a store: three layers, changes, a view."""

    def first(tree: Editor) -> None:
        tree.write("file", "one")
        tree.mkdir("dir")

    def second(tree: Editor) -> None:
        tree.write("file", "two")
        tree.remove("dir")

    ground.grow(first, second, lambda tree: tree.mkdir("dir"))


def _at(ground: Ground, name: bytes) -> None:
    """Live in a store whose directory has that name."""
    root = os.path.join(os.fsencode(ground.directory), b"odd", name, b"store")
    os.makedirs(os.path.dirname(root))
    ground.root = os.fsdecode(root)
    ground.shut()
    _live(ground)
    ground.reopen()
    ground.same("layer-3")
    ground.destroy()


def _enter_paths() -> None:
    """Make one case of each odd path, so that each is named when it fails."""
    for word, name in ODD_PATHS.items():

        def odd(ground: Ground, name: bytes = name) -> None:
            _at(ground, name)

        odd.__name__ = f"path_{word.replace(' ', '_').replace('-', '_')}"
        odd.__doc__ = f"A store works in a directory called {os.fsdecode(name[:40])!r}."
        case("OV-03, OV-01; beyond (10): odd store paths")(odd)


_enter_paths()


@case("OV-02: util-linux#1992")
def many_long_lowers(ground: Ground) -> None:
    """A dozen layers below a path of hundreds of bytes: beyond what one option's value may hold."""
    root = os.path.join(ground.directory, *["z" * 150] * 2, "store")
    os.makedirs(os.path.dirname(root))
    ground.root = root
    ground.shut()
    keys = ground.grow(*[lambda tree, n=n: tree.write(f"file-{n}", str(n)) for n in range(12)])
    ground.look(keys[-1])


@case("beyond (10): a path that is too long")
def path_too_long(ground: Ground) -> None:
    """A path beyond what can be handled is refused with its length and the limit, and nothing is made."""
    root = os.path.join(ground.directory, *["y" * 200] * 8)
    error = refused(CowstoreError, lambda: ground.factory.open(root))
    assert str(len(root)) in str(error), f"the message does not tell the path's length: {error}"
    assert not os.path.exists(root), "something was made"


@case("design: the path is a name")
def relative_and_link(ground: Ground) -> None:
    """A store is the same by an absolute path, a relative one, a symbolic link, bytes and a path object."""
    import pathlib

    _live(ground)
    ground.shut()
    link = os.path.join(ground.directory, "link")
    os.symlink(ground.root, link)
    here = os.getcwd()
    os.chdir(ground.directory)
    try:
        for name in (link, "store", "./store/../store", pathlib.Path(ground.root), os.fsencode(ground.root)):
            with ground.factory.open(name) as store:  # type: ignore[arg-type]
                os.chdir("/")
                assert {found.key for found in store.walk()} >= {"layer-1", "layer-2", "layer-3"}, f"keys by {name!r}"
                with store.mounted("layer-3") as root:
                    ground.assert_same(oracle.scan(ground.flat), oracle.scan(root), what=f"by {name!r}")
                os.chdir(ground.directory)
    finally:
        os.chdir(here)


@case("beyond (7): a store that moved")
def moved_store(ground: Ground) -> None:
    """A store whose directory was renamed works at its new place, or is refused with both places and the way out."""
    _live(ground)
    ground.shut()
    old, new = ground.root, os.path.join(ground.directory, "moved")
    os.rename(old, new)
    ground.root = new
    said = ""
    try:
        ground.reopen()
    except StoreMismatch as error:
        said = str(error)
        os.rename(new, old)
        ground.root = old
        ground.reopen()
    if said:
        assert old in said, f"the message does not name {old}: {said}"
        assert new in said, f"the message does not name {new}: {said}"
    ground.same("layer-3")
    ground.clean()


@case("CL-05: what is no store")
def not_a_store(ground: Ground) -> None:
    """A file, a directory of other things, and a missing store are refused with the path; nothing is touched."""
    plain = os.path.join(ground.directory, "plain")
    with open(plain, "w", encoding="utf-8") as file:
        file.write("mine")
    for path in (plain, f"{plain}/below"):
        error = refused(CowstoreError, lambda path=path: ground.factory.open(path))  # type: ignore[misc]
        assert path in str(error), f"the message does not name {path}: {error}"
    full = ground.scratch("full")
    Editor(full).write("precious", "mine")
    error = refused(CowstoreError, lambda: ground.factory.open(full))
    assert full in str(error), f"the message does not name {full}: {error}"
    equal(os.listdir(full), ["precious"], "the directory of other things")
    missing = os.path.join(ground.directory, "missing")
    refused(NotFound, lambda: ground.factory.open(missing, create=False))
    refused(NotFound, lambda: ground.factory.open(missing, read_only=True))
    assert not os.path.exists(missing), "a store was made although create was False"
    empty = ground.scratch("empty")
    ground.factory.open(empty).destroy()


@case("ST-02: truncated metadata")
def damaged_catalog(ground: Ground) -> None:
    """A catalog that is empty, cut in half, or from the future is refused by name; nothing is deleted."""
    import sqlite3

    _live(ground)
    ground.shut()
    catalog = os.path.join(ground.root, "catalog.db")
    with open(catalog, "rb") as file:
        whole = file.read()
    tree = sorted(os.listdir(os.path.join(ground.root, ground.factory.driver)))

    def put(data: bytes) -> None:
        for name in ("catalog.db", "catalog.db-wal", "catalog.db-shm"):
            if os.path.exists(os.path.join(ground.root, name)):
                os.unlink(os.path.join(ground.root, name))
        with open(catalog, "wb") as file:
            file.write(data)

    for data in (b"", b"\0" * len(whole), whole[: len(whole) // 2 // 4096 * 4096], b"{}" + whole[2:]):
        put(data)
        error = refused(CowstoreError, lambda: _use(ground))
        assert isinstance(error, (StoreCorrupt, StoreMismatch)), f"the class should tell that it is damage: {error!r}"
        assert "catalog" in str(error), f"the message does not name the catalog: {error}"
        equal(sorted(os.listdir(os.path.join(ground.root, ground.factory.driver))), tree, "the driver's directory")
        ground.shut()
    put(whole)
    with sqlite3.connect(catalog) as connection:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        connection.execute("PRAGMA user_version=99")
    connection.close()
    error = refused(StoreMismatch, lambda: _use(ground))
    assert "99" in str(error), f"the message does not name the schema: {error}"
    with sqlite3.connect(catalog) as connection:
        connection.execute(f"PRAGMA user_version={version}")
    connection.close()
    ground.reopen()
    ground.same("layer-3")


def _use(ground: Ground) -> None:
    ground.reopen()
    list(ground.store.walk())
    ground.store.prepare("new")
    findings = ground.store.check()
    if findings:
        raise StoreCorrupt(f"the catalog is damaged: {findings}")


@contextmanager
def _small(ground: Ground, options: str) -> Iterator[Ground]:
    """Give a ground on a tmpfs with those options; it is to be whole in the end."""
    from cowstore._linux.mount import mount, umount2

    small = ground.scratch("small")
    mount("tmpfs", small, "tmpfs", 0, f"{options},mode=755")  # type: ignore[arg-type]
    inner = Ground(Factory(ground.factory.driver, options=ground.factory.options, directory=small), "inner")
    try:
        try:
            inner.store.prepare("trial")
            inner.store.remove("trial", wait=True)
        except (DriverUnavailable, OutOfSpace) as error:
            raise NotApplicable(f"no store fits on a tmpfs with {options}: {error}") from error
        yield inner
        inner.destroy()
    except BaseException:
        inner.abandon()
        raise
    finally:
        inner.discard()
        umount2(small, 0)  # type: ignore[arg-type]


@case("CL-05: a full file system", privileged=True)
def full_disk(ground: Ground) -> None:
    """On a file system without room, an import fails as OutOfSpace, leaves nothing, and works once there is room."""
    source = ground.scratch("source")
    Editor(source).write("large", os.urandom(1 << 20) * 12)
    with _small(ground, "size=8m") as inner:
        store = inner.store
        store.prepare("before")
        error = refused(OutOfSpace, lambda: store.import_directory(source, name="large"))
        assert error.what in {"data", "inodes"}, f"what is full: {error.what}"
        equal(inner.listed(), {"before"}, "keys")
        inner.clean()
        with inner.mounted("before") as root:
            error_in_mount = refused(OSError, lambda: Editor(root).write("large", bytes(12 << 20)))
            equal(error_in_mount.errno, errno.ENOSPC, "errno inside the mount")
        try:
            store.remove("before", wait=True)
        except OutOfSpace:
            # Even what is to be written down of a removal may find no room, until somebody makes some.
            with inner.mounted("before") as root:
                os.unlink(f"{root}/large")
            store.remove("before", wait=True)
        os.truncate(f"{source}/large", 1 << 20)
        deadline = time.monotonic() + 20
        while True:
            try:
                store.import_directory(source, name="large")
                break
            except OutOfSpace:
                # Whoever made a mount namespace meanwhile holds a copy of the mount, and with it what was removed.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        inner.look("large", source)


@case("CL-05: inodes used up", privileged=True)
def no_inodes(ground: Ground) -> None:
    """Without an inode left, verbs fail as OutOfSpace that says so, leave nothing, and work once there are some."""
    with _small(ground, "size=64m,nr_inodes=64") as inner:
        store = inner.store
        store.prepare("base")
        store.commit("layer", "base")
        store.prepare("child", "layer")
        with inner.mounted("child") as root:
            made = 0
            try:
                for made in range(100):
                    with open(f"{root}/{made}", "wb"):
                        pass
            except OSError as error:
                equal(error.errno, errno.ENOSPC, "errno inside the mount")
        assert made, "not one file could be made"

        def fill() -> None:
            for number in range(64):
                store.prepare(f"more-{number}", "layer")

        full = refused(OutOfSpace, fill)
        equal(full.what, "inodes", "what is full")
        assert "inodes" in str(full), f"the message does not name inodes: {full}"
        listed = inner.listed()
        refused(OutOfSpace, lambda: store.prepare("another", "layer"))
        equal(inner.listed(), listed, "keys")
        equal(store.check(), (), "findings")
        # Nobody ever held these: not even a lock's file is there. Several, since a snapshot may take no more than one.
        for key in sorted(listed - {"base", "layer", "child"})[:3]:
            store.remove(key, wait=True)
        store.remove("child", wait=True)
        store.prepare("another", "layer")
        equal(sorted(inner.scan("another")), [b"."], "the tree of what was made after that")


@case("bad input: a store copied while it is in use", privileged=True)
def copied_in_use(ground: Ground) -> None:
    """The copy is a store of its own, or refused by its name; nothing of the first one changes with it."""
    import subprocess

    base = ground.grow(lambda tree: tree.write("file", "base"))[0]
    ground.store.prepare("active", base)
    copy = os.path.join(ground.directory, "copied")
    with ground.mounted("active") as root:
        Editor(root, round_=2).write("file", "changed")
        subprocess.run(["cp", "-a", "-x", ground.root, copy], check=True, timeout=60)
        said = copy
        try:
            with ground.factory.open(copy) as other:
                oracle.assert_same_trees(ground.scan(base), _scan(other, base), what="the layer in the copy")
                refused(Busy, lambda: ground.store.remove("active"))
                # The mount of the first one is in the copy as files, where that was not kept off.
                assert all(found.repaired for found in other.check(repair=True)), "not repaired"
                equal(other.check(), (), "findings in the copy")
                other.remove("active")
                other.destroy()
        except StoreMismatch as error:
            said = str(error)
        assert copy in said, f"the message does not name {copy}: {said}"
        Editor(root, round_=3).write("more", "more")
    shutil.rmtree(copy, ignore_errors=True)
    equal(sorted(ground.scan("active")), [b".", b"file", b"more"], "the first store's tree")
    ground.clean()


def _scan(store: Store, key: str) -> oracle.Tree:
    with store.mounted(key) as root:
        return oracle.scan(root)


@case("ST-10: stale mounts after a reboot", privileged=True)
def unmounted_by_hand(ground: Ground) -> None:
    """A tree that somebody unmounted under a living lease is mounted again when it is next asked for."""
    from cowstore._linux.mount import umount2

    base = ground.grow(lambda tree: tree.write("file", "base"))[0]
    ground.store.prepare("active", base)
    try:
        with ground.mounted("active") as root:
            umount2(root, 0)  # type: ignore[arg-type]
            with ground.mounted("active") as again:
                assert os.path.exists(f"{again}/file"), "an empty directory was handed out"
    except CowstoreError:
        # Saying that the mount has gone is as good as passing over it.
        pass
    equal(leaks.mounts_below(ground.root), [], "mounts")
    ground.reopen()
    ground.same("active")
