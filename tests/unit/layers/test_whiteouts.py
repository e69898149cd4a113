from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from cowstore.errors import InvalidLayer
from cowstore.layers.extract import Whiteouts
from tests.unit.layers.archives import directory, file, hard_link, survey, symlink, unpack

if TYPE_CHECKING:
    from pathlib import Path

OPAQUE = b".wh..wh..opq"


def tree(root: Path, *names: str) -> None:
    """A lower layer: files, or directories where the name ends in a slash."""
    for name in names:
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("old")


def files(root: Path) -> list[str]:
    return sorted(
        str(os.path.relpath(os.path.join(place, name), root)) for place, _, names in os.walk(root) for name in names
    )


def test_plain_whiteouts(root: Path) -> None:
    """ApplyLayerWhiteouts: a file, a directory with content, something that is not there."""
    tree(root, "a/b/c", "a/d", "e", "f")
    unpack(root, file(b".wh.e"), file(b"a/.wh.b"), file(b".wh.nothing"))
    assert files(root) == ["a/d", "f"]


@pytest.mark.parametrize("first", [True, False])
def test_opaque_in_any_order(root: Path, first: bool) -> None:
    """TA-15."""
    tree(root, "d/old", "d/s/old2", "d/gone/x")
    marker = file(b"d/" + OPAQUE)
    new = directory(b"d/") + file(b"d/new") + directory(b"d/s/") + file(b"d/s/new2")
    unpack(root, *((marker, new) if first else (new, marker)))
    assert files(root) == ["d/new", "d/s/new2"]
    assert not (root / "d/gone").exists()


def test_opaque_leaves_its_own_directory(root: Path) -> None:
    tree(root, "d/old")
    (root / "d").chmod(0o750)
    os.utime(root / "d", ns=(5, 5))
    unpack(root, file(b"d/" + OPAQUE))
    assert files(root) == []
    found = (root / "d").stat()
    assert (found.st_mode & 0o7777, found.st_mtime_ns) == (0o750, 5)


def test_every_order_of_a_layer(root: Path) -> None:
    """A layer means the same in whatever order its entries come (directories before what is in them)."""
    parts = [
        directory(b"named/", 0o711),
        file(b"named/new", b"1"),
        file(b".wh.named"),
        file(b"implied/deep/new", b"2"),
        file(b".wh.implied"),
        file(b"kept/new", b"3"),
        file(b"kept/.wh.old"),
        file(b".wh.gone"),
        file(b"opaque/new", b"4"),
        file(b"opaque/" + OPAQUE),
        file(b"file", b"5"),
        file(b".wh.file"),
    ]
    results = []
    for seed in range(30):
        order = parts.copy()
        random.Random(seed).shuffle(order)
        place = root / f"run{seed}"
        place.mkdir()
        tree(place, "named/old", "named/sub/old", "implied/deep/old", "implied/old", "kept/old", "kept/stays")
        tree(place, "gone/x/y", "opaque/old", "opaque/sub/old", "file")
        for name in ("named", "implied", "implied/deep", "kept", "opaque"):
            (place / name).chmod(0o700)
            os.utime(place / name, ns=(7, 7))
        os.utime(place, ns=(8, 8))
        unpack(place, *order)
        found = survey(place)
        assert files(place) == ["file", "implied/deep/new", "kept/new", "kept/stays", "named/new", "opaque/new"]
        results.append({name: (node.mode, node.mtime_ns) for name, node in found.items() if name != "kept/stays"})
    assert all(result == results[0] for result in results)
    modes = {name: mode & 0o7777 for name, (mode, _) in results[0].items()}
    assert [modes[name] for name in ("named", "implied", "implied/deep", "kept", "opaque")] == [
        0o711, 0o755, 0o755, 0o700, 0o700,
    ]  # fmt: skip


def test_own_files_are_not_hidden(root: Path) -> None:
    tree(root, "f", "d/old")
    unpack(root, file(b"f", b"new"), file(b".wh.f"), directory(b"d"), file(b"d/new"), file(b".wh.d"))
    assert (root / "f").read_bytes() == b"new"
    assert files(root) == ["d/new", "f"]


def test_on_an_empty_tree(root: Path) -> None:
    """Nothing was there, so nothing is hidden."""
    unpack(root, file(b"d/f"), file(b"d/.wh.f"), file(b"d/" + OPAQUE), file(b".wh.d"), file(b"zz/.wh.q"))
    assert files(root) == ["d/f"]


