"""What the send stream tells, checked against the comparison of the two trees."""

from __future__ import annotations

import enum
import os
import random
import stat
import struct
import threading
import time
from typing import TYPE_CHECKING

import pytest

from cowstore import mounting
from cowstore._linux import btrfs
from cowstore._linux.files import ficlone
from cowstore.driver import Driver
from cowstore.drivers.btrfs import Btrfs, moment, questions, sending, sendstream, subvolumes
from cowstore.drivers.btrfs import changes as told
from cowstore.drivers.btrfs.sendstream import Command
from cowstore.results import Change, ChangeKind
from cowstore.trees.compare import compare
from tests.root.btrfs_ground import directory
from tests.root.drivers.btrfs_fixtures import driver, elsewhere, make, on_btrfs, tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["driver", "elsewhere", "on_btrfs"]


@pytest.fixture
def pool(elsewhere: Path) -> Iterator[Btrfs]:
    made = Btrfs(str(elsewhere), Btrfs.Options(pool_size_bytes=1 << 30))
    yield made
    for id in made.held():
        made.remove(id)
    made.destroy()


def both(driver: Btrfs, id: int, base: int, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Change], list[Change]]:
    """Return what the stream tells, with the other way barred, and what the comparison finds."""
    with mounting.detached(driver.mounts(base, True)) as lower, mounting.detached(driver.mounts(id, True)) as upper:
        found = list(compare(lower.fileno(), upper.fileno()))

    def barred(*_: object) -> Iterator[Change]:
        raise AssertionError("the trees were compared")

    with monkeypatch.context() as patch:
        patch.setattr(Driver, "changes", barred)
        streamed = list(driver.changes(id, base))
    return streamed, found


def kinds(changes: list[Change]) -> dict[str, str]:
    return {change.path: str(change.kind) for change in changes}


EDITS: dict[str, tuple[Callable[[str], None], dict[str, str]]] = {}


def edit(**expected: str) -> Callable[[Callable[[str], None]], Callable[[str], None]]:
    def add(function: Callable[[str], None]) -> Callable[[str], None]:
        names = {path.replace("__", "/").replace("_dot_", "."): kind for path, kind in expected.items()}
        EDITS[function.__name__] = (function, names)
        return function

    return add


def write(path: str, content: str) -> None:
    with open(path, "w") as file:
        file.write(content)


@edit()
def nothing(root: str) -> None:
    pass


@edit(d="modified", d__new="added")
def a_new_file(root: str) -> None:
    write(f"{root}/d/new", "x")


@edit(a="modified")
def other_content_same_size_and_time(root: str) -> None:
    """BT-05."""
    before = os.stat(f"{root}/a")
    write(f"{root}/a", "A")
    os.utime(f"{root}/a", ns=(before.st_atime_ns, before.st_mtime_ns))


@edit()
def the_same_content_again(root: str) -> None:
    before = os.stat(f"{root}/a")
    write(f"{root}/a", "a")
    os.utime(f"{root}/a", ns=(before.st_atime_ns, before.st_mtime_ns))


@edit(big="modified")
def one_byte_in_the_middle(root: str) -> None:
    before = os.stat(f"{root}/big")
    with open(f"{root}/big", "r+b") as file:
        file.seek(150_000)
        file.write(b"!")
    os.utime(f"{root}/big", ns=(before.st_atime_ns, before.st_mtime_ns))


@edit(d="deleted", e="added", e__b="added", e__deep="added", e__deep__c="added")
def a_renamed_directory(root: str) -> None:
    os.rename(f"{root}/d", f"{root}/e")


@edit(d="modified", d__b="deleted", d__deep="deleted", d__f="added", d__h3="added", h1="modified", h2="modified",
      k="modified", k__b="added", k__deep="added", k__deep__c="added", k__f="deleted", k__h3="deleted")  # fmt: skip
def two_directories_that_change_places(root: str) -> None:
    os.rename(f"{root}/d", f"{root}/x")
    os.rename(f"{root}/k", f"{root}/d")
    os.rename(f"{root}/x", f"{root}/k")


@edit(d="modified", d__b="modified", d__deep="modified", k="modified", k__c="added", d__deep__c="deleted")
def two_files_that_change_places_and_one_that_leaves(root: str) -> None:
    write(f"{root}/d/b", "bb")
    os.rename(f"{root}/d/deep/c", f"{root}/k/c")


