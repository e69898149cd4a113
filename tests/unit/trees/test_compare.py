"""The comparison of two trees, against a slow and independent description of what differs."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cowstore.results import ChangeKind
from cowstore.trees.compare import compare
from tests.trees_oracle import TIMES, apply, differences, edits, populate, read


def told(lower: Path | str | None, upper: Path | str, **times: int) -> list[tuple[str, str]]:
    fds = [os.open(path, os.O_PATH | os.O_DIRECTORY) for path in (lower, upper) if path is not None]
    try:
        changes = compare(None if lower is None else fds[0], fds[-1], **times)
        return [(change.path, str(change.kind)) for change in changes]
    finally:
        for fd in fds:
            os.close(fd)


def copied(lower: Path, upper: Path) -> None:
    """Copy with everything that counts, hard links too (by another program than the one under test)."""
    assert os.spawnlp(os.P_WAIT, "cp", "cp", "-a", str(lower), str(upper)) == 0


def write(path: Path, content: bytes, time: int = TIMES[0]) -> None:
    path.write_bytes(content)
    os.utime(path, ns=(time, time))


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    """Two equal, non-empty trees."""
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    lower.mkdir()
    populate(str(lower))
    copied(lower, upper)
    return lower, upper


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(edits, max_size=10), st.lists(edits, max_size=10))
@example([], [("overwrite", "a/a", b"bbbb", TIMES[0])])
@example([], [("copy", "a/a")])
@example([], [("recreate", "a")])
def test_random_edits(before: list[Any], after: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        lower, upper = Path(directory, "lower"), Path(directory, "upper")
        lower.mkdir()
        populate(str(lower))
        for edit in before:
            apply(str(lower), edit)
        copied(lower, upper)
        assert told(lower, upper) == []
        for edit in after:
            apply(str(upper), edit)
        old, new = read(str(lower)), read(str(upper))
        assert told(lower, upper) == differences(old, new)
        assert told(upper, lower) == differences(new, old)
        assert told(None, upper) == differences(None, new)
        assert told(upper, upper) == []


def test_equal_trees(trees: tuple[Path, Path]) -> None:
    assert told(*trees) == []


def test_same_size_and_time_other_content(trees: tuple[Path, Path]) -> None:
    """BT-05, moby#8242: only the content tells."""
    lower, upper = trees
    for tree, content in ((lower, b"aaaa"), (upper, b"bbbb")):
        write(tree / "a" / "f", content, 10**18)
        os.utime(tree / "a", ns=(TIMES[0], TIMES[0]))
    assert told(lower, upper) == [("a", "modified"), ("a/f", "modified")]


def test_a_nanosecond(trees: tuple[Path, Path]) -> None:
    lower, upper = trees
    os.utime(upper / "a/a-b", ns=(0, TIMES[0] + 1))
    assert told(lower, upper) == [("a", "modified"), ("a/a-b", "modified")]


@pytest.mark.parametrize("offset", [0, 4096, 1 << 20, (1 << 33) - 1])
def test_sparse_giants(trees: tuple[Path, Path], offset: int) -> None:
    """TA-21: 8 GiB of hole take no time, and a byte in one is found."""
    lower, upper = trees
    for tree in trees:
        with (tree / "lastlog").open("wb") as file:
            file.seek((1 << 33) - 4096)
            file.write(b"\1" * 4096)
        os.utime(tree / "lastlog", ns=(TIMES[0], TIMES[0]))
        os.utime(tree, ns=(TIMES[0], TIMES[0]))
    assert told(lower, upper) == []
    with (upper / "lastlog").open("r+b") as file:
        file.seek(offset)
        file.write(b"x")
    os.utime(upper / "lastlog", ns=(TIMES[0], TIMES[0]))
    assert told(lower, upper) == [("lastlog", "modified")]