@pytest.mark.parametrize("first", [True, False])
def test_whiteout_below_a_whiteout(root: Path, first: bool) -> None:
    """TA-19: its parent is gone, or was never there."""
    tree(root, "a/b/c", "keep")
    parts = [file(b".wh.a"), file(b"a/b/.wh.c")]
    unpack(root, *(parts if first else parts[::-1]))
    assert files(root) == ["keep"]
    unpack(root, file(b"zz/.wh.q"))
    assert files(root) == ["keep"]
    assert not (root / "zz").exists()


def test_whiteout_whose_parent_is_a_file(root: Path) -> None:
    """containers/storage#1196."""
    tree(root, "foo/bar")
    unpack(root, file(b"foo", b"now a file"), file(b"foo/.wh.bar"), file(b".wh.foo"))
    assert (root / "foo").read_text() == "now a file"


def test_whiteout_with_content_and_as_hard_link(root: Path) -> None:
    """AUFS writes whiteouts as hard links of one file; content means nothing."""
    tree(root, "a", "b")
    unpack(root, file(b".wh.a", b"content"), hard_link(b".wh.b", b".wh..wh.aufs"))
    assert files(root) == []


def test_directory_with_the_name_of_a_whiteout(root: Path) -> None:
    tree(root, "a")
    with pytest.raises(InvalidLayer, match="whiteout"):
        unpack(root, directory(b".wh.a"))


def test_aufs_bookkeeping(root: Path) -> None:
    """AU-01: none of it appears, and it is no error."""
    done = unpack(
        root,
        file(b"./.wh..wh.aufs"),
        directory(b"./.wh..wh.plnk/"),
        file(b"./.wh..wh.plnk/123.456"),
        directory(b"./.wh..wh.orph/"),
        file(b"d/.wh..wh.x"),
        file(b"f"),
    )
    assert files(root) == ["f"]
    assert os.listdir(root) == ["f"]
    assert done.skipped.counts() == {"bookkeeping": 5}


def test_refused_in_a_whole_file_system(root: Path) -> None:
    for entry in (file(b".wh.a"), file(b"d/" + OPAQUE), file(b".wh..wh.aufs"), file(b".wh.d/f"), directory(b"d/.wh.x")):
        with pytest.raises(InvalidLayer, match="whiteout"):
            unpack(root, entry, whiteouts=Whiteouts.REFUSE)
    unpack(root, file(b"a.wh.b"), file(b"x.wh."), whiteouts=Whiteouts.REFUSE)
    assert files(root) == ["a.wh.b", "x.wh."]


@pytest.mark.parametrize("first", [True, False])
def test_own_files_are_known_by_any_name(root: Path, first: bool) -> None:
    """What went through a link is not hidden by a whiteout of its real name, nor the other way round."""
    tree(root, "usr/bin/old", "usr/lib/old", "usr/bin/deep/er/old")
    (root / "bin").symlink_to("usr/bin")
    (root / "lib").symlink_to("/usr/lib")
    new = [file(b"bin/deep/er/new"), file(b"bin/new"), file(b"usr/lib/new")]
    gone = [
        file(b"usr/bin/deep/" + OPAQUE),
        file(b"usr/bin/" + OPAQUE),
        file(b"usr/bin/.wh.new"),
        file(b"lib/.wh.new"),
        file(b"lib/" + OPAQUE),
    ]
    unpack(root, *(new + gone if first else gone + new))
    assert files(root) == ["usr/bin/deep/er/new", "usr/bin/new", "usr/lib/new"]


def test_symlink_under_a_whiteout_and_a_new_directory(root: Path) -> None:
    tree(root, "target/old")
    (root / "d").symlink_to("target")
    unpack(root, file(b".wh.d"), file(b"d/new"))
    assert files(root) == ["d/new", "target/old"]
    assert not (root / "d").is_symlink()


def test_cached_directory_is_removed(root: Path) -> None:
    """The open directory d is not the one that comes after the whiteout."""
    tree(root, "d/old", "e/old")
    unpack(root, file(b"d/one"), file(b"e/one"), file(b"d", b"now a file"), file(b"e/two"))
    assert files(root) == ["d", "e/old", "e/one", "e/two"]
    unpack(root, directory(b"d"), file(b"d/three"), symlink(b"e", b"d"), file(b"e/four"))
    assert files(root) == ["d/four", "d/three"]
    assert (root / "e").is_symlink()


def test_whiteout_deeper_than_recursion(root: Path) -> None:
    fd = os.open(root, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir(b"d", dir_fd=fd)
        below = os.open(b"d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    unpack(root, file(b"d/d/new"), file(b"d/d/" + OPAQUE), file(b".wh.d"))
    assert files(root) == ["d/d/new"]