@edit(d="deleted")
def a_deleted_directory(root: str) -> None:
    os.unlink(f"{root}/d/deep/c")
    os.rmdir(f"{root}/d/deep")
    os.unlink(f"{root}/d/b")
    os.rmdir(f"{root}/d")


@edit(d="modified")
def a_directory_that_becomes_a_file(root: str) -> None:
    a_deleted_directory(root)
    write(f"{root}/d", "file now")


@edit(a="modified", a__x="added")
def a_file_that_becomes_a_directory(root: str) -> None:
    os.unlink(f"{root}/a")
    os.mkdir(f"{root}/a")
    write(f"{root}/a/x", "")


@edit(d="modified", d__b="deleted", d__deep="deleted", d__z="added")
def a_directory_made_anew(root: str) -> None:
    a_deleted_directory(root)
    os.mkdir(f"{root}/d")
    write(f"{root}/d/z", "")


@edit(h1="modified", h2="modified", k="modified", k__h3="modified")
def content_through_one_of_three_names(root: str) -> None:
    before = os.stat(f"{root}/h1")
    with open(f"{root}/h1", "r+b") as file:
        file.write(b"H")
    assert before.st_nlink == 3


@edit(h2="deleted")
def one_of_three_names_goes(root: str) -> None:
    os.unlink(f"{root}/h2")


@edit(a="modified", d="modified", d__a="added")
def a_second_name(root: str) -> None:
    os.link(f"{root}/a", f"{root}/d/a")


@edit(k="modified", k__h3="modified")
def a_name_that_leaves_its_file(root: str) -> None:
    before = os.stat(f"{root}/k/h3")
    os.unlink(f"{root}/k/h3")
    write(f"{root}/k/h3", "h")
    os.utime(f"{root}/k/h3", ns=(before.st_atime_ns, before.st_mtime_ns))


@edit(h1="modified", h2="modified", k="deleted", n="added", n__f="added", n__h3="added")
def a_moved_directory_with_one_of_three_names(root: str) -> None:
    os.rename(f"{root}/k", f"{root}/n")


@edit(a="modified")
def an_attribute(root: str) -> None:
    os.setxattr(f"{root}/a", "user.x", b"1")


@edit(s="modified")
def another_link_target(root: str) -> None:
    before = os.lstat(f"{root}/s")
    there = os.stat(root)
    os.unlink(f"{root}/s")
    os.symlink("B", f"{root}/s")
    os.utime(f"{root}/s", ns=(before.st_atime_ns, before.st_mtime_ns), follow_symlinks=False)
    os.utime(root, ns=(there.st_atime_ns, there.st_mtime_ns))


@edit(_dot_="modified")
def the_roots_own_mode(root: str) -> None:
    os.chmod(root, 0o700)


@edit(p="added", q="added", r="added")
def special_files(root: str) -> None:
    os.mkfifo(f"{root}/p")
    os.mknod(f"{root}/q", stat.S_IFCHR | 0o600, os.makedev(0, 0))
    os.mknod(f"{root}/r", stat.S_IFBLK | 0o600, os.makedev(7, 200))


@edit()
def there_and_back(root: str) -> None:
    there = [(path, os.stat(path)) for path in (root, f"{root}/d")]
    os.rename(f"{root}/d", f"{root}/x")
    os.rename(f"{root}/x", f"{root}/d")
    for path, found in there:
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


@edit(a="modified")
def another_owner(root: str) -> None:
    os.chown(f"{root}/a", 12, 34)


@edit(d="modified", d__deep="modified")
def an_attribute_that_is_gone(root: str) -> None:
    os.removexattr(f"{root}/d/deep", "user.kept")


@edit(d="modified", d__deep="modified")
def an_attribute_with_another_value(root: str) -> None:
    os.setxattr(f"{root}/d/deep", "user.kept", b"other")


@edit(a="modified")
def an_access_list(root: str) -> None:
    # Version 2; owner rwx, user 12 rwx, group r-x, mask rwx, others r-x.
    entries = ((1, 7, 2**32 - 1), (2, 7, 12), (4, 5, 2**32 - 1), (16, 7, 2**32 - 1), (32, 5, 2**32 - 1))
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(f"{root}/a", "system.posix_acl_access", value)