def test_sorted_by_the_bytes_of_the_path(tmp_path: Path) -> None:
    """``a-b`` comes before ``a/x`` and both before ``a0``; no walk of directories gives that."""
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    for tree in (lower, upper):
        (tree / "a").mkdir(parents=True)
        os.utime(tree / "a", ns=(TIMES[0], TIMES[0]))
    for name in ("a/x", "a-b", "a0", "!", "é", os.fsdecode(b"\xff"), ".x"):
        (upper / name).touch()
    upper.chmod(0o700)
    paths = [path for path, _ in told(lower, upper)]
    assert paths == ["!", ".", ".x", "a", "a-b", "a/x", "a0", "é", os.fsdecode(b"\xff")]
    assert paths == sorted(paths, key=os.fsencode)


def test_types_change(tmp_path: Path) -> None:
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    (lower / "a/x").mkdir(parents=True)
    (lower / "b").parent.mkdir(exist_ok=True)
    (lower / "b").touch()
    (upper / "b").mkdir(parents=True)
    (upper / "b/c").touch()
    (upper / "a").write_bytes(b"now a file")
    assert told(lower, upper) == [("a", "modified"), ("b", "modified"), ("b/c", "added")]
    assert told(upper, lower) == [("a", "modified"), ("a/x", "added"), ("b", "modified")]


def test_only_the_topmost_deleted_directory(trees: tuple[Path, Path]) -> None:
    lower, upper = trees
    (lower / "deep/er/est").mkdir(parents=True)
    assert told(lower, upper) == [("deep", "deleted")]
    assert told(upper, lower) == [("deep", "added"), ("deep/er", "added"), ("deep/er/est", "added")]


def test_names_of_one_file_are_told_together(trees: tuple[Path, Path]) -> None:
    lower, upper = trees
    os.link(upper / "a/a-b", upper / "c")
    os.utime(upper / "a", ns=(TIMES[0], TIMES[0]))
    assert told(lower, upper) == [("a", "modified"), ("a/a-b", "modified"), ("c", "added")]


def test_a_file_split_in_two(trees: tuple[Path, Path]) -> None:
    lower, upper = trees
    assert (lower / "a/a").stat().st_ino == (lower / "a-b/b").stat().st_ino
    apply(str(upper), ("copy", "a/a"))
    os.utime(upper / "a", ns=(TIMES[0], TIMES[0]))
    # Three names: a/a stands alone now; which of the two files stays is decided by the paths.
    assert told(lower, upper) in (
        [("a", "modified"), ("a/a", "modified")],
        [("a", "modified"), ("a-b", "modified"), ("a-b/b", "modified"), ("a/b", "modified")],
    )


def test_two_files_become_one(trees: tuple[Path, Path]) -> None:
    lower, upper = trees
    for tree in trees:
        write(tree / "one", b"same")
        write(tree / "two", b"same")
    (upper / "two").unlink()
    os.link(upper / "one", upper / "two")
    assert told(lower, upper) == [("one", "modified"), ("two", "modified")]


def test_a_name_taken_away_changes_no_other(trees: tuple[Path, Path]) -> None:
    lower, upper = trees
    (upper / "b").unlink()
    assert told(lower, upper) == [("b", "deleted")]


def test_the_root(tmp_path: Path) -> None:
    """OV-17: its attributes count, but not its times, which every file made in it alters."""
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    lower.mkdir(0o755)
    upper.mkdir(0o755)
    lower.chmod(0o755)
    upper.chmod(0o755)
    os.utime(upper, ns=(5, 5))
    assert told(lower, upper) == []
    assert told(None, upper) == []
    upper.chmod(0o711)
    assert told(lower, upper) == [(".", "modified")]
    assert told(None, upper) == [(".", "modified")]


def test_sockets_and_fifos(trees: tuple[Path, Path]) -> None:
    """TA-20: by their attributes, and never opened."""
    import socket

    lower, upper = trees
    os.mkfifo(upper / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(upper / "s.sock"))
    assert told(lower, upper) == [("fifo", "added"), ("s.sock", "added")]
    copied(upper, lower.parent / "third")
    assert told(upper, lower.parent / "third") == []


