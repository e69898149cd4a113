"""File objects of the caller's, as descriptors that a helper can have.

A plain file is lent as it is, and afterwards stands where the helper left it. Anything else is fed or emptied through a
pipe, by the thread that waits for the helper.
"""

from __future__ import annotations

import io
import os
from contextlib import contextmanager

from cowstore._rootless.jobs import Job, Lent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_CHUNK = 1 << 16


class Feed:
    """A file object that is read here, for the helper."""

    def __init__(self, file: Any, fd: int) -> None:
        self.file = file
        self.fd = fd
        self._waiting = b""

    def move(self) -> bool:
        """Move some of it; False when there is no more, or nobody who wants it."""
        if not self._waiting:
            self._waiting = self.file.read(_CHUNK)
            if not self._waiting:
                return False
        try:
            self._waiting = self._waiting[os.write(self.fd, self._waiting) :]
        except BlockingIOError:
            return True
        except BrokenPipeError:
            return False
        return True


class Drain:
    """A file object that is written to here, with what the helper gives."""

    def __init__(self, file: Any, fd: int) -> None:
        self.file = file
        self.fd = fd

    def move(self) -> bool:
        """Move some of it; False at the end."""
        try:
            part = os.read(self.fd, _CHUNK)
        except BlockingIOError:
            return True
        if part:
            self.file.write(part)
        return bool(part)


class Streams:
    """The file objects of one job.

    :ivar open: those that go through pipes, by the descriptor on this side.
    """

    def __init__(self) -> None:
        self.open: dict[int, Feed | Drain] = {}
        self._lent: list[tuple[Any, int]] = []

    @contextmanager
    def lent(self, job: Job) -> Iterator[tuple[Job, list[int]]]:
        """Put what can be sent in the place of each file object of a job, and give the descriptors to send along."""
        fds: list[int] = []
        try:
            arguments = tuple(
                self._lend(value, fds, writable=number in job.writes) for number, value in enumerate(job.arguments)
            )
            named = {name: self._lend(value, fds, writable=name in job.writes) for name, value in job.named.items()}
            yield Job(module=job.module, function=job.function, arguments=arguments, named=named), fds
        finally:
            for fd in fds:
                os.close(fd)

    def _lend(self, value: Any, fds: list[int], *, writable: bool) -> Any:
        if not (writable or hasattr(value, "read")):
            return value
        fds.append(self._descriptor(value, writable=writable))
        return Lent(number=len(fds) - 1, writable=writable, name=str(getattr(value, "name", value)))

    def _descriptor(self, file: Any, *, writable: bool) -> int:
        if type(file) in {io.FileIO, io.BufferedReader, io.BufferedWriter, io.BufferedRandom}:
            if writable:
                file.flush()
            if file.seekable():
                # What was read ahead must be read again.
                os.lseek(file.fileno(), file.tell(), os.SEEK_SET)
                self._lent.append((file, file.fileno()))
            if file.seekable() or writable:
                return os.dup(file.fileno())
        theirs, ours = os.pipe2(os.O_CLOEXEC)
        if writable:
            theirs, ours = ours, theirs
        os.set_blocking(ours, False)
        self.open[ours] = Drain(file, ours) if writable else Feed(file, ours)
        return theirs

    def move(self, fd: int) -> None:
        """Move some bytes of the stream whose pipe is ready."""
        if not self.open[fd].move():
            del self.open[fd]
            os.close(fd)

    def finish(self) -> None:
        """After the job: take what is still on its way, and put the caller's files where the helper left them."""
        for fd, stream in list(self.open.items()):
            if isinstance(stream, Drain):
                os.set_blocking(fd, True)
                while stream.move():
                    pass
        for file, fd in self._lent:
            file.seek(os.lseek(fd, 0, os.SEEK_CUR))
        self._lent.clear()

    def close(self) -> None:
        """Let go of the pipes."""
        for fd in self.open:
            os.close(fd)
        self.open.clear()