@edit(big2="added")
def a_clone(root: str) -> None:
    with open(f"{root}/big", "rb") as source, open(f"{root}/big2", "wb") as target:
        ficlone(target.fileno(), source.fileno())


@edit(big="modified", big2="added")
def clones_that_change_places(root: str) -> None:
    a_clone(root)
    with open(f"{root}/big2", "r+b") as file:
        file.write(b"!")
    os.rename(f"{root}/big", f"{root}/x")
    os.rename(f"{root}/big2", f"{root}/big")
    os.rename(f"{root}/x", f"{root}/big2")


@edit(big="modified")
def a_hole_where_data_was(root: str) -> None:
    before = os.stat(f"{root}/big")
    os.truncate(f"{root}/big", 4096)
    os.truncate(f"{root}/big", before.st_size)
    os.utime(f"{root}/big", ns=(before.st_atime_ns, before.st_mtime_ns))


@edit(**{"d": "deleted", "d\nnew": "added", "d\nnew__b": "added", "d\nnew__deep": "added", "d\nnew__deep__c": "added",
         "\n": "added", "\n__\n\n": "added"})  # fmt: skip
def names_with_newlines(root: str) -> None:
    os.rename(f"{root}/d", f"{root}/d\nnew")
    os.mkdir(f"{root}/\n")
    write(f"{root}/\n/\n\n", "")


def fill(root: str) -> None:
    write(f"{root}/a", "a")
    write(f"{root}/h1", "h")
    os.symlink("b", f"{root}/s")
    os.makedirs(f"{root}/d/deep")
    os.setxattr(f"{root}/d/deep", "user.kept", b"value")
    os.mkdir(f"{root}/k")
    write(f"{root}/d/b", "b")
    write(f"{root}/d/deep/c", "c")
    write(f"{root}/k/f", "f")
    os.link(f"{root}/h1", f"{root}/h2")
    os.link(f"{root}/h1", f"{root}/k/h3")
    with open(f"{root}/big", "wb") as file:
        file.write(random.Random(1).randbytes(300_000))


@pytest.mark.parametrize("name", EDITS)
def test_edit(name: str, pool: Btrfs, monkeypatch: pytest.MonkeyPatch) -> None:
    function, expected = EDITS[name]
    pool.create(1, None, None)
    with tree(pool, 1) as root:
        fill(root)
    pool.seal(1)
    pool.create(2, 1, None)
    time.sleep(0.01)
    with tree(pool, 2) as root:
        function(root)
    for sealed in (False, True):
        if sealed:
            pool.seal(2)
        streamed, compared = both(pool, 2, 1, monkeypatch)
        assert streamed == compared
        assert {path: kind for path, kind in kinds(streamed).items() if path != "." or "." in expected} == expected


class Editor:
    """Random edits of a tree, the same for the same seed."""

    def __init__(self, root: str, seed: int) -> None:
        self.root = root
        self.random = random.Random(seed)
        self.count = 0

    def paths(self, *, directories: bool) -> list[str]:
        found = [""] if directories else []
        for above, inner, files in os.walk(self.root):
            relative = os.path.relpath(above, self.root)
            for name in sorted(inner if directories else files):
                path = os.path.normpath(os.path.join(relative, name))
                found.append(path)
        return sorted(found)

    def new(self) -> str:
        self.count += 1
        name = self.random.choice(["n", "a", "a-", "a0", "\udcff", "x\n"]) + str(self.random.randrange(4))
        return os.path.join(self.random.choice(self.paths(directories=True)), name)

    def step(self) -> None:
        files, directories = self.paths(directories=False), self.paths(directories=True)[1:]
        file = os.path.join(self.root, self.random.choice(files)) if files else None
        inner = os.path.join(self.root, self.random.choice(directories)) if directories else None
        new = os.path.join(self.root, self.new())
        actions: list[Callable[[], None]] = [
            lambda: write(new, str(self.count)) if not os.path.lexists(new) else None,
            lambda: os.mkdir(new),
            lambda: os.symlink(self.random.choice("pq"), new),
            lambda: os.mkfifo(new),
        ]
        if file is not None:
            actions += [
                lambda: os.unlink(file),
                lambda: os.rename(file, new),
                lambda: os.link(file, new, follow_symlinks=False),
                lambda: os.utime(file, ns=(1, self.random.randrange(3)), follow_symlinks=False),
                lambda: (
                    write(file, "12"[self.count % 2]) if os.path.isfile(file) and not os.path.islink(file) else None
                ),
                lambda: os.setxattr(file, "trusted.t", b"12"[self.count % 2 :][:1], follow_symlinks=False),
                lambda: os.rename(self.root + "/" + self.random.choice(files), file),
            ]
        if inner is not None:
            actions += [
                lambda: os.rename(inner, new),
                lambda: os.chmod(inner, 0o700 + self.random.randrange(8)),
                lambda: os.rename(inner, self.root + "/" + self.random.choice(directories)),
                lambda: self.remove(inner),
            ]
        try:
            self.random.choice(actions)()
        except OSError:
            # Not every edit fits the tree.
            return

    @staticmethod
    def remove(top: str) -> None:
        for above, inner, files in os.walk(top, topdown=False):
            for name in files:
                os.unlink(os.path.join(above, name))
            for name in inner:
                path = os.path.join(above, name)
                os.unlink(path) if os.path.islink(path) else os.rmdir(path)
        os.rmdir(top)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()