def test_extended_attributes_but_not_overlays_own(trees: tuple[Path, Path]) -> None:
    lower, upper = trees
    os.setxattr(upper / "a", "user.overlay.opaque", b"y")
    assert told(lower, upper) == []
    os.setxattr(upper / "a", "user.k", b"\0\xff")
    assert told(lower, upper) == [("a", "modified")]


def test_deeper_than_any_path(tmp_path: Path) -> None:
    """1200 levels of names of 100 bytes: no recursion, no path of more than one name, few descriptors."""
    name = "n" * 100
    roots = []
    for tree in ("lower", "upper"):
        (tmp_path / tree).mkdir()
        fd = os.open(tmp_path / tree, os.O_RDONLY)
        roots.append(os.dup(fd))
        for _ in range(1200):
            os.mkdir(name, dir_fd=fd)
            os.utime(name, ns=(1, 1), dir_fd=fd)
            below = os.open(name, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        os.utime(fd, ns=(1, 1))
        if tree == "upper":
            os.close(os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        os.close(fd)
    assert sys.getrecursionlimit() <= 1200
    try:
        changes = list(compare(*roots))
        assert len(changes) == 1201
        assert changes[-1].path.endswith("/leaf")
        assert {change.kind for change in changes[:-1]} == {ChangeKind.MODIFIED}
        assert len(list(compare(None, roots[1]))) == 1201
    finally:
        from cowstore.trees.remove import remove_tree

        for tree, fd in zip(("lower", "upper"), roots, strict=True):
            os.close(fd)
            top = os.open(tmp_path, os.O_RDONLY)
            remove_tree(top, tree)
            os.close(top)
    assert os.listdir(tmp_path) == []


def test_content_is_not_read_where_change_times_vouch_for_it(trees: tuple[Path, Path]) -> None:
    lower, upper = trees
    with (upper / "a/a-b").open("r+b") as file:
        file.write(b"bbbb")
    os.utime(upper / "a/a-b", ns=(TIMES[0], TIMES[0]))
    changed = (upper / "a/a-b").stat().st_ctime_ns
    modified = [("a", "modified"), ("a/a-b", "modified")]
    assert told(lower, upper, unchanged_after_ns=0, unchanged_before_ns=changed + 1) == []
    assert told(lower, upper, unchanged_after_ns=0, unchanged_before_ns=changed) == modified
    assert told(lower, upper, unchanged_after_ns=changed + 1, unchanged_before_ns=changed + 2) == modified


def test_a_tree_that_vanishes_meanwhile(trees: tuple[Path, Path]) -> None:
    """An adopted directory is alive: what is gone when its turn comes is not there."""
    lower, upper = trees
    (upper / "z").mkdir()
    for number in range(100):
        (upper / "z" / str(number)).touch()
    fds = [os.open(path, os.O_PATH) for path in trees]
    changes = compare(*fds)
    assert next(changes).path == "z"
    shutil.rmtree(upper / "z")
    shutil.rmtree(lower / "a")
    list(changes)
    for fd in fds:
        os.close(fd)


def test_memory_does_not_grow_with_the_tree(tmp_path: Path) -> None:
    import tracemalloc

    for outer in range(20):
        (tmp_path / str(outer)).mkdir()
        for inner in range(200):
            (tmp_path / str(outer) / f"{'name' * 10}{inner}").touch()
    tmp_path.chmod(0o755)
    fd = os.open(tmp_path, os.O_PATH)
    tracemalloc.start()
    try:
        assert sum(1 for _ in compare(None, fd)) == 20 * 201
        assert tracemalloc.get_traced_memory()[1] < 400_000
    finally:
        tracemalloc.stop()
        os.close(fd)
