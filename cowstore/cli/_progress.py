"""A bar on standard error while something long is read; nothing at all where nobody would see it."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from rich.progress import Progress as RichProgress


class Counted:
    """A binary file object that tells how much of it has been read."""

    def __init__(self, file: BinaryIO, tell: Callable[[int], object]) -> None:
        self._file = file
        self._tell = tell
        self.name = file.name

    def read(self, size: int = -1, /) -> bytes:
        """Read as the file does, and tell."""
        data = self._file.read(size)
        self._tell(len(data))
        return data


@contextmanager
def read_with_bar(path: str) -> Iterator[object]:
    """Give what an import reads: the path itself, or on a terminal (where `rich` is) a file object that draws a bar."""
    progress = _bar()
    if progress is None:
        yield path
        return
    with open(path, "rb") as file, progress:
        size = os.fstat(file.fileno()).st_size
        task = progress.add_task(os.path.basename(path), total=size or None)
        yield Counted(file, lambda count: progress.advance(task, count))


def _bar() -> RichProgress | None:
    if sys.stderr is None or not sys.stderr.isatty():
        return None
    try:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
    except (ImportError, OSError):
        return None
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn()
    return Progress(*columns, console=Console(stderr=True), transient=True)
