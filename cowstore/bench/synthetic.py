"""Trees to measure with, the same for the same seed on every machine: shaped like a small Linux root."""

from __future__ import annotations

import os
import random

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_TIME_NS = 1_600_000_000_000_000_000
PER_DIRECTORY = 40
_UNIT = 1 << 12
_BODY = 16 << 20
"""Bytes that the files are cut from, each at another place: no window of a compressor holds two alike."""
_STRIDE = 104_729
_SIGMA = 2.35


class Recipe:
    """What a tree is made of.

    Sizes are spread as on Debian's smallest root (4000 files, mean 18600 bytes, median 1950, nine of ten below 45000).

    :ivar files: how many regular files. :ivar median_bytes: half of them are smaller; the mean is nine times that.
    """

    def __init__(self, files: int, *, median_bytes: int = 1950, seed: int = 1) -> None:
        self.files = files
        self.median_bytes = median_bytes
        self.seed = seed

    @property
    def largest(self) -> int:
        """The most bytes a file may have."""
        return self.median_bytes * 1000

    def paths(self) -> Iterator[tuple[str, int]]:
        """Yield the path and the size of every regular file."""
        chance = random.Random(self.seed)  # noqa: S311  # the same tree again
        for number in range(self.files):
            directory = number // PER_DIRECTORY
            size = min(int(chance.lognormvariate(0, _SIGMA) * self.median_bytes), self.largest)
            yield f"usr/part-{directory % 20}/dir-{directory}/file-{number}", size


def content(size: int, seed: int) -> bytes:
    """Return *size* bytes, half of them random: as compressible as programs are, and nowhere the same again."""
    chance = random.Random(seed)  # noqa: S311  # the same bytes again
    text = b"text of a program, and more of it; " * (_UNIT // 2 // 35 + 1)
    text = text[: _UNIT // 2]
    return b"".join(chance.randbytes(_UNIT // 2) + text for _ in range(-(-size // _UNIT)))[:size]


def grow(root: str, recipe: Recipe) -> None:
    """Make the tree at *root*, an existing directory: files, directories, links of both kinds."""
    body = content(_BODY + recipe.largest, recipe.seed)
    last = ""
    for number, (path, size) in enumerate(recipe.paths()):
        full = os.path.join(root, path)
        directory = os.path.dirname(full)
        if directory != last:
            os.makedirs(directory, exist_ok=True)
            last = directory
        fd = os.open(full, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o755 if number % 7 == 0 else 0o644)
        try:
            start = number * _STRIDE % _BODY
            os.write(fd, body[start : start + size])
            os.utime(fd, ns=(_TIME_NS, _TIME_NS + number))
        finally:
            os.close(fd)
        if number % 15 == 0:
            os.symlink(f"file-{number}", f"{full}.link")
        elif number % 50 == 1:
            os.link(full, f"{full}.same")


def edit(root: str, recipe: Recipe, count: int) -> int:
    """Do *count* edits in a tree that *recipe* made: one third each rewritten, removed, added. Returns how many.

    The files are spread over the whole tree.
    """
    wanted = {number * recipe.files // count: number for number in range(count)}
    for number, (path, _) in enumerate(recipe.paths()):
        turn = wanted.get(number)
        if turn is None:
            continue
        full = os.path.join(root, path)
        if turn % 3 == 1:
            os.unlink(full)
        else:
            with open(full if turn % 3 == 0 else f"{full}.new", "wb") as file:
                file.write(b"edited %d\n" % turn)
    return len(wanted)
