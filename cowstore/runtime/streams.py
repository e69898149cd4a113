"""The standard streams of a program that another process launches: passed on, fed, or collected."""

from __future__ import annotations

import os
import select
from contextlib import ExitStack

from cowstore._linux.fd import Descriptor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import IO, Self

    from cowstore.runtime.remote import Remote

_DEVNULL = -3
"""subprocess.DEVNULL."""
_CHUNK = 65536


class Streams:
    """Descriptors for the program, and what goes through them.

    :ivar inside: of standard input, output and error, for the program.
    :ivar out: what was collected of its output, or None. :ivar err: the same of its errors.
    """

    def __init__(self, stdin: bytes | int | IO[bytes] | None, *, capture: bool, tty: bool = False) -> None:
        self._stack = ExitStack()
        self.out: bytes | None = b"" if capture else None
        self.err: bytes | None = b"" if capture else None
        self._feed = memoryview(stdin if isinstance(stdin, bytes) else b"")
        self._to_program: Descriptor | None = None
        self._ours: list[Descriptor] = []
        self._theirs: list[Descriptor] = []
        self._poll = select.poll()
        self._collected: dict[int, list[bytes]] = {}
        self._waiting: set[int] = set()
        try:
            first = self._input(stdin)
            if capture:
                self.inside = (first, self._output(), self._output())
            else:
                self.inside = (first, self._present(1), self._present(2))
            if tty and os.isatty(first):
                self._keep_terminal(first)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _keep_terminal(self, fd: int) -> None:
        """Give the terminal back as it is now, should the launcher, who changes it, be killed."""
        import termios

        kept = termios.tcgetattr(fd)

        def restore() -> None:
            if termios.tcgetattr(fd) != kept:
                termios.tcsetattr(fd, termios.TCSADRAIN, kept)

        self._stack.callback(restore)

    def _owned(self, fd: int) -> Descriptor:
        return self._stack.enter_context(Descriptor(fd))

    def _present(self, fd: int) -> int:
        """Return a descriptor, or one of /dev/null where it is closed here."""
        try:
            os.fstat(fd)
        except OSError:
            return self._owned(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)).fileno()
        return fd

    def _input(self, stdin: bytes | int | IO[bytes] | None) -> int:
        if stdin is None:
            return self._present(0)
        if isinstance(stdin, bytes):
            inside, ours = map(self._owned, os.pipe2(os.O_CLOEXEC))
            os.set_blocking(ours.fileno(), False)
            self._to_program = ours
            self._theirs.append(inside)
            return inside.fileno()
        if isinstance(stdin, int):
            return self._owned(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)).fileno() if stdin == _DEVNULL else stdin
        return stdin.fileno()

    def _output(self) -> int:
        ours, inside = map(self._owned, os.pipe2(os.O_CLOEXEC))
        self._ours.append(ours)
        self._theirs.append(inside)
        return inside.fileno()

    def attach(self, remote: Remote) -> None:
        """Give the program's ends away, and begin to listen."""
        for end in self._theirs:
            end.close()
        self._collected = {end.fileno(): [] for end in self._ours}
        self._waiting = {remote.result.fileno(), *self._collected}
        for fd in self._waiting:
            self._poll.register(fd, select.POLLIN)
        if self._to_program is not None:
            self._poll.register(self._to_program.fileno(), select.POLLOUT)

    def step(self, remote: Remote, timeout_ms: int | None = None) -> bool:
        """Feed, collect and listen once; False when the launcher and the streams have ended."""
        if not self._waiting:
            return False
        for fd, _ in self._poll.poll(timeout_ms):
            if self._to_program is not None and fd == self._to_program.fileno():
                if not self._feed_some():
                    self._poll.unregister(fd)
                    self._to_program.close()
                    self._to_program = None
            elif fd == remote.result.fileno():
                if not remote.listen():
                    self._ended(fd)
            elif part := os.read(fd, _CHUNK):
                self._collected[fd].append(part)
            else:
                self._ended(fd)
        return bool(self._waiting)

    def _ended(self, fd: int) -> None:
        self._poll.unregister(fd)
        self._waiting.discard(fd)

    def collect(self) -> None:
        """Put together what was collected."""
        if self._ours:
            self.out, self.err = (b"".join(parts) for parts in self._collected.values())

    def _feed_some(self) -> bool:
        """Write what the pipe takes now; False when there is no more, or nobody to read it."""
        assert self._to_program is not None, "it is what poll reported"
        try:
            self._feed = self._feed[os.write(self._to_program.fileno(), self._feed[:_CHUNK]) :]
        except BlockingIOError:
            return True
        except BrokenPipeError:
            return False
        return len(self._feed) > 0
