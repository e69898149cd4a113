"""A bar on standard error while something long is read; nothing at all where nobody would see it."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager

from cowstore.errors import InvalidArgument

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

    def __getattr__(self, name: str) -> object:
        # Whether the archive is an image's is found out by seeking in it.
        if name in {"fileno", "seek", "seekable", "tell"}:
            return getattr(self._file, name)
        raise AttributeError(name)


@contextmanager
def archive(source: str) -> Iterator[BinaryIO]:
    """Open an archive to be read, with a bar where somebody sees it; ``-`` is standard input.

    :raises InvalidArgument: standard input is a terminal, or closed.
    """
    if source == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise InvalidArgument("standard input is not an archive; give a file, or pipe one in", argument="SOURCE")
        yield sys.stdin.buffer
        return
    with open(source, "rb") as file:
        progress = _bar()
        if progress is None:
            yield file
            return
        with progress:
            size = os.fstat(file.fileno()).st_size
            task = progress.add_task(os.path.basename(source), total=size or None)
            # The library only reads; it has no use for the rest of what a file can do.
            yield Counted(file, lambda count: progress.advance(task, count))  # type: ignore[misc]


@contextmanager
def counted(what: str, total: int) -> Iterator[Callable[[], object]]:
    """Give what is called after each of *total* steps, with a bar where somebody sees it."""
    progress = _bar(steps=True)
    if progress is None:
        yield lambda: None
        return
    with progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)


def _bar(*, steps: bool = False) -> RichProgress | None:
    if sys.stderr is None or not sys.stderr.isatty():
        return None
    try:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )
    except (ImportError, OSError):
        return None
    count = MofNCompleteColumn() if steps else DownloadColumn(binary_units=True)
    columns = TextColumn("{task.description}"), BarColumn(), count, TimeRemainingColumn()
    return Progress(*columns, console=Console(stderr=True), transient=True)
