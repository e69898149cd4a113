"""The suite itself: its oracle sees what it should, its list of cases is whole, and the document names every case."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import cowstore.testing
from cowstore.testing import Editor, honesty, leaks, oracle

if TYPE_CHECKING:
    from collections.abc import Callable

DOCUMENT = Path(__file__).resolve().parent.parent.parent / "docs" / "conformance.md"


def test_the_document_names_every_case() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    missing = [case.name for case in cowstore.testing.cases() if f"`{case.name}`" not in text]
    assert not missing, f"docs/conformance.md does not name {missing}"


def test_every_flag_is_proven_by_a_case_there_is() -> None:
    known = {case.name for case in cowstore.testing.cases()}
    assert set(honesty.PROVEN_BY.values()) <= known


def test_every_case_says_what_it_asks() -> None:
    for case in cowstore.testing.cases():
        assert case.text.endswith("."), f"{case.name} has no sentence"
        assert case.origin


def _other_type(tree: Editor) -> None:
    tree.remove("file")
    tree.mkdir("file")


def _other_target(tree: Editor) -> None:
    tree.remove("link")
    tree.symlink("elsewhere", "link")


def _split(tree: Editor) -> None:
    tree.remove("second")
    tree.write("second", "linked")


EDITS: dict[str, Callable[[Editor], object]] = {
    "content": lambda tree: tree.write("file", "other content"),
    "mode": lambda tree: tree.chmod("file", 0o600),
    "time": lambda tree: tree.utime("file", 1),
    "directory time": lambda tree: tree.utime("dir", 1),
    "attribute": lambda tree: tree.setxattr("file", "user.x", b"y"),
    "type": _other_type,
    "target": _other_target,
    "missing": lambda tree: tree.remove("file"),
    "surplus": lambda tree: tree.write("new", ""),
    "link structure": _split,
    "root": lambda tree: tree.chmod(".", 0o700),
}


@pytest.mark.parametrize("what", EDITS)
def test_the_oracle_sees(what: str, tmp_path: Path) -> None:
    trees = []
    for name in ("one", "two"):
        path = tmp_path / name
        path.mkdir()
        tree = Editor(path)
        tree.write("file", "content")
        tree.mkdir("dir")
        tree.symlink("file", "link")
        tree.write("first", "linked")
        tree.link("first", "second")
        trees.append(tree)
    oracle.assert_same(trees[0].root, trees[1].root)
    assert oracle.changes(oracle.scan(trees[0].root), oracle.scan(trees[1].root)) == []
    EDITS[what](trees[1])
    with pytest.raises(AssertionError, match="differences"):
        oracle.assert_same(trees[0].root, trees[1].root)
    assert oracle.changes(oracle.scan(trees[0].root), oracle.scan(trees[1].root))


def test_a_copy_by_the_oracle_is_the_same(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    tree = Editor(source)
    tree.makedirs("a/b")
    tree.write(b"a/b/\xff", "x", 0o604)
    tree.link(b"a/b/\xff", "link")
    tree.fifo("fifo")
    tree.setxattr("a", "user.x", b"\0")
    tree.chmod(".", 0o711)
    oracle.copy(os.fspath(source), os.fspath(target))
    oracle.assert_same(source, target)


def test_leaks_are_seen(tmp_path: Path) -> None:
    before = leaks.held([str(tmp_path)])
    fd = os.open(tmp_path, os.O_RDONLY)
    pid = os.fork()
    if pid == 0:
        import time

        time.sleep(60)
        os._exit(0)
    try:
        found = leaks.held([str(tmp_path)]).since(before)
        assert any(line.startswith("descriptors") for line in found)
        assert any(line.startswith("processes") for line in found)
    finally:
        os.close(fd)
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    leaks.assert_nothing_since(before, [str(tmp_path)])
