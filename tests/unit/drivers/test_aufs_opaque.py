"""Marks of opaque directories are put in order: of several, AUFS heeds the lowest, and would show the wrong tree."""

from __future__ import annotations

import os
import random
import shutil
import stat
from typing import TYPE_CHECKING

import pytest

from cowstore.drivers.aufs import opaque, view

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAMES = ("a", "b", "c")

Shown = dict[str, bytes | None]


def written(branches: list[Path], where: str = "") -> Shown:
    """What a stack means by the format: files with content, directories with None."""
    roots = [os.open(branch, os.O_RDONLY) for branch in branches]
    shown: Shown = {}
    try:
        side = view.Branches(roots, partial=False)
        try:
            _walk(side, where, shown)
        finally:
            side.close()
    finally:
        for root in roots:
            os.close(root)
    return shown


def _walk(side: view.Branches, where: str, shown: Shown) -> None:
    for name in side.names():
        found = side.find(name)
        if found is None:
            continue
        path = f"{where}{name}"
        if stat.S_ISDIR(found.st_mode):
            shown[path] = None
            side.enter(name)
            _walk(side, f"{path}/", shown)
            side.leave()
        else:
            fd = os.open(name, os.O_RDONLY, dir_fd=side.where(name))
            shown[path] = os.read(fd, 100)
            os.close(fd)


def by_aufs(directories: list[Path], where: str = "") -> Shown:
    """What the kernel shows, by au_lkup_dentry: marks do not end the search, and the last one found counts."""
    shown: Shown = {}
    names = {name for one in directories for name in os.listdir(one) if not name.startswith(view.WHITEOUT)}
    for name in sorted(names):
        inner: list[Path] = []
        marked = -1
        for one in directories:
            if (one / f"{view.WHITEOUT}{name}").exists():
                break
            path = one / name
            if not path.exists():
                continue
            if not path.is_dir():
                if not inner:
                    shown[f"{where}{name}"] = path.read_bytes()
                    break
                continue
            inner.append(path)
            if (path / view.OPAQUE).exists():
                marked = len(inner)
        if inner:
            shown[f"{where}{name}"] = None
            shown |= by_aufs(inner[:marked] if marked != -1 else inner, f"{where}{name}/")
    return shown


def order(branches: list[Path], number: int) -> int:
    """Put one branch in order over those below it, the topmost of the list being number 0."""

    def opener(path: Path) -> Callable[[], int]:
        return lambda: os.open(path, os.O_RDONLY)

    fd = os.open(branches[number], os.O_RDONLY)
    try:
        return opaque.spread(fd, [opener(path) for path in branches[number + 1 :]])
    finally:
        os.close(fd)


class Mounted:
    """Does to a branch what AUFS does when a program edits a mount of it over others, settled ones."""

    def __init__(self, branches: list[Path], chance: random.Random) -> None:
        self.branches, self.top, self.chance = branches, branches[0], chance

    def below(self, path: str) -> bool:
        return path in written(self.branches[1:]) if self.branches[1:] else False

    def copy_up(self, path: str) -> None:
        if path and not (self.top / path).exists():
            self.copy_up(os.path.dirname(path))
            (self.top / path).mkdir()

    def whiteout(self, path: str) -> Path:
        above, name = os.path.split(path)
        return self.top / above / f"{view.WHITEOUT}{name}"

    def remove(self, path: str) -> None:
        self.copy_up(os.path.dirname(path))
        if (self.top / path).is_dir():
            shutil.rmtree(self.top / path)
        elif (self.top / path).exists():
            (self.top / path).unlink()
        if self._seen_below(path):
            self.whiteout(path).touch()

    def _seen_below(self, path: str) -> bool:
        """Whether something below would show, should the branch itself say nothing of the path."""
        above = os.path.dirname(path)
        while above:
            if (self.top / above / view.OPAQUE).exists():
                return False
            above = os.path.dirname(above)
        return self.below(path)

    def make(self, path: str, *, directory: bool) -> None:
        self.copy_up(os.path.dirname(path))
        over = self.whiteout(path).exists()
        if over:
            self.whiteout(path).unlink()
        if directory:
            (self.top / path).mkdir()
            if over:
                (self.top / path / view.OPAQUE).touch()
        else:
            (self.top / path).write_text(f"{self.chance.random()}")

    def edit(self) -> None:
        shown = written(self.branches)
        path = "/".join(self.chance.choice(NAMES) for _ in range(self.chance.randint(1, 3)))
        above = os.path.dirname(path)
        if above and shown.get(above, b"") is not None:
            return
        if path in shown:
            self.remove(path)
            if self.chance.random() < 0.3:
                return
        self.make(path, directory=self.chance.random() < 0.75)


@pytest.mark.parametrize("seed", range(25))
def test_random_layers_show_what_they_mean(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    branches: list[Path] = []
    for number in range(6):
        top = tmp_path / f"{number}"
        top.mkdir()
        branches.insert(0, top)
        mounted = Mounted(branches, chance)
        for _ in range(12):
            mounted.edit()
        meant = written(branches)
        order(branches, 0)
        assert written(branches) == meant
        assert by_aufs(branches) == meant
        assert order(branches, 0) == 0, "it is in order already"


def test_a_mark_over_a_mark(tmp_path: Path) -> None:
    """The case that a real kernel showed: the middle layer's file came back."""
    branches = [tmp_path / name for name in ("three", "two", "one")]
    for branch in branches:
        (branch / "d" / "sub").mkdir(parents=True)
        (branch / "d" / f"in-{branch.name}").touch()
        (branch / "d" / "sub" / "same").write_text(branch.name)
        if branch.name != "one":
            (branch / "d" / view.OPAQUE).touch()
    assert "d/in-two" in by_aufs(branches)
    before = os.stat(branches[0] / "d").st_mtime_ns
    assert order(branches, 0) == 1
    assert by_aufs(branches) == written(branches)
    assert by_aufs(branches) == {"d": None, "d/in-three": b"", "d/sub": None, "d/sub/same": b"three"}
    assert os.stat(branches[0] / "d").st_mtime_ns == before
    assert sorted(os.listdir(branches[0] / "d")) == [".wh.in-two", "in-three", "sub"]


def test_a_mark_alone_is_left_alone(tmp_path: Path) -> None:
    branches = [tmp_path / name for name in ("two", "one")]
    for branch in branches:
        (branch / "d").mkdir(parents=True)
    (branches[0] / "d" / view.OPAQUE).touch()
    assert order(branches, 0) == 0
    assert order(branches, 1) == 0
    assert os.listdir(branches[0] / "d") == [view.OPAQUE]