@pytest.mark.parametrize("seed", range(60))
def test_random_edits(seed: int, pool: Btrfs, monkeypatch: pytest.MonkeyPatch) -> None:
    pool.create(1, None, None)
    with tree(pool, 1) as root:
        Editor(root, seed).run(60)
    pool.seal(1)
    pool.create(2, 1, None)
    with tree(pool, 2) as root:
        Editor(root, seed + 1000).run(seed % 40 + 1)
    streamed, compared = both(pool, 2, 1, monkeypatch)
    assert streamed == compared
    pool.seal(2)
    pool.create(3, 2, None)
    with tree(pool, 3) as root:
        Editor(root, seed + 2000).run(10)
    for base in (2, 1):
        streamed, compared = both(pool, 3, base, monkeypatch)
        assert streamed == compared


def test_a_base_that_is_no_ancestor(pool: Btrfs, monkeypatch: pytest.MonkeyPatch) -> None:
    for id in (1, 2):
        pool.create(id, None, None)
        with tree(pool, id) as root:
            Editor(root, id).run(60)
    streamed, compared = both(pool, 2, 1, monkeypatch)
    assert streamed == compared


def test_no_base_is_the_empty_tree(pool: Btrfs) -> None:
    make(pool, 1, None, {"a": b"", "d/b": b""})
    assert kinds(list(pool.changes(1, None))) == {"a": "added", "d": "added", "d/b": "added"}


def test_a_nested_subvolume_is_told_as_the_directory_it_is(pool: Btrfs) -> None:
    make(pool, 1, None, {"a": b""})
    pool.create(2, 1, None)
    with tree(pool, 2) as root:
        with directory(root) as fd:
            btrfs.subvol_create(fd, "s")
        write(f"{root}/s/f", "x")
    expected = {"s": "added", "s/f": "added"}
    for sealed in (False, True):
        if sealed:
            pool.seal(2)
        found = kinds(list(pool.changes(2, 1)))
        found.pop(".", None)
        assert found == expected


def test_names_longer_than_a_path_may_be(pool: Btrfs, monkeypatch: pytest.MonkeyPatch) -> None:
    make(pool, 1, None, {"a": b""})
    pool.create(2, 1, None)
    with mounting.detached(pool.mounts(2, False)) as root:
        fd = os.open(".", os.O_RDONLY, dir_fd=root.fileno())
        for _ in range(30):
            os.mkdir("n" * 250, dir_fd=fd)
            deeper = os.open("n" * 250, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = deeper
        os.close(os.open("file", os.O_CREAT, dir_fd=fd))
        os.link("file", "file2", src_dir_fd=fd, dst_dir_fd=fd)
        os.close(fd)
    try:
        streamed = list(pool.changes(2, 1))
        with mounting.detached(pool.mounts(1, True)) as lower, mounting.detached(pool.mounts(2, True)) as upper:
            assert streamed == list(compare(lower.fileno(), upper.fileno()))
        assert sum(change.path != "." for change in streamed) == 32
    finally:
        pool.remove(2)


@pytest.mark.parametrize("version", [1, 2])
def test_both_versions_of_the_stream_name_the_same_paths(version: int, pool: Btrfs) -> None:
    pool.create(1, None, None)
    with tree(pool, 1) as root:
        fill(root)
    pool.seal(1)
    pool.create(2, 1, None)
    with tree(pool, 2) as root:
        Editor(root, 5).run(40)
        a_renamed_directory(root) if os.path.isdir(f"{root}/d") else None
    pool.seal(2)
    with pool._open(2) as upper, pool._open(1) as lower:
        number = subvolumes.subvol_id(lower.fileno())
        stream = list(sending.difference(upper.fileno(), number, version=version))
        assert stream[0][0] is Command.SNAPSHOT
        assert told.candidates(upper.fileno(), lower.fileno(), version=version) == told.candidates(
            upper.fileno(), lower.fileno()
        )


def test_a_reader_that_stops_leaves_no_sender(pool: Btrfs) -> None:
    make(pool, 1, None, {})
    pool.create(2, 1, None)
    with tree(pool, 2) as root:
        for number in range(30_000):
            os.close(os.open(f"{root}/{number:0200}", os.O_CREAT))
    pool.seal(2)
    with pool._open(2) as upper, pool._open(1) as lower:
        commands = sending.difference(upper.fileno(), subvolumes.subvol_id(lower.fileno()))
        next(commands)
        commands.close()
    found = pool.changes(2, 1)
    next(found)
    found.close()  # type: ignore[attr-defined]
    pool.remove(2)


def test_what_cannot_be_told_is_compared(pool: Btrfs, monkeypatch: pytest.MonkeyPatch) -> None:
    make(pool, 1, None, {})
    make(pool, 2, 1, {f"f{number}": b"" for number in range(20)})
    monkeypatch.setattr(told, "MAX_NODES", 10)
    assert len([change for change in pool.changes(2, 1) if change.kind is ChangeKind.ADDED]) == 20


def test_a_stream_that_is_not_understood_is_compared(
    pool: Btrfs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A command of a newer kernel is an error of the parser, never passed over."""
    make(pool, 1, None, {"a": b""})
    make(pool, 2, 1, {"b": b""})
    known = set(Command)
    monkeypatch.setattr(sendstream, "Command", enum.IntEnum("Command", {c.name: c for c in known - {Command.MKFILE}}))
    assert "b" in kinds(list(pool.changes(2, 1)))
    assert "command 3 of the send stream is not known" in caplog.text


def test_a_subvolume_made_while_a_moment_is_taken_is_not_missed(pool: Btrfs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The momentary snapshot has an empty directory in its place."""
    make(pool, 1, None, {"a": b""})
    pool.create(2, 1, None)
    answers = iter([False, True])
    nested = questions.nested

    def late(fd: int) -> list[tuple[bytes, int]]:
        if next(answers, True):
            return nested(fd)
        with tree(pool, 2) as root, directory(root) as top:
            btrfs.subvol_create(top, "s")
            write(f"{root}/s/f", "x")
        return []

    monkeypatch.setattr(questions, "nested", late)
    found = kinds(list(pool.changes(2, 1)))
    found.pop(".", None)
    assert found == {"s": "added", "s/f": "added"}


def test_a_moment_that_a_dead_process_left_is_found(pool: Btrfs) -> None:
    make(pool, 1, None, {})
    with pool._open(1) as source:
        name, root = moment._take(pool._home, source.fileno())
        assert list(pool.leftovers()) == []
        root.close()
    (left,) = pool.leftovers()
    assert left.endswith(name)
    pool.remove_leftover(left)
    assert list(pool.leftovers()) == []
    assert pool.held() == [1]


def test_nothing_of_the_moment_stays(pool: Btrfs) -> None:
    make(pool, 1, None, {"a": b""})
    pool.create(2, 1, None)
    assert list(pool.changes(2, 1)) == []
    assert sorted(pool._ground.names()) == ["1", "2"]


def test_a_moment_is_never_taken_for_a_dead_ones(pool: Btrfs) -> None:
    """While one thread asks for changes all the time, another looks for leftovers."""
    make(pool, 1, None, {"a": b""})
    pool.create(2, 1, None)
    found: list[str] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            found.extend(pool.leftovers())

    thread = threading.Thread(target=look)
    thread.start()
    for _ in range(30):
        assert list(pool.changes(2, 1)) == []
    over.set()
    thread.join()
    assert found == []
